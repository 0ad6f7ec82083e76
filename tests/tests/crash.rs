//! The real binary under kills and power cuts, with sixteen clients writing: every acknowledged write is read back.
//!
//! Each client raises the number in a key of its own ([`spine_tests::crash`]). A power cut takes the ext4 file system
//! below the data directory down without its journal; it counts if more than 2 MB were written since the last one and a
//! write was in flight. `kill -9` proves nothing about flushes, but much about starting from any state. That the test
//! would notice is shown by running it with flushes that do nothing.
//!
//! Needs root: run by `cargo x faults`.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]
#![expect(clippy::print_stdout, reason = "its figures are part of what it shows")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use reqwest::blocking::Client;
use spine_core::{State, snapshot};
use spine_node::backup::file::{Head, Writer};
use spine_tests::{
    crash::{Known, Wrong, key},
    disk::Rng,
    ext4::Ext4,
    namespace::sealed,
    server::Server,
    spine_process, wait,
};

const WRITERS: usize = 16;
const KILLS: u32 = 50;
const CUTS: u32 = 30;
/// A cut counts only if so much was written since the last one.
const WRITTEN_MIN: u64 = 2 << 20;
/// Length of each value: so that 2 MB are a few hundred writes.
const VALUE_BYTES: usize = 4 << 10;
/// A start and a read take far less; on a loaded machine, who knows.
const PATIENCE: Duration = Duration::from_mins(1);
/// Cuts while a snapshot is being restored, from its beginning to its end.
const RESTORE_CUTS: u32 = 12;
/// Keys in that snapshot, of a value each.
const RESTORED_KEYS: usize = 4_000;
/// What each of them says.
const RESTORED: u64 = 7;

#[test]
fn fifty_kills_lose_nothing() {
    sealed("fifty_kills_lose_nothing", || kills_lose_nothing(SEGMENT));
}

#[test]
fn fifty_kills_lose_nothing_of_a_log_in_sled() {
    sealed("fifty_kills_lose_nothing_of_a_log_in_sled", || {
        kills_lose_nothing(SLED);
    });
}

fn kills_lose_nothing(engine: Engine) {
    let place = tempfile::tempdir().unwrap();
    let fault = Kill {
        data: place.path().join("disk/data"),
        engine,
    };
    let tally = campaign(&fault, KILLS, &mut [Known::default(); WRITERS]);
    println!("kill -9, log in {engine}: {tally}");
    assert_eq!(tally.wrong, Vec::<String>::new());
}

#[test]
fn thirty_power_cuts_lose_nothing() {
    sealed("thirty_power_cuts_lose_nothing", || {
        power_cuts_lose_nothing(SEGMENT);
    });
}

#[test]
fn thirty_power_cuts_lose_nothing_of_a_log_in_sled() {
    sealed("thirty_power_cuts_lose_nothing_of_a_log_in_sled", || {
        power_cuts_lose_nothing(SLED);
    });
}

fn power_cuts_lose_nothing(engine: Engine) {
    let place = tempfile::tempdir().unwrap();
    let fault = PowerCut::new(place.path(), Flushes::Real, engine);
    let tally = campaign(&fault, CUTS, &mut [Known::default(); WRITERS]);
    println!("power cuts, log in {engine}: {tally}");
    assert_eq!(tally.wrong, Vec::<String>::new());
}

#[test]
fn without_flushes_the_same_test_reports_loss() {
    sealed("without_flushes_the_same_test_reports_loss", || {
        let place = tempfile::tempdir().unwrap();
        let mut fault = PowerCut::new(place.path(), Flushes::Real, SEGMENT);
        let mut known = [Known::default(); WRITERS];
        // An honest first life, so that what is lost later are writes and not the node.
        let honest = campaign(&fault, 1, &mut known);
        assert_eq!(honest.wrong, Vec::<String>::new());
        fault.flushes = Flushes::Skipped;
        let tally = campaign(&fault, 5, &mut known);
        println!("power cuts, fdatasync disabled: {tally}");
        assert!(
            !tally.wrong.is_empty(),
            "nothing was flushed, and nothing was missed"
        );
    });
}

/// A disk that fails is final: the server ends by itself, with an error, and acknowledges nothing more.
#[test]
fn a_server_whose_disk_fails_ends_itself() {
    sealed("a_server_whose_disk_fails_ends_itself", || {
        let place = tempfile::tempdir().unwrap();
        let fault = PowerCut::new(place.path(), Flushes::Real, SEGMENT);
        let mut server = fault.start();
        server.await_ready().unwrap();
        assert!(server.put(0, 1));
        fault.disk.cut_power();
        assert!(!server.put(0, 2), "what can't be flushed was acknowledged");
        let ended = server.server.ended();
        assert!(!ended.success(), "{ended}");
        assert!(
            server.server.said().contains("disk failed"),
            "it does not say why:\n{}",
            server.server.said()
        );
    });
}

