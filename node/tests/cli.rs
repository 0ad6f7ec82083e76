//! Golden scripts of the command line: what is typed goes in; what is printed, complaints and the exit code come out.
//!
//! Each script begins with a registry in memory that has one server, `n1`, behind the native API on a port of its own.
//! `UPDATE_GOLDENFILES=1` writes the output anew; then read it.
#![cfg(feature = "server")]
#![expect(clippy::disallowed_methods, reason = "a test lives in the real world")]

#[path = "support/screen.rs"]
#[expect(
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test that can't go on fails"
)]
mod screen;

use std::{
    error::Error,
    fmt::Write as _,
    fs::File,
    path::{Path, PathBuf},
    process,
    sync::Arc,
    time::Duration,
};

use clap::{CommandFactory, Parser};
use goldenscript::{Argument, Command, Context, Runner};
use indicatif::ProgressDrawTarget;
use screen::Screen;
use spine_api::{
    Context as Call, Registry,
    local::Local,
    native::{Settings, services},
};
use spine_core::{Command as Change, Dialect, Member, NodeName, Ttl};
use spine_node::cli::{self, ClientCommand, Exit, Streams};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    task::{AbortHandle, JoinHandle},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

#[test]
fn scripts_say_what_is_printed() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/cli");
    let entries = std::fs::read_dir(dir).expect("a directory of scripts");
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    found.sort();
    assert!(!found.is_empty(), "no scripts");
    for path in found {
        println!("{}", path.display());
        goldenscript::run(&mut Script::default(), &path).expect("the script runs");
    }
}

#[test]
fn a_script_with_another_output_fails() {
    let output =
        goldenscript::generate(&mut Script::default(), "spine 'kv put a 1'\n---\nwrong\n").expect("it runs");
    assert!(
        output.contains("written at index 2") && !output.contains("wrong"),
        "{output}"
    );
}

#[test]
fn every_command_is_well_formed_and_completes() {
    Program::command().debug_assert();
    for shell in ["bash", "zsh", "fish"] {
        let (exit, out, _) = Script::default().spine(vec!["completion".into(), shell.into()]);
        assert_eq!(exit, Exit::Ok);
        assert!(out.contains("register") && out.contains("spine"), "{shell}");
    }
}

/// Who waits sees a bar, which is gone at the end; who reads the answer, or the complaints, sees nothing of it.
#[test]
fn a_terminal_is_told_how_far_a_snapshot_is() {
    let mut script = Script {
        input: vec![b'x'; 200_000],
        ..Script::default()
    };
    for number in 0..10 {
        let put = ["kv", "put", &format!("k{number}"), "-"].map(str::to_owned);
        assert_eq!(script.spine(put.into()).0, Exit::Ok);
    }
    let [file, data] = ["file", "data"].map(|name| script.files.path().join(name).display().to_string());
    let restore = ["snapshot", "restore", &file, "--data-dir", &data, "-o", "json"];
    let commands: [(&[&str], &[&str]); 3] = [
        (&["snapshot", "save", &file, "-o", "json"], &["saving ["]),
        (&["snapshot", "inspect", &file, "-o", "json"], &["reading ["]),
        (&restore, &["reading [", "writing [", "checking ["]),
    ];
    for (words, wanted) in commands {
        script.screen = Some(Screen::default());
        let (exit, out, err) = script.spine(words.iter().map(ToString::to_string).collect());
        assert_eq!((exit, err.as_str()), (Exit::Ok, ""));
        assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{out}");
        let screen = script.screen.as_ref().expect("it was given");
        let drawn = screen.drawn();
        let mut rest = drawn.as_str();
        for bar in wanted {
            let at = rest
                .find(bar)
                .unwrap_or_else(|| panic!("{bar} is missing:\n{drawn}"));
            rest = &rest[at..];
            assert!(rest.contains(" MiB ("), "how much there is:\n{drawn}");
        }
        assert_eq!(drawn.contains("of about "), words[1] == "save", "{drawn}");
        assert!(screen.is_clear(), "{drawn}");
    }
}

/// The program itself: what counts is where its complaints go, not its answer.
#[test]
fn a_bar_is_drawn_on_a_terminal_alone() {
    let script = Script::default();
    let [file, said, answer] = ["file", "said", "answer"].map(|name| script.files.path().join(name));
    let save = ["snapshot", "save", &file.display().to_string()].map(str::to_owned);
    assert_eq!(script.spine(save.into()).0, Exit::Ok);
    let spine = env!("CARGO_BIN_EXE_spine");
    let run = process::Command::new(spine)
        .args(["snapshot", "inspect"])
        .arg(&file)
        .env("TERM", "xterm")
        .stderr(File::create(&said).expect("a file"))
        .output()
        .expect("it starts");
    assert!(run.status.success());
    assert!(!run.stdout.is_empty() && !run.stdout.contains(&b'\x1b'));
    assert_eq!(std::fs::read_to_string(&said).expect("a file"), "");

    let line = format!(
        "{spine} snapshot inspect {} -o json > {}",
        file.display(),
        answer.display()
    );
    let run = process::Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("TERM", "xterm")
        .env("SHELL", "/bin/sh")
        .stdin(process::Stdio::null())
        .output()
        .expect("script of util-linux starts");
    let seen = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && seen.contains("reading ["), "{seen}");
    let answer = std::fs::read_to_string(&answer).expect("a file");
    assert!(
        serde_json::from_str::<serde_json::Value>(&answer).is_ok(),
        "{answer}"
    );
}

