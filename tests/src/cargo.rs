//! Cargo, run by what cargo runs.

use std::process::Command;

/// What cargo says of the running package begins with this.
const OF_A_PACKAGE: [&str; 2] = ["CARGO_PKG_", "CARGO_MANIFEST_"];

/// The cargo that runs this, so that the pinned toolchain is used throughout.
///
/// It isn't told what cargo told this process of its own package. Some build scripts ask for that (ring's does) and would be
/// run anew, with all that hangs on them, whenever a build that this began follows one that a person began.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let named = name.to_string_lossy();
        if OF_A_PACKAGE.iter().any(|prefix| named.starts_with(prefix)) {
            cargo.env_remove(&name);
        }
    }
    cargo
}
