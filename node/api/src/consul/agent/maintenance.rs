//! Maintenance: a critical check that takes an instance, or a node, out of the traffic.

use http::StatusCode;
use spine_core::{
    CheckDefinition, CheckId, CheckKind, Command, Deregister, ExistingChecks, FindInstance, InstanceId,
    InstanceKey, NodeName, Query, Register, Scope, Status, Target, Thresholds,
};

use crate::consul::{
    call::{Call, Handled},
    error::Failure,
    reply::Reply,
    wire::{NODE_MAINTENANCE, SERVICE_MAINTENANCE},
};

/// Puts an instance under maintenance, or ends it.
pub(crate) async fn service(call: Call) -> Handled {
    let id = InstanceId::parse(&call.name_or(Failure::MissingServiceId)?)?;
    let enable = enable(&call)?;
    let state = call.local_state().await?;
    let called = InstanceKey {
        node: call.settings().node.clone(),
        id,
    };
    let meant = FindInstance(called.clone()).ask(&state).value?;
    let InstanceKey { node, id } = meant.ok_or_else(|| Failure::UnknownServiceId(called.id.to_string()))?;
    let check = Maintenance {
        id: CheckId::parse(&format!("{SERVICE_MAINTENANCE}{id}"))?,
        name: "Service Maintenance Mode",
        default_reason: "Maintenance mode is enabled for this service, but no reason was provided. \
                         This is a default message.",
        node,
        service: Some(id),
    };
    check.set(&call, enable).await
}

/// Puts this server's node under maintenance, or ends it.
pub(crate) async fn node(call: Call) -> Handled {
    let enable = enable(&call)?;
    let check = Maintenance {
        id: CheckId::parse(NODE_MAINTENANCE)?,
        name: "Node Maintenance Mode",
        default_reason: "Maintenance mode is enabled for this node, but no reason was provided. \
                         This is a default message.",
        node: call.settings().node.clone(),
        service: None,
    };
    check.set(&call, enable).await
}

fn enable(call: &Call) -> Result<bool, Failure> {
    call.params.text("enable").ok_or(Failure::MissingEnable)?;
    Ok(call.params.switch("enable")?.unwrap_or_default())
}

struct Maintenance {
    node: NodeName,
    service: Option<InstanceId>,
    id: CheckId,
    name: &'static str,
    default_reason: &'static str,
}

impl Maintenance {
    async fn set(self, call: &Call, enable: bool) -> Handled {
        let command = if enable {
            let reason = call.params.text("reason").unwrap_or(self.default_reason);
            Command::Register(Box::new(self.registration(reason)))
        } else {
            Command::Deregister(Deregister {
                node: self.node,
                target: Target::Check(self.id),
                scope: Scope::Node,
            })
        };
        call.propose(command).await?;
        Ok(Reply::empty(StatusCode::OK))
    }

    fn registration(self, reason: &str) -> Register {
        let check = CheckDefinition {
            id: self.id,
            name: self.name.into(),
            notes: reason.into(),
            service: self.service,
            status: Some(Status::Critical),
            output: "".into(),
            kind: CheckKind::External,
            deregister_after: None,
            thresholds: Thresholds::default(),
        };
        Register {
            node: self.node,
            node_update: None,
            service: None,
            checks: vec![check],
            existing: ExistingChecks::Keep,
            heartbeat: None,
        }
    }
}
