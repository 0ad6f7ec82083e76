//! This server and its cluster, as an agent of Consul describes itself.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::json;
use spine_core::{MemberStatus, MemberView, Members, Query};

use crate::{
    consul::{
        CONSUL_VERSION,
        call::{Call, Handled},
    },
    registry::{NodeStatus, Role},
};

/// What this server is. Clients branch on `Config.Version`, so it is the release of Consul that is kept to.
pub(crate) async fn itself(call: Call) -> Handled {
    let members = Members.ask(&*call.local_state().await?).value;
    let status = call.registry().status();
    let name = &call.settings().node;
    let own = members.iter().find(|view| view.member.name == *name);
    let advertised = own.map_or("", |view| &view.member.peer_address);
    let wire = json!({
        "Config": {
            "Datacenter": call.datacenter(),
            "PrimaryDatacenter": call.datacenter(),
            "NodeName": name.as_str(),
            "NodeID": own.map_or("", |view| &view.member.node_uuid),
            "Revision": "",
            "Server": true,
            "Version": CONSUL_VERSION,
            "BuildDate": BUILD_DATE,
            "SpineVersion": &*call.settings().version,
        },
        "DebugConfig": {
            "Datacenter": call.datacenter(),
            "NodeName": name.as_str(),
            "ServerMode": true,
            "SerfAdvertiseAddrLAN": format!("tcp://{advertised}"),
            "SerfAdvertiseAddrWAN": format!("tcp://{advertised}"),
            "HTTPAddrs": own.iter().map(|view| format!("tcp://{}", view.member.http_address)).collect::<Vec<_>>(),
        },
        "Coord": null,
        "Member": own.map(|view| MemberWire::of(view, call.datacenter())),
        "Stats": stats(&status, members.len()),
        "Meta": {},
        "xDS": null,
    });
    Ok(call.json(&wire))
}

/// Builds are not dated, so that they can be repeated.
const BUILD_DATE: &str = "1970-01-01T00:00:01Z";

fn stats(status: &NodeStatus, servers: usize) -> serde_json::Value {
    let state = match status.role {
        Role::Leader => "Leader",
        Role::Follower => "Follower",
        Role::Candidate => "Candidate",
        Role::Learner => "Learner",
    };
    json!({
        "agent": { "ready": status.ready.to_string() },
        "consul": {
            "server": "true",
            "leader": (status.role == Role::Leader).to_string(),
            "leader_addr": status.leader.as_ref().map_or("", |name| name.as_str()),
            "known_servers": servers.to_string(),
        },
        "raft": {
            "state": state,
            "term": status.term.to_string(),
            "last_log_index": status.last_log.to_string(),
            "commit_index": status.committed.to_string(),
            "applied_index": status.applied.to_string(),
        },
    })
}

/// A server of the cluster.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct MemberWire<'a> {
    name: &'a str,
    addr: &'a str,
    port: u16,
    tags: BTreeMap<&'static str, String>,
    status: u8,
    protocol_min: u8,
    protocol_max: u8,
    protocol_cur: u8,
    delegate_min: u8,
    delegate_max: u8,
    delegate_cur: u8,
}

/// Serf's number of a status.
fn serf_status(status: MemberStatus) -> u8 {
    match status {
        MemberStatus::Alive => 1,
        MemberStatus::Failed => 4,
    }
}

impl<'a> MemberWire<'a> {
    fn of(view: &'a MemberView, datacenter: &str) -> Self {
        let member = &view.member;
        let port = member
            .peer_address
            .rsplit_once(':')
            .and_then(|(_, port)| port.parse().ok())
            .unwrap_or(0);
        let tags = [
            ("role", "consul".to_owned()),
            ("dc", datacenter.to_owned()),
            ("id", member.node_uuid.to_string()),
            ("port", port.to_string()),
            ("build", format!("{CONSUL_VERSION}:")),
            ("vsn", "2".to_owned()),
            ("raft_vsn", "3".to_owned()),
            ("spine_version", member.version.to_string()),
        ];
        Self {
            name: member.name.as_str(),
            addr: &member.host,
            port,
            tags: tags.into(),
            status: serf_status(view.liveness.status),
            protocol_min: 1,
            protocol_max: 5,
            protocol_cur: 2,
            delegate_min: 2,
            delegate_max: 5,
            delegate_cur: 4,
        }
    }
}

/// The servers of the cluster.
pub(crate) async fn members(call: Call) -> Handled {
    let members = Members.ask(&*call.local_state().await?).value;
    let wire: Vec<_> = members
        .iter()
        .map(|view| MemberWire::of(view, call.datacenter()))
        .collect();
    Ok(call.json(&wire))
}

/// The release.
pub(crate) async fn version(call: Call) -> Handled {
    let wire = json!({
        "SHA": "",
        "BuildDate": BUILD_DATE,
        "HumanVersion": CONSUL_VERSION,
        "FIPS": "",
        "SpineVersion": &*call.settings().version,
    });
    Ok(call.json(&wire))
}
