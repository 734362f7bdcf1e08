//! The simulated kernel: a virtual clock, a queue of what will happen, and the links.
//!
//! Nothing happens by itself: [`Kernel::wait`](crate::engine::Engine::wait) lets time pass until something completes.
//! Whoever drives the owner calls [`Kernel::begin`] before it hands over each completion; up to then the operation
//! counts as in flight, as it does for the owner.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use super::audit::Audit;
use super::faults::{Faults, Sabotage};
use super::link::{Gone, Job, Link, LinkId, Op, Path};
use super::outward::Manner;
use super::peer::Peer;
use super::pipes::Pipes;
use super::random::Random;
use super::script::{Plan, Step};
use super::seen::Seen;
use super::stream::Stream;
use crate::engine::{Buffers, Completion, Event, Filled, OpKind, Owner};
use crate::errno::Errno;
use crate::relay::Side;
use crate::time::Time;

/// An open descriptor of the owner's.
#[derive(Debug)]
pub(super) struct SimSocket {
    pub(super) link: LinkId,
    pub(super) open: bool,
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        assert!(!self.open || std::thread::panicking(), "the descriptor of {:?} was dropped, not closed", self.link);
    }
}

/// What will happen at some time.
#[derive(Debug)]
pub(super) enum Happening {
    Complete(LinkId, OpKind, Event<SimSocket>, bool),
    Arrives(LinkId),
    Delivered(LinkId),
    Acknowledged {
        link: LinkId,
        up_to: u64,
        fin: bool,
    },
    /// The peer's reset reaches us.
    ResetArrives(LinkId),
    /// Our reset reaches the peer.
    ResetDelivered(LinkId),
    PathLost(LinkId),
    ConnectEnds(LinkId, u64, Result<(), Errno>),
    Wakes(LinkId, OpKind),
    Cancels(LinkId, OpKind, u64),
    PeerWakes(LinkId, u32),
    PeerReads(LinkId),
    ClientArrives,
}

struct Entry {
    at: Time,
    serial: u64,
    happening: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The earliest is the greatest: the heap gives that first.
impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        (other.at, other.serial).cmp(&(self.at, self.serial))
    }
}

pub(super) struct Kernel {
    pub(super) now: Time,
    serial: u64,
    heap: BinaryHeap<Entry>,
    links: Vec<Link>,
    pub(super) buffers: Buffers,
    pub(super) pipes: Pipes,
    pub(super) random: Random,
    pub(super) faults: Faults,
    /// Clients that nobody has accepted yet.
    pub(super) backlog: VecDeque<LinkId>,
    /// Scripts of the backends that the clients will be given, by client.
    pub(super) plans: Vec<Option<Plan>>,
    /// Asked for, and not submitted before the next wait.
    pub(super) asked: Vec<Asked>,
    ready: Vec<Completion<SimSocket>>,
    handed: VecDeque<(LinkId, OpKind, bool)>,
    /// Sockets that are connected or being connected, by port.
    pub(super) connections: Vec<u32>,
    /// How the backends at these ports answer; the others do by chance.
    pub(super) manners: BTreeMap<u16, Manner>,
    /// Connects that were asked for, for whoever wants to know.
    pub(super) connects: Vec<(LinkId, u16)>,
    pub(super) audit: Audit,
    pub(super) seen: Seen,
    pub(super) sabotage: Option<Sabotage>,
    /// A buffer that a planted fault keeps.
    pub(super) leaked: Option<Filled>,
    pub(super) tracing: bool,
    /// Everybody leaves in order and nothing goes wrong any more.
    pub(super) hurry: bool,
}

/// What the owner has asked for.
#[derive(Copy, Clone, Debug)]
pub(super) enum Asked {
    Start(LinkId, OpKind),
    Cancel(LinkId, OpKind, u64),
}

impl Kernel {
    pub(super) fn new(random: Random, faults: Faults) -> Kernel {
        Kernel {
            now: Time::from_millis(1_000),
            serial: 0,
            heap: BinaryHeap::new(),
            links: Vec::new(),
            buffers: Buffers::new().expect("address space for the buffers"),
            pipes: Pipes::new(4),
            random,
            faults,
            backlog: VecDeque::new(),
            plans: Vec::new(),
            asked: Vec::new(),
            ready: Vec::new(),
            handed: VecDeque::new(),
            connections: Vec::new(),
            manners: BTreeMap::new(),
            connects: Vec::new(),
            audit: Audit::default(),
            seen: Seen::default(),
            sabotage: None,
            leaked: None,
            tracing: false,
            hurry: false,
        }
    }

