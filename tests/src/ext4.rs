//! An ext4 file system in a file, mounted on a loop device, whose power can be cut. Needs root; to be used in a mount
//! namespace of its own ([`crate::namespace`]), so that no mount outlives the test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::sys;

/// The file system. It is not mounted at first.
#[derive(Debug)]
pub struct Ext4 {
    image: PathBuf,
    mount: PathBuf,
}

impl Ext4 {
    /// An empty one of `bytes`, kept in the directory `place`.
    pub fn new(place: &Path, bytes: u64) -> Self {
        let ext4 = Self {
            image: place.join("image"),
            mount: place.join("mount"),
        };
        fs::create_dir(&ext4.mount).expect("a fresh directory has room for a mount point");
        let image = fs::File::create(&ext4.image).expect("a fresh directory has room for an image");
        image.set_len(bytes).expect("a sparse file may be long");
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&ext4.image));
        ext4
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Mounts it. Its journal commits by itself only once a minute, so that as much as possible is at risk.
    pub fn mount(&self) {
        run(Command::new("mount")
            .args(["-o", "loop,commit=60"])
            .arg(&self.image)
            .arg(&self.mount));
    }

    /// Cuts its power: what was not flushed is lost, and every further write and flush fails.
    pub fn cut_power(&self) {
        sys::cut_power(&self.mount).expect("EXT4_IOC_SHUTDOWN works for root on a mounted ext4");
    }

    /// Unmounts it; nobody may have a file open there.
    pub fn unmount(&self) {
        run(Command::new("umount").arg(&self.mount));
    }
}

fn run(command: &mut Command) {
    let status = command
        .status()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}");
}
