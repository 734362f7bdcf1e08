//! One run: a kernel, the sessions of one worker, and clients until all have been served.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::faults::{Faults, Sabotage};
use super::kernel::{Happening, Kernel, SimSocket};
use super::link::{Descriptor, Link};
use super::pipes::Pipes;
use super::random::{Chance, Random};
use super::seen::Seen;
use super::waiting::{Limits, Line, Waiting};
use crate::balance::settings::{BackendSettings, Policy, PoolSettings};
use crate::balance::{Chooser, Pool};
use crate::engine::{Chain, Completion, Engine, Receive, SocketOptions};
use crate::metrics::{BackendTotals, Ledger, Recorder};
use crate::relay::{Kill, Rules, Side, WhenNone};
use crate::time::Time;
use crate::worker::clients::ClientRules;
use crate::worker::identity::ProxyProtocol;
use crate::worker::news::Reporter;
use crate::worker::session::{Route, Sessions};
use crate::worker::sources::Sources;

/// Connections of one run.
pub(super) const CONNECTIONS: u64 = 200;
/// Sessions at a time; further clients wait.
const SESSIONS: usize = 64;
/// So many turns in a row may find a deadline in the past.
const SPINS_MAX: u64 = 3;
/// A run that takes more turns than this has lost its way.
const TURNS_MAX: u64 = 400_000;
/// So much time after everybody was asked to leave, nobody may be left.
const LEAVE_MAX: Duration = Duration::from_secs(200);
/// So much time after all sessions were killed, none may be left.
const KILL_MAX: Duration = Duration::from_secs(10);

/// What a run has shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub(super) seen: Seen,
    /// How many sessions ended so, by the label of the reason.
    pub(super) reasons: BTreeMap<&'static str, u64>,
    pub(super) turns: u64,
    /// Sessions whose peers both behaved.
    pub(super) clean: u64,
}

impl Report {
    pub(super) fn add(&mut self, other: &Report) {
        self.seen.add(&other.seen);
        self.turns += other.turns;
        self.clean += other.clean;
        for (reason, count) in &other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
    }
}

/// How a run comes to its end, if it does not by itself before.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Finish {
    at: Time,
    /// The sessions are killed; otherwise the peers leave in order.
    kill: bool,
    begun: bool,
}

impl Finish {
    fn killed(self) -> bool {
        self.begun && self.kill
    }
}

struct Run {
    ledger: Ledger,
    kernel: Kernel,
    sessions: Sessions<Kernel>,
    pool: Arc<Pool>,
    rules: Rules,
    limits: Limits,
    line: Line,
    finish: Finish,
    /// When the set of backends changes.
    swap_at: Time,
    /// Buffers that somebody else has, until then.
    hostages: Chain,
    release_at: Time,
    /// When they are taken again.
    take_at: Time,
    admitted: u64,
    /// Turns in a row in which nothing had happened, and nothing was waited for.
    spins: u64,
    report: Report,
}

