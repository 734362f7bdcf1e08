//! The backends' ends: each takes requests of a fixed length and answers with as many bytes.

use std::io;
use std::os::fd::OwnedFd;

use super::Site;
use super::client::Kit;
use super::poller::{EventFlags, Token};
use super::socket::{Moved, accept, receive, transmit};

/// How long a connection lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// As long as the run.
    Held,
    /// For one request; the client closes when it has the answer.
    ClientCloses,
    /// For one request; the backend closes when it has answered.
    ServerCloses,
}

/// Connections by place; places are used again.
#[derive(Debug)]
pub struct Table<T> {
    places: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Table<T> {
    /// An empty table.
    pub fn new() -> Table<T> {
        Table { places: Vec::new(), free: Vec::new() }
    }

    /// The place the next [`Table::insert`] takes.
    pub fn next_place(&self) -> usize {
        self.free.last().copied().unwrap_or(self.places.len())
    }

    /// Puts a connection in at [`Table::next_place`].
    pub fn insert(&mut self, value: T) {
        match self.free.pop() {
            Some(place) => self.places[place] = Some(value),
            None => self.places.push(Some(value)),
        }
    }

    /// The connection at a place, if one is there.
    pub fn at(&mut self, place: usize) -> Option<&mut T> {
        self.places.get_mut(place)?.as_mut()
    }

    /// Takes a connection out, which closes it.
    pub fn remove(&mut self, place: usize) {
        if self.places.get_mut(place).and_then(Option::take).is_some() {
            self.free.push(place);
        }
    }

    /// Connections in the table.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

/// All backends' connections of one run.
#[derive(Debug)]
pub struct Served {
    connections: Table<Connection>,
    life: Life,
}

#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    received: usize,
    unsent: usize,
    /// The request, kept only when bytes are checked: then the answer is its echo.
    request: Vec<u8>,
}

impl Served {
    /// No connections yet.
    pub fn new(life: Life) -> Served {
        Served { connections: Table::new(), life }
    }

    /// Connections open now.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Accepts all who wait at a listener.
    pub fn accept(&mut self, site: &Site, listener: usize) -> io::Result<()> {
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        while let Some(socket) = accept(&site.listeners[listener])? {
            site.poller.add(&socket, Token::Served(self.connections.next_place()), interest)?;
            self.connections.insert(Connection { socket, received: 0, unsent: 0, request: Vec::new() });
        }
        Ok(())
    }

    /// Takes up an event.
    pub fn ready(&mut self, place: usize, flags: EventFlags, kit: &mut Kit) {
        let Some(connection) = self.connections.at(place) else { return };
        if !connection.advance(flags, kit, self.life) {
            self.connections.remove(place);
        }
    }
}

impl Connection {
    /// False: the connection is over.
    fn advance(&mut self, flags: EventFlags, kit: &mut Kit, life: Life) -> bool {
        if self.unsent > 0 && !self.answer(kit, life) {
            return false;
        }
        let hung_up = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        if !hung_up && !flags.contains(EventFlags::IN) {
            return true;
        }
        loop {
            let count = match receive(&self.socket, &mut kit.scratch, false) {
                Moved::Bytes(count) => count,
                Moved::Later => return true,
                Moved::End | Moved::Broken(_) => return false,
            };
            if kit.check {
                self.request.extend_from_slice(&kit.scratch[..count]);
            }
            self.received += count;
            if self.received >= kit.size {
                self.received -= kit.size;
                self.unsent = kit.size;
                if !self.answer(kit, life) {
                    return false;
                }
            }
            if count < kit.scratch.len() && !hung_up {
                return true;
            }
        }
    }

    /// Sends what is left of the answer. False: the connection is over.
    fn answer(&mut self, kit: &Kit, life: Life) -> bool {
        let whole = if kit.check { &self.request[..kit.size] } else { kit.pattern.piece(0, kit.size) };
        while self.unsent > 0 {
            match transmit(&self.socket, &whole[kit.size - self.unsent..]) {
                Moved::Bytes(count) => self.unsent -= count,
                Moved::Later => return true,
                Moved::End | Moved::Broken(_) => return false,
            }
        }
        if kit.check {
            self.request.drain(..kit.size);
        }
        life != Life::ServerCloses
    }
}
