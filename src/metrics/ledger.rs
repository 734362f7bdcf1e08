//! The control thread's side of the numbers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::balance::{Backend, BackendId, BackendSet, Pool, Standing};
use crate::engine::ring::Statistics;
use crate::histogram::Counts;
use crate::relay::CloseReason;

use super::OTHER;
use super::cells::{BackendCells, RingCells};
use super::history::{History, Percentiles, Window};
use super::labels::ConnectFailure;
use super::listeners::{ListenerBooks, ListenerTotals};
use super::recorder::Announced;

/// What all workers have counted.
#[derive(Debug)]
pub struct Ledger {
    announcements: Receiver<Announced>,
    /// Backends that may have series of their own.
    series_max: usize,
    /// Those that have.
    series: usize,
    rings: Vec<(usize, Arc<RingCells>)>,
    listeners: ListenerBooks,
    pools: HashMap<Arc<str>, PoolBook>,
}

#[derive(Debug, Default)]
struct PoolBook {
    backends: HashMap<BackendId, BackendBook>,
    /// What is left of backends without series of their own that are gone: the sum must not go back.
    gone: BackendTotals,
    /// The set that it knows.
    revision: u64,
    /// Removed backends were there still when it looked last.
    has_leaving: bool,
    /// Blocks have been announced since.
    has_news: bool,
    /// Of the sessions that have ended, of all its listeners.
    session: History,
}

#[derive(Debug, Default)]
struct BackendBook {
    cells: Vec<Arc<BackendCells>>,
    /// What was in blocks that are freed.
    freed: BackendTotals,
    shown: Option<Shown>,
    /// As the pool said last.
    ejections: u64,
    connect: History,
    first_byte: History,
}

/// Where a backend's numbers are shown.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// In series of its own, for as long as it lives.
    Alone,
    /// With those of others in [`OTHER`], for as long as it lives: a sum whose parts come and go would jump.
    Together,
}

/// What one worker's ring has done.
#[derive(Copy, Clone, Debug)]
pub struct RingTotals {
    /// The worker's number.
    pub worker: usize,
    /// What it counts.
    pub statistics: Statistics,
}

/// What was counted of a backend, or of several together, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendTotals {
    /// Connects begun, or meant to be.
    pub attempts: u64,
    /// Connects that succeeded.
    pub connected: u64,
    /// Connects that failed, by [`ConnectFailure`].
    pub failures: [u64; ConnectFailure::ALL.len()],
    /// Bytes that were sent to it.
    pub sent: u64,
    /// Bytes that were received from it.
    pub received: u64,
    /// How often it was ejected.
    pub ejections: u64,
    /// How long connects took.
    pub connect: Counts,
    /// From a connect's success to the first byte.
    pub first_byte: Counts,
}

/// A pool's numbers.
#[derive(Copy, Clone, Debug)]
pub struct PoolView {
    /// Its backends by what they are, in the order of [`Standing::ALL`].
    pub standings: [u64; Standing::ALL.len()],
    /// Clients whom none of its backends could serve.
    pub no_backend: u64,
}

/// A backend and its numbers.
#[derive(Debug)]
pub struct BackendView {
    /// Its name, or [`OTHER`].
    pub name: String,
    /// The backend; `None` for the sum of the others.
    pub backend: Option<Arc<Backend>>,
    /// Connections that hold a place with it now.
    pub active: u64,
    /// What was counted.
    pub totals: BackendTotals,
}

/// A pool's numbers for those who ask for it, rather than for all.
#[derive(Clone, Debug, Default)]
pub struct PoolNumbers {
    /// Clients whom none of its backends could serve.
    pub no_backend: u64,
    /// Those of the backends together.
    pub latencies: Latencies,
    /// From accept to the end of the session.
    pub session: Percentiles,
    /// The backends of its set, in their order, then the removed ones that still have sessions.
    pub backends: Vec<BackendNumbers>,
}

