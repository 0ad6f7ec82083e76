//! Changes who the members are, and where: servers are replaced after they lost their disk, leave and come back as others, are
//! removed, come for a visit, move. Beside that the leader may be killed while somebody is taken in.
//!
//! In the end of each change every node of the cluster has a vote, and nobody else is a member; if that doesn't come
//! about, it is an incident.

use std::fmt::Write as _;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use spine_client::{Client, Error, proto};

use super::{Bite, Nemesis, list};
use crate::http;
use crate::net::Node;
use crate::schedule::{Change, Target};

/// Time in which somebody who is taken in gets a vote: a snapshot, and an election or two on a loaded machine.
const VOTES_WITHIN: Duration = Duration::from_mins(1);
/// Time in which a server that is a member no longer ends.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// Time for an answer to a change.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// A change is asked for so often: what was broken before may not have healed.
const ATTEMPTS: u32 = 5;
/// Between two looks or attempts.
const PAUSE: Duration = Duration::from_millis(200);

impl Nemesis<'_> {
    /// Makes a change; with `kill` the leader is killed, and started again, while it is under way.
    pub(super) fn change_members(&mut self, change: Change, kill: bool, lasts: Duration) -> io::Result<Bite> {
        self.cluster.begin_changes();
        let bite = match change {
            Change::Replace(target) => self.replace(target, kill, lasts),
            Change::Leave(target) => self.leave(target, kill, lasts),
            Change::Remove(target) => self.remove(target, kill, lasts),
            Change::Visit => self.visit(kill, lasts),
            Change::Move(target) => {
                let node = self.resolve(target);
                self.move_to_other_addresses(&[node], lasts)
            }
            Change::MoveAll => self.move_to_other_addresses(&self.cluster.nodes(), lasts),
        }?;
        self.await_members()?;
        Ok(bite)
    }

    /// It loses its disk, and is taken in again under its name.
    fn replace(&mut self, target: Target, kill: bool, lasts: Duration) -> io::Result<Bite> {
        let node = self.resolve(target);
        let before = self.status(node).map(|status| status.id);
        self.end(&[node])?;
        thread::sleep(lasts);
        let killed = self.take_in(node, kill)?;
        Ok(self.replaced(format!("wipe {node} and let it join again"), node, killed, before))
    }

    /// It leaves, ends by itself, and comes back empty.
    fn leave(&mut self, target: Target, kill: bool, lasts: Duration) -> io::Result<Bite> {
        let node = self.resolve(target);
        let before = self.status(node).map(|status| status.id);
        let left = self.ask(node, &async |client| client.members.leave().await);
        self.see_it_end(node, left.is_some(), true)?;
        thread::sleep(lasts);
        let killed = self.take_in(node, kill)?;
        let before = before.filter(|_| left.is_some());
        Ok(self.replaced(format!("let {node} leave, and join again"), node, killed, before))
    }

    /// Another node removes it, so it ends; and it comes back empty.
    fn remove(&mut self, target: Target, kill: bool, lasts: Duration) -> io::Result<Bite> {
        let node = self.resolve(target);
        let mut others = self.cluster.nodes().into_iter().filter(|other| *other != node);
        let Some(other) = others.next_back() else {
            return Ok(Bite::default());
        };
        let before = self.status(node).map(|status| status.id);
        let removed = self.remove_member(other, node);
        self.see_it_end(node, removed.is_some(), false)?;
        thread::sleep(lasts);
        let killed = self.take_in(node, kill)?;
        let before = before.filter(|_| removed.is_some());
        Ok(self.replaced(
            format!("remove {node}, and let it join again"),
            node,
            killed,
            before,
        ))
    }

    /// One more server joins, votes, and is removed again.
    fn visit(&mut self, kill: bool, lasts: Duration) -> io::Result<Bite> {
        let guest = self.cluster.guest();
        let killed = self.take_in(guest, kill)?;
        let voted = self.votes(guest);
        thread::sleep(lasts);
        let host = self.resolve(Target::Follower(Node(1)));
        let removed = self.remove_member(host, guest);
        self.see_it_end(guest, removed.is_some(), false)?;
        Ok(Bite {
            detail: format!("let {guest} join, and remove it{}", meanwhile(&killed)),
            nodes: killed.clone(),
            cut_off: killed,
            evidence: removed
                .filter(|_| voted)
                .map(|how| format!("{guest} voted, and was a member no longer{how}")),
        })
    }

    /// These end and come back under other addresses.
    fn move_to_other_addresses(&mut self, nodes: &[Node], lasts: Duration) -> io::Result<Bite> {
        self.end(nodes)?;
        for node in nodes {
            self.cluster.server_mut(*node).move_elsewhere();
        }
        thread::sleep(lasts);
        self.bring_back(nodes)?;
        let places: Vec<String> = nodes
            .iter()
            .map(|node| self.cluster.server(*node).peer().to_string())
            .collect();
        let asked = self.resolve(Target::Follower(Node(1)));
        let known = wait(VOTES_WITHIN, || {
            let known = http::get(
                self.cluster.server(asked).http(),
                "/v1/status/peers",
                ANSWER_WITHIN,
            );
            known.is_ok_and(|known| {
                places
                    .iter()
                    .all(|place| known.text().contains(&format!("{place:?}")))
            })
        });
        if !known {
            let (nodes, places) = (list(nodes), places.join(", "));
            self.incidents.push(format!(
                "{asked} does not know {nodes} at {places} {VOTES_WITHIN:?} later"
            ));
        }
        Ok(Bite {
            detail: format!("give {} other addresses", list(nodes)),
            nodes: nodes.to_vec(),
            cut_off: nodes.to_vec(),
            evidence: known.then(|| format!("the members are at {}", places.join(", "))),
        })
    }

    /// Has a node that doesn't run join as an empty one; gives whom it killed meanwhile.
    fn take_in(&mut self, node: Node, kill: bool) -> io::Result<Vec<Node>> {
        self.cluster.server_mut(node).wipe()?;
        self.cluster.start_node(node)?;
        let mut killed = Vec::new();
        if kill && let Some(leader) = self.cluster.leader().filter(|leader| *leader != node) {
            self.end(&[leader])?;
            killed.push(leader);
        }
        self.bring_back(&[killed.as_slice(), &[node]].concat())?;
        if !self.votes(node) {
            self.incidents.push(format!(
                "{node} has no vote {VOTES_WITHIN:?} after it was started to join"
            ));
        }
        Ok(killed)
    }

    fn replaced(&self, detail: String, node: Node, killed: Vec<Node>, before: Option<u64>) -> Bite {
        let now = self.status(node).map(|status| status.id);
        let ids = before.zip(now).filter(|(before, now)| before != now);
        let detail = detail + &meanwhile(&killed);
        let nodes = [vec![node], killed].concat();
        Bite {
            detail,
            cut_off: nodes.clone(),
            nodes,
            evidence: ids.map(|(before, now)| format!("{node} was {before:016x}, and votes as {now:016x}")),
        }
    }

    /// Waits until a node that is a member no longer has ended; one of which that is not known is killed.
    fn see_it_end(&mut self, node: Node, is_known: bool, in_order: bool) -> io::Result<()> {
        if !is_known {
            return self.end(&[node]).map(drop);
        }
        match self.cluster.server_mut(node).await_end(ENDS_WITHIN)? {
            Some(status) if status.success() || !in_order => {}
            Some(status) => self
                .incidents
                .push(format!("{node} left, and ended with {status}")),
            None => {
                self.incidents
                    .push(format!("{node} is a member no longer, and runs"));
                self.end(&[node])?;
            }
        }
        Ok(())
    }

    /// Waits until a node has a vote.
    fn votes(&self, node: Node) -> bool {
        wait(VOTES_WITHIN, || {
            let role = self.status(node).map(|status| status.role());
            matches!(role, Some(proto::Role::Leader | proto::Role::Follower))
        })
    }

    /// Waits until all nodes of the cluster, and no others, are members that vote.
    fn await_members(&mut self) -> io::Result<()> {
        let nodes = self.cluster.nodes();
        self.bring_back(&nodes)?;
        let expected: Vec<String> = nodes.iter().map(Node::to_string).collect();
        let mut found = Vec::new();
        let is_so = wait(VOTES_WITHIN, || {
            let asked = self.resolve(Target::Leader(nodes[0]));
            let members = self.once(asked, async |client| client.members.list().await);
            found = members
                .unwrap_or_default()
                .into_iter()
                .map(|member| member.name)
                .collect();
            found == expected
        });
        let silent: Vec<String> = nodes
            .iter()
            .filter(|node| !self.votes(**node))
            .map(Node::to_string)
            .collect();
        if !is_so || !silent.is_empty() {
            self.incidents.push(format!(
                "the members are to be {}, all of them voters; they are {}, without a vote {}",
                expected.join(", "),
                found.join(", "),
                silent.join(", ")
            ));
        }
        Ok(())
    }

    fn status(&self, node: Node) -> Option<proto::ServerStatusResponse> {
        self.once(node, async |client| client.stale().members.server_status().await)
            .ok()
    }

    /// Has one node remove another, and asks until it is known to be done: the answer may get lost, or come too late. Gives
    /// what went wrong before. If it can't be removed at all, that is an incident.
    fn remove_member(&mut self, asked: Node, node: Node) -> Option<String> {
        let name = node.to_string();
        let (start, mut before) = (Instant::now(), String::new());
        while start.elapsed() < VOTES_WITHIN {
            match self.once(asked, async |client| client.members.remove(&name, false).await) {
                Ok(_) => return Some(before),
                // An earlier attempt did it.
                Err(Error::Refused(refusal)) if refusal.not_found => return Some(before),
                Err(error) => {
                    let _ = write!(before, "; after {:.1?}: {error}", start.elapsed());
                    thread::sleep(PAUSE);
                }
            }
        }
        self.incidents.push(format!("{node} can't be removed{before}"));
        None
    }

    /// Asks a node for a change, a few times if it is refused. `None`: whether it was done is not known.
    fn ask<T>(&self, node: Node, call: &impl AsyncFn(&Client) -> Result<T, Error>) -> Option<T> {
        for _ in 0..ATTEMPTS {
            match self.once(node, call) {
                Ok(answer) => return Some(answer),
                Err(error) if error.is_not_applied() => thread::sleep(PAUSE * 5),
                Err(_) => return None,
            }
        }
        None
    }

    fn once<T>(&self, node: Node, call: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Result<T, Error> {
        let failed = |error: io::Error| Error::Config(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(failed)?.block_on(async {
            let client = Client::builder(&self.cluster.server(node).grpc().to_string())
                .deadline(ANSWER_WITHIN)
                .wait_for_server(false)
                .build()?;
            call(&client).await
        })
    }
}

/// What else was done.
fn meanwhile(killed: &[Node]) -> String {
    if killed.is_empty() {
        String::new()
    } else {
        format!(", and kill {} meanwhile", list(killed))
    }
}

fn wait(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if start.elapsed() > within {
            return false;
        }
        thread::sleep(PAUSE);
    }
}
