//! Writes that are sent again under their number.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use spine_api::hub::Hub;
use spine_api::local::Local;
use spine_api::{AdminCommand, AdminOutcome, Context, Error as ApiError, NodeStatus, Registry};
use spine_client::{Builder, Client, Error, Guard};
use spine_core::limits::SESSION_IDLE;
use spine_core::{Applied, Command, Renewal, Renewed, State};
use spine_tests::local_api::{LocalApi, local};
use tokio::sync::watch;

/// A server that applies, and then now and then doesn't know what came of it.
struct Forgetful {
    local: Arc<Local>,
    forgets: AtomicUsize,
}

impl Forgetful {
    async fn serve() -> (Arc<Self>, LocalApi) {
        let this = Arc::new(Self {
            local: local("").await,
            forgets: AtomicUsize::new(0),
        });
        let api = LocalApi::serve(this.clone());
        (this, api)
    }

    fn forget(&self, answers: usize) {
        self.forgets.store(answers, Ordering::Relaxed);
    }
}

#[async_trait]
impl Registry for Forgetful {
    async fn propose(&self, cx: &Context, command: Command) -> Result<Applied, ApiError> {
        let applied = self.local.propose(cx, command).await;
        let forgets = |left: usize| left.checked_sub(1);
        match self
            .forgets
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, forgets)
        {
            Ok(_) => Err(ApiError::Unknown("the answer was lost".into())),
            Err(_) => applied,
        }
    }

    async fn renew(&self, cx: &Context, renewal: Renewal) -> Result<Renewed, ApiError> {
        self.local.renew(cx, renewal).await
    }

    async fn view(&self, cx: &Context) -> Result<Arc<State>, ApiError> {
        self.local.view(cx).await
    }

    fn hub(&self) -> &Hub {
        self.local.hub()
    }

    fn status(&self) -> NodeStatus {
        self.local.status()
    }

    fn ready(&self) -> watch::Receiver<bool> {
        self.local.ready()
    }

    async fn admin(&self, cx: &Context, command: AdminCommand) -> Result<AdminOutcome, ApiError> {
        self.local.admin(cx, command).await
    }
}

fn builder(api: &LocalApi) -> Builder {
    Client::builder(&api.address().to_string()).deadline(Duration::from_secs(20))
}

#[tokio::test]
async fn what_was_applied_and_not_answered_is_sent_again_and_applied_once() {
    let (server, api) = Forgetful::serve().await;
    let numbered = builder(&api).exactly_once(true).build().unwrap();
    // The first write also opens the session.
    numbered.kv.put("k", "0").await.unwrap();
    for number in 1..=20 {
        server.forget(1 + number % 3);
        let before = numbered.kv.get("k").await.unwrap().unwrap();
        let guard = Guard::ModifyIndex(before.modify_index);
        let put = numbered.kv.put_if("k", number.to_string(), guard).await.unwrap();
        let after = numbered.kv.get("k").await.unwrap().unwrap();
        // Had it been applied a second time, its guard would have failed then.
        assert_eq!(
            (after.value.as_ref(), after.modify_index),
            (number.to_string().as_bytes(), put.index)
        );
        assert_eq!(after.version, before.version + 1);
    }

    // Without numbers the client can only say that it doesn't know, and does not try again.
    let plain = builder(&api).build().unwrap();
    server.forget(1);
    let error = plain.kv.put("k", "21").await.unwrap_err();
    assert!(
        matches!(&error, Error::Unknown(why) if why.as_str().contains("the answer was lost")),
        "{error:?}"
    );
    assert_eq!(plain.kv.get("k").await.unwrap().unwrap().value, "21");
}

#[tokio::test]
async fn a_session_that_has_ended_is_followed_by_another() {
    let (server, api) = Forgetful::serve().await;
    let numbered = builder(&api).exactly_once(true).build().unwrap();
    numbered.kv.put("k", "1").await.unwrap();
    server.local.advance(SESSION_IDLE);
    numbered.kv.put("k", "2").await.unwrap();
    assert_eq!(numbered.kv.get("k").await.unwrap().unwrap().version, 2);
}

#[tokio::test]
async fn an_answer_that_never_comes_is_unknown_at_the_deadline() {
    let (server, api) = Forgetful::serve().await;
    let numbered = builder(&api).exactly_once(true).build().unwrap();
    numbered.kv.put("k", "1").await.unwrap();
    server.forget(usize::MAX);
    let hasty = numbered.within(Duration::from_millis(300));
    let error = hasty.kv.put("k", "2").await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)), "{error:?}");
    server.forget(0);
    assert_eq!(numbered.kv.get("k").await.unwrap().unwrap().version, 2);
}
