//! The data-plane threads.

pub mod session;
pub mod timers;
