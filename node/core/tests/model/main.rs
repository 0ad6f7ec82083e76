//! Random commands against a naive model of the registry: the same outcomes, the same keys at every revision, the
//! same catalog, health and deadlines; indexes and wakes as the core promises them; and whatever happened, a
//! snapshot, a replay and a renewal come to the same state, digest and bytes.

mod answers;
mod naive;
mod steps;

use std::{collections::BTreeMap, sync::Arc};

use naive::{Model, Place};
use proptest::prelude::*;
use spine_core::{
    Applied, Assignment, Author, CatalogDone, CatalogOp, CatalogUnmet, CheckKey, CheckKind, CheckUpdate,
    Command, Entry, Guard, Index, InstanceKey, Key, KeyRange, MemberStatus, Outcome, Register, Renewal,
    RenewalRequest, Request, RequestId, Revision, Rights, SessionId, State, Time, TxnOp, UpdateSource,
    WallTime, codec,
    snapshot::{self, Header, Proof, Restore},
};
use steps::{Ask, Step, What};

proptest! {
    // A failure prints its steps, which become a script; there is no file of seeds beside the scripts.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_core_is_its_model(steps in steps::steps(), range in steps::range()) {
        run(&steps, &range);
    }
}

fn run(steps: &[Step], range: &KeyRange) {
    let mut state = State::new();
    let mut model = Model::default();
    let mut log = Vec::new();
    let mut answers = answers::all(&state);
    let mut issued = BTreeMap::new();
    // A cluster's first request is its leader's own, before anybody can ask: no answer is older than index 1.
    let first = Step::Entry(
        0,
        vec![Ask {
            session: None,
            what: What::Do(Command::Pulse),
        }],
    );
    for step in std::iter::once(&first).chain(steps) {
        match step {
            Step::Snapshot => state = restored(&state),
            Step::Entry(advance, asks) => {
                let time = Time(model.now + advance);
                let requests: Vec<_> = asks.iter().map(|ask| request(&model, ask)).collect();
                let entry = Entry {
                    time,
                    wall: WallTime(0),
                    requests,
                };
                if let [request] = &entry.requests[..] {
                    renewal_does_the_same(&state, time, request);
                }
                let batch = state.apply(&entry);
                for (request, applied) in entry.requests.iter().zip(&batch.applied) {
                    let told = model.apply(time, request);
                    assert_eq!(shown(applied), told, "{request:?}");
                }
                compare(&state, &model);
                terms(&state, &model, &mut issued);
                history(&state, &model, range);
                let now = answers::all(&state);
                answers::check(&answers, &now, &batch.events);
                answers = now;
                log.push(codec::encode_entry(&entry));
            }
        }
    }
    let again = restored(&state);
    assert_eq!(again.digest(), replayed(&log).digest());
    assert_eq!(bytes(&again), bytes(&replayed(&log)));
}

/// The request that is meant, given what is there.
fn request(model: &Model, ask: &Ask) -> Request {
    let command = match &ask.what {
        What::Do(command) => resolved(model, command),
        What::Compact(before) => {
            let revision = model.keys.revision();
            Command::Compact(Revision(
                before.map_or(revision + 1, |before| revision.saturating_sub(before)),
            ))
        }
        What::Renew(commands) => Command::Renew(commands.iter().filter_map(as_renewal).collect()),
    };
    let id = ask.session.map(|(session, sequence, answered_up_to)| RequestId {
        session: model.opened.get(session).copied().unwrap_or(SessionId(u64::MAX)),
        sequence,
        answered_up_to,
    });
    Request {
        id,
        ..Request::internal(command)
    }
}

fn resolved(model: &Model, command: &Command) -> Command {
    let mut command = command.clone();
    let row = |key: &Key| model.keys.now().get(key).map(|row| row.modified);
    let guard = |guard: &mut Guard, key: &Key| match (*guard, row(key)) {
        (Guard::ModifyIndex(Index(0)), Some((index, _))) => *guard = Guard::ModifyIndex(index),
        (Guard::ModRevision(Revision(0)), Some((_, revision))) => *guard = Guard::ModRevision(revision),
        _ => {}
    };
    let of_keys = |op: &mut TxnOp| match op {
        TxnOp::Put(put) => guard(&mut put.guard, &put.key),
        TxnOp::Delete(delete) => guard(&mut delete.guard, &delete.range.start),
        TxnOp::Read(_) | TxnOp::Lock(_) | TxnOp::Unlock(_) | TxnOp::Check(_) => {}
    };
    match &mut command {
        Command::Put(put) => guard(&mut put.guard, &put.key),
        Command::Delete(delete) => guard(&mut delete.guard, &delete.range.start),
        Command::CheckUpdate(CheckUpdate {
            node,
            check,
            source: UpdateSource::Probe(assignment),
            ..
        }) if assignment.since == Index(0) => {
            let key = (node.to_string(), check.to_string());
            if let Some(row) = model.checks.get(&key) {
                let now = model.assignment(&key, row);
                *assignment = now.unwrap_or_else(|| assignment.clone());
            }
        }
        Command::Txn(txn) => txn.then.iter_mut().chain(&mut txn.otherwise).for_each(of_keys),
        Command::CatalogTxn(txn) => {
            for op in &mut txn.ops {
                let (key, guard) = match op {
                    CatalogOp::Keys(op) => {
                        of_keys(op);
                        continue;
                    }
                    CatalogOp::Set(row, guard) => (row.key(), guard),
                    CatalogOp::Remove(key, guard) => (key.clone(), guard),
                    CatalogOp::Read(_) | CatalogOp::EndLease(_) => continue,
                };
                if let (Guard::ModifyIndex(Index(0)), Some(index)) = (*guard, model.modified(&key)) {
                    *guard = Guard::ModifyIndex(index);
                }
            }
        }
        _ => {}
    }
    command
}

