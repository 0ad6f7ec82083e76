//! Both tutorials, run as they are printed, each in PID, mount and network namespaces of its own.
//!
//! Their code is taken from the texts in `tests/compat/tutorials/`. What differs from the texts, all of it:
//! - `docker run … hashicorp/consul` is our binary: plain `spine dev`.
//! - In the step that ends in `CircuitOpen`, `caller.py` looks up `photo`, as the output printed there presumes.
//! - `pkill -f "uvicorn photo"` is done by the test: it looks for that command line among the processes of its own
//!   namespace and ends them by their ids.
//! - The host name `sys` is this machine.
//!
//! What the texts leave to the reader is stated where it stands: a `main` around the Go function, a driver for the
//! JavaScript one, and the upgrade of section 8, which is told in prose. Run by `cargo x compat`; needs root.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use spine_tests::spine_process::SpineProcess;
use spine_tests::tutorial::{self, BACKBONE, Blocks, SPINE, Tutorial};
use spine_tests::{compat, http, namespace, wait};
use tempfile::TempDir;

/// For everything that happens at once on an idle machine.
const SOON: Duration = Duration::from_secs(20);

/// "A stopped heartbeat means the road crew removes the listing."
const REMOVED_WITHIN: Duration = Duration::from_secs(40);

/// "Within 30 s the Registry health check will mark it dead."
const DEAD_WITHIN: Duration = Duration::from_secs(30);

/// The kiosks beat every 10 s. The second repeat makes a registration a heartbeat, so this many seconds show three.
const HEARTBEATS: Duration = Duration::from_secs(22);

#[test]
fn backbone() {
    let kit = Kit::installed();
    namespace::sealed("backbone", || {
        let desk = Desk::open(&kit, BACKBONE);
        let registry = registry(&desk);

        // 4.2 and 4.3: a kiosk that registers itself, found and called.
        desk.write("notify_svc.py");
        desk.write("call_notify.py");
        desk.spawn("kiosk", desk.blocks.shell("python notify_svc.py"));
        listed(&registry, "notify-svc", SOON);
        let kiosk_since = Instant::now();
        wait::until_true("the kiosk answers", SOON, || {
            http::get("http://localhost:5001/").is_some()
        });
        let call = desk.blocks.shell("python call_notify.py");
        let answer = "POST http://localhost:5001/notify\nRESPONSE: {'status': 'queued'}\n";
        assert_eq!(desk.run(call).stdout, answer);
        assert!(desk.said("kiosk").contains("Your passport app #123 received."));

        // 6.1: another kiosk, which beats by POST.
        desk.build_heartbeat();
        desk.spawn("heartbeat", "./heartbeat email-svc localhost 5002");
        listed(&registry, "email-svc", SOON);
        let heartbeat_since = Instant::now();

        // 6.3: the health loop of the kiosk names its service, not a check.
        desk.write("health.py");
        desk.spawn("health", "python health.py");
        wait::until_true("the kiosk is healthy", SOON, || {
            status(&registry, "notify-svc") == "passing"
        });

        // 6.2: the breaker trips at the third failure, and then spares the healthy kiosk, too.
        desk.prepare_breaker();
        let (up, down) = ("http://localhost:5001/notify", "http://localhost:5999/notify");
        let calls = format!("node breaker.mjs {up} {down} {down} {down} {up}");
        assert_eq!(
            desk.run(&calls).stdout,
            "200\nfailed\nfailed\nfailed\ncircuit open\n"
        );

        // 9.3: the page to watch it all.
        assert!(http::is_ok(&registry.url("/ui/")));

        // "A stopped heartbeat removes the listing"; before that, the health loop says what it sees.
        wait::until_true("both kiosks have beaten three times", HEARTBEATS * 2, || {
            kiosk_since.elapsed() > HEARTBEATS && heartbeat_since.elapsed() > HEARTBEATS
        });
        end("notify_svc.py");
        end("./heartbeat");
        let stopped = Instant::now();
        wait::until_true("the kiosk is critical", SOON, || {
            status(&registry, "notify-svc") == "critical"
        });
        for service in ["notify-svc", "email-svc"] {
            let left = REMOVED_WITHIN.saturating_sub(stopped.elapsed());
            wait::until_true(&format!("{service} is off the map"), left, || {
                !is_listed(&registry, service)
            });
            eprintln!(
                "{service} was off the map {:.1} s after it stopped",
                stopped.elapsed().as_secs_f64()
            );
        }

        // 9.5: it comes back by itself.
        desk.spawn("kiosk-again", desk.blocks.shell("python notify_svc.py"));
        listed(&registry, "notify-svc", SOON);
        wait::until_true("the kiosk answers again", SOON, || {
            desk.run(call).stdout == answer
        });
    });
}

