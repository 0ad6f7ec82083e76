//! What came of a run: a row for each workload, and what was found.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    checker::{Findings, Violation},
    clock::Micros,
    fault::Fault,
    history::{Call, History, Operation, Workload},
};

/// What a run says about one workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All promises were kept.
    Ok,
    /// One was broken.
    Fail,
    /// It could not be found out.
    Undecided,
    /// Nothing was broken, but a fault did not bite, or nothing was done: the run proves nothing.
    Void,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Fail => "FAIL",
            Self::Undecided => "undecided",
            Self::Void => "void",
        })
    }
}

/// What was asked for, and under which circumstances: the beginning of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// The kinds of faults.
    pub faults: Vec<String>,
    /// The seed.
    pub seed: u64,
    /// What the machine was doing meanwhile, if that was too much.
    #[serde(default)]
    pub noise: Option<String>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The workload.
    pub workload: Workload,
    /// The kinds of faults, as `kill+pause`; `none`.
    pub fault: String,
    /// The seed.
    pub seed: u64,
    /// How many operations there were, and what came of them.
    pub operations: usize,
    /// Answered.
    pub ok: usize,
    /// Failed for certain.
    pub failed: usize,
    /// Of unknown outcome.
    pub unknown: usize,
    /// Faults made.
    pub faults: usize,
    /// Of these, faults that bit.
    pub bitten: usize,
    /// 99 of 100 answered operations took no longer, what waits apart: blocking queries, and for locks; and snapshots.
    pub p99_ms: f64,
    /// The longest time without an acknowledged change; `None` where clients don't change things all the time.
    pub gap_s: Option<f64>,
    /// The longest time from the end of a fault to the next acknowledged change; `None` as above.
    pub recover_s: Option<f64>,
    /// What the run says.
    pub verdict: Verdict,
    /// The machine was starved: what the run says about time is worth little.
    #[serde(default)]
    pub noisy: bool,
    /// Why, in short; empty if all is well.
    pub why: String,
}

/// All rows of a run.
pub fn rows(
    asked: &Asked,
    histories: &BTreeMap<Workload, History>,
    faults: &[Fault],
    findings: &BTreeMap<Workload, Findings>,
) -> Vec<Row> {
    let empty = (History::default(), Findings::default());
    findings
        .iter()
        .map(|(workload, findings)| {
            let history = histories.get(workload).unwrap_or(&empty.0);
            row(asked, *workload, history, faults, findings)
        })
        .collect()
}

fn row(asked: &Asked, workload: Workload, history: &History, faults: &[Fault], findings: &Findings) -> Row {
    let operations = &history.operations;
    let count = |holds: fn(&Operation) -> bool| operations.iter().filter(|one| holds(one)).count();
    let ok = count(|one| one.answer().is_some());
    let proves = ok > 0 || workload == Workload::Cluster;
    let (verdict, why) = verdict(asked, proves, faults, findings);
    let changes = changes(operations);
    let is_busy = match workload {
        Workload::Register | Workload::Set | Workload::Watch | Workload::Append | Workload::Backup => true,
        Workload::Catalog | Workload::Cluster | Workload::Lock | Workload::Lease => false,
    };
    Row {
        workload,
        fault: if asked.faults.is_empty() {
            "none".to_owned()
        } else {
            asked.faults.join("+")
        },
        seed: asked.seed,
        operations: operations.len(),
        ok,
        failed: count(Operation::failed),
        unknown: count(Operation::is_unknown),
        faults: faults.len(),
        bitten: faults.iter().filter(|fault| fault.evidence.is_some()).count(),
        p99_ms: p99(operations).as_secs_f64() * 1_000.0,
        gap_s: is_busy.then(|| gap(&changes).as_secs_f64()),
        recover_s: is_busy.then(|| recovery(&changes, faults).as_secs_f64()),
        verdict,
        noisy: asked.noise.is_some(),
        why,
    }
}

/// A violation weighs most; then what is not known; then whether there was anything to find.
fn verdict(asked: &Asked, proves: bool, faults: &[Fault], findings: &Findings) -> (Verdict, String) {
    if let Some(first) = findings.violations.first() {
        let rules: BTreeSet<_> = findings.violations.iter().map(|one| one.rule).collect();
        let rules: Vec<_> = rules.into_iter().collect();
        let first: String = first.to_string().chars().take(160).collect();
        return (
            Verdict::Fail,
            format!("{} ({}): {first}", rules.join(", "), findings.count),
        );
    }
    if let Some(first) = findings.undecided.first() {
        return (Verdict::Undecided, first.clone());
    }
    let toothless = asked.faults.iter().find(|kind| {
        let mut bites = faults.iter().filter(|fault| fault.fault == **kind);
        !bites.any(|fault| fault.evidence.is_some())
    });
    match toothless {
        Some(kind) => (Verdict::Void, format!("no {kind} bit")),
        None if !proves => (Verdict::Void, "no operation was answered".to_owned()),
        None => (Verdict::Ok, String::new()),
    }
}

/// When changes were acknowledged, in order of time.
fn changes(operations: &[Operation]) -> Vec<Micros> {
    let changes = operations.iter().filter(|one| !one.call.is_read());
    let acknowledged = changes.filter(|one| one.answer().is_some());
    let mut ends: Vec<_> = acknowledged.map(|one| one.end).collect();
    ends.sort_unstable();
    ends
}

fn p99(operations: &[Operation]) -> Duration {
    let answered = operations.iter().filter(|one| {
        one.answer().is_some() && !matches!(one.call, Call::Block { .. } | Call::Acquire { .. })
    });
    let mut took: Vec<_> = answered.map(|one| one.end.since(one.start)).collect();
    took.sort_unstable();
    took.get(took.len().saturating_sub(1) * 99 / 100)
        .copied()
        .unwrap_or_default()
}

