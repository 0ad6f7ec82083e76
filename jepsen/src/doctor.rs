//! Tries every mechanism that faults are made by, on something small, and says whether it works here, or why not.
//!
//! A fault whose mechanism doesn't work can't be made, and a run that asks for it is refused: nothing passes because it
//! was not tried.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use crate::db::fake_clock::FakeClock;
use crate::db::{self, disk::Ext4};
use crate::net::{Host, Link, Network, Node, Partition};
use crate::schedule::Kind;
use crate::sealed;

/// What was found out about one mechanism.
#[derive(Debug)]
pub struct Finding {
    /// The faults that it makes.
    pub makes: Kind,
    /// What it is.
    pub mechanism: &'static str,
    /// What was seen, or why it doesn't work.
    pub outcome: io::Result<String>,
}

/// All findings; prints as a table.
#[derive(Debug)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// Why these faults can't all be made; empty if they can.
    pub fn against(&self, kinds: &[Kind]) -> Vec<String> {
        let broken = self.0.iter().filter(|finding| kinds.contains(&finding.makes));
        broken
            .filter_map(|finding| {
                let error = finding.outcome.as_ref().err()?;
                Some(format!("{}: {}: {error}", finding.makes, finding.mechanism))
            })
            .collect()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:10} {:46} {:6} seen", "fault", "mechanism", "works")?;
        for Finding {
            makes,
            mechanism,
            outcome,
        } in &self.0
        {
            let (works, seen) = match outcome {
                Ok(seen) => ("yes", seen.clone()),
                Err(error) => ("NO", error.to_string()),
            };
            writeln!(f, "{:10} {mechanism:46} {works:6} {seen}", makes.to_string())?;
        }
        Ok(())
    }
}

/// Tries everything; `place` is a directory for small files. Needs a sealed process ([`crate::sealed`]).
pub fn examine(place: &Path) -> Findings {
    let tried = |makes, mechanism, attempt: &dyn Fn() -> io::Result<String>| Finding {
        makes,
        mechanism,
        outcome: require(sealed::is_inside(), "not in namespaces of its own").and_then(|()| attempt()),
    };
    Findings(vec![
        tried(Kind::Kill, "SIGKILL to a process kept by its id", &kill),
        tried(Kind::Pause, "SIGSTOP, SIGCONT", &pause),
        tried(
            Kind::Partition,
            "packets through TUN devices of namespaces",
            &switch,
        ),
        tried(
            Kind::PowerCut,
            "EXT4_IOC_SHUTDOWN on a loop-mounted file",
            &|| power_cut(place),
        ),
        tried(
            Kind::Clock,
            "libfaketime by LD_PRELOAD, set while it runs",
            &|| clock(place),
        ),
        tried(Kind::Restart, "SIGTERM to a process kept by its id", &restart),
        tried(
            Kind::Membership,
            "commands of the binary under test, wiped directories",
            &|| membership(place),
        ),
    ])
}

fn require(holds: bool, otherwise: &str) -> io::Result<()> {
    if holds {
        Ok(())
    } else {
        Err(io::Error::other(otherwise))
    }
}

fn restart() -> io::Result<String> {
    let mut command = Command::new("sh");
    command.args(["-c", "trap 'kill $!; exit 0' TERM; sleep 60 & wait"]);
    let mut child = command.spawn()?;
    // It may not yet have said what it does with the signal.
    std::thread::sleep(Duration::from_millis(200));
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let status = child.wait()?;
    require(status.success(), "the signal was not the process's own to answer")?;
    Ok(format!("ended in order, with {status}"))
}

fn membership(place: &Path) -> io::Result<String> {
    let place = tempfile::tempdir_in(place)?;
    let directory = place.path().join("data");
    fs::create_dir_all(directory.join("deep"))?;
    fs::remove_dir_all(&directory)?;
    let help = Command::new(db::binary()?).args(["serve", "--help"]).output()?;
    let knows = String::from_utf8_lossy(&help.stdout).contains("--join");
    require(knows, "the binary under test knows no --join")?;
    Ok("a directory was wiped, and servers can be told to join".to_owned())
}

fn kill() -> io::Result<String> {
    let mut child = Command::new("sleep").arg("60").spawn()?;
    child.kill()?;
    child.wait().map(|status| status.to_string())
}

fn pause() -> io::Result<String> {
    let mut child = Command::new("sleep").arg("60").spawn()?;
    let state = |wanted: char| {
        wait(|| {
            let status = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
            status.contains(&format!(") {wanted} "))
        })
    };
    kill_process(Pid::from_child(&child), Signal::STOP)?;
    let stood_still = state('T');
    kill_process(Pid::from_child(&child), Signal::CONT)?;
    let went_on = state('S');
    child.kill()?;
    child.wait()?;
    require(
        stood_still && went_on,
        "the process didn't stand still, or not go on",
    )?;
    Ok("stood still, went on".to_owned())
}

