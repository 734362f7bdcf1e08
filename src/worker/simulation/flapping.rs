//! Backends that refuse, hang, flap and return, before a kernel that does its best: the rules of passive failure as they
//! come out of sessions and pools together.
//!
//! A model of one line a rule follows each backend by what its connects do. After every completion the pool must say of
//! every backend what the model says: an ejection is neither early nor late by a single connection.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::faults::Faults;
use super::kernel::{Happening, Kernel, SimSocket};
use super::link::{Descriptor, LinkId};
use super::outward::Manner;
use super::random::Random;
use super::run::{draw_rules, route};
use crate::balance::settings::{BackendSettings, Percent, Policy, PoolSettings};
use crate::balance::{Backend, Chooser, Pool};
use crate::engine::{Engine, Event};
use crate::metrics::{Ledger, Recorder};
use crate::relay::Rules;
use crate::time::Time;
use crate::worker::session::Sessions;

const RUNS: u64 = 300;
const CLIENTS: u64 = 200;
/// In the end everybody serves, and so many more come.
const LAST_CLIENTS: u64 = 100;
/// Choosers of the same pool, as many workers have them.
const CHOOSERS: u16 = 3;
const TURNS_MAX: u64 = 100_000;
const FIRST_PORT: u16 = 3000;

/// What is known of a backend from its connects alone.
#[derive(Debug)]
struct Model {
    max_fails: usize,
    fail_timeout: Duration,
    ejected: bool,
    /// Counts its ejections and returns.
    epoch: u64,
    failures: VecDeque<Time>,
    /// Who probes it.
    probe: Option<LinkId>,
}

/// A connect that is in flight.
#[derive(Copy, Clone, Debug)]
struct Begun {
    port: u16,
    epoch: u64,
    probe: bool,
    client: LinkId,
}

#[derive(Clone, Debug)]
struct Client {
    since: Time,
    tried: BTreeSet<u16>,
    /// Connects that have failed and were no probes.
    counted: u32,
    /// It has been told that nobody serves it.
    refused: bool,
}

/// What all runs together must have shown.
#[derive(Debug, Default)]
struct Shown {
    ejections: u64,
    returns: u64,
    failed_probes: u64,
    recoveries: u64,
    refusals: u64,
    retried: u64,
}

struct Run {
    kernel: Kernel,
    sessions: Sessions<Kernel>,
    pool: Arc<Pool>,
    rules: Rules,
    percent: usize,
    /// One backend serves all the time, and everybody may try them all: nobody may be refused.
    steady: Option<u16>,
    models: BTreeMap<u16, Model>,
    flips: BTreeMap<u16, Time>,
    begun: BTreeMap<LinkId, Begun>,
    clients: BTreeMap<LinkId, Client>,
    admitted: u64,
    shown: Shown,
}