fn as_renewal(command: &Command) -> Option<RenewalRequest> {
    let renewal = match command {
        Command::Register(register) => Renewal::Instance {
            instance: InstanceKey {
                node: register.node.clone(),
                id: register.service.as_ref()?.id.clone(),
            },
            content: codec::content_hash(&Register::clone(register)),
        },
        Command::CheckUpdate(update) => Renewal::Check {
            check: CheckKey {
                node: update.node.clone(),
                id: update.check.clone(),
            },
            content: codec::content_hash(&(update.status, &*update.output)),
        },
        Command::LeaseRevoke(id) => Renewal::Lease(*id),
        _ => return None,
    };
    Some(renewal_request(renewal))
}

fn renewal_request(renewal: Renewal) -> RenewalRequest {
    RenewalRequest {
        author: Author::default(),
        rights: Rights::Open,
        renewal,
    }
}

/// A command that may travel as a renewal does exactly what the renewal does.
fn renewal_does_the_same(state: &State, time: Time, request: &Request) {
    let Some(renewal) = state.as_renewal(&request.command) else {
        return;
    };
    let digest = |command: Command| {
        let mut state = state.clone();
        let events = state
            .apply(&Entry {
                time,
                wall: WallTime(0),
                requests: vec![Request::internal(command)],
            })
            .events;
        assert!(events.is_empty(), "a repeat changes nothing: {events:?}");
        state.digest()
    };
    let renewed = Command::Renew(vec![renewal_request(renewal)]);
    assert_eq!(digest(request.command.clone()), digest(renewed), "{request:?}");
}

fn shown(applied: &Applied) -> (u64, naive::Told) {
    let result = applied.result.clone().map(in_short);
    (applied.index.0, result.map_err(|rejection| rejection.row().code))
}

/// An outcome without what the model doesn't know: texts of refusals, and the words of the check that a report makes.
fn in_short(mut outcome: Outcome) -> Outcome {
    match &mut outcome {
        Outcome::CatalogTxn { done, .. } => {
            for one in done {
                if let CatalogDone::Check(check, _) = one
                    && check.implicit
                {
                    let check = Arc::make_mut(check);
                    (check.definition.name, check.definition.notes) = ("".into(), "".into());
                }
            }
        }
        Outcome::CatalogTxnUnmet { unmet } => {
            for one in unmet {
                if let CatalogUnmet::Refused(rejection) = &one.why {
                    one.why = naive::refused(rejection.row().code);
                }
            }
        }
        _ => {}
    }
    outcome
}

fn compare(state: &State, model: &Model) {
    assert_eq!(state.index().0, model.index);
    assert_eq!(state.revision().0, model.keys.revision());
    assert_eq!(state.time().0, model.now);

    let nodes: BTreeMap<_, _> = state.catalog().nodes().map(|row| (&row.name, row)).collect();
    assert!(nodes.keys().copied().eq(model.nodes.keys()));
    for (row, naive) in nodes.values().zip(model.nodes.values()) {
        assert_eq!(row.definition, naive.definition);
        assert_eq!(
            (row.create_index, row.modify_index),
            (naive.created, naive.modified)
        );
    }

    let place = |node: &dyn ToString, id: &dyn ToString| -> Place { (node.to_string(), id.to_string()) };
    let instances: BTreeMap<_, _> = state
        .catalog()
        .instances()
        .map(|row| (place(&row.node, &row.service.id), row))
        .collect();
    assert!(instances.keys().eq(model.instances.keys()));
    for (row, naive) in instances.values().zip(model.instances.values()) {
        assert_eq!(row.service, naive.service);
        assert_eq!(
            (row.create_index, row.modify_index),
            (naive.created, naive.modified)
        );
    }

    let checks: BTreeMap<_, _> = state
        .health()
        .checks()
        .map(|row| (place(&row.node, &row.definition.id), row))
        .collect();
    assert!(checks.keys().eq(model.checks.keys()));
    for (row, naive) in checks.values().zip(model.checks.values()) {
        same_check(row, naive);
    }

    let leases: Vec<_> = state
        .leases()
        .iter()
        .map(|(id, lease)| {
            (
                id,
                lease.ttl.0,
                state.lease_deadline(id),
                state.leases().terms(id).cloned(),
            )
        })
        .collect();
    let naive = model.leases.iter();
    let naive: Vec<_> = naive
        .map(|(id, lease)| {
            let ttl = lease.ttl.unwrap_or_default();
            (*id, ttl, lease.ends.map(Time), lease.terms.clone())
        })
        .collect();
    assert_eq!(leases, naive);
    assert_eq!(state.kv().locks(), model.keys.fences.len());
    for (key, fence) in &model.keys.fences {
        assert_eq!(state.kv().fence(key), Some(*fence));
    }

    let servers: Vec<_> = state.members().map(|member| (&member.name, member.id)).collect();
    let naive: Vec<_> = model
        .members
        .iter()
        .map(|(name, server)| (name, server.id))
        .collect();
    assert_eq!(servers, naive);
    for (name, server) in &model.members {
        let row = state.liveness_of(name);
        let failed = row.status == MemberStatus::Failed;
        assert_eq!(
            (failed, row.since.0, row.index),
            (server.failed, server.since, server.changed)
        );
    }

    // A deadline that was moved ahead keeps its place: the pulse may come early, but never late.
    let next = state.next_deadline().map(|time| time.0);
    assert_eq!(next.is_some(), model.next_deadline().is_some());
    assert!(next <= model.next_deadline());
}

