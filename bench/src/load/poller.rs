//! Readiness: one epoll instance, whose events name the end of a connection they belong to.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData};
use rustix::event::{Timespec, epoll::Event};

pub use rustix::event::epoll::EventFlags;

/// Events taken from the kernel at a time: enough that a busy loop pays for few waits, few enough that the
/// answers at the end of the batch are not old when their turn comes.
const BATCH: usize = 256;

/// Bits of an event's data that hold the index; the rest say what kind of socket it is.
const INDEX_BITS: u32 = 32;

/// The end of a connection an event belongs to, by its place in the owner's table.
///
/// A place may be given to a new socket while an event for the old one still waits in the same batch, so every
/// handler must bear an event that is not for it: it tries, gets `WOULDBLOCK`, and goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A backend's listening socket.
    Listener(usize),
    /// The client's end of a connection.
    Client(usize),
    /// The backend's end of a connection.
    Served(usize),
}

impl Token {
    fn pack(self) -> EventData {
        let (kind, index) = match self {
            Token::Listener(index) => (0_u64, index),
            Token::Client(index) => (1, index),
            Token::Served(index) => (2, index),
        };
        EventData::new_u64(kind << INDEX_BITS | index as u64)
    }

    fn unpack(data: u64) -> Token {
        let index = (data & ((1 << INDEX_BITS) - 1)) as usize;
        match data >> INDEX_BITS {
            0 => Token::Listener(index),
            1 => Token::Client(index),
            _ => Token::Served(index),
        }
    }
}

/// One epoll instance and the events of its last wait.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poller {
    /// A poller that watches nothing yet.
    ///
    /// # Errors
    /// The process is out of descriptors or memory.
    pub fn new() -> io::Result<Poller> {
        Ok(Poller { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(BATCH) })
    }

    /// Watches `socket` until it is closed.
    ///
    /// # Errors
    /// The kernel's; a socket can be added only once.
    pub fn add(&self, socket: impl AsFd, token: Token, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, token.pack(), interest)?)
    }

    /// Waits for at least one event, at most for `timeout` (whole milliseconds), and returns how many came.
    ///
    /// # Errors
    /// The kernel's; an interrupted wait is no error and brings no events.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<usize> {
        self.events.clear();
        let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(count) => Ok(count),
            Err(rustix::io::Errno::INTR) => Ok(0),
            Err(errno) => Err(errno.into()),
        }
    }

    /// One event of the last wait.
    pub fn event(&self, at: usize) -> (Token, EventFlags) {
        let event = self.events[at];
        (Token::unpack(event.data.u64()), event.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        for token in [Token::Listener(0), Token::Client(7), Token::Served(u32::MAX as usize)] {
            assert_eq!(Token::unpack(token.pack().u64()), token);
        }
    }
}
