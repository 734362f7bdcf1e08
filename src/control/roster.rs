//! What a pool is told to be, in one place: the configuration, what its host names stand for, and what was changed
//! since. Whoever changes a pool changes its roster, which publishes the whole set that follows, so that no two of them
//! undo each other's changes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::address::Address;
use crate::balance::settings::BackendSettings;
use crate::balance::{BackendSet, Changes, Pool, SetError};
use crate::config;
use crate::config::backend::Host;
use crate::config::compare::Difference;
use crate::config::health::Health;
use crate::time::Time;
use crate::wire::proxy::Version;

use super::overlay::{EditError, Overlay};

/// What one pool is told to be.
#[derive(Debug)]
pub struct Roster {
    pool: Arc<Pool>,
    told: Mutex<Told>,
    changes: watch::Sender<u64>,
}

#[derive(Clone, Debug)]
struct Told {
    /// Without its backends, which are the overlay's.
    config: config::Pool,
    overlay: Overlay,
    /// Counts the changes, from 1. Unlike the set's own number it stays where a check finds a backend up or down.
    revision: u64,
}

/// A moment of a roster: what belongs together.
#[derive(Debug)]
pub struct Moment {
    /// Counts the changes of what the pool is told, from 1.
    pub revision: u64,
    /// The set.
    pub set: Arc<BackendSet>,
    /// What the file says of its backends, and what was made of them.
    pub overlay: Overlay,
}

/// Why a pool stays as it was told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The edit is not possible.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// What follows would not be a set.
    #[error(transparent)]
    Set(#[from] SetError),
    /// It was meant for another revision.
    #[error("the set is at revision {revision} by now")]
    Outdated {
        /// The one that it has.
        revision: u64,
    },
}

/// What an edit has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// By backends' names.
    pub changes: Changes,
    /// The revision that follows it.
    pub revision: u64,
}

/// A change of what a pool is told that is known to be possible. Nobody else changes the pool until this is made or dropped.
#[derive(Debug)]
pub struct Prepared<'r> {
    roster: &'r Roster,
    told: MutexGuard<'r, Told>,
    next: Told,
    discard_live: bool,
}

/// A host name among the backends of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Named {
    /// What the names of its backends begin with.
    pub name: String,
    /// What is looked up.
    pub host: Host,
}

