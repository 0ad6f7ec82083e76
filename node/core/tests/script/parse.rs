//! How scripts write commands.

use std::{collections::BTreeMap, error::Error, sync::Arc};

use goldenscript::{ArgumentConsumer, Context, Runner};
use serde::de::DeserializeOwned;
use spine_core::{
    Author, CaRoot, CheckDefinition, CheckKey, CheckKind, CheckUpdate, Command, Delete, Deregister, Dialect,
    ExistingChecks, GrpcProbe, Guard, HttpProbe, Index, InstanceKey, KeyRange, LeaseEnd, LeaseGrant, LeaseId,
    LeaseOpen, LeaseTerms, Member, MemberName, MemberReport, MemberStatus, NodeDefinition, NodeName, Pace,
    Put, Register, Renewal, RenewalRequest, Repeat, Request, RequestId, Revision, Rights, Scope, Service,
    ServiceName, SessionId, Status, Target, TcpProbe, Thresholds, Ttl, UpdateSource, WallTime, Weights,
    codec,
};

/// Takes commands without applying them: those of one entry.
#[derive(Default)]
pub(crate) struct Parsed {
    /// The commands.
    pub(crate) requests: Vec<Request>,
}

impl Runner for Parsed {
    type Command = goldenscript::Command;

    fn run(&mut self, parsed: &goldenscript::Command, _context: &Context) -> super::Answered {
        let mut args = parsed.consume_args();
        let request = request(&parsed.name, &mut args)?;
        args.reject_next()?;
        self.requests.push(request);
        Ok(String::new())
    }
}

/// A command and who sends it: the node itself, or a client with `dialect=native`.
pub(crate) fn request(name: &str, args: &mut ArgumentConsumer<'_>) -> Result<Request, Box<dyn Error>> {
    let id = request_id(args)?;
    let dialect = match args.take_key("dialect") {
        None => Dialect::Internal,
        Some("native") => Dialect::Native,
        Some(other) => return Err(format!("the dialect {other}").into()),
    };
    let author = Author {
        dialect,
        ..Author::default()
    };
    Ok(Request {
        author,
        id,
        ..Request::internal(command(name, args)?)
    })
}

fn request_id(args: &mut ArgumentConsumer<'_>) -> Result<Option<RequestId>, Box<dyn Error>> {
    let Some(session) = args.take_key("session") else {
        return Ok(None);
    };
    let number = |text: Option<&str>| text.unwrap_or("0").parse();
    Ok(Some(RequestId {
        session: SessionId(session.parse()?),
        sequence: number(args.take_key("seq"))?,
        answered_up_to: number(args.take_key("answered"))?,
    }))
}

pub(crate) fn command(name: &str, args: &mut ArgumentConsumer<'_>) -> Result<Command, Box<dyn Error>> {
    Ok(match name {
        "put" => Command::Put(Put {
            key: pos(args)?.to_owned().into(),
            value: value(args)?.into(),
            flags: args.take_key("flags").unwrap_or("0").parse()?,
            lease: args.take_key("lease").map(str::parse).transpose()?.map(LeaseId),
            guard: guard(args)?,
            repeat: if args.take_key("repeat") == Some("write") {
                Repeat::Write
            } else {
                Repeat::Skip
            },
        }),
        "delete" => Command::Delete(Delete {
            guard: guard(args)?,
            range: range(args),
        }),
        "compact" => Command::Compact(Revision(pos(args)?.parse()?)),
        "register" => Command::Register(Box::new(register(args)?)),
        "deregister" => {
            let scope = scope(args)?;
            let target = match (args.take_key("instance"), args.take_key("check")) {
                (Some(id), None) => Target::Instance(unparsed(id)),
                (None, Some(id)) => Target::Check(unparsed(id)),
                _ => Target::Node,
            };
            Command::Deregister(Deregister {
                node: node(args)?,
                target,
                scope,
            })
        }
        "check_update" => report(args)?,
        "lease_grant" => Command::LeaseGrant(LeaseGrant {
            id: LeaseId(pos(args)?.parse()?),
            ttl: ttl(pos(args)?)?,
        }),
        "lease_open" => Command::LeaseOpen(Box::new(lease_open(args)?)),
        "txn" => Command::Txn(super::txn::txn(args)?),
        "catalog_txn" => Command::CatalogTxn(super::catalog_txn::txn(args)?),
        "lease_revoke" => Command::LeaseRevoke(LeaseId(pos(args)?.parse()?)),
        "renew" => {
            let mut renewals = Vec::new();
            while let Some(id) = args.next_pos() {
                let renewal = Renewal::Lease(LeaseId(id.parse()?));
                renewals.push(RenewalRequest {
                    author: Author::default(),
                    rights: Rights::Open,
                    renewal,
                });
            }
            Command::Renew(renewals)
        }
        "pulse" => Command::Pulse,
        "open_session" => Command::OpenSession,
        "member_up" => member(args)?,
        "ca_root_set" => Command::CaRootSet(root(args)?),
        "ca_root_initial" => Command::CaRootInitial(root(args)?),
        "member_status" => Command::MemberStatus(MemberReport {
            name: node(args)?,
            id: args.take_key("id").unwrap_or("1").parse()?,
            status: match pos(args)? {
                "alive" => MemberStatus::Alive,
                "failed" => MemberStatus::Failed,
                other => return Err(format!("a member is not {other:?}").into()),
            },
        }),
        "member_remove" => Command::MemberRemove(MemberName {
            name: node(args)?,
            id: args.take_key("id").unwrap_or("1").parse()?,
        }),
        "rules_raise" => Command::RulesRaise(pos(args)?.parse()?),
        "quota_set" => Command::QuotaSet(pos(args)?.parse()?),
        other => return Err(format!("no command {other:?}").into()),
    })
}

