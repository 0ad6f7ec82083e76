//! The native API, `spine.v1` over gRPC: the definitions in `proto/spine/v1` say what each call means.
//!
//! A call is three steps: [`decode`] makes a command or a question of the message, the [`Registry`] answers, and
//! [`encode`] or [`status`] makes a message or a status of that. Watching has a file of its own ([`watch`]), and so
//! has the standard health service, which tells whether this server is ready. What can't be made a message of is [`unread`].

mod admin;
mod catalog;
mod decode;
mod encode;
mod health;
mod kv;
mod leader;
mod lease;
mod lock;
mod members;
mod page;
mod queue;
mod readiness;
mod scan;
mod session;
mod status;
mod txn;
mod unread;
mod watch;

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use spine_core::{Applied, Command, Dialect, Index, NodeName, Outcome, Query, Ttl};
use spine_proto::v1;
use tokio::time::Instant;
use tonic::{Request, Response, Status, metadata::MetadataMap, service::Routes};

pub use self::status::not_ready;
use crate::{
    draw::Draw,
    limits,
    read::Read,
    registry::{Consistency, Context, Credential, Error, Registry},
};

/// What the native API asks of the server around it: what is about a process and its machine, and not about the registry.
#[async_trait]
pub trait Host: Debug + Send + Sync + 'static {
    /// How the server does. It takes a few seconds at most.
    async fn diagnose(&self) -> v1::DiagnoseResponse;

    /// What a report needs of it; no secret is in it.
    async fn debug(&self) -> v1::DebugResponse;
}

/// How the native API behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A request without `grpc-timeout` is answered within this time.
    pub deadline: Duration,
    /// The longest `grpc-timeout` that is obeyed; a longer one is cut.
    pub deadline_max: Duration,
    /// The time to live of a registration without checks that heartbeats and names none; `None`: it stays.
    pub default_service_ttl: Option<Ttl>,
    /// This release, as `ServerStatus` tells it.
    pub version: Arc<str>,
    /// The server around it; `None`: there is none to ask.
    pub host: Option<Arc<dyn Host>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            deadline: limits::REQUEST_DEADLINE,
            deadline_max: limits::REQUEST_DEADLINE_MAX,
            default_service_ttl: None,
            version: env!("CARGO_PKG_VERSION").into(),
            host: None,
        }
    }
}

/// Every service of the native API, with the standard health service and reflection.
pub fn services(registry: Arc<dyn Registry>, settings: Settings) -> Routes {
    let door = Door {
        registry,
        settings: Arc::new(settings),
        draw: Arc::default(),
    };
    let administration = v1::admin_server::AdminServer::new(admin::Administration::new(door.clone()));
    macro_rules! bounded {
        ($server:path) => {
            <$server>::new(door.clone()).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX)
        };
    }
    let mut single = Routes::builder();
    single
        .add_service(bounded!(v1::kv_server::KvServer<Door>))
        .add_service(bounded!(v1::catalog_server::CatalogServer<Door>))
        .add_service(bounded!(v1::health_server::HealthServer<Door>))
        .add_service(bounded!(v1::lease_server::LeaseServer<Door>))
        .add_service(bounded!(v1::lock_server::LockServer<Door>))
        .add_service(bounded!(v1::election_server::ElectionServer<Door>))
        .add_service(bounded!(v1::members_server::MembersServer<Door>))
        .add_service(bounded!(v1::watch_server::WatchServer<Door>))
        .add_service(bounded!(v1::sessions_server::SessionsServer<Door>))
        .add_service(administration.max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX))
        .add_service(
            readiness::service(door.clone()).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX),
        );
    // The one service whose requests are a stream.
    let reflection = reflection().max_decoding_message_size(limits::GRPC_MESSAGE_BYTES_MAX);
    leader::told(unread::guarded(single.routes()).add_service(reflection), door)
}

fn reflection()
-> tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the definitions were compiled with this crate")
}

/// What every service holds.
#[derive(Clone)]
struct Door {
    registry: Arc<dyn Registry>,
    settings: Arc<Settings>,
    draw: Arc<Draw>,
}

impl Door {
    /// Who asks, and until when; and what for.
    fn open<T>(&self, request: Request<T>) -> (Context, T) {
        let peer = request.remote_addr().map(|address| address.to_string().into());
        let (metadata, _, message) = request.into_parts();
        let budget = budget(&metadata).map_or(self.settings.deadline, |asked| {
            leave_time_to_answer(asked.min(self.settings.deadline_max))
        });
        let cx = Context {
            credential: credential(&metadata),
            peer,
            deadline: Instant::now() + budget,
            ..Context::new(Dialect::Native)
        };
        (cx, message)
    }

    /// The same for a call that proposes one command, under the client's number if it has one.
    fn open_numbered<T>(&self, request: Request<T>) -> (Context, T) {
        let number = session::number(request.metadata());
        let (mut cx, message) = self.open(request);
        cx.request = number;
        (cx, message)
    }

    /// Changes the state; a refusal is an error here.
    async fn propose(&self, cx: &Context, command: Command) -> Result<(Index, Outcome), Error> {
        let Applied { index, result } = self.registry.propose(cx, command).await?;
        Ok((index, result?))
    }

    /// Asks a question of one fresh state, whose index is where a watch goes on.
    async fn ask<Q: Query>(&self, cx: &Context, query: &Q) -> Result<(Q::Value, v1::ReadHeader), Error> {
        let state = self.registry.view(cx).await?;
        let answer = query.ask(&state);
        let header = v1::ReadHeader {
            index: answer.index.0,
            applied_index: state.index().0,
            server: self.name().to_string(),
        };
        Ok((answer.value, header))
    }

    /// This server's name, which is its node's too.
    fn name(&self) -> NodeName {
        self.registry.status().name
    }
}

/// The last step of a call.
fn reply<T>(answer: Result<T, Error>) -> Result<Response<T>, Status> {
    answer.map(Response::new).map_err(|error| status::of(&error))
}

/// The next message of a stream; none from a server that is cut off from its cluster, which would say for ever that nothing
/// happens.
async fn unless_cut_off<T>(
    registry: &dyn Registry,
    next: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    tokio::select! {
        biased;
        () = registry.cut_off() => {
            Err(not_ready("this server has heard of no leader for some time"))
        }
        next = next => next,
    }
}

/// An outcome that the command can't have: a defect, told instead of hidden.
fn misfit(outcome: &Outcome) -> Error {
    Error::Unknown(format!("the registry answered with {outcome:?}").into())
}

fn consistency(wire: i32) -> Consistency {
    match v1::Consistency::try_from(wire) {
        Ok(v1::Consistency::Stale) => Consistency::Stale,
        // A word of a later release is read as the safe one.
        Ok(v1::Consistency::Unspecified | v1::Consistency::Linearizable) | Err(_) => {
            Consistency::Linearizable
        }
    }
}

fn credential(metadata: &MetadataMap) -> Option<Credential> {
    let line = metadata.get("authorization")?.to_str().ok()?;
    let (scheme, token) = line.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| Credential(token.trim().into()))
}

/// The client's `grpc-timeout`: up to eight digits and a unit.
fn budget(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = (1..=8).contains(&digits.len()).then(|| digits.parse().ok())??;
    match unit {
        "H" => Some(Duration::from_secs(count * 3_600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// "Outcome unknown" is worth more than a connection cut at the client's deadline, so the answer is on its way
/// before that.
fn leave_time_to_answer(budget: Duration) -> Duration {
    budget.saturating_sub((budget / 10).min(Duration::from_millis(100)))
}
