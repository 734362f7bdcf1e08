//! Wiring: binds the listeners, starts the workers and the control thread, waits for the end, drains and joins.
//!
//! The main thread owns the listening descriptors. It only waits for notices: a signal, or a worker that has ended.

mod access_log;
mod admin;
mod bind;
mod capacity;
mod error;
mod setup;
mod thread;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::config::{Config, Workers};
use crate::control::admin::socket::AdminSocket;
use crate::control::metrics::Sources;
use crate::control::roster::Rosters;
use crate::control::{self, Notice as Told, Readiness};
use crate::engine::host;
use crate::engine::socket::Waker;
use crate::errno::Errno;
use crate::files::AccessLog;
use crate::limits::{KILL_MAX, RESOLVE_START_MAX};
use crate::metrics::Ledger;
use crate::relay::Kill;
use crate::worker::admission::Gate;
use crate::worker::clock;
use crate::worker::mailbox::{Command, Mailbox};

use bind::{Bound, bind_all, bind_metrics, try_sources};
use capacity::{checks_max, connections_max, descriptors_max, pipes_max};
use error::{failed, interrupted, system};
use setup::{Shared, gate};
use thread::{Notice, notify, spawn};

pub use error::Error;

/// Load-balances as `config` says, until told to stop. Once every address is bound and every worker runs, `on_ready` gets
/// the addresses, with the ports that were free where the configuration says 0.
///
/// # Errors
/// See [`Error`]; nothing is left behind.
pub fn run(config: &Config, on_ready: impl FnOnce(&[Address])) -> Result<(), Error> {
    let fleet = Fleet::start(config)?;
    let addresses: Vec<Address> = fleet.listeners.iter().map(|bound| bound.listening.address().clone()).collect();
    on_ready(&addresses);
    fleet.serve(config)
}

/// The running workers and what the main thread holds for them.
struct Fleet {
    listeners: Vec<Bound>,
    mailboxes: Vec<Mailbox>,
    threads: Vec<Option<JoinHandle<()>>>,
    notices: Receiver<Notice>,
    readiness: Readiness,
    process: Arc<Gate>,
    admin: Option<AdminSocket>,
    access_log: Option<AccessLog>,
}

impl Fleet {
    fn start(config: &Config) -> Result<Fleet, Error> {
        let cpus = host::cpus().map_err(|errno| system("the list of usable CPUs")(errno.into()))?;
        let count = match config.workers() {
            Workers::Auto => cpus.len().max(1),
            Workers::Count(count) => count.get(),
        };
        try_sources(config)?;
        let listeners = bind_all(config.listeners(), count)?;
        let metrics = bind_metrics(config.metrics())?;
        let admin = AdminSocket::open(config.admin(), config.admin_mode())?;
        let access_log = access_log::open(config)?;
        let descriptors = descriptors_max();
        let checks_max = checks_max(descriptors);
        let process = Arc::new(Gate::new(connections_max(config, &listeners, count, descriptors)));
        let (sender, notices) = channel();
        let rosters = Arc::new(Rosters::new(config.pools(), clock::now())?);
        let wakers: Result<Vec<Waker>, Errno> = (0..count).map(|_| Waker::new()).collect();
        let wakers: Arc<[Waker]> = wakers.map_err(|errno| system("an eventfd")(errno.into()))?.into();
        let (mailboxes, commands) = wakers.iter().cloned().map(Mailbox::new).unzip();
        let (threads, readiness) = (Vec::new(), Readiness::default());
        let mut fleet = Fleet { listeners, mailboxes, threads, notices, readiness, process, admin, access_log };
        let (ledger, announcements) = Ledger::new(config.backend_series_max());
        let gates: HashMap<String, Arc<Gate>> =
            config.listeners().iter().map(|listener| (listener.name.clone(), gate(listener))).collect();
        let sources = Sources {
            ledger,
            workers: count,
            process: fleet.process.clone(),
            access_log: fleet.access_log.clone(),
            listeners: config.listeners().iter().map(|l| (l.name.clone(), gates[&l.name].clone())).collect(),
        };
        let control = control::Setup {
            metrics,
            admin: fleet.admin(config, &gates)?,
            sources,
            readiness: fleet.readiness.clone(),
            rosters: rosters.clone(),
            resolvers: config.resolvers().to_vec(),
            workers: fleet.mailboxes.clone(),
            checks_max,
        };
        let told = sender.clone();
        control::start(control, move |notice| notify(&told, Notice::Told(notice)))
            .map_err(system("the control thread"))?;
        fleet.await_hosts()?;
        let pipes = pipes_max(descriptors, count);
        for setup in fleet.setups(
            config,
            &rosters,
            Shared {
                wakers: &wakers,
                gates: &gates,
                announcements: &announcements,
                pipes,
                access_log: fleet.access_log.as_ref(),
            },
            (commands, &cpus),
        ) {
            fleet.threads.push(Some(spawn(setup, sender.clone()).map_err(system("a worker thread"))?));
        }
        fleet.await_start()?;
        Ok(fleet)
    }

