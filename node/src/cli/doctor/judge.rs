//! What follows from what the members say and what is seen from here: facts in, findings out. Nothing here waits or asks.
//!
//! Each check is a function, and gives a line for each thing that is wrong, or one that says what it measured.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use spine_client::{Error, proto as v1};

use super::finding::Finding;

/// What is known of a cluster.
#[derive(Debug)]
pub(in crate::cli) struct Facts {
    /// Its members.
    pub(in crate::cli) servers: Vec<Server>,
    /// How many have a vote, those included whose place in the list another has taken already; `None`: nobody tells.
    pub(in crate::cli) voters: Option<usize>,
}

/// A member.
#[derive(Debug)]
pub(in crate::cli) struct Server {
    /// As the cluster has it.
    pub(in crate::cli) member: v1::Member,
    /// What it says itself.
    pub(in crate::cli) said: Result<Reached, Error>,
    /// The addresses that it gives.
    pub(super) ports: Vec<Port>,
}

/// What a member says of itself.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Reached {
    /// The words.
    pub(in crate::cli) said: v1::DiagnoseResponse,
    /// The way there and back, without what it took there.
    pub(super) round_trip: Duration,
    /// How far its wall clock is ahead of this machine's, give or take half of the way.
    pub(super) ahead_ms: i64,
}

/// An address that a member gives.
#[derive(Clone, Debug)]
pub(super) struct Port {
    /// What for.
    pub(super) name: &'static str,
    /// `HOST:PORT`.
    pub(super) address: String,
    /// Why it can't be reached from here.
    pub(super) problem: Option<String>,
}

/// Clocks that differ more are noted: people compare times in logs, and credentials end by them. No rule of the registry
/// reads a wall clock.
const SKEW_WARN_MS: u64 = 500;
/// A credential of a few minutes is refused then, or lives on.
const SKEW_FAIL_MS: u64 = 10_000;
/// A server that has applied so much less than is committed is behind: more than a second's writes.
const LAG_WARN: u64 = 20_000;
/// Members ask each other once a second.
const SILENT_MS: u64 = 5_000;
/// Half of a log's writes take so long at most on a disk that does for a registry.
const FLUSH_WARN: Duration = Duration::from_millis(20);
/// And on one that gives leadership away if others are better.
const FLUSH_FAIL: Duration = Duration::from_millis(50);
/// Of a hundred writes one may take so long.
const FLUSH_P99_WARN: Duration = Duration::from_millis(100);
/// A write that takes so long may never come back.
const STUCK: Duration = Duration::from_secs(5);
/// Free space below which a server may stop soon: its log's files are of 64 MiB.
const SPACE_FAIL: u64 = 256 << 20;
const SPACE_WARN: u64 = 2 << 30;
/// A server with fewer files may run out of them: each connection is one.
const FILES_MIN: u64 = 4_096;

/// Every check.
pub(in crate::cli) fn judge(facts: &Facts) -> Vec<Finding> {
    let checks: [fn(&Facts) -> Vec<Finding>; 14] = [
        members, quorum, leader, peers, lag, digests, clocks, log_speed, disk_space, disk_kind, quota,
        open_files, versions, ports,
    ];
    checks.iter().flat_map(|check| check(facts)).collect()
}

impl Facts {
    /// Those who answered, by name.
    fn reached(&self) -> impl Iterator<Item = (&str, &Reached)> + Clone {
        self.servers
            .iter()
            .filter_map(|server| Some((server.member.name.as_str(), server.said.as_ref().ok()?)))
    }
}

impl Server {
    /// Whether it is a voter. Where the one that listed it doesn't tell, its own word counts, and one that doesn't answer
    /// is taken for a voter.
    fn votes(&self) -> bool {
        let role = self.said.as_ref().ok().map(|reached| reached.said.role());
        self.member.votes.unwrap_or(role != Some(v1::Role::Learner))
    }

    /// Whether it answers, and not one at its place that has lost its directory and waits for its vote.
    fn answers_itself(&self) -> bool {
        let said = self.said.as_ref();
        said.is_ok_and(|reached| reached.said.id == self.member.id)
    }
}

