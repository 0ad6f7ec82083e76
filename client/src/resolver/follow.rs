//! Follows a service: read once, then told by a watch, and read afresh where the watch can't go on.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use spine_proto::v1;
use tokio::time::sleep;

use super::{
    Shared,
    view::{Effect, Resolved, View, Wanted},
};
use crate::{
    Client, Topic,
    error::Result,
    limits::{INSTANCES_MAX, READ_AGAIN_AFTER, TOPICS_MAX},
    pool::{jittered, longer},
};

/// A server says at least this often that nothing has happened.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Who follows.
pub(super) struct Follower {
    client: Client,
    wanted: Wanted,
}

/// What was read, and the index behind which it goes on.
pub(super) struct Reading {
    view: View,
    index: u64,
}

impl Reading {
    pub(super) fn resolved(&self, wanted: &Wanted) -> Resolved {
        self.view.targets(wanted)
    }
}

impl Follower {
    pub(super) fn new(client: Client, wanted: Wanted) -> Self {
        Self { client, wanted }
    }

    /// Reads the service as it is, page by page. Each is read at its own moment; what changes between the first and the
    /// last is told again by the watch.
    pub(super) async fn read(&self) -> Result<Reading> {
        let mut request = v1::ServiceInstancesRequest {
            service: self.wanted.service.clone(),
            ..v1::ServiceInstancesRequest::default()
        };
        let mut endpoints: Vec<v1::Endpoint> = Vec::new();
        let mut index = None;
        loop {
            let page = self.client.catalog.instances_page(request.clone()).await?;
            index.get_or_insert(page.header.unwrap_or_default().applied_index);
            endpoints.extend(page.endpoints);
            let next = endpoints.last().and_then(crate::catalog::key);
            if !page.more || next.is_none() || endpoints.len() >= INSTANCES_MAX {
                break;
            }
            request.after = next;
        }
        endpoints.truncate(INSTANCES_MAX);
        Ok(Reading {
            view: View::read(&self.wanted.service, endpoints),
            index: index.unwrap_or_default(),
        })
    }

    /// Follows, and reads afresh when that ends, for ever.
    pub(super) fn run(self, first: Reading, shared: Arc<Shared>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let mut reading = Some(first);
            let mut pause = None;
            loop {
                let followed = match reading.take() {
                    Some(reading) => self.follow(reading, &shared).await,
                    None => Ok(()),
                };
                // A node that was not known, history that is no longer kept, or another cluster in the place of that one: what
                // was known until now stays.
                pause = if followed.is_ok() {
                    None
                } else {
                    Some(longer(pause))
                };
                sleep(jittered(pause.unwrap_or(READ_AGAIN_AFTER))).await;
                match self.read().await {
                    Ok(read) => {
                        shared.heard();
                        shared.publish(read.resolved(&shared.wanted));
                        reading = Some(read);
                    }
                    Err(_) => pause = Some(longer(pause)),
                }
            }
        })
    }

    /// Follows one reading until something happens that the events don't say.
    async fn follow(&self, reading: Reading, shared: &Shared) -> Result<()> {
        let Reading { mut view, index } = reading;
        let watch = self.client.watch.topics(self.topics(&view)).after(index);
        let mut stream = watch.progress_every(PROGRESS_EVERY).start().await?;
        loop {
            let batch = stream.next().await?;
            shared.heard();
            let mut changed = false;
            for event in batch.events {
                match view.apply(event) {
                    Effect::None => {}
                    Effect::Changed => changed = true,
                    Effect::Unknown => return Ok(()),
                }
            }
            if changed {
                shared.publish(view.targets(&shared.wanted));
            }
        }
    }

    /// The service, and the nodes that its instances are on: each for itself while they are few, else all of them.
    fn topics(&self, view: &View) -> Vec<Topic> {
        let service = Topic::service(&self.wanted.service);
        if view.nodes().len() < TOPICS_MAX {
            let nodes = view.nodes().cloned().map(Topic::Node);
            std::iter::once(service).chain(nodes).collect()
        } else {
            vec![service, Topic::Nodes, Topic::Checks]
        }
    }
}
