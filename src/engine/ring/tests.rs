//! Tests on the real kernel, over loopback and pairs of sockets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::Ring;
use crate::address::Address;
use crate::engine::buffers::Chain;
use crate::engine::listener::{ListenOptions, Listener, accept_rest};
use crate::engine::socket::Waker;
use crate::engine::{Completion, Engine, Event, OpKind, Owner, Receive, ReceiveEnd, Role, SocketOptions, socket};
use crate::errno::Errno;
use crate::limits::{
    BUFFER_BYTES, BUFFERS_MAX, BULK_BUFFER_BYTES, BULK_BUFFERS_MAX, BULK_BUFFERS_PUBLISHED_MIN, GATHER_MAX,
    SUBMISSION_ENTRIES,
};
use crate::slots::Key;

mod hostile;
mod io;
mod life;
mod rest;
mod splice;

/// A ring and what has completed on it.
struct Bench {
    ring: Ring,
    seen: Vec<Completion<OwnedFd>>,
}

impl Bench {
    fn new() -> Bench {
        Bench { ring: Ring::new().unwrap(), seen: Vec::new() }
    }

    /// Turns until something matches, and takes that out. Fails after ten seconds.
    fn until<T>(
        &mut self,
        mut pick: impl FnMut(&mut Ring, Owner, &Event<OwnedFd>) -> Option<T>,
    ) -> (T, Completion<OwnedFd>) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            for index in 0..self.seen.len() {
                let Completion { owner, event } = &self.seen[index];
                if let Some(found) = pick(&mut self.ring, *owner, event) {
                    return (found, self.seen.remove(index));
                }
            }
            assert!(Instant::now() < deadline, "nothing of that kind among {:?}", self.seen);
            self.ring.wait(Some(Duration::from_millis(100)), &mut self.seen).unwrap();
        }
    }

    /// The next event of this owner.
    fn next(&mut self, owner: Owner) -> Event<OwnedFd> {
        self.until(|_, found, _| (found == owner).then_some(())).1.event
    }

    /// Turns until nothing is in flight, and gives what has completed.
    fn rest(&mut self) -> Vec<Completion<OwnedFd>> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.ring.in_flight() > 0 {
            assert!(Instant::now() < deadline, "{} in flight", self.ring.in_flight());
            self.ring.wait(Some(Duration::from_millis(100)), &mut self.seen).unwrap();
        }
        std::mem::take(&mut self.seen)
    }

    /// Buffers of each size that are free here or with the kernel.
    fn pool(&mut self) -> (usize, usize) {
        let (small, large) = (usize::from(self.ring.small.published()), usize::from(self.ring.large.published()));
        let buffers = self.ring.buffers();
        (buffers.small_free() + small, buffers.large_free() + large)
    }

    /// Puts received bytes into `into`.
    fn take(&mut self, event: Event<OwnedFd>, into: &mut Vec<u8>) -> bool {
        let Event::Received { filled, more } = event else { panic!("{event:?}") };
        let mut chain = Chain::new();
        self.ring.buffers().append(&mut chain, filled);
        for slice in self.ring.buffers().slices(&chain) {
            into.extend_from_slice(slice);
        }
        self.ring.buffers().clear(&mut chain);
        more
    }
}

fn owner(index: u32, role: u8) -> Owner {
    Owner { key: Key::new(index, 7), role: Role(role) }
}

/// A connected pair over TCP: the far end is a blocking one.
fn tcp_pair() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    near.set_nonblocking(true).unwrap();
    let far = listener.accept().unwrap().0;
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (near.into(), far)
}

fn unix_pair() -> (OwnedFd, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (near.into(), far)
}

/// Closes with a reset.
fn reset(socket: TcpStream) {
    socket::linger_none(&socket.into());
}

fn listen(workers: usize) -> Listener {
    let options = ListenOptions { workers, backlog: 64, keepalive: None };
    Listener::bind(&Address::Inet("127.0.0.1:0".parse().unwrap()), &options).unwrap()
}

/// Puts random-looking bytes into a chain, chunk by chunk.
fn chunks(ring: &mut Ring, chain: &mut Chain, count: usize, bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for chunk in 0..count {
        let content: Vec<u8> = (0..bytes).map(|i| (i * 31 + chunk * 7) as u8).collect();
        ring.buffers().append_copy(chain, &content);
        all.extend(content);
    }
    all
}