    pub(super) fn link(&self, id: LinkId) -> &Link {
        &self.links[id.0 as usize]
    }

    pub(super) fn link_mut(&mut self, id: LinkId) -> &mut Link {
        &mut self.links[id.0 as usize]
    }

    pub(super) fn links(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter().enumerate().map(|(index, link)| (LinkId(index as u32), link))
    }

    /// A client connects.
    pub(super) fn client_arrives(&mut self, plan: Plan) {
        let id = self.add_link(Side::Client, plan.client.clone());
        self.link_mut(id).clean = plan.clean;
        self.plans.resize_with(id.0 as usize + 1, || None);
        self.plans[id.0 as usize] = Some(plan);
        self.backlog.push_back(id);
        if self.hurry {
            self.hurry_peer(id);
        }
        self.run_peer(id);
    }

    pub(super) fn add_link(&mut self, side: Side, steps: Vec<Step>) -> LinkId {
        let stream = Stream::new(&mut self.random);
        let path = Path::draw(&mut self.random, self.faults.latency);
        self.links.push(Link::new(side, stream, path, Peer::new(steps)));
        LinkId(self.links.len() as u32 - 1)
    }

    pub(super) fn after(&mut self, delay: Duration, happening: Happening) {
        let at = self.now + delay;
        self.at(at, happening);
    }

    pub(super) fn at(&mut self, at: Time, happening: Happening) {
        self.serial += 1;
        self.heap.push(Entry { at, serial: self.serial, happening });
    }

    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Something has happened to an operation. `last`: the kernel has done with it.
    pub(super) fn complete(&mut self, id: LinkId, kind: OpKind, event: Event<SimSocket>, last: bool) {
        if last && self.plant(Sabotage::LoseCompletion) {
            self.links[id.0 as usize].op_mut(kind).expect("only an operation in flight completes").over = true;
            self.discard(event);
            return;
        }
        let shortest = self.random.up_to(Duration::from_micros(20));
        let late =
            if self.random.chance(self.faults.late) { self.random.up_to(self.faults.late_by) } else { Duration::ZERO };
        let at = self.now + shortest + late;
        let op = self.links[id.0 as usize].op_mut(kind).expect("only an operation in flight completes");
        assert!(!op.over, "an operation completes after its end");
        op.over = last;
        op.outstanding += 1;
        op.last_at = op.last_at.max(at);
        let at = op.last_at;
        self.at(at, Happening::Complete(id, kind, event, last));
    }

    fn discard(&mut self, event: Event<SimSocket>) {
        if let Event::Received { filled, .. } = event {
            self.buffers.discard(filled);
        }
    }

    /// The owner takes the next completion of the last wait in hand.
    pub(super) fn begin(&mut self, event: &Event<SimSocket>) {
        let (id, kind, last) = self.handed.pop_front().expect("as many completions as were handed out");
        self.audit_begin(id, kind, event);
        let link = &mut self.links[id.0 as usize];
        link.told.may_splice |= matches!(event, Event::Readable | Event::Writable);
        let slot = &mut link.ops[super::link::op_index(kind)];
        let op = slot.as_mut().expect("an operation is in flight until its last completion is handled");
        op.outstanding -= 1;
        if last {
            assert_eq!(op.outstanding, 0, "the last completion overtook another");
            if let Some(Op { job: Job::Send { lent, .. }, .. }) = slot.take() {
                self.buffers.take_back(lent);
            }
        } else if std::mem::take(&mut op.stalled) {
            // It goes on with the next wait.
            self.asked.push(Asked::Start(id, OpKind::Receive));
        }
    }

    /// Whether the owner has taken all completions of the last wait in hand.
    pub(super) fn all_begun(&self) -> bool {
        self.handed.is_empty()
    }

    /// Tells the owner of `link` what `wait` has to say.
    pub(super) fn hand_out(&mut self, completions: &mut Vec<Completion<SimSocket>>) {
        completions.append(&mut self.ready);
    }

    /// Lets time pass until something is ready or `until` comes. Whether something is ready.
    pub(super) fn pass(&mut self, until: Time) -> bool {
        while self.ready.is_empty() {
            match self.heap.peek() {
                Some(entry) if entry.at <= until => self.step_to_next(),
                _ => break,
            }
        }
        if self.ready.is_empty() && until != Time::NEVER {
            self.now = self.now.max(until);
        }
        !self.ready.is_empty()
    }

