//! The options of `spine dev` and `spine serve`, as they are written down: by flag, by environment variable or in a
//! TOML file, always under the same name. Nothing is judged here; [`super::Config`] does that.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de};

use crate::storage::log::LogEngine;

/// Options as given. Absent means: not said here.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Name of this server, also its node's name in the catalog [default: the machine's host name]
    #[arg(long, env = "SPINE_NAME", value_name = "NAME")]
    pub name: Option<String>,

    /// Name of the datacenter [default: dc1]
    #[arg(long, env = "SPINE_DATACENTER", value_name = "NAME")]
    pub datacenter: Option<String>,

    /// Directory of the log and the checkpoints [dev: a temporary one, removed at the end]
    #[arg(long, env = "SPINE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// What keeps the log: our own segment files, or sled; a data directory stays with the one it was made with
    /// [default: segment]
    #[arg(long, env = "SPINE_LOG_ENGINE", value_name = "segment|sled")]
    #[serde(default, deserialize_with = "word")]
    pub log_engine: Option<LogEngine>,

    /// Consul's HTTP API, the web UI, metrics and readiness [default: 127.0.0.1:8500]
    #[arg(long, env = "SPINE_HTTP_ADDR", value_name = "HOST:PORT|off")]
    pub http_addr: Option<Listen>,

    /// The same over TLS, with --tls-cert and --tls-key [default: off]
    #[arg(long, env = "SPINE_HTTPS_ADDR", value_name = "HOST:PORT|off")]
    pub https_addr: Option<Listen>,

    /// Certificate of the HTTPS port in PEM form, followed by those that lead towards its root
    #[arg(long, env = "SPINE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of that certificate in PEM form
    #[arg(long, env = "SPINE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// The same as on the HTTP port on a Unix socket, for this machine's users of the server's group [default: none]
    #[arg(long, env = "SPINE_HTTP_SOCKET", value_name = "PATH")]
    pub http_socket: Option<PathBuf>,

    /// Where clients reach the HTTP API, if not at the address bound
    #[arg(long, env = "SPINE_ADVERTISE_HTTP_ADDR", value_name = "HOST:PORT")]
    pub advertise_http_addr: Option<HostPort>,

    /// The native API over gRPC [default: 127.0.0.1:8502]
    #[arg(long, env = "SPINE_GRPC_ADDR", value_name = "HOST:PORT|off")]
    pub grpc_addr: Option<Listen>,

    /// Where clients reach the native API, if not at the address bound
    #[arg(long, env = "SPINE_ADVERTISE_GRPC_ADDR", value_name = "HOST:PORT")]
    pub advertise_grpc_addr: Option<HostPort>,

    /// etcd's API [default: off; not built yet]
    #[arg(long, env = "SPINE_ETCD_ADDR", value_name = "HOST:PORT|off")]
    pub etcd_addr: Option<Listen>,

    /// DNS [default: off; not built yet]
    #[arg(long, env = "SPINE_DNS_ADDR", value_name = "HOST:PORT|off")]
    pub dns_addr: Option<Listen>,

    /// Traffic between servers [default: off; where --initial-cluster names several, the address that it gives this one;
    /// with --join 127.0.0.1:8300]
    #[arg(long, env = "SPINE_PEER_ADDR", value_name = "HOST:PORT|off")]
    pub peer_addr: Option<Listen>,

    /// Where other servers reach this one, if not at the address bound; must be what --initial-cluster says, if it does
    #[arg(long, env = "SPINE_ADVERTISE_PEER_ADDR", value_name = "HOST:PORT")]
    pub advertise_peer_addr: Option<HostPort>,

    /// The servers that found the cluster on their first start, this one included, each with its peer address; the same
    /// for all of them [default: this server alone]
    #[arg(
        long,
        env = "SPINE_INITIAL_CLUSTER",
        value_name = "NAME=HOST:PORT,…",
        value_delimiter = ','
    )]
    pub initial_cluster: Option<Vec<Founder>>,

    /// Peer addresses of servers of a cluster. An empty directory joins it, as one that learns and then votes; a server that
    /// is a member already looks for the others there, too [default: none]
    #[arg(long, env = "SPINE_JOIN", value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub join: Option<Vec<HostPort>>,

    /// With --join: a member that this server replaces. Once this one votes that one is removed, whether it runs or not
    /// [default: none]
    #[arg(long, env = "SPINE_REPLACE", value_name = "NAME")]
    pub replace: Option<String>,

    /// How writes are governed; `open`: everybody who reaches a port may do everything
    #[arg(long, env = "SPINE_GOVERNANCE", value_name = "MODE")]
    pub governance: Option<String>,

    /// The root authority's public key [not built yet]
    #[arg(long, env = "SPINE_GOVERNANCE_ROOT", value_name = "FILE")]
    pub governance_root: Option<PathBuf>,

    /// A registration without checks that is repeated at least this often is removed when the repeats stop
    /// [default: dev 30s, serve off]
    #[arg(long, env = "SPINE_DEFAULT_SERVICE_TTL", value_name = "DURATION|off")]
    pub default_service_ttl: Option<OrOff<Span>>,

    /// Revisions of the keys' history that are kept while this server leads [default: 100000]
    #[arg(long, env = "SPINE_HISTORY_REVISIONS", value_name = "NUMBER")]
    pub history_revisions: Option<u64>,

    /// Of these, none that was overwritten longer ago [default: off]
    #[arg(long, env = "SPINE_HISTORY_AGE", value_name = "DURATION|off")]
    pub history_age: Option<OrOff<Span>>,

    /// How long all servers must have run a newer release before the rules that it brings are in force, behind which there
    /// is no way back; `always`: they are not while this server leads [default: 1m]
    #[arg(long, env = "SPINE_RULES_HOLD", value_name = "DURATION|always")]
    pub rules_hold: Option<OrAlways<Span>>,

    /// Bytes of state, history included, beyond which writes that make it grow are refused, while this server leads; 16777216 at
    /// least [default and at most: 4294967296]
    #[arg(long, env = "SPINE_STATE_QUOTA_BYTES", value_name = "NUMBER")]
    pub state_quota_bytes: Option<u64>,

    /// 32 bytes that seal the mesh CA's private key; without it that key is discarded when the CA is made
    #[arg(long, env = "SPINE_CA_SEAL_KEY", value_name = "FILE")]
    pub ca_seal_key: Option<PathBuf>,

    /// Networks that health probes may reach; without it all but link-local ones, cloud metadata and Spine's own ports
    #[arg(long, env = "SPINE_PROBE_ALLOW", value_name = "CIDR,…", value_delimiter = ',')]
    pub probe_allow: Option<Vec<ipnet::IpNet>>,

    /// Connections open at once on each port [default: 16384]
    #[arg(long, env = "SPINE_CONNECTIONS_MAX", value_name = "NUMBER")]
    pub connections_max: Option<usize>,

    /// Shape of the log on standard error [default: text]
    #[arg(long, env = "SPINE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

