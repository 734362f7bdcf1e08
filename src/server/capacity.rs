//! How much may go on at a time, by the descriptors that this process may open.

use std::num::NonZeroUsize;

use crate::config::Config;
use crate::engine::host;
use crate::limits::{
    CHECK_DESCRIPTORS_SHARE, CHECKS_IN_FLIGHT_MAX, CHECKS_IN_FLIGHT_MIN, DESCRIPTORS_RESERVE, PIPE_DESCRIPTORS_SHARE,
    PIPES_MAX,
};
use crate::server::bind::Bound;

/// How many descriptors this process may open.
pub(super) fn descriptors_max() -> usize {
    host::raise_descriptor_limit().map_or(1024, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many active checks may be under way. The reserve covers the fewest.
pub(super) fn checks_max(descriptors: usize) -> NonZeroUsize {
    let share = (descriptors / CHECK_DESCRIPTORS_SHARE).clamp(CHECKS_IN_FLIGHT_MIN, CHECKS_IN_FLIGHT_MAX);
    NonZeroUsize::new(share).unwrap_or(NonZeroUsize::MIN)
}

/// How many pipes each of so many workers may splice through.
pub(super) fn pipes_max(descriptors: usize, workers: usize) -> usize {
    (descriptors / PIPE_DESCRIPTORS_SHARE / (2 * workers)).min(PIPES_MAX)
}

/// How many sessions there may be: what the configuration says, as far as descriptors suffice.
pub(super) fn connections_max(config: &Config, listeners: &[Bound], workers: usize, descriptors: usize) -> usize {
    let checks = checks_max(descriptors).get() - CHECKS_IN_FLIGHT_MIN;
    let pipes = 2 * pipes_max(descriptors, workers) * workers;
    let used = DESCRIPTORS_RESERVE + checks + pipes + (listeners.len() + 2) * workers;
    // At least one: a balancer that never accepts would only seem to run.
    let possible = (descriptors.saturating_sub(used) / 2).max(1);
    match config.max_connections() {
        Some(wanted) if wanted.get() as usize > possible => {
            tracing::warn!(
                wanted,
                possible,
                "max_connections is more than this process may open files for: using {possible}. \
                 A session needs two descriptors; raise LimitNOFILE= or ulimit -Hn"
            );
            possible
        }
        Some(wanted) => wanted.get() as usize,
        None => possible,
    }
}
