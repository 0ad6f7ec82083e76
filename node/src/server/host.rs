//! What a server finds about itself: for `spine doctor`, and for `spine debug`.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use spine_api::{Registry, Role, native};
use spine_core::{Index, RULES_KNOWN};
use spine_proto::v1;
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    Node,
    condition::{Condition, Pace, Seen},
    config::Config,
    digests::Marks,
    machine::{self, Disk},
    telemetry::{self, metrics::Metrics},
    world::clock::Clock,
};

/// A disk that doesn't answer within this time is told as not measured.
const PROBED_WITHIN: Duration = Duration::from_secs(2);

/// The server around the native API.
pub(super) struct Host {
    registry: Arc<dyn Registry>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    condition: Arc<Condition>,
    marks: Arc<Marks>,
    data_dir: PathBuf,
    config: BTreeMap<String, String>,
    /// One probe at a time: of a disk that hangs, one thread is lost and not one for each call.
    probing: Arc<Semaphore>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Host {
    /// That of `node`, told to run as `config` says, with its data in `data_dir`.
    pub(super) fn new(
        node: &Node,
        config: &Config,
        data_dir: PathBuf,
        metrics: Arc<Metrics>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            registry: node.registry(),
            condition: node.condition(),
            marks: node.marks(),
            metrics,
            clock,
            data_dir,
            config: config.shown(),
            probing: Arc::new(Semaphore::new(1)),
        }
    }

    /// How long the disk takes for a small write and its flush; `None` if it doesn't say in time.
    async fn probe(&self) -> Option<Duration> {
        let permit = self.probing.clone().try_acquire_owned().ok()?;
        let (directory, clock) = (self.data_dir.clone(), self.clock.clone());
        let probe = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            machine::time_flushes(&directory, &*clock, 1)
        });
        let took = timeout(PROBED_WITHIN, probe).await.ok()?.ok()?.ok()?;
        took.first().copied()
    }

    /// The file system of the data; `None` if it doesn't say in time.
    async fn disk(&self) -> Option<Disk> {
        let directory = self.data_dir.clone();
        let disk = tokio::task::spawn_blocking(move || Disk::of(&directory));
        timeout(PROBED_WITHIN, disk).await.ok()?.ok()?.ok()
    }
}

#[tonic::async_trait]
impl native::Host for Host {
    async fn diagnose(&self) -> v1::DiagnoseResponse {
        let arrived = self.clock.monotonic();
        let (status, state) = (self.registry.status(), self.registry.hub().newest());
        let pace = self.condition.pace();
        let (disk, probe) = tokio::join!(self.disk(), async {
            // A disk that has a write for long says enough by that.
            if pace.writes == 0 && pace.waiting.is_zero() {
                self.probe().await
            } else {
                None
            }
        });
        let marks = self.marks.after(Index(0)).into_iter();
        v1::DiagnoseResponse {
            name: status.name.to_string(),
            id: status.node_id,
            cluster_id: status.cluster_id.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            rules: state.rules(),
            rules_known: RULES_KNOWN,
            uptime_ms: millis(self.metrics.uptime()),
            role: role(status.role).into(),
            leader: status
                .leader
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            term: status.term,
            last_log: status.last_log,
            committed: status.committed,
            applied: status.applied,
            index: status.index.0,
            ready: status.ready,
            state_bytes: status.state_bytes,
            state_bytes_max: status.state_quota,
            log: Some(log_pace(pace)),
            probe_us: probe.map(micros),
            disk: disk.map(|disk| v1::Disk {
                kind: disk.kind,
                total_bytes: disk.total_bytes,
                available_bytes: disk.available_bytes,
            }),
            open_files: machine::open_files().map(|(open, limit)| v1::OpenFiles { open, limit }),
            peers: self.condition.peers().into_iter().map(peer).collect(),
            marks: marks
                .map(|mark| v1::StateMark {
                    index: mark.index.0,
                    digest: mark.digest.to_be_bytes().to_vec().into(),
                })
                .collect(),
            digest_mismatches: self.metrics.digest_mismatches(),
            // Last, so that what took time before is not taken for the way.
            took_us: micros(self.clock.monotonic().saturating_sub(arrived)),
            wall_ms: self.clock.wall().0,
        }
    }

    async fn debug(&self) -> v1::DebugResponse {
        let (status, state) = (self.registry.status(), self.registry.hub().newest());
        let rows = state.counts().into_iter();
        v1::DebugResponse {
            name: status.name.to_string(),
            metrics: self.metrics.text(&status, self.registry.hub().waiting()),
            config: self.config.clone(),
            log: telemetry::recent_lines(),
            rows: rows
                .map(|(table, rows)| (table.to_owned(), u64::try_from(rows).unwrap_or(u64::MAX)))
                .collect(),
            threads: machine::threads(),
            build: build(),
        }
    }
}

/// The release, and what it was built for.
fn build() -> BTreeMap<String, String> {
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    [
        ("version", env!("CARGO_PKG_VERSION")),
        ("profile", profile),
        ("architecture", std::env::consts::ARCH),
        ("system", std::env::consts::OS),
    ]
    .map(|(what, value)| (what.to_owned(), value.to_owned()))
    .into()
}

fn role(role: Role) -> v1::Role {
    match role {
        Role::Leader => v1::Role::Leader,
        Role::Follower => v1::Role::Follower,
        Role::Candidate => v1::Role::Candidate,
        Role::Learner => v1::Role::Learner,
    }
}

fn log_pace(pace: Pace) -> v1::LogPace {
    v1::LogPace {
        writes: pace.writes,
        median_us: micros(pace.median),
        p99_us: micros(pace.p99),
        longest_us: micros(pace.longest),
        waiting_us: micros(pace.waiting),
    }
}

fn peer((id, seen, ago): (u64, Seen, Option<Duration>)) -> v1::PeerCondition {
    v1::PeerCondition {
        name: seen.name,
        id,
        peer_address: seen.address,
        answered_ms: ago.map(millis),
        round_trip_us: seen.answer.map_or(0, |answer| micros(answer.round_trip)),
        clock_ahead_ms: seen.answer.map_or(0, |answer| answer.ahead_ms),
        failure: seen.failure.unwrap_or_default(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