impl Roster {
    /// Of a pool as the configuration has it; its host names have no addresses yet. `changes` counts every change.
    ///
    /// # Errors
    /// Where its backends cannot be a set.
    pub fn new(config: config::Pool, changes: watch::Sender<u64>, now: Time) -> Result<Roster, SetError> {
        let told = Told::new(config);
        let pool = Pool::new(told.config.settings.clone(), told.overlay.backends(), now)?;
        Ok(Roster { pool, told: Mutex::new(told), changes })
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Its active checks.
    pub fn health(&self) -> Option<Health> {
        self.told().config.health.clone()
    }

    /// Where connections to its backends come from.
    pub fn sources(&self) -> Vec<IpAddr> {
        self.told().config.sources.clone()
    }

    /// The PROXY header that its backends are sent.
    pub fn send_proxy_protocol(&self) -> Option<Version> {
        self.told().config.send_proxy_protocol
    }

    /// Time between two look-ups of one of its host names.
    pub fn resolve_interval(&self) -> Duration {
        self.told().config.resolve_interval
    }

    /// Its host names, in order.
    pub fn hosts(&self) -> Vec<Named> {
        let told = self.told();
        told.overlay.hosts().map(|(name, host)| Named { name: name.to_owned(), host: host.clone() }).collect()
    }

    /// Of its backends that come from a host name: their names, and that host as it is written.
    pub fn hosts_of_backends(&self) -> HashMap<String, String> {
        let told = self.told();
        told.overlay.hosts_of_backends().map(|(name, host)| (name.to_owned(), host.to_string())).collect()
    }

    /// The addresses of the host of `backend` now; empty where it is unknown.
    pub fn addresses(&self, backend: &str) -> Vec<IpAddr> {
        self.told().overlay.addresses(backend)
    }

    /// What a backend of it is told where nothing is said but its name and address.
    pub fn defaults(&self, name: &str, address: Address) -> BackendSettings {
        self.told().config.defaults(name, address)
    }

    /// What it is told, and the set that follows from it.
    pub fn moment(&self) -> Moment {
        let told = self.told();
        Moment { revision: told.revision, set: self.pool.snapshot(), overlay: told.overlay.clone() }
    }

    /// Counts the changes of what the pool is told, from 1.
    pub fn revision(&self) -> u64 {
        self.told().revision
    }

    /// What a restart must not lose; see [`Overlay::kept`].
    pub fn kept(&self) -> Option<Overlay> {
        self.told().overlay.kept()
    }

    /// Makes `addresses` those of a host, in their order. Nothing is published where they are what they were, or where
    /// it is no longer one of the pool's.
    ///
    /// # Errors
    /// Where the set that follows is not a possible one; then nothing has changed.
    pub fn resolved(&self, named: &Named, addresses: &[IpAddr], now: Time) -> Result<Changes, Refusal> {
        let resolve = |overlay: &mut Overlay| {
            overlay.resolve(&named.name, &named.host, addresses);
            Ok(())
        };
        self.edit(None, now, resolve).map(|edited| edited.changes)
    }

    /// Changes what one backend of the set is told to be; its name and address stay.
    ///
    /// # Errors
    /// As [`Roster::edit`].
    pub fn tell(&self, backend: &str, change: impl Fn(&mut BackendSettings), now: Time) -> Result<Changes, Refusal> {
        let tell = |overlay: &mut Overlay| {
            overlay.tell(backend, |settings| {
                let address = settings.address.clone();
                change(settings);
                settings.address = address;
            })
        };
        self.edit(None, now, tell).map(|edited| edited.changes)
    }

    /// Edits the list of backends, all at once, and publishes the set that follows; `revisions`: only at one of these.
    /// Edits come one after the other, whoever makes them.
    ///
    /// # Errors
    /// Where the edit or the set that follows is not possible, or it is at another revision; then nothing has changed.
    pub fn edit(
        &self,
        revisions: Option<&[u64]>,
        now: Time,
        edit: impl FnOnce(&mut Overlay) -> Result<(), EditError>,
    ) -> Result<Edited, Refusal> {
        let edit = |told: &mut Told| edit(&mut told.overlay);
        self.change(revisions, now, edit)
    }

    /// Its host names that have been looked up, and their addresses.
    pub fn known_hosts(&self) -> HashMap<Host, Vec<IpAddr>> {
        let told = self.told();
        let known = told.overlay.hosts().map(|(name, host)| (host.clone(), told.overlay.addresses(name)));
        known.filter(|(_, addresses)| !addresses.is_empty()).collect()
    }

    /// Gives its host names the addresses that are known, so that nobody waits for a look-up whose answer is known.
    pub fn adopt_hosts(&self, known: &HashMap<Host, Vec<IpAddr>>, now: Time) {
        for named in self.hosts() {
            if let Some(addresses) = known.get(&named.host)
                && let Err(error) = self.resolved(&named, addresses, now)
            {
                tracing::debug!("pool {}: {error}; its hosts are looked up", self.pool.name());
            }
        }
    }

    /// Prepares the change to `config`, the file as it is now: what has changed in it since it was loaded last is applied, and
    /// what was changed live stays; or with `discard_live`, all becomes as the file says. A host that stays keeps its
    /// addresses; one that is new has none until it is looked up. The pool keeps its name.
    ///
    /// # Errors
    /// What follows is not possible.
    pub fn prepare(&self, config: config::Pool, discard_live: bool) -> Result<Prepared<'_>, Refusal> {
        let told = self.told();
        let mut next = told.clone();
        let file = next.take(config);
        if discard_live {
            next.overlay.replace(file);
        } else {
            next.overlay.merge(file);
        }
        next.overlay.check()?;
        self.pool.check(&next.overlay.backends())?;
        Ok(Prepared { roster: self, told, next, discard_live })
    }