/// The findings, or one that says that there is none.
fn or_ok(findings: Vec<Finding>, check: &'static str, measured: impl FnOnce() -> String) -> Vec<Finding> {
    if findings.is_empty() {
        vec![Finding::ok(check, measured())]
    } else {
        findings
    }
}

fn members(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "members";
    let mut found = Vec::new();
    for Server { member, said, .. } in &facts.servers {
        match said {
            Ok(_) if member.failed => found.push(Finding::warn(
                CHECK,
                &member.name,
                "it answers here, and the leader has lost it",
                "look at the network between the servers; it is back a second after the leader hears it again",
            )),
            Ok(_) => {}
            Err(Error::Refused(refusal)) => found.push(Finding::warn(
                CHECK,
                &member.name,
                format!("it can't tell how it does: {refusal}"),
                "upgrade it",
            )),
            Err(error) => found.push(Finding::fail(
                CHECK,
                &member.name,
                error.to_string(),
                "start it, or see why it can't be reached; if it is gone for good: spine members remove",
            )),
        }
    }
    or_ok(found, CHECK, || format!("all {} answer", facts.servers.len()))
}

fn quorum(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "quorum";
    let listed: Vec<_> = facts.servers.iter().filter(|server| server.votes()).collect();
    let live = listed.iter().filter(|voter| voter.answers_itself()).count();
    // Whoever isn't listed any more doesn't answer, and its vote counts.
    let voters = facts.voters.unwrap_or_default().max(listed.len());
    let needed = voters / 2 + 1;
    let measured = format!("{live} of {voters} voters answer, {needed} are needed");
    let mut found = Vec::new();
    if live < needed {
        found.push(Finding::fail(
            CHECK,
            "",
            measured.clone(),
            "nothing can be written: start the servers that are down; if they are lost, see the runbook for a lost quorum",
        ));
    } else if live == needed {
        found.push(Finding::warn(
            CHECK,
            "",
            format!("{measured}: no further failure is survived"),
            if voters == 1 {
                "three servers survive the loss of one"
            } else {
                "bring the others back"
            },
        ));
    }
    if voters.is_multiple_of(2) {
        found.push(Finding::warn(
            CHECK,
            "",
            format!("{voters} voters: an even number"),
            "add one or remove one: the last of an even number makes the quorum greater, and nothing safer",
        ));
    }
    or_ok(found, CHECK, || measured)
}

fn leader(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "leader";
    let mut found = Vec::new();
    let mut leaders: BTreeMap<(&str, u64), Vec<&str>> = BTreeMap::new();
    for (name, Reached { said, .. }) in facts.reached() {
        if said.leader.is_empty() {
            found.push(Finding::fail(
                CHECK,
                name,
                format!("it knows no leader, in term {}", said.term),
                "look at quorum and peers",
            ));
        } else {
            leaders.entry((&said.leader, said.term)).or_default().push(name);
        }
    }
    if leaders.len() > 1 {
        let views = leaders
            .iter()
            .map(|((leader, term), by)| format!("{leader} in term {term} by {}", by.join(" and ")));
        found.push(Finding::warn(
            CHECK,
            "",
            views.collect::<Vec<_>>().join("; "),
            "run this again: an election may have been under way; if it stays so, look at peers",
        ));
    }
    or_ok(found, CHECK, || match leaders.keys().next() {
        Some((leader, term)) => format!("{leader}, in term {term}"),
        None => "nobody was asked".to_owned(),
    })
}

