//! A run: a cluster, clients, faults, and what is to be said about it afterwards. And the same again without a cluster,
//! from what was written down.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    checker::{self, Around},
    clock::Clock,
    db::{Cluster, Spec},
    endpoint::Endpoints,
    fault::Fault,
    history::{History, ReadError, Recorder, Sight, Workload},
    load::Load,
    nemesis::{Nemesis, Stop as StopFaults},
    net::Node,
    report::{self, Asked, Row},
    schedule::{Kind, Schedule},
    workload::{self, Context, Running},
};

/// After the last fault the clients work on for this long: time to heal, and to be seen to have healed.
const QUIET: Duration = Duration::from_secs(20);
/// How long nodes may take to catch up when all is over, and to hold the same.
const CAUGHT_UP_WITHIN: Duration = Duration::from_mins(1);

/// Bounds of time in a run on a starved machine are this many times as long; its rows are marked.
const STRETCH: u32 = 2;

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the clients do, all at the same time.
    pub workloads: BTreeSet<Workload>,
    /// What is done to the cluster.
    pub faults: Vec<Kind>,
    /// How many nodes.
    pub nodes: u8,
    /// How long faults are made.
    pub time: Duration,
    /// Operations a second of each workload.
    pub rate: u32,
    /// Decides the schedule and what each client does.
    pub seed: u64,
    /// Where everything is written: a directory that is not there yet.
    pub directory: PathBuf,
    /// A cluster that runs already, to be used instead of one of our own. No faults, then.
    pub attached: Option<Endpoints>,
    /// The binary under test.
    pub binary: PathBuf,
    /// Flushes do nothing: a planted defect, which power cuts have to show.
    pub without_flushes: bool,
}

/// `run.json`: what was run, for whoever reads the directory later.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// What was asked for.
    #[serde(flatten)]
    pub asked: Asked,
    /// The workloads.
    pub workloads: Vec<Workload>,
    /// How many nodes.
    pub nodes: u8,
    /// How long faults were made, in seconds.
    pub time_s: f64,
    /// Operations a second of each workload.
    pub rate: u32,
    /// The binary under test: its path and a checksum of its bytes.
    pub binary: String,
    /// The faults as they were planned.
    pub schedule: Vec<String>,
    /// What went wrong that no fault explains, as the nemesis saw it: each breaks a promise.
    pub incidents: Vec<String>,
    /// What came of it.
    pub rows: Vec<Row>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something of the harness's own failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The history is none.
    #[error("{0}")]
    History(#[from] ReadError),
    /// A file of the run's directory is not as it was written.
    #[error("{path}: {error}")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        error: serde_json::Error,
    },
    /// A client of the harness panicked.
    #[error("a client failed: {0}")]
    Client(String),
}

/// Runs it, checks it, and writes everything down.
///
/// # Errors
/// The harness itself failed, or the cluster did not start: the run says nothing.
pub fn run(plan: &Plan) -> Result<Vec<Row>, Error> {
    fs::create_dir_all(&plan.directory)?;
    let schedule = Schedule::draw(plan.seed, &plan.faults, plan.nodes, plan.time);
    let mut record = Record {
        asked: Asked {
            faults: plan.faults.iter().map(ToString::to_string).collect(),
            seed: plan.seed,
            noise: None,
        },
        workloads: plan.workloads.iter().copied().collect(),
        nodes: plan.nodes,
        time_s: plan.time.as_secs_f64(),
        rate: plan.rate,
        binary: describe_binary(&plan.binary)?,
        schedule: schedule.steps.iter().map(ToString::to_string).collect(),
        ..Record::default()
    };
    write_record(&plan.directory, &record)?;
    let mut cluster = match plan.attached {
        Some(_) => None,
        None => Some(Cluster::start(&spec(plan))?),
    };
    let endpoints = match (&plan.attached, &cluster) {
        (Some(endpoints), _) => endpoints.clone(),
        (None, Some(cluster)) => cluster.endpoints(),
        (None, None) => unreachable!("a run without a cluster is attached to one"),
    };
    let load = Load::watch(&plan.directory.join("metrics.jsonl"))?;
    record.incidents = work(plan, &schedule, cluster.as_mut(), endpoints)?;
    record.asked.noise = load.end()?;
    if let Some(mut cluster) = cluster {
        record.incidents.extend(cluster.mishaps()?);
        cluster.stop()?;
    }
    write_record(&plan.directory, &record)?;
    let rows = judge(&plan.directory, record)?;
    if report::all_ok(&rows) && plan.attached.is_none() {
        forget_data(plan)?;
    }
    Ok(rows)
}