fn root(args: &mut ArgumentConsumer<'_>) -> Result<CaRoot, Box<dyn Error>> {
    Ok(CaRoot {
        id: pos(args)?.into(),
        trust_domain: "test".into(),
        certificate_pem: value(args)?.into(),
        serial: "1".into(),
        key_id: "k".into(),
        key_type: "ec".into(),
        key_bits: 256,
        not_before: WallTime(0),
        not_after: WallTime(1),
        sealed_key: None,
    })
}

/// `ID [ttl=D] [name=N] [node=N] [check=C] [service-check=C] [end=delete] [delay=D]`
fn lease_open(args: &mut ArgumentConsumer<'_>) -> Result<LeaseOpen, Box<dyn Error>> {
    let ids = |text: Option<&str>| {
        let words = text.into_iter().flat_map(|text| text.split(','));
        words.map(unparsed).collect()
    };
    Ok(LeaseOpen {
        id: LeaseId(pos(args)?.parse()?),
        ttl: args.take_key("ttl").map(ttl).transpose()?,
        terms: LeaseTerms {
            name: filled(args.take_key("name").unwrap_or_default()).into(),
            node: args.take_key("node").map(unparsed),
            node_checks: ids(args.take_key("check")),
            service_checks: ids(args.take_key("service-check")),
            end: if args.take_key("end") == Some("delete") {
                LeaseEnd::Delete
            } else {
                LeaseEnd::Release
            },
            lock_delay: args.take_key("delay").map(ttl).transpose()?.unwrap_or_default(),
        },
    })
}

pub(crate) fn member(args: &mut ArgumentConsumer<'_>) -> Result<Command, Box<dyn Error>> {
    let name = node(args)?;
    Ok(Command::MemberUp(Member {
        id: args.take_key("id").unwrap_or("1").parse()?,
        node_uuid: args
            .take_key("uuid")
            .map_or_else(|| format!("uuid-of-{name}").into(), Into::into),
        host: filled(args.take_key("host").unwrap_or("10.0.0.1")).into(),
        peer_address: "10.0.0.1:8300".into(),
        http_address: "10.0.0.1:8500".into(),
        grpc_address: "".into(),
        version: args.take_key("version").unwrap_or("0.1.0").into(),
        rules: args.take_key("rules").unwrap_or("1").parse()?,
        name,
    }))
}

pub(crate) fn register(args: &mut ArgumentConsumer<'_>) -> Result<Register, Box<dyn Error>> {
    let node = node(args)?;
    let address = args.take_key("node-address");
    let node_id = args.take_key("node-id");
    let node_update = (address.is_some() || node_id.is_some()).then(|| NodeDefinition {
        id: node_id.unwrap_or_default().into(),
        address: address.unwrap_or_default().into(),
        ..NodeDefinition::default()
    });
    let existing = match args.take_key("existing") {
        None | Some("keep") => ExistingChecks::Keep,
        Some("replace") => ExistingChecks::Replace,
        Some("overwrite") => ExistingChecks::Overwrite,
        Some(other) => return Err(format!("existing={other}").into()),
    };
    let heartbeat = args.take_key("heartbeat").map(ttl).transpose()?;
    let service = args
        .take_key("service")
        .map(|name| service_definition(name, args))
        .transpose()?;
    let mut checks = Vec::new();
    while let Some(text) = args.next_pos() {
        checks.push(check_definition(text)?);
    }
    Ok(Register {
        node,
        node_update,
        service,
        checks,
        existing,
        heartbeat,
    })
}

