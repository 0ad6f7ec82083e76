//! Applying, snapshotting and replaying come to the same state.

use spine_core::{
    Command, Entry, ExistingChecks, Guard, NodeDefinition, Put, Register, Repeat, Request, State, Time,
    WallTime,
    snapshot::{self, Header, Restore},
};

fn entry(ms: u64, command: Command) -> Entry {
    Entry {
        time: Time(ms),
        wall: WallTime(ms),
        requests: vec![Request::internal(command)],
    }
}

#[test]
fn a_snapshot_restores_to_the_same_digest() {
    let mut state = State::new();
    for n in 0..3_000u64 {
        let key = format!("key/{}", n % 100);
        let put = Put {
            key: key.into(),
            value: vec![b'x'; 100].into(),
            flags: n,
            lease: None,
            guard: Guard::Always,
            repeat: Repeat::Skip,
        };
        state.apply(&entry(n, Command::Put(put)));
    }
    let register = Register {
        node: spine_core::NodeName::parse("n1").expect("a name"),
        node_update: Some(NodeDefinition::default()),
        service: None,
        checks: Vec::new(),
        existing: ExistingChecks::Keep,
        heartbeat: None,
    };
    state.apply(&entry(4_000, Command::Register(Box::new(register))));
    let mut restore = Restore::new(Header::of(&state)).expect("a known format");
    for chunk in snapshot::chunks(&state) {
        assert!(chunk.len() <= snapshot::CHUNK_BYTES);
        restore.push(&chunk).expect("a chunk");
    }
    let restored = restore.finish().expect("the same state");
    assert_eq!(restored.digest(), state.digest());
    assert_eq!(restored.bytes(), state.bytes());
}
