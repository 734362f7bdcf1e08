//! The numbers as Prometheus reads them: `GET /metrics`.
//!
//! A scrape is rendered on a thread of its own, one at a time, so that neither the control thread's other tasks nor any
//! worker waits for it, however many backends there are.

mod families;
mod process;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::balance::{Pool, Standing};
use crate::control::roster::Rosters;
use crate::files::AccessLog;
use crate::files::state::StateFile;
use crate::histogram::Counts;
use crate::limits::LATENCY_TURN;
use crate::metrics::table::{self, METRICS};
use crate::metrics::{
    BackendView, Buckets, ConnectFailure, Ledger, ListenerTotals, Pause, PoolNumbers, Refusal, Window,
};
use crate::relay::CloseReason;
use crate::worker::admission::Gate;

use families::Families;

/// What the numbers are made of.
#[derive(Debug)]
pub struct Sources {
    /// What the workers count.
    pub ledger: Ledger,
    /// How many workers there are.
    pub workers: usize,
    /// The limit of the process.
    pub process: Arc<Gate>,
    /// The access log, if there is one.
    pub access_log: Option<AccessLog>,
    /// The state file, if there is one.
    pub state_file: Option<StateFile>,
    /// Each listener's name and limit.
    pub listeners: Vec<(String, Arc<Gate>)>,
}

/// The numbers, for the tasks of the control thread. Clones are the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    shared: Arc<Shared>,
    /// One scrape at a time.
    turn: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    sources: Mutex<Sources>,
    rosters: Arc<Rosters>,
    reloads: Reloads,
}

/// How the configuration was loaded last.
#[derive(Debug)]
struct Reloads {
    successful: AtomicBool,
    success_seconds: AtomicU64,
}

impl Metrics {
    /// Those of `sources` and of the pools of `rosters`. The configuration counts as loaded now.
    ///
    /// # Errors
    /// Where the registry refuses the table of metrics, which a test rules out.
    pub fn new(sources: Sources, rosters: Arc<Rosters>) -> Result<Metrics, prometheus::Error> {
        let reloads = Reloads { successful: AtomicBool::new(true), success_seconds: AtomicU64::new(seconds_now()) };
        let shared = Arc::new(Shared { sources: Mutex::new(sources), rosters, reloads });
        let descriptions = METRICS.iter().map(describe).collect::<Result<_, _>>()?;
        let registry = Registry::new();
        registry.register(Box::new(Exposition { shared: shared.clone(), descriptions }))?;
        Ok(Metrics { registry, shared, turn: Arc::new(Semaphore::new(1)) })
    }

    /// All of them in the text format of Prometheus, or why not.
    pub async fn render(&self) -> Result<String, String> {
        let registry = self.registry.clone();
        self.aside(move |_| TextEncoder::new().encode_to_string(&registry.gather()).map_err(|error| error.to_string()))
            .await?
    }

    /// The numbers of these pools, in their order, with the latencies of a window.
    ///
    /// # Errors
    /// Where they could not be added up: a panic, which is logged.
    pub async fn of(&self, wanted: Vec<Arc<Pool>>, window: Window) -> Result<Vec<PoolNumbers>, String> {
        let numbers = self.aside(move |shared| {
            let pools = shared.pools();
            let ledger = &mut shared.sources().ledger;
            ledger.update(&pools);
            wanted.iter().map(|pool| ledger.numbers(pool, window)).collect()
        });
        numbers.await
    }

    /// Tells the ledger of each minute that is over. Runs for ever.
    pub async fn keep_minutes(self) {
        let mut minutes = interval_at(Instant::now() + LATENCY_TURN, LATENCY_TURN);
        // Two turns at once would take a minute for nothing.
        minutes.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            minutes.tick().await;
            let turned = self.aside(|shared| {
                let pools = shared.pools();
                let ledger = &mut shared.sources().ledger;
                ledger.update(&pools);
                ledger.turn();
            });
            if let Err(error) = turned.await {
                tracing::error!(error, "the latencies of the last minute are lost");
            }
        }
    }

    /// Takes in what is new and forgets what is gone; see [`Ledger::update`].
    pub async fn update(&self) {
        let updated = self.aside(|shared| {
            let pools = shared.pools();
            shared.sources().ledger.update(&pools);
        });
        if let Err(error) = updated.await {
            tracing::error!(error, "the numbers could not be brought up to date");
        }
    }

    /// Runs `work` on a thread of its own, when nobody else does.
    async fn aside<T: Send + 'static>(&self, work: impl FnOnce(&Shared) -> T + Send + 'static) -> Result<T, String> {
        let turn = self.turn.clone().acquire_owned().await.map_err(|error| error.to_string())?;
        let shared = self.shared.clone();
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&shared);
            drop(turn);
            done
        });
        done.await.map_err(|error| error.to_string())
    }
}

impl Shared {
    fn pools(&self) -> Vec<Arc<Pool>> {
        self.rosters.all().iter().map(|roster| roster.pool().clone()).collect()
    }

