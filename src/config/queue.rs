//! What does not fit the queue of a pool.

use crate::config::fault::Problem;

/// `source_hash` with a queue.
pub fn not_with_source_hash() -> Problem {
    Problem::new(
        "clients cannot wait where the policy is `source_hash`",
        "who has waited gets the first place that is free, and not with the backend that its address leads to",
        "take `queue_max` out, or choose another `policy`",
    )
}

/// A queue where nobody can be full.
pub fn nobody_is_full() -> Problem {
    Problem::new(
        "nobody will ever wait here",
        "clients wait while all backends are at their `max_connections`, and no backend of this pool has one",
        "write `max_connections` in each [[pool.backend]], or take `queue_max` out",
    )
}
