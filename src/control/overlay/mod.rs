//! What a pool's file says of its backends, and what was made of them since: by edits of the running process, by names
//! that were looked up, by leases that ran out. Pure: time is an argument.
//!
//! The file as it was loaded last and the list that is in force stand side by side. So a reload can tell what has changed
//! in the file from what was changed live: it applies the first, and keeps the second.

mod kept;
mod merge;
pub mod text;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::balance::settings::{BackendSettings, State};
use crate::config::backend::{Backend, Host, NamedBackend, Target};
use crate::config::compare::{Difference, differences};
use crate::time::Time;

/// The backends of one pool: as the file has them, and as they are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay {
    file: Vec<Backend>,
    live: Vec<Entry>,
}

/// A backend that is in force.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    backend: Backend,
    /// Of a host: the addresses it stands for now. One that stays keeps what it was told since it came.
    addresses: Vec<Resolved>,
    lease: Option<Lease>,
}

/// An address of a host.
#[derive(Clone, Debug, PartialEq)]
struct Resolved {
    settings: BackendSettings,
    /// It was removed live, and stays so until its name no longer has it.
    hidden: bool,
}

/// A backend's registration for a time.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// How long each renewal lasts.
    pub ttl: Duration,
    /// When it ends.
    pub until: Time,
    /// It has ended: the backend drains, and goes with its last session.
    pub expired: bool,
}

/// Where a backend comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The configuration file, or the command line.
    File,
    /// An edit of the running process.
    Live,
    /// A host name, as it is written.
    Host(Host),
}

/// Why an edit is not possible. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// There is none of that name.
    #[error("there is no backend named `{0}`")]
    Unknown(String),
    /// There is one of that name already.
    #[error("there is a backend named `{0}` already")]
    Exists(String),
    /// Two of one name in one set.
    #[error("two backends are named `{0}`")]
    Twice(String),
    /// The name looks like one that a host among the backends gives.
    #[error("the name `{0}` is of the kind that the backends of the host `{1}` get")]
    HostKind(String, String),
    /// The address of a host's backend is looked up, and not told.
    #[error("the address of `{0}` comes from looking up a name")]
    LookedUp(String),
    /// A lease on what the file has.
    #[error("`{0}` is in the configuration file, so it cannot be held by a lease")]
    LeaseOfFile(String),
}

impl Overlay {
    /// What the file says, and nothing else. Its hosts have no addresses yet.
    pub fn new(file: Vec<Backend>) -> Overlay {
        let live = file.iter().cloned().map(Entry::new).collect();
        Overlay { file, live }
    }

    /// What every backend is to be, in order.
    pub fn backends(&self) -> Vec<BackendSettings> {
        self.live.iter().flat_map(Entry::backends).collect()
    }

