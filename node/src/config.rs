//! What a server is told at its start: flags, then environment, then the file named by `--config`, then defaults,
//! made into one [`Config`] that nobody checks again.
//!
//! What this release can't do is refused here, by name, before anything is opened: a server never runs with half of
//! what it was told.

mod options;
mod shown;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use spine_core::{Command, NodeName, Ttl};

use crate::{
    leader::{HistoryKept, Quota, REVISIONS_MIN, RulesHold},
    raft::{Peer, founding::Founders},
    storage::log::LogEngine,
};

pub use self::options::{Founder, HostPort, Listen, LogFormat, Malformed, Options, OrAlways, OrOff, Span};

/// The values of what is not said.
pub mod defaults {
    use std::time::Duration;

    /// Consul's default, which clients send as `?dc=`.
    pub const DATACENTER: &str = "dc1";
    /// Loopback: who wants to be reached from outside says so, knowing what governs the registry.
    pub const BIND_HOST: &str = "127.0.0.1";
    /// Consul's port of the HTTP API, which its clients assume.
    pub const HTTP_PORT: u16 = 8500;
    /// Consul's gRPC port, where a mesh's proxies look for xDS later.
    pub const GRPC_PORT: u16 = 8502;
    /// Consul's port for servers.
    pub const PEER_PORT: u16 = 8300;
    /// Time to live of a registration that heartbeats, in `dev`: three of the tutorial's 10 s beats, so that a
    /// service that stops is off the list within 40 s.
    pub const DEV_SERVICE_TTL: Duration = Duration::from_secs(30);
    /// A watcher that breaks off comes back within this time.
    pub const HISTORY_AGE_MIN: Duration = Duration::from_mins(1);
    /// Connections at once on each port. A blocking query holds one; each costs about 20 KiB.
    pub const CONNECTIONS_MAX: usize = 16_384;
    /// Time that requests in flight get to be answered at the end; systemd kills after 90.
    pub const DRAIN: Duration = Duration::from_secs(10);
}

/// Which command starts the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For a developer: one command, nothing kept, nobody else let in.
    Dev,
    /// For real.
    Serve,
}

/// A validated configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which command started it.
    pub mode: Mode,
    /// This server's name.
    pub name: NodeName,
    /// The datacenter's name.
    pub datacenter: String,
    /// Where the log and the checkpoints are; `None`: in a temporary directory.
    pub data_dir: Option<PathBuf>,
    /// What keeps the log.
    pub log_engine: LogEngine,
    /// Consul's API, UI, metrics.
    pub http: Option<Endpoint>,
    /// The same over TLS.
    pub https: Option<Https>,
    /// The same on a Unix socket.
    pub http_socket: Option<PathBuf>,
    /// The native API.
    pub grpc: Option<Endpoint>,
    /// Traffic between servers.
    pub peer: Option<Endpoint>,
    /// The servers that found the cluster, this one included; none: it was not said, and this server is alone.
    pub founders: Founders,
    /// Peer addresses of a cluster that an empty directory joins, and where a member looks for the others.
    pub join: Vec<HostPort>,
    /// The member whose place this server takes when it joins.
    pub replace: Option<NodeName>,
    /// Time to live of registrations without checks that heartbeat; `None`: they stay.
    pub default_service_ttl: Option<Ttl>,
    /// What of the keys' history is kept while it leads.
    pub history: HistoryKept,
    /// When newer rules are raised while it leads.
    pub rules_hold: RulesHold,
    /// How large the state may become while it leads.
    pub quota: Quota,
    /// The key that seals the CA's key.
    pub ca_seal_key: Option<PathBuf>,
    /// Networks that probes may reach; `None`: all that are not denied.
    pub probe_allow: Option<Vec<ipnet::IpNet>>,
    /// Connections at once on each port.
    pub connections_max: usize,
    /// Time that requests in flight get at the end.
    pub drain: Duration,
    /// The shape of the log.
    pub log_format: LogFormat,
}

/// A place to listen, and the address that others are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to listen.
    pub bind: HostPort,
    /// Where others reach it, if said.
    pub advertise: Option<HostPort>,
}

impl Endpoint {
    /// Whether only this machine reaches it.
    pub fn is_loopback(&self) -> bool {
        self.bind.is_loopback()
    }
}

/// A place to listen with TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Https {
    /// The place.
    pub endpoint: Endpoint,
    /// The file of the certificate and its chain.
    pub certificate: PathBuf,
    /// The file of its private key.
    pub key: PathBuf,
}