fn peers(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "peers";
    let mut found = Vec::new();
    let all: BTreeSet<u64> = facts.servers.iter().map(|server| server.member.id).collect();
    let mut slowest = Duration::ZERO;
    for (name, Reached { said, .. }) in facts.reached() {
        for peer in &said.peers {
            let silent = peer.answered_ms.is_none_or(|ago| ago > SILENT_MS);
            if silent || !peer.failure.is_empty() {
                let why = if peer.failure.is_empty() {
                    "it doesn't answer"
                } else {
                    &peer.failure
                };
                found.push(Finding::fail(
                    CHECK,
                    name,
                    format!("can't reach {} at {}: {why}", peer.name, peer.peer_address),
                    "start that one, or open the way between the two (--advertise-peer-addr)",
                ));
            }
            slowest = slowest.max(Duration::from_micros(peer.round_trip_us));
        }
        let seen: BTreeSet<u64> = said.peers.iter().map(|peer| peer.id).chain([said.id]).collect();
        if seen != all {
            found.push(Finding::warn(
                CHECK,
                name,
                format!("it sees {} members, and {} are listed", seen.len(), all.len()),
                "run this again: a change of the members may be under way",
            ));
        }
    }
    or_ok(found, CHECK, || match all.len() {
        0 | 1 => "there are no others".to_owned(),
        _ => format!("all reach each other; longest round trip {slowest:.1?}"),
    })
}

fn lag(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "lag";
    let committed = facts.reached().map(|(_, reached)| reached.said.committed).max();
    let mut greatest = 0;
    let mut found = Vec::new();
    for (name, Reached { said, .. }) in facts.reached() {
        let behind = committed.unwrap_or_default().saturating_sub(said.applied);
        greatest = greatest.max(behind);
        if !said.ready {
            found.push(Finding::fail(
                CHECK,
                name,
                format!("not ready: {behind} entries are not applied"),
                "wait until it has caught up; if the number doesn't fall, look at its log and its disk",
            ));
        } else if behind > LAG_WARN {
            found.push(Finding::warn(
                CHECK,
                name,
                format!("{behind} entries behind"),
                "look at its disk and at the network to it",
            ));
        }
    }
    or_ok(found, CHECK, || format!("at most {greatest} entries"))
}

fn digests(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "digests";
    const REMEDY: &str = "start the one that differs again, so that it applies its log anew; keep its directory for \
                          whoever looks into it";
    let mut found = Vec::new();
    let mut known: BTreeMap<u64, (&[u8], &str)> = BTreeMap::new();
    for (name, Reached { said, .. }) in facts.reached() {
        if said.digest_mismatches > 0 {
            let measured = format!("{} times a state differed from its own", said.digest_mismatches);
            found.push(Finding::fail(CHECK, name, measured, REMEDY));
        }
        for mark in &said.marks {
            let (digest, first) = *known.entry(mark.index).or_insert((&mark.digest, name));
            if digest != &mark.digest[..] {
                let measured = format!("its state at index {} is not that of {first}", mark.index);
                found.push(Finding::fail(CHECK, name, measured, REMEDY));
                break;
            }
        }
    }
    or_ok(found, CHECK, || format!("{} moments compared", known.len()))
}

fn clocks(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "clocks";
    const REMEDY: &str = "let the machine's clock be set by NTP";
    let half = |reached: &Reached| u64::try_from(reached.round_trip.as_millis() / 2).unwrap_or(u64::MAX) + 1;
    let clocks: Vec<_> = facts.reached().collect();
    let Some((_, first)) = clocks.iter().min_by_key(|(_, reached)| reached.ahead_ms) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, reached) in &clocks {
        let apart = first.ahead_ms.abs_diff(reached.ahead_ms);
        let (from_here, unsure) = (reached.ahead_ms.unsigned_abs(), half(first) + half(reached));
        let measured = format!(
            "{:+} ms from this machine, {apart} ms from the slowest server, ± {unsure} ms",
            reached.ahead_ms
        );
        // What may be the way's doing is not held against the clock.
        let sure = apart.max(from_here).saturating_sub(unsure);
        if sure > SKEW_FAIL_MS {
            found.push(Finding::fail(CHECK, name, measured, REMEDY));
        } else if sure > SKEW_WARN_MS {
            found.push(Finding::warn(CHECK, name, measured, REMEDY));
        }
    }
    or_ok(found, CHECK, || {
        let ahead = clocks.iter().map(|(_, reached)| reached.ahead_ms);
        let (least, most) = (ahead.clone().min().unwrap_or(0), ahead.max().unwrap_or(0));
        let unsure = clocks.iter().map(|(_, reached)| half(reached)).max().unwrap_or(0);
        format!("{least:+} to {most:+} ms from this machine, ± {unsure} ms")
    })
}