pub(crate) fn service_definition(
    name: &str,
    args: &mut ArgumentConsumer<'_>,
) -> Result<Service, Box<dyn Error>> {
    let weights = args.take_key("weights").map(|text| {
        let (passing, warning) = text.split_once('/').ok_or("weights=PASSING/WARNING")?;
        Ok::<_, Box<dyn Error>>(Weights {
            passing: passing.parse()?,
            warning: warning.parse()?,
        })
    });
    let words = |text: Option<&str>| {
        text.into_iter()
            .flat_map(|text| text.split(','))
            .map(Arc::from)
            .collect()
    };
    let meta: Vec<Arc<str>> = words(args.take_key("meta"));
    Ok(Service {
        id: unparsed(args.take_key("id").unwrap_or(name)),
        name: unparsed(name),
        kind: "".into(),
        tags: words(args.take_key("tags")),
        address: filled(args.take_key("address").unwrap_or_default()).into(),
        tagged_addresses: BTreeMap::new(),
        port: args.take_key("port").unwrap_or("0").parse()?,
        socket_path: "".into(),
        meta: meta
            .iter()
            .filter_map(|pair| pair.split_once(':'))
            .map(|(k, v)| (k.into(), v.into()))
            .collect(),
        weights: weights.transpose()?.unwrap_or_default(),
        enable_tag_override: false,
    })
}

/// `ID@SERVICE:KIND[:LENGTH][,status=S][,deregister=D]`; without `@SERVICE` it judges the node.
pub(crate) fn check_definition(text: &str) -> Result<CheckDefinition, Box<dyn Error>> {
    let mut parts = text.split(',');
    let place = parts.next().unwrap_or_default();
    // With a service the id may have colons of its own.
    let (id, mut words) = match place.split_once('@') {
        Some((id, rest)) => (id, rest.split(':')),
        None => (place.split(':').next().unwrap_or_default(), place.split(':')),
    };
    let first = words.next().unwrap_or_default();
    let service = place.contains('@').then_some(first);
    let kind = words.next().unwrap_or("external");
    let length = words.next().map(ttl).transpose()?.unwrap_or(Ttl::seconds(10));
    let speed = Pace {
        interval: length,
        timeout: Ttl::seconds(1),
    };
    let kind = match kind {
        "external" => CheckKind::External,
        "ttl" => CheckKind::Ttl(length),
        "http" => CheckKind::Http(HttpProbe {
            url: "http://127.0.0.1/health".into(),
            method: "".into(),
            header: BTreeMap::new(),
            body: "".into(),
            tls_skip_verify: false,
            tls_server_name: "".into(),
            disable_redirects: false,
            pace: speed,
        }),
        "tcp" => CheckKind::Tcp(TcpProbe {
            address: "127.0.0.1:1".into(),
            tls: false,
            pace: speed,
        }),
        "grpc" => CheckKind::Grpc(GrpcProbe {
            address: "127.0.0.1:1".into(),
            service: "".into(),
            tls: false,
            pace: speed,
        }),
        other => return Err(format!("no kind of check {other:?}").into()),
    };
    let mut definition = CheckDefinition {
        id: unparsed(id),
        name: id.into(),
        notes: "".into(),
        service: service.map(unparsed),
        status: None,
        output: "".into(),
        kind,
        deregister_after: None,
        thresholds: Thresholds::default(),
    };
    for part in parts {
        match part.split_once('=') {
            Some(("status", word)) => definition.status = Some(Status::parse(word).ok_or("no such status")?),
            Some(("deregister", after)) => definition.deregister_after = Some(ttl(after)?),
            Some(("output", text)) => definition.output = text.into(),
            Some(("notes", text)) => definition.notes = text.into(),
            _ => return Err(format!("no part of a check {part:?}").into()),
        }
    }
    Ok(definition)
}

pub(crate) fn report(args: &mut ArgumentConsumer<'_>) -> Result<Command, Box<dyn Error>> {
    let source = match (
        args.take_key("implicit"),
        args.take_key("by"),
        args.take_key("since"),
    ) {
        (Some(length), ..) => UpdateSource::ServiceOrImplicit(ttl(length)?),
        (None, Some(member), since) => UpdateSource::Probe(spine_core::Assignment {
            member: unparsed(member),
            since: Index(since.unwrap_or("0").parse()?),
        }),
        (None, None, _) => UpdateSource::Service,
    };
    let scope = scope(args)?;
    let output = filled(args.take_key("output").unwrap_or_default()).into();
    let key = check_key(args)?;
    let status = Status::parse(pos(args)?).ok_or("no such status")?;
    Ok(Command::CheckUpdate(CheckUpdate {
        node: key.node,
        check: key.id,
        status,
        output,
        source,
        scope,
    }))
}

