//! The proxies that are compared: how each is configured and started.

mod haproxy;
mod nginx;
mod proxy;
mod ringlb;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use proxy::{Proxy, launch, pin};

/// Why a proxy could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Its program is not there.
    #[error("there is no program {program}; {hint}")]
    Missing {
        /// What was looked for.
        program: String,
        /// What to do.
        hint: &'static str,
    },
    /// It ended instead of serving.
    #[error("it ended at its start ({status}); it said:\n{log}")]
    Died {
        /// Its exit status.
        status: String,
        /// The end of its output.
        log: String,
    },
    /// It runs, but does not relay.
    #[error("it did not relay a request within {seconds} s ({reason}); it said:\n{log}")]
    Silent {
        /// The deadline.
        seconds: u64,
        /// What the last attempt came to.
        reason: String,
        /// The end of its output.
        log: String,
    },
    /// The machine said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What kind of proxy a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No proxy: clients talk to the backends.
    Direct,
    /// nginx with its stream module.
    Nginx,
    /// HAProxy in TCP mode.
    Haproxy,
    /// This project, of any build.
    Ringlb,
}

/// One of the things compared.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What the tables call it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its program; empty for [`Kind::Direct`].
    pub program: PathBuf,
}

/// What a proxy is to do.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Where it connects to.
    pub backends: Vec<SocketAddr>,
    /// Worker processes or threads.
    pub workers: usize,
    /// Client connections it must be able to hold at once.
    pub connections: usize,
    /// What its buffers are tuned for.
    pub tuning: Tuning,
}

/// What the buffers of those peers that let one choose are set for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tuning {
    /// Small messages, short connections.
    Messages,
    /// Flows.
    Bulk,
    /// Many connections at rest.
    Memory,
}

impl Peer {
    /// The command line that starts the peer in the foreground, its configuration written into `directory`.
    ///
    /// # Errors
    /// The program or a part of it is missing, or the directory cannot be written.
    pub fn command(&self, setup: &Setup, directory: &Path) -> Result<Vec<OsString>, PeerError> {
        match self.kind {
            Kind::Direct => Ok(Vec::new()),
            Kind::Nginx => nginx::command(self, setup, directory),
            Kind::Haproxy => haproxy::command(self, setup, directory),
            Kind::Ringlb => ringlb::command(self, setup, directory),
        }
    }

    /// What the program says its version is; for the report.
    pub fn version(&self) -> String {
        let flag = match self.kind {
            Kind::Direct => return "no proxy".to_owned(),
            Kind::Nginx | Kind::Haproxy => "-v",
            Kind::Ringlb => "--version",
        };
        let output = match std::process::Command::new(&self.program).arg(flag).output() {
            Ok(output) => output,
            Err(error) => return format!("unknown ({error})"),
        };
        // nginx tells its version on standard error.
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").trim().to_owned()
    }
}

impl PeerError {
    fn io(what: &'static str) -> impl FnOnce(io::Error) -> PeerError {
        move |source| PeerError::Io { what, source }
    }

    fn missing(program: &Path, hint: &'static str) -> PeerError {
        PeerError::Missing { program: program.display().to_string(), hint }
    }
}