fn gap(changes: &[Micros]) -> Duration {
    let gaps = changes.windows(2).map(|pair| pair[1].since(pair[0]));
    gaps.max().unwrap_or_default()
}

fn recovery(changes: &[Micros], faults: &[Fault]) -> Duration {
    let recoveries = faults.iter().filter_map(|fault| {
        let next = changes.partition_point(|change| *change < fault.until);
        Some(changes.get(next)?.since(fault.until))
    });
    recoveries.max().unwrap_or_default()
}

/// The rows as a table.
pub fn table(rows: &[Row]) -> String {
    let width = |name: &str, of: fn(&Row) -> &str| {
        let widths = rows.iter().map(|row| of(row).len());
        widths.chain([name.len()]).max().unwrap_or_default()
    };
    let fault = width("fault", |row| &row.fault);
    let mut table = format!(
        "{:<9} {:<fault$} {:>6} {:>7} {:>7} {:>6} {:>6} {:>7} {:>8} {:>9} {:>9}  verdict\n",
        "workload",
        "fault",
        "seed",
        "ops",
        "ok",
        "fail",
        "unkn",
        "faults",
        "p99 ms",
        "max gap s",
        "recover s"
    );
    for row in rows {
        let bitten = format!("{}/{}", row.bitten, row.faults);
        let noisy = if row.noisy { " (noisy)" } else { "" };
        let seconds = |time: Option<f64>| time.map_or_else(|| "-".to_owned(), |time| format!("{time:.2}"));
        let _ = writeln!(
            table,
            "{:<9} {:<fault$} {:>6} {:>7} {:>7} {:>6} {:>6} {bitten:>7} {:>8.1} {:>9} {:>9}  {}{noisy} {}",
            row.workload,
            row.fault,
            row.seed,
            row.operations,
            row.ok,
            row.failed,
            row.unknown,
            row.p99_ms,
            seconds(row.gap_s),
            seconds(row.recover_s),
            row.verdict,
            row.why,
        );
    }
    table
}

/// `report.md`: the table, the faults, and what was found.
pub fn page(
    rows: &[Row],
    faults: &[Fault],
    findings: &BTreeMap<Workload, Findings>,
    notes: &[String],
) -> String {
    let mut page = format!("# Run\n\n```\n{}```\n", table(rows));
    for note in notes {
        let _ = writeln!(page, "\n{note}");
    }
    if !faults.is_empty() {
        page.push_str("\n## Faults\n\n| from s | to s | fault | what | evidence |\n|---|---|---|---|---|\n");
        for fault in faults {
            let seconds = |at: Micros| at.since(Micros(0)).as_secs_f64();
            let _ = writeln!(
                page,
                "| {:.1} | {:.1} | {} | {} | {} |",
                seconds(fault.from),
                seconds(fault.until),
                fault.fault,
                fault.detail,
                fault.evidence.as_deref().unwrap_or("**none: it did not bite**")
            );
        }
    }
    for (workload, findings) in findings {
        if findings.is_clean() {
            continue;
        }
        let _ = writeln!(
            page,
            "\n## {workload}: {} found, the first of each kind\n",
            findings.count
        );
        for Violation { rule, detail } in &findings.violations {
            let _ = writeln!(page, "- **{rule}**: {detail}");
        }
        for undecided in &findings.undecided {
            let _ = writeln!(page, "- undecided: {undecided}");
        }
    }
    page
}

/// Whether every row is well.
pub fn all_ok(rows: &[Row]) -> bool {
    !rows.is_empty() && rows.iter().all(|row| row.verdict == Verdict::Ok)
}

#[cfg(test)]
mod tests {
    use super::{Asked, Fault, Findings, Micros, Verdict, recovery, verdict};

    fn fault(kind: &str, evidence: Option<&str>) -> Fault {
        Fault {
            fault: kind.to_owned(),
            detail: String::new(),
            from: Micros(10),
            until: Micros(20),
            nodes: Vec::new(),
            cut_off: Vec::new(),
            evidence: evidence.map(str::to_owned),
        }
    }

    #[test]
    fn only_what_proves_something_is_ok() {
        let asked = Asked {
            faults: vec!["kill".to_owned()],
            seed: 1,
            noise: None,
        };
        let judge =
            |proves, faults: &[Fault], findings: &Findings| verdict(&asked, proves, faults, findings).0;
        let (bit, missed) = (fault("kill", Some("signal 9")), fault("kill", None));
        let clean = Findings::default();
        assert_eq!(judge(true, &[bit.clone(), missed.clone()], &clean), Verdict::Ok);
        assert_eq!(judge(true, &[missed], &clean), Verdict::Void);
        assert_eq!(judge(true, &[fault("pause", Some("T"))], &clean), Verdict::Void);
        assert_eq!(judge(true, &[], &clean), Verdict::Void);
        assert_eq!(judge(false, std::slice::from_ref(&bit), &clean), Verdict::Void);
        let mut found = Findings::default();
        found.undecided("too long");
        assert_eq!(
            judge(true, std::slice::from_ref(&bit), &found),
            Verdict::Undecided
        );
        found.violation("lost", "7");
        assert_eq!(judge(false, &[], &found), Verdict::Fail);
    }

    #[test]
    fn recovery_is_counted_from_the_end_of_a_fault() {
        let faults = [fault("kill", None)];
        let changes = [Micros(5), Micros(19), Micros(24), Micros(90)];
        assert_eq!(recovery(&changes, &faults).as_micros(), 4);
        assert_eq!(recovery(&changes[..2], &faults).as_micros(), 0, "nothing came");
    }
}