    /// The host names, in order.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, &Host)> {
        self.live.iter().filter_map(|entry| entry.named().map(|named| (named.name(), named.host())))
    }

    /// Of the backends that come from a host name: their names, and that host.
    pub fn hosts_of_backends(&self) -> impl Iterator<Item = (&str, &Host)> {
        self.live.iter().flat_map(|entry| {
            let host = entry.named().map(NamedBackend::host);
            entry.addresses.iter().filter_map(move |at| Some((at.settings.name.as_str(), host?)))
        })
    }

    /// The addresses of the host called `name`; empty where it is unknown. Those removed live are among them.
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        self.entry(name).map(Entry::ips).unwrap_or_default()
    }

    /// Makes `ips` the addresses of a host. Nothing happens where it is no longer one of these backends.
    pub fn resolve(&mut self, name: &str, host: &Host, ips: &[IpAddr]) {
        if let Some(entry) = self.live.iter_mut().find(|entry| entry.backend.name() == name)
            && let Backend::Named(named) = &entry.backend
            && named.host() == host
        {
            let before = std::mem::take(&mut entry.addresses);
            let kept = |at: BackendSettings| {
                let same = before.iter().find(|one| one.settings.address == at.address).cloned();
                same.unwrap_or(Resolved { settings: at, hidden: false })
            };
            entry.addresses = ips.iter().map(|ip| kept(named.at(*ip))).collect();
        }
    }

    /// Where the backend of that name comes from, and its lease.
    pub fn source(&self, name: &str) -> Option<(Source, Option<Lease>)> {
        self.sources().remove(name)
    }

    /// The same of all backends.
    pub fn sources(&self) -> HashMap<&str, (Source, Option<Lease>)> {
        let file: HashSet<&str> = self.file.iter().map(Backend::name).collect();
        let mut sources = HashMap::new();
        for entry in &self.live {
            let own = if file.contains(entry.backend.name()) { Source::File } else { Source::Live };
            let source = entry.named().map_or(own, |named| Source::Host(named.host().clone()));
            for at in &entry.addresses {
                sources.insert(at.settings.name.as_str(), (source.clone(), None));
            }
            sources.insert(entry.backend.name(), (source, entry.lease));
        }
        sources
    }

    /// Changes what a backend is told to be; its name stays. Of a host all its backends are told, and those to come.
    ///
    /// # Errors
    /// It is unknown, or its address is not ours to tell.
    pub fn tell(&mut self, name: &str, change: impl Fn(&mut BackendSettings)) -> Result<(), EditError> {
        let told = |settings: &BackendSettings| {
            let mut told = settings.clone();
            change(&mut told);
            told.name.clone_from(&settings.name);
            told
        };
        for entry in &mut self.live {
            let whole = entry.backend.name() == name;
            let at = entry.addresses.iter_mut().filter(|at| whole || at.settings.name == name && !at.hidden);
            let mut found = whole;
            for at in at {
                let told = told(&at.settings);
                if told.address != at.settings.address {
                    return Err(EditError::LookedUp(name.to_owned()));
                }
                at.settings = told;
                found = true;
            }
            if whole {
                let target = entry.backend.target();
                let told = told(entry.backend.settings());
                if let Target::Host(_) = &target {
                    if told.address != entry.backend.settings().address {
                        return Err(EditError::LookedUp(name.to_owned()));
                    }
                    entry.backend = merge::rebuilt(target, told);
                } else {
                    entry.backend = Backend::Fixed(told);
                }
            }
            if found {
                return Ok(());
            }
        }
        Err(EditError::Unknown(name.to_owned()))
    }

    /// Adds one behind the others.
    ///
    /// # Errors
    /// There is one of that name, or the name is of the kind that a host's backends get.
    pub fn add(&mut self, backend: Backend, lease: Option<Lease>) -> Result<(), EditError> {
        let name = backend.name();
        if self.entry(name).is_some() {
            return Err(EditError::Exists(name.to_owned()));
        }
        if lease.is_some() && self.file.iter().any(|file| file.name() == name) {
            return Err(EditError::LeaseOfFile(name.to_owned()));
        }
        self.live.push(Entry { lease, ..Entry::new(backend) });
        self.check()
    }

    /// Adds one, or makes the one of its name what this one is. `Some(lease)` begins or renews one; without, an earlier
    /// lease ends and the backend stays.
    ///
    /// # Errors
    /// As [`Overlay::add`], but that it may exist; and a lease on what the file has.
    pub fn put(&mut self, backend: Backend, lease: Option<Lease>) -> Result<(), EditError> {
        let name = backend.name();
        if lease.is_some() && self.file.iter().any(|file| file.name() == name) {
            return Err(EditError::LeaseOfFile(name.to_owned()));
        }
        let Some(entry) = self.live.iter_mut().find(|entry| entry.backend.name() == name) else {
            return self.add(backend, lease);
        };
        let before = std::mem::replace(entry, Entry { lease, ..Entry::new(backend) });
        entry.adopt_addresses(&before);
        self.check()
    }

    /// Removes one; the file's stay removed until a reload discards live edits.
    ///
    /// # Errors
    /// It is unknown.
    pub fn remove(&mut self, name: &str) -> Result<(), EditError> {
        if let Some(index) = self.live.iter().position(|entry| entry.backend.name() == name) {
            self.live.remove(index);
            return Ok(());
        }
        let mut addresses = self.live.iter_mut().flat_map(|entry| &mut entry.addresses);
        match addresses.find(|at| at.settings.name == name && !at.hidden) {
            Some(at) => {
                at.hidden = true;
                Ok(())
            }
            None => Err(EditError::Unknown(name.to_owned())),
        }
    }

    /// Makes `wanted` the whole set, in its order. A host stays with the addresses it has where it is named, or where some
    /// of its backends are; then the others of them are removed. Leases of those that stay go on.
    ///
    /// # Errors
    /// Two of one name, or a name of the kind that a host's backends get.
    pub fn swap(&mut self, wanted: Vec<Backend>) -> Result<(), EditError> {
        let mut before: HashMap<String, Entry> =
            self.live.drain(..).map(|entry| (entry.backend.name().to_owned(), entry)).collect();
        let mut hosts: HashMap<String, String> = HashMap::new();
        for entry in before.values() {
            for at in &entry.addresses {
                hosts.insert(at.settings.name.clone(), entry.backend.name().to_owned());
            }
        }
        let mut places: HashMap<String, usize> = HashMap::new();
        for wanted in wanted {
            let name = wanted.name().to_owned();
            // One of a host's backends, as it was looked up.
            if let Some(host) = hosts.get(&name)
                && let Backend::Fixed(settings) = &wanted
            {
                if let Some(mut entry) = before.remove(host) {
                    entry.addresses.iter_mut().for_each(|at| at.hidden = true);
                    places.insert(host.clone(), self.live.len());
                    self.live.push(entry);
                }
                let entry = places.get(host).map(|place| &mut self.live[*place]);
                let at = entry.and_then(|entry| entry.addresses.iter_mut().find(|at| at.settings.name == name));
                if let Some(at) = at.filter(|at| at.settings.address == settings.address) {
                    (at.settings, at.hidden) = (settings.clone(), false);
                    continue;
                }
                return Err(EditError::HostKind(name, host.clone()));
            }
            let mut entry = Entry::new(wanted);
            if let Some(before) = before.remove(&name) {
                entry.lease = before.lease;
                entry.adopt_addresses(&before);
            }
            places.insert(name, self.live.len());
            self.live.push(entry);
        }
        self.check()
    }

    /// Makes the file the truth again. Hosts that stay keep their addresses, each told anew.
    pub fn replace(&mut self, file: Vec<Backend>) {
        let before = std::mem::replace(self, Overlay::new(file));
        for entry in &mut self.live {
            if let Some(before) = before.entry(entry.backend.name()) {
                entry.adopt_addresses(before);
            }
        }
    }

    /// What differs from the file, in the order of the file and then of what is in force. A lease's end is no edit.
    pub fn edits(&self) -> Vec<Difference> {
        let live: HashMap<&str, &Entry> = self.live.iter().map(|entry| (entry.backend.name(), entry)).collect();
        let mut edits = Vec::new();
        for file in &self.file {
            let Some(entry) = live.get(file.name()) else {
                edits.push(Difference::Removed(file.name().to_owned()));
                continue;
            };
            let keys = merge::differing(file, &entry.backend);
            if !keys.is_empty() {
                edits.push(Difference::Changed(file.name().to_owned(), keys));
            }
            edits.extend(entry.edits_of_addresses());
        }
        let file: HashSet<&str> = self.file.iter().map(Backend::name).collect();
        for entry in self.live.iter().filter(|entry| !file.contains(entry.backend.name())) {
            edits.push(Difference::Added(entry.backend.name().to_owned()));
            edits.extend(entry.edits_of_addresses());
        }
        edits
    }

    /// What `next` is to be that this is not: names of hosts, and not of the addresses that they stand for.
    pub fn differences(&self, next: &Overlay) -> Vec<Difference> {
        let differing = |one: &Entry, other: &Entry| merge::differing(&one.backend, &other.backend);
        differences(&self.live, &next.live, |entry| entry.backend.name(), differing)
    }

    /// Whether those that are in both stand in another order in `next`.
    pub fn reorders(&self, next: &Overlay) -> bool {
        let names = |one: &Overlay, other: &Overlay| -> Vec<String> {
            let there: HashSet<&str> = other.live.iter().map(|entry| entry.backend.name()).collect();
            let names = one.live.iter().map(|entry| entry.backend.name());
            names.filter(|name| there.contains(name)).map(str::to_owned).collect()
        };
        names(self, next) != names(next, self)
    }

    /// When the next lease ends.
    pub fn next_expiry(&self) -> Option<Time> {
        let leases = self.live.iter().filter_map(|entry| entry.lease);
        leases.filter(|lease| !lease.expired).map(|lease| lease.until).min()
    }

    /// Ends the leases that are over, and gives the names of their backends, which drain from now on.
    pub fn expire(&mut self, now: Time) -> Vec<String> {
        let mut expired = Vec::new();
        for entry in &mut self.live {
            if let Some(lease) = entry.lease.as_mut().filter(|lease| !lease.expired && lease.until <= now) {
                lease.expired = true;
                expired.push(entry.backend.name().to_owned());
            }
        }
        expired
    }

    /// Those whose lease has ended.
    pub fn expired(&self) -> impl Iterator<Item = &str> {
        let expired = self.live.iter().filter(|entry| entry.lease.is_some_and(|lease| lease.expired));
        expired.map(|entry| entry.backend.name())
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.live.iter().find(|entry| entry.backend.name() == name)
    }

    /// Whether its names are as they may be.
    ///
    /// # Errors
    /// Two are alike, or one looks as if it came from a host.
    pub fn check(&self) -> Result<(), EditError> {
        let mut names = HashSet::with_capacity(self.live.len());
        let hosts: HashSet<&str> = self.hosts().map(|(name, _)| name).collect();
        for entry in &self.live {
            let name = entry.backend.name();
            if !names.insert(name) {
                return Err(EditError::Twice(name.to_owned()));
            }
            if let Some((host, rest)) = name.rsplit_once('/')
                && hosts.contains(host)
                && rest.parse::<IpAddr>().is_ok()
            {
                return Err(EditError::HostKind(name.to_owned(), host.to_owned()));
            }
        }
        Ok(())
    }
}

