//! The status of each error, as a golden script. `UPDATE_GOLDENFILES=1` writes it anew; then read it.

use spine_api::Error;
use spine_core::{CheckId, InstanceId, LeaseId, NameError, NodeName, Rejection, Revision, SessionId};

use crate::served::{Served, put};

#[test]
fn every_error_has_its_status() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts/native/statuses");
    goldenscript::run(&mut Statuses, path).expect("the script runs");
}

struct Statuses;

impl goldenscript::Runner for Statuses {
    type Command = goldenscript::Command;

    fn run(
        &mut self,
        _command: &goldenscript::Command,
        _context: &goldenscript::Context,
    ) -> Result<String, Box<dyn std::error::Error>> {
        tokio::runtime::Runtime::new()?.block_on(async {
            let served = Served::start().await;
            let mut lines = Vec::new();
            for error in errors() {
                served.registry.fail_with(error);
                let status = served.kv().put(put("a", "1")).await.unwrap_err();
                let said = |key: &str| status.metadata().get(key).unwrap().to_str().unwrap();
                let (code, outcome, retry) = (said("spine-code"), said("spine-outcome"), said("spine-retry"));
                lines.push(format!("{code} {:?} {outcome} retry={retry}", status.code()));
                lines.push(format!("  {}; {}", status.message(), said("spine-remedy")));
            }
            Ok(lines.join("\n"))
        })
    }
}

/// One error of each kind.
fn errors() -> Vec<Error> {
    let node = |name| NodeName::parse(name).unwrap();
    let mut errors = vec![
        Error::NoLeader,
        Error::Unknown("the leader was lost".into()),
        Error::Deadline("confirming the leader".into()),
        Error::Overloaded {
            what: "proposals".into(),
            limit: 10,
        },
        Error::ShuttingDown,
        Error::Unsupported("checkpoints".into()),
        Error::NoMember("n9".into()),
        Error::Unsafe("n1 is the only voter".into()),
    ];
    errors.extend(
        [
            Rejection::Invalid("port is wrong".into()),
            Rejection::Name(NameError {
                what: "node name".into(),
                problem: "must not be empty".into(),
            }),
            Rejection::TooLarge {
                what: "value".into(),
                size: 9,
                limit: 8,
            },
            Rejection::TooMany {
                what: "nodes".into(),
                limit: 8,
            },
            Rejection::UnknownNode(node("n9")),
            Rejection::UnknownInstance(InstanceId::parse("p9").unwrap()),
            Rejection::UnknownCheck(CheckId::parse("c9").unwrap()),
            Rejection::NotTtl(CheckId::parse("c1").unwrap()),
            Rejection::Ambiguous {
                id: "p1".into(),
                nodes: vec![node("n1"), node("n2")],
            },
            Rejection::NodeIdTaken {
                id: "u".into(),
                owner: node("n1"),
            },
            Rejection::StaleAssignment(CheckId::parse("c1").unwrap()),
            Rejection::UnknownLease(LeaseId(1)),
            Rejection::LeaseExists(LeaseId(1)),
            Rejection::Compacted {
                asked: Revision(1),
                oldest: Revision(2),
            },
            Rejection::FutureRevision {
                asked: Revision(9),
                newest: Revision(2),
            },
            Rejection::QuotaExceeded { used: 9, limit: 8 },
            Rejection::UnknownSession(SessionId(1)),
            Rejection::AnsweredBefore {
                session: SessionId(1),
                sequence: 2,
            },
            Rejection::RulesUnsupported {
                asked: 9,
                current: 1,
                known: 1,
            },
            Rejection::UnknownMember {
                name: NodeName::parse("n9").unwrap(),
                id: 9,
            },
            Rejection::CheckCritical(CheckId::parse("c9").unwrap()),
        ]
        .map(Error::Refused),
    );
    errors
}
