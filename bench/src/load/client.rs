//! The client's end of one request/answer connection.

use std::os::fd::OwnedFd;

use super::pattern::Pattern;
use super::poller::EventFlags;
use super::socket::{Moved, receive, transmit};
use super::{Fault, LoadError};

/// What both ends of an exchange share: the bytes and the place to receive into.
#[derive(Debug)]
pub struct Kit {
    /// Length of a request and of its answer.
    pub size: usize,
    /// Whether every byte is compared.
    pub check: bool,
    /// The bytes that are sent.
    pub pattern: Pattern,
    /// Received into, then forgotten.
    pub scratch: Vec<u8>,
}

/// How far an event has brought a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The answer is not complete.
    Waiting,
    /// The answer is complete. `ended` says that the stream is over as well.
    Answered {
        /// The peer has closed its side.
        ended: bool,
    },
    /// The stream ended with nothing outstanding.
    Ended,
    /// The operation has failed and the connection is of no use any more.
    Failed(Fault),
}

/// One client: at most one connection and one operation at a time.
#[derive(Debug)]
pub struct Client {
    /// Nothing between two connections.
    pub socket: Option<OwnedFd>,
    /// When the operation was due, in the run's nanoseconds.
    pub due_ns: u64,
    /// At least one operation has succeeded.
    pub opened: bool,
    sent: usize,
    received: usize,
    number: usize,
    operations: u64,
}

impl Client {
    /// A client without a connection, that has nothing to do.
    pub fn new(number: usize) -> Client {
        Client { socket: None, due_ns: 0, opened: false, sent: usize::MAX, received: usize::MAX, number, operations: 0 }
    }

    /// Whether it has a connection and nothing outstanding on it.
    pub fn rests(&self, kit: &Kit) -> bool {
        self.socket.is_some() && self.received >= kit.size
    }

    /// Begins the next operation; [`Client::push`] sends its request.
    pub fn begin(&mut self, due_ns: u64) {
        self.due_ns = due_ns;
        self.sent = 0;
        self.received = 0;
        self.operations += 1;
    }

    /// Sends what is left of the request, as far as the kernel takes it. True: all of it is sent.
    pub fn push(&mut self, kit: &Kit) -> Result<bool, Fault> {
        let Some(socket) = &self.socket else { return Ok(false) };
        while self.sent < kit.size {
            let message = kit.pattern.piece(self.offset(), kit.size);
            match transmit(socket, &message[self.sent..]) {
                Moved::Bytes(count) => self.sent += count,
                Moved::Later | Moved::End => return Ok(false),
                Moved::Broken(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }

    /// Takes up an event. `to_end`: after the answer the stream's end is looked for at once.
    pub fn ready(&mut self, flags: EventFlags, kit: &mut Kit, to_end: bool) -> Result<Step, LoadError> {
        if self.sent < kit.size
            && let Err(fault) = self.push(kit)
        {
            return Ok(Step::Failed(fault));
        }
        let hung_up = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        if !hung_up && !flags.contains(EventFlags::IN) {
            return Ok(Step::Waiting);
        }
        self.pull(kit, hung_up || to_end)
    }

    /// Receives. Edge-triggered: until the kernel has nothing left, which a short read tells, except for the end
    /// of the stream, which has to be read to be seen.
    fn pull(&mut self, kit: &mut Kit, to_end: bool) -> Result<Step, LoadError> {
        let Some(socket) = &self.socket else { return Ok(Step::Waiting) };
        let mut answered = false;
        loop {
            let count = match receive(socket, &mut kit.scratch, false) {
                Moved::Bytes(count) => count,
                Moved::Later => break,
                Moved::End if answered => return Ok(Step::Answered { ended: true }),
                Moved::End if self.received >= kit.size => return Ok(Step::Ended),
                Moved::End => return Ok(Step::Failed(Fault::EndedEarly)),
                Moved::Broken(errno) => return Ok(Step::Failed(errno.into())),
            };
            if self.received >= kit.size || count > kit.size - self.received {
                return Ok(Step::Failed(Fault::Excess));
            }
            if kit.check && kit.pattern.piece(self.offset(), kit.size)[self.received..][..count] != kit.scratch[..count]
            {
                let position = self.received as u64;
                return Err(LoadError::Corrupt { connection: self.number, position, length: count });
            }
            self.received += count;
            answered = self.received == kit.size;
            if count < kit.scratch.len() && !to_end {
                break;
            }
        }
        Ok(if answered { Step::Answered { ended: false } } else { Step::Waiting })
    }

    /// Where in the pattern this operation's message begins: different for neighbours in number and in time.
    fn offset(&self) -> u64 {
        self.number as u64 * 7919 + self.operations * 131
    }
}
