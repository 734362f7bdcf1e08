//! The life of one connection, as a pure state machine: inputs in, actions out, time an argument.
//!
//! [`Relay`] knows two sides and two directions, and neither sockets nor buffers: whoever executes its actions
//! (`worker::session`) holds the bytes and says what became of them. After every [`Relay::handle`] all of
//! [`Relay::poll`] must be executed before the next input.
//!
//! # Phases
//! ```text
//! AwaitingHeader -> Ending
//!    v
//! Choosing -> Connecting -> Relaying -> Resetting -> Ending
//!  |  |  ^------'   |            '------------------------^
//!  |  |             '-> ConnectCancelling -> (Relaying | Choosing | Ending)
//!  |  '-> Queued -> (Choosing | Refusing | Ending)
//!  '-> Refusing -> Ending
//! ```
//! - *AwaitingHeader*: only behind a proxy that says who its client is (the PROXY protocol). The client's bytes are
//!   received and held; no backend is chosen before its header is complete.
//! - *Queued*: everybody who could serve the client is full, and it waits for a place. Its bytes are held as while connecting;
//!   its end of stream is not "gone", its reset is.
//! - *Connecting*: the client's bytes are received and held; its end of stream is not "gone", its reset is.
//! - *Relaying*: each direction by itself: bytes, then a half-close. A side is closed when both of its directions
//!   are over; that the other is slower does not hold it up.
//! - *Resetting*: one side is broken. What it had sent is still delivered; when the other side has acknowledged
//!   all of it (or time is up) it is reset.
//! - *Refusing*: nobody serves this client. It is told so in words where [`WhenNone`] says so; then our stream to it is ended
//!   and what it still sends is discarded for a while, because closing over unread bytes would turn the refusal into a reset.
//! - *Ending*: a join. A socket is closed when nothing is in flight on it, the relay is finished when both are.
//!
//! # Flow control
//! A direction stops receiving when [`WATERMARK_HIGH_BYTES`](crate::limits::WATERMARK_HIGH_BYTES) wait and goes on
//! at [`WATERMARK_LOW_BYTES`](crate::limits::WATERMARK_LOW_BYTES). One that has reached the high mark, or filled several
//! small buffers in a row, is taken for bulk: it then receives large pieces one by one, which needs no mark at all.
//! Pieces that stay small end that.
//!
//! Bulk that goes on is *spliced*: moved from socket to socket through a pipe, without being copied. The next piece is
//! asked for when the pipe is empty, and a direction has a pipe only while bytes of it wait in one. To the relay such
//! bytes are queued like others.
//!
//! # Resets that nobody tells
//! A receive that stays armed reports a reset behind the bytes, but for one case: when bytes and reset arrive together,
//! the kernel hands over the bytes, finds no more of them, and waits for news that has come already. And where nobody receives,
//! nobody would see a reset at all. So a side that is not received from, and every side of a session that has been
//! quiet for a moment, gets a *watch*: a poll for hang-ups alone, which sees one that has happened already. Where it tells
//! of a reset, an armed receive is taken back and asked anew, and now it reports it.

mod flow;
mod machine;
mod pieces;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use crate::errno::Errno;
use crate::limits::SESSION_JITTER;
use crate::time::Time;
use crate::wire::proxy::Reason;

pub use machine::Relay;

/// One of the two sockets of a session.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The socket that was accepted.
    Client = 0,
    /// The socket that was connected.
    Backend = 1,
}

impl Side {
    /// Both sides.
    pub const BOTH: [Side; 2] = [Side::Client, Side::Backend];

    /// The other one.
    pub const fn other(self) -> Side {
        match self {
            Side::Client => Side::Backend,
            Side::Backend => Side::Client,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Client => "client",
            Side::Backend => "backend",
        })
    }
}

/// The durations and counts that a relay obeys; those of its listener and its pool together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long one connect may take.
    pub connect_timeout: Duration,
    /// How long all connects together may take.
    pub connect_budget: Duration,
    /// How many backends are tried.
    pub connect_attempts: u32,
    /// How long a session may carry no byte either way; `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// How long bytes of ours may stay unanswered by a side that says nothing at all; `None`: for ever.
    pub dead_peer_timeout: Option<Duration>,
    /// What a client gets whom nobody serves.
    pub when_none: WhenNone,
    /// How long a client may wait for a place.
    pub queue_timeout: Duration,
    /// How long a session may last, whatever it carries; `None`: for ever.
    pub max_session_duration: Option<Duration>,
}

