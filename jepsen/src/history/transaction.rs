//! Transactions on lists: what the workload `append` asks for and is answered.

use serde::{Deserialize, Serialize};

/// Several steps that are to happen together, or not at all.
///
/// A key holds a list of numbers, written one behind the other. No number is appended twice in a run, so a list that is
/// read tells who wrote it, in which order, and who had not written yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// What is done, in order. A key is appended to by one step at most.
    pub steps: Vec<Step>,
    /// How it is made sure that a list which is appended to is still the one that was read.
    pub expecting: Expecting,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Read a list, with what steps before this one have appended.
    Read {
        /// Its key.
        key: String,
    },
    /// Append to a list.
    Append {
        /// Its key.
        key: String,
        /// What, in this order: one number or several, which nobody may ever see apart.
        elements: Vec<u64>,
    },
}

/// How an append learns that somebody else was faster: then the transaction fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expecting {
    /// By a condition of the transaction on the index of the list's last change.
    Index,
    /// By a condition of the transaction on the list itself.
    Value,
    /// By a guard of the operation that stores it.
    Guard,
}

impl Transaction {
    /// Whether it changes nothing.
    pub fn is_read(&self) -> bool {
        self.appends().next().is_none()
    }

    /// The keys that it appends to, and what.
    pub fn appends(&self) -> impl Iterator<Item = (&str, &[u64])> {
        self.steps.iter().filter_map(|step| match step {
            Step::Append { key, elements } => Some((key.as_str(), elements.as_slice())),
            Step::Read { .. } => None,
        })
    }

    /// The keys that it reads, in order.
    pub fn reads(&self) -> impl Iterator<Item = &str> {
        self.steps.iter().filter_map(|step| match step {
            Step::Read { key } => Some(key.as_str()),
            Step::Append { .. } => None,
        })
    }
}

/// A list as it is stored.
pub(crate) fn list_text(list: &[u64]) -> String {
    let elements: Vec<String> = list.iter().map(u64::to_string).collect();
    elements.join(" ")
}

/// The list that a value is. What is not a number was not written by the harness: it is shown as one that nobody appended.
pub(crate) fn list_of(value: &str) -> Vec<u64> {
    let elements = value.split_whitespace();
    elements
        .map(|element| element.parse().unwrap_or(u64::MAX))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{list_of, list_text};

    #[test]
    fn a_list_is_read_as_it_was_written() {
        for list in [vec![], vec![7], vec![3, 1, 2]] {
            assert_eq!(list_of(&list_text(&list)), list);
        }
        assert_eq!(list_of("1 x"), [1, u64::MAX]);
    }
}
