//! Consul's HTTP API, said plainly: no client library stands between the history and the server's own words.

use std::{net::SocketAddr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{Failure, member_key, members};
use crate::history::{Call, Out, Row};

/// Beyond the wait of a blocking query: its random sixteenth, and the way.
const WAIT_GRACE: Duration = Duration::from_secs(6);

/// A client of one node over HTTP.
#[derive(Clone, Debug)]
pub struct Consul {
    http: Client,
    base: String,
    deadline: Duration,
}

impl Consul {
    pub(crate) fn new(address: SocketAddr, deadline: Duration) -> Self {
        // The library insists on a provider even where no request is encrypted; a second installation changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder()
            .connect_timeout(Duration::from_secs(1))
            .no_proxy()
            .build()
            .expect("a client without special settings can be built");
        Self {
            http,
            base: format!("http://{address}/v1"),
            deadline,
        }
    }

    pub(crate) async fn perform(&self, call: &Call) -> Result<Out, Failure> {
        match call {
            Call::Read { key, stale } => {
                let rows = self.rows(&format!("/kv/{key}?{}", mode(*stale))).await?.1;
                Ok(Out::Row {
                    row: rows.into_iter().next(),
                    applied: None,
                })
            }
            Call::Write { key, value } => self.put(&format!("/kv/{key}"), value.clone()).await,
            Call::Cas { key, expect, value } => {
                self.put(&format!("/kv/{key}?cas={}", expect.index), value.clone())
                    .await
            }
            Call::Delete { key } => self.delete(&format!("/kv/{key}")).await,
            Call::DeletePrefix { prefix } => self.delete(&format!("/kv/{prefix}?recurse")).await,
            Call::List { prefix, stale } => {
                let rows = self
                    .rows(&format!("/kv/{prefix}?recurse&{}", mode(*stale)))
                    .await?
                    .1;
                Ok(Out::Rows { rows, applied: None })
            }
            Call::Block {
                key,
                recurse,
                index,
                wait_ms,
                ..
            } => self.block(key, *recurse, *index, *wait_ms).await,
            Call::Add { set, member } => {
                self.put(&format!("/kv/{}", member_key(set, *member)), member.to_string())
                    .await
            }
            Call::Members { set, stale, .. } => self.members(set, *stale).await,
            Call::RegisterInstance {
                service,
                id,
                address,
                interval_ms,
                timeout_ms,
                failures,
            } => {
                let body = json!({
                    "Name": service, "ID": id, "Address": address.ip().to_string(), "Port": address.port(),
                    "Check": {
                        "HTTP": format!("http://{address}/health"),
                        "Interval": format!("{interval_ms}ms"), "Timeout": format!("{timeout_ms}ms"),
                        "FailuresBeforeCritical": failures,
                    },
                });
                self.agent("/agent/service/register", body.to_string()).await
            }
            Call::DeregisterInstance { id, .. } => {
                self.agent(&format!("/agent/service/deregister/{id}"), String::new())
                    .await
            }
            Call::Passing { service, stale } => self.passing(service, *stale).await,
            Call::Transact(transaction) => self.transact(transaction).await,
            Call::Save { .. } => Err(Failure::Fail("snapshots are the native API's".to_owned())),
            Call::Grant { .. }
            | Call::Renew { .. }
            | Call::Revoke { .. }
            | Call::Alive { .. }
            | Call::Attach { .. }
            | Call::Acquire { .. }
            | Call::Release { .. } => self.hold(call).await,
        }
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .timeout(self.deadline)
    }

    /// Rows of keys, and the index of the answer. No rows are said with 404.
    async fn rows(&self, path: &str) -> Result<(Option<u64>, Vec<Row>), Failure> {
        let (status, index, body) = answer(self.request(Method::GET, path)).await?;
        Ok((index, rows(status, &body)?))
    }

    pub(super) async fn put(&self, path: &str, value: String) -> Result<Out, Failure> {
        let body = success(answer(self.request(Method::PUT, path).body(value)).await?)?;
        let done = truth(&body)?;
        Ok(Out::Written { done, index: None })
    }

    async fn delete(&self, path: &str) -> Result<Out, Failure> {
        let body = success(answer(self.request(Method::DELETE, path)).await?)?;
        if !truth(&body)? {
            return Err(Failure::Unknown(format!("the answer to a deletion is {body:?}")));
        }
        Ok(Out::Deleted {
            count: None,
            index: None,
        })
    }

    async fn block(&self, key: &str, recurse: bool, index: u64, wait_ms: u64) -> Result<Out, Failure> {
        let recurse = if recurse { "&recurse" } else { "" };
        let path = format!("/kv/{key}?index={index}&wait={wait_ms}ms{recurse}");
        let wait = Duration::from_millis(wait_ms);
        let request = self.request(Method::GET, &path).timeout(wait * 2 + WAIT_GRACE);
        let (status, index, body) = answer(request).await?;
        Ok(Out::Changed {
            rows: rows(status, &body)?,
            index: index.ok_or_else(|| Failure::Fail("an answer without X-Consul-Index".to_owned()))?,
        })
    }

    async fn members(&self, set: &str, stale: bool) -> Result<Out, Failure> {
        let path = format!("/kv/{set}?keys&{}", mode(stale));
        let (status, _, body) = answer(self.request(Method::GET, &path)).await?;
        let keys: Vec<String> = match status {
            StatusCode::NOT_FOUND => Vec::new(),
            status => decode(status, &body)?,
        };
        Ok(Out::Members {
            members: members(set, keys.into_iter()),
            applied: None,
        })
    }

    async fn agent(&self, path: &str, body: String) -> Result<Out, Failure> {
        success(answer(self.request(Method::PUT, path).body(body)).await?)?;
        Ok(Out::Registered { index: None })
    }

    async fn passing(&self, service: &str, stale: bool) -> Result<Out, Failure> {
        let path = format!("/health/service/{service}?passing&{}", mode(stale));
        let (status, _, body) = answer(self.request(Method::GET, &path)).await?;
        let entries: Vec<Entry> = decode(status, &body)?;
        let mut ids: Vec<String> = entries.into_iter().map(|entry| entry.service.id).collect();
        ids.sort_unstable();
        Ok(Out::Passing { ids })
    }
}

/// A key's row as Consul writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    key: String,
    value: Option<String>,
    modify_index: u64,
}

