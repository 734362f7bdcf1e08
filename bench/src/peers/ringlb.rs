//! ringlb itself, by its command line alone.

use std::ffi::OsString;
use std::path::Path;

use super::{Peer, Setup};

pub(super) fn command(peer: &Peer, setup: &Setup, _directory: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec![peer.program.clone().into(), "run".into()];
    for address in &setup.listen {
        words.extend(["--listen".into(), address.to_string().into()]);
    }
    for address in &setup.backends {
        words.extend(["--backend".into(), address.to_string().into()]);
    }
    words.extend(["--workers".into(), setup.workers.to_string().into()]);
    words
}
