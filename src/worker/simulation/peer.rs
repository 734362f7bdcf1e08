//! The programs at the far ends, and their kernels: each runs its script until the script has to wait.

use std::time::Duration;

use super::kernel::{Happening, Kernel};
use super::link::{LinkId, Stage};
use super::random::Chance;
use super::script::{Reading, Step};
use crate::time::Time;

/// A peer says no more than so many bytes ahead of what has arrived.
const SEND_QUEUE: u64 = 128 * 1024;

#[derive(Debug)]
pub(super) struct Peer {
    steps: Vec<Step>,
    at: usize,
    /// What is left of the bytes that it is saying.
    saying: Option<u64>,
    reading: Reading,
    /// It sleeps: the number tells this sleep from earlier ones.
    asleep: Option<u32>,
    sleeps: u32,
    reads: bool,
    pub(super) closed: bool,
    pub(super) reset: bool,
    pub(super) vanished: bool,
    pub(super) vanished_at: Time,
    pub(super) saw_end: bool,
    pub(super) saw_reset: bool,
}

impl Peer {
    pub(super) fn new(steps: Vec<Step>) -> Peer {
        Peer {
            steps,
            at: 0,
            saying: None,
            reading: Reading::Eagerly,
            asleep: None,
            sleeps: 0,
            reads: false,
            closed: false,
            reset: false,
            vanished: false,
            vanished_at: Time::ZERO,
            saw_end: false,
            saw_reset: false,
        }
    }

    /// Nothing more comes from it by itself.
    pub(super) fn is_over(&self) -> bool {
        self.closed || self.reset || self.vanished
    }
}

impl Kernel {
    /// Runs the peer's script as far as it goes.
    pub(super) fn run_peer(&mut self, id: LinkId) {
        while self.step(id) {}
    }

    pub(super) fn wake_peer(&mut self, id: LinkId, sleep: u32) {
        let peer = &mut self.link_mut(id).peer;
        if peer.asleep == Some(sleep) {
            peer.asleep = None;
            self.run_peer(id);
        }
    }

    /// The peer stops whatever it does and leaves in order.
    pub(super) fn hurry_peer(&mut self, id: LinkId) {
        let link = self.link_mut(id);
        if link.peer.is_over() || link.stage != Stage::Established {
            return;
        }
        link.peer.reading = Reading::Eagerly;
        link.peer.asleep = None;
        link.peer.saying = None;
        link.peer.steps = vec![Step::Fin, Step::AwaitEnd, Step::Close];
        link.peer.at = 0;
        self.peer_reads(id);
        self.run_peer(id);
    }

    /// One step; whether there may be another.
    fn step(&mut self, id: LinkId) -> bool {
        let link = self.link_mut(id);
        if link.peer.is_over() || link.peer.asleep.is_some() || link.stage != Stage::Established {
            return false;
        }
        let over = link.peer.saw_reset;
        let ended = link.peer.saw_end || over;
        if let Some(left) = link.peer.saying {
            return self.say(id, left);
        }
        let read = link.outbound.read;
        let step = link.peer.steps.get(link.peer.at).copied().unwrap_or(Step::Close);
        let done = match step {
            _ if over => {
                link.peer.closed = true;
                return false;
            }
            Step::Await(bytes) => ended || read >= bytes,
            Step::AwaitEnd => ended,
            Step::Echo => match read - link.inbound.written {
                0 => ended,
                more => {
                    link.peer.saying = Some(more);
                    return true;
                }
            },
            _ => true,
        };
        if !done {
            return false;
        }
        link.peer.at += 1;
        match step {
            Step::Say(bytes) => link.peer.saying = Some(bytes),
            Step::Sleep(nap) => self.sleep(id, nap),
            Step::Read(reading) => {
                link.peer.reading = reading;
                self.peer_reads(id);
            }
            Step::Fin => self.peer_fin(id),
            Step::Close => self.peer_close(id),
            Step::Reset => self.peer_reset(id),
            Step::Vanish => self.peer_vanish(id),
            Step::Await(_) | Step::AwaitEnd | Step::Echo => {}
        }
        true
    }

