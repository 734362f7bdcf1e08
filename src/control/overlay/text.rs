//! Overlays as text, for the state file: JSON with a version. Pure: the clocks are arguments.
//!
//! Leases are told by the time of the day, because monotonic time begins anew with the host. Reading is as strict as it is
//! with the configuration: what does not mean exactly one thing is damage.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::balance::settings::{BackendSettings, State, Weight};
use crate::config::Problem;
use crate::config::backend::{Backend, Target};
use crate::config::notation::{self, quoted};
use crate::config::value;
use crate::limits::{CONNECTIONS_MAX, FAILS_MAX, LEASE_MAX, LEASE_MIN, TIMEOUT_MAX, WEIGHT_MAX};
use crate::time::Time;

use super::{Entry, Lease, Overlay, Resolved};

/// The form that is written, and the only one that is read.
pub const VERSION: u32 = 1;

/// The overlay of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The pool's name.
    pub pool: String,
    /// What was made of its backends.
    pub overlay: Overlay,
}

/// One moment on both clocks.
#[derive(Copy, Clone, Debug)]
pub struct Clocks {
    /// On the monotonic one.
    pub now: Time,
    /// On the wall.
    pub wall: SystemTime,
}

/// Why a text is not a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It is not of this form at all.
    #[error("it is not the JSON of a state file: {0}")]
    Json(String),
    /// Another version of ringlb has written it.
    #[error("it has version {version} of the form, written by ringlb {ringlb}; this one reads version {VERSION}")]
    Version {
        /// Of the form.
        version: u32,
        /// Of that ringlb.
        ringlb: String,
    },
    /// Something in it cannot be.
    #[error("{place}: {what}")]
    Value {
        /// Where.
        place: String,
        /// What.
        what: String,
    },
}

