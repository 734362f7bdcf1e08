//! The `ringlb` binary: arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    ringlb::cli::main()
}
