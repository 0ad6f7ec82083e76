//! The mesh's certificate authority: its root.
//!
//! The root is made once, by the leader of a cluster that has none, and replicated, so that every server shows the
//! same one. Its private key is a secret of the cluster and stands nowhere in the open: it is sealed with a key that
//! each server is given in a file (`--ca-seal-key`), or, without one, thrown away as soon as the root is signed. Then
//! the root can be shown and signs nothing.

use std::{
    fmt,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use chacha20poly1305::{
    XChaCha20Poly1305,
    aead::{Aead, KeyInit, Payload},
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use sha2::{Digest, Sha256};
use spine_api::{Blocking, Context, Error, Read, Registry, Role};
use spine_core::{CaRoot, CaRoots, Command, Dialect, Outcome, WallTime};
use time::OffsetDateTime;

use crate::world::{World, rng::Rng};

/// A root lives for ten years: replacing one is work in every proxy.
const ROOT_LIFETIME: time::Duration = time::Duration::days(3652);
/// Machines' clocks differ: a certificate is valid from a minute before it is made.
const CLOCK_SKEW: time::Duration = time::Duration::minutes(1);
/// How long a server without the lead waits for the root before it asks again who leads.
const ROOT_WAIT: Duration = Duration::from_secs(1);

/// The key that seals the CA's private key.
pub struct SealKey(chacha20poly1305::Key);

/// Why there is no seal key.
#[derive(Debug, thiserror::Error)]
pub enum SealKeyError {
    /// The file can't be read.
    #[error("can't read the seal key {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others than its owner may read it.
    #[error(
        "the seal key {} may be read by others (mode {mode:03o}): chmod 600 it, and make a new key if others had it",
        .path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is not a key.
    #[error("the seal key {} holds {length} bytes; it must hold exactly 32 (head -c 32 /dev/urandom)", .path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
}

/// Why a CA root was not made or its key not opened.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The certificate can't be made.
    #[error("can't make the CA's root: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The key can't be sealed.
    #[error("can't seal the CA's key")]
    Seal,
    /// The seal key is not the one that sealed it, or the sealed key was changed.
    #[error(
        "--ca-seal-key does not open the key of the CA root {root}: every server needs the same file, and this one's \
         differs from that of the server which made the root"
    )]
    WrongSealKey {
        /// The root's id.
        root: String,
    },
    /// It can't be replicated.
    #[error("can't store the CA's root: {0}")]
    Store(#[from] Error),
}

impl SealKey {
    /// Reads the key from its file, which nobody but its owner may read.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn read(path: &Path) -> Result<Self, SealKeyError> {
        let unreadable = |source| SealKeyError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(SealKeyError::Open {
                path: path.to_owned(),
                mode,
            });
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        let length = bytes.len();
        let key = <[u8; 32]>::try_from(bytes);
        key.map(|key| Self(key.into())).map_err(|_| SealKeyError::Length {
            path: path.to_owned(),
            length,
        })
    }

    /// Seals a private key so that it opens only beside the same root.
    fn seal(&self, secret: &[u8], root_id: &str, rng: &dyn Rng) -> Result<Bytes, CaError> {
        let mut nonce = [0; NONCE_LEN];
        for chunk in nonce.chunks_mut(8) {
            chunk.copy_from_slice(&rng.bits().to_le_bytes());
        }
        let payload = Payload {
            msg: secret,
            aad: root_id.as_bytes(),
        };
        let sealed = XChaCha20Poly1305::new(&self.0)
            .encrypt(&nonce.into(), payload)
            .map_err(|_| CaError::Seal)?;
        Ok([&[SEAL_FORMAT][..], &nonce, &sealed].concat().into())
    }

    /// The private key of a root, as PKCS #8.
    ///
    /// # Errors
    /// [`CaError::WrongSealKey`].
    pub fn open(&self, sealed: &[u8], root_id: &str) -> Result<Vec<u8>, CaError> {
        let wrong = || CaError::WrongSealKey {
            root: root_id.to_owned(),
        };
        let Some((&[SEAL_FORMAT], rest)) = sealed.split_first_chunk() else {
            return Err(wrong());
        };
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(wrong)?;
        let payload = Payload {
            msg: sealed,
            aad: root_id.as_bytes(),
        };
        XChaCha20Poly1305::new(&self.0)
            .decrypt(nonce.into(), payload)
            .map_err(|_| wrong())
    }
}

