//! The data-plane threads: each owns one engine, its listeners' descriptors and its sessions, and shares nothing with
//! the others but the pools' counters.
//!
//! A turn: wait, handle what has completed, hear commands, fire timers, splice bulk, let acceptors go on. What is asked of the
//! engine in a turn is submitted together by the next wait, or before bulk is spliced. The clock is read once a turn.

pub mod admission;
pub mod clients;
pub mod clock;
pub mod doors;
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

use tokio::sync::oneshot::Sender as Reply;

use crate::balance::{Chooser, Taker};
use crate::engine::listener::accept_rest;
use crate::engine::ring::{Ring, SetupError};
use crate::engine::{Completion, Engine, Event, Owner, Role, host, socket};
use crate::errno::Errno;
use crate::limits::COMPLETIONS_KEPT;
use crate::metrics::{Announced, Recorder, RingCells};
use crate::relay::Kill;
use crate::slots::Key;
use crate::time::Time;

use doors::{Door, Doors, ListenerList, ListenerSetup};
use listener::{Accepted, Acceptor};
use log::SessionLog;
use mailbox::{Command, Mailbox};
use news::Reporter;
use session::{Ended, Route, Sessions};

const WAKER: Owner = Owner { key: Key::new(0, 0), role: Role(3) };

/// What a worker is made of.
pub struct Setup {
    /// Its number, from 0.
    pub number: usize,
    /// The CPU it stays on, if it is to.
    pub cpu: Option<usize>,
    /// The listeners it serves.
    pub listeners: ListenerList,
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

/// A data-plane thread's state.
pub struct Worker {
    ring: Ring,
    sessions: Sessions<Ring>,
    doors: Doors,
    /// Who is to be told when the doors that close are closed.
    changes: Vec<Reply<()>>,
    /// The number of the list of listeners that it serves.
    list: u64,
    /// Told to drain: no door opens any more.
    draining: bool,
    number: usize,
    reporter: Reporter,
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
        let recorder = Recorder::new(setup.announcements);
        let ring_counts = recorder.ring(setup.number);
        let mut sessions = Sessions::new(recorder, now);
        if let Some(log) = setup.log {
            sessions.log_to(log);
        }
        let Setup { number, mailbox, pulse, reporter, .. } = setup;
        let doors = Doors::default();
        let mut worker = Worker {
            ring,
            sessions,
            doors,
            changes: Vec::new(),
            list: 0,
            draining: false,
            number,
            reporter,
            ring_counts,
            mailbox,
            pulse,
            now,
        };
        worker.serve(setup.listeners);
        Ok(worker)
    }

    /// Serves until it was drained.
    ///
    /// # Errors
    /// What makes the engine unusable. Then, and after a panic, what is left is to be [abandoned](Worker::abandon).
    pub fn run(&mut self) -> Result<(), Errno> {
        let mut completions = Vec::new();
        // Commands may have been left by a worker that has failed, who had taken their wake-up.
        self.hear();
        self.turn_doors();
        while !(self.draining && self.sessions.is_empty() && self.doors.are_closed()) {
            let timeout = self.next_deadline().map(|at| at.since(self.now));
            self.ring.wait(timeout, &mut completions)?;
            self.now = clock::now();
            let mut woken = false;
            for completion in completions.drain(..) {
                woken |= self.handle(completion);
            }
            completions.shrink_to(COMPLETIONS_KEPT);
            if woken {
                self.hear();
            }
            self.sessions.tick(&mut self.ring, self.now);
            self.let_go();
            self.turn_doors();
            self.ring_counts.set(&self.ring.statistics());
        }
        // The last of an accept queue may have been closed at once.
        self.let_go();
        Ok(())
    }

