//! Runs this node's share of the checks, and says what changed.
//!
//! One task owns everything here. A second one follows the catalog's changes and hands them over in batches. Probes and
//! reports run as tasks of their own, never more than [`PROBE_RUNS_MAX`] and [`PROBE_REPORTS_MAX`]; what is due while all of them
//! are busy waits in the queue, and `spine_probe_delay_seconds` shows it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::FutureExt;
use spine_api::{Context, Error, Read, Registry, read::CursorError};
use spine_core::{
    Applied, Assignment, Change, Check, CheckKey, CheckUpdate, Command, Dialect, Event, Index, NodeName,
    Scope, State, Status, Topic, UpdateSource, health::Counter,
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Finding, ProbeMetrics, Prober,
    queue::{Due, Queue, Work},
};
use crate::limits::{PROBE_REPORTS_MAX, PROBE_RUNS_MAX};
use crate::world::rng::Rng;

/// No check runs more often.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// A check that only says something else, and means the same, is reported this often at most: outputs hold clocks and
/// counters, and each report is an entry of the log.
const OUTPUT_EVERY: Duration = Duration::from_mins(3);
/// Checks that come from another node run within this time: nobody knows how long ago their last run was. All of a lost
/// node's checks come at once, so they are spread.
const TAKE_OVER_WITHIN: Duration = Duration::from_millis(500);
/// Failures in a row before a check that came from another node is critical, at the least. The first run from here may
/// fail for reasons of its own, and a service that passes must not leave for that.
const TAKE_OVER_FAILURES: u32 = 2;
/// A report that did not get through is made again after this long, and up to as much again.
const REPORT_AGAIN: Duration = Duration::from_secs(1);
/// Batches of changes between the catalog's follower and the scheduler.
const NEWS_MAX: usize = 16;

/// The probes of this node, running. They end when the registry's hub closes, or when this is dropped.
#[derive(Debug)]
pub struct Probes {
    follower: JoinHandle<()>,
    scheduler: JoinHandle<()>,
}

impl Probes {
    /// Begins to run the checks that are assigned to this node, now and as the catalog changes.
    pub fn start(
        registry: Arc<dyn Registry>,
        prober: Arc<dyn Prober>,
        rng: Arc<dyn Rng>,
        metrics: Arc<dyn ProbeMetrics>,
    ) -> Self {
        let (news, from_follower) = mpsc::channel(NEWS_MAX);
        let scheduler = Scheduler {
            me: registry.status().name,
            registry: registry.clone(),
            prober,
            rng,
            metrics,
            probes: BTreeMap::new(),
            queue: Queue::default(),
            lives: 0,
            tally: [0; 3],
            runs: JoinSet::new(),
            reports: JoinSet::new(),
            to_report: VecDeque::new(),
        };
        Self {
            follower: tokio::spawn(follow(registry, news)),
            scheduler: tokio::spawn(scheduler.run(from_follower)),
        }
    }

    /// Waits until they have ended.
    pub async fn ended(mut self) {
        // Aborted or panicked, it has ended.
        let _ = (&mut self.scheduler).await;
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.follower.abort();
        self.scheduler.abort();
    }
}

/// What happened in the catalog.
enum News {
    /// These checks may have changed.
    Checks(BTreeSet<CheckKey>),
    /// Anything may have changed.
    Anything,
}

async fn follow(registry: Arc<dyn Registry>, news: mpsc::Sender<News>) {
    let mut from = registry.hub().newest().index();
    let mut told = News::Anything;
    loop {
        if news.send(told).await.is_err() {
            return;
        }
        let Some(changes) = changes(&*registry, from).await else {
            return;
        };
        (told, from) = changes;
    }
}

/// What happened after `from`; `None` when the node stops.
async fn changes(registry: &dyn Registry, from: Index) -> Option<(News, Index)> {
    loop {
        match registry
            .watch(vec![Topic::Checks, Topic::Members], from)
            .next(None)
            .await
        {
            Ok(batch) => return Some((news(&batch.events), batch.through)),
            Err(CursorError::Compacted(_)) => return Some((News::Anything, registry.hub().newest().index())),
            Err(CursorError::Registry(Error::ShuttingDown)) => return None,
            // Too many wait; one more has to try again.
            Err(CursorError::Registry(_)) => sleep(REPORT_AGAIN).await,
        }
    }
}

