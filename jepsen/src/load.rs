//! What else the machine was doing: on a starved one, late answers say little about the cluster.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde::Serialize;

const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// More runnable threads than this in the middle, or more than this share of time taken by other machines, and the run is
/// noisy.
const RUNNABLE_MAX: u64 = 8;
const STEAL_MAX: f64 = 0.10;

/// Samples the machine, a line a second, until it is told to end.
#[derive(Debug)]
pub struct Load {
    end: Sender<()>,
    thread: JoinHandle<io::Result<Vec<Sample>>>,
}

/// A line of `metrics.jsonl`.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    /// Threads that run or could.
    runnable: u64,
    /// Share of time that other machines took.
    steal: f64,
}

impl Load {
    /// Begins to sample into this file.
    ///
    /// # Errors
    /// The file can't be made.
    pub fn watch(path: &Path) -> io::Result<Self> {
        let mut file = File::create_new(path)?;
        let (end, ended) = mpsc::channel();
        let thread = thread::Builder::new().name("load".to_owned()).spawn(move || {
            let mut samples = Vec::new();
            let mut before = Ticks::read();
            while ended.recv_timeout(SAMPLE_EVERY) == Err(RecvTimeoutError::Timeout) {
                let (now, runnable) = (Ticks::read(), runnable());
                let sample = Sample {
                    runnable,
                    steal: now.steal_since(&before),
                };
                before = now;
                writeln!(file, "{}", serde_json::to_string(&sample)?)?;
                samples.push(sample);
            }
            Ok(samples)
        })?;
        Ok(Self { end, thread })
    }

    /// Ends; says what was too much, if it was.
    ///
    /// # Errors
    /// The samples could not be written.
    pub fn end(self) -> io::Result<Option<String>> {
        drop(self.end);
        let samples = self.thread.join();
        let samples = samples.unwrap_or_else(|_| Err(io::Error::other("the sampler panicked")))?;
        Ok(noise(&samples))
    }
}

fn noise(samples: &[Sample]) -> Option<String> {
    let mut runnable: Vec<_> = samples.iter().map(|sample| sample.runnable).collect();
    runnable.sort_unstable();
    let middle = *runnable.get(runnable.len() / 2)?;
    let count = f64::from(u32::try_from(samples.len()).unwrap_or(u32::MAX));
    let steal = samples.iter().map(|sample| sample.steal).sum::<f64>() / count;
    let is_noisy = middle > RUNNABLE_MAX || steal > STEAL_MAX;
    is_noisy.then(|| format!("{middle} runnable threads, {:.0} % of time stolen", steal * 100.0))
}

/// Time as the kernel counts it, since the machine started.
#[derive(Clone, Copy, Debug, Default)]
struct Ticks {
    steal: f64,
    all: f64,
}

impl Ticks {
    fn read() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let first = stat.lines().next().unwrap_or_default();
        let ticks: Vec<f64> = first
            .split_whitespace()
            .skip(1)
            .filter_map(|ticks| ticks.parse().ok())
            .collect();
        Self {
            steal: ticks.get(7).copied().unwrap_or_default(),
            all: ticks.iter().take(8).sum(),
        }
    }

    fn steal_since(&self, before: &Self) -> f64 {
        let all = self.all - before.all;
        if all > 0.0 {
            (self.steal - before.steal) / all
        } else {
            0.0
        }
    }
}

/// The fourth word of `/proc/loadavg` is `RUNNABLE/ALL`.
fn runnable() -> u64 {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let word = load.split_whitespace().nth(3).unwrap_or_default();
    let runnable = word.split('/').next().unwrap_or_default();
    runnable.parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Sample, noise};

    #[test]
    fn a_starved_machine_is_noisy() {
        let samples = |runnable, steal| vec![Sample { runnable, steal }; 5];
        assert_eq!(noise(&samples(2, 0.0)), None);
        assert!(noise(&samples(20, 0.0)).is_some());
        assert!(noise(&samples(2, 0.5)).is_some());
        assert_eq!(noise(&[]), None);
    }
}
