//! What each worker is made of, kept so that one that has failed can be made again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;

use crate::config::{AcceptRate, Config, Listener};
use crate::control::roster::Rosters;
use crate::engine::SocketOptions;
use crate::engine::socket::Waker;
use crate::errno::Errno;
use crate::files::AccessLog;
use crate::metrics::Announced;
use crate::relay::Rules;
use crate::server::bind::Bound;
use crate::worker::admission::{Admission, Gate};
use crate::worker::clients::{ClientCounts, ClientRules};
use crate::worker::identity::ProxyProtocol;
use crate::worker::log::SessionLog;
use crate::worker::mailbox::Mailbox;
use crate::worker::news::Reporter;
use crate::worker::rate::{Bucket, Rate};
use crate::worker::sources::Sources;
use crate::worker::{ListenerSetup, Setup};

/// What all workers share, and what each of them keeps when its thread is another.
pub(super) struct Plan<'c> {
    pub(super) config: &'c Config,
    pub(super) rosters: Arc<Rosters>,
    pub(super) process: Arc<Gate>,
    pub(super) announcements: Sender<Announced>,
    pub(super) reporter: Reporter,
    pub(super) desks: Vec<Desk>,
    pub(super) cpus: Vec<usize>,
    pub(super) access_log: Option<AccessLog>,
    /// How many pipes each may splice through.
    pub(super) pipes: usize,
    pub(super) shared: HashMap<String, Shared>,
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
        let gate = Gate::new(listener.max_connections.map_or(usize::MAX, |max| max.get() as usize));
        Shared { gate: Arc::new(gate), rate: listener.accept_rate.map(bucket), clients: clients(listener) }
    }
}

impl Plan<'_> {
    /// The workers' boxes.
    pub(super) fn mailboxes(&self) -> impl Iterator<Item = &Mailbox> {
        self.desks.iter().map(|desk| &desk.mailbox)
    }

    /// What worker `number` is made of.
    pub(super) fn worker(&self, number: usize, bound: &[Bound]) -> Setup {
        let wakers: Arc<[Waker]> = self.mailboxes().map(|mailbox| mailbox.waker().clone()).collect();
        let queues = bound.iter().filter_map(|bound| self.listener(bound));
        let crowd = queues.map(|listener| listener.backlog.get() as usize * self.desks.len()).sum();
        let listeners = bound.iter().filter_map(|bound| {
            let listener = self.listener(bound)?;
            let (roster, settings) = (self.rosters.find(&listener.pool)?, self.config.pool(&listener.pool)?);
            let shared = self.shared.get(&listener.name)?;
            let (process, gate) = (Arc::clone(&self.process), Arc::clone(&shared.gate));
            Some(ListenerSetup {
                name: listener.name.clone(),
                socket: Arc::clone(&bound.listening.sockets()[number]),
                kept: bound.listening.is_kept(number),
                unix: bound.listening.address().is_unix(),
                admission: Admission::new(process, gate, wakers.clone(), crowd).at_rate(shared.rate.clone()),
                pool: Arc::clone(roster.pool()),
                rules: rules(listener, settings),
                options: SocketOptions { keepalive: settings.settings.keepalive, source: None },
                sources: Sources::new(&settings.sources),
                proxy_protocol: ProxyProtocol {
                    accept: listener.accept_proxy_protocol.clone(),
                    send: settings.send_proxy_protocol,
                },
                clients: shared.clients.clone(),
            })
        });
        let desk = &self.desks[number];
        Setup {
            number,
            cpu: (self.desks.len() == self.cpus.len()).then(|| self.cpus[number]),
            listeners: listeners.collect(),
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

    fn listener(&self, bound: &Bound) -> Option<&Listener> {
        self.config.listeners().iter().find(|listener| listener.name == bound.name)
    }
}

fn rules(listener: &Listener, pool: &crate::config::Pool) -> Rules {
    Rules {
        connect_timeout: pool.settings.connect_timeout,
        connect_budget: pool.connect_budget,
        connect_attempts: pool.settings.connect_attempts,
        idle_timeout: listener.idle_timeout,
        dead_peer_timeout: listener.dead_peer_timeout,
        when_none: pool.when_none,
        queue_timeout: pool.queue_timeout,
        max_session_duration: listener.max_session_duration,
    }
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
