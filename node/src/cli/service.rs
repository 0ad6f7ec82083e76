//! `spine service`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;
use spine_client::{
    Client, Registration,
    proto::{self as v1, check_definition::Kind},
};

use super::{
    Connection, Format, Printing, Streams, duration,
    exit::Failure,
    print,
    rows::{EndpointRow, ServiceRow, TargetRow},
};

/// Register, find and remove services.
#[derive(Args, Debug)]
pub struct Service {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    printing: Printing,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Register an instance of a service
    Register(Box<Register>),
    /// Remove an instance
    Deregister {
        /// The instance's ID
        id: String,
        /// The node that it is on; without it, wherever a server has it
        #[arg(long)]
        node: Option<String>,
    },
    /// List the services, or the instances of one
    List {
        /// The service whose instances to list
        service: Option<String>,
    },
    /// Say where to send traffic for a service: its passing instances
    Resolve {
        /// The service
        service: String,
        /// Only instances of this version
        #[arg(long, default_value = "")]
        version: String,
        /// Only instances with this tag; may be repeated
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
        /// Instances that warn, too
        #[arg(long)]
        include_warning: bool,
    },
}

#[derive(Args, Debug)]
struct Register {
    /// The service
    service: String,
    /// Where the instance is reached: a name or an IP address; the node's unless given
    #[arg(long, default_value = "")]
    address: String,
    /// Its port
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Its ID, unique on its node; SERVICE@ADDRESS:PORT unless given
    #[arg(long)]
    id: Option<String>,
    /// The node that it is on; the asked server's own unless given
    #[arg(long, default_value = "")]
    node: String,
    /// Its version, by which it can be resolved
    #[arg(long)]
    version: Option<String>,
    /// Its share of the traffic, 0 to 65535
    #[arg(long, default_value_t = 1)]
    weight: u16,
    /// A tag; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// A pair of metadata; may be repeated
    #[arg(long = "meta", value_name = "KEY=VALUE", value_parser = pair)]
    meta: Vec<(String, String)>,
    #[command(flatten)]
    check: Check,
}

