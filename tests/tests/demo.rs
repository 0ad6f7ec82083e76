//! `deploy/demo`, as its reader runs it: one command starts the registry, two kiosks and the gateway; a kiosk is stopped, started,
//! killed and started again. Its listing goes, the gateway answers 503 for it alone, and traffic resumes.
//!
//! The compose file says the same for containers: its commands are run without them, in namespaces of their own (root).
//!
//! Both install Python packages by name. Run by `cargo x compat`.

#![expect(
    clippy::print_stderr,
    reason = "what the demo prints belongs to what a failed test shows"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use spine_tests::spine_process::{self, free_address};
use spine_tests::{compat, http, namespace, wait};

/// For an installation over a slow line, and the start of four programs.
const STARTED_WITHIN: Duration = Duration::from_mins(10);

/// For everything that happens at once on an idle machine.
const SOON: Duration = Duration::from_mins(1);

/// For a command: the start of a Python program is most of it.
const CARRIED_OUT_WITHIN: Duration = Duration::from_mins(3);

/// A kiosk's second repeat is due 6 s after its start; from then on the registry misses it when it stops repeating.
const KNOWN_TO_REPEAT: Duration = Duration::from_secs(12);

/// `spine dev` waits 30 s for the next repeat, and longer on a machine that doesn't let it run: its clock stands still then.
const REMOVED_WITHIN: Duration = Duration::from_mins(2);

#[test]
fn a_kiosk_goes_and_comes_back_and_the_other_never_notices() {
    let mut demo = Demo::start();
    let first = demo.email_becomes(200);
    assert_eq!(first["kiosk"], "email-svc");
    assert_eq!(demo.listed(), ["consul", "email-svc", "photo-svc"]);

    // Stopped in order: it takes itself out.
    demo.say("stop email-svc", "email-svc stopped");
    let refused = demo.email_becomes(503);
    demo.email_is_off_the_map(SOON);
    assert!(is_about_email(&refused), "{refused}");

    // And back, as another process.
    demo.say("start email-svc", "email-svc runs");
    let started = Instant::now();
    let second = demo.email_becomes(200);
    assert_ne!(first["pid"], second["pid"]);
    assert_eq!(demo.listed(), ["consul", "email-svc", "photo-svc"]);

    // Killed, without a goodbye: three calls that fail, and the gateway leaves it alone until the registry misses it.
    wait::until_true("the kiosk is known to repeat itself", KNOWN_TO_REPEAT * 2, || {
        started.elapsed() > KNOWN_TO_REPEAT
    });
    demo.say("kill email-svc", "email-svc stopped");
    wait::until_true("the circuit opens", SOON, || {
        let refused = demo.email_becomes(503);
        assert!(is_about_email(&refused), "{refused}");
        text(&refused, "error").contains("CircuitOpen: 'email-svc' temporarily unavailable (3/3 failures)")
    });
    demo.email_is_off_the_map(REMOVED_WITHIN);
    wait::until_true("the gateway knows", SOON, || {
        text(&demo.email_becomes(503), "error").contains("NotFound")
    });
    demo.say("start email-svc", "email-svc runs");
    demo.email_becomes(200);

    demo.end();
}

#[test]
fn the_commands_of_the_compose_file_bring_it_up() {
    let packages = tempfile::tempdir().expect("a temporary directory");
    let demo = directory();
    let environment = compat::python_environment("demo", &demo.join("requirements.txt"));
    namespace::sealed("the_commands_of_the_compose_file_bring_it_up", || {
        compat::python_package(&environment, &demo.join("../../client/python"), packages.path());
        let text = fs::read_to_string(demo.join("compose.yaml")).expect("the compose file is there");
        let services = composed(&text);
        let names: Vec<&str> = services.iter().map(|service| service.name).collect();
        assert_eq!(names, ["registry", "email-svc", "photo-svc", "gateway"]);
        // Each container is this machine: they share no port.
        namespace::hosts(&names, packages.path());
        for service in &services {
            let is_registry = service.name == "registry";
            let mut command = if is_registry {
                Command::new(spine_process::binary())
            } else {
                Command::new(environment.join("bin/python"))
            };
            command.args(&service.command).current_dir(&demo);
            command
                .env("PYTHONPATH", packages.path())
                .env("PYTHONDONTWRITEBYTECODE", "1");
            command.envs(service.registry.map(|url| ("REG_URL", url)));
            start(&mut command);
            // The kiosks and the gateway wait until this one is healthy.
            if let Some(check) = &service.healthcheck {
                assert!(
                    is_registry && check[0] == "CMD" && check[1] == "spine",
                    "{check:?}"
                );
                wait::until_true("the registry is healthy", SOON, || {
                    let mut healthy = Command::new(spine_process::binary());
                    healthy
                        .args(&check[2..])
                        .stdout(Stdio::null())
                        .stderr(Stdio::null());
                    healthy.status().is_ok_and(|status| status.success())
                });
            }
        }
        for kiosk in ["email", "photo"] {
            wait::until_true("a kiosk answers through the gateway", CARRIED_OUT_WITHIN, || {
                http::post(&format!("http://127.0.0.1:8080/{kiosk}/apply"), "{}")
                    .is_some_and(|answer| answer.status().is_success())
            });
        }
    });
}

/// Lets it run on.
#[expect(
    clippy::zombie_processes,
    reason = "it ends with the namespace, if not before"
)]
fn start(command: &mut Command) {
    command
        .stdin(Stdio::null())
        .spawn()
        .expect("a program of the demo starts");
}

/// What the compose file says about one container.
struct Composed<'a> {
    name: &'a str,
    command: Vec<String>,
    registry: Option<&'a str>,
    healthcheck: Option<Vec<String>>,
}

