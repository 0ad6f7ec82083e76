//! Notices a simulation that stands still: something that turns without waiting keeps simulated time from going on for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::cost::Cost;

/// Processor time after which a step has not merely been long.
const STEP_MAX: Duration = Duration::from_secs(20);
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Steps so far. Clones count together.
#[derive(Clone, Default)]
pub(crate) struct Steps(Arc<AtomicU64>);

impl Steps {
    /// One more.
    pub(crate) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Has `hung` called on a thread of its own when a step takes too much of the processor's time.
    pub(crate) fn watch(&self, hung: impl FnOnce(u64) + Send + 'static) {
        let steps = self.clone();
        thread::spawn(move || {
            let mut last = (steps.get(), spent());
            loop {
                thread::sleep(LOOK_EVERY);
                if steps.get() != last.0 {
                    last = (steps.get(), spent());
                } else if spent().saturating_sub(last.1) > STEP_MAX {
                    return hung(last.0);
                }
            }
        });
    }
}

fn spent() -> Duration {
    Cost::so_far(Duration::ZERO).processor
}
