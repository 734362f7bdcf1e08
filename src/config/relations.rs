//! Whether the parts of a configuration fit together: names, pools, addresses.
//!
//! The parts are collected also from sections that have faults of their own, so that everything wrong is told at once.

use std::collections::{HashMap, HashSet};

use crate::address::Address;
use crate::config::Bind;
use crate::config::backend::Target;
use crate::config::fault::{At, Fault, Problem};
use crate::config::notation::quoted;
use crate::config::value::nearest;
use crate::limits::{ADDRESS_BYTES_MAX, BACKEND_NAME_BYTES_MAX, BACKENDS_MAX, BINDS_MAX, LISTENERS_MAX, POOLS_MAX};

/// A value and where it was written.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub at: At,
}

/// What a listener has to do with others.
#[derive(Debug, Default)]
pub struct ListenerParts {
    pub name: Option<Placed<String>>,
    pub bind: Vec<Placed<Bind>>,
    pub pool: Option<Placed<String>>,
}

/// What a pool has to do with others.
#[derive(Debug)]
pub struct PoolParts {
    pub name: Option<Placed<String>>,
    pub header: At,
    /// Whether a backend was written at all, right or wrong.
    pub is_empty: bool,
    pub backends: Vec<BackendParts>,
}

/// What a backend has to do with others.
#[derive(Debug)]
pub struct BackendParts {
    pub name: Option<Placed<String>>,
    pub address: Option<Placed<Target>>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Relations {
    pub metrics: Option<Placed<Bind>>,
    pub listeners: Vec<ListenerParts>,
    pub pools: Vec<PoolParts>,
}

impl Relations {
    /// Adds what does not fit.
    pub fn check(&self, faults: &mut Vec<Fault>) {
        if self.listeners.is_empty() {
            faults.push(Fault::error(At::File, nothing_to_serve()));
        }
        if !self.check_counts(faults) {
            return;
        }
        unique("listener", self.listeners.iter().filter_map(|listener| listener.name.as_ref()), faults);
        unique("pool", self.pools.iter().filter_map(|pool| pool.name.as_ref()), faults);
        self.check_use_of_pools(faults);
        self.check_binds(faults);
        for pool in &self.pools {
            unique("backend", pool.backends.iter().filter_map(|backend| backend.name.as_ref()), faults);
            check_addresses(pool, faults);
            check_hosts(pool, faults);
        }
        for listener in &self.listeners {
            self.check_loop(listener, faults);
        }
    }

    /// Whether the counts are within bounds; the other checks are only made for that many.
    fn check_counts(&self, faults: &mut Vec<Fault>) -> bool {
        let before = faults.len();
        let binds = self.listeners.iter().map(|listener| listener.bind.len()).sum();
        let mut check = |at: &At, count: usize, most: usize, what: &str| {
            if count > most {
                let problem = Problem::new(
                    format!("there are {count} {what}"),
                    format!("the most is {most}"),
                    "divide them among several processes",
                );
                faults.push(Fault::error(at.clone(), problem));
            }
        };
        check(&At::File, self.listeners.len(), LISTENERS_MAX, "listeners");
        check(&At::File, binds, BINDS_MAX, "addresses to bind");
        check(&At::File, self.pools.len(), POOLS_MAX, "pools");
        for pool in &self.pools {
            check(&pool.header, pool.backends.len(), BACKENDS_MAX, "backends in this pool");
        }
        faults.len() == before
    }

    fn check_use_of_pools(&self, faults: &mut Vec<Fault>) {
        let names: HashSet<&str> =
            self.pools.iter().filter_map(|pool| pool.name.as_ref()).map(|name| &*name.value).collect();
        let used: Vec<&Placed<String>> = self.listeners.iter().filter_map(|listener| listener.pool.as_ref()).collect();
        for pool in &used {
            if !names.contains(&*pool.value) {
                faults.push(Fault::error(pool.at.clone(), unknown_pool(&pool.value, &names)));
            }
        }
        // Beside a name that was mistyped, the pool that was meant would seem unused.
        let mistyped = used.iter().any(|pool| !names.contains(&*pool.value));
        let used: HashSet<&str> = used.iter().map(|used| &*used.value).collect();
        for pool in &self.pools {
            let Some(name) = &pool.name else { continue };
            let shown = quoted(&name.value);
            if !mistyped && !used.contains(&*name.value) {
                let problem = Problem::new(
                    format!("the pool {shown} is not used"),
                    "no listener names it, so no client will reach it",
                    format!("write `pool = {shown}` in a [[listener]], or take the pool out"),
                );
                faults.push(Fault::warning(name.at.clone(), problem));
            }
            if pool.is_empty {
                let problem = Problem::new(
                    format!("the pool {shown} has no backend"),
                    "until it has one, each of its clients is closed at once",
                    "write a [[pool.backend]] with its `address` below the pool (on the command line: --backend ADDR)",
                );
                faults.push(Fault::warning(name.at.clone(), problem));
            }
        }
    }

    fn check_binds(&self, faults: &mut Vec<Fault>) {
        let listeners = self.listeners.iter().flat_map(|listener| &listener.bind);
        let mut taken: Vec<(&Placed<Bind>, Vec<Address>)> = Vec::new();
        for bind in listeners.chain(&self.metrics) {
            let addresses = bind.value.addresses();
            if let Some((first, _)) = taken.iter().find(|(_, taken)| overlap(taken, &addresses)) {
                let first = quoted(&first.value.to_string());
                let problem = Problem::new(
                    format!("the address {} is taken already", quoted(&bind.value.to_string())),
                    format!("{first} stands before it, and the kernel gives an address to one of them only"),
                    "take one of the two out, or give it another port",
                );
                faults.push(Fault::error(bind.at.clone(), problem));
            }
            taken.push((bind, addresses));
        }
    }