#[test]
fn spine() {
    let kit = Kit::installed();
    namespace::sealed("spine", || {
        let desk = Desk::open(&kit, SPINE);
        let registry = registry(&desk);

        // 4.1 to 4.3: two services, registered, found and called.
        for file in ["identity.py", "photo.py", "register.py", "caller.py"] {
            desk.write(file);
        }
        desk.spawn("services", desk.blocks.shell("uvicorn identity:app"));
        for port in [8001, 8002] {
            let health = format!("http://localhost:{port}/health");
            wait::until_true("a service answers", SOON, || http::is_ok(&health));
        }
        assert!(desk.run("python register.py").status.success());
        assert_eq!(desk.run("python caller.py").stdout, "{'up': True}\n");

        // "register() writes a key/value pair so any other service can discover the URL."
        let key =
            http::get(&registry.url("/v1/kv/services/identity?raw")).and_then(|answer| answer.text().ok());
        assert_eq!(key.as_deref(), Some("http://localhost:8001"));

        // 10: the photo service stops; the same program that called it before gets an open circuit.
        let calling_photo = desk
            .blocks
            .file("caller.py")
            .replacen("\"identity\"", "\"photo\"", 1);
        assert_ne!(calling_photo, desk.blocks.file("caller.py"));
        desk.write_text("caller.py", &calling_photo);
        let mut step = desk
            .blocks
            .shell("pkill -f")
            .lines()
            .map(|line| line.split("  ").next().unwrap_or(line));
        let pattern = step
            .next()
            .and_then(|line| line.strip_prefix("pkill -f "))
            .expect("the step's first line");
        let call = step.next().expect("the step's second line");
        let printed = desk
            .blocks
            .output("CircuitOpen")
            .lines()
            .last()
            .expect("the output's last line");
        assert_eq!(desk.run(call).stdout, "{'up': True}\n");
        end(pattern.trim_matches('"'));
        let opened = wait::until_true("the circuit opens", DEAD_WITHIN, || {
            let refused = desk.run(call);
            !refused.status.success()
                && refused.stderr.starts_with("Traceback")
                && refused.stderr.lines().last() == Some(printed)
        });

        eprintln!(
            "the circuit opened {:.1} s after the service stopped",
            opened.as_secs_f64()
        );

        // And closes when the service is back.
        desk.spawn("photo", "uvicorn photo:app --port 8002");
        wait::until_true("the circuit closes", DEAD_WITHIN, || {
            desk.run(call).stdout == "{'up': True}\n"
        });

        // 7: what the printed core.py writes, the shipped package finds.
        desk.write_literal_sdk();
        assert!(desk.run("python literal.py register").status.success());
        assert_eq!(desk.run("python lookup.py").stdout, "http://localhost:8009\n");

        // 7, at the mount that keeps values in hex: the printed class finds what it wrote, and so does everybody else.
        let literal = "REG_URL=http://localhost:8500/hex python literal.py";
        assert!(desk.run(&format!("{literal} register")).status.success());
        assert_eq!(
            desk.run(&format!("{literal} lookup")).stdout,
            "http://localhost:8009\n"
        );
        assert_eq!(desk.run("python lookup.py").stdout, "http://localhost:8009\n");
    });
}