/// The first byte of a sealed key: XChaCha20-Poly1305, then its nonce, then what it made of the key.
const SEAL_FORMAT: u8 = 1;
/// A nonce this long may be drawn at random without ever meeting the same one again.
const NONCE_LEN: usize = 24;

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// Returns once the cluster has a CA root, which this server makes if it leads and there is none. With `seal`, sees
/// that it opens the root's key.
///
/// # Errors
/// The root can't be made or stored, or the seal key is not the cluster's.
pub async fn ensure_root(
    registry: &dyn Registry,
    world: &World,
    seal: Option<&SealKey>,
) -> Result<(), CaError> {
    loop {
        let cx = Context::new(Dialect::Internal);
        let answer = match registry.read(&cx, &CaRoots, None).await {
            Ok(answer) => answer,
            Err(Error::ShuttingDown) => return Err(Error::ShuttingDown.into()),
            // No leader yet, or not in time.
            Err(_) => {
                tokio::time::sleep(ROOT_WAIT / 10).await;
                continue;
            }
        };
        if let Some(active) = answer.value.iter().find(|root| root.active) {
            return check_key(&active.root, seal);
        }
        let status = registry.status();
        if status.role == Role::Leader {
            let root = make_root(&status.cluster_id, world.clock.wall(), &*world.rng, seal)?;
            propose_root(registry, &cx, root, seal.is_some()).await?;
        } else {
            let blocking = Blocking {
                floor: answer.index,
                until: cx.deadline - WAIT_SPARE,
            };
            // Whatever comes of it, it is looked at anew.
            let _ = registry.read(&cx, &CaRoots, Some(blocking)).await;
        }
    }
}

/// Proposes a root for a cluster that has none. An earlier leader may have made one meanwhile: that one stays, and is
/// found by looking again.
async fn propose_root(
    registry: &dyn Registry,
    cx: &Context,
    root: CaRoot,
    sealed: bool,
) -> Result<(), CaError> {
    let id = root.id.clone();
    match registry.propose(cx, Command::CaRootInitial(root)).await {
        Ok(applied) => {
            if applied.result.map_err(Error::Refused)? == Outcome::CaRootSet {
                let key = if sealed { "sealed" } else { "discarded" };
                tracing::info!(id = &*id, key, "made the CA root");
            }
        }
        Err(error @ (Error::ShuttingDown | Error::Refused(_))) => return Err(error.into()),
        // Not the leader any more, or it is not known what became of it.
        Err(error) => tracing::debug!(%error, "the CA root was not stored"),
    }
    Ok(())
}

/// What is left of a request's time after [`ROOT_WAIT`].
const WAIT_SPARE: Duration = spine_api::limits::REQUEST_DEADLINE.saturating_sub(ROOT_WAIT);

