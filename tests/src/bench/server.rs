//! The process that is measured.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use spine_tests::spine_process::free_address;
use tokio::process::{Child, Command};

use crate::Done;

const READY_WITHIN: Duration = Duration::from_mins(1);
const STOPPED_WITHIN: Duration = Duration::from_mins(1);

pub(crate) struct Server {
    child: Child,
    /// Where the native API is.
    pub(crate) grpc: String,
    ready: Duration,
}

/// What a process has used up to now.
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_mib: f64,
    /// The most memory that it has held.
    pub(crate) peak_mib: f64,
}

impl Server {
    /// Starts a node on a data directory, and waits until it is ready.
    pub(crate) async fn start(binary: &Path, data: &Path) -> Done<Self> {
        let [http, grpc] = [free_address(), free_address()];
        let began = Instant::now();
        let child = Command::new(binary)
            .args(["serve", "--name", "bench", "--governance", "open"])
            .arg("--data-dir")
            .arg(data)
            .args(["--http-addr", &http.to_string()])
            .args(["--grpc-addr", &grpc.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let mut server = Self {
            child,
            grpc: grpc.to_string(),
            ready: Duration::ZERO,
        };
        server
            .await_ready(&format!("http://{http}/readyz"), began)
            .await?;
        Ok(server)
    }

    async fn await_ready(&mut self, url: &str, began: Instant) -> Done {
        let client = reqwest::Client::new();
        while began.elapsed() < READY_WITHIN {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("the node ended with {status}").into());
            }
            if client
                .get(url)
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                self.ready = began.elapsed();
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Err(format!("not ready within {READY_WITHIN:?}").into())
    }

    /// From the start of the process to its first ready answer.
    pub(crate) fn ready_ms(&self) -> f64 {
        self.ready.as_secs_f64() * 1e3
    }

    /// What it has used up to now.
    pub(crate) fn usage(&self) -> Done<Usage> {
        Usage::of(self.child.id().ok_or("the node has ended")?)
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn terminate(self) -> Done {
        self.end(rustix::process::Signal::TERM).await
    }

    /// Ends it without asking.
    pub(crate) async fn kill(self) -> Done {
        self.end(rustix::process::Signal::KILL).await
    }

    async fn end(mut self, signal: rustix::process::Signal) -> Done {
        let id = self.child.id().ok_or("the node has ended")?;
        let id = rustix::process::Pid::from_raw(i32::try_from(id)?).ok_or("no process id")?;
        rustix::process::kill_process(id, signal)?;
        tokio::time::timeout(STOPPED_WITHIN, self.child.wait()).await??;
        Ok(())
    }
}

impl Usage {
    /// Of the process with this id.
    pub(crate) fn of(id: u32) -> Done<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
        // The name in parentheses may hold anything; fields are counted behind it.
        let fields: Vec<_> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks: u64 = [11, 12]
            .iter()
            .filter_map(|&field| fields.get(field)?.parse::<u64>().ok())
            .sum();
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let mib = |name: &str| -> Done<f64> {
            let mut lines = status.lines();
            let kib = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kib = kib.ok_or_else(|| format!("no {name}"))?;
            Ok(kib.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
        };
        let ticks_per_second = rustix::param::clock_ticks_per_second();
        #[expect(clippy::cast_precision_loss, reason = "ticks of one process")]
        let cpu_seconds = ticks as f64 / ticks_per_second as f64;
        Ok(Self {
            cpu_seconds,
            rss_mib: mib("VmRSS")?,
            peak_mib: mib("VmHWM")?,
        })
    }
}
