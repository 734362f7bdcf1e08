//! The control thread: signals and the metrics address. Workers never wait for it, and it never waits for them.

use std::future::pending;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{io, thread};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use crate::http;

/// A signal that changes what the process does.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: drain and end; the second: end at once.
    Terminate,
}

/// Whether new clients should be sent here.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Changes what `GET /ready` answers: 200 or 503.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Starts the thread. `metrics` is a bound and listening socket; `on_signal` is called for every [`Signal`].
///
/// It runs until the process ends.
///
/// # Errors
/// Where the thread, its runtime or a signal handler cannot be had.
pub fn start(
    metrics: Option<StdListener>,
    readiness: Readiness,
    on_signal: impl Fn(Signal) + Send + 'static,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let signals = Signals::new()?;
    let metrics = metrics
        .map(|listener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        })
        .transpose()?;
    drop(guard);
    thread::Builder::new().name("ringlb-control".into()).spawn(move || {
        runtime.block_on(async move {
            if let Some(listener) = metrics {
                tokio::spawn(http::serve(listener, router(readiness)));
            }
            signals.deliver(on_signal).await;
        });
    })?;
    Ok(())
}

struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
    reopen: Stream,
}

impl Signals {
    fn new() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            reopen: signal(SignalKind::user_defined1())?,
        })
    }

    async fn deliver(mut self, on_signal: impl Fn(Signal)) {
        loop {
            tokio::select! {
                Some(()) = self.terminate.recv() => on_signal(Signal::Terminate),
                Some(()) = self.interrupt.recv() => on_signal(Signal::Terminate),
                Some(()) = self.hangup.recv() => {
                    tracing::warn!("SIGHUP: this version cannot reload; nothing has changed. Restart to apply the file");
                }
                Some(()) = self.reopen.recv() => tracing::info!("SIGUSR1: there is no log file to reopen"),
                else => pending::<()>().await,
            }
        }
    }
}

fn router(readiness: Readiness) -> Router {
    Router::new().route("/ready", get(ready)).with_state(readiness)
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    if readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: starting or draining\n")
    }
}
