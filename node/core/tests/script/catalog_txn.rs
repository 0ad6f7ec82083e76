//! How scripts write transactions over the catalog, and how they show what became of them.
//!
//! `catalog_txn "set n1 node-address=a" "set n1 service=web if=absent" "set n1 c1@web" "read-check n1/c1" "put k value=v"`: what
//! `set` registers is written as behind `register`, one row of it. What is none of these is an operation on keys.

use std::error::Error;

use goldenscript::{ArgumentConsumer, Context, Runner};
use spine_core::{
    CatalogDone, CatalogKey, CatalogOp, CatalogOpUnmet, CatalogRow, CatalogTxn, CatalogUnmet, LeaseId,
    OpUnmet, Register, Revision,
};

use super::{
    parse::{check_key, guard, instance, node, pos, register},
    show,
    txn::{done as key_done, op, unmet as key_unmet},
};

/// Takes the parts of a transaction.
#[derive(Default)]
struct Parts(Vec<CatalogOp>);

impl Runner for Parts {
    type Command = goldenscript::Command;

    fn run(&mut self, part: &goldenscript::Command, _context: &Context) -> super::Answered {
        let mut args = part.consume_args();
        let op = catalog_op(&part.name, &mut args)?;
        args.reject_next()?;
        self.0.push(op);
        Ok(String::new())
    }
}

pub(crate) fn txn(args: &mut ArgumentConsumer<'_>) -> Result<CatalogTxn, Box<dyn Error>> {
    let mut parts = Parts::default();
    while let Some(part) = args.next_pos() {
        goldenscript::generate(&mut parts, &format!("{part}\n---\n"))?;
    }
    Ok(CatalogTxn { ops: parts.0 })
}

fn catalog_op(name: &str, args: &mut ArgumentConsumer<'_>) -> Result<CatalogOp, Box<dyn Error>> {
    Ok(match name.split_once('-') {
        Some(("read", what)) => CatalogOp::Read(key(what, args)?),
        Some(("remove", what)) => {
            let guard = guard(args)?;
            CatalogOp::Remove(key(what, args)?, guard)
        }
        Some(("end", "lease")) => CatalogOp::EndLease(LeaseId(pos(args)?.parse()?)),
        _ if name == "set" => {
            let guard = guard(args)?;
            CatalogOp::Set(row(register(args)?)?, guard)
        }
        _ => CatalogOp::Keys(op(name, args)?),
    })
}

fn key(what: &str, args: &mut ArgumentConsumer<'_>) -> Result<CatalogKey, Box<dyn Error>> {
    Ok(match what {
        "node" => CatalogKey::Node(node(args)?),
        "instance" => CatalogKey::Instance(instance(args)?),
        "check" => CatalogKey::Check(check_key(args)?),
        other => return Err(format!("the catalog has no {other}").into()),
    })
}

fn row(register: Register) -> Result<CatalogRow, Box<dyn Error>> {
    let Register {
        node,
        node_update,
        service,
        mut checks,
        ..
    } = register;
    match (node_update, service, checks.pop()) {
        (Some(definition), None, None) => Ok(CatalogRow::Node(node, definition)),
        (None, Some(service), None) => Ok(CatalogRow::Instance(node, Box::new(service))),
        (None, None, Some(check)) if checks.is_empty() => Ok(CatalogRow::Check(node, Box::new(check))),
        _ => Err("one row is set at a time".into()),
    }
}

pub(crate) fn carried_out(done: &[CatalogDone], revision: Revision) -> String {
    let mut lines = vec![format!("catalog txn revision={revision}")];
    lines.extend(done.iter().map(|one| format!("   {}", one_done(one))));
    lines.join("\n")
}

pub(crate) fn unmet(unmet: &[CatalogOpUnmet]) -> String {
    let mut lines = vec!["catalog txn unmet".to_owned()];
    lines.extend(unmet.iter().map(|one| format!("   {}", one_unmet(one))));
    lines.join("\n")
}

fn one_unmet(CatalogOpUnmet { op, why }: &CatalogOpUnmet) -> String {
    match why {
        CatalogUnmet::Keys(why) => key_unmet(&OpUnmet {
            op: *op,
            why: why.clone(),
        }),
        CatalogUnmet::Absent => format!("{op}: absent"),
        CatalogUnmet::Changed(index) => format!("{op}: changed {index}"),
        CatalogUnmet::Refused(rejection) => {
            format!("{op}: refused {} — {rejection}", rejection.row().code)
        }
    }
}

fn one_done(done: &CatalogDone) -> String {
    match done {
        CatalogDone::Keys(done) => key_done(done),
        CatalogDone::Node(node) => format!("node {}", show::node(node)),
        CatalogDone::Instance(row) => format!("instance {}", show::instance(row)),
        CatalogDone::Check(check, instance) => {
            let of = instance
                .as_ref()
                .map_or(String::new(), |row| format!(" of {}", row.service.name));
            let key = check.key();
            format!(
                "check {}/{}{of} {} modified={}",
                key.node,
                key.id,
                show::check(check),
                check.modify_index
            )
        }
        CatalogDone::Removed { found } => format!("removed {found}"),
        CatalogDone::LeaseEnded { found } => format!("lease ended {found}"),
    }
}