/// A snapshot is restored into the root of a file system that was just made, whose power fails on the way.
#[test]
fn what_is_restored_into_a_mount_point_is_whole_or_is_run_again() {
    sealed(
        "what_is_restored_into_a_mount_point_is_whole_or_is_run_again",
        || {
            let place = tempfile::tempdir().unwrap();
            let file = place.path().join("snapshot");
            write_snapshot(&file);
            fs::create_dir(place.path().join("disk")).unwrap();
            let disk = Ext4::new(&place.path().join("disk"), 1 << 30);
            disk.mount();
            assert!(disk.path().join("lost+found").is_dir());
            restores_are_whole(&disk, &file);
        },
    );
}

fn restores_are_whole(disk: &Ext4, file: &Path) {
    let restore = || {
        Command::new(spine_process::binary())
            .args(["snapshot", "restore"])
            .arg(file)
            .arg("--data-dir")
            .arg(disk.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("the command starts")
    };
    let began = Instant::now();
    assert!(restore().wait().unwrap().success());
    let took = began.elapsed();
    let (mut nothing, mut half, mut whole) = (0, 0, 0);
    empty(disk.path());
    for cut in 0..RESTORE_CUTS {
        let mut restoring = restore();
        thread::sleep(took * cut / (RESTORE_CUTS - 1));
        let done = restoring
            .try_wait()
            .unwrap()
            .is_some_and(|status| status.success());
        disk.cut_power();
        // It may have ended.
        let _ = restoring.kill();
        restoring.wait().unwrap();
        disk.unmount();
        disk.mount();
        let has = |name| disk.path().join(name).exists();
        let mark = has("restoring");
        if !mark && has("checkpoint") {
            whole += 1;
            must_have_what_was_restored(disk.path());
            empty(disk.path());
            continue;
        }
        assert!(!done, "it was said to be done");
        if mark {
            half += 1;
            let refused = Life::start(disk.path(), Flushes::Real, SEGMENT).await_ready();
            let said = refused.expect_err("no server starts on a half");
            assert!(said.contains("run `spine snapshot restore` again"), "{said}");
        } else {
            nothing += 1;
        }
    }
    println!("power cut while {took:?} of restoring: {nothing} nothing, {half} half, {whole} whole");
    assert!(half > 0, "no cut met it at work");
    // Whatever the last one left; and once it is said to be done no cut takes it away.
    assert!(restore().wait().unwrap().success());
    disk.cut_power();
    disk.unmount();
    disk.mount();
    must_have_what_was_restored(disk.path());
}

/// A snapshot file in which the first writer has written [`RESTORED`]. So large that restoring takes a while.
fn write_snapshot(file: &Path) {
    let mut state = State::new();
    for writer in 0..RESTORED_KEYS {
        let mut value = format!("{RESTORED} ").into_bytes();
        value.resize(VALUE_BYTES, b'x');
        let put = spine_core::Put {
            key: key(writer).into(),
            value: value.into(),
            flags: 0,
            lease: None,
            guard: spine_core::Guard::Always,
            repeat: spine_core::Repeat::Skip,
        };
        state.apply(&spine_core::Entry {
            time: spine_core::Time(0),
            wall: spine_core::WallTime(0),
            requests: vec![spine_core::Request::internal(spine_core::Command::Put(put))],
        });
    }
    let head = Head {
        state: snapshot::Header::of(&state).encode().into(),
        ..Head::default()
    };
    let mut writer = Writer::new(File::create(file).unwrap(), &head).unwrap();
    for chunk in snapshot::chunks(&state) {
        writer.chunk(&chunk).unwrap();
    }
    writer.finish().unwrap();
}

fn must_have_what_was_restored(data: &Path) {
    let mut server = Life::start(data, Flushes::Real, SEGMENT);
    server.await_ready().unwrap();
    for writer in [0, RESTORED_KEYS - 1] {
        assert_eq!(server.number(writer), RESTORED);
    }
    server.kill();
}

/// Leaves what was there when the file system was made.
fn empty(directory: &Path) {
    let paths = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    for path in paths.filter(|path| !path.ends_with("lost+found")) {
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
    }
    File::open(directory).unwrap().sync_all().unwrap();
}

/// What keeps the server's log, as `--log-engine` says it.
type Engine = &'static str;
const SEGMENT: Engine = "segment";
const SLED: Engine = "sled";

/// A way to end a server.
trait Fault {
    /// Bytes that must have been written since the last one.
    fn written_min(&self) -> u64;
    /// Gets the data directory ready for a server.
    fn prepare(&self);
    /// Starts a server.
    fn start(&self) -> Life;
    /// Ends it, at once.
    fn strike(&self, server: &mut Life);
}

struct Kill {
    data: PathBuf,
    engine: Engine,
}

impl Fault for Kill {
    fn written_min(&self) -> u64 {
        0
    }

    fn prepare(&self) {}

    fn start(&self) -> Life {
        Life::start(&self.data, Flushes::Real, self.engine)
    }

    fn strike(&self, server: &mut Life) {
        server.kill();
    }
}

/// Whether flushes reach the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flushes {
    Real,
    /// Once the server is ready, strace answers `fdatasync` in the kernel's place.
    Skipped,
}