    fn say(&mut self, id: LinkId, left: u64) -> bool {
        if left == 0 || self.link(id).peer.saw_reset || self.link(id).inbound.fin_written {
            self.link_mut(id).peer.saying = None;
            return true;
        }
        let link = self.link(id);
        let room = SEND_QUEUE.saturating_sub(link.inbound.written - link.inbound.arrived);
        if room == 0 {
            return false;
        }
        let whole = self.random.coin();
        let piece = if whole { left } else { self.random.between(1, left) }.min(room);
        let link = self.link_mut(id);
        link.inbound.written += piece;
        link.peer.saying = Some(left - piece);
        self.move_inbound(id);
        if piece < left && self.random.chance(Chance(300)) {
            let nap = self.random.up_to(Duration::from_millis(3));
            self.sleep(id, nap);
        }
        true
    }

    fn sleep(&mut self, id: LinkId, nap: Duration) {
        let peer = &mut self.link_mut(id).peer;
        peer.sleeps += 1;
        peer.asleep = Some(peer.sleeps);
        let sleep = peer.sleeps;
        self.after(nap, Happening::PeerWakes(id, sleep));
    }

    fn peer_fin(&mut self, id: LinkId) {
        self.link_mut(id).inbound.fin_written = true;
        self.move_inbound(id);
    }

    fn peer_close(&mut self, id: LinkId) {
        let link = self.link_mut(id);
        if link.outbound.arrived > link.outbound.read {
            return self.peer_reset(id);
        }
        link.peer.closed = true;
        self.peer_fin(id);
    }

    /// The peer's kernel resets the connection.
    pub(super) fn peer_reset(&mut self, id: LinkId) {
        let link = self.link_mut(id);
        if link.peer.reset || link.peer.vanished || link.peer.saw_reset {
            return;
        }
        link.peer.reset = true;
        let latency = link.path.latency;
        self.after(latency, Happening::ResetArrives(id));
    }

    fn peer_vanish(&mut self, id: LinkId) {
        let now = self.now;
        let peer = &mut self.link_mut(id).peer;
        peer.vanished = true;
        peer.vanished_at = now;
        self.seen.vanished += 1;
        if self.random.coin() {
            let keepalive = Duration::from_secs(self.random.between(5, 200));
            self.after(keepalive, Happening::PathLost(id));
        }
    }

    /// Something has arrived at the peer, or it may read again.
    pub(super) fn peer_reads(&mut self, id: LinkId) {
        let link = self.link_mut(id);
        if link.peer.is_over() {
            return;
        }
        match link.peer.reading {
            Reading::Eagerly => link.outbound.read = link.outbound.arrived,
            Reading::NotAtAll => {}
            Reading::Slowly { every, .. } => {
                if link.outbound.read < link.outbound.arrived && !link.peer.reads {
                    link.peer.reads = true;
                    self.after(every, Happening::PeerReads(id));
                }
            }
        }
        self.peer_looks(id);
    }

    pub(super) fn peer_reads_slowly(&mut self, id: LinkId) {
        let link = self.link_mut(id);
        link.peer.reads = false;
        if let Reading::Slowly { bytes, .. } = link.peer.reading {
            link.outbound.read = (link.outbound.read + bytes).min(link.outbound.arrived);
        }
        self.peer_reads(id);
    }

    /// Our reset has reached the peer; what had arrived before can still be read.
    pub(super) fn peer_is_reset(&mut self, id: LinkId) {
        let link = self.link_mut(id);
        if link.peer.vanished || link.peer.reset {
            return;
        }
        link.peer.saw_reset = true;
        link.outbound.read = link.outbound.arrived;
        link.peer.asleep = None;
        self.run_peer(id);
    }

    fn peer_looks(&mut self, id: LinkId) {
        let link = self.link_mut(id);
        if link.outbound.fin_arrived && link.outbound.read == link.outbound.arrived {
            link.peer.saw_end = true;
        }
        self.move_outbound(id);
        self.run_peer(id);
    }
}
