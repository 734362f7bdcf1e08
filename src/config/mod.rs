//! The configuration: read from a file or from the command line, checked once, and valid from then on.
//!
//! A text goes through `file` (what was typed), `check` with `value` and `notation` (what it means) and `relations`
//! (whether its parts fit together), and comes out as a [`Config`], which nobody can change or needs to check again.

pub mod access;
pub mod backend;
mod check;
pub mod compare;
mod fault;
mod file;
mod flags;
pub mod health;
pub mod keys;
pub mod networks;
pub mod notation;
mod queue;
mod relations;
mod source;
mod state;
mod trusted;
pub mod value;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::filter::{LevelFilter, Targets};

use crate::address::Address;
use crate::balance::settings::{BackendSettings, PoolSettings};
use crate::limits::CONFIG_BYTES_MAX;
use crate::relay::WhenNone;
use crate::wire::proxy::Version;

pub use fault::{At, Fault, Faults, Problem, Severity};
pub use flags::{FlagBackend, Flags, Overrides};
pub use networks::Networks;

use access::Access;
use backend::Backend;
use health::Health;

/// The file that is read where none is named.
pub const DEFAULT_FILE: &str = "/etc/ringlb/ringlb.toml";

/// Everything that one start or reload is told: valid, and immutable for those who get it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    general: General,
    listeners: Vec<Listener>,
    pools: Vec<Pool>,
    /// The file that it was read from, with what the command line said beside it.
    origin: Option<Origin>,
}

/// What a configuration was read from, so that it can be read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file, from the root of the file system.
    pub file: PathBuf,
    /// What counts for more than it.
    pub overrides: Overrides,
}

#[derive(Clone, Debug, PartialEq)]
struct General {
    workers: Workers,
    max_connections: Option<NonZeroU32>,
    shutdown_delay: Duration,
    shutdown_timeout: Duration,
    log: LogFilter,
    log_format: LogFormat,
    metrics: Option<Bind>,
    resolvers: Vec<SocketAddr>,
    backend_series_max: u32,
    admin: Admin,
    admin_mode: u32,
    state_file: Option<PathBuf>,
    access_log: AccessLog,
}

/// The log of sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AccessLog {
    /// Where it goes; `None`: there is none.
    target: Option<LogTarget>,
    /// Whether it has a line for a session's start.
    start: bool,
}

/// Where the log of sessions goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// To standard output.
    StandardOutput,
    /// To the end of this file.
    File(PathBuf),
}

/// Where the socket of the admin API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admin {
    /// At the first of the usual places where it can be made; where there is none, it is not served.
    Usual,
    /// Nowhere.
    Off,
    /// Here, or the process does not start.
    At(PathBuf),
}