/// The binary's command line, without those commands that are a server.
#[derive(Debug, Parser)]
#[command(name = "spine")]
struct Program {
    #[command(subcommand)]
    command: ClientCommand,
}

/// A command that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(10);

struct Script {
    runtime: Runtime,
    registry: Arc<Local>,
    address: String,
    server: AbortHandle,
    input: Vec<u8>,
    terminal: bool,
    /// Where bars are drawn.
    screen: Option<Screen>,
    /// Where commands find and leave files: `TMP` in scripts.
    files: tempfile::TempDir,
    /// A command that goes on while others run.
    background: Option<JoinHandle<(Exit, String, String)>>,
}

impl Default for Script {
    fn default() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let registry = Arc::new(Local::new(NodeName::parse("n1").expect("a name")));
        let (address, server) = runtime.block_on(async {
            registry
                .propose(&Call::new(Dialect::Internal), up(1))
                .await
                .expect("applied");
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address").to_string();
            let routes = services(registry.clone(), Settings::default());
            let serving = Server::builder()
                .add_routes(routes)
                .serve_with_incoming(TcpListenerStream::new(listener));
            (address, tokio::spawn(serving).abort_handle())
        });
        Self {
            runtime,
            registry,
            address,
            server,
            input: Vec::new(),
            terminal: false,
            screen: None,
            files: tempfile::tempdir().expect("a directory"),
            background: None,
        }
    }
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _context: &Context) -> Result<String, Box<dyn Error>> {
        let words = self.words(command);
        match (command.name.as_str(), &words[..]) {
            ("spine", _) => Ok(self.shown(self.spine(words.clone()))),
            ("background", _) => {
                self.background = Some(self.runtime.spawn(self.task(words.clone())));
                Ok(String::new())
            }
            ("wait", []) => {
                let background = self.background.take().ok_or("nothing runs in the background")?;
                let ended = self.runtime.block_on(background)?;
                Ok(self.shown(ended))
            }
            ("input", [text]) => {
                self.input = text.clone().into_bytes();
                Ok(String::new())
            }
            ("terminal", []) => {
                self.terminal = true;
                Ok(String::new())
            }
            ("pass", [seconds]) => {
                self.registry.advance(Ttl::seconds(seconds.parse()?));
                Ok(String::new())
            }
            ("leaderless", []) => {
                self.registry.set_leaderless(true);
                Ok(String::new())
            }
            ("joins", [number]) => {
                let (up, cx) = (up(number.parse()?), Call::new(Dialect::Internal));
                self.runtime.block_on(self.registry.propose(&cx, up))?.result?;
                Ok(String::new())
            }
            ("learns", [number]) => {
                self.registry.set_vote(number.parse()?, false);
                Ok(String::new())
            }
            ("stop", []) => {
                self.server.abort();
                let (runtime, address) = (&self.runtime, &self.address);
                while runtime.block_on(tokio::net::TcpStream::connect(address)).is_ok() {
                    std::thread::yield_now();
                }
                Ok(String::new())
            }
            ("flip", [file, byte]) => {
                let mut bytes = std::fs::read(file)?;
                let length = bytes.len();
                // Counted from the end if negative.
                let byte: isize = byte.parse()?;
                let at = if byte < 0 {
                    length.saturating_add_signed(byte)
                } else {
                    byte.unsigned_abs()
                };
                bytes[at] ^= 1;
                std::fs::write(file, bytes)?;
                Ok(String::new())
            }
            ("cut", [file, length]) => {
                let file = File::options().write(true).open(file)?;
                file.set_len(length.parse()?)?;
                Ok(String::new())
            }
            ("write", [file, text]) => {
                std::fs::write(file, text)?;
                Ok(String::new())
            }
            ("read", [file]) => Ok(std::fs::read_to_string(file)?),
            ("held", [lock]) => {
                let client = self
                    .runtime
                    .block_on(async { spine_client::Client::connect(&self.address) })?;
                let is_held = || {
                    let holder = self.runtime.block_on(client.lock(lock.clone()).holder());
                    holder.is_ok_and(|holder| holder.holder.is_some())
                };
                while !is_held() {
                    std::thread::yield_now();
                }
                Ok(String::new())
            }
            ("files", [dir]) => {
                let mut names = Vec::new();
                for entry in std::fs::read_dir(dir)? {
                    names.push(entry?.file_name().to_string_lossy().into_owned());
                }
                names.sort();
                Ok(names.join(" "))
            }
            (name, _) => Err(format!("no command {name}").into()),
        }
    }
}

