//! The control thread: signals, the metrics address, active checks and host names. Workers never wait for it, and it never
//! waits for them.

pub mod admin;
mod due;
pub mod listeners;
pub mod metrics;
pub mod names;
pub mod news;
pub mod overlay;
pub mod probes;
pub mod reload;
pub mod roster;
pub mod rosters;
pub mod state;
pub mod wire;

use std::future::pending;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZeroUsize;
use std::os::unix::net::UnixListener as UnixStdListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{io, thread};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::TEXT_FORMAT;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::files::AccessLog;
use crate::files::state::StateFile;
use crate::http;
use crate::limits::COLLECT_INTERVAL;
use crate::worker::mailbox::{Command, Mailbox};
use crate::worker::news::Hearer;

use admin::{Admin, Facts};
use listeners::Listeners;
use metrics::Metrics;
use names::Namer;
use probes::Prober;
use reload::{Order, Reloader};
use rosters::Rosters;

/// What the rest of the process has to know.
#[derive(Debug)]
pub enum Notice {
    /// SIGTERM or SIGINT: drain and end; the second: end at once.
    Terminate,
    /// Every host name of the configuration has been looked up once, whatever came of it.
    HostsKnown,
    /// Make the configuration another, or say what that would change.
    Reload(Order),
    /// The thread has ended, for this reason.
    Failed(String),
}

/// What the control thread works with, whichever it is by now.
#[derive(Clone)]
pub struct Setup {
    /// A bound and listening socket for the metrics address.
    pub metrics: Option<Arc<StdListener>>,
    /// Where the admin API is served.
    pub admin: Option<Arc<UnixStdListener>>,
    /// What it tells of the process.
    pub facts: Facts,
    /// What the workers tell. One control thread after the other hears it.
    pub hearer: Arc<tokio::sync::Mutex<Hearer>>,
    /// What `GET /metrics` answers.
    pub numbers: Metrics,
    /// What SIGUSR1 opens again.
    pub access_log: Option<AccessLog>,
    /// What keeps live edits over a restart.
    pub state_file: Option<StateFile>,
    /// What `GET /ready` answers.
    pub readiness: Readiness,
    /// What the pools are told to be.
    pub rosters: Arc<Rosters>,
    /// Name servers to ask; none: the system's.
    pub resolvers: Vec<SocketAddr>,
    /// The workers.
    pub workers: Vec<Mailbox>,
    /// Active checks under way at a time.
    pub checks_max: NonZeroUsize,
    /// Shows that it turns.
    pub pulse: Pulse,
    /// Makes one of the thread's tasks panic, for a test.
    #[cfg(debug_assertions)]
    pub fault: Arc<Notify>,
}

/// Whether the thread turns: it answers pings in its turn.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Beats>);

#[derive(Debug, Default)]
struct Beats {
    asked: AtomicU64,
    answered: AtomicU64,
    changed: Notify,
}

impl Pulse {
    /// Asks for an answer with this number.
    pub fn ping(&self, number: u64) {
        self.0.asked.store(number, Ordering::Release);
        self.0.changed.notify_one();
    }

    /// Whether the ping of this number was answered, or a later one.
    pub fn has_answered(&self, number: u64) -> bool {
        self.0.answered.load(Ordering::Acquire) >= number
    }

    /// Answers for ever.
    async fn answer(self) {
        loop {
            // At once too: a thread that has failed may have taken the last notification.
            self.0.answered.store(self.0.asked.load(Ordering::Acquire), Ordering::Release);
            self.0.changed.notified().await;
        }
    }
}

