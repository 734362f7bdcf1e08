//! `ringlb check`: what is wrong with a file, or in short what it says.

use std::fmt::Write as _;
use std::path::Path;

use crate::cli::admin::against_running;
use crate::cli::output::{colour, complain, print, summary};
use crate::cli::{Exit, Whom};
use crate::config::{Config, Error, Overrides};

/// Checks `file` and shows the outcome: warnings on standard error, the summary on standard output; or instead of the summary
/// what it would change of the one that runs.
///
/// # Errors
/// The file cannot be read or used.
pub fn run(file: &Path, against: Option<&Whom>) -> Result<(), Exit> {
    let checked = Config::load(file, &Overrides::default()).map_err(|error| match error {
        Error::Faults(faults) => Exit::Faults(faults),
        error => Exit::Failed(error.to_string()),
    })?;
    let warnings = match checked.warnings.is_empty() {
        true => String::new(),
        false => format!(" ({})", summary(&checked.warnings)),
    };
    complain(&checked.warnings.render(colour()));
    if let Some(whom) = against {
        return against_running(file, whom);
    }
    print(&format!("{}: ok{warnings}\n{}", file.display(), outline(&checked.config)))
}

/// One line a listener: where it listens, and who serves.
fn outline(config: &Config) -> String {
    let mut outline = String::new();
    for listener in config.listeners() {
        let binds: Vec<String> = listener.bind.iter().map(ToString::to_string).collect();
        let pool = config.pool(&listener.pool).map_or_else(String::new, |pool| {
            let backends = match pool.backends.len() {
                1 => "1 backend".to_owned(),
                count => format!("{count} backends"),
            };
            format!(" ({}, {backends})", pool.settings.policy)
        });
        let line = writeln!(outline, "  {}: {} -> pool {}{pool}", listener.name, binds.join(", "), listener.pool);
        line.unwrap_or_else(|_| unreachable!("a String takes everything"));
    }
    outline
}
