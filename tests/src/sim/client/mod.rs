//! Clients as simulated hosts: they speak `spine.v1` to one node at a time, go on to another when that one fails them,
//! and write down what they did and saw.

mod keys;
mod ttl;
mod watcher;

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use spine_tests::disk::Rng;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use turmoil::net::TcpStream;

pub(crate) use self::{
    keys::{prefixed, rows},
    ttl::TTL,
    watcher::told,
};
use crate::fleet::Book;
use crate::history::{Action, History, OpId, Outcome};
use crate::node;
use crate::plan::Plan;

/// A connection that isn't made within this time is given up.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);
/// Beyond a request's own deadline, before it is given up.
const GRACE: Duration = Duration::from_millis(200);

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Reads, writes, compares and sets a few keys, and adds to a set.
    Keys,
    /// Keeps an instance alive by its TTL check, or fails to, and looks at it.
    Ttl,
    /// Watches keys.
    Watch,
}

/// What all clients share.
pub(crate) struct Setting {
    /// Nodes that there are.
    book: Rc<Book>,
    /// Bytes that are stored beside what is needed, at most.
    padding: u64,
    /// Keys that are read and written.
    pub(crate) keys: u64,
    /// Between two operations of one client, at most.
    pub(crate) pause: Duration,
    /// A request's deadline.
    pub(crate) within: Duration,
    pub(crate) history: History,
    /// Nobody begins anything any more.
    resting: Cell<bool>,
}

impl Setting {
    /// The clients' setting in a plan.
    pub(crate) fn new(plan: &Plan, book: Rc<Book>, history: History) -> Self {
        Self {
            book,
            padding: plan.life.as_ref().map_or(0, |life| life.padding),
            keys: plan.keys,
            pause: plan.pause,
            within: plan.within,
            history,
            resting: Cell::new(false),
        }
    }

    /// From here on no client begins anything.
    pub(crate) fn rest(&self) {
        self.resting.set(true);
    }
}

/// A client. It works until the simulation ends.
pub(crate) struct Client {
    pub(crate) number: usize,
    rng: Rng,
    setting: Rc<Setting>,
    /// The node that it speaks to.
    node: usize,
    channel: Channel,
}

impl Client {
    /// A client whose choices follow from `seed`.
    pub(crate) fn new(number: usize, seed: u64, setting: Rc<Setting>) -> Self {
        let mut rng = Rng::new(seed);
        let node = setting.book.choose(&mut rng);
        Self {
            number,
            rng,
            channel: channel(node),
            setting,
            node,
        }
    }

    /// Works.
    pub(crate) async fn run(self, work: Work) -> turmoil::Result {
        match work {
            Work::Keys => self.work_on_keys().await,
            Work::Ttl => self.keep_alive().await,
            Work::Watch => self.watch().await,
        }
    }

    fn invoke(&self, action: Action) -> OpId {
        self.setting.history.invoke(self.number, self.node, action)
    }

    /// Notes how an operation ended, and goes on to another node if this one failed.
    fn finish(&mut self, id: OpId, outcome: Outcome) {
        let failed = matches!(outcome, Outcome::Failed | Outcome::Unknown);
        self.setting.history.finish(id, outcome);
        if failed || self.rng.one_in(50) {
            self.turn_to_another();
        }
    }

    fn turn_to_another(&mut self) {
        self.node = self.setting.book.choose(&mut self.rng);
        // A connection that lost a segment never recovers in this network, so the old one goes in any case.
        self.channel = channel(self.node);
    }

    /// Waits a little, or for ever once all are to rest.
    async fn pause(&mut self) {
        let most = u64::try_from(self.setting.pause.as_millis()).expect("a pause is short");
        let pause = Duration::from_millis(1 + self.rng.below(most));
        self.sleep(pause).await;
    }

    async fn sleep(&self, time: Duration) {
        tokio::time::sleep(time).await;
        if self.setting.resting.get() {
            std::future::pending::<()>().await;
        }
    }

    /// A request with its deadline.
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.setting.within);
        request
    }

    /// Waits for an answer, but not for ever.
    async fn answer<T>(
        &self,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Outcome> {
        match tokio::time::timeout(self.setting.within + GRACE, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(outcome_of(&status)),
            Err(_) => Err(Outcome::Unknown),
        }
    }
}

/// Only the word of a node says that something had no effect.
fn outcome_of(status: &Status) -> Outcome {
    let said = status.metadata().get("spine-outcome");
    if said.is_some_and(|said| said == "not-applied") {
        Outcome::Failed
    } else {
        Outcome::Unknown
    }
}

/// A number below `bound`.
fn below(rng: &mut Rng, bound: usize) -> usize {
    usize::try_from(rng.below(bound as u64)).expect("it is below a usize")
}

/// A channel to a node that connects when it is first used.
pub(crate) fn channel(node: usize) -> Channel {
    let uri: Uri = format!("http://{}:{}", node::name(node), node::PORT)
        .parse()
        .expect("names of the simulation make a URI");
    Endpoint::from(uri)
        .connect_timeout(CONNECT_WITHIN)
        .connect_with_connector_lazy(tower::service_fn(|uri: Uri| async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or_default())).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }))
}
