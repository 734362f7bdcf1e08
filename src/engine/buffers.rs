//! Receive buffers and the chains they wait in.
//!
//! A worker has two groups: many small buffers for multishot receives and some large ones for bulk. A chunk is
//! a buffer with bytes in it, or bytes on the heap. Chunks wait in [`Chain`]s, which are linked through a
//! table beside the buffers: queueing allocates nothing, and an empty chain holds nothing.
//!
//! Free buffers are kept last-freed first; only so many are published to the kernel at a time that the pool stays hot.

/// A buffer that a receive has filled, on its way into a chain.
#[derive(Debug)]
#[must_use = "a filled buffer that enters no chain is lost to the pool"]
pub struct Filled {
    pub(super) id: u16,
    pub(super) bytes: u32,
}

/// The buffers of one worker.
#[derive(Debug)]
pub struct Buffers;

/// Bytes that wait in order.
#[derive(Debug)]
pub struct Chain;
