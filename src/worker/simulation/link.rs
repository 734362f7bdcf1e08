//! One TCP connection between ringlb and a simulated peer, as both ends' kernels see it.
//!
//! Bytes are only counted: what they are follows from the stream.

use std::net::IpAddr;
use std::time::Duration;

use super::peer::Peer;
use super::random::Random;
use super::stream::Stream;
use crate::engine::buffers::Lent;
use crate::engine::{OpKind, Owner, Receive};
use crate::errno::Errno;
use crate::relay::Side;
use crate::slots::Key;
use crate::time::Time;

/// Names a link. Never used twice in a run.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkId(pub(super) u32);

#[derive(Debug)]
pub(super) struct Link {
    pub(super) side: Side,
    pub(super) stage: Stage,
    pub(super) descriptor: Descriptor,
    /// The session that it belongs to, once its first operation has named it.
    pub(super) key: Option<Key>,
    /// The session's other link.
    pub(super) partner: Option<LinkId>,
    pub(super) ops: [Option<Op>; 4],
    pub(super) path: Path,
    /// What the peer says.
    pub(super) stream: Stream,
    pub(super) inbound: Inbound,
    pub(super) outbound: Outbound,
    /// Our kernel has given the connection up (`TCP_CLOSE` before its time).
    pub(super) gone: Option<Gone>,
    /// The pending error: told once, to whoever looks first.
    pub(super) error: Option<Errno>,
    /// Keepalive is on.
    pub(super) probed: bool,
    /// What `inspect` counts.
    pub(super) heard: u32,
    pub(super) heard_at: Time,
    pub(super) peer: Peer,
    /// Where it was to come from.
    pub(super) source: Option<IpAddr>,
    /// How its connect failed.
    pub(super) refused: Option<Errno>,
    /// The port that it was connected to.
    pub(super) port: Option<u16>,
    /// A client whose session must end in order: how many bytes each peer says.
    pub(super) clean: Option<[u64; 2]>,
    pub(super) told: Told,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Fresh,
    Connecting,
    Established,
    Failed,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Descriptor {
    /// Waits to be accepted.
    Queued,
    Open,
    Closed(Closing),
}

/// How, and in what state, the owner closed a descriptor.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Closing {
    pub(super) at: Time,
    pub(super) reset: bool,
    /// Input was left unread, which turned the close into a reset.
    pub(super) unread: bool,
    /// All that the partner's kernel had received was ours to send, and our kernel had taken it.
    pub(super) whole: bool,
    /// All that was received from the partner had been sent.
    pub(super) passed: bool,
    /// The peer had acknowledged all that our kernel had taken.
    pub(super) delivered: bool,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Gone {
    pub(super) at: Time,
    /// Reset by the peer; otherwise the path was lost (`ETIMEDOUT`).
    pub(super) reset: bool,
}

/// Delays and sizes of one link.
#[derive(Copy, Clone, Debug)]
pub(super) struct Path {
    pub(super) latency: Duration,
    pub(super) acknowledged_after: Duration,
    pub(super) send_queue: u64,
    pub(super) receive_queue: u64,
    pub(super) peer_queue: u64,
}

/// From the peer to us.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    pub(super) written: u64,
    pub(super) arrived: u64,
    pub(super) read: u64,
    pub(super) fin_written: bool,
    pub(super) fin_arrived: bool,
    /// Something is on its way.
    pub(super) moving: bool,
}

/// From us to the peer.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    pub(super) taken: u64,
    pub(super) arrived: u64,
    pub(super) acknowledged: u64,
    pub(super) read: u64,
    /// We have ended our stream.
    pub(super) shut: Option<Time>,
    pub(super) fin_arrived: bool,
    pub(super) fin_acknowledged: bool,
    /// The send queue was thrown away: nothing more arrives.
    pub(super) dropped: bool,
    pub(super) moving: bool,
}

/// What the owner has been told, counted when it is handed over.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) bytes: u64,
    pub(super) connected_at: Option<Time>,
    /// A genuine end of the stream: when, and the number of the event.
    pub(super) fin: Option<(Time, u64)>,
    /// When it learnt of a send's end.
    pub(super) sent_at: Time,
    /// When the owner last learnt of a byte that moved, by an operation that it had not cancelled.
    pub(super) active_at: Time,
    /// It was told that it may splice, and has not tried yet.
    pub(super) may_splice: bool,
    /// The truth: when the peer's reset reached our open socket.
    pub(super) reset_at: Option<Time>,
    /// Bytes came for the socket after it was closed, which our kernel answers with a reset.
    pub(super) orphaned: bool,
}

/// An operation in flight.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) owner: Owner,
    pub(super) serial: u64,
    pub(super) job: Job,
    /// The kernel has done with it; its last completion is on its way to the owner.
    pub(super) over: bool,
    /// The owner has asked for its end: so many more pieces it may still bring.
    pub(super) cancelled: Option<u32>,
    /// It has stopped because so many completions are outstanding.
    pub(super) stalled: bool,
    /// Completions that the owner has not had yet.
    pub(super) outstanding: u32,
    /// Its last completion's time: those of one operation stay in order.
    pub(super) last_at: Time,
}

