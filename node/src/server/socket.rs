//! A Unix socket in the file system: who may open the file may come in.
//!
//! It has no seam in [`World`](crate::World), since a simulated server is given none.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use tokio::net::{UnixListener, UnixSocket, UnixStream};

use crate::world::net::Stream;

/// The owner and the group, as with a database's socket.
const MODE: u32 = 0o660;
/// Connections that wait to be taken; the system may allow fewer.
const BACKLOG: u32 = 1_024;

/// Why a socket can't be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Somebody answers on it.
    #[error("--http-socket: {} is in use by another process; stop that one, or choose another path", .path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has that name.
    #[error("--http-socket: {} is there and is not a socket; move it away, or choose another path", .path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("--http-socket: can't listen on {}: {source}", .path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A socket that is listened on, and its file, which goes with it.
#[derive(Debug)]
pub(super) struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file, by which it is known again.
    identity: (u64, u64),
}

impl SocketFile {
    /// Listens on `path`. A socket that a process left behind when it was killed is replaced.
    pub(super) async fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |source| SocketError::Listen {
            path: path.to_owned(),
            source,
        };
        remove_stale(path).await?;
        let socket = UnixSocket::new_stream().map_err(failed)?;
        socket.bind(path).map_err(failed)?;
        // In this order: nobody is let in before the mode says who may come.
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self {
            listener,
            path: std::path::absolute(path).map_err(failed)?,
            identity: identity(path).map_err(failed)?,
        })
    }

    /// Where it is, from the root.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection.
    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        let (stream, _) = self.listener.accept().await?;
        Ok(Box::new(stream))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody may have put another socket there; that one is theirs.
        let is_ours = identity(&self.path).is_ok_and(|found| found == self.identity);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, "can't remove the socket");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Removes a socket on which nobody listens any more.
async fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Listen {
        path: path.to_owned(),
        source,
    };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NotASocket {
            path: path.to_owned(),
        });
    }
    let in_use = || SocketError::InUse {
        path: path.to_owned(),
    };
    match UnixStream::connect(path).await {
        Ok(_) => Err(in_use()),
        Err(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
            // Its queue is full, so it has one.
            io::ErrorKind::WouldBlock => Err(in_use()),
            _ => Err(failed(error)),
        },
    }
}
