//! ringlb itself, by its command line alone.

use std::ffi::OsString;
use std::path::Path;

use super::{Peer, PeerError, Setup};

const HINT: &str = "build it (cargo build --release) or name it with --ringlb or --candidate";

pub(super) fn command(peer: &Peer, setup: &Setup, _directory: &Path) -> Result<Vec<OsString>, PeerError> {
    if std::process::Command::new(&peer.program).arg("--version").output().is_err() {
        return Err(PeerError::missing(&peer.program, HINT));
    }
    let mut words: Vec<OsString> = vec![peer.program.clone().into(), "run".into()];
    for address in &setup.listen {
        words.extend(["--listen".into(), address.to_string().into()]);
    }
    for address in &setup.backends {
        words.extend(["--backend".into(), address.to_string().into()]);
    }
    words.extend(["--workers".into(), setup.workers.to_string().into()]);
    Ok(words)
}