/// An assignment is of one term of office alone, and of the present one while that lasts. By the rules 1 a server that joins
/// may have one that an earlier server of its name had.
fn terms(state: &State, model: &Model, issued: &mut BTreeMap<(Place, Assignment), u64>) {
    for check in state.health().checks() {
        let place = (check.node.to_string(), check.definition.id.to_string());
        let term = model.terms.get(&place);
        let assignment = state.assignment(check);
        assert_eq!(
            assignment.as_ref().map(|now| &now.member),
            term.map(|term| &term.0)
        );
        if let (Some(assignment), Some((.., number))) = (assignment, term) {
            let first = issued.entry((place, assignment)).or_insert(*number);
            if model.rules() < 2 {
                *first = *number;
            }
            assert_eq!(first, number, "an assignment of an earlier term");
        }
    }
}

fn same_check(row: &spine_core::Check, naive: &naive::Check) {
    let mut definition = row.definition.clone();
    if row.implicit {
        // The words of the check that a report makes are not in the contract.
        assert!(matches!(definition.kind, CheckKind::Ttl(_)));
        (definition.name, definition.notes) = ("".into(), "".into());
    }
    let mut expected = naive.definition.clone();
    if row.implicit {
        (expected.name, expected.notes) = ("".into(), "".into());
    }
    assert_eq!(definition, expected);
    assert_eq!(
        (
            row.status,
            &row.output,
            row.critical_since.map(|time| time.0),
            row.implicit
        ),
        (naive.status, &naive.output, naive.critical_since, naive.implicit)
    );
    assert_eq!(
        (row.definition_index, row.create_index, row.modify_index),
        (naive.defined, naive.created, naive.modified)
    );
}

/// Every revision reads as it was.
fn history(state: &State, model: &Model, range: &KeyRange) {
    for revision in 0..=model.keys.revision() + 1 {
        let page = state.kv().list_at(range, Revision(revision), None);
        let rows = page.map_err(|rejection| rejection.row().code).map(|page| {
            let rows = page.rows.into_iter();
            rows.map(|(key, row)| {
                let row = naive::Row {
                    value: row.value.clone(),
                    flags: row.flags,
                    lease: row.lease,
                    created: (row.create_index, row.create_revision),
                    modified: (row.modify_index, row.mod_revision),
                    version: row.version,
                    lock: row.lock,
                    taken: row.lock_index,
                };
                (key, row)
            })
            .collect::<Vec<_>>()
        });
        assert_eq!(rows, model.keys.at(revision, range), "at {revision}");
    }
}

/// The state that a snapshot brings back: the digest of its rows is the one that was kept up to date.
fn restored(state: &State) -> State {
    let header = Header::of(state);
    let mut restore = Restore::new(Header::decode(&header.encode()).expect("a header")).expect("no newer");
    let mut proof = Proof::new(header).expect("no newer");
    for chunk in snapshot::chunks(state) {
        restore.push(&chunk).expect("rows");
        proof.push(&chunk).expect("rows");
    }
    let restored = restore.finish().expect("the digest is the header's");
    proof.finish().expect("no state is needed to see that");
    assert_eq!(bytes(state), bytes(&restored));
    assert_eq!(state.bytes(), restored.bytes());
    restored
}

fn bytes(state: &State) -> Vec<u8> {
    snapshot::chunks(state).flatten().collect()
}

fn replayed(log: &[Vec<u8>]) -> State {
    let mut state = State::new();
    for bytes in log {
        let entry = codec::decode_entry(bytes).expect("an entry comes back");
        assert_eq!(codec::encode_entry(&entry), *bytes);
        state.apply(&entry);
    }
    state
}
