//! Every metric: its name, its unit, its meaning, in [`SERIES`]. `/metrics` shows exactly these, in the `OpenMetrics`
//! text format.
//!
//! Labels are bounded: dialects, outcomes, commands, statuses; never a key, a name or a token.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry as Series, Unit},
};
use spine_api::{NodeStatus, Role};
use spine_core::{RULES_KNOWN, Status};

use crate::{
    leader::Quota,
    metrics_sink::{NodeMetrics, Request},
    probe::ProbeMetrics,
    world::clock::Clock,
};

/// A row of the table of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name, with the unit that it ends in.
    pub name: &'static str,
    /// What it tells.
    pub meaning: &'static str,
}

const fn row(name: &'static str, meaning: &'static str) -> Row {
    Row { name, meaning }
}

/// Every series.
pub const SERIES: &[Row] = &[
    row("spine_build_info", "Always 1; the label is the release that runs"),
    row("spine_ready", "1 while this server has caught up and serves"),
    row("spine_raft_is_leader", "1 while this server orders the writes"),
    row("spine_raft_has_leader", "1 while this server knows a leader"),
    row("spine_raft_term", "The election that is in force"),
    row(
        "spine_raft_stepped_aside_total",
        "Times that this server gave leadership away because its disk was far slower than the others'",
    ),
    row(
        "spine_raft_log_position",
        "The last position written to this server's log",
    ),
    row(
        "spine_raft_committed_position",
        "The last position known to be on a majority",
    ),
    row("spine_raft_applied_position", "The last position applied here"),
    row(
        "spine_index",
        "The newest index: requests applied since the cluster was founded",
    ),
    row("spine_rules", "The rules in force in the cluster"),
    row(
        "spine_rules_known",
        "The newest rules that this server's release knows; where all servers know newer ones than are in force, they are about to be raised",
    ),
    row("spine_state_bytes", "Bytes of replicated state, history included"),
    row(
        "spine_state_quota_bytes",
        "Bytes of replicated state beyond which writes that make it grow are refused",
    ),
    row(
        "spine_state_quota_alarm",
        "1 while nine tenths of the quota are used up: such writes are slowed down",
    ),
    row(
        "spine_log_flush_duration_seconds",
        "Time that a flush of the log took, until the disk has it",
    ),
    row(
        "spine_log_flushed_entries_total",
        "Entries that the flushes carried",
    ),
    row("spine_log_flushed_bytes_total", "Bytes that the flushes carried"),
    row(
        "spine_log_segments_unprepared_total",
        "Log segments begun before one was prepared: slower flushes follow",
    ),
    row(
        "spine_checkpoint_duration_seconds",
        "Time that writing a checkpoint took",
    ),
    row(
        "spine_checkpoint_age_seconds",
        "Time since the last checkpoint, or since the start if none was written",
    ),
    row(
        "spine_checkpoint_failures_total",
        "Checkpoints that could not be written",
    ),
    row(
        "spine_digest_mismatches_total",
        "Moments at which another server's state was not this one's; always 0 where all is well",
    ),
    row(
        "spine_commands_total",
        "Requests to change something, by way in, command and how they ended",
    ),
    row(
        "spine_command_duration_seconds",
        "Time from such a request to its answer",
    ),
    row(
        "spine_waiters",
        "Blocking queries and watches that wait for a change",
    ),
    row("spine_requests_total", "Requests answered, by way in and outcome"),
    row(
        "spine_request_duration_seconds",
        "Time to the answer of requests that don't wait for a change",
    ),
    row("spine_connections", "Connections open now, by port"),
    row(
        "spine_connections_refused_total",
        "Connections closed at once because too many were open, by port",
    ),
    row("spine_probes", "Checks that this server probes, by their status"),
    row("spine_probe_runs_total", "Probes run, by kind and result"),
    row(
        "spine_probe_delay_seconds",
        "Time from when a probe was due to when it began",
    ),
    row("process_resident_memory_bytes", "Memory that the process holds"),
    row(
        "process_cpu_seconds_total",
        "Processor time that the process has used",
    ),
    row("process_open_fds", "Files and sockets that the process has open"),
];