impl Options {
    /// These options, and where they say nothing, `other`'s.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            name: self.name.or(other.name),
            datacenter: self.datacenter.or(other.datacenter),
            data_dir: self.data_dir.or(other.data_dir),
            log_engine: self.log_engine.or(other.log_engine),
            http_addr: self.http_addr.or(other.http_addr),
            https_addr: self.https_addr.or(other.https_addr),
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            http_socket: self.http_socket.or(other.http_socket),
            advertise_http_addr: self.advertise_http_addr.or(other.advertise_http_addr),
            grpc_addr: self.grpc_addr.or(other.grpc_addr),
            advertise_grpc_addr: self.advertise_grpc_addr.or(other.advertise_grpc_addr),
            etcd_addr: self.etcd_addr.or(other.etcd_addr),
            dns_addr: self.dns_addr.or(other.dns_addr),
            peer_addr: self.peer_addr.or(other.peer_addr),
            advertise_peer_addr: self.advertise_peer_addr.or(other.advertise_peer_addr),
            initial_cluster: self.initial_cluster.or(other.initial_cluster),
            join: self.join.or(other.join),
            replace: self.replace.or(other.replace),
            governance: self.governance.or(other.governance),
            governance_root: self.governance_root.or(other.governance_root),
            default_service_ttl: self.default_service_ttl.or(other.default_service_ttl),
            history_revisions: self.history_revisions.or(other.history_revisions),
            history_age: self.history_age.or(other.history_age),
            rules_hold: self.rules_hold.or(other.rules_hold),
            state_quota_bytes: self.state_quota_bytes.or(other.state_quota_bytes),
            ca_seal_key: self.ca_seal_key.or(other.ca_seal_key),
            probe_allow: self.probe_allow.or(other.probe_allow),
            connections_max: self.connections_max.or(other.connections_max),
            log_format: self.log_format.or(other.log_format),
        }
    }
}

