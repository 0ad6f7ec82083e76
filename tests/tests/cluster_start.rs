//! Servers as processes that found a cluster, join one, come back to it with other addresses, leave it, and are refused where
//! their disk is not what it was.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use spine_tests::{http, spine_process, wait};

/// A start with an election, on a loaded machine.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// A refusal takes a round trip or two.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);
/// What a server ends with that is refused.
const REFUSED: i32 = 4;

/// A server, running or not.
struct Server {
    name: String,
    place: PathBuf,
    http: SocketAddr,
    grpc: SocketAddr,
    peer: SocketAddr,
    child: Option<Child>,
}

impl Server {
    fn new(place: &Path, name: &str) -> Self {
        let place = place.join(name);
        fs::create_dir_all(&place).unwrap();
        Self {
            name: name.to_owned(),
            place,
            http: spine_process::free_address(),
            grpc: spine_process::free_address(),
            peer: spine_process::free_address(),
            child: None,
        }
    }

    fn data(&self) -> PathBuf {
        self.place.join("data")
    }

    /// Starts with a list of founders; with none, alone and without a port for peers.
    fn start(&mut self, founders: Option<&str>) {
        match founders {
            Some(founders) => self.start_as(&["serve", "--initial-cluster", founders]),
            None => self.start_as(&["serve"]),
        }
    }

    /// Starts alone, with a port for peers.
    fn start_open(&mut self) {
        self.start_as(&["serve", "--peer-addr", &self.peer.to_string()]);
    }

    /// Joins the cluster of another, or comes back to it.
    fn join(&mut self, other: &Self) {
        let (own, seed) = (self.peer.to_string(), other.peer.to_string());
        self.start_as(&["join", &seed, "--peer-addr", &own]);
    }

    fn start_as(&mut self, arguments: &[&str]) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.place.join("log"))
            .unwrap();
        let mut command = Command::new(spine_process::binary());
        command
            .args(arguments)
            .args(["--governance", "open", "--name", &self.name])
            .args(["--http-addr", &self.http.to_string()])
            .args(["--grpc-addr", &self.grpc.to_string()])
            .arg("--data-dir")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn stop(&mut self) {
        let child = self.child.as_ref().unwrap();
        let id = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        let ended = self.ended();
        assert!(ended.success(), "{} ends in order: {ended}", self.name);
    }

    fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        wait::until("the server ends", REFUSED_WITHIN, || child.try_wait().unwrap())
    }

    /// Runs a command for a running cluster, asking this server.
    fn ask(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(spine_process::binary());
        let output = command
            .args(arguments)
            .args(["--addr", &self.grpc.to_string(), "--timeout", "30s"])
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    /// Waits until it says that the cluster has these members.
    fn await_members(&self, names: &[&str]) {
        wait::until_true("the members are these", READY_WITHIN, || {
            let (exit, said) = self.ask(&["members"]);
            let listed = said.lines().skip(1);
            let listed = listed.filter_map(|line| line.split_whitespace().next());
            exit == Some(0) && listed.eq(names.iter().copied())
        });
    }

    fn said(&self) -> String {
        fs::read_to_string(self.place.join("log")).unwrap_or_default()
    }

    /// Starts, and gives the last thing that it says as it is refused.
    fn refused(&mut self, founders: Option<&str>) -> String {
        if self.child.is_none() {
            self.start(founders);
        }
        let status = self.ended();
        let said = self.said();
        assert_eq!(status.code(), Some(REFUSED), "{said}");
        said.lines().last().unwrap_or_default().to_owned()
    }

    /// What `/readyz` says, with its status.
    fn readyz(&self) -> Option<(u16, String)> {
        let answer = http::get(&format!("http://{}/readyz", self.http))?;
        Some((answer.status().as_u16(), answer.text().ok()?))
    }

    fn await_ready(&mut self) {
        let what = format!("{} is ready", self.name);
        wait::until_true(&what, READY_WITHIN, || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                panic!("{} ended with {status}:\n{}", self.name, self.said());
            }
            self.readyz().is_some_and(|(status, _)| status == 200)
        });
    }

    /// Waits until it says that it is not ready, for these reasons.
    fn await_waiting(&self, names: &[&str], not: &[&str]) {
        wait::until_true("it says for whom it waits", READY_WITHIN, || {
            let Some((status, text)) = self.readyz() else {
                return false;
            };
            assert_eq!(status, 503, "{text}");
            let missing = |name: &&str| text.contains(&format!("{name} at "));
            names.iter().all(missing) && !not.iter().any(missing)
        });
    }

    /// The cluster, by its own words at its last start.
    fn cluster(&self) -> String {
        let said = self.said();
        let line = said
            .lines()
            .rev()
            .find(|line| line.contains("of cluster"))
            .unwrap();
        let (_, cluster) = line.split_once("of cluster ").unwrap();
        cluster.chars().take(36).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let text = format!("---- {} ----\n{}\n", self.name, self.said());
            let _ = std::io::copy(&mut text.as_bytes(), &mut std::io::stderr());
        }
    }
}

