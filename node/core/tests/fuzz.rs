//! What comes from a disk or a peer may be anything: each decoder is given honest bytes, mutations of them, and noise.
//!
//! A decoder must not panic, must not ask for memory beyond its bound, and what it accepts must mean the same when
//! it is written again. The bytes need not be the same: a number may be written longer than it need be, and a map
//! may repeat or disorder its keys; what comes back is then the one shape that this release writes, which is never
//! longer. Honest bytes come back as they were. `SPINE_FUZZ_INPUTS` raises the number of inputs of each decoder.

// Bytes of a random number are cut from it; the ban on the environment is for the core itself.
#![allow(clippy::cast_possible_truncation, clippy::disallowed_methods)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::{
    prelude::Rng,
    test_runner::{RngAlgorithm, TestRng},
};
use spine_core::{
    Author, CatalogKey, CatalogOp, CatalogRow, CatalogTxn, CheckDefinition, CheckId, CheckKind, Command,
    Compare, Delete, Deregister, Entry, ExistingChecks, Guard, InstanceId, InstanceKey, KeyRange, LeaseGrant,
    LeaseId, LeaseOpen, LeaseTerms, Locking, NodeDefinition, NodeName, Operand, Pace, Put, ReadKeys,
    Register, Relation, Renewal, RenewalRequest, Repeat, Request, RequestId, Rights, Scope, Service,
    ServiceName, SessionId, State, Status, Target, TcpProbe, Thresholds, Time, Ttl, Txn, TxnOp, WallTime,
    Weights, codec,
    snapshot::{self, Header, Proof, Restore, RestoreError},
};

/// An entry: what decodes is written again, and no longer than it came.
fn entry(bytes: &[u8]) {
    let Ok(entry) = codec::decode_entry(bytes) else {
        return;
    };
    let written = codec::encode_entry(&entry);
    assert!(written.len() <= bytes.len());
    assert_eq!(codec::decode_entry(&written).as_ref(), Ok(&entry));
    // Whoever wrote it: the state takes it without stopping the node.
    let mut state = State::new();
    state.apply(&entry);
    state.apply(&entry);
}

/// A snapshot's header.
fn header(bytes: &[u8]) {
    let Ok(header) = Header::decode(bytes) else {
        return;
    };
    let written = header.encode();
    assert!(written.len() <= bytes.len());
    assert_eq!(Header::decode(&written), Ok(header));
    // An older or a newer one is refused, and any other waits for its rows.
    let _ = Restore::new(header).map(Restore::finish);
}

/// The chunks of a snapshot, cut where it pleases the sender.
fn chunks(bytes: &[u8]) {
    let header = Header::of(&State::new());
    let mut restore = Restore::new(header).expect("this release's own");
    for chunk in bytes.chunks(1 + bytes.len() / 3) {
        if restore.push(chunk).is_err() {
            return;
        }
    }
    if let Ok(state) = restore.finish() {
        assert_eq!(state.digest(), header.digest);
    }
}

/// Runs a body on a corpus and on as many mutations of it as are asked for.
fn fuzz(name: &str, corpus: &[Vec<u8>], body: fn(&[u8])) {
    let inputs: usize =
        std::env::var("SPINE_FUZZ_INPUTS").map_or(20_000, |text| text.parse().expect("a number"));
    // Always the same inputs: one that fails fails again.
    let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let run = |bytes: &[u8]| {
        let survived = catch_unwind(AssertUnwindSafe(|| body(bytes))).is_ok();
        assert!(survived, "{name}: {bytes:02x?}");
    };
    for bytes in corpus {
        run(bytes);
    }
    for _ in 0..inputs {
        let bytes = mutated(corpus, &mut rng);
        run(&bytes);
    }
}

fn mutated(corpus: &[Vec<u8>], rng: &mut TestRng) -> Vec<u8> {
    let mut below = |bound: usize| (rng.next_u64() % bound.max(1) as u64) as usize;
    let mut bytes = corpus[below(corpus.len())].clone();
    for _ in 0..=below(4) {
        let at = below(bytes.len() + 1);
        match below(8) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, below(256) as u8),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => {
                let other = &corpus[below(corpus.len())];
                let from = below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            // The marks of long numbers, and numbers as long as can be.
            4 if at < bytes.len() => bytes[at] = 250 + below(6) as u8,
            5 => drop(bytes.splice(at..at, [0xfd, 255, 255, 255, 255, 255, 255, 255, 255])),
            6 => bytes = (0..below(64)).map(|_| below(256) as u8).collect(),
            _ if at < bytes.len() => bytes[at] ^= 1 << below(8),
            _ => {}
        }
    }
    bytes
}

