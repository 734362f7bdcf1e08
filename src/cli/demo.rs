//! `ringlb demo`: something to play with, in one command.

use crate::address::Address;
use crate::cli::output::print;
use crate::cli::{Exit, failed, log};
use crate::config::{Bind, Config, FlagBackend, Flags, Overrides, Workers};
use crate::{demo, server};

/// Starts the backends, and a balancer before them.
///
/// # Errors
/// What kept it from starting.
pub fn run(listen: Bind, workers: Option<Workers>) -> Result<(), Exit> {
    let backends = demo::start().map_err(|error| Exit::Failed(format!("the demo's backends cannot start: {error}")))?;
    let backend = |(name, address): (&str, std::net::SocketAddr)| FlagBackend {
        name: name.into(),
        ..FlagBackend::new(Address::Inet(address))
    };
    let flags = Flags {
        listen: vec![listen],
        backends: backends.into_iter().map(backend).collect(),
        policy: None,
        overrides: Overrides { workers, ..Overrides::default() },
    };
    let checked = Config::from_flags(&flags).map_err(Exit::Faults)?;
    log::start(&checked)?;
    server::run(checked.config, greet, |_| {}).map_err(failed)
}

/// Says what to try. That nobody reads it is no reason to stop.
fn greet(addresses: &[Address]) {
    let Some(port) = addresses.first().and_then(Address::inet).map(|inet| inet.port()) else { return };
    let names = demo::NAMES.join(", ");
    let text = format!(
        "ringlb stands before three small backends: {names}.\n\n  \
         try   for i in 1 2 3 4 5 6; do curl -s localhost:{port}; done\n  \
         stop  Ctrl-C\n\n"
    );
    if let Err(exit) = print(&text) {
        exit.show();
    }
}
