//! Leases and locks, in both dialects.
//!
//! Every lease hangs on one node of the catalog that no server is ([`NODE`]): so it is a session as well, and either
//! dialect may renew it and lock keys with it, and it does not end with a server.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use spine_client::{
    Error, LeaseId, Op,
    proto::{
        LeaseEnd, LeaseGrantRequest, LockAcquireRequest, LockReleaseRequest, lock_client::LockClient,
        txn_result,
    },
};
use tonic::{ConnectError, Request, Status};

use super::{
    Consul, Failure, Native,
    consul::{answer, decode, mode, success, truth},
};
use crate::history::{Call, Out};

/// The node that all leases hang on.
const NODE: &str = "harness";
/// Beyond the wait for a lock: the way, and an election.
const WAIT_GRACE: Duration = Duration::from_secs(6);
/// What a refusal says of a lease that is not there.
const UNKNOWN_LEASE: &str = "unknown_lease";

impl Native {
    /// What is asked of leases and locks.
    pub(super) async fn hold(&self, call: &Call) -> Result<Out, Failure> {
        match call {
            Call::Grant {
                lease,
                ttl_ms,
                lock_delay_ms,
                deletes,
            } => self.grant(lease, *ttl_ms, *lock_delay_ms, *deletes).await,
            Call::Renew { lease } => match self.client().lease.renew(id(lease)?).await {
                Ok(_) => Ok(Out::Lives { alive: true }),
                Err(error) if is_gone(&error) => Ok(Out::Lives { alive: false }),
                // The client may ask again, so it takes every attempt for a harmless one; the lease lives on by each.
                Err(error) => Err(Failure::Unknown(error.to_string())),
            },
            Call::Revoke { lease } => match self.client().lease.revoke(id(lease)?).await {
                Ok(answer) => Ok(written(true, Some(answer.index))),
                Err(error) if is_gone(&error) => Ok(written(false, None)),
                Err(error) => Err(error.into()),
            },
            Call::Alive { lease, stale } => {
                let answer = self.reader(*stale).lease.get(id(lease)?).await?;
                let alive = answer.lease.is_some();
                Ok(Out::Lives { alive })
            }
            Call::Attach { lease, keys } => {
                let mut txn = self.client().kv.txn();
                for key in keys {
                    txn = txn.then(Op::put_on(key.clone(), lease.clone(), id(lease)?));
                }
                match txn.commit().await {
                    Ok(answer) => Ok(written(true, Some(answer.index))),
                    Err(error) if is_gone(&error) => Ok(written(false, None)),
                    Err(error) => Err(error.into()),
                }
            }
            Call::Acquire {
                lock,
                lease,
                queue: true,
                wait_ms,
            } => self.wait_for_lock(lock, id(lease)?, *wait_ms).await,
            Call::Acquire { lock, lease, .. } => self.lock_key(lock, id(lease)?).await,
            Call::Release {
                lock,
                lease,
                queue: true,
            } => {
                let request = LockReleaseRequest {
                    name: lock.clone().into(),
                    lease: id(lease)?.into(),
                    ..LockReleaseRequest::default()
                };
                let mut locks = LockClient::new(self.channel());
                let answer = locks.release(within(request, Duration::ZERO)).await;
                let answer = answer.map_err(|status| failure(&status))?.into_inner();
                Ok(written(answer.found, Some(answer.index)))
            }
            Call::Release { lock, lease, .. } => {
                let txn = self.client().kv.txn().then(Op::unlock(lock.clone(), id(lease)?));
                let answer = txn.commit().await?;
                Ok(written(answer.unmet.is_empty(), Some(answer.index)))
            }
            other => Err(Failure::Fail(format!("{other:?} is about no lease"))),
        }
    }

    async fn grant(
        &self,
        lease: &str,
        ttl_ms: u64,
        lock_delay_ms: u64,
        deletes: bool,
    ) -> Result<Out, Failure> {
        let end = if deletes {
            LeaseEnd::Delete
        } else {
            LeaseEnd::Release
        };
        let request = LeaseGrantRequest {
            id: id(lease)?.into(),
            ttl_ms,
            lock_delay_ms,
            end: end.into(),
            node: NODE.to_owned(),
            ..LeaseGrantRequest::default()
        };
        let answer = self.client().lease.grant_with(request).await?;
        Ok(Out::Granted {
            lease: uuid(&answer.id),
            ttl_ms: answer.ttl_ms,
        })
    }

