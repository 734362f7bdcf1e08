//! Bulk: each flow moves as many bytes as the proxy takes, one way or both.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::pattern::{PERIOD, Pattern};
use super::poller::{EventFlags, Token};
use super::served::Table;
use super::socket::{Moved, accept, dial, receive, transmit};
use super::{DRAIN_MAX, Fault, Gauge, LoadError, Meter, Outcome, Record, Site, Window};
use crate::interrupt;

/// Sent at a time. Level-triggered, so that flows take turns.
const SEND_BYTES: usize = 256 * 1024;

/// Received at a time.
const RECEIVE_BYTES: usize = 1024 * 1024;

/// How long it may take until every flow has moved its first byte.
const OPEN_MAX: Duration = Duration::from_secs(10);

const TURN_MAX: Duration = Duration::from_millis(50);

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to backend.
    Up,
    /// Backend to client.
    Down,
    /// Both at once.
    Both,
}

/// One kind of bulk traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkPlan {
    /// Flows, a connection each.
    pub flows: usize,
    /// Which way.
    pub direction: Direction,
    /// Copy and compare what is received; without it the receivers let the kernel throw it away, because their
    /// copying would only take time from the proxy.
    pub check: bool,
}

/// Runs `plan` against `targets` and counts the bytes received in the window's second part.
///
/// # Errors
/// See [`LoadError`]. A flow that breaks ends the run.
pub fn bulk(
    site: &mut Site,
    plan: &BulkPlan,
    targets: &[SocketAddr],
    window: Window,
    meter: &mut dyn Meter,
) -> Result<Outcome, LoadError> {
    let mut run = Bulk::new(site, plan);
    run.open(targets)?;
    run.until(Instant::now() + window.warmup)?;
    let received = run.received;
    let from = Gauge::read(meter)?;
    run.until(Instant::now() + window.measure)?;
    let to = Gauge::read(meter)?;
    let mut record = Record::new();
    record.bytes = run.received - received;
    let leftover = run.close()?;
    Ok(record.finish(&from, &to, 0, leftover))
}

/// One end of a flow.
#[derive(Debug)]
struct End {
    socket: OwnedFd,
    sends: bool,
    receives: bool,
    sent: u64,
    received: u64,
}

struct Bulk<'a> {
    site: &'a mut Site,
    plan: &'a BulkPlan,
    clients: Vec<End>,
    served: Table<End>,
    pattern: Pattern,
    buffer: Vec<u8>,
    /// Bytes received by all ends.
    received: u64,
    /// Ends that have received something.
    begun: usize,
    /// The clients have left, and broken connections are to be expected.
    closing: bool,
}

