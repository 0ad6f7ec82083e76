//! gRPC without generated code: a codec for JSON bodies, and tonic's channel and connections over turmoil's TCP.

use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut};
use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint};
use turmoil::net::TcpStream;

pub(crate) const APPEND: &str = "/proof.Raft/Append";
pub(crate) const VOTE: &str = "/proof.Raft/Vote";
pub(crate) const PRE_VOTE: &str = "/proof.Raft/PreVote";
pub(crate) const WRITE: &str = "/proof.Client/Write";

/// A message that is sent as JSON and one that comes back as JSON.
pub(crate) struct Json<E, D>(PhantomData<fn(E) -> D>);

impl<E, D> Default for Json<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Codec for Json<E, D>
where
    E: Serialize + Send + Sync + 'static,
    D: DeserializeOwned + Send + Sync + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<E: Serialize, D> Encoder for Json<E, D> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        serde_json::to_writer(buffer.writer(), &item).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<E, D: DeserializeOwned> Decoder for Json<E, D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        serde_json::from_reader(buffer.reader())
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// A channel to one host that connects when it is first used.
pub(crate) fn channel(host: &str, port: u16) -> Channel {
    let uri: Uri = format!("http://{host}:{port}")
        .parse()
        .expect("host names of the simulation make a URI");
    Endpoint::from(uri)
        .connect_timeout(Duration::from_millis(300))
        .connect_with_connector_lazy(tower::service_fn(|uri: Uri| async move {
            let host = uri.host().unwrap_or_default().to_owned();
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or_default())).await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }))
}

/// One request and its answer.
pub(crate) async fn call<E, D>(channel: Channel, path: &'static str, request: E) -> Result<D, Status>
where
    E: Serialize + Send + Sync + 'static,
    D: DeserializeOwned + Send + Sync + 'static,
{
    let mut client = tonic::client::Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::from_static(path);
    Ok(client
        .unary(tonic::Request::new(request), path, Json::default())
        .await?
        .into_inner())
}

/// An accepted connection of the simulated network, as tonic's server wants it.
pub(crate) struct Accepted(pub(crate) TcpStream);

impl Connected for Accepted {
    type ConnectInfo = Option<SocketAddr>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.0.peer_addr().ok()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