    /// Waits until the backends' host names have been looked up once, so that the first clients find them; not for ever,
    /// because other pools may have nothing to do with a name server that is silent.
    fn await_hosts(&self) -> Result<(), Error> {
        let until = Instant::now() + RESOLVE_START_MAX;
        loop {
            match self.notices.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Notice::Told(Told::Terminate)) => return Err(interrupted()),
                Ok(Notice::Told(Told::HostsKnown)) => return Ok(()),
                Ok(_) => {}
                Err(_) => {
                    tracing::warn!("not every host name could be looked up in {RESOLVE_START_MAX:?}; starting without");
                    return Ok(());
                }
            }
        }
    }

    /// Waits until every worker has its ring.
    fn await_start(&mut self) -> Result<(), Error> {
        let mut waiting = self.threads.len();
        while waiting > 0 {
            match self.notices.recv() {
                Ok(Notice::Started { result, .. }) => {
                    result?;
                    waiting -= 1;
                }
                Ok(Notice::Ended { number, result }) => return Err(failed(number, result)),
                Ok(Notice::Told(Told::Terminate)) => return Err(interrupted()),
                Ok(Notice::Told(Told::HostsKnown)) => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Serves until told to stop, then drains.
    fn serve(mut self, config: &Config) -> Result<(), Error> {
        let addresses: Vec<String> =
            self.listeners.iter().map(|bound| format!("{}={}", bound.name, bound.listening.address())).collect();
        self.readiness.set(true);
        tracing::info!(
            workers = self.threads.len(),
            max_connections = self.process.max(),
            listeners = addresses.join(" "),
            "ready"
        );
        let failure = loop {
            match self.notices.recv() {
                Ok(Notice::Ended { number, result }) => {
                    self.forget(number);
                    let error = failed(number, result);
                    tracing::error!(%error);
                    break Some(error);
                }
                Ok(Notice::Told(Told::HostsKnown) | Notice::Started { .. }) => {}
                Ok(Notice::Told(Told::Terminate)) | Err(_) => break None,
            }
        };
        self.drain(config);
        failure.map_or(Ok(()), Err)
    }

    fn drain(&mut self, config: &Config) {
        self.readiness.set(false);
        let delay = config.shutdown_delay();
        tracing::info!(sessions = self.process.active(), ?delay, timeout = ?config.shutdown_timeout(), "draining");
        let hurry = self.wait(Instant::now() + delay, |_| false);
        // The workers hold the last references: each empties its accept queue, and closes.
        for bound in self.listeners.drain(..) {
            bound.listening.remove_file();
        }
        self.tell(|| Command::Drain);
        let timeout = if hurry { Duration::ZERO } else { config.shutdown_timeout() };
        self.wait(Instant::now() + timeout, Fleet::all_ended);
        if !self.all_ended() {
            tracing::warn!(sessions = self.process.active(), "closing the sessions that are left");
            self.tell(|| Command::Kill(Kill::Shutdown));
            self.wait(Instant::now() + KILL_MAX, Fleet::all_ended);
        }
        if let Some(log) = &self.access_log {
            access_log::finish(log);
        }
        if self.all_ended() {
            tracing::info!("stopped");
        } else {
            tracing::error!("a worker does not end; leaving it behind");
        }
    }

    /// Waits until `until`, or `done`, or a further signal (then true).
    fn wait(&mut self, until: Instant, done: impl Fn(&Fleet) -> bool) -> bool {
        while !done(self) {
            match self.notices.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Notice::Told(Told::Terminate)) => return true,
                Ok(Notice::Ended { number, result }) => {
                    self.forget(number);
                    if let Err(why) = result {
                        tracing::error!(worker = number, why, "a worker has failed");
                    }
                }
                Ok(Notice::Started { .. } | Notice::Told(Told::HostsKnown)) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
        false
    }

    fn all_ended(&self) -> bool {
        self.threads.iter().all(Option::is_none)
    }

    /// Joins a worker that has said that it ends.
    fn forget(&mut self, number: usize) {
        if let Some(thread) = self.threads[number].take()
            && thread.join().is_err()
        {
            tracing::error!(worker = number, "a worker has panicked on its way out");
        }
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for mailbox in &self.mailboxes {
            mailbox.send(command());
        }
    }
}
