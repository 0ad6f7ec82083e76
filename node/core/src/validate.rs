//! What a command must be before it is looked at: sizes, names, ranges. The same before proposing, where it saves
//! a round trip, and at apply, where it holds whoever proposed.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    codec,
    command::{
        CatalogKey, CatalogOp, CatalogTxn, CheckDefinition, CheckKind, CheckUpdate, Command, Delete,
        Deregister, Guard, LeaseGrant, LeaseOpen, LeaseTerms, Locking, Put, Register, Service, Target, Txn,
        TxnOp, UpdateSource,
    },
    id::{CheckKey, InstanceKey, Key},
    kv::KeyRange,
    limits,
    outcome::Rejection,
    rules::SESSIONS_PASS_QUOTA,
    time::Ttl,
};

impl Command {
    /// Whether it is within its bounds, whatever the state.
    ///
    /// # Errors
    /// The first bound that it breaks.
    pub fn check(&self) -> Result<(), Rejection> {
        match self {
            Self::Put(put) => check_put(put),
            Self::Delete(delete) => check_delete(delete),
            Self::Register(register) => check_register(register),
            Self::Deregister(Deregister { node, target, .. }) => {
                node.check()?;
                match target {
                    Target::Node => Ok(()),
                    Target::Instance(id) => Ok(id.check()?),
                    Target::Check(id) => Ok(id.check()?),
                }
            }
            Self::CheckUpdate(update) => check_update(update),
            Self::LeaseGrant(LeaseGrant { ttl, .. }) => check_ttl("lease TTL", *ttl),
            Self::Renew(renewals) if renewals.len() > limits::ENTRY_RENEWALS_MAX => Err(Rejection::too_many(
                "renewals in one entry",
                limits::ENTRY_RENEWALS_MAX,
            )),
            Self::MemberUp(member) => {
                member.name.check()?;
                check_size(
                    "member",
                    codec::encoded_len(member),
                    limits::REGISTRATION_BYTES_MAX,
                )
            }
            Self::MemberStatus(report) => Ok(report.name.check()?),
            Self::MemberRemove(member) => Ok(member.name.check()?),
            Self::CaRootSet(root) | Self::CaRootInitial(root) => {
                check_size("CA root", codec::encoded_len(root), limits::CA_ROOT_BYTES_MAX)
            }
            Self::Txn(txn) => check_txn(txn),
            Self::CatalogTxn(txn) => check_catalog_txn(txn),
            Self::LeaseOpen(open) => check_lease(open),
            Self::QuotaSet(bytes) => check_quota(*bytes),
            Self::Compact(_)
            | Self::LeaseRevoke(_)
            | Self::Renew(_)
            | Self::Pulse
            | Self::OpenSession
            | Self::RulesRaise(_) => Ok(()),
        }
    }

    /// Whether it makes the state grow, by these rules: refused when the quota is used up.
    pub fn grows(&self, rules: u32) -> bool {
        match self {
            Self::Put(_)
            | Self::Register(_)
            | Self::LeaseGrant(_)
            | Self::LeaseOpen(_)
            | Self::CaRootSet(_)
            | Self::CaRootInitial(_) => true,
            // What passes always, as deletes do, must find a session to come through.
            Self::OpenSession => rules < SESSIONS_PASS_QUOTA,
            Self::Txn(txn) => txn.ops().any(op_grows),
            Self::CatalogTxn(txn) => txn.ops.iter().any(|op| match op {
                CatalogOp::Keys(op) => op_grows(op),
                CatalogOp::Set(..) => true,
                CatalogOp::Read(_) | CatalogOp::Remove(..) | CatalogOp::EndLease(_) => false,
            }),
            Self::Delete(_)
            | Self::Compact(_)
            | Self::Deregister(_)
            | Self::CheckUpdate(_)
            | Self::LeaseRevoke(_)
            | Self::Renew(_)
            | Self::Pulse
            | Self::MemberUp(_)
            | Self::MemberStatus(_)
            | Self::MemberRemove(_)
            | Self::RulesRaise(_)
            | Self::QuotaSet(_) => false,
        }
    }
}

fn check_size(what: &str, size: u64, limit: usize) -> Result<(), Rejection> {
    if size > limit as u64 {
        return Err(Rejection::TooLarge {
            what: what.into(),
            size,
            limit: limit as u64,
        });
    }
    Ok(())
}

