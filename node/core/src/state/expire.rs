//! What ends by itself, at the pulse that finds it due.

use super::State;
use crate::{
    command::Status,
    deadline::DeadlineKey,
    health::Check,
    id::{CheckKey, InstanceKey},
    kv::Stroke,
    limits,
    outcome::Outcome,
    time::Time,
    writer::Writer,
};

impl State {
    pub(super) fn pulse(&mut self, w: &mut Writer) -> Outcome {
        let mut budget = limits::PULSE_ROWS_MAX;
        let mut ended = 0;
        while let Some((at, key)) = self.deadlines.pop(w.time, &mut budget) {
            ended += 1;
            let written = w.events.len();
            self.expire(w, at, key);
            // A lease takes its keys with it, an instance its checks: they count too.
            let more = (w.events.len() - written).saturating_sub(1);
            budget = budget.saturating_sub(more);
        }
        let more = self.deadlines.next().is_some_and(|next| next <= w.time);
        Outcome::Pulsed { ended, more }
    }

    fn expire(&mut self, w: &mut Writer, at: Time, key: DeadlineKey) {
        match key {
            DeadlineKey::Lease(id) => {
                self.revoke_lease(w, &mut Stroke::default(), id)
                    .expect("a deadline of a lease goes when the lease goes");
            }
            DeadlineKey::CheckTtl(check) => self.silence(w, &check),
            DeadlineKey::Critical(check) => self.end_critical(w, &check),
            DeadlineKey::Heartbeat(instance) => {
                self.remove_instance(w, &instance);
                self.clear_deserted(w, &instance.node);
            }
            DeadlineKey::Implicit(check) => {
                self.remove_check(w, &check);
                self.clear_deserted(w, &check.node);
            }
            DeadlineKey::Session(id) => self.sessions.close(id, at),
            // From now on the lock may be taken: nothing else changes.
            DeadlineKey::LockDelay(_) => {}
            DeadlineKey::Orphans(node) => self.end_orphans(w, &node),
        }
    }

    /// A TTL check was not heard in time.
    fn silence(&mut self, w: &mut Writer, key: &CheckKey) {
        let check = self
            .health
            .check(key)
            .expect("a deadline of a check goes when the check goes")
            .clone();
        let output = if check.output.is_empty() {
            "TTL expired".into()
        } else {
            format!(
                "TTL expired (last output before timeout follows): {}",
                check.output
            )
        };
        // Its deadline as an implicit check stands: that counts from the last report.
        let forgotten = self.deadlines.get(&DeadlineKey::Implicit(key.clone()));
        let after = Check::clone(&check).reporting(w, Status::Critical, &output.into());
        self.put_check(
            w,
            Check {
                modify_index: w.index,
                ..after
            },
        );
        if let Some(at) = forgotten {
            self.deadlines.set(DeadlineKey::Implicit(key.clone()), at);
        }
    }

    /// A check was critical for as long as its instance is kept.
    fn end_critical(&mut self, w: &mut Writer, key: &CheckKey) {
        let check = self
            .health
            .check(key)
            .expect("a deadline of a check goes when the check goes");
        if let Some(id) = check.definition.service.clone() {
            self.remove_instance(
                w,
                &InstanceKey {
                    node: key.node.clone(),
                    id,
                },
            );
            self.clear_deserted(w, &key.node);
        }
    }
}