struct PowerCut {
    disk: Ext4,
    flushes: Flushes,
    engine: Engine,
}

impl PowerCut {
    fn new(place: &Path, flushes: Flushes, engine: Engine) -> Self {
        let disk = Ext4::new(place, 2 << 30);
        disk.mount();
        Self {
            disk,
            flushes,
            engine,
        }
    }
}

impl Fault for PowerCut {
    fn written_min(&self) -> u64 {
        WRITTEN_MIN
    }

    /// The machine comes up again.
    fn prepare(&self) {
        self.disk.unmount();
        self.disk.mount();
    }

    fn start(&self) -> Life {
        Life::start(&self.disk.path().join("data"), self.flushes, self.engine)
    }

    fn strike(&self, server: &mut Life) {
        self.disk.cut_power();
        server.kill();
    }
}

/// What came of a campaign.
#[derive(Debug, Default)]
struct Tally {
    strikes: u32,
    void: u32,
    during_start: u32,
    acknowledged: u64,
    ready: Vec<Duration>,
    wrong: Vec<String>,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            strikes,
            void,
            during_start,
            acknowledged,
            ready,
            wrong,
        } = self;
        let worst = ready.iter().max().copied().unwrap_or_default();
        write!(
            f,
            "{strikes} that count, {void} void, {during_start} more during a start; {acknowledged} acknowledged writes \
             by {WRITERS} writers; ready within {worst:?}; wrong: {wrong:?}"
        )
    }
}

/// Strikes until `strikes` count. What is wrong ends it: nothing can be told about the state after it.
fn campaign(fault: &dyn Fault, strikes: u32, known: &mut [Known; WRITERS]) -> Tally {
    let mut rng = Rng::new(2026);
    let mut tally = Tally::default();
    while tally.strikes < strikes && tally.wrong.is_empty() {
        assert!(tally.void <= strikes, "most strikes don't count: {tally}");
        fault.prepare();
        let mut server = fault.start();
        if rng.one_in(8) {
            thread::sleep(Duration::from_millis(rng.below(300)));
            fault.strike(&mut server);
            tally.during_start += 1;
            continue;
        }
        let began = Instant::now();
        if let Err(reason) = server.await_ready() {
            tally.wrong.push(reason);
            break;
        }
        tally.ready.push(began.elapsed());
        tally
            .wrong
            .extend(read_back(&server, known).iter().map(ToString::to_string));
        if tally.wrong.is_empty() {
            let more = fault.written_min() + rng.below(4 << 20);
            let written = write_until_struck(fault, &mut server, known, more);
            tally.acknowledged += written.acknowledged;
            let counts =
                written.in_flight > 0 && written.acknowledged * VALUE_BYTES as u64 >= fault.written_min();
            if counts {
                tally.strikes += 1;
            } else {
                tally.void += 1;
            }
        }
    }
    if tally.wrong.is_empty() {
        fault.prepare();
        let mut server = fault.start();
        match server.await_ready() {
            Ok(()) => tally
                .wrong
                .extend(read_back(&server, known).iter().map(ToString::to_string)),
            Err(reason) => tally.wrong.push(reason),
        }
    }
    tally
}

/// What was written before a strike.
struct Written {
    acknowledged: u64,
    /// Writes that had been sent and not been answered when it struck.
    in_flight: usize,
}

