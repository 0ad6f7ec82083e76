//! Transactions of one to four steps over a few lists, in both dialects, and at the end a read of all lists.
//!
//! A list is stored anew with each append, so a key is given up when its list has grown long, and a fresh one taken.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use tokio::{task::JoinSet, time::sleep};

use super::{Context, Worker};
use crate::{
    client::Session,
    history::{Call, Dialect, Expecting, Out, Step, Transaction, Workload},
};

const CLIENTS: u32 = 6;
/// Lists in use at one time: few, so that transactions meet.
const LISTS: usize = 5;
/// A list that has grown so long is left alone.
const LONG: usize = 40;
/// Steps of a transaction at the most.
const STEPS: usize = 4;
/// Lists of one last read.
const LISTS_AT_ONCE: usize = 10;
/// A last read that is not answered is tried again, so often.
const LAST_READS: usize = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Which lists are in use: of each place, how many have been.
#[derive(Debug, Default)]
pub(super) struct Lists {
    places: [AtomicU64; LISTS],
    appended: AtomicU64,
}

impl Lists {
    fn key(&self, place: usize) -> String {
        key(place, self.places[place].load(Ordering::Relaxed))
    }

    /// A list was read, and may be long enough.
    fn saw(&self, read: &str, list: &[u64]) {
        for (place, generation) in self.places.iter().enumerate() {
            let present = generation.load(Ordering::Relaxed);
            if list.len() >= LONG && key(place, present) == read {
                // Somebody else may have seen it as well.
                let _ =
                    generation.compare_exchange(present, present + 1, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    fn element(&self) -> u64 {
        self.appended.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Every list that there ever was.
    fn all(&self) -> Vec<String> {
        let places = self.places.iter().enumerate();
        let keys = places.flat_map(|(place, generation)| {
            let newest = generation.load(Ordering::Relaxed);
            (0..=newest).map(move |generation| key(place, generation))
        });
        keys.collect()
    }
}

fn key(place: usize, generation: u64) -> String {
    format!("a/{place}/{generation}")
}

pub(super) fn start(context: &Context, workers: &mut JoinSet<()>) -> Arc<Lists> {
    let lists = Arc::new(Lists::default());
    for client in 0..CLIENTS {
        let worker = Worker::new(context, Workload::Append, client.into());
        workers.spawn(work(worker, Arc::clone(&lists)));
    }
    lists
}

async fn work(mut worker: Worker, lists: Arc<Lists>) {
    let context = worker.context.clone();
    while context.pace(&mut worker.rng, CLIENTS).await {
        let dialect = worker.any_dialect();
        let transaction = transaction(&mut worker.rng, |place| lists.key(place), || lists.element());
        let answer = worker.call(dialect, Call::Transact(transaction.clone())).await;
        if let Some(Out::Transacted { lists: read, .. }) = answer {
            for (key, list) in transaction.reads().zip(&read) {
                lists.saw(key, list);
            }
        }
    }
}

/// What a client does next. `list` is the key of the list at a place, `element` a number that nobody has appended.
pub(crate) fn transaction(
    rng: &mut StdRng,
    list: impl Fn(usize) -> String,
    mut element: impl FnMut() -> u64,
) -> Transaction {
    let mut appended = [false; LISTS];
    let steps = (0..rng.random_range(1..=STEPS)).map(|_| {
        let place = rng.random_range(0..LISTS);
        let key = list(place);
        if rng.random_bool(0.5) && !appended[place] {
            appended[place] = true;
            let some = if rng.random_bool(0.2) { 2 } else { 1 };
            let elements = (0..some).map(|_| element()).collect();
            Step::Append { key, elements }
        } else {
            Step::Read { key }
        }
    });
    let steps = steps.collect();
    let ways = [Expecting::Index, Expecting::Value, Expecting::Guard];
    let expecting = *ways.choose(rng).expect("there are ways");
    Transaction { steps, expecting }
}

/// Reads every list, some at once, at one node after another.
pub(super) async fn finish(context: &Context, lists: &Lists) {
    let mut session = Session::new(&context.recorder, Workload::Append);
    let nodes = context.clients();
    for (round, keys) in lists.all().chunks(LISTS_AT_ONCE).enumerate() {
        let steps = keys.iter().map(|key| Step::Read { key: key.clone() });
        let transaction = Transaction {
            steps: steps.collect(),
            expecting: Expecting::Index,
        };
        for attempt in 0..LAST_READS {
            let node = &nodes[(round + attempt) % nodes.len()];
            let call = Call::Transact(transaction.clone());
            if session.call(node, Dialect::Native, call).await.is_some() {
                break;
            }
            sleep(PAUSE).await;
        }
    }
}