/// Why a server does not start as told. The command line ends with exit code 2.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("can't read the configuration file {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration file {} is wrong: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, with its line.
        problem: Box<toml::de::Error>,
    },
    /// An option has a value that it can't have.
    #[error("{option}: {problem}")]
    Invalid {
        /// The option, as a flag.
        option: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An option asks for what this release doesn't have.
    #[error("{option}: {what} is not built in this release")]
    NotBuilt {
        /// The option, as a flag.
        option: &'static str,
        /// What it asks for.
        what: String,
    },
    /// Nothing says who may write.
    #[error(
        "spine serve starts governed, or open if you say so; give one of\n  \
         --governance-root FILE  writes need a grant that goes back to this authority\n  \
         --governance open       everybody who reaches a port may do everything"
    )]
    Ungoverned,
}

impl Config {
    /// Makes a configuration of flags and environment, the file and the defaults, in this order.
    ///
    /// # Errors
    /// The first thing that is wrong, or that this release can't do.
    pub fn resolve(mode: Mode, flags: Options, file: Option<&Path>) -> Result<Self, ConfigError> {
        let said = match file {
            Some(path) => flags.or(read_file(path)?),
            None => flags,
        };
        refuse_unbuilt(&said)?;
        check_governance(mode, &said)?;
        let name = name(&said)?;
        let founders = founders(&name, said.initial_cluster.as_deref())?;
        let join = said.join.clone().unwrap_or_default();
        let replace = replace(&name, &join, said.replace.as_deref())?;
        let config = Self {
            mode,
            datacenter: datacenter(&said)?,
            data_dir: data_dir(mode, &said)?,
            log_engine: said.log_engine.unwrap_or_default(),
            http: endpoint(
                said.http_addr,
                said.advertise_http_addr,
                defaults::HTTP_PORT,
                "--advertise-http-addr",
            )?,
            https: https(said.https_addr, said.tls_cert, said.tls_key)?,
            http_socket: http_socket(said.http_socket)?,
            grpc: endpoint(
                said.grpc_addr,
                said.advertise_grpc_addr,
                defaults::GRPC_PORT,
                "--advertise-grpc-addr",
            )?,
            peer: peer(
                &name,
                &founders,
                &join,
                said.peer_addr,
                said.advertise_peer_addr.as_ref(),
            )?,
            founders,
            join,
            replace,
            default_service_ttl: service_ttl(mode, said.default_service_ttl)?,
            history: history(said.history_revisions, said.history_age)?,
            rules_hold: rules_hold(said.rules_hold),
            quota: quota(said.state_quota_bytes)?,
            ca_seal_key: said.ca_seal_key,
            probe_allow: said.probe_allow,
            connections_max: at_least_one(
                "--connections-max",
                said.connections_max,
                defaults::CONNECTIONS_MAX,
            )?,
            drain: defaults::DRAIN,
            log_format: said.log_format.unwrap_or_default(),
            name,
        };
        Ok(config)
    }
}

fn read_file(path: &Path) -> Result<Options, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|problem| ConfigError::File {
        path: path.to_owned(),
        problem: Box::new(problem),
    })
}

fn refuse_unbuilt(said: &Options) -> Result<(), ConfigError> {
    let refuse = |option, what: &str| {
        Err(ConfigError::NotBuilt {
            option,
            what: what.to_owned(),
        })
    };
    if let Some(OrOff::On(_)) = said.etcd_addr {
        return refuse("--etcd-addr", "etcd's API");
    }
    if let Some(OrOff::On(_)) = said.dns_addr {
        return refuse("--dns-addr", "DNS");
    }
    if said.governance_root.is_some() {
        return refuse("--governance-root", "governance (start with --governance open)");
    }
    match said.governance.as_deref() {
        None | Some("open") => Ok(()),
        Some(mode) => refuse(
            "--governance",
            &format!("the mode {mode:?} (this release knows \"open\")"),
        ),
    }
}

fn check_governance(mode: Mode, said: &Options) -> Result<(), ConfigError> {
    match (mode, &said.governance) {
        (Mode::Serve, None) => Err(ConfigError::Ungoverned),
        (Mode::Dev, _) | (Mode::Serve, Some(_)) => Ok(()),
    }
}

fn invalid(option: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Invalid {
        option,
        problem: problem.into(),
    }
}

