//! Everything is lost but a snapshot: three servers are wiped, one begins anew with it, and two others join that one. What the
//! lost servers gave out after the save stays theirs: no number of it is given again.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use spine_client::{Client, Error, KeyRange, Topic, proto as v1};
use spine_tests::{
    cluster::{Cluster, SERVERS},
    http,
    namespace::sealed,
    spine_process, wait,
};
use tokio::{runtime::Runtime, time::timeout};
use tonic::{Request, transport::Channel};

use super::PATIENCE;

/// Of the lease, the session and the check, which outlive the test.
const LONG: Duration = Duration::from_mins(50);

#[test]
fn what_was_saved_is_there_again_and_goes_on() {
    sealed("restored::what_was_saved_is_there_again_and_goes_on", || {
        let place = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let mut cluster = Cluster::start(place.path());
        let made = runtime.block_on(Made::make(&cluster));
        let before = runtime.block_on(Seen::at(&cluster, 0, &made));
        let file = place.path().join("saved");
        spine(&["snapshot", "save"], &file, &["--addr", &cluster.grpc_of_all(1)]);
        let late = runtime.block_on(Given::by(&cluster, 1));

        let lost = Instant::now();
        (0..SERVERS).for_each(|at| cluster.kill(at));
        (0..SERVERS).for_each(|at| cluster.wipe(at));
        let data = cluster.data(0).to_str().unwrap().to_owned();
        spine(&["snapshot", "restore"], &file, &["--data-dir", &data]);
        cluster.begin_alone(0);
        cluster.spawn(0);
        cluster.await_ready(0);
        println!(
            "one server serves what was saved {:?} after all were lost",
            lost.elapsed()
        );
        for at in 1..SERVERS {
            cluster.spawn(at);
            cluster.await_voter(at);
        }
        println!("three do after {:?}", lost.elapsed());

        for at in 0..SERVERS {
            let after = runtime.block_on(Seen::at(&cluster, at, &made));
            assert_eq!(after.rows, before.rows, "{}", cluster.name(at));
            assert_ne!(after.cluster, before.cluster, "it is a cluster of its own");
            assert!(after.index > late.index, "{} < {}", after.index, late.index);
            assert!(after.revision > late.revision);
            runtime.block_on(late.is_not_told(&cluster, at));
        }
        let given = runtime.block_on(Given::by(&cluster, 0));
        assert!(given.is_beyond(&late), "{late:?} and again {given:?}");
        runtime.block_on(made.goes_on(&cluster, &late));
    });
}

/// Runs a command of the binary to its end.
fn spine(words: &[&str], file: &Path, rest: &[&str]) {
    let mut command = Command::new(spine_process::binary());
    let ran = command.args(words).arg(file).args(rest).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{words:?}: {}: {said}", ran.status);
}

/// Numbers that a cluster has given: no client of it may meet them again as another's.
#[derive(Debug)]
struct Given {
    /// Of a write; guard of a later one, and a place to watch from.
    index: u64,
    /// Of the same write.
    revision: u64,
    /// A session for numbered requests.
    session: u64,
    /// The fencing number of a lock.
    fence: u64,
}

impl Given {
    /// Has one server give some.
    async fn by(cluster: &Cluster, at: usize) -> Self {
        let client = client(cluster, at);
        let session = open_session(cluster, at).await;
        let guard = client.lock("exclusive").acquire().await.unwrap();
        let fence = guard.fence();
        guard.release().await.unwrap();
        let written = client.kv.put("late", "x").await.unwrap();
        Self {
            index: written.index,
            revision: written.revision,
            session,
            fence,
        }
    }

    /// Whether each of them is greater than all of those.
    fn is_beyond(&self, those: &Self) -> bool {
        self.index > those.index
            && self.revision > those.revision
            && self.session > those.session
            && self.fence > those.fence
    }

