//! Keeps a pool's servers those of the cluster, while somebody has the pool.

use std::{sync::Weak, time::Duration};

use spine_proto::v1::{self, members_client::MembersClient};
use tokio::time::sleep;

use super::{Pool, Shared};
use crate::error::{Kind, Result};

/// The members are read so often, and when a server has failed.
const READ_EVERY: Duration = Duration::from_secs(10);
/// But no sooner after one another: servers fail together.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(250);
/// A reading is given up after this long; it goes from server to server like every other.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Reads who the members are, again and again, until nobody has the pool any more.
pub(super) async fn follow(pool: Weak<Shared>) {
    loop {
        let Some(shared) = pool.upgrade() else { return };
        let lost = shared.lost.clone();
        let pool_of_now = Pool {
            shared,
            deadline: READ_WITHIN,
        };
        // Who fails to answer leaves what is known.
        if let Ok(mut members) = members(&pool_of_now).await {
            // Those that are down come last, and not never: they may be back before this is asked again.
            members.sort_by_key(|member| member.failed);
            let reached = members.iter().map(|member| member.grpc_address.as_str());
            pool_of_now
                .shared
                .servers
                .learn(reached.filter(|address| !address.is_empty()));
        }
        drop(pool_of_now);
        sleep(READ_AGAIN_AFTER).await;
        tokio::select! {
            biased;
            () = lost.notified() => {}
            () = sleep(READ_EVERY) => {}
        }
    }
}

/// What a leader confirms: a server that was removed and doesn't know it yet would name those of before.
async fn members(pool: &Pool) -> Result<Vec<v1::Member>> {
    let request = v1::ListMembersRequest {
        consistency: v1::Consistency::Linearizable.into(),
    };
    let send = |channel, request| async move { MembersClient::new(channel).list_members(request).await };
    let answer: v1::ListMembersResponse = pool.call(Kind::Read, request, send).await?;
    Ok(answer.members)
}
