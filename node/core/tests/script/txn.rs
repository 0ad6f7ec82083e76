//! How scripts write transactions, and how they show what became of them.
//!
//! `txn "when version a eq 0" "put a value=1" else "get a"`: each part in quotes is a condition or an operation as a script would
//! write it by itself; behind `else` stand those of the other list.

use std::error::Error;

use goldenscript::{ArgumentConsumer, Context, Runner};
use spine_core::{
    Command, Compare, Index, LeaseId, Locking, OpDone, OpUnmet, Operand, Outcome, ReadKeys, Relation,
    Revision, Txn, TxnOp, Unmet,
};

use super::{
    parse::{command, pos, range, value},
    show,
};

/// Takes the parts of a transaction.
#[derive(Default)]
struct Parts {
    when: Vec<Compare>,
    ops: Vec<TxnOp>,
}

impl Runner for Parts {
    type Command = goldenscript::Command;

    fn run(&mut self, part: &goldenscript::Command, _context: &Context) -> super::Answered {
        let mut args = part.consume_args();
        match part.name.as_str() {
            "when" => self.when.push(compare(&mut args)?),
            name => self.ops.push(op(name, &mut args)?),
        }
        args.reject_next()?;
        Ok(String::new())
    }
}

pub(crate) fn txn(args: &mut ArgumentConsumer<'_>) -> Result<Txn, Box<dyn Error>> {
    let (mut parts, mut then) = (Parts::default(), None);
    while let Some(part) = args.next_pos() {
        if part == "else" {
            then = Some(std::mem::take(&mut parts.ops));
        } else {
            goldenscript::generate(&mut parts, &format!("{part}\n---\n"))?;
        }
    }
    let (then, otherwise) = match then {
        Some(then) => (then, parts.ops),
        None => (parts.ops, Vec::new()),
    };
    Ok(Txn {
        when: parts.when,
        then,
        otherwise,
    })
}

pub(crate) fn op(name: &str, args: &mut ArgumentConsumer<'_>) -> Result<TxnOp, Box<dyn Error>> {
    Ok(match name {
        "get" => TxnOp::Read(ReadKeys {
            required: args.take_key("required").is_some(),
            limit: args.take_key("limit").map(str::parse).transpose()?,
            revision: args.take_key("at").map(str::parse).transpose()?.map(Revision),
            range: range(args),
        }),
        "lock" => TxnOp::Lock(locking(args)?),
        "unlock" => TxnOp::Unlock(locking(args)?),
        "check" => TxnOp::Check(compare(args)?),
        name => match command(name, args)? {
            Command::Put(put) => TxnOp::Put(put),
            Command::Delete(delete) => TxnOp::Delete(delete),
            other => return Err(format!("no operation of a transaction: {other:?}").into()),
        },
    })
}

/// `KEY LEASE [value=V] [flags=N]`
fn locking(args: &mut ArgumentConsumer<'_>) -> Result<Locking, Box<dyn Error>> {
    let flags = args.take_key("flags");
    let given = value(args)?;
    let content = (!given.is_empty() || flags.is_some())
        .then(|| Ok::<_, Box<dyn Error>>((given.into(), flags.unwrap_or("0").parse()?)));
    Ok(Locking {
        content: content.transpose()?,
        key: pos(args)?.to_owned().into(),
        lease: LeaseId(pos(args)?.parse()?),
    })
}

/// `WHAT RANGE eq|ne|gt|lt OPERAND`
fn compare(args: &mut ArgumentConsumer<'_>) -> Result<Compare, Box<dyn Error>> {
    let what = pos(args)?;
    let range = range(args);
    let relation = match pos(args)? {
        "eq" => Relation::Equal,
        "ne" => Relation::NotEqual,
        "gt" => Relation::Greater,
        "lt" => Relation::Less,
        other => return Err(format!("no relation {other:?}").into()),
    };
    let text = pos(args)?;
    let lease = || -> Result<_, Box<dyn Error>> {
        Ok(match text {
            "none" => None,
            id => Some(LeaseId(id.parse()?)),
        })
    };
    let operand = match what {
        "value" => Operand::Value(text.to_owned().into()),
        "version" => Operand::Version(text.parse()?),
        "create-revision" => Operand::CreateRevision(Revision(text.parse()?)),
        "revision" => Operand::ModRevision(Revision(text.parse()?)),
        "create-index" => Operand::CreateIndex(Index(text.parse()?)),
        "index" => Operand::ModifyIndex(Index(text.parse()?)),
        "lease" => Operand::Lease(lease()?),
        "lock" => Operand::Lock(lease()?),
        other => return Err(format!("nothing to compare: {other:?}").into()),
    };
    Ok(Compare {
        range,
        relation,
        operand,
    })
}

pub(crate) fn outcome(outcome: &Outcome) -> String {
    let list = |held: &bool| if *held { "then" } else { "else" };
    match outcome {
        Outcome::Txn {
            held,
            done: all,
            revision,
        } => {
            let mut lines = vec![format!("txn {} revision={revision}", list(held))];
            lines.extend(all.iter().map(|one| format!("   {}", done(one))));
            lines.join("\n")
        }
        Outcome::TxnUnmet {
            held,
            unmet: all,
            revision,
        } => {
            let mut lines = vec![format!("txn {} unmet revision={revision}", list(held))];
            lines.extend(all.iter().map(|one| format!("   {}", unmet(one))));
            lines.join("\n")
        }
        other => format!("{other:?}"),
    }
}

pub(crate) fn done(done: &OpDone) -> String {
    match done {
        OpDone::Read { rows, count, more } => {
            let rows = rows
                .iter()
                .map(|(key, row)| format!("\n      {} = {}", show::text(key), show::kv(row)));
            format!("read count={count} more={more}{}", rows.collect::<String>())
        }
        OpDone::Put { row, written, fence } => {
            let fence = fence.map_or(String::new(), |fence| format!(" fence={fence}"));
            let unchanged = if *written { "" } else { " unchanged" };
            format!("put {}{fence}{unchanged}", show::kv(row))
        }
        OpDone::Deleted { count } => format!("deleted {count}"),
        OpDone::Checked { row } => {
            format!(
                "holds{}",
                row.as_ref()
                    .map_or(String::new(), |row| format!(" for {}", show::kv(row)))
            )
        }
    }
}

pub(crate) fn unmet(OpUnmet { op, why }: &OpUnmet) -> String {
    match why {
        Unmet::Absent => format!("{op}: absent"),
        Unmet::Changed {
            modify_index,
            mod_revision,
        } => format!("{op}: changed {modify_index}@{mod_revision}"),
        Unmet::Unlocked => format!("{op}: unlocked"),
        Unmet::Locked(lease) => format!("{op}: locked by {lease}"),
        Unmet::LockDelay => format!("{op}: lock delay"),
    }
}