/// Runs one seed, with a fault planted or none. Panics where a check fails.
pub(super) fn run(seed: u64, sabotage: Option<Sabotage>, tracing: bool) -> Report {
    let mut run = Run::new(seed);
    run.kernel.sabotage = sabotage;
    run.kernel.tracing = tracing;
    while !run.is_over() {
        run.turn();
    }
    run.end()
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut random = Random::new(seed);
        let faults = Faults::draw(&mut random);
        let rules = draw_rules(&mut random, &faults);
        let limits = Limits::draw(&mut random);
        let line = Line::default();
        let pool = Pool::new(
            PoolSettings { policy: draw_policy(&mut random), ..PoolSettings::default() },
            Vec::new(),
            Time::ZERO,
        );
        let pool = pool.expect("an empty pool");
        let window = Duration::from_millis(random.pick(&[20, 1_000, 20_000]));
        let mut kernel = Kernel::new(random, faults);
        kernel.pipes = Pipes::draw(&mut kernel.random);
        replace_backends(&mut kernel, &pool, &limits);
        for _ in 0..CONNECTIONS {
            let delay = kernel.random.up_to(window);
            kernel.after(delay, Happening::ClientArrives);
        }
        let random = &mut kernel.random;
        let at = kernel.now + window + random.up_to(Duration::from_secs(100));
        let finish = Finish { at, kill: random.chance(Chance(300)), begun: false };
        let swap_at = if random.coin() { kernel.now + random.up_to(window) } else { Time::NEVER };
        let chooser = Chooser::new(pool.clone(), random.next()).with_taker(line.places());
        let mut route = route(rules.clone(), chooser);
        route.sources = sources(seed);
        let (ledger, announcements) = Ledger::new(0);
        let mut sessions = Sessions::new(Recorder::new(announcements), kernel.now);
        sessions.route(0, route);
        let mut run = Run {
            ledger,
            sessions,
            kernel,
            pool,
            rules,
            limits,
            line,
            finish,
            swap_at,
            hostages: Chain::new(),
            release_at: Time::NEVER,
            take_at: Time::NEVER,
            admitted: 0,
            spins: 0,
            report: Report::default(),
        };
        if run.kernel.random.chance(Chance(128)) {
            run.take_hostages();
        }
        run
    }

    fn is_over(&self) -> bool {
        let served = self.finish.killed() || self.admitted == CONNECTIONS;
        served && self.sessions.is_empty() && self.hostages.is_empty() && self.line.places().is_empty()
    }

    fn turn(&mut self) {
        self.report.turns += 1;
        assert!(self.report.turns < TURNS_MAX, "no end after {TURNS_MAX} turns");
        self.admit();
        let mut completions: Vec<Completion<SimSocket>> = Vec::new();
        let now = self.kernel.now;
        let finish = if self.finish.begun { Time::NEVER } else { self.finish.at };
        let next = self.sessions.next_deadline().unwrap_or(Time::NEVER);
        let wake = next.min(finish).min(self.swap_at).min(self.release_at).min(self.take_at);
        // A listener's completion would end the wait; here it is a look every so often.
        let coming = self.admitted < CONNECTIONS && !self.finish.killed();
        let wake = if coming { wake.min(now + Duration::from_millis(5)) } else { wake };
        // Whoever has put a place into the mailbox wakes the worker; not always at once.
        let wake = if self.line.places().is_empty() { wake } else { wake.min(now + Duration::from_millis(1)) };
        let timeout = (wake != Time::NEVER).then(|| wake.since(now));
        self.kernel.wait(timeout, &mut completions).expect("the simulated kernel always works");
        let idle = completions.is_empty() && !self.sessions.splices_wait();
        for completion in completions {
            self.kernel.begin(&completion.event);
            let now = self.kernel.now;
            self.sessions.handle(&mut self.kernel, completion, now);
            self.judge();
        }
        self.hand_over();
        let now = self.kernel.now;
        self.sessions.tick(&mut self.kernel, now);
        self.kernel.seen.splices_put_off += u64::from(self.sessions.splices_wait());
        self.judge();
        self.disturb(now);
        self.spins = if idle && self.sessions.next_deadline().is_some_and(|at| at <= now) { self.spins + 1 } else { 0 };
        assert!(self.spins < SPINS_MAX, "the worker turns without end: a deadline stays in the past");
        self.count();
    }

    /// Hears of the places that have come.
    fn hand_over(&mut self) {
        let late = self.kernel.faults.late;
        while !self.kernel.random.chance(late) {
            let Some((key, claim)) = self.line.places().next() else { return };
            let waits = self.sessions.queued().any(|(waiting, _)| waiting == key);
            self.kernel.seen.places_passed_on += u64::from(!waits);
            let now = self.kernel.now;
            self.sessions.place(&mut self.kernel, key, claim, now);
            self.judge();
        }
    }

    /// A backend's count is the number of its sockets, at any time.
    fn count(&mut self) {
        // A set that was replaced may have made room for some who wait.
        self.judge();
        for backend in self.pool.snapshot().backends() {
            let port = backend.address().inet().map_or(0, |address| address.port());
            let open = self.kernel.connections.get(usize::from(port)).copied().unwrap_or(0);
            let open = open + self.line.places().of(backend.name());
            assert_eq!(backend.active(), open, "backend {} counts something else than its sockets", backend.name());
        }
        self.line.check(&self.pool.snapshot(), self.pool.waiting());
    }

    /// Accepts, up to the limit of sessions.
    fn admit(&mut self) {
        while self.sessions.len() < SESSIONS && !self.finish.killed() {
            let Some(link) = self.kernel.backlog.pop_front() else { return };
            self.kernel.link_mut(link).descriptor = Descriptor::Open;
            let now = self.kernel.now;
            let socket = SimSocket { link, open: true };
            let Ok(_) = self.sessions.admit(&mut self.kernel, socket, 0, now) else { panic!("no slot") };
            self.admitted += 1;
            self.judge();
        }
    }

    fn judge(&mut self) {
        let now: Vec<Waiting> = self.sessions.queued().map(|(key, choosy)| Waiting { key, choosy }).collect();
        self.line.observe(&now);
        let killed = self.finish.killed();
        for ended in self.sessions.drain_ended() {
            self.kernel.judge(&ended, &self.rules, killed);
            *self.report.reasons.entry(ended.reason.label()).or_default() += 1;
        }
    }

    /// What comes from outside: changes of the set, buffers that come back, the end.
    fn disturb(&mut self, now: Time) {
        if now >= self.swap_at {
            replace_backends(&mut self.kernel, &self.pool, &self.limits);
            self.swap_at = now + Duration::from_secs(1) + self.kernel.random.up_to(Duration::from_secs(20));
        }
        if now >= self.release_at {
            self.kernel.buffers.clear(&mut self.hostages);
            self.release_at = Time::NEVER;
            if !self.finish.begun {
                self.take_at = now + Duration::from_secs(1) + self.kernel.random.up_to(Duration::from_secs(10));
            }
        }
        if now >= self.take_at && !self.finish.begun {
            self.take_hostages();
        }
        if !self.finish.begun && now >= self.finish.at {
            self.begin_finish(now);
        }
        let longest = if self.finish.kill { KILL_MAX } else { LEAVE_MAX };
        let late = now.since(self.finish.at) > longest;
        assert!(!late || self.is_over(), "{} sessions have not ended", self.sessions.len());
    }

    fn begin_finish(&mut self, now: Time) {
        self.finish.begun = true;
        self.take_at = Time::NEVER;
        self.swap_at = Time::NEVER;
        if self.finish.kill {
            self.sessions.kill_all(&mut self.kernel, Kill::Shutdown, now);
        } else {
            self.kernel.faults = Faults::none();
            self.hurry();
        }
        self.judge();
    }

    fn hurry(&mut self) {
        self.kernel.hurry = true;
        let links: Vec<_> = self.kernel.links().map(|(id, _)| id).collect();
        for id in links {
            self.kernel.hurry_peer(id);
        }
    }

    /// Leaves the sessions few buffers, or none, for a while.
    fn take_hostages(&mut self) {
        self.take_at = Time::NEVER;
        let random = &mut self.kernel.random;
        let (small, large) = (random.below(64) as usize, random.below(4) as usize);
        self.release_at = self.kernel.now + self.kernel.random.up_to(Duration::from_secs(4));
        let buffers = &mut self.kernel.buffers;
        for (how, left) in [(Receive::Multishot, small), (Receive::Bulk, large)] {
            let free = if how == Receive::Bulk { buffers.large_free() } else { buffers.small_free() };
            for _ in left..free {
                let filled = buffers.fill(how, &[0]).expect("a free buffer");
                buffers.append(&mut self.hostages, filled);
            }
        }
    }

    /// After the last session: nothing may be left.
    fn end(mut self) -> Report {
        self.kernel.faults = Faults::none();
        assert!(self.kernel.links().all(|(_, link)| !link.open()), "a descriptor is left open");
        self.hurry();
        self.kernel.run_out();
        self.kernel.judge_peers();
        let fresh = crate::engine::Buffers::new().expect("address space for the buffers");
        let free =
            |buffers: &crate::engine::Buffers| (buffers.small_free(), buffers.large_free(), buffers.heap_bytes());
        assert_eq!(free(&self.kernel.buffers), free(&fresh), "buffers are missing");
        assert!(self.kernel.pipes.are_free(), "pipes are missing");
        assert!(self.pool.snapshot().backends().iter().all(|backend| backend.active() == 0), "a place is still held");
        assert_eq!(self.pool.waiting(), 0, "somebody waits who has gone");
        // The sessions' chooser may hold on to a set that was replaced.
        drop(self.sessions);
        Run::judge_numbers(&self.kernel, &mut self.ledger, &self.pool);
        self.pool.collect();
        assert!(self.pool.leaving().is_empty(), "a backend that was removed is still in use");
        self.kernel.seen.waited = self.line.waited;
        self.report.seen = self.kernel.seen;
        let clean = |link: &Link| link.side == Side::Client && link.clean.is_some();
        self.report.clean = self.kernel.links().filter(|(_, link)| clean(link)).count() as u64;
        self.report
    }

    /// What was counted for the metrics is what has happened on the backends' links. No backend has series of its own, so that
    /// the sum has all of them, those gone too.
    fn judge_numbers(kernel: &Kernel, ledger: &mut Ledger, pool: &Arc<Pool>) {
        ledger.update(std::slice::from_ref(pool));
        let mut totals = BackendTotals::default();
        ledger.pool(pool, |view| totals = view.totals);
        let (mut connected, mut answered, mut sent, mut received) = (0, 0, 0, 0);
        for (_, link) in kernel.links().filter(|(_, link)| link.side == Side::Backend) {
            connected += u64::from(link.told.connected_at.is_some());
            answered += u64::from(link.told.bytes > 0);
            sent += link.outbound.taken;
            received += link.told.bytes;
        }
        assert_eq!((totals.connected, totals.connect.total()), (connected, connected), "connects are miscounted");
        assert_eq!(totals.first_byte.total(), answered, "first bytes are miscounted");
        assert_eq!((totals.sent, totals.received), (sent, received), "bytes are miscounted");
        let failed: u64 = totals.failures.iter().sum();
        assert!(totals.attempts >= connected + failed, "a connect has ended that never began");
    }
}

