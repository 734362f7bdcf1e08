//! The three-way merge of a reload: the file as it was, the file as it is, and what is in force.

use std::collections::{HashMap, HashSet};

use crate::balance::settings::BackendSettings;
use crate::config::backend::{Backend, Target};
use crate::config::compare::named;

use super::{Entry, Overlay};

impl Overlay {
    /// Makes `file` the file. What has changed in it since it was loaded last is applied; what was changed live stays: values,
    /// additions, removals, and the order where the file has not changed it.
    ///
    /// Where both have changed one value, the file's counts. What the file has added counts as it stands there, but for the
    /// state of one that was there already, of which the file says nothing.
    pub fn merge(&mut self, file: Vec<Backend>) {
        let old = std::mem::take(&mut self.file);
        let was: HashMap<&str, &Backend> = old.iter().map(|backend| (backend.name(), backend)).collect();
        let is: HashSet<&str> = file.iter().map(Backend::name).collect();
        let order = |list: &[Backend], other: &dyn Fn(&str) -> bool| -> Vec<String> {
            list.iter().map(Backend::name).filter(|name| other(name)).map(str::to_owned).collect()
        };
        let moved = order(&old, &|name| is.contains(name)) != order(&file, &|name| was.contains_key(name));

        let live = std::mem::take(&mut self.live);
        let live_order: Vec<String> = live.iter().map(|entry| entry.backend.name().to_owned()).collect();
        let mut live: HashMap<String, Entry> =
            live.into_iter().map(|entry| (entry.backend.name().to_owned(), entry)).collect();
        let mut merged: HashMap<String, Entry> = HashMap::new();
        for new in &file {
            let entry = match (was.get(new.name()), live.remove(new.name())) {
                (Some(old), Some(entry)) => Some(entry.merged(old, new)),
                // It was removed live.
                (Some(_), None) => None,
                (None, Some(entry)) => Some(entry.taken_into(new)),
                (None, None) => Some(Entry::new(new.clone())),
            };
            merged.extend(entry.map(|entry| (new.name().to_owned(), entry)));
        }
        live.retain(|name, _| !was.contains_key(name.as_str()));
        merged.extend(live);

        let names: Vec<&str> = file.iter().map(Backend::name).collect();
        for name in ordered(&names, &live_order, moved) {
            self.live.extend(merged.remove(&name));
        }
        self.file = file;
    }
}

/// The order of what is in the file and what is in force. It may have names that are in neither any more.
fn ordered(file: &[&str], live: &[String], moved: bool) -> Vec<String> {
    let in_file: HashSet<&str> = file.iter().copied().collect();
    let mut order: Vec<String> = Vec::with_capacity(file.len() + live.len());
    if moved {
        order.extend(file.iter().map(|&name| name.to_owned()));
        order.extend(live.iter().filter(|name| !in_file.contains(name.as_str())).cloned());
        return order;
    }
    let in_force: HashSet<&str> = live.iter().map(String::as_str).collect();
    // What the file has got stands behind the one that it stands behind there.
    let mut behind: HashMap<Option<&str>, Vec<&str>> = HashMap::new();
    let mut previous = None;
    for &name in file {
        if in_force.contains(name) {
            previous = Some(name);
        } else {
            behind.entry(previous).or_default().push(name);
        }
    }
    order.extend(behind.remove(&None).unwrap_or_default().into_iter().map(str::to_owned));
    for name in live {
        order.push(name.clone());
        order.extend(behind.remove(&Some(name.as_str())).unwrap_or_default().into_iter().map(str::to_owned));
    }
    order
}

impl Entry {
    /// What it is after the file has changed from `old` to `new`.
    fn merged(mut self, old: &Backend, new: &Backend) -> Entry {
        let target = pick(&old.target(), &self.backend.target(), &new.target());
        let settings = merged(old.settings(), self.backend.settings(), new.settings());
        let before = std::mem::replace(&mut self.backend, rebuilt(target, settings));
        let Backend::Named(named) = &self.backend else {
            self.addresses.clear();
            return self;
        };
        let Backend::Named(was) = &before else { return self };
        if named.host() != was.host() {
            self.addresses.clear();
            return self;
        }
        for at in &mut self.addresses {
            let Some(address) = at.settings.address.inet() else { continue };
            at.settings = merged(&was.at(address.ip()), &at.settings, &named.at(address.ip()));
        }
        self
    }

    /// What it is after the file has got one of its name.
    fn taken_into(self, new: &Backend) -> Entry {
        let settings = BackendSettings { state: self.backend.settings().state, ..new.settings().clone() };
        let mut entry = Entry::new(rebuilt(new.target(), settings));
        entry.adopt_addresses(&self);
        entry
    }
}

/// A backend at `target`, told to be as in `settings`, whose address does not count.
pub(super) fn rebuilt(target: Target, settings: BackendSettings) -> Backend {
    Backend::new(target, |address| BackendSettings { address, ..settings })
}

/// The keys in which two backends differ.
pub(super) fn differing(one: &Backend, other: &Backend) -> Vec<&'static str> {
    let mut keys = differing_settings(one.settings(), other.settings());
    keys.retain(|key| *key != "address");
    if one.target() != other.target() {
        keys.insert(0, "address");
    }
    keys
}

/// The keys in which what two are told differs. The destructuring sees to it that none is forgotten.
pub(super) fn differing_settings(one: &BackendSettings, other: &BackendSettings) -> Vec<&'static str> {
    let BackendSettings {
        name: _,
        address,
        weight,
        backup,
        max_connections,
        max_fails,
        fail_timeout,
        slow_start,
        state,
    } = one;
    named([
        ("address", *address != other.address),
        ("weight", *weight != other.weight),
        ("backup", *backup != other.backup),
        ("max_connections", *max_connections != other.max_connections),
        ("max_fails", *max_fails != other.max_fails),
        ("fail_timeout", *fail_timeout != other.fail_timeout),
        ("slow_start", *slow_start != other.slow_start),
        ("state", *state != other.state),
    ])
}

/// Each value as it is in `new` where the file has changed it, and as it is in `live` where it has not.
fn merged(old: &BackendSettings, live: &BackendSettings, new: &BackendSettings) -> BackendSettings {
    BackendSettings {
        name: live.name.clone(),
        address: pick(&old.address, &live.address, &new.address),
        weight: pick(&old.weight, &live.weight, &new.weight),
        backup: pick(&old.backup, &live.backup, &new.backup),
        max_connections: pick(&old.max_connections, &live.max_connections, &new.max_connections),
        max_fails: pick(&old.max_fails, &live.max_fails, &new.max_fails),
        fail_timeout: pick(&old.fail_timeout, &live.fail_timeout, &new.fail_timeout),
        slow_start: pick(&old.slow_start, &live.slow_start, &new.slow_start),
        state: pick(&old.state, &live.state, &new.state),
    }
}

fn pick<T: Clone + PartialEq>(old: &T, live: &T, new: &T) -> T {
    if new == old { live.clone() } else { new.clone() }
}
