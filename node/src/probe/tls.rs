//! TLS towards targets of probes.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::net::DialError;
use crate::world::net::Stream;

/// Configurations of TLS, each made when the first probe needs it.
#[derive(Clone, Debug, Default)]
pub(super) struct Tls {
    verified: Arc<OnceLock<Arc<ClientConfig>>>,
    trusting: Arc<OnceLock<Arc<ClientConfig>>>,
}

/// What a probe asks of TLS.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handshake<'a> {
    /// The name asked for and verified.
    pub(super) name: &'a str,
    /// The protocol offered (ALPN).
    pub(super) protocol: &'static [u8],
    /// Whether the certificate must be valid for the name, by the machine's roots.
    pub(super) verify: bool,
}

impl Tls {
    pub(super) async fn handshake(
        &self,
        stream: Box<dyn Stream>,
        handshake: Handshake<'_>,
    ) -> Result<TlsStream<Box<dyn Stream>>, DialError> {
        let name = ServerName::try_from(handshake.name.to_owned()).map_err(|_| {
            DialError::Tls(io::Error::other(format!(
                "{:?} is not a server name",
                handshake.name
            )))
        })?;
        let config = if handshake.verify {
            self.verified.get_or_init(verified)
        } else {
            self.trusting.get_or_init(trusting)
        };
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = vec![handshake.protocol.to_vec()];
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(DialError::Tls)
    }
}

fn verified() -> Arc<ClientConfig> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (_, unusable) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() || !found.errors.is_empty() {
        tracing::warn!(usable = roots.len(), unusable, errors = ?found.errors, "root certificates for TLS probes");
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of TLS 1.2 and 1.3");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
}

fn trusting() -> Arc<ClientConfig> {
    let provider = ring::default_provider();
    let verifier = Trusting(provider.signature_verification_algorithms);
    let builder = ClientConfig::builder_with_provider(Arc::<CryptoProvider>::new(provider))
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of TLS 1.2 and 1.3");
    Arc::new(
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth(),
    )
}

/// Takes any certificate, as `TLSSkipVerify` asks; that the target holds its key is still proved.
#[derive(Debug)]
struct Trusting(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
