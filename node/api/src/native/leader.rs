//! Who leads, told with every answer: a client that has the leader's address can spare its writes a way.

use axum::{extract::State, middleware::map_response_with_state, response::Response};
use http::HeaderValue;
use spine_core::{Members, Query};
use tonic::service::Routes;

use super::Door;

const LEADER: &str = "spine-leader";

/// The same services, which tell who leads.
pub(super) fn told(routes: Routes, door: Door) -> Routes {
    let tells = map_response_with_state(door, tell);
    Routes::from(routes.into_axum_router().layer(tells))
}

async fn tell(State(door): State<Door>, mut response: Response) -> Response {
    if let Some(address) = address(&door) {
        response.headers_mut().insert(LEADER, address);
    }
    response
}

/// The leader's address for this API, as far as this server knows.
fn address(door: &Door) -> Option<HeaderValue> {
    let leader = door.registry.status().leader?;
    let members = Members.ask(&door.registry.hub().newest()).value;
    let leads = members.iter().find(|view| view.member.name == leader)?;
    let address = &*leads.member.grpc_address;
    let served = !address.is_empty();
    served.then(|| HeaderValue::from_str(address).ok())?
}
