//! Three servers of the real binary whose quota is small: writes become slow before they are refused, an operator sees it
//! everywhere, deletes go through, and once they have made room all of it ends by itself.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    process::Command,
    time::{Duration, Instant},
};

use spine_client::{Client, Error, KeyRange};
use spine_tests::{
    cluster::{Cluster, SERVERS},
    http, spine_process, wait,
};
use tokio::runtime::Runtime;

/// The smallest that may be set.
const QUOTA: u32 = 16 << 20;
const VALUE_BYTES: usize = 128 << 10;
const PATIENCE: Duration = Duration::from_mins(1);

/// The servers, and somebody who writes.
struct Setting {
    cluster: Cluster,
    runtime: Runtime,
    client: Client,
}

/// What putting until it was refused was like.
struct Filled {
    /// The bytes of state before each put, and what it took.
    puts: Vec<(f64, Duration)>,
    /// How it was refused.
    refused: Error,
}

impl Setting {
    fn start() -> (tempfile::TempDir, Self) {
        let place = tempfile::tempdir().unwrap();
        let cluster = Cluster::start_with(place.path(), &["--state-quota-bytes", &QUOTA.to_string()]);
        let runtime = Runtime::new().unwrap();
        let inside = runtime.enter();
        let client = Client::connect(&cluster.grpc(cluster.leader()).to_string()).unwrap();
        drop(inside);
        let setting = Self {
            cluster,
            runtime,
            client,
        };
        for at in 0..SERVERS {
            setting.until_metric(at, "spine_state_quota_bytes", |quota| {
                quota >= f64::from(QUOTA) && quota <= f64::from(QUOTA)
            });
        }
        (place, setting)
    }

    /// Puts other keys below `prefix` until one is refused.
    fn fill(&self, prefix: &str) -> Filled {
        let leader = self.cluster.leader();
        let mut puts = Vec::new();
        loop {
            let used = self.cluster.metric(leader, "spine_state_bytes").unwrap();
            let key = format!("{prefix}/{}", puts.len());
            let began = Instant::now();
            match self
                .runtime
                .block_on(self.client.kv.put(key, vec![b'v'; VALUE_BYTES]))
            {
                Ok(_) => puts.push((used, began.elapsed())),
                Err(refused) => return Filled { puts, refused },
            }
            assert!(puts.len() < 1_000, "nothing is refused");
        }
    }

    fn delete(&self, range: KeyRange) -> u64 {
        let deleted = self.runtime.block_on(self.client.kv.delete(range));
        deleted.expect("deletes are always allowed").deleted
    }

    fn until_metric(&self, at: usize, name: &str, wanted: impl Fn(f64) -> bool) {
        let what = format!("{name} of n{} is as it should be", at + 1);
        wait::until_true(&what, PATIENCE, || {
            self.cluster.metric(at, name).is_some_and(&wanted)
        });
    }

    /// All servers show the alarm, or none does.
    fn until_alarm(&self, is_on: bool) {
        for at in 0..SERVERS {
            self.until_metric(at, "spine_state_quota_alarm", |alarm| (alarm >= 1.0) == is_on);
        }
    }

