//! Request and answer: held connections or one connection a request, at a closed or an open pace.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::client::{Client, Kit, Step};
use super::pattern::{PERIOD, Pattern};
use super::poller::{EventFlags, Token};
use super::schedule::{Pace, Schedule};
use super::served::{Life, Served};
use super::socket::dial;
use super::{DRAIN_MAX, Fault, Gauge, LoadError, Meter, Outcome, Record, Site, Window};
use crate::interrupt;

/// Connections that may be on their way to their first answer at a time, so that no backlog runs over.
const OPENING_MAX: usize = 256;

/// How long the opening of all connections may take.
const OPEN_MAX: Duration = Duration::from_secs(20);

/// Longest sleep of the loop, after which it looks at its deadlines.
const TURN_MAX: Duration = Duration::from_millis(50);

/// Received at a time.
const SCRATCH_BYTES: usize = 64 * 1024;

/// One kind of request/answer traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExchangePlan {
    /// Clients, each with one connection at a time.
    pub connections: usize,
    /// Bytes of a request, and of its answer.
    pub size: usize,
    /// How long a connection lives.
    pub life: Life,
    /// Compare every byte.
    pub check: bool,
    /// Who decides when the next request is sent. An open pace needs held connections.
    pub pace: Pace,
}

/// Runs `plan` against `targets`, which clients take in turn, and measures the window's second part.
///
/// # Errors
/// See [`LoadError`]; single failed operations are counted, not returned.
pub fn exchange(
    site: &mut Site,
    plan: &ExchangePlan,
    targets: &[SocketAddr],
    window: Window,
    meter: &mut dyn Meter,
) -> Result<Outcome, LoadError> {
    let mut run = Exchange::opened(site, plan, targets)?;
    let now_ns = run.now_ns();
    let counted_from = now_ns + window.warmup.as_nanos() as u64;
    let counted_until = counted_from + window.measure.as_nanos() as u64;
    if let Pace::PerSecond(rate) = plan.pace {
        run.start_schedule(rate, now_ns);
        run.counted = counted_from..counted_until;
    } else {
        run.start_all()?;
    }
    run.until(counted_from)?;
    run.record.restart();
    let from = Gauge::read(meter)?;
    run.until(counted_until)?;
    let to = Gauge::read(meter)?;
    // What ends from here on belongs to an open pace's window only by its due time.
    let counted = run.record.operations;
    let unfinished = run.settle(counted_until)?;
    if plan.pace == Pace::Closed {
        run.record.operations = counted;
        run.record.bytes = counted * 2 * plan.size as u64;
    }
    let leftover = run.close()?;
    Ok(run.record.finish(&from, &to, unfinished, leftover))
}

/// Opens `connections`, makes one exchange of `size` bytes on each, calls `at_rest` while they are held idle,
/// and closes them again. Returns the connections that the proxy still held to its backends long after.
///
/// # Errors
/// See [`LoadError`].
pub fn hold(
    site: &mut Site,
    targets: &[SocketAddr],
    connections: usize,
    size: usize,
    at_rest: &mut dyn FnMut(),
) -> Result<usize, LoadError> {
    let plan = ExchangePlan { connections, size, life: Life::Held, check: true, pace: Pace::Closed };
    let mut run = Exchange::opened(site, &plan, targets)?;
    at_rest();
    run.close()
}

struct Exchange<'a> {
    site: &'a mut Site,
    plan: &'a ExchangePlan,
    targets: &'a [SocketAddr],
    kit: Kit,
    clients: Vec<Client>,
    served: Served,
    /// Clients whose connection failed; they dial again in the next turn.
    fallen: Vec<usize>,
    /// Clients that have been answered once.
    opened: usize,
    /// Clients with an operation outstanding.
    busy: usize,
    /// Answered clients rest.
    holding: bool,
    schedule: Option<Schedule>,
    /// Due times that count.
    counted: Range<u64>,
    record: Record,
    origin: Instant,
}

impl<'a> Exchange<'a> {
    fn new(site: &'a mut Site, plan: &'a ExchangePlan, targets: &'a [SocketAddr]) -> Exchange<'a> {
        let pattern = Pattern::new(plan.size + PERIOD);
        Exchange {
            site,
            plan,
            targets,
            kit: Kit { size: plan.size, check: plan.check, pattern, scratch: vec![0; SCRATCH_BYTES] },
            clients: (0..plan.connections).map(Client::new).collect(),
            served: Served::new(plan.life),
            fallen: Vec::new(),
            opened: 0,
            busy: 0,
            holding: false,
            schedule: None,
            counted: 0..u64::MAX,
            record: Record::new(),
            origin: Instant::now(),
        }
    }

    /// With every client answered once. Held connections rest until then: who accepts one connection for each round of
    /// its event loop would need minutes for thousands of them beside the traffic.
    fn opened(
        site: &'a mut Site,
        plan: &'a ExchangePlan,
        targets: &'a [SocketAddr],
    ) -> Result<Exchange<'a>, LoadError> {
        let mut run = Exchange::new(site, plan, targets);
        run.holding = plan.life == Life::Held;
        run.open()?;
        run.holding = false;
        Ok(run)
    }

