//! What a directory remembers of its founding, or of its coming to a cluster: the file `founding`, written before anybody
//! is told what stands in it.

use std::{io, path::Path, sync::Arc};

use prost::Message;
use spine_proto::internal::v1 as proto;

use super::Founding;
use crate::{
    raft::{
        identity::{self, Identity},
        note::Note,
        roster::Roster,
        wire,
    },
    world::{files::Files, rng::Rng},
};

const FILE: &str = "founding";

/// The record of a directory.
#[derive(Clone, Debug)]
pub(in crate::raft) struct Record {
    note: Note,
    /// The node id made for the directory.
    pub(in crate::raft) node: u64,
    /// The founding that it decided or took.
    pub(in crate::raft) founding: Option<Founding>,
    /// The members of the cluster that took it in, itself among them.
    pub(in crate::raft) joined: Option<Roster>,
    /// The log has been there: if it is not any more, it was lost.
    pub(in crate::raft) begun: bool,
}

impl Record {
    /// Reads the record; `None` if there is none.
    pub(in crate::raft) fn read(files: &Arc<dyn Files>, directory: &Path) -> io::Result<Option<Self>> {
        let note = Note::new(files.clone(), directory, FILE);
        let Some(bytes) = note.read()? else {
            return Ok(None);
        };
        let message = RecordMessage::decode(bytes).map_err(|_| note.damaged())?;
        let founding = message.founding.map(wire::message_founding).transpose();
        let joined = message.joined.map(wire::message_roster).transpose();
        Ok(Some(Self {
            node: message.node,
            founding: founding.map_err(|_| note.damaged())?,
            joined: joined.map_err(|_| note.damaged())?,
            begun: message.begun,
            note,
        }))
    }

    /// A record with a new node id, durable.
    pub(in crate::raft) fn make(files: &Arc<dyn Files>, directory: &Path, rng: &dyn Rng) -> io::Result<Self> {
        let record = Self {
            note: Note::new(files.clone(), directory, FILE),
            node: identity::draw_node(rng),
            founding: None,
            joined: None,
            begun: false,
        };
        record.write()?;
        Ok(record)
    }

    /// Who the directory is, by the cluster that took it in or that it founded.
    pub(in crate::raft) fn identity(&self) -> Option<Identity> {
        if let Some(roster) = &self.joined {
            let cluster = roster.cluster;
            return Some(Identity {
                cluster,
                node: self.node,
            });
        }
        self.founding.as_ref()?.identity(self.node)
    }

    /// Notes that a cluster took it in, durably.
    pub(in crate::raft) fn join(&mut self, roster: Roster) -> io::Result<()> {
        self.joined = Some(roster);
        self.write()
    }

    /// Notes the founding, durably.
    pub(in crate::raft) fn found(&mut self, founding: Founding) -> io::Result<()> {
        if self.founding.as_ref() == Some(&founding) {
            return Ok(());
        }
        self.founding = Some(founding);
        self.write()
    }

    /// Notes that the log is there, durably.
    pub(in crate::raft) fn begin(&mut self) -> io::Result<()> {
        if self.begun {
            return Ok(());
        }
        self.begun = true;
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let message = RecordMessage {
            node: self.node,
            founding: self.founding.as_ref().map(wire::founding_message),
            begun: self.begun,
            joined: self.joined.as_ref().map(wire::roster_message),
        };
        self.note.write(&message.encode_to_vec())
    }
}

#[derive(Clone, PartialEq, Message)]
struct RecordMessage {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(message, optional, tag = "2")]
    founding: Option<proto::Founding>,
    #[prost(bool, tag = "3")]
    begun: bool,
    #[prost(message, optional, tag = "4")]
    joined: Option<proto::Roster>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        raft::{Peer, identity::ClusterId},
        world::{files::OsFiles, rng::OsRng},
    };

    #[test]
    fn each_step_is_there_after_a_crash() {
        let directory = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(OsFiles);
        let read = || Record::read(&files, directory.path()).unwrap();
        assert!(read().is_none());
        let mut record = Record::make(&files, directory.path(), &OsRng).unwrap();
        let again = read().unwrap();
        assert_eq!(
            (again.node, again.founding, again.begun),
            (record.node, None, false)
        );
        let peer = Peer {
            name: "a".to_owned(),
            address: "a:8300".to_owned(),
        };
        let founding = Founding {
            cluster: ClusterId(7),
            members: BTreeMap::from([(record.node, peer)]),
        };
        record.found(founding.clone()).unwrap();
        record.begin().unwrap();
        let again = read().unwrap();
        assert_eq!(
            (again.node, again.founding, again.begun),
            (record.node, Some(founding), true)
        );
    }

    #[test]
    fn whom_a_cluster_took_in_is_a_node_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(OsFiles);
        let mut record = Record::make(&files, directory.path(), &OsRng).unwrap();
        assert_eq!(record.identity(), None);
        let identity = Identity {
            cluster: ClusterId(7),
            node: record.node,
        };
        let roster = Roster::alone(identity, Peer::default());
        record.join(roster.clone()).unwrap();
        let again = Record::read(&files, directory.path()).unwrap().unwrap();
        assert_eq!((again.identity(), again.joined), (Some(identity), Some(roster)));
    }
}
