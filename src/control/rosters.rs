//! The rosters of all pools: which pools there are, and one change of all of them together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::balance::{Pool, SetError};
use crate::config;
use crate::config::compare::Difference;
use crate::time::Time;

use super::news::Newsroom;
use super::roster::{Refusal, Roster};

/// The rosters of all pools.
#[derive(Debug)]
pub struct Rosters {
    /// In the order of the configuration.
    all: ArcSwap<Vec<Arc<Roster>>>,
    /// No longer in the configuration, and still in use: they serve whoever has come by a listener of theirs, until the last of
    /// those has ended. One that comes back before that is the same.
    leaving: Mutex<Vec<Arc<Roster>>>,
    /// Counts the changes of any of them.
    changes: watch::Sender<u64>,
    news: Newsroom,
}

/// What another configuration changes of a pool that stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    /// The pool's name.
    pub name: String,
    /// Its backends, as they are written.
    pub backends: Vec<Difference>,
    /// Those that stay stand in another order.
    pub reordered: bool,
    /// What was changed live, against the file: it stays, or is undone where it is discarded.
    pub live: Vec<Difference>,
}

/// Why the pools stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pool `{pool}`: {refusal}")]
pub struct PoolRefusal {
    /// The pool that cannot be so.
    pub pool: String,
    /// Why.
    pub refusal: Refusal,
}

/// What becomes of live edits, and of the whole.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Mode {
    /// Live edits are undone.
    pub discard_live: bool,
    /// Nothing is changed: the plan is all that is wanted.
    pub plan_only: bool,
}

impl Rosters {
    /// The pools of a configuration. Its host names have no addresses yet.
    ///
    /// # Errors
    /// Where the backends of a pool cannot be a set.
    pub fn new(pools: &[config::Pool], now: Time) -> Result<Rosters, SetError> {
        let (changes, _) = watch::channel(0);
        let new = |pool: &config::Pool| Roster::new(pool.clone(), changes.clone(), now).map(Arc::new);
        let all = ArcSwap::from_pointee(pools.iter().map(new).collect::<Result<Vec<_>, _>>()?);
        Ok(Rosters { all, leaving: Mutex::default(), changes, news: Newsroom::new() })
    }

    /// Those of the configuration, in its order.
    pub fn all(&self) -> Arc<Vec<Arc<Roster>>> {
        self.all.load_full()
    }

    /// The roster of the pool of that name.
    pub fn find(&self, pool: &str) -> Option<Arc<Roster>> {
        self.all.load().iter().find(|roster| roster.pool().name() == pool).cloned()
    }

