//! A configuration for others to read: what is no secret is shown, of everything else only whether it is set.
//!
//! By an allow list: the fields are taken apart by name, so whoever adds one decides here, or nothing compiles. Paths are not
//! shown: they name users, and where keys lie.

use std::{collections::BTreeMap, time::Duration};

use super::{Config, Endpoint, Https, Mode};
use crate::leader::{HistoryKept, Quota, RulesHold};

impl Config {
    /// Options and what may be shown of them.
    pub fn shown(&self) -> BTreeMap<String, String> {
        let Self {
            mode,
            name,
            datacenter,
            data_dir,
            log_engine,
            http,
            https,
            http_socket,
            grpc,
            peer,
            founders,
            join,
            replace,
            default_service_ttl,
            history: HistoryKept { revisions, age },
            rules_hold,
            quota: Quota(quota),
            ca_seal_key,
            probe_allow,
            connections_max,
            drain,
            log_format,
        } = self;
        let https_endpoint = https.as_ref().map(|Https { endpoint, .. }| endpoint);
        let rows = [
            (
                "mode",
                match mode {
                    Mode::Dev => "dev".to_owned(),
                    Mode::Serve => "serve".to_owned(),
                },
            ),
            ("name", name.to_string()),
            ("datacenter", datacenter.clone()),
            ("data-dir", is_set(data_dir.is_some())),
            ("log-engine", log_engine.to_string()),
            ("http-addr", endpoint(http.as_ref())),
            ("https-addr", endpoint(https_endpoint)),
            ("tls-cert", is_set(https.is_some())),
            ("tls-key", is_set(https.is_some())),
            ("http-socket", is_set(http_socket.is_some())),
            ("grpc-addr", endpoint(grpc.as_ref())),
            ("peer-addr", endpoint(peer.as_ref())),
            (
                "initial-cluster",
                listed(
                    founders
                        .peers()
                        .map(|peer| format!("{}={}", peer.name, peer.address)),
                ),
            ),
            ("join", listed(join.iter().map(ToString::to_string))),
            ("replace", listed(replace.iter().map(ToString::to_string))),
            (
                "default-service-ttl",
                default_service_ttl.map_or_else(|| "off".to_owned(), |ttl| ttl.to_string()),
            ),
            ("history-revisions", revisions.to_string()),
            (
                "history-age",
                age.map_or_else(|| "off".to_owned(), |age: Duration| format!("{age:?}")),
            ),
            ("rules-hold", held(*rules_hold)),
            ("state-quota-bytes", quota.to_string()),
            ("ca-seal-key", is_set(ca_seal_key.is_some())),
            ("probe-allow", is_set(probe_allow.is_some())),
            ("connections-max", connections_max.to_string()),
            ("drain", format!("{drain:?}")),
            ("log-format", format!("{log_format:?}").to_lowercase()),
        ];
        rows.map(|(option, value)| (option.to_owned(), value)).into()
    }
}

fn held(hold: RulesHold) -> String {
    match hold {
        RulesHold::For(hold) => format!("{hold:?}"),
        RulesHold::Always => "always".to_owned(),
    }
}

fn is_set(set: bool) -> String {
    if set { "(set)" } else { "(not set)" }.to_owned()
}

fn endpoint(endpoint: Option<&Endpoint>) -> String {
    match endpoint {
        None => "off".to_owned(),
        Some(Endpoint {
            bind,
            advertise: None,
        }) => bind.to_string(),
        Some(Endpoint {
            bind,
            advertise: Some(advertise),
        }) => format!("{bind}, advertised as {advertise}"),
    }
}

fn listed(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    if items.is_empty() {
        "none".to_owned()
    } else {
        items.join(",")
    }
}
