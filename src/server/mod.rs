//! Wiring: binds the listeners, starts the workers and the control thread, waits for the end, drains and joins.
//!
//! The main thread owns the listening descriptors. It only waits for notices: a signal, or a worker that has ended.

mod access_log;
mod admin;
mod bind;
mod capacity;
mod error;
#[cfg(debug_assertions)]
mod faults;
mod manager;
mod reload;
mod restarts;
mod setup;
mod state_file;
mod thread;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::address::Address;
use crate::config::{Config, LogFilter, Workers};
use crate::control::admin::Facts;
use crate::control::admin::socket::AdminSocket;
use crate::control::listeners::Listeners;
use crate::control::metrics::{Metrics, Sources};
use crate::control::rosters::Rosters;
use crate::control::{self, Notice as Told, Pulse, Readiness};
use crate::engine::handover::HandedOver;
use crate::engine::host;
use crate::limits::{KILL_MAX, RESOLVE_START_MAX};
use crate::metrics::Ledger;
use crate::relay::Kill;
use crate::systemd;
use crate::worker::admission::Gate;
use crate::worker::clock;
use crate::worker::mailbox::Command;
use crate::worker::news::Reporter;

use bind::{Bound, Doors, bind_all, bind_metrics, refuse_rest, try_sources};
use capacity::{checks_max, connections_max, descriptors_max, pipes_max};
use error::{interrupted, system};
use manager::Manager;
use restarts::Restarts;
use setup::{Desk, Plan, Shared};
use state_file::Keeper;
use thread::{Failure, Notice, notify, spawn};

pub use error::Error;

/// Load-balances as `config` says, until told to stop. Once every address is bound and every worker runs, `on_ready` gets
/// the addresses, with the ports that were free where the configuration says 0. `on_log` is told which log lines are wanted
/// where a reload changes that.
///
/// # Errors
/// See [`Error`]; nothing is left behind.
pub fn run(
    config: Config,
    on_ready: impl FnOnce(&[Address]),
    on_log: impl Fn(&LogFilter) + 'static,
) -> Result<(), Error> {
    let fleet = Fleet::start(config, Box::new(on_log))?;
    let addresses: Vec<Address> = fleet.listeners.iter().map(|bound| bound.listening.address().clone()).collect();
    on_ready(&addresses);
    fleet.serve()
}

/// The running threads and what the main thread holds for them.
struct Fleet {
    listeners: Vec<Bound>,
    doors: Doors,
    plan: Plan,
    control: control::Setup,
    /// The workers' threads, by their numbers.
    threads: Vec<Option<JoinHandle<()>>>,
    sender: Sender<Notice>,
    notices: Receiver<Notice>,
    /// Of the workers by their numbers, then of the control thread; `None` once nothing is to be started again.
    restarts: Option<Restarts>,
    manager: Option<Manager>,
    /// Told to stop: from now on nothing is reloaded.
    is_stopping: bool,
    on_log: Box<dyn Fn(&LogFilter)>,
    keeper: Option<Keeper>,
    /// Its file goes with it.
    _admin: Option<AdminSocket>,
}

/// What has become of waiting.
enum Heard {
    Terminate,
    WorkerEnded,
    TimeIsUp,
    GivenUp(Error),
}

