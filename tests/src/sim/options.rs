//! What the program is told.

use std::ops::Range;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

pub(crate) const USAGE: &str = "\
usage: sim (--seed N | --seeds A..B,N,…) [--life] [--nodes N] [--seconds S | --minutes M] [--until-found] [--trace]
           [--trace-file FILE]
  --life has members come and go, leadership handed over, and states sent whole
  --until-found ends at the first seed that fails, and it is a failure if none does
  --trace prints what the nodes say of themselves, --trace-file writes what the digest is made of";

/// Which seeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seeds {
    /// One, in this process.
    One(u64),
    /// Each in a process of its own.
    Many(Vec<u64>),
}

/// What is to be simulated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) seeds: Seeds,
    /// Whether members come and go.
    pub(crate) life: bool,
    /// Otherwise the seed decides.
    pub(crate) nodes: Option<usize>,
    /// Length of the phase with faults.
    pub(crate) length: Duration,
    /// A failure is what is looked for.
    pub(crate) until_found: bool,
    pub(crate) trace: bool,
    pub(crate) trace_file: Option<String>,
}

impl Options {
    /// Reads the arguments.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut seeds = None;
        let mut options = Self {
            seeds: Seeds::One(0),
            life: false,
            nodes: None,
            length: Duration::from_mins(1),
            until_found: false,
            trace: false,
            trace_file: None,
        };
        while let Some(name) = arguments.next() {
            match name.as_str() {
                "--trace" => {
                    options.trace = true;
                    continue;
                }
                "--life" => {
                    options.life = true;
                    continue;
                }
                "--until-found" => {
                    options.until_found = true;
                    continue;
                }
                _ => {}
            }
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--seed" => seeds = Some(Seeds::One(number(&value)?)),
                "--seeds" => {
                    let spans = value.split(',').map(span).collect::<Result<Vec<_>, _>>()?;
                    seeds = Some(Seeds::Many(spans.into_iter().flatten().collect()));
                }
                "--nodes" => options.nodes = Some(number(&value)?),
                "--seconds" => options.length = Duration::from_secs(number(&value)?),
                "--minutes" => options.length = Duration::from_mins(number(&value)?),
                "--trace-file" => options.trace_file = Some(value),
                _ => return Err(format!("there is no {name}")),
            }
        }
        options.seeds = seeds.ok_or("which seed?")?;
        Ok(options)
    }

    /// The arguments for one seed of these.
    pub(crate) fn again(&self, seed: u64) -> String {
        let nodes = self.nodes.map(|nodes| format!(" --nodes {nodes}"));
        format!(
            "--seed {seed} --seconds {}{}{}",
            self.length.as_secs(),
            nodes.unwrap_or_default(),
            if self.life { " --life" } else { "" }
        )
    }
}

/// `A..B`, or one number.
fn span(text: &str) -> Result<Range<u64>, String> {
    let Some((from, to)) = text.split_once("..") else {
        let one = number(text)?;
        return Ok(one..one + 1);
    };
    Ok(number(from)?..number(to)?)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

/// Prints what nodes say of themselves, with simulated times; `RUST_LOG` chooses what.
pub(crate) fn show_events() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,spine=debug"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(SimulatedTime)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}

struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let now = turmoil::sim_elapsed().unwrap_or_default();
        write!(writer, "{:>9.3}", now.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        Options::read(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_read_and_given_again() {
        let options = read("--seeds 3..9 --nodes 5 --minutes 2").unwrap();
        assert_eq!(options.seeds, Seeds::Many((3..9).collect()));
        let options = read("--seeds 3..5,9").unwrap();
        assert_eq!(options.seeds, Seeds::Many(vec![3, 4, 9]));
        let options = read("--seeds 3..9 --nodes 5 --minutes 2").unwrap();
        assert_eq!(options.again(4), "--seed 4 --seconds 120 --nodes 5");
        assert_eq!(read(&options.again(4)).unwrap().seeds, Seeds::One(4));
        let lively = read("--seeds 3..9 --life").unwrap();
        assert!(lively.life && read(&lively.again(4)).unwrap().life);
        for wrong in ["", "--seed", "--seed x", "--seeds 3..", "--sed 3"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
