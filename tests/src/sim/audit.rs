//! After the healing: every node tells all that happened to keys, and what there is now. That they agree, and that one
//! follows from the other, is checked here; it is then the truth that clients' stories are held against.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use spine_proto::v1::{self, kv_client::KvClient, watch_client::WatchClient};

use crate::client::{channel, prefixed, rows, told};
use crate::history::{OpId, Outcome, Row, Told};

/// An audit takes no longer.
pub(crate) const WITHIN: Duration = Duration::from_secs(30);
/// One try of it takes no longer, and the next comes after this.
const TRY_WITHIN: Duration = Duration::from_secs(5);
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// Keys on a page.
const PAGE: u32 = 1000;

/// What one node told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Testimony {
    /// All changes of keys, in order.
    changes: Vec<Told>,
    /// All keys.
    rows: Vec<Row>,
}

/// What each node told.
pub(crate) type Testimonies = Rc<RefCell<BTreeMap<usize, Testimony>>>;

/// What happened.
pub(crate) struct Truth {
    /// All changes of keys, by rising index.
    pub(crate) changes: Vec<Told>,
    /// The changes of each key: where, and what it has held since.
    by_key: BTreeMap<String, Vec<(u64, Option<OpId>)>>,
}

impl Truth {
    /// What all nodes agree on.
    ///
    /// # Errors
    /// How they differ, or why what they told can't be.
    pub(crate) fn agreed(told: &BTreeMap<usize, Testimony>) -> Result<Self, String> {
        let mut all = told.iter();
        let (first, testimony) = all.next().ok_or("no node was asked")?;
        for (other, differing) in all {
            if differing.changes != testimony.changes {
                let place = first_difference(&testimony.changes, &differing.changes);
                return Err(format!("n{first} and n{other} tell different changes: {place}"));
            }
            if differing.rows != testimony.rows {
                let place = first_difference(&testimony.rows, &differing.rows);
                return Err(format!("n{first} and n{other} have different keys: {place}"));
            }
        }
        let truth = Self::of(testimony.changes.clone())?;
        let now: Vec<Row> = truth.rows("", u64::MAX).collect();
        if now == testimony.rows {
            Ok(truth)
        } else {
            let place = first_difference(&now, &testimony.rows);
            Err(format!("the keys are not what the changes make of them: {place}"))
        }
    }

    /// The truth that these changes make, if they can be.
    pub(crate) fn of(changes: Vec<Told>) -> Result<Self, String> {
        let mut by_key: BTreeMap<String, Vec<(u64, Option<OpId>)>> = BTreeMap::new();
        let mut last = 0;
        for told in &changes {
            if told.index < last {
                return Err(format!("told after index {last}: {told:?}"));
            }
            last = told.index;
            let of_key = by_key.entry(told.key.clone()).or_default();
            let before = of_key.last().and_then(|(_, value)| *value);
            if before != told.before {
                return Err(format!("before {told:?} there was {before:?}"));
            }
            of_key.push((told.index, told.after));
        }
        Ok(Self { changes, by_key })
    }

    /// The row of a key in the state at an index.
    pub(crate) fn row(&self, key: &str, at: u64) -> Option<Row> {
        let of_key = self.by_key.get(key)?;
        let upto = of_key.partition_point(|(index, _)| *index <= at);
        let (index, value) = of_key[..upto].last()?;
        Some(Row {
            key: key.to_owned(),
            value: (*value)?,
            index: *index,
        })
    }

    /// The rows with a prefix in the state at an index.
    pub(crate) fn rows(&self, prefix: &str, at: u64) -> impl Iterator<Item = Row> {
        self.by_key
            .range(prefix.to_owned()..)
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter_map(move |(key, _)| self.row(key, at))
    }
}

/// Asks a node until it has told everything.
pub(crate) async fn audit(number: usize, told: Testimonies) -> turmoil::Result {
    loop {
        let testimony = tokio::time::timeout(TRY_WITHIN, ask(number)).await;
        if let Ok(Some(testimony)) = testimony {
            told.borrow_mut().insert(number, testimony);
            return Ok(());
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

async fn ask(number: usize) -> Option<Testimony> {
    let channel = channel(number);
    let mut rows_told = Vec::new();
    let mut from = Some(Vec::new());
    let mut at = 0;
    let mut kv = KvClient::new(channel.clone());
    while let Some(start) = from {
        let interval = v1::KeyInterval {
            start: start.into(),
            end: None,
        };
        let request = v1::ListRequest {
            range: Some(v1::KeyRange {
                range: Some(v1::key_range::Range::Interval(interval)),
            }),
            limit: PAGE,
            ..v1::ListRequest::default()
        };
        let page = kv.list(request).await.ok()?.into_inner();
        from = page.next.map(|next| next.to_vec());
        let Outcome::Rows { at: index, rows } = rows(page.header, page.kvs) else {
            return None;
        };
        at = index;
        rows_told.extend(rows);
    }
    let request = v1::WatchRequest {
        topics: vec![v1::Topic {
            topic: Some(v1::topic::Topic::Keys(prefixed(""))),
        }],
        from_index: Some(0),
        progress_interval_ms: 100,
        with_before: true,
        ..v1::WatchRequest::default()
    };
    let mut watch = WatchClient::new(channel);
    let mut stream = watch.watch(request).await.ok()?.into_inner();
    let mut changes = Vec::new();
    loop {
        let response = stream.message().await.ok()??;
        changes.extend(response.events.into_iter().filter_map(told));
        if response.index >= at {
            return Some(Testimony {
                changes,
                rows: rows_told,
            });
        }
    }
}

fn first_difference<T: PartialEq + std::fmt::Debug>(one: &[T], other: &[T]) -> String {
    let place = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    format!(
        "{} and {} in number; at {place}: {:?} and {:?}",
        one.len(),
        other.len(),
        one.get(place),
        other.get(place)
    )
}