    /// Changes what is told, and publishes it; takes it back where it is not possible.
    fn change(
        &self,
        revisions: Option<&[u64]>,
        now: Time,
        change: impl FnOnce(&mut Told) -> Result<(), EditError>,
    ) -> Result<Edited, Refusal> {
        let told = self.told();
        let revision = told.revision;
        if revisions.is_some_and(|wanted| !wanted.contains(&revision)) {
            return Err(Refusal::Outdated { revision });
        }
        let mut next = told.clone();
        change(&mut next)?;
        self.publish(told, next, now)
    }

    /// Makes `next` what is told, where it is something else.
    fn publish(&self, mut told: MutexGuard<'_, Told>, mut next: Told, now: Time) -> Result<Edited, Refusal> {
        if next.config == told.config && next.overlay == told.overlay {
            let kept = self.pool.snapshot().backends().iter().map(|backend| backend.name().to_owned()).collect();
            return Ok(Edited { changes: Changes { kept, ..Changes::default() }, revision: told.revision });
        }
        let changes = self.pool.replace(next.config.settings.clone(), next.overlay.backends(), now)?;
        next.revision += 1;
        let revision = next.revision;
        *told = next;
        drop(told);
        self.changes.send_modify(|count| *count += 1);
        Ok(Edited { changes, revision })
    }

    /// What is behind the lock is changed in one step, so a poisoned lock is as good as new.
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prepared<'_> {
    /// What it would change of the backends, by their names as they are written.
    pub fn backends(&self) -> Vec<Difference> {
        self.told.overlay.differences(&self.next.overlay)
    }

    /// Whether those that stay stand in another order.
    pub fn reorders(&self) -> bool {
        self.told.overlay.reorders(&self.next.overlay)
    }

    /// What was changed live: it stays, or is undone where it is discarded.
    pub fn live(&self) -> Vec<Difference> {
        if self.discard_live { self.told.overlay.edits() } else { self.next.overlay.edits() }
    }

    /// Makes it so.
    ///
    /// # Errors
    /// None, unless something is wrong with ringlb: it was found possible.
    pub fn commit(self, now: Time) -> Result<Edited, Refusal> {
        self.roster.publish(self.told, self.next, now)
    }
}

impl Told {
    fn new(mut config: config::Pool) -> Told {
        let overlay = Overlay::new(std::mem::take(&mut config.backends));
        Told { config, overlay, revision: 1 }
    }

