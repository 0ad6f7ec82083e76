//! What a directory remembers of its founding: the file `founding`, written before anybody is told what stands in it.

use std::{io, path::Path, sync::Arc};

use prost::Message;
use spine_proto::internal::v1 as proto;

use super::Founding;
use crate::{
    raft::{
        identity::{self, Identity},
        note::Note,
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
        Ok(Some(Self {
            node: message.node,
            founding: founding.map_err(|_| note.damaged())?,
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
            begun: false,
        };
        record.write()?;
        Ok(record)
    }

    /// Who the directory is, by the founding.
    pub(in crate::raft) fn identity(&self) -> Option<Identity> {
        self.founding.as_ref()?.identity(self.node)
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
}
