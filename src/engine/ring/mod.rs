//! The engine on io_uring.
//!
//! One ring a worker, made and used on the worker's thread. A turn is one system call: it submits what was asked for
//! since the last, runs what is to be completed, and waits. Completions are queued for the owner and never
//! handled in here.
//!
//! `queue` is the pair of queues and the call, `group` the buffers the kernel may fill, `flights` what it holds at
//! the moment, `scratch` what submissions point at, `submit` the way in, `tag` how a completion finds its owner, `reap` the way back, `rest`
//! what is given back when traffic has gone, `probe` the test at the start.
#![allow(unsafe_code)]

mod error;
mod flights;
mod group;
mod probe;
mod queue;
mod reap;
mod rest;
mod scratch;
mod submit;
mod tag;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::AddAssign;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::{opcode, squeue, types};
use rustix::net::{SocketAddrAny, SocketAddrUnix};

use self::flights::Flights;
use self::group::{Demand, Group};
use self::queue::Queue;
use self::rest::Rest;
use self::scratch::Scratch;
use super::buffers::{Buffers, Chain};
use super::pipes::{Piped, Pipes, Spliced};
use super::socket::{self, Waker};
use super::{Addresses, Completion, Engine, Event, Inspection, OpKind, Owner, Receive, Role, SocketOptions};
use crate::address::Address;
use crate::errno::Errno;
use crate::limits::{
    BUFFERS_PUBLISHED, BUFFERS_PUBLISHED_MIN, BULK_BUFFERS_MAX, BULK_BUFFERS_PUBLISHED_MIN, GATHER_MAX,
    RING_DRAIN_TURNS, RING_DRAIN_WAIT,
};
use crate::slots::Key;

pub use self::error::SetupError;

/// `IORING_SEND_VECTORIZED`: the buffer of a send is a list of buffers.
const VECTORIZED: u16 = 1 << 5;

const SMALL: u16 = 0;
const LARGE: u16 = 1;

/// In the tags of operations that have no owner.
const NOBODY: Owner = Owner { key: Key::new(0, 0), role: Role(0) };

/// What a ring has done since it was made.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Operations submitted, cancels and closes included.
    pub submissions: u64,
    /// Completions that came back.
    pub completions: u64,
    /// Turns: waits for completions.
    pub turns: u64,
    /// Turns in which the completion queue had overflown. Every multishot operation ends by that and is armed again.
    pub overflows: u64,
    /// Receives that found no free buffer.
    pub starvations: u64,
}

impl AddAssign for Statistics {
    fn add_assign(&mut self, other: Statistics) {
        self.submissions += other.submissions;
        self.completions += other.completions;
        self.turns += other.turns;
        self.overflows += other.overflows;
        self.starvations += other.starvations;
    }
}

/// One worker's io_uring with its buffers. It stays on the thread that made it.
///
/// Dropping it cancels everything, waits (with a bound) until the kernel has let go, and closes sockets that were
/// accepted but never handed out.
pub struct Ring {
    queue: Queue,
    small: Group,
    large: Group,
    small_demand: Demand,
    large_demand: Demand,
    /// Receives in flight that take a large buffer. There may be more than buffers: most of them wait.
    waiting_large: usize,
    /// Freed only when the kernel holds nothing any more.
    buffers: ManuallyDrop<Buffers>,
    pipes: Pipes,
    flights: Flights,
    scratch: Scratch,
    /// Completions that came while room was made for submissions, and those of operations that failed before the kernel.
    early: Vec<Completion<OwnedFd>>,
    waker: Option<(Waker, Owner)>,
    statistics: Statistics,
    vectorized: bool,
    /// Sockets whose close may not have been submitted yet, each with the number of its submission.
    closing: Vec<(u64, RawFd)>,
    rest: Rest,
    /// Why nothing can be submitted any more.
    failure: Option<Errno>,
    /// The kernel refuses submissions from any other thread.
    not_send: PhantomData<*const ()>,
}

