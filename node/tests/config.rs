//! What a server is told: where each value comes from, and what is refused before anything is opened.

#![expect(clippy::unwrap_used, reason = "a test ends at what it did not expect")]

use std::{io::Write, path::Path, time::Duration};

use spine_core::Ttl;
use spine_node::{
    config::{Config, ConfigError, HostPort, LogFormat, Mode, Options, OrOff, defaults},
    leader::{HistoryKept, Quota, RulesHold},
    storage::log::LogEngine,
};

/// A command line, as clap reads it.
#[derive(clap::Parser)]
struct CommandLine {
    #[command(flatten)]
    options: Options,
}

fn flags(line: &str) -> Options {
    use clap::Parser;
    let arguments = std::iter::once("spine").chain(line.split_whitespace());
    CommandLine::try_parse_from(arguments).unwrap().options
}

fn dev(line: &str) -> Result<Config, ConfigError> {
    Config::resolve(Mode::Dev, flags(line), None)
}

fn serve(line: &str) -> Result<Config, ConfigError> {
    Config::resolve(Mode::Serve, flags(line), None)
}

fn with_file(line: &str, file: &str) -> Result<Config, ConfigError> {
    let mut written = tempfile::NamedTempFile::new().unwrap();
    written.write_all(file.as_bytes()).unwrap();
    Config::resolve(Mode::Dev, flags(line), Some(written.path()))
}

fn refusal(outcome: Result<Config, ConfigError>) -> String {
    outcome.expect_err("is refused").to_string()
}

#[test]
fn dev_needs_nothing_and_lets_nobody_else_in() {
    let config = dev("").unwrap();
    let http = config.http.unwrap();
    assert_eq!(http.bind, HostPort::new("127.0.0.1", 8500));
    assert!(http.is_loopback());
    assert_eq!(config.grpc.unwrap().bind, HostPort::new("127.0.0.1", 8502));
    assert_eq!(config.data_dir, None, "a temporary directory");
    assert_eq!(config.default_service_ttl, Some(Ttl::seconds(30)));
    assert_eq!(config.datacenter, "dc1");
    assert_eq!(config.connections_max, defaults::CONNECTIONS_MAX);
    assert!(!config.name.as_str().is_empty(), "the machine's name");
}

#[test]
fn serve_says_who_may_write_and_where_its_data_is() {
    let ungoverned = refusal(serve("--data-dir /d"));
    assert!(
        ungoverned.contains("--governance-root FILE") && ungoverned.contains("--governance open"),
        "{ungoverned}"
    );
    assert!(refusal(serve("--governance open")).contains("--data-dir"));
    let config = serve("--governance open --data-dir /d").unwrap();
    assert_eq!(config.data_dir.as_deref(), Some(Path::new("/d")));
    assert_eq!(config.default_service_ttl, None, "registrations stay");
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    for (line, option) in [
        ("--etcd-addr 127.0.0.1:2379", "--etcd-addr"),
        ("--dns-addr 127.0.0.1:8600", "--dns-addr"),
        ("--governance strict", "--governance"),
        ("--governance-root /f", "--governance-root"),
    ] {
        let refused = dev(line).expect_err(line);
        assert!(
            matches!(refused, ConfigError::NotBuilt { .. }),
            "{line}: {refused}"
        );
        assert!(
            refused.to_string().starts_with(&format!("{option}: ")),
            "{line}: {refused}"
        );
    }
    // Saying that it is off is right, today and later.
    assert!(dev("--etcd-addr off --dns-addr off --peer-addr off").is_ok());
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let file = r#"
        name = "from-file"
        datacenter = "dc7"
        http-addr = "127.0.0.1:9500"
        grpc-addr = "off"
        default-service-ttl = "1m30s"
        probe-allow = ["10.0.0.0/8", "fd00::/8"]
        log-format = "json"
        connections-max = 10
    "#;
    let config = with_file("--name from-flag --http-addr [::1]:9501", file).unwrap();
    assert_eq!(config.name.as_str(), "from-flag");
    assert_eq!(config.http.unwrap().bind, HostPort::new("::1", 9501));
    assert_eq!(config.datacenter, "dc7");
    assert_eq!(config.grpc, None);
    assert_eq!(config.default_service_ttl, Some(Ttl::seconds(90)));
    assert_eq!(config.probe_allow.unwrap().len(), 2);
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.connections_max, 10);
}