/// Long enough for a packet that passes, and for being sure of one that doesn't.
const PACKET: Duration = Duration::from_millis(300);

/// The delay that is tried, one way.
const DELAY: Duration = Duration::from_millis(20);

fn switch() -> io::Result<String> {
    let network = Network::start(2, 1)?;
    let nodes = [Node(1), Node(2)];
    let socket = |host: Host| {
        let socket = network.inside(host, || UdpSocket::bind(SocketAddr::from((host.address(), 4000))))??;
        socket.set_read_timeout(Some(PACKET))?;
        io::Result::Ok(socket)
    };
    let (one, two) = (socket(Host::Node(nodes[0]))?, socket(Host::Node(nodes[1]))?);
    let clients = socket(Host::Clients)?;
    let passes = |from: &UdpSocket, to: &UdpSocket| {
        from.send_to(b"hello", to.local_addr()?)?;
        match to.recv(&mut [0; 16]) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    };
    require(
        passes(&one, &two)? && passes(&two, &one)?,
        "nodes don't reach each other",
    )?;
    require(passes(&clients, &one)?, "clients don't reach a node")?;

    let mute = Partition::Mute(nodes[0]).directions(&nodes);
    network.matrix().cut(mute.clone());
    require(!passes(&one, &two)?, "a cut direction lets packets pass")?;
    require(passes(&two, &one)?, "the other direction is cut as well")?;
    require(passes(&clients, &one)?, "clients are cut off as well")?;
    let dropped = network.matrix().dropped(&mute);
    require(dropped == 1, "the dropped packet wasn't counted")?;

    network.matrix().heal();
    require(passes(&one, &two)?, "a healed direction stays cut")?;
    let slow = Link {
        delay: DELAY,
        ..Link::default()
    };
    network
        .matrix()
        .set_links([(Host::Node(nodes[0]), Host::Node(nodes[1]))], slow);
    let start = Instant::now();
    require(passes(&one, &two)?, "a slow direction loses packets")?;
    let took = start.elapsed();
    require(took >= DELAY, "a slow direction isn't slow")?;
    Ok(format!(
        "one direction cut, {dropped} packet dropped; 20 ms of delay took {:.1} ms",
        took.as_secs_f64() * 1e3
    ))
}

/// Bytes of the disk that is tried.
const DISK_BYTES: u64 = 16 * 1024 * 1024;

fn power_cut(place: &Path) -> io::Result<String> {
    let place = tempfile::tempdir_in(place)?;
    let disk = Ext4::create(place.path(), DISK_BYTES)?;
    let write = |name: &str| {
        let mut file = File::create(disk.path().join(name))?;
        file.write_all(&vec![7; 100_000])?;
        io::Result::Ok(file)
    };
    write("flushed")?.sync_all()?;
    File::open(disk.path())?.sync_all()?;
    write("unflushed")?;
    disk.cut_power()?;
    require(write("afterwards").is_err(), "writes go on after the cut")?;
    disk.remount()?;
    let bytes = |name: &str| fs::metadata(disk.path().join(name)).map_or(0, |file| file.len());
    require(bytes("flushed") == 100_000, "what was flushed is gone")?;
    require(bytes("unflushed") == 0, "what was not flushed is there")?;
    disk.unmount()?;
    Ok("flushed bytes are there, others are gone".to_owned())
}

/// Seconds that the clock is set ahead.
const AHEAD: u64 = 3600;

fn clock(place: &Path) -> io::Result<String> {
    let place = tempfile::tempdir_in(place)?;
    let clock = FakeClock::new(place.path().join("clock"))?;
    // One process sees both times: the clock is set under its feet.
    let script = "date +%s; read line; sleep 1.1; date +%s; cut -d. -f1 /proc/uptime";
    let mut child = Command::new("sh")
        .args(["-c", script])
        .envs(clock.environment())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    clock.set(AHEAD.cast_signed())?;
    if let Some(mut stdin) = child.stdin.take() {
        writeln!(stdin)?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let times: Vec<u64> = said.lines().filter_map(|line| line.parse().ok()).collect();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_err(io::Error::other)?
        .as_secs();
    let &[_, set, ..] = times.as_slice() else {
        return Err(io::Error::other("date doesn't say the time under libfaketime"));
    };
    let moved = set.saturating_sub(now);
    require(moved.abs_diff(AHEAD) <= 2, "the clock isn't what it was set to")?;
    Ok(format!("set ahead by {moved} s"))
}

/// Waits for a condition for as long as a packet gets.
fn wait(condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < PACKET {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}