    /// The pools of the configuration, in its order, then those that have left it and are still in use.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        // Locked first: one that changes from the one list to the other meanwhile is in none of them otherwise.
        let leaving = self.leaving();
        self.all.load().iter().chain(leaving.iter()).map(|roster| roster.pool().clone()).collect()
    }

    /// Forgets the pools that have left the configuration, and that no worker uses any more.
    pub fn forget(&self) {
        self.leaving().retain(|roster| Arc::strong_count(roster.pool()) > 1);
    }

    /// Where everybody hears what happens to them.
    pub const fn news(&self) -> &Newsroom {
        &self.news
    }

    /// Counts the changes of any of them.
    pub fn revision(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Hears of every change of what a pool is told to be. What becomes of backends by themselves is not one.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Makes the pools those of another configuration: all of them, or none. Gives what it changes of those that stay, in the
    /// new order.
    ///
    /// # Errors
    /// The first pool that cannot be so; then nothing has changed.
    pub fn reload(&self, pools: &[config::Pool], mode: Mode, now: Time) -> Result<Vec<PoolPlan>, PoolRefusal> {
        let refused = |pool: &config::Pool| {
            let pool = pool.settings.name.clone();
            move |refusal: Refusal| PoolRefusal { pool, refusal }
        };
        let before = self.all();
        let mut leaving = self.leaving();
        // Before any of them is prepared, which locks it.
        let hosts: HashMap<_, _> =
            before.iter().chain(leaving.iter()).flat_map(|roster| roster.known_hosts()).collect();
        let (mut next, mut plans, mut prepared) = (Vec::new(), Vec::new(), Vec::new());
        for pool in pools {
            let named = |roster: &&Arc<Roster>| roster.pool().name() == pool.settings.name;
            if let Some(roster) = before.iter().find(named) {
                let change = roster.prepare(pool.clone(), mode.discard_live).map_err(refused(pool))?;
                let name = pool.settings.name.clone();
                let (backends, reordered, live) = (change.backends(), change.reorders(), change.live());
                plans.push(PoolPlan { name, backends, reordered, live });
                prepared.push(change);
                next.push(roster.clone());
            } else if let Some(roster) = leaving.iter().find(named) {
                // Held by nobody else: no other part of the process finds it.
                prepared.push(roster.prepare(pool.clone(), true).map_err(refused(pool))?);
                next.push(roster.clone());
            } else {
                let new = Roster::new(pool.clone(), self.changes.clone(), now);
                let new = new.map_err(|error| refused(pool)(error.into()))?;
                new.adopt_hosts(&hosts, now);
                next.push(Arc::new(new));
            }
        }
        if mode.plan_only {
            return Ok(plans);
        }
        for change in prepared {
            change.commit(now).map_err(|refusal| PoolRefusal { pool: String::new(), refusal })?;
        }
        let stays = |roster: &Arc<Roster>| next.iter().any(|kept| Arc::ptr_eq(kept, roster));
        let gone: Vec<Arc<Roster>> = before.iter().filter(|roster| !stays(roster)).cloned().collect();
        leaving.retain(|roster| !stays(roster));
        leaving.extend(gone);
        self.all.store(Arc::new(next));
        drop(leaving);
        self.changes.send_modify(|count| *count += 1);
        Ok(plans)
    }

    /// The list is changed in single steps, so a poisoned lock is as good as new.
    fn leaving(&self) -> MutexGuard<'_, Vec<Arc<Roster>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::settings::{State, Weight};
    use crate::balance::{Chooser, Request, Tried};
    use crate::config::{Config, Overrides};
    use crate::control::overlay::EditError;

    const APPLY: Mode = Mode { discard_live: false, plan_only: false };
    const DISCARD: Mode = Mode { discard_live: true, plan_only: false };

    /// Pools of these names, each with backends a and b, and whatever else is said of them.
    fn pools(told: &[(&str, &str)]) -> Vec<config::Pool> {
        let mut text = String::from("[[listener]]\nname = 'l'\nbind = ':80'\npool = 'web'\n");
        for (name, more) in told {
            text += &format!("[[pool]]\nname = '{name}'\n");
            text += "[[pool.backend]]\nname = 'a'\naddress = '10.0.0.1:1'\n";
            text += &format!("[[pool.backend]]\nname = 'b'\naddress = '10.0.0.2:1'\n{more}\n");
        }
        Config::parse("web.toml", &text, &Overrides::default()).unwrap().config.pools().to_vec()
    }

    fn told(rosters: &Rosters) -> Vec<(String, String, u32, State)> {
        let mut told = Vec::new();
        for roster in rosters.all().iter() {
            let set = roster.pool().snapshot();
            told.extend(set.backends().iter().map(|backend| {
                let pool = roster.pool().name().to_owned();
                (pool, backend.name().to_owned(), backend.weight().as_u32(), backend.settings().state)
            }));
        }
        told
    }

    #[test]
    fn what_the_file_has_changed_is_applied_and_what_was_changed_live_stays_unless_it_is_discarded() {
        for mode in [APPLY, DISCARD] {
            let rosters = Rosters::new(&pools(&[("web", "")]), Time::ZERO).unwrap();
            let web = rosters.find("web").unwrap();
            web.tell("a", |settings| settings.state = State::Drain, Time::ZERO).unwrap();
            let changed = pools(&[("web", "weight = 5")]);
            let before = told(&rosters);
            let plan = rosters.reload(&changed, Mode { plan_only: true, ..mode }, Time::ZERO).unwrap();
            assert_eq!(told(&rosters), before, "a plan changes nothing");
            assert_eq!(rosters.reload(&changed, mode, Time::ZERO).unwrap(), plan);
            let live = [Difference::Changed("a".into(), vec!["state"])];
            assert_eq!(plan[0].live, live);
            let weight = Difference::Changed("b".into(), vec!["weight"]);
            let (backends, state) = match mode.discard_live {
                true => (vec![live[0].clone(), weight], State::Ready),
                false => (vec![weight], State::Drain),
            };
            assert_eq!(plan[0].backends, backends);
            let name = |name: &str| name.to_owned();
            let expected = [(name("web"), name("a"), 1, state), (name("web"), name("b"), 5, State::Ready)];
            assert_eq!(told(&rosters), expected);
            assert!(Arc::ptr_eq(&web, &rosters.find("web").unwrap()));
        }
    }

    #[test]
    fn one_pool_that_cannot_be_so_leaves_all_as_they_are() {
        let rosters = Rosters::new(&pools(&[("web", ""), ("api", "")]), Time::ZERO).unwrap();
        let live = pools(&[("web", "[[pool.backend]]\nname = 'host/10.0.0.9'\naddress = '10.0.0.9:1'")]);
        let added = live[0].backends[2].clone();
        rosters.find("api").unwrap().edit(None, Time::ZERO, |overlay| overlay.add(added, None)).unwrap();
        let before = (told(&rosters), rosters.revision());
        let host = "[[pool.backend]]\nname = 'host'\naddress = 'app:80'";
        let next = pools(&[("web", "weight = 9"), ("api", host), ("new", "")]);
        for plan_only in [true, false] {
            let refused = rosters.reload(&next, Mode { plan_only, ..APPLY }, Time::ZERO).unwrap_err();
            let kind = EditError::HostKind("host/10.0.0.9".into(), "host".into());
            assert_eq!((&*refused.pool, refused.refusal), ("api", Refusal::Edit(kind)));
            assert_eq!((told(&rosters), rosters.revision()), before);
        }
        rosters.reload(&next, DISCARD, Time::ZERO).unwrap();
        assert_eq!(rosters.all().len(), 3);
    }

    #[test]
    fn a_pool_that_leaves_serves_until_no_worker_uses_it_and_may_come_back() {
        let (both, web) = (pools(&[("web", ""), ("api", "")]), pools(&[("web", "")]));
        let rosters = Rosters::new(&both, Time::ZERO).unwrap();
        let api = rosters.find("api").unwrap();
        let mut chooser = Chooser::new(api.pool().clone(), 1);
        let tried = Tried::new();
        let claim = chooser.choose(&Request { client: None, tried: &tried }, Time::ZERO).unwrap();
        let names = || rosters.pools().iter().map(|pool| pool.name().to_owned()).collect::<Vec<_>>();
        rosters.reload(&web, APPLY, Time::ZERO).unwrap();
        assert!(rosters.find("api").is_none());
        rosters.forget();
        assert_eq!(names(), ["web", "api"]);

        rosters.reload(&both, APPLY, Time::ZERO).unwrap();
        assert!(Arc::ptr_eq(&api, &rosters.find("api").unwrap()));
        let active = |roster: &Roster| roster.pool().snapshot().backends().iter().map(|one| one.active()).sum::<u32>();
        assert_eq!((names(), active(&api)), (vec!["web".into(), "api".into()], 1));

        rosters.reload(&web, APPLY, Time::ZERO).unwrap();
        let late = chooser.choose(&Request { client: None, tried: &tried }, Time::ZERO);
        drop(late.expect("a client that was accepted before is served"));
        drop((claim, chooser));
        rosters.forget();
        assert_eq!(names(), ["web"]);
        rosters.reload(&both, APPLY, Time::ZERO).unwrap();
        assert!(!Arc::ptr_eq(&api, &rosters.find("api").unwrap()));
    }

    #[test]
    fn another_order_is_told_and_hosts_that_are_known_need_no_look_up() {
        let host = "[[pool.backend]]\nname = 'app'\naddress = 'app:80'";
        let rosters = Rosters::new(&pools(&[("web", host)]), Time::ZERO).unwrap();
        let web = rosters.find("web").unwrap();
        web.resolved(&web.hosts()[0], &["10.0.0.7".parse().unwrap()], Time::ZERO).unwrap();
        let mut next = pools(&[("web", host), ("api", host)]);
        next[0].backends.swap(0, 1);
        let plan = rosters.reload(&next, APPLY, Time::ZERO).unwrap();
        assert_eq!((plan[0].reordered, &plan[0].backends), (true, &Vec::new()));
        assert!(!rosters.reload(&next, APPLY, Time::ZERO).unwrap()[0].reordered);
        let names: Vec<String> = told(&rosters).into_iter().map(|(pool, name, ..)| format!("{pool}/{name}")).collect();
        assert_eq!(names, ["web/b", "web/a", "web/app/10.0.0.7", "api/a", "api/b", "api/app/10.0.0.7"]);
    }

    #[test]
    fn a_live_weight_gives_way_to_a_new_one_of_the_file() {
        let rosters = Rosters::new(&pools(&[("web", "")]), Time::ZERO).unwrap();
        let web = rosters.find("web").unwrap();
        web.tell("b", |settings| settings.weight = Weight::new(7).unwrap(), Time::ZERO).unwrap();
        rosters.reload(&pools(&[("web", "backup = true")]), APPLY, Time::ZERO).unwrap();
        assert_eq!(told(&rosters)[1].2, 7);
        rosters.reload(&pools(&[("web", "weight = 3")]), APPLY, Time::ZERO).unwrap();
        assert_eq!(told(&rosters)[1].2, 3);
    }
}
