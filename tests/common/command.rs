//! The commands, as a user runs them.

use std::path::Path;
use std::process::{Command, Output};

/// Runs a command of ringlb against the one at `socket`.
pub fn command(socket: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringlb"));
    command.args(arguments).env("RINGLB_ADMIN", socket).output().expect("the binary runs")
}

/// What a command says on standard output, which must succeed.
#[track_caller]
pub fn said(socket: &Path, arguments: &[&str]) -> String {
    let output = command(socket, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{arguments:?}");
    String::from_utf8(output.stdout).expect("text")
}
