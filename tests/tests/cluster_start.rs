//! Servers as processes that found a cluster, join one, come back to it with other addresses, leave it, and are refused where
//! their disk is not what it was.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{fs, path::Path, process::Command, time::Duration};

use spine_tests::{
    http,
    server::{self, REFUSED, Server},
    spine_process, wait,
};

/// A start with an election, on a loaded machine.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// Runs a command for a running cluster, asking this server.
fn ask(server: &Server, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(spine_process::binary());
    let output = command
        .args(arguments)
        .args(["--addr", &server.grpc.to_string(), "--timeout", "30s"])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

/// Waits until it says that the cluster has these members, and that each has a vote.
fn await_members(server: &Server, names: &[&str]) {
    wait::until_true("the members are these, and vote", READY_WITHIN, || {
        let (exit, said) = ask(server, &["members"]);
        let listed = said.lines().skip(1).filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.nth(1)?))
        });
        exit == Some(0) && listed.eq(names.iter().map(|name| (*name, "votes")))
    });
}

/// What `/readyz` says, with its status.
fn readyz(server: &Server) -> Option<(u16, String)> {
    let answer = http::get(&format!("http://{}/readyz", server.http))?;
    Some((answer.status().as_u16(), answer.text().ok()?))
}

/// Waits until it says that it is not ready, for these reasons.
fn await_waiting(server: &Server, names: &[&str], not: &[&str]) {
    wait::until_true("it says for whom it waits", READY_WITHIN, || {
        let Some((status, text)) = readyz(server) else {
            return false;
        };
        assert_eq!(status, 503, "{text}");
        let missing = |name: &&str| text.contains(&format!("{name} at "));
        names.iter().all(missing) && !not.iter().any(missing)
    });
}

/// The cluster, by its own words at its last start.
fn cluster_of(server: &Server) -> String {
    let said = server.said();
    let line = said
        .lines()
        .rev()
        .find(|line| line.contains("of cluster"))
        .unwrap();
    let (_, cluster) = line.split_once("of cluster ").unwrap();
    cluster.chars().take(36).collect()
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
    wait::until_true("the write is taken", READY_WITHIN, || server.put(key, value));
}

#[test]
fn three_found_one_cluster_in_any_order_and_come_back_to_it() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = server::three(place.path(), ["a", "b", "c"]);
    servers[2].found(&list);
    await_waiting(&servers[2], &["a", "b"], &["c"]);
    servers[1].found(&list);
    await_waiting(&servers[2], &["a"], &["b", "c"]);
    await_waiting(&servers[1], &["a"], &["b", "c"]);
    assert!(
        servers[2].said().contains("missing a at "),
        "the log names them as well"
    );
    // A crash while it waits changes nothing.
    servers[1].kill();
    await_waiting(&servers[2], &["a", "b"], &["c"]);
    servers[1].found(&list);
    servers[0].found(&list);
    for server in &mut servers {
        server.await_ready();
    }
    let cluster = cluster_of(&servers[0]);
    put(&servers[0], "kept", "yes");

    // All of them at once, as in a power cut.
    for server in &mut servers {
        server.kill();
    }
    // A later start needs a quorum: one alone waits for another, two serve.
    servers[2].found(&list);
    await_waiting(&servers[2], &["a", "b"], &["c"]);
    servers[0].found(&list);
    servers[2].await_ready();
    servers[0].await_ready();
    servers[1].found(&list);
    servers[1].await_ready();
    for server in &servers {
        assert_eq!(
            cluster_of(server),
            cluster,
            "{} is in the same cluster",
            server.name
        );
        assert_eq!(server.get_stale("kept").as_deref(), Some("yes"));
    }
    for server in &mut servers {
        server.stop();
    }
}

#[test]
fn a_wiped_member_is_refused_and_the_others_go_on() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = server::three(place.path(), ["a", "b", "c"]);
    server::found(&mut servers, &list);
    let cluster = cluster_of(&servers[0]);
    for wiped in [0, 2] {
        servers[wiped].kill();
        let data = servers[wiped].data();
        fs::rename(&data, data.with_extension("away")).unwrap();
        servers[wiped].found(&list);
        let refused = servers[wiped].refused();
        assert!(
            refused.contains(&cluster)
                && refused.contains("this directory is new")
                && refused.contains("spine join"),
            "{refused}"
        );
        fs::remove_dir_all(&data).unwrap();
        fs::rename(data.with_extension("away"), &data).unwrap();
        servers[wiped].found(&list);
        servers[wiped].await_ready();
    }
    put(&servers[1], "still", "here");
    // Nor does a member start as if it were alone.
    servers[1].kill();
    servers[1].start(&["serve"]);
    let refused = servers[1].refused();
    assert!(
        refused.contains("--initial-cluster") && refused.contains(&list),
        "{refused}"
    );
    // Its log alone being gone is worse than an empty disk.
    fs::remove_dir_all(servers[1].data().join("log")).unwrap();
    servers[1].found(&list);
    let refused = servers[1].refused();
    assert!(refused.contains("its log is gone"), "{refused}");
}

#[test]
fn an_old_copy_of_a_disk_is_refused_however_often_it_is_started() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = server::three(place.path(), ["a", "b", "c"]);
    server::found(&mut servers, &list);
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
    servers[2].found(&list);
    servers[2].await_ready();
    servers[2].kill();
    fs::rename(&data, &newest).unwrap();
    fs::rename(&old, &data).unwrap();
    for _ in 0..4 {
        servers[2].found(&list);
        let refused = servers[2].refused();
        assert!(
            refused.contains("an old copy of its disk") && refused.contains("spine join"),
            "{refused}"
        );
    }
    // The newest one is welcome.
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&newest, &data).unwrap();
    servers[2].found(&list);
    servers[2].await_ready();
}