#[derive(Debug)]
pub(super) enum Job {
    Receive {
        how: Receive,
    },
    /// Waits for something to receive.
    Readable,
    Send {
        bytes: u64,
        done: u64,
        lent: Lent,
    },
    /// Waits for room to send.
    Writable,
    Connect,
    Watch {
        told: Option<Seen>,
    },
}

/// What a poll shows: end of stream, error, both directions over.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) end: bool,
    pub(super) error: bool,
    pub(super) over: bool,
}

impl Path {
    pub(super) fn draw(random: &mut Random, slowest: Duration) -> Path {
        let queue = |random: &mut Random| 1 << random.between(11, 18);
        Path {
            latency: random.up_to(slowest),
            acknowledged_after: if random.coin() { random.up_to(slowest * 4) } else { Duration::ZERO },
            send_queue: queue(random),
            receive_queue: queue(random),
            peer_queue: queue(random),
        }
    }
}

impl Link {
    pub(super) fn new(side: Side, stream: Stream, path: Path, peer: Peer) -> Link {
        let (stage, descriptor) = match side {
            Side::Client => (Stage::Established, Descriptor::Queued),
            Side::Backend => (Stage::Fresh, Descriptor::Open),
        };
        Link {
            side,
            stage,
            descriptor,
            key: None,
            partner: None,
            ops: [None, None, None, None],
            path,
            stream,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            gone: None,
            error: None,
            probed: side == Side::Client,
            heard: 0,
            heard_at: Time::ZERO,
            peer,
            source: None,
            refused: None,
            port: None,
            clean: None,
            told: Told::default(),
        }
    }

    pub(super) fn op(&self, kind: OpKind) -> Option<&Op> {
        self.ops[op_index(kind)].as_ref()
    }

    pub(super) fn op_mut(&mut self, kind: OpKind) -> Option<&mut Op> {
        self.ops[op_index(kind)].as_mut()
    }

    /// The operation where the kernel still works on it.
    pub(super) fn running(&mut self, kind: OpKind) -> Option<&mut Op> {
        self.op_mut(kind).filter(|op| !op.over)
    }

    pub(super) fn idle(&self) -> bool {
        self.ops.iter().all(Option::is_none)
    }

    pub(super) fn open(&self) -> bool {
        self.descriptor == Descriptor::Open
    }

    pub(super) fn closing(&self) -> Option<Closing> {
        match self.descriptor {
            Descriptor::Closed(closing) => Some(closing),
            Descriptor::Queued | Descriptor::Open => None,
        }
    }

    pub(super) fn established(&self) -> bool {
        self.stage == Stage::Established
    }

    /// Both streams have ended and been acknowledged: the kernel calls this `TCP_CLOSE` too.
    pub(super) fn finished(&self) -> bool {
        self.inbound.fin_arrived && self.outbound.fin_acknowledged
    }

    /// `tcpi_state` is `TCP_CLOSE`.
    pub(super) fn is_closed(&self) -> bool {
        self.gone.is_some() || self.finished()
    }

    /// It was told that nobody serves it: something was said to it, or our stream ended, before anybody was connected to.
    pub(super) fn refused(&self, partner: Option<&Link>) -> bool {
        let told = self.outbound.taken > 0 || self.outbound.shut.is_some();
        self.side == Side::Client && told && !partner.is_some_and(Link::established)
    }

    pub(super) fn unread(&self) -> u64 {
        self.inbound.arrived - self.inbound.read
    }

    pub(super) fn room_in(&self) -> u64 {
        self.path.receive_queue.saturating_sub(self.unread())
    }

    pub(super) fn room_out(&self) -> u64 {
        self.path.peer_queue.saturating_sub(self.outbound.arrived - self.outbound.read)
    }

    /// `SIOCOUTQ`: the end of our stream counts as one; a reset changes nothing.
    pub(super) fn unsent(&self) -> u64 {
        let fin = self.outbound.shut.is_some() && !self.outbound.fin_acknowledged;
        self.outbound.taken - self.outbound.acknowledged + u64::from(fin)
    }

    /// Something of ours is on its way to the peer, or its acknowledgement on its way back.
    pub(super) fn in_flight(&self) -> bool {
        let waiting = self.outbound.taken > self.outbound.arrived;
        self.outbound.arrived > self.outbound.acknowledged || (waiting && self.room_out() > 0)
    }

    pub(super) fn seen(&self) -> Seen {
        let end = self.inbound.fin_arrived || self.gone.is_some();
        Seen { end, error: self.error.is_some(), over: self.gone.is_some() || (end && self.outbound.shut.is_some()) }
    }
}

pub(super) const fn op_index(kind: OpKind) -> usize {
    match kind {
        OpKind::Receive => 0,
        OpKind::Send => 1,
        OpKind::Connect => 2,
        OpKind::Watch => 3,
        OpKind::Accept => panic!("an accept belongs to no link"),
    }
}
