//! Executes what the relay asks for as engine operations, and feeds the results back.
//!
//! A session is a relay, its two sockets, the bytes that wait for each of them, and a place with a backend. All of
//! a worker's sessions stand in one slab; an operation's tag names slot, generation and side, so a completion
//! finds its session or finds that it has gone.

mod census;
mod later;
mod rarely;

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::address::Address;
use crate::balance::settings::Policy;
use crate::balance::{BackendId, Chooser, Claim, Failure, Next, Random, Request, Sought, Tried};
use crate::engine::{
    self, Addresses, Chain, Completion, Engine, Event, OpKind, Owner, Receive, Role, SocketOptions, Spliced,
};
use crate::errno::Errno;
use crate::limits::{
    BUFFERS_RESERVE, BULK_BUFFERS_RESERVE, FLIGHTS_BYTES, RECLAIM_INTERVAL, SESSION_BYTES_MAX, SPILL_BYTES_MAX,
    TIDY_INTERVAL, TIMER_BYTES,
};
use crate::metrics::{ListenerCells, Recorder};
use crate::relay::{Action, CloseReason, Input, Kill, ReceiveEnd, Relay, Rules, Side, Start, Verdict};
use crate::slots::{Key, Slots};
use crate::time::Time;
use crate::wire::proxy::{Command, Parsed};
use crate::wire::refusal::HTTP_503;
use crate::worker::clients::{ClientRules, Place};
use crate::worker::identity::{self, ProxyProtocol};
use crate::worker::log::SessionLog;
use crate::worker::news::{News, Reporter};
use crate::worker::sources::{Source, Sources};
use crate::worker::splicing::{Send, Splices};
use crate::worker::tally::Tally;
use crate::worker::timers::Timers;

use later::{Later, Overdue, Ready};
use rarely::Rarely;

/// Where a listener's clients go, as one worker sees it.
pub struct Route {
    /// The listener's name.
    pub listener: Arc<str>,
    /// What its sessions obey.
    pub rules: Rules,
    /// Its clients come by a unix socket.
    pub unix_clients: bool,
    /// Chooses among the backends of its pool.
    pub chooser: Chooser,
    /// The options of sockets towards backends.
    pub options: SocketOptions,
    /// Where these sockets connect from.
    pub sources: Sources,
    /// The headers that go before the clients' bytes.
    pub proxy_protocol: ProxyProtocol,
    /// Who may be a client, and how often.
    pub clients: ClientRules,
    /// Whom to tell what its backends do.
    pub reporter: Reporter,
}

/// What is known of a session that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Which session it was.
    pub key: Key,
    /// The number of the [`route`](Sessions::route) it came by.
    pub route: u16,
    /// Why it ended.
    pub reason: CloseReason,
    /// The client's address, where its route asks for it: the one that a proxy has named, or that of the peer.
    pub client: Option<SocketAddr>,
    /// The backend that served it last, or that it was last meant for.
    pub backend: Option<BackendId>,
    /// When it was accepted.
    pub started: Time,
    /// Bytes received from the client, without the header of a proxy, and from the backend.
    pub received: [u64; 2],
}

/// All sessions of one worker.
pub struct Sessions<E: Engine> {
    slots: Slots<Session<E::Socket>>,
    context: Context,
}

struct Session<S> {
    relay: Relay,
    sockets: [Option<S>; 2],
    /// Which of them are unix sockets.
    unix: [bool; 2],
    /// What waits for each side.
    chains: [Chain; 2],
    /// What waits for each side before that.
    splices: Splices,
    /// The turn of the reclaimer in which each side's send was submitted.
    sent_in: [u16; 2],
    route: u16,
    claim: Option<Claim>,
    /// What most sessions do without.
    rarely: Rarely,
    backend: Option<BackendId>,
    /// Where its connect comes from.
    source: Source,
    /// Its claim is on a connection, and not on one that is being opened.
    connected: bool,
    /// Splices of it that were put off.
    put_off: u8,
    /// Whether its timer has fired meanwhile.
    overdue: Overdue,
    /// To be ended once the connect that is in flight has succeeded.
    doomed: Option<Kill>,
    started: Time,
    tally: Tally,
}

/// What a session takes at rest, with its row of what is in flight and its timer.
const _: () =
    assert!(Slots::<Session<std::os::fd::OwnedFd>>::SLOT_BYTES + FLIGHTS_BYTES + TIMER_BYTES <= SESSION_BYTES_MAX);

