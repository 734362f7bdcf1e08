//! The addresses of the configuration become listening sockets.

use std::net::TcpListener as StdListener;

use crate::address::Address;
use crate::config::{Bind, Config, Listener};
use crate::engine::handover::HandedOver;
use crate::engine::listener::{ListenError, ListenOptions, Listener as Listening};
use crate::engine::socket;
use crate::server::error::Error;

/// One address of a listener of the configuration.
pub(super) struct Bound {
    /// Tells it from every other, and from what it was before its listener was told something else.
    pub(super) door: u64,
    /// Those of one `bind` have the same.
    pub(super) group: u64,
    /// The listener's name.
    pub(super) name: String,
    /// Where the listener is told to listen; it may have several addresses.
    pub(super) bind: Bind,
    pub(super) listening: Listening,
}

/// Numbers that are given once.
#[derive(Debug, Default)]
pub(super) struct Doors(u64);

impl Doors {
    pub(super) fn next(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }
}

/// Before anybody is served: whether this host has the addresses that connections are to come from.
pub(super) fn try_sources(config: &Config) -> Result<(), Error> {
    for pool in config.pools() {
        for &address in &pool.sources {
            let fails = |errno| Error::Source { pool: pool.settings.name.clone(), address, errno };
            socket::try_source(address).map_err(fails)?;
        }
    }
    Ok(())
}

/// `handed`: sockets that were handed over are used where they match.
pub(super) fn bind_all(
    listeners: &[Listener],
    workers: usize,
    doors: &mut Doors,
    handed: &mut HandedOver,
) -> Result<Vec<Bound>, ListenError> {
    let mut bound = Vec::new();
    for listener in listeners {
        for bind in &listener.bind {
            bound.extend(bind_one((listener, bind), workers, doors, handed)?);
        }
    }
    Ok(bound)
}

/// What the sockets of a listener are told.
pub(super) fn options(listener: &Listener, workers: usize) -> ListenOptions {
    ListenOptions { workers, backlog: listener.backlog.get(), keepalive: listener.keepalive }
}

/// The sockets of one `bind` of a listener.
pub(super) fn bind_one(
    (listener, bind): (&Listener, &Bind),
    workers: usize,
    doors: &mut Doors,
    handed: &mut HandedOver,
) -> Result<Vec<Bound>, ListenError> {
    let options = &options(listener, workers);
    let group = doors.next();
    let mut bound = Vec::new();
    let mut port = None;
    let mut addresses = bind.addresses();
    if let [_, both] = &addresses[..]
        && handed.has_dual(both)
    {
        // One socket for IPv6 and IPv4.
        addresses.remove(0);
    }
    for (index, mut address) in addresses.into_iter().enumerate() {
        if let (Address::Inet(inet), Some(port)) = (&mut address, port) {
            // All addresses on a free port: the IPv6 socket takes the one that the IPv4 socket has got.
            inet.set_port(port);
        }
        let listening = match handed.find(&address) {
            Some(socket) => {
                tracing::info!(listener = listener.name, %address, "using the socket that was handed over");
                Listening::adopt(socket, &address, options)
            }
            None => Listening::bind(&address, options),
        };
        match listening {
            Ok(listening) => {
                port = listening.address().inet().map(|inet| inet.port());
                let (door, name, bind) = (doors.next(), listener.name.clone(), bind.clone());
                bound.push(Bound { door, group, name, bind, listening });
            }
            Err(ListenError::NoSuchAddress { .. }) if index > 0 => {
                tracing::info!(listener = listener.name, "this host has no IPv6: listening on IPv4 alone");
            }
            Err(error) => {
                bound.iter().for_each(|bound| bound.listening.remove_file());
                return Err(error);
            }
        }
    }
    Ok(bound)
}

/// Says which of the sockets that were handed over match nothing; they are closed.
pub(super) fn refuse_rest(handed: HandedOver) {
    for (name, address) in handed.rest() {
        tracing::warn!(
            name,
            address = address.map(tracing::field::display),
            "a socket was handed over (LISTEN_FDS) that matches no `bind`: closing it. Add its address to a listener, or take \
             it out of the .socket unit"
        );
    }
}

pub(super) fn bind_metrics(bind: Option<&Bind>, handed: &mut HandedOver) -> Result<Option<StdListener>, Error> {
    let Some(bind) = bind else { return Ok(None) };
    let taken = bind.addresses().iter().find_map(|address| handed.find(address)).map(StdListener::from);
    let addresses: Vec<_> = bind.addresses().iter().filter_map(Address::inet).collect();
    let bound = taken
        .map_or_else(|| StdListener::bind(addresses.as_slice()), Ok)
        .and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = bound.map_err(|source| Error::Metrics { address: bind.to_string(), source })?;
    tracing::info!(%address, "metrics address: /metrics /ready /health");
    Ok(Some(listener))
}