impl Rules {
    /// When a session that begins now ends at the latest. `random`, of which all 64 bits count, takes up to a part of
    /// [`SESSION_JITTER`] away.
    pub fn last_at(&self, now: Time, random: impl FnOnce() -> u64) -> Time {
        let Some(longest) = self.max_session_duration else { return Time::NEVER };
        let part = (u128::from(random()) * (longest / SESSION_JITTER).as_nanos()) >> 64;
        now + (longest - Duration::from_nanos(u64::try_from(part).unwrap_or(u64::MAX)))
    }
}

/// What a client gets when no backend may serve it.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum WhenNone {
    /// Our stream to it ends; what it says is discarded for a while.
    #[default]
    Close,
    /// A reset at once.
    Reset,
    /// An HTTP response with status 503, whatever it has asked; then as `Close`.
    Http503,
}

impl WhenNone {
    /// Each of them, in the order of the documentation.
    pub const ALL: &[WhenNone] = &[WhenNone::Close, WhenNone::Reset, WhenNone::Http503];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            WhenNone::Close => "close",
            WhenNone::Reset => "reset",
            WhenNone::Http503 => "http_503",
        }
    }
}

/// How a session begins.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A backend is chosen.
    Choose {
        /// So many bytes of our own wait for it already, to go before the client's.
        waiting: usize,
    },
    /// The client's PROXY protocol header comes first.
    AwaitHeader,
    /// The client is closed.
    Close(CloseReason),
}

/// What has happened.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The answer to [`Action::ReadHeader`], where the header is complete and was taken away.
    HeaderRead {
        /// So many bytes wait for the backend now.
        waiting: usize,
    },
    /// The answer to [`Action::ReadHeader`], where it is no header.
    HeaderWrong(Reason),
    /// The answer to [`Action::ReadHeader`], where the client that it names is not served.
    ClientRefused(CloseReason),
    /// A backend was chosen and a connect to it is in flight; or the same once more, where the first could not leave this host.
    Connecting,
    /// No backend may serve this client.
    NoneEligible,
    /// All backends that could serve this client are full, and nobody else may wait for them.
    QueueFull,
    /// All backends that could serve this client are full: it waits for a place.
    Queued,
    /// The client that waited has got a place. [`Input::Connecting`] or [`Input::ConnectFailed`] follows.
    Placed,
    /// The answer to [`Action::Answer`]: so many bytes wait for the client.
    Answered {
        /// How many.
        bytes: usize,
    },
    /// The connect has succeeded.
    Connected,
    /// The connect has failed, or could not be begun; its socket is closed already.
    ConnectFailed {
        /// Why; see [`Relay::judge`] for what a cancelled connect stands for.
        errno: Errno,
        /// Whether another backend may do better.
        retry: bool,
        /// Whether it uses up one of the client's attempts.
        counted: bool,
    },
    /// Bytes of this side were queued for the other one (or discarded: [`Relay::discards`]).
    Received {
        /// Whose bytes.
        side: Side,
        /// How many.
        bytes: usize,
        /// Whether the receive goes on.
        more: bool,
    },
    /// A receive is over without bytes.
    ReceiveEnded(Side, ReceiveEnd),
    /// A splice from this side is over without bytes, because there was no pipe or nothing that can be spliced.
    Unspliced(Side),
    /// Buffers are there again for a side that was told to wait for them.
    BuffersFree(Side),
    /// A send to this side is over; so many bytes were taken from its queue, none where it ended only to be asked for anew.
    Sent {
        /// Whose send.
        side: Side,
        /// How many bytes the kernel took.
        bytes: usize,
        /// Whether that was all it was given.
        whole: bool,
    },
    /// A send to this side has failed.
    SendFailed(Side, Errno),
    /// Our stream to this side could not be ended: it has reset the connection.
    ShutdownFailed(Side, Errno),
    /// The watch on this side has seen its end.
    HungUp {
        /// Whose.
        side: Side,
        /// A reset; otherwise the end of its stream, which the next receive will see for itself.
        reset: bool,
        /// Whether the watch goes on.
        more: bool,
    },
    /// The watch on this side is over.
    WatchEnded(Side),
    /// The answer to [`Action::PollUnsent`].
    Unsent(Side, usize),
    /// The answer to [`Action::Inspect`].
    Inspected {
        /// Whose connection.
        side: Side,
        /// Whether bytes of ours are not acknowledged, those behind a closed window included.
        outstanding: bool,
        /// Whether something of ours, a probe of a closed window too, is unanswered at this moment.
        unanswered: bool,
        /// A number that changes whenever the peer is heard.
        heard: u32,
    },
    /// Buffers are short: what waits for this side should give its buffers back if its send makes no progress.
    Reclaim(Side),
    /// End the session now.
    Kill(Kill),
    /// The deadline may have passed.
    Tick,
}

