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
    /// Two different draws by weight, the one with fewer connections per weight.
    RandomTwo,
    /// The client's address decides, as long as its backend may serve.
    SourceHash,
    /// The first, in the order of the configuration, that may serve: fills one after the other up to its limit.
    First,
}

impl Policy {
    /// Every policy, in the order of the documentation.
    pub const ALL: &[Policy] =
        &[Policy::LeastConnections, Policy::RoundRobin, Policy::RandomTwo, Policy::SourceHash, Policy::First];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::LeastConnections => "least_connections",
            Policy::RoundRobin => "round_robin",
            Policy::RandomTwo => "random_two",
            Policy::SourceHash => "source_hash",
            Policy::First => "first",
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

/// What an operator wants of a backend.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// To serve.
    #[default]
    Ready,
    /// No new connections; the old live on, active probes go on.
    Drain,
    /// As `Drain`, and active probes stop.
    Maint,
}

impl State {
    /// Every state, in the order of the documentation.
    pub const ALL: &[State] = &[State::Ready, State::Drain, State::Maint];

    /// Its name in the configuration and in the API.
    pub const fn name(self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Drain => "drain",
            State::Maint => "maint",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A whole number of percent, 0 to 100.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// All of it.
    pub const ALL: Percent = Percent(100);

    /// At most 100.
    pub const fn new(percent: u8) -> Option<Percent> {
        if percent <= 100 { Some(Percent(percent)) } else { None }
    }

    /// The number.
    pub const fn as_u8(self) -> u8 {
        self.0
    }
}

/// A share, 0 to 1.
#[derive(Copy, Clone, Debug, Default, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    /// At least 0 and at most 1.
    pub fn new(share: f64) -> Option<Share> {
        (0.0..=1.0).contains(&share).then_some(Share(share))
    }

    /// The number.
    pub const fn as_f64(self) -> f64 {
        self.0
    }
}

/// How many active checks in a row decide. What a check is, and how often, is not this room's business.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// Passes that bring a backend up, and that end an ejection; at least 1.
    pub rise: u32,
    /// Failures that take it down; at least 1.
    pub fall: u32,
}

impl Default for HealthSettings {
    fn default() -> HealthSettings {
        HealthSettings { rise: 2, fall: 3 }
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
    /// To eject a backend, so large a share of the connects that it finished within its `fail_timeout` must have
    /// failed, besides the count; 0: the count alone decides.
    pub fail_share: Share,
    /// How many of the ready backends may be ejected at a time, rounded down, but at least one.
    pub max_ejected_percent: Percent,
    /// Active checks; `None`: every backend counts as up.
    pub health: Option<HealthSettings>,
    /// Clients that may wait for a place while all backends that could serve them are full; 0: none.
    pub queue_max: u32,
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
            fail_share: Share::default(),
            max_ejected_percent: Percent::ALL,
            health: None,
            queue_max: 0,
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
    /// Whether it serves only while no primary may.
    pub backup: bool,
    /// Connections that it may have at a time; 0: no limit.
    pub max_connections: u32,
    /// Failed connects within `fail_timeout` that eject it; 0: it is never ejected. At most
    /// [`FAILS_MAX`](crate::limits::FAILS_MAX) count.
    pub max_fails: u32,
    /// The window of `max_fails`, and how long an ejection lasts.
    pub fail_timeout: Duration,
    /// How long its share grows from nearly nothing to its weight after it came or came back; 0: at once.
    pub slow_start: Duration,
    /// What its operator wants of it.
    pub state: State,
}

impl BackendSettings {
    /// The defaults, for a backend at `address`.
    pub fn new(name: impl Into<String>, address: Address) -> BackendSettings {
        BackendSettings {
            name: name.into(),
            address,
            weight: Weight::ONE,
            backup: false,
            max_connections: 0,
            max_fails: 3,
            fail_timeout: Duration::from_secs(10),
            slow_start: Duration::ZERO,
            state: State::Ready,
        }
    }
}
