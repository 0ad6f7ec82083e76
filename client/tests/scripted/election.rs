//! Who observes an election follows the script like other callers; nobody takes part in one.

use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use spine_client::proto as v1;
use tonic::{Request, Response, Status};
use v1::election_server;

use super::{Act, Script, refusal};

fn nobody_takes_part<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented(
        "no script has an election that is taken part in",
    ))
}

#[tonic::async_trait]
impl election_server::Election for Script {
    async fn campaign(
        &self,
        _: Request<v1::CampaignRequest>,
    ) -> Result<Response<v1::CampaignResponse>, Status> {
        nobody_takes_part()
    }

    async fn proclaim(
        &self,
        _: Request<v1::ProclaimRequest>,
    ) -> Result<Response<v1::ProclaimResponse>, Status> {
        nobody_takes_part()
    }

    async fn leader(&self, _: Request<v1::LeaderRequest>) -> Result<Response<v1::LeaderResponse>, Status> {
        nobody_takes_part()
    }

    async fn resign(&self, _: Request<v1::ResignRequest>) -> Result<Response<v1::ResignResponse>, Status> {
        nobody_takes_part()
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<v1::LeaderResponse, Status>> + Send>>;

    async fn observe(
        &self,
        request: Request<v1::ObserveRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        match self.next(&request) {
            // Nobody leads, and that stays so.
            Act::Answer => {
                let told = stream::iter([Ok(v1::LeaderResponse::default())]);
                Ok(Response::new(Box::pin(told.chain(stream::pending()))))
            }
            Act::Refuse(code) => Err(refusal(code)),
            // The call is taken, and nothing said.
            Act::Hang => Ok(Response::new(Box::pin(stream::pending()))),
            act @ (Act::Drop | Act::Tell(_)) => panic!("an observer can't be told {act:?}"),
        }
    }
}
