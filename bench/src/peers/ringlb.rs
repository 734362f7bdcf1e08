//! ringlb itself, by its command line alone.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::{Peer, PeerError, Setup};

/// Names the admin socket, for the one who serves it and the one who asks.
pub(super) const ADMIN_VARIABLE: &str = "RINGLB_ADMIN";

/// As many as one answer can have.
const SESSIONS_MAX: &str = "10000";

const HINT: &str = "build it (cargo build --release) or name it with --ringlb or --candidate";

pub(super) fn command(peer: &Peer, setup: &Setup, _directory: &Path) -> Result<Vec<OsString>, PeerError> {
    if Command::new(&peer.program).arg("--version").output().is_err() {
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

/// Where it serves its admin API: in its own directory, and not where one that is in use may serve it.
pub(super) fn admin_socket(directory: &Path) -> PathBuf {
    directory.join("admin.sock")
}

/// Sessions of each of so many workers, as `ringlb session list` shows them.
pub(super) fn sessions_by_worker(program: &Path, directory: &Path, workers: usize) -> io::Result<Vec<u64>> {
    let mut list = Command::new(program);
    list.args(["session", "list", "--json", "--limit", SESSIONS_MAX]);
    let output = list.env(ADMIN_VARIABLE, admin_socket(directory)).output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(io::Error::other(format!("{} session list: {said}", program.display())));
    }
    let answer: Sessions = serde_json::from_slice(&output.stdout)?;
    answer.by_worker(workers).map_err(io::Error::other)
}

#[derive(Debug, Deserialize)]
struct Sessions {
    sessions: Vec<Session>,
    /// There are more.
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Session {
    /// Worker, slot, and which use of the slot.
    id: String,
}

impl Sessions {
    fn by_worker(&self, workers: usize) -> Result<Vec<u64>, String> {
        if self.next.is_some() {
            return Err(format!("it has more sessions than the {SESSIONS_MAX} that one answer can have"));
        }
        let mut counts = vec![0; workers];
        for Session { id } in &self.sessions {
            let worker = id.split('-').next().and_then(|worker| worker.parse::<usize>().ok());
            let count = worker.and_then(|worker| counts.get_mut(worker));
            *count.ok_or_else(|| format!("the session {id:?} is of none of its {workers} workers"))? += 1;
        }
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_worker(json: &str, workers: usize) -> Result<Vec<u64>, String> {
        serde_json::from_str::<Sessions>(json).expect("the answer is JSON").by_worker(workers)
    }

    #[test]
    fn sessions_count_for_the_worker_in_their_names() {
        let three = r#"{"sessions":[{"id":"0-1-1","pool":"a"},{"id":"2-9-1"},{"id":"0-2-7"}]}"#;
        assert_eq!(by_worker(three, 3), Ok(vec![2, 0, 1]));
        assert_eq!(by_worker(r#"{"sessions":[]}"#, 2), Ok(vec![0, 0]));
    }

    #[test]
    fn sessions_that_cannot_be_counted_are_an_error() {
        assert!(by_worker(r#"{"sessions":[{"id":"2-1-1"}]}"#, 2).is_err_and(|error| error.contains("2-1-1")));
        assert!(by_worker(r#"{"sessions":[],"next":"1-0"}"#, 2).is_err_and(|error| error.contains("10000")));
    }
}
