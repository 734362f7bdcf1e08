//! The tree of commands and options.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::balance::settings::Policy;
use crate::cli::admin::{BackendArgs, EventsArgs, LatencyArgs, SessionArgs, StatusArgs};
use crate::cli::{Command, Exit};
use crate::config::{
    Admin, Bind, Config, DEFAULT_FILE, Error, FlagBackend, Flags, Overrides, Problem, Workers, notation, value,
};

/// Commands and options that are known and not yet served.
const LATER: &[&str] = &["reload", "diff", "--against-running"];

/// A Layer-4 TCP load balancer on io_uring
#[derive(Debug, Parser)]
#[command(name = "ringlb", version, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong usage.")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Load-balance until told to stop
    #[command(after_help = ADDRESSES)]
    Run(Run),
    /// Run three small HTTP backends and a balancer before them, to play with
    #[command(after_help = ADDRESSES)]
    Demo {
        /// Where the balancer accepts clients
        #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = notation::bind)]
        listen: Bind,
        /// Worker threads, or "auto" for one on each CPU that this process may use
        #[arg(long, value_name = "N", value_parser = value::workers_text)]
        workers: Option<Workers>,
    },
    /// Tell what is wrong with a configuration file: line, column, key and what to do; binds nothing
    Check {
        /// The configuration file
        #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
        config: PathBuf,
    },
    /// Show what a running ringlb does: its listeners, pools and backends
    Status(StatusArgs),
    /// List and change the backends of a running ringlb
    Backend(BackendArgs),
    /// List and end the sessions of a running ringlb
    Session(SessionArgs),
    /// Show how long clients of a running ringlb wait, as percentiles
    Latency(LatencyArgs),
    /// Show what has happened to a running ringlb: ejections, checks, changes
    Events(EventsArgs),
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, as in `ringlb man | man -l -`
    Man,
}

const ADDRESSES: &str = "ADDR is 127.0.0.1:80, [::1]:80 or unix:/path; to listen on also :80 (all addresses of this \
                         machine), and port 0 is any free one; to connect to also host:80 (looked up).";

#[derive(Debug, clap::Args)]
struct Run {
    /// The configuration file [default: /etc/ringlb/ringlb.toml, unless --listen says what to do]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Accept clients on this address, without a file; may be repeated
    #[arg(long, value_name = "ADDR", value_parser = notation::bind)]
    listen: Vec<Bind>,
    /// Pass clients on to this address; may be repeated
    #[arg(long, value_name = "ADDR[,weight=N][,backup]", value_parser = FlagBackend::parse)]
    backend: Vec<FlagBackend>,
    /// How a backend is chosen: least_connections (without the option), round_robin, random_two, source_hash or first
    #[arg(long, value_name = "NAME", value_parser = value::policy)]
    policy: Option<Policy>,
    /// Worker threads, or "auto" for one on each CPU that this process may use; counts for more than the file
    #[arg(long, value_name = "N", value_parser = value::workers_text)]
    workers: Option<Workers>,
    /// Serve /metrics and /ready on this address; counts for more than the file
    #[arg(long, value_name = "ADDR", value_parser = notation::bind)]
    metrics: Option<Bind>,
    /// Serve the admin API on this unix socket; counts for more than the file. "" = nowhere
    #[arg(long, value_name = "PATH", env = "RINGLB_ADMIN", value_parser = admin)]
    admin: Option<Admin>,
}