/// What the sessions of a worker share.
struct Context {
    routes: Vec<Route>,
    recorder: Recorder,
    timers: Timers,
    /// The slots whose timers are due.
    due: Vec<u32>,
    /// Splices that were put off, the first first.
    later: Later,
    /// Sides that wait for a small, and for a large buffer.
    starved: [VecDeque<(Key, Side)>; 2],
    reclaim_at: Time,
    reclaim_turn: u16,
    /// When memory is given back next; [`Time::NEVER`] while nothing happens.
    tidy_at: Time,
    ended: Vec<Ended>,
    random: Random,
    log: Option<SessionLog>,
}

/// How a session begins, and with whom.
struct Begin {
    start: Start,
    client: Option<SocketAddr>,
    place: Option<Place>,
}

impl<E: Engine> Sessions<E> {
    /// No sessions yet, and no [`route`](Sessions::route) by which they could come.
    pub fn new(recorder: Recorder, now: Time) -> Sessions<E> {
        let context = Context {
            routes: Vec::new(),
            recorder,
            timers: Timers::new(now),
            due: Vec::new(),
            later: Later::default(),
            starved: [VecDeque::new(), VecDeque::new()],
            reclaim_at: Time::NEVER,
            reclaim_turn: 0,
            tidy_at: Time::NEVER,
            ended: Vec::new(),
            random: Random::new(now.nanos()),
            log: None,
        };
        Sessions { slots: Slots::new(), context }
    }

    /// Begins to serve clients by one more route, and gives what is counted of it. `number` is the next, from 0 on, or that of
    /// one whose sessions have all ended.
    pub fn route(&mut self, number: u16, route: Route) -> Arc<ListenerCells> {
        let counts = self.context.recorder.listener(number, &route.listener, route.chooser.pool().name());
        if let Some(log) = &mut self.context.log {
            log.route(number, &route.listener, route.chooser.pool().name());
        }
        match self.context.routes.get_mut(usize::from(number)) {
            Some(known) => *known = route,
            None => self.context.routes.push(route),
        }
        counts
    }

    /// Lets go of the pool of a route whose sessions have all ended, and by which no more will come.
    pub fn end_route(&mut self, number: u16) {
        self.context.recorder.end(number);
        self.context.routes[usize::from(number)].chooser = Chooser::of_nothing();
    }