    /// Who has them from another cluster is told that what lies between is gone.
    async fn is_not_told(&self, cluster: &Cluster, at: usize) {
        let client = client(cluster, at);
        let watch = client.watch.topics([Topic::prefix("")]).after(self.index);
        let told = async {
            let mut stream = watch.start().await?;
            stream.next().await
        };
        let told = timeout(PATIENCE, told).await.expect("it is told something");
        assert!(matches!(told, Err(Error::Compacted { .. })), "{told:?}");
        let old = client.kv.get_at("late", Some(self.revision)).await;
        assert!(
            matches!(&old, Err(Error::Refused(refusal)) if refusal.code == "compacted"),
            "{old:?}"
        );
        tokio::task::block_in_place(|| {
            let url = format!(
                "http://{}/v1/kv/late?index={}&wait=5m",
                cluster.http(at),
                self.index
            );
            let answer = http::get(&url).expect("a blocking query doesn't wait");
            assert_eq!(
                answer.status(),
                404,
                "what was written after the save is not there"
            );
        });
    }
}

/// What a client has made, and knows of.
struct Made {
    /// Of Consul, which holds the lock of the key `locked`.
    session: String,
    /// For numbered requests.
    requests: u64,
    /// Of the write that was numbered.
    numbered: v1::PutResponse,
    /// A lease that holds the key `data/leased`.
    lease: Vec<u8>,
}

impl Made {
    async fn make(cluster: &Cluster) -> Self {
        let client = client(cluster, 0);
        for version in ["first", "second", "third"] {
            client.kv.put("data/a", version).await.unwrap();
        }
        client.kv.put("data/gone", "x").await.unwrap();
        client.kv.delete(KeyRange::Key("data/gone".into())).await.unwrap();
        let lease = vec![7; 16];
        let granted = client.lease.grant_with(v1::LeaseGrantRequest {
            id: lease.clone().into(),
            ttl_ms: u64::try_from(LONG.as_millis()).unwrap(),
            ..v1::LeaseGrantRequest::default()
        });
        granted.await.unwrap();
        let leased = client.kv.put_with(v1::PutRequest {
            key: "data/leased".into(),
            value: "held".into(),
            lease: lease.clone().into(),
            ..v1::PutRequest::default()
        });
        leased.await.unwrap();

        let requests = open_session(cluster, 0).await;
        let numbered = put_numbered(cluster, 0, requests).await;
        tokio::task::block_in_place(|| Self {
            session: make_by_http(cluster),
            requests,
            numbered,
            lease,
        })
    }

    /// What was made goes on living where it is now.
    async fn goes_on(&self, cluster: &Cluster, late: &Given) {
        // The same request sent once more is answered as it was, and changes nothing.
        let again = put_numbered(cluster, 1, self.requests).await;
        assert_eq!(
            (again.index, again.revision),
            (self.numbered.index, self.numbered.revision)
        );
        for at in 0..SERVERS {
            let client = client(cluster, at);
            let put = client.kv.put("data/a", format!("fourth at {at}")).await.unwrap();
            assert!(put.index > late.index && put.revision > late.revision, "{put:?}");
        }
        // The lease is renewed, ends, and takes its key with it.
        let client = client(cluster, 2);
        let id = spine_client::LeaseId::from_bytes(&self.lease).unwrap();
        client.lease.renew(id).await.unwrap();
        client.lease.revoke(id).await.unwrap();
        assert_eq!(client.kv.get("data/leased").await.unwrap(), None);
        tokio::task::block_in_place(|| {
            let url = |path: &str| format!("http://{}{path}", cluster.http(1));
            let renewed = put_ok(&url(&format!("/v1/session/renew/{}", self.session)), "");
            assert_eq!(renewed[0]["ID"], json!(self.session));
            let other = put_ok(&url("/v1/session/create"), "{}");
            let other = other["ID"].as_str().unwrap();
            let taken = put_ok(&url(&format!("/v1/kv/locked?acquire={other}")), "x");
            assert_eq!(taken, json!(false), "it is held");
            put_ok(&url(&format!("/v1/session/destroy/{}", self.session)), "");
            let freed = http::get_json(&url("/v1/kv/locked")).unwrap();
            assert_eq!(freed[0]["Session"], json!(null), "{freed}");
            // What was registered through the second server reports there.
            put_ok(&url("/v1/agent/check/warn/service:photo-1"), "");
            wait::until_true("the service's report counts", PATIENCE, || {
                status(cluster, 2).is_some_and(|status| status == "warning")
            });
        });
    }
}

