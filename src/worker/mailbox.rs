//! Commands to a worker, and its answers. Senders wake the worker; it looks into the box once a turn that it was woken in.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::balance::{BackendId, Claim, Taker};
use crate::engine::socket::Waker;
use crate::relay::Kill;
use crate::slots::Key;

/// What a worker can be told.
#[derive(Debug)]
pub enum Command {
    /// Take no new clients but those in the accept queues, and end when the last session has.
    Drain,
    /// End all sessions now.
    Kill(Kill),
    /// The pools have changed: let go of what they were.
    Refresh,
    /// A place for the client that waits under this key.
    Place(Key, Claim),
    /// End the sessions of these backends, each named by its pool's name and its identity there.
    CloseBackends(Arc<HashSet<(Arc<str>, BackendId)>>, Kill),
    /// Show that you turn: answer with this number.
    Ping(u64),
    /// Fail, for a test.
    #[cfg(debug_assertions)]
    Fault(Fault),
}

/// The sending end, one for each worker. It outlives the worker: one that takes its place reads on where that has stopped.
#[derive(Clone, Debug)]
pub struct Mailbox {
    commands: Arc<Mutex<VecDeque<Command>>>,
    waker: Waker,
}

impl Mailbox {
    /// A box whose worker `waker` wakes.
    pub fn new(waker: Waker) -> Mailbox {
        Mailbox { commands: Arc::default(), waker }
    }

    /// Tells the worker, or whoever takes its place. Whoever waits for a worker's end learns of it by joining it.
    pub fn send(&self, command: Command) {
        self.commands().push_back(command);
        self.waker.wake();
    }

    /// The worker's end: the oldest command that was not taken yet.
    pub fn next(&self) -> Option<Command> {
        self.commands().pop_front()
    }

    /// Gives back the places for clients of a worker that has failed: whoever takes its part knows other clients by their keys.
    pub fn forget_places(&self) {
        // Dropped without the lock: a place that is given back may be sent here again.
        let mut commands = self.commands();
        let (places, others): (VecDeque<_>, _) =
            commands.drain(..).partition(|command| matches!(command, Command::Place(..)));
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