fn news(events: &[Event]) -> News {
    let mut checks = BTreeSet::new();
    for event in events {
        match &event.change {
            Change::Check(key, ..) => {
                checks.insert(key.clone());
            }
            Change::Member(..) | Change::MemberStatus(..) => return News::Anything,
            Change::Key(..)
            | Change::Node(..)
            | Change::Instance(..)
            | Change::Lease(..)
            | Change::CaRoots(_) => {}
        }
    }
    News::Checks(checks)
}

struct Scheduler {
    me: NodeName,
    registry: Arc<dyn Registry>,
    prober: Arc<dyn Prober>,
    rng: Arc<dyn Rng>,
    metrics: Arc<dyn ProbeMetrics>,
    /// The checks that this node runs.
    probes: BTreeMap<CheckKey, Probe>,
    queue: Queue,
    lives: u64,
    /// How many of the probes have which status.
    tally: [usize; 3],
    runs: JoinSet<Ran>,
    reports: JoinSet<Reported>,
    /// Probes that have something to report and wait for room; each is in here once.
    to_report: VecDeque<(CheckKey, u64)>,
}

/// A check that this node runs.
struct Probe {
    /// The row as last seen.
    check: Arc<Check>,
    /// Since when it is this node's to run, so defined.
    since: Index,
    /// Tells this probe from one of the same check under another assignment.
    life: u64,
    counter: Counter,
    /// It came from another node, and no run from here has settled yet what it is.
    unconfirmed: bool,
    /// What the last run made of it: the status that it is to have, with what was seen.
    found: Option<Finding>,
    /// A report waits or is on its way.
    reporting: bool,
    /// When an output alone is worth a report.
    output_at: Instant,
}

impl Probe {
    fn interval(&self) -> Duration {
        let interval = self.check.definition.kind.interval().unwrap_or_default();
        interval.duration().max(INTERVAL_MIN)
    }

    /// Takes a run's result: the status that the check is to have, and how long after the run the next one begins.
    fn count(&mut self, result: Status) -> (Status, Duration) {
        let mut thresholds = self.check.definition.thresholds;
        if self.unconfirmed {
            let failures = &mut thresholds.failures_before_critical;
            *failures = TAKE_OVER_FAILURES.max(*failures);
        }
        let status = self.counter.record(&thresholds, result, self.check.status);
        self.unconfirmed &= result == Status::Critical && status != Status::Critical;
        let again = self.unconfirmed && self.counter.failures() < TAKE_OVER_FAILURES;
        let pause = if again { INTERVAL_MIN } else { self.interval() };
        (status, pause)
    }

    /// What there is to say.
    fn unsaid(&self, now: Instant) -> Option<&Finding> {
        let found = self.found.as_ref()?;
        let changed = found.status != self.check.status;
        let says_else = found.output != self.check.output;
        let worth = changed || (says_else && (self.check.output.is_empty() || now >= self.output_at));
        worth.then_some(found)
    }
}

/// A run that ended.
struct Ran {
    check: CheckKey,
    life: u64,
    began: Instant,
    delay: Duration,
    finding: Finding,
}

/// A report that was answered.
struct Reported {
    check: CheckKey,
    life: u64,
    answer: Result<Applied, Error>,
}

impl Scheduler {
    async fn run(mut self, mut news: mpsc::Receiver<News>) {
        loop {
            self.begin_due();
            let next = (self.runs.len() < PROBE_RUNS_MAX)
                .then(|| self.queue.next())
                .flatten();
            tokio::select! {
                biased;
                told = news.recv() => match told {
                    Some(News::Checks(checks)) => self.look_at(&checks),
                    Some(News::Anything) => self.look_at_all(),
                    None => return,
                },
                Some(ran) = self.runs.join_next() => self.judge(ran.expect("a probe catches its panics")),
                Some(reported) = self.reports.join_next() => {
                    self.settle(reported.expect("proposing does not panic"));
                }
                () = until(next) => {}
            }
        }
    }