/// Lets all clients write until `bytes` are acknowledged, then strikes.
fn write_until_struck(
    fault: &dyn Fault,
    server: &mut Life,
    known: &mut [Known; WRITERS],
    bytes: u64,
) -> Written {
    let (acknowledged, in_flight) = (AtomicU64::new(0), AtomicUsize::new(0));
    let struck = AtomicBool::new(false);
    let mut at_strike = 0;
    thread::scope(|scope| {
        for (writer, known) in known.iter_mut().enumerate() {
            let (acknowledged, in_flight, struck) = (&acknowledged, &in_flight, &struck);
            let (client, url) = (server.client.clone(), server.url(writer));
            scope.spawn(move || {
                while !struck.load(Ordering::Acquire) {
                    known.attempted += 1;
                    in_flight.fetch_add(1, Ordering::AcqRel);
                    let done = put(&client, &url, known.attempted);
                    in_flight.fetch_sub(1, Ordering::AcqRel);
                    if !done {
                        return;
                    }
                    known.acknowledged = known.attempted;
                    acknowledged.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        let until = Instant::now() + PATIENCE;
        while acknowledged.load(Ordering::Acquire) * (VALUE_BYTES as u64) < bytes {
            assert!(
                Instant::now() < until,
                "the writers get on:\n{}",
                server.server.said()
            );
            thread::sleep(Duration::from_millis(1));
        }
        at_strike = in_flight.load(Ordering::Acquire);
        fault.strike(server);
        struck.store(true, Ordering::Release);
    });
    Written {
        acknowledged: acknowledged.load(Ordering::Acquire),
        in_flight: at_strike,
    }
}

/// Writes a number; `true` if it was acknowledged.
fn put(client: &Client, url: &str, number: u64) -> bool {
    let mut body = format!("{number} ").into_bytes();
    body.resize(VALUE_BYTES, b'x');
    let sent = client.put(url).body(body).send();
    sent.is_ok_and(|answer| {
        answer.status().is_success() && answer.text().is_ok_and(|text| text.trim() == "true")
    })
}

/// Compares what is there with what the writers know.
fn read_back(server: &Life, known: &mut [Known; WRITERS]) -> Vec<Wrong> {
    known
        .iter_mut()
        .enumerate()
        .filter_map(|(writer, known)| known.meet(writer, server.number(writer)).err())
        .collect()
}

/// A server from its start to its end, and a client of it.
struct Life {
    server: Server,
    client: Client,
    flushes: Flushes,
    strace: Option<Child>,
}

impl Life {
    fn start(data: &Path, flushes: Flushes, engine: Engine) -> Self {
        // What it says goes beside the directory's disk, so that it can be read when that has no power.
        let mut server = Server::new(data.ancestors().nth(2).unwrap(), "n1");
        server.keep_data_in(data);
        server.start(&["serve", "--log-engine", engine]);
        // The client insists on a provider even where nothing is encrypted; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A client for each life: its connections end with the server.
        let client = Client::builder().timeout(PATIENCE).no_proxy().build().unwrap();
        Self {
            server,
            client,
            flushes,
            strace: None,
        }
    }

    /// Waits until it serves; what it said, if it ended instead.
    fn await_ready(&mut self) -> Result<(), String> {
        self.server.ready()?;
        if self.flushes == Flushes::Skipped {
            self.skip_flushes();
        }
        Ok(())
    }

    /// Where a key is read and written.
    fn url(&self, writer: usize) -> String {
        format!("http://{}/v1/kv/{}", self.server.http, key(writer))
    }

    /// Writes a number; `true` if it was acknowledged.
    fn put(&self, writer: usize, number: u64) -> bool {
        put(&self.client, &self.url(writer), number)
    }

    /// From here on `fdatasync` returns at once and does nothing.
    fn skip_flushes(&mut self) {
        let pid = self.server.process_id().expect("it runs").to_string();
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync"])
            .args(["-e", "inject=fdatasync:retval=0", "-p", &pid])
            .spawn()
            .expect("strace starts");
        self.strace = Some(strace);
        let traced = |task: &Path| {
            let status = fs::read_to_string(task.join("status")).unwrap_or_default();
            let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
            tracer.is_some_and(|tracer| tracer.trim() != "0")
        };
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        wait::until_true("strace has every thread of the server", PATIENCE, || {
            fs::read_dir(&tasks)
                .unwrap()
                .all(|task| traced(&task.unwrap().path()))
        });
    }

    fn number(&self, writer: usize) -> u64 {
        let url = format!("{}?raw&consistent", self.url(writer));
        let answer = self.client.get(url).send().unwrap();
        if answer.status() == 404 {
            return 0;
        }
        let text = answer.error_for_status().unwrap().text().unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }

    fn kill(&mut self) {
        self.server.kill();
        // It ends with what it traces.
        if let Some(mut strace) = self.strace.take() {
            strace.wait().unwrap();
        }
    }
}