/// What the nodes had on their disks is of use only where something went wrong, and large. Logs and histories stay.
fn forget_data(plan: &Plan) -> io::Result<()> {
    let backups = plan.directory.join(workload::BACKUPS);
    if backups.exists() {
        fs::remove_dir_all(backups)?;
    }
    let guests = u8::from(plan.faults.contains(&Kind::Membership));
    for node in Node::first(plan.nodes + guests) {
        for entry in fs::read_dir(plan.directory.join(node.to_string()))? {
            let entry = entry?;
            let removed = if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())
            } else {
                fs::remove_file(entry.path())
            };
            match removed {
                // A disk is mounted there until the run's namespaces end; by then it is empty.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}

/// Checks a run again, from its directory.
///
/// # Errors
/// What the directory holds can't be read.
pub fn replay(directory: &Path) -> Result<Vec<Row>, Error> {
    let path = directory.join("run.json");
    let record = serde_json::from_reader(BufReader::new(File::open(&path)?));
    let record = record.map_err(|error| Error::Json { path, error })?;
    judge(directory, record)
}

fn spec(plan: &Plan) -> Spec {
    Spec {
        binary: plan.binary.clone(),
        nodes: plan.nodes,
        own_disks: plan.faults.contains(&Kind::PowerCut) || plan.without_flushes,
        own_clocks: plan.faults.contains(&Kind::Clock),
        changes: plan.faults.contains(&Kind::Membership),
        without_flushes: plan.without_flushes,
        directory: plan.directory.clone(),
        seed: plan.seed,
    }
}

/// Clients and faults, until both are over and the cluster has healed or had its time. Gives the nemesis' incidents.
fn work(
    plan: &Plan,
    schedule: &Schedule,
    cluster: Option<&mut Cluster>,
    endpoints: Endpoints,
) -> Result<Vec<String>, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let clock = Clock::start();
    let recorder = Recorder::create(&plan.directory.join("history.jsonl"), clock)?;
    let (context, stop) = Context::new(recorder.clone(), endpoints, plan.rate, plan.seed, &plan.directory);
    let workloads = plan.workloads.iter().copied().chain([Workload::Cluster]);
    let running: Vec<Running> = {
        let _inside = runtime.enter();
        workloads
            .map(|workload| workload::start(workload, &context))
            .collect()
    };
    let mut faults = FaultsFile::create(&plan.directory)?;
    let mut incidents = Vec::new();
    if let Some(cluster) = cluster {
        let mut nemesis = Nemesis::new(cluster, clock);
        let played = nemesis.play(schedule, &StopFaults::default(), |fault| faults.record(fault));
        incidents = nemesis.incidents();
        played?;
    }
    faults.end()?;
    wait_until(clock, plan.time);
    recorder.saw(Workload::Cluster, "", Sight::FaultsOver);
    let quiet_until = clock.now().since(crate::clock::Micros(0)) + QUIET;
    wait_until(clock, quiet_until);
    stop.now();
    let finished: Result<(), String> = runtime.block_on(async {
        workload::await_caught_up(&context, CAUGHT_UP_WITHIN).await;
        for running in running {
            running.finish().await?;
        }
        workload::await_same_content(&context, CAUGHT_UP_WITHIN).await;
        Ok(())
    });
    recorder.flush()?;
    finished.map_err(Error::Client)?;
    Ok(incidents)
}

/// The main thread has nothing to do but to wait: the clients are the runtime's, and the nemesis is over.
fn wait_until(clock: Clock, moment: Duration) {
    let passed = clock.now().since(crate::clock::Micros(0));
    thread::sleep(moment.saturating_sub(passed));
}

/// Reads what was written, checks it, and writes the report.
fn judge(directory: &Path, mut record: Record) -> Result<Vec<Row>, Error> {
    let histories = History::read(&directory.join("history.jsonl"))?;
    let faults = read_faults(&directory.join("faults.jsonl"))?;
    let around = Around {
        faults: &faults,
        stretch: if record.asked.noise.is_some() { STRETCH } else { 1 },
    };
    let mut findings = checker::check(&histories, around);
    let cluster = findings.entry(Workload::Cluster).or_default();
    for incident in &record.incidents {
        cluster.violation("incident", incident.clone());
    }
    record.rows = report::rows(&record.asked, &histories, &faults, &findings);
    write_record(directory, &record)?;
    let page = report::page(&record.rows, &faults, &findings, &notes(&record));
    fs::write(directory.join("report.md"), page)?;
    Ok(record.rows)
}

fn notes(record: &Record) -> Vec<String> {
    let mut notes = vec![format!(
        "{} nodes, {} s, {} operations a second; binary {}",
        record.nodes, record.time_s, record.rate, record.binary
    )];
    notes.extend(record.asked.noise.iter().map(|noise| format!("noisy: {noise}")));
    notes
}

fn write_record(directory: &Path, record: &Record) -> Result<(), Error> {
    let path = directory.join("run.json");
    let json = serde_json::to_vec_pretty(record).map_err(|error| Error::Json {
        path: path.clone(),
        error,
    })?;
    Ok(fs::write(path, json)?)
}

/// `faults.jsonl` while it is written.
struct FaultsFile {
    file: File,
    broken: Option<io::Error>,
}

impl FaultsFile {
    fn create(directory: &Path) -> io::Result<Self> {
        let file = File::create_new(directory.join("faults.jsonl"))?;
        Ok(Self { file, broken: None })
    }

    fn record(&mut self, fault: &Fault) {
        let line = serde_json::to_string(fault).map_err(io::Error::from);
        if let Err(error) = line.and_then(|line| writeln!(self.file, "{line}")) {
            self.broken.get_or_insert(error);
        }
    }

    fn end(self) -> io::Result<()> {
        self.broken.map_or(Ok(()), Err)
    }
}

fn read_faults(path: &Path) -> Result<Vec<Fault>, Error> {
    let mut faults = Vec::new();
    for line in BufReader::new(File::open(path)?).lines() {
        let fault = serde_json::from_str(&line?);
        faults.push(fault.map_err(|error| Error::Json {
            path: path.to_owned(),
            error,
        })?);
    }
    Ok(faults)
}

/// The path of the binary under test and what tells it from another build.
///
/// # Errors
/// It can't be read.
pub fn describe_binary(path: &Path) -> io::Result<String> {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(&fs::read(path)?);
    Ok(format!("{} {:016x}", path.display(), hasher.finish()))
}
