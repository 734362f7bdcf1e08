//! Faults on demand, in debug builds alone: how tests see what becomes of a thread that fails, in the real process.
//!
//! `RINGLB_FAULTS` names a unix datagram socket to be made; each datagram plants one fault. See
//! docs/decisions/planted-faults.md.

use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::{env, thread};

use tokio::sync::Notify;

use crate::worker::mailbox::{Command, Fault, Mailbox};

/// Hears of faults, if the environment asks for it, on a thread of its own until the process ends.
pub(super) fn listen(workers: Vec<Mailbox>, control: Arc<Notify>) {
    let Some(path) = env::var_os("RINGLB_FAULTS") else { return };
    let socket = match UnixDatagram::bind(&path) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "RINGLB_FAULTS: no socket can be made there"),
    };
    tracing::warn!(path = %path.display(), "RINGLB_FAULTS: faults may be planted; for tests alone");
    let spawned = thread::Builder::new().name("ringlb-faults".into()).spawn(move || {
        let mut datagram = [0; 64];
        while let Ok(bytes) = socket.recv(&mut datagram) {
            let text = String::from_utf8_lossy(&datagram[..bytes]);
            if plant(&text, &workers, &control).is_none() {
                tracing::error!(%text, "RINGLB_FAULTS: no such fault");
            }
        }
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "RINGLB_FAULTS: no thread can be had");
    }
}

/// `control`, or a worker's number and `panic`, `ring` or `stall` with a duration.
fn plant(text: &str, workers: &[Mailbox], control: &Notify) -> Option<()> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let fault = match words[..] {
        ["control"] => {
            control.notify_one();
            return Some(());
        }
        [_, "panic"] => Fault::Panic,
        [_, "ring"] => Fault::Ring,
        [_, "stall", pause] => Fault::Stall(humantime::parse_duration(pause).ok()?),
        _ => return None,
    };
    workers.get(words[0].parse::<usize>().ok()?)?.send(Command::Fault(fault));
    Some(())
}