    /// From now on sessions are told to the access log, which hears of every route that comes after this.
    pub fn log_to(&mut self, log: SessionLog) {
        self.context.log = Some(log);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Begins a session for a client that was accepted by `route`.
    ///
    /// # Errors
    /// Gives the socket back where no slot is free.
    pub fn admit(&mut self, engine: &mut E, socket: E::Socket, route: u16, now: Time) -> Result<Key, E::Socket> {
        let mut held = Chain::new();
        let Begin { start, client, place } = self.context.identify(engine, &socket, route, &mut held);
        let Route { rules, unix_clients, .. } = &self.context.routes[usize::from(route)];
        let last_at = rules.last_at(now, || self.context.random.number());
        let session = Session {
            relay: Relay::new(now, last_at, start),
            sockets: [Some(socket), None],
            unix: [*unix_clients, false],
            tally: Tally::new(held.bytes()),
            chains: [Chain::new(), held],
            splices: Splices::default(),
            sent_in: [0; 2],
            route,
            claim: None,
            rarely: Rarely::new(client, place, self.context.log.is_some()),
            backend: None,
            source: Source::default(),
            connected: false,
            put_off: 0,
            overdue: Overdue::No,
            doomed: None,
            started: now,
        };
        let key = self.slots.insert(session).map_err(|mut session| {
            engine.buffers().clear(&mut session.chains[Side::Backend as usize]);
            session.sockets[0].take().unwrap_or_else(|| unreachable!("the session was made with its client's socket"))
        })?;
        if let Some(log) = &self.context.log {
            log.start(key, route, client, now);
        }
        self.run(engine, key, now);
        Ok(key)
    }

    /// Handles a completion whose owner is a session.
    pub fn handle(&mut self, engine: &mut E, completion: Completion<E::Socket>, now: Time) {
        let Completion { owner, event } = completion;
        if self.context.tidy_at == Time::NEVER {
            self.context.tidy_at = now + TIDY_INTERVAL;
        }
        let side = side(owner.role);
        let Some(session) = self.slots.get_mut(owner.key) else {
            // Cannot be while sessions end by a join; but a buffer must not be lost even then.
            debug_assert!(false, "{event:?} for a session that has ended", event = Name(&event));
            if let Event::Received { filled, .. } = event {
                engine.buffers().discard(filled);
            }
            return;
        };
        let input = match event {
            Event::Received { filled, more } => session.receive(engine, side, (filled, more), now),
            Event::Sent { bytes, whole } => {
                engine.buffers().consume(&mut session.chains[side as usize], bytes);
                Input::Sent { side, bytes, whole }
            }
            Event::Readable => return self.put_off(owner, Ready::Give),
            Event::Writable => return self.put_off(owner, Ready::Take),
            Event::ReceiveEnded(end) => Input::ReceiveEnded(side, session.receive_end(engine, side, end)),
            Event::SendFailed(errno) => Input::SendFailed(side, errno),
            Event::Connected => session.connected(&self.context.routes[usize::from(session.route)], now),
            Event::ConnectFailed(errno) => {
                let route = &self.context.routes[usize::from(session.route)];
                session.connect_failed(engine, owner, route, errno, now)
            }
            Event::HungUp { reset, more } => Input::HungUp { side, reset, more },
            Event::WatchEnded => Input::WatchEnded(side),
            Event::Accepted { .. } | Event::AcceptEnded(_) | Event::Woken => {
                unreachable!("sessions do not accept and are not woken")
            }
        };
        self.context.later.note_message();
        let rules = &self.context.routes[usize::from(session.route)].rules;
        session.relay.handle(input, now, rules);
        let doomed = session.doomed.take_if(|_| session.connected);
        self.run(engine, owner.key, now);
        if let Some(kill) = doomed {
            self.input(engine, owner.key, Input::Kill(kill), now);
        }
    }

    /// Fires what is due, and moves bulk. Call it after the completions of a turn, so that a late worker does not take for a
    /// timeout what has been answered in time, and messages do not wait for bulk.
    pub fn tick(&mut self, engine: &mut E, now: Time) {
        let mut due = std::mem::take(&mut self.context.due);
        self.context.timers.expire(now, &mut due);
        for slot in due.drain(..) {
            let key = self.slots.key(slot);
            if let Some((key, session)) = key.and_then(|key| Some((key, self.slots.get_mut(key)?))) {
                if session.put_off > 0 && session.overdue != Overdue::Now {
                    session.overdue = Overdue::Later;
                    continue;
                }
                session.overdue = Overdue::No;
                session.report(now);
                self.input(engine, key, Input::Tick, now);
            }
        }
        self.context.due = due;
        self.reclaim(engine, now);
        self.feed(engine, now);
        if now >= self.context.tidy_at {
            self.tidy(engine, now);
        }
        self.splice(engine, now);
    }

    /// When [`tick`](Sessions::tick) is wanted at the latest, completions or not.
    pub fn next_deadline(&self) -> Option<Time> {
        let Context { timers, reclaim_at, tidy_at, .. } = &self.context;
        if self.splices_wait() {
            return Some(Time::ZERO);
        }
        let others = [*reclaim_at, *tidy_at].into_iter().filter(|at| *at != Time::NEVER);
        timers.next().into_iter().chain(others).min()
    }

    /// Ends all sessions.
    pub fn kill_all(&mut self, engine: &mut E, kill: Kill, now: Time) {
        for key in self.slots.keys().collect::<Vec<_>>() {
            self.input(engine, key, Input::Kill(kill), now);
        }
    }

    /// Lets go of the snapshots that the last choices were made from, which an idle worker would keep alive.
    pub fn refresh(&mut self) {
        for (number, route) in self.context.routes.iter_mut().enumerate() {
            self.context.recorder.retain(number as u16, route.chooser.set());
        }
        if let Some(log) = &mut self.context.log {
            log.forget_names();
        }
    }

    /// Ends the sessions of these backends, each named by its pool's name and its identity there. A client whose connect
    /// is still in flight has lost nothing yet: it goes on to another backend where that fails.
    pub fn kill_backends(&mut self, engine: &mut E, backends: &HashSet<(Arc<str>, BackendId)>, kill: Kill, now: Time) {
        let pools: Vec<Arc<str>> = self.context.routes.iter().map(|route| route.chooser.pool().name().into()).collect();
        for key in self.slots.keys().collect::<Vec<_>>() {
            let Some(session) = self.slots.get_mut(key) else { continue };
            let Some(claim) = &session.claim else { continue };
            if !backends.contains(&(pools[usize::from(session.route)].clone(), claim.backend().id())) {
                continue;
            }
            if session.connected {
                self.input(engine, key, Input::Kill(kill), now);
            } else {
                session.doomed = Some(kill);
            }
        }
    }

    /// Ends what is left of a worker that has failed, whose engine is gone: resets all connections, so that nobody takes a
    /// stream that breaks off for a whole one, and gives every place back. The sessions can be taken like others that have
    /// ended. Bytes not yet reported stay so: the session that made the worker fail need not be sound.
    pub fn abandon(&mut self, mut abort: impl FnMut(E::Socket), now: Time) {
        for key in self.slots.keys().collect::<Vec<_>>() {
            let Some(mut session) = self.slots.remove(key) else { continue };
            session.sockets.iter_mut().filter_map(Option::take).for_each(&mut abort);
            session.chains.iter_mut().for_each(Chain::forget);
            self.end(key, session, CloseReason::WorkerFailed, now);
        }
    }

    /// A client that waits has got a place. Where it waits no longer, the place goes to the next.
    pub fn place(&mut self, engine: &mut E, key: Key, claim: Claim, now: Time) {
        if !self.slots.get(key).is_some_and(|session| session.relay.is_queued()) {
            return;
        }
        self.input(engine, key, Input::Placed, now);
        let Some(session) = self.slots.get_mut(key) else { return };
        session.rarely.leave_queue();
        let owner = Owner { key, role: role(Side::Backend) };
        let begun = session.connect(engine, owner, claim, &mut self.context, now);
        self.input(engine, key, begun, now);
    }

    /// The sessions that wait for a place, and whether each has tried a backend.
    #[cfg(test)]
    pub fn queued(&self) -> impl Iterator<Item = (Key, bool)> {
        let session = |key: Key| self.slots.get(key).map(|session| (key, session));
        let queued = self.slots.keys().filter_map(session).filter(|(_, session)| session.relay.is_queued());
        queued.map(|(key, session)| (key, session.rarely.has_tried()))
    }

    /// Takes the sessions that have ended since the last call.
    pub fn drain_ended(&mut self) -> std::vec::Drain<'_, Ended> {
        self.context.ended.drain(..)
    }

