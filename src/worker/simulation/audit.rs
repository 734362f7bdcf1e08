//! What must hold while a session lives: whose bytes go where, and whose end is told to whom.

use super::kernel::{Kernel, SimSocket};
use super::link::{Link, LinkId};
use crate::engine::{Event, OpKind, Owner, ReceiveEnd};
use crate::errno::Errno;
use crate::limits::DIRECTION_BYTES_MAX;
use crate::relay::Side;
use crate::slots::Key;
use crate::wire::refusal::HTTP_503;
use crate::worker::session::role;

/// Which links belong to which session.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// By slot.
    pairs: Vec<Option<Pair>>,
    /// Completions handed over.
    pub(super) events: u64,
}

/// The links of one session.
#[derive(Copy, Clone, Debug)]
pub(super) struct Pair {
    pub(super) key: Key,
    pub(super) client: Option<LinkId>,
    /// The last one, where several were tried.
    pub(super) backend: Option<LinkId>,
    /// The ports tried, as bits.
    tried: u64,
}

impl Pair {
    pub(super) fn link(&self, side: Side) -> Option<LinkId> {
        match side {
            Side::Client => self.client,
            Side::Backend => self.backend,
        }
    }
}

impl Audit {
    /// The owner's link.
    pub(super) fn find(&self, owner: Owner) -> Option<LinkId> {
        let pair = self.pairs.get(owner.key.index() as usize)?.filter(|pair| pair.key == owner.key)?;
        pair.link(if owner.role == role(Side::Client) { Side::Client } else { Side::Backend })
    }

    /// A session has ended: its links. Only once.
    pub(super) fn take(&mut self, key: Key) -> Option<Pair> {
        self.pairs.get_mut(key.index() as usize)?.take_if(|pair| pair.key == key)
    }
}

impl Kernel {
    /// Notes that `id` belongs to `owner`: from its first operation to its end.
    pub(super) fn bind(&mut self, id: LinkId, owner: Owner) {
        let link = self.link_mut(id);
        assert!(owner.role == role(link.side), "{id:?} is a {} but the operation says {:?}", link.side, owner.role);
        assert!(link.open(), "an operation on {id:?}, which is closed");
        if let Some(key) = link.key {
            assert_eq!(key, owner.key, "{id:?} has changed its session");
            return;
        }
        link.key = Some(owner.key);
        let side = link.side;
        let index = owner.key.index() as usize;
        if self.audit.pairs.len() <= index {
            self.audit.pairs.resize(index + 1, None);
        }
        let mut pair = match self.audit.pairs[index] {
            Some(pair) if pair.key == owner.key => pair,
            Some(old) => panic!("slot {index} is used again before {old:?} has ended"),
            None => Pair { key: owner.key, client: None, backend: None, tried: 0 },
        };
        match side {
            Side::Client => assert!(pair.client.replace(id).is_none(), "a session with two clients"),
            Side::Backend => {
                let old_backend = pair.backend;
                if let Some(old) = pair.backend.replace(id) {
                    assert!(self.link(old).closing().is_some(), "a second backend while {old:?} is open");
                }
                let port = 1 << (self.link(id).port.expect("bound by its connect") % 64);
                let again = self.goes_on_from(old_backend, id);
                assert!(again || pair.tried & port == 0, "a client is given the same backend twice");
                pair.tried |= port;
                self.seen.sources_left += u64::from(again);
            }
        }
        self.audit.pairs[index] = Some(pair);
        if let (Some(client), Some(backend)) = (pair.client, pair.backend) {
            self.link_mut(client).partner = Some(backend);
            self.link_mut(backend).partner = Some(client);
        }
    }

    /// Whether `new` is a further connect to the backend of `old`, from another address than that one, which had no port.
    fn goes_on_from(&self, old: Option<LinkId>, new: LinkId) -> bool {
        let Some(old) = old.map(|old| self.link(old)) else { return false };
        let new = self.link(new);
        let same = old.port == new.port && old.refused == Some(Errno::EADDRNOTAVAIL);
        same && old.source.is_some() && new.source.is_some() && old.source != new.source
    }

    fn partner(&self, id: LinkId) -> Option<&Link> {
        self.link(id).partner.map(|partner| self.link(partner))
    }

