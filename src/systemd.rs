//! What a service manager is told over `NOTIFY_SOCKET` (sd_notify(3)). Without that variable nobody is told anything.
//!
//! The variable is left in the environment: this process has no children that could inherit it.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

/// Whether somebody listens.
pub fn is_listening() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Every address is bound and every worker runs, or a reload is over. `status` is a line for people.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being loaded again; [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager cannot be told of the reload"),
    }
}

/// No client is taken any more. The end may take so long, for which the manager's own timeout is extended.
pub fn stopping(status: &str, within: Duration) {
    let within = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::Status(status), NotifyState::ExtendTimeoutUsec(within)]);
}

/// A line for people, as `systemctl status` shows it.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Everything turns.
pub fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

/// How long the manager waits for a [`watchdog`] before it kills this process; `None`: for ever.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

fn tell(states: &[NotifyState<'_>]) {
    let result: io::Result<()> = sd_notify::notify(states);
    if let Err(error) = result {
        tracing::warn!(%error, "the service manager cannot be told over NOTIFY_SOCKET");
    }
}