/// See [`crate::cli::parse`].
pub fn parse(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Command, Exit> {
    let args = Args::try_parse_from(args).map_err(|error| Exit::Usage(Box::new(explained(error))))?;
    match args.verb {
        Verb::Run(run) => run.command(),
        Verb::Demo { listen, workers } => Ok(Command::Demo { listen, workers }),
        Verb::Status(args) => Ok(Command::Status(args)),
        Verb::Backend(args) => Ok(Command::Backend(args)),
        Verb::Session(args) => Ok(Command::Session(args)),
        Verb::Latency(args) => Ok(Command::Latency(args)),
        Verb::Events(args) => Ok(Command::Events(args)),
        Verb::Completions { shell } => Ok(Command::Text(completions(shell))),
        Verb::Man => manual().map(Command::Text),
        Verb::Check { config } => Ok(Command::Check { file: config }),
    }
}

impl Run {
    fn command(self) -> Result<Command, Exit> {
        let overrides = Overrides { workers: self.workers, metrics: self.metrics, admin: self.admin };
        let without_file = [
            ("--listen", !self.listen.is_empty()),
            ("--backend", !self.backend.is_empty()),
            ("--policy", self.policy.is_some()),
        ];
        let without_file = without_file.into_iter().find(|(_, given)| *given).map(|(option, _)| option);
        let checked = match (self.config, without_file) {
            (Some(_), Some(option)) => {
                let why = "the file says already what is listened on and who serves; use one or the other";
                return Err(usage(
                    ErrorKind::ArgumentConflict,
                    format!("{option} cannot be combined with --config: {why}"),
                ));
            }
            (None, Some(option)) if self.listen.is_empty() => {
                let why = "without it no client is accepted; add --listen ADDR";
                return Err(usage(ErrorKind::MissingRequiredArgument, format!("{option} needs --listen: {why}")));
            }
            (None, Some(_)) => {
                let flags = Flags { listen: self.listen, backends: self.backend, policy: self.policy, overrides };
                // What was typed is wrong, so this is wrong usage, and not a failure.
                Config::from_flags(&flags).map_err(Exit::Misused)?
            }
            (file, None) => {
                let file = file.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
                Config::load(&file, &overrides).map_err(|error| match error {
                    Error::Faults(faults) => Exit::Faults(faults),
                    error => Exit::Failed(error.to_string()),
                })?
            }
        };
        Ok(Command::Run(Box::new(checked)))
    }
}

fn completions(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "ringlb", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The page of the program, and behind it those of its commands.
fn manual() -> Result<String, Exit> {
    fn render(command: &clap::Command, text: &mut Vec<u8>) -> std::io::Result<()> {
        clap_mangen::Man::new(command.clone()).render(text)?;
        command.get_subcommands().filter(|one| one.get_name() != "help").try_for_each(|one| render(one, text))
    }
    let mut command = Args::command();
    command.build();
    let mut text = Vec::new();
    render(&command, &mut text).map_err(|error| Exit::Failed(format!("the manual cannot be written: {error}")))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Where the admin API is to be: on the command line, a path may begin where the shell is.
fn admin(text: &str) -> Result<Admin, Problem> {
    if text.is_empty() {
        return Ok(Admin::Off);
    }
    let path = std::path::absolute(text).ok().and_then(|path| path.into_os_string().into_string().ok());
    value::admin(path.as_deref().unwrap_or(text))
}

fn usage(kind: ErrorKind, sentence: String) -> Exit {
    let mut command = Args::command();
    command.build();
    let run = command.find_subcommand_mut("run").map(|run| run.error(kind, &sentence));
    Exit::Usage(Box::new(run.unwrap_or_else(|| command.error(kind, &sentence))))
}

/// Says of a command or option that is still to come that it is, and not that nobody has heard of it.
fn explained(error: clap::Error) -> clap::Error {
    let context = match error.kind() {
        ErrorKind::InvalidSubcommand => ContextKind::InvalidSubcommand,
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        _ => return error,
    };
    let Some(ContextValue::String(typed)) = error.get(context) else { return error };
    let Some(later) = LATER.iter().find(|later| *later == typed) else { return error };
    let sentence = format!("`{later}` is not yet served by this version; `ringlb --help` lists what is");
    Args::command().error(error.kind(), sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::backend::Backend;

    #[test]
    fn the_tree_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn options_alone_run_without_a_file() {
        let args = ["ringlb", "run", "--listen", ":80", "--listen", "unix:/x", "--backend", "127.0.0.1:1,weight=2"];
        let more = ["--backend", "127.0.0.1:2", "--policy", "round_robin", "--workers", "3", "--metrics", ":9090"];
        let Ok(Command::Run(checked)) = parse(args.into_iter().chain(more)) else { panic!("these are right") };
        let (config, pool) = (&checked.config, &checked.config.pools()[0]);
        assert_eq!(config.listeners()[0].bind.len(), 2);
        let weights: Vec<u32> = pool
            .backends
            .iter()
            .map(|backend| match backend {
                Backend::Fixed(settings) => settings.weight.as_u32(),
                Backend::Named(_) => panic!("{backend:?}"),
            })
            .collect();
        assert_eq!((weights.as_slice(), pool.settings.policy), (&[2, 1][..], Policy::RoundRobin));
        assert_eq!(config.workers(), value::workers_text("3").unwrap());
        assert_eq!(config.metrics(), Some(&Bind::AllAddresses(9090)));
    }

    #[test]
    fn a_demo_listens_where_it_is_told_or_on_8080() {
        for (args, expected) in
            [(&["ringlb", "demo"][..], "127.0.0.1:8080"), (&["ringlb", "demo", "--listen", ":1"], ":1")]
        {
            let Ok(Command::Demo { listen, workers: None }) = parse(args) else { panic!("{args:?}") };
            assert_eq!(listen.to_string(), expected);
        }
    }

    #[test]
    fn what_comes_later_is_not_served_now() {
        let command = Args::command();
        for later in LATER {
            assert!(command.find_subcommand(later).is_none(), "{later} is served");
        }
    }
}
