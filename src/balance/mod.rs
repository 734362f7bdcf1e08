//! Who serves: policies, the backend set, eligibility. Pure: time and randomness are arguments.
//!
//! A [`Pool`] belongs to all workers and to the control thread. Each worker has a [`Chooser`] of its own; what it
//! chooses is a [`Claim`], which holds a place with a backend until it is dropped:
//!
//! ```
//! use ringlb::balance::settings::{BackendSettings, PoolSettings};
//! use ringlb::balance::{Chooser, Pool, Request, Tried};
//! use ringlb::time::Time;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let address: std::net::SocketAddr = "127.0.0.1:3000".parse()?;
//! let backends = vec![BackendSettings::new("a", address.into())];
//! let pool = Pool::new(PoolSettings::new("web"), backends, Time::ZERO)?;
//! let mut chooser = Chooser::new(pool, 1);
//! let tried = Tried::new();
//! let mut claim = chooser.choose(&Request { client: None, tried: &tried }, Time::ZERO)?;
//! assert_eq!(claim.backend().name(), "a");
//! claim.connected(Time::ZERO);
//! assert_eq!(claim.backend().active(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! Choosing takes no lock. `docs/balance.md` states the laws that hold, and argues the memory orderings.

mod backend;
mod cells;
mod choose;
mod claim;
pub mod failure;
mod gate;
mod group;
mod hash;
mod health;
mod passive;
mod policy;
mod pool;
mod queue;
mod random;
mod registry;
mod set;
pub mod settings;
mod tried;
mod turn;
mod window;
mod word;

#[cfg(test)]
mod tests;

pub use backend::{Backend, Standing};
pub use choose::{Chooser, NoneEligible, Request};
pub use claim::{Claim, Next};
pub use failure::Failure;
pub use pool::{Changes, CheckEffect, Pool, SetError};
pub use queue::{Sought, Taker, Ticket};
pub use random::Random;
pub use set::BackendSet;
pub use tried::{BackendId, Tried};
