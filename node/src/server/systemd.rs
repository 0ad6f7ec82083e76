//! Tells systemd how the server does, where systemd started it. Elsewhere this does nothing.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use spine_api::Registry;

/// The server answers from now on.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The server ends, and may take its time.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// As long as this runs, systemd hears twice in each of its periods that the server lives: that its runtime runs tasks
/// and the registry tells its status. Ends at once where systemd does not watch.
pub async fn watchdog(registry: Arc<dyn Registry>) {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut tick = tokio::time::interval((period / 2).max(Duration::from_millis(1)));
    loop {
        tick.tick().await;
        let _ = registry.status();
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd can't be told {state:?}");
    }
}