    fn input(&mut self, engine: &mut E, key: Key, input: Input, now: Time) {
        if let Some(session) = self.slots.get_mut(key) {
            let rules = &self.context.routes[usize::from(session.route)].rules;
            session.relay.handle(input, now, rules);
            self.run(engine, key, now);
        }
    }

    /// Executes all that the session's relay asks for.
    fn run(&mut self, engine: &mut E, key: Key, now: Time) {
        let Some(session) = self.slots.get_mut(key) else { return };
        while let Some(action) = session.relay.poll() {
            if let Action::Finished(reason) = action {
                return self.finish(engine, key, reason, now);
            }
            if let Some(answer) = session.execute(engine, key, action, &mut self.context, now) {
                let rules = &self.context.routes[usize::from(session.route)].rules;
                session.relay.handle(answer, now, rules);
            }
        }
    }

    fn finish(&mut self, engine: &mut E, key: Key, reason: CloseReason, now: Time) {
        let Some(mut session) = self.slots.remove(key) else { return };
        debug_assert!(session.sockets.iter().all(Option::is_none), "a session has ended with an open socket");
        for side in Side::BOTH {
            session.throw_away(engine, side);
        }
        self.end(key, session, reason, now);
    }

    /// Tells of a session that has ended.
    fn end(&mut self, key: Key, mut session: Session<E::Socket>, reason: CloseReason, now: Time) {
        self.context.timers.clear(key.index());
        if let (Some(log), Some(trace)) = (&self.context.log, session.rarely.take_trace()) {
            let end = trace.end(reason, session.tally.received(), (session.started, now));
            log.end(key, session.route, session.rarely.client(), now, end);
        }
        self.context.ended.push(session.ended(key, reason));
    }

    /// Lets those who wait for buffers receive again: as many as there are buffers, oldest first.
    fn feed(&mut self, engine: &mut E, now: Time) {
        for large in [false, true] {
            let buffers = engine.buffers();
            // Bulk takes a small buffer where no large one is left.
            let free = buffers.small_free() + if large { buffers.large_free() } else { 0 };
            for _ in 0..free.min(self.context.starved[usize::from(large)].len()) {
                let Some((key, side)) = self.context.starved[usize::from(large)].pop_front() else { break };
                self.input(engine, key, Input::BuffersFree(side), now);
            }
        }
    }

    /// Gives back what a crowd has left behind.
    #[cold]
    fn tidy(&mut self, engine: &mut E, now: Time) {
        let surplus = self.slots.has_surplus();
        if surplus {
            self.slots.shrink();
            self.context.timers.shrink();
        }
        // Wholly: a block that was made among those of a crowd, and made shorter, would keep its pages.
        self.context.due.shrink_to_fit();
        self.context.later.shrink();
        self.context.ended.shrink_to_fit();
        self.context.starved.iter_mut().for_each(VecDeque::shrink_to_fit);
        let more = engine.tidy(surplus);
        self.context.tidy_at = if more || surplus { now + TIDY_INTERVAL } else { Time::NEVER };
    }