    fn look_at(&mut self, checks: &BTreeSet<CheckKey>) {
        let state = self.registry.hub().newest();
        for key in checks {
            match state.health().check(key) {
                Some(check) => match self.mine_since(&state, check) {
                    Some(since) => self.keep(check, since),
                    None => self.drop_probe(key),
                },
                None => self.drop_probe(key),
            }
        }
        self.sweep();
    }

    fn look_at_all(&mut self) {
        let state = self.registry.hub().newest();
        let mine: Vec<_> = state
            .health()
            .checks()
            .filter_map(|check| Some((check.clone(), self.mine_since(&state, check)?)))
            .collect();
        let keys: BTreeSet<_> = mine.iter().map(|(check, _)| check.key()).collect();
        let gone: Vec<_> = self
            .probes
            .keys()
            .filter(|key| !keys.contains(*key))
            .cloned()
            .collect();
        for key in &gone {
            self.drop_probe(key);
        }
        for (check, since) in &mine {
            self.keep(check, *since);
        }
        self.sweep();
    }

    /// Since when a check is this node's to run, if it is.
    fn mine_since(&self, state: &State, check: &Check) -> Option<Index> {
        let assignment = state.assignment(check)?;
        (assignment.member == self.me).then_some(assignment.since)
    }

    /// Goes on with a check as its row is now. A changed definition begins a new life, and so does a check that was
    /// another node's meanwhile: results of the old one don't count, and its entry in the queue is void.
    fn keep(&mut self, check: &Arc<Check>, since: Index) {
        let key = check.key();
        if let Some(probe) = self.probes.get_mut(&key)
            && probe.since == since
        {
            let before = std::mem::replace(&mut probe.check, check.clone());
            self.count(Some(before.status), Some(check.status));
            return;
        }
        self.lives += 1;
        let now = now();
        let taken_over = since > check.definition_index;
        let probe = Probe {
            check: check.clone(),
            since,
            life: self.lives,
            counter: Counter::default(),
            unconfirmed: taken_over,
            found: None,
            reporting: false,
            // Outputs that differ after a restart are not all reported at once.
            output_at: now + self.up_to(OUTPUT_EVERY),
        };
        // Checks registered together don't run together.
        let spread = if taken_over {
            TAKE_OVER_WITHIN
        } else {
            probe.interval()
        };
        let first = now + self.up_to(spread);
        self.queue.push(Due {
            at: first,
            check: key.clone(),
            life: self.lives,
            work: Work::Run,
        });
        let before = self.probes.insert(key, probe).map(|probe| probe.check.status);
        self.count(before, Some(check.status));
    }

    fn drop_probe(&mut self, key: &CheckKey) {
        if let Some(probe) = self.probes.remove(key) {
            self.count(Some(probe.check.status), None);
        }
    }

    /// Entries of checks that are gone lie in the queue until they are due, which may be days; they are never most.
    fn sweep(&mut self) {
        if self.queue.len() > 2 * self.probes.len() + PROBE_RUNS_MAX {
            let probes = &self.probes;
            self.queue
                .retain(|due| probes.get(&due.check).is_some_and(|probe| probe.life == due.life));
        }
    }

    fn begin_due(&mut self) {
        let now = now();
        while self.runs.len() < PROBE_RUNS_MAX
            && let Some(due) = self.queue.pop(now)
        {
            let Some(probe) = self.probes.get(&due.check).filter(|probe| probe.life == due.life) else {
                continue;
            };
            match due.work {
                Work::Run => {
                    let check = probe.check.clone();
                    self.runs.spawn(run(self.prober.clone(), check, due, now));
                }
                Work::Report => self.report(&due.check),
            }
        }
    }

    /// Takes a run's result, and sets when the next one is due.
    fn judge(&mut self, ran: Ran) {
        let Ran {
            check: key,
            life,
            began,
            delay,
            finding,
        } = ran;
        let Some(probe) = self.probes.get_mut(&key).filter(|probe| probe.life == life) else {
            return;
        };
        let kind = probe.check.definition.kind.as_str();
        self.metrics.probe_run(kind, finding.status, delay);
        let (status, pause) = probe.count(finding.status);
        // A failure that does not count yet leaves what was said before.
        let counts = status == finding.status || status != probe.check.status;
        probe.found = counts.then_some(Finding {
            status,
            output: finding.output,
        });
        let next = (began + pause).max(now());
        self.queue.push(Due {
            at: next,
            check: key.clone(),
            life,
            work: Work::Run,
        });
        self.report(&key);
    }