/// Why a receive ended without bytes, after a reset in disguise was told from an end of stream.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum ReceiveEnd {
    /// The peer has ended its stream.
    Eof,
    /// No buffer was free.
    Starved,
    /// The relay had it cancelled, or the kernel ended it without a cause: receive again where wanted.
    Cancelled,
    /// The connection is broken.
    Failed(Errno),
}

/// What is to be done.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Choose a backend and connect to it; answer [`Input::Connecting`], [`Input::NoneEligible`], [`Input::Queued`],
    /// [`Input::QueueFull`] or [`Input::ConnectFailed`].
    Choose,
    /// Leave the queue for a place.
    LeaveQueue,
    /// Cancel the connect.
    CancelConnect,
    /// Throw away what waits for this side; none of it is in flight.
    Drop(Side),
    /// Copy what waits for this side out of the receive buffers; none of it is in flight.
    Spill(Side),
    /// Send what waits for this side.
    Send(Side),
    /// Cancel the send to this side.
    CancelSend(Side),
    /// Receive from this side.
    Receive {
        /// From whom.
        side: Side,
        /// One large piece, instead of small ones until further notice.
        bulk: bool,
    },
    /// Splice from this side, once: what comes next goes into a pipe, and is sent from there. Answer [`Input::Received`],
    /// [`Input::ReceiveEnded`] or [`Input::Unspliced`].
    Splice(Side),
    /// Tell [`Input::BuffersFree`] when it is worth while to receive from this side again.
    AwaitBuffers {
        /// Who waits.
        side: Side,
        /// For a large one.
        bulk: bool,
    },
    /// Cancel the receive, or the splice, from this side.
    CancelReceive(Side),
    /// Watch this side for a hang-up.
    Watch(Side),
    /// Cancel the watch on this side.
    CancelWatch(Side),
    /// End our stream to this side.
    Shutdown(Side),
    /// Ask how much of ours this side has not acknowledged.
    PollUnsent(Side),
    /// Ask how this side's connection stands.
    Inspect(Side),
    /// Close this side's socket; nothing is in flight on it. What waits for it is thrown away.
    Close(Side),
    /// The same, with a reset.
    Reset(Side),
    /// See whether what waits for the backend begins with the client's header; answer [`Input::HeaderRead`],
    /// [`Input::HeaderWrong`], [`Input::ClientRefused`], or nothing while it is incomplete.
    ReadHeader,
    /// Queue for the client what tells it that nobody serves; answer [`Input::Answered`].
    Answer,
    /// [`Input::Tick`] is wanted at this time, and not before.
    Deadline(Time),
    /// All is closed; this is the last action.
    Finished(CloseReason),
}

/// Who ends sessions from outside.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Kill {
    /// The process stops and the time to drain is over.
    Shutdown,
    /// The session's backend has gone down by its active checks.
    BackendDown,
    /// An operator has asked for it.
    Operator,
}

/// Why a session ended; the first cause counts, and there is exactly one.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Both streams ended in order; this side's was the first.
    Eof(Side),
    /// This side's connection broke: `ECONNRESET` for a reset, `ETIMEDOUT` for a keepalive unanswered ...
    Failed(Side, Errno),
    /// This side left bytes of ours unanswered for the dead-peer timeout.
    DeadPeer(Side),
    /// No byte either way for the idle timeout.
    IdleTimeout,
    /// It has lasted as long as a session may.
    MaxDuration,
    /// Its listener does not serve clients from there.
    Denied,
    /// Its client had as many sessions as one may have.
    ClientLimit,
    /// Its PROXY protocol header was refused.
    Header(HeaderFault),
    /// No backend could serve.
    NoBackend,
    /// All backends that could serve were full, and so was the queue.
    QueueFull,
    /// It got no place in time.
    QueueTimeout,
    /// The last connect that was tried failed so.
    ConnectFailed(Errno),
    /// The last connect that was tried, or all together, took too long.
    ConnectTimeout,
    /// ringlb itself lacked something (descriptors, memory, ports).
    Internal(Errno),
    /// Somebody ended it.
    Killed(Kill),
    /// Its worker has failed.
    WorkerFailed,
}