    /// Bytes are to be sent on `id`: they must be the next of what the partner has said. Gives their number.
    pub(super) fn audit_send<'a>(&self, id: LinkId, slices: impl Iterator<Item = &'a [u8]>) -> u64 {
        let link = self.link(id);
        let Some(partner) = self.partner(id).filter(|partner| partner.established()) else {
            assert_eq!(link.side, Side::Client, "bytes for a backend without a client");
            let said: Vec<u8> = slices.flatten().copied().collect();
            let rest = &HTTP_503.as_bytes()[link.outbound.taken as usize..];
            assert_eq!(said, rest, "{id:?} is told something else than that nobody serves it");
            return said.len() as u64;
        };
        let mut offset = link.outbound.taken;
        for slice in slices {
            let same = partner.stream.matches(offset, slice);
            assert!(same, "{id:?} is sent something else than what its partner said, at {offset} + {}", slice.len());
            offset += slice.len() as u64;
        }
        assert!(offset > link.outbound.taken, "a send of nothing on {id:?}");
        assert!(offset <= partner.told.bytes, "{id:?} is sent bytes that were never received");
        offset - link.outbound.taken
    }

    /// Our stream on `id` is to end: only after the whole of the partner's, in order.
    pub(super) fn audit_shutdown(&self, id: LinkId) {
        let link = self.link(id);
        assert!(link.op(OpKind::Send).is_none(), "a shutdown of {id:?} under a send");
        assert!(link.outbound.shut.is_none(), "a second shutdown of {id:?}");
        match self.partner(id).filter(|partner| partner.established()) {
            Some(partner) => {
                let fin = partner.told.fin;
                let Some((fin_at, _)) = fin else {
                    panic!("{id:?} is told of an end that its partner has not come to")
                };
                let missing = partner.inbound.arrived - link.outbound.taken;
                assert_eq!(missing, 0, "{id:?} is told of the end {missing} bytes before it");
                let connected_at = link.told.connected_at.or(partner.told.connected_at);
                let due = fin_at.max(link.told.sent_at).max(connected_at.expect("somebody was connected to"));
                assert_eq!(self.now, due, "{id:?} is told of the end later than it could be");
            }
            None => assert_eq!(link.side, Side::Client, "a backend without a client"),
        }
    }

    /// The owner is about to learn of `event`.
    pub(super) fn audit_begin(&mut self, id: LinkId, kind: OpKind, event: &Event<SimSocket>) {
        self.audit.events += 1;
        let (now, number) = (self.now, self.audit.events);
        let link = self.link_mut(id);
        let cancelled = link.op(kind).is_some_and(|op| op.cancelled.is_some());
        let fin = link.inbound.fin_written && link.inbound.fin_arrived && link.unread() == 0;
        let told = &mut link.told;
        match event {
            Event::Received { filled, .. } => told.bytes += filled.bytes() as u64,
            Event::ReceiveEnded(ReceiveEnd::Eof) if fin => {
                told.fin = Some((now, number));
                return;
            }
            Event::Connected => told.connected_at = Some(now),
            Event::Sent { .. } => told.sent_at = now,
            _ => return,
        }
        if !cancelled {
            told.active_at = now;
        }
        self.audit_bound(id);
    }

    /// The owner has moved bytes into a pipe.
    pub(super) fn audit_spliced(&mut self, id: LinkId, bytes: u64) {
        let now = self.now;
        let told = &mut self.link_mut(id).told;
        told.bytes += bytes;
        told.active_at = now;
        self.audit_bound(id);
    }

    /// The owner, splicing, has come to an end, which may be one in disguise.
    pub(super) fn audit_eof(&mut self, id: LinkId) {
        self.audit.events += 1;
        let (now, number) = (self.now, self.audit.events);
        let link = self.link_mut(id);
        if link.inbound.fin_written && link.unread() == 0 {
            link.told.fin = Some((now, number));
        }
    }

    /// A pipe is to be emptied into `id`: its bytes must be the next of what the partner has said.
    pub(super) fn audit_splice_out(&self, id: LinkId, from: LinkId, offset: u64, bytes: u64) {
        let link = self.link(id);
        assert!(link.established() && link.outbound.shut.is_none(), "a splice to {id:?} before or after its stream");
        assert!(link.op(OpKind::Send).is_none(), "a splice to {id:?} under a send");
        assert_eq!(link.partner, Some(from), "{id:?} is sent somebody else's bytes");
        let next = link.outbound.taken;
        assert_eq!(offset, next, "{id:?} is sent something else than what its partner said, at {next} + {bytes}");
        assert!(bytes > 0, "a splice of nothing to {id:?}");
    }

    /// The kernel has taken bytes out of a pipe.
    pub(super) fn audit_sent(&mut self, id: LinkId) {
        let now = self.now;
        let told = &mut self.link_mut(id).told;
        (told.sent_at, told.active_at) = (now, now);
    }

    /// What one direction holds has a bound while both ends are alive.
    fn audit_bound(&self, id: LinkId) {
        let link = self.link(id);
        let taken = match self.partner(id) {
            // A refused client's bytes are thrown away.
            partner if link.refused(partner) => return,
            Some(partner) if !partner.open() || partner.gone.is_some() => return,
            Some(partner) => partner.outbound.taken,
            None => 0,
        };
        let held = link.told.bytes.saturating_sub(taken);
        let alive = link.gone.is_none() && !link.peer.vanished;
        assert!(!alive || held <= DIRECTION_BYTES_MAX as u64, "{held} bytes of {id:?} are held");
    }
}