    /// While buffers or pipes are short: takes them back from sides whose send has not moved for a whole round, so that clients
    /// who do not read cannot starve those who do.
    fn reclaim(&mut self, engine: &mut E, now: Time) {
        let pipes_short = engine.pipes_short();
        let buffers = engine.buffers();
        if buffers.small_free() >= BUFFERS_RESERVE && buffers.large_free() >= BULK_BUFFERS_RESERVE && !pipes_short {
            self.context.reclaim_at = Time::NEVER;
            return;
        }
        if self.context.reclaim_at == Time::NEVER {
            self.context.reclaim_at = now + RECLAIM_INTERVAL;
        }
        if now < self.context.reclaim_at {
            return;
        }
        self.context.reclaim_at = now + RECLAIM_INTERVAL;
        let turn = self.context.reclaim_turn;
        self.context.reclaim_turn = turn.wrapping_add(1);
        for key in self.slots.keys().collect::<Vec<_>>() {
            for side in Side::BOTH {
                let Some(session) = self.slots.get(key) else { break };
                let chain = &session.chains[side as usize];
                let buffers = engine.buffers();
                if buffers.heap_bytes() + chain.bytes() + session.splices.bytes(side) > SPILL_BYTES_MAX {
                    return;
                }
                let holds = buffers.pooled_chunks(chain) > 0 || (pipes_short && session.splices.wait(side));
                if session.sent_in[side as usize] != turn && holds {
                    self.input(engine, key, Input::Reclaim(side), now);
                }
            }
        }
    }
}

impl Context {
    /// Who the client is, as far as its route asks; and how its session begins.
    fn identify<E: Engine>(&mut self, engine: &mut E, socket: &E::Socket, route: u16, held: &mut Chain) -> Begin {
        let route = &mut self.routes[usize::from(route)];
        if self.log.is_none()
            && route.proxy_protocol.is_off()
            && route.clients.is_off()
            && route.chooser.set().settings().policy != Policy::SourceHash
        {
            return Begin { start: Start::Choose { waiting: 0 }, client: None, place: None };
        }
        let addresses = engine.addresses(socket);
        let peer = addresses.peer.as_ref();
        // Where a proxy has the word, its clients are the ones to be judged.
        let admitted = if route.proxy_protocol.accept.is_some() { Ok(None) } else { route.clients.admit(peer) };
        let client = peer.and_then(Address::inet);
        match admitted {
            Ok(place) => Begin { start: route.proxy_protocol.begin(&addresses, engine.buffers(), held), client, place },
            Err(reason) => Begin { start: Start::Close(reason), client, place: None },
        }
    }
}

impl<S> Session<S> {
    fn ended(&self, key: Key, reason: CloseReason) -> Ended {
        let (client, backend, received) = (self.rarely.client(), self.backend, self.tally.received());
        Ended { key, route: self.route, reason, client, backend, started: self.started, received }
    }

    /// Executes one action; some are answered at once.
    fn execute<E: Engine<Socket = S>>(
        &mut self,
        engine: &mut E,
        key: Key,
        action: Action,
        context: &mut Context,
        now: Time,
    ) -> Option<Input> {
        let owner = |side: Side| Owner { key, role: role(side) };
        match action {
            Action::Send(side) => {
                self.sent_in[side as usize] = context.reclaim_turn;
                let (socket, chain) = (self.sockets[side as usize].as_ref()?, &mut self.chains[side as usize]);
                match self.splices.send(engine, (owner(side), side), socket, chain) {
                    Send::Nothing => engine.send(owner(side), socket, chain),
                    Send::Waits => {}
                    Send::Done(input) => return Some(input),
                }
            }
            Action::Receive { side, bulk } => {
                let how = match bulk {
                    true => Receive::Bulk,
                    false if self.unix[side as usize] => Receive::Single,
                    false => Receive::Multishot,
                };
                engine.receive(owner(side), self.sockets[side as usize].as_ref()?, how);
            }
            Action::Splice(side) => engine.await_readable(owner(side), self.sockets[side as usize].as_ref()?),
            Action::Choose => return Some(self.choose(engine, owner(Side::Backend), context, now)),
            Action::ReadHeader => return self.read_header(engine, context),
            Action::Answer => {
                let chain = &mut self.chains[Side::Client as usize];
                engine.buffers().append_copy(chain, HTTP_503.as_bytes());
                return Some(Input::Answered { bytes: chain.bytes() });
            }
            Action::LeaveQueue => {
                self.rarely.leave_queue();
                if let Some(trace) = self.rarely.trace() {
                    trace.unqueued(now);
                }
            }
            Action::CancelConnect => engine.cancel(owner(Side::Backend), OpKind::Connect),
            Action::Drop(side) => {
                self.tally.discard(side.other(), self.waits(side));
                self.throw_away(engine, side);
            }
            Action::Spill(side) => {
                self.splices.spill(engine, side, &mut self.chains[side as usize]);
                engine.buffers().spill(&mut self.chains[side as usize]);
            }
            Action::CancelSend(side) => engine.cancel(owner(side), OpKind::Send),
            Action::AwaitBuffers { side, bulk } => context.starved[usize::from(bulk)].push_back((key, side)),
            Action::CancelReceive(side) => engine.cancel(owner(side), OpKind::Receive),
            Action::Watch(side) => {
                let socket = self.sockets[side as usize].as_ref()?;
                // The client's has it from its listener. A session comes to rest before a probe could be due, and is watched then.
                if side == Side::Backend
                    && !self.unix[side as usize]
                    && let Some(idle) = context.routes[usize::from(self.route)].options.keepalive
                {
                    engine.keep_alive(socket, idle);
                }
                engine.watch(owner(side), socket);
            }
            Action::CancelWatch(side) => engine.cancel(owner(side), OpKind::Watch),
            Action::Shutdown(side) => {
                let result = engine.shutdown_write(self.sockets[side as usize].as_ref()?);
                return result.err().map(|errno| Input::ShutdownFailed(side, errno));
            }
            Action::PollUnsent(side) => {
                let bytes = engine.unsent(self.sockets[side as usize].as_ref()?);
                return Some(Input::Unsent(side, bytes));
            }
            Action::Inspect(side) => {
                let socket = self.sockets[side as usize].as_ref()?;
                let outstanding = engine.unsent(socket) > 0;
                let seen = engine.inspect(socket);
                return Some(Input::Inspected { side, outstanding, unanswered: seen.unanswered, heard: seen.heard });
            }
            Action::Close(side) | Action::Reset(side) => {
                self.close(engine, side, matches!(action, Action::Reset(_)), now);
            }
            Action::Deadline(at) => {
                context.timers.set(key.index(), at);
            }
            Action::Finished(_) => unreachable!("the caller ends the session"),
        }
        None
    }

