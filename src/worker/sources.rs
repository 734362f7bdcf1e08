//! The addresses that connections to backends come from, where a pool names them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::address::Address;

/// The addresses of one pool, as one worker uses them in turn.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    v4: Ring,
    v6: Ring,
}

/// The addresses of a family, and whose turn it is.
#[derive(Clone, Debug, Default)]
struct Ring {
    addresses: Arc<[IpAddr]>,
    next: usize,
}

/// Which address one connect uses, and how many are left to try for it.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    at: u8,
    /// This one included; 0: the kernel chooses the address.
    left: u8,
}

/// A [`Source`] counts in a byte.
const _: () = assert!(crate::limits::SOURCES_MAX <= u8::MAX as usize);

impl Sources {
    /// These, in this order.
    pub fn new(addresses: &[IpAddr]) -> Sources {
        let ring = |v4: bool| Ring {
            addresses: addresses.iter().copied().filter(|address| address.is_ipv4() == v4).collect(),
            next: 0,
        };
        Sources { v4: ring(true), v6: ring(false) }
    }

    /// Whose turn it is for a connect to `backend`. Where none is of its family, the kernel chooses.
    pub fn take(&mut self, backend: &Address) -> Source {
        let ring = match backend {
            Address::Inet(SocketAddr::V4(_)) => &mut self.v4,
            Address::Inet(SocketAddr::V6(_)) => &mut self.v6,
            Address::Unix(_) => return Source::default(),
        };
        let count = ring.addresses.len();
        if count == 0 {
            return Source::default();
        }
        let at = ring.next;
        ring.next = (at + 1) % count;
        Source { at: at as u8, left: count as u8 }
    }

    /// The one to try after `source`, which has no port left towards `backend`; `None` where all have been tried.
    pub fn after(&self, source: Source, backend: &Address) -> Option<Source> {
        let count = self.of(backend).len();
        let left = source.left.saturating_sub(1);
        (left > 0).then(|| Source { at: ((usize::from(source.at) + 1) % count) as u8, left })
    }

    /// The address; `None` where the kernel is to choose.
    pub fn address(&self, source: Source, backend: &Address) -> Option<IpAddr> {
        self.of(backend).get(usize::from(source.at)).copied().filter(|_| source.left > 0)
    }

    fn of(&self, backend: &Address) -> &[IpAddr] {
        match backend {
            Address::Inet(SocketAddr::V4(_)) => &self.v4.addresses,
            Address::Inet(SocketAddr::V6(_)) => &self.v6.addresses,
            Address::Unix(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn backend(text: &str) -> Address {
        Address::Inet(text.parse().unwrap())
    }

    #[test]
    fn addresses_of_the_backends_family_are_used_in_turn() {
        let mut sources = Sources::new(&[ip("10.0.0.5"), ip("2001:db8::5"), ip("10.0.0.6")]);
        let (v4, v6) = (backend("10.0.0.1:80"), backend("[2001:db8::1]:80"));
        for expected in ["10.0.0.5", "10.0.0.6", "10.0.0.5"] {
            let source = sources.take(&v4);
            assert_eq!(sources.address(source, &v4), Some(ip(expected)));
        }
        for _ in 0..2 {
            let source = sources.take(&v6);
            assert_eq!(sources.address(source, &v6), Some(ip("2001:db8::5")));
            assert_eq!(sources.after(source, &v6), None);
        }
        let unix = Address::Unix("/run/app".into());
        let source = sources.take(&unix);
        assert_eq!((sources.address(source, &unix), sources.after(source, &unix)), (None, None));
    }

    #[test]
    fn each_is_tried_once_beginning_with_the_one_whose_turn_it_is() {
        let all = ["10.0.0.5", "10.0.0.6", "10.0.0.7"];
        let mut sources = Sources::new(&all.map(ip));
        let to = backend("10.0.0.1:80");
        for first in [0, 1, 2, 0] {
            let mut tried = Vec::new();
            let mut source = Some(sources.take(&to));
            while let Some(this) = source {
                tried.extend(sources.address(this, &to));
                source = sources.after(this, &to);
            }
            assert_eq!(tried, [0, 1, 2].map(|step| ip(all[(first + step) % 3])));
        }
    }

    #[test]
    fn without_one_of_its_family_the_kernel_chooses() {
        let mut sources = Sources::new(&[ip("10.0.0.5")]);
        let to = backend("[2001:db8::1]:80");
        let source = sources.take(&to);
        assert_eq!((sources.address(source, &to), sources.after(source, &to)), (None, None));
    }
}
