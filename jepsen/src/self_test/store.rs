//! A registry that does everything right, in a dozen lines: what good histories are made with.

use std::collections::BTreeMap;

use crate::history::{Call, KeyEvent, Out, Row, Step, Transaction, list_of, list_text};

/// Keys and values, and every change that there was.
#[derive(Debug, Default)]
pub(crate) struct Store {
    index: u64,
    rows: BTreeMap<String, Row>,
    /// The changes, in order.
    pub(crate) log: Vec<KeyEvent>,
}

impl Store {
    /// The newest index.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// The rows below a prefix.
    pub(crate) fn below(&self, prefix: &str) -> Vec<Row> {
        let below = self.rows.range(prefix.to_owned()..);
        below
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, row)| row.clone())
            .collect()
    }

    /// Does what is asked. Every index is stated; the caller drops those that a dialect does not state.
    pub(crate) fn apply(&mut self, call: &Call) -> Out {
        match call {
            Call::Read { key, .. } => Out::Row {
                row: self.rows.get(key).cloned(),
                applied: Some(self.index),
            },
            Call::List { prefix, .. } => Out::Rows {
                rows: self.below(prefix),
                applied: Some(self.index),
            },
            Call::Members { set, .. } => Out::Members {
                members: self
                    .below(set)
                    .iter()
                    .filter_map(|row| row.value.parse().ok())
                    .collect(),
                applied: Some(self.index),
            },
            Call::Write { key, value } => self.put(key, value),
            Call::Add { set, member } => self.put(&format!("{set}{member:08}"), &member.to_string()),
            Call::Cas { key, expect, value } => {
                let is = self.rows.get(key).map_or(0, |row| row.modify);
                if is == expect.index {
                    return self.put(key, value);
                }
                self.index += 1;
                Out::Written {
                    done: false,
                    index: Some(self.index),
                }
            }
            Call::Delete { key } => {
                let keys = self.rows.contains_key(key).then(|| key.clone());
                self.delete(keys.into_iter().collect())
            }
            Call::DeletePrefix { prefix } => {
                let keys = self.below(prefix).into_iter().map(|row| row.key).collect();
                self.delete(keys)
            }
            Call::Transact(transaction) => self.transact(transaction),
            Call::Block { .. }
            | Call::RegisterInstance { .. }
            | Call::DeregisterInstance { .. }
            | Call::Passing { .. }
            | Call::Grant { .. }
            | Call::Renew { .. }
            | Call::Revoke { .. }
            | Call::Alive { .. }
            | Call::Attach { .. }
            | Call::Acquire { .. }
            | Call::Release { .. }
            | Call::Save { .. } => unreachable!("made without the store"),
        }
    }

    fn transact(&mut self, transaction: &Transaction) -> Out {
        let mut read = Vec::new();
        for step in &transaction.steps {
            match step {
                Step::Read { key } => read.push(self.list(key)),
                Step::Append { key, elements } => {
                    let longer = [self.list(key).as_slice(), elements].concat();
                    self.put(key, &list_text(&longer));
                }
            }
        }
        Out::Transacted {
            lists: read,
            index: Some(self.index),
        }
    }

    fn list(&self, key: &str) -> Vec<u64> {
        let row = self.rows.get(key);
        row.map(|row| list_of(&row.value)).unwrap_or_default()
    }

    fn put(&mut self, key: &str, value: &str) -> Out {
        self.index += 1;
        let after = Row {
            key: key.to_owned(),
            value: value.to_owned(),
            modify: self.index,
        };
        let before = self.rows.insert(key.to_owned(), after.clone());
        self.log.push(KeyEvent {
            index: self.index,
            key: key.to_owned(),
            before,
            after: Some(after),
        });
        Out::Written {
            done: true,
            index: Some(self.index),
        }
    }

    fn delete(&mut self, keys: Vec<String>) -> Out {
        self.index += 1;
        let count = keys.len() as u64;
        for key in keys {
            let before = self.rows.remove(&key);
            self.log.push(KeyEvent {
                index: self.index,
                key,
                before,
                after: None,
            });
        }
        Out::Deleted {
            count: Some(count),
            index: Some(self.index),
        }
    }
}
