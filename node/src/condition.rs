//! How the servers do: each knows how fast its own log is, asks the others once a second, and tells who asks.
//!
//! ```text
//!  the log's thread ──► Flushes ──► Pace ──┬──► who asks: `peers::Telling`
//!                                          └──► decide::Stepping ──► another leads
//!  the others ──────► Condition::peers ────┘
//! ```
//!
//! Two things rest on it. `spine doctor` shows it, from the view of each server. And a leader whose disk is far slower than
//! those of the others [gives leadership away](decide), while that costs nobody anything: all writes go through the leader's
//! log, so they wait for its disk as soon as another server is away, or more comes in than it takes.

pub mod decide;
mod flushes;
pub mod peers;
pub(crate) mod steward;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

pub use self::flushes::{Flushes, Pace, WINDOW};
use crate::metrics_sink::NodeMetrics;
use crate::{
    storage::log::{Flush, LogObserver},
    world::clock::Clock,
};

/// What a server knows of how it and the others do.
#[derive(Debug)]
pub struct Condition {
    clock: Arc<dyn Clock>,
    flushes: Flushes,
    peers: Mutex<BTreeMap<u64, Seen>>,
    /// When this server last gave leadership away because of its disk.
    stepped_aside: Mutex<Option<Duration>>,
}

/// A member, as this server sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Where it is asked.
    pub address: String,
    /// Its last answer; `None`: it has given none.
    pub answer: Option<Answer>,
    /// Why it did not answer the last question, if it didn't.
    pub failure: Option<String>,
}

/// What a member said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When it came, by this server's monotonic clock.
    pub at: Duration,
    /// From the question to the answer.
    pub round_trip: Duration,
    /// How far its wall clock is ahead of this server's, in milliseconds, give or take half of the round trip.
    pub ahead_ms: i64,
    /// How fast its log is.
    pub pace: Pace,
    /// When it last gave leadership away because of its disk, by this server's monotonic clock.
    pub stepped_aside: Option<Duration>,
}

impl Condition {
    /// Nothing is known yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            flushes: Flushes::default(),
            peers: Mutex::default(),
            stepped_aside: Mutex::default(),
        }
    }

    /// How fast this server's log is.
    pub fn pace(&self) -> Pace {
        self.flushes.pace(self.clock.monotonic())
    }

    /// Whether a write of this server's log has not come back for so long that it may never.
    pub fn is_stuck(&self) -> bool {
        self.flushes.waiting(self.clock.monotonic()) >= decide::STUCK
    }

    /// The other members, and how long ago each answered.
    pub fn peers(&self) -> Vec<(u64, Seen, Option<Duration>)> {
        let now = self.clock.monotonic();
        let peers = self.peers.lock();
        let aged = peers.iter().map(|(id, seen)| {
            let ago = seen.answer.map(|answer| now.saturating_sub(answer.at));
            (*id, seen.clone(), ago)
        });
        aged.collect()
    }

    /// How long ago this server gave leadership away because of its disk.
    fn stepped_aside_ago(&self) -> Option<Duration> {
        let at = (*self.stepped_aside.lock())?;
        Some(self.clock.monotonic().saturating_sub(at))
    }
}

/// Times what the log writes, for the metrics and for [`Condition`].
pub(crate) struct FlushTimer {
    condition: Arc<Condition>,
    metrics: Arc<dyn NodeMetrics>,
    began: Mutex<Duration>,
}

impl FlushTimer {
    pub(crate) fn new(condition: Arc<Condition>, metrics: Arc<dyn NodeMetrics>) -> Self {
        Self {
            condition,
            metrics,
            began: Mutex::default(),
        }
    }
}

impl LogObserver for FlushTimer {
    fn write_begins(&self) {
        let Condition { clock, flushes, .. } = &*self.condition;
        flushes.begins(clock.monotonic());
    }

    fn flush_begins(&self) {
        *self.began.lock() = self.condition.clock.monotonic();
    }

    fn flush_ends(&self, flush: Flush) {
        let now = self.condition.clock.monotonic();
        self.condition.flushes.ends(now);
        let took = now.saturating_sub(*self.began.lock());
        self.metrics.flushed(took, flush.entries, flush.bytes);
    }

    fn segment_unprepared(&self) {
        self.metrics.segment_unprepared();
    }
}