/// A server is there.
fn up(number: u64) -> Change {
    let address = |port| format!("10.0.0.{number}:{port}").into();
    Change::MemberUp(Member {
        name: NodeName::parse(&format!("n{number}")).expect("a name"),
        id: number,
        node_uuid: "".into(),
        host: format!("10.0.0.{number}").into(),
        peer_address: address(8300),
        http_address: address(8500),
        grpc_address: address(8502),
        version: "0.1.0".into(),
        rules: 1,
    })
}

/// The words of a command line: those of the first argument, and the others as they are.
fn words_of(command: &Command) -> Vec<String> {
    let mut values = command.args.iter().map(|argument| match argument {
        Argument::Positional(value) => value.clone(),
        other => other.to_string(),
    });
    let first = values.next().unwrap_or_default();
    first
        .split_whitespace()
        .map(ToOwned::to_owned)
        .chain(values)
        .collect()
}

impl Script {
    fn words(&self, command: &Command) -> Vec<String> {
        let files = self.files.path().display().to_string();
        let words = words_of(command).into_iter();
        words.map(|word| word.replace("TMP", &files)).collect()
    }

    fn spine(&self, words: Vec<String>) -> (Exit, String, String) {
        self.runtime.block_on(self.task(words))
    }

    /// Runs a command line against the server.
    fn task(&self, words: Vec<String>) -> impl Future<Output = (Exit, String, String)> + use<> {
        let (address, input, terminal) = (self.address.clone(), self.input.clone(), self.terminal);
        let screen = self.screen.clone();
        async move {
            let connects = words
                .first()
                .is_some_and(|word| !["version", "completion"].contains(&word.as_str()));
            let at = connects && !words.iter().any(|word| word == "--addr");
            let place = at
                .then(|| vec!["--addr".to_owned(), address])
                .into_iter()
                .flatten();
            // Behind the command's name: what `lock` runs takes all that stands behind `--`.
            let (name, rest) = words.split_at(words.len().min(1));
            let line = ["spine".to_owned()].into_iter().chain(name.to_vec());
            let line = line.chain(place).chain(rest.to_vec());
            let program = match Program::try_parse_from(line) {
                Ok(program) => program,
                Err(error) => return (Exit::Usage, String::new(), error.to_string()),
            };
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let target = || {
                screen
                    .as_ref()
                    .map_or_else(ProgressDrawTarget::hidden, Screen::target)
            };
            let mut streams = Streams {
                out: &mut out,
                err: &mut err,
                input: &mut &input[..],
                terminal,
                progress: &target,
            };
            let running = cli::run(program.command, Program::command(), &mut streams);
            let exit = tokio::time::timeout(PATIENCE, running)
                .await
                .expect("no command goes on for ever");
            (
                exit,
                String::from_utf8_lossy(&out).into_owned(),
                String::from_utf8_lossy(&err).into_owned(),
            )
        }
    }

    fn shown(&self, (exit, out, err): (Exit, String, String)) -> String {
        let mut shown = out;
        for line in err.lines().filter(|line| !line.is_empty()) {
            if !shown.is_empty() && !shown.ends_with('\n') {
                shown.push('\n');
            }
            let _ = write!(shown, "! {}", line.replace(&self.address, "ADDR"));
        }
        if exit != Exit::Ok {
            let _ = write!(shown, "\nexit {} {exit:?}", exit.code());
        }
        let files = self.files.path().display().to_string();
        masked(&shown.replace(&files, "TMP"))
    }
}

/// Output without what differs from run to run: ids that are drawn, and checksums over them.
fn masked(shown: &str) -> String {
    let is_word = |c: char| c.is_ascii_hexdigit() || c == '-';
    let mut out = String::new();
    let mut rest = shown;
    while let Some(begin) = rest.find(is_word) {
        let (before, word) = rest.split_at(begin);
        let end = word.find(|c| !is_word(c)).unwrap_or(word.len());
        let (word, after) = word.split_at(end);
        let hex = word.chars().filter(char::is_ascii_hexdigit).count();
        out.push_str(before);
        out.push_str(match (word.len(), hex) {
            (64, 64) => "SHA256",
            (32, 32) if !word.contains('-') => "DIGEST",
            (36, 32) => "UUID",
            _ => word,
        });
        rest = after;
    }
    out.push_str(rest);
    out
}