    fn close<E: Engine<Socket = S>>(&mut self, engine: &mut E, side: Side, reset: bool, now: Time) {
        if side == Side::Backend {
            // Before its place is free: whoever finds nobody there finds all bytes counted.
            self.report(now);
            self.tally.discard(Side::Client, self.waits(side));
        }
        self.throw_away(engine, side);
        if let Some(socket) = self.sockets[side as usize].take() {
            if let Some(trace) = self.rarely.trace() {
                trace.closing(side, engine.inspect(&socket).rtt_us);
            }
            if reset { engine.reset(socket) } else { engine.close(socket) }
        }
        if side == Side::Backend {
            // The backend's part is over, however long the client takes: its place is free.
            self.claim = None;
        }
    }

    /// How many bytes wait for `side`.
    fn waits(&self, side: Side) -> usize {
        self.splices.bytes(side) + self.chains[side as usize].bytes()
    }

    /// Throws away what waits for `side`.
    fn throw_away<E: Engine<Socket = S>>(&mut self, engine: &mut E, side: Side) {
        engine.buffers().clear(&mut self.chains[side as usize]);
        self.splices.clear(engine, side);
    }

    /// Reads the header of a proxy, if it is complete, and puts the one for the backend in its place.
    fn read_header<E: Engine<Socket = S>>(&mut self, engine: &mut E, context: &Context) -> Option<Input> {
        let Route { proxy_protocol, clients, .. } = &context.routes[usize::from(self.route)];
        let chain = &mut self.chains[Side::Backend as usize];
        let header = match identity::read_header(engine.buffers(), chain) {
            Parsed::Header(header) => header,
            Parsed::Incomplete { .. } => return None,
            Parsed::Invalid(reason) => return Some(Input::HeaderWrong(reason)),
        };
        engine.buffers().consume(chain, header.bytes);
        self.tally.take_header(header.bytes);
        let socket = self.sockets[Side::Client as usize].as_ref();
        let (command, client) = match header.command {
            Command::Local | Command::Unknown => {
                let own = socket.map_or_else(Addresses::default, |socket| engine.addresses(socket));
                (identity::own_ends(&own), own.peer)
            }
            named @ Command::Proxy { .. } => {
                let client = identity::client(&named);
                self.rarely.name_client(client.as_ref().and_then(Address::inet));
                (named, client)
            }
        };
        match clients.admit(client.as_ref()) {
            Ok(place) => self.rarely.hold(place),
            Err(reason) => return Some(Input::ClientRefused(reason)),
        }
        let before = chain.bytes();
        proxy_protocol.announce(&command, engine.buffers(), chain);
        self.tally.queue(chain.bytes() - before);
        Some(Input::HeaderRead { waiting: chain.bytes() })
    }