    async fn wait_for_lock(&self, lock: &str, lease: LeaseId, wait_ms: u64) -> Result<Out, Failure> {
        let request = LockAcquireRequest {
            name: lock.to_owned().into(),
            lease: lease.into(),
            wait_ms,
            keep_place: false,
        };
        let wait = Duration::from_millis(wait_ms);
        match LockClient::new(self.channel())
            .acquire(within(request, wait))
            .await
        {
            Ok(answer) => {
                let answer = answer.into_inner();
                let fence = answer.place.filter(|_| answer.acquired).map(|place| place.fence);
                Ok(Out::Acquired { fence, index: None })
            }
            Err(status) if said(&status, "spine-code") == Some(UNKNOWN_LEASE) => Ok(not_acquired()),
            Err(status) => Err(failure(&status)),
        }
    }

    /// Takes a key's lock, which is Consul's as well: the number is how often it was taken.
    async fn lock_key(&self, lock: &str, lease: LeaseId) -> Result<Out, Failure> {
        let answer = match self
            .client()
            .kv
            .txn()
            .then(Op::lock(lock.to_owned(), lease))
            .commit()
            .await
        {
            Ok(answer) => answer,
            Err(error) if is_gone(&error) => return Ok(not_acquired()),
            Err(error) => return Err(error.into()),
        };
        if !answer.unmet.is_empty() {
            return Ok(not_acquired());
        }
        let put = answer.results.into_iter().find_map(|result| match result.result {
            Some(txn_result::Result::Put(put)) => Some(put),
            _ => None,
        });
        let kv = put.as_ref().and_then(|put| put.kv.as_ref());
        let number = kv.map(|kv| kv.lock_index);
        let number = number.ok_or_else(|| Failure::Unknown("a lock without its row".to_owned()))?;
        Ok(Out::Acquired {
            fence: Some(number),
            index: put.and_then(|put| put.fence),
        })
    }
}

/// A session as Consul makes it.
#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Created {
    id: String,
}

/// What Consul says of a locked key.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Locked {
    lock_index: u64,
    session: Option<String>,
}

impl Consul {
    /// Registers the node that leases hang on.
    pub(crate) async fn register_node(&self) -> Result<(), Failure> {
        let body = json!({"Node": NODE, "Address": "127.0.0.1"}).to_string();
        let request = self.request(Method::PUT, "/catalog/register").body(body);
        success(answer(request).await?).map(drop)
    }

    /// What is asked of leases and locks.
    pub(super) async fn hold(&self, call: &Call) -> Result<Out, Failure> {
        match call {
            Call::Grant {
                ttl_ms,
                lock_delay_ms,
                deletes,
                ..
            } => self.create(*ttl_ms, *lock_delay_ms, *deletes).await,
            Call::Renew { lease } => {
                let request = self.request(Method::PUT, &format!("/session/renew/{lease}"));
                let (status, _, _) = answer(request).await?;
                let alive = status != StatusCode::NOT_FOUND;
                Ok(Out::Lives { alive })
            }
            Call::Revoke { lease } => {
                let request = self.request(Method::PUT, &format!("/session/destroy/{lease}"));
                let done = truth(&success(answer(request).await?)?)?;
                Ok(written(done, None))
            }
            Call::Alive { lease, stale } => {
                let path = format!("/session/info/{lease}?{}", mode(*stale));
                let (status, _, body) = answer(self.request(Method::GET, &path)).await?;
                let sessions: Vec<Value> = decode(status, &body)?;
                let alive = !sessions.is_empty();
                Ok(Out::Lives { alive })
            }
            Call::Attach { lease, keys } => {
                let lock = |key| {
                    let value = BASE64_STANDARD.encode(lease);
                    json!({"KV": {"Verb": "lock", "Key": key, "Value": value, "Session": lease}})
                };
                let ops: Vec<Value> = keys.iter().map(lock).collect();
                let request = self
                    .request(Method::PUT, "/txn")
                    .body(Value::from(ops).to_string());
                match answer(request).await {
                    Ok(done) => success(done).map(|_| written(true, None)),
                    Err(Failure::Fail(error)) if error.contains("invalid session") => {
                        Ok(written(false, None))
                    }
                    Err(failure) => Err(failure),
                }
            }
            Call::Acquire { queue: true, .. } | Call::Release { queue: true, .. } => {
                Err(Failure::Fail("Consul's locks have no queue".to_owned()))
            }
            Call::Acquire { lock, lease, .. } => self.acquire(lock, lease).await,
            Call::Release { lock, lease, .. } => {
                self.put(&format!("/kv/{lock}?release={lease}"), lease.clone())
                    .await
            }
            other => Err(Failure::Fail(format!("{other:?} is about no session"))),
        }
    }