fn name(said: &Options) -> Result<NodeName, ConfigError> {
    let machine = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = said.name.clone().unwrap_or_else(machine);
    // The name is part of URLs, and later of DNS names and certificates.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.chars().all(plain) {
        return Err(invalid(
            "--name",
            format!("{name:?} holds more than letters, digits, '-', '_' and '.'"),
        ));
    }
    NodeName::parse(&name).map_err(|error| invalid("--name", error.to_string()))
}

fn datacenter(said: &Options) -> Result<String, ConfigError> {
    let name = said.datacenter.as_deref().unwrap_or(defaults::DATACENTER);
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        return Err(invalid(
            "--datacenter",
            format!("{name:?} is not 1 to 64 of a-z, 0-9, '-' and '_'"),
        ));
    }
    Ok(name.to_owned())
}

fn data_dir(mode: Mode, said: &Options) -> Result<Option<PathBuf>, ConfigError> {
    match (mode, &said.data_dir) {
        (Mode::Serve, None) => Err(invalid(
            "--data-dir",
            "spine serve needs a directory for its data",
        )),
        (Mode::Dev | Mode::Serve, given) => Ok(given.clone()),
    }
}

fn endpoint(
    listen: Option<Listen>,
    advertise: Option<HostPort>,
    port: u16,
    advertise_option: &'static str,
) -> Result<Option<Endpoint>, ConfigError> {
    let listen = listen.unwrap_or_else(|| OrOff::On(HostPort::new(defaults::BIND_HOST, port)));
    match (listen, advertise) {
        (OrOff::Off, Some(_)) => Err(invalid(
            advertise_option,
            "there is nothing to advertise: it is off",
        )),
        (OrOff::Off, None) => Ok(None),
        (OrOff::On(bind), advertise) => Ok(Some(Endpoint { bind, advertise })),
    }
}

