//! The data-plane threads: each owns one engine, its listeners' descriptors and its sessions, and shares nothing with
//! the others but the pools' counters.
//!
//! A turn: wait, handle what has completed, hear commands, fire timers, let acceptors go on. What is asked of the engine
//! in a turn is submitted together by the next wait. The clock is read once a turn.

pub mod admission;
pub mod clients;
pub mod clock;
pub mod identity;
pub mod listener;
pub mod log;
pub mod mailbox;
pub mod news;
pub mod rate;
pub mod session;
#[cfg(test)]
mod simulation;
pub mod sources;
mod splicing;
mod tally;
pub mod timers;

use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use crate::balance::{Chooser, Pool, Taker};
use crate::engine::listener::accept_rest;
use crate::engine::ring::{Ring, SetupError};
use crate::engine::{Completion, Engine, Event, Owner, Role, SocketOptions, host, socket};
use crate::errno::Errno;
use crate::limits::VECTORS_KEPT;
use crate::metrics::{Announced, ListenerCells, Recorder, RingCells};
use crate::relay::{Kill, Rules};
use crate::slots::Key;
use crate::time::Time;

use admission::Admission;
use clients::ClientRules;
use identity::ProxyProtocol;
use listener::{Accepted, Acceptor};
use log::SessionLog;
use mailbox::{Command, Mailbox};
use news::Reporter;
use session::{Ended, Route, Sessions};
use sources::Sources;

const WAKER: Owner = Owner { key: Key::new(0, 0), role: Role(3) };

/// What a worker is made of.
pub struct Setup {
    /// Its number, from 0.
    pub number: usize,
    /// The CPU it stays on, if it is to.
    pub cpu: Option<usize>,
    /// The listeners it serves.
    pub listeners: Vec<ListenerSetup>,
    /// Where its commands arrive; wakes it.
    pub mailbox: Mailbox,
    /// The last ping that it has answered.
    pub pulse: Arc<AtomicU64>,
    /// How many pipes it may splice through.
    pub pipes: usize,
    /// Where it announces what it counts.
    pub announcements: Sender<Announced>,
    /// Whom it tells what happens.
    pub reporter: Reporter,
    /// Its way to the access log, which knows no route yet; `None`: there is no such log.
    pub log: Option<SessionLog>,
}

/// One listener of a worker.
pub struct ListenerSetup {
    /// Its name.
    pub name: String,
    /// The descriptor it accepts on; the main thread holds it too.
    pub socket: Arc<OwnedFd>,
    /// A service manager keeps that socket: who waits in its queue is left there for the next process.
    pub kept: bool,
    /// Whether that is a unix socket.
    pub unix: bool,
    /// What its sessions count against.
    pub admission: Admission,
    /// The pool that serves its clients.
    pub pool: Arc<Pool>,
    /// What its sessions obey.
    pub rules: Rules,
    /// The options of sockets towards backends.
    pub options: SocketOptions,
    /// Where these sockets connect from.
    pub sources: Sources,
    /// The headers that go before the clients' bytes.
    pub proxy_protocol: ProxyProtocol,
    /// Who may be a client, and how often.
    pub clients: ClientRules,
}

/// A data-plane thread's state.
pub struct Worker {
    ring: Ring,
    sessions: Sessions<Ring>,
    acceptors: Vec<Acceptor<OwnedFd>>,
    /// Of each acceptor, whether its accept queue outlives this process.
    kept: Vec<bool>,
    /// What is counted of each acceptor's socket.
    counts: Vec<Arc<ListenerCells>>,
    ring_counts: Arc<RingCells>,
    mailbox: Mailbox,
    pulse: Arc<AtomicU64>,
    now: Time,
}