#[test]
fn backends_that_flap_are_ejected_probed_and_taken_back_by_the_rules() {
    let only = super::variable("RINGLB_SIMULATION_SEED");
    let seeds = only.map_or(1..RUNS + 1, |seed| seed..seed + 1);
    let mut shown = Shown::default();
    for seed in seeds {
        let run = catch_unwind(|| Run::new(seed).run()).unwrap_or_else(|panic| {
            eprintln!("the simulation has failed: RINGLB_SIMULATION_SEED={seed}");
            resume_unwind(panic)
        });
        shown.add(&run);
    }
    println!("{shown:#?}");
    if only.is_none() {
        let Shown { ejections, returns, failed_probes, recoveries, refusals, retried } = shown;
        for count in [ejections, returns, failed_probes, recoveries, refusals, retried] {
            assert!(count > RUNS / 4, "the backends do not flap enough");
        }
    }
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut random = Random::new(seed ^ 0x000f_1a99);
        let count = random.between(2, 6) as u16;
        let steady = random.coin().then(|| FIRST_PORT + random.below(u64::from(count)) as u16);
        let connect_timeout = Duration::from_millis(random.between(50, 1_000));
        let all = connect_timeout * u32::from(count) + Duration::from_secs(1);
        let attempts = random.between(1, 4) as u32;
        let budget = random.up_to(all) + connect_timeout;
        let mut rules = draw_rules(&mut random, &Faults::none());
        rules.connect_timeout = connect_timeout;
        rules.connect_budget = if steady.is_some() { all } else { budget };
        rules.connect_attempts = if steady.is_some() { u32::from(count) } else { attempts };
        (rules.idle_timeout, rules.dead_peer_timeout, rules.max_session_duration) = (None, None, None);
        let percent = random.pick(&[100, 100, 50, 25]);
        let settings = PoolSettings {
            policy: random.pick(Policy::ALL),
            max_ejected_percent: Percent::new(percent).expect("at most 100"),
            connect_timeout,
            ..PoolSettings::default()
        };
        let ports = FIRST_PORT..FIRST_PORT + count;
        let mut backends: Vec<_> = ports.map(|port| draw_backend(&mut random, port)).collect();
        if backends.iter().all(|backend| backend.backup) {
            backends[0].backup = false;
        }
        let models = backends.iter().map(|backend| (port_of(&backend.address), Model::new(backend))).collect();
        let pool = Pool::new(settings, backends, Time::ZERO).expect("names that differ");
        let mut kernel = Kernel::new(random, Faults::none());
        for _ in 0..CLIENTS {
            let delay = kernel.random.up_to(Duration::from_secs(20));
            kernel.after(delay, Happening::ClientArrives);
        }
        let (_ledger, announcements) = Ledger::new(0);
        let mut sessions = Sessions::new(Recorder::new(announcements), kernel.now);
        for number in 0..CHOOSERS {
            let chooser = Chooser::new(pool.clone(), kernel.random.next());
            sessions.route(number, route(rules.clone(), chooser));
        }
        let mut run = Run {
            flips: BTreeMap::new(),
            kernel,
            sessions,
            pool,
            rules,
            percent: percent.into(),
            steady,
            models,
            begun: BTreeMap::new(),
            clients: BTreeMap::new(),
            admitted: 0,
            shown: Shown::default(),
        };
        run.models.keys().copied().collect::<Vec<_>>().into_iter().for_each(|port| run.flip(port));
        run
    }

    fn run(mut self) -> Shown {
        self.serve_all_of(CLIENTS);
        // From now on all serve: whoever is asked for clients comes back.
        let ports: Vec<u16> = self.models.keys().copied().collect();
        for port in ports {
            self.kernel.manners.insert(port, Manner::Serves);
            self.flips.insert(port, Time::NEVER);
        }
        let longest = self.models.values().map(|model| model.fail_timeout).max().unwrap_or_default();
        for _ in 0..LAST_CLIENTS {
            let delay = longest + self.kernel.random.up_to(longest);
            self.kernel.after(delay, Happening::ClientArrives);
        }
        self.serve_all_of(CLIENTS + LAST_CLIENTS);
        let set = self.pool.snapshot();
        // The first is enough for `first`, and all clients here have one address.
        let asks_all = !matches!(set.settings().policy, Policy::First | Policy::SourceHash);
        for backend in set.backends().iter().filter(|backend| asks_all && !backend.settings().backup) {
            assert!(!backend.is_ejected(), "{} never comes back: {:?}", backend.name(), self.models);
        }
        self.shown
    }

    fn serve_all_of(&mut self, clients: u64) {
        let mut turns = 0;
        while self.admitted < clients || !self.sessions.is_empty() {
            turns += 1;
            assert!(turns < TURNS_MAX, "no end after {TURNS_MAX} turns");
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.admit();
        let now = self.kernel.now;
        let flip = self.flips.values().min().copied().unwrap_or(Time::NEVER);
        // A listener's completion would end the wait; here it is a look every so often.
        let look = now + Duration::from_millis(5);
        let wake = self.sessions.next_deadline().unwrap_or(Time::NEVER).min(flip).min(look);
        let mut completions = Vec::new();
        self.kernel.wait(Some(wake.since(now)), &mut completions).expect("the simulated kernel always works");
        for completion in completions {
            let link = self.kernel.audit.find(completion.owner).expect("a session's");
            let connect = match completion.event {
                Event::Connected => Some(true),
                Event::ConnectFailed(_) => Some(false),
                _ => None,
            };
            self.kernel.begin(&completion.event);
            let now = self.kernel.now;
            self.sessions.handle(&mut self.kernel, completion, now);
            let client = connect.map(|connected| self.connect_ends(link, connected, now));
            self.note_connects(now);
            if let Some(client) = client {
                self.look_whether_refused(client, now);
            }
            self.compare();
            self.judge();
        }
        let now = self.kernel.now;
        self.sessions.tick(&mut self.kernel, now);
        self.note_connects(now);
        self.compare();
        self.judge();
        let due: Vec<u16> = self.flips.iter().filter(|(_, at)| **at <= now).map(|(port, _)| *port).collect();
        due.into_iter().for_each(|port| self.flip(port));
    }

    fn admit(&mut self) {
        while let Some(link) = self.kernel.backlog.pop_front() {
            self.kernel.link_mut(link).descriptor = Descriptor::Open;
            let now = self.kernel.now;
            self.clients.insert(link, Client { since: now, tried: BTreeSet::new(), counted: 0, refused: false });
            let socket = SimSocket { link, open: true };
            let route = self.kernel.random.below(u64::from(CHOOSERS)) as u16;
            let Ok(_) = self.sessions.admit(&mut self.kernel, socket, route, now) else { panic!("no slot") };
            self.admitted += 1;
            self.note_connects(now);
            self.look_whether_refused(link, now);
            self.compare();
        }
    }

    fn judge(&mut self) {
        for ended in self.sessions.drain_ended() {
            self.kernel.judge(&ended, &self.rules, false);
        }
    }

    /// The backend behaves otherwise from now on, for a while.
    fn flip(&mut self, port: u16) {
        let random = &mut self.kernel.random;
        let manner = random.pick(&[Manner::Serves, Manner::Serves, Manner::Refuses, Manner::Hangs]);
        let manner = if self.steady == Some(port) { Manner::Serves } else { manner };
        let at = self.kernel.now + Duration::from_millis(random.between(20, 4_000));
        self.kernel.manners.insert(port, manner);
        self.flips.insert(port, at);
    }

    /// Notes the connects that were begun since the last look.
    fn note_connects(&mut self, now: Time) {
        for (link, port) in std::mem::take(&mut self.kernel.connects) {
            let client = self.kernel.link(link).partner.expect("a session's");
            let ejected_for = self.backend(port).ejected_for(now);
            let model = self.models.get_mut(&port).expect("a backend of the pool");
            if model.ejected {
                assert_eq!(model.probe, None, "two clients probe {port}");
                model.probe = Some(link);
                let recovering = self.pool.is_in_recovery();
                assert!(
                    ejected_for == Some(Duration::ZERO) || recovering,
                    "{port} is probed too early: {ejected_for:?}"
                );
                self.shown.recoveries += u64::from(recovering);
            }
            let begun = Begun { port, epoch: model.epoch, probe: model.ejected, client };
            self.begun.insert(link, begun);
            let client = self.clients.get_mut(&client).expect("it was admitted");
            assert!(client.tried.insert(port), "{port} is tried twice for one client");
            let in_time = now < client.since + self.rules.connect_budget;
            assert!(client.counted < self.rules.connect_attempts && in_time, "one attempt too many: {client:?}");
            self.shown.retried += u64::from(client.tried.len() > 1);
        }
    }

    /// A connect has ended: what the rules make of it. Gives whose it was.
    fn connect_ends(&mut self, link: LinkId, connected: bool, now: Time) -> LinkId {
        let begun = self.begun.remove(&link).expect("a connect that was begun");
        let others = self.models.values().filter(|model| model.ejected).count();
        let room = others < (self.models.len() * self.percent / 100).max(1);
        let model = self.models.get_mut(&begun.port).expect("a backend of the pool");
        if begun.probe {
            assert_eq!(model.probe.take(), Some(link), "the probe has changed hands");
        } else if !connected {
            self.clients.get_mut(&begun.client).expect("it was admitted").counted += 1;
        }
        match (begun.probe, connected) {
            (true, true) => {
                model.ejected = false;
                model.epoch += 1;
                model.failures.clear();
                self.shown.returns += 1;
            }
            (true, false) => self.shown.failed_probes += 1,
            (false, false) if begun.epoch == model.epoch && model.max_fails > 0 => {
                model.failures.push_back(now);
                let recent = model.failures.iter().filter(|at| now.since(**at) < model.fail_timeout).count();
                if recent >= model.max_fails && room {
                    model.ejected = true;
                    model.epoch += 1;
                    self.shown.ejections += 1;
                }
            }
            (false, _) => {}
        }
        begun.client
    }

    /// A client for whom nothing is begun any more was refused just now, which must have a reason.
    fn look_whether_refused(&mut self, link: LinkId, now: Time) {
        let under_way = self.begun.values().any(|begun| begun.client == link);
        let served = self.kernel.links().any(|(_, other)| other.partner == Some(link) && other.established());
        let client = self.clients.get_mut(&link).expect("it was admitted");
        if under_way || served || client.refused {
            return;
        }
        client.refused = true;
        self.shown.refusals += 1;
        let client = client.clone();
        assert_eq!(self.steady, None, "nobody is refused while a backend serves: {client:?}");
        if client.counted >= self.rules.connect_attempts || now >= client.since + self.rules.connect_budget {
            return;
        }
        for (port, model) in &self.models {
            let due = self.backend(*port).ejected_for(now) == Some(Duration::ZERO) && model.probe.is_none();
            let eligible = !model.ejected || due;
            assert!(client.tried.contains(port) || !eligible, "{port} could have served {client:?}");
        }
    }

    /// The pool says what the model says.
    fn compare(&self) {
        for (port, model) in &self.models {
            assert_eq!(self.backend(*port).is_ejected(), model.ejected, "whether {port} is ejected: {model:?}");
        }
    }

    fn backend(&self, port: u16) -> Arc<Backend> {
        let set = self.pool.snapshot();
        let found = set.backends().iter().find(|backend| port_of(backend.address()) == port);
        Arc::clone(found.expect("the set stays"))
    }
}

impl Model {
    fn new(settings: &BackendSettings) -> Model {
        Model {
            max_fails: settings.max_fails as usize,
            fail_timeout: settings.fail_timeout,
            ejected: false,
            epoch: 0,
            failures: VecDeque::new(),
            probe: None,
        }
    }
}

impl Shown {
    fn add(&mut self, other: &Shown) {
        self.ejections += other.ejections;
        self.returns += other.returns;
        self.failed_probes += other.failed_probes;
        self.recoveries += other.recoveries;
        self.refusals += other.refusals;
        self.retried += other.retried;
    }
}

fn draw_backend(random: &mut Random, port: u16) -> BackendSettings {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    BackendSettings {
        backup: random.below(6) == 0,
        max_fails: random.pick(&[0, 1, 1, 2, 3, 5]),
        fail_timeout: Duration::from_millis(random.pick(&[50, 300, 2_000, 5_000])),
        ..BackendSettings::new(port.to_string(), address.into())
    }
}

fn port_of(address: &crate::address::Address) -> u16 {
    address.inet().map_or(0, |inet| inet.port())
}
