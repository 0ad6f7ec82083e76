//! Golden scripts of Consul's HTTP API: requests go in, replies come out.
//!
//! Each script begins with a registry in memory that has one server, `n1`, and stops time: it passes when the
//! script says so. `UPDATE_GOLDENFILES=1` writes the output anew; then read it.

use std::{
    collections::BTreeMap,
    error::Error,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body};
use goldenscript::{Command, Context, Runner};
use http::{HeaderMap, Method, Request, Response, header};
use http_body_util::BodyExt;
use spine_api::{
    Context as Call, Registry,
    consul::{Host, Settings, hex_router, router},
    local::Local,
};
use spine_core::{
    CaRoot, Command as Change, Dialect, Member, MemberReport, MemberStatus, NodeName, Ttl, WallTime,
};
use tokio::{runtime::Runtime, task::JoinHandle};
use tower::ServiceExt;

fn scripts(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory of scripts") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            scripts(&path, found);
        } else {
            found.push(path);
        }
    }
    found.sort();
}

#[test]
fn scripts_say_what_is_answered() {
    let mut found = Vec::new();
    scripts(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/consul"),
        &mut found,
    );
    assert!(!found.is_empty(), "no scripts");
    for path in found {
        println!("{}", path.display());
        goldenscript::run(&mut Script::default(), &path).expect("the script runs");
    }
}

#[test]
fn a_script_with_another_output_fails() {
    let output = goldenscript::generate(
        &mut Script::default(),
        "GET \"/v1/status/leader\"\n---\n200 \"elsewhere\"\n",
    )
    .expect("it runs");
    assert!(
        output.contains("\"n1.example:8300\"") && !output.contains("elsewhere"),
        "{output}"
    );
}

#[test]
fn a_listener_may_have_the_hex_mount_at_its_root() {
    let mut script = Script::default();
    script.router = hex_router(script.local.clone(), settings());
    let session = "PUT \"/v1/kv/a\" '{\"Value\":\"6869\"}'\nGET \"/v1/kv/a\"\nGET \"/v1/kv/a?raw\"\n---\n";
    let output = goldenscript::generate(&mut script, session).expect("it runs");
    assert!(
        output.contains(r#""Value":"6869""#) && output.contains("\nhi\n"),
        "{output}"
    );
}

/// What only the node knows.
struct Around;

impl Host for Around {
    fn metrics(&self) -> String {
        "# TYPE spine_term gauge\nspine_term 1\n\
         # TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes 1048576\n\
         # TYPE spine_requests counter\nspine_requests_total{dialect=\"consul\"} 7\n\
         # TYPE spine_fsync_seconds histogram\nspine_fsync_seconds_sum 0.25\nspine_fsync_seconds_count 4\n\
         spine_fsync_seconds_bucket{le=\"1\"} 4\n"
            .into()
    }

    fn wall(&self) -> WallTime {
        WallTime(1_700_000_000_000)
    }
}

fn settings() -> Settings {
    Settings {
        datacenter: "dc1".into(),
        node: NodeName::parse("n1").expect("a name"),
        default_service_ttl: Some(Ttl::seconds(30)),
        version: "0.1.0".into(),
        host: Arc::new(Around),
    }
}

/// A registry with one server, the dialect in front of it, and requests that wait for an answer.
struct Script {
    runtime: Runtime,
    local: Arc<Local>,
    router: Router,
    begun: BTreeMap<String, JoinHandle<String>>,
}

impl Default for Script {
    fn default() -> Self {
        let local = Arc::new(Local::new(settings().node));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        let script = Self {
            runtime: runtime.expect("a runtime"),
            router: router(local.clone(), settings()),
            local,
            begun: BTreeMap::new(),
        };
        script.member("n1").expect("the first member");
        script
    }
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, context: &Context) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        match command.name.as_str() {
            // Sends a request, and waits for the reply in the background: begin NAME METHOD PATH
            "begin" => {
                let name = args.next_pos().ok_or("name not given")?.to_owned();
                let method = args.next_pos().ok_or("method not given")?.parse()?;
                let request = Self::request(method, &mut args)?;
                args.reject_next()?;
                let router = self.router.clone();
                let task = self
                    .runtime
                    .spawn(async move { show(router.oneshot(request).await, false).await });
                self.begun.insert(name, task);
                self.settle();
                Ok(String::new())
            }
            // Says what became of it: end NAME
            "end" => {
                let name = args.next_pos().ok_or("name not given")?.to_owned();
                args.reject_next()?;
                let Some(task) = self.begun.remove(&name) else {
                    return Ok("has been answered\n".into());
                };
                if task.is_finished() {
                    return Ok(self.runtime.block_on(task)?);
                }
                self.begun.insert(name, task);
                Ok("waits\n".into())
            }
            // Time passes: advance MILLISECONDS
            "advance" => {
                let ms: u64 = args.next_pos().ok_or("time not given")?.parse()?;
                args.reject_next()?;
                self.runtime
                    .block_on(tokio::time::advance(Duration::from_millis(ms)));
                self.local.advance(Ttl(ms));
                self.settle();
                Ok(String::new())
            }
            // The server loses its leader, or finds one: leaderless BOOL
            "leaderless" => {
                let leaderless = args.next_pos().ok_or("value not given")?.parse()?;
                args.reject_next()?;
                Ok(self.set_leaderless(leaderless))
            }
            // The leader loses a server, or hears it again: lose NAME, hear NAME
            "lose" | "hear" => {
                let name = args.next_pos().ok_or("name not given")?.to_owned();
                args.reject_next()?;
                let status = if command.name == "lose" {
                    MemberStatus::Failed
                } else {
                    MemberStatus::Alive
                };
                self.member_status(&name, status)
            }
            // Another server is there: member NAME
            "member" => {
                let name = args.next_pos().ok_or("name not given")?.to_owned();
                args.reject_next()?;
                self.member(&name)
            }
            // Newer rules are in force: raise RULES
            "raise" => {
                let rules = args.next_pos().ok_or("rules not given")?.parse()?;
                args.reject_next()?;
                self.change(Change::RulesRaise(rules))
            }
            // The CA has a root.
            "ca" => {
                args.reject_next()?;
                self.change(Change::CaRootSet(ca_root()))
            }
            // The server stops: nobody waits any more.
            "close" => {
                args.reject_next()?;
                self.local.hub().close();
                self.settle();
                Ok(String::new())
            }
            // Requests wait in the hub.
            "waiting" => {
                args.reject_next()?;
                Ok(format!("{}\n", self.local.hub().waiting()))
            }
            method => {
                let request = Self::request(method.parse()?, &mut args)?;
                args.reject_next()?;
                let all = context.tags.contains("headers");
                let router = self.router.clone();
                let shown = self
                    .runtime
                    .block_on(async { show(router.oneshot(request).await, all).await });
                self.settle();
                Ok(shown)
            }
        }
    }
}

