//! TLS of the HTTPS port: its certificate and its key, read once, at the start.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
};
use tokio_rustls::TlsAcceptor;

use crate::config::Https;

/// What is spoken inside; who offers only something else is refused in the handshake.
const PROTOCOL: &[u8] = b"http/1.1";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file can't be read.
    #[error("{option}: can't read {}: {source}", .path.display())]
    Unreadable {
        /// The option that names the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds nothing of what it is for.
    #[error("{option}: {} holds no {wanted} in PEM form", .path.display())]
    Missing {
        /// The option that names the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// A file is damaged.
    #[error("{option}: {} is not PEM: {source}", .path.display())]
    Malformed {
        /// The option that names the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// Certificate and key don't serve, each alone or together.
    #[error(
        "--tls-cert, --tls-key: can't use the certificate {} with the key {}: {source}",
        .certificate.display(), .key.display()
    )]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// What answers TLS handshakes with the certificate and the key that the files hold.
pub(super) fn acceptor(https: &Https) -> Result<TlsAcceptor, TlsError> {
    let Https { certificate, key, .. } = https;
    let chain = read_chain(certificate)?;
    let secret = read_key(key)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of TLS 1.2 and 1.3")
        .with_no_client_auth();
    let mut config = builder
        .with_single_cert(chain, secret)
        .map_err(|source| TlsError::Unusable {
            certificate: certificate.clone(),
            key: key.clone(),
            source,
        })?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The server's certificate, and behind it those that lead towards a root.
fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    const OPTION: &str = "--tls-cert";
    let text = read(OPTION, path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let wrong = |source| wrong(OPTION, path, "certificate", source);
    match chain {
        Ok(chain) if chain.is_empty() => Err(wrong(pem::Error::NoItemsFound)),
        Ok(chain) => Ok(chain),
        Err(source) => Err(wrong(source)),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    const OPTION: &str = "--tls-key";
    let text = read(OPTION, path)?;
    let key =
        PrivateKeyDer::from_pem_slice(&text).map_err(|source| wrong(OPTION, path, "private key", source))?;
    // No error, since a copy of the file may be all that a container gets; and a group for keys is a sound setup.
    match fs::metadata(path).map(|found| found.permissions().mode() & 0o777) {
        Ok(mode) if mode & 0o007 != 0 => {
            tracing::warn!(
                option = OPTION,
                mode = format_args!("{mode:03o}"),
                "everybody on this machine may read the TLS key"
            );
        }
        _ => {}
    }
    Ok(key)
}

fn read(option: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable {
        option,
        path: path.to_owned(),
        source,
    })
}

fn wrong(option: &'static str, path: &Path, wanted: &'static str, source: pem::Error) -> TlsError {
    let path = path.to_owned();
    match source {
        pem::Error::NoItemsFound => TlsError::Missing { option, path, wanted },
        source => TlsError::Malformed { option, path, source },
    }
}
