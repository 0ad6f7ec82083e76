//! What a server says of itself: its log, and its metrics.
//!
//! The log goes to standard error, one line an event, as text or as JSON; `RUST_LOG` filters it. [`metrics`] holds
//! every series in one table; [`count`] counts what comes in over the ports; [`recent`] keeps the newest lines for a report.

pub mod count;
pub mod metrics;
pub mod recent;

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use self::recent::Recent;
use crate::config::LogFormat;

/// The log is the process's, and so are its newest lines.
static RECENT: OnceLock<Recent> = OnceLock::new();

/// The newest lines of this process's log, the oldest first; none if it was not begun here.
pub fn recent_lines() -> Vec<String> {
    RECENT.get().map(Recent::lines).unwrap_or_default()
}

/// What is logged when `RUST_LOG` says nothing: what an operator can act on. openraft tells of each election at info, and
/// of a server that is away with each heartbeat: the leader says it once, when it calls the roll.
const FILTER: &str = "info,openraft=warn,openraft::core::heartbeat=error,openraft::replication=error,\
                      openraft::engine::handler::replication_handler=error,sled=warn,h2=warn,hyper=warn";

/// Begins to log. The first call in a process counts.
///
/// # Errors
/// `RUST_LOG` is not a filter.
pub fn init_logging(format: LogFormat) -> Result<(), InvalidFilter> {
    let filter = match std::env::var(EnvFilter::DEFAULT_ENV) {
        Ok(said) if !said.is_empty() => EnvFilter::try_new(&said).map_err(|source| InvalidFilter {
            said,
            problem: source.to_string(),
        })?,
        _ => EnvFilter::new(FILTER),
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let recent = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(RECENT.get_or_init(Recent::default).clone());
    let registry = tracing_subscriber::registry().with(filter).with(recent);
    // Tests start several servers in one process; the log that is there already is good enough then.
    let _ = match format {
        LogFormat::Text => registry
            .with(layer.with_ansi(io::stderr().is_terminal()))
            .try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    Ok(())
}

/// `RUST_LOG` is not a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("RUST_LOG={said:?}: {problem}")]
pub struct InvalidFilter {
    said: String,
    problem: String,
}