impl Fleet {
    fn start(config: Config, on_log: Box<dyn Fn(&LogFilter)>) -> Result<Fleet, Error> {
        let cpus = host::cpus().map_err(|errno| system("the list of usable CPUs")(errno.into()))?;
        let count = match config.workers() {
            Workers::Auto => cpus.len().max(1),
            Workers::Count(count) => count.get(),
        };
        try_sources(&config)?;
        let (mut handed, mut doors) = (HandedOver::take(), Doors::default());
        let listeners = bind_all(config.listeners(), count, &mut doors, &mut handed)?;
        let metrics = bind_metrics(config.metrics(), &mut handed)?.map(Arc::new);
        refuse_rest(handed);
        let admin = AdminSocket::open(config.admin(), config.admin_mode())?;
        let access_log = access_log::open(&config)?;
        let descriptors = descriptors_max();
        let process = Arc::new(Gate::new(connections_max(&config, &listeners, count, descriptors)));
        let rosters = Arc::new(Rosters::new(config.pools(), clock::now())?);
        let keeper = state_file::open(&config, &rosters)?;
        let (reporter, hearer) = Reporter::new();
        let desks: Result<Vec<Desk>, _> = (0..count).map(|_| Desk::new()).collect();
        let desks = desks.map_err(|errno| system("an eventfd")(errno.into()))?;
        let shared: HashMap<String, Shared> =
            config.listeners().iter().map(|listener| (listener.name.clone(), Shared::new(listener))).collect();
        let (ledger, announcements) = Ledger::new(config.backend_series_max());
        let facts = Facts {
            started: clock::now(),
            origin: config.origin().cloned(),
            process: Arc::clone(&process),
            listeners: Arc::new(Listeners::default()),
        };
        let sources = Sources {
            ledger,
            workers: count,
            process: Arc::clone(&process),
            access_log: access_log.clone(),
            state_file: keeper.as_ref().map(|keeper| keeper.file.clone()),
            listeners: facts.listeners.clone(),
        };
        let pipes = pipes_max(descriptors, count);
        let plan = Plan {
            config,
            rosters: Arc::clone(&rosters),
            process,
            announcements,
            reporter,
            desks,
            cpus,
            descriptors,
            pipes,
            access_log: access_log.clone(),
            shared,
            crowd: Arc::default(),
            lists: 0,
        };
        plan.count_crowd(&listeners);
        facts.listeners.set(admin::facts(&plan, &listeners));
        let control = control::Setup {
            metrics,
            admin: admin.as_ref().map(admin::listen).transpose()?,
            facts,
            hearer: Arc::new(hearer.into()),
            numbers: Metrics::new(sources, rosters.clone()).map_err(|error| Error::Numbers(error.to_string()))?,
            readiness: Readiness::default(),
            rosters,
            access_log,
            state_file: keeper.as_ref().map(|keeper| keeper.file.clone()),
            resolvers: plan.config.resolvers().to_vec(),
            workers: plan.mailboxes().cloned().collect(),
            checks_max: checks_max(descriptors),
            pulse: Pulse::default(),
            #[cfg(debug_assertions)]
            fault: Arc::default(),
        };
        let (sender, notices) = channel();
        let restarts = Some(Restarts::new(count + 1));
        let mut fleet = Fleet {
            listeners,
            doors,
            plan,
            control,
            threads: Vec::new(),
            sender,
            notices,
            restarts,
            manager: None,
            is_stopping: false,
            on_log,
            keeper,
            _admin: admin,
        };
        fleet.start_threads(count)?;
        Ok(fleet)
    }

    fn start_threads(&mut self, workers: usize) -> Result<(), Error> {
        self.start_control().map_err(system("the control thread"))?;
        self.await_hosts()?;
        for number in 0..workers {
            let setup = self.plan.worker(number, &self.listeners);
            self.threads.push(Some(spawn(setup, self.sender.clone()).map_err(system("a worker thread"))?));
        }
        #[cfg(debug_assertions)]
        faults::listen(self.plan.mailboxes().cloned().collect(), self.control.fault.clone());
        self.await_start()
    }

    fn start_control(&self) -> std::io::Result<()> {
        let sender = self.sender.clone();
        control::start(self.control.clone(), move |notice| notify(&sender, Notice::Told(notice)))
    }

