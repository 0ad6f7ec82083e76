//! gRPC to a service by its name: tonic's own balanced channel, fed by a resolver, and a tower service that asks the
//! resolver for each request.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::HeaderMap;
use http_body_util::BodyExt;
use tonic::{
    Code, Status,
    body::Body,
    transport::{Channel, Endpoint, channel::Change},
};
use tower::{Service, ServiceExt};

use super::{Pick, Report, Resolver, Targets, host_and_port};
use crate::limits::CHANGES_MAX;

/// Makes what a channel needs of an address, `HOST:PORT`; `None`: it is none.
type MakeEndpoint = Arc<dyn Fn(&str) -> Option<Endpoint> + Send + Sync>;

impl Resolver {
    /// A channel to the service: tonic's own, which has a connection to each healthy instance and gives a request to
    /// the less busy of two. It goes by no weights but that those of weight 0 get nothing while others have any, and
    /// knows nothing of breakers: [`Balanced`] does. While there is no instance, requests wait for one, so give them a
    /// deadline.
    ///
    /// Without TLS, and each connection with tonic's defaults; [`Resolver::channel_with`] to say otherwise. Must be
    /// called within a tokio runtime. The channel keeps the watch alive.
    pub fn channel(&self) -> Channel {
        self.channel_with(plain)
    }

    /// The same; `endpoint` makes what is needed of an address, `HOST:PORT`. One for which it gives `None` gets
    /// nothing.
    pub fn channel_with(
        &self,
        endpoint: impl Fn(&str) -> Option<Endpoint> + Send + Sync + 'static,
    ) -> Channel {
        let (channel, changes) = Channel::balance_channel(CHANGES_MAX);
        let resolver = self.clone();
        tokio::spawn(async move {
            let mut fed = Fed::default();
            let mut targets = resolver.changes();
            loop {
                let now = addresses(&targets.borrow_and_update());
                for change in fed.follow(now, &endpoint) {
                    if changes.send(change).await.is_err() {
                        return;
                    }
                }
                // The channel is gone, or the resolver, which is held here.
                tokio::select! {
                    () = changes.closed() => return,
                    changed = targets.changed() => if changed.is_err() { return },
                }
            }
        });
        channel
    }

    /// A tower service that sends each request to the instance that [`Resolver::pick`] gives, and reports what becomes of
    /// it. Without TLS; [`Balanced::with`] to say otherwise.
    pub fn balanced(&self) -> Balanced {
        Balanced::with(self.clone(), plain)
    }
}

fn plain(address: &str) -> Option<Endpoint> {
    Endpoint::from_shared(format!("http://{address}")).ok()
}

/// The addresses that get requests: without those of weight 0, unless nobody has any.
fn addresses(targets: &Targets) -> BTreeSet<String> {
    let weighted = targets.iter().any(|target| target.weight > 0);
    let shares = targets.iter().filter(|target| target.weight > 0 || !weighted);
    shares.map(|target| host_and_port(target)).collect()
}

/// What a balanced channel has been told.
#[derive(Debug, Default)]
struct Fed(BTreeSet<String>);

impl Fed {
    fn follow(
        &mut self,
        now: BTreeSet<String>,
        endpoint: &impl Fn(&str) -> Option<Endpoint>,
    ) -> Vec<Change<String, Endpoint>> {
        let gone = self.0.difference(&now).cloned().map(Change::Remove);
        let come = now.difference(&self.0).filter_map(|address| {
            let endpoint = endpoint(address)?;
            Some(Change::Insert(address.clone(), endpoint))
        });
        let changes = gone.chain(come).collect();
        self.0 = now;
        changes
    }
}

