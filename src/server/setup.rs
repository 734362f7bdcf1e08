//! What each worker is made of, kept so that one that has failed can be made again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::config::{AcceptRate, Config, Listener};
use crate::control::rosters::Rosters;
use crate::engine::SocketOptions;
use crate::engine::socket::Waker;
use crate::errno::Errno;
use crate::files::AccessLog;
use crate::metrics::Announced;
use crate::relay::Rules;
use crate::server::bind::Bound;
use crate::wire::proxy::Version;
use crate::worker::Setup;
use crate::worker::admission::{Admission, Gate};
use crate::worker::clients::{ClientCounts, ClientRules};
use crate::worker::doors::{ListenerList, ListenerSetup};
use crate::worker::identity::ProxyProtocol;
use crate::worker::log::SessionLog;
use crate::worker::mailbox::Mailbox;
use crate::worker::news::Reporter;
use crate::worker::rate::{Bucket, Rate};
use crate::worker::sources::Sources;

/// What all workers share, and what each of them keeps when its thread is another.
pub(super) struct Plan {
    pub(super) config: Config,
    pub(super) rosters: Arc<Rosters>,
    pub(super) process: Arc<Gate>,
    pub(super) announcements: Sender<Announced>,
    pub(super) reporter: Reporter,
    pub(super) desks: Vec<Desk>,
    pub(super) cpus: Vec<usize>,
    pub(super) access_log: Option<AccessLog>,
    /// How many descriptors the process may open.
    pub(super) descriptors: usize,
    /// How many pipes each may splice through.
    pub(super) pipes: usize,
    pub(super) shared: HashMap<String, Shared>,
    /// Clients that may wait in all accept queues together.
    pub(super) crowd: Arc<AtomicUsize>,
    /// Counts what the workers were told of listeners.
    pub(super) lists: u64,
}

/// A worker as the others know it.
pub(super) struct Desk {
    pub(super) mailbox: Mailbox,
    /// The last ping that was answered.
    pulse: Arc<AtomicU64>,
}

impl Desk {
    /// # Errors
    /// Where an eventfd cannot be had.
    pub(super) fn new() -> Result<Desk, Errno> {
        Ok(Desk { mailbox: Mailbox::new(Waker::new()?), pulse: Arc::default() })
    }

    /// Whether the worker has answered the ping of this number, or a later one.
    pub(super) fn has_answered(&self, ping: u64) -> bool {
        self.pulse.load(Ordering::Acquire) >= ping
    }
}

/// What all workers count together of one listener.
pub(super) struct Shared {
    pub(super) gate: Arc<Gate>,
    rate: Option<Arc<Bucket>>,
    clients: ClientRules,
}

impl Shared {
    /// Nothing is counted yet.
    pub(super) fn new(listener: &Listener) -> Shared {
        let gate = Gate::new(sessions_max(listener));
        Shared::at(Arc::new(gate), listener)
    }

    /// The same, where sessions of before are counted by `gate` already.
    pub(super) fn at(gate: Arc<Gate>, listener: &Listener) -> Shared {
        gate.set_max(sessions_max(listener));
        Shared { gate, rate: listener.accept_rate.map(bucket), clients: clients(listener) }
    }

    /// The same, for a listener that was told `before` and is told `now`. What it counts goes on, but that a new rate has a full
    /// bucket, and that a limit for each client counts those who come from now on.
    pub(super) fn told(&mut self, before: &Listener, now: &Listener) {
        self.gate.set_max(sessions_max(now));
        if before.accept_rate != now.accept_rate {
            self.rate = now.accept_rate.map(bucket);
        }
        let ClientRules { access, counts } = clients(now);
        self.clients.access = access;
        if before.max_connections_per_client != now.max_connections_per_client {
            self.clients.counts = counts;
        }
    }
}

impl Plan {
    /// The workers' boxes.
    pub(super) fn mailboxes(&self) -> impl Iterator<Item = &Mailbox> {
        self.desks.iter().map(|desk| &desk.mailbox)
    }

    /// What worker `number` is made of.
    pub(super) fn worker(&self, number: usize, bound: &[Bound]) -> Setup {
        let desk = &self.desks[number];
        Setup {
            number,
            cpu: (self.desks.len() == self.cpus.len()).then(|| self.cpus[number]),
            listeners: ListenerList { number: self.lists, listeners: self.listeners(number, bound), gone: Vec::new() },
            mailbox: desk.mailbox.clone(),
            pulse: Arc::clone(&desk.pulse),
            announcements: self.announcements.clone(),
            reporter: self.reporter.clone(),
            pipes: self.pipes,
            log: self
                .access_log
                .as_ref()
                .map(|log| SessionLog::new(number, desk.mailbox.life(), log.queue(), self.config.access_log_start())),
        }
    }