fn check_key(root: &CaRoot, seal: Option<&SealKey>) -> Result<(), CaError> {
    match (&root.sealed_key, seal) {
        (Some(sealed), Some(seal)) => seal.open(sealed, &root.id).map(drop),
        (Some(_), None) => {
            tracing::warn!(
                root = &*root.id,
                "the CA's key is sealed and this server has no --ca-seal-key: it can't sign certificates"
            );
            Ok(())
        }
        (None, Some(_)) => {
            tracing::warn!(
                root = &*root.id,
                "the CA's key was discarded when the root was made, by a server without --ca-seal-key: this server's \
                 has nothing to open"
            );
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

/// Makes the root of a cluster: ECDSA P-256, its trust domain as URI. Without `seal` its private key ends here.
///
/// # Errors
/// [`CaError::Certificate`], [`CaError::Seal`].
pub fn make_root(
    cluster_id: &str,
    now: WallTime,
    rng: &dyn Rng,
    seal: Option<&SealKey>,
) -> Result<CaRoot, CaError> {
    // Consul's shape, which its clients' tests look for; to SPIFFE one name is as good as another.
    let trust_domain = format!("{cluster_id}.consul");
    // Positive in 64 bits, signed: Consul's clients read it as a number.
    let serial = rng.bits() >> 1;
    let made = OffsetDateTime::from_unix_timestamp_nanos(i128::from(now.0) * 1_000_000);
    let made = made.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let mut params = CertificateParams::default();
    params.not_before = made - CLOCK_SKEW;
    params.not_after = made + ROOT_LIFETIME;
    params.serial_number = Some(SerialNumber::from(serial));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params.subject_alt_names = vec![SanType::URI(format!("spiffe://{trust_domain}").try_into()?)];
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(
        DnType::CommonName,
        format!("Spine CA {}", cluster_id.get(..8).unwrap_or(cluster_id)),
    );
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let id = hex::encode(Sha256::digest(certificate.der()));
    let sealed_key = seal
        .map(|seal| seal.seal(key.serialized_der(), &id, rng))
        .transpose()?;
    Ok(CaRoot {
        sealed_key,
        trust_domain: trust_domain.into(),
        certificate_pem: certificate.pem().into(),
        serial: serial.to_string().into(),
        key_id: colons(&params.key_identifier(&key)).into(),
        key_type: "ec".into(),
        key_bits: 256,
        not_before: wall(params.not_before),
        not_after: wall(params.not_after),
        id: id.into(),
    })
}

/// Certificates' times count whole seconds.
fn wall(moment: OffsetDateTime) -> WallTime {
    WallTime(u64::try_from(moment.unix_timestamp()).unwrap_or(0) * 1_000)
}

/// Bytes as `ab:cd:…`, as key ids are written.
fn colons(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(":")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use spine_api::local::Local;
    use spine_core::NodeName;

    use super::*;
    use crate::world::rng::OsRng;

    const NOW: WallTime = WallTime(1_800_000_000_000);

    fn key(bytes: &[u8], mode: u32) -> (tempfile::TempDir, Result<SealKey, SealKeyError>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seal");
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let key = SealKey::read(&path);
        (directory, key)
    }

    #[test]
    fn a_seal_key_is_32_bytes_that_nobody_else_may_read() {
        assert!(key(&[7; 32], 0o600).1.is_ok());
        assert!(key(&[7; 32], 0o400).1.is_ok());
        assert!(matches!(
            key(&[7; 32], 0o640).1,
            Err(SealKeyError::Open { mode: 0o640, .. })
        ));
        assert!(matches!(
            key(&[7; 31], 0o600).1,
            Err(SealKeyError::Length { length: 31, .. })
        ));
    }

    #[test]
    fn the_key_is_sealed_to_its_root_or_gone() {
        let seal = key(&[7; 32], 0o600).1.unwrap();
        let other = key(&[8; 32], 0o600).1.unwrap();
        let root = make_root("11111111-2222-3333-4444-555555555555", NOW, &OsRng, Some(&seal)).unwrap();
        let sealed = root.sealed_key.clone().unwrap();
        let secret = seal.open(&sealed, &root.id).unwrap();
        assert!(KeyPair::try_from(secret.as_slice()).is_ok());
        assert!(
            !sealed
                .windows(16)
                .any(|part| secret.windows(16).any(|secret| secret == part))
        );
        assert!(matches!(
            other.open(&sealed, &root.id),
            Err(CaError::WrongSealKey { .. })
        ));
        assert!(matches!(
            seal.open(&sealed, "another root"),
            Err(CaError::WrongSealKey { .. })
        ));
        let mut changed = sealed.to_vec();
        *changed.last_mut().unwrap() ^= 1;
        assert!(matches!(
            seal.open(&changed, &root.id),
            Err(CaError::WrongSealKey { .. })
        ));
        assert!(make_root("c", NOW, &OsRng, None).unwrap().sealed_key.is_none());
    }

    #[test]
    fn a_root_is_valid_for_ten_years_and_names_its_trust_domain() {
        let root = make_root("11111111-2222-3333-4444-555555555555", NOW, &OsRng, None).unwrap();
        assert_eq!(&*root.trust_domain, "11111111-2222-3333-4444-555555555555.consul");
        assert!(root.certificate_pem.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(root.serial.parse::<i64>().is_ok());
        assert_eq!(root.not_before, WallTime(NOW.0 - 60_000));
        let years = (root.not_after.0 - NOW.0) / (365 * 24 * 3_600_000);
        assert_eq!(years, 10);
    }

    #[tokio::test]
    async fn a_cluster_gets_one_root_and_keeps_it() {
        let local = Arc::new(Local::new(NodeName::parse("n1").unwrap()));
        let world = World::real();
        let seal = key(&[7; 32], 0o600).1.unwrap();
        ensure_root(&*local, &world, Some(&seal)).await.unwrap();
        let made = local.hub().newest().ca_roots();
        ensure_root(&*local, &world, Some(&seal)).await.unwrap();
        assert_eq!(local.hub().newest().ca_roots(), made);
        assert_eq!(made.len(), 1);
        // A leader that has not heard of it yet comes too late.
        let late = make_root("another", NOW, &OsRng, None).unwrap();
        let cx = Context::new(Dialect::Internal);
        propose_root(&*local, &cx, late, false).await.unwrap();
        assert_eq!(local.hub().newest().ca_roots(), made);
        let other = key(&[8; 32], 0o600).1.unwrap();
        assert!(matches!(
            ensure_root(&*local, &world, Some(&other)).await,
            Err(CaError::WrongSealKey { .. })
        ));
    }
}