fn log_speed(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "log";
    const REMEDY: &str =
        "give the data a disk of its own that flushes in a few milliseconds; see what else writes to it";
    let mut found = Vec::new();
    let mut measured = Vec::new();
    for (name, Reached { said, .. }) in facts.reached() {
        let pace = said.log.unwrap_or_default();
        let waiting = Duration::from_micros(pace.waiting_us);
        if waiting >= STUCK {
            // After a while no other write is left to be looked at.
            let text = format!("a write has not come back for {waiting:.1?}");
            found.push(Finding::fail(CHECK, name, text, REMEDY));
            continue;
        }
        let (median, p99) = match said.probe_us {
            Some(probe) if pace.writes == 0 => (Duration::from_micros(probe), Duration::ZERO),
            _ if pace.writes == 0 => {
                found.push(Finding::warn(
                    CHECK,
                    name,
                    "its disk did not say how fast it is",
                    REMEDY,
                ));
                continue;
            }
            _ => (
                Duration::from_micros(pace.median_us),
                Duration::from_micros(pace.p99_us),
            ),
        };
        let text = if pace.writes == 0 {
            format!("{name}: a flush takes {median:.1?}")
        } else {
            format!(
                "{name}: half of {} writes within {median:.1?}, 99 of 100 within {p99:.1?}",
                pace.writes
            )
        };
        if median > FLUSH_FAIL {
            found.push(Finding::fail(CHECK, name, text, REMEDY));
        } else if median > FLUSH_WARN || p99 > FLUSH_P99_WARN {
            found.push(Finding::warn(CHECK, name, text, REMEDY));
        } else {
            measured.push(text);
        }
    }
    or_ok(found, CHECK, || measured.join("; "))
}

fn disk_space(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "disk space";
    const REMEDY: &str = "make room: a server whose disk is full ends";
    let mut found = Vec::new();
    let mut least = u64::MAX;
    for (name, Reached { said, .. }) in facts.reached() {
        let Some(disk) = &said.disk else {
            found.push(Finding::warn(
                CHECK,
                name,
                "its file system did not answer",
                "look at the disk",
            ));
            continue;
        };
        least = least.min(disk.available_bytes);
        let measured = format!(
            "{} of {} free",
            size(disk.available_bytes),
            size(disk.total_bytes)
        );
        // Two checkpoints are kept while a third is written.
        let wanted = SPACE_WARN.max(said.state_bytes.saturating_mul(3));
        if disk.available_bytes < SPACE_FAIL {
            found.push(Finding::fail(CHECK, name, measured, REMEDY));
        } else if disk.available_bytes < wanted {
            found.push(Finding::warn(CHECK, name, measured, REMEDY));
        }
    }
    or_ok(found, CHECK, || format!("at least {} free", size(least)))
}

fn disk_kind(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "file system";
    let disks = facts
        .reached()
        .filter_map(|(name, reached)| Some((name, &reached.said.disk.as_ref()?.kind)));
    let kinds: BTreeSet<&str> = disks.clone().map(|(_, kind)| kind.as_str()).collect();
    let found = disks.filter_map(|(name, kind)| {
        let (what, remedy) = untrusted(kind)?;
        Some(Finding::warn(CHECK, name, format!("{kind}: {what}"), remedy))
    });
    or_ok(found.collect(), CHECK, || {
        kinds.into_iter().collect::<Vec<_>>().join(", ")
    })
}

/// What a file system doesn't keep of what it promises, and what to do.
pub(super) fn untrusted(kind: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        "tmpfs" | "ramfs" => Some((
            "nothing in it survives a restart of the machine",
            "put the data directory on a disk",
        )),
        "overlay" => Some((
            "a container's own file system, gone with the container",
            "mount a volume for the data directory",
        )),
        "nfs" | "cifs" | "smb" | "9p" | "fuse" => Some((
            "flushes and locks are what the server behind it makes of them",
            "put the data directory on a local disk",
        )),
        _ => None,
    }
}

