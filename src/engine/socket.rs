//! The socket calls that no safe crate has.

/// Wakes a worker from another thread.
#[derive(Debug)]
pub struct Waker;