#[test]
fn the_log_and_the_history_are_kept_as_told() {
    let config = dev("").unwrap();
    assert_eq!(config.log_engine, LogEngine::Segment);
    assert_eq!(config.history, HistoryKept::default());
    let file = r#"
        log-engine = "sled"
        history-age = "1d"
        history-revisions = 5000
    "#;
    let config = with_file("--history-revisions 7000", file).unwrap();
    assert_eq!(config.log_engine, LogEngine::Sled);
    let kept = HistoryKept {
        revisions: 7000,
        age: Some(Duration::from_hours(24)),
    };
    assert_eq!(config.history, kept);
    assert_eq!(with_file("--history-age off", file).unwrap().history.age, None);
    let refused = refusal(with_file("", "log-engine = \"rocks\""));
    assert!(
        refused.contains("\"rocks\" is no log engine: segment or sled is wanted"),
        "{refused}"
    );
}

#[test]
fn the_quota_is_within_what_the_state_may_be() {
    assert_eq!(dev("").unwrap().quota, Quota(4 << 30));
    let file = "state-quota-bytes = 1000000000";
    assert_eq!(with_file("", file).unwrap().quota, Quota(1_000_000_000));
    let told = with_file("--state-quota-bytes 16777216", file).unwrap();
    assert_eq!(told.quota, Quota(16 << 20));
    for wrong in ["16777215", "4294967297"] {
        let refused = refusal(dev(&format!("--state-quota-bytes {wrong}")));
        assert!(
            refused.contains(&format!(
                "--state-quota-bytes: a quota of {wrong} bytes must be at least 16777216 and at most 4294967296"
            )),
            "{refused}"
        );
    }
}

#[test]
fn newer_rules_are_held_for_as_long_as_told() {
    assert_eq!(
        dev("").unwrap().rules_hold,
        RulesHold::For(Duration::from_mins(1))
    );
    let file = "rules-hold = \"1h\"";
    assert_eq!(
        with_file("", file).unwrap().rules_hold,
        RulesHold::For(Duration::from_hours(1))
    );
    assert_eq!(
        with_file("--rules-hold always", file).unwrap().rules_hold,
        RulesHold::Always
    );
    let refused = refusal(with_file("", "rules-hold = \"never\""));
    assert!(refused.contains("\"never\" is not a duration"), "{refused}");
}

#[test]
fn https_is_an_address_with_a_certificate_and_its_key() {
    let config = dev("").unwrap();
    assert_eq!((config.https, config.http_socket), (None, None));
    let file = r#"
        https-addr = "0.0.0.0:8501"
        tls-cert = "/etc/spine/server.pem"
        tls-key = "/etc/spine/server.key"
        http-socket = "/run/spine/http.sock"
    "#;
    let config = with_file("--tls-key /run/secret", file).unwrap();
    let https = config.https.unwrap();
    assert_eq!(https.endpoint.bind, HostPort::new("0.0.0.0", 8501));
    assert!(!https.endpoint.is_loopback());
    assert_eq!(https.certificate, Path::new("/etc/spine/server.pem"));
    assert_eq!(https.key, Path::new("/run/secret"));
    assert_eq!(
        config.http_socket.as_deref(),
        Some(Path::new("/run/spine/http.sock"))
    );
    assert_eq!(with_file("--https-addr off", file).unwrap().https, None);
    assert!(refusal(with_file("", "http-socket = \"\"")).starts_with("--http-socket: "));
}

#[test]
fn a_misspelt_line_of_the_file_is_an_error_with_its_place() {
    let refused = refusal(with_file("", "nmae = \"a\"\n"));
    assert!(
        refused.contains("nmae") && refused.contains("line 1"),
        "{refused}"
    );
    let refused = refusal(with_file("", "\nhttp-addr = \"8500\"\n"));
    assert!(refused.contains("\"8500\" is not HOST:PORT"), "{refused}");
    let refused = refusal(Config::resolve(
        Mode::Dev,
        flags(""),
        Some(Path::new("/nowhere/spine.toml")),
    ));
    assert!(refused.contains("/nowhere/spine.toml"), "{refused}");
}

#[test]
fn values_that_can_not_be_are_refused() {
    for (line, option) in [
        ("--name a/b", "--name"),
        ("--datacenter DC1", "--datacenter"),
        ("--default-service-ttl 1s", "--default-service-ttl"),
        ("--connections-max 0", "--connections-max"),
        ("--history-revisions 999", "--history-revisions"),
        ("--history-age 59s", "--history-age"),
        (
            "--http-addr off --advertise-http-addr h:1",
            "--advertise-http-addr",
        ),
        ("--name a --initial-cluster b=h:1", "--initial-cluster"),
        ("--name a --initial-cluster a=h:1,a=h:2", "--initial-cluster"),
        ("--name a --initial-cluster a=h:1,b=h:1", "--initial-cluster"),
        (
            "--name a --initial-cluster a=h:1,b=h:2 --peer-addr off",
            "--peer-addr",
        ),
        (
            "--name a --initial-cluster a=h:1,b=h:2 --advertise-peer-addr h:3",
            "--advertise-peer-addr",
        ),
        ("--advertise-peer-addr h:1", "--advertise-peer-addr"),
        ("--https-addr h:1", "--tls-cert"),
        ("--https-addr h:1 --tls-key k", "--tls-cert"),
        ("--https-addr h:1 --tls-cert c", "--tls-key"),
        ("--https-addr off --tls-key k", "--tls-cert"),
        ("--tls-cert c --tls-key k", "--https-addr"),
    ] {
        let refused = refusal(dev(line));
        assert!(refused.starts_with(&format!("{option}: ")), "{line}: {refused}");
    }
    assert_eq!(
        dev("--default-service-ttl off").unwrap().default_service_ttl,
        None
    );
}

