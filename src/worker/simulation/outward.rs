//! From the owner to the peer: sends, delivery, acknowledgements and connects.

use std::time::Duration;

use super::faults::Sabotage;
use super::kernel::{Happening, Kernel};
use super::link::{Job, LinkId, Stage};
use super::random::Chance;
use super::script::Step;
use crate::engine::{Event, OpKind};
use crate::errno::Errno;

/// How connects fail.
const CONNECT_ERRORS: &[Errno] = &[
    Errno::ECONNREFUSED,
    Errno::ECONNREFUSED,
    Errno::ECONNREFUSED,
    Errno::ECONNRESET,
    Errno::ETIMEDOUT,
    Errno::EHOSTUNREACH,
    Errno::ENETUNREACH,
    Errno::EADDRNOTAVAIL,
    Errno::EACCES,
    Errno::EPERM,
    Errno::ENOBUFS,
];

/// How a backend answers connects.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Serves,
    Refuses,
    /// It says nothing: the connect ends when it is given up.
    Hangs,
}

impl Kernel {
    /// Sets what our kernel holds for the peer on its way, if there is anything and nothing is yet.
    pub(super) fn move_outbound(&mut self, id: LinkId) {
        let link = self.link_mut(id);
        let bytes = link.outbound.taken > link.outbound.arrived;
        let fin = link.outbound.shut.is_some() && !link.outbound.fin_arrived;
        let more = if bytes { link.room_out() > 0 || link.peer.closed } else { fin };
        let live = link.gone.is_none() && !link.peer.vanished && !link.outbound.dropped && link.established();
        if more && live && !link.outbound.moving {
            link.outbound.moving = true;
            let latency = link.path.latency;
            self.after(latency, Happening::Delivered(id));
        }
    }

    pub(super) fn delivered(&mut self, id: LinkId) {
        let random = self.random.next();
        let link = self.link_mut(id);
        link.outbound.moving = false;
        if link.gone.is_some() || link.peer.vanished || link.outbound.dropped || link.peer.reset {
            return;
        }
        let waiting = link.outbound.taken - link.outbound.arrived;
        if link.peer.closed && waiting > 0 {
            // Data for nobody: the peer's kernel resets.
            return self.peer_reset(id);
        }
        let mut bytes = waiting.min(link.room_out());
        if bytes > 1 && random & 1 == 1 {
            bytes = 1 + (random >> 1) % bytes;
        }
        link.outbound.arrived += bytes;
        let complete = link.outbound.arrived == link.outbound.taken && link.outbound.shut.is_some();
        link.outbound.fin_arrived = complete && (bytes == 0 || random & 2 == 2);
        let (up_to, fin) = (link.outbound.arrived, link.outbound.fin_arrived);
        match link.path.acknowledged_after {
            Duration::ZERO => self.acknowledged(id, up_to, fin),
            lag => self.after(lag, Happening::Acknowledged { link: id, up_to, fin }),
        }
        self.peer_reads(id);
        self.move_outbound(id);
    }

    pub(super) fn acknowledged(&mut self, id: LinkId, up_to: u64, fin: bool) {
        let link = self.link_mut(id);
        if link.gone.is_some() || link.peer.vanished {
            return;
        }
        link.outbound.acknowledged = link.outbound.acknowledged.max(up_to);
        link.outbound.fin_acknowledged |= fin;
        self.wake(id, OpKind::Send);
    }

    /// Lets a send put into the send queue what has room.
    pub(super) fn drive_send(&mut self, id: LinkId) {
        let link = self.link_mut(id);
        let room = link.path.send_queue.saturating_sub(link.outbound.taken - link.outbound.acknowledged);
        let gone = link.gone.is_some();
        let error = link.error;
        let Some(op) = link.running(OpKind::Send) else { return };
        let Job::Send { bytes, done, .. } = &mut op.job else {
            if gone || room > 0 {
                self.complete(id, OpKind::Send, Event::Writable, true);
            }
            return;
        };
        if gone {
            let done = *done;
            link.error = None;
            return self.break_send(id, done, error.unwrap_or(Errno::EPIPE));
        }
        let now = room.min(*bytes - *done);
        *done += now;
        let whole = *done == *bytes;
        let bytes = *bytes as usize;
        link.outbound.taken += now;
        if whole {
            if self.plant(Sabotage::LoseTail) {
                self.link_mut(id).outbound.taken -= 1;
            }
            self.complete(id, OpKind::Send, Event::Sent { bytes, whole }, true);
        }
        self.move_outbound(id);
    }