/// A configuration that can be used, and what is odd about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// Warnings only.
    pub warnings: Faults,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("{}: the configuration cannot be read: {source}; {}", path.display(), read_help(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is larger than [`CONFIG_BYTES_MAX`].
    #[error(
        "{}: the configuration is larger than {CONFIG_BYTES_MAX} bytes, which no configuration is; \
         check that this is the right file",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The configuration is wrong.
    #[error("{0}")]
    Faults(Faults),
}

impl Config {
    /// Reads and checks a file. `overrides` of the command line count for more than what it says.
    ///
    /// # Errors
    /// The file cannot be read, or at least one thing in it is an error.
    pub fn load(path: &Path, overrides: &Overrides) -> Result<Checked, Error> {
        let name = path.display().to_string();
        let bytes = read_bounded(path)?;
        match String::from_utf8(bytes) {
            Ok(text) => {
                let mut checked = Config::parse(&name, &text, overrides).map_err(Error::Faults)?;
                let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
                checked.config.origin = Some(Origin { file, overrides: overrides.clone() });
                Ok(checked)
            }
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let problem = Problem::new(
                    "this byte is not UTF-8",
                    "the configuration is TOML, and TOML is UTF-8 text",
                    "save the file as UTF-8",
                );
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                Err(Error::Faults(Faults::new(name, text, vec![Fault::error(At::Bytes(at..at + 1), problem)])))
            }
        }
    }

    /// Checks the text of a file; `name` is what its faults call it.
    ///
    /// # Errors
    /// All faults, where at least one is an error.
    pub fn parse(name: &str, text: &str, overrides: &Overrides) -> Result<Checked, Faults> {
        let mut faults = Vec::new();
        let config = file::read(text, &mut faults).and_then(|root| check::check(&root, overrides, &mut faults));
        checked(config, Faults::new(name, text, faults))
    }

    /// Makes a configuration of the command line alone: one listener and one pool, both called `default`.
    ///
    /// # Errors
    /// All faults, where at least one is an error.
    pub fn from_flags(flags: &Flags) -> Result<Checked, Faults> {
        let mut faults = Vec::new();
        let config = flags::config(flags, &mut faults);
        checked(config, Faults::new("command line", "", faults))
    }

    /// How many worker threads.
    pub const fn workers(&self) -> Workers {
        self.general.workers
    }

    /// Sessions of the whole process at most; `None`: computed from the descriptors that it may open.
    pub const fn max_connections(&self) -> Option<NonZeroU32> {
        self.general.max_connections
    }

    /// How long accepting goes on after the signal to stop.
    pub const fn shutdown_delay(&self) -> Duration {
        self.general.shutdown_delay
    }

    /// How long sessions may last once accepting has ended.
    pub const fn shutdown_timeout(&self) -> Duration {
        self.general.shutdown_timeout
    }

    /// Which log lines are wanted.
    pub const fn log(&self) -> &LogFilter {
        &self.general.log
    }

    /// The form of log lines.
    pub const fn log_format(&self) -> LogFormat {
        self.general.log_format
    }

    /// Where `/metrics`, `/ready` and `/health` are served; `None`: nowhere.
    pub const fn metrics(&self) -> Option<&Bind> {
        self.general.metrics.as_ref()
    }

    /// How many backends have series of their own in the metrics; the others are summed up.
    pub const fn backend_series_max(&self) -> usize {
        self.general.backend_series_max as usize
    }

    /// The name servers that host names are looked up with; where there is none, the system's are.
    pub fn resolvers(&self) -> &[SocketAddr] {
        &self.general.resolvers
    }

    /// Where the socket of the admin API is.
    pub const fn admin(&self) -> &Admin {
        &self.general.admin
    }

    /// The permissions of that socket.
    pub const fn admin_mode(&self) -> u32 {
        self.general.admin_mode
    }

    /// The file that keeps live edits over a restart; `None`: they are lost with the process.
    pub fn state_file(&self) -> Option<&Path> {
        self.general.state_file.as_deref()
    }

    /// Where the log of sessions goes; `None`: there is none.
    pub const fn access_log(&self) -> Option<&LogTarget> {
        self.general.access_log.target.as_ref()
    }

    /// Whether that log has a line for a session's start.
    pub const fn access_log_start(&self) -> bool {
        self.general.access_log.start
    }

    /// The file that it was read from; `None`: it was made of the command line alone.
    pub const fn origin(&self) -> Option<&Origin> {
        self.origin.as_ref()
    }

    /// The listeners, at least one, in the order of the file; their names differ.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// The pools, in the order of the file; their names differ.
    pub fn pools(&self) -> &[Pool] {
        &self.pools
    }

    /// The pool of that name. There is one for each [`Listener::pool`].
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.settings.name == name)
    }
}

impl Origin {
    /// Reads and checks it again.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load(&self) -> Result<Checked, Error> {
        // Reading a pipe may last for ever, which a start may take and a running process may not.
        if std::fs::metadata(&self.file).is_ok_and(|found| !found.is_file()) {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file");
            return Err(Error::Read { path: self.file.clone(), source });
        }
        Config::load(&self.file, &self.overrides)
    }

    /// Checks `text`, as if it stood in the file.
    ///
    /// # Errors
    /// All faults, where at least one is an error.
    pub fn parse(&self, text: &str) -> Result<Checked, Error> {
        let mut checked =
            Config::parse(&self.file.display().to_string(), text, &self.overrides).map_err(Error::Faults)?;
        checked.config.origin = Some(self.clone());
        Ok(checked)
    }
}

/// Addresses to accept clients on, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// At least one; no two of the configuration overlap.
    pub bind: Vec<Bind>,
    /// The name of the pool that serves its clients.
    pub pool: String,
    /// Its sessions at most; `None`: only the process's limit counts.
    pub max_connections: Option<NonZeroU32>,
    /// Sessions of one client at most; `None`: no limit.
    pub max_connections_per_client: Option<NonZeroU32>,
    /// How many clients it accepts in a second; `None`: as many as come.
    pub accept_rate: Option<AcceptRate>,
    /// Who may be its client.
    pub access: Access,
    /// A session without a byte either way for so long ends; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A session lasts so long at most; `None`: for ever.
    pub max_session_duration: Option<Duration>,
    /// TCP keepalive on the clients' side, whole seconds; `None`: off.
    pub keepalive: Option<Duration>,
    /// A peer that acknowledges nothing and is not heard of for so long is given up; `None`: never.
    pub dead_peer_timeout: Option<Duration>,
    /// Clients that may wait to be accepted, for each of its sockets.
    pub backlog: NonZeroU32,
    /// Its clients are these proxies, and tell who theirs are; `None`: they tell nothing.
    pub accept_proxy_protocol: Option<Networks>,
}

