//! The switch of a directory from one server to another, in place: what was there is set aside, and what was made ready
//! takes its place. The directory may be a mount point, so it can't be renamed itself.
//!
//! ```text
//!  DIR/log, checkpoint, …        ──1──►  DIR/before-recovery-…/
//!  DIR/recovering/log, checkpoint ──2──►  DIR/
//! ```
//!
//! It is decided by one note, written as a whole when `recovering` is durable: before it nothing has happened, and from it on
//! whoever opens the directory first carries the switch to its end ([`finish`]). The note says which half is being done. A
//! part that isn't there any more was moved before a crash, and all of a half is moved before the other begins, so no part
//! is ever taken for its successor.

use std::{io, path::Path, sync::Arc};

use prost::Message;

use crate::{raft::note::Note, world::files::Files};

const FILE: &str = "recovery";
/// Where the parts are made ready.
pub(super) const DRAFT: &str = "recovering";
/// What a server's directory consists of, but for its lock.
const PARTS: [&str; 8] = [
    "log",
    "log-sled",
    "checkpoint",
    "founding",
    "boot",
    "starts",
    "peers",
    super::lineage::FILE,
];

#[derive(Clone, PartialEq, Eq, Message)]
struct Switch {
    /// Where the old parts go, in the directory.
    #[prost(string, tag = "1")]
    aside: String,
    /// They are there: the new ones come.
    #[prost(bool, tag = "2")]
    is_aside: bool,
}

/// Decides the switch, and carries it out; what is there goes to `aside`. To be called once all of [`DRAFT`] is durable.
///
/// # Errors
/// The disk's. Whether the switch is decided shows at the next [`finish`].
pub(super) fn make(files: &Arc<dyn Files>, directory: &Path, aside: String) -> io::Result<()> {
    let switch = Switch {
        aside,
        is_aside: false,
    };
    Note::new(files.clone(), directory, FILE).write(&switch.encode_to_vec())?;
    finish(files, directory)
}

/// Carries a switch to its end that was decided, if one was.
pub(in crate::raft) fn finish(files: &Arc<dyn Files>, directory: &Path) -> io::Result<()> {
    let note = Note::new(files.clone(), directory, FILE);
    let Some(bytes) = note.read()? else {
        return Ok(());
    };
    let mut switch = Switch::decode(bytes).map_err(|_| note.damaged())?;
    if !switch.is_aside {
        let aside = directory.join(&switch.aside);
        files.create_dir(&aside)?;
        move_parts(&**files, directory, &aside)?;
        switch.is_aside = true;
        note.write(&switch.encode_to_vec())?;
    }
    let draft = directory.join(DRAFT);
    // A crash may have left the draft's directory away, with nothing in it.
    files.create_dir(&draft)?;
    move_parts(&**files, &draft, directory)?;
    files.remove(&note.path())?;
    files.sync_dir(directory)
}

/// Moves the parts that are there, durably.
fn move_parts(files: &dyn Files, from: &Path, to: &Path) -> io::Result<()> {
    for part in PARTS {
        match files.rename(&from.join(part), &to.join(part)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    files.sync_dir(to)?;
    files.sync_dir(from)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// The names that the code gives to files at the top of a data directory, one a constant.
    fn names(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names(&path, found);
            } else {
                let text = fs::read_to_string(&path).unwrap();
                let constants = text
                    .lines()
                    .filter_map(|line| line.trim().split_once("FILE: &str = \""));
                found.extend(constants.map(|(_, name)| name.trim_end_matches("\";").to_owned()));
            }
        }
    }

    #[test]
    fn every_note_goes_with_the_rest() {
        let mut found = Vec::new();
        names(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raft"),
            &mut found,
        );
        let other: Vec<_> = found
            .iter()
            .filter(|name| !PARTS.contains(&name.as_str()))
            .collect();
        assert_eq!(other, [FILE], "only what decides the switch stays where it is");
        assert!(found.len() > 5, "{found:?}");
    }
}
