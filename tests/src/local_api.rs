//! The native API in this process, on a registry in memory: a server that comes and goes as a test wants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::spine_process::free_address;
use spine_api::{Context, Registry, local::Local, native};
use spine_core::{Command, Dialect, Member, NodeName};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::{Server, server::TcpIncoming};

/// Its tasks wait for nothing else, so they end at once.
const ENDED_WITHIN: Duration = Duration::from_secs(10);

/// A served registry. Dropped, it is gone as a killed process is: with its connections.
#[derive(Debug)]
pub struct LocalApi {
    address: SocketAddr,
    /// Of its own, so that its connections end with it.
    runtime: Option<Runtime>,
}

impl LocalApi {
    /// Serves `registry` on a free port of the loopback.
    pub fn serve(registry: Arc<dyn Registry>) -> Self {
        Self::serve_at(registry, free_address())
    }

    /// Serves `registry` at this address.
    pub fn serve_at(registry: Arc<dyn Registry>, address: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind(address).expect("the address is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        listener
            .set_nonblocking(true)
            .expect("a socket can be told not to block");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread can be started");
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("it belongs to this runtime now");
            let routes = native::services(registry, native::Settings::default());
            Server::builder()
                .add_routes(routes)
                .serve_with_incoming(TcpIncoming::from(listener))
                .await
                .expect("it serves until it is dropped");
        });
        Self {
            address,
            runtime: Some(runtime),
        }
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for LocalApi {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not on the caller's thread, which may be of a runtime itself; awaited, so that the address is free then.
            let ending = std::thread::spawn(move || runtime.shutdown_timeout(ENDED_WITHIN));
            let _ = ending.join();
        }
    }
}

/// A registry in memory, of the server `n1`, which serves the native API at `grpc`.
pub async fn local(grpc: &str) -> Arc<Local> {
    let name = NodeName::parse("n1").expect("a name");
    let local = Arc::new(Local::new(name.clone()));
    let up = Command::MemberUp(Member {
        name,
        id: 1,
        node_uuid: "".into(),
        host: "127.0.0.1".into(),
        peer_address: "".into(),
        http_address: "".into(),
        grpc_address: grpc.into(),
        version: "0.1.0".into(),
        rules: 1,
    });
    let applied = local.propose(&Context::new(Dialect::Internal), up).await;
    applied
        .expect("it has a leader")
        .result
        .expect("the first member is let in");
    local
}