fn servers(place: &Path) -> ([Server; 3], String) {
    let servers = ["a", "b", "c"].map(|name| Server::new(place, name));
    let list = list(servers.iter());
    (servers, list)
}

fn list<'a>(servers: impl Iterator<Item = &'a Server>) -> String {
    let list: Vec<_> = servers
        .map(|server| format!("{}={}", server.name, server.peer))
        .collect();
    list.join(",")
}

fn found(servers: &mut [Server; 3], list: &str) {
    for server in servers.iter_mut() {
        server.start(Some(list));
    }
    for server in servers {
        server.await_ready();
    }
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn put(server: &Server, key: &str, value: &str) {
    let url = format!("http://{}/v1/kv/{key}", server.http);
    wait::until_true("the write is taken", READY_WITHIN, || {
        http::put(&url, value).is_some_and(|answer| answer.status().is_success())
    });
}

#[test]
fn three_found_one_cluster_in_any_order_and_come_back_to_it() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = servers(place.path());
    servers[2].start(Some(&list));
    servers[2].await_waiting(&["a", "b"], &["c"]);
    servers[1].start(Some(&list));
    servers[2].await_waiting(&["a"], &["b", "c"]);
    servers[1].await_waiting(&["a"], &["b", "c"]);
    assert!(
        servers[2].said().contains("missing a at "),
        "the log names them as well"
    );
    // A crash while it waits changes nothing.
    servers[1].kill();
    servers[2].await_waiting(&["a", "b"], &["c"]);
    servers[1].start(Some(&list));
    servers[0].start(Some(&list));
    for server in &mut servers {
        server.await_ready();
    }
    let cluster = servers[0].cluster();
    put(&servers[0], "kept", "yes");

    // All of them at once, as in a power cut.
    for server in &mut servers {
        server.kill();
    }
    // A later start needs a quorum: one alone waits for another, two serve.
    servers[2].start(Some(&list));
    servers[2].await_waiting(&["a", "b"], &["c"]);
    servers[0].start(Some(&list));
    servers[2].await_ready();
    servers[0].await_ready();
    servers[1].start(Some(&list));
    servers[1].await_ready();
    for server in &servers {
        assert_eq!(
            server.cluster(),
            cluster,
            "{} is in the same cluster",
            server.name
        );
        let kept = http::get(&format!("http://{}/v1/kv/kept?raw&stale", server.http)).unwrap();
        assert_eq!(kept.text().unwrap(), "yes");
    }
    for server in &mut servers {
        server.stop();
    }
}

#[test]
fn a_wiped_member_is_refused_and_the_others_go_on() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = servers(place.path());
    found(&mut servers, &list);
    let cluster = servers[0].cluster();
    for wiped in [0, 2] {
        servers[wiped].kill();
        let data = servers[wiped].data();
        fs::rename(&data, data.with_extension("away")).unwrap();
        let refused = servers[wiped].refused(Some(&list));
        assert!(
            refused.contains(&cluster)
                && refused.contains("this directory is new")
                && refused.contains("spine join"),
            "{refused}"
        );
        fs::remove_dir_all(&data).unwrap();
        fs::rename(data.with_extension("away"), &data).unwrap();
        servers[wiped].start(Some(&list));
        servers[wiped].await_ready();
    }
    put(&servers[1], "still", "here");
    // Nor does a member start as if it were alone.
    servers[1].kill();
    let refused = servers[1].refused(None);
    assert!(
        refused.contains("--initial-cluster") && refused.contains(&list),
        "{refused}"
    );
    // Its log alone being gone is worse than an empty disk.
    fs::remove_dir_all(servers[1].data().join("log")).unwrap();
    let refused = servers[1].refused(Some(&list));
    assert!(refused.contains("its log is gone"), "{refused}");
}

#[test]
fn an_old_copy_of_a_disk_is_refused_however_often_it_is_started() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = servers(place.path());
    found(&mut servers, &list);
    let (data, old, newest) = {
        let data = servers[2].data();
        (
            data.clone(),
            data.with_extension("old"),
            data.with_extension("newest"),
        )
    };
    servers[2].stop();
    copy_directory(&data, &old);
    servers[2].start(Some(&list));
    servers[2].await_ready();
    servers[2].kill();
    fs::rename(&data, &newest).unwrap();
    fs::rename(&old, &data).unwrap();
    for _ in 0..4 {
        let refused = servers[2].refused(Some(&list));
        assert!(
            refused.contains("an old copy of its disk") && refused.contains("spine join"),
            "{refused}"
        );
    }
    // The newest one is welcome.
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&newest, &data).unwrap();
    servers[2].start(Some(&list));
    servers[2].await_ready();
}

