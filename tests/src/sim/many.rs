//! Many seeds, each in a process of its own, as many at a time as there are cores.

use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;

use crate::VOID;
use crate::cost::Cost;
use crate::life::Count;
use crate::options::Options;
use crate::world::locked;

/// What all seeds came to.
#[derive(Default)]
struct Sum {
    passed: u64,
    void: Vec<u64>,
    failed: Vec<u64>,
    cost: Cost,
    /// What happened in all that passed, besides faults.
    life: Count,
}

/// Runs all of them, and fails if one does.
pub(crate) fn run(seeds: Vec<u64>, options: &Options) -> ExitCode {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            eprintln!("sim: this program isn't found any more: {error}");
            return ExitCode::FAILURE;
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let left = Mutex::new(seeds.into_iter());
    let sum = Mutex::new(Sum::default());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let found = options.until_found && !locked(&sum).failed.is_empty();
                    let next = if found { None } else { locked(&left).next() };
                    let Some(seed) = next else { break };
                    let again = options.again(seed);
                    let run = Command::new(&program).args(again.split(' ')).output();
                    let mut sum = locked(&sum);
                    match run {
                        Ok(run) => {
                            let printed = String::from_utf8_lossy(&run.stdout);
                            print!("{printed}{}", String::from_utf8_lossy(&run.stderr));
                            sum.add(seed, run.status.code(), &printed);
                        }
                        Err(error) => {
                            println!("seed {seed} does not start: {error}");
                            sum.failed.push(seed);
                        }
                    }
                }
            });
        }
    });
    let sum = locked(&sum);
    println!(
        "{} seeds passed, {} void {:?}, {} failed {:?}; {}",
        sum.passed,
        sum.void.len(),
        sum.void,
        sum.failed.len(),
        sum.failed,
        sum.cost
    );
    if options.life {
        println!("life: {}", sum.life);
    }
    if options.until_found {
        println!(
            "found by the first {} seeds",
            sum.passed + sum.failed.len() as u64
        );
    }
    let as_wanted = if options.until_found {
        !sum.failed.is_empty()
    } else {
        sum.void.is_empty() && sum.failed.is_empty()
    };
    if as_wanted {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl Sum {
    fn add(&mut self, seed: u64, code: Option<i32>, printed: &str) {
        if let Some(cost) = printed.lines().find_map(Cost::of_line) {
            self.cost += cost;
        }
        match code {
            Some(0) => {
                self.passed += 1;
                self.life += printed.lines().find_map(Count::of_line).unwrap_or_default();
            }
            Some(code) if code == i32::from(VOID) => self.void.push(seed),
            _ => self.failed.push(seed),
        }
    }
}
