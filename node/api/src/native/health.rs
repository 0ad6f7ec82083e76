//! Checks: reports and lists.

use spine_core::{AllChecks, CheckView, Command, NodeChecks, Outcome, ServiceChecks};
use spine_proto::v1::{self, health_server::Health, list_checks_request::Of};
use tonic::{Request, Response, Status};

use super::{Door, consistency, decode, encode, misfit, page, reply};
use crate::registry::{Context, Error};

#[tonic::async_trait]
impl Health for Door {
    async fn update_check(
        &self,
        request: Request<v1::UpdateCheckRequest>,
    ) -> Result<Response<v1::UpdateCheckResponse>, Status> {
        let (cx, request) = self.open_numbered(request);
        reply(update_check(self, &cx, request).await)
    }

    async fn list_checks(
        &self,
        request: Request<v1::ListChecksRequest>,
    ) -> Result<Response<v1::ListChecksResponse>, Status> {
        let (mut cx, request) = self.open(request);
        cx.consistency = consistency(request.consistency);
        reply(list_checks(self, &cx, request).await)
    }
}

async fn update_check(
    door: &Door,
    cx: &Context,
    request: v1::UpdateCheckRequest,
) -> Result<v1::UpdateCheckResponse, Error> {
    let update = decode::check_update(request, door.name())?;
    match door.propose(cx, Command::CheckUpdate(update)).await? {
        (index, Outcome::CheckUpdated { .. } | Outcome::Renewed(_)) => {
            Ok(v1::UpdateCheckResponse { index: index.0 })
        }
        (_, other) => Err(misfit(&other)),
    }
}

async fn list_checks(
    door: &Door,
    cx: &Context,
    request: v1::ListChecksRequest,
) -> Result<v1::ListChecksResponse, Error> {
    let status = decode::status(request.status)?;
    let (mut views, header) = match &request.of {
        None => door.ask(cx, &AllChecks { status }).await?,
        Some(Of::Node(node)) => door.ask(cx, &NodeChecks(decode::node_name(node)?)).await?,
        Some(Of::Service(service)) => {
            door.ask(cx, &ServiceChecks(decode::service_name(service)?))
                .await?
        }
    };
    views.sort_by_key(|view| view.check.key());
    let after = request.after.map(|after| (after.node, after.id));
    let wanted = |view: &&CheckView| {
        let check = &view.check;
        status.is_none_or(|status| check.status == status)
            && after.as_ref().is_none_or(|(node, id)| {
                (check.node.as_str(), check.definition.id.as_str()) > (node.as_str(), id.as_str())
            })
    };
    let rows = views.iter().filter(wanted).map(|view| encode::check(&view.check));
    let (checks, more) = page::cut(rows, page::limit(request.limit));
    Ok(v1::ListChecksResponse {
        header: Some(header),
        checks,
        more,
    })
}