    /// The results of `spine doctor`'s look at the quota.
    fn doctor(&self) -> Vec<String> {
        let output = Command::new(spine_process::binary())
            .args([
                "doctor",
                "-o",
                "json",
                "--addr",
                &self.cluster.grpc(0).to_string(),
            ])
            .output()
            .unwrap();
        let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
        let of_quota = findings.iter().filter(|finding| finding["check"] == "quota");
        of_quota
            .map(|finding| finding["result"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Filled {
    /// The median of what puts took while these many tenths of the quota were used.
    fn median(&self, tenths: std::ops::Range<f64>) -> Duration {
        let within = |used: f64| tenths.contains(&(used / f64::from(QUOTA) * 10.0));
        let taken = self.puts.iter().filter(|(used, _)| within(*used));
        let mut taken: Vec<_> = taken.map(|(_, took)| *took).collect();
        taken.sort_unstable();
        taken[taken.len() / 2]
    }
}

#[test]
fn growth_is_slowed_down_then_refused_until_deletes_have_made_room() {
    let (_place, setting) = Setting::start();
    setting.until_alarm(false);
    assert_eq!(setting.doctor(), ["ok"]);

    let filled = setting.fill("a");
    let (free, near, last) = (
        filled.median(0.0..9.0),
        filled.median(9.0..10.0),
        filled.puts.iter().map(|(_, took)| *took).max().unwrap(),
    );
    println!(
        "{} puts of {VALUE_BYTES} bytes, then refused: below nine tenths half within {free:.1?}, above within {near:.1?}, \
         longest {last:.1?}",
        filled.puts.len()
    );
    // It waits for 0 to 500 ms there, 250 in the middle.
    assert!(near > free + Duration::from_millis(100), "no back-pressure");

    // Refused, and an operator sees why.
    let Error::Refused(refusal) = &filled.refused else {
        panic!("{:?}", filled.refused)
    };
    assert_eq!((refusal.code.as_str(), refusal.retry), ("quota_exceeded", true));
    assert!(
        refusal.message.contains(&format!(
            "of {QUOTA}: delete keys or services before writing more"
        )),
        "{refusal}"
    );
    for at in 0..SERVERS {
        let answer = http::put(&format!("http://{}/v1/kv/more", setting.cluster.http(at)), "x").unwrap();
        assert_eq!(answer.status(), 429);
        let said = answer.text().unwrap();
        assert!(
            said.starts_with("The state holds ") && said.contains("delete keys or services"),
            "{said}"
        );
        let service = r#"{"Name":"more","Port":1}"#;
        let url = format!("http://{}/v1/agent/service/register", setting.cluster.http(at));
        assert_eq!(http::put(&url, service).unwrap().status(), 429);
    }
    setting.until_alarm(true);
    assert_eq!(setting.doctor(), ["fail"; SERVERS]);

    // All goes at one stroke: it is history of a single revision, which goes, too.
    let deleted = setting.delete(KeyRange::Prefix("a/".into()));
    assert_eq!(deleted, filled.puts.len() as u64);
    let began = Instant::now();
    setting.until_alarm(false);
    println!("the alarm ended {:.1?} after the delete", began.elapsed());
    wait::until_true("the doctor finds it well", PATIENCE, || {
        setting.doctor() == ["ok"]
    });

    // Puts work again, as fast as before; and it goes on like this for as long as one likes.
    let again = setting.fill("b");
    assert!(
        again.puts.len() * 10 > filled.puts.len() * 9,
        "{} puts",
        again.puts.len()
    );
    assert!(again.median(0.0..9.0) < near, "{:?}", again.median(0.0..9.0));
    for number in 0..again.puts.len() {
        setting.delete(KeyRange::Key(format!("b/{number}").into()));
    }
    setting.until_alarm(false);
    setting.cluster.must_agree();
}

/// The quota belongs to the cluster: whoever leads sets the one that it was told, and the others go by it.
#[test]
fn another_quota_holds_once_a_leader_is_told() {
    let place = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(place.path());
    let holds = |cluster: &Cluster, bytes: u64| {
        for at in 0..SERVERS {
            wait::until_true("the quota holds", PATIENCE, || {
                let quota = cluster.metric(at, "spine_state_quota_bytes");
                quota.is_some_and(|quota| quota.to_string() == bytes.to_string())
            });
        }
    };
    holds(&cluster, 4 << 30);
    let quota = QUOTA.to_string();
    let restart = |cluster: &mut Cluster, options: &[&str]| {
        for at in 0..SERVERS {
            cluster.ask_to_stop(at);
            cluster.await_stopped(at);
            cluster.is_to_run(at, spine_process::binary(), options);
            cluster.spawn(at);
            cluster.await_ready(at);
        }
    };
    restart(&mut cluster, &["--state-quota-bytes", &quota]);
    holds(&cluster, QUOTA.into());
    cluster.must_agree();
    // And what is said no longer doesn't stay.
    restart(&mut cluster, &[]);
    holds(&cluster, 4 << 30);
    cluster.must_agree();
}
