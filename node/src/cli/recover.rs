//! `spine recover`: a cluster that has lost most of its voters goes on with the data of one that is left.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::Serialize;

use super::{
    Printing, Streams,
    exit::Failure,
    facts::{Fact, Report, say},
};
use crate::{
    World,
    peer::{Links, hello},
    raft::{
        bootstrap::StartError,
        identity::ClusterId,
        recovery::{self, Loss, Surveyed, Survivor, judge},
    },
    storage::log::{LogError, LogOptions},
};

/// How often each of the other servers is asked whether it runs: one that is slow isn't taken for dead.
const ASKED_TIMES: u32 = 4;

/// Go on with the data of one stopped server as a new cluster, when most voters are lost for good.
///
/// What only the lost ones had is lost. First inspect every server that is left, and take the one whose log goes furthest.
#[derive(Args, Debug)]
pub struct Recover {
    /// The data directory of the stopped server
    #[arg(long, env = "SPINE_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Only say what is in the directory
    #[arg(long, conflicts_with_all = ["compare", "accept_loss"])]
    inspect: bool,
    /// The other servers that are left: a data directory, or a file with what `--inspect -o json` printed there
    #[arg(long, value_name = "DIR|FILE")]
    compare: Vec<PathBuf>,
    /// Do it: the id of the cluster that is given up, as --inspect says it
    #[arg(long, value_name = "CLUSTER-ID")]
    accept_loss: Option<ClusterId>,
    #[command(flatten)]
    printing: Printing,
}

impl Recover {
    pub(super) async fn run(self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let world = World::real();
        let surveyed = survey(&world, &self.data_dir)?;
        if self.inspect {
            return say(streams, self.printing.output, surveyed.survivor());
        }
        let compared = self.compare.iter().map(|path| survivor(&world, path));
        let compared = compared.collect::<Result<Vec<_>, _>>()?;
        let me = surveyed.survivor().clone();
        let loss = judge(&me, &compared).map_err(|error| Failure::GuardFailed(error.to_string()))?;
        nobody_answers(&world, &me).await?;
        let Some(accepted) = self.accept_loss else {
            let prospect = Prospect {
                survivor: &me,
                may_be_lost: words(&me, &loss),
            };
            say(streams, self.printing.output, &prospect)?;
            return Err(Failure::GuardFailed(format!(
                "nothing was changed: to give cluster {} up and go on with what {} has, say --accept-loss {}",
                me.cluster, me.server, me.cluster
            )));
        };
        if accepted != me.cluster {
            return Err(Failure::GuardFailed(format!(
                "nothing was changed: {} is of cluster {}, and --accept-loss names {accepted}",
                self.data_dir.display(),
                me.cluster
            )));
        }
        let recovered = surveyed
            .go_on(&world, &self.data_dir, &LogOptions::default())
            .map_err(|error| failure(&error))?;
        let report = Done {
            data_dir: self.data_dir.display().to_string(),
            server: me.server.clone(),
            cluster: recovered.identity.cluster,
            from_cluster: me.cluster,
            index: recovered.index,
            revision: recovered.revision,
            before: self.data_dir.join(recovered.aside).display().to_string(),
            may_be_lost: words(&me, &loss),
        };
        say(streams, self.printing.output, &report)
    }
}

fn survey(world: &World, directory: &Path) -> Result<Surveyed, Failure> {
    let Some(directory_is) = fs::metadata(directory).ok().filter(fs::Metadata::is_dir) else {
        return Err(Failure::NotFound(format!(
            "{} is no directory",
            directory.display()
        )));
    };
    let (owner, user) = (directory_is.uid(), rustix::process::geteuid().as_raw());
    if owner != user {
        return Err(Failure::GuardFailed(format!(
            "{} belongs to user {owner}, and this is user {user}, whose files the server could not open: run this as {owner}",
            directory.display()
        )));
    }
    recovery::survey(world, directory, LogOptions::default())
        .map_err(|error| failure(&error))?
        .ok_or_else(|| Failure::NotFound(format!("no server's data are in {}", directory.display())))
}

/// Another survivor: by its directory, or by what was printed of it elsewhere.
fn survivor(world: &World, path: &Path) -> Result<Survivor, Failure> {
    if path.is_dir() {
        return survey(world, path).map(|surveyed| surveyed.survivor().clone());
    }
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::NotFound(format!("can't read {}: {error}", path.display())))?;
    serde_json::from_str(&text).map_err(|error| {
        Failure::Other(format!(
            "{} does not hold what `spine recover --inspect -o json` prints: {error}",
            path.display()
        ))
    })
}

fn failure(error: &StartError) -> Failure {
    let damaged = matches!(error, StartError::Log(LogError::Damaged { .. }));
    if error.is_refusal() || damaged || matches!(error, StartError::InUse(_)) {
        Failure::GuardFailed(error.to_string())
    } else {
        Failure::Other(error.to_string())
    }
}

