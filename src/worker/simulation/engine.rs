//! The kernel as the owner sees it, and the rules of the engine as assertions.

use std::time::Duration;

use super::inward::BURST;
use super::kernel::{Asked, Happening, Kernel, SimSocket};
use super::link::{Closing, Descriptor, Job, LinkId, Op, Stage};
use crate::address::Address;
use crate::engine::{
    Addresses, Buffers, Chain, Completion, Engine, Event, Inspection, OpKind, Owner, Piped, Receive, SocketOptions,
    Spliced,
};
use crate::errno::Errno;
use crate::limits::GATHER_MAX;
use crate::relay::Side;
use crate::time::Time;

/// How opening a socket fails.
const OPEN_ERRORS: &[Errno] = &[Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM, Errno::EAFNOSUPPORT];

impl Engine for Kernel {
    type Socket = SimSocket;

    fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }

    fn accept(&mut self, _owner: Owner, _listener: &SimSocket) {
        unreachable!("the simulation hands clients over itself");
    }

    fn receive(&mut self, owner: Owner, socket: &SimSocket, how: Receive) {
        assert!(self.link(socket.link).established(), "a receive on {:?}, which is not connected", socket.link);
        self.ask(owner, socket, OpKind::Receive, Job::Receive { how });
    }

    fn send(&mut self, owner: Owner, socket: &SimSocket, chain: &Chain) {
        let id = socket.link;
        let chunks = self.random.between(1, GATHER_MAX as u64) as usize;
        let link = self.link(id);
        assert!(link.established() && link.outbound.shut.is_none(), "a send on {id:?} before or after its stream");
        let slices = self.buffers.slices(chain).take(chunks);
        let bytes = self.audit_send(id, slices);
        let link = self.link(id);
        if link.partner.is_none_or(|partner| !self.link(partner).established()) {
            let talks = link.inbound.written > link.inbound.read;
            self.seen.answered += 1;
            self.seen.answered_talkers += u64::from(talks);
        }
        self.seen.spilt += u64::from(self.buffers.heap_bytes() > 0);
        let lent = self.buffers.lend(chain, chunks);
        self.ask(owner, socket, OpKind::Send, Job::Send { bytes, done: 0, lent });
    }

    fn await_readable(&mut self, owner: Owner, socket: &SimSocket) {
        assert!(self.link(socket.link).established(), "a wait for {:?}, which is not connected", socket.link);
        self.ask(owner, socket, OpKind::Receive, Job::Readable);
    }

    fn await_writable(&mut self, owner: Owner, socket: &SimSocket) {
        let link = self.link(socket.link);
        assert!(link.established() && link.outbound.shut.is_none(), "a wait for room after the end of a stream");
        self.ask(owner, socket, OpKind::Send, Job::Writable);
    }

    fn splice_in(&mut self, socket: &SimSocket) -> Spliced {
        self.fill_pipe(socket)
    }

    fn splice_out(&mut self, piped: &mut Piped, socket: &SimSocket) -> Result<usize, Errno> {
        self.empty_pipe(piped, socket)
    }

    fn discard_piped(&mut self, piped: Piped) {
        self.end_pipe(&piped);
    }

    fn spill_piped(&mut self, piped: Piped, chain: &mut Chain) {
        self.read_pipe(&piped, chain);
    }

    fn pipes_short(&self) -> bool {
        self.pipes.are_short()
    }

    /// Whoever still needs a byte of what is free finds a zero.
    fn tidy(&mut self, _freed: bool) -> bool {
        self.buffers.tidy(true);
        true
    }

    fn submit(&mut self) {
        self.begin_asked();
    }

    fn connect(&mut self, owner: Owner, socket: &SimSocket, address: &Address) {
        let port = address.inet().map_or(0, |address| address.port());
        self.connections.resize(self.connections.len().max(usize::from(port) + 1), 0);
        self.connections[usize::from(port)] += 1;
        self.link_mut(socket.link).port = Some(port);
        self.connects.push((socket.link, port));
        let link = self.link_mut(socket.link);
        assert_eq!(link.stage, Stage::Fresh, "a second connect on {:?}", socket.link);
        link.stage = Stage::Connecting;
        self.ask(owner, socket, OpKind::Connect, Job::Connect);
    }

    fn watch(&mut self, owner: Owner, socket: &SimSocket) {
        assert!(self.link(socket.link).established(), "a watch on {:?}, which is not connected", socket.link);
        self.ask(owner, socket, OpKind::Watch, Job::Watch { told: None });
    }

    fn keep_alive(&mut self, socket: &SimSocket, _idle: Duration) {
        let link = self.link_mut(socket.link);
        assert!(link.established(), "keepalive on {:?}, which is not connected", socket.link);
        link.probed = true;
    }

    fn cancel(&mut self, owner: Owner, kind: OpKind) {
        let Some(id) = self.audit.find(owner) else { return };
        let Some(op) = self.link_mut(id).op_mut(kind) else { return };
        op.cancelled.get_or_insert(BURST.saturating_sub(op.outstanding));
        if !op.over {
            let serial = op.serial;
            self.asked.push(Asked::Cancel(id, kind, serial));
        }
    }

    fn close(&mut self, socket: SimSocket) {
        let id = socket.link;
        self.end_descriptor(socket, false);
        let link = self.link_mut(id);
        if link.unread() > 0 {
            self.reset_peer(id);
        } else if link.established() && link.outbound.shut.is_none() {
            link.outbound.shut = Some(Time::ZERO);
            self.move_outbound(id);
        }
    }

    fn reset(&mut self, socket: SimSocket) {
        let id = socket.link;
        self.end_descriptor(socket, true);
        self.reset_peer(id);
    }

    fn open(&mut self, _address: &Address, options: &SocketOptions) -> Result<SimSocket, Errno> {
        if self.random.chance(self.faults.open_fails) {
            self.seen.open_failures += 1;
            return Err(self.random.pick(OPEN_ERRORS));
        }
        let link = self.add_link(Side::Backend, Vec::new());
        self.link_mut(link).source = options.source;
        Ok(SimSocket { link, open: true })
    }

    fn shutdown_write(&mut self, socket: &SimSocket) -> Result<(), Errno> {
        self.audit_shutdown(socket.link);
        self.shutdown_write_unchecked(socket)
    }

    fn unsent(&mut self, socket: &SimSocket) -> usize {
        self.link(socket.link).unsent() as usize
    }

    fn inspect(&mut self, socket: &SimSocket) -> Inspection {
        let (now, coin) = (self.now, self.random.coin());
        let link = self.link_mut(socket.link);
        let alive = !link.peer.vanished && link.gone.is_none();
        let answered = (link.path.latency + link.path.acknowledged_after) * 2;
        let last = if link.peer.vanished { link.peer.vanished_at } else { now };
        if link.gone.is_none() && last.since(link.heard_at) > answered {
            // Whatever was outstanding at the last look was answered while it lived, a probe of a closed window too.
            link.heard = link.heard.wrapping_add(1);
            link.heard_at = last;
        }
        Inspection {
            closed: link.is_closed(),
            // Of a living peer's closed window only a probe can be unanswered for a moment.
            unanswered: link.unsent() > 0 && (!alive || link.in_flight() || coin),
            heard: link.heard,
            rtt_us: link.path.latency.as_micros() as u32,
        }
    }

    fn addresses(&mut self, _socket: &SimSocket) -> Addresses {
        let local = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, 80));
        Addresses { peer: Some(local.into()), local: Some(local.into()) }
    }

    fn wait(&mut self, timeout: Option<Duration>, completions: &mut Vec<Completion<SimSocket>>) -> Result<(), Errno> {
        self.begin_asked();
        let until = timeout.map_or(Time::NEVER, |timeout| self.now + timeout);
        let until = if self.random.chance(self.faults.interrupted) {
            self.seen.interrupted += 1;
            until.min(self.now + self.random.up_to(Duration::from_micros(100)))
        } else {
            until
        };
        self.pass(until);
        // The worker is late: more has happened by the time it looks.
        let late = if self.random.chance(self.faults.jump) {
            self.seen.late_turns += 1;
            self.random.up_to(Duration::from_secs(3))
        } else {
            self.random.up_to(Duration::from_micros(30))
        };
        self.run_on(self.now + late);
        self.hand_out(completions);
        Ok(())
    }
}

