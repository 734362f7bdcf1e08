//! A seeded simulation of the data plane: the real sessions, relays, timers, buffers and pools on a simulated kernel
//! that is as nasty as the real one, with simulated peers, on a virtual clock.
//!
//! Everything follows from one number. A failure prints it:
//!
//! ```text
//! RINGLB_SIMULATION_SEED=<seed> cargo test --lib simulation            # that run again
//! RINGLB_SIMULATION_SEED=<seed> RINGLB_SIMULATION_TRACE=1 ... -- --nocapture
//! RINGLB_SIMULATION_CONNECTIONS=<n> cargo test --lib simulation        # longer
//! ```
//!
//! `docs/simulation.md` says what is simulated and what is checked.

mod audit;
mod engine;
mod faults;
mod flapping;
mod inward;
mod kernel;
mod link;
mod outward;
mod peer;
mod pipes;
mod random;
mod run;
mod script;
mod seen;
mod stream;
mod tests;
mod verdict;
mod waiting;

use std::panic::{catch_unwind, resume_unwind};

use faults::Sabotage;
use run::{CONNECTIONS, Report};

/// Connections of a plain `cargo test`.
const DEFAULT_CONNECTIONS: u64 = 200_000;
/// The first seed of a plain `cargo test`; each run takes the next.
const DEFAULT_SEED: u64 = 1;

/// How sessions end, each of which must have been seen.
const REASONS: &[&str] = &[
    "backend_dead",
    "backend_eof",
    "backend_error",
    "backend_reset",
    "client_dead",
    "client_eof",
    "client_error",
    "client_reset",
    "connect_failed",
    "connect_timeout",
    "idle_timeout",
    "internal",
    "max_session_duration",
    "no_backend",
    "queue_full",
    "queue_timeout",
    "shutdown",
];

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.strip_prefix("0x").map_or_else(|| text.parse(), |hex| u64::from_str_radix(hex, 16));
    Some(number.unwrap_or_else(|_| panic!("{name} must be a number, not `{text}`")))
}

/// Runs a seed, and says how to run it again where it fails.
fn run_loudly(seed: u64, tracing: bool) -> Report {
    catch_unwind(|| run::run(seed, None, tracing)).unwrap_or_else(|panic| {
        eprintln!(
            "the simulation has failed: RINGLB_SIMULATION_SEED={seed} RINGLB_SIMULATION_CONNECTIONS={CONNECTIONS}"
        );
        resume_unwind(panic)
    })
}

#[test]
fn sessions_survive_a_nasty_kernel() {
    let seed = variable("RINGLB_SIMULATION_SEED");
    let replay = if seed.is_some() { CONNECTIONS } else { DEFAULT_CONNECTIONS };
    let connections = variable("RINGLB_SIMULATION_CONNECTIONS").unwrap_or(replay);
    let tracing = variable("RINGLB_SIMULATION_TRACE").is_some();
    let first = seed.unwrap_or(DEFAULT_SEED);
    let mut all = Report::default();
    for run in 0..connections.div_ceil(CONNECTIONS) {
        all.add(&run_loudly(first.wrapping_add(run), tracing));
    }
    println!("{all:#?}");
    if connections >= DEFAULT_CONNECTIONS && seed.is_none() {
        for (what, count) in all.seen.counts() {
            assert!(count > 0, "the simulation is not nasty enough: {what} has never been seen");
        }
        for reason in REASONS {
            assert!(all.reasons.contains_key(reason), "no session has ended by {reason}");
        }
    }
}

/// What a panic said.
fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}

/// Each planted fault is found by the check that is there for it, within a few runs.
#[test]
fn planted_faults_are_found() {
    for &(sabotage, words) in Sabotage::ALL {
        let finds = |seed: u64| {
            let result = catch_unwind(|| run::run(DEFAULT_SEED + seed, Some(sabotage), false));
            result.is_err_and(|panic| message(&*panic).contains(words))
        };
        assert!((0..200).any(finds), "{sabotage:?} passes the check whether it \"{words}\"");
    }
}

#[test]
fn a_seed_replays() {
    for seed in 0..5 {
        let reports = [seed, seed].map(|seed| format!("{:?}", run::run(seed, None, false)));
        assert_eq!(reports[0], reports[1], "seed {seed}");
    }
}
