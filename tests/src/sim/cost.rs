//! What a simulation costs: simulated time beside the processor's.

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

/// Simulated time, and what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) simulated: Duration,
    pub(crate) processor: Duration,
}

impl Cost {
    /// What this process has cost so far for `simulated` time.
    pub(crate) fn so_far(simulated: Duration) -> Self {
        let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let seconds = u64::try_from(spent.tv_sec).unwrap_or(0);
        let nanoseconds = u32::try_from(spent.tv_nsec).unwrap_or(0);
        Self {
            simulated,
            processor: Duration::new(seconds, nanoseconds),
        }
    }

    /// The cost at the end of a line that tells of one seed.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let (_, cost) = line.rsplit_once("; cost ")?;
        let (simulated, processor) = cost.split_once(" ms in ")?;
        let ms = |text: &str| text.parse().map(Duration::from_millis).ok();
        Some(Self {
            simulated: ms(simulated)?,
            processor: ms(processor.strip_suffix(" ms")?)?,
        })
    }

    /// For the end of a line: [`of_line`](Self::of_line) reads it.
    pub(crate) fn line(self) -> String {
        format!(
            "; cost {} ms in {} ms",
            self.simulated.as_millis(),
            self.processor.as_millis()
        )
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.simulated += other.simulated;
        self.processor += other.processor;
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = |time: Duration| time.as_secs_f64() / 60.0;
        let (simulated, processor) = (minutes(self.simulated), minutes(self.processor));
        write!(
            f,
            "{simulated:.1} simulated minutes in {processor:.1} CPU minutes: {:.1} a CPU minute",
            simulated / processor.max(f64::EPSILON)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_survives_its_line() {
        let cost = Cost {
            simulated: Duration::from_secs(61),
            processor: Duration::from_millis(1_234),
        };
        assert_eq!(Cost::of_line(&format!("seed 1{}", cost.line())), Some(cost));
        assert_eq!(Cost::of_line("seed 1 FAILED"), None);
    }
}
