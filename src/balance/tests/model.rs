//! A simple model of the whole room, which the real one must equal over random histories.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::balance::failure::Failure;
use crate::balance::settings::{HealthSettings, Percent, State};
use crate::balance::{Backend, CheckEffect, Next, Standing};
use crate::errno::Errno;
use crate::limits::PROBE_GRACE;

const FAIL_TIMEOUT: Duration = Duration::from_secs(10);
const HEALTH: HealthSettings = HealthSettings { rise: 2, fall: 3 };

/// What the model knows of a name.
#[derive(Debug)]
struct Known {
    settings: BackendSettings,
    order: usize,
    present: bool,
    active: u32,
    /// Changes with every ejection and return, and when the backend moves.
    epoch: u32,
    /// Since the epoch began.
    failures: Vec<Time>,
    ejected: Option<Ejected>,
    probe: Option<Probe>,
    probed_in: u32,
    checks: Vec<(Time, bool)>,
    up: bool,
    since: Time,
}

#[derive(Copy, Clone, Debug)]
struct Ejected {
    at: Time,
    until: Time,
}

#[derive(Copy, Clone, Debug)]
struct Probe {
    claim: usize,
    end: Time,
}

struct Held {
    claim: Claim,
    number: usize,
    name: String,
    epoch: u32,
    address: crate::address::Address,
    probe: bool,
}

struct World {
    pool: Arc<Pool>,
    workers: Vec<Chooser>,
    settings: PoolSettings,
    known: BTreeMap<String, Known>,
    held: Vec<Held>,
    claims: usize,
    recoveries: u32,
    recovering: bool,
    now: Time,
}

impl Known {
    fn new(settings: BackendSettings, order: usize, now: Time) -> Known {
        Known {
            settings,
            order,
            present: true,
            active: 0,
            epoch: 0,
            failures: Vec::new(),
            ejected: None,
            probe: None,
            probed_in: 0,
            checks: Vec::new(),
            up: true,
            since: now,
        }
    }

    fn wanted(&self) -> bool {
        self.present && self.settings.state == State::Ready && self.settings.weight.as_u32() > 0
    }

    fn could_serve(&self) -> bool {
        self.wanted() && self.up
    }

    fn has_room(&self) -> bool {
        self.settings.max_connections == 0 || self.active < self.settings.max_connections
    }

    fn unprobed(&self, now: Time) -> bool {
        self.probe.is_none_or(|probe| probe.end <= now)
    }

    fn open(&mut self) {
        self.epoch += 1;
        self.ejected = None;
        self.failures.clear();
    }

    fn standing(&self) -> Standing {
        match (self.settings.state, self.up, self.ejected) {
            (State::Drain, ..) => Standing::Drain,
            (State::Maint, ..) => Standing::Maint,
            (State::Ready, false, _) => Standing::Down,
            (State::Ready, true, Some(_)) => Standing::Ejected,
            (State::Ready, true, None) => Standing::Ready,
        }
    }
}

impl World {
    fn new(policy: Policy, percent: u8, checked: bool, set: Vec<BackendSettings>) -> World {
        let settings = PoolSettings {
            max_ejected_percent: Percent::new(percent).expect("a percentage"),
            health: checked.then_some(HEALTH),
            ..settings(policy)
        };
        let now = Time::from_millis(1_000);
        let pool = Pool::new(settings.clone(), set.clone(), now).expect("a possible set");
        let workers = (0..2).map(|seed| Chooser::new(pool.clone(), seed)).collect();
        let known = set.into_iter().enumerate().map(|(order, one)| (one.name.clone(), Known::new(one, order, now)));
        let known = known.collect();
        let (held, claims, recoveries, recovering) = (Vec::new(), 0, 0, false);
        World { pool, workers, settings, known, held, claims, recoveries, recovering, now }
    }

    fn reassess(&mut self) {
        let mut serving = self.known.values().filter(|one| one.could_serve()).peekable();
        let recovering = serving.peek().is_some() && serving.all(|one| one.ejected.is_some());
        self.recoveries += u32::from(recovering && !self.recovering);
        self.recovering = recovering;
    }

