//! Why the server could not start, or had to stop.

use std::io;
use std::net::IpAddr;

use crate::engine::listener::ListenError;
use crate::engine::ring::SetupError;
use crate::errno::Errno;
use crate::limits::{FAILURES_MAX, FAILURES_WINDOW};

/// Why the server could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine cannot be had.
    #[error(transparent)]
    Engine(#[from] SetupError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The metrics address cannot be listened on.
    #[error("cannot listen on {address} for metrics: {source}; choose another address with `metrics` or --metrics")]
    Metrics {
        /// Which.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// Connections cannot come from an address.
    #[error(
        "pool `{pool}`: cannot connect from {address} ({errno}): `source` must be an address of this host; \
         `ip address` shows which it has"
    )]
    Source {
        /// The pool.
        pool: String,
        /// From where.
        address: IpAddr,
        /// What the kernel said.
        errno: Errno,
    },
    /// The admin API cannot be served where it must be.
    #[error(transparent)]
    Admin(#[from] crate::control::admin::socket::Error),
    /// The access log cannot be opened.
    #[error(transparent)]
    AccessLog(#[from] crate::files::OpenError),
    /// Live edits cannot be kept where they must be.
    #[error("cannot keep live edits in {}: {source}", path.display())]
    StateFile {
        /// In which file.
        path: std::path::PathBuf,
        /// Why not.
        source: crate::files::state::OpenError,
    },
    /// The configuration's backends cannot be a set.
    #[error(transparent)]
    Backends(#[from] crate::balance::SetError),
    /// Something that every process needs was refused.
    #[error("cannot start: {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The table of metrics is wrong, which a test rules out.
    #[error("the metrics cannot be set up: {0}")]
    Numbers(String),
    /// A thread has failed before everything ran.
    #[error("{thread} has failed at the start: {why}. Please report this")]
    Thread {
        /// Which.
        thread: String,
        /// What it said.
        why: String,
    },
    /// Threads have failed too often.
    #[error(
        "{thread} has failed: {why}. That was failure {} within {} s: the other threads were drained. Restart ringlb and \
         report this",
        FAILURES_MAX,
        FAILURES_WINDOW.as_secs()
    )]
    GivenUp {
        /// Which was the last.
        thread: String,
        /// What it said.
        why: String,
    },
}

pub(super) fn interrupted() -> Error {
    Error::System { what: "interrupted", source: io::ErrorKind::Interrupted.into() }
}

pub(super) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}
