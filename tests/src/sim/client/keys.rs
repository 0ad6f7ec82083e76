//! Reads and writes of a few keys that many clients fight for, and a set that only grows.

use spine_proto::v1::{self, kv_client::KvClient};

use super::Client;
use crate::history::{Action, Guard, OpId, Outcome, Row};

/// The prefix of the keys that are fought for.
const REGISTERS: &str = "r/";
/// The prefix of the set's elements.
const SET: &str = "s/";
/// Rows of a page: more than there are.
const PAGE: u32 = 1000;

impl Client {
    /// Works on keys until the simulation ends.
    pub(super) async fn work_on_keys(mut self) -> turmoil::Result {
        // What it saw last, to compare with.
        let mut seen: Option<Row> = None;
        loop {
            self.pause().await;
            let key = format!("{REGISTERS}{}", self.rng.below(self.setting.keys));
            match self.rng.below(100) {
                0..35 => seen = self.get(key, false).await,
                35..45 => seen = self.get(key, true).await,
                45..60 => self.put(key, Guard::Always).await,
                60..80 => {
                    let (key, guard) = match seen.take() {
                        Some(row) => (row.key, Guard::Index(row.index)),
                        None => (key, Guard::Absent),
                    };
                    self.put(key, guard).await;
                }
                80..85 => self.delete(key).await,
                85..97 => {
                    // A key of its own for each element: its number comes with the operation.
                    let key = format!("{SET}{}-{}", self.number, self.rng.next_u64());
                    self.put(key, Guard::Always).await;
                }
                97..99 => self.list(REGISTERS, false).await,
                _ => {
                    let stale = self.rng.one_in(2);
                    self.list(SET, stale).await;
                }
            }
        }
    }

    async fn get(&mut self, key: String, stale: bool) -> Option<Row> {
        let id = self.invoke(Action::Get {
            key: key.clone(),
            stale,
        });
        let request = self.request(v1::GetRequest {
            key: key.into(),
            revision: None,
            consistency: consistency(stale),
        });
        let mut kv = KvClient::new(self.channel.clone());
        let outcome = match self.answer(kv.get(request)).await {
            Ok(response) => rows(response.header, response.kv.into_iter().collect()),
            Err(outcome) => outcome,
        };
        let seen = match &outcome {
            Outcome::Rows { rows, .. } => rows.first().cloned(),
            _ => None,
        };
        self.finish(id, outcome);
        seen
    }

    async fn list(&mut self, prefix: &str, stale: bool) {
        let id = self.invoke(Action::List {
            prefix: prefix.to_owned(),
            stale,
        });
        let request = self.request(v1::ListRequest {
            range: Some(prefixed(prefix)),
            limit: PAGE,
            consistency: consistency(stale),
            ..v1::ListRequest::default()
        });
        let mut kv = KvClient::new(self.channel.clone());
        let outcome = match self.answer(kv.list(request)).await {
            // A second page would be of another moment.
            Ok(response) if response.next.is_some() => Outcome::Failed,
            Ok(response) => rows(response.header, response.kvs),
            Err(outcome) => outcome,
        };
        self.finish(id, outcome);
    }

    async fn put(&mut self, key: String, guard: Guard) {
        let id = self.invoke(Action::Put {
            key: key.clone(),
            guard,
        });
        let condition = match guard {
            Guard::Always => None,
            Guard::Absent => Some(v1::guard::Condition::Absent(v1::Absent {})),
            Guard::Index(index) => Some(v1::guard::Condition::ModifyIndex(index)),
        };
        // A put that happens twice shows as another revision.
        let write_unchanged = self.rng.one_in(2);
        let value = self.value(id);
        let request = self.request(v1::PutRequest {
            key: key.into(),
            value: value.into(),
            guard: condition.map(|condition| v1::Guard {
                condition: Some(condition),
            }),
            write_unchanged,
            ..v1::PutRequest::default()
        });
        let mut kv = KvClient::new(self.channel.clone());
        let outcome = match self.answer(kv.put(request)).await {
            Ok(response) => match response.outcome() {
                v1::PutOutcome::GuardFailed => Outcome::GuardFailed {
                    index: response.index,
                },
                v1::PutOutcome::Written | v1::PutOutcome::Unchanged | v1::PutOutcome::Unspecified => {
                    Outcome::Written {
                        index: response.index,
                    }
                }
            },
            Err(outcome) => outcome,
        };
        self.finish(id, outcome);
    }

    /// What is stored: the operation's number, and sometimes much behind it.
    fn value(&mut self, id: OpId) -> String {
        let mut value = id.to_string();
        if self.setting.padding > 0 {
            value.push(' ');
            for _ in 0..self.rng.below(self.setting.padding) {
                let letter = b'a' + u8::try_from(self.rng.below(26)).expect("below 26");
                value.push(char::from(letter));
            }
        }
        value
    }

    async fn delete(&mut self, key: String) {
        let id = self.invoke(Action::Delete { key: key.clone() });
        let request = self.request(v1::DeleteRequest {
            range: Some(v1::KeyRange {
                range: Some(v1::key_range::Range::Key(key.into())),
            }),
            guard: None,
        });
        let mut kv = KvClient::new(self.channel.clone());
        let outcome = match self.answer(kv.delete(request)).await {
            Ok(response) => Outcome::Written {
                index: response.index,
            },
            Err(outcome) => outcome,
        };
        self.finish(id, outcome);
    }
}

/// All keys with a prefix.
pub(crate) fn prefixed(prefix: &str) -> v1::KeyRange {
    v1::KeyRange {
        range: Some(v1::key_range::Range::Prefix(prefix.to_owned().into())),
    }
}

/// The number that a client stored; a value of somebody else's is none.
pub(super) fn stored(kv: &v1::KeyValue) -> OpId {
    std::str::from_utf8(&kv.value)
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or(OpId::MAX)
}

fn consistency(stale: bool) -> i32 {
    let consistency = if stale {
        v1::Consistency::Stale
    } else {
        v1::Consistency::Linearizable
    };
    consistency.into()
}

/// The rows of an answer.
pub(crate) fn rows(header: Option<v1::ReadHeader>, kvs: Vec<v1::KeyValue>) -> Outcome {
    let rows = kvs.into_iter().map(|kv| Row {
        key: String::from_utf8_lossy(&kv.key).into_owned(),
        value: stored(&kv),
        index: kv.modify_index,
    });
    Outcome::Rows {
        at: header.map_or(0, |header| header.applied_index),
        rows: rows.collect(),
    }
}
