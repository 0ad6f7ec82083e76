//! The pages of `deploy/runbooks`, carried out as they stand: their commands are read from the Markdown and run in a shell for
//! each machine, and what they print is compared with what the page shows.
//!
//! A machine is a directory: a server's configuration, and `systemctl`, `journalctl` and `spine` as they are found there. The
//! first block of a page names what differs from place to place; here that is filled in from the machine. Root only, for a
//! disk that is full; run by `cargo x faults`.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use spine_tests::{http, namespace, spine_process, wait};

/// A start with an election, on a loaded machine; and a command, which may wait for one.
const WITHIN: Duration = Duration::from_mins(4);
/// Ends what a command prints.
const END: char = '\u{1e}';

/// What does a page's work where there is no systemd: the unit's server, with a state directory that is a link to a private one,
/// as a `DynamicUser=` has it; started again when it fails.
const UNIT: &str = r#"#!/bin/bash
cd PLACE
mkdir -p private/data
if [ ! -L data ]; then
    ln -s -T private/data data 2>> log || { echo 238 > code; rm -f running; exit; }
fi
set -a
[ -f environment ] && . ./environment
set +a
while :; do
    spine serve --config spine.toml >> log 2>&1 &
    echo $! > pid
    wait $!
    echo $? > code
    if [ -e stop ] || [ "$(cat code)" = 0 ]; then break; fi
    sleep 1
done
rm -f running pid
"#;

const SYSTEMCTL: &str = r#"#!/bin/bash
cd PLACE
end() {
    touch stop
    while [ -e running ]; do
        [ -e pid ] && kill "$(cat pid)" 2> /dev/null
        sleep 0.2
    done
}
begin() {
    rm -f stop
    touch running
    setsid unit < /dev/null > /dev/null 2>&1 &
    [ "$1" = --no-block ] && return
    until curl -sf http://HTTP/readyz > /dev/null; do
        [ -e running ] || exit 1
        sleep 0.2
    done
}
case "$1" in
    start) begin "$2" ;;
    stop) end ;;
    restart) end; begin "$2" ;;
    show) cat code ;;
    *) echo "this systemctl has no $1" >&2; exit 2 ;;
esac
"#;

struct Machine {
    name: &'static str,
    place: PathBuf,
    http: SocketAddr,
    grpc: SocketAddr,
    peer: SocketAddr,
    shell: Shell,
}