#[test]
fn who_has_another_list_is_refused_with_both() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = server::three(place.path(), ["a", "b", "c"]);
    let mut fourth = Server::new(place.path(), "d");
    let longer = server::founders(servers.iter().chain([&fourth]));
    // Before the cluster is founded.
    servers[0].found(&list);
    await_waiting(&servers[0], &["b", "c"], &[]);
    fourth.found(&longer);
    let refused = fourth.refused();
    assert!(refused.contains(&list) && refused.contains(&longer), "{refused}");
    await_waiting(&servers[0], &["b", "c"], &[]);
    servers[1].found(&list);
    servers[2].found(&list);
    for server in &mut servers {
        server.await_ready();
    }
    // And after.
    fourth.found(&longer);
    let refused = fourth.refused();
    assert!(
        refused.contains("without this server") && refused.contains(&list) && refused.contains("spine join"),
        "{refused}"
    );
    put(&servers[0], "still", "here");
}

#[test]
fn servers_join_and_leave_and_whoever_is_removed_stays_out() {
    let place = tempfile::tempdir().unwrap();
    let ([mut a, mut b, mut c], _) = server::three(place.path(), ["a", "b", "c"]);
    a.start(&["serve", "--peer-addr", &a.peer.to_string()]);
    a.await_ready();
    put(&a, "kept", "yes");
    b.join(a.peer, &[]);
    b.await_ready();
    // Any member will do.
    c.join(b.peer, &[]);
    c.await_ready();
    await_members(&a, &["a", "b", "c"]);
    assert_eq!(cluster_of(&b), cluster_of(&a));

    // A name that is in use.
    let mut twin = Server::new(place.path(), "twin");
    twin.name = "c".to_owned();
    twin.join(a.peer, &[]);
    let refused = twin.refused();
    assert!(refused.contains("--name"), "{refused}");

    // One leaves, and ends in order.
    let (exit, said) = ask(&b, &["leave"]);
    assert_eq!((exit, said.trim()), (Some(0), "b has left the cluster, and ends"));
    assert!(b.ended().success(), "{}", b.said());
    await_members(&a, &["a", "c"]);
    b.join(a.peer, &[]);
    let refused = b.refused();
    assert!(
        refused.contains("b was removed from cluster") && refused.contains("spine join"),
        "{refused}"
    );

    // One is removed while it runs: it ends, refused.
    let (exit, said) = ask(&a, &["members", "remove", "c"]);
    assert_eq!((exit, said.trim()), (Some(0), "c is a member no longer"));
    let refused = c.refused();
    assert!(refused.contains("c was removed from cluster"), "{refused}");
    await_members(&a, &["a"]);
    let (exit, said) = ask(&a, &["members", "remove", "x"]);
    assert_eq!(exit, Some(3), "{said}");
    let (exit, said) = ask(&a, &["members", "remove", "a"]);
    assert!(exit == Some(REFUSED) && said.contains("the only voter"), "{said}");

    // As an empty one it is welcome.
    fs::remove_dir_all(c.data()).unwrap();
    c.join(a.peer, &[]);
    c.await_ready();
    assert_eq!(c.get_stale("kept").as_deref(), Some("yes"));
    for server in [&mut a, &mut c] {
        server.stop();
    }
}

#[test]
fn all_come_back_with_other_addresses() {
    let place = tempfile::tempdir().unwrap();
    let (mut servers, list) = server::three(place.path(), ["a", "b", "c"]);
    server::found(&mut servers, &list);
    put(&servers[0], "kept", "yes");
    // With a new list for all of them.
    move_all(&mut servers);
    let moved = server::founders(servers.iter());
    for server in &mut servers {
        server.found(&moved);
    }
    await_moved(&mut servers);
    // And where each is told where one other is, and that one where another is.
    move_all(&mut servers);
    let [a, b, c] = &mut servers;
    a.join(b.peer, &[]);
    b.join(a.peer, &[]);
    c.join(a.peer, &[]);
    await_moved(&mut servers);
    for server in &mut servers {
        server.stop();
    }
}

#[test]
fn halves_that_found_each_other_elsewhere_find_the_other_half() {
    let place = tempfile::tempdir().unwrap();
    let mut servers = ["a", "b", "c", "d"].map(|name| Server::new(place.path(), name));
    let list = server::founders(&servers);
    for server in &mut servers {
        server.found(&list);
    }
    for server in &mut servers {
        server.await_ready();
    }
    put(&servers[0], "kept", "yes");
    move_all(&mut servers);
    // Two find each other while the other two are not there yet,
    let [a, b, c, d] = &mut servers;
    let seeds = format!("{},{}", b.peer, c.peer);
    a.start(&["serve", "--join", &seeds, "--peer-addr", &a.peer.to_string()]);
    b.join(a.peer, &[]);
    for server in [&*a, b] {
        wait::until_true("it was recognized", READY_WITHIN, || {
            server.said().matches("storage opened").count() == 2
        });
    }
    // and those are told of each other alone.
    c.join(d.peer, &[]);
    d.join(c.peer, &[]);
    await_moved(&mut servers);
}

/// All end, and are to have other addresses.
fn move_all(servers: &mut [Server]) {
    for server in servers {
        server.kill();
        server.peer = spine_process::free_address();
    }
}

/// Waits until all serve and the log knows where they are.
fn await_moved(servers: &mut [Server]) {
    let mut places: Vec<_> = servers.iter().map(|server| server.peer.to_string()).collect();
    places.sort();
    for server in &mut *servers {
        server.await_ready();
        assert_eq!(server.get("kept").as_deref(), Some("yes"));
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