#[test]
fn entries() {
    let corpus: Vec<_> = commands()
        .into_iter()
        .map(|command| codec::encode_entry(&of(vec![command])))
        .collect();
    for bytes in &corpus {
        let entry = codec::decode_entry(bytes).expect("honest bytes");
        assert_eq!(
            codec::encode_entry(&entry),
            *bytes,
            "honest bytes come back as they were"
        );
    }
    fuzz("entry", &corpus, entry);
}

#[test]
fn headers() {
    let corpus = [State::new(), full()].map(|state| Header::of(&state).encode());
    fuzz("header", &corpus, header);
}

#[test]
fn rows_and_chunks() {
    let whole: Vec<u8> = snapshot::chunks(&full()).flatten().collect();
    // Each row by itself and all of them: a chunk is rows, each with its length before it.
    let mut corpus = vec![whole.clone(), snapshot::chunks(&State::new()).flatten().collect()];
    let mut rest = &whole[..];
    while let Some((length, body)) = rest.split_first_chunk::<4>() {
        let end = 4 + u32::from_le_bytes(*length) as usize;
        corpus.push(rest[..end].to_vec());
        rest = &body[end - 4..];
    }
    fuzz("chunks", &corpus, chunks);
}

/// What a restore finds by building the state, a proof finds without it.
#[test]
fn a_proof_sees_what_a_restore_sees() {
    let state = full();
    let header = Header::of(&state);
    let whole: Vec<u8> = snapshot::chunks(&state).flatten().collect();
    let restored = |bytes: &[u8]| {
        let mut restore = Restore::new(header)?;
        restore.push(bytes)?;
        restore.finish().map(|_| ())
    };
    let proven = |bytes: &[u8]| {
        let mut proof = Proof::new(header)?;
        proof.push(bytes)?;
        proof.finish()
    };
    assert_eq!((restored(&whole), proven(&whole)), (Ok(()), Ok(())));
    assert_eq!(proven(&whole[..whole.len() - 1]), Err(RestoreError::Truncated));
    let mut seen = 0;
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let proven = proven(&damaged);
        if restored(&damaged) == Err(RestoreError::DigestDiffers) {
            assert!(proven.is_err(), "bit {bit}");
            seen += 1;
        }
    }
    assert!(seen > 1_000, "{seen}");
}

/// A length that asks for more than there is gets nothing.
#[test]
fn lengths_are_bounded() {
    let long = [&[1, 0, 1, 2][..], &[0xfd, 255, 255, 255, 255, 255, 255, 255, 127]].concat();
    assert!(codec::decode_entry(&long).is_err());
    let mut restore = Restore::new(Header::of(&State::new())).expect("this release's own");
    assert!(restore.push(&u32::MAX.to_le_bytes()).is_err());
}

fn of(commands: Vec<Command>) -> Entry {
    let id = RequestId {
        session: SessionId(1),
        sequence: 300,
        answered_up_to: 2,
    };
    let request = |command| Request {
        id: Some(id).filter(|_| command != Command::OpenSession),
        ..Request::internal(command)
    };
    Entry {
        time: Time(70_000),
        wall: WallTime(1 << 40),
        requests: commands.into_iter().map(request).collect(),
    }
}

/// A state with rows in every table.
fn full() -> State {
    let mut state = State::new();
    for command in commands() {
        state.apply(&Entry {
            requests: vec![Request::internal(command)],
            ..of(Vec::new())
        });
    }
    state
}

