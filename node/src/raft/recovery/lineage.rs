//! The clusters that a cluster goes on from, written down in the directory that it began with.
//!
//! Its servers say so with every hello. By that a server of the old cluster learns that it must not go on: its cluster was
//! given up, and lives on in another.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use prost::Message;

use crate::{
    limits::LINEAGE_MAX,
    raft::{identity::ClusterId, note::Note},
    world::files::Files,
};

pub(super) const FILE: &str = "lineage";

/// The clusters that a cluster goes on from, the last one first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage(Vec<ClusterId>);

impl Lineage {
    /// These clusters; of too many the last ones.
    pub fn of(clusters: impl IntoIterator<Item = ClusterId>) -> Self {
        Self(clusters.into_iter().take(LINEAGE_MAX).collect())
    }

    /// The lineage of a cluster that goes on from `parent`, whose own this is.
    #[must_use]
    pub fn and(&self, parent: ClusterId) -> Self {
        Self::of([parent].into_iter().chain(self.0.iter().copied()))
    }

    /// Whether the cluster goes on from none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it names a cluster.
    pub fn has(&self, cluster: ClusterId) -> bool {
        self.0.contains(&cluster)
    }

    /// The clusters.
    pub fn clusters(&self) -> impl Iterator<Item = ClusterId> + '_ {
        self.0.iter().copied()
    }

    /// What is written down in `directory`; nothing where nothing is.
    pub(in crate::raft) fn read(files: &Arc<dyn Files>, directory: &Path) -> io::Result<Self> {
        let note = Note::new(files.clone(), directory, FILE);
        let Some(bytes) = note.read()? else {
            return Ok(Self::default());
        };
        let message = LineageMessage::decode(bytes).map_err(|_| note.damaged())?;
        let clusters = message.clusters.iter().map(|id| ClusterId::of_bytes(id));
        let clusters: Option<Vec<_>> = clusters.collect();
        clusters.map(Self::of).ok_or_else(|| note.damaged())
    }

    /// Writes it down in `directory`, durably.
    pub(super) fn write(&self, files: &Arc<dyn Files>, directory: &Path) -> io::Result<()> {
        let ids = self.0.iter().map(|id| id.to_bytes());
        let message = LineageMessage {
            clusters: ids.collect(),
        };
        Note::new(files.clone(), directory, FILE).write(&message.encode_to_vec())
    }
}

#[derive(Clone, PartialEq, Eq, Message)]
struct LineageMessage {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    clusters: Vec<Bytes>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{limits::LINEAGE_MAX, world::files::OsFiles};

    #[test]
    fn a_lineage_is_read_as_written_and_forgets_its_oldest() {
        let directory = tempfile::tempdir().unwrap();
        let files: Arc<dyn Files> = Arc::new(OsFiles);
        let read = || Lineage::read(&files, directory.path()).unwrap();
        assert_eq!(read(), Lineage::default());
        let all =
            (1..=LINEAGE_MAX as u128 + 2).fold(Lineage::default(), |lineage, id| lineage.and(ClusterId(id)));
        assert_eq!(all.clusters().count(), LINEAGE_MAX);
        assert!(all.has(ClusterId(3)) && !all.has(ClusterId(2)));
        all.write(&files, directory.path()).unwrap();
        assert_eq!(read(), all);
    }
}