fn check_count(what: &str, count: usize, limit: usize) -> Result<(), Rejection> {
    if count > limit {
        Err(Rejection::too_many(what, limit))
    } else {
        Ok(())
    }
}

fn check_ttl(what: &str, ttl: Ttl) -> Result<(), Rejection> {
    if ttl == Ttl(0) || ttl > limits::TTL_MAX {
        return Err(Rejection::invalid(format!(
            "{what} {ttl} must be above 0 and at most {}",
            limits::TTL_MAX
        )));
    }
    Ok(())
}

fn check_quota(bytes: u64) -> Result<(), Rejection> {
    if (limits::STATE_QUOTA_MIN..=limits::STATE_BYTES_MAX).contains(&bytes) {
        return Ok(());
    }
    Err(Rejection::invalid(format!(
        "a quota of {bytes} bytes must be at least {} and at most {}",
        limits::STATE_QUOTA_MIN,
        limits::STATE_BYTES_MAX
    )))
}

fn check_key(key: &Key) -> Result<(), Rejection> {
    if key.is_empty() {
        return Err(Rejection::invalid("key must not be empty"));
    }
    check_size("key", key.len() as u64, limits::KEY_BYTES_MAX)
}

fn check_put(put: &Put) -> Result<(), Rejection> {
    check_key(&put.key)?;
    check_size("value", put.value.len() as u64, limits::VALUE_BYTES_MAX)
}

fn check_delete(delete: &Delete) -> Result<(), Rejection> {
    if delete.guard != Guard::Always {
        check_key(&delete.range.start)?;
        if delete.range != KeyRange::one(delete.range.start.clone()) {
            return Err(Rejection::invalid("a guarded delete is of one key"));
        }
    }
    Ok(())
}

fn check_txn(txn: &Txn) -> Result<(), Rejection> {
    let of = |count, what| check_count(what, count, limits::TXN_OPS_MAX);
    of(txn.when.len(), "conditions of one transaction")?;
    of(txn.then.len(), "operations of one transaction")?;
    of(txn.otherwise.len(), "operations of one transaction")?;
    check_size("transaction", codec::encoded_len(txn), limits::TXN_BYTES_MAX)?;
    txn.ops().try_for_each(check_op)
}

fn check_op(op: &TxnOp) -> Result<(), Rejection> {
    match op {
        TxnOp::Put(put) => check_put(put),
        TxnOp::Delete(delete) => check_delete(delete),
        TxnOp::Lock(Locking { key, content, .. }) | TxnOp::Unlock(Locking { key, content, .. }) => {
            check_key(key)?;
            let size = content.as_ref().map_or(0, |(value, _)| value.len());
            check_size("value", size as u64, limits::VALUE_BYTES_MAX)
        }
        TxnOp::Read(_) | TxnOp::Check(_) => Ok(()),
    }
}

/// A lock is given back even with a value: others wait for it, and it happens once for each time that it was taken.
fn op_grows(op: &TxnOp) -> bool {
    matches!(op, TxnOp::Put(_) | TxnOp::Lock(_))
}

fn check_catalog_txn(txn: &CatalogTxn) -> Result<(), Rejection> {
    check_count(
        "operations of one transaction",
        txn.ops.len(),
        limits::TXN_OPS_MAX,
    )?;
    check_size("transaction", codec::encoded_len(txn), limits::TXN_BYTES_MAX)?;
    txn.ops.iter().try_for_each(|op| match op {
        CatalogOp::Keys(op) => check_op(op),
        CatalogOp::Read(key) => check_catalog_key(key),
        CatalogOp::Set(row, guard) => {
            check_catalog_guard(*guard)?;
            check_register(&row.registration())
        }
        CatalogOp::Remove(key, guard) => {
            check_catalog_guard(*guard)?;
            check_catalog_key(key)
        }
        CatalogOp::EndLease(_) => Ok(()),
    })
}

fn check_catalog_key(key: &CatalogKey) -> Result<(), Rejection> {
    match key {
        CatalogKey::Node(node) => node.check()?,
        CatalogKey::Instance(InstanceKey { node, id }) => node.check().and_then(|()| id.check())?,
        CatalogKey::Check(CheckKey { node, id }) => node.check().and_then(|()| id.check())?,
    }
    Ok(())
}