#[test]
fn upgrade_without_an_outage() {
    let kit = Kit::installed();
    namespace::sealed("upgrade_without_an_outage", || {
        let desk = Desk::open(&kit, SPINE);
        let _registry = registry(&desk);
        desk.write("identity.py");
        desk.copy("upgrade.py");
        let ran = desk.run("python upgrade.py");
        assert!(ran.status.success(), "{}", ran.stderr);
        let told: Value = serde_json::from_str(&ran.stdout).expect("the driver prints JSON");
        eprintln!("{told}");
        assert_eq!(told["failures"], Value::Array(Vec::new()));
        assert!(told["total"].as_u64() >= Some(2000), "{told}");
        let steps = told["steps"].as_array().expect("the driver tells its steps");
        assert_eq!(steps.len(), 3);
        for step in steps {
            within_three_sigma(step);
        }
    });
}

/// Each version's calls are as many as its weight promises, within three standard deviations.
fn within_three_sigma(step: &Value) {
    let number = |table: &Value, version: &str| table[version].as_f64().unwrap_or(0.0);
    let weights = &step["weights"];
    let versions: Vec<&String> = weights.as_object().expect("weights by version").keys().collect();
    let weight: f64 = versions.iter().map(|version| number(weights, version)).sum();
    let calls: f64 = step["calls"]
        .as_object()
        .expect("calls by version")
        .values()
        .filter_map(Value::as_f64)
        .sum();
    for version in versions {
        let share = number(weights, version) / weight;
        let sigma = (calls * share * (1.0 - share)).sqrt();
        let off = (number(&step["calls"], version) - calls * share).abs();
        assert!(
            off <= 3.0 * sigma,
            "{version} is {off} calls off its share, sigma is {sigma}: {step}"
        );
    }
}

/// 4.1 of the first text, the only edit of its shell blocks: not a container, but our binary with no argument more.
fn registry(desk: &Desk) -> SpineProcess {
    namespace::hosts(&["sys"], desk.place.path());
    SpineProcess::start(["dev"], SocketAddr::from((Ipv4Addr::LOCALHOST, 8500)))
}

fn is_listed(registry: &SpineProcess, service: &str) -> bool {
    let rows = http::get_json(&registry.url(&format!("/v1/catalog/service/{service}")));
    !rows
        .expect("the registry answers")
        .as_array()
        .expect("a list")
        .is_empty()
}

fn listed(registry: &SpineProcess, service: &str, within: Duration) {
    wait::until_true(&format!("{service} is listed"), within, || {
        is_listed(registry, service)
    });
}

/// The status of the one check of `service`, or nothing.
fn status(registry: &SpineProcess, service: &str) -> String {
    let checks =
        http::get_json(&registry.url(&format!("/v1/health/checks/{service}"))).expect("the registry answers");
    checks[0]["Status"].as_str().unwrap_or_default().to_owned()
}