/// What is there, as one server says.
#[derive(Debug)]
struct Seen {
    cluster: String,
    index: u64,
    revision: u64,
    /// Questions and answers.
    rows: Vec<(&'static str, String)>,
}

impl Seen {
    async fn at(cluster: &Cluster, at: usize, made: &Made) -> Self {
        let client = client(cluster, at);
        let page = client.kv.page(v1::ListRequest {
            range: Some(KeyRange::Prefix("".into()).into()),
            ..v1::ListRequest::default()
        });
        let page = page.await.unwrap();
        let leases = client.lease.list().await.unwrap();
        let leases: Vec<_> = leases
            .iter()
            .map(|lease| (&lease.id, lease.ttl_ms, &lease.name))
            .collect();
        let mut rows = vec![
            ("keys", format!("{:?}", page.kvs)),
            ("leases", format!("{leases:?}")),
        ];
        let status = client.members.server_status().await.unwrap();
        tokio::task::block_in_place(|| {
            let get = |path: &str| http::get_json(&format!("http://{}{path}", cluster.http(at))).unwrap();
            let session = get(&format!("/v1/session/info/{}", made.session));
            let services = get("/v1/health/service/photo");
            let services: Vec<_> = services
                .as_array()
                .unwrap()
                .iter()
                .map(|row| &row["Service"])
                .collect();
            rows.extend([
                ("session", session.to_string()),
                ("services", format!("{services:?}")),
                ("a check", format!("{:?}", self::status(cluster, at))),
            ]);
        });
        Self {
            cluster: status.cluster_id,
            index: status.index,
            revision: page.revision,
            rows,
        }
    }
}

/// A service with a check, through the second server; a session that holds a lock, through the first. Gives the session.
fn make_by_http(cluster: &Cluster) -> String {
    let url = |at: usize, path: &str| format!("http://{}{path}", cluster.http(at));
    let service = json!({
        "Name": "photo", "ID": "photo-1", "Address": "10.0.0.7", "Port": 80, "Meta": {"version": "2"},
        "Weights": {"Passing": 3, "Warning": 1}, "Check": {"TTL": format!("{}s", LONG.as_secs())},
    });
    put_ok(&url(1, "/v1/agent/service/register"), &service.to_string());
    put_ok(&url(1, "/v1/agent/check/pass/service:photo-1?note=well"), "");
    let session = json!({"Name": "holder", "TTL": format!("{}s", LONG.as_secs())});
    let session = put_ok(&url(0, "/v1/session/create"), &session.to_string());
    let session = session["ID"].as_str().unwrap().to_owned();
    let taken = put_ok(
        &url(0, &format!("/v1/kv/locked?acquire={session}&flags=5")),
        "mine",
    );
    assert_eq!(taken, json!(true));
    session
}

/// The status of the service's check, as one server says.
fn status(cluster: &Cluster, at: usize) -> Option<Value> {
    let checks = http::get_json(&format!("http://{}/v1/health/checks/photo", cluster.http(at)))?;
    Some(checks[0]["Status"].clone())
}

/// The answer to a call that must succeed; null: none.
fn put_ok(url: &str, body: &str) -> Value {
    let answer = http::put(url, body).unwrap();
    let status = answer.status();
    let text = answer.text().unwrap();
    assert!(status.is_success(), "{url}: {status}: {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

fn client(cluster: &Cluster, at: usize) -> Client {
    let client = Client::connect(&cluster.grpc(at).to_string()).unwrap();
    client.within(PATIENCE / 2)
}

fn channel(cluster: &Cluster, at: usize) -> Channel {
    let address = format!("http://{}", cluster.grpc(at));
    Channel::from_shared(address).unwrap().connect_lazy()
}

async fn open_session(cluster: &Cluster, at: usize) -> u64 {
    let mut sessions = v1::sessions_client::SessionsClient::new(channel(cluster, at));
    let opened = sessions.open_session(v1::OpenSessionRequest {}).await;
    opened.unwrap().into_inner().session
}

/// The first request of a session.
async fn put_numbered(cluster: &Cluster, at: usize, session: u64) -> v1::PutResponse {
    let mut request = Request::new(v1::PutRequest {
        key: "data/numbered".into(),
        value: "once".into(),
        ..v1::PutRequest::default()
    });
    let number = format!("{session}:1:0").parse().unwrap();
    request.metadata_mut().insert("spine-request", number);
    request.set_timeout(PATIENCE / 2);
    let mut kv = v1::kv_client::KvClient::new(channel(cluster, at));
    kv.put(request).await.unwrap().into_inner()
}
