//! `/v1/connect/ca/`: the roots of the mesh's CA. Every test server of Consul's Go client is asked for them first.

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use spine_core::{CaRootView, CaRoots};

use super::{
    call::{Call, Handled},
    error::Failure,
    moment::rfc3339,
    reply::Reply,
};

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootsWire<'a> {
    #[serde(rename = "ActiveRootID")]
    active_root_id: &'a str,
    trust_domain: &'a str,
    roots: Vec<RootWire<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootWire<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    name: &'static str,
    serial_number: u64,
    #[serde(rename = "SigningKeyID")]
    signing_key_id: &'a str,
    external_trust_domain: &'a str,
    not_before: String,
    not_after: String,
    root_cert: &'a str,
    intermediate_certs: [&'a str; 0],
    active: bool,
    private_key_type: &'a str,
    private_key_bits: u32,
    create_index: u64,
    modify_index: u64,
}

impl<'a> RootWire<'a> {
    fn of(view: &'a CaRootView) -> Self {
        let root = &view.root;
        Self {
            id: &root.id,
            name: "Spine CA Root Cert",
            // Consul's field has 64 bits; a longer serial is in the certificate alone.
            serial_number: root.serial.parse().unwrap_or(0),
            signing_key_id: &root.key_id,
            external_trust_domain: root.trust_domain.split('.').next().unwrap_or_default(),
            not_before: rfc3339(root.not_before),
            not_after: rfc3339(root.not_after),
            root_cert: &root.certificate_pem,
            intermediate_certs: [],
            active: view.active,
            private_key_type: &root.key_type,
            private_key_bits: root.key_bits,
            create_index: view.index.0,
            modify_index: view.index.0,
        }
    }
}

/// The roots; with `?pem` their certificates alone.
pub(crate) async fn roots(call: Call) -> Handled {
    let found = call.ask(&CaRoots).await?;
    let Some(active) = found.value.iter().find(|view| view.active) else {
        return Err(Failure::ConnectDisabled);
    };
    let reply = if call.params.switch("pem")? == Some(true) {
        let pem: String = found
            .value
            .iter()
            .map(|view| &*view.root.certificate_pem)
            .collect();
        Reply::bytes(
            StatusCode::OK,
            "application/pem-certificate-chain",
            Bytes::from(pem),
        )
    } else {
        call.json(&RootsWire {
            active_root_id: &active.root.id,
            trust_domain: &active.root.trust_domain,
            roots: found.value.iter().map(RootWire::of).collect(),
        })
    };
    Ok(reply.with_all(found.headers))
}
