//! The numbers: what workers count, and what the control thread makes of it.
//!
//! # Whose is what
//! - A number is a [`Cell`]: one thread writes it, by a relaxed load and a relaxed store, and any may read it. There is no
//!   lock and no read-modify-write in the data plane, and nothing that a reader does holds up the writer.
//! - A worker has a [`Recorder`]. It makes the blocks of cells that its worker writes: one for its ring, one for each of its
//!   listeners' sockets, and one for each backend, once the worker chooses it for the first time. A block is shared by an `Arc`
//!   and announced over a channel whose sender never waits.
//! - The control thread has the [`Ledger`]: it takes in what was announced, adds up the blocks of all workers when somebody
//!   asks, and keeps what the percentiles of the last minutes need.
//!
//! # When the set of backends changes
//! A block belongs to a backend's identity ([`BackendId`](crate::balance::BackendId)), not to a snapshot: a swap changes
//! nothing for those who stay. When a worker is told that the pools have changed, its recorder lets go of the blocks of
//! backends that are no longer in the set; sessions that still have such a backend hold its block themselves. Should the name
//! come back before its last session has gone, it has the same identity still, and the worker makes it a further block.
//!
//! # Who frees a block
//! The ledger: whoever drops an `Arc` before it only counts it down. What nobody but the ledger holds any more is added to its
//! backend's totals and freed; and when the pool has forgotten a removed backend, with its last session, the ledger forgets
//! all of it, and its series end.
//!
//! # How much memory
//! A block of a backend is 192 bytes, and its two histograms take some 4 kB each once there was a sample (at most 21 kB, if
//! there were samples of every magnitude from microseconds to days): for each worker and each backend that it has served.
//! The differences of the last five minutes take some 16 bytes for each bucket that is not empty, a few kB for a backend.
//! `backend_series_max` limits what is shown, not what is counted; the API shows every backend.

mod cells;
mod history;
mod labels;
mod ledger;
mod listeners;
mod recorder;
pub mod table;

pub use cells::{BackendCells, Cell, ListenerCells, RingCells};
pub use history::{Percentiles, Window};
pub use labels::{ConnectFailure, Pause, Refusal};
pub use ledger::{
    BackendNumbers, BackendTotals, BackendView, Buckets, Latencies, Ledger, PoolNumbers, PoolView, RingTotals, Shown,
};
pub use listeners::ListenerTotals;
pub use recorder::{Announced, Recorder};

/// The label of the series that sums up the backends without series of their own.
pub const OTHER: &str = "_other";
