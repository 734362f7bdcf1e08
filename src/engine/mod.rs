//! The engine: operations in, completions out. The only room that may contain `unsafe`.
//!
//! [`Engine`] is what the data plane needs of a kernel. [`ring`] serves it with io_uring; the seeded simulation
//! (`worker/simulation`) serves it with a simulated kernel that is as nasty as the real one.
//!
//! The rules between an engine and its owner:
//! - Every operation carries an [`Owner`]; every completion gives it back. A slot is reused only when nothing of
//!   it is in flight, and its generation catches what comes late all the same.
//! - An operation stays in flight until a completion with `more == false` (multishot) or its only one has been
//!   handed out. A cancelled operation completes too: with what it had done, or `ECANCELED`.
//! - One send in flight a socket: the second of two could overtake the first one's rest.
//! - A socket is closed only when nothing is in flight on it.
//! - Received bytes lie in [`Buffers`]; a chunk belongs to exactly one [`Chain`] until it is consumed. Spliced bytes lie
//!   in a pipe ([`Piped`]) until they are spliced on, spilt or discarded.

pub mod buffers;
pub mod handover;
pub mod host;
pub mod listener;
pub mod pipes;
pub mod ring;
pub mod socket;

use std::net::IpAddr;
use std::time::Duration;

use crate::address::Address;
use crate::errno::Errno;
use crate::slots::Key;

pub use buffers::{Buffers, Chain, Filled};
pub use pipes::{Piped, Spliced};

/// Which of its slot's sockets an operation is for; the owner gives the numbers their meaning. Below
/// [`ROLES_MAX`](crate::limits::ROLES_MAX).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Role(pub u8);

/// Whose operation this is: a slot's occupancy and the role within it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The slot and its generation.
    pub key: Key,
    /// The socket of the slot.
    pub role: Role,
}

/// The kinds of operations that can be in flight and be cancelled one by one.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpKind {
    /// [`Engine::accept`]
    Accept = 1,
    /// [`Engine::receive`], [`Engine::await_readable`]
    Receive = 2,
    /// [`Engine::send`], [`Engine::await_writable`]
    Send = 3,
    /// [`Engine::connect`]
    Connect = 4,
    /// [`Engine::watch`]
    Watch = 5,
}

/// How to receive.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Receive {
    /// Again and again into small buffers, until it ends: for traffic that comes in small pieces.
    Multishot,
    /// Once into one small buffer: for unix sockets, where a multishot receive does not see an end of stream that comes
    /// together with the last bytes (Linux 6.17 and later).
    Single,
    /// Once into one large buffer: for bulk, where the next receive is asked for when the last was passed on.
    /// When no large buffer is free the engine may use a small one.
    Bulk,
}

/// One thing that has happened to an operation.
#[derive(Debug)]
pub struct Completion<S> {
    /// As given with the operation.
    pub owner: Owner,
    /// What happened.
    pub event: Event<S>,
}

/// What has happened.
#[derive(Debug)]
pub enum Event<S> {
    /// A client's socket (non-blocking, close-on-exec). `more`: accepting goes on.
    Accepted {
        /// The socket.
        socket: S,
        /// Whether the accept stays armed.
        more: bool,
    },
    /// Accepting has ended without a socket: `ECANCELED` where it was cancelled; `EMFILE`, `ENFILE`, `ENOMEM`,
    /// `ENOBUFS` want a pause before it is armed again.
    AcceptEnded(Errno),
    /// Bytes arrived. `more`: the receive stays armed; otherwise it is over and must be armed again for more.
    Received {
        /// The bytes, not yet in any chain.
        filled: Filled,
        /// Whether the receive stays armed.
        more: bool,
    },
    /// The receive is over without bytes.
    ReceiveEnded(ReceiveEnd),
    /// The socket that was waited for has bytes, its end or an error: [`Engine::splice_in`] tells which. May be untrue.
    Readable,
    /// A send is over, and the kernel took `bytes` of it. `whole`: all that it was given. Where it is not whole and nobody
    /// cancelled it, the connection is broken, although no errno says so.
    Sent {
        /// How many bytes of the chain's front are the kernel's now.
        bytes: usize,
        /// Whether this is all that was submitted.
        whole: bool,
    },
    /// A send, or a wait for room, is over and nothing was taken (`ECANCELED` too).
    SendFailed(Errno),
    /// The socket that was waited for has room, or an error: [`Engine::splice_out`] tells which. May be untrue.
    Writable,
    /// A connect has succeeded.
    Connected,
    /// A connect is over without success (`ECANCELED` where it was cancelled).
    ConnectFailed(Errno),
    /// A watch has seen the peer hang up.
    HungUp {
        /// The connection is gone: reset, or an error of the path. Otherwise the peer has only ended its stream.
        reset: bool,
        /// Whether the watch stays armed.
        more: bool,
    },
    /// A watch is over without news (cancelled, or the kernel dropped it: arm again where still wanted).
    WatchEnded,
    /// Somebody used the worker's [`Waker`](socket::Waker).
    Woken,
}