    /// The names that may be chosen, and whether as a probe.
    fn allowed(&self, tried: &[String]) -> Vec<(&str, bool)> {
        let mut order: Vec<&Known> = self.known.values().filter(|one| one.could_serve()).collect();
        order.sort_by_key(|one| (one.settings.backup, one.order));
        order.retain(|one| one.has_room() && !tried.contains(&one.settings.name));
        for backup in [false, true] {
            let due =
                |one: &Known| one.ejected.is_none_or(|ejected| ejected.until <= self.now && one.unprobed(self.now));
            let mut group: Vec<&Known> =
                order.iter().copied().filter(|one| one.settings.backup == backup && due(one)).collect();
            if group.is_empty() {
                continue;
            }
            let load = |one: &Known| f64::from(one.active) / f64::from(one.settings.weight.as_u32());
            match self.settings.policy {
                Policy::LeastConnections => {
                    let least = group.iter().map(|one| load(one)).fold(f64::INFINITY, f64::min);
                    group.retain(|one| load(one) <= least + 1e-9);
                }
                Policy::First => group.truncate(1),
                Policy::RoundRobin | Policy::RandomTwo | Policy::SourceHash => {}
            }
            return group.iter().map(|one| (one.settings.name.as_str(), one.ejected.is_some())).collect();
        }
        let early = |one: &&Known| one.ejected.is_some() && one.unprobed(self.now) && one.probed_in != self.recoveries;
        let first = order.into_iter().find(early).filter(|_| self.recovering);
        first.map(|one| (one.settings.name.as_str(), true)).into_iter().collect()
    }