impl Script {
    /// `PATH [BODY] [body_bytes=N] [HEADER=VALUE…]`
    fn request(
        method: Method,
        args: &mut goldenscript::ArgumentConsumer<'_>,
    ) -> Result<Request<Body>, Box<dyn Error>> {
        let path = args.next_pos().ok_or("path not given")?;
        let body = args.next_pos().unwrap_or_default();
        let mut request = Request::builder().method(method).uri(path);
        let mut body = Body::from(body.to_owned());
        while let Some((name, value)) = args.next_key() {
            if name == "body_bytes" {
                body = Body::from("x".repeat(value.parse()?));
            } else {
                request = request.header(name, value);
            }
        }
        Ok(request.body(body)?)
    }

    /// Lets every task run until it waits. Time stands still meanwhile.
    fn settle(&self) {
        self.runtime.block_on(async {
            for _ in 0..64 {
                tokio::task::yield_now().await;
            }
        });
    }

    fn set_leaderless(&self, leaderless: bool) -> String {
        self.local.set_leaderless(leaderless);
        self.settle();
        String::new()
    }

    fn member(&self, name: &str) -> Result<String, Box<dyn Error>> {
        let number = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        self.change(Change::MemberUp(Member {
            name: NodeName::parse(name)?,
            id: number.parse().unwrap_or(9),
            node_uuid: format!("00000000-0000-4000-8000-00000000000{number}").into(),
            host: format!("{name}.example").into(),
            peer_address: format!("{name}.example:8300").into(),
            http_address: format!("{name}.example:8500").into(),
            grpc_address: "".into(),
            version: "0.1.0".into(),
            rules: 1,
        }))
    }

    fn member_status(&self, name: &str, status: MemberStatus) -> Result<String, Box<dyn Error>> {
        let number = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        self.change(Change::MemberStatus(MemberReport {
            name: NodeName::parse(name)?,
            id: number.parse().unwrap_or(9),
            status,
        }))
    }

    fn change(&self, change: Change) -> Result<String, Box<dyn Error>> {
        let applied = self
            .runtime
            .block_on(self.local.propose(&Call::new(Dialect::Internal), change))?;
        applied.result?;
        Ok(String::new())
    }
}

fn ca_root() -> CaRoot {
    CaRoot {
        id: "ab:cd".into(),
        trust_domain: "11111111-2222-3333-4444-555555555555.consul".into(),
        certificate_pem: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".into(),
        serial: "12".into(),
        key_id: "ef:01".into(),
        key_type: "ec".into(),
        key_bits: 256,
        not_before: WallTime(1_700_000_000_000),
        not_after: WallTime(2_000_000_000_000),
        sealed_key: None,
    }
}

/// The status, the header lines that matter or all, and the body.
async fn show(response: Result<Response<Body>, std::convert::Infallible>, all: bool) -> String {
    let Ok(response) = response;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.expect("a body in memory").to_bytes();
    assert_eq!(
        parts.headers[header::CONTENT_LENGTH],
        body.len().to_string(),
        "on every reply"
    );
    let mut text = format!("{}\n", parts.status);
    for (name, value) in shown_headers(&parts.headers, all) {
        writeln!(text, "{name}: {value}").expect("writes to memory");
    }
    match parts.headers.get(header::CONTENT_ENCODING) {
        Some(coding) => writeln!(text, "({coding:?})").expect("writes to memory"),
        None => text.push_str(&String::from_utf8_lossy(&body)),
    }
    if text.ends_with('\n') { text } else { text + "\n" }
}

fn shown_headers(headers: &HeaderMap, all: bool) -> BTreeMap<&str, &str> {
    let text = headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().expect("text")));
    // A page of ours is JSON, and an error plain text, unless the script shows otherwise.
    let always = [
        "x-consul-index",
        "allow",
        "location",
        "x-cache",
        "age",
        "x-spine-outcome",
        "x-spine-implicit-check",
    ];
    text.filter(|(name, _)| all || always.contains(name)).collect()
}