    /// The listeners that worker `number` serves: all of them, each on its own socket.
    pub(super) fn listeners(&self, number: usize, bound: &[Bound]) -> Vec<ListenerSetup> {
        let wakers: Arc<[Waker]> = self.mailboxes().map(|mailbox| mailbox.waker().clone()).collect();
        let listeners = bound.iter().filter_map(|bound| {
            let listener = self.listener(bound)?;
            let (roster, terms) = (self.rosters.find(&listener.pool)?, Terms::new(&self.config, listener)?);
            let shared = self.shared.get(&listener.name)?;
            let (process, gate) = (Arc::clone(&self.process), Arc::clone(&shared.gate));
            Some(ListenerSetup {
                id: bound.door,
                name: listener.name.clone(),
                socket: Arc::clone(&bound.listening.sockets()[number]),
                kept: bound.listening.is_kept(number),
                unix: bound.listening.address().is_unix(),
                admission: Admission::new(process, gate, wakers.clone(), self.crowd.clone())
                    .at_rate(shared.rate.clone()),
                pool: Arc::clone(roster.pool()),
                rules: terms.rules,
                options: SocketOptions { keepalive: terms.keepalive, source: None },
                sources: Sources::new(terms.sources),
                proxy_protocol: ProxyProtocol { accept: listener.accept_proxy_protocol.clone(), send: terms.send },
                clients: shared.clients.clone(),
            })
        });
        listeners.collect()
    }

    /// Counts anew how many clients may wait.
    pub(super) fn count_crowd(&self, bound: &[Bound]) {
        let queues = bound.iter().filter_map(|bound| self.listener(bound));
        let crowd = queues.map(|listener| listener.backlog.get() as usize * self.desks.len()).sum();
        self.crowd.store(crowd, Ordering::Relaxed);
    }

    fn listener(&self, bound: &Bound) -> Option<&Listener> {
        self.config.listeners().iter().find(|listener| listener.name == bound.name)
    }
}

/// What a worker takes over of a listener when it opens it, and keeps for the sessions that come by it.
#[derive(PartialEq)]
pub(super) struct Terms<'c> {
    listener: Listener,
    pool: &'c str,
    rules: Rules,
    keepalive: Option<Duration>,
    sources: &'c [IpAddr],
    send: Option<Version>,
}

impl<'c> Terms<'c> {
    /// Of a listener of this configuration.
    pub(super) fn new(config: &'c Config, listener: &'c Listener) -> Option<Terms<'c>> {
        let pool = config.pool(&listener.pool)?;
        let rules = Rules {
            connect_timeout: pool.settings.connect_timeout,
            connect_budget: pool.connect_budget,
            connect_attempts: pool.settings.connect_attempts,
            idle_timeout: listener.idle_timeout,
            dead_peer_timeout: listener.dead_peer_timeout,
            when_none: pool.when_none,
            queue_timeout: pool.queue_timeout,
            max_session_duration: listener.max_session_duration,
        };
        Some(Terms {
            // Told otherwise, while the socket is open: where it listens, its queue, its limit of sessions.
            listener: Listener {
                bind: Vec::new(),
                backlog: NonZeroU32::MIN,
                keepalive: None,
                max_connections: None,
                ..listener.clone()
            },
            pool: &pool.settings.name,
            rules,
            keepalive: pool.settings.keepalive,
            sources: &pool.sources,
            send: pool.send_proxy_protocol,
        })
    }
}

fn sessions_max(listener: &Listener) -> usize {
    listener.max_connections.map_or(usize::MAX, |max| max.get() as usize)
}

fn bucket(rate: AcceptRate) -> Arc<Bucket> {
    Arc::new(Bucket::new(Rate { per_second: rate.per_second, burst: rate.burst }))
}

fn clients(listener: &Listener) -> ClientRules {
    ClientRules {
        access: (!listener.access.is_open()).then(|| Arc::new(listener.access.clone())),
        counts: listener.max_connections_per_client.map(|max| Arc::new(ClientCounts::new(max))),
    }
}