    fn now_ns(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Gets every client its first answer.
    fn open(&mut self) -> Result<(), LoadError> {
        let deadline = Instant::now() + OPEN_MAX;
        let mut begun = 0;
        while self.opened < self.clients.len() {
            while begun < self.clients.len() && begun - self.opened < OPENING_MAX {
                self.begin(begun, None)?;
                begun += 1;
            }
            self.turn(TURN_MAX)?;
            if Instant::now() > deadline {
                return Err(LoadError::NotOpened {
                    open: self.opened,
                    wanted: self.clients.len(),
                    seconds: OPEN_MAX.as_secs(),
                    failures: self.record.failures,
                });
            }
        }
        Ok(())
    }

    /// Gives work to those who rest: held connections. Others are never at rest; who has its answer may wait for the end of the
    /// stream.
    fn start_all(&mut self) -> Result<(), LoadError> {
        if self.plan.life != Life::Held {
            return Ok(());
        }
        for at in 0..self.clients.len() {
            if self.clients[at].rests(&self.kit) {
                self.begin(at, None)?;
            }
        }
        Ok(())
    }

    fn start_schedule(&mut self, rate: f64, now_ns: u64) {
        let mut schedule = Schedule::new(rate, now_ns, 0x5DEE_CE66);
        (0..self.clients.len()).for_each(|client| schedule.rest(client));
        self.schedule = Some(schedule);
    }

    /// Keeps the traffic going until the run's clock shows `until_ns`.
    fn until(&mut self, until_ns: u64) -> Result<(), LoadError> {
        loop {
            let left = until_ns.saturating_sub(self.now_ns());
            if left == 0 {
                return Ok(());
            }
            self.turn(Duration::from_nanos(left).min(TURN_MAX))?;
        }
    }

    /// Lets outstanding operations end, without new ones, and returns how many of those due before `due_before`
    /// did not.
    fn settle(&mut self, due_before: u64) -> Result<u64, LoadError> {
        self.holding = true;
        let deadline = Instant::now() + DRAIN_MAX;
        loop {
            let waiting = self.schedule.as_ref().map_or(0, |schedule| schedule.waiting_before(due_before));
            let unfinished = self.busy as u64 + waiting;
            if unfinished == 0 || Instant::now() > deadline {
                return Ok(unfinished);
            }
            self.turn(TURN_MAX)?;
        }
    }

    /// Closes the clients and waits until the proxy has ended its connections to the backends.
    fn close(&mut self) -> Result<usize, LoadError> {
        self.schedule = None;
        self.holding = true;
        self.fallen.clear();
        self.clients.iter_mut().for_each(|client| client.socket = None);
        let deadline = Instant::now() + DRAIN_MAX;
        while self.served.len() > 0 && Instant::now() < deadline {
            self.turn(TURN_MAX)?;
        }
        Ok(self.served.len())
    }

    /// One wait and all it brought.
    fn turn(&mut self, longest: Duration) -> Result<(), LoadError> {
        if interrupt::requested() {
            return Err(LoadError::Interrupted);
        }
        for client in std::mem::take(&mut self.fallen) {
            self.begin(client, Some(self.clients[client].due_ns))?;
        }
        // Due times are finer than a sleep; the generator has its CPU to itself and may spin.
        let longest = if self.schedule.is_some() { Duration::ZERO } else { longest };
        let count = self.site.poller.wait(longest)?;
        for at in 0..count {
            if at % 8 == 0 {
                self.send_due()?;
            }
            match self.site.poller.event(at) {
                (Token::Listener(listener), _) => self.served.accept(self.site, listener)?,
                (Token::Client(client), flags) => self.client_ready(client, flags)?,
                (Token::Served(place), flags) => self.served.ready(place, flags, &mut self.kit),
            }
        }
        self.send_due()
    }

    /// Begins the operations of an open pace that are due.
    fn send_due(&mut self) -> Result<(), LoadError> {
        let now_ns = self.now_ns_if_scheduled();
        let Some(schedule) = &mut self.schedule else { return Ok(()) };
        if !self.holding {
            schedule.advance(now_ns);
        }
        while let Some((client, due_ns)) = self.schedule.as_mut().and_then(Schedule::take) {
            self.begin(client, Some(due_ns))?;
        }
        Ok(())
    }

    fn now_ns_if_scheduled(&self) -> u64 {
        if self.schedule.is_some() { self.now_ns() } else { 0 }
    }

    /// Begins an operation, over a new connection where the client has none. `due_ns`: now, if absent.
    fn begin(&mut self, at: usize, due_ns: Option<u64>) -> Result<(), LoadError> {
        let due_ns = due_ns.unwrap_or_else(|| self.now_ns());
        let client = &mut self.clients[at];
        client.begin(due_ns);
        self.busy += 1;
        if client.socket.is_some() {
            return match client.push(&self.kit) {
                Ok(_) => Ok(()),
                Err(fault) => self.fall(at, fault),
            };
        }
        let socket = dial(self.targets[at % self.targets.len()])?;
        let socket = client.socket.insert(socket);
        let mut interest = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        if self.plan.life == Life::Held {
            self.site.poller.add(&*socket, Token::Client(at), interest | EventFlags::OUT)?;
            return Ok(());
        }
        // On the loopback the handshake is mostly over when connect returns, and the request can leave at once:
        // the event that says so would cost more than the attempt.
        match client.push(&self.kit) {
            Ok(sent) => interest.set(EventFlags::OUT, !sent),
            Err(fault) => return self.fall(at, fault),
        }
        if let Some(socket) = &self.clients[at].socket {
            self.site.poller.add(socket, Token::Client(at), interest)?;
        }
        Ok(())
    }

    fn client_ready(&mut self, at: usize, flags: EventFlags) -> Result<(), LoadError> {
        let to_end = self.plan.life == Life::ServerCloses;
        match self.clients[at].ready(flags, &mut self.kit, to_end)? {
            Step::Waiting => Ok(()),
            Step::Failed(fault) => self.fall(at, fault),
            Step::Answered { ended } => self.answered(at, ended),
            Step::Ended if self.plan.life == Life::ServerCloses => {
                self.clients[at].socket = None;
                self.go_on(at)
            }
            Step::Ended => {
                // Nothing was outstanding: the proxy has closed a connection that was to be held.
                self.busy += 1;
                self.fall(at, Fault::EndedEarly)
            }
        }
    }

    fn answered(&mut self, at: usize, ended: bool) -> Result<(), LoadError> {
        let due_ns = self.clients[at].due_ns;
        if self.counted.contains(&due_ns) {
            self.record.success(self.now_ns() - due_ns, 2 * self.plan.size);
        }
        let over = match self.plan.life {
            Life::Held => ended,
            Life::ClientCloses => true,
            Life::ServerCloses if !ended => return Ok(()),
            Life::ServerCloses => true,
        };
        if over {
            self.clients[at].socket = None;
        }
        self.go_on(at)
    }

    /// The operation is over; what comes next is the pace's to say.
    fn go_on(&mut self, at: usize) -> Result<(), LoadError> {
        self.busy -= 1;
        if !std::mem::replace(&mut self.clients[at].opened, true) {
            self.opened += 1;
        }
        if let Some(schedule) = &mut self.schedule {
            schedule.rest(at);
            return Ok(());
        }
        if self.holding { Ok(()) } else { self.begin(at, None) }
    }

    fn fall(&mut self, at: usize, fault: Fault) -> Result<(), LoadError> {
        self.busy -= 1;
        self.clients[at].socket = None;
        self.record.failure(fault)?;
        self.fallen.push(at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn held_connections_rest_until_all_are_open_and_then_all_begin() {
        const CONNECTIONS: usize = 300;
        let mut site = Site::new(1).expect("a backend listens");
        let targets = site.addresses().to_vec();
        let (life, pace) = (Life::Held, Pace::Closed);
        let plan = ExchangePlan { connections: CONNECTIONS, size: 64, life, check: true, pace };
        let mut run = Exchange::opened(&mut site, &plan, &targets).expect("the loopback works");
        assert_eq!((run.record.operations, run.busy), (CONNECTIONS as u64, 0), "one answer each, and no request more");
        run.start_all().expect("the loopback works");
        assert_eq!(run.busy, CONNECTIONS);
        assert_eq!(run.close().expect("the loopback works"), 0);
    }

    #[test]
    fn who_was_answered_and_waits_for_the_end_gets_no_work() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let target = server.local_addr().expect("it listens");
        let mut site = Site::new(1).expect("a backend listens");
        let (life, pace) = (Life::ServerCloses, Pace::Closed);
        let plan = ExchangePlan { connections: 1, size: 64, life, check: false, pace };
        let targets = [target];
        let mut run = Exchange::new(&mut site, &plan, &targets);
        run.begin(0, None).expect("the loopback works");
        let (mut served, _) = server.accept().expect("a client");
        served.read_exact(&mut [0; 64]).expect("its request");
        served.write_all(&[0; 64]).expect("it is there");
        let deadline = Instant::now() + OPEN_MAX;
        while run.record.operations == 0 {
            assert!(Instant::now() < deadline, "the client was answered");
            run.turn(TURN_MAX).expect("the loopback works");
        }
        run.start_all().expect("the loopback works");
        assert_eq!(run.busy, 1);
        drop(served);
        run.settle(0).expect("the loopback works");
        assert_eq!(run.record.failures, 0);
    }
}