pub(crate) fn guard(args: &mut ArgumentConsumer<'_>) -> Result<Guard, Box<dyn Error>> {
    Ok(match args.take_key("if") {
        None => Guard::Always,
        Some("absent") => Guard::Absent,
        Some(text) => match text.split_once(':') {
            Some(("index", index)) => Guard::ModifyIndex(Index(index.parse()?)),
            Some(("revision", revision)) => Guard::ModRevision(Revision(revision.parse()?)),
            _ => return Err(format!("no guard {text:?}").into()),
        },
    })
}

/// `KEY`, `prefix=P`, `from=A to=B`, or nothing for all.
pub(crate) fn range(args: &mut ArgumentConsumer<'_>) -> KeyRange {
    if let Some(prefix) = args.take_key("prefix") {
        return KeyRange::prefix(prefix.to_owned().into());
    }
    if let Some(start) = args.take_key("from") {
        let end = args.take_key("to").map(|end| end.to_owned().into());
        return KeyRange {
            start: start.to_owned().into(),
            end,
        };
    }
    args.next_pos()
        .map_or_else(KeyRange::all, |key| KeyRange::one(key.to_owned().into()))
}

pub(crate) fn interest(args: &mut ArgumentConsumer<'_>) -> Vec<spine_core::Topic> {
    use spine_core::Topic;
    if let Some(service) = args.take_key("service") {
        return vec![Topic::Service(unparsed(service))];
    }
    if let Some(prefix) = args.take_key("prefix") {
        return vec![Topic::Keys(KeyRange::prefix(prefix.to_owned().into()))];
    }
    vec![Topic::All]
}

pub(crate) fn scope(args: &mut ArgumentConsumer<'_>) -> Result<Scope, Box<dyn Error>> {
    match args.take_key("scope") {
        None | Some("node") => Ok(Scope::Node),
        Some("servers") => Ok(Scope::Servers),
        Some(other) => Err(format!("scope={other}").into()),
    }
}

/// `value=TEXT`, or `bytes=N` for so many letters.
pub(crate) fn value(args: &mut ArgumentConsumer<'_>) -> Result<String, Box<dyn Error>> {
    match args.take_key("bytes") {
        Some(count) => Ok("x".repeat(count.parse()?)),
        None => Ok(args.take_key("value").unwrap_or_default().to_owned()),
    }
}

/// The text, but `x*N` stands for so many letters.
fn filled(text: &str) -> String {
    let times = |(letter, count): (&str, &str)| Some(letter.repeat(count.parse().ok()?));
    text.split_once('*')
        .and_then(times)
        .unwrap_or_else(|| text.to_owned())
}

/// A name as it comes from the log: nobody has looked at it yet.
fn unparsed<N: DeserializeOwned>(text: &str) -> N {
    codec::decode_row(&codec::encode_row(&filled(text))).expect("a name is a string in the log")
}

pub(crate) fn instance(args: &mut ArgumentConsumer<'_>) -> Result<InstanceKey, Box<dyn Error>> {
    let (node, id) = pos(args)?.split_once('/').ok_or("NODE/ID")?;
    Ok(InstanceKey {
        node: unparsed(node),
        id: unparsed(id),
    })
}

pub(crate) fn check_key(args: &mut ArgumentConsumer<'_>) -> Result<CheckKey, Box<dyn Error>> {
    let (node, id) = pos(args)?.split_once('/').ok_or("NODE/ID")?;
    Ok(CheckKey {
        node: unparsed(node),
        id: unparsed(id),
    })
}

pub(crate) fn service(args: &mut ArgumentConsumer<'_>) -> Result<ServiceName, Box<dyn Error>> {
    Ok(unparsed(pos(args)?))
}

pub(crate) fn node(args: &mut ArgumentConsumer<'_>) -> Result<NodeName, Box<dyn Error>> {
    Ok(unparsed(pos(args)?))
}

pub(crate) fn pos<'a>(args: &mut ArgumentConsumer<'a>) -> Result<&'a str, Box<dyn Error>> {
    args.next_pos().ok_or_else(|| "an argument is missing".into())
}

/// `5s` or `500ms`.
pub(crate) fn ttl(text: &str) -> Result<Ttl, Box<dyn Error>> {
    if let Some(ms) = text.strip_suffix("ms") {
        return Ok(Ttl(ms.parse()?));
    }
    Ok(Ttl::seconds(
        text.strip_suffix('s')
            .ok_or("a length of time ends in s or ms")?
            .parse()?,
    ))
}