    /// Chooses a backend, claims a place with it and begins to connect.
    fn choose<E: Engine<Socket = S>>(
        &mut self,
        engine: &mut E,
        owner: Owner,
        context: &mut Context,
        now: Time,
    ) -> Input {
        let route = &mut context.routes[usize::from(self.route)];
        let none = Tried::new();
        let request = Request {
            client: self.rarely.client().map(|client| client.ip().to_canonical()),
            tried: self.rarely.tried().unwrap_or(&none),
        };
        match route.chooser.seek(&request, owner.key, now) {
            Sought::Place(claim) => self.connect(engine, owner, claim, context, now),
            Sought::Waits(ticket) => {
                tracing::debug!(waiting = route.chooser.pool().waiting(), "client waits");
                self.rarely.queue(ticket);
                if let Some(trace) = self.rarely.trace() {
                    trace.queued(now);
                }
                Input::Queued
            }
            Sought::QueueFull => Input::QueueFull,
            Sought::None => Input::NoneEligible,
        }
    }

    /// Begins to connect to a backend with which there is a place.
    fn connect<E: Engine<Socket = S>>(
        &mut self,
        engine: &mut E,
        owner: Owner,
        claim: Claim,
        context: &mut Context,
        now: Time,
    ) -> Input {
        self.backend = Some(claim.backend().id());
        self.tally.choose(context.recorder.backend(self.route, claim.backend().id()), now);
        if let (Some(trace), Some(log)) = (self.rarely.trace(), &mut context.log) {
            trace.choose(log.names(self.route, claim.backend()), now);
        }
        self.doomed = None;
        let route = &mut context.routes[usize::from(self.route)];
        self.source = route.sources.take(claim.backend().address());
        match self.open(engine, owner, route, claim.backend().address()) {
            Ok(()) => {
                self.claim = Some(claim);
                Input::Connecting
            }
            Err(errno) => self.fail(claim, (Failure::Errno(errno), errno), route, now),
        }
    }

    /// Opens a socket and begins to connect it, from the session's source or one after it.
    fn open<E: Engine<Socket = S>>(
        &mut self,
        engine: &mut E,
        owner: Owner,
        route: &Route,
        to: &Address,
    ) -> Result<(), Errno> {
        let mut options = route.options.clone();
        let socket = loop {
            options.source = route.sources.address(self.source, to);
            match (engine.open(to, &options), route.sources.after(self.source, to)) {
                // The host has lost that address.
                (Err(Errno::EADDRNOTAVAIL), Some(next)) => self.source = next,
                (result, _) => break result?,
            }
        };
        engine.connect(owner, &socket, to);
        self.sockets[Side::Backend as usize] = Some(socket);
        self.unix[Side::Backend as usize] = to.is_unix();
        Ok(())
    }

    fn connected(&mut self, route: &Route, now: Time) -> Input {
        if let Some(claim) = &mut self.claim
            && claim.connected(now)
        {
            let (pool, backend) = (route.chooser.pool().name().to_owned(), claim.backend().name().to_owned());
            route.reporter.tell(News::Returned { pool, backend });
        }
        self.rarely.forget_tried();
        self.connected = true;
        self.tally.connected(now);
        if let Some(trace) = self.rarely.trace() {
            trace.connected(now);
        }
        Input::Connected
    }

    fn connect_failed<E: Engine<Socket = S>>(
        &mut self,
        engine: &mut E,
        owner: Owner,
        route: &Route,
        errno: Errno,
        now: Time,
    ) -> Input {
        if let Some(socket) = self.sockets[Side::Backend as usize].take() {
            engine.close(socket);
        }
        let errno = match self.connect_again(engine, owner, route, errno) {
            Ok(()) => return Input::Connecting,
            Err(errno) => errno,
        };
        let abandoned = Input::ConnectFailed { errno, retry: false, counted: false };
        let Some(claim) = self.claim.take() else { return abandoned };
        match self.relay.judge(errno) {
            Verdict::Abandoned => abandoned,
            Verdict::TimedOut => self.fail(claim, (Failure::TimedOut, errno), route, now),
            Verdict::Failed(errno) => self.fail(claim, (Failure::Errno(errno), errno), route, now),
        }
    }

    /// Connects to the same backend from the next source, where this one has no port left. Gives back why not.
    fn connect_again<E: Engine<Socket = S>>(
        &mut self,
        engine: &mut E,
        owner: Owner,
        route: &Route,
        errno: Errno,
    ) -> Result<(), Errno> {
        let Some(backend) = self.claim.as_ref().map(Claim::backend_shared) else { return Err(errno) };
        let next = route.sources.after(self.source, backend.address());
        match next.filter(|_| errno == Errno::EADDRNOTAVAIL && self.relay.is_connecting()) {
            Some(next) => {
                self.source = next;
                self.open(engine, owner, route, backend.address())
            }
            None => Err(errno),
        }
    }

