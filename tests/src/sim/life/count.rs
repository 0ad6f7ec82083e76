//! What happened to a cluster besides faults, counted.

use std::fmt;
use std::ops::{AddAssign, Index, IndexMut};

/// Something that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A state came whole to a server.
    Installed,
    /// One began to come, and broke off.
    Interrupted,
    /// Leadership was handed over.
    Transferred,
    /// It was to be, and nobody took it in time.
    NotTaken,
    /// A server came in and got a vote.
    Joined,
    /// One went.
    Removed,
    /// One lost its disk and took its own place again.
    Rejoined,
    /// One is found at another address.
    Moved,
}

const LABELS: [&str; 8] = [
    "installs",
    "interrupted",
    "transfers",
    "not taken",
    "joined",
    "removed",
    "rejoined",
    "moved",
];
/// Where the counts begin in a line that tells of one seed.
const MARK: &str = "; life: ";

/// How often each happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count([u64; LABELS.len()]);

impl Count {
    /// Changes of who is in the cluster and where.
    pub(crate) fn changes(&self) -> u64 {
        use Event::{Joined, Moved, Rejoined, Removed};
        let changes = [Joined, Removed, Rejoined, Moved];
        changes.into_iter().map(|event| self[event]).sum()
    }

    /// For the middle of a line: [`of_line`](Self::of_line) reads it.
    pub(crate) fn line(&self) -> String {
        format!("{MARK}{self}")
    }

    /// The counts in a line that tells of one seed.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let (_, counts) = line.split_once(MARK)?;
        let counts = counts.split(';').next()?;
        let mut count = Self::default();
        for (place, counted) in counts.split(", ").enumerate() {
            let (label, number) = counted.rsplit_once(' ')?;
            if LABELS.get(place) != Some(&label) {
                return None;
            }
            count.0[place] = number.parse().ok()?;
        }
        Some(count)
    }
}

impl Index<Event> for Count {
    type Output = u64;

    fn index(&self, event: Event) -> &u64 {
        &self.0[event as usize]
    }
}

impl IndexMut<Event> for Count {
    fn index_mut(&mut self, event: Event) -> &mut u64 {
        &mut self.0[event as usize]
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        for (here, there) in self.0.iter_mut().zip(other.0) {
            *here += there;
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = LABELS.iter().zip(self.0);
        let counts: Vec<_> = counts.map(|(label, count)| format!("{label} {count}")).collect();
        f.write_str(&counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_survive_their_line() {
        let mut count = Count::default();
        count[Event::Interrupted] = 3;
        count[Event::Moved] = 12;
        count[Event::Joined] += 1;
        let line = format!("seed 1 nodes 3{}; digest 1", count.line());
        assert_eq!(Count::of_line(&line), Some(count));
        assert_eq!(count.changes(), 13);
        assert_eq!(Count::of_line("seed 1 nodes 3"), None);
    }
}
