//! What each command of `cargo x` runs. One function for each, in the order of the table in the module above.

use std::path::Path;
use std::process::Command;

use spine_tests::cargo::cargo;

use crate::debian;
use crate::install;
use crate::run::Stage;
use crate::workspace::Workspace;

/// Formatting, lints and documentation, each with warnings as errors.
///
/// The developer's own build only warns: half-done work should compile.
pub(crate) fn check(workspace: &Workspace) -> Vec<Stage> {
    let mut stages = vec![
        Stage::tool("fmt", in_root(workspace, ["fmt", "--all", "--check"])),
        Stage::tool(
            "clippy",
            in_root(
                workspace,
                ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"],
            ),
        ),
    ];
    let targets = workspace.staged_tests();
    if !targets.is_empty() {
        // `--all-targets` leaves out what has `test = false`.
        let mut clippy = in_root(workspace, ["clippy"]);
        clippy
            .args(
                targets
                    .iter()
                    .flat_map(|(package, name)| ["-p", package, "--test", name]),
            )
            .args(["--", "-D", "warnings"]);
        stages.push(Stage::tool("clippy, staged tests", clippy));
    }
    let mut doc = in_root(workspace, ["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    stages.push(Stage::tool("doc", doc));
    stages
}

/// Every Rust test that needs neither network nor privilege; and a program outside the workspace that carries its own
/// registry.
pub(crate) fn test(workspace: &Workspace) -> Vec<Stage> {
    vec![
        Stage::tests(
            "cargo test",
            in_root(workspace, ["test", "--workspace", "--no-fail-fast"]),
        ),
        Stage::tests(
            "embedding",
            in_root(workspace, ["test", "-p", "spine-tests", "--test", "embedding"]),
        ),
    ]
}

/// The Python client's own tests, its wheel among them, and types, in an environment that lies in the target directory.
pub(crate) fn python(workspace: &Workspace) -> Vec<Stage> {
    let package = workspace.root.join("client/python");
    let environment = workspace.target.join("x/python");
    let run = move |arguments: &[&str]| {
        let mut python = Command::new(install::python_package(&environment, &package)?);
        // No bytecode beside the sources: the checkout stays as it is.
        python.arg("-B").args(arguments).current_dir(&package);
        Ok(python)
    };
    let types = workspace.target.join("x/mypy");
    vec![
        Stage::prepared_tests("client/python", {
            let run = run.clone();
            move || run(&["-m", "pytest", "-q"])
        }),
        Stage::prepared("client/python, types", move || {
            let mut mypy = run(&["-m", "mypy"])?;
            mypy.arg("--cache-dir").arg(types);
            Ok(mypy)
        }),
    ]
}

/// What the stages below need of the system.
fn system() -> Stage {
    Stage::prepared("system packages", debian::packages)
}

/// Unmodified clients of others, which the tests install by name from their registries, both tutorials, and the demo.
pub(crate) fn compat(workspace: &Workspace) -> Vec<Stage> {
    vec![staged(
        "compat",
        workspace,
        &["tutorial", "demo", "consul_compat"],
        || Ok(()),
    )]
}

/// Servers of earlier releases, and what they have written, under this one.
pub(crate) fn upgrade(workspace: &Workspace) -> Vec<Stage> {
    vec![staged("upgrade", workspace, &["upgrade"], || Ok(()))]
}

/// Kills, partitions and power cuts. They mount loop devices and cut them off, which only root may do.
pub(crate) fn faults(workspace: &Workspace) -> Vec<Stage> {
    let tests = staged(
        "faults",
        workspace,
        &[
            "powercut_storage",
            "crash",
            "failover",
            "life",
            "slow_disk",
            "starved",
            "runbooks",
        ],
        must_be_root,
    );
    std::iter::once(tests).chain(jepsen(workspace)).collect()
}

/// The harness in `jepsen/`: it proves that it finds errors and that its faults bite, then breaks clusters of three.
fn jepsen(workspace: &Workspace) -> Vec<Stage> {
    let mut nemesis = in_root(workspace, ["test", "-p", "spine-jepsen", "--test", "nemesis"]);
    nemesis.env("SPINE_BIN", binary(&workspace.target));
    let mut build = in_root(workspace, ["build", "--bin", "spine"]);
    let mut stages = vec![
        harness("jepsen, self-test", workspace, &["self-test"]),
        harness("jepsen, doctor", workspace, &["doctor"]),
        Stage::prepared_tests("jepsen, nemesis", move || {
            must_be_root()?;
            install::must(&mut build)?;
            Ok(nemesis)
        }),
    ];
    for fault in ["kill", "pause", "partition", "power_cut"] {
        let name = format!("jepsen under {fault}");
        let arguments = [
            "run",
            "--workload",
            "set,register,watch,append,lock,lease",
            "--time",
            "32s",
            "--fault",
            fault,
        ];
        stages.push(harness(&name, workspace, &arguments));
    }
    stages
}

/// One command of the harness. What it leaves behind is in the target directory.
fn harness(name: &str, workspace: &Workspace, arguments: &[&str]) -> Stage {
    let mut build = in_root(workspace, ["build", "--bin", "spine", "--bin", "spine-jepsen"]);
    let mut run = Command::new(workspace.target.join("debug/spine-jepsen"));
    run.args(arguments).current_dir(&workspace.target);
    run.env("SPINE_BIN", binary(&workspace.target));
    Stage::prepared(name, move || {
        must_be_root()?;
        install::must(&mut build)?;
        Ok(run)
    })
}

fn must_be_root() -> Result<(), String> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err("needs root: it makes namespaces, mounts ext4 images and cuts their power".to_owned())
    }
}