/// Refuses while another server of the cluster runs: it may have more, and the cluster may not be lost at all.
async fn nobody_answers(world: &World, me: &Survivor) -> Result<(), Failure> {
    let links = Links::new(world.net.clone());
    let places: BTreeSet<_> = me
        .members
        .iter()
        .filter(|member| member.node != me.node)
        .map(|member| member.peer_address.as_str())
        .collect();
    let asked = places.into_iter().map(|place| {
        let links = &links;
        async move {
            for _ in 0..ASKED_TIMES {
                if let Ok(other) = hello::who_is_at(links, place).await {
                    return (place, Some(other));
                }
            }
            (place, None)
        }
    });
    for (place, answer) in futures::future::join_all(asked).await {
        if let Some(other) = answer
            && other
                .founding
                .as_ref()
                .is_some_and(|founding| founding.cluster == me.cluster)
        {
            return Err(Failure::GuardFailed(format!(
                "{} of the same cluster runs and answers at {place}: if most voters can be started again, start them, and \
                 nothing is lost; if not, stop {} and compare it (--compare)",
                other.name, other.name
            )));
        }
    }
    Ok(())
}

impl Report for Survivor {
    fn facts(&self) -> Vec<Fact> {
        let or_none =
            |number: Option<u64>| number.map_or_else(|| "none".to_owned(), |number| number.to_string());
        let last = self
            .last
            .map_or_else(|| "none".to_owned(), |last| last.to_string());
        let mut facts = vec![
            Fact::new("server", &self.server),
            Fact::new("cluster", &self.cluster),
            Fact::new("node", &format!("{:016x}", self.node)),
            Fact::new("starts", &self.starts),
            Fact::new("term", &or_none(self.term)),
            Fact::new("log ends at", &last),
            Fact::new("known committed", &or_none(self.committed)),
            Fact::new("checkpoint", &or_none(self.checkpoint)),
            Fact::new("index", &self.index),
            Fact::new("revision", &self.revision),
            Fact::new(
                "last write",
                self.last_write.as_deref().unwrap_or("not in the log"),
            ),
        ];
        facts.extend(self.members.iter().map(|member| {
            let role = if member.votes { "voter" } else { "learner" };
            let said = match member.said.and_then(|said| said.committed) {
                _ if member.node == self.node => ", this one".to_owned(),
                Some(committed) => format!(", had committed {committed}"),
                None => String::new(),
            };
            Fact::new(
                role,
                &format!("{} at {}{said}", member.server, member.peer_address),
            )
        }));
        facts
    }
}

/// What would become of a survivor.
#[derive(Debug, Serialize)]
struct Prospect<'a> {
    #[serde(flatten)]
    survivor: &'a Survivor,
    may_be_lost: Vec<String>,
}

impl Report for Prospect<'_> {
    fn facts(&self) -> Vec<Fact> {
        let mut facts = self.survivor.facts();
        facts.extend(self.may_be_lost.iter().map(|text| Fact::new("may be lost", text)));
        facts
    }
}

/// What may be lost, or take effect, in words.
fn words(me: &Survivor, loss: &Loss) -> Vec<String> {
    let mut words = Vec::new();
    let when = me.last_write.as_deref().unwrap_or("before its last checkpoint");
    let last = me.last.map_or(0, |last| last.index);
    words.push(format!(
        "what the others acknowledged after position {last}, which {} wrote {when}, is lost",
        me.server
    ));
    if let Some((other, entries)) = &loss.missing {
        words.push(format!(
            "of that {other} once said that it had committed {entries} entries more"
        ));
    }
    if !loss.unseen.is_empty() {
        words.push(format!(
            "not compared: {}; if one of these is left, compare it, for it may have more",
            loss.unseen.join(", ")
        ));
    }
    if loss.unconfirmed > 0 {
        words.push(format!(
            "kept: the end of the log that is not known to be committed, {} long; a write whose outcome was unknown may take \
             effect",
            loss.unconfirmed
        ));
    }
    words
}

/// What was done.
#[derive(Debug, Serialize)]
struct Done {
    data_dir: String,
    server: String,
    cluster: ClusterId,
    from_cluster: ClusterId,
    index: u64,
    revision: u64,
    before: String,
    may_be_lost: Vec<String>,
}

impl Report for Done {
    fn facts(&self) -> Vec<Fact> {
        let mut facts = vec![
            Fact::new("data directory", &self.data_dir),
            Fact::new("server", &self.server),
            Fact::new("cluster", &self.cluster),
            Fact::new("from cluster", &self.from_cluster),
            Fact::new("index", &self.index),
            Fact::new("revision", &self.revision),
        ];
        facts.extend(self.may_be_lost.iter().map(|text| Fact::new("may be lost", text)));
        facts.extend([
            Fact::new("as it was", &format!("{}; remove it when all is well", self.before)),
            Fact::new("next", &format!("start {} as before", self.server)),
            Fact::new(
                "the others",
                &format!(
                    "move their data directories away, and let them join: `spine join` with the peer address of {}",
                    self.server
                ),
            ),
        ]);
        facts
    }
}