impl<'a> Bulk<'a> {
    fn new(site: &'a mut Site, plan: &'a BulkPlan) -> Bulk<'a> {
        Bulk {
            site,
            plan,
            clients: Vec::new(),
            served: Table::new(),
            pattern: Pattern::new(RECEIVE_BYTES + PERIOD),
            buffer: vec![0; RECEIVE_BYTES],
            received: 0,
            begun: 0,
            closing: false,
        }
    }

    fn open(&mut self, targets: &[SocketAddr]) -> Result<(), LoadError> {
        let sends = self.plan.direction != Direction::Down;
        let receives = self.plan.direction != Direction::Up;
        for at in 0..self.plan.flows {
            let socket = dial(targets[at % targets.len()])?;
            self.site.poller.add(&socket, Token::Client(at), interest(sends))?;
            self.clients.push(End { socket, sends, receives, sent: 0, received: 0 });
        }
        let wanted = self.plan.flows * if self.plan.direction == Direction::Both { 2 } else { 1 };
        let deadline = Instant::now() + OPEN_MAX;
        while self.begun < wanted {
            self.turn(TURN_MAX)?;
            if Instant::now() > deadline {
                let seconds = OPEN_MAX.as_secs();
                return Err(LoadError::NotOpened { open: self.begun, wanted, seconds, failures: 0 });
            }
        }
        Ok(())
    }

    fn until(&mut self, deadline: Instant) -> Result<(), LoadError> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.turn(left.min(TURN_MAX))?;
        }
    }

    fn close(&mut self) -> Result<usize, LoadError> {
        self.closing = true;
        self.clients.clear();
        let deadline = Instant::now() + DRAIN_MAX;
        while self.served.len() > 0 && Instant::now() < deadline {
            self.turn(TURN_MAX)?;
        }
        Ok(self.served.len())
    }

    fn turn(&mut self, longest: Duration) -> Result<(), LoadError> {
        if interrupt::requested() {
            return Err(LoadError::Interrupted);
        }
        let count = self.site.poller.wait(longest)?;
        for at in 0..count {
            match self.site.poller.event(at) {
                (Token::Listener(listener), _) => self.accept(listener)?,
                (Token::Client(client), flags) => {
                    if let Some(fault) = self.client_ready(client, flags)? {
                        return Err(LoadError::Failing { failures: 1, first: fault });
                    }
                }
                (Token::Served(place), flags) => {
                    let fault = self.served_ready(place, flags)?;
                    if let Some(fault) = fault {
                        self.served.remove(place);
                        if !self.closing {
                            return Err(LoadError::Failing { failures: 1, first: fault });
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self, listener: usize) -> Result<(), LoadError> {
        let sends = self.plan.direction != Direction::Up;
        let receives = self.plan.direction != Direction::Down;
        while let Some(socket) = accept(&self.site.listeners[listener])? {
            self.site.poller.add(&socket, Token::Served(self.served.next_place()), interest(sends))?;
            self.served.insert(End { socket, sends, receives, sent: 0, received: 0 });
        }
        Ok(())
    }

    fn client_ready(&mut self, at: usize, flags: EventFlags) -> Result<Option<Fault>, LoadError> {
        let Some(end) = self.clients.get_mut(at) else { return Ok(None) };
        let check = self.plan.check;
        let before = end.received;
        let fault = end.advance(flags, &self.pattern, &mut self.buffer, check).map_err(|fault| fault.of(at))?;
        self.begun += usize::from(before == 0 && end.received > 0);
        self.received += end.received - before;
        Ok(fault)
    }

    fn served_ready(&mut self, place: usize, flags: EventFlags) -> Result<Option<Fault>, LoadError> {
        let Some(end) = self.served.at(place) else { return Ok(None) };
        let check = self.plan.check && !self.closing;
        let before = end.received;
        let fault = end.advance(flags, &self.pattern, &mut self.buffer, check).map_err(|fault| fault.of(place))?;
        self.begun += usize::from(before == 0 && end.received > 0);
        self.received += end.received - before;
        Ok(fault)
    }
}

/// A piece that is not what was sent.
#[derive(Debug)]
struct Wrong {
    position: u64,
    length: usize,
}

impl Wrong {
    fn of(self, connection: usize) -> LoadError {
        LoadError::Corrupt { connection, position: self.position, length: self.length }
    }
}

impl End {
    /// One receive and one send at most; level-triggered, what is left comes again.
    fn advance(
        &mut self,
        flags: EventFlags,
        pattern: &Pattern,
        buffer: &mut [u8],
        check: bool,
    ) -> Result<Option<Fault>, Wrong> {
        if !flags.difference(EventFlags::OUT).is_empty() {
            match receive(&self.socket, buffer, !check) {
                Moved::Bytes(_) if !self.receives => return Ok(Some(Fault::Excess)),
                Moved::Bytes(length) => {
                    if check && pattern.piece(self.received, length) != &buffer[..length] {
                        return Err(Wrong { position: self.received, length });
                    }
                    self.received += length as u64;
                }
                Moved::Later => {}
                Moved::End => return Ok(Some(Fault::EndedEarly)),
                Moved::Broken(errno) => return Ok(Some(errno.into())),
            }
        }
        if self.sends && flags.contains(EventFlags::OUT) {
            match transmit(&self.socket, pattern.piece(self.sent, SEND_BYTES)) {
                Moved::Bytes(count) => self.sent += count as u64,
                Moved::Later | Moved::End => {}
                Moved::Broken(errno) => return Ok(Some(errno.into())),
            }
        }
        Ok(None)
    }
}

fn interest(sends: bool) -> EventFlags {
    if sends { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN }
}