/// What every version begins with.
#[derive(Deserialize)]
struct Head {
    version: u32,
    #[serde(default)]
    ringlb: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    version: u32,
    ringlb: String,
    written: String,
    pools: Vec<PoolText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolText {
    name: String,
    /// The backends as the configuration had them.
    file: Vec<FileText>,
    /// Those in force, in order.
    live: Vec<LiveText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    name: String,
    told: ToldText,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LiveText {
    name: String,
    /// Absent: as the configuration had it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    told: Option<ToldText>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    lease: Option<LeaseText>,
    /// Of a host: the addresses that were told something else, or removed.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    addresses: Vec<AddressText>,
}

#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldText {
    address: String,
    weight: u32,
    backup: bool,
    max_connections: u32,
    max_fails: u32,
    fail_timeout: String,
    slow_start: String,
    state: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseText {
    ttl: String,
    until: String,
    expired: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddressText {
    ip: IpAddr,
    removed: bool,
    told: ToldText,
}

/// The text of a state.
pub fn write(state: &[Kept], clocks: Clocks) -> Vec<u8> {
    let whole = Whole {
        version: VERSION,
        ringlb: env!("CARGO_PKG_VERSION").to_owned(),
        written: humantime::format_rfc3339_millis(writable(clocks.wall)).to_string(),
        pools: state.iter().map(|kept| PoolText::of(kept, clocks)).collect(),
    };
    let mut text = serde_json::to_vec(&whole).unwrap_or_else(|error| {
        // Keys are text, and there are no numbers but whole ones.
        unreachable!("a state that is no JSON: {error}")
    });
    text.push(b'\n');
    text
}

/// The state of a text. Leases that have ended meanwhile are over; one is never longer than it was taken for, whatever has
/// become of the clock.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &[u8], clocks: Clocks) -> Result<Vec<Kept>, Damage> {
    let json = |error: serde_json::Error| Damage::Json(error.to_string());
    let Head { version, ringlb } = serde_json::from_slice(text).map_err(json)?;
    if version != VERSION {
        return Err(Damage::Version { version, ringlb: quoted(&ringlb) });
    }
    let whole: Whole = serde_json::from_slice(text).map_err(json)?;
    let mut names = HashSet::new();
    for pool in &whole.pools {
        if !names.insert(&pool.name) {
            return Err(damage(&format!("pool {}", quoted(&pool.name)), "it stands there twice"));
        }
    }
    whole.pools.iter().map(|pool| pool.read(clocks)).collect()
}

impl PoolText {
    fn of(kept: &Kept, clocks: Clocks) -> PoolText {
        let Overlay { file, live } = &kept.overlay;
        let before: HashMap<&str, &Backend> = file.iter().map(|one| (one.name(), one)).collect();
        let live = live.iter().map(|entry| {
            let name = entry.backend.name();
            let same = before.get(name).is_some_and(|file| **file == entry.backend);
            LiveText {
                name: name.to_owned(),
                told: (!same).then(|| ToldText::of(&entry.backend)),
                lease: entry.lease.map(|lease| LeaseText::of(lease, clocks)),
                addresses: entry.addresses.iter().filter_map(AddressText::of).collect(),
            }
        });
        let file = file.iter().map(|one| FileText { name: one.name().to_owned(), told: ToldText::of(one) });
        PoolText { name: kept.pool.clone(), file: file.collect(), live: live.collect() }
    }

    fn read(&self, clocks: Clocks) -> Result<Kept, Damage> {
        let place = format!("pool {}", quoted(&self.name));
        let name = value::name(&self.name).map_err(|problem| wrong(&place, problem))?;
        let mut file: Vec<Backend> = Vec::with_capacity(self.file.len());
        for one in &self.file {
            let place = format!("{place}, backend {} of the file", quoted(&one.name));
            file.push(one.told.read(&one.name, &place)?);
        }
        let before: HashMap<&str, &Backend> = file.iter().map(|one| (one.name(), one)).collect();
        if before.len() < file.len() {
            return Err(damage(&place, "two backends of the file have one name"));
        }
        let mut live: Vec<Entry> = Vec::with_capacity(self.live.len());
        for one in &self.live {
            let place = format!("{place}, backend {}", quoted(&one.name));
            let backend = match &one.told {
                Some(told) => told.read(&one.name, &place)?,
                None => {
                    let file = before.get(one.name.as_str());
                    Backend::clone(file.ok_or_else(|| damage(&place, "nothing says what it is"))?)
                }
            };
            live.push(one.entry(backend, &place, clocks)?);
        }
        Ok(Kept { pool: name, overlay: Overlay { file, live } })
    }
}

impl LiveText {
    fn entry(&self, backend: Backend, place: &str, clocks: Clocks) -> Result<Entry, Damage> {
        let lease = self.lease.as_ref().map(|lease| lease.read(place, clocks)).transpose()?;
        let mut entry = Entry { lease, ..Entry::new(backend) };
        for at in &self.addresses {
            let place = format!("{place}, address {}", at.ip);
            let Backend::Named(named) = &entry.backend else {
                return Err(damage(&place, "only a host has addresses"));
            };
            // A name server may say what nobody could write into the configuration.
            let BackendSettings { name, address, .. } = named.at(at.ip);
            let settings = at.told.settings(name, &place)?(address);
            entry.addresses.push(Resolved { settings, hidden: at.removed });
        }
        Ok(entry)
    }
}

impl ToldText {
    fn of(backend: &Backend) -> ToldText {
        ToldText::of_settings(&backend.target(), backend.settings())
    }

    fn of_settings(target: &Target, settings: &BackendSettings) -> ToldText {
        let BackendSettings {
            name: _,
            address: _,
            weight,
            backup,
            max_connections,
            max_fails,
            fail_timeout,
            slow_start,
            state,
        } = settings;
        ToldText {
            address: target.to_string(),
            weight: weight.as_u32(),
            backup: *backup,
            max_connections: *max_connections,
            max_fails: *max_fails,
            fail_timeout: humantime::format_duration(*fail_timeout).to_string(),
            slow_start: humantime::format_duration(*slow_start).to_string(),
            state: state.name().to_owned(),
        }
    }

    fn read(&self, name: &str, place: &str) -> Result<Backend, Damage> {
        let name = value::backend_name(name).map_err(|problem| wrong(place, problem))?;
        let target = notation::target(&self.address).map_err(|problem| wrong(place, problem))?;
        Ok(Backend::new(target, self.settings(name, place)?))
    }

    /// What a backend of that name is told at an address.
    fn settings(&self, name: String, place: &str) -> Result<impl FnOnce(Address) -> BackendSettings + use<>, Damage> {
        let most = |what: &str, number: u32, most: u32| {
            let what = || damage(place, &format!("{what} {number} is more than {most}"));
            (number <= most).then_some(number).ok_or_else(what)
        };
        let weight = most("the weight", self.weight, WEIGHT_MAX)?;
        let weight = Weight::new(weight).ok_or_else(|| damage(place, "the weight is out of range"))?;
        let max_connections = most("max_connections", self.max_connections, CONNECTIONS_MAX)?;
        let max_fails = most("max_fails", self.max_fails, FAILS_MAX)?;
        let fail_timeout = duration(&self.fail_timeout, Duration::from_millis(1), TIMEOUT_MAX, place)?;
        let slow_start = duration(&self.slow_start, Duration::ZERO, TIMEOUT_MAX, place)?;
        let state = State::ALL.iter().copied().find(|state| state.name() == self.state);
        let state = state.ok_or_else(|| damage(place, &format!("{} is not a state", quoted(&self.state))))?;
        let backup = self.backup;
        Ok(move |address: Address| BackendSettings {
            name,
            address,
            weight,
            backup,
            max_connections,
            max_fails,
            fail_timeout,
            slow_start,
            state,
        })
    }
}

impl AddressText {
    /// `None` where it is no address and port, which an address of a host always is.
    fn of(at: &Resolved) -> Option<AddressText> {
        let ip = at.settings.address.inet()?.ip();
        let target = Target::Address(at.settings.address.clone());
        Some(AddressText { ip, removed: at.hidden, told: ToldText::of_settings(&target, &at.settings) })
    }
}

impl LeaseText {
    fn of(lease: Lease, clocks: Clocks) -> LeaseText {
        let Lease { ttl, until, expired } = lease;
        let until = match until > clocks.now {
            true => clocks.wall.checked_add(until - clocks.now),
            false => clocks.wall.checked_sub(clocks.now - until),
        };
        let until = humantime::format_rfc3339_nanos(writable(until.unwrap_or(clocks.wall))).to_string();
        LeaseText { ttl: humantime::format_duration(ttl).to_string(), until, expired }
    }

    fn read(&self, place: &str, clocks: Clocks) -> Result<Lease, Damage> {
        let ttl = duration(&self.ttl, LEASE_MIN, LEASE_MAX, place)?;
        let until = humantime::parse_rfc3339(&self.until);
        let until = until.map_err(|error| damage(place, &format!("until {}: {error}", quoted(&self.until))))?;
        // A clock that was set back meanwhile does not make it longer.
        let left = until.duration_since(clocks.wall).unwrap_or(Duration::ZERO).min(ttl);
        Ok(Lease { ttl, until: clocks.now + left, expired: self.expired || left.is_zero() })
    }
}

/// A clock may stand anywhere; what RFC 3339 cannot write is its first or last second.
fn writable(wall: SystemTime) -> SystemTime {
    wall.clamp(UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(253_402_300_799))
}

fn duration(text: &str, least: Duration, most: Duration, place: &str) -> Result<Duration, Damage> {
    let duration = humantime::parse_duration(text).ok().filter(|duration| (least..=most).contains(duration));
    duration.ok_or_else(|| {
        let (least, most) = (humantime::format_duration(least), humantime::format_duration(most));
        damage(place, &format!("{} is not a duration from {least} to {most}", quoted(text)))
    })
}

fn damage(place: &str, what: &str) -> Damage {
    Damage::Value { place: place.to_owned(), what: what.to_owned() }
}

fn wrong(place: &str, problem: Problem) -> Damage {
    damage(place, &format!("{}: {}", problem.what, problem.why))
}

#[cfg(test)]
mod tests;