#[test]
fn who_has_another_list_is_refused_with_both() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = servers(place.path());
    let mut fourth = Server::new(place.path(), "d");
    let longer = self::list(servers.iter().chain([&fourth]));
    // Before the cluster is founded.
    servers[0].start(Some(&list));
    servers[0].await_waiting(&["b", "c"], &[]);
    let refused = fourth.refused(Some(&longer));
    assert!(refused.contains(&list) && refused.contains(&longer), "{refused}");
    servers[0].await_waiting(&["b", "c"], &[]);
    servers[1].start(Some(&list));
    servers[2].start(Some(&list));
    for server in &mut servers {
        server.await_ready();
    }
    // And after.
    let refused = fourth.refused(Some(&longer));
    assert!(
        refused.contains("without this server") && refused.contains(&list) && refused.contains("spine join"),
        "{refused}"
    );
    put(&servers[0], "still", "here");
}

#[test]
fn servers_join_and_leave_and_whoever_is_removed_stays_out() {
    let place = tempfile::tempdir().unwrap();
    let ([mut a, mut b, mut c], _) = servers(place.path());
    a.start_open();
    a.await_ready();
    put(&a, "kept", "yes");
    b.join(&a);
    b.await_ready();
    // Any member will do.
    c.join(&b);
    c.await_ready();
    a.await_members(&["a", "b", "c"]);
    assert_eq!(b.cluster(), a.cluster());

    // A name that is in use.
    let mut twin = Server::new(place.path(), "twin");
    twin.name = "c".to_owned();
    twin.join(&a);
    let refused = twin.refused(None);
    assert!(refused.contains("--name"), "{refused}");

    // One leaves, and ends in order.
    let (exit, said) = b.ask(&["leave"]);
    assert_eq!((exit, said.trim()), (Some(0), "b has left the cluster, and ends"));
    assert!(b.ended().success(), "{}", b.said());
    a.await_members(&["a", "c"]);
    b.join(&a);
    let refused = b.refused(None);
    assert!(
        refused.contains("b was removed from cluster") && refused.contains("spine join"),
        "{refused}"
    );

    // One is removed while it runs: it ends, refused.
    let (exit, said) = a.ask(&["members", "remove", "c"]);
    assert_eq!((exit, said.trim()), (Some(0), "c is a member no longer"));
    let refused = c.refused(None);
    assert!(refused.contains("c was removed from cluster"), "{refused}");
    a.await_members(&["a"]);
    let (exit, said) = a.ask(&["members", "remove", "x"]);
    assert_eq!(exit, Some(3), "{said}");
    let (exit, said) = a.ask(&["members", "remove", "a"]);
    assert!(exit == Some(REFUSED) && said.contains("the only voter"), "{said}");

    // As an empty one it is welcome.
    fs::remove_dir_all(c.data()).unwrap();
    c.join(&a);
    c.await_ready();
    let kept = http::get(&format!("http://{}/v1/kv/kept?raw&stale", c.http)).unwrap();
    assert_eq!(kept.text().unwrap(), "yes");
    for server in [&mut a, &mut c] {
        server.stop();
    }
}

#[test]
fn all_come_back_with_other_addresses() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = servers(place.path());
    found(&mut servers, &list);
    put(&servers[0], "kept", "yes");
    // With a new list for all of them.
    move_all(&mut servers);
    let moved = self::list(servers.iter());
    for server in &mut servers {
        server.start(Some(&moved));
    }
    await_moved(&mut servers);
    // And where each is told where one other is, and that one where another is.
    move_all(&mut servers);
    let [a, b, c] = &mut servers;
    a.join(b);
    b.join(a);
    c.join(a);
    await_moved(&mut servers);
    for server in &mut servers {
        server.stop();
    }
}

/// All end, and are to have other addresses.
fn move_all(servers: &mut [Server; 3]) {
    for server in servers {
        server.kill();
        server.peer = spine_process::free_address();
    }
}

/// Waits until all serve and the log knows where they are.
fn await_moved(servers: &mut [Server; 3]) {
    let mut places: Vec<_> = servers.iter().map(|server| server.peer.to_string()).collect();
    places.sort();
    for server in &mut *servers {
        server.await_ready();
        let kept = http::get(&format!("http://{}/v1/kv/kept?raw", server.http)).unwrap();
        assert_eq!(kept.text().unwrap(), "yes");
        wait::until_true("the peers are where they are", READY_WITHIN, || {
            let peers = http::get_json(&format!("http://{}/v1/status/peers", server.http));
            let peers = peers.and_then(|peers| serde_json::from_value::<Vec<String>>(peers).ok());
            peers.is_some_and(|mut peers| {
                peers.sort();
                peers == places
            })
        });
    }
}