/// A disk that flushes in a millisecond is good; one that takes ten seconds is broken. Factor two.
const FLUSH_BUCKETS: (f64, f64, u16) = (0.000_1, 2.0, 17);
/// From 0.1 ms, which a read in memory takes, to the deadline of a request and past it.
const REQUEST_BUCKETS: (f64, f64, u16) = (0.000_1, 2.5, 13);
/// A checkpoint of a small state takes milliseconds, one of gigabytes a minute or two.
const CHECKPOINT_BUCKETS: (f64, f64, u16) = (0.001, 3.0, 12);

fn histogram((start, factor, count): (f64, f64, u16)) -> Histogram {
    Histogram::new(prometheus_client::metrics::histogram::exponential_buckets(
        start, factor, count,
    ))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    dialect: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabels {
    dialect: &'static str,
    command: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PortLabel {
    port: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProbeLabels {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VersionLabel {
    version: &'static str,
}

/// The metrics of one server.
#[derive(Debug)]
pub struct Metrics {
    series: Series,
    clock: Arc<dyn Clock>,
    started: Duration,
    checkpointed_ms: AtomicU64,
    ready: Gauge,
    is_leader: Gauge,
    has_leader: Gauge,
    term: Position,
    stepped_aside: Counter,
    log: Position,
    committed: Position,
    applied: Position,
    index: Position,
    rules: Position,
    rules_known: Position,
    state_bytes: Position,
    quota_bytes: Position,
    quota_alarm: Gauge,
    flush: Histogram,
    flushed_entries: Counter,
    flushed_bytes: Counter,
    unprepared: Counter,
    checkpoint: Histogram,
    checkpoint_age: Gauge<f64, AtomicU64>,
    checkpoint_failures: Counter,
    digest_mismatches: Counter,
    commands: Family<CommandLabels, Counter>,
    command_time: Family<CommandLabels, Histogram, fn() -> Histogram>,
    waiters: Gauge,
    requests: Family<RequestLabels, Counter>,
    request_time: Family<RequestLabels, Histogram, fn() -> Histogram>,
    connections: Family<PortLabel, Gauge>,
    connections_refused: Family<PortLabel, Counter>,
    probes: Family<StatusLabel, Gauge>,
    probe_runs: Family<ProbeLabels, Counter>,
    probe_delay: Histogram,
    memory: Position,
    cpu: Counter<f64, AtomicU64>,
    open_fds: Position,
}

/// A number that is read elsewhere and shown here.
type Position = Gauge<u64, AtomicU64>;

fn request_histogram() -> Histogram {
    histogram(REQUEST_BUCKETS)
}

impl Metrics {
    /// The metrics of a server that starts now.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let started = clock.monotonic();
        let metrics = Self {
            series: Series::default(),
            checkpointed_ms: AtomicU64::new(millis(started)),
            clock,
            started,
            ready: Gauge::default(),
            is_leader: Gauge::default(),
            has_leader: Gauge::default(),
            term: Gauge::default(),
            stepped_aside: Counter::default(),
            log: Gauge::default(),
            committed: Gauge::default(),
            applied: Gauge::default(),
            index: Gauge::default(),
            rules: Gauge::default(),
            rules_known: Gauge::default(),
            state_bytes: Gauge::default(),
            quota_bytes: Gauge::default(),
            quota_alarm: Gauge::default(),
            flush: histogram(FLUSH_BUCKETS),
            flushed_entries: Counter::default(),
            flushed_bytes: Counter::default(),
            unprepared: Counter::default(),
            checkpoint: histogram(CHECKPOINT_BUCKETS),
            checkpoint_age: Gauge::default(),
            checkpoint_failures: Counter::default(),
            digest_mismatches: Counter::default(),
            commands: Family::default(),
            command_time: Family::new_with_constructor(request_histogram),
            waiters: Gauge::default(),
            requests: Family::default(),
            request_time: Family::new_with_constructor(request_histogram),
            connections: Family::default(),
            connections_refused: Family::default(),
            probes: Family::default(),
            probe_runs: Family::default(),
            probe_delay: histogram(REQUEST_BUCKETS),
            memory: Gauge::default(),
            cpu: Counter::default(),
            open_fds: Gauge::default(),
        };
        metrics.registered()
    }

    /// Puts every series under its name into the table that is shown.
    fn registered(mut self) -> Self {
        let mut series = std::mem::take(&mut self.series);
        let mut add = |name: &str, metric: Metric| metric.register(&mut series, name);
        let version: Family<VersionLabel, Gauge> = Family::default();
        version
            .get_or_create(&VersionLabel {
                version: env!("CARGO_PKG_VERSION"),
            })
            .set(1);
        add("spine_build_info", Metric::of(version));
        add("spine_ready", Metric::of(self.ready.clone()));
        add("spine_raft_is_leader", Metric::of(self.is_leader.clone()));
        add("spine_raft_has_leader", Metric::of(self.has_leader.clone()));
        add("spine_raft_term", Metric::of(self.term.clone()));
        add(
            "spine_raft_stepped_aside_total",
            Metric::of(self.stepped_aside.clone()),
        );
        add("spine_raft_log_position", Metric::of(self.log.clone()));
        add(
            "spine_raft_committed_position",
            Metric::of(self.committed.clone()),
        );
        add("spine_raft_applied_position", Metric::of(self.applied.clone()));
        add("spine_index", Metric::of(self.index.clone()));
        add("spine_rules", Metric::of(self.rules.clone()));
        add("spine_rules_known", Metric::of(self.rules_known.clone()));
        add("spine_state_bytes", Metric::of(self.state_bytes.clone()));
        add("spine_state_quota_bytes", Metric::of(self.quota_bytes.clone()));
        add("spine_state_quota_alarm", Metric::of(self.quota_alarm.clone()));
        add("spine_log_flush_duration_seconds", Metric::of(self.flush.clone()));
        add(
            "spine_log_flushed_entries_total",
            Metric::of(self.flushed_entries.clone()),
        );
        add(
            "spine_log_flushed_bytes_total",
            Metric::of(self.flushed_bytes.clone()),
        );
        add(
            "spine_log_segments_unprepared_total",
            Metric::of(self.unprepared.clone()),
        );
        add(
            "spine_checkpoint_duration_seconds",
            Metric::of(self.checkpoint.clone()),
        );
        add(
            "spine_checkpoint_age_seconds",
            Metric::of(self.checkpoint_age.clone()),
        );
        add(
            "spine_checkpoint_failures_total",
            Metric::of(self.checkpoint_failures.clone()),
        );
        add(
            "spine_digest_mismatches_total",
            Metric::of(self.digest_mismatches.clone()),
        );
        add("spine_commands_total", Metric::of(self.commands.clone()));
        add(
            "spine_command_duration_seconds",
            Metric::of(self.command_time.clone()),
        );
        add("spine_waiters", Metric::of(self.waiters.clone()));
        add("spine_requests_total", Metric::of(self.requests.clone()));
        add(
            "spine_request_duration_seconds",
            Metric::of(self.request_time.clone()),
        );
        add("spine_connections", Metric::of(self.connections.clone()));
        add(
            "spine_connections_refused_total",
            Metric::of(self.connections_refused.clone()),
        );
        add("spine_probes", Metric::of(self.probes.clone()));
        add("spine_probe_runs_total", Metric::of(self.probe_runs.clone()));
        add("spine_probe_delay_seconds", Metric::of(self.probe_delay.clone()));
        add("process_resident_memory_bytes", Metric::of(self.memory.clone()));
        add("process_cpu_seconds_total", Metric::of(self.cpu.clone()));
        add("process_open_fds", Metric::of(self.open_fds.clone()));
        self.series = series;
        self
    }

    /// All series as text, with what `status` and `waiters` say now.
    pub fn text(&self, status: &NodeStatus, waiters: usize) -> String {
        self.observe(status, waiters);
        self.observe_process();
        let mut text = String::with_capacity(16 << 10);
        encode(&mut text, &self.series).expect("writing to a string does not fail");
        text
    }

    fn observe(&self, status: &NodeStatus, waiters: usize) {
        self.ready.set(status.ready.into());
        self.is_leader.set((status.role == Role::Leader).into());
        self.has_leader.set(status.leader.is_some().into());
        self.term.set(status.term);
        self.log.set(status.last_log);
        self.committed.set(status.committed);
        self.applied.set(status.applied);
        self.index.set(status.index.0);
        self.rules.set(status.rules.into());
        self.rules_known.set(RULES_KNOWN.into());
        self.state_bytes.set(status.state_bytes);
        self.quota_bytes.set(status.state_quota);
        let alarm = Quota(status.state_quota).is_alarming(status.state_bytes);
        self.quota_alarm.set(alarm.into());
        self.waiters.set(i64::try_from(waiters).unwrap_or(i64::MAX));
        let checkpointed = Duration::from_millis(self.checkpointed_ms.load(Ordering::Relaxed));
        self.checkpoint_age
            .set(self.clock.monotonic().saturating_sub(checkpointed).as_secs_f64());
    }

    fn observe_process(&self) {
        let Some(usage) = process::usage() else { return };
        self.memory.set(usage.resident_bytes);
        self.cpu
            .inner()
            .store(usage.cpu.as_secs_f64().to_bits(), Ordering::Relaxed);
        self.open_fds.set(usage.open_fds);
    }

    /// Moments at which another server's state was not this one's.
    pub fn digest_mismatches(&self) -> u64 {
        self.digest_mismatches.get()
    }

    /// How long the server has been running.
    pub fn uptime(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.started)
    }

    /// Now, for [`Metrics::request`].
    pub fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// A request was answered; `took` is `None` if it waited for something to happen.
    pub fn request(&self, dialect: &'static str, outcome: &'static str, took: Option<Duration>) {
        let labels = RequestLabels { dialect, outcome };
        self.requests.get_or_create(&labels).inc();
        if let Some(took) = took {
            self.request_time
                .get_or_create(&labels)
                .observe(took.as_secs_f64());
        }
    }

    /// A connection to `port` was opened; it counts until the guard is dropped.
    pub fn connection(&self, port: &'static str) -> OpenConnection {
        let gauge = self.connections.get_or_create_owned(&PortLabel { port });
        gauge.inc();
        OpenConnection(gauge)
    }

    /// A connection to `port` was closed at once.
    pub fn connection_refused(&self, port: &'static str) {
        self.connections_refused.get_or_create(&PortLabel { port }).inc();
    }
}

/// An open connection, as the metrics see it.
#[derive(Debug)]
pub struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A metric of any kind, ready to be registered.
struct Metric(Register);

/// Puts it into a registry under a name, with a meaning and a unit.
type Register = Box<dyn FnOnce(&mut Series, &str, &str, Option<Unit>)>;

impl Metric {
    fn of(metric: impl prometheus_client::registry::Metric) -> Self {
        Self(Box::new(|series, name, meaning, unit| match unit {
            Some(unit) => series.register_with_unit(name, meaning, unit, metric),
            None => series.register(name, meaning, metric),
        }))
    }

    /// The encoder adds the unit and a counter's `_total` to the name, which the table's names hold already.
    fn register(self, series: &mut Series, name: &str) {
        let row = SERIES
            .iter()
            .find(|row| row.name == name)
            .expect("each series has its row in the table");
        let name = name.strip_suffix("_total").unwrap_or(name);
        let name = name.strip_suffix("_info").map_or(name, |_| row.name);
        let (name, unit) = match (name.strip_suffix("_seconds"), name.strip_suffix("_bytes")) {
            (Some(name), _) => (name, Some(Unit::Seconds)),
            (_, Some(name)) => (name, Some(Unit::Bytes)),
            (None, None) => (name, None),
        };
        self.0(series, name, row.meaning, unit);
    }
}

impl NodeMetrics for Metrics {
    fn flushed(&self, took: Duration, entries: u64, bytes: u64) {
        self.flush.observe(took.as_secs_f64());
        self.flushed_entries.inc_by(entries);
        self.flushed_bytes.inc_by(bytes);
    }

    fn segment_unprepared(&self) {
        self.unprepared.inc();
    }

    fn request(&self, request: Request) {
        let labels = CommandLabels {
            dialect: request.dialect.as_str(),
            command: request.command,
            outcome: request.ended.as_str(),
        };
        self.commands.get_or_create(&labels).inc();
        self.command_time
            .get_or_create(&labels)
            .observe(request.took.as_secs_f64());
    }

    fn checkpointed(&self, took: Duration) {
        self.checkpoint.observe(took.as_secs_f64());
        self.checkpointed_ms
            .store(millis(self.clock.monotonic()), Ordering::Relaxed);
    }

    fn checkpoint_failed(&self) {
        self.checkpoint_failures.inc();
    }

    fn stepped_aside(&self) {
        self.stepped_aside.inc();
    }

    fn digest_differs(&self) {
        self.digest_mismatches.inc();
    }
}

impl ProbeMetrics for Metrics {
    fn probes(&self, status: Status, count: usize) {
        let gauge = self.probes.get_or_create_owned(&StatusLabel {
            status: status.as_str(),
        });
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn probe_run(&self, kind: &'static str, result: Status, delay: Duration) {
        self.probe_runs
            .get_or_create(&ProbeLabels {
                kind,
                result: result.as_str(),
            })
            .inc();
        self.probe_delay.observe(delay.as_secs_f64());
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the operating system says of this process.
mod process {
    use std::{fs, time::Duration};

    pub(super) struct Usage {
        pub(super) resident_bytes: u64,
        pub(super) cpu: Duration,
        pub(super) open_fds: u64,
    }

    /// As Linux tells it; elsewhere nothing is told.
    pub(super) fn usage() -> Option<Usage> {
        let statm = fs::read_to_string("/proc/self/statm").ok()?;
        let resident_pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        let page = u64::try_from(rustix::param::page_size()).ok()?;
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let open_fds = fs::read_dir("/proc/self/fd").ok()?.count();
        Some(Usage {
            resident_bytes: resident_pages * page,
            cpu: Duration::new(cpu.tv_sec.try_into().ok()?, cpu.tv_nsec.try_into().ok()?),
            open_fds: open_fds.try_into().ok()?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use spine_core::{Dialect, Index, NodeName, Time};

    use super::*;
    use crate::{metrics_sink::Ended, world::clock::OsClock};

    pub(crate) fn status() -> NodeStatus {
        NodeStatus {
            name: NodeName::parse("n1").unwrap(),
            node_id: 1,
            cluster_id: "c".into(),
            datacenter: "dc1".into(),
            role: Role::Leader,
            leader: NodeName::parse("n1").ok(),
            last_contact: None,
            term: 3,
            last_log: 12,
            committed: 11,
            applied: 10,
            index: Index(42),
            time: Time(0),
            rules: 1,
            state_bytes: 1 << 33,
            state_quota: 1 << 32,
            ready: true,
        }
    }

    #[test]
    fn the_page_shows_exactly_the_series_of_the_table() {
        let metrics = Metrics::new(Arc::new(OsClock));
        let _open = metrics.connection("http");
        metrics.connection_refused("http");
        metrics.request("consul", "ok", Some(Duration::from_millis(3)));
        metrics.probes(Status::Passing, 7);
        metrics.probe_run("http", Status::Critical, Duration::ZERO);
        NodeMetrics::request(
            &metrics,
            Request {
                dialect: Dialect::Consul,
                command: "put",
                ended: Ended::Applied,
                took: Duration::from_millis(2),
            },
        );
        metrics.flushed(Duration::from_millis(1), 3, 300);
        let text = metrics.text(&status(), 5);
        let shown: BTreeSet<_> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split(['{', ' ']).next().unwrap())
            .map(|name| {
                ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|end| name.strip_suffix(end))
                    .unwrap_or(name)
            })
            .collect();
        let table: BTreeSet<_> = SERIES.iter().map(|row| row.name).collect();
        assert_eq!(shown, table, "{text}");
        for line in [
            "spine_raft_applied_position 10",
            "spine_state_bytes 8589934592",
            "spine_rules 1",
            "spine_waiters 5",
            "spine_connections{port=\"http\"} 1",
            "spine_log_flush_duration_seconds_count 1",
            "spine_requests_total{dialect=\"consul\",outcome=\"ok\"} 1",
            "spine_commands_total{dialect=\"consul\",command=\"put\",outcome=\"applied\"} 1",
            "spine_probes{status=\"passing\"} 7",
        ] {
            assert!(
                text.lines().any(|shown| shown == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn a_connection_counts_until_it_is_closed() {
        let metrics = Metrics::new(Arc::new(OsClock));
        drop(metrics.connection("grpc"));
        assert!(
            metrics
                .text(&status(), 0)
                .contains("spine_connections{port=\"grpc\"} 0")
        );
    }
}
