//! Transactions on lists, in both dialects.
//!
//! A list that is to be appended to is read first, and stored again, longer, if it is still the same; all other reads are
//! steps of the transaction itself.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use spine_client::{
    Compare, Guard, KeyRange, Op,
    proto::{TxnResponse, txn_result},
};

use super::{
    Consul, Failure, Native,
    consul::{answer, decode, success},
    native::text,
};
use crate::history::{Expecting, Out, Step, Transaction, list_of, list_text};

/// A list as it was read, and the index of its last change; 0: there is no such key.
type Lists = BTreeMap<String, (u64, Vec<u64>)>;

impl Native {
    pub(super) async fn transact(&self, transaction: &Transaction) -> Result<Out, Failure> {
        let before = self.lists(transaction).await?;
        let mut txn = self.client().kv.txn();
        for step in &transaction.steps {
            match step {
                Step::Read { key } => txn = txn.then(Op::get(KeyRange::Key(key.clone().into()))),
                Step::Append { key, elements } => {
                    let (modify, list) = &before[key];
                    let longer = list_text(&[list.as_slice(), elements].concat());
                    let (key, present) = (key.clone(), *modify > 0);
                    let (condition, op) = match transaction.expecting {
                        Expecting::Guard => {
                            let guard = if present {
                                Guard::ModifyIndex(*modify)
                            } else {
                                Guard::Absent
                            };
                            (None, Op::put_if(key, longer, guard))
                        }
                        _ if !present => (Some(Compare::absent(key.clone())), Op::put(key, longer)),
                        Expecting::Index => (
                            Some(Compare::modify_index(key.clone(), *modify)),
                            Op::put(key, longer),
                        ),
                        Expecting::Value => (
                            Some(Compare::value(key.clone(), list_text(list))),
                            Op::put(key, longer),
                        ),
                    };
                    txn = txn.then(op);
                    if let Some(condition) = condition {
                        txn = txn.when(condition);
                    }
                }
            }
        }
        let answer = txn.commit().await?;
        if !answer.held || !answer.unmet.is_empty() {
            return Err(Failure::Fail("a list was changed meanwhile".to_owned()));
        }
        transacted(transaction, &answer)
    }

    /// The lists that a transaction is to append to.
    async fn lists(&self, transaction: &Transaction) -> Result<Lists, Failure> {
        let mut lists = Lists::new();
        for (key, _) in transaction.appends() {
            // What went wrong here changed nothing.
            let row = self.client().kv.get(key.to_owned()).await;
            let row = row.map_err(|error| Failure::Fail(error.to_string()))?;
            let list = row.as_ref().map(|row| list_of(&text(&row.value)));
            let modify = row.map_or(0, |row| row.modify_index);
            lists.insert(key.to_owned(), (modify, list.unwrap_or_default()));
        }
        Ok(lists)
    }
}

/// The lists that an answer tells, each where a step read.
fn transacted(transaction: &Transaction, answer: &TxnResponse) -> Result<Out, Failure> {
    let odd = || Failure::Unknown("an answer that doesn't fit the transaction".to_owned());
    if answer.results.len() != transaction.steps.len() {
        return Err(odd());
    }
    let mut lists = Vec::new();
    for (step, result) in transaction.steps.iter().zip(&answer.results) {
        match (step, &result.result) {
            (Step::Read { .. }, Some(txn_result::Result::Read(rows))) => {
                let row = rows.kvs.first();
                lists.push(row.map(|row| list_of(&text(&row.value))).unwrap_or_default());
            }
            (Step::Append { .. }, Some(txn_result::Result::Put(_))) => {}
            _ => return Err(odd()),
        }
    }
    Ok(Out::Transacted {
        lists,
        index: Some(answer.index),
    })
}

/// An answer of `/v1/txn`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    results: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "KV")]
    kv: Wire,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    value: Option<String>,
    modify_index: u64,
}

impl Wire {
    fn list(&self) -> Result<Vec<u64>, Failure> {
        let value = BASE64_STANDARD.decode(self.value.as_deref().unwrap_or_default());
        let value = value.map_err(|error| Failure::Unknown(error.to_string()))?;
        Ok(list_of(&text(&value)))
    }
}

impl Consul {
    /// By `cas`, whatever the transaction says that it expects: Consul has no condition on values.
    pub(super) async fn transact(&self, transaction: &Transaction) -> Result<Out, Failure> {
        let appended: Vec<&str> = transaction.appends().map(|(key, _)| key).collect();
        let mut before = BTreeMap::new();
        if !appended.is_empty() {
            let reads = appended.iter().map(|key| get(key)).collect();
            let rows = self.txn(reads, appended.len()).await;
            // What went wrong here changed nothing.
            let rows = rows.map_err(|failure| match failure {
                Failure::Unknown(error) | Failure::Fail(error) => Failure::Fail(error),
            })?;
            for (key, row) in appended.iter().zip(rows) {
                before.insert(*key, (row.modify_index, row.list()?));
            }
        }
        let ops = transaction.steps.iter().map(|step| match step {
            Step::Read { key } => get(key),
            Step::Append { key, elements } => {
                let (modify, list) = &before[key.as_str()];
                let longer = list_text(&[list.as_slice(), elements].concat());
                let value = BASE64_STANDARD.encode(longer);
                json!({"KV": {"Verb": "cas", "Key": key, "Value": value, "Index": modify}})
            }
        });
        let rows = self.txn(ops.collect(), transaction.steps.len()).await?;
        let reads = transaction.steps.iter().zip(&rows);
        let reads = reads.filter(|(step, _)| matches!(step, Step::Read { .. }));
        let lists: Result<_, _> = reads.map(|(_, row)| row.list()).collect();
        Ok(Out::Transacted {
            lists: lists?,
            index: None,
        })
    }

    /// Operations of which each is answered with a row.
    async fn txn(&self, ops: Vec<Value>, rows: usize) -> Result<Vec<Wire>, Failure> {
        let request = self
            .request(Method::PUT, "/txn")
            .body(Value::from(ops).to_string());
        let (status, index, body) = answer(request).await?;
        let body = success((status, index, body))?;
        // What was answered so was done, whatever can't be read in it.
        let answer: Result<Answer, Failure> = decode(status, &body);
        let Ok(Answer { results }) = answer else {
            return Err(Failure::Unknown(format!("no answer to a transaction: {body}")));
        };
        if results.len() != rows {
            return Err(Failure::Unknown(format!("{} rows of {rows}", results.len())));
        }
        Ok(results.into_iter().map(|entry| entry.kv).collect())
    }
}

fn get(key: &str) -> Value {
    json!({"KV": {"Verb": "get-or-empty", "Key": key}})
}
