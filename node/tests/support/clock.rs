//! A clock that a test moves, for what has to do with sockets.
//!
//! Tokio's paused clock leaps to the next moment that somebody waits for as soon as no task can run; bytes that are under way
//! over a socket don't hold it back. [`Stopped`] moves it in small steps instead, with a look at the sockets between them.

use std::{sync::mpsc, time::Duration};

use tokio::time::{self, Instant};

const STEP: Duration = Duration::from_millis(10);
/// How often every task is let go on before the next step: what one sends another answers, and that is read.
const TURNS: usize = 32;

/// The clock stands still, except in [`Stopped::took`], until this is dropped.
pub struct Stopped {
    /// The runtime's clock doesn't leap while a blocking task runs; this one runs until the other end is dropped.
    _holds: mpsc::Sender<()>,
}

impl Stopped {
    pub fn now() -> Self {
        let (holds, held) = mpsc::channel::<()>();
        drop(tokio::task::spawn_blocking(move || held.recv()));
        time::pause();
        Self { _holds: holds }
    }

    /// How long something takes by the clock, and what comes of it.
    pub async fn took<T>(&self, something: impl Future<Output = T>) -> (Duration, T) {
        let began = Instant::now();
        tokio::select! {
            biased;
            came = something => (began.elapsed(), came),
            never = step() => never,
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        time::resume();
    }
}

async fn step<T>() -> T {
    loop {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
        time::advance(STEP).await;
    }
}