/// Why a receive ended without bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ReceiveEnd {
    /// `recv` said 0. This can be a reset in disguise where a send on the socket has failed, ended short or is in
    /// flight: ask [`Engine::inspect`].
    Eof,
    /// No buffer was free, for a bulk receive of neither size: a stall, not an error. Arm again when buffers have come back.
    Starved,
    /// Cancelled by its owner.
    Cancelled,
    /// The connection failed.
    Failed(Errno),
}

/// What an open socket should be like.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SocketOptions {
    /// TCP keepalive: idle time before the first probe. `None`: off. [`Engine::open`] leaves it to [`Engine::keep_alive`].
    pub keepalive: Option<Duration>,
    /// The address that it connects from, of the family that it connects to. `None`: the kernel chooses.
    pub source: Option<IpAddr>,
}

/// The kernel's view of a connection (`TCP_INFO`); a unix socket never shows anything outstanding.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Inspection {
    /// The connection is closed (`TCP_CLOSE`): after a receive that said 0, the peer has reset it.
    pub closed: bool,
    /// Bytes of ours, or probes of a closed window, are unanswered at this moment.
    pub unanswered: bool,
    /// Counts everything heard from the peer: a number that differs from the last look's says "it lives".
    pub heard: u32,
    /// Smoothed round-trip time in microseconds; 0 where unknown.
    pub rtt_us: u32,
}

/// Between whom a connection is. `None` where it cannot be told any more, because the peer has gone.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Addresses {
    /// The other end. The path of a unix socket is empty where it has no name.
    pub peer: Option<Address>,
    /// Our end, likewise.
    pub local: Option<Address>,
}

/// What the data plane needs of a kernel. See the module for the rules.
pub trait Engine {
    /// An open descriptor; the engine's `close` ends it, and dropping it ends it at once.
    type Socket;

    /// The buffers that received bytes lie in.
    fn buffers(&mut self) -> &mut Buffers;

    /// Accepts on `listener` until it ends.
    fn accept(&mut self, owner: Owner, listener: &Self::Socket);

    /// Accepts one client on `listener`. For when there is little room: [`Engine::accept`] takes all who wait before it can
    /// be stopped. An engine that cannot stop in time may accept more, and says so with `more`.
    fn accept_one(&mut self, owner: Owner, listener: &Self::Socket) {
        self.accept(owner, listener);
    }

    /// Receives into [`Buffers`].
    fn receive(&mut self, owner: Owner, socket: &Self::Socket, how: Receive);

    /// Sends the front of `chain`, as much of it as is gathered into one operation. The chain may grow at its end
    /// while the send is in flight; its front must stay as it is until the completion says how much to consume.
    fn send(&mut self, owner: Owner, socket: &Self::Socket, chain: &Chain);

    /// Waits until `socket` has something to be spliced. Counts as a receive: completes as [`Event::Readable`] or, cancelled or
    /// failed, as [`Event::ReceiveEnded`].
    fn await_readable(&mut self, owner: Owner, socket: &Self::Socket);

