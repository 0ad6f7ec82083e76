//! The client against servers that do as they are told: what it tries again, what it doesn't, where a watch goes on.
#![expect(clippy::unwrap_used, reason = "all of this is tests")]

mod scripted;

use std::{
    error::Error as _,
    io::{self, ErrorKind},
    time::{Duration, Instant},
};

use scripted::{Act, Server};
use spine_client::{Batch, Client, Error, Guard, KeyRange, LeaseLost, Topic};

/// A client that doesn't wait long.
fn client(servers: &[&Server]) -> Client {
    let addresses: Vec<_> = servers.iter().map(|server| server.address.as_str()).collect();
    Client::builder(&addresses.join(","))
        .deadline(Duration::from_secs(2))
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_write_goes_on_to_the_next_server_while_nothing_was_written() {
    let gone = Server::start([]).await;
    let leaderless = Server::start([Act::Refuse("no_leader"); 9]).await;
    let starting = Server::start([Act::Refuse("not_ready"); 9]).await;
    let fine = Server::start([Act::Answer; 9]).await;
    let client = client(&[&gone, &leaderless, &starting, &fine]);
    gone.stop().await;
    for _ in 0..3 {
        client.kv.put("k", "v").await.unwrap();
    }
    assert_eq!(fine.calls(), 3);
}

#[tokio::test]
async fn a_write_without_an_answer_is_unknown_and_not_sent_again() {
    for act in [Act::Refuse("outcome_unknown"), Act::Hang, Act::Drop] {
        let first = Server::start([act; 1]).await;
        let client = client(&[&first]);
        let error = client.kv.put_if("k", "v", Guard::Absent).await.unwrap_err();
        assert!(matches!(error, Error::Unknown(_)), "{act:?}: {error:?}");
        assert_eq!(first.calls(), 1, "{act:?}");
    }
}

#[tokio::test]
async fn a_read_without_an_answer_is_asked_elsewhere() {
    for act in [Act::Hang, Act::Drop, Act::Refuse("shutting_down")] {
        let bad = Server::start([act; 9]).await;
        let fine = Server::start([Act::Answer; 9]).await;
        let client = client(&[&bad, &fine]);
        assert_eq!(
            client.kv.count(KeyRange::Prefix("".into())).await.unwrap(),
            7,
            "{act:?}"
        );
    }
}

#[tokio::test]
async fn a_refusal_is_final_and_says_what_to_do() {
    let server = Server::start([Act::Refuse("too_large")]).await;
    let error = client(&[&server]).kv.put("k", "v").await.unwrap_err();
    let Error::Refused(refusal) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(
        (refusal.code.as_str(), refusal.remedy.as_str()),
        ("too_large", "the remedy")
    );
    assert!(!refusal.not_found && error.is_not_applied());
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn without_a_leader_the_call_ends_at_its_deadline_and_says_so() {
    let server = Server::start([Act::Refuse("no_leader"); 99]).await;
    let deadline = Duration::from_millis(300);
    let client = Client::builder(&server.address)
        .deadline(deadline)
        .build()
        .unwrap();
    assert_eq!(client.kv.put("k", "v").await.unwrap_err(), Error::NoLeader);
    assert!(server.calls() > 1);
}

#[tokio::test]
async fn a_server_without_a_leader_is_left_for_one_that_has() {
    let cut_off = Server::start([Act::Refuse("no_leader"); 2]).await;
    let fine = Server::start([Act::Answer; 9]).await;
    let client = client(&[&cut_off, &fine]);
    for _ in 0..5 {
        client.kv.put("k", "v").await.unwrap();
    }
    assert!(cut_off.calls() <= 1, "it was asked {} times", cut_off.calls());
}

#[tokio::test]
async fn writes_go_to_the_leader_if_that_is_wanted_and_elsewhere_when_it_is_gone() {
    let follower = Server::start([Act::Answer; 99]).await;
    let leader = Server::start([Act::Answer; 99]).await;
    follower.name_leader(&leader);
    leader.name_leader(&leader);
    let addresses = format!("{},{}", follower.address, leader.address);
    let client = Client::builder(&addresses).prefer_leader(true).build().unwrap();
    client.kv.put("k", "v").await.unwrap();
    let (to_follower, to_leader) = (follower.calls(), leader.calls());
    for _ in 0..5 {
        client.kv.put("k", "v").await.unwrap();
    }
    assert_eq!((follower.calls(), leader.calls()), (to_follower, to_leader + 5));

    // The leader ends. It is asked once more, and not again.
    follower.name_leader(&follower);
    leader.go_on_with([Act::Refuse("shutting_down"); 9]);
    for _ in 0..5 {
        client.kv.put("k", "v").await.unwrap();
    }
    assert_eq!(
        (follower.calls(), leader.calls()),
        (to_follower + 5, to_leader + 6)
    );
}

#[tokio::test]
async fn nobody_there_is_told_at_once_to_those_who_do_not_wait() {
    let server = Server::start([]).await;
    let client = Client::builder(&server.address)
        .wait_for_server(false)
        .build()
        .unwrap();
    server.stop().await;
    let error = client.kv.put("k", "v").await.unwrap_err();
    assert!(
        matches!(&error, Error::Unreachable(why) if why.as_str().contains("refused")),
        "{error:?}"
    );
    assert!(Client::connect("nowhere").is_err() && Client::connect("http://a:1").is_err());
}

#[tokio::test]
async fn the_token_is_shown() {
    let server = Server::start([Act::Answer]).await;
    let client = Client::builder(&server.address).token("s3cret").build().unwrap();
    client.kv.put("k", "v").await.unwrap();
    assert_eq!(server.authorization().as_deref(), Some("Bearer s3cret"));
    assert!(!format!("{client:?}").contains("s3cret"));
}

#[tokio::test]
async fn a_numbered_write_waits_for_its_session_no_longer_than_for_all() {
    let hung = Server::start([Act::Hang; 99]).await;
    let builder = Client::builder(&hung.address).exactly_once(true);
    let client = builder.deadline(Duration::from_millis(200)).build().unwrap();
    let puts: Vec<_> = (0..20).map(|_| client.kv.put("k", "v")).collect();
    // Others that may wait longer and open the session first keep nobody who may not.
    let patient = client.within(Duration::from_secs(4));
    let patient = async {
        patient.kv.put("k", "v").await.unwrap_err();
        panic!("a call of 4 s was over before those of 200 ms");
    };
    let ended = tokio::select! {
        biased;
        () = patient => unreachable!("it panics"),
        ended = futures::future::join_all(puts) => ended,
    };
    for put in ended {
        let error = put.unwrap_err();
        assert!(
            matches!(error, Error::Unreachable(_)) && error.is_not_applied(),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn what_is_in_doubt_is_not_made_certain_by_a_refusal_elsewhere() {
    // The first act is for the session that is opened.
    for lost in [Act::Drop, Act::Refuse("outcome_unknown")] {
        let first = Server::start([Act::Answer, lost, Act::Refuse("too_large")]).await;
        let second = first.twin().await;
        let addresses = format!("{},{}", first.address, second.address);
        let client = Client::builder(&addresses).exactly_once(true).build().unwrap();
        let error = client.kv.put("k", "v").await.unwrap_err();
        assert!(
            matches!(&error, Error::Unknown(why) if why.as_str().contains("it is too_large")),
            "{error:?}"
        );
        assert!(!error.is_not_applied());

        // What the cluster remembers under the number is the outcome of both.
        first.go_on_with([Act::Drop, Act::Refuse("unknown_lease")]);
        let error = client.kv.put("k", "v").await.unwrap_err();
        assert!(
            matches!(&error, Error::Refused(refusal) if refusal.code == "unknown_lease"),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_duration_without_an_end_is_none_that_panics() {
    let server = Server::start([Act::Answer, Act::Answer, Act::Answer, Act::Tell(&[(3, &[3])])]).await;
    let builder = Client::builder(&server.address).exactly_once(true);
    let client = builder.deadline(Duration::MAX).build().unwrap();
    client.kv.put("k", "v").await.unwrap();
    let client = client.within(Duration::MAX);
    client.kv.put("k", "v").await.unwrap();
    let watch = client.watch.topics([Topic::Everything]).after(2);
    let mut watch = watch.progress_every(Duration::MAX).start().await.unwrap();
    assert_eq!(watch.next().await.unwrap().index, 3);
}

#[tokio::test]
async fn a_watch_begins_elsewhere_when_a_server_hangs() {
    let first = Server::start([Act::Hang, Act::Tell(&[(3, &[3])]), Act::Tell(&[(3, &[3])])]).await;
    let second = first.twin().await;
    let client = client(&[&first, &second]);
    for _ in 0..2 {
        let watch = client.watch.topics([Topic::Everything]).after(2);
        assert_eq!(watch.start().await.unwrap().next().await.unwrap().index, 3);
    }
    let watched = first.watched();
    assert_eq!(
        watched[0].0, watched[1].0,
        "the next one does not begin at the hung one"
    );
}

#[tokio::test]
async fn a_server_that_hangs_gets_no_more_than_its_share_of_what_follows_either() {
    let share = Duration::from_secs(3);
    let client_of = |first: &Server, second: &Server| {
        let addresses = format!("{},{}", first.address, second.address);
        Client::builder(&addresses).deadline(share * 2).build().unwrap()
    };
    let watching = async {
        let acts = [Act::Tell(&[(3, &[3])]), Act::Hang, Act::Tell(&[(4, &[4])])];
        let first = Server::start(acts).await;
        let second = first.twin().await;
        let client = client_of(&first, &second);
        let watch = client.watch.topics([Topic::Everything]).after(2);
        let mut watch = watch.start().await.unwrap();
        assert_eq!(watch.next().await.unwrap().index, 3);
        let began = Instant::now();
        assert_eq!(watch.next().await.unwrap().index, 4);
        began.elapsed()
    };
    let observing = async {
        let first = Server::start([Act::Hang, Act::Answer]).await;
        let second = first.twin().await;
        let client = client_of(&first, &second);
        let began = Instant::now();
        assert_eq!(client.election("leader").observe().next().await.unwrap(), None);
        assert_eq!(first.calls(), 2);
        began.elapsed()
    };
    let (watching, observing) = tokio::join!(watching, observing);
    for took in [watching, observing] {
        assert!(share <= took && took < share * 2, "{took:?}");
    }
}

#[tokio::test]
async fn an_error_names_its_cause() {
    let status = |error: &Error| error.source()?.downcast_ref::<tonic::Status>().cloned();
    let gone = Server::start([]).await;
    let impatient = Client::builder(&gone.address).wait_for_server(false);
    let impatient = impatient.build().unwrap();
    gone.stop().await;
    let refused = impatient.kv.put("k", "v").await.unwrap_err();
    let causes = std::iter::successors(refused.source(), |cause| (*cause).source());
    let mut of_the_system = causes.filter_map(|cause| cause.downcast_ref::<io::Error>());
    assert!(
        of_the_system.any(|error| error.kind() == ErrorKind::ConnectionRefused),
        "{refused:?}: {:?}",
        refused.source()
    );

    let server = Server::start([Act::Drop, Act::Refuse("outcome_unknown")]).await;
    let client = client(&[&server]);
    let broken = client.kv.put("k", "v").await.unwrap_err();
    assert_eq!(status(&broken).unwrap().code(), tonic::Code::Unavailable);
    let unknown = client.kv.put("k", "v").await.unwrap_err();
    let told = status(&unknown).unwrap();
    assert_eq!(told.metadata().get("spine-code").unwrap(), "outcome_unknown");

    // The rules are the cause themselves.
    let server = Server::start([Act::Refuse("too_large")]).await;
    let refused = self::client(&[&server]).kv.put("k", "v").await.unwrap_err();
    assert!(refused.source().is_none());
}

#[tokio::test]
async fn a_watch_goes_on_elsewhere_without_gap_or_repetition() {
    // Request 4 has three events. The first stream breaks after two of them; the second begins with 4 again.
    let acts = [
        Act::Tell(&[(3, &[3]), (3, &[4, 4])]),
        Act::Tell(&[(3, &[4]), (5, &[4, 4, 5])]),
    ];
    let first = Server::start(acts).await;
    let second = first.twin().await;
    let client = client(&[&first, &second]);
    let mut watch = client
        .watch
        .topics([Topic::Everything])
        .after(2)
        .start()
        .await
        .unwrap();
    let mut told = Vec::new();
    while watch.index() < 5 {
        let Batch { events, .. } = watch.next().await.unwrap();
        told.extend(events.iter().map(|event| event.index));
    }
    assert_eq!(told, [3, 4, 4, 4, 5]);
    let asked = first.watched();
    assert_eq!(
        asked.iter().map(|(_, from)| *from).collect::<Vec<_>>(),
        [Some(2), Some(3)]
    );
    assert_ne!(asked[0].0, asked[1].0, "the second stream is at the other server");
    // The first can't know it; the second says of which cluster the place is.
    assert_eq!(first.clusters(), ["", scripted::CLUSTER]);
}

#[tokio::test]
async fn a_watch_ends_where_its_changes_are_no_longer_kept() {
    let server = Server::start([Act::Refuse("compacted")]).await;
    let begun = client(&[&server])
        .watch
        .topics([Topic::prefix("a/")])
        .after(7)
        .start()
        .await;
    assert_eq!(begun.unwrap_err(), Error::Compacted { oldest: 42 });

    // In the middle, too: the stream that goes on finds that what it wants is gone.
    let server = Server::start([Act::Tell(&[(3, &[3])]), Act::Refuse("compacted")]).await;
    let mut watch = client(&[&server])
        .watch
        .topics([Topic::prefix("a/")])
        .after(2)
        .start()
        .await
        .unwrap();
    assert_eq!(watch.next().await.unwrap().index, 3);
    assert_eq!(watch.next().await.unwrap_err(), Error::Compacted { oldest: 42 });
}

#[tokio::test]
async fn a_lease_is_known_to_be_lost_before_the_cluster_lets_others_have_what_hung_on_it() {
    let ttl = Duration::from_secs(10);
    for silent in [Act::Hang, Act::Refuse("no_leader")] {
        // After the grant nobody hears a renewal any more.
        let server = Server::start([Act::Answer]).await;
        let lease = client(&[&server]).lease.grant(ttl).await.unwrap();
        server.go_on_with([silent; 500]);
        // The server counts from when it heard of the lease at the earliest. No answer is on its way, so time can jump.
        let ends = server.first_call() + ttl;
        tokio::time::pause();
        assert_eq!(lease.lost().await, LeaseLost::Unsure);
        let left = ends.checked_duration_since(tokio::time::Instant::now());
        assert!(left.is_some(), "{silent:?}: {:?} late", ends.elapsed());
        assert!(left < Some(ttl / 20), "{silent:?}: {left:?} too early");
        assert_eq!(lease.is_lost(), Some(LeaseLost::Unsure));
        tokio::time::resume();
    }
}

/// Waits until the client speaks to these servers.
async fn until_servers(client: &Client, wanted: &[&str]) {
    let reached = async {
        while client.servers() != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let reached = tokio::time::timeout(Duration::from_secs(30), reached).await;
    assert!(reached.is_ok(), "{:?} and not {wanted:?}", client.servers());
}

#[tokio::test]
async fn a_client_that_follows_the_members_goes_on_at_servers_that_it_was_not_named() {
    let first = Server::start([Act::Answer; 9]).await;
    let second = Server::start([Act::Answer; 9]).await;
    let third = Server::start([Act::Answer; 9]).await;
    first.name_members(&[&first, &second]);
    second.name_members(&[&third]);
    let builder = Client::builder(&first.address)
        .deadline(Duration::from_secs(20))
        .follow_members(true);
    let client = builder.build().unwrap();
    client.kv.put("k", "v").await.unwrap();
    until_servers(&client, &[&first.address, &second.address]).await;
    assert_eq!(second.calls(), 0);

    // The failure of one has the members read anew, at another that was learned of.
    first.go_on_with([Act::Refuse("shutting_down"); 9]);
    first.name_members(&[]);
    client.kv.put("k", "v").await.unwrap();
    assert_eq!(second.calls(), 1);
    until_servers(&client, &[&third.address, &first.address]).await;
    client.kv.put("k", "v").await.unwrap();
    assert_eq!(third.calls(), 1);
}

#[tokio::test]
async fn a_client_speaks_to_nobody_but_those_named_unless_told() {
    let first = Server::start([Act::Answer; 9]).await;
    let second = Server::start([Act::Answer; 9]).await;
    first.name_members(&[&second]);
    let client = client(&[&first]);
    client.kv.put("k", "v").await.unwrap();
    assert_eq!(client.servers(), std::slice::from_ref(&first.address));
}