/// How its health comes about.
#[derive(Args, Debug)]
struct Check {
    /// It reports in; silence for this long makes it critical
    #[arg(long, value_parser = duration, value_name = "TIME", group = "check")]
    ttl: Option<Duration>,
    /// Ask this URL
    #[arg(long, value_name = "URL", group = "check")]
    http: Option<String>,
    /// Connect to this address
    #[arg(long, value_name = "HOST:PORT", group = "check")]
    tcp: Option<String>,
    /// Ask gRPC's health service at this address
    #[arg(long, value_name = "HOST:PORT", group = "check")]
    grpc: Option<String>,
    /// From one look to the next
    #[arg(long, value_parser = duration, value_name = "TIME", default_value = "10s")]
    interval: Duration,
    /// Remove it when it has been critical for this long
    #[arg(long, value_parser = duration, value_name = "TIME", requires = "check")]
    deregister_after: Option<Duration>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Service {
    pub(super) async fn run(self, streams: &mut Streams<'_>) -> Result<(), Failure> {
        let client = self.connection.client()?;
        let format = self.printing.output;
        match self.command {
            Command::Register(arguments) => register(&client, streams, format, *arguments).await,
            Command::Deregister { id, node } => {
                deregister(&client, streams, format, &id, node.as_deref()).await
            }
            Command::List { service: None } => {
                let services = client.catalog.services().await?;
                let rows: Vec<_> = services.into_iter().map(ServiceRow::from).collect();
                Ok(print::rows(streams, format, &rows)?)
            }
            Command::List {
                service: Some(service),
            } => {
                let endpoints = client.catalog.instances(&service).await?;
                if endpoints.is_empty() {
                    return Err(unregistered(&service));
                }
                let rows: Vec<_> = endpoints.into_iter().map(EndpointRow::from).collect();
                Ok(print::rows(streams, format, &rows)?)
            }
            Command::Resolve {
                service,
                version,
                tags,
                include_warning,
            } => {
                let request = v1::ResolveRequest {
                    service,
                    version,
                    tags,
                    include_warning,
                    ..v1::ResolveRequest::default()
                };
                resolve(&client, streams, format, request).await
            }
        }
    }
}

fn unregistered(service: &str) -> Failure {
    Failure::NotFound(format!(
        "no instance of {service:?} is registered; list what is with spine service list"
    ))
}

async fn register(
    client: &Client,
    streams: &mut Streams<'_>,
    format: Format,
    arguments: Register,
) -> Result<(), Failure> {
    let request = v1::RegisterRequest::from(registration(arguments));
    let id = request
        .service
        .as_ref()
        .map(|service| service.id.clone())
        .unwrap_or_default();
    let v1::RegisterResponse { index, node, changed } = client.catalog.register(request).await?;
    match format {
        Format::Json => {
            print::json(
                streams,
                &json!({ "id": id, "node": node, "changed": changed, "index": index }),
            )?;
        }
        Format::Table => {
            let word = if changed {
                "registered"
            } else {
                "was registered already"
            };
            writeln!(streams.out, "{id} {word} on {node}")?;
        }
    }
    Ok(())
}

fn registration(arguments: Register) -> Registration {
    let Register {
        service,
        address,
        port,
        id,
        node,
        version,
        weight,
        tags,
        meta,
        check,
    } = arguments;
    let mut registration = Registration::new(&service, &address, port)
        .node(&node)
        .weight(weight);
    if let Some(id) = id.or_else(|| address.is_empty().then(|| service.clone())) {
        registration = registration.id(&id);
    }
    if let Some(version) = version {
        registration = registration.version(&version);
    }
    registration = tags
        .iter()
        .fold(registration, |registration, tag| registration.tag(tag));
    registration = meta.iter().fold(registration, |registration, (key, value)| {
        registration.meta(key, value)
    });
    match check_definition(check) {
        Some(check) => registration.check(check),
        None => registration,
    }
}

fn check_definition(check: Check) -> Option<v1::CheckDefinition> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let pace = Some(v1::Pace {
        interval_ms: millis(check.interval),
        timeout_ms: 0,
    });
    let Check {
        ttl,
        http,
        tcp,
        grpc,
        deregister_after,
        ..
    } = check;
    let ttl = ttl.map(|ttl| Kind::TtlMs(millis(ttl)));
    let http = http.map(|url| {
        Kind::Http(v1::HttpProbe {
            url,
            pace,
            ..v1::HttpProbe::default()
        })
    });
    let tcp = tcp.map(|address| {
        Kind::Tcp(v1::TcpProbe {
            address,
            tls: false,
            pace,
        })
    });
    let grpc = grpc.map(|address| {
        Kind::Grpc(v1::GrpcProbe {
            address,
            pace,
            ..v1::GrpcProbe::default()
        })
    });
    Some(v1::CheckDefinition {
        kind: Some(ttl.or(http).or(tcp).or(grpc)?),
        deregister_after_ms: deregister_after.map_or(0, millis),
        ..v1::CheckDefinition::default()
    })
}

async fn deregister(
    client: &Client,
    streams: &mut Streams<'_>,
    format: Format,
    id: &str,
    node: Option<&str>,
) -> Result<(), Failure> {
    if !client.catalog.deregister(node, id).await? {
        return Err(Failure::NotFound(format!(
            "there is no instance with ID {id:?}; list them with spine service list SERVICE"
        )));
    }
    match format {
        Format::Json => print::json(streams, &json!({ "id": id }))?,
        Format::Table => writeln!(streams.out, "{id} deregistered")?,
    }
    Ok(())
}

async fn resolve(
    client: &Client,
    streams: &mut Streams<'_>,
    format: Format,
    request: v1::ResolveRequest,
) -> Result<(), Failure> {
    let service = request.service.clone();
    let v1::ResolveResponse {
        targets, registered, ..
    } = client.catalog.resolve_with(request).await?;
    match (targets.len(), registered) {
        (0, 0) => Err(unregistered(&service)),
        (0, registered) => Err(Failure::Other(format!(
            "no instance of {service:?} passes, {registered} registered; see spine service list {service}"
        ))),
        _ => {
            let rows: Vec<_> = targets.into_iter().map(TargetRow::from).collect();
            Ok(print::rows(streams, format, &rows)?)
        }
    }
}