/// A backend's numbers for those who ask for it.
#[derive(Clone, Debug)]
pub struct BackendNumbers {
    /// Which.
    pub id: BackendId,
    /// Its name.
    pub name: String,
    /// What was counted since it came, without the durations.
    pub totals: BackendTotals,
    /// How long it took.
    pub latencies: Latencies,
}

/// Percentiles of what a client waits for.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// From the beginning of a connect to its success.
    pub connect: Percentiles,
    /// From a connect's success to the backend's first byte.
    pub first_byte: Percentiles,
}

/// Durations in the buckets of an operator.
#[derive(Copy, Clone, Debug)]
pub struct Buckets<const N: usize> {
    /// How many were at most as long as each bound.
    pub cumulative: [u64; N],
    /// How many there were.
    pub total: u64,
    /// Their sum, in seconds.
    pub sum_seconds: f64,
}

impl Ledger {
    /// An empty one, that gives at most `series_max` backends series of their own; and where blocks are announced.
    pub fn new(series_max: usize) -> (Ledger, Sender<Announced>) {
        let (sender, announcements) = channel();
        let ledger = Ledger {
            announcements,
            series_max,
            series: 0,
            rings: Vec::new(),
            listeners: ListenerBooks::default(),
            pools: HashMap::new(),
        };
        (ledger, sender)
    }

    /// Takes in new blocks, frees those that no worker writes any more, and forgets the backends that their pools have
    /// forgotten. `pools` are all there are, in the order of the configuration; the others are forgotten. Call it every now and
    /// then, and always before [`Pool::collect`].
    pub fn update(&mut self, pools: &[Arc<Pool>]) {
        while let Ok(announced) = self.announcements.try_recv() {
            self.take(announced);
        }
        for pool in pools {
            let (set, leaving) = living(pool);
            self.update_pool(pool, &set, &leaving);
        }
        let series = &mut self.series;
        self.pools.retain(|name, book| {
            let stays = pools.iter().any(|pool| *pool.name() == **name);
            if !stays {
                *series -= book.backends.values().filter(|backend| backend.shown == Some(Shown::Alone)).count();
            }
            stays
        });
        self.listeners.free_blocks(pools);
    }

    /// Forgets the listeners that are no longer there, as far as nobody counts for them any more.
    pub fn forget_listeners(&mut self, is_there: impl Fn(&str) -> bool) {
        self.listeners.forget(is_there);
    }

    /// The workers' rings, by the workers' numbers. A worker that was started again counts on from where it was.
    pub fn rings(&self) -> Vec<RingTotals> {
        let mut rings = BTreeMap::new();
        for (worker, cells) in &self.rings {
            let totals: &mut Statistics = rings.entry(*worker).or_default();
            *totals += cells.get();
        }
        rings.into_iter().map(|(worker, statistics)| RingTotals { worker, statistics }).collect()
    }

    /// What each listener has counted, by its name.
    pub fn listeners(&self) -> BTreeMap<&str, ListenerTotals> {
        self.listeners.totals()
    }

    /// A pool's numbers as they are shown in metrics, after an [`update`](Ledger::update). `show` gets its backends with series
    /// of their own, then the sum of the others, if there is or was one: one by one, because their counts are large.
    pub fn pool(&self, pool: &Pool, mut show: impl FnMut(BackendView)) -> PoolView {
        let (set, leaving) = living(pool);
        let book = self.pools.get(pool.name());
        let mut standings = [0; Standing::ALL.len()];
        for backend in set.backends() {
            standings[backend.standing() as usize] += 1;
        }
        let gone = book.map(|book| book.gone.clone()).unwrap_or_default();
        let (mut others, mut others_active) = ((gone != BackendTotals::default()).then_some(gone), 0);
        for backend in set.backends().iter().chain(&leaving) {
            let Some(book) = book.and_then(|book| book.backends.get(&backend.id())) else { continue };
            let (totals, active) = (book.totals(backend), u64::from(backend.active()));
            if book.shown == Some(Shown::Alone) {
                let (name, backend) = (backend.name().to_owned(), Some(backend.clone()));
                show(BackendView { name, backend, active, totals });
            } else {
                others_active += active;
                others.get_or_insert_default().add(&totals);
            }
        }
        if let Some(totals) = others {
            show(BackendView { name: OTHER.to_owned(), backend: None, active: others_active, totals });
        }
        PoolView { standings, no_backend: self.no_backend(pool.name()) }
    }