/// A bash that is told command after command.
struct Shell {
    child: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Machine {
    fn new(place: &Path, name: &'static str) -> Self {
        let place = place.join(name);
        let bin = place.join("bin");
        fs::create_dir_all(&bin).unwrap();
        fs::create_dir_all(place.join("private/data")).unwrap();
        let [http, grpc, peer] = std::array::from_fn(|_| spine_process::free_address());
        let spine = format!("#!/bin/sh\nexec {} \"$@\"\n", spine_process::binary().display());
        let journal = "#!/bin/sh\ncat PLACE/log\n";
        for (name, script) in [
            ("unit", UNIT),
            ("systemctl", SYSTEMCTL),
            ("journalctl", journal),
            ("spine", &spine),
        ] {
            let script = script.replace("PLACE", &place.display().to_string());
            let script = script.replace("HTTP", &http.to_string());
            let path = bin.join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self {
            name,
            http,
            grpc,
            peer,
            shell: Shell::new(&bin, grpc),
            place,
        }
    }

    /// Its state directory, to which the `data` of its configuration is a link.
    fn disk(&self) -> PathBuf {
        self.place.join("private/data")
    }

    /// Its `/etc/spine/spine.toml`.
    fn configure(&self, founders: &[String]) {
        let data = self.place.join("data");
        let mut lines = vec![
            format!("name = {:?}", self.name),
            format!("data-dir = {data:?}"),
            format!("http-addr = \"{}\"", self.http),
            format!("grpc-addr = \"{}\"", self.grpc),
            "governance = \"open\"".to_owned(),
        ];
        if !founders.is_empty() {
            lines.push(format!("initial-cluster = {founders:?}"));
        }
        fs::write(self.place.join("spine.toml"), lines.join("\n")).unwrap();
    }

    fn systemctl(&self, arguments: &[&str]) {
        let status = Command::new(self.place.join("bin/systemctl"))
            .args(arguments)
            .env("PATH", Shell::path(&self.place.join("bin")))
            .status()
            .unwrap();
        assert!(status.success(), "systemctl {arguments:?} on {}", self.name);
    }

    fn said(&self) -> String {
        fs::read_to_string(self.place.join("log")).unwrap_or_default()
    }

    fn await_said(&self, words: &str) {
        wait::until_true(words, WITHIN, || self.said().contains(words));
    }

    fn await_ready(&self) {
        let url = format!("http://{}/readyz", self.http);
        wait::until_true("the server is ready", WITHIN, || http::is_ok(&url));
    }

    fn put(&self, key: &str, value: &str) -> bool {
        put(self.http, key, value)
    }

    fn has(&self, key: &str) -> bool {
        http::is_ok(&format!("http://{}/v1/kv/{key}?raw&stale", self.http))
    }

    /// What a page's variable is here.
    fn value(&self, name: &str, others: &BTreeMap<&str, SocketAddr>) -> Option<String> {
        let place = |what: &str| self.place.join(what).display().to_string();
        Some(match name {
            "DATA" => place("private/data"),
            "PEER" => self.peer.to_string(),
            "ENVIRONMENT" => place("environment"),
            "HTTP" => self.http.to_string(),
            // The tests' directories are their own.
            "AS" => String::new(),
            "GROW" => format!("mount -o remount,size=600m {}", place("private/data")),
            peer => others.get(peer.to_lowercase().as_str())?.to_string(),
        })
    }
}

fn put(server: SocketAddr, key: &str, value: &str) -> bool {
    let url = format!("http://{server}/v1/kv/{key}");
    http::put(&url, value).is_some_and(|answer| answer.status().is_success())
}

impl Drop for Machine {
    fn drop(&mut self) {
        if thread::panicking() {
            let said = self.said();
            let lines: Vec<_> = said.lines().collect();
            let newest = lines[lines.len().saturating_sub(40)..].join("\n");
            let text = format!("---- {} ----\n{newest}\n", self.name);
            let _ = std::io::copy(&mut text.as_bytes(), &mut std::io::stderr());
        }
        if self.place.join("running").exists() {
            let _ = Command::new(self.place.join("bin/systemctl"))
                .arg("stop")
                .env("PATH", Shell::path(&self.place.join("bin")))
                .status();
        }
    }
}

impl Shell {
    fn path(bin: &Path) -> String {
        format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
    }

    fn new(bin: &Path, grpc: SocketAddr) -> Self {
        let mut child = Command::new("bash")
            .args(["--norc", "--noprofile"])
            .env("PATH", Self::path(bin))
            .env("SPINE_ADDR", grpc.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines();
            lines.map_while(Result::ok).try_for_each(|line| tell.send(line))
        });
        let mut shell = Self { child, input, lines };
        shell.run("exec 2>&1");
        shell
    }

    /// Runs a command; gives what it printed, and its exit code.
    fn run(&mut self, command: &str) -> (Vec<String>, i32) {
        // The code is put back for a command that asks for it.
        let end = format!("{command}\n__code=$?; printf '\\036%s\\n' $__code; (exit $__code)\n");
        self.input.write_all(end.as_bytes()).unwrap();
        self.input.flush().unwrap();
        let mut printed = Vec::new();
        loop {
            let line = self.lines.recv_timeout(WITHIN);
            let line = line.unwrap_or_else(|error| panic!("{command}: {error}; so far {printed:#?}"));
            match line.split_once(END) {
                None => printed.push(line),
                Some((before, code)) => {
                    if !before.is_empty() {
                        printed.push(before.to_owned());
                    }
                    return (printed, code.parse().unwrap());
                }
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command of a page.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    machine: String,
    command: String,
    /// What the page shows below it.
    shown: Vec<String>,
    /// Whether it stands in the first block.
    sets: bool,
}

/// The commands of a page, in order.
fn steps(page: &str) -> Vec<Step> {
    let (mut steps, mut blocks, mut inside) = (Vec::<Step>::new(), 0, false);
    for line in page.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
            blocks += usize::from(inside);
            continue;
        }
        if !inside {
            continue;
        }
        let prompt = line.split_once("# ").filter(|(name, _)| {
            let number = name.strip_prefix('n');
            number.is_some_and(|number| number.parse::<u8>().is_ok())
        });
        match (prompt, steps.last_mut()) {
            (Some((machine, command)), _) => steps.push(Step {
                machine: machine.to_owned(),
                command: command.to_owned(),
                shown: Vec::new(),
                sets: blocks == 1,
            }),
            (None, Some(step)) => step.shown.push(line.to_owned()),
            (None, None) => panic!("a page begins with a command: {line}"),
        }
    }
    steps
}

/// Whether lines are as shown: a line that is `…` stands for any number of them, and within one it stands for any text. How
/// wide columns are doesn't matter.
fn is_as_shown(printed: &[String], shown: &[String]) -> bool {
    match (printed.split_first(), shown.split_first()) {
        (None, None) => true,
        (_, Some((first, rest))) if first == "…" => {
            is_as_shown(printed, rest) || !printed.is_empty() && is_as_shown(&printed[1..], shown)
        }
        (Some((line, lines)), Some((first, rest))) => is_like(line, first) && is_as_shown(lines, rest),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn is_like(line: &str, shown: &str) -> bool {
    let one_space = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, shown) = (one_space(line), one_space(shown));
    let mut parts = shown.split('…').map(str::trim);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        if let Some(part) = last.replace(part) {
            let Some((_, after)) = rest.split_once(part) else {
                return false;
            };
            rest = after;
        }
    }
    last.map_or(rest.is_empty(), |last| rest.ends_with(last))
}

/// Carries out a page on these machines.
fn carry_out(page: &str, machines: &mut [&mut Machine]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/runbooks")
        .join(page);
    let steps = steps(&fs::read_to_string(path).unwrap());
    let peers: Vec<_> = machines
        .iter()
        .map(|machine| (machine.name, machine.peer))
        .collect();
    let peers: BTreeMap<_, _> = peers.into_iter().collect();
    let mut expected = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let machine = machines.iter_mut().find(|machine| machine.name == step.machine);
        let machine = machine.unwrap_or_else(|| panic!("{page} has no machine {}", step.machine));
        let mut command = step.command.clone();
        if step.sets {
            let (name, _) = command.split_once('=').expect("the first block sets variables");
            let value = machine.value(name, &peers);
            let value = value.unwrap_or_else(|| panic!("{page}: nothing is known of {name}"));
            command = format!("{name}={value:?}");
        }
        let (printed, code) = machine.shell.run(&command);
        assert!(
            is_as_shown(&printed, &step.shown),
            "{page}: {}# {command}\nprinted {printed:#?}\nand the page shows {:#?}",
            step.machine,
            step.shown
        );
        let asked = steps.get(at + 1).is_some_and(|next| next.command == "echo $?");
        assert!(
            code == 0 || asked,
            "{page}: {}# {command}\nends with {code}: {printed:#?}",
            step.machine
        );
        expected.push(code);
    }
    assert!(expected.len() > 5, "{page} has hardly a command");
}

/// Three servers that serve, with some keys.
fn three(place: &Path) -> [Machine; 3] {
    let machines = ["n1", "n2", "n3"].map(|name| Machine::new(place, name));
    found(&machines);
    machines
}

fn found(machines: &[Machine; 3]) {
    let founders = machines
        .each_ref()
        .map(|machine| format!("{}={}", machine.name, machine.peer));
    for machine in machines {
        machine.configure(&founders);
        machine.systemctl(&["start", "--no-block", "spine"]);
    }
    for machine in machines {
        machine.await_ready();
    }
    for key in 0..20 {
        assert!(machines[0].put(&format!("k{key}"), "v"));
    }
    for machine in machines {
        wait::until_true("it has the last write", WITHIN, || machine.has("k19"));
    }
}

fn all_keys(machine: &Machine) -> bool {
    (0..20).all(|key| machine.has(&format!("k{key}")))
}

#[test]
fn lost_quorum() {
    let place = tempfile::tempdir().unwrap();
    let [mut n1, mut n2, mut n3] = three(place.path());
    n1.systemctl(&["stop", "spine"]);
    n2.systemctl(&["stop", "spine"]);
    fs::remove_dir_all(n1.disk()).unwrap();
    carry_out("lost-quorum.md", &mut [&mut n1, &mut n2, &mut n3]);
    for machine in [&n1, &n2, &n3] {
        assert!(all_keys(machine), "{}", machine.name);
    }
}

#[test]
fn wiped_node() {
    let place = tempfile::tempdir().unwrap();
    let [mut n1, mut n2, n3] = three(place.path());
    n2.systemctl(&["stop", "spine"]);
    fs::remove_dir_all(n2.disk()).unwrap();
    carry_out("wiped-node.md", &mut [&mut n1, &mut n2]);
    assert!(all_keys(&n2));
    // It counts: one of the others may go now.
    n3.systemctl(&["stop", "spine"]);
    wait::until_true("two of three write", WITHIN, || n2.put("on", "it goes"));
}

#[test]
fn replaced_hardware() {
    let place = tempfile::tempdir().unwrap();
    let [mut n1, n2, n3] = three(place.path());
    let mut n4 = Machine::new(place.path(), "n4");
    n4.configure(&[]);
    n2.systemctl(&["stop", "spine"]);
    carry_out("replaced-hardware.md", &mut [&mut n1, &mut n4]);
    assert!(all_keys(&n4));
    n3.systemctl(&["stop", "spine"]);
    wait::until_true("two of three write", WITHIN, || n4.put("on", "it goes"));
}

#[test]
fn disk_full() {
    namespace::sealed("disk_full", || {
        let place = tempfile::tempdir().unwrap();
        let machines = ["n1", "n2", "n3"].map(|name| Machine::new(place.path(), name));
        // Room for one segment and a checkpoint, and not for a spare.
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=90m", "tmpfs"])
            .arg(machines[0].disk())
            .status();
        assert!(mounted.unwrap().success());
        found(&machines);
        machines[0].await_said("could not be made ready");
        let [mut n1, n2, n3] = machines;
        let (done, other) = (AtomicBool::new(false), n2.http);
        let written = thread::scope(|scope| {
            // The others go on all the while.
            let writing = scope.spawn(|| {
                let value = "x".repeat(400 << 10);
                let mut written = 0;
                while !done.load(Ordering::Relaxed) {
                    // No more than fills the disk that is small.
                    let key = format!("large{}", written % 40);
                    if put(other, &key, &value) && put(other, &format!("acked{written}"), "x") {
                        written += 1;
                    }
                    if written > 250 {
                        thread::sleep(Duration::from_millis(100));
                    }
                }
                written
            });
            let book = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                carry_out("disk-full.md", &mut [&mut n1]);
            }));
            done.store(true, Ordering::Relaxed);
            let written = writing.join().unwrap();
            if let Err(panic) = book {
                std::panic::resume_unwind(panic);
            }
            written
        });
        assert!(written > 100, "{written}");
        wait::until_true("it has all that was acknowledged", WITHIN, || {
            n1.has(&format!("acked{}", written - 1))
        });
        assert!((0..written).all(|key| n1.has(&format!("acked{key}"))));
        drop(n3);
    });
}