    /// Waits until `socket` has room again. Counts as a send: completes as [`Event::Writable`] or [`Event::SendFailed`].
    fn await_writable(&mut self, owner: Owner, socket: &Self::Socket);

    /// Moves what `socket` has received, up to [`SPLICE_BYTES`](crate::limits::SPLICE_BYTES), into an empty pipe. At once.
    fn splice_in(&mut self, socket: &Self::Socket) -> Spliced;

    /// Moves the front of `piped`, as much as there is room for, to `socket`: how many bytes. At once.
    ///
    /// # Errors
    /// `EAGAIN` where there is no room; else the connection is broken.
    fn splice_out(&mut self, piped: &mut Piped, socket: &Self::Socket) -> Result<usize, Errno>;

    /// Gives the pipe back, with whatever is left in it.
    fn discard_piped(&mut self, piped: Piped);

    /// Copies what is left in the pipe to the heap, before all that waits in `chain`, and gives the pipe back.
    fn spill_piped(&mut self, piped: Piped, chain: &mut Chain);

    /// Whether all pipes that there may be hold bytes.
    fn pipes_short(&self) -> bool;

    /// Connects `socket` to `address`.
    fn connect(&mut self, owner: Owner, socket: &Self::Socket, address: &Address);

    /// Watches `socket` for a hang-up, without reading from it.
    fn watch(&mut self, owner: Owner, socket: &Self::Socket);

    /// Switches TCP keepalive on: the first probe goes out when nothing was heard for `idle`. Three system calls, which a
    /// connection that is never at rest can do without.
    fn keep_alive(&mut self, socket: &Self::Socket, idle: Duration);

    /// Asks for the end of the owner's operation of that kind. The operation completes as usual; where it is
    /// over already nothing happens. There is no completion of the cancel itself.
    fn cancel(&mut self, owner: Owner, kind: OpKind);

    /// Closes the socket, on which nothing is in flight any more. There is no completion.
    fn close(&mut self, socket: Self::Socket);

    /// Closes the socket with a reset where the transport has one; unsent bytes are thrown away.
    fn reset(&mut self, socket: Self::Socket);

    /// Opens a non-blocking socket that suits `address`.
    ///
    /// # Errors
    /// What the kernel says: `EMFILE`, `ENFILE`, `ENOBUFS`, `ENOMEM`, `EAFNOSUPPORT`; `EADDRNOTAVAIL` where the host does not
    /// have the source any more.
    fn open(&mut self, address: &Address, options: &SocketOptions) -> Result<Self::Socket, Errno>;

    /// Ends our stream on the socket (half-close), after the last send's completion.
    ///
    /// # Errors
    /// `ENOTCONN` where the peer has reset the connection.
    fn shutdown_write(&mut self, socket: &Self::Socket) -> Result<(), Errno>;

    /// Bytes given to the kernel which the peer has not acknowledged (`SIOCOUTQ`); 0 for a unix socket.
    fn unsent(&mut self, socket: &Self::Socket) -> usize;

    /// The kernel's view of the connection.
    fn inspect(&mut self, socket: &Self::Socket) -> Inspection;

    /// Between whom the connection is. Two system calls: to be asked once, and only where somebody wants to know.
    fn addresses(&mut self, socket: &Self::Socket) -> Addresses;

    /// Gives memory back that traffic has left behind, and says whether more will follow if it is called again. To be called now
    /// and then while there is traffic, and after it. `freed`: its owner has just freed much.
    fn tidy(&mut self, freed: bool) -> bool;

    /// Submits what was asked for, and waits for nothing: what follows takes its time.
    fn submit(&mut self);

    /// Submits what was asked for, waits up to `timeout` (`None`: for ever) for at least one completion, and appends
    /// what has completed to `completions`. Returns early, with nothing, on a signal.
    ///
    /// # Errors
    /// Only what makes the engine unusable; everything about one operation is in its completion.
    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion<Self::Socket>>)
    -> Result<(), Errno>;
}