#[test]
fn who_joins_listens_for_the_others() {
    let config = dev("--name a --join 127.0.0.1:8300,localhost:8301").unwrap();
    assert_eq!(
        config.join,
        [HostPort::new("127.0.0.1", 8300), HostPort::new("localhost", 8301)]
    );
    assert_eq!(config.peer.unwrap().bind, HostPort::new("127.0.0.1", 8300));
    // Others would be told where they can't reach it.
    for lost in [
        "--join b:8301",
        "--join 127.0.0.1:8301,10.0.0.1:8300",
        "--join b:8301 --peer-addr localhost:8300",
        "--join b:8301 --peer-addr 0.0.0.0:8300 --advertise-peer-addr [::1]:8300",
    ] {
        let refused = dev(&format!("--name a {lost}")).unwrap_err().to_string();
        assert!(refused.starts_with("--peer-addr: "), "{lost}: {refused}");
        assert!(
            refused.contains("an address that the other servers can reach"),
            "{refused}"
        );
    }
    let config = dev("--name a --join b:8301 --peer-addr 0.0.0.0:8400").unwrap();
    assert_eq!(config.peer.unwrap().bind, HostPort::new("0.0.0.0", 8400));
    let refused = dev("--name a --join b:8301 --peer-addr off").unwrap_err();
    assert!(refused.to_string().starts_with("--peer-addr: "), "{refused}");
}

#[test]
fn a_cluster_of_one_knows_its_peer_address_and_listens_to_nobody() {
    let config = dev("--name a --initial-cluster a=10.0.0.1:8300").unwrap();
    assert_eq!(config.peer, None);
    assert_eq!(config.founders.address("a"), Some("10.0.0.1:8300"));
    let config = dev("--name a --peer-addr 0.0.0.0:8300 --advertise-peer-addr 10.0.0.1:8300").unwrap();
    let peer = config.peer.unwrap();
    assert_eq!(peer.bind, HostPort::new("0.0.0.0", 8300));
    assert_eq!(peer.advertise, Some(HostPort::new("10.0.0.1", 8300)));
    assert!(config.founders.is_empty());
}

#[test]
fn one_of_several_listens_where_the_list_says_or_where_it_is_told() {
    let list = "--name b --initial-cluster c=h3:8300,a=h1:8300,b=h2:8300";
    let config = dev(list).unwrap();
    assert_eq!(config.founders.to_string(), "a=h1:8300,b=h2:8300,c=h3:8300");
    let listed = HostPort::new("h2", 8300);
    let peer = config.peer.unwrap();
    assert_eq!(
        (peer.bind, peer.advertise.as_ref()),
        (listed.clone(), Some(&listed))
    );
    let peer = dev(&format!(
        "{list} --peer-addr 0.0.0.0:8301 --advertise-peer-addr h2:8300"
    ));
    let peer = peer.unwrap().peer.unwrap();
    assert_eq!(peer.bind, HostPort::new("0.0.0.0", 8301));
    assert_eq!(peer.advertise, Some(listed));
    let refused = refusal(dev("--name x --initial-cluster a=h1:1,b=h2:2"));
    assert!(
        refused.contains("\"a\", \"b\"") && refused.contains("\"x\""),
        "{refused}"
    );
}

#[test]
fn addresses_are_read_as_people_write_them() {
    for (text, host, port) in [
        ("localhost:80", "localhost", 80),
        ("[::1]:80", "::1", 80),
        ("0.0.0.0:0", "0.0.0.0", 0),
    ] {
        let address: HostPort = text.parse().unwrap();
        assert_eq!((address.host.as_str(), address.port), (host, port));
        assert_eq!(address.to_string(), text);
    }
    for text in [
        "",
        "80",
        ":80",
        "::1:80",
        "host:",
        "host:99999",
        "http://host:80",
        "ho st:80",
        "[::1:80",
    ] {
        assert!(text.parse::<HostPort>().is_err(), "{text:?}");
    }
    assert_eq!("off".parse::<OrOff<HostPort>>().unwrap(), OrOff::Off);
}