/// An entry of `/v1/health/service`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    service: Service,
}

#[derive(Deserialize)]
struct Service {
    #[serde(rename = "ID")]
    id: String,
}

/// What is asked of reads.
pub(super) fn mode(stale: bool) -> &'static str {
    if stale { "stale" } else { "consistent" }
}

/// Sends a request. What came back is told as it is if it is an answer to what was asked (2xx, and 404 for what is not
/// there); all else is a failure.
pub(super) async fn answer(request: RequestBuilder) -> Result<(StatusCode, Option<u64>, String), Failure> {
    let response = request.send().await.map_err(|error| unanswered(&error))?;
    let status = response.status();
    let (index, is_unknown) = (number(&response, "x-consul-index"), says_unknown(&response));
    let body = response.text().await.map_err(|error| unanswered(&error))?;
    if status.is_success() || status == StatusCode::NOT_FOUND {
        return Ok((status, index, body));
    }
    let error = format!("{} {}", status.as_u16(), body.trim());
    let refused = status.is_client_error() || body.trim() == "No cluster leader";
    if refused && !is_unknown {
        Err(Failure::Fail(error))
    } else {
        Err(Failure::Unknown(error))
    }
}

/// The request may have arrived, unless there was no connection to send it by.
fn unanswered(error: &reqwest::Error) -> Failure {
    let text = innermost(error);
    if error.is_connect() {
        Failure::Fail(text)
    } else {
        Failure::Unknown(text)
    }
}

/// The cause that says most: that of the operating system.
fn innermost(error: &reqwest::Error) -> String {
    let first: &dyn std::error::Error = error;
    std::iter::successors(Some(first), |error| error.source())
        .last()
        .map_or_else(String::new, ToString::to_string)
}

fn number(response: &Response, header: &str) -> Option<u64> {
    response.headers().get(header)?.to_str().ok()?.parse().ok()
}

fn says_unknown(response: &Response) -> bool {
    let outcome = response.headers().get("x-spine-outcome");
    outcome.is_some_and(|outcome| outcome == "unknown")
}

/// The body of a write that was done. A 404 to a write is a refusal.
pub(super) fn success((status, _, body): (StatusCode, Option<u64>, String)) -> Result<String, Failure> {
    if status.is_success() {
        Ok(body)
    } else {
        Err(Failure::Fail(format!("{} {}", status.as_u16(), body.trim())))
    }
}

pub(super) fn truth(body: &str) -> Result<bool, Failure> {
    match body.trim() {
        "true" => Ok(true),
        "false" => Ok(false),
        other => Err(Failure::Unknown(format!(
            "the answer is neither true nor false: {other:?}"
        ))),
    }
}

pub(super) fn decode<T: for<'a> Deserialize<'a>>(status: StatusCode, body: &str) -> Result<T, Failure> {
    serde_json::from_str(body).map_err(|error| Failure::Fail(format!("{} {error}", status.as_u16())))
}

fn rows(status: StatusCode, body: &str) -> Result<Vec<Row>, Failure> {
    if status == StatusCode::NOT_FOUND {
        return Ok(Vec::new());
    }
    let rows: Vec<Wire> = decode(status, body)?;
    rows.into_iter()
        .map(|wire| {
            let value = BASE64_STANDARD.decode(wire.value.unwrap_or_default());
            let value = value.map_err(|error| Failure::Fail(error.to_string()))?;
            Ok(Row {
                key: wire.key,
                value: super::native::text(&value),
                modify: wire.modify_index,
            })
        })
        .collect()
}