impl Ring {
    /// Sets up a ring for the calling thread and tries it out: a multishot receive and a gathered send on
    /// a pair of sockets.
    ///
    /// # Errors
    /// Says why io_uring cannot be used here and what to change.
    pub fn new() -> Result<Ring, SetupError> {
        let queue = Queue::new().map_err(|error| error::explain(Errno::from(&error)))?;
        probe::opcodes(queue.submitter())?;
        let memory = |error: std::io::Error| SetupError::Memory { errno: Errno::from(&error) };
        let small = Group::new(BUFFERS_PUBLISHED as u16).map_err(memory)?;
        let large = Group::new(BULK_BUFFERS_MAX as u16).map_err(memory)?;
        let buffers = Buffers::new().map_err(memory)?;
        for (group, number) in [(&small, SMALL), (&large, LARGE)] {
            // SAFETY: `Ring` drops its queue before the groups. Should setting up fail before there is a `Ring`, then no operation was
            // ever submitted that could make the kernel look into a group.
            unsafe { queue.submitter().register_buf_ring_with_flags(group.address(), group.capacity(), number, 0) }
                .map_err(|error| SetupError::Broken {
                    step: "registering the receive buffers",
                    errno: Errno::from(&error),
                })?;
        }
        let mut ring = Ring {
            queue,
            small,
            large,
            small_demand: Demand::new(BUFFERS_PUBLISHED_MIN, BUFFERS_PUBLISHED),
            large_demand: Demand::new(BULK_BUFFERS_PUBLISHED_MIN, BULK_BUFFERS_MAX),
            waiting_large: 0,
            buffers: ManuallyDrop::new(buffers),
            pipes: Pipes::new(),
            flights: Flights::default(),
            scratch: Scratch::new(),
            early: Vec::new(),
            waker: None,
            statistics: Statistics::default(),
            vectorized: true,
            closing: Vec::new(),
            rest: Rest::default(),
            failure: None,
            not_send: PhantomData,
        };
        ring.try_out()?;
        ring.statistics = Statistics::default();
        Ok(ring)
    }

    /// What the ring has done so far.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// Allows `most` pipes to splice through, 0 for none; as made a ring has as many as there may be.
    pub fn limit_pipes(&mut self, most: usize) {
        self.pipes.limit(most);
    }

    /// Operations that the kernel holds for their owners.
    pub fn in_flight(&self) -> usize {
        self.flights.count()
    }

    /// Reports uses of `waker` to `owner` from now on, as [`Event::Woken`]; many uses before a turn are one.
    pub fn arm_waker(&mut self, owner: Owner, waker: &Waker) {
        debug_assert!(self.waker.is_none(), "a ring listens to one waker");
        self.waker = Some((waker.clone(), owner));
        self.poll_waker();
    }

    fn poll_waker(&mut self) {
        let Some((waker, owner)) = &self.waker else { return };
        let entry = opcode::PollAdd::new(types::Fd(waker.raw_fd()), libc::POLLIN as u32).multi(true).build();
        let entry = entry.user_data(tag::write(tag::WAKE, *owner));
        self.push(entry);
    }

    /// Makes it unusable, as it is when the kernel takes no more submissions.
    #[cfg(debug_assertions)]
    pub fn fail(&mut self) {
        self.failure = Some(Errno::EAGAIN);
    }