impl Entry {
    fn new(backend: Backend) -> Entry {
        Entry { backend, addresses: Vec::new(), lease: None }
    }

    fn named(&self) -> Option<&NamedBackend> {
        match &self.backend {
            Backend::Fixed(_) => None,
            Backend::Named(named) => Some(named),
        }
    }

    fn ips(&self) -> Vec<IpAddr> {
        self.addresses.iter().filter_map(|at| at.settings.address.inet()).map(|address| address.ip()).collect()
    }

    fn backends(&self) -> Vec<BackendSettings> {
        let drained = |settings: &BackendSettings| {
            let mut settings = settings.clone();
            if self.lease.is_some_and(|lease| lease.expired) && settings.state == State::Ready {
                settings.state = State::Drain;
            }
            settings
        };
        match &self.backend {
            Backend::Fixed(settings) => vec![drained(settings)],
            Backend::Named(_) => {
                self.addresses.iter().filter(|at| !at.hidden).map(|at| drained(&at.settings)).collect()
            }
        }
    }

    /// Takes over the addresses of the same host as it was `before`, each told anew.
    fn adopt_addresses(&mut self, before: &Entry) {
        if let (Backend::Named(named), Some(was)) = (&self.backend, before.named())
            && named.host() == was.host()
        {
            let told = before.ips().into_iter().map(|ip| Resolved { settings: named.at(ip), hidden: false });
            self.addresses = told.collect();
        }
    }

    /// What its addresses were told beyond what the host is told.
    fn edits_of_addresses(&self) -> Vec<Difference> {
        let Some(named) = self.named() else { return Vec::new() };
        let mut edits = Vec::new();
        for (at, ip) in self.addresses.iter().zip(self.ips()) {
            let keys = merge::differing_settings(&named.at(ip), &at.settings);
            let name = at.settings.name.clone();
            if at.hidden {
                edits.push(Difference::Removed(name));
            } else if !keys.is_empty() {
                edits.push(Difference::Changed(name, keys));
            }
        }
        edits
    }
}

#[cfg(test)]
mod tests;
