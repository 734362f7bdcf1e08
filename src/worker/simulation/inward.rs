//! From the peer to the owner: arrivals, resets, receives and watches.

use std::time::Duration;

use super::faults::Sabotage;
use super::kernel::{Happening, Kernel};
use super::link::{Gone, Job, LinkId, Op};
use super::random::Chance;
use crate::engine::{Event, Filled, OpKind, Receive, ReceiveEnd};
use crate::errno::Errno;
use crate::limits::{BUFFER_BYTES, BULK_BUFFER_BYTES};

/// What one multishot receive can have outstanding, and can bring after it was cancelled: the kernel does not look up
/// before.
pub(super) const BURST: u32 = 33;

impl Kernel {
    /// Sets what the peer has said on its way, if there is anything and nothing is yet.
    pub(super) fn move_inbound(&mut self, id: LinkId) {
        let link = self.link_mut(id);
        let bytes = link.inbound.written > link.inbound.arrived;
        let more = (bytes && link.room_in() > 0) || (!bytes && link.inbound.fin_written && !link.inbound.fin_arrived);
        let live = link.gone.is_none() && !link.peer.vanished && link.established();
        if more && live && !link.inbound.moving {
            link.inbound.moving = true;
            let latency = link.path.latency;
            self.after(latency, Happening::Arrives(id));
        }
    }

    pub(super) fn arrives(&mut self, id: LinkId) {
        let random = self.random.next();
        let link = self.link_mut(id);
        link.inbound.moving = false;
        if link.gone.is_some() || link.peer.vanished || link.peer.reset {
            return;
        }
        let waiting = link.inbound.written - link.inbound.arrived;
        if link.closing().is_some() {
            if waiting > 0 {
                // Data for nobody.
                link.told.orphaned = true;
                self.seen.orphans += 1;
                self.reset_peer(id);
            } else {
                link.inbound.fin_arrived = true;
            }
            return;
        }
        let mut bytes = waiting.min(link.room_in());
        if bytes > 1 && random & 1 == 1 {
            bytes = 1 + (random >> 1) % bytes;
        }
        link.inbound.arrived += bytes;
        let complete = link.inbound.written == link.inbound.arrived && link.inbound.fin_written;
        link.inbound.fin_arrived = complete && (bytes == 0 || random & 2 == 2);
        let fin = link.inbound.fin_arrived;
        self.wake(id, OpKind::Receive);
        if fin {
            self.wake(id, OpKind::Watch);
        }
        self.move_inbound(id);
        self.run_peer(id);
        if self.plant(Sabotage::SpuriousReset) {
            self.reset_peer(id);
        }
    }

    pub(super) fn reset_arrives(&mut self, id: LinkId) {
        let (now, random) = (self.now, self.random.next());
        let link = self.link_mut(id);
        if link.gone.is_some() || link.peer.vanished || link.finished() || link.closing().is_some() {
            return;
        }
        // What was on its way may have come first.
        if random & 1 == 1 {
            let bytes = (link.inbound.written - link.inbound.arrived).min(link.room_in());
            link.inbound.arrived += if bytes > 0 { (random >> 2) % (bytes + 1) } else { 0 };
            let complete = link.inbound.written == link.inbound.arrived && link.inbound.fin_written;
            link.inbound.fin_arrived |= complete && random & 2 == 2;
        }
        link.inbound.written = link.inbound.arrived;
        link.told.reset_at = Some(now);
        self.seen.resets += 1;
        if self.plant(Sabotage::SilentReset) {
            return;
        }
        if self.plant(Sabotage::PoliteReset) {
            self.link_mut(id).inbound.fin_arrived = true;
            self.wake_all(id);
            return;
        }
        let link = self.link_mut(id);
        link.gone = Some(Gone { at: now, reset: true });
        link.error = Some(if link.inbound.fin_arrived { Errno::EPIPE } else { Errno::ECONNRESET });
        self.wake_all(id);
    }

    /// Lets an armed receive take what is there.
    pub(super) fn drive_receive(&mut self, id: LinkId) {
        if self.drive_readable(id) {
            return;
        }
        loop {
            let link = self.link_mut(id);
            let Some(op) = link.running(OpKind::Receive) else { return };
            if op.outstanding >= BURST || op.cancelled == Some(0) {
                op.stalled = true;
                self.seen.bursts += 1;
                return;
            }
            let Job::Receive { how } = op.job else { unreachable!("a receive") };
            if link.unread() == 0 {
                return self.receive_nothing(id);
            }
            if self.plant(Sabotage::EarlyEnd) {
                return self.end_receive(id, ReceiveEnd::Eof);
            }
            if self.random.chance(self.faults.starved) {
                self.seen.starved += 1;
                return self.end_receive(id, ReceiveEnd::Starved);
            }
            let Some(filled) = self.fill(id, how) else {
                self.seen.exhausted += 1;
                return self.end_receive(id, ReceiveEnd::Starved);
            };
            if let Some(left) = self.link_mut(id).running(OpKind::Receive).and_then(|op| op.cancelled.as_mut()) {
                *left -= 1;
                self.seen.after_cancel += 1;
            }
            self.seen.bytes += filled.bytes() as u64;
            self.seen.bulk_pieces += u64::from(how == Receive::Bulk);
            let more = how == Receive::Multishot && !self.random.chance(self.faults.receive_ends);
            self.complete(id, OpKind::Receive, Event::Received { filled, more }, !more);
            self.move_inbound(id);
        }
    }