    /// Lets the clock run on to `at`, whatever becomes ready.
    pub(super) fn run_on(&mut self, at: Time) {
        while self.heap.peek().is_some_and(|entry| entry.at <= at) {
            self.step_to_next();
        }
        self.now = self.now.max(at);
    }

    /// Lets everything happen that still will, without an owner.
    pub(super) fn run_out(&mut self) {
        let mut steps = 0;
        while !self.heap.is_empty() {
            self.step_to_next();
            steps += 1;
            assert!(steps < 1_000_000, "the peers never come to an end");
        }
        assert!(self.ready.is_empty(), "completions without an owner");
    }

    fn step_to_next(&mut self) {
        let Some(entry) = self.heap.pop() else { return };
        self.now = self.now.max(entry.at);
        if self.tracing {
            eprintln!("{:>12} {:?}", self.now.nanos() / 1000, entry.happening);
        }
        match entry.happening {
            Happening::Complete(id, kind, event, last) => self.make_ready(id, kind, event, last),
            Happening::Arrives(id) => self.arrives(id),
            Happening::Delivered(id) => self.delivered(id),
            Happening::Acknowledged { link, up_to, fin } => self.acknowledged(link, up_to, fin),
            Happening::ResetArrives(id) => self.reset_arrives(id),
            Happening::ResetDelivered(id) => self.peer_is_reset(id),
            Happening::PathLost(id) => self.lose_path(id),
            Happening::ConnectEnds(id, serial, result) => self.connect_ends(id, serial, result),
            Happening::Wakes(id, kind) => self.drive(id, kind),
            Happening::Cancels(id, kind, serial) => self.cancels(id, kind, serial),
            Happening::PeerWakes(id, sleep) => self.wake_peer(id, sleep),
            Happening::PeerReads(id) => self.peer_reads_slowly(id),
            Happening::ClientArrives => {
                let plan = Plan::draw(&mut self.random, &self.faults);
                self.client_arrives(plan);
            }
        }
    }

    fn make_ready(&mut self, id: LinkId, kind: OpKind, event: Event<SimSocket>, last: bool) {
        let owner: Owner = self.link(id).op(kind).expect("in flight").owner;
        self.seen.completions += 1;
        self.handed.push_back((id, kind, last));
        self.ready.push(Completion { owner, event });
    }

    fn lose_path(&mut self, id: LinkId) {
        let now = self.now;
        let link = self.link_mut(id);
        if link.gone.is_none() && !link.finished() && link.closing().is_none() && link.established() {
            // The peer has been silent for seconds. What we sent goes unanswered; where nothing was sent only a probe can.
            assert!(link.probed || link.unsent() > 0, "{id:?} is at rest without keepalive");
            link.gone = Some(Gone { at: now, reset: false });
            link.error = Some(Errno::ETIMEDOUT);
            self.seen.paths_lost += 1;
            self.wake_all(id);
        }
    }

    /// Wakes whoever waits on the link, in any order.
    pub(super) fn wake_all(&mut self, id: LinkId) {
        let mut kinds = [OpKind::Receive, OpKind::Send, OpKind::Watch];
        for last in (1..kinds.len()).rev() {
            let other = self.random.below(last as u64 + 1) as usize;
            kinds.swap(last, other);
        }
        for kind in kinds {
            self.wake(id, kind);
        }
    }

    pub(super) fn wake(&mut self, id: LinkId, kind: OpKind) {
        if self.link_mut(id).running(kind).is_none() {
            return;
        }
        if self.random.chance(self.faults.slow_wake) {
            let delay = self.random.up_to(Duration::from_millis(2));
            self.after(delay, Happening::Wakes(id, kind));
        } else {
            self.drive(id, kind);
        }
    }

    /// Lets an operation do what it can.
    pub(super) fn drive(&mut self, id: LinkId, kind: OpKind) {
        match kind {
            OpKind::Receive => self.drive_receive(id),
            OpKind::Send => self.drive_send(id),
            OpKind::Watch => self.drive_watch(id),
            OpKind::Connect => self.drive_connect(id),
            OpKind::Accept => unreachable!("the simulation accepts for itself"),
        }
    }

    /// Whether the planted fault is this one and its time has come. It comes once.
    pub(super) fn plant(&mut self, which: Sabotage) -> bool {
        if self.sabotage != Some(which) || self.random.below(40) > 0 {
            return false;
        }
        self.sabotage = None;
        true
    }
}
