//! Clocks: one that only moves ahead, and the one on the wall.
//!
//! Rules rest on cluster time, which is made from the first ([`crate::registry`]); the second is for people. Timers
//! are tokio's, which a simulator pauses and moves as it likes.

use std::{fmt::Debug, time::Duration};

use spine_core::WallTime;

/// The clocks of a machine.
pub trait Clock: Send + Sync + Debug {
    /// Time since some moment in the past. It never falls or jumps, and goes on while the machine is suspended.
    fn monotonic(&self) -> Duration;

    /// What the wall clock shows.
    fn wall(&self) -> WallTime;
}

/// The clocks of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsClock;

impl Clock for OsClock {
    fn monotonic(&self) -> Duration {
        let now = rustix::time::clock_gettime(COUNTS_SUSPEND);
        let seconds = u64::try_from(now.tv_sec).expect("a monotonic clock is never before its start");
        let nanoseconds =
            u32::try_from(now.tv_nsec).expect("the system gives less than a second of nanoseconds");
        Duration::new(seconds, nanoseconds)
    }

    #[expect(clippy::disallowed_methods, reason = "this is World's clock")]
    fn wall(&self) -> WallTime {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        WallTime(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

#[cfg(target_os = "linux")]
const COUNTS_SUSPEND: rustix::time::ClockId = rustix::time::ClockId::Boottime;
/// Elsewhere the monotonic clock is the nearest there is; macOS's counts suspend too.
#[cfg(not(target_os = "linux"))]
const COUNTS_SUSPEND: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
