//! Wiring: binds the listeners, starts the workers and the control thread, waits for the end, drains and joins.
//!
//! The main thread owns the listening descriptors. It only waits for notices: a signal, or a worker that has ended.

use std::collections::HashMap;
use std::net::TcpListener as StdListener;
use std::num::NonZeroUsize;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use crate::address::Address;
use crate::config::{Bind, Config, Listener, Workers};
use crate::control::admin::socket::{self, AdminSocket};
use crate::control::admin::{Facts, ListenerFacts};
use crate::control::metrics::Sources;
use crate::control::roster::Rosters;
use crate::control::{self, Notice as Told, Readiness};
use crate::engine::listener::{ListenError, ListenOptions, Listener as Listening};
use crate::engine::ring::SetupError;
use crate::engine::socket::Waker;
use crate::engine::{SocketOptions, host};
use crate::errno::Errno;
use crate::limits::{
    CHECK_DESCRIPTORS_SHARE, CHECKS_IN_FLIGHT_MAX, CHECKS_IN_FLIGHT_MIN, DESCRIPTORS_RESERVE, KILL_MAX,
    RESOLVE_START_MAX,
};
use crate::metrics::{Announced, Ledger};
use crate::relay::{Kill, Rules};
use crate::worker::admission::{Admission, Gate};
use crate::worker::clients::{ClientCounts, ClientRules};
use crate::worker::identity::ProxyProtocol;
use crate::worker::mailbox::{Command, Mailbox};
use crate::worker::news::Reporter;
use crate::worker::{ListenerSetup, Setup, Worker, clock};

