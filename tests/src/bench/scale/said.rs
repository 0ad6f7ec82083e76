//! What servers say in their logs of the work that is measured: when a checkpoint was written, when a snapshot came.

use std::time::{Duration, Instant, SystemTime};

use spine_tests::cluster::{Cluster, SERVERS};

/// A checkpoint, from its beginning to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Checkpoint {
    pub(super) began: Instant,
    pub(super) took: Duration,
}

impl Checkpoint {
    pub(super) fn ended(&self) -> Instant {
        self.began + self.took
    }
}

/// A snapshot that came from another server and is durable.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Installed {
    pub(super) at: Instant,
    pub(super) bytes: u64,
}

/// Turns the moments of logs into this process's.
#[derive(Clone, Copy)]
struct Clock {
    wall: SystemTime,
    here: Instant,
}

/// What a server has said of itself in all its lives.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) checkpoints: Vec<Checkpoint>,
    pub(super) installed: Vec<Installed>,
}

impl Said {
    /// What each server has said.
    pub(super) fn of_all(cluster: &Cluster) -> Vec<Self> {
        let clock = Clock {
            wall: SystemTime::now(),
            here: Instant::now(),
        };
        (0..SERVERS)
            .map(|at| Self::read(&cluster.said(at), clock))
            .collect()
    }

    fn read(text: &str, clock: Clock) -> Self {
        let mut said = Self::default();
        for line in text.lines() {
            let Some(at) = moment(line, clock) else { continue };
            if line.contains(": checkpoint written") {
                let took = Duration::from_millis(number(line, "took_ms").unwrap_or_default());
                if let Some(began) = at.checked_sub(took) {
                    said.checkpoints.push(Checkpoint { began, took });
                }
            } else if line.contains(": a snapshot has come and is durable") {
                let bytes = number(line, "bytes").unwrap_or_default();
                said.installed.push(Installed { at, bytes });
            }
        }
        said
    }
}

/// When a line was written: its first word.
fn moment(line: &str, clock: Clock) -> Option<Instant> {
    let at = humantime::parse_rfc3339(line.split_whitespace().next()?).ok()?;
    match clock.wall.duration_since(at) {
        Ok(ago) => clock.here.checked_sub(ago),
        Err(ahead) => Some(clock.here + ahead.duration()),
    }
}

/// The field `NAME=NUMBER` of a line.
fn number(line: &str, name: &str) -> Option<u64> {
    let mut words = line.split_whitespace();
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_log_are_moments_of_this_process() {
        let begin = Instant::now();
        let after = |ms| begin + Duration::from_millis(ms);
        let clock = Clock {
            wall: humantime::parse_rfc3339("2026-01-01T00:00:10Z").expect("a moment"),
            here: after(10_000),
        };
        let said = Said::read(
            "2026-01-01T00:00:07.500000Z  INFO spine_node::raft::keeper: checkpoint written position=9 took_ms=1500\n\
             2026-01-01T00:00:08Z  WARN a: no checkpoint was written\n\
             the rest of a panic\n\
             2026-01-01T00:00:09Z  INFO b: a snapshot has come and is durable index=7 bytes=300\n",
            clock,
        );
        let first = Checkpoint {
            began: after(6_000),
            took: Duration::from_millis(1500),
        };
        assert_eq!(said.checkpoints, [first]);
        assert_eq!(first.ended(), after(7_500));
        let installed = Installed {
            at: after(9_000),
            bytes: 300,
        };
        assert_eq!(said.installed, [installed]);
    }
}
