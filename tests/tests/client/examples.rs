//! The programs in `client/examples`, each as a reader of them would run it: against a server.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use spine_client::{Client, Registration};
use spine_tests::spine_process::{SpineProcess, free_address};

/// Where the examples are; built as the tests around them are.
fn examples() -> &'static Path {
    static EXAMPLES: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLES.get_or_init(|| {
        let mut cargo = spine_tests::cargo::cargo();
        let built = cargo
            .args(["build", "--workspace", "--examples"])
            .status()
            .unwrap();
        assert!(built.success(), "the examples do not build: {built}");
        let test = std::env::current_exe().unwrap();
        let profile = test.ancestors().find(|directory| directory.join("deps").is_dir());
        profile.unwrap().join("examples")
    })
}

/// A running example and what it says.
struct Example {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Example {
    fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(examples().join(name))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The next line that it says; none if it has ended.
    fn line(&mut self) -> Option<String> {
        self.lines.next().map(Result::unwrap)
    }

    /// The next line that begins so.
    fn until(&mut self, words: &str) -> String {
        loop {
            let line = self.line().expect("it says so before it ends");
            if line.starts_with(words) {
                return line;
            }
        }
    }

    /// As Ctrl-C does.
    fn interrupt(&self) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    }

    fn rest(mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.line() {
            lines.push(line);
        }
        assert!(self.child.wait().unwrap().success());
        lines
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server, where it serves the native API, and a client of it.
struct Served {
    _server: SpineProcess,
    grpc: SocketAddr,
    address: String,
    client: Client,
}

impl Served {
    fn start() -> Self {
        let (http, grpc) = (free_address(), free_address());
        let address = grpc.to_string();
        let http_address = http.to_string();
        let arguments = [
            "dev",
            "--name",
            "n1",
            "--http-addr",
            &http_address,
            "--grpc-addr",
            &address,
        ];
        let server = tokio::task::block_in_place(|| SpineProcess::start(arguments, http));
        Self {
            _server: server,
            grpc,
            client: Client::connect(&address).unwrap(),
            address,
        }
    }

    /// A service of this name that is the server itself.
    async fn register_itself(&self, name: &str) {
        let itself = Registration::new(name, &self.grpc.ip().to_string(), self.grpc.port());
        self.client.catalog.register(itself).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lookup_says_where_a_service_is() {
    let served = Served::start();
    let Served { address, client, .. } = &served;
    let lookup = || Example::start("lookup", &[address, "photo"]).rest();
    assert_eq!(lookup(), ["photo is not registered"]);
    client
        .catalog
        .register(Registration::new("photo", "10.0.0.7", 80).weight(3))
        .await
        .unwrap();
    assert_eq!(lookup(), ["10.0.0.7:80 with weight 3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn register_keeps_an_instance_alive_until_it_is_interrupted_and_watch_tells() {
    let served = Served::start();
    let Served { address, client, .. } = &served;
    let mut watch = Example::start("watch", &[address, "photo"]);
    assert_eq!(watch.line().unwrap(), "0 of 0 instances pass");
    let mut register = Example::start("register", &[address, "photo", "10.0.0.7", "80"]);
    assert_eq!(register.line().unwrap(), "photo@10.0.0.7:80 is registered on n1");
    assert_eq!(watch.line().unwrap(), "photo@10.0.0.7:80 is registered");
    while watch.line().unwrap() != "check service:photo@10.0.0.7:80 says Some(Passing)" {}
    assert_eq!(client.catalog.resolve("photo").await.unwrap().targets.len(), 1);

    register.interrupt();
    assert_eq!(register.rest(), ["photo@10.0.0.7:80 is gone"]);
    while watch.line().unwrap() != "photo@10.0.0.7:80 is gone" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn resolve_chooses_and_leaves_alone_what_fails() {
    let served = Served::start();
    let Served { address, client, .. } = &served;
    served.register_itself("photo").await;
    let said = Example::start("resolve", &[address, "photo", "3"]).rest();
    assert_eq!(said, vec![format!("{address} serves"); 3]);

    let dead = free_address();
    let fails = Registration::new("dead", &dead.ip().to_string(), dead.port());
    client.catalog.register(fails).await.unwrap();
    let said = Example::start("resolve", &[address, "dead", "4"]).rest();
    assert!(
        said[..3].iter().all(|line| line.starts_with(&dead.to_string())),
        "{said:?}"
    );
    assert!(
        said[3].starts_with("dead: requests to every instance have failed"),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn balanced_asks_the_instances() {
    let served = Served::start();
    let address = &served.address;
    served.register_itself("photo").await;
    let said = Example::start("balanced", &[address, "photo", "2"]).rest();
    assert_eq!(said, ["Serving", "Serving"]);
    let said = Example::start("balanced", &[address, "nobody", "1"]).rest();
    assert_eq!(said, ["Unavailable: nobody has no instances"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lock_waits_for_its_turn_and_is_refused_by_what_a_later_holder_has_touched() {
    let served = Served::start();
    let Served { address, client, .. } = &served;
    let lock = || client.lock("locks/account");
    let before = lock().acquire().await.unwrap();
    let mut waits = Example::start("lock", &[address, "account", "25"]);
    while lock().holder().await.unwrap().waiting == 0 {
        tokio::task::yield_now().await;
    }
    let fence = before.fence();
    before.release().await.unwrap();
    let number = number(&waits.line().unwrap(), "our turn, with number ");
    assert!(number > fence);
    assert_eq!(waits.rest(), ["the balance is 25"]);
    assert_eq!(lock().holder().await.unwrap().holder, None);

    let again = Example::start("lock", &[address, "account", "-5"]).rest();
    assert_eq!(again[1], "the balance is 20");
    // Somebody with a greater number has been at the account.
    client
        .kv
        .put("account", format!("{} 20", u64::MAX))
        .await
        .unwrap();
    let mut late = Example::start("lock", &[address, "account", "25"]);
    assert!(late.line().is_some());
    assert_eq!(late.line(), None);
    assert!(!late.child.wait().unwrap().success());
    assert_eq!(lock().holder().await.unwrap().holder, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn election_leads_until_it_is_interrupted_and_then_the_next_one_does() {
    let served = Served::start();
    let Served { address, client, .. } = &served;
    let campaigns = |own: &str| Example::start("election", &[address, "scheduler", own]);
    let mut first = campaigns("a:9000");
    let number_of_first = number(&first.until("we lead"), "we lead, with number ");
    let mut second = campaigns("b:9000");
    assert_eq!(second.until("a:9000"), "a:9000 leads");
    while client.lock("scheduler").holder().await.unwrap().waiting == 0 {
        tokio::task::yield_now().await;
    }

    first.interrupt();
    assert!(first.rest().contains(&"we have resigned".to_owned()));
    let number_of_second = number(&second.until("we lead"), "we lead, with number ");
    assert!(number_of_second > number_of_first);
    let leads = client.election("scheduler").leader().await.unwrap().leader;
    assert_eq!(leads.unwrap().value, "b:9000");

    // One that waits leaves at once, too.
    let mut third = campaigns("c:9000");
    assert_eq!(third.until("b:9000"), "b:9000 leads");
    while client.lock("scheduler").holder().await.unwrap().waiting == 0 {
        tokio::task::yield_now().await;
    }
    third.interrupt();
    third.rest();
    assert_eq!(client.lock("scheduler").holder().await.unwrap().waiting, 0);
    second.interrupt();
    second.rest();
    assert_eq!(client.election("scheduler").leader().await.unwrap().leader, None);
}

/// What stands behind these words.
fn number(line: &str, words: &str) -> u64 {
    line.strip_prefix(words).unwrap().parse().unwrap()
}

/// Each program has a test here that runs it.
#[test]
fn every_example_is_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../client/examples");
    let tests = include_str!("examples.rs");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(
            tests.contains(&format!("Example::start(\"{name}\"")),
            "no test runs the example {name}"
        );
    }
}