impl CloseReason {
    /// Every label, in the order of the documentation.
    pub const LABELS: [&str; 39] = [
        "client_eof",
        "backend_eof",
        "client_reset",
        "backend_reset",
        "client_error",
        "backend_error",
        "client_dead",
        "backend_dead",
        "idle_timeout",
        "max_session_duration",
        "denied",
        "client_limit",
        "no_backend",
        "queue_full",
        "queue_timeout",
        "connect_failed",
        "connect_timeout",
        "backend_down",
        "killed",
        "shutdown",
        "internal",
        "worker_failed",
        "proxy_untrusted",
        "proxy_timeout",
        "proxy_unfinished",
        "proxy_no_header",
        "proxy_v1_protocol",
        "proxy_v1_line",
        "proxy_v1_fields",
        "proxy_v1_address",
        "proxy_v1_port",
        "proxy_v2_version",
        "proxy_v2_command",
        "proxy_v2_family",
        "proxy_v2_protocol",
        "proxy_v2_short",
        "proxy_v2_long",
        "proxy_v2_extensions",
        "proxy_v2_checksum",
    ];

    /// Where its label stands among [`LABELS`](CloseReason::LABELS).
    pub fn number(self) -> usize {
        let label = self.label();
        let found = CloseReason::LABELS.iter().position(|known| *known == label);
        found.unwrap_or_else(|| unreachable!("LABELS has every label: {label}"))
    }

    /// The label of metrics and logs: one of a closed list.
    pub const fn label(self) -> &'static str {
        match self {
            CloseReason::Eof(Side::Client) => "client_eof",
            CloseReason::Eof(Side::Backend) => "backend_eof",
            CloseReason::Failed(Side::Client, Errno::ECONNRESET) => "client_reset",
            CloseReason::Failed(Side::Backend, Errno::ECONNRESET) => "backend_reset",
            CloseReason::Failed(Side::Client, _) => "client_error",
            CloseReason::Failed(Side::Backend, _) => "backend_error",
            CloseReason::DeadPeer(Side::Client) => "client_dead",
            CloseReason::DeadPeer(Side::Backend) => "backend_dead",
            CloseReason::IdleTimeout => "idle_timeout",
            CloseReason::MaxDuration => "max_session_duration",
            CloseReason::Denied => "denied",
            CloseReason::ClientLimit => "client_limit",
            CloseReason::Header(fault) => fault.label(),
            CloseReason::NoBackend => "no_backend",
            CloseReason::QueueFull => "queue_full",
            CloseReason::QueueTimeout => "queue_timeout",
            CloseReason::ConnectFailed(_) => "connect_failed",
            CloseReason::ConnectTimeout => "connect_timeout",
            CloseReason::Internal(_) => "internal",
            CloseReason::WorkerFailed => "worker_failed",
            CloseReason::Killed(Kill::Shutdown) => "shutdown",
            CloseReason::Killed(Kill::BackendDown) => "backend_down",
            CloseReason::Killed(Kill::Operator) => "killed",
        }
    }

    /// The errno behind it, where there is one.
    pub const fn errno(self) -> Option<Errno> {
        match self {
            CloseReason::Failed(_, errno) | CloseReason::ConnectFailed(errno) | CloseReason::Internal(errno) => {
                Some(errno)
            }
            _ => None,
        }
    }
}

/// Why a client was closed that should have sent a PROXY protocol header.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum HeaderFault {
    /// It may not send one.
    Untrusted,
    /// It has not sent all of it in time.
    Late,
    /// It has ended its stream before.
    Unfinished,
    /// It has sent something else.
    Wrong(Reason),
}

impl HeaderFault {
    /// See [`CloseReason::label`].
    pub const fn label(self) -> &'static str {
        match self {
            HeaderFault::Untrusted => "proxy_untrusted",
            HeaderFault::Late => "proxy_timeout",
            HeaderFault::Unfinished => "proxy_unfinished",
            HeaderFault::Wrong(reason) => reason.label(),
        }
    }
}

/// What the end of a connect means to the backend it was for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It failed with this errno.
    Failed(Errno),
    /// We gave up waiting.
    TimedOut,
    /// We had no use for it any more: it says nothing about the backend.
    Abandoned,
}