/// A tower service for gRPC that goes by weights and breakers: each request is sent to the instance that its resolver
/// picks, over a connection that is kept as long as the instance is there. Clones share the connections.
///
/// An instance fails if it can't be reached, if the connection breaks before the answer's first message, or if it answers
/// with the status `UNAVAILABLE` and no message. What happens behind the first message is not looked at. Where no instance may get the
/// request, the answer is `UNAVAILABLE` with [`NoTarget`](super::NoTarget)'s words; nothing was sent then.
///
/// ```no_run
/// # use spine_client::{Client, proto::kv_client::KvClient};
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let service = client.resolver("photo").start().await?.balanced();
/// // Any client that tonic generates takes it in place of a `Channel`.
/// let stub = KvClient::new(service);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Balanced {
    resolver: Resolver,
    endpoint: MakeEndpoint,
    /// By address; those of instances that are gone go with the next new one.
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
}

impl Balanced {
    /// The service over this resolver; `endpoint` makes what is needed of an address, `HOST:PORT`. Where it gives
    /// `None`, the instance counts as one that can't be reached.
    pub fn with(
        resolver: Resolver,
        endpoint: impl Fn(&str) -> Option<Endpoint> + Send + Sync + 'static,
    ) -> Self {
        Self {
            resolver,
            endpoint: Arc::new(endpoint),
            channels: Arc::default(),
        }
    }

    fn channel(&self, address: String) -> Option<Channel> {
        let mut channels = self.channels();
        if let Some(channel) = channels.get(&address) {
            return Some(channel.clone());
        }
        let there = addresses(&self.resolver.targets());
        channels.retain(|known, _| there.contains(known));
        let channel = (self.endpoint)(&address)?.connect_lazy();
        channels.insert(address, channel.clone());
        Some(channel)
    }

    /// Held to look a connection up, never over a wait.
    fn channels(&self) -> MutexGuard<'_, BTreeMap<String, Channel>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service<http::Request<Body>> for Balanced {
    type Response = http::Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    /// Always ready: who is asked is decided with the request.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let picked = self.resolver.pick().map(|pick| {
            let channel = self.channel(pick.address());
            (pick, channel)
        });
        Box::pin(async move {
            let (pick, channel) = picked.map_err(|none| Status::unavailable(none.to_string()))?;
            let Some(channel) = channel else {
                let address = pick.address();
                pick.report(Report::Failure);
                return Err(Status::unavailable(format!("{address} is not an address")));
            };
            send(pick, channel, request).await
        })
    }
}

async fn send(
    pick: Pick,
    channel: Channel,
    request: http::Request<Body>,
) -> Result<http::Response<Body>, Status> {
    match channel.oneshot(request).await {
        Ok(answer) if answer.status().is_server_error() => {
            pick.report(Report::Failure);
            Ok(answer)
        }
        Ok(answer) => Ok(match said_by(answer.headers()) {
            Some(report) => {
                pick.report(report);
                answer
            }
            None => answer.map(|body| judged(pick, body)),
        }),
        Err(error) => {
            pick.report(Report::Failure);
            Err(Status::from_error(Box::new(error)))
        }
    }
}

/// What a head or trailers say of how the request ended, if they say it.
fn said_by(headers: &HeaderMap) -> Option<Report> {
    let status = Status::from_header_map(headers)?;
    Some(match status.code() {
        Code::Unavailable => Report::Failure,
        _ => Report::Success,
    })
}

/// The body of an answer whose head doesn't say how the request ended: what comes first behind it does. One that is given
/// up before says nothing.
fn judged(pick: Pick, body: Body) -> Body {
    let pick = Arc::new(Mutex::new(Some(pick)));
    let tell = move |report| {
        let pick = pick.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(pick) = pick {
            pick.report(report);
        }
    };
    let tell_of_error = tell.clone();
    let body = body.map_frame(move |frame| {
        let said = frame.trailers_ref().and_then(said_by);
        tell(said.unwrap_or(Report::Success));
        frame
    });
    Body::new(body.map_err(move |error| {
        tell_of_error(Report::Failure);
        error
    }))
}

impl fmt::Debug for Balanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balanced")
            .field("resolver", &self.resolver)
            .finish_non_exhaustive()
    }
}
