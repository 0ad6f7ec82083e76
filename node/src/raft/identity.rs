//! Who a node is: the cluster that it belongs to, its own id, and how often it was started.
//!
//! The identity is made once and stands in every segment of the log and in every checkpoint. The boot number is kept
//! in a small file of its own; peers remember it, so that a node that runs on an old copy of its disk is unmasked.

use std::{fmt, io, path::Path, str::FromStr, sync::Arc};

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{note, wire::Malformed};
use crate::world::{
    files::{Files, Open},
    rng::Rng,
};

/// The cluster's id: random, made at bootstrap. As text it is a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ClusterId(pub u128);

impl ClusterId {
    /// The id of a new cluster.
    pub fn draw(rng: &dyn Rng) -> Self {
        let id = uuid::Builder::from_random_bytes(rng.wide_bits().to_be_bytes()).into_uuid();
        Self(id.as_u128())
    }

    /// Its 16 bytes.
    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    /// The id of these bytes, if there are 16.
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }
}

/// A text that is no cluster's id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cluster's id")]
pub struct NoClusterId(String);

impl FromStr for ClusterId {
    type Err = NoClusterId;

    fn from_str(text: &str) -> Result<Self, NoClusterId> {
        let id = Uuid::parse_str(text).map_err(|_| NoClusterId(text.to_owned()))?;
        Ok(Self(id.as_u128()))
    }
}

impl TryFrom<String> for ClusterId {
    type Error = NoClusterId;

    fn try_from(text: String) -> Result<Self, NoClusterId> {
        text.parse()
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_u128(self.0).fmt(f)
    }
}

/// Who a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node's id in it; never 0.
    pub node: u64,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {:016x} of cluster {}", self.node, self.cluster)
    }
}

impl Identity {
    /// A new node of a new cluster.
    pub fn found(rng: &dyn Rng) -> Self {
        Self {
            cluster: ClusterId::draw(rng),
            node: draw_node(rng),
        }
    }

    /// The id of this server's node in the catalog, a UUID made from who it is.
    pub fn catalog_uuid(&self) -> Arc<str> {
        let node = u128::from(self.node);
        let bits = self.cluster.0 ^ (node << 64 | node);
        uuid::Builder::from_random_bytes(bits.to_be_bytes())
            .into_uuid()
            .to_string()
            .into()
    }

    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let message = IdentityMessage {
            cluster: self.cluster.to_bytes(),
            node: self.node,
        };
        message.encode_to_vec().into()
    }

    /// The identity of these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let message = IdentityMessage::decode(bytes).map_err(|_| Malformed("identity"))?;
        let cluster = ClusterId::of_bytes(&message.cluster).ok_or(Malformed("identity"))?;
        Ok(Self {
            cluster,
            node: message.node,
        })
    }
}

/// A new node id.
pub(super) fn draw_node(rng: &dyn Rng) -> u64 {
    // 63 bits, so that no dialect shows a negative number.
    (rng.bits() >> 1).max(1)
}

#[derive(Clone, PartialEq, Eq, Message)]
struct IdentityMessage {
    #[prost(bytes = "bytes", tag = "1")]
    cluster: Bytes,
    #[prost(uint64, tag = "2")]
    node: u64,
}

const BOOT_FILE: &str = "boot";
const BOOT_MAGIC: &[u8; 8] = b"spineBT1";
const BOOT_BYTES: usize = 20;

/// Raises the boot number in `directory` and makes it durable; the first is 1.
///
/// A file that is missing counts as 0: a crash before the first start was over leaves none, and peers that know better
/// refuse a number that has fallen.
pub fn raise_boot_number(files: &dyn Files, directory: &Path) -> io::Result<u64> {
    let number = boot_number(files, directory)? + 1;
    note::replace(files, directory, BOOT_FILE, &boot_bytes(number))?;
    Ok(number)
}

/// The number of the last start in `directory`; 0 before the first.
pub fn boot_number(files: &dyn Files, directory: &Path) -> io::Result<u64> {
    let names = files.list(directory)?;
    if names.iter().any(|name| name == BOOT_FILE) {
        read_boot(files, directory)
    } else {
        Ok(0)
    }
}

fn read_boot(files: &dyn Files, directory: &Path) -> io::Result<u64> {
    let path = directory.join(BOOT_FILE);
    let mut bytes = [0; BOOT_BYTES];
    let length = files.open(&path, Open::Existing)?.read_at(&mut bytes, 0)?;
    let number = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
    if length == BOOT_BYTES && bytes == boot_bytes(number) {
        return Ok(number);
    }
    let text = format!(
        "{} is damaged; if this node is its cluster's only voter, remove it; if not, restore the file as it was: the peers \
         refuse a number that has fallen",
        path.display()
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

fn boot_bytes(number: u64) -> [u8; BOOT_BYTES] {
    let mut bytes = [0; BOOT_BYTES];
    bytes[..8].copy_from_slice(BOOT_MAGIC);
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[..16]);
    bytes[16..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{files::OsFiles, rng::OsRng};

    #[test]
    fn an_identity_survives_its_bytes() {
        let identity = Identity::found(&OsRng);
        assert_eq!(Identity::decode(&identity.encode()), Ok(identity));
        assert_eq!(Identity::decode(b"\xff"), Err(Malformed("identity")));
        assert_eq!(identity.cluster.to_string().parse(), Ok(identity.cluster));
        assert!("n1".parse::<ClusterId>().is_err());
    }

    #[test]
    fn the_boot_number_rises_and_damage_is_told() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(raise_boot_number(&OsFiles, directory.path()).unwrap(), 1);
        // A crash before the rename leaves a draft.
        OsFiles
            .open(&directory.path().join("boot.new"), Open::New)
            .unwrap();
        assert_eq!(raise_boot_number(&OsFiles, directory.path()).unwrap(), 2);
        let file = OsFiles
            .open(&directory.path().join(BOOT_FILE), Open::Existing)
            .unwrap();
        file.write_at(&[7], 9).unwrap();
        let error = raise_boot_number(&OsFiles, directory.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
