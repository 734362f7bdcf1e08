//! What a service manager is told over `NOTIFY_SOCKET` (sd_notify(3)). Without that variable nobody is told anything.
//!
//! The variable is left in the environment: this process has no children that could inherit it.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::limits::NOTIFY_MAX;

/// Whether somebody listens.
pub fn is_listening() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Every address is bound and every worker runs. `status` is a line for people.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload is over, whatever has come of it.
pub fn reloaded() {
    tell(&[NotifyState::Ready]);
}

/// The configuration is being loaded again; [`reloaded`] ends it.
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
    let mut text = String::new();
    for state in states {
        text += &state.to_string();
        text.push('\n');
    }
    if let Err(error) = send(&text) {
        tracing::warn!(%error, "the service manager cannot be told over NOTIFY_SOCKET");
    }
}

/// One datagram. A manager that does not read holds us up for a moment, and not for ever.
fn send(text: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(NOTIFY_MAX))?;
    socket.send_to_addr(text.as_bytes(), &address)?;
    Ok(())
}
