//! Watches of keys: from now, from the past, and on from where the last one broke off.

use std::time::Duration;

use spine_proto::v1::{self, watch_client::WatchClient};
use tonic::Streaming;

use super::keys::{prefixed, stored};
use super::{Client, GRACE};
use crate::history::{OpId, Told};
use crate::world;

/// Asked of every watch, so that silence is told from a dead connection.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// Silence after which a watch is given up.
const SILENCE_MAX: Duration = Duration::from_millis(2500);

impl Client {
    /// Watches until the simulation ends: a watch lasts until it breaks, or some seconds.
    pub(super) async fn watch(mut self) -> turmoil::Result {
        let mut seen = 0;
        loop {
            let prefix = ["", "r/", "r/0", "s/"][super::below(&mut self.rng, 4)];
            // Mostly on from there, sometimes from the beginning.
            let from = if self.rng.one_in(8) { 0 } else { seen };
            if let Some(through) = self.watch_once(prefix, from).await {
                seen = seen.max(through);
            }
            self.turn_to_another();
            self.pause().await;
        }
    }

    /// One watch; gives the index up to which it told everything.
    async fn watch_once(&mut self, prefix: &str, from: u64) -> Option<u64> {
        // No deadline of its own: the stream goes on.
        let request = v1::WatchRequest {
            topics: vec![v1::Topic {
                topic: Some(v1::topic::Topic::Keys(prefixed(prefix))),
            }],
            from_index: Some(from),
            progress_interval_ms: u64::try_from(PROGRESS_EVERY.as_millis()).expect("half a second"),
            with_before: true,
            ..v1::WatchRequest::default()
        };
        let mut watch = WatchClient::new(self.channel.clone());
        let opened = tokio::time::timeout(self.setting.within + GRACE, watch.watch(request)).await;
        let stream = opened.ok()?.ok()?.into_inner();
        let until = world::now() + Duration::from_millis(500 + self.rng.below(12_000));
        Some(self.listen(prefix, from, stream, until).await)
    }

    async fn listen(
        &self,
        prefix: &str,
        from: u64,
        mut stream: Streaming<v1::WatchResponse>,
        until: Duration,
    ) -> u64 {
        let number = self.setting.history.open_stream(self.node, prefix, from);
        let mut through = from;
        while world::now() < until {
            let Ok(Ok(Some(response))) = tokio::time::timeout(SILENCE_MAX, stream.message()).await else {
                break;
            };
            through = response.index;
            let told = response.events.into_iter().filter_map(told).collect();
            self.setting.history.tell(number, told, through);
        }
        through
    }
}

/// A change of a key; other changes were not asked for.
pub(crate) fn told(event: v1::Event) -> Option<Told> {
    let v1::event::Change::Key(change) = event.change? else {
        return None;
    };
    let value = |kv: &Option<v1::KeyValue>| -> Option<OpId> { kv.as_ref().map(stored) };
    Some(Told {
        index: event.index,
        key: String::from_utf8_lossy(&change.key).into_owned(),
        before: value(&change.before),
        after: value(&change.after),
    })
}