/// Ends every process of this namespace whose command line contains `pattern`, by its id. There has to be one.
fn end(pattern: &str) {
    let mut ended = 0;
    for id in processes() {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let id = Pid::from_raw(id).expect("a process id is positive");
        if id != Pid::INIT && line.contains(pattern) && kill_process(id, Signal::TERM).is_ok() {
            ended += 1;
        }
    }
    assert!(ended > 0, "no process has {pattern:?} in its command line");
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted in every namespace");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// What a reader of the tutorials has installed.
struct Kit {
    environment: std::path::PathBuf,
}

impl Kit {
    /// From the registries, or from the cache: inside the namespaces there is no network.
    fn installed() -> Self {
        let requirements = tutorial::directory().join("requirements.txt");
        Self {
            environment: compat::python_environment("tutorials", &requirements),
        }
    }
}

/// A reader at work: a folder, a shell, and the text.
struct Desk {
    blocks: Blocks,
    place: TempDir,
    path: String,
    packages: String,
}

/// What a command that ended has printed.
struct Ran {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Desk {
    fn open(kit: &Kit, text: Tutorial) -> Self {
        let place = tempfile::tempdir().expect("a temporary directory for the reader's files");
        let packages = place.path().join(".packages");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/python");
        compat::python_package(&kit.environment, &source, &packages);
        let inherited = std::env::var("PATH").expect("the programs of the tutorials are found by PATH");
        Self {
            blocks: text.blocks(),
            path: format!("{}:{inherited}", kit.environment.join("bin").display()),
            packages: packages.display().to_string(),
            place,
        }
    }

    /// Writes the text's file of that name.
    fn write(&self, name: &str) {
        self.write_text(name, self.blocks.file(name));
    }

    fn write_text(&self, name: &str, text: &str) {
        let file = self.place.path().join(name);
        fs::create_dir_all(file.parent().expect("a file below the folder"))
            .expect("the folder can be written");
        fs::write(file, text).expect("the folder can be written");
    }

    /// Copies a driver that is not part of the texts.
    fn copy(&self, name: &str) {
        let from = tutorial::directory().join(name);
        fs::copy(&from, self.place.path().join(name))
            .unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }

    /// The text's Go function, with what every Go program has around it.
    fn build_heartbeat(&self) {
        let imports =
            "package main\n\nimport (\"fmt\"; \"net/http\"; \"os\"; \"strconv\"; \"strings\"; \"time\")\n\n";
        let main = "\nfunc main() {\n  port, _ := strconv.Atoi(os.Args[3])\n  Heartbeat(os.Args[1], os.Args[2], port)\n}\n";
        let function = self.blocks.file("registry/heartbeat.go");
        self.write_text("registry/heartbeat.go", &format!("{imports}{function}{main}"));
        let mut build = compat::go_build(Path::new("heartbeat"), Path::new("registry/heartbeat.go"));
        compat::must(build.current_dir(self.place.path()));
    }

    /// The text's JavaScript module, told to be one, and its driver.
    fn prepare_breaker(&self) {
        self.write("gateway/circuit.js");
        self.write_text("gateway/package.json", "{\"type\": \"module\"}");
        self.copy("breaker.mjs");
    }

    /// The text's `core.py` as a package, a program that uses it, and one that uses the shipped package.
    fn write_literal_sdk(&self) {
        self.write_text("literal/hms_spine/core.py", self.blocks.file("hms_spine/core.py"));
        self.write_text("literal/hms_spine/__init__.py", "from .core import Spine\n");
        let path = "import sys\nsys.path.insert(0, 'literal')\nfrom hms_spine import Spine\n";
        let calls = "calls = {'register': lambda: Spine().register('literal', 'http://localhost:8009'),\n         \
                     'lookup': lambda: print(Spine().lookup('literal'))}\ncalls[sys.argv[1]]()\n";
        self.write_text("literal.py", &format!("{path}{calls}"));
        self.write_text(
            "lookup.py",
            "from hms_spine import Spine\nprint(Spine().lookup('literal'))\n",
        );
    }

    /// Runs a shell text to its end.
    fn run(&self, text: &str) -> Ran {
        let status = self.shell("ran", text).status().expect("bash starts");
        Ran {
            status,
            stdout: self.said("ran"),
            stderr: self.read("ran.err"),
        }
    }

    /// Lets a shell text run on.
    #[expect(
        clippy::zombie_processes,
        reason = "it ends with the namespace, if not before"
    )]
    fn spawn(&self, name: &str, text: &str) {
        self.shell(name, text).spawn().expect("bash starts");
    }

    /// What the program of that name has printed.
    fn said(&self, name: &str) -> String {
        self.read(&format!("{name}.out"))
    }

    fn shell(&self, name: &str, text: &str) -> Command {
        let output = |suffix| File::create(self.place.path().join(format!("{name}.{suffix}")));
        let mut shell = Command::new("bash");
        shell
            .args(["-c", text])
            .current_dir(self.place.path())
            .env("PATH", &self.path)
            .env("PYTHONPATH", &self.packages)
            // So that the log of a program that runs on shows what it printed.
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(output("out").expect("the folder can be written"))
            .stderr(output("err").expect("the folder can be written"));
        shell
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.place.path().join(file)).unwrap_or_default()
    }
}
