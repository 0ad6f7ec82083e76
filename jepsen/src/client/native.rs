//! The native gRPC API, through the client library that users have.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use spine_client::{
    Client, Error, Guard, KeyRange, Registration,
    proto::{self, check_definition::Kind},
};
use tonic::transport::{Channel, Endpoint};

use super::{Failure, member_key, members};
use crate::history::{Call, Expect, Out, Row};

/// A connection that takes longer is none.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// A client of one node over gRPC.
#[derive(Clone, Debug)]
pub struct Native {
    fresh: Client,
    stale: Client,
    address: SocketAddr,
    /// For what the library does only together with other things.
    channel: Channel,
}

impl Native {
    pub(crate) fn new(address: SocketAddr, deadline: Duration) -> Self {
        let fresh = Client::builder(&address.to_string())
            .deadline(deadline)
            .wait_for_server(false)
            .build()
            .expect("a socket address is an address");
        let stale = fresh.stale();
        let channel =
            Endpoint::from_shared(format!("http://{address}")).expect("a socket address is a URI's");
        Self {
            fresh,
            stale,
            address,
            channel: channel.connect_timeout(CONNECT_WITHIN).connect_lazy(),
        }
    }

    /// The client itself; reads are linearizable.
    pub fn client(&self) -> &Client {
        &self.fresh
    }

    /// The client whose reads take what the node has.
    pub fn stale(&self) -> &Client {
        &self.stale
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub(super) fn reader(&self, stale: bool) -> &Client {
        if stale { &self.stale } else { &self.fresh }
    }

    pub(crate) async fn perform(&self, call: &Call) -> Result<Out, Failure> {
        match call {
            Call::Read { key, stale } => self.read(key, *stale).await,
            Call::Write { key, value } => self.put(key, value, None).await,
            Call::Cas { key, expect, value } => self.put(key, value, Some(guard(expect))).await,
            Call::Delete { key } => self.delete(KeyRange::Key(key.clone().into())).await,
            Call::DeletePrefix { prefix } => self.delete(KeyRange::Prefix(prefix.clone().into())).await,
            Call::List { prefix, stale } => self.list(prefix, *stale).await,
            Call::Block { .. } => Err(Failure::Fail("blocking queries are Consul's".to_owned())),
            Call::Add { set, member } => {
                self.put(&member_key(set, *member), &member.to_string(), None)
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
                let check = check(*address, *interval_ms, *timeout_ms, *failures);
                let registration = Registration::new(service, &address.ip().to_string(), address.port());
                self.register(registration.id(id).check(check)).await
            }
            Call::DeregisterInstance { id, .. } => {
                let request = proto::DeregisterRequest {
                    node: String::new(),
                    target: Some(proto::deregister_request::Target::Instance(id.clone())),
                };
                let answer = self.fresh.catalog.deregister_with(request).await?;
                Ok(Out::Registered {
                    index: Some(answer.index),
                })
            }
            Call::Passing { service, stale } => {
                let answer = self.reader(*stale).catalog.resolve(service).await?;
                let mut ids: Vec<String> = answer.targets.into_iter().map(|target| target.id).collect();
                ids.sort_unstable();
                Ok(Out::Passing { ids })
            }
            Call::Transact(transaction) => self.transact(transaction).await,
            Call::Save { file, stale } => self.save(file, *stale).await,
            Call::Grant { .. }
            | Call::Renew { .. }
            | Call::Revoke { .. }
            | Call::Alive { .. }
            | Call::Attach { .. }
            | Call::Acquire { .. }
            | Call::Release { .. } => self.hold(call).await,
        }
    }

    async fn read(&self, key: &str, stale: bool) -> Result<Out, Failure> {
        let answer = self.reader(stale).kv.get_at(key.to_owned(), None).await?;
        Ok(Out::Row {
            row: answer.kv.as_ref().map(row),
            applied: answer.header.map(|header| header.applied_index),
        })
    }

    async fn put(&self, key: &str, value: &str, guard: Option<Guard>) -> Result<Out, Failure> {
        let request = proto::PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            guard: guard.map(Into::into),
            ..proto::PutRequest::default()
        };
        let answer = self.fresh.kv.put_with(request).await?;
        let done = answer.outcome() != proto::PutOutcome::GuardFailed;
        Ok(Out::Written {
            done,
            index: Some(answer.index),
        })
    }

    async fn delete(&self, range: KeyRange) -> Result<Out, Failure> {
        let answer = self.fresh.kv.delete(range).await?;
        Ok(Out::Deleted {
            count: Some(answer.deleted),
            index: Some(answer.index),
        })
    }

    async fn list(&self, prefix: &str, stale: bool) -> Result<Out, Failure> {
        let answer = self.page(prefix, stale, false).await?;
        Ok(Out::Rows {
            applied: answer.header.map(|header| header.applied_index),
            rows: answer.kvs.iter().map(row).collect(),
        })
    }

    async fn members(&self, set: &str, stale: bool) -> Result<Out, Failure> {
        let answer = self.page(set, stale, true).await?;
        Ok(Out::Members {
            applied: answer.header.map(|header| header.applied_index),
            members: members(set, answer.kvs.into_iter().map(|row| text(&row.key))),
        })
    }

    /// One page: the workloads keep what they list below what a page holds.
    async fn page(&self, prefix: &str, stale: bool, keys_only: bool) -> Result<proto::ListResponse, Failure> {
        let request = proto::ListRequest {
            range: Some(KeyRange::Prefix(Bytes::from(prefix.to_owned())).into()),
            keys_only,
            ..proto::ListRequest::default()
        };
        let answer = self.reader(stale).kv.page(request).await?;
        if answer.next.is_some() {
            return Err(Failure::Fail("more than a page".to_owned()));
        }
        Ok(answer)
    }

    async fn register(&self, registration: Registration) -> Result<Out, Failure> {
        let answer = self.fresh.catalog.register(registration).await?;
        Ok(Out::Registered {
            index: Some(answer.index),
        })
    }
}

/// What an error of the client library is worth. It promises that all but one of its errors mean "nothing was written";
/// the checkers find out whether that is so.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if error.is_not_applied() {
            Self::Fail(error.to_string())
        } else {
            Self::Unknown(error.to_string())
        }
    }
}

/// A row as the history has it.
pub(crate) fn row(kv: &proto::KeyValue) -> Row {
    Row {
        key: text(&kv.key),
        value: text(&kv.value),
        modify: kv.modify_index,
    }
}

/// Bytes as text. All keys and values of the harness are text: what is not was not written by it, and no checker will
/// take it for something that was.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn guard(expect: &Expect) -> Guard {
    match expect.index {
        0 => Guard::Absent,
        index => Guard::ModifyIndex(index),
    }
}

fn check(address: SocketAddr, interval_ms: u64, timeout_ms: u64, failures: u32) -> proto::CheckDefinition {
    let probe = proto::HttpProbe {
        url: format!("http://{address}/health"),
        pace: Some(proto::Pace {
            interval_ms,
            timeout_ms,
        }),
        ..proto::HttpProbe::default()
    };
    proto::CheckDefinition {
        kind: Some(Kind::Http(probe)),
        thresholds: Some(proto::Thresholds {
            failures_before_critical: failures,
            ..proto::Thresholds::default()
        }),
        ..proto::CheckDefinition::default()
    }
}