    async fn create(&self, ttl_ms: u64, lock_delay_ms: u64, deletes: bool) -> Result<Out, Failure> {
        let body = json!({
            "Node": NODE, "NodeChecks": [],
            "TTL": format!("{ttl_ms}ms"), "LockDelay": format!("{lock_delay_ms}ms"),
            "Behavior": if deletes { "delete" } else { "release" },
        });
        let request = self
            .request(Method::PUT, "/session/create")
            .body(body.to_string());
        let (status, _, body) = answer(request).await?;
        let Created { id } = decode(status, &body)?;
        Ok(Out::Granted { lease: id, ttl_ms })
    }

    /// Takes a key's lock, and asks under which number: by then it may be lost again.
    async fn acquire(&self, lock: &str, lease: &str) -> Result<Out, Failure> {
        let request = self.request(Method::PUT, &format!("/kv/{lock}?acquire={lease}"));
        let taken = truth(&success(answer(request.body(lease.to_owned())).await?)?)?;
        if !taken {
            return Ok(not_acquired());
        }
        let doubt = |failure| match failure {
            Failure::Fail(error) | Failure::Unknown(error) => Failure::Unknown(error),
        };
        let request = self.request(Method::GET, &format!("/kv/{lock}?consistent"));
        let (status, _, body) = answer(request).await.map_err(doubt)?;
        let rows: Vec<Locked> = decode(status, &body).map_err(doubt)?;
        let row = rows.into_iter().find(|row| row.session.as_deref() == Some(lease));
        let row = row.ok_or_else(|| Failure::Unknown("taken, and lost before it was read".to_owned()))?;
        Ok(Out::Acquired {
            fence: Some(row.lock_index),
            index: None,
        })
    }
}

fn written(done: bool, index: Option<u64>) -> Out {
    Out::Written { done, index }
}

fn not_acquired() -> Out {
    Out::Acquired {
        fence: None,
        index: None,
    }
}

/// The id that a UUID is.
fn id(uuid: &str) -> Result<LeaseId, Failure> {
    let id = u128::from_str_radix(&uuid.replace('-', ""), 16).ok();
    let id = id.and_then(|id| LeaseId::from_bytes(&id.to_be_bytes()));
    id.ok_or_else(|| Failure::Fail(format!("{uuid:?} is no lease's id")))
}

/// The UUID that an id is.
pub(crate) fn uuid(id: &[u8]) -> String {
    let id: [u8; 16] = id.try_into().unwrap_or_default();
    let digits = format!("{:032x}", u128::from_be_bytes(id));
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default().to_owned();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}

fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Refused(refusal) if refusal.code == UNKNOWN_LEASE)
}

fn within<T>(message: T, wait: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(wait + WAIT_GRACE);
    request
}

/// What a status is worth that came by no library.
fn failure(status: &Status) -> Failure {
    let mut causes = std::iter::successors(std::error::Error::source(status), |cause| (*cause).source());
    let was_not_sent = causes.any(<dyn std::error::Error>::is::<ConnectError>);
    let error = format!("{:?}: {}", status.code(), status.message());
    if was_not_sent || said(status, "spine-outcome") == Some("not-applied") {
        Failure::Fail(error)
    } else {
        Failure::Unknown(error)
    }
}

fn said<'a>(status: &'a Status, key: &str) -> Option<&'a str> {
    status.metadata().get(key)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use spine_client::LeaseId;

    use super::{id, uuid};

    #[test]
    fn an_id_is_written_as_a_session_s_and_read_back() {
        let bytes: [u8; 16] = std::array::from_fn(|at| u8::try_from(at).unwrap());
        let text = uuid(&bytes);
        assert_eq!(text, "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(id(&text).unwrap(), LeaseId::from_bytes(&bytes).unwrap());
        assert!(id("n1").is_err());
    }
}
