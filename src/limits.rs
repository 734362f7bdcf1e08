//! Every maximum in one place, with the argument for each, and their relations proven when the crate is compiled.

use std::time::Duration;

use crate::slots::SLOTS_MAX;

/// Size of one small receive buffer. Chatty traffic fits in one; the whole pool should stay near the size of
/// the L2 cache, because the kernel walks through all the buffers that are published to it.
pub const BUFFER_BYTES: usize = 4 * 1024;

/// Small buffers a worker has in all: 8 MiB, touched only as far as traffic needs them.
pub const BUFFERS_MAX: usize = 2048;

/// Small buffers published to the kernel at a time. Fewer keep the pool hot; too few end multishot receives
/// with ENOBUFS (64 buffers for 512 busy connections halved the throughput).
pub const BUFFERS_PUBLISHED: usize = 512;

/// Size of one large buffer, for a direction that has proved to be bulk.
pub const BULK_BUFFER_BYTES: usize = 64 * 1024;

/// Large buffers a worker has: 8 MiB, touched only as far as traffic needs them.
pub const BULK_BUFFERS_MAX: usize = 128;

/// What one multishot receive may deliver after it has been asked to stop: the kernel hands over up to
/// 32 + 1 buffers before it looks up.
pub const RECEIVE_OVERSHOOT_BYTES: usize = 33 * BUFFER_BYTES;

/// Bytes received and not yet sent at which one direction of one session stops receiving.
pub const WATERMARK_HIGH_BYTES: usize = 64 * 1024;

/// Bytes left unsent at which it receives again.
pub const WATERMARK_LOW_BYTES: usize = 16 * 1024;

/// What one direction of one session can hold at most, whatever its peers do.
pub const DIRECTION_BYTES_MAX: usize = WATERMARK_HIGH_BYTES + RECEIVE_OVERSHOOT_BYTES;

/// Bytes of stalled directions that may be copied out of the receive buffers to the heap, in each worker, so that
/// clients who do not read cannot take the buffers of those who do.
pub const SPILL_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Small buffers that must be free; below it stalled directions give theirs back (see [`SPILL_BYTES_MAX`]).
pub const BUFFERS_RESERVE: usize = BUFFERS_MAX / 4;

/// Chunks gathered into one send.
pub const GATHER_MAX: usize = 16;

/// Entries of the submission queue of one worker.
pub const SUBMISSION_ENTRIES: u32 = 2048;

/// Entries of the completion queue of one worker. An overflow ends every multishot operation, so it is large;
/// an entry is 16 bytes.
pub const COMPLETION_ENTRIES: u32 = 32 * 1024;

/// Workers at most: each has a ring, buffers and listening sockets of its own.
pub const WORKERS_MAX: usize = 1024;

/// Bytes that wait in our send queue when the peer of the other side has reset are owed; for so long.
pub const RESET_FLUSH_MAX: Duration = Duration::from_secs(5);

/// First look whether they were acknowledged; each next look waits twice as long, up to [`UNSENT_POLL_MAX`].
pub const UNSENT_POLL_MIN: Duration = Duration::from_millis(10);

/// See [`UNSENT_POLL_MIN`].
pub const UNSENT_POLL_MAX: Duration = Duration::from_secs(1);

/// A refused client's unread bytes are discarded for so long before its socket is closed ...
pub const REFUSAL_LINGER_MAX: Duration = Duration::from_secs(1);

/// ... and up to so many, because closing over unread bytes would reset the connection and destroy the refusal.
pub const REFUSAL_DISCARD_BYTES_MAX: u64 = 64 * 1024;

/// A side that has not been received from for so long gets a watch, so that its reset is seen.
pub const WATCH_AFTER: Duration = Duration::from_millis(100);

/// How long accepting pauses when the process is out of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Backends tried for one client at most, however the configuration sets `connect_attempts`.
pub const CONNECT_ATTEMPTS_MAX: usize = 16;

/// The largest weight of a backend.
pub const WEIGHT_MAX: u32 = 65_535;

/// Backends of one pool at most. Replacing a set of so many takes the control thread some 40 ms (a second with new hash
/// tables), a scan of all of them a worker some 35 us.
pub const BACKENDS_MAX: usize = 16 * 1024;

/// Backends up to which `least_connections` looks at all of them: a scan of so many takes some 3 us.
pub const LEAST_CONNECTIONS_EXACT_MAX: usize = 1024;

/// Above it, the best of so many draws is taken: with a chance of 1 - 2^-64 it is in the better half, and on average
/// only one in 65 is better.
pub const LEAST_CONNECTIONS_DRAWS: usize = 64;

/// Failed connects of one backend whose times are remembered: a larger `max_fails` counts as this.
pub const FAILS_MAX: u32 = 1000;

/// Parts that `fail_timeout` is divided into to know how many connects finished within it (`fail_share`).
pub const SHARE_PARTS: u32 = 16;

/// A probe of an ejected backend may take the connect timeout and so much longer before another client may try: a
/// worker that is late by more has lost its turn.
pub const PROBE_GRACE: Duration = Duration::from_secs(1);

/// Draws of `random_two` that hit a backend which may not serve, before all are looked at.
pub const RANDOM_DRAWS: usize = 16;

/// How often `source_hash` hashes a client again before it walks through all backends. With half of them out, one
/// client in 2^32 gets so far.
pub const REHASHES_MAX: u64 = 32;

const _: () = assert!(WATERMARK_LOW_BYTES < WATERMARK_HIGH_BYTES);
const _: () = assert!(BUFFERS_PUBLISHED.is_power_of_two() && BUFFERS_PUBLISHED <= BUFFERS_MAX);
const _: () = assert!(BULK_BUFFERS_MAX.is_power_of_two() && BUFFERS_MAX + BULK_BUFFERS_MAX <= 1 << 15);
const _: () = assert!(BUFFERS_RESERVE < BUFFERS_MAX);
const _: () = assert!(COMPLETION_ENTRIES >= 4 * SUBMISSION_ENTRIES);
const _: () = assert!(UNSENT_POLL_MIN.as_millis() < UNSENT_POLL_MAX.as_millis());
const _: () = assert!(UNSENT_POLL_MAX.as_millis() < RESET_FLUSH_MAX.as_millis());
const _: () = assert!(SLOTS_MAX <= 1 << 24, "a slot travels in 24 bits of an operation's tag");
const _: () = assert!(LEAST_CONNECTIONS_DRAWS < LEAST_CONNECTIONS_EXACT_MAX);
const _: () = assert!(LEAST_CONNECTIONS_EXACT_MAX < BACKENDS_MAX && BACKENDS_MAX <= u16::MAX as usize);