/// Why the server could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine cannot be had.
    #[error(transparent)]
    Engine(#[from] SetupError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The metrics address cannot be listened on.
    #[error("cannot listen on {address} for metrics: {source}; choose another address with `metrics` or --metrics")]
    Metrics {
        /// Which.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The admin API cannot be served where it must be.
    #[error(transparent)]
    Admin(#[from] socket::Error),
    /// The configuration's backends cannot be a set.
    #[error(transparent)]
    Backends(#[from] crate::balance::SetError),
    /// Something that every process needs was refused.
    #[error("cannot start: {what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A worker has ended by itself.
    #[error("worker {number} has failed: {why}. The other workers were drained; restart ringlb and report this")]
    Worker {
        /// Which.
        number: usize,
        /// What it said.
        why: String,
    },
}

enum Notice {
    Told(Told),
    Started { result: Result<(), SetupError> },
    Ended { number: usize, result: Result<(), String> },
}

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
}

/// What all workers share.
struct Shared<'s> {
    wakers: &'s Arc<[Waker]>,
    /// Each listener's limit, by its name.
    gates: &'s HashMap<String, Arc<Gate>>,
    announcements: &'s Sender<Announced>,
    reporter: &'s Reporter,
}

/// One address of a listener of the configuration.
struct Bound {
    name: String,
    listening: Listening,
}

impl Fleet {
    fn start(config: &Config) -> Result<Fleet, Error> {
        let cpus = host::cpus().map_err(|errno| system("the list of usable CPUs")(errno.into()))?;
        let count = match config.workers() {
            Workers::Auto => cpus.len().max(1),
            Workers::Count(count) => count.get(),
        };
        let listeners = bind_all(config.listeners(), count)?;
        let metrics = bind_metrics(config.metrics())?;
        let admin = AdminSocket::open(config.admin(), config.admin_mode())?;
        let descriptors = descriptors_max();
        let checks_max = checks_max(descriptors);
        let process = Arc::new(Gate::new(connections_max(config, &listeners, count, descriptors)));
        let (sender, notices) = channel();
        let rosters = Arc::new(Rosters::new(config.pools(), clock::now())?);
        let wakers: Result<Vec<Waker>, Errno> = (0..count).map(|_| Waker::new()).collect();
        let wakers: Arc<[Waker]> = wakers.map_err(|errno| system("an eventfd")(errno.into()))?.into();
        let (mailboxes, commands) = wakers.iter().cloned().map(Mailbox::new).unzip();
        let (reporter, hearer) = Reporter::new();
        let (threads, readiness) = (Vec::new(), Readiness::default());
        let mut fleet = Fleet { listeners, mailboxes, threads, notices, readiness, process, admin };
        let (ledger, announcements) = Ledger::new(config.backend_series_max());
        let gates: HashMap<String, Arc<Gate>> =
            config.listeners().iter().map(|listener| (listener.name.clone(), gate(listener))).collect();
        let sources = Sources {
            ledger,
            workers: count,
            process: fleet.process.clone(),
            listeners: config.listeners().iter().map(|l| (l.name.clone(), gates[&l.name].clone())).collect(),
        };
        let control = control::Setup {
            metrics,
            admin: fleet.admin(config, &gates)?,
            hearer,
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
        for setup in fleet.setups(
            config,
            &rosters,
            Shared { wakers: &wakers, gates: &gates, announcements: &announcements, reporter: &reporter },
            (commands, &cpus),
        ) {
            fleet.threads.push(Some(spawn(setup, sender.clone()).map_err(system("a worker thread"))?));
        }
        fleet.await_start()?;
        Ok(fleet)
    }

    /// What the admin API listens on, and what it tells of the process.
    fn admin(
        &self,
        config: &Config,
        gates: &HashMap<String, Arc<Gate>>,
    ) -> Result<Option<(UnixListener, Facts)>, Error> {
        let Some(admin) = &self.admin else { return Ok(None) };
        let listener = admin.listener().map_err(system("the admin socket"))?;
        let addresses = |name: &str| {
            let bound = self.listeners.iter().filter(|bound| bound.name == name);
            bound.map(|bound| bound.listening.address().to_string()).collect()
        };
        let listeners = config.listeners().iter().map(|listener| ListenerFacts {
            name: listener.name.clone(),
            addresses: addresses(&listener.name),
            pool: listener.pool.clone(),
            gate: Arc::clone(&gates[&listener.name]),
        });
        let facts = Facts {
            started: clock::now(),
            origin: config.origin().cloned(),
            process: Arc::clone(&self.process),
            listeners: listeners.collect(),
            routes: self.listeners.iter().map(|bound| bound.name.clone()).collect(),
        };
        tracing::info!(path = %admin.path().display(), "admin API");
        Ok(Some((listener, facts)))
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

    /// What each worker is made of.
    fn setups(
        &self,
        config: &Config,
        rosters: &Rosters,
        shared: Shared<'_>,
        (commands, cpus): (Vec<Receiver<Command>>, &[usize]),
    ) -> Vec<Setup> {
        let Shared { wakers, gates, announcements, reporter } = shared;
        let count = wakers.len();
        let queues = self.listeners.iter().filter_map(|bound| config.listeners().iter().find(|l| l.name == bound.name));
        let crowd = queues.map(|listener| listener.backlog.get() as usize * count).sum();
        let clients: HashMap<&str, ClientRules> =
            config.listeners().iter().map(|l| (l.name.as_str(), clients(l))).collect();
        let mut setups = Vec::new();
        for (number, commands) in commands.into_iter().enumerate() {
            let mut listeners = Vec::new();
            for bound in &self.listeners {
                let Some(listener) = config.listeners().iter().find(|l| l.name == bound.name) else { continue };
                let (Some(roster), Some(settings)) = (rosters.find(&listener.pool), config.pool(&listener.pool)) else {
                    continue;
                };
                let gate = Arc::clone(&gates[&listener.name]);
                listeners.push(ListenerSetup {
                    name: listener.name.clone(),
                    socket: Arc::clone(&bound.listening.sockets()[number]),
                    unix: bound.listening.address().is_unix(),
                    admission: Admission::new(Arc::clone(&self.process), gate, Arc::clone(wakers), crowd),
                    pool: Arc::clone(roster.pool()),
                    rules: rules(listener, settings),
                    options: SocketOptions { keepalive: settings.settings.keepalive },
                    proxy_protocol: ProxyProtocol {
                        accept: listener.accept_proxy_protocol.clone(),
                        send: settings.send_proxy_protocol,
                    },
                    clients: clients[listener.name.as_str()].clone(),
                });
            }
            let waker = wakers[number].clone();
            let cpu = (count == cpus.len()).then(|| cpus[number]);
            let (announcements, reporter) = (announcements.clone(), reporter.clone());
            setups.push(Setup { number, cpu, listeners, waker, commands, announcements, reporter });
        }
        setups
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

/// Runs a worker on a thread of its own, which says when it has started and when it ends.
fn spawn(setup: Setup, sender: Sender<Notice>) -> io::Result<JoinHandle<()>> {
    let number = setup.number;
    thread::Builder::new().name(format!("ringlb-{number}")).spawn(move || {
        let body = || match Worker::new(setup) {
            Ok(worker) => {
                notify(&sender, Notice::Started { result: Ok(()) });
                worker.run().map_err(|errno| format!("its ring is unusable: {errno}"))
            }
            Err(error) => {
                notify(&sender, Notice::Started { result: Err(error) });
                Ok(())
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        let result = result.unwrap_or_else(|panic| Err(format!("it panicked: {}", message(&*panic))));
        notify(&sender, Notice::Ended { number, result });
    })
}

/// The main thread hears until the process ends; a notice that comes after that has nobody to care.
fn notify(sender: &Sender<Notice>, notice: Notice) {
    if sender.send(notice).is_err() {
        tracing::debug!("a notice came after the end");
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

fn failed(number: usize, result: Result<(), String>) -> Error {
    Error::Worker { number, why: result.err().unwrap_or_else(|| "it ended without being told".into()) }
}

fn rules(listener: &Listener, pool: &crate::config::Pool) -> Rules {
    Rules {
        connect_timeout: pool.settings.connect_timeout,
        connect_budget: pool.connect_budget,
        connect_attempts: pool.settings.connect_attempts,
        idle_timeout: listener.idle_timeout,
        dead_peer_timeout: listener.dead_peer_timeout,
        max_session_duration: listener.max_session_duration,
    }
}

fn gate(listener: &Listener) -> Arc<Gate> {
    Arc::new(Gate::new(listener.max_connections.map_or(usize::MAX, |max| max.get() as usize)))
}

fn clients(listener: &Listener) -> ClientRules {
    ClientRules {
        access: (!listener.access.is_open()).then(|| Arc::new(listener.access.clone())),
        counts: listener.max_connections_per_client.map(|max| Arc::new(ClientCounts::new(max))),
    }
}

fn bind_all(listeners: &[Listener], workers: usize) -> Result<Vec<Bound>, ListenError> {
    let mut bound = Vec::new();
    for listener in listeners {
        let options = ListenOptions { workers, backlog: listener.backlog.get(), keepalive: listener.keepalive };
        for bind in &listener.bind {
            bind_one(listener, bind, &options, &mut bound)?;
        }
    }
    Ok(bound)
}

fn bind_one(
    listener: &Listener,
    bind: &Bind,
    options: &ListenOptions,
    bound: &mut Vec<Bound>,
) -> Result<(), ListenError> {
    let mut port = None;
    for (index, mut address) in bind.addresses().into_iter().enumerate() {
        if let (Address::Inet(inet), Some(port)) = (&mut address, port) {
            // All addresses on a free port: the IPv6 socket takes the one that the IPv4 socket has got.
            inet.set_port(port);
        }
        match Listening::bind(&address, options) {
            Ok(listening) => {
                port = listening.address().inet().map(|inet| inet.port());
                bound.push(Bound { name: listener.name.clone(), listening });
            }
            Err(ListenError::NoSuchAddress { .. }) if index > 0 => {
                tracing::info!(listener = listener.name, "this host has no IPv6: listening on IPv4 alone");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn bind_metrics(bind: Option<&Bind>) -> Result<Option<StdListener>, Error> {
    let Some(bind) = bind else { return Ok(None) };
    let addresses: Vec<_> = bind.addresses().iter().filter_map(Address::inet).collect();
    let bound = StdListener::bind(addresses.as_slice()).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = bound.map_err(|source| Error::Metrics { address: bind.to_string(), source })?;
    tracing::info!(%address, "metrics address: /metrics /ready /health");
    Ok(Some(listener))
}

/// How many descriptors this process may open.
fn descriptors_max() -> usize {
    host::raise_descriptor_limit().map_or(1024, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// How many active checks may be under way. The reserve covers the fewest.
fn checks_max(descriptors: usize) -> NonZeroUsize {
    let share = (descriptors / CHECK_DESCRIPTORS_SHARE).clamp(CHECKS_IN_FLIGHT_MIN, CHECKS_IN_FLIGHT_MAX);
    NonZeroUsize::new(share).unwrap_or(NonZeroUsize::MIN)
}

fn interrupted() -> Error {
    Error::System { what: "interrupted", source: io::ErrorKind::Interrupted.into() }
}

/// How many sessions there may be: what the configuration says, as far as descriptors suffice.
fn connections_max(config: &Config, listeners: &[Bound], workers: usize, descriptors: usize) -> usize {
    let checks = checks_max(descriptors).get() - CHECKS_IN_FLIGHT_MIN;
    let used = DESCRIPTORS_RESERVE + checks + (listeners.len() + 2) * workers;
    // At least one: a balancer that never accepts would only seem to run.
    let possible = (descriptors.saturating_sub(used) / 2).max(1);
    match config.max_connections() {
        Some(wanted) if wanted.get() as usize > possible => {
            tracing::warn!(
                wanted,
                possible,
                "max_connections is more than this process may open files for: using {possible}. \
                 A session needs two descriptors; raise LimitNOFILE= or ulimit -Hn"
            );
            possible
        }
        Some(wanted) => wanted.get() as usize,
        None => possible,
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { what, source }
}