    fn choose(&mut self, worker: usize, mask: u16) {
        let snapshot = self.pool.snapshot();
        let mut tried = Tried::new();
        let mut names = Vec::new();
        for (bit, backend) in snapshot.backends().iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1) {
            assert!(bit < 16);
            tried.insert(backend);
            names.push(backend.name().to_owned());
        }
        let client = Some(std::net::IpAddr::from([192, 0, 2, (mask >> 8) as u8]));
        let claim = self.workers[worker].choose(&Request { client, tried: &tried }, self.now).ok();
        let allowed = self.allowed(&names);
        let Some(claim) = claim else {
            assert!(allowed.is_empty(), "nobody was chosen of {allowed:?}");
            return;
        };
        let chosen = (claim.backend().name(), claim.is_probe());
        assert!(allowed.contains(&chosen), "{chosen:?} is not one of {allowed:?}");
        let name = claim.backend().name().to_owned();
        let number = self.claims;
        self.claims += 1;
        let end = self.now + self.settings.connect_timeout + PROBE_GRACE;
        let known = self.known.get_mut(&name).expect("a known name");
        known.active += 1;
        if claim.is_probe() {
            known.probe = Some(Probe { claim: number, end });
        }
        let (epoch, address, probe) = (known.epoch, claim.backend().address().clone(), claim.is_probe());
        self.held.push(Held { claim, number, name, epoch, address, probe });
    }

    fn connected(&mut self, pick: usize) {
        let Some(held) = pick_of(&mut self.held, pick) else { return };
        let (now, number) = (self.now, held.number);
        let known = self.known.get_mut(&held.name).expect("a known name");
        let heard = held.probe && known.epoch == held.epoch && known.probe.is_some_and(|probe| probe.claim == number);
        if heard {
            known.open();
            known.probe = None;
        }
        let returned = held.claim.connected(now);
        assert_eq!(returned, heard);
        if returned {
            held.probe = false;
            assert!(!held.claim.is_probe());
            self.reassess();
        }
    }

    /// Ends a claim: by a failure of the backend's, by one of ours, or because the client has left.
    fn end(&mut self, pick: usize, how: u16) {
        if self.held.is_empty() {
            return;
        }
        let held = self.held.swap_remove(pick % self.held.len());
        let (now, probe, number) = (self.now, held.probe, held.number);
        let known = self.known.get_mut(&held.name).expect("a known name");
        known.active -= 1;
        let mine = known.probe.is_some_and(|probe| probe.claim == number);
        if mine {
            known.probe = None;
        }
        match how % 3 {
            0 => {
                let ejected = if probe {
                    let heard = mine && known.epoch == held.epoch;
                    if heard {
                        known.ejected = Some(Ejected { at: now, until: now + FAIL_TIMEOUT });
                        known.probed_in = self.recoveries;
                    }
                    heard
                } else {
                    self.failed(&held)
                };
                let next = held.claim.connect_failed(Failure::TimedOut, now);
                assert_eq!(next, Next { go_on: true, counts: !probe, ejected });
            }
            1 => {
                let next = held.claim.connect_failed(Failure::Errno(Errno::EMFILE), now);
                assert_eq!(next, Next { go_on: false, counts: !probe, ejected: false });
            }
            _ => drop(held.claim),
        }
        self.reassess();
    }

    fn failed(&mut self, held: &Held) -> bool {
        let now = self.now;
        let wanted = self.known.values().filter(|one| one.wanted()).count();
        let ejected = self.known.values().filter(|one| one.wanted() && one.ejected.is_some()).count();
        let allowed = (wanted * usize::from(self.settings.max_ejected_percent.as_u8()) / 100).max(1);
        let known = self.known.get_mut(&held.name).expect("a known name");
        let max_fails = held.claim.backend().settings().max_fails;
        if max_fails == 0 || known.epoch != held.epoch {
            return false;
        }
        known.failures.push(now);
        let recent = known.failures.iter().filter(|&&at| now.since(at) < FAIL_TIMEOUT).count();
        let possible = known.wanted() && known.settings.address == held.address && wanted > 1 && ejected < allowed;
        if recent < max_fails as usize || !possible {
            return false;
        }
        known.open();
        known.ejected = Some(Ejected { at: now, until: now + FAIL_TIMEOUT });
        known.probe = None;
        true
    }

    fn check(&mut self, pick: usize, passed: bool, age: u64) {
        let Some(name) = self.known.keys().nth(pick % self.known.len().max(1)).cloned() else { return };
        let begun = Time::from_millis(self.now.millis() - age.min(self.now.millis()));
        let effect = self.pool.report_check(&name, passed, begun, self.now);
        let known = self.known.get_mut(&name).expect("a known name");
        let mut expected = CheckEffect::default();
        if self.settings.health.is_some() && known.present && begun >= known.since {
            known.checks.push((begun, passed));
            let run = known.checks.iter().rev().take_while(|(_, result)| *result == passed).count();
            let first = known.checks.len() == 1;
            let needed = if first {
                1
            } else if passed {
                HEALTH.rise
            } else {
                HEALTH.fall
            };
            if known.up != passed && run >= needed as usize {
                known.up = passed;
                expected.up = Some(passed);
            }
            let after = known.ejected.map(|ejected| {
                let since = known.checks.iter().rev().filter(|(begun, _)| *begun > ejected.at);
                since.take_while(|(_, passed)| *passed).count()
            });
            if begun > known.ejected.map_or(Time::NEVER, |ejected| ejected.at) && after >= Some(HEALTH.rise as usize) {
                known.open();
                expected.returned = true;
            }
        }
        assert_eq!(effect, expected, "a check of {name}");
        self.reassess();
        self.settle();
    }

    fn replace(&mut self, set: Vec<BackendSettings>) {
        let changes = self.pool.replace(self.settings.clone(), set.clone(), self.now).expect("a possible set");
        for known in self.known.values_mut() {
            let stays = set.iter().any(|one| one.name == known.settings.name);
            assert_eq!(changes.removed.contains(&known.settings.name), known.present && !stays);
            known.present &= stays;
            known.order = usize::MAX;
        }
        for (order, one) in set.into_iter().enumerate() {
            let now = self.now;
            let name = one.name.clone();
            let known = self.known.entry(name.clone()).or_insert_with(|| Known::new(one.clone(), order, now));
            let revived = known.order == usize::MAX && changes.added.contains(&name);
            let fresh = known.order != usize::MAX;
            assert!(!fresh || changes.added.contains(&name));
            if revived || known.settings.address != one.address {
                known.open();
                (known.checks, known.up, known.since) = (Vec::new(), true, now);
            }
            (known.settings, known.order, known.present) = (one, order, true);
        }
        let mut wanted: Vec<&mut Known> = self.known.values_mut().filter(|one| one.wanted()).collect();
        if let [single] = &mut wanted[..]
            && single.ejected.is_some()
        {
            single.open();
        }
        self.reassess();
        self.settle();
    }

    /// Lets go of what is no longer used.
    fn settle(&mut self) {
        for worker in &mut self.workers {
            worker.set();
        }
        let gone = self.pool.collect();
        let expected: Vec<String> = self
            .known
            .iter()
            .filter(|(_, one)| !one.present && one.active == 0)
            .map(|(name, _)| name.clone())
            .collect();
        assert_eq!(gone, expected);
        self.known.retain(|_, one| one.present || one.active > 0);
    }

    fn compare(&self) {
        let compare = |backend: &Backend| {
            let known = &self.known[backend.name()];
            assert_eq!(backend.active(), known.active, "connections of {}", backend.name());
            assert_eq!(backend.standing(), known.standing(), "{}", backend.name());
            let left = known.ejected.map(|ejected| ejected.until.since(self.now));
            assert_eq!(backend.ejected_for(self.now), left, "ejection of {}", backend.name());
        };
        self.pool.snapshot().backends().iter().for_each(|backend| compare(backend));
        assert_eq!(self.pool.is_in_recovery(), self.recovering);
    }
}

