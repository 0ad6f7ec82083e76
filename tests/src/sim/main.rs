//! The whole node, simulated: `Node::start` with a [`World`](spine_node::World) on turmoil, clients that speak its API,
//! faults from a seed, and judges that know nothing of its code.
//!
//! `sim --seed N` simulates one seed in this process, `sim --seeds A..B` each in a process of its own, two at a time. A seed
//! decides everything: a failure is found again by its seed alone, and `--trace` shows how it came about.
//!
//! - `plan`: what a seed decides. `world`, `node`: what a node lives on, and the node as a host. `client`: who works on it.
//! - `faults`: what breaks. `life`: who comes and goes. `scenario`: the phases. `invariants`, `config`: what holds after every
//!   step.
//! - `history`, `audit`, `oracle`: what clients saw, what happened, and whether the one follows from the other.
//!
//! What makes it repeat: `node/decisions/0004`.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program whose output is its result"
)]

mod audit;
mod client;
mod config;
mod cost;
mod faults;
mod fleet;
mod history;
mod invariants;
mod leaderless;
mod life;
mod many;
mod node;
mod options;
mod oracle;
mod plan;
mod scenario;
mod watchdog;
mod world;

use std::process::ExitCode;

use spine_tests::trace::Trace;

use crate::cost::Cost;
use crate::options::{Options, Seeds};
use crate::plan::Plan;
use crate::watchdog::Steps;

/// What a simulation that does not count exits with.
const VOID: u8 = 3;

fn main() -> ExitCode {
    if !cfg!(tokio_unstable) {
        eprintln!("sim: built without --cfg tokio_unstable, so nothing would repeat; run `cargo x sim`");
        return ExitCode::FAILURE;
    }
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("sim: {error}\n{}", options::USAGE);
            return ExitCode::from(2);
        }
    };
    match &options.seeds {
        Seeds::One(seed) => one(*seed, &options),
        Seeds::Many(seeds) => many::run(seeds.clone(), &options),
    }
}

fn one(seed: u64, options: &Options) -> ExitCode {
    if options.trace {
        options::show_events();
    }
    let plan = Plan::draw(seed, options.nodes, options.length, options.life);
    let trace = match Trace::new(options.trace_file.as_deref()) {
        Ok(trace) => trace,
        Err(error) => {
            eprintln!("sim: the trace can't be written: {error}");
            return ExitCode::FAILURE;
        }
    };
    let steps = Steps::default();
    let again = options.again(seed);
    steps.watch(move |step| {
        println!("seed {seed} FAILED it stands still in step {step}: something turns without waiting");
        println!("seed {seed} again: cargo x sim {again} --trace");
        std::process::exit(1);
    });
    match scenario::run(plan, &trace, &steps) {
        Ok(report) => {
            println!("{report}{}", Cost::so_far(report.simulated).line());
            match report.void {
                None => ExitCode::SUCCESS,
                Some(why) => {
                    println!("seed {seed} VOID: {why}");
                    ExitCode::from(VOID)
                }
            }
        }
        Err(what) => {
            println!("seed {seed} FAILED {what}");
            println!("seed {seed} again: cargo x sim {} --trace", options.again(seed));
            ExitCode::FAILURE
        }
    }
}
