//! The access log, from the configuration to the end of the process.

use crate::config::{Config, LogFormat, LogTarget};
use crate::files::{AccessLog, Form, Target};
use crate::limits::ACCESS_LOG_END_MAX;
use crate::server::error::Error;

/// The log that the configuration asks for, if it does.
pub(super) fn open(config: &Config) -> Result<Option<AccessLog>, Error> {
    let target = match config.access_log() {
        Some(LogTarget::StandardOutput) => Target::StandardOutput,
        Some(LogTarget::File(path)) => Target::File(path.clone()),
        None => return Ok(None),
    };
    let form = match config.log_format() {
        LogFormat::Text => Form::Text,
        LogFormat::Json => Form::Json,
    };
    let log = AccessLog::open(target.clone(), form)?;
    tracing::info!(%target, "access log");
    Ok(Some(log))
}

/// Writes what is left of it.
pub(super) fn finish(log: &AccessLog) {
    if !log.finish(ACCESS_LOG_END_MAX) {
        tracing::warn!("the access log does not take its last lines: ending without them after {ACCESS_LOG_END_MAX:?}");
    }
}
