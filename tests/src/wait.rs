//! Waiting for a condition, with a deadline: the only way in which tests spend time.

use std::thread;
use std::time::{Duration, Instant};

/// Time between two looks at the condition.
const PAUSE: Duration = Duration::from_millis(25);

/// Asks `condition` until it gives a value; panics with `what` when `deadline` has passed.
pub fn until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < deadline, "not within {deadline:?}: {what}");
        thread::sleep(PAUSE);
    }
}

/// [`until`] for a condition that is only true or false; gives the time it took.
pub fn until_true(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    until(what, deadline, || condition().then_some(()));
    start.elapsed()
}