/// The services of our compose file, which has its lists in JSON's form and each on one line.
fn composed(text: &str) -> Vec<Composed<'_>> {
    let list = |json: &str| serde_json::from_str(json).expect("lists are written as JSON");
    let mut services: Vec<Composed<'_>> = Vec::new();
    for line in text.lines().skip_while(|line| *line != "services:").skip(1) {
        let indent = line.len() - line.trim_start().len();
        let (field, value) = line.trim().split_once(':').unwrap_or_default();
        let value = value.trim();
        match (indent, field, services.last_mut()) {
            (2, name, _) if value.is_empty() => services.push(Composed {
                name,
                command: Vec::new(),
                registry: None,
                healthcheck: None,
            }),
            (4, "command", Some(service)) => service.command = list(value),
            (4, "environment", Some(service)) => service.registry = value.split('"').nth(1),
            (6, "test", Some(service)) => service.healthcheck = Some(list(value)),
            _ => {}
        }
    }
    services
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo")
}

fn is_about_email(refused: &Value) -> bool {
    text(refused, "error").starts_with("email-svc is closed: ")
}

fn text<'a>(document: &'a Value, field: &str) -> &'a str {
    document[field].as_str().unwrap_or_default()
}

/// The one command, with its input and what it prints.
struct Demo {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    registry: String,
    gateway: String,
    pids: Vec<String>,
}

impl Demo {
    /// On free ports, ready.
    fn start() -> Self {
        let ports: [u16; 5] = std::array::from_fn(|_| free_address().port());
        let named = ports.map(|port| port.to_string()).join(",");
        let mut child = Command::new("python3")
            .arg("-B")
            .arg(directory().join("run.py"))
            .args(["--ports", &named, "--home"])
            .arg(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("demo"))
            .env("SPINE_BIN", spine_process::binary())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 starts");
        let output = child.stdout.take().expect("asked for as a pipe just above");
        let (sender, lines) = mpsc::channel();
        // Ends with the output. Few lines are printed, all of them asked for.
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                eprintln!("demo: {line}");
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut demo = Self {
            input: child.stdin.take(),
            child,
            lines,
            registry: format!("http://127.0.0.1:{}", ports[0]),
            gateway: format!("http://127.0.0.1:{}", ports[4]),
            pids: Vec::new(),
        };
        demo.hear("ready", STARTED_WITHIN);
        demo
    }

    /// Gives a command and waits until it is carried out.
    fn say(&mut self, command: &str, answer: &str) {
        let input = self.input.as_mut().expect("open until the end");
        writeln!(input, "{command}").expect("the demo reads its input");
        self.hear(answer, CARRIED_OUT_WITHIN);
    }

    /// Waits for a line that begins so, and notes the processes told on the way.
    fn hear(&mut self, beginning: &str, within: Duration) {
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self
                .lines
                .recv_timeout(left)
                .unwrap_or_else(|error| panic!("{beginning:?} was not said: {error}"));
            if let Some((_, rest)) = line.split_once("pid ") {
                self.pids.extend(rest.split(',').next().map(str::to_owned));
            }
            if line.starts_with(beginning) {
                return;
            }
        }
    }

    /// Calls both kiosks until the gateway answers so for `email-svc`; the other one always works.
    fn email_becomes(&self, wanted: u16) -> Value {
        wait::until(&format!("email is answered with {wanted}"), SOON, || {
            let (status, photo) = self.call("photo");
            assert_eq!(status, 200, "the other kiosk noticed: {photo}");
            assert_eq!(photo["kiosk"], "photo-svc");
            let (status, email) = self.call("email");
            assert!([200, 503].contains(&status), "{status}: {email}");
            (status == wanted).then_some(email)
        })
    }

    fn email_is_off_the_map(&self, within: Duration) {
        let took = wait::until_true("the listing is gone", within, || {
            self.email_becomes(503);
            self.listed() == ["consul", "photo-svc"]
        });
        eprintln!("the listing was gone {:.1} s later", took.as_secs_f64());
    }

    fn call(&self, route: &str) -> (u16, Value) {
        let url = format!("{}/{route}/apply", self.gateway);
        let answer = http::post(&url, "{}").expect("the gateway answers");
        let status = answer.status().as_u16();
        let body = answer.text().expect("an answer has a body");
        let document = serde_json::from_str(&body).unwrap_or(Value::String(body));
        (status, document)
    }

    /// The services in the catalog.
    fn listed(&self) -> Vec<String> {
        let services =
            http::get_json(&format!("{}/v1/catalog/services", self.registry)).expect("the registry answers");
        let services = services.as_object().expect("services by name");
        services.keys().cloned().collect()
    }

    /// `quit`: it ends well, and nothing that it started is left.
    fn end(mut self) {
        let input = self.input.as_mut().expect("open until the end");
        writeln!(input, "quit").expect("the demo reads its input");
        let status = wait::until("the demo ends", SOON * 2, || {
            self.child.try_wait().expect("a child can be waited for")
        });
        assert!(status.success(), "{status}");
        assert_eq!(
            self.pids.len(),
            6,
            "four, and the kiosk twice more: {:?}",
            self.pids
        );
        for pid in &self.pids {
            assert!(
                !is_of_the_demo(pid),
                "process {pid} was started by the demo and is left"
            );
        }
    }
}

impl Drop for Demo {
    /// The end of its input is the order to end what it started, and itself.
    fn drop(&mut self) {
        self.input = None;
        let end = Instant::now() + SOON;
        let left = || end.saturating_duration_since(Instant::now());
        // Its output ends with it.
        while self.lines.recv_timeout(left()).is_ok() {}
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether that process runs one of the demo's programs; the number may be somebody else's by now.
fn is_of_the_demo(pid: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    line.contains("deploy/demo/") || line.contains("--http-addr")
}