    /// A pool's numbers, with the latencies of a window; after an [`update`](Ledger::update).
    pub fn numbers(&self, pool: &Pool, window: Window) -> PoolNumbers {
        let (set, leaving) = living(pool);
        let mut numbers = PoolNumbers { no_backend: self.no_backend(pool.name()), ..PoolNumbers::default() };
        let (mut connects, mut first_bytes) = (Counts::new(), Counts::new());
        let Some(book) = self.pools.get(pool.name()) else { return numbers };
        for backend in set.backends().iter().chain(&leaving) {
            let Some(book) = book.backends.get(&backend.id()) else { continue };
            let mut totals = book.totals(backend);
            let connect = book.connect.within(window, &std::mem::take(&mut totals.connect));
            let first_byte = book.first_byte.within(window, &std::mem::take(&mut totals.first_byte));
            let latencies = Latencies { connect: (&connect).into(), first_byte: (&first_byte).into() };
            connects.add(&connect);
            first_bytes.add(&first_byte);
            let (id, name) = (backend.id(), backend.name().to_owned());
            numbers.backends.push(BackendNumbers { id, name, totals, latencies });
        }
        numbers.latencies = Latencies { connect: (&connects).into(), first_byte: (&first_bytes).into() };
        numbers.session = (&book.session.within(window, &self.listeners.sessions(pool.name()))).into();
        numbers
    }

    /// A minute is over. Call it once a minute, after an [`update`](Ledger::update).
    pub fn turn(&mut self) {
        for (name, pool) in &mut self.pools {
            pool.session.turn(&self.listeners.sessions(name));
            for backend in pool.backends.values_mut() {
                let BackendTotals { connect, first_byte, .. } = backend.sum();
                backend.connect.turn(&connect);
                backend.first_byte.turn(&first_byte);
            }
        }
    }

    fn take(&mut self, announced: Announced) {
        match announced {
            Announced::Ring { worker, cells } => self.rings.push((worker, cells)),
            Announced::Listener { name, pool, cells } => self.listeners.take(name, pool, cells),
            Announced::Backend { pool, id, cells } => {
                let pool = self.pools.entry(pool).or_default();
                pool.has_news = true;
                pool.backends.entry(id).or_default().cells.push(cells);
            }
        }
    }

    fn update_pool(&mut self, pool: &Pool, set: &BackendSet, leaving: &[Arc<Backend>]) {
        if !self.pools.contains_key(pool.name()) {
            self.pools.insert(pool.name().into(), PoolBook::default());
        }
        let Some(book) = self.pools.get_mut(pool.name()) else { return };
        if std::mem::replace(&mut book.revision, set.revision()) == set.revision()
            && leaving.is_empty()
            && !book.has_leaving
            && !std::mem::take(&mut book.has_news)
        {
            return;
        }
        book.has_leaving = !leaving.is_empty();
        let mut forgotten = std::mem::take(&mut book.backends);
        for backend in set.backends().iter().chain(leaving) {
            let mut kept = forgotten.remove(&backend.id()).unwrap_or_default();
            kept.free_blocks();
            kept.ejections = backend.ejections_total();
            if kept.shown.is_none() {
                let alone = self.series < self.series_max && backend.name() != OTHER;
                kept.shown = Some(if alone { Shown::Alone } else { Shown::Together });
                self.series += usize::from(alone);
            }
            book.backends.insert(backend.id(), kept);
        }
        for gone in forgotten.into_values() {
            match gone.shown {
                Some(Shown::Alone) => self.series -= 1,
                Some(Shown::Together) | None => book.gone.add(&gone.sum()),
            }
        }
    }

