//! Log lines on standard error, as the configuration wants them.

use std::io;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::cli::Exit;
use crate::cli::output::colour;
use crate::config::{Checked, LogFormat};

/// Starts logging, and logs what is odd about the configuration.
///
/// # Errors
/// Logging was started before.
pub fn start(checked: &Checked) -> Result<(), Exit> {
    let config = &checked.config;
    // Where standard error is gone a line is lost, and the process goes on: the default would panic over it.
    let layer = fmt::layer().with_writer(io::stderr).with_ansi(colour()).log_internal_errors(false);
    let layer = match config.log_format() {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_ansi(false).boxed(),
    };
    let filtered = layer.with_filter(config.log().targets().clone());
    let started = tracing_subscriber::registry().with(filtered).try_init();
    started.map_err(|error| Exit::Failed(format!("logging cannot be started: {error}")))?;
    for warning in checked.warnings.one_a_line() {
        tracing::warn!("{warning}");
    }
    Ok(())
}
