//! Commands to a worker, and its answers. Senders wake the worker; it looks into the box once a turn that it was woken in.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

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
}

/// The sending end, one for each worker.
#[derive(Clone, Debug)]
pub struct Mailbox {
    sender: Sender<Command>,
    waker: Waker,
}

impl Mailbox {
    /// A box whose worker `waker` wakes.
    pub fn new(waker: Waker) -> (Mailbox, Receiver<Command>) {
        let (sender, receiver) = channel();
        (Mailbox { sender, waker }, receiver)
    }

    /// Tells the worker. A worker that has ended hears nothing; whoever waits for it learns that by joining it.
    pub fn send(&self, command: Command) {
        if self.sender.send(command).is_ok() {
            self.waker.wake();
        }
    }
}

impl Taker for Mailbox {
    fn take(&self, key: Key, claim: Claim) {
        self.send(Command::Place(key, claim));
    }
}
