//! The programs in `client/examples`, as a reader of them would run them.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use spine_client::{Client, Registration};
use spine_tests::local_api::{LocalApi, local};

/// Where the examples are; built as the tests around them are.
fn examples() -> &'static Path {
    static EXAMPLES: OnceLock<PathBuf> = OnceLock::new();
    EXAMPLES.get_or_init(|| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
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

/// A registry, its address, and a client of it.
async fn registry() -> (LocalApi, String, Client) {
    let api = LocalApi::serve(local("").await);
    let address = api.address().to_string();
    let client = Client::connect(&address).unwrap();
    (api, address, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn lookup_says_where_a_service_is() {
    let (_api, address, client) = registry().await;
    let lookup = || Example::start("lookup", &[&address, "photo"]).rest();
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
    let (_api, address, client) = registry().await;
    let mut watch = Example::start("watch", &[&address, "photo"]);
    assert_eq!(watch.line().unwrap(), "0 of 0 instances pass");
    let mut register = Example::start("register", &[&address, "photo", "10.0.0.7", "80"]);
    assert_eq!(register.line().unwrap(), "photo@10.0.0.7:80 is registered on n1");
    assert_eq!(watch.line().unwrap(), "photo@10.0.0.7:80 is registered");
    while watch.line().unwrap() != "check service:photo@10.0.0.7:80 says Some(Passing)" {}
    assert_eq!(client.catalog.resolve("photo").await.unwrap().targets.len(), 1);

    let id = rustix::process::Pid::from_child(&register.child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert_eq!(register.rest(), ["photo@10.0.0.7:80 is gone"]);
    while watch.line().unwrap() != "photo@10.0.0.7:80 is gone" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn resolve_chooses_and_leaves_alone_what_fails() {
    let (api, address, client) = registry().await;
    // The registry itself listens there.
    let (host, port) = (api.address().ip().to_string(), api.address().port());
    let serves = Registration::new("photo", &host, port);
    client.catalog.register(serves).await.unwrap();
    let said = Example::start("resolve", &[&address, "photo", "3"]).rest();
    assert_eq!(said, vec![format!("{address} serves"); 3]);

    let dead = spine_tests::spine_process::free_address();
    let fails = Registration::new("dead", &dead.ip().to_string(), dead.port());
    client.catalog.register(fails).await.unwrap();
    let said = Example::start("resolve", &[&address, "dead", "4"]).rest();
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
    let (api, address, client) = registry().await;
    let itself = Registration::new("photo", &api.address().ip().to_string(), api.address().port());
    client.catalog.register(itself).await.unwrap();
    let said = Example::start("balanced", &[&address, "photo", "2"]).rest();
    assert_eq!(said, ["Serving", "Serving"]);
    let said = Example::start("balanced", &[&address, "nobody", "1"]).rest();
    assert_eq!(said, ["Unavailable: nobody has no instances"]);
}
