//! The harness of the process tests: the real binary, real sockets, port 0, and no sleeps as synchronisation.
//!
//! Everything waits for an event, and gives up after [`DEADLINE`]: far more than a busy machine needs, so that only what
//! never happens fails.
#![allow(dead_code, reason = "each test program uses its part of the harness")]

pub mod api;
pub mod backend;
pub mod command;
pub mod load;
pub mod net;
pub mod pattern;
pub mod process;
pub mod procfs;
pub mod ringlb;
pub mod scrape;

use std::thread;
use std::time::{Duration, Instant};

/// How long anything may take that has to happen.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The time between two looks at something that cannot wake us (/proc, a socket of another process).
const LOOK: Duration = Duration::from_millis(5);

/// Looks until `seen` gives something, and fails after [`DEADLINE`] with `what`.
pub fn until<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = seen() {
            return found;
        }
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain: {what}");
        thread::sleep(LOOK);
    }
}

/// Runs `body` once for each number below `count`, all at the same time, and gives the results in order. A panic in one of
/// them is ours.
pub fn at_once<T: Send>(count: usize, body: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = (0..count)
            .map(|number| {
                let spawned = thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, move || body(number));
                spawned.expect("a thread")
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// Says why a test, or a part of it, cannot run here. It counts as passed, so the reason has to be printed.
pub fn skip(what: &str, why: &str) {
    println!("SKIPPED {what}: {why}");
}

/// Whether a program can be found in the path.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}
