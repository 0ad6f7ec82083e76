//! Versions of behaviour.
//!
//! While a cluster is upgraded, servers of two releases apply one log, and both must come to the same state. So what an entry
//! does never hangs on the release that applies it, but on the *rules in force*, a number in the state. A release that brings a
//! command, or has one do something else, brings a number with it. The leader raises the rules by an entry
//! ([`Command::RulesRaise`]) once every server knows them; until then what belongs to the new rules is refused
//! ([`State::admits`]), before it is proposed, because an older release can't even read it, and again when it is applied.
//! Rules never fall: what they brought stands in the log.
//!
//! The formats of entries, rows and snapshots hang on the same number: nothing is written in a form that the rules in force
//! don't have.
//!
//! | rules | since | brought |
//! |---|---|---|
//! | 1 | 0.1.0 | all that is not below |
//! | 2 | 0.3.0 | transactions over the catalog: [`Command::CatalogTxn`]; what is on a removed server's node is taken over: `DESERTED_NODES`; a server that joins begins a new term with every check: `JOINING_BEGINS_TERM`; a full quota lets request sessions through: `SESSIONS_PASS_QUOTA`; old versions go as fast as new ones come: `SWEEP_KEEPS_UP`; clients leave request sessions to servers: `SESSIONS_FOR_SERVERS`; leases of a removed server leave no deadline behind: `DOOMED_WAIT_FOR_NOTHING`; a quota other than the usual one: [`Command::QuotaSet`] |

use crate::{
    command::{Command, Entry},
    outcome::{Outcome, Rejection},
    state::State,
};

/// The newest rules that this release knows.
pub const RULES_KNOWN: u32 = 2;

/// The rules that brought that the node of a removed server, with something on it, is remembered as such.
pub(crate) const DESERTED_NODES: u32 = 2;

/// The rules that brought that no assignment of a server's is one that an earlier server of its name had.
pub(crate) const JOINING_BEGINS_TERM: u32 = 2;

/// The rules that brought that request sessions are opened when the quota is used up.
pub(crate) const SESSIONS_PASS_QUOTA: u32 = 2;

/// The rules that brought that a lease which ends at the next pulse doesn't wait for its server to come back.
pub(crate) const DOOMED_WAIT_FOR_NOTHING: u32 = 2;

/// The rules that brought that some of the request sessions are for servers only.
pub(crate) const SESSIONS_FOR_SERVERS: u32 = 2;

/// The rules that brought that an entry drops more old versions than it makes.
pub(crate) const SWEEP_KEEPS_UP: u32 = 2;

impl Command {
    /// The rules that brought it.
    pub const fn rules(&self) -> u32 {
        match self {
            Self::CatalogTxn(_) | Self::QuotaSet(_) => 2,
            Self::Put(_)
            | Self::Delete(_)
            | Self::Compact(_)
            | Self::Register(_)
            | Self::Deregister(_)
            | Self::CheckUpdate(_)
            | Self::LeaseGrant(_)
            | Self::LeaseRevoke(_)
            | Self::Renew(_)
            | Self::Pulse
            | Self::OpenSession
            | Self::MemberUp(_)
            | Self::CaRootSet(_)
            | Self::RulesRaise(_)
            | Self::MemberStatus(_)
            | Self::CaRootInitial(_)
            | Self::Txn(_)
            | Self::LeaseOpen(_)
            | Self::MemberRemove(_) => 1,
        }
    }
}

impl Entry {
    /// Rules that it raises and this release doesn't know: whoever applied it would go another way than the others from here
    /// on.
    pub fn unknown_rules(&self) -> Option<u32> {
        self.requests.iter().find_map(|request| match request.command {
            Command::RulesRaise(rules) if rules > RULES_KNOWN => Some(rules),
            _ => None,
        })
    }
}

impl State {
    /// Whether a command belongs to the rules in force.
    ///
    /// # Errors
    /// [`Rejection::RulesTooLow`], which names the servers to be upgraded.
    pub fn admits(&self, command: &Command) -> Result<(), Rejection> {
        let needed = command.rules();
        if needed <= self.rules() {
            return Ok(());
        }
        let older = self.members().filter(|member| member.rules < needed);
        Err(Rejection::RulesTooLow {
            needed,
            current: self.rules(),
            older: older
                .map(|member| (member.name.clone(), member.version.clone()))
                .collect(),
        })
    }

    pub(crate) fn raise_rules(&mut self, rules: u32) -> Result<Outcome, Rejection> {
        // Rules that are not known never come here from a log: see `Entry::unknown_rules`.
        if rules <= self.rules || rules > RULES_KNOWN {
            return Err(Rejection::RulesUnsupported {
                asked: rules,
                current: self.rules,
                // Not `RULES_KNOWN`: a session may keep the outcome, which must not hang on the release.
                known: self.rules,
            });
        }
        self.rules = rules;
        Ok(Outcome::RulesRaised(rules))
    }
}
