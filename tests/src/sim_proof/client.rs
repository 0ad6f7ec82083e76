//! A client that writes one number after another and remembers which were acknowledged.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::types::{PORT, Write, host};
use crate::wire;
use spine_tests::trace::Trace;

/// A write that takes longer has an unknown outcome.
const WITHIN: Duration = Duration::from_millis(500);
/// Between two writes.
const PAUSE: Duration = Duration::from_millis(20);

/// The acknowledged writes of all clients.
pub(crate) type Acknowledged = Arc<Mutex<Vec<Write>>>;

/// Writes `first`, `first + step`, … until the given simulated time, each to the node that took the last one, and to the next
/// node after every write that was not acknowledged.
pub(crate) async fn run(
    first: u64,
    step: u64,
    until: Duration,
    acknowledged: Acknowledged,
    trace: Trace,
) -> turmoil::Result {
    let mut node = 1;
    let mut channel = wire::channel(&host(node), PORT);
    for number in (first..).step_by(usize::try_from(step)?) {
        if turmoil::sim_elapsed().is_none_or(|now| now >= until) {
            break;
        }
        let write = Write(number);
        let answer = tokio::time::timeout(
            WITHIN,
            wire::call::<Write, ()>(channel.clone(), wire::WRITE, write),
        )
        .await;
        if let Ok(Ok(())) = answer {
            trace.record("client", format_args!("{write} acknowledged by {node}"));
            acknowledged
                .lock()
                .expect("the simulation has one thread")
                .push(write);
        } else {
            trace.record("client", format_args!("{write} unknown at {node}"));
            node = node % 3 + 1;
            channel = wire::channel(&host(node), PORT);
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}