    /// Closes what the kernel was asked to close and will not, as it takes no submissions any more.
    fn close_unsubmitted(&mut self) {
        let submitted = self.statistics.submissions.saturating_sub(self.queue.len() as u64);
        for (number, fd) in self.closing.drain(..).filter(|(number, _)| *number > submitted) {
            tracing::trace!(number, fd, "closed without the ring");
            // SAFETY: the descriptor was given to `close` by its owner, and the kernel has not taken it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }

    /// Cancels everything, and waits until the kernel holds nothing. Whether it does.
    fn drain(&mut self) -> bool {
        let mut completions = Vec::new();
        // What has made it unusable may have passed.
        self.failure = None;
        for _ in 0..RING_DRAIN_TURNS {
            if self.queue.is_empty() && self.flights.count() == 0 && self.waker.is_none() && self.rest.is_over() {
                return true;
            }
            let all = opcode::AsyncCancel2::new(types::CancelBuilder::any().all()).build();
            self.push(all.user_data(tag::write(tag::CANCEL_ALL, NOBODY)));
            if self.wait(Some(RING_DRAIN_WAIT), &mut completions).is_err() {
                // Sockets that were accepted have completed without a call.
                self.reap(&mut completions);
                return false;
            }
            // Sockets among them are closed by this.
            completions.clear();
        }
        false
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let drained = self.drain();
        if !drained {
            tracing::error!(
                in_flight = self.flights.count(),
                "the ring did not come to rest; its buffers are not freed"
            );
            self.close_unsubmitted();
            return;
        }
        for group in [SMALL, LARGE] {
            if let Err(error) = self.queue.submitter().unregister_buf_ring(group) {
                tracing::error!(%error, "a buffer group could not be unregistered; its buffers are not freed");
                return;
            }
        }
        // SAFETY: dropped once, here, and used no more. Nothing is in flight and no buffer is published: the kernel writes
        // into none of them. On a panic `Buffers` itself stays mapped.
        unsafe { ManuallyDrop::drop(&mut self.buffers) };
    }
}

impl Engine for Ring {
    type Socket = OwnedFd;

    #[inline]
    fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    fn accept(&mut self, owner: Owner, listener: &OwnedFd) {
        self.flights.begin(owner, OpKind::Accept);
        let entry = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd()));
        let entry = entry.flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).build();
        self.push(entry.user_data(tag::write(OpKind::Accept as u8, owner)));
    }

    fn accept_one(&mut self, owner: Owner, listener: &OwnedFd) {
        self.flights.begin(owner, OpKind::Accept);
        let nobody = std::ptr::null_mut();
        let entry = opcode::Accept::new(types::Fd(listener.as_raw_fd()), nobody, nobody.cast());
        let entry = entry.flags(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).build();
        self.push(entry.user_data(tag::write(OpKind::Accept as u8, owner)));
    }

    #[inline]
    fn receive(&mut self, owner: Owner, socket: &OwnedFd, how: Receive) {
        self.arm_receive(owner, socket.as_raw_fd(), how, false);
    }

    #[inline]
    fn send(&mut self, owner: Owner, socket: &OwnedFd, chain: &Chain) {
        self.make_room_for_scratch();
        let fd = types::Fd(socket.as_raw_fd());
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let (entry, asked) = {
            let mut slices = self.buffers.slices(chain).take(GATHER_MAX);
            let (first, second) = (slices.next().unwrap_or_default(), slices.next());
            match second {
                None => (opcode::Send::new(fd, first.as_ptr(), first.len() as u32).flags(flags).build(), first.len()),
                Some(second) => {
                    let (iovecs, count, bytes) = self.scratch.gather([first, second].into_iter().chain(slices));
                    let entry = if self.vectorized {
                        let send = opcode::Send::new(fd, iovecs.cast(), count as u32);
                        send.ioprio(VECTORIZED).flags(flags).build()
                    } else {
                        let header = self.scratch.header(iovecs, count);
                        opcode::SendMsg::new(fd, header).flags(flags as u32).build()
                    };
                    (entry, bytes)
                }
            }
        };
        debug_assert!(asked > 0, "{owner:?} sends an empty chain");
        self.flights.begin(owner, OpKind::Send).asked = asked as u32;
        self.push(entry.user_data(tag::write(OpKind::Send as u8, owner)));
    }

    fn await_readable(&mut self, owner: Owner, socket: &OwnedFd) {
        self.flights.begin(owner, OpKind::Receive).waits = true;
        self.poll(owner, OpKind::Receive, socket.as_raw_fd(), libc::POLLIN | libc::POLLRDHUP);
    }

    fn await_writable(&mut self, owner: Owner, socket: &OwnedFd) {
        self.flights.begin(owner, OpKind::Send).asked = 0;
        self.poll(owner, OpKind::Send, socket.as_raw_fd(), libc::POLLOUT);
    }

    fn splice_in(&mut self, socket: &OwnedFd) -> Spliced {
        self.pipes.splice_in(socket)
    }

    fn splice_out(&mut self, piped: &mut Piped, socket: &OwnedFd) -> Result<usize, Errno> {
        self.pipes.splice_out(piped, socket)
    }

    fn discard_piped(&mut self, piped: Piped) {
        self.pipes.discard(piped);
    }

    fn spill_piped(&mut self, piped: Piped, chain: &mut Chain) {
        self.pipes.spill(piped, chain, &mut self.buffers);
    }

    fn pipes_short(&self) -> bool {
        self.pipes.are_short()
    }

    fn connect(&mut self, owner: Owner, socket: &OwnedFd, address: &Address) {
        let address = match address {
            Address::Inet(address) => SocketAddrAny::from(*address),
            Address::Unix(path) => match SocketAddrUnix::new(path) {
                Ok(address) => SocketAddrAny::from(address),
                Err(errno) => {
                    let event = Event::ConnectFailed(Errno::from(errno));
                    self.early.push(Completion { owner, event });
                    return;
                }
            },
        };
        self.make_room_for_scratch();
        let (address, bytes) = self.scratch.address(address);
        self.flights.begin(owner, OpKind::Connect);
        let entry = opcode::Connect::new(types::Fd(socket.as_raw_fd()), address, bytes).build();
        self.push(entry.user_data(tag::write(OpKind::Connect as u8, owner)));
    }

    fn watch(&mut self, owner: Owner, socket: &OwnedFd) {
        self.flights.begin(owner, OpKind::Watch);
        // No events of its own: the kernel adds error and hang-up, and data does not wake it.
        let entry = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), 0).multi(true).build();
        self.push(entry.user_data(tag::write(OpKind::Watch as u8, owner)));
    }

    fn keep_alive(&mut self, socket: &OwnedFd, idle: Duration) {
        socket::keep_alive(socket, idle);
    }

    fn cancel(&mut self, owner: Owner, kind: OpKind) {
        if self.flights.has(owner, kind) {
            self.push_cancel(owner, kind);
        }
    }

    #[inline]
    fn close(&mut self, socket: OwnedFd) {
        let fd = socket.into_raw_fd();
        let entry = opcode::Close::new(types::Fd(fd)).build();
        let entry = entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(tag::write(tag::CLOSE, NOBODY));
        self.push(entry);
        self.closing.push((self.statistics.submissions, fd));
    }

    fn reset(&mut self, socket: OwnedFd) {
        socket::linger_none(&socket);
        self.close(socket);
    }

    fn open(&mut self, address: &Address, options: &SocketOptions) -> Result<OwnedFd, Errno> {
        socket::open(address, options)
    }

    fn shutdown_write(&mut self, socket: &OwnedFd) -> Result<(), Errno> {
        socket::shutdown_write(socket)
    }

    fn unsent(&mut self, socket: &OwnedFd) -> usize {
        socket::unsent(socket)
    }

    fn inspect(&mut self, socket: &OwnedFd) -> Inspection {
        socket::inspect(socket)
    }

    fn addresses(&mut self, socket: &OwnedFd) -> Addresses {
        socket::addresses(socket)
    }

    fn tidy(&mut self, freed: bool) -> bool {
        self.tidy_up(freed)
    }

    fn submit(&mut self) {
        if self.failure.is_none() && !self.queue.is_empty() {
            // What cannot be submitted now is submitted by the next wait, or is its error.
            if let Err(errno) = self.queue.submit() {
                tracing::debug!(%errno, "nothing could be submitted before bulk");
            }
            self.forget_submitted();
        }
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion<OwnedFd>>) -> Result<(), Errno> {
        if let Some(errno) = self.failure {
            return Err(errno);
        }
        self.statistics.turns += 1;
        self.small_demand.turn(self.small.published());
        self.large_demand.turn(self.large.published());
        self.publish();
        let before = completions.len();
        completions.append(&mut self.early);
        let timeout = if completions.len() > before { Some(Duration::ZERO) } else { timeout };
        match self.queue.wait(timeout) {
            Ok(()) => {}
            Err(Errno::EAGAIN | Errno::EBUSY) => {
                // Nothing could be submitted. Waiting must not become spinning, nor must it wait for what was not submitted.
                let pause = Duration::from_millis(1);
                self.queue.wait_only(Some(timeout.map_or(pause, |timeout| timeout.min(pause))))?;
            }
            Err(errno) => return Err(errno),
        }
        self.forget_submitted();
        self.reap(completions);
        if self.queue.has_overflown() {
            self.statistics.overflows += 1;
            self.queue.wait_only(Some(Duration::ZERO))?;
            self.reap(completions);
        }
        Ok(())
    }
}