    fn no_backend(&self, pool: &str) -> u64 {
        self.listeners.closed(pool, CloseReason::NoBackend)
    }
}

/// The backends that a pool knows: those of its set, and the removed ones that still have sessions. Together, so that one that
/// changes from the one to the other meanwhile is not missed.
fn living(pool: &Pool) -> (Arc<BackendSet>, Vec<Arc<Backend>>) {
    loop {
        let before = pool.snapshot();
        let leaving = pool.leaving();
        let set = pool.snapshot();
        if before.revision() == set.revision() {
            return (set, leaving);
        }
    }
}

impl BackendBook {
    fn totals(&self, backend: &Backend) -> BackendTotals {
        BackendTotals { ejections: backend.ejections_total(), ..self.sum() }
    }

    fn sum(&self) -> BackendTotals {
        let mut totals = BackendTotals { ejections: self.ejections, ..self.freed.clone() };
        for cells in &self.cells {
            totals.add_cells(cells);
        }
        totals
    }

    /// Adds up the blocks that nobody else holds, and frees them.
    fn free_blocks(&mut self) {
        let freed = &mut self.freed;
        self.cells.retain_mut(|cells| {
            // Succeeds only for the sole owner, and sees all that the others have written before they let go.
            if Arc::get_mut(cells).is_none() {
                return true;
            }
            freed.add_cells(cells);
            false
        });
    }
}

impl BackendTotals {
    fn add_cells(&mut self, cells: &BackendCells) {
        #[cfg(test)]
        tests::READ.with(|read| read.set(read.get() + 1));
        self.attempts += cells.attempts.get();
        self.connected += cells.connected.get();
        for (sum, failure) in self.failures.iter_mut().zip(ConnectFailure::ALL) {
            *sum += cells.failures(failure);
        }
        self.sent += cells.sent.get();
        self.received += cells.received.get();
        cells.connect.add_to(&mut self.connect);
        cells.first_byte.add_to(&mut self.first_byte);
    }

    fn add(&mut self, other: &BackendTotals) {
        let BackendTotals { attempts, connected, failures, sent, received, ejections, connect, first_byte } = other;
        self.attempts += attempts;
        self.connected += connected;
        for (sum, count) in self.failures.iter_mut().zip(failures) {
            *sum += count;
        }
        self.sent += sent;
        self.received += received;
        self.ejections += ejections;
        self.connect.add(connect);
        self.first_byte.add(first_byte);
    }
}