fn https(
    listen: Option<Listen>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<Https>, ConfigError> {
    match (listen, certificate, key) {
        (Some(OrOff::On(bind)), Some(certificate), Some(key)) => Ok(Some(Https {
            endpoint: Endpoint {
                bind,
                advertise: None,
            },
            certificate,
            key,
        })),
        (Some(OrOff::On(_)), None, _) => Err(invalid(
            "--tls-cert",
            "--https-addr needs a certificate and its key (--tls-key)",
        )),
        (_, Some(_), None) => Err(invalid(
            "--tls-key",
            "the certificate of --tls-cert needs its key",
        )),
        (_, None, Some(_)) => Err(invalid(
            "--tls-cert",
            "the key of --tls-key needs its certificate",
        )),
        // Who has a certificate means to use it; who says "off" knows that it is not.
        (None, Some(_), Some(_)) => Err(invalid(
            "--https-addr",
            "a certificate is given (--tls-cert), and no address to use it at",
        )),
        (None | Some(OrOff::Off), _, _) => Ok(None),
    }
}

fn http_socket(said: Option<PathBuf>) -> Result<Option<PathBuf>, ConfigError> {
    match said {
        Some(path) if path.as_os_str().is_empty() => Err(invalid("--http-socket", "the path is empty")),
        said => Ok(said),
    }
}

fn founders(name: &NodeName, said: Option<&[Founder]>) -> Result<Founders, ConfigError> {
    let Some(said) = said else {
        return Ok(Founders::default());
    };
    let peers = said.iter().map(|founder| Peer {
        name: founder.name.clone(),
        address: founder.peer.to_string(),
    });
    Founders::new(name.as_str(), peers).map_err(|error| invalid("--initial-cluster", error.to_string()))
}

/// Whom this server replaces, which only one that joins can.
fn replace(name: &NodeName, join: &[HostPort], said: Option<&str>) -> Result<Option<NodeName>, ConfigError> {
    let Some(said) = said else { return Ok(None) };
    let wrong = |problem: String| Err(invalid("--replace", problem));
    if join.is_empty() {
        return wrong("only a server that joins takes another's place: `spine join`, or --join".to_owned());
    }
    match NodeName::parse(said) {
        Ok(old) if old == *name => wrong(format!(
            "{old} is this server's own name, under which it takes the place of the other by itself: leave it away"
        )),
        Ok(old) => Ok(Some(old)),
        Err(error) => wrong(error.to_string()),
    }
}

/// The port for peers. Where a list says how the others reach this server, it listens there unless told otherwise.
fn peer(
    name: &NodeName,
    founders: &Founders,
    join: &[HostPort],
    listen: Option<Listen>,
    advertise: Option<&HostPort>,
) -> Result<Option<Endpoint>, ConfigError> {
    let joins = !join.is_empty();
    let listed = founders.address(name.as_str());
    let listed: Option<HostPort> = listed.map(|address| address.parse().expect("it was written by one"));
    if let (Some(listed), Some(advertise)) = (&listed, advertise)
        && listed != advertise
    {
        let problem =
            format!("{advertise}, but --initial-cluster says that the others reach this server at {listed}");
        return Err(invalid("--advertise-peer-addr", problem));
    }
    let bind = match (listen, &listed) {
        (Some(OrOff::On(bind)), _) => Some(bind),
        (Some(OrOff::Off), _) if founders.len() > 1 => {
            let problem = "off, but --initial-cluster names other servers, which must reach this one";
            return Err(invalid("--peer-addr", problem));
        }
        (Some(OrOff::Off), _) if joins => {
            let problem = "off, but --join names other servers, which must reach this one";
            return Err(invalid("--peer-addr", problem));
        }
        (None, Some(listed)) if founders.len() > 1 => Some(listed.clone()),
        (None, None) if joins => Some(HostPort::new(defaults::BIND_HOST, defaults::PEER_PORT)),
        (None | Some(OrOff::Off), _) => None,
    };
    match (bind, listed.or(advertise.cloned())) {
        (Some(bind), advertise) => {
            let peer = Endpoint { bind, advertise };
            check_reachable(&peer, join)?;
            Ok(Some(peer))
        }
        (None, _) if advertise.is_some() => Err(invalid(
            "--advertise-peer-addr",
            "there is nothing to advertise: it is off",
        )),
        (None, _) => Ok(None),
    }
}

/// A server that tells others on other machines to reach it on the loopback would be taken in, and never hear from them.
fn check_reachable(peer: &Endpoint, join: &[HostPort]) -> Result<(), ConfigError> {
    let own = peer.advertise.as_ref().unwrap_or(&peer.bind);
    match join.iter().find(|seed| !seed.is_loopback()) {
        Some(seed) if own.is_loopback() => Err(invalid(
            "--peer-addr",
            format!(
                "{own} is an address of this machine alone, and --join names {seed}, which would be told to reach this server \
                 there; give an address that the other servers can reach"
            ),
        )),
        _ => Ok(()),
    }
}

fn service_ttl(mode: Mode, said: Option<OrOff<Span>>) -> Result<Option<Ttl>, ConfigError> {
    let ttl = match (mode, said) {
        (_, Some(said)) => said.on().map(|Span(ttl)| ttl),
        (Mode::Dev, None) => Some(defaults::DEV_SERVICE_TTL),
        (Mode::Serve, None) => None,
    };
    match ttl {
        // Repeats count from 2 s on, so a shorter time could never be kept alive.
        Some(ttl) if ttl < Duration::from_secs(2) => Err(invalid(
            "--default-service-ttl",
            format!("{ttl:?} is too short; the least is 2s"),
        )),
        ttl => Ok(ttl.map(Ttl::from)),
    }
}

fn history(revisions: Option<u64>, age: Option<OrOff<Span>>) -> Result<HistoryKept, ConfigError> {
    let default = HistoryKept::default();
    let revisions = revisions.unwrap_or(default.revisions);
    if revisions < REVISIONS_MIN {
        let problem =
            format!("{revisions} are too few: watchers that break off need the last {REVISIONS_MIN}");
        return Err(invalid("--history-revisions", problem));
    }
    let age = age.map_or(default.age, |said| said.on().map(|Span(age)| age));
    match age {
        Some(age) if age < defaults::HISTORY_AGE_MIN => Err(invalid(
            "--history-age",
            format!("{age:?} is too short; the least is 1m"),
        )),
        age => Ok(HistoryKept { revisions, age }),
    }
}

fn rules_hold(said: Option<OrAlways<Span>>) -> RulesHold {
    match said {
        None => RulesHold::default(),
        Some(OrAlways::Always) => RulesHold::Always,
        Some(OrAlways::As(Span(hold))) => RulesHold::For(hold),
    }
}

fn quota(said: Option<u64>) -> Result<Quota, ConfigError> {
    let Some(bytes) = said else {
        return Ok(Quota::default());
    };
    let set = Command::QuotaSet(bytes);
    set.check()
        .map_err(|error| invalid("--state-quota-bytes", error.to_string()))?;
    Ok(Quota(bytes))
}

fn at_least_one(option: &'static str, said: Option<usize>, default: usize) -> Result<usize, ConfigError> {
    match said {
        Some(0) => Err(invalid(option, "must be at least 1")),
        said => Ok(said.unwrap_or(default)),
    }
}