fn quota(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "quota";
    let mut greatest = 0;
    let mut found = Vec::new();
    for (name, Reached { said, .. }) in facts.reached() {
        let percent = said.state_bytes.saturating_mul(100) / said.state_bytes_max.max(1);
        greatest = greatest.max(percent);
        let measured = format!("{percent} % of {} of state", size(said.state_bytes_max));
        if percent >= 100 {
            let remedy = "delete keys: writes that make the state grow are refused, deletes are not";
            found.push(Finding::fail(CHECK, name, measured, remedy));
        } else if percent >= 90 {
            let remedy = "delete keys, or keep less history (--history-revisions): writes are slowed down";
            found.push(Finding::warn(CHECK, name, measured, remedy));
        }
    }
    or_ok(found, CHECK, || format!("{greatest} % used"))
}

fn open_files(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "open files";
    let mut greatest = 0;
    let mut found = Vec::new();
    for (name, Reached { said, .. }) in facts.reached() {
        let Some(files) = &said.open_files else { continue };
        greatest = greatest.max(files.open);
        if files.limit < FILES_MIN || files.open > files.limit / 5 * 4 {
            let measured = format!("{} of {}", files.open, files.limit);
            let remedy = "raise the hard limit (LimitNOFILE=, ulimit -Hn): each connection is an open file";
            found.push(Finding::warn(CHECK, name, measured, remedy));
        }
    }
    or_ok(found, CHECK, || format!("at most {greatest}"))
}

fn versions(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "versions";
    let mut found = Vec::new();
    let mut releases: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Server { member, .. } in &facts.servers {
        releases.entry(&member.version).or_default().push(&member.name);
    }
    let list = |releases: &BTreeMap<&str, Vec<&str>>| {
        let each = releases
            .iter()
            .map(|(release, names)| format!("{release} on {}", names.join(" and ")));
        each.collect::<Vec<_>>().join("; ")
    };
    if releases.len() > 1 {
        found.push(Finding::warn(
            CHECK,
            "",
            list(&releases),
            "go on with the upgrade: what is new is used once every server knows it",
        ));
    }
    let rules: BTreeSet<_> = facts.reached().map(|(_, reached)| reached.said.rules).collect();
    for (name, Reached { said, .. }) in facts.reached() {
        if said.rules > said.rules_known {
            found.push(Finding::fail(
                CHECK,
                name,
                format!(
                    "rules {} are in force, and it knows {}",
                    said.rules, said.rules_known
                ),
                "upgrade it",
            ));
        }
    }
    or_ok(found, CHECK, || {
        let rules: Vec<_> = rules.iter().map(ToString::to_string).collect();
        format!("{}; rules {}", list(&releases), rules.join(" and "))
    })
}

fn ports(facts: &Facts) -> Vec<Finding> {
    const CHECK: &str = "ports";
    let mut found = Vec::new();
    let mut tried = 0;
    for server in &facts.servers {
        // A cluster of one listens to no peer.
        let alone = facts.servers.len() == 1;
        for port in server.ports.iter().filter(|port| !alone || port.name != "peer") {
            tried += 1;
            let Some(problem) = &port.problem else { continue };
            let measured = format!(
                "{} at {} can't be reached from here: {problem}",
                port.name, port.address
            );
            found.push(if port.name == "peer" {
                // Clients have no business there.
                let remedy = "nothing, if only servers are to reach it; see peers for whether they do";
                Finding::warn(CHECK, &server.member.name, measured, remedy)
            } else {
                let remedy =
                    "start the server, open the port, or tell clients another address (--advertise-…)";
                Finding::fail(CHECK, &server.member.name, measured, remedy)
            });
        }
    }
    or_ok(found, CHECK, || format!("all {tried} can be reached from here"))
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = UNITS.iter().find(|(_, shift)| bytes >> shift > 0);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(unit, shift)| {
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        },
    )
}

#[cfg(test)]
mod tests;