impl Kernel {
    /// A shutdown, whether or not it is due.
    pub(super) fn shutdown_write_unchecked(&mut self, socket: &SimSocket) -> Result<(), Errno> {
        let (id, now) = (socket.link, self.now);
        let link = self.link_mut(id);
        if link.is_closed() {
            self.seen.shut_refused += 1;
            return Err(Errno::ENOTCONN);
        }
        link.outbound.shut = Some(now);
        self.move_outbound(id);
        self.wake(id, OpKind::Watch);
        Ok(())
    }

    /// Registers an operation; it is submitted with the next wait.
    fn ask(&mut self, owner: Owner, socket: &SimSocket, kind: OpKind, job: Job) {
        let id = socket.link;
        self.bind(id, owner);
        let serial = self.next_serial();
        let slot = &mut self.link_mut(id).ops[super::link::op_index(kind)];
        assert!(slot.is_none(), "a second {kind:?} on {id:?} while one is in flight");
        let last_at = Time::ZERO;
        let op = Op { owner, serial, job, over: false, cancelled: None, stalled: false, outstanding: 0, last_at };
        *slot = Some(op);
        self.asked.push(Asked::Start(id, kind));
    }

    fn begin_asked(&mut self) {
        for asked in std::mem::take(&mut self.asked) {
            if self.tracing {
                eprintln!("{:>12} asked: {asked:?}", self.now.nanos() / 1000);
            }
            match asked {
                Asked::Start(id, OpKind::Watch) => self.start_watch(id),
                Asked::Start(id, kind) => self.drive(id, kind),
                Asked::Cancel(id, kind, serial) if self.random.chance(self.faults.slow_cancel) => {
                    let delay = self.random.up_to(Duration::from_millis(5));
                    self.after(delay, Happening::Cancels(id, kind, serial));
                }
                Asked::Cancel(id, kind, serial) => self.cancels(id, kind, serial),
            }
        }
    }

