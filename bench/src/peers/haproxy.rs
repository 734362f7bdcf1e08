//! HAProxy in TCP mode.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;

use super::{Peer, PeerError, Setup, Tuning};

const HINT: &str = "install it (Debian: haproxy) or name it with --haproxy";

pub(super) fn command(peer: &Peer, setup: &Setup, directory: &Path) -> Result<Vec<OsString>, PeerError> {
    if std::process::Command::new(&peer.program).arg("-v").output().is_err() {
        return Err(PeerError::missing(&peer.program, HINT));
    }
    let file = directory.join("haproxy.cfg");
    std::fs::write(&file, configuration(setup)).map_err(PeerError::io("writing its configuration"))?;
    // -db: in the foreground, without a master.
    Ok(vec![peer.program.clone().into(), "-db".into(), "-f".into(), file.into()])
}

fn configuration(setup: &Setup) -> String {
    let mut text = String::new();
    // Whether splicing pays it decides by itself, by what it reads at a time; where it does not splice, large
    // buffers help it. With small messages they would only cost memory.
    let (bulk_global, bulk_defaults) = match setup.tuning {
        Tuning::Bulk => ("    tune.bufsize 131072\n    tune.pipesize 1048576\n", "    option splice-auto\n"),
        Tuning::Messages | Tuning::Memory => ("", ""),
    };
    let written = write!(
        text,
        "global
    maxconn {connections}
    nbthread {workers}
{bulk_global}defaults
    mode tcp
    timeout connect 4s
    timeout client 600s
    timeout server 600s
{bulk_defaults}listen relay
    balance leastconn
",
        connections = setup.connections + 64,
        workers = setup.workers,
    );
    written.expect("writing to a string cannot fail");
    for address in &setup.listen {
        text.push_str(&format!("    bind {address} backlog 4096\n"));
    }
    for (index, address) in setup.backends.iter().enumerate() {
        text.push_str(&format!("    server s{index} {address}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splicing_is_for_bulk_only() {
        let mut setup = Setup {
            listen: vec!["127.0.0.1:7001".parse().expect("an address")],
            backends: vec![
                "127.0.0.1:8001".parse().expect("an address"),
                "127.0.0.1:8002".parse().expect("an address"),
            ],
            workers: 1,
            connections: 100,
            tuning: Tuning::Bulk,
        };
        let bulk = configuration(&setup);
        for line in ["maxconn 164", "bind 127.0.0.1:7001 ", "server s1 127.0.0.1:8002", "option splice-auto"] {
            assert!(bulk.contains(line), "{line} is missing in\n{bulk}");
        }
        setup.tuning = Tuning::Messages;
        assert!(!configuration(&setup).contains("splice"), "{}", configuration(&setup));
    }
}
