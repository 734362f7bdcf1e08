//! The listening sockets that one worker accepts on. There may be others later than at its start: what it is told to serve
//! is always the whole list, and the lists are numbered, so that hearing one twice, or an old one after a new start, does no
//! harm.
//!
//! A door's number is also that of its acceptor's operations, of its route, and of its blocks of numbers. Settings that
//! change make another door on the same socket, so that the sessions of the first end as they began.
//!
//! ```text
//! open -> closing (its accept ends; the queue is emptied, unless another door has the socket) -> last session -> gone
//! ```

use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::balance::Pool;
use crate::engine::SocketOptions;
use crate::limits::ACCEPT_REST;
use crate::metrics::ListenerCells;
use crate::relay::Rules;
use crate::time::Time;
use crate::worker::admission::Admission;
use crate::worker::clients::ClientRules;
use crate::worker::identity::ProxyProtocol;
use crate::worker::listener::Acceptor;
use crate::worker::sources::Sources;

/// What a worker is to serve: all of it.
#[derive(Debug)]
pub struct ListenerList {
    /// Counts the lists; one that is older than another that was heard says nothing.
    pub number: u64,
    /// The listeners.
    pub listeners: Vec<ListenerSetup>,
    /// Those that are no longer among them. Their accept queues are to be emptied, also by a worker that never served them:
    /// one that has taken the place of another which failed.
    pub gone: Vec<ListenerSetup>,
}

/// One listening socket of a worker, and what its sessions obey.
#[derive(Debug)]
pub struct ListenerSetup {
    /// Tells it from all others that this process has had, for this socket or another.
    pub id: u64,
    /// Its listener's name.
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

/// A listening socket that is served, or was and has sessions yet.
pub struct Door {
    id: u64,
    /// Accepts its clients.
    pub acceptor: Acceptor<OwnedFd>,
    /// What is counted of it.
    pub counts: Arc<ListenerCells>,
    /// Its accept queue is served by others once it closes.
    outlived: bool,
    /// Its socket, once it accepts nobody any more by itself, and until when it is kept.
    rest: Option<(Arc<OwnedFd>, Time)>,
}

/// All of a worker's doors, by their numbers.
#[derive(Default)]
pub struct Doors {
    all: Vec<Option<Door>>,
}

impl Door {
    /// An open one.
    pub fn new(id: u64, acceptor: Acceptor<OwnedFd>, counts: Arc<ListenerCells>, kept: bool) -> Door {
        Door { id, acceptor, counts, outlived: kept, rest: None }
    }

    /// The socket whose accept queue is to be emptied now: when it has just stopped, and once more [`ACCEPT_REST`] later,
    /// because a handshake may have been under way.
    pub fn queue(&mut self, now: Time) -> Option<Arc<OwnedFd>> {
        if let Some(socket) = self.acceptor.take_stopped().filter(|_| !self.outlived) {
            self.rest = Some((socket.clone(), now + ACCEPT_REST));
            return Some(socket);
        }
        self.rest.take_if(|(_, until)| *until <= now).map(|(socket, _)| socket)
    }

    /// Whether nobody comes by it any more.
    pub fn is_closed(&self) -> bool {
        self.acceptor.is_stopped() && self.rest.is_none()
    }

    fn is_over(&self) -> bool {
        self.is_closed() && self.acceptor.admission().held() == 0
    }
}

impl Doors {
    /// The door of this number.
    pub fn door(&mut self, number: u16) -> Option<&mut Door> {
        self.all.get_mut(usize::from(number))?.as_mut()
    }

    /// All of them, with their numbers.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u16, &mut Door)> {
        (0..).zip(&mut self.all).filter_map(|(number, door)| Some((number, door.as_mut()?)))
    }

    /// One past the highest number.
    pub fn end(&self) -> u16 {
        self.all.len() as u16
    }

    /// Whether there is one with this identity.
    pub fn knows(&self, id: u64) -> bool {
        self.open().any(|door| door.id == id)
    }

    /// The lowest number that is free; none where so many doors wait for their last session that all are taken.
    pub fn vacant(&self) -> Option<u16> {
        u16::try_from(self.all.iter().position(Option::is_none).unwrap_or(self.all.len()))
            .ok()
            .filter(|number| *number < u16::MAX)
    }

    /// Puts a door in a vacant place.
    pub fn insert(&mut self, number: u16, door: Door) {
        match self.all.get_mut(usize::from(number)) {
            Some(place) => *place = Some(door),
            None => self.all.push(Some(door)),
        }
    }

    /// Closes this one, which has just been opened: whoever is in its accept queue is served.
    pub fn close_one(&mut self, id: u64) {
        self.all.iter_mut().flatten().filter(|door| door.id == id).for_each(|door| door.acceptor.stop());
    }

    /// Closes those that are not in `list`, and all of them where it is empty. A socket that another door of the list has
    /// keeps its queue.
    pub fn close_others(&mut self, list: &[ListenerSetup]) {
        for door in self.all.iter_mut().flatten().filter(|door| !list.iter().any(|kept| kept.id == door.id)) {
            let socket = door.acceptor.socket();
            door.outlived |= socket.is_some_and(|socket| list.iter().any(|kept| Arc::ptr_eq(&kept.socket, socket)));
            door.acceptor.stop();
        }
    }

    /// Closes all of them.
    pub fn close(&mut self) {
        self.close_others(&[]);
    }

    /// Whether one that closes may accept somebody yet.
    pub fn are_closing(&self) -> bool {
        self.open().any(|door| door.acceptor.is_stopping() && !door.is_closed())
    }

    /// Whether none accepts any more.
    pub fn are_closed(&self) -> bool {
        self.open().all(Door::is_closed)
    }

    /// When one of them wants a turn although nothing has happened.
    pub fn next_deadline(&self) -> Option<Time> {
        let rests = self.open().filter_map(|door| door.rest.as_ref().map(|(_, until)| *until));
        self.open().filter_map(|door| door.acceptor.next_deadline()).chain(rests).min()
    }

    /// Forgets those that are closed and have no session left, and gives their numbers.
    pub fn forget(&mut self) -> impl Iterator<Item = u16> {
        (0..).zip(&mut self.all).filter_map(|(number, place)| place.take_if(|door| door.is_over()).map(|_| number))
    }

    fn open(&self) -> impl Iterator<Item = &Door> {
        self.all.iter().flatten()
    }
}
