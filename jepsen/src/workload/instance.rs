//! A little service whose health can be chosen.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use crate::history::InstanceState;

/// A flapping service is well for so long, then ill for so long.
const FLAP: Duration = Duration::from_millis(700);
/// How long a connection is held, at most.
const HELD: Duration = Duration::from_secs(30);
/// The same port may be wanted again before the system has given it back.
const REBIND_PAUSE: Duration = Duration::from_millis(20);

/// The service. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Instance {
    address: SocketAddr,
    state: watch::Sender<InstanceState>,
    task: AbortHandle,
}

impl Instance {
    /// A service that is up, on a free port of `host`.
    pub(super) async fn start(host: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((host, 0)).await?;
        let address = listener.local_addr()?;
        let (state, changes) = watch::channel(InstanceState::Up);
        let task = tokio::spawn(serve(listener, address, changes)).abort_handle();
        Ok(Self { address, state, task })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// It behaves so from now on, also towards those who are connected.
    pub(super) fn set(&self, state: InstanceState) {
        self.state.send_replace(state);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, address: SocketAddr, mut state: watch::Receiver<InstanceState>) {
    let (mut listener, born) = (Some(listener), Instant::now());
    // Connections end with the state that they began in.
    let mut connections = JoinSet::new();
    loop {
        if *state.borrow_and_update() == InstanceState::Stopped {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).await.ok();
            if listener.is_none() {
                sleep(REBIND_PAUSE).await;
                continue;
            }
        }
        let accepted = async {
            if let Some(listener) = &listener {
                listener.accept().await
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            biased;
            changed = state.changed() => {
                connections.abort_all();
                if changed.is_err() {
                    return;
                }
            }
            accepted = accepted => {
                if let Ok((stream, _)) = accepted {
                    let state = *state.borrow();
                    connections.spawn(timeout(HELD, answer(stream, state, born)));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers requests, one after another, until the other side has enough.
async fn answer(mut stream: TcpStream, state: InstanceState, born: Instant) -> io::Result<()> {
    let mut request = Vec::new();
    loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        request.clear();
        let is_well = match state {
            InstanceState::Up => true,
            InstanceState::Failing | InstanceState::Stopped => false,
            InstanceState::Hung => {
                sleep(HELD).await;
                return Ok(());
            }
            InstanceState::Flapping => (born.elapsed().as_millis() / FLAP.as_millis()).is_multiple_of(2),
        };
        let status = if is_well {
            "200 OK"
        } else {
            "500 Internal Server Error"
        };
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
    }
}