/// Seeds of the simulation that are run in CI: as many as a few minutes hold, and those behind them that found something
/// once (the clock of a deposed leader, entries that a failed log never held) or were void.
const SEEDS: &str = "1..101,108,200,890,968";

/// Those that are run while members come and go, and those that found something once (members that had all moved).
const LIVELY_SEEDS: &str = "1..41,531,576";

/// The simulation, and the proof that it repeats.
pub(crate) fn sim(workspace: &Workspace) -> Vec<Stage> {
    let mut test = simulated(workspace, ["test", "--profile", "sim", "-p", "spine-tests"]);
    test.args(["--test", "sim_repeats"]);
    let seeds = ["--seeds", SEEDS].map(str::to_owned);
    let lively = ["--life", "--seeds", LIVELY_SEEDS].map(str::to_owned);
    let mut stages = vec![Stage::tests("sim, repetition", test)];
    stages.extend(simulate(workspace, &seeds));
    stages.extend(simulate(workspace, &lively));
    stages
}

/// The seeds that these arguments name.
pub(crate) fn simulate(workspace: &Workspace, arguments: &[String]) -> Vec<Stage> {
    let mut run = simulated(workspace, ["run", "--profile", "sim", "-p", "spine-tests"]);
    run.args(["--bin", "sim", "--"]).args(arguments);
    vec![Stage::tool("sim", run)]
}

/// A simulation is built in a directory of its own: its flag would otherwise have everything built anew by turns.
fn simulated<const N: usize>(workspace: &Workspace, arguments: [&str; N]) -> Command {
    let mut command = in_root(workspace, arguments);
    command.arg("--target-dir").arg(workspace.target.join("sim"));
    command.env("RUSTFLAGS", "--cfg tokio_unstable");
    command
}

/// What a node costs, measured on the release build.
pub(crate) fn bench(workspace: &Workspace, arguments: &[String]) -> Vec<Stage> {
    let mut run = in_root(
        workspace,
        ["run", "--release", "-p", "spine-tests", "--bin", "bench", "--"],
    );
    run.args(arguments)
        .env("SPINE_BIN", workspace.target.join("release/spine"));
    let mut build = in_root(workspace, ["build", "--release", "--bin", "spine"]);
    vec![Stage::prepared("bench", move || {
        install::must(&mut build)?;
        Ok(run)
    })]
}

/// Whether the measurements go through at all, on the debug build.
fn bench_smoke(workspace: &Workspace) -> [Stage; 2] {
    let smoke = |name: &str, arguments: &[&str]| {
        let mut run = in_root(workspace, ["run", "-p", "spine-tests", "--bin", "bench", "--"]);
        run.args(arguments).arg("--smoke");
        run.env("SPINE_BIN", binary(&workspace.target));
        let mut build = in_root(workspace, ["build", "--bin", "spine"]);
        Stage::prepared(name, move || {
            install::must(&mut build)?;
            Ok(run)
        })
    };
    [
        smoke("bench, for errors", &[]),
        smoke("bench --scale, for errors", &["--scale"]),
    ]
}

/// All of the above; of the measurements only whether they go through.
pub(crate) fn ci(workspace: &Workspace) -> Vec<Stage> {
    let stages = [check, test, python, compat, upgrade, faults, sim];
    let stages = stages.into_iter().flat_map(|stages| stages(workspace));
    std::iter::once(system())
        .chain(stages)
        .chain(bench_smoke(workspace))
        .collect()
}

/// Tests that run against the built binary: build it, get ready, then run the named test targets.
fn staged(
    name: &'static str,
    workspace: &Workspace,
    tests: &[&str],
    prepare: impl FnOnce() -> Result<(), String> + 'static,
) -> Stage {
    let mut build = in_root(workspace, ["build", "--bin", "spine"]);
    let mut run = in_root(workspace, ["test", "-p", "spine-tests", "--no-fail-fast"]);
    run.args(tests.iter().flat_map(|test| ["--test", test]));
    run.env("SPINE_BIN", binary(&workspace.target));
    Stage::prepared_tests(name, move || {
        prepare()?;
        install::must(&mut build)?;
        Ok(run)
    })
}

fn binary(target: &Path) -> std::path::PathBuf {
    target.join("debug/spine")
}

fn in_root<const N: usize>(workspace: &Workspace, arguments: [&str; N]) -> Command {
    let mut command = cargo();
    command.args(arguments).current_dir(&workspace.root);
    command
}