    fn fail(&mut self, claim: Claim, (failure, errno): (Failure, Errno), route: &Route, now: Time) -> Input {
        self.tally.fail(failure);
        self.rarely.note_tried(claim.backend());
        let backend = claim.backend_shared();
        let Next { go_on, counts, ejected } = claim.connect_failed(failure, now);
        if ejected {
            let (pool, backend) = (route.chooser.pool().name().to_owned(), backend.name().to_owned());
            route.reporter.tell(News::Ejected { pool, backend, cause: failure.to_string() });
        }
        Input::ConnectFailed { errno, retry: go_on, counted: counts }
    }

    fn receive<E: Engine<Socket = S>>(
        &mut self,
        engine: &mut E,
        side: Side,
        (filled, more): (engine::Filled, bool),
        now: Time,
    ) -> Input {
        let bytes = filled.bytes();
        let due = self.tally.receive(side, bytes);
        if self.relay.discards(side) {
            self.tally.discard(side, bytes);
            engine.buffers().discard(filled);
        } else {
            engine.buffers().append(&mut self.chains[side.other() as usize], filled);
        }
        if due {
            self.report(now);
        }
        Input::Received { side, bytes, more }
    }

    /// Moves what has come from `side` into a pipe.
    fn splice<E: Engine<Socket = S>>(&mut self, engine: &mut E, side: Side, now: Time) -> Input {
        let socket = self.sockets[side as usize].as_ref();
        let Some(socket) = socket else { return Input::ReceiveEnded(side, ReceiveEnd::Cancelled) };
        if self.relay.discards(side) {
            // There is something; nobody wants to know how much.
            return Input::Received { side, bytes: 0, more: false };
        }
        match engine.splice_in(socket) {
            Spliced::Bytes(piped) => {
                let bytes = piped.bytes();
                self.splices.hold(side.other(), piped);
                if self.tally.receive(side, bytes) {
                    self.report(now);
                }
                Input::Received { side, bytes, more: false }
            }
            Spliced::Nothing => Input::Unspliced(side),
            Spliced::Eof => Input::ReceiveEnded(side, self.receive_end(engine, side, engine::ReceiveEnd::Eof)),
            Spliced::Failed(errno) => Input::ReceiveEnded(side, ReceiveEnd::Failed(errno)),
        }
    }

    /// Goes on with the spliced bytes that wait for `side`.
    fn writable<E: Engine<Socket = S>>(&mut self, engine: &mut E, side: Side) -> Input {
        match self.sockets[side as usize].as_ref() {
            Some(socket) => self.splices.writable(engine, side, socket),
            None => Input::SendFailed(side, Errno::ECANCELED),
        }
    }

    #[cold]
    fn report(&mut self, now: Time) {
        self.tally.report(self.waits(Side::Backend), now);
        if let Some(trace) = self.rarely.trace()
            && self.tally.received()[Side::Backend as usize] > 0
        {
            trace.answered(now);
        }
    }

    fn receive_end<E: Engine<Socket = S>>(
        &mut self,
        engine: &mut E,
        side: Side,
        end: engine::ReceiveEnd,
    ) -> ReceiveEnd {
        match end {
            engine::ReceiveEnd::Eof => {
                let socket = self.sockets[side as usize].as_ref();
                let reset = self.relay.doubts_eof(side) && socket.is_some_and(|socket| engine.inspect(socket).closed);
                if reset { ReceiveEnd::Failed(Errno::ECONNRESET) } else { ReceiveEnd::Eof }
            }
            engine::ReceiveEnd::Starved => ReceiveEnd::Starved,
            engine::ReceiveEnd::Cancelled => ReceiveEnd::Cancelled,
            engine::ReceiveEnd::Failed(errno) => ReceiveEnd::Failed(errno),
        }
    }
}

/// The role of a side's socket in a session's slot.
pub const fn role(side: Side) -> Role {
    Role(side as u8)
}

/// Whose socket a role is.
const fn side(role: Role) -> Side {
    if role.0 == Side::Client as u8 { Side::Client } else { Side::Backend }
}

/// The name of an event, for a message about one that should not be.
struct Name<'a, S>(&'a Event<S>);

impl<S> std::fmt::Debug for Name<'_, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Event::Accepted { .. } => "Accepted",
            Event::AcceptEnded(_) => "AcceptEnded",
            Event::Received { .. } => "Received",
            Event::ReceiveEnded(_) => "ReceiveEnded",
            Event::Readable => "Readable",
            Event::Writable => "Writable",
            Event::Sent { .. } => "Sent",
            Event::SendFailed(_) => "SendFailed",
            Event::Connected => "Connected",
            Event::ConnectFailed(_) => "ConnectFailed",
            Event::HungUp { .. } => "HungUp",
            Event::WatchEnded => "WatchEnded",
            Event::Woken => "Woken",
        })
    }
}

const _: () = assert!(RECLAIM_INTERVAL.as_millis() >= Duration::from_millis(1).as_millis());
