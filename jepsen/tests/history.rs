//! A history is read back as it was written.

use spine_jepsen::{
    client::Failure,
    clock::Clock,
    history::{Call, Dialect, History, Out, Outcome, Recorder, Row, Sight, Workload},
};

fn write(key: &str, value: &str) -> Call {
    Call::Write {
        key: key.to_owned(),
        value: value.to_owned(),
    }
}

#[test]
fn is_read_back_as_written() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("history.jsonl");
    let recorder = Recorder::create(&path, Clock::start()).unwrap();
    let (one, other) = (recorder.process(), recorder.process());
    let invoke = |p, call| recorder.invoke(p, Workload::Register, "n1", Dialect::Native, call);
    let (first, second) = (invoke(one, write("r/1", "1")), invoke(other, write("r/1", "2")));
    let (_, next) = second.end(Err(Failure::Unknown("cut".to_owned())));
    assert_ne!(next, other, "a client goes on as another process");
    let row = Row {
        key: "r/1".to_owned(),
        value: "\u{1f642} \"quoted\"".to_owned(),
        modify: u64::MAX,
    };
    let answer = Out::Row {
        row: Some(row),
        applied: None,
    };
    assert_eq!(first.end(Ok(answer.clone())), (Some(answer.clone()), one));
    drop(invoke(one, write("r/1", "3")));
    let failed = invoke(next, write("r/1", "4"));
    assert_eq!(failed.end(Err(Failure::Fail("refused".to_owned()))), (None, next));
    recorder.saw(Workload::Cluster, "", Sight::FaultsOver);
    recorder.flush().unwrap();

    let histories = History::read(&path).unwrap();
    let outcomes: Vec<_> = histories[&Workload::Register]
        .operations
        .iter()
        .map(|one| one.outcome.clone())
        .collect();
    assert_eq!(outcomes[0], Outcome::Ok(answer));
    assert_eq!(outcomes[1], Outcome::Unknown("cut".to_owned()));
    assert!(matches!(&outcomes[2], Outcome::Unknown(_)), "never ended");
    assert_eq!(outcomes[3], Outcome::Fail("refused".to_owned()));
    assert_eq!(
        histories[&Workload::Cluster].sightings[0].sight,
        Sight::FaultsOver
    );
}

#[test]
fn a_process_does_one_thing_after_another() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("history.jsonl");
    let recorder = Recorder::create(&path, Clock::start()).unwrap();
    let process = recorder.process();
    for value in ["1", "2"] {
        let call = write("r/1", value);
        drop(recorder.invoke(process, Workload::Register, "n1", Dialect::Native, call));
    }
    recorder.flush().unwrap();
    let error = History::read(&path).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}
