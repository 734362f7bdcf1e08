//! ringlb: a Layer-4 TCP load balancer for Linux on io_uring.
//!
//! The modules stand here in layer order; each may import only from the rows below its own
//! (`tests/layers.rs` holds the rule, `docs/architecture.md` the reasons).

// cli
pub mod cli;
// server
pub mod server;
// control, demo
pub mod control;
pub mod demo;
// worker
pub mod worker;
// config, files, metrics
pub mod config;
pub mod files;
pub mod metrics;
// balance, relay, engine
pub mod balance;
pub mod engine;
pub mod relay;
// address, errno, histogram, http, limits, slots, time, wire
pub mod address;
pub mod errno;
pub mod histogram;
pub mod http;
pub mod limits;
pub mod slots;
pub mod systemd;
pub mod time;
pub mod wire;