impl<const N: usize> Buckets<N> {
    /// `counts`, divided at `bounds`, which are in seconds and ascending.
    pub fn new(counts: &Counts, bounds: &[f64; N]) -> Buckets<N> {
        let cumulative = counts.cumulative(bounds);
        Buckets { cumulative, total: counts.total(), sum_seconds: counts.sum_seconds() }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::address::Address;
    use crate::balance::settings::{BackendSettings, PoolSettings};
    use crate::metrics::Recorder;
    use crate::time::Time;

    thread_local! {
        /// How many blocks of backends were read by this thread.
        pub(super) static READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    /// A pool, two workers that serve it, and the ledger.
    struct Scene {
        pool: Arc<Pool>,
        workers: [Recorder; 2],
        ledger: Ledger,
    }

    impl Scene {
        fn new(names: &[&str], series_max: usize) -> Scene {
            let pool = Pool::new(PoolSettings::new("web"), backends(names), Time::ZERO).expect("a possible set");
            let (ledger, announcements) = Ledger::new(series_max);
            let workers = [(); 2].map(|()| {
                let mut worker = Recorder::new(announcements.clone());
                worker.listener(0, "front", "web");
                worker
            });
            Scene { pool, workers, ledger }
        }

        fn replace(&mut self, names: &[&str]) {
            self.pool.replace(PoolSettings::default(), backends(names), Time::ZERO).expect("a possible set");
            let set = self.pool.snapshot();
            self.workers.iter_mut().for_each(|worker| worker.retain(0, &set));
        }

        /// What the control thread does every now and then.
        fn collect(&mut self) -> Vec<String> {
            self.update();
            self.pool.collect()
        }

        fn update(&mut self) {
            self.ledger.update(std::slice::from_ref(&self.pool));
        }

        fn find(&self, name: &str) -> Arc<Backend> {
            let set = self.pool.snapshot();
            set.backends().iter().find(|backend| backend.name() == name).expect("it is in the set").clone()
        }

        /// A session of a worker: one connect, so many bytes to the backend.
        fn session(&mut self, worker: usize, name: &str, bytes: u64) -> Arc<BackendCells> {
            let id = self.find(name).id();
            let cells = self.workers[worker].backend(0, id);
            cells.attempts.add(1);
            cells.connected.add(1);
            cells.sent.add(bytes);
            cells.connect.record(Duration::from_millis(bytes));
            cells
        }

        /// What a scrape shows: names and bytes sent.
        fn shown(&mut self) -> Vec<(String, u64)> {
            self.update();
            let mut shown = Vec::new();
            self.ledger.pool(&self.pool, |view| shown.push((view.name, view.totals.sent)));
            shown
        }
    }

    fn backends(names: &[&str]) -> Vec<BackendSettings> {
        let address = Address::from(SocketAddr::from(([127, 0, 0, 1], 1)));
        names.iter().map(|name| BackendSettings::new(*name, address.clone())).collect()
    }

    fn series(shown: &[(&str, u64)]) -> Vec<(String, u64)> {
        shown.iter().map(|(name, sent)| ((*name).to_owned(), *sent)).collect()
    }

    #[test]
    fn workers_add_up() {
        let mut scene = Scene::new(&["a", "b"], 10);
        for (worker, name, bytes) in [(0, "a", 1), (1, "a", 10), (0, "b", 100), (0, "a", 1000)] {
            scene.session(worker, name, bytes);
        }
        assert_eq!(scene.shown(), series(&[("a", 1011), ("b", 100)]));
    }

    #[test]
    fn a_removed_backend_is_shown_until_its_last_session_has_gone() {
        let mut scene = Scene::new(&["a", "b"], 10);
        let session = scene.session(0, "b", 5);
        let place = scene.find("b");
        scene.replace(&["a"]);
        assert!(scene.collect().is_empty());
        session.sent.add(2);
        assert_eq!(scene.shown(), series(&[("a", 0), ("b", 7)]));
        drop((session, place));
        assert_eq!(scene.collect(), ["b"]);
        assert_eq!(scene.shown(), series(&[("a", 0)]));
    }

    #[test]
    fn a_name_that_comes_back_in_time_goes_on_counting_and_otherwise_begins_anew() {
        let mut scene = Scene::new(&["a", "b"], 10);
        let (session, place) = (scene.session(0, "b", 5), scene.find("b"));
        scene.replace(&["a"]);
        scene.replace(&["a", "b"]);
        scene.session(0, "b", 10);
        session.sent.add(100);
        assert_eq!(scene.shown(), series(&[("a", 0), ("b", 115)]));
        drop(session);
        scene.replace(&["b", "a"]);
        scene.update();
        let book = &scene.ledger.pools["web"].backends[&place.id()];
        assert_eq!(book.cells.len(), 1, "the block that nobody writes any more is freed");
        assert_eq!(scene.shown(), series(&[("b", 115), ("a", 0)]));

        drop(place);
        scene.replace(&["a"]);
        assert_eq!(scene.collect(), ["b"]);
        scene.replace(&["a", "b"]);
        assert_eq!(scene.shown(), series(&[("a", 0), ("b", 0)]));
    }

    #[test]
    fn the_sum_of_the_others_never_goes_back() {
        let mut scene = Scene::new(&["a", "b", "c", "d"], 2);
        for (number, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
            scene.session(0, name, 10_u64.pow(number as u32));
        }
        assert_eq!(scene.shown(), series(&[("a", 1), ("b", 10), ("_other", 1100)]));
        scene.replace(&["b", "d"]);
        scene.collect();
        scene.update();
        scene.replace(&["b", "d", "e"]);
        scene.session(1, "e", 10_000);
        assert_eq!(scene.shown(), series(&[("b", 10), ("e", 10_000), ("_other", 1100)]), "`e` takes the place of `a`");
        scene.replace(&["e"]);
        scene.collect();
        assert_eq!(scene.shown(), series(&[("e", 10_000), ("_other", 1100)]));
    }

    #[test]
    fn a_backend_of_the_name_of_the_others_is_one_of_them() {
        let mut scene = Scene::new(&["_other", "a"], 10);
        scene.session(0, "_other", 3);
        assert_eq!(scene.shown(), series(&[("a", 0), ("_other", 3)]));
    }

    #[test]
    fn latencies_are_of_their_window_and_of_all_workers() {
        let mut scene = Scene::new(&["a", "b"], 10);
        scene.session(0, "a", 100);
        let ended = |scene: &mut Scene, worker: usize, seconds: u64| {
            scene.workers[worker].listener(1, "front", "web").session.record(Duration::from_secs(seconds));
        };
        ended(&mut scene, 0, 9);
        scene.update();
        scene.ledger.turn();
        scene.ledger.turn();
        ended(&mut scene, 1, 3);
        scene.session(0, "a", 20);
        scene.session(1, "a", 20);
        scene.session(1, "b", 20);
        scene.update();
        let numbers = Window::ALL.map(|window| scene.ledger.numbers(&scene.pool, window));
        let counts = numbers.each_ref().map(|one| one.backends[0].latencies.connect.count);
        assert_eq!(counts, [2, 3, 3]);
        assert_eq!(numbers.each_ref().map(|one| one.latencies.connect.count), [3, 4, 4]);
        assert_eq!(numbers.each_ref().map(|one| one.session.count), [1, 2, 2]);
        let longest = numbers[0].session.max.as_secs_f64();
        assert!((longest - 3.0).abs() < 0.03, "{longest} s is of another window");
        assert_eq!(numbers[0].backends[0].totals.sent, 140);
        let longest = |number: usize| numbers[number].backends[0].latencies.connect.max.as_secs_f64();
        assert!((longest(0) - 0.02).abs() < 0.0002 && (longest(1) - 0.1).abs() < 0.001);
    }

    /// Work, not time: a scrape reads each block once, and a look without news reads none.
    #[test]
    fn a_scrape_of_many_backends_reads_each_block_once() {
        const BACKENDS: usize = 5000;
        let names: Vec<String> = (0..BACKENDS).map(|number| format!("b{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut scene = Scene::new(&names, 1000);
        let ids: Vec<BackendId> = scene.pool.snapshot().backends().iter().map(|backend| backend.id()).collect();
        for worker in &mut scene.workers {
            ids.iter().for_each(|id| worker.backend(0, *id).sent.add(1));
        }
        scene.update();
        READ.set(0);
        scene.update();
        assert_eq!(READ.get(), 0);
        let shown = scene.shown();
        assert_eq!(READ.get(), 2 * BACKENDS);
        assert_eq!(shown.len(), 1001);
        assert_eq!(shown.iter().map(|(_, sent)| sent).sum::<u64>(), 2 * BACKENDS as u64);
    }
}