/// Whether new clients should be sent here.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Changes what `GET /ready` answers: 200 or 503.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// What it answers now: whether it is 200.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Starts the thread, which calls `notify` for every [`Notice`]. It runs until the process ends, or until it or one of its
/// tasks fails; it can then be started again.
///
/// # Errors
/// Where the thread, its runtime or a signal handler cannot be had.
pub fn start(setup: Setup, notify: impl Fn(Notice) + Clone + Send + Sync + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().thread_name("ringlb-helper").build()?;
    let guard = runtime.enter();
    let signals = (Signals::new()?, signal(SignalKind::hangup())?);
    let listen = |listener: &Arc<StdListener>| {
        let listener = listener.try_clone()?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let metrics = setup.metrics.as_ref().map(listen).transpose()?;
    let listen = |listener: &UnixStdListener| UnixListener::from_std(listener.try_clone()?);
    let admin = setup.admin.as_ref().map(|listener| listen(listener)).transpose()?;
    drop(guard);
    thread::Builder::new().name("ringlb-control".into()).spawn(move || {
        let work = AssertUnwindSafe(|| runtime.block_on(work(setup, (metrics, admin), signals, notify.clone())));
        let why = catch_unwind(work).unwrap_or_else(|_| "it panicked; the log says where".into());
        runtime.shutdown_background();
        notify(Notice::Failed(why));
    })?;
    Ok(())
}

/// Does everything, until something of it ends. Gives the reason.
async fn work(
    setup: Setup,
    (metrics, admin): (Option<TcpListener>, Option<UnixListener>),
    (signals, hangup): (Signals, Stream),
    notify: impl Fn(Notice) + Clone + Send + Sync + 'static,
) -> String {
    let Setup {
        facts,
        hearer,
        access_log,
        state_file,
        numbers,
        readiness,
        rosters,
        resolvers,
        workers,
        checks_max,
        pulse,
        ..
    } = setup;
    #[cfg(debug_assertions)]
    let fault = setup.fault;
    // What is spawned here is needed. A task that dies with nobody to notice would leave, say, no checks.
    let mut tasks = JoinSet::new();
    let reloader =
        Reloader::new(facts.origin.clone(), rosters.clone(), (numbers.clone(), readiness.clone()), notify.clone());
    let listeners = facts.listeners.clone();
    if let Some(listener) = admin {
        let facts = (facts, reloader.clone());
        let admin = Admin::new(rosters.clone(), workers.clone(), readiness.clone(), numbers.clone(), facts);
        tasks.spawn(http::serve_unix(listener, admin::router(Arc::new(admin))));
        tasks.spawn(admin::expire_leases(rosters.clone()));
    }
    if let Some(listener) = metrics {
        tasks.spawn(http::serve(listener, router(readiness, numbers.clone())));
    }
    let on_known = notify.clone();
    tasks.spawn(Namer::new(rosters.clone(), resolvers, move || on_known(Notice::HostsKnown)).run());
    tasks.spawn(Prober::new(rosters.clone(), workers.clone(), checks_max).run());
    tasks.spawn(news::relay(rosters.clone(), hearer));
    if let Some(file) = state_file {
        tasks.spawn(state::keep(rosters.clone(), file));
    }
    tasks.spawn(numbers.clone().keep_minutes());
    tasks.spawn(collect(rosters, listeners, workers, numbers));
    tasks.spawn(signals.deliver(notify, access_log));
    tasks.spawn(reload_on(hangup, reloader));
    tasks.spawn(pulse.answer());
    #[cfg(debug_assertions)]
    tasks.spawn(async move {
        fault.notified().await;
        panic!("a fault was planted here");
    });
    match tasks.join_next().await {
        Some(Err(error)) => format!("one of its tasks has failed: {error}"),
        Some(Ok(())) | None => "one of its tasks has ended".into(),
    }
}

struct Signals {
    terminate: Stream,
    interrupt: Stream,
    reopen: Stream,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }

    async fn deliver(mut self, notify: impl Fn(Notice), access_log: Option<AccessLog>) {
        loop {
            tokio::select! {
                Some(()) = self.terminate.recv() => notify(Notice::Terminate),
                Some(()) = self.interrupt.recv() => notify(Notice::Terminate),
                Some(()) = self.reopen.recv() => match &access_log {
                    Some(log) => log.reopen(),
                    None => tracing::info!("SIGUSR1: there is no log file to reopen"),
                },
                else => pending::<()>().await,
            }
        }
    }
}

/// Reloads for each of these signals; those that come while it does so are one. What comes of it is in the log.
async fn reload_on(mut hangup: Stream, reloader: Reloader) {
    while hangup.recv().await.is_some() {
        drop(reloader.reload(false, "SIGHUP".to_owned()).await);
    }
    pending().await
}

/// Frees now and then what is no longer used. Workers hold on to the set that they have chosen from last, so that they are
/// told when there is another.
async fn collect(rosters: Arc<Rosters>, listeners: Arc<Listeners>, workers: Vec<Mailbox>, numbers: Metrics) {
    let mut changes = rosters.changes();
    loop {
        sleep(COLLECT_INTERVAL).await;
        if changes.has_changed().is_ok_and(|changed| changed) {
            changes.mark_unchanged();
            workers.iter().for_each(|worker| worker.send(Command::Refresh));
        }
        // What is gone takes its numbers with it, which the ledger has to see first.
        numbers.update().await;
        for pool in rosters.pools() {
            for gone in pool.collect() {
                tracing::debug!("backend {}/{gone} is gone with its last session", pool.name());
            }
        }
        rosters.forget();
        listeners.forget();
    }
}

fn router(readiness: Readiness, numbers: Metrics) -> Router {
    let ready = Router::new().route("/ready", get(ready)).with_state(readiness);
    let numbers = Router::new().route("/metrics", get(metrics)).with_state(numbers);
    Router::new().route("/health", get(health)).merge(ready).merge(numbers)
}

/// That it answers at all is the answer: the control thread lives.
async fn health() -> &'static str {
    "alive\n"
}

async fn metrics(State(numbers): State<Metrics>) -> Response {
    match numbers.render().await {
        Ok(text) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(error, "the metrics could not be rendered");
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be rendered; the log says why\n").into_response()
        }
    }
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    if readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or draining\n")
    }
}
