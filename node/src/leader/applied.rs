//! What a state is after a command, for the tests of this folder.

use spine_core::{Command, Entry, Request, State, Time, WallTime};

/// Applies a command that is not refused.
pub(super) fn apply(state: &mut State, command: Command) {
    let batch = state.apply(&Entry {
        time: Time(0),
        wall: WallTime(0),
        requests: vec![Request::internal(command)],
    });
    let result = &batch.applied[0].result;
    assert!(result.is_ok(), "{result:?}");
}
