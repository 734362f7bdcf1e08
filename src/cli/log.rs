//! Log lines on standard error, as the configuration wants them.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io;
use std::panic::PanicHookInfo;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::cli::Exit;
use crate::cli::output::colour;
use crate::config::{Checked, LogFilter, LogFormat};

/// What changes which lines are wanted, while the process runs.
pub type Filter = Handle<Targets, Registry>;

/// Starts logging, and logs what is odd about the configuration.
///
/// # Errors
/// Logging was started before.
pub fn start(checked: &Checked) -> Result<Filter, Exit> {
    let config = &checked.config;
    // Where standard error is gone a line is lost, and the process goes on: the default would panic over it.
    let layer = fmt::layer().with_writer(io::stderr).with_ansi(colour()).log_internal_errors(false);
    let layer = match config.log_format() {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_ansi(false).boxed(),
    };
    let (filter, handle) = reload::Layer::new(config.log().targets().clone());
    let started = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    started.map_err(|error| Exit::Failed(format!("logging cannot be started: {error}")))?;
    std::panic::set_hook(Box::new(log_panic));
    for warning in checked.warnings.one_a_line() {
        tracing::warn!("{warning}");
    }
    Ok(handle)
}

/// From now on other lines are wanted.
pub fn change(filter: &Filter, wanted: &LogFilter) {
    if let Err(error) = filter.reload(wanted.targets().clone()) {
        tracing::error!(%error, "`log` stays as it was");
    }
}

/// A panic is a log line like any other. With RUST_BACKTRACE set it has a backtrace.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let payload = panic.payload();
    let why = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    tracing::error!(
        thread = thread.name().unwrap_or("?"),
        location = panic.location().map(tracing::field::display),
        why,
        backtrace = backtrace.map(tracing::field::display),
        "a thread has panicked; please report this"
    );
}