    /// A cancel takes effect, if its operation has not ended by itself.
    pub(super) fn cancels(&mut self, id: LinkId, kind: OpKind, serial: u64) {
        if self.link_mut(id).running(kind).is_none_or(|op| op.serial != serial) {
            return;
        }
        match kind {
            OpKind::Receive => self.cancel_receive(id),
            OpKind::Send => self.cancel_send(id),
            OpKind::Connect => self.fail_connect(id, Errno::ECANCELED),
            OpKind::Watch => self.complete(id, OpKind::Watch, Event::WatchEnded, true),
            OpKind::Accept => unreachable!("the simulation accepts for itself"),
        }
    }

    fn end_descriptor(&mut self, mut socket: SimSocket, reset: bool) {
        let id = socket.link;
        socket.open = false;
        let now = self.now;
        if self.tracing {
            eprintln!("{:>12} {} {id:?}", now.nanos() / 1000, if reset { "reset" } else { "close" });
        }
        let link = self.link(id);
        assert!(link.open(), "{id:?} is closed twice");
        assert!(link.idle(), "{id:?} is closed while something is in flight on it: {:?}", link.ops);
        let partner = link.partner.map(|partner| self.link(partner)).filter(|partner| partner.established());
        let closing = Closing {
            at: now,
            reset,
            unread: link.unread() > 0,
            whole: partner.is_none_or(|partner| partner.inbound.arrived == link.outbound.taken),
            passed: partner.is_none_or(|partner| partner.told.bytes == link.outbound.taken),
            delivered: link.outbound.acknowledged == link.outbound.taken,
        };
        if let Some(port) = link.port {
            self.connections[usize::from(port)] -= 1;
        }
        self.link_mut(id).descriptor = Descriptor::Closed(closing);
    }
}
