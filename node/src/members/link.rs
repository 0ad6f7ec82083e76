//! What one server asks another about the members.

use std::time::Duration;

use spine_core::RULES_KNOWN;
use spine_proto::internal::v1::{
    self as proto, join_response::Result as JoinResult, members_client::MembersClient,
    remove_response::Result as RemoveResult,
};
use tokio::time::timeout;
use tonic::{Response, Status, transport::Channel};

use super::decide::Wish;
use crate::{
    limits::MEMBERSHIP_BYTES_MAX,
    peer::{Lane, Links},
    raft::{Leader, Peer, header, identity::Identity, roster::Roster, wire},
};

/// A change takes one entry or two, and a hop to the leader before it.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What became of a server's wish to come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Joined {
    /// It is a member, one of these.
    Member(Roster),
    /// It can't be one: cause and remedy.
    Refused(String),
    /// A server of its name is there.
    NameInUse(String),
    /// Not at this moment.
    NotNow(String),
}

/// What became of the wish that a server be a member no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is none: this was its node id.
    Done(u64),
    /// There is no such server.
    Unknown,
    /// It would be unsafe: cause and remedy.
    Refused(String),
    /// Not at this moment: nothing was done.
    NotNow(String),
}

/// Asks the server at `address` to take in `me`, whose directory has the id `node`.
///
/// # Errors
/// Why there is no answer, in a few words.
pub async fn join(links: &Links, address: &str, me: &Peer, node: u64) -> Result<Joined, String> {
    let request = proto::JoinRequest {
        me: Some(wire::server_message(me)),
        node_id: node,
        forwarded: false,
        rules: RULES_KNOWN,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    ask_join(links, address, request).await
}

/// Passes a server's wish to come in on to the server at `address`.
pub(super) async fn ask_join(
    links: &Links,
    address: &str,
    request: proto::JoinRequest,
) -> Result<Joined, String> {
    let answer = ask(links, address, async |mut client| client.join(request).await).await?;
    read_joined(answer)
}

async fn ask<T>(
    links: &Links,
    address: &str,
    call: impl AsyncFnOnce(MembersClient<Channel>) -> Result<Response<T>, Status>,
) -> Result<T, String> {
    let link = links.get(Lane::Hello, address);
    let client = MembersClient::new(link.channel.clone()).max_decoding_message_size(MEMBERSHIP_BYTES_MAX);
    match timeout(ANSWER_WITHIN, call(client)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => {
            links.discard(&link);
            Err(status.message().to_owned())
        }
        Err(_) => {
            links.discard(&link);
            Err(format!("no answer within {ANSWER_WITHIN:?}"))
        }
    }
}

fn read_joined(response: proto::JoinResponse) -> Result<Joined, String> {
    Ok(match response.result {
        Some(JoinResult::Joined(roster)) => {
            Joined::Member(wire::message_roster(roster).map_err(|error| error.to_string())?)
        }
        Some(JoinResult::Refused(why)) => Joined::Refused(why),
        Some(JoinResult::NameInUse(why)) => Joined::NameInUse(why),
        Some(JoinResult::NotNow(why)) => Joined::NotNow(why),
        None => return Err("an empty answer".to_owned()),
    })
}

/// The message of what became of a wish to come in.
pub(super) fn joined_message(joined: Joined) -> proto::JoinResponse {
    proto::JoinResponse {
        result: Some(match joined {
            Joined::Member(roster) => JoinResult::Joined(wire::roster_message(&roster)),
            Joined::Refused(why) => JoinResult::Refused(why),
            Joined::NameInUse(why) => JoinResult::NameInUse(why),
            Joined::NotNow(why) => JoinResult::NotNow(why),
        }),
    }
}

/// Asks the leader to remove a server, in the name of the server `identity` in this start.
///
/// # Errors
/// Why it is not known whether that was done, in a few words.
pub(super) async fn remove(
    links: &Links,
    (identity, boot_number): (Identity, u64),
    leader: &Leader,
    wish: &Wish,
) -> Result<Removed, String> {
    let request = proto::RemoveRequest {
        header: Some(header(identity, boot_number, leader.id)),
        name: wish.name.clone(),
        force: wish.forced,
        node_ids: wish.nodes.iter().copied().collect(),
    };
    let answer = ask(links, &leader.peer_address, async |mut client| {
        client.remove(request).await
    })
    .await?;
    Ok(match answer.result {
        Some(RemoveResult::Removed(removed)) => Removed::Done(removed.node_id),
        Some(RemoveResult::Unknown(_)) => Removed::Unknown,
        Some(RemoveResult::Refused(why)) => Removed::Refused(why),
        Some(RemoveResult::NotNow(why)) => Removed::NotNow(why),
        None => return Err("an empty answer".to_owned()),
    })
}

/// The message of what became of the wish to remove a server.
pub(super) fn removed_message(removed: Removed) -> proto::RemoveResponse {
    proto::RemoveResponse {
        result: Some(match removed {
            Removed::Done(node_id) => RemoveResult::Removed(proto::remove_response::Removed { node_id }),
            Removed::Unknown => RemoveResult::Unknown(proto::remove_response::Unknown {}),
            Removed::Refused(why) => RemoveResult::Refused(why),
            Removed::NotNow(why) => RemoveResult::NotNow(why),
        }),
    }
}
