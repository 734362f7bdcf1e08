//! The addresses of the configuration become listening sockets.

use std::net::TcpListener as StdListener;

use crate::address::Address;
use crate::config::{Bind, Config, Listener};
use crate::engine::listener::{ListenError, ListenOptions, Listener as Listening};
use crate::engine::socket;
use crate::server::error::Error;

/// One address of a listener of the configuration.
pub(super) struct Bound {
    pub(super) name: String,
    pub(super) listening: Listening,
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

pub(super) fn bind_all(listeners: &[Listener], workers: usize) -> Result<Vec<Bound>, ListenError> {
    let mut bound = Vec::new();
    for listener in listeners {
        let options = ListenOptions { workers, backlog: listener.backlog.get(), keepalive: listener.keepalive };
        for bind in &listener.bind {
            bind_one(listener, bind, &options, &mut bound)?;
        }
    }
    Ok(bound)
}

fn bind_one(
    listener: &Listener,
    bind: &Bind,
    options: &ListenOptions,
    bound: &mut Vec<Bound>,
) -> Result<(), ListenError> {
    let mut port = None;
    for (index, mut address) in bind.addresses().into_iter().enumerate() {
        if let (Address::Inet(inet), Some(port)) = (&mut address, port) {
            // All addresses on a free port: the IPv6 socket takes the one that the IPv4 socket has got.
            inet.set_port(port);
        }
        match Listening::bind(&address, options) {
            Ok(listening) => {
                port = listening.address().inet().map(|inet| inet.port());
                bound.push(Bound { name: listener.name.clone(), listening });
            }
            Err(ListenError::NoSuchAddress { .. }) if index > 0 => {
                tracing::info!(listener = listener.name, "this host has no IPv6: listening on IPv4 alone");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) fn bind_metrics(bind: Option<&Bind>) -> Result<Option<StdListener>, Error> {
    let Some(bind) = bind else { return Ok(None) };
    let addresses: Vec<_> = bind.addresses().iter().filter_map(Address::inet).collect();
    let bound = StdListener::bind(addresses.as_slice()).and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = bound.map_err(|source| Error::Metrics { address: bind.to_string(), source })?;
    tracing::info!(%address, "metrics address: /metrics /ready /health");
    Ok(Some(listener))
}