impl Worker {
    /// Prepares the worker on the thread that will run it.
    ///
    /// # Errors
    /// Where the engine cannot be had; the message says why and what to do.
    pub fn new(setup: Setup) -> Result<Worker, SetupError> {
        if let Some(cpu) = setup.cpu
            && let Err(error) = host::pin_current_thread(cpu)
        {
            tracing::warn!(worker = setup.number, cpu, %error, "cannot stay on its CPU; going on without");
        }
        let mut ring = Ring::new()?;
        ring.limit_pipes(setup.pipes);
        ring.arm_waker(WAKER, setup.mailbox.waker());
        let now = clock::now();
        let mut recorder = Recorder::new(setup.announcements);
        let ring_counts = recorder.ring(setup.number);
        let (mut acceptors, mut counts, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        let mut routes = Vec::new();
        let mut log = setup.log;
        let taker: Arc<dyn Taker> = Arc::new(setup.mailbox.clone());
        for (number, listener) in setup.listeners.into_iter().enumerate() {
            let seed = now.nanos() ^ ((setup.number as u64) << 48) ^ ((number as u64) << 32);
            kept.push(listener.kept);
            counts.push(recorder.listener(&listener.name, listener.pool.name()));
            if let Some(log) = &mut log {
                log.route(&listener.name, listener.pool.name());
            }
            let reporter = setup.reporter.clone();
            acceptors.push(Acceptor::new(number as u16, listener.name, listener.socket, listener.admission, reporter));
            routes.push(Route {
                rules: listener.rules,
                unix_clients: listener.unix,
                chooser: Chooser::new(listener.pool, seed).with_taker(taker.clone()),
                options: listener.options,
                sources: listener.sources,
                proxy_protocol: listener.proxy_protocol,
                clients: listener.clients,
                reporter: setup.reporter.clone(),
            });
        }
        let mut sessions = Sessions::new(routes, recorder, now);
        if let Some(log) = log {
            sessions.log_to(log);
        }
        let (mailbox, pulse) = (setup.mailbox, setup.pulse);
        Ok(Worker { ring, sessions, acceptors, kept, counts, ring_counts, mailbox, pulse, now })
    }

    /// Serves until it was drained.
    ///
    /// # Errors
    /// What makes the engine unusable. Then, and after a panic, what is left is to be [abandoned](Worker::abandon).
    pub fn run(&mut self) -> Result<(), Errno> {
        let mut completions = Vec::new();
        // Commands may have been left by a worker that has failed, who had taken their wake-up.
        let mut stopping = self.hear();
        self.turn_acceptors();
        while !(stopping && self.sessions.is_empty() && self.acceptors.iter().all(Acceptor::is_stopped)) {
            let timeout = self.next_deadline().map(|at| at.since(self.now));
            self.ring.wait(timeout, &mut completions)?;
            self.now = clock::now();
            let mut woken = false;
            for completion in completions.drain(..) {
                woken |= self.handle(completion);
            }
            completions.shrink_to(2 * VECTORS_KEPT);
            if woken {
                stopping |= self.hear();
            }
            self.sessions.tick(&mut self.ring, self.now);
            self.let_go();
            self.turn_acceptors();
            self.ring_counts.set(&self.ring.statistics());
        }
        // The last of an accept queue may have been closed at once.
        self.let_go();
        Ok(())
    }

    /// Lets go of everything after a failure: closes the ring, resets the connections, and gives every place back that
    /// another worker or this one's successor counts with.
    pub fn abandon(self) {
        let Worker { ring, mut sessions, acceptors, counts, mailbox, .. } = self;
        let rested = catch_unwind(AssertUnwindSafe(|| drop(ring)));
        if rested.is_err() {
            tracing::error!("the ring of a worker that has failed panicked again; its buffers are not freed");
        }
        let now = clock::now();
        sessions.abandon(socket::abort, now);
        mailbox.forget_places();
        for ended in sessions.drain_ended() {
            let route = usize::from(ended.route);
            counts[route].close(ended.reason, now - ended.started);
            acceptors[route].admission().leave();
            log_end(&ended, now);
        }
        counts.iter().for_each(|counts| counts.pause(None));
    }

    #[cfg(debug_assertions)]
    fn fail(&mut self, fault: mailbox::Fault) {
        match fault {
            mailbox::Fault::Panic => panic!("a fault was planted here"),
            mailbox::Fault::Ring => self.ring.fail(),
            mailbox::Fault::Stall(pause) => std::thread::sleep(pause),
        }
    }

    /// Handles one completion, and says whether it was a wake-up.
    fn handle(&mut self, completion: Completion<OwnedFd>) -> bool {
        match completion.owner.role {
            listener::ROLE => {
                let number = completion.owner.key.index() as u16;
                let accepted = self.acceptors[usize::from(number)].handle(completion.event, self.now);
                if let Accepted::Client(socket) = accepted {
                    self.admit(number, socket);
                }
                false
            }
            role if role == WAKER.role => {
                debug_assert!(matches!(completion.event, Event::Woken));
                true
            }
            _ => {
                self.sessions.handle(&mut self.ring, completion, self.now);
                false
            }
        }
    }

    fn admit(&mut self, number: u16, socket: OwnedFd) {
        self.counts[usize::from(number)].accepted.add(1);
        self.acceptors[usize::from(number)].admission().enter(self.now);
        if let Err(socket) = self.sessions.admit(&mut self.ring, socket, number, self.now) {
            self.acceptors[usize::from(number)].admission().leave();
            self.counts[usize::from(number)].no_slot.add(1);
            tracing::error!("this worker has no slot left for a client: closing it. Lower max_connections");
            drop(socket);
        }
    }

    /// Executes the commands that have come, and says whether one of them was to drain.
    fn hear(&mut self) -> bool {
        let mut drain = false;
        while let Some(command) = self.mailbox.next() {
            match command {
                Command::Drain => {
                    drain = true;
                    self.acceptors.iter_mut().for_each(Acceptor::stop);
                }
                Command::Kill(kill) => self.sessions.kill_all(&mut self.ring, kill, self.now),
                Command::Refresh => self.sessions.refresh(),
                Command::Place(key, claim) => self.sessions.place(&mut self.ring, key, claim, self.now),
                Command::CloseBackends(backends, kill) => {
                    self.sessions.kill_backends(&mut self.ring, &backends, kill, self.now);
                }
                Command::Census(question, reply) => {
                    let page = self.sessions.census(&mut self.ring, &question, self.mailbox.life(), self.now);
                    reply.send(page).unwrap_or_else(|_| tracing::debug!("whoever asked has gone"));
                }
                Command::KillOne(key, reply) => {
                    let killed = self.sessions.kill_one(&mut self.ring, key, Kill::Operator, self.now);
                    reply.send(killed).unwrap_or_else(|_| tracing::debug!("whoever asked has gone"));
                }
                Command::Ping(number) => self.pulse.store(number, Ordering::Release),
                #[cfg(debug_assertions)]
                Command::Fault(fault) => self.fail(fault),
            }
        }
        drain
    }

    /// Counts out and logs the sessions that have ended.
    fn let_go(&mut self) {
        for ended in self.sessions.drain_ended() {
            self.counts[usize::from(ended.route)].close(ended.reason, self.now - ended.started);
            self.acceptors[usize::from(ended.route)].admission().leave();
            log_end(&ended, self.now);
        }
    }

    fn turn_acceptors(&mut self) {
        for number in 0..self.acceptors.len() {
            self.acceptors[number].turn(&mut self.ring, self.now);
            self.counts[number].pause(self.acceptors[number].pause());
            if let Some(socket) = self.acceptors[number].take_stopped()
                && !self.kept[number]
            {
                // Whoever waits in the accept queue would be reset when the last descriptor is closed.
                for client in accept_rest(&socket) {
                    self.admit(number as u16, client);
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        let acceptors = self.acceptors.iter().filter_map(Acceptor::next_deadline);
        acceptors.chain(self.sessions.next_deadline()).min()
    }
}

fn log_end(ended: &Ended, now: Time) {
    tracing::debug!(
        reason = ended.reason.label(),
        client = ended.client.map(tracing::field::display),
        errno = ended.reason.errno().map(tracing::field::display),
        from_client = ended.received[0],
        from_backend = ended.received[1],
        seconds = (now - ended.started).as_secs_f64(),
        "session ended"
    );
}