#[test]
fn pages_are_read_as_they_are_meant() {
    let page =
        "# A\n```console\nn1# DATA=/x\n```\ntext\n```console\nn1# spine members\nNAME…\n…\nn2# false\n```\n";
    let steps = steps(page);
    let commands: Vec<_> = steps
        .iter()
        .map(|step| (step.machine.as_str(), step.command.as_str(), step.sets))
        .collect();
    assert_eq!(
        commands,
        [
            ("n1", "DATA=/x", true),
            ("n1", "spine members", false),
            ("n2", "false", false)
        ]
    );
    assert_eq!(steps[1].shown, ["NAME…", "…"]);
    let lines = |text: &[&str]| text.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (printed, shown, fits) in [
        (&["a  b c"][..], &["a b …"][..], true),
        (&["a b c"], &["a …d"], false),
        (&["a", "b", "c"], &["a", "…", "c"], true),
        (&["a", "b", "c"], &["a", "c"], false),
        (&[], &["…"], true),
        (&["something"], &[], false),
        (&[], &["something"], false),
        (&["x: the disk is full: no"], &["…the disk is full: …"], true),
    ] {
        assert_eq!(
            is_as_shown(&lines(printed), &lines(shown)),
            fits,
            "{printed:?} {shown:?}"
        );
    }
    // Every page is carried out by a test.
    let pages = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/runbooks")).unwrap();
    let mut pages: Vec<_> = pages
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    let tested = [
        "README.md",
        "disk-full.md",
        "lost-quorum.md",
        "replaced-hardware.md",
        "wiped-node.md",
    ];
    assert_eq!(pages, tested);
}
