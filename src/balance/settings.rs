//! What a pool and its backends are told to be: plain values, valid from birth.

use std::fmt;
use std::time::Duration;

use crate::address::Address;
use crate::limits::WEIGHT_MAX;

/// A backend's share of new connections relative to the others; 0 = none.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weight(u32);

impl Weight {
    /// The default weight.
    pub const ONE: Weight = Weight(1);

    /// A weight of at most [`WEIGHT_MAX`].
    pub const fn new(weight: u32) -> Option<Weight> {
        if weight <= WEIGHT_MAX { Some(Weight(weight)) } else { None }
    }

    /// The number.
    pub const fn as_u32(self) -> u32 {
        self.0
    }
}

/// How a pool chooses among the backends that may serve.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The smallest number of connections per weight, over all workers together.
    #[default]
    LeastConnections,
    /// Smooth weighted round robin.
    RoundRobin,
}

impl Policy {
    /// Every policy, in the order of the documentation.
    pub const ALL: &[Policy] = &[Policy::LeastConnections, Policy::RoundRobin];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::LeastConnections => "least_connections",
            Policy::RoundRobin => "round_robin",
        }
    }
}

impl Default for Weight {
    fn default() -> Weight {
        Weight::ONE
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is told of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSettings {
    /// Its name: with a backend's name, the identity that counters belong to.
    pub name: String,
    /// How it chooses.
    pub policy: Policy,
    /// How long one connect may take.
    pub connect_timeout: Duration,
    /// Different backends tried for one client, the first included; at least 1.
    pub connect_attempts: u32,
    /// TCP keepalive on the connections to its backends; `None`: off.
    pub keepalive: Option<Duration>,
}

impl PoolSettings {
    /// The defaults, for a pool of that name.
    pub fn new(name: impl Into<String>) -> PoolSettings {
        PoolSettings {
            name: name.into(),
            policy: Policy::default(),
            connect_timeout: Duration::from_secs(4),
            connect_attempts: 3,
            keepalive: Some(Duration::from_secs(60)),
        }
    }
}

/// The defaults, under the name of the pool that flags make.
impl Default for PoolSettings {
    fn default() -> PoolSettings {
        PoolSettings::new("default")
    }
}

/// What is told of a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendSettings {
    /// Its name, unique in its pool.
    pub name: String,
    /// Where it listens.
    pub address: Address,
    /// Its share.
    pub weight: Weight,
}

impl BackendSettings {
    /// The defaults, for a backend at `address`.
    pub fn new(name: impl Into<String>, address: Address) -> BackendSettings {
        BackendSettings { name: name.into(), address, weight: Weight::ONE }
    }
}