fn commands() -> Vec<Command> {
    let node = NodeName::parse("n1").expect("a name");
    let check = |id: &str, kind| CheckDefinition {
        id: CheckId::parse(id).expect("an id"),
        name: "a check".into(),
        notes: "".into(),
        service: Some(InstanceId::parse("web").expect("an id")),
        status: Some(Status::Passing),
        output: "fine".into(),
        kind,
        deregister_after: Some(Ttl::seconds(60)),
        thresholds: Thresholds::default(),
    };
    let pace = Pace {
        interval: Ttl::seconds(10),
        timeout: Ttl::seconds(1),
    };
    let register = |heartbeat, checks| {
        Command::Register(Box::new(Register {
            node: node.clone(),
            node_update: Some(NodeDefinition {
                id: "uuid".into(),
                address: "10.0.0.1".into(),
                meta: [("k".into(), "v".into()), ("l".into(), "w".into())].into(),
                ..NodeDefinition::default()
            }),
            service: Some(Service {
                id: InstanceId::parse("web").expect("an id"),
                name: ServiceName::parse("web").expect("a name"),
                kind: "".into(),
                tags: vec!["v1".into(), "v2".into()],
                address: "".into(),
                tagged_addresses: [].into(),
                port: 8080,
                socket_path: "".into(),
                meta: [("k".into(), "v".into())].into(),
                weights: Weights::default(),
                enable_tag_override: false,
            }),
            checks,
            existing: ExistingChecks::Keep,
            heartbeat,
        }))
    };
    let put = |key: &'static str, lease| {
        Command::Put(Put {
            key: key.into(),
            value: "value".into(),
            flags: 300,
            lease,
            guard: Guard::Always,
            repeat: Repeat::Write,
        })
    };
    let lease = LeaseId(1 << 100);
    vec![
        Command::OpenSession,
        register(Some(Ttl::seconds(30)), Vec::new()),
        register(
            None,
            vec![
                check("c1", CheckKind::Ttl(Ttl::seconds(10))),
                check(
                    "c2",
                    CheckKind::Tcp(TcpProbe {
                        address: "127.0.0.1:1".into(),
                        tls: false,
                        pace,
                    }),
                ),
            ],
        ),
        Command::LeaseGrant(LeaseGrant {
            id: lease,
            ttl: Ttl::seconds(10),
        }),
        put("a", Some(lease)),
        put("a", Some(lease)),
        put("b", None),
        Command::Delete(Delete {
            range: KeyRange::prefix("b".into()),
            guard: Guard::Always,
        }),
        session(&node),
        txn(),
        Command::RulesRaise(2),
        catalog_txn(&node),
        Command::QuotaSet(16 << 20),
        Command::Renew(vec![RenewalRequest {
            author: Author::default(),
            rights: Rights::Open,
            renewal: Renewal::Lease(lease),
        }]),
        Command::Compact(spine_core::Revision(3)),
        deregister(),
        Command::Pulse,
    ]
}

fn session(node: &NodeName) -> Command {
    Command::LeaseOpen(Box::new(LeaseOpen {
        id: LeaseId(7),
        ttl: None,
        terms: LeaseTerms {
            name: "session".into(),
            node: Some(node.clone()),
            node_checks: vec![CheckId::parse("c1").expect("an id")],
            lock_delay: Ttl::seconds(15),
            ..LeaseTerms::default()
        },
    }))
}

fn deregister() -> Command {
    Command::Deregister(Deregister {
        node: NodeName::parse("n9").expect("a name"),
        target: Target::Node,
        scope: Scope::Servers,
    })
}

fn catalog_txn(node: &NodeName) -> Command {
    let key = InstanceKey {
        node: node.clone(),
        id: InstanceId::parse("web").expect("an id"),
    };
    Command::CatalogTxn(CatalogTxn {
        ops: vec![
            CatalogOp::Keys(TxnOp::Put(Put {
                key: "d".into(),
                value: "value".into(),
                flags: 300,
                lease: None,
                guard: Guard::Absent,
                repeat: Repeat::Skip,
            })),
            CatalogOp::Set(
                CatalogRow::Node(node.clone(), NodeDefinition::default()),
                Guard::Always,
            ),
            CatalogOp::Read(CatalogKey::Instance(key.clone())),
            CatalogOp::Remove(
                CatalogKey::Instance(key),
                Guard::ModifyIndex(spine_core::Index(300)),
            ),
            CatalogOp::EndLease(LeaseId(1 << 90)),
        ],
    })
}

fn txn() -> Command {
    Command::Txn(Txn {
        when: vec![Compare {
            range: KeyRange::one("a".into()),
            relation: Relation::Less,
            operand: Operand::Value("z".into()),
        }],
        then: vec![TxnOp::Lock(Locking {
            key: "c".into(),
            lease: LeaseId(7),
            content: Some(("value".into(), 300)),
        })],
        otherwise: vec![TxnOp::Read(ReadKeys {
            range: KeyRange::all(),
            revision: None,
            limit: Some(9),
            required: false,
        })],
    })
}
