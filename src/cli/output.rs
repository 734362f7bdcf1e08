//! What people see when a command ends, and the exit code that goes with it.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use crate::config::{Faults, Severity};

/// Why a command ended without having done its work, or with nothing to do but to show something.
#[derive(Debug)]
pub enum Exit {
    /// Help, the version, or wrong usage, in clap's form.
    Usage(Box<clap::Error>),
    /// Options that do not fit together.
    Misused(Faults),
    /// A configuration that cannot be used.
    Faults(Faults),
    /// What failed, why, and what to do.
    Failed(String),
}

impl Exit {
    /// Shows it, and gives the exit code.
    pub fn show(&self) -> ExitCode {
        match self {
            Exit::Usage(error) => show_usage(error),
            Exit::Misused(faults) => {
                complain(&faults.render(colour()));
                ExitCode::from(2)
            }
            Exit::Faults(faults) => {
                complain(&format!("{}{}\n", faults.render(colour()), summary(faults)));
                ExitCode::FAILURE
            }
            Exit::Failed(reason) => {
                complain(&format!("ringlb: {reason}\n"));
                ExitCode::FAILURE
            }
        }
    }
}

/// Writes to standard output. A reader who has left (`ringlb ... | head`) is no failure.
///
/// # Errors
/// The output cannot be written, as on a full disk.
pub fn print(text: &str) -> Result<(), Exit> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Exit::Failed(format!("standard output cannot be written: {error}; check where it leads to")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes to standard error.
pub fn complain(text: &str) {
    match io::stderr().lock().write_all(text.as_bytes()) {
        // Where standard error is gone nobody can be told; the exit code still says it.
        Ok(()) | Err(_) => {}
    }
}

/// Whether standard error shows colours.
pub fn colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// How many errors and warnings, in words.
pub fn summary(faults: &Faults) -> String {
    let counted = |severity, name: &str| match faults.count(severity) {
        0 => None,
        1 => Some(format!("1 {name}")),
        count => Some(format!("{count} {name}s")),
    };
    let counts = [counted(Severity::Error, "error"), counted(Severity::Warning, "warning")];
    counts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn show_usage(error: &clap::Error) -> ExitCode {
    match error.print() {
        Err(failed) if failed.kind() != ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Ok(()) | Err(_) if error.use_stderr() => ExitCode::from(2),
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}