    /// Lets a wait for something to receive see what is there, or what is not. Whether it is one.
    fn drive_readable(&mut self, id: LinkId) -> bool {
        let false_alarm = self.random.chance(self.faults.receive_ends) && self.random.chance(Chance(50));
        let link = self.link_mut(id);
        let ready = link.unread() > 0 || link.inbound.fin_arrived || link.gone.is_some() || false_alarm;
        if !matches!(link.running(OpKind::Receive), Some(Op { job: Job::Readable, .. })) {
            return false;
        }
        if ready {
            self.complete(id, OpKind::Receive, Event::Readable, true);
        }
        true
    }

    /// Takes the next bytes into a buffer.
    fn fill(&mut self, id: LinkId, how: Receive) -> Option<Filled> {
        let link = self.link(id);
        let most = match how {
            Receive::Multishot | Receive::Single => BUFFER_BYTES,
            Receive::Bulk => BULK_BUFFER_BYTES,
        };
        let bytes = link.stream.slice(link.inbound.read, most.min(link.unread() as usize));
        let mut taken = bytes.len();
        let spoilt = self.spoil(id, bytes, &mut taken);
        let bytes = spoilt.as_deref().unwrap_or(bytes);
        if self.plant(Sabotage::LeakBuffer) {
            self.leaked = self.buffers.fill(how, bytes);
        }
        let filled = match self.buffers.fill(how, bytes) {
            None if how == Receive::Bulk => {
                taken = taken.min(BUFFER_BYTES);
                self.buffers.fill(Receive::Multishot, &bytes[..taken])?
            }
            filled => filled?,
        };
        self.link_mut(id).inbound.read += taken as u64;
        Some(filled)
    }

    /// Plants a fault into received bytes, if one is due; `taken` is how many of the stream's bytes they stand for.
    fn spoil(&mut self, id: LinkId, bytes: &[u8], taken: &mut usize) -> Option<Vec<u8>> {
        let whole = 16..BUFFER_BYTES;
        // Only where somebody will receive it.
        let link = self.link(id);
        let partner = link.partner.filter(|partner| self.link(*partner).established());
        if self.sabotage.is_none() || !whole.contains(&bytes.len()) || partner.is_none() {
            return None;
        }
        let mut bytes = bytes.to_vec();
        if self.plant(Sabotage::DropByte) {
            bytes.remove(7);
        } else if self.plant(Sabotage::Repeat) {
            *taken = 0;
        } else if self.plant(Sabotage::Swap) {
            let half = bytes.len() / 2;
            bytes.rotate_left(half);
        }
        Some(bytes)
    }

    fn receive_nothing(&mut self, id: LinkId) {
        let link = self.link_mut(id);
        if link.inbound.fin_arrived {
            self.end_receive(id, ReceiveEnd::Eof);
        } else if link.gone.is_some() {
            match link.error.take() {
                Some(errno) => self.end_receive(id, ReceiveEnd::Failed(errno)),
                None => {
                    self.seen.swallowed += 1;
                    self.end_receive(id, ReceiveEnd::Eof);
                }
            }
        }
    }

    fn end_receive(&mut self, id: LinkId, end: ReceiveEnd) {
        self.complete(id, OpKind::Receive, Event::ReceiveEnded(end), true);
    }

    /// The cancel of a receive takes effect: it may still take what is there, and end with it.
    pub(super) fn cancel_receive(&mut self, id: LinkId) {
        if self.random.chance(Chance(200)) {
            self.drive_receive(id);
        }
        let Some(op) = self.link_mut(id).running(OpKind::Receive) else { return };
        let more = op.cancelled != Some(0) && matches!(op.job, Job::Receive { .. });
        if self.link(id).unread() > 0
            && more
            && self.random.chance(Chance(200))
            && let Some(filled) = self.fill(id, Receive::Multishot)
        {
            self.seen.after_cancel += 1;
            self.complete(id, OpKind::Receive, Event::Received { filled, more: false }, true);
            return self.move_inbound(id);
        }
        self.end_receive(id, ReceiveEnd::Cancelled);
    }

    /// Lets an armed watch say what it sees, if that is new.
    pub(super) fn drive_watch(&mut self, id: LinkId) {
        let link = self.link_mut(id);
        let seen = link.seen();
        let Some(op) = link.running(OpKind::Watch) else { return };
        let Job::Watch { told } = &mut op.job else { unreachable!("a watch") };
        if !(seen.end || seen.error || seen.over) || *told == Some(seen) {
            return;
        }
        *told = Some(seen);
        self.seen.hung_up += 1;
        let dropped = self.random.chance(self.faults.watch_drops);
        self.seen.watches_dropped += u64::from(dropped);
        if dropped && self.random.chance(Chance(300)) {
            return self.complete(id, OpKind::Watch, Event::WatchEnded, true);
        }
        self.complete(id, OpKind::Watch, Event::HungUp { reset: seen.error, more: !dropped }, dropped);
    }

    /// A watch is armed: it may be dropped before it sees anything.
    pub(super) fn start_watch(&mut self, id: LinkId) {
        self.drive_watch(id);
        if self.link_mut(id).running(OpKind::Watch).is_some()
            && self.random.chance(self.faults.watch_drops)
            && self.random.chance(Chance(300))
        {
            self.seen.watches_dropped += 1;
            self.complete(id, OpKind::Watch, Event::WatchEnded, true);
        }
    }

    /// Our kernel resets the peer: what waits for it is thrown away.
    pub(super) fn reset_peer(&mut self, id: LinkId) {
        let link = self.link_mut(id);
        if link.outbound.dropped || link.gone.is_some() || link.finished() || !link.established() {
            return;
        }
        link.outbound.dropped = true;
        let lost = link.outbound.taken > link.outbound.arrived;
        let latency = link.path.latency;
        self.seen.thrown_away += u64::from(lost);
        self.after(latency.max(Duration::from_nanos(1)), Happening::ResetDelivered(id));
    }
}
