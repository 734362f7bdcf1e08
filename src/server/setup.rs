//! What each worker is made of.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use crate::config::{AcceptRate, Config, Listener};
use crate::control::roster::Rosters;
use crate::engine::SocketOptions;
use crate::engine::socket::Waker;
use crate::files::AccessLog;
use crate::metrics::Announced;
use crate::relay::Rules;
use crate::server::Fleet;
use crate::worker::admission::{Admission, Gate};
use crate::worker::clients::{ClientCounts, ClientRules};
use crate::worker::identity::ProxyProtocol;
use crate::worker::log::SessionLog;
use crate::worker::mailbox::Command;
use crate::worker::rate::{Bucket, Rate};
use crate::worker::sources::Sources;
use crate::worker::{ListenerSetup, Setup};

/// What all workers share.
pub(super) struct Shared<'s> {
    pub(super) wakers: &'s Arc<[Waker]>,
    /// Each listener's limit, by its name.
    pub(super) gates: &'s HashMap<String, Arc<Gate>>,
    pub(super) announcements: &'s Sender<Announced>,
    pub(super) access_log: Option<&'s AccessLog>,
    /// How many pipes each may splice through.
    pub(super) pipes: usize,
}

impl Fleet {
    /// What each worker is made of.
    pub(super) fn setups(
        &self,
        config: &Config,
        rosters: &Rosters,
        shared: Shared<'_>,
        (commands, cpus): (Vec<Receiver<Command>>, &[usize]),
    ) -> Vec<Setup> {
        let Shared { wakers, gates, announcements, pipes, access_log } = shared;
        let count = wakers.len();
        let queues = self.listeners.iter().filter_map(|bound| config.listeners().iter().find(|l| l.name == bound.name));
        let crowd = queues.map(|listener| listener.backlog.get() as usize * count).sum();
        let rates: HashMap<&str, Option<Arc<Bucket>>> =
            config.listeners().iter().map(|l| (l.name.as_str(), l.accept_rate.map(bucket))).collect();
        let clients: HashMap<&str, ClientRules> =
            config.listeners().iter().map(|l| (l.name.as_str(), clients(l))).collect();
        let mut setups = Vec::new();
        for (number, commands) in commands.into_iter().enumerate() {
            let mut listeners = Vec::new();
            for bound in &self.listeners {
                let Some(listener) = config.listeners().iter().find(|l| l.name == bound.name) else { continue };
                let (Some(roster), Some(settings)) = (rosters.find(&listener.pool), config.pool(&listener.pool)) else {
                    continue;
                };
                let gate = Arc::clone(&gates[&listener.name]);
                listeners.push(ListenerSetup {
                    name: listener.name.clone(),
                    socket: Arc::clone(&bound.listening.sockets()[number]),
                    unix: bound.listening.address().is_unix(),
                    admission: Admission::new(Arc::clone(&self.process), gate, Arc::clone(wakers), crowd)
                        .at_rate(rates[listener.name.as_str()].clone()),
                    pool: Arc::clone(roster.pool()),
                    rules: rules(listener, settings),
                    options: SocketOptions { keepalive: settings.settings.keepalive, source: None },
                    sources: Sources::new(&settings.sources),
                    proxy_protocol: ProxyProtocol {
                        accept: listener.accept_proxy_protocol.clone(),
                        send: settings.send_proxy_protocol,
                    },
                    clients: clients[listener.name.as_str()].clone(),
                });
            }
            let waker = wakers[number].clone();
            let cpu = (count == cpus.len()).then(|| cpus[number]);
            let (mailbox, announcements) = (self.mailboxes[number].clone(), announcements.clone());
            let log = access_log.map(|log| SessionLog::new(number, log.queue(), config.access_log_start()));
            setups.push(Setup { number, cpu, listeners, waker, commands, mailbox, announcements, pipes, log });
        }
        setups
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

pub(super) fn gate(listener: &Listener) -> Arc<Gate> {
    Arc::new(Gate::new(listener.max_connections.map_or(usize::MAX, |max| max.get() as usize)))
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