    /// Takes over all but the backends, and gives those.
    fn take(&mut self, mut config: config::Pool) -> Vec<config::backend::Backend> {
        let backends = std::mem::take(&mut config.backends);
        self.config = config;
        backends
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::settings::{State, Weight};
    use crate::config::{Config, Overrides};
    use crate::control::rosters::Rosters;

    const POOL: &str = "[[listener]]\nname = 'web'\nbind = ':80'\npool = 'web'\n[[pool]]\nname = 'web'\n\
                        [[pool.backend]]\naddress = '127.0.0.1:1'\n\
                        [[pool.backend]]\nname = 'app'\naddress = 'app:80'\nweight = 2\n\
                        [[pool.backend]]\naddress = '127.0.0.1:2'\n";

    fn config(text: &str) -> config::Pool {
        Config::parse("web.toml", text, &Overrides::default()).unwrap().config.pools()[0].clone()
    }

    fn rosters() -> Rosters {
        Rosters::new(&[config(POOL)], Time::ZERO).unwrap()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn names(roster: &Roster) -> Vec<String> {
        roster.pool().snapshot().backends().iter().map(|backend| backend.name().to_owned()).collect()
    }

    #[test]
    fn a_host_takes_its_place_once_it_is_looked_up_and_its_addresses_come_and_go() {
        let rosters = rosters();
        let (roster, changes) = (&*rosters.find("web").unwrap(), rosters.changes());
        assert_eq!(names(roster), ["127.0.0.1:1", "127.0.0.1:2"]);
        let [app] = &*roster.hosts() else { panic!("one host") };

        let changed = roster.resolved(app, &ips(&["10.0.0.1", "::1"]), Time::ZERO).unwrap();
        assert_eq!(changed.added, ["app/10.0.0.1", "app/::1"]);
        assert_eq!(names(roster), ["127.0.0.1:1", "app/10.0.0.1", "app/::1", "127.0.0.1:2"]);
        assert_eq!(*changes.borrow(), 1);
        assert_eq!(roster.hosts_of_backends()["app/::1"], "app:80");

        let revision = roster.pool().snapshot().revision();
        roster.resolved(app, &ips(&["10.0.0.1", "::1"]), Time::ZERO).unwrap();
        assert_eq!((roster.pool().snapshot().revision(), *changes.borrow()), (revision, 1), "nothing was published");

        let changed = roster.resolved(app, &ips(&["10.0.0.2", "10.0.0.1"]), Time::ZERO).unwrap();
        assert_eq!((&*changed.added, &*changed.removed), (&["app/10.0.0.2".into()][..], &["app/::1".into()][..]));
        assert_eq!(roster.addresses("app"), ips(&["10.0.0.2", "10.0.0.1"]));
        let other = Named { host: Host { port: 81, ..app.host.clone() }, ..app.clone() };
        roster.resolved(&other, &[], Time::ZERO).unwrap();
        assert_eq!(roster.addresses("app").len(), 2, "an answer for what the host was before is too late");
    }

    #[test]
    fn what_an_address_was_told_lasts_as_long_as_it() {
        let rosters = rosters();
        let roster = &*rosters.find("web").unwrap();
        let app = &roster.hosts()[0];
        roster.resolved(app, &ips(&["10.0.0.1"]), Time::ZERO).unwrap();
        roster.tell("app/10.0.0.1", |settings| settings.state = State::Drain, Time::ZERO).unwrap();
        roster.tell("127.0.0.1:1", |settings| settings.weight = Weight::new(9).unwrap(), Time::ZERO).unwrap();
        roster.resolved(app, &ips(&["10.0.0.1", "10.0.0.2"]), Time::ZERO).unwrap();
        let told = |number: usize| roster.pool().snapshot().backends()[number].settings().clone();
        assert_eq!((told(0).weight.as_u32(), told(1).state, told(2).state), (9, State::Drain, State::Ready));
        roster.resolved(app, &[], Time::ZERO).unwrap();
        roster.resolved(app, &ips(&["10.0.0.1"]), Time::ZERO).unwrap();
        assert_eq!(told(1).state, State::Ready, "it left and came as a new one");
        let unknown = roster.tell("none", |_| unreachable!("there is none"), Time::ZERO).unwrap_err();
        assert_eq!(unknown, Refusal::Edit(EditError::Unknown("none".into())));
    }

    #[test]
    fn a_new_configuration_keeps_the_addresses_of_hosts_that_stay() {
        for discard_live in [false, true] {
            let rosters = rosters();
            let roster = &*rosters.find("web").unwrap();
            roster.resolved(&roster.hosts()[0], &ips(&["10.0.0.1"]), Time::ZERO).unwrap();
            let reload = |text: &str| {
                let changes = roster.prepare(config(text), discard_live).unwrap().commit(Time::ZERO);
                changes.unwrap().changes
            };
            assert_eq!(reload(&POOL.replace("weight = 2", "weight = 3")).changed, ["app/10.0.0.1"]);
            assert_eq!(roster.pool().snapshot().backends()[1].weight().as_u32(), 3);
            assert_eq!(reload(&POOL.replace("app:80", "api:80")).removed, ["app/10.0.0.1"]);
        }
    }

    #[test]
    fn an_answer_that_does_not_fit_changes_nothing() {
        let rosters = rosters();
        let roster = &*rosters.find("web").unwrap();
        let app = &roster.hosts()[0];
        roster.resolved(app, &ips(&["10.0.0.1"]), Time::ZERO).unwrap();
        let twice = ips(&["10.0.0.2", "10.0.0.2"]);
        roster.resolved(app, &twice, Time::ZERO).unwrap_err();
        assert_eq!(roster.addresses("app"), ips(&["10.0.0.1"]));
        assert_eq!(names(roster), ["127.0.0.1:1", "app/10.0.0.1", "127.0.0.1:2"]);
    }
}