    /// Reports a check, if it has something to say and no report is on its way already.
    fn report(&mut self, key: &CheckKey) {
        let Some(probe) = self.probes.get_mut(key) else {
            return;
        };
        if probe.reporting || probe.unsaid(now()).is_none() {
            return;
        }
        probe.reporting = true;
        self.to_report.push_back((key.clone(), probe.life));
        self.send_reports();
    }

    fn send_reports(&mut self) {
        while self.reports.len() < PROBE_REPORTS_MAX
            && let Some((key, life)) = self.to_report.pop_front()
        {
            let Some(probe) = self.probes.get_mut(&key).filter(|probe| probe.life == life) else {
                continue;
            };
            // What it had to say may be said by now.
            let Some(finding) = probe.unsaid(now()).cloned() else {
                probe.reporting = false;
                continue;
            };
            let update = CheckUpdate {
                node: key.node.clone(),
                check: key.id.clone(),
                status: finding.status,
                output: finding.output,
                source: UpdateSource::Probe(Assignment {
                    member: self.me.clone(),
                    since: probe.since,
                }),
                scope: Scope::Node,
            };
            self.reports
                .spawn(propose(self.registry.clone(), key, life, update));
        }
    }

    /// Takes the answer to a report.
    fn settle(&mut self, reported: Reported) {
        let Reported {
            check: key,
            life,
            answer,
        } = reported;
        if let Some(probe) = self.probes.get_mut(&key).filter(|probe| probe.life == life) {
            probe.reporting = false;
            match answer {
                Ok(Applied { result: Ok(_), .. }) => {
                    probe.output_at = now() + OUTPUT_EVERY;
                    // Applied here already; the follower will tell, but perhaps not before the next run.
                    self.look_at(&[key].into());
                }
                // The check changed, or another node has it: the catalog will tell.
                Ok(Applied {
                    result: Err(refusal), ..
                })
                | Err(Error::Refused(refusal)) => {
                    tracing::debug!(node = %key.node, check = %key.id, %refusal, "a probe's report was refused");
                    probe.found = None;
                }
                Err(_) => {
                    let at = now() + REPORT_AGAIN + self.up_to(REPORT_AGAIN);
                    self.queue.push(Due {
                        at,
                        check: key,
                        life,
                        work: Work::Report,
                    });
                }
            }
        }
        self.send_reports();
    }

    /// A random part of `whole`.
    fn up_to(&self, whole: Duration) -> Duration {
        let millis = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(self.rng.bits() % millis)
    }

    fn count(&mut self, before: Option<Status>, after: Option<Status>) {
        if before == after {
            return;
        }
        if let Some(before) = before {
            self.tally[before as usize] -= 1;
            self.metrics.probes(before, self.tally[before as usize]);
        }
        if let Some(after) = after {
            self.tally[after as usize] += 1;
            self.metrics.probes(after, self.tally[after as usize]);
        }
    }
}

async fn run(prober: Arc<dyn Prober>, check: Arc<Check>, due: Due, began: Instant) -> Ran {
    // One target's answer must not end the probes of all others.
    let run = AssertUnwindSafe(prober.run(&check.definition.kind)).catch_unwind();
    let finding = run
        .await
        .unwrap_or_else(|_| Finding::critical("the probe itself failed; the log says where"));
    Ran {
        check: due.check,
        life: due.life,
        began,
        delay: began - due.at,
        finding,
    }
}

async fn propose(registry: Arc<dyn Registry>, check: CheckKey, life: u64, update: CheckUpdate) -> Reported {
    let cx = Context::new(Dialect::Probe);
    let answer = registry.propose(&cx, Command::CheckUpdate(update)).await;
    Reported { check, life, answer }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Tokio's clock, which moves with its timers, in a simulator too.
fn now() -> Instant {
    Instant::now()
}