fn pick_of(held: &mut [Held], pick: usize) -> Option<&mut Held> {
    let len = held.len();
    held.get_mut(pick % len.max(1))
}

/// What a set may be made of: everything that changes who serves.
fn any_backend(name: usize) -> impl Strategy<Value = BackendSettings> {
    let state = prop_oneof![6 => Just(State::Ready), 1 => Just(State::Drain), 1 => Just(State::Maint)];
    let weight = prop_oneof![1 => Just(0u32), 6 => 1..=3u32];
    let limit = prop_oneof![2 => Just(0u32), 1 => 1..=3u32];
    (state, weight, limit, prop::bool::weighted(0.2), 0..8u8).prop_map(move |(state, weight, limit, backup, port)| {
        let mut one = backend(name, weight);
        if port == 0 {
            one.address = SocketAddr::from(([127, 0, 0, 1], 1)).into();
        }
        // The same for a name throughout: which failures are forgotten when it shrinks is not the model's business.
        let max_fails = [2, 1, 3, 0, 2, 1][name];
        BackendSettings { state, backup, max_connections: limit, max_fails, fail_timeout: FAIL_TIMEOUT, ..one }
    })
}

fn any_set() -> impl Strategy<Value = Vec<BackendSettings>> {
    let all: Vec<_> = (0..6).map(|name| proptest::option::weighted(0.7, any_backend(name))).collect();
    all.prop_map(|set| set.into_iter().flatten().collect::<Vec<_>>()).prop_shuffle()
}

#[derive(Clone, Debug)]
enum Step {
    Choose(usize, u16),
    Connected(usize),
    End(usize, u16),
    Check(usize, bool, u64),
    Wait(u64),
    Replace(Vec<BackendSettings>),
}

fn any_step() -> impl Strategy<Value = Step> {
    let mask = prop_oneof![3 => Just(0u16), 1 => 0..64u16, 2 => (0..256u16).prop_map(|client| client << 8)];
    let fault = prop_oneof![5 => Just(0u16), 1 => Just(1), 2 => Just(2)];
    prop_oneof![
        12 => (0..2usize, mask).prop_map(|(worker, mask)| Step::Choose(worker, mask)),
        3 => any::<u16>().prop_map(|pick| Step::Connected(pick.into())),
        10 => (any::<u16>(), fault).prop_map(|(pick, how)| Step::End(pick.into(), how)),
        2 => (0..6usize, prop::bool::weighted(0.6), 0..1_000u64).prop_map(|(pick, passed, age)| Step::Check(pick, passed, age)),
        4 => prop_oneof![1..1_500u64, 5_000..12_000u64].prop_map(Step::Wait),
        1 => any_set().prop_map(Step::Replace),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_room_equals_its_model(
        policy in proptest::sample::select(Policy::ALL),
        percent in prop_oneof![2 => Just(100u8), 1 => 0..=100u8],
        checked in any::<bool>(),
        set in any_set(),
        steps in proptest::collection::vec(any_step(), 1..250),
    ) {
        let mut world = World::new(policy, percent, checked, set);
        for step in steps {
            match step {
                Step::Choose(worker, mask) => world.choose(worker, mask),
                Step::Connected(pick) => world.connected(pick),
                Step::End(pick, how) => world.end(pick, how),
                Step::Check(pick, passed, age) => world.check(pick, passed, age),
                Step::Wait(millis) => world.now = world.now + Duration::from_millis(millis),
                Step::Replace(set) => world.replace(set),
            }
            world.compare();
        }
        world.held.clear();
        prop_assert!(world.pool.snapshot().backends().iter().all(|backend| backend.active() == 0));
    }
}
