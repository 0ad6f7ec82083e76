//! `/v1/status/`: what is known of the cluster here, leader or not.

use spine_core::{Members, Query};

use super::call::{Call, Handled};

/// The leader's address; empty if there is none.
pub(crate) async fn leader(call: Call) -> Handled {
    let state = call.local_state().await?;
    let leader = call.registry().status().leader;
    let members = Members.ask(&state).value;
    let address = members
        .iter()
        .find(|view| Some(&view.member.name) == leader.as_ref());
    Ok(call.json(&address.map_or("", |view| &view.member.peer_address)))
}

/// The servers' addresses.
pub(crate) async fn peers(call: Call) -> Handled {
    let state = call.local_state().await?;
    let members = Members.ask(&state).value;
    let addresses: Vec<&str> = members.iter().map(|view| &*view.member.peer_address).collect();
    Ok(call.json(&addresses))
}