    /// Lets go of everything after a failure: closes the ring, resets the connections, and gives every place back that
    /// another worker or this one's successor counts with.
    pub fn abandon(self) {
        let Worker { ring, mut sessions, mut doors, mailbox, .. } = self;
        let rested = catch_unwind(AssertUnwindSafe(|| drop(ring)));
        if rested.is_err() {
            tracing::error!("the ring of a worker that has failed panicked again; its buffers are not freed");
        }
        let now = clock::now();
        sessions.abandon(socket::abort, now);
        mailbox.forget_places();
        for ended in sessions.drain_ended() {
            count_out(&mut doors, &ended, now);
        }
        doors.iter_mut().for_each(|(_, door)| door.counts.pause(None));
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
                let Some(door) = self.doors.door(number) else { unreachable!("a door outlives its accept") };
                if let Accepted::Client(socket) = door.acceptor.handle(completion.event, self.now) {
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
        let Some(door) = self.doors.door(number) else { unreachable!("a door outlives its accept") };
        door.counts.accepted.add(1);
        door.acceptor.admission().enter(self.now);
        if let Err(socket) = self.sessions.admit(&mut self.ring, socket, number, self.now) {
            door.acceptor.admission().leave();
            door.counts.no_slot.add(1);
            tracing::error!("this worker has no slot left for a client: closing it. Lower max_connections");
            drop(socket);
        }
    }

    /// Serves these listeners, and no others.
    fn serve(&mut self, list: ListenerList) {
        if self.draining {
            return;
        }
        for gone in list.gone {
            let id = gone.id;
            if !self.doors.knows(id) {
                self.open(gone);
                self.doors.close_one(id);
            }
        }
        if list.number < self.list {
            return;
        }
        self.list = list.number;
        self.doors.close_others(&list.listeners);
        for listener in list.listeners {
            if !self.doors.knows(listener.id) {
                self.open(listener);
            }
        }
    }

    fn open(&mut self, listener: ListenerSetup) {
        let Some(number) = self.doors.vacant() else {
            tracing::error!(
                listener = listener.name,
                "too many listeners wait for their last session: not opened. Restart"
            );
            return;
        };
        let seed = self.now.nanos() ^ ((self.number as u64) << 48) ^ ((listener.id & 0xffff) << 32);
        let taker: Arc<dyn Taker> = Arc::new(self.mailbox.clone());
        let route = Route {
            listener: listener.name.as_str().into(),
            rules: listener.rules,
            unix_clients: listener.unix,
            chooser: Chooser::new(listener.pool, seed).with_taker(taker),
            options: listener.options,
            sources: listener.sources,
            proxy_protocol: listener.proxy_protocol,
            clients: listener.clients,
            reporter: self.reporter.clone(),
        };
        let counts = self.sessions.route(number, route);
        let reporter = self.reporter.clone();
        let acceptor = Acceptor::new(number, listener.name, listener.socket, listener.admission, reporter);
        self.doors.insert(number, Door::new(listener.id, acceptor, counts, listener.kept));
    }

    /// Executes the commands that have come.
    fn hear(&mut self) {
        while let Some(command) = self.mailbox.next() {
            match command {
                Command::Drain => {
                    self.draining = true;
                    self.doors.close();
                }
                Command::Kill(kill) => self.sessions.kill_all(&mut self.ring, kill, self.now),
                Command::Refresh => self.sessions.refresh(),
                Command::Listeners(list, reply) => {
                    self.serve(list);
                    self.changes.push(reply);
                }
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
    }

    /// Counts out and logs the sessions that have ended.
    fn let_go(&mut self) {
        for ended in self.sessions.drain_ended() {
            count_out(&mut self.doors, &ended, self.now);
        }
    }

    fn turn_doors(&mut self) {
        let mut closed = false;
        for number in 0..self.doors.end() {
            let Some(door) = self.doors.door(number) else { continue };
            door.acceptor.turn(&mut self.ring, self.now);
            door.counts.pause(door.acceptor.pause());
            let queue = door.queue(self.now);
            closed |= door.is_closed();
            // Whoever waits in the accept queue would be reset when the last descriptor is closed.
            for client in queue.iter().flat_map(|socket| accept_rest(socket)) {
                self.admit(number, client);
            }
        }
        if closed {
            self.doors.forget().for_each(|number| self.sessions.end_route(number));
        }
        if !self.changes.is_empty() && !self.doors.are_closing() {
            for reply in self.changes.drain(..) {
                reply.send(()).unwrap_or_else(|()| tracing::debug!("whoever asked has gone"));
            }
        }
    }

    fn next_deadline(&self) -> Option<Time> {
        self.doors.next_deadline().into_iter().chain(self.sessions.next_deadline()).min()
    }
}

fn count_out(doors: &mut Doors, ended: &Ended, now: Time) {
    if let Some(door) = doors.door(ended.route) {
        door.counts.close(ended.reason, now - ended.started);
        door.acceptor.admission().leave();
    }
    log_end(ended, now);
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

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpStream;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::address::Address;
    use crate::balance::Pool;
    use crate::balance::settings::PoolSettings;
    use crate::engine::SocketOptions;
    use crate::engine::listener::{ListenOptions, Listener};
    use crate::engine::socket::Waker;
    use crate::relay::{Rules, WhenNone};
    use crate::worker::admission::{Admission, Gate};

    /// Where nobody serves, a client sees that it was accepted by being closed.
    fn listener(id: u64, at: &Listener) -> ListenerSetup {
        let gate = || Arc::new(Gate::new(10));
        ListenerSetup {
            id,
            name: "front".into(),
            socket: Arc::clone(&at.sockets()[0]),
            kept: false,
            unix: false,
            admission: Admission::new(gate(), gate(), Arc::default(), Arc::new(1.into())),
            pool: Pool::new(PoolSettings::new("back"), Vec::new(), Time::ZERO).unwrap(),
            rules: Rules {
                connect_timeout: Duration::from_secs(1),
                connect_budget: Duration::from_secs(1),
                connect_attempts: 1,
                idle_timeout: None,
                dead_peer_timeout: None,
                when_none: WhenNone::Close,
                queue_timeout: Duration::from_secs(1),
                max_session_duration: None,
            },
            options: SocketOptions { keepalive: None, source: None },
            sources: sources::Sources::default(),
            proxy_protocol: identity::ProxyProtocol::default(),
            clients: clients::ClientRules::default(),
        }
    }

    /// Lists that a worker which has failed left unheard say nothing to its successor, who was made of the last of them, but
    /// that the queues of what is gone are to be emptied.
    #[test]
    fn lists_of_before_a_new_start_do_no_harm() {
        let any = Address::Inet("127.0.0.1:0".parse().unwrap());
        let options = ListenOptions { workers: 1, backlog: 8, keepalive: None };
        let (kept, gone) = (Listener::bind(&any, &options).unwrap(), Listener::bind(&any, &options).unwrap());
        let mut waiting = TcpStream::connect(gone.address().inet().unwrap()).unwrap();
        let mailbox = Mailbox::new(Waker::new().unwrap());
        let list = |number, id: u64, out: Vec<ListenerSetup>| ListenerList {
            number,
            listeners: vec![listener(id, &kept)],
            gone: out,
        };
        let (replies, answers): (Vec<_>, Vec<_>) = (0..2).map(|_| tokio::sync::oneshot::channel()).unzip();
        for ((number, id), reply) in [(2, 2), (3, 3)].into_iter().zip(replies) {
            let out = if number == 2 { vec![listener(9, &gone)] } else { Vec::new() };
            mailbox.send(Command::Listeners(list(number, id, out), reply));
        }
        let (announcements, _blocks) = mpsc::channel();
        let setup = Setup {
            number: 0,
            cpu: None,
            listeners: list(3, 3, Vec::new()),
            mailbox: mailbox.clone(),
            pulse: Arc::default(),
            pipes: 0,
            announcements,
            reporter: Reporter::default(),
            log: None,
        };
        let worker = std::thread::spawn(move || Worker::new(setup).unwrap().run());
        for answer in answers {
            answer.blocking_recv().expect("it has settled");
        }
        let mut client = TcpStream::connect(kept.address().inet().unwrap()).unwrap();
        for stream in [&mut client, &mut waiting] {
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            assert_eq!(stream.read(&mut [0]).expect("it was accepted, and closed in order"), 0);
        }
        mailbox.send(Command::Drain);
        worker.join().unwrap().unwrap();
    }
}
