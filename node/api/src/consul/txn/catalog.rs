//! Operations on nodes, services, checks and sessions, in Consul's words.

use serde::Deserialize;
use spine_core::{
    CatalogKey, CatalogOp, CatalogRow, CatalogUnmet, CheckId, CheckKey, Guard, Index, InstanceId,
    InstanceKey, NodeDefinition, NodeName, Rejection,
};

use crate::consul::{
    body::{CatalogCheckBody, ServiceBody},
    catalog::{catalog_check, catalog_service},
    definition::text_map,
    error::Failure,
    session,
};

/// An operation on a node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodeBody {
    verb: String,
    node: NodeFields,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeFields {
    id: String,
    node: String,
    address: String,
    taggedaddresses: std::collections::BTreeMap<String, String>,
    meta: std::collections::BTreeMap<String, String>,
    modifyindex: u64,
}

/// An operation on a service of a node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceOpBody {
    verb: String,
    node: String,
    service: ServiceBody,
}

/// An operation on a check.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CheckOpBody {
    verb: String,
    check: CatalogCheckBody,
}

/// An operation on a session.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SessionBody {
    verb: String,
    session: SessionFields,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SessionFields {
    id: String,
}

/// A row as it was asked for, to speak of it in Consul's words.
#[derive(Debug)]
pub(super) struct AskedRow {
    /// As Consul names it: `node "n1"`.
    row: String,
    verb: Verb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Get,
    Set,
    Cas,
    Delete,
    DeleteCas,
}

const VERBS: [(&str, Verb); 5] = [
    ("get", Verb::Get),
    ("set", Verb::Set),
    ("cas", Verb::Cas),
    ("delete", Verb::Delete),
    ("delete-cas", Verb::DeleteCas),
];

/// An operation and how it was asked for; or what is wrong with it, in Consul's words.
pub(super) type Compiled = Result<(AskedRow, CatalogOp), Failure>;

impl NodeBody {
    pub(super) fn compile(self) -> Compiled {
        let Self { verb, node: fields } = self;
        if fields.node.is_empty() {
            return Err(Failure::bad_request("Must provide node name"));
        }
        let verb = parse_verb("Node", &verb)?;
        let node = NodeName::parse(&fields.node)?;
        let asked = AskedRow {
            row: format!("node {:?}", fields.node),
            verb,
        };
        let (key, index) = (CatalogKey::Node(node.clone()), fields.modifyindex);
        let op = verb.op(key, index, || {
            let definition = NodeDefinition {
                id: fields.id.into(),
                address: fields.address.into(),
                tagged_addresses: text_map(fields.taggedaddresses),
                meta: text_map(fields.meta),
            };
            Ok(CatalogRow::Node(node, definition))
        })?;
        Ok((asked, op))
    }
}

impl ServiceOpBody {
    pub(super) fn compile(self) -> Compiled {
        let Self { verb, node, service } = self;
        let id = if service.id.is_empty() {
            &service.service
        } else {
            &service.id
        };
        let verb = parse_verb("Service", &verb)?;
        let asked = AskedRow {
            row: format!("service {id:?} on node {node:?}"),
            verb,
        };
        let node = NodeName::parse(&node)?;
        let id = InstanceId::parse(id)?;
        let key = InstanceKey {
            node: node.clone(),
            id,
        };
        let index = service.modifyindex;
        let op = verb.op(CatalogKey::Instance(key), index, || {
            Ok(CatalogRow::Instance(node, Box::new(catalog_service(service)?)))
        })?;
        Ok((asked, op))
    }
}

impl CheckOpBody {
    pub(super) fn compile(self) -> Compiled {
        let Self { verb, check } = self;
        let id = if check.checkid.is_empty() {
            &check.name
        } else {
            &check.checkid
        };
        let verb = parse_verb("Check", &verb)?;
        let asked = AskedRow {
            row: format!("check {id:?} on node {:?}", check.node),
            verb,
        };
        let node = NodeName::parse(&check.node)?;
        let id = CheckId::parse(id)?;
        let key = CheckKey {
            node: node.clone(),
            id,
        };
        let index = check.modifyindex;
        let op = verb.op(CatalogKey::Check(key), index, || {
            let check = catalog_check(&node, check)?;
            Ok(CatalogRow::Check(node, Box::new(check)))
        })?;
        Ok((asked, op))
    }
}

impl SessionBody {
    pub(super) fn compile(self) -> Compiled {
        let Self { verb, session } = self;
        let id = &session.id;
        if verb != "delete" {
            return Err(unknown_verb("Session", &verb));
        }
        let lease = session::parse(id).ok_or_else(|| Failure::bad_request(session::invalid(id)))?;
        let asked = AskedRow {
            row: format!("session {id:?}"),
            verb: Verb::Delete,
        };
        Ok((asked, CatalogOp::EndLease(lease)))
    }
}

fn parse_verb(of: &str, word: &str) -> Result<Verb, Failure> {
    let verb = VERBS.iter().find(|(known, _)| *known == word);
    verb.map(|(_, verb)| *verb).ok_or_else(|| unknown_verb(of, word))
}

fn unknown_verb(of: &str, word: &str) -> Failure {
    Failure::bad_request(format!("unknown {of} verb {word:?}"))
}

impl Verb {
    fn op(
        self,
        key: CatalogKey,
        index: u64,
        row: impl FnOnce() -> Result<CatalogRow, Failure>,
    ) -> Result<CatalogOp, Failure> {
        Ok(match self {
            Self::Get => CatalogOp::Read(key),
            Self::Set => CatalogOp::Set(row()?, Guard::Always),
            Self::Cas if index == 0 => CatalogOp::Set(row()?, Guard::Absent),
            Self::Cas => CatalogOp::Set(row()?, Guard::ModifyIndex(Index(index))),
            Self::Delete => CatalogOp::Remove(key, Guard::Always),
            Self::DeleteCas => CatalogOp::Remove(key, Guard::ModifyIndex(Index(index))),
        })
    }
}

impl AskedRow {
    /// Consul's words for what is in the way: people read them and programs match them.
    pub(super) fn unmet(&self, why: CatalogUnmet) -> String {
        let row = &self.row;
        if let CatalogUnmet::Refused(rejection) = why {
            return refused(*rejection);
        }
        match self.verb {
            Verb::Get => format!("{row} doesn't exist"),
            Verb::Set | Verb::Cas => format!("failed to set {row}, index is stale"),
            Verb::Delete | Verb::DeleteCas => format!("failed to delete {row}, index is stale"),
        }
    }
}

fn refused(rejection: Rejection) -> String {
    match rejection {
        Rejection::UnknownNode(_) => "Missing node registration".to_owned(),
        Rejection::UnknownInstance(_) => "Missing service registration".to_owned(),
        other => Failure::from(other).to_string(),
    }
}