/// How fast clients are accepted.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct AcceptRate {
    /// So many in a second.
    pub per_second: NonZeroU32,
    /// So many at once, after a quiet time.
    pub burst: NonZeroU32,
}

/// Backends, and how one is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// What is told of the pool itself.
    pub settings: PoolSettings,
    /// How long all connects for one client may take together.
    pub connect_budget: Duration,
    /// What a client gets when none of its backends may serve.
    pub when_none: WhenNone,
    /// How long a client may wait for a place while all of its backends are full.
    pub queue_timeout: Duration,
    /// Where connections to its backends come from, in turn; empty: the kernel chooses.
    pub sources: Vec<IpAddr>,
    /// How its backends are told who their clients are; `None`: they are not.
    pub send_proxy_protocol: Option<Version>,
    /// Its active checks; `settings.health` is there as well, or neither.
    pub health: Option<Health>,
    /// Time between two look-ups of a host name.
    pub resolve_interval: Duration,
    /// `max_fails` of the backends that do not say theirs.
    pub max_fails: u32,
    /// `fail_timeout` of the backends that do not say theirs.
    pub fail_timeout: Duration,
    /// Its backends, in the order of the file; their names differ. There may be none.
    pub backends: Vec<Backend>,
}

impl Pool {
    /// What a backend is told where nothing is said of it but its name and address.
    pub fn defaults(&self, name: &str, address: Address) -> BackendSettings {
        BackendSettings {
            max_fails: self.max_fails,
            fail_timeout: self.fail_timeout,
            ..BackendSettings::new(name, address)
        }
    }
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// One address; port 0 is any free one.
    Address(Address),
    /// This port of every address of the machine: an IPv4 socket, and an IPv6 one where there is IPv6.
    AllAddresses(u16),
}

impl Bind {
    /// The addresses of the sockets. Of [`Bind::AllAddresses`] the second, IPv6, may be missing on a host without it,
    /// and where the port is 0 it takes the one that the first has got.
    pub fn addresses(&self) -> Vec<Address> {
        match self {
            Bind::Address(address) => vec![address.clone()],
            Bind::AllAddresses(port) => vec![
                Address::Inet(SocketAddr::from((Ipv4Addr::UNSPECIFIED, *port))),
                Address::Inet(SocketAddr::from((Ipv6Addr::UNSPECIFIED, *port))),
            ],
        }
    }
}

/// As it is written.
impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bind::Address(address) => address.fmt(f),
            Bind::AllAddresses(port) => write!(f, ":{port}"),
        }
    }
}

/// How many worker threads.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One for each CPU that this process may use.
    Auto,
    /// So many.
    Count(NonZeroUsize),
}

/// The form of log lines.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which log lines are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct LogFilter {
    targets: Targets,
}

impl LogFilter {
    /// The levels, from none to all.
    pub const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];

    /// The filter for the subscriber.
    pub const fn targets(&self) -> &Targets {
        &self.targets
    }

    /// A level, and `module=level` for single modules, with commas between. Fails with the part that is neither.
    fn parse(text: &str) -> Result<LogFilter, &str> {
        let mut targets = Targets::new();
        for part in text.split(',').map(str::trim) {
            let (target, name) = part.split_once('=').unwrap_or(("", part));
            let target_fits = target.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':');
            if !LogFilter::LEVELS.contains(&name) || !target_fits || part.starts_with('=') {
                return Err(part);
            }
            let level: LevelFilter = name.parse().map_err(|_| part)?;
            targets = if target.is_empty() { targets.with_default(level) } else { targets.with_target(target, level) };
        }
        Ok(LogFilter { targets })
    }
}

fn checked(config: Option<Config>, faults: Faults) -> Result<Checked, Faults> {
    match config {
        Some(config) if !faults.has_errors() => Ok(Checked { config, warnings: faults }),
        _ => Err(faults),
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
        Ok(_) if bytes.len() as u64 > CONFIG_BYTES_MAX => Err(Error::TooLarge { path: path.to_owned() }),
        Ok(_) => Ok(bytes),
    }
}

fn read_help(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "write that file, or name another with --config FILE",
        io::ErrorKind::PermissionDenied => "let this user read it, or run ringlb as one that may",
        io::ErrorKind::IsADirectory => "name the file in it with --config FILE",
        _ => "check the file and its disk, or name another with --config FILE",
    }
}

#[cfg(test)]
mod tests;