    /// A send meets a dead connection: it tells the error only if it had taken nothing before.
    fn break_send(&mut self, id: LinkId, done: u64, errno: Errno) {
        let event = match done {
            0 => Event::SendFailed(errno),
            _ => {
                self.seen.short += 1;
                Event::Sent { bytes: done as usize, whole: false }
            }
        };
        self.complete(id, OpKind::Send, event, true);
    }

    /// The cancel of a send takes effect.
    pub(super) fn cancel_send(&mut self, id: LinkId) {
        self.drive_send(id);
        let Some(op) = self.link_mut(id).running(OpKind::Send) else { return };
        let event = match op.job {
            Job::Writable | Job::Send { done: 0, .. } => Event::SendFailed(Errno::ECANCELED),
            Job::Send { done, .. } => {
                self.seen.recalled += 1;
                Event::Sent { bytes: done as usize, whole: false }
            }
            Job::Readable | Job::Receive { .. } | Job::Connect | Job::Watch { .. } => unreachable!("a send"),
        };
        self.complete(id, OpKind::Send, event, true);
    }

    /// A connect begins: how it will end, and when, is drawn here.
    pub(super) fn drive_connect(&mut self, id: LinkId) {
        let Some(op) = self.link_mut(id).running(OpKind::Connect) else { return };
        let serial = op.serial;
        let latency = self.link(id).path.latency * 2;
        let link = self.link(id);
        match link.port.and_then(|port| self.manners.get(&port)) {
            Some(Manner::Serves) => return self.after(latency, Happening::ConnectEnds(id, serial, Ok(()))),
            Some(Manner::Refuses) => {
                return self.after(latency, Happening::ConnectEnds(id, serial, Err(Errno::ECONNREFUSED)));
            }
            Some(Manner::Hangs) => return,
            None => {}
        }
        if self.random.chance(self.faults.connect_hangs) {
            return;
        }
        if self.random.chance(self.faults.connect_fails) {
            let errno = self.random.pick(CONNECT_ERRORS);
            let slow = self.random.chance(Chance(100));
            let delay = if slow { self.random.up_to(Duration::from_secs(5)) } else { latency };
            return self.after(delay, Happening::ConnectEnds(id, serial, Err(errno)));
        }
        let slow = self.random.chance(self.faults.connect_hangs);
        let delay = if slow { self.random.up_to(Duration::from_secs(5)) } else { latency };
        self.after(delay, Happening::ConnectEnds(id, serial, Ok(())));
    }

    pub(super) fn connect_ends(&mut self, id: LinkId, serial: u64, result: Result<(), Errno>) {
        let Some(op) = self.link_mut(id).running(OpKind::Connect).filter(|op| op.serial == serial) else { return };
        let cancelled = op.cancelled.is_some();
        match result {
            Ok(()) => {
                self.seen.late_connects += u64::from(cancelled);
                self.complete(id, OpKind::Connect, Event::Connected, true);
                self.establish(id);
            }
            Err(errno) => self.fail_connect(id, errno),
        }
    }

    pub(super) fn fail_connect(&mut self, id: LinkId, errno: Errno) {
        self.seen.connect_failures += 1;
        let link = self.link_mut(id);
        (link.stage, link.refused) = (Stage::Failed, Some(errno));
        self.complete(id, OpKind::Connect, Event::ConnectFailed(errno), true);
    }

    /// The backend accepts: its program plays the part that was written for the client's.
    fn establish(&mut self, id: LinkId) {
        let client = self.link(id).partner.expect("a session's client is known when it is submitted");
        let plan = self.plans.get_mut(client.0 as usize).and_then(Option::take);
        let steps = plan.map_or_else(|| vec![Step::AwaitEnd, Step::Close], |plan| plan.backend);
        let link = self.link_mut(id);
        link.stage = Stage::Established;
        link.peer = super::peer::Peer::new(steps);
        if self.hurry {
            self.hurry_peer(id);
        }
        self.run_peer(id);
    }
}
