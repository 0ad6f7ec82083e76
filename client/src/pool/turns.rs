//! Whose turn it is to serve a stream.
//!
//! A stream is opened at one server after another until one serves it, and again when that one has gone. A round, in which
//! each server has its turn, takes as long as a call may: as with a call, one that hangs gets no more than half of what is
//! left while there are others.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

use super::{Pool, end_of_read, jittered, longer};

/// A round.
#[derive(Clone, Copy, Debug)]
struct Round {
    /// When it is over.
    ends: Instant,
    /// How many have had their turn.
    over: usize,
}

/// The turns at one stream.
#[derive(Debug)]
pub(crate) struct Turns {
    pool: Pool,
    /// The place of the server whose turn it is, and its address once it was asked.
    place: usize,
    address: Option<Arc<str>>,
    /// How many have failed since one served.
    failures: usize,
    /// The round under way; there is none while one serves.
    round: Option<Round>,
    /// The pause before this turn.
    pause: Option<Duration>,
}

impl Turns {
    /// Begins at the server that answered last.
    pub(crate) fn new(pool: Pool) -> Self {
        Self {
            place: pool.preferred(),
            address: None,
            failures: 0,
            round: None,
            pause: None,
            pool,
        }
    }

    /// The server whose turn it is, and until when it has to serve if it is asked now.
    pub(crate) fn take(&mut self) -> (Channel, Arc<str>, Instant) {
        let (channel, address) = self.pool.server(self.place);
        self.address = Some(address.clone());
        (channel, address, self.end())
    }

    fn end(&mut self) -> Instant {
        let (now, servers) = (Instant::now(), self.pool.servers());
        let under_way = self
            .round
            .filter(|round| round.over < servers && round.ends > now);
        let round = under_way.unwrap_or_else(|| Round {
            ends: now + self.pool.deadline(),
            over: 0,
        });
        self.round = Some(round);
        end_of_read(round.ends, servers - 1 - round.over)
    }

    /// It serves.
    pub(crate) fn served(&mut self) {
        self.failures = 0;
        self.round = None;
        self.pause = None;
    }

    /// It doesn't, or no more: it is the next one's turn, after [`pause`](Self::pause).
    pub(crate) fn failed(&mut self) {
        if let Some(address) = self.address.take() {
            self.pool.failed(&address);
        }
        if let Some(round) = &mut self.round {
            round.over += 1;
        }
        self.failures += 1;
        self.place += 1;
        self.pause = Some(longer(self.pause));
    }

    /// Whether each server has failed since one served.
    pub(crate) fn all_failed(&self) -> bool {
        self.failures >= self.pool.servers()
    }

    /// How long [`pause`](Self::pause) takes at most.
    pub(crate) fn next_pause(&self) -> Duration {
        self.pause.unwrap_or_default()
    }

    /// Waits before the next turn: longer after each failure.
    pub(crate) async fn pause(&self) {
        sleep(jittered(self.next_pause())).await;
    }
}