/// A route without any of the extras.
pub(super) fn route(rules: Rules, chooser: Chooser) -> Route {
    Route {
        listener: "web".into(),
        rules,
        chooser,
        options: SocketOptions { keepalive: Some(Duration::from_secs(60)), source: None },
        proxy_protocol: ProxyProtocol::default(),
        clients: ClientRules::default(),
        sources: Sources::default(),
        unix_clients: false,
        reporter: Reporter::default(),
    }
}

pub(super) fn draw_rules(random: &mut Random, faults: &Faults) -> Rules {
    // Who vanishes with nothing outstanding is only found by being idle.
    let idle = faults.peer != Chance::NEVER || random.coin();
    Rules {
        connect_timeout: Duration::from_millis(random.between(1_000, 4_000)),
        connect_budget: Duration::from_millis(random.between(1_000, 10_000)),
        connect_attempts: random.between(1, 4) as u32,
        idle_timeout: idle.then(|| Duration::from_secs(random.between(10, 60))),
        dead_peer_timeout: (random.below(5) > 0).then(|| Duration::from_secs(random.between(2, 30))),
        when_none: random.pick(WhenNone::ALL),
        queue_timeout: Duration::from_millis(random.between(1, 8_000)),
        max_session_duration: (random.below(8) == 0).then(|| Duration::from_millis(random.between(1, 60_000))),
    }
}

/// From none to three addresses that connects come from.
fn sources(seed: u64) -> Sources {
    let addresses: Vec<_> = (0..seed % 4).map(|last| IpAddr::from([10, 0, 0, last as u8])).collect();
    Sources::new(&addresses)
}

fn draw_policy(random: &mut Random) -> Policy {
    random.pick(Policy::ALL)
}

/// Puts another set of backends in the place of the present one.
fn replace_backends(kernel: &mut Kernel, pool: &Arc<Pool>, limits: &Limits) {
    let count = kernel.random.between(1, 5) as u16;
    let first = kernel.random.below(3) as u16;
    let backends = (first..first + count).map(|index| {
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], 3000 + index));
        limits.tell(index, BackendSettings::new(index.to_string(), address.into()))
    });
    let policy = draw_policy(&mut kernel.random);
    let settings = PoolSettings { policy, queue_max: limits.queue_max, ..PoolSettings::default() };
    pool.replace(settings, backends.collect(), kernel.now).expect("names that differ");
    pool.collect();
}