/// A host name or IP address with a port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPort {
    /// The name or address; an IPv6 address without its brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// `host` and `port` together.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
        }
    }

    /// Whether it is an address of this machine alone. A name is that only if it is `localhost`: another is not looked up.
    pub fn is_loopback(&self) -> bool {
        let address = self.host.parse::<IpAddr>();
        address.map_or_else(|_| self.host == "localhost", |address| address.is_loopback())
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A word that is not of the form wanted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {wanted}")]
pub struct Malformed {
    given: String,
    wanted: &'static str,
}

impl Malformed {
    fn new(given: &str, wanted: &'static str) -> Self {
        Self {
            given: given.to_owned(),
            wanted,
        }
    }
}

impl FromStr for HostPort {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed::new(text, "HOST:PORT");
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        let port = port.parse().map_err(|_| malformed())?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        let plain = bracketed.is_some() || !host.contains(':');
        if host.is_empty() || !plain || host.contains(['/', '[', ']', ' ']) {
            return Err(malformed());
        }
        Ok(Self::new(host, port))
    }
}

/// Something, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String", bound = "T: FromStr<Err = Malformed>")]
pub enum OrOff<T> {
    /// Switched off.
    Off,
    /// Switched on.
    On(T),
}

/// Where to listen, or `off`.
pub type Listen = OrOff<HostPort>;

impl<T: FromStr> FromStr for OrOff<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text == "off" {
            Ok(Self::Off)
        } else {
            text.parse().map(Self::On)
        }
    }
}

impl<T> OrOff<T> {
    /// What it is when it is on.
    pub fn on(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::On(thing) => Some(thing),
        }
    }
}

/// Something, or `always`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String", bound = "T: FromStr<Err = Malformed>")]
pub enum OrAlways<T> {
    /// Always.
    Always,
    /// As said.
    As(T),
}

impl<T: FromStr> FromStr for OrAlways<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        if text == "always" {
            Ok(Self::Always)
        } else {
            text.parse().map(Self::As)
        }
    }
}

/// A span of time, written as `30s`, `1m30s`, `100ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let span = humantime::parse_duration(text);
        span.map(Self)
            .map_err(|_| Malformed::new(text, "a duration such as 30s or 1m30s"))
    }
}

/// A server that founds the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Founder {
    /// Its name.
    pub name: String,
    /// Its peer address.
    pub peer: HostPort,
}

impl FromStr for Founder {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = || Malformed::new(text, "NAME=HOST:PORT");
        let (name, peer) = text.split_once('=').ok_or_else(malformed)?;
        let peer = peer.parse().map_err(|_| malformed())?;
        Ok(Self {
            name: name.to_owned(),
            peer,
        })
    }
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

macro_rules! from_string {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = Malformed;

            fn try_from(text: String) -> Result<Self, Malformed> {
                text.parse()
            }
        }
    )*};
}

from_string!(HostPort, Founder, Span);

impl<T: FromStr<Err = Malformed>> TryFrom<String> for OrOff<T> {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl<T: FromStr<Err = Malformed>> TryFrom<String> for OrAlways<T> {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

/// A word in a file, read as on the command line.
fn word<'de, D, T>(text: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = String::deserialize(text)?;
    text.parse().map(Some).map_err(de::Error::custom)
}
