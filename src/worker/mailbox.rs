//! Commands to a worker, and its answers. Senders wake the worker; it looks into the box once a turn that it was woken in.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot::Sender as Reply;

use crate::address::Address;
use crate::balance::{BackendId, Claim, Taker};
use crate::engine::socket::Waker;
use crate::relay::Kill;
use crate::slots::Key;
use crate::worker::doors::ListenerList;

/// What a worker can be told.
#[derive(Debug)]
pub enum Command {
    /// Take no new clients but those in the accept queues, and end when the last session has.
    Drain,
    /// End all sessions now.
    Kill(Kill),
    /// The pools have changed: let go of what they were.
    Refresh,
    /// Serve these listeners, and no others: what is not among them drains. Answered once nobody is accepted by the others.
    Listeners(ListenerList, Reply<()>),
    /// A place for the client that waits under this key.
    Place(Key, Claim),
    /// End the sessions of these backends, each named by its pool's name and its identity there.
    CloseBackends(Arc<HashSet<(Arc<str>, BackendId)>>, Kill),
    /// Say who is there; the answer covers a bounded part of the sessions.
    Census(Question, Reply<Page>),
    /// End this session, and say whether it was there. To be sent [to one life](Mailbox::send_to) of the worker.
    KillOne(Key, Reply<bool>),
    /// Show that you turn: answer with this number.
    Ping(u64),
    /// Fail, for a test.
    #[cfg(debug_assertions)]
    Fault(Fault),
}

/// Which sessions somebody asks about.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Those served by this pool.
    pub pool: Option<String>,
    /// Those with this backend.
    pub backend: Option<String>,
    /// Those that are as old as this.
    pub older: Duration,
    /// From this slot on.
    pub from: u32,
    /// So many at most.
    pub limit: usize,
}

/// An answer: some of the sessions.
#[derive(Debug)]
pub struct Page {
    /// Those asked about.
    pub found: Vec<Found>,
    /// From which slot on to ask for more; `None`: that was all.
    pub next: Option<u32>,
    /// Which [life](Mailbox::life) of the worker the keys belong to.
    pub life: u32,
}

/// What a worker tells of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name within the worker.
    pub key: Key,
    /// The name of its listener.
    pub listener: Arc<str>,
    /// The pool that serves it.
    pub pool: String,
    /// Its client's address; nothing where a unix socket has none.
    pub client: Option<Address>,
    /// The backend that it is connected or being connected with.
    pub backend: Option<String>,
    /// Whether it was connected with one.
    pub connected: bool,
    /// Since it was accepted.
    pub age: Duration,
    /// Bytes received from the client and from the backend.
    pub received: [u64; 2],
}

/// The sending end, one for each worker. It outlives the worker: one that takes its place reads on where that has stopped.
#[derive(Clone, Debug)]
pub struct Mailbox {
    commands: Arc<Mutex<VecDeque<Command>>>,
    /// How many workers have failed behind it; changed under the lock of the commands.
    life: Arc<AtomicU32>,
    waker: Waker,
}

impl Mailbox {
    /// A box whose worker `waker` wakes.
    pub fn new(waker: Waker) -> Mailbox {
        Mailbox { commands: Arc::default(), life: Arc::default(), waker }
    }

    /// Tells the worker, or whoever takes its place. Whoever waits for a worker's end learns of it by joining it.
    pub fn send(&self, command: Command) {
        self.commands().push_back(command);
        self.waker.wake();
    }

    /// Tells the worker, unless another has taken its place since it was in this life: keys mean something else to that one.
    /// Says whether it is told.
    pub fn send_to(&self, life: u32, command: Command) -> bool {
        let mut commands = self.commands();
        if self.life() != life {
            return false;
        }
        commands.push_back(command);
        drop(commands);
        self.waker.wake();
        true
    }

    /// How many workers have failed here: tells the keys of one from those of its successor.
    pub fn life(&self) -> u32 {
        self.life.load(Ordering::Acquire)
    }

    /// The worker's end: the oldest command that was not taken yet.
    pub fn next(&self) -> Option<Command> {
        self.commands().pop_front()
    }

    /// Ends a life: gives back what was meant for single clients of a worker that has failed. Whoever takes its part knows
    /// other clients by their keys.
    pub fn forget_places(&self) {
        // Dropped without the lock: a place that is given back may be sent here again.
        let mut commands = self.commands();
        self.life.fetch_add(1, Ordering::Release);
        let (places, others): (VecDeque<_>, _) =
            commands.drain(..).partition(|command| matches!(command, Command::Place(..) | Command::KillOne(..)));
        *commands = others;
        drop(commands);
        drop(places);
    }

    /// Wakes the worker.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }

    fn commands(&self) -> MutexGuard<'_, VecDeque<Command>> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taker for Mailbox {
    fn take(&self, key: Key, claim: Claim) {
        self.send(Command::Place(key, claim));
    }
}

/// What a worker of a debug build can be made to do wrong, so that tests can watch what becomes of it.
#[cfg(debug_assertions)]
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Panic while a command is heard.
    Panic,
    /// Lose the ring: the kernel refuses whatever is submitted.
    Ring,
    /// Do nothing for so long.
    Stall(std::time::Duration),
}