    /// A listener whose own pool leads back to it would connect to itself until nothing is left.
    fn check_loop(&self, listener: &ListenerParts, faults: &mut Vec<Fault>) {
        let Some(name) = &listener.pool else { return };
        let named = |pool: &&PoolParts| pool.name.as_ref().is_some_and(|own| own.value == name.value);
        let backends = self.pools.iter().filter(named).flat_map(|pool| &pool.backends);
        let bound: Vec<Address> = listener.bind.iter().flat_map(|bind| bind.value.addresses()).collect();
        for address in backends.filter_map(|backend| backend.address.as_ref()) {
            if let Target::Address(to) = &address.value
                && bound.iter().any(|bound| reaches(to, bound))
            {
                let problem = Problem::new(
                    format!("the backend {} is the listener itself", quoted(&address.value.to_string())),
                    "every client would be passed on to the same listener, until no descriptor is left",
                    "write the address of the server behind it, or bind another port",
                );
                faults.push(Fault::error(address.at.clone(), problem));
            }
        }
    }
}

fn unique<'p>(what: &str, names: impl Iterator<Item = &'p Placed<String>>, faults: &mut Vec<Fault>) {
    let mut seen = HashMap::new();
    for name in names {
        let count = seen.entry(&*name.value).or_insert(0);
        *count += 1;
        if *count > 1 {
            let problem = Problem::new(
                format!("a second {what} is called {}", quoted(&name.value)),
                "metrics and commands tell them apart by their names",
                "give it another `name`, or take it out",
            );
            faults.push(Fault::error(name.at.clone(), problem));
        }
    }
}

fn check_addresses(pool: &PoolParts, faults: &mut Vec<Fault>) {
    let mut seen: HashMap<&Target, Option<&String>> = HashMap::new();
    for backend in &pool.backends {
        let Some(address) = &backend.address else { continue };
        let name = backend.name.as_ref().map(|name| &name.value);
        let Some(first) = seen.get(&address.value) else {
            seen.insert(&address.value, name);
            continue;
        };
        // Two of one name are told by name.
        if *first != name
            && let Some(first) = first
        {
            let problem = Problem::new(
                format!("the address {} stands in this pool twice", quoted(&address.value.to_string())),
                format!("backend {} has it too, so that server gets two shares", quoted(first)),
                "take one of the two out; for a larger share write a larger `weight`",
            );
            faults.push(Fault::warning(address.at.clone(), problem));
        }
    }
}

/// The backends of a host are named after it, and no other may be named as one of them.
fn check_hosts(pool: &PoolParts, faults: &mut Vec<Fault>) {
    let named = |backend: &&BackendParts| matches!(&backend.address, Some(at) if matches!(at.value, Target::Host(_)));
    let hosts: HashMap<&str, &Placed<String>> = pool
        .backends
        .iter()
        .filter(named)
        .filter_map(|host| host.name.as_ref())
        .map(|name| (&*name.value, name))
        .collect();
    for name in hosts.values() {
        let bytes = name.value.len();
        let most = BACKEND_NAME_BYTES_MAX - "/".len() - ADDRESS_BYTES_MAX;
        if bytes > most {
            let problem = Problem::new(
                format!("the name {} is too long for a host's", quoted(&name.value)),
                format!(
                    "it has {bytes} bytes; its backends are called after it and their addresses, which leaves {most}"
                ),
                "give the backend a shorter `name`",
            );
            faults.push(Fault::error(name.at.clone(), problem));
        }
    }
    for name in pool.backends.iter().filter_map(|backend| backend.name.as_ref()) {
        let mut before = name.value.match_indices('/').map(|(at, _)| &name.value[..at]);
        if let Some(host) = before.find(|before| hosts.contains_key(before)) {
            let problem = Problem::new(
                format!("the name {} belongs to the backend {}", quoted(&name.value), quoted(host)),
                "that one stands for a host, and its addresses become backends named in this way",
                "give this backend another `name`",
            );
            faults.push(Fault::error(name.at.clone(), problem));
        }
    }
}

fn overlap(one: &[Address], other: &[Address]) -> bool {
    one.iter().any(|one| other.iter().any(|other| same_or_within(one, other)))
}

fn same_or_within(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Inet(one), Address::Inet(other)) => {
            let one_within_other = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
            one.port() != 0 && one.port() == other.port() && one.is_ipv4() == other.is_ipv4() && one_within_other
        }
        (Address::Unix(one), Address::Unix(other)) => one == other,
        _ => false,
    }
}

/// Whether a connection to `address` would surely arrive at the socket that is bound to `bound`.
fn reaches(address: &Address, bound: &Address) -> bool {
    match (bound, address) {
        (Address::Inet(bound), Address::Inet(to)) => {
            let arrives = bound.ip() == to.ip() || bound.ip().is_unspecified() && to.ip().is_loopback();
            bound.port() == to.port() && bound.is_ipv4() == to.is_ipv4() && arrives
        }
        (bound, to) => bound == to,
    }
}

fn nothing_to_serve() -> Problem {
    Problem::new(
        "there is no listener",
        "without one no client is accepted, and there is nothing to do",
        "write a [[listener]] with `name`, `bind` and `pool`",
    )
}

fn unknown_pool(name: &str, names: &HashSet<&str>) -> Problem {
    let help = match nearest(name, names.iter().copied()) {
        Some(near) => format!("did you mean {}?", quoted(near)),
        None => format!("write a [[pool]] with `name = {}`", quoted(name)),
    };
    Problem::new(
        format!("there is no pool {}", quoted(name)),
        "the listener's clients would have nobody to serve them",
        help,
    )
}
