//! Changing rows of checks.

use std::sync::Arc;

use super::{Check, Health};
use crate::{
    command::{CheckDefinition, ExistingChecks, Status},
    event::{Change, Delta},
    id::{CheckKey, NodeName, ServiceName},
    limits,
    writer::Writer,
};

impl Health {
    /// Writes a row, or removes it, and says so. `service` is the one whose instance it judges.
    pub(crate) fn write(
        &mut self,
        w: &mut Writer,
        key: &CheckKey,
        service: Option<ServiceName>,
        after: Option<Check>,
    ) -> Option<Arc<Check>> {
        let before = self.checks.remove(key);
        if let Some(before) = &before {
            self.by_instance.remove(&place(before));
        }
        let after = after.map(Arc::new);
        if let Some(after) = &after {
            self.load(after.clone());
        }
        if before.is_some() || after.is_some() {
            w.emit(Change::Check(
                key.clone(),
                service,
                Delta {
                    before,
                    after: after.clone(),
                },
            ));
        }
        after
    }

    pub(crate) fn load(&mut self, check: Arc<Check>) {
        self.by_instance.insert(place(&check), ());
        self.checks.put(check.key(), check);
    }

    /// The row that a definition makes, given the row that is there; `None` if nothing changes.
    pub(crate) fn registered(
        &self,
        w: &Writer,
        node: &NodeName,
        definition: &CheckDefinition,
        existing: ExistingChecks,
    ) -> Option<Check> {
        let key = CheckKey {
            node: node.clone(),
            id: definition.id.clone(),
        };
        // Status and output are the row's, not the definition's: they are what it begins with.
        let plain = CheckDefinition {
            status: None,
            output: Arc::from(""),
            ..definition.clone()
        };
        let Some(before) = self.checks.get(&key) else {
            let status = definition.status.unwrap_or(Status::Critical);
            return Some(Check {
                node: node.clone(),
                definition: plain,
                definition_index: w.index,
                status,
                output: cut(&definition.output),
                critical_since: (status == Status::Critical).then_some(w.time),
                implicit: false,
                create_index: w.index,
                modify_index: w.index,
            });
        };
        let mut after = Check::clone(before);
        after.implicit = false;
        if after.definition != plain {
            after.definition = plain;
            after.definition_index = w.index;
        }
        if existing == ExistingChecks::Overwrite {
            let status = definition.status.unwrap_or(Status::Critical);
            after = after.reporting(w, status, &definition.output);
        }
        (after != **before).then_some(Check {
            modify_index: w.index,
            ..after
        })
    }
}

impl Check {
    /// The same check with another status and output.
    pub(crate) fn reporting(self, w: &Writer, status: Status, output: &Arc<str>) -> Self {
        let critical_since = match status {
            Status::Critical => self.critical_since.or(Some(w.time)),
            Status::Passing | Status::Warning => None,
        };
        Self {
            status,
            output: cut(output),
            critical_since,
            ..self
        }
    }
}

fn place(check: &Check) -> (NodeName, Option<crate::id::InstanceId>, crate::id::CheckId) {
    (
        check.node.clone(),
        check.definition.service.clone(),
        check.definition.id.clone(),
    )
}

/// An output within its bound, cut between characters.
pub(crate) fn cut(output: &Arc<str>) -> Arc<str> {
    if output.len() <= limits::OUTPUT_BYTES_MAX {
        return output.clone();
    }
    output[..output.floor_char_boundary(limits::OUTPUT_BYTES_MAX)].into()
}
