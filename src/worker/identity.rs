//! Who a session's client is, where that matters: behind a proxy that tells it, and before backends that want to be
//! told.

use std::os::unix::ffi::OsStrExt;

use crate::address::Address;
use crate::config::Networks;
use crate::engine::{Addresses, Buffers, Chain};
use crate::errno::Errno;
use crate::relay::{CloseReason, HeaderFault, Side, Start};
use crate::wire::proxy::{self, Command, Endpoint, Parsed, UnixName, Version};

/// What a route does with the PROXY protocol.
#[derive(Clone, Debug, Default)]
pub struct ProxyProtocol {
    /// Clients are proxies that send a header; `None`: they send none.
    pub accept: Option<Networks>,
    /// Backends are sent a header; `None`: they are not.
    pub send: Option<Version>,
}

impl ProxyProtocol {
    /// Whether it takes no part in the route's sessions, which then need not know between whom they are.
    pub const fn is_off(&self) -> bool {
        self.accept.is_none() && self.send.is_none()
    }

    /// How a session of a client between `addresses` begins. What is to go to the backend first is queued in `chain`.
    pub fn begin(&self, addresses: &Addresses, buffers: &mut Buffers, chain: &mut Chain) -> Start {
        match &self.accept {
            None => {
                self.announce(&own_ends(addresses), buffers, chain);
                Start::Choose { waiting: chain.bytes() }
            }
            Some(trusted) if addresses.peer.as_ref().is_some_and(|peer| trusted.contains(peer)) => Start::AwaitHeader,
            // A reset takes the address with it.
            Some(_) if addresses.peer.is_none() => Start::Close(CloseReason::Failed(Side::Client, Errno::ECONNRESET)),
            Some(_) => Start::Close(CloseReason::Header(HeaderFault::Untrusted)),
        }
    }

    /// Queues the header for the backend, where there is to be one, before all that waits for it.
    pub fn announce(&self, command: &Command, buffers: &mut Buffers, chain: &mut Chain) {
        if let Some(version) = self.send {
            buffers.prepend_copy(chain, &proxy::write(version, command));
        }
    }
}

/// Reads the header at the front of `chain`, and leaves it there.
pub fn read_header(buffers: &mut Buffers, chain: &mut Chain) -> Parsed {
    let parsed = proxy::parse(buffers.slices(chain).next().unwrap_or_default());
    let Parsed::Incomplete { need } = parsed else { return parsed };
    if buffers.slices(chain).nth(1).is_none() {
        return Parsed::Incomplete { need };
    }
    // A header that comes in pieces is put together, which also gives back the buffer of each piece.
    buffers.spill(chain);
    proxy::parse(buffers.slices(chain).next().unwrap_or_default())
}

/// The client that a header names; `None` where it names none.
pub fn client(command: &Command) -> Option<Address> {
    let Command::Proxy { source, .. } = command else { return None };
    Some(match source {
        Endpoint::Inet(inet) => Address::Inet(*inet),
        Endpoint::Unix(name) => {
            let name = name.as_bytes();
            // It is padded with zeros; one at its front begins an abstract name.
            let end = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            Address::Unix(std::ffi::OsStr::from_bytes(&name[..end]).into())
        }
    })
}

/// What a backend is told of a connection that nobody has said anything about.
pub fn own_ends(addresses: &Addresses) -> Command {
    let endpoint = |address: &Option<Address>| match address.as_ref()? {
        Address::Inet(inet) => Some(Endpoint::Inet(*inet)),
        Address::Unix(path) => Some(Endpoint::Unix(Box::new(UnixName::new(path.as_os_str().as_bytes())?))),
    };
    match (endpoint(&addresses.peer), endpoint(&addresses.local)) {
        (Some(source), Some(destination)) => Command::Proxy { source, destination },
        _ => Command::Unknown,
    }
}