    /// After a panic the numbers may lack what was being added up; the next scrape adds it up anew.
    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(metric: &table::Metric) -> Result<Desc, prometheus::Error> {
    let labels = metric.labels.iter().map(|label| (*label).to_owned()).collect();
    Desc::new(metric.name.to_owned(), metric.help.to_owned(), labels, Default::default())
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What the registry asks.
struct Exposition {
    shared: Arc<Shared>,
    descriptions: Vec<Desc>,
}

impl Collector for Exposition {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let pools = self.shared.pools();
        let mut sources = self.shared.sources();
        sources.ledger.update(&pools);
        let mut families = Families::new();
        collect_process(&mut families, &sources, &self.shared.reloads);
        collect_listeners(&mut families, &sources);
        for pool in &pools {
            collect_pool(&mut families, &sources.ledger, pool);
        }
        collect_rings(&mut families, &sources.ledger);
        drop(sources);
        process::collect(&mut families);
        families.into_vec()
    }
}

fn collect_process(families: &mut Families, sources: &Sources, reloads: &Reloads) {
    families.add(&table::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
    families.add(&table::WORKERS, &[], sources.workers as u64);
    families.add(&table::MAX_CONNECTIONS, &[], sources.process.max() as u64);
    families.add(&table::ACTIVE_CONNECTIONS, &[], sources.process.active() as u64);
    families.add(&table::RELOAD_SUCCESSFUL, &[], reloads.successful.load(Ordering::Relaxed).into());
    families.add(&table::RELOAD_TIMESTAMP, &[], reloads.success_seconds.load(Ordering::Relaxed));
    let log = sources.access_log.as_ref();
    families.add(&table::ACCESS_LOG_LINES, &[], log.map_or(0, AccessLog::written));
    families.add(&table::ACCESS_LOG_DROPPED, &[], log.map_or(0, AccessLog::dropped));
    let state = sources.state_file.as_ref();
    families.add(&table::STATE_WRITES, &[], state.map_or(0, StateFile::written));
    families.add(&table::STATE_FAILURES, &[], state.map_or(0, StateFile::failures));
}

fn collect_listeners(families: &mut Families, sources: &Sources) {
    let counted = sources.ledger.listeners();
    let none = ListenerTotals::default();
    for (name, gate) in &sources.listeners {
        let totals = counted.get(name.as_str()).unwrap_or(&none);
        let labels = [name.as_str()];
        families.add(&table::LISTENER_ACCEPTED, &labels, totals.accepted);
        for (refusal, count) in Refusal::ALL.into_iter().zip(totals.refused) {
            families.add(&table::LISTENER_REFUSED, &[name, refusal.label()], count);
        }
        families.add(&table::LISTENER_ACTIVE, &labels, gate.active() as u64);
        families.add(&table::LISTENER_MAX, &labels, gate.max().min(sources.process.max()) as u64);
        families.add(&table::LISTENER_PAUSED, &labels, totals.paused);
        for (pause, count) in Pause::ALL.into_iter().zip(totals.pauses) {
            families.add(&table::LISTENER_PAUSES, &[name, pause.label()], count);
        }
        for (reason, count) in CloseReason::LABELS.into_iter().zip(totals.closed) {
            families.add(&table::SESSIONS_CLOSED, &[name, reason], count);
        }
        add_durations(families, (&table::SESSION_DURATION, &labels), &totals.session, &table::SESSION_BOUNDS);
    }
}

fn collect_pool(families: &mut Families, ledger: &Ledger, pool: &Pool) {
    let view = ledger.pool(pool, |backend| collect_backend(families, pool.name(), &backend));
    families.add(&table::POOL_NO_BACKEND, &[pool.name()], view.no_backend);
    families.add(&table::POOL_WAITING, &[pool.name()], pool.waiting() as u64);
    for (standing, count) in Standing::ALL.iter().zip(view.standings) {
        families.add(&table::POOL_BACKENDS, &[pool.name(), standing.name()], count);
    }
}

fn collect_backend(families: &mut Families, pool: &str, view: &BackendView) {
    let BackendView { name, backend, active, totals } = view;
    let labels = [pool, name];
    families.add(&table::BACKEND_CONNECTIONS, &labels, totals.connected);
    families.add(&table::BACKEND_ATTEMPTS, &labels, totals.attempts);
    for (failure, count) in ConnectFailure::ALL.into_iter().zip(totals.failures) {
        if count > 0 {
            families.add(&table::BACKEND_FAILURES, &[pool, name, failure.label()], count);
        }
    }
    families.add(&table::BACKEND_EJECTIONS, &labels, totals.ejections);
    families.add(&table::BACKEND_ACTIVE, &labels, *active);
    families.add(&table::BACKEND_SENT, &labels, totals.sent);
    families.add(&table::BACKEND_RECEIVED, &labels, totals.received);
    add_durations(families, (&table::BACKEND_CONNECT, &labels), &totals.connect, &table::BACKEND_BOUNDS);
    add_durations(families, (&table::BACKEND_FIRST_BYTE, &labels), &totals.first_byte, &table::BACKEND_BOUNDS);
    let Some(backend) = backend else { return };
    families.add(&table::BACKEND_MAX, &labels, backend.settings().max_connections.into());
    families.add(&table::BACKEND_WEIGHT, &labels, backend.weight().as_u32().into());
    let standing = backend.standing();
    for one in Standing::ALL {
        families.add(&table::BACKEND_STATE, &[pool, name, one.name()], u64::from(*one == standing));
    }
}

/// A histogram is there from its first duration on.
fn add_durations<const N: usize>(
    families: &mut Families,
    (metric, labels): (&table::Metric, &[&str]),
    counts: &Counts,
    bounds: &[f64; N],
) {
    if !counts.is_empty() {
        families.add_buckets(metric, labels, bounds, &Buckets::new(counts, bounds));
    }
}

fn collect_rings(families: &mut Families, ledger: &Ledger) {
    for ring in ledger.rings() {
        let worker = ring.worker.to_string();
        let labels = [worker.as_str()];
        families.add(&table::RING_SUBMISSIONS, &labels, ring.statistics.submissions);
        families.add(&table::RING_COMPLETIONS, &labels, ring.statistics.completions);
        families.add(&table::RING_TURNS, &labels, ring.statistics.turns);
        families.add(&table::RING_OVERFLOWS, &labels, ring.statistics.overflows);
        families.add(&table::RING_STARVATIONS, &labels, ring.statistics.starvations);
    }
}