    /// Waits until the backends' host names have been looked up once, so that the first clients find them; not for ever,
    /// because other pools may have nothing to do with a name server that is silent.
    fn await_hosts(&mut self) -> Result<(), Error> {
        let until = Instant::now() + RESOLVE_START_MAX;
        loop {
            match self.notices.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Notice::Told(Told::Terminate)) => return Err(interrupted()),
                Ok(Notice::Told(Told::HostsKnown)) => return Ok(()),
                Ok(Notice::Told(Told::Failed(why))) => return Err(Error::Thread { thread: CONTROL.into(), why }),
                Ok(Notice::Told(Told::Reload(order))) => self.reload(order),
                Ok(Notice::Started | Notice::Ended { .. }) => {}
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
                Ok(Notice::Started) => waiting -= 1,
                Ok(Notice::Ended { result: Err(Failure::Setup(error)), .. }) => return Err(error.into()),
                Ok(Notice::Ended { number, result }) => {
                    return Err(Error::Thread { thread: worker(number), why: why(result) });
                }
                Ok(Notice::Told(Told::Terminate)) => return Err(interrupted()),
                Ok(Notice::Told(Told::Failed(why))) => return Err(Error::Thread { thread: CONTROL.into(), why }),
                Ok(Notice::Told(Told::Reload(order))) => self.reload(order),
                Ok(Notice::Told(Told::HostsKnown)) => {}
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Serves until told to stop, then drains.
    fn serve(mut self) -> Result<(), Error> {
        let addresses: Vec<String> =
            self.listeners.iter().map(|bound| format!("{}={}", bound.name, bound.listening.address())).collect();
        self.control.readiness.set(true);
        tracing::info!(
            workers = self.threads.len(),
            max_connections = self.plan.process.max(),
            listeners = addresses.join(" "),
            "ready"
        );
        self.manager = Manager::find(Instant::now());
        systemd::ready(&self.status());
        let failure = loop {
            match self.hear(None) {
                Heard::Terminate => break None,
                Heard::GivenUp(error) => break Some(error),
                Heard::WorkerEnded | Heard::TimeIsUp => {}
            }
        };
        self.drain();
        failure.map_or(Ok(()), Err)
    }

    fn drain(&mut self) {
        self.is_stopping = true;
        self.control.readiness.set(false);
        let (delay, timeout) = (self.plan.config.shutdown_delay(), self.plan.config.shutdown_timeout());
        tracing::info!(sessions = self.plan.process.active(), ?delay, ?timeout, "draining");
        systemd::stopping("draining", delay + timeout + KILL_MAX);
        let hurry = self.wait(Instant::now() + delay, |_| false);
        // Of a worker that has failed too, the accept queue is to be emptied; afterwards nothing is started again.
        while let Some(number) = self.restarts.as_mut().and_then(Restarts::hurry) {
            self.restart(number);
        }
        self.restarts = None;
        // The workers hold the last references: each empties its accept queue, and closes.
        for bound in self.listeners.drain(..) {
            bound.listening.remove_file();
        }
        self.tell(|| Command::Drain);
        let timeout = if hurry { Duration::ZERO } else { timeout };
        self.wait(Instant::now() + timeout, Fleet::all_ended);
        if !self.all_ended() {
            tracing::warn!(sessions = self.plan.process.active(), "closing the sessions that are left");
            self.tell(|| Command::Kill(Kill::Shutdown));
            self.wait(Instant::now() + KILL_MAX, Fleet::all_ended);
        }
        if let Some(keeper) = &self.keeper {
            state_file::finish(keeper, &self.plan.rosters);
        }
        if let Some(log) = &self.plan.access_log {
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
            match self.hear(Some(until)) {
                Heard::Terminate => return true,
                Heard::TimeIsUp => return false,
                Heard::WorkerEnded => {}
                Heard::GivenUp(error) => tracing::error!(%error),
            }
        }
        false
    }

    /// Waits for something that matters, until `until`, and keeps the threads running meanwhile.
    fn hear(&mut self, until: Option<Instant>) -> Heard {
        loop {
            let now = Instant::now();
            while let Some(number) = self.restarts.as_mut().and_then(|restarts| restarts.poll(now)) {
                self.restart(number);
            }
            self.attend_manager(now);
            let restart = self.restarts.as_ref().and_then(Restarts::next);
            let manager = self.manager.as_ref().map(Manager::next);
            let notice = match until.into_iter().chain(restart).chain(manager).min() {
                Some(next) => self.notices.recv_timeout(next.saturating_duration_since(now)),
                None => self.notices.recv().map_err(RecvTimeoutError::from),
            };
            match notice {
                Ok(Notice::Told(Told::Terminate)) | Err(RecvTimeoutError::Disconnected) => return Heard::Terminate,
                Ok(Notice::Told(Told::HostsKnown) | Notice::Started) => {}
                Ok(Notice::Told(Told::Reload(order))) => self.reload(order),
                Ok(Notice::Told(Told::Failed(why))) => {
                    if let Some(error) = self.failed(self.control_number(), why) {
                        return Heard::GivenUp(error);
                    }
                }
                Ok(Notice::Ended { number, result }) => return self.ended(number, result),
                Err(RecvTimeoutError::Timeout) => {
                    if until.is_some_and(|until| until <= Instant::now()) {
                        return Heard::TimeIsUp;
                    }
                }
            }
        }
    }

    /// Joins a worker that has said that it ends.
    fn ended(&mut self, number: usize, result: Result<(), Failure>) -> Heard {
        if let Some(thread) = self.threads[number].take()
            && thread.join().is_err()
        {
            tracing::error!(worker = number, "a worker has panicked on its way out");
        }
        if self.restarts.is_none() && result.is_ok() {
            return Heard::WorkerEnded;
        }
        self.failed(number, why(result)).map_or(Heard::WorkerEnded, Heard::GivenUp)
    }

    /// Sees to it that the thread of that number is started again; or gives the reason to end.
    fn failed(&mut self, number: usize, why: String) -> Option<Error> {
        let thread = if number == self.control_number() { CONTROL.to_owned() } else { worker(number) };
        let Some(restarts) = &mut self.restarts else {
            tracing::error!(why, "{thread} has failed");
            return None;
        };
        let Some(pause) = restarts.failed(number, Instant::now()) else {
            let error = Error::GivenUp { thread, why };
            tracing::error!(%error);
            return Some(error);
        };
        tracing::error!(why, ?pause, "{thread} has failed; it is started again. Please report this");
        None
    }

    fn restart(&mut self, number: usize) {
        // The last ping may have gone down with the thread.
        if let Some(ping) = self.manager.as_ref().and_then(Manager::ping)
            && let Some(mailbox) = self.plan.mailboxes().nth(number)
        {
            mailbox.send(Command::Ping(ping));
        }
        let started = if number == self.control_number() {
            // One that failed while it loaded the file again has not said that this is over.
            systemd::reloaded();
            self.start_control()
        } else {
            let setup = self.plan.worker(number, &self.listeners);
            spawn(setup, self.sender.clone()).map(|thread| self.threads[number] = Some(thread))
        };
        if let Err(error) = started {
            // Heard like any other failure, in its turn.
            let failure = Failure::Thread(error);
            let notice = if number == self.control_number() {
                Notice::Told(Told::Failed(failure.to_string()))
            } else {
                Notice::Ended { number, result: Err(failure) }
            };
            notify(&self.sender, notice);
        }
    }

    fn control_number(&self) -> usize {
        self.plan.desks.len()
    }

    fn all_ended(&self) -> bool {
        self.threads.iter().all(Option::is_none)
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for mailbox in self.plan.mailboxes() {
            mailbox.send(command());
        }
    }
}

const CONTROL: &str = "the control thread";

fn worker(number: usize) -> String {
    format!("worker {number}")
}

fn why(result: Result<(), Failure>) -> String {
    result.err().map_or_else(|| "it ended without being told".into(), |failure| failure.to_string())
}
