//! Listening sockets that a service manager hands over (`LISTEN_FDS`, sd_listen_fds(3)).
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{SocketType, sockopt};

use super::socket;
use crate::address::Address;

/// The sockets that were handed over and not yet taken.
#[derive(Debug, Default)]
pub struct HandedOver(Vec<Handed>);

/// A socket of the manager's.
#[derive(Debug)]
struct Handed {
    /// As the manager calls it (`FileDescriptorName=`).
    name: String,
    /// Where it is bound; none where it is no stream socket, or not bound.
    address: Option<Address>,
    socket: OwnedFd,
}

impl HandedOver {
    /// Takes them from the environment. Only the first call in the life of a process finds any.
    pub fn take() -> HandedOver {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::Relaxed) {
            return HandedOver::default();
        }
        let numbers = match sd_notify::listen_fds() {
            Ok(numbers) => numbers,
            Err(error) => {
                tracing::warn!(%error, "LISTEN_FDS: what it names cannot be used; binding as without it");
                return HandedOver::default();
            }
        };
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let names = names.split(':').chain(std::iter::repeat(""));
        let handed = numbers.zip(names).map(|(number, name)| {
            // SAFETY: `LISTEN_PID` says that these descriptors were opened for this process, `listen_fds` has found them open, and
            // they are taken once, before anything else here could know of them.
            let socket = unsafe { OwnedFd::from_raw_fd(number) };
            Handed { name: name.to_owned(), address: stream_address(&socket), socket }
        });
        HandedOver(handed.collect())
    }

    /// Takes the one that is bound to `address`.
    pub fn find(&mut self, address: &Address) -> Option<OwnedFd> {
        let found = self.0.iter().position(|handed| handed.address.as_ref() == Some(address))?;
        Some(self.0.swap_remove(found).socket)
    }

    /// Whether there is one that is bound to `address`, which is IPv6, and takes clients of IPv4 as well.
    pub fn has_dual(&self, address: &Address) -> bool {
        let mut found = self.0.iter().filter(|handed| handed.address.as_ref() == Some(address));
        found.any(|handed| sockopt::ipv6_v6only(&handed.socket) == Ok(false))
    }

    /// Those that nobody took: what they are called and where they are bound, if that can be said.
    pub fn rest(&self) -> impl Iterator<Item = (&str, Option<&Address>)> {
        self.0.iter().map(|handed| (handed.name.as_str(), handed.address.as_ref()))
    }
}

fn stream_address(socket: &OwnedFd) -> Option<Address> {
    if sockopt::socket_type(socket) != Ok(SocketType::STREAM) {
        return None;
    }
    socket::address(rustix::net::getsockname(socket).ok()?)
}
