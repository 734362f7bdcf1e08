//! The command line: what was typed becomes a [`Command`], a command becomes a call, its end an exit code.
//!
//! There is no behaviour here. Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong usage.

mod admin;
mod args;
mod check;
mod demo;
mod log;
mod output;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Bind, Checked, Workers};
use crate::server;

pub use admin::{BackendArgs, EventsArgs, LatencyArgs, SessionArgs, StatusArgs};
pub use output::Exit;

/// What the person wants, with everything that could be checked without doing it.
#[derive(Debug)]
pub enum Command {
    /// `ringlb run`: balance until told to stop. The warnings have not been shown yet.
    Run(Box<Checked>),
    /// `ringlb check`: tell what is wrong with a file.
    Check {
        /// The file.
        file: PathBuf,
    },
    /// `ringlb status`: what a running one does.
    Status(StatusArgs),
    /// `ringlb backend`: the backends of a running one.
    Backend(BackendArgs),
    /// `ringlb session`: the sessions of a running one.
    Session(SessionArgs),
    /// `ringlb latency`: how long clients of a running one wait.
    Latency(LatencyArgs),
    /// `ringlb events`: what happens to a running one.
    Events(EventsArgs),
    /// `ringlb completions` and `ringlb man`: a text about the commands.
    Text(String),
    /// `ringlb demo`: three small backends and a balancer before them.
    Demo {
        /// Where the balancer listens.
        listen: Bind,
        /// How many workers; `None`: as without the option.
        workers: Option<Workers>,
    },
}

/// Does what the arguments of this process say.
pub fn main() -> ExitCode {
    match parse(std::env::args_os()).and_then(execute) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => exit.show(),
    }
}

/// Reads the arguments, the first of which is the program's own name. `run` reads its file here too.
///
/// # Errors
/// There is nothing to do but to show something: help, wrong usage, or what is wrong with the configuration.
pub fn parse(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Command, Exit> {
    args::parse(args)
}

fn execute(command: Command) -> Result<(), Exit> {
    match command {
        Command::Check { file } => check::run(&file),
        Command::Run(checked) => {
            log::start(&checked)?;
            server::run(&checked.config, |_| {}).map_err(failed)
        }
        Command::Status(args) => args.run(),
        Command::Backend(args) => args.run(),
        Command::Session(args) => args.run(),
        Command::Latency(args) => args.run(),
        Command::Events(args) => args.run(),
        Command::Text(text) => output::print(&text),
        Command::Demo { listen, workers } => demo::run(listen, workers),
    }
}

fn failed(error: server::Error) -> Exit {
    Exit::Failed(error.to_string())
}