fn check_catalog_guard(guard: Guard) -> Result<(), Rejection> {
    match guard {
        Guard::Always | Guard::Absent | Guard::ModifyIndex(_) => Ok(()),
        Guard::ModRevision(_) => Err(Rejection::invalid("rows of the catalog have no revision")),
    }
}

fn check_lease(open: &LeaseOpen) -> Result<(), Rejection> {
    if let Some(ttl) = open.ttl {
        check_ttl("lease TTL", ttl)?;
    }
    let LeaseTerms {
        name,
        node,
        node_checks,
        service_checks,
        lock_delay,
        ..
    } = &open.terms;
    check_size("lease name", name.len() as u64, limits::NAME_BYTES_MAX)?;
    if *lock_delay > limits::LOCK_DELAY_MAX {
        return Err(Rejection::invalid(format!(
            "lock delay {lock_delay} must be at most {}",
            limits::LOCK_DELAY_MAX
        )));
    }
    let checks = node_checks.len() + service_checks.len();
    check_count("checks of one lease", checks, limits::LEASE_CHECKS_MAX)?;
    match node {
        Some(node) => node.check()?,
        None if open.ttl.is_none() => {
            return Err(Rejection::invalid(
                "a lease needs a TTL or a node that it ends with",
            ));
        }
        None if checks > 0 => return Err(Rejection::invalid("the checks of a lease are those of its node")),
        None => {}
    }
    node_checks
        .iter()
        .chain(service_checks)
        .try_for_each(|check| Ok(check.check()?))
}

fn check_register(register: &Register) -> Result<(), Rejection> {
    check_size(
        "registration",
        codec::encoded_len(register),
        limits::REGISTRATION_BYTES_MAX,
    )?;
    register.node.check()?;
    if let Some(node) = &register.node_update {
        check_size("node ID", node.id.len() as u64, limits::NAME_BYTES_MAX)?;
        check_meta(&node.meta)?;
    }
    if let Some(service) = &register.service {
        check_service(service)?;
    }
    if let Some(ttl) = register.heartbeat {
        check_ttl("heartbeat", ttl)?;
    }
    check_count(
        "checks in one registration",
        register.checks.len(),
        limits::CHECKS_PER_REGISTRATION_MAX,
    )?;
    register.checks.iter().try_for_each(check_definition)
}

fn check_service(service: &Service) -> Result<(), Rejection> {
    service.id.check()?;
    service.name.check()?;
    // Nobody is reached at the unspecified address.
    if matches!(&*service.address, "0.0.0.0" | "::" | "[::]") {
        return Err(Rejection::invalid("invalid service address"));
    }
    check_count("tags", service.tags.len(), limits::TAGS_MAX)?;
    check_meta(&service.meta)
}

fn check_meta(meta: &BTreeMap<Arc<str>, Arc<str>>) -> Result<(), Rejection> {
    check_count("metadata pairs", meta.len(), limits::META_PAIRS_MAX)?;
    for (key, value) in meta {
        check_size("metadata key", key.len() as u64, limits::META_KEY_BYTES_MAX)?;
        check_size("metadata value", value.len() as u64, limits::META_VALUE_BYTES_MAX)?;
        let wrong = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if key.is_empty() || key.contains(wrong) {
            return Err(Rejection::invalid(format!(
                "metadata key {key:?} must be of A-Z, a-z, 0-9, - and _"
            )));
        }
    }
    Ok(())
}

fn check_definition(definition: &CheckDefinition) -> Result<(), Rejection> {
    definition.id.check()?;
    if let Some(service) = &definition.service {
        service.check()?;
    }
    if let Some(after) = definition.deregister_after {
        check_ttl("deregister-critical-service-after", after)?;
    }
    match &definition.kind {
        CheckKind::External => Ok(()),
        CheckKind::Ttl(ttl) => check_ttl("check TTL", *ttl),
        CheckKind::Http(_) | CheckKind::Tcp(_) | CheckKind::Grpc(_) => {
            check_ttl("check interval", definition.kind.interval().unwrap_or_default())
        }
    }
}

fn check_update(update: &CheckUpdate) -> Result<(), Rejection> {
    update.node.check()?;
    update.check.check()?;
    match &update.source {
        UpdateSource::ServiceOrImplicit(ttl) => check_ttl("check TTL", *ttl),
        UpdateSource::Service | UpdateSource::Probe(_) => Ok(()),
    }
}
