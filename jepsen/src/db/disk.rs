//! Where a node keeps its data: an ext4 file system in a file, mounted on a loop device, whose power can be cut.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sys;

/// The file system, mounted. It needs the mount namespace of a sealed run ([`crate::sealed`]), with which the mount and
/// its loop device go.
#[derive(Debug)]
pub struct Ext4 {
    image: PathBuf,
    mount: PathBuf,
}

impl Ext4 {
    /// An empty one of `bytes` in `place`, mounted.
    ///
    /// # Errors
    /// No root, no loop devices, no `mkfs.ext4`, or no room.
    pub fn create(place: &Path, bytes: u64) -> io::Result<Self> {
        let ext4 = Self {
            image: place.join("image"),
            mount: place.join("mount"),
        };
        fs::create_dir_all(&ext4.mount)?;
        File::create(&ext4.image)?.set_len(bytes)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&ext4.image))?;
        ext4.mount()?;
        Ok(ext4)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts its power: what was not flushed is lost, and every further write and flush fails.
    ///
    /// # Errors
    /// It isn't mounted.
    pub fn cut_power(&self) -> io::Result<()> {
        sys::cut_power(&self.mount)
    }

    /// Mounts it afresh, as after a power cut. Nobody may have a file open there.
    ///
    /// # Errors
    /// Somebody has, or the kernel doesn't recover it.
    pub fn remount(&self) -> io::Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// Unmounts it. Nobody may have a file open there.
    ///
    /// # Errors
    /// Somebody has.
    pub fn unmount(&self) -> io::Result<()> {
        run(Command::new("umount").arg(&self.mount))
    }

    /// Its journal commits by itself only once a minute, so that as much as possible is at risk.
    fn mount(&self) -> io::Result<()> {
        run(Command::new("mount")
            .args(["-o", "loop,commit=60"])
            .arg(&self.image)
            .arg(&self.mount))
    }
}

/// Runs a program that has to succeed; the error says what it said.
fn run(command: &mut Command) -> io::Result<()> {
    let named = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("{named}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{named}: {}", said.trim())))
}
