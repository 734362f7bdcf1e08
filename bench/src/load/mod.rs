//! The load generator: clients and backends on one thread and one event loop.
//!
//! On two CPUs the proxy has one to itself and everything else shares the other; with clients and backends on
//! threads of their own, the latencies' tail would be the scheduler's.

mod bulk;
mod client;
mod exchange;
mod pattern;
mod poller;
mod schedule;
mod served;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

pub use bulk::{BulkPlan, Direction, bulk};
pub use exchange::{ExchangePlan, exchange, hold};
pub use schedule::Pace;
pub use served::Life;

use poller::{EventFlags, Poller, Token};

/// The longest latency that is kept apart from longer ones.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// How long the proxy may take to end its connections after the clients have left.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Why a run gave no figures.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The machine said no to the generator itself.
    #[error("the load generator cannot go on: {0}")]
    Own(#[from] io::Error),
    /// Bytes were changed, lost or doubled on their way.
    #[error("connection {connection} received wrong bytes within {length} from byte {position} of its stream")]
    Corrupt {
        /// The client's number.
        connection: usize,
        /// Where the piece with the fault begins, in its message or stream.
        position: u64,
        /// Length of the piece.
        length: usize,
    },
    /// So many operations failed that the rest says nothing.
    #[error("{failures} operations failed, the first one so: {first}")]
    Failing {
        /// Failed operations.
        failures: u64,
        /// What happened to the first.
        first: Fault,
    },
    /// Not all connections could be opened in time.
    #[error("only {open} of {wanted} connections were served within {seconds} s ({failures} failures)")]
    NotOpened {
        /// Connections that got their first answer.
        open: usize,
        /// Connections asked for.
        wanted: usize,
        /// The deadline.
        seconds: u64,
        /// Attempts that failed.
        failures: u64,
    },
    /// Somebody pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// What went wrong with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Errno(#[from] Errno),
    /// The stream ended before the whole answer was there.
    #[error("the stream ended before the answer did")]
    EndedEarly,
    /// More came than was asked for.
    #[error("more bytes came than the answer has")]
    Excess,
}

/// The time a run takes: first unmeasured, then measured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// From the moment all connections are open.
    pub warmup: Duration,
    /// What counts.
    pub measure: Duration,
}

/// What was seen within the measured part of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The measured part's true length.
    pub elapsed: Duration,
    /// Operations that ended in it (at an open pace: that were due in it and ended).
    pub operations: u64,
    /// Payload bytes that reached their receiver, both ways together.
    pub bytes: u64,
    /// Operations that failed, in the whole run.
    pub failures: u64,
    /// What happened to the first of them.
    pub first_failure: Option<Fault>,
    /// Operations that were due and had not ended some seconds after the window (open pace only).
    pub unfinished: u64,
    /// What the meter (the proxy's CPU time) advanced.
    pub proxy_cpu: Duration,
    /// CPU time of the generator's own thread.
    pub generator_cpu: Duration,
    /// From the intended start to the answer's last byte, in nanoseconds.
    pub latency: Histogram<u64>,
    /// Connections the proxy still held to the backends long after its clients had gone.
    pub leftover: usize,
}

/// Reads a total that only grows, here the proxy's CPU time.
pub trait Meter: FnMut() -> io::Result<Duration> {}

impl<F: FnMut() -> io::Result<Duration>> Meter for F {}

/// The backends' addresses and the event loop that serves them. Outlives many runs, so that proxies keep theirs.
pub struct Site {
    poller: Poller,
    listeners: Vec<OwnedFd>,
    addresses: Vec<SocketAddr>,
}

impl Site {
    /// Listens on `backends` free ports of the loopback.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(backends: usize) -> io::Result<Site> {
        let poller = Poller::new()?;
        let mut site = Site { poller, listeners: Vec::new(), addresses: Vec::new() };
        for index in 0..backends {
            let (socket, address) = socket::listener()?;
            site.poller.add(&socket, Token::Listener(index), EventFlags::IN)?;
            site.listeners.push(socket);
            site.addresses.push(address);
        }
        Ok(site)
    }

    /// Where the backends listen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// Both clocks and the meter at the start of the measured part.
struct Gauge {
    at: Instant,
    proxy: Duration,
    generator: Duration,
}

impl Gauge {
    fn read(meter: &mut dyn Meter) -> io::Result<Gauge> {
        Ok(Gauge { proxy: meter()?, generator: thread_cpu(), at: Instant::now() })
    }
}

/// What a run counts.
#[derive(Debug)]
struct Record {
    latency: Histogram<u64>,
    operations: u64,
    bytes: u64,
    failures: u64,
    first_failure: Option<Fault>,
}

impl Record {
    fn new() -> Record {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_NS, 3).expect("the bounds are constants and valid");
        Record { latency, operations: 0, bytes: 0, failures: 0, first_failure: None }
    }

    /// Forgets what happened while warming up, except the failures.
    fn restart(&mut self) {
        self.latency.reset();
        self.operations = 0;
        self.bytes = 0;
    }

    fn success(&mut self, latency_ns: u64, bytes: usize) {
        self.latency.saturating_record(latency_ns.max(1));
        self.operations += 1;
        self.bytes += bytes as u64;
    }

    /// Counts a failure; too many of them end the run.
    fn failure(&mut self, fault: Fault) -> Result<(), LoadError> {
        const FAILURES_MAX: u64 = 1000;
        self.failures += 1;
        let first = *self.first_failure.get_or_insert(fault);
        if self.failures >= FAILURES_MAX {
            return Err(LoadError::Failing { failures: self.failures, first });
        }
        Ok(())
    }

    fn finish(self, from: &Gauge, to: &Gauge, unfinished: u64, leftover: usize) -> Outcome {
        Outcome {
            elapsed: to.at - from.at,
            operations: self.operations,
            bytes: self.bytes,
            failures: self.failures,
            first_failure: self.first_failure,
            unfinished,
            proxy_cpu: to.proxy.saturating_sub(from.proxy),
            generator_cpu: to.generator.saturating_sub(from.generator),
            latency: self.latency,
            leftover,
        }
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests;
