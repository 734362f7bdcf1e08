//! Networks as a list writes them, and as a client is looked for among them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::address::Address;
use crate::config::fault::Problem;
use crate::config::notation::quoted;

/// How the clients of a unix socket are written.
const UNIX: &str = "unix:";

/// One element of a list.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Network {
    /// These addresses; none of its bits behind the prefix is set.
    Ip(IpNet),
    /// Whoever connects to a unix socket: the permissions of its file say who may.
    Unix,
}

impl Network {
    /// Reads a network (`10.0.0.0/8`), one address, or `unix:`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Network, Problem> {
        if text == UNIX { Ok(Network::Unix) } else { network(text).map(Network::Ip) }
    }
}

/// As it is best written.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Network::Ip(network) if network.prefix_len() == network.max_prefix_len() => network.addr().fmt(f),
            Network::Ip(network) => network.fmt(f),
            Network::Unix => f.write_str(UNIX),
        }
    }
}

/// A set of addresses, made of networks. A look-up is a binary search, however many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Ranges<Ipv4Addr>,
    v6: Ranges<Ipv6Addr>,
    unix: bool,
}

impl Networks {
    /// Whether `client` is in one of them. An IPv4 address in the form of IPv6 is the IPv4 address.
    pub fn contains(&self, client: &Address) -> bool {
        match client {
            Address::Inet(inet) => match inet.ip().to_canonical() {
                IpAddr::V4(ip) => self.v4.contains(ip),
                IpAddr::V6(ip) => self.v6.contains(ip),
            },
            Address::Unix(_) => self.unix,
        }
    }

    /// Every IP address there is.
    pub fn every_ip() -> Networks {
        let v4 = Ranges(vec![(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)]);
        Networks { v4, v6: Ranges(vec![(Ipv6Addr::UNSPECIFIED, V6_LAST)]), unix: false }
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.v4.0.is_empty() && self.v6.0.is_empty() && !self.unix
    }

    /// Whether the clients of unix sockets are in it.
    pub const fn has_unix(&self) -> bool {
        self.unix
    }

    /// Whether every address of a family is in it.
    pub fn has_everybody(&self) -> bool {
        self.v4.covers(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST) || self.v6.covers(Ipv6Addr::UNSPECIFIED, V6_LAST)
    }

    /// Whether everybody who is in `other` is in this one too.
    pub fn covers(&self, other: &Networks) -> bool {
        let v4 = other.v4.0.iter().all(|(first, last)| self.v4.covers(*first, *last));
        let v6 = other.v6.0.iter().all(|(first, last)| self.v6.covers(*first, *last));
        v4 && v6 && (self.unix || !other.unix)
    }
}

const V6_LAST: Ipv6Addr = Ipv6Addr::from_bits(u128::MAX);

impl FromIterator<Network> for Networks {
    fn from_iter<I: IntoIterator<Item = Network>>(list: I) -> Networks {
        let mut networks = Networks::default();
        for network in list {
            match network {
                Network::Unix => networks.unix = true,
                Network::Ip(IpNet::V4(v4)) => networks.v4.0.push((v4.network(), v4.broadcast())),
                Network::Ip(IpNet::V6(v6)) => networks.v6.0.push((v6.network(), v6.broadcast())),
            }
        }
        networks.v4.tidy();
        networks.v6.tidy();
        networks
    }
}

/// Ranges of addresses, both ends included: in order, and apart from each other. Networks overlap only where one is within
/// the other, so that two ranges that touch need not be made one: no network is in both.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ranges<A>(Vec<(A, A)>);

impl<A> Default for Ranges<A> {
    fn default() -> Ranges<A> {
        Ranges(Vec::new())
    }
}

impl<A: Copy + Ord> Ranges<A> {
    fn contains(&self, address: A) -> bool {
        self.covers(address, address)
    }

    /// Whether one range has all from `first` to `last`.
    fn covers(&self, first: A, last: A) -> bool {
        let behind = self.0.partition_point(|(start, _)| *start <= first);
        behind.checked_sub(1).is_some_and(|at| self.0[at].1 >= last)
    }

    /// Sorts what was added, and takes out what is within another.
    fn tidy(&mut self) {
        // Of those that begin together the widest comes first.
        self.0.sort_unstable_by(|one, other| one.0.cmp(&other.0).then(other.1.cmp(&one.1)));
        let mut end: Option<A> = None;
        self.0.retain(|(_, last)| {
            let apart = end.is_none_or(|end| *last > end);
            if apart {
                end = Some(*last);
            }
            apart
        });
    }
}

fn network(text: &str) -> Result<IpNet, Problem> {
    let problem = |why: String, help: String| Err(Problem::new(format!("{} is no network", quoted(text)), why, help));
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let Ok(ip) = address.parse::<IpAddr>() else {
        return problem(
            "an IPv4 or IPv6 address is expected, and a `/` with the number of bits that count".to_owned(),
            "write it as in \"10.0.0.0/8\", \"192.0.2.7\", \"2001:db8::/32\" or \"unix:\"".to_owned(),
        );
    };
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    let digits = prefix.is_none_or(|prefix| !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit()));
    let length = prefix.map_or(Some(bits), |prefix| prefix.parse().ok());
    let Some(network) = length.filter(|_| digits).and_then(|length| IpNet::new(ip, length).ok()) else {
        return problem(
            format!("what follows the `/` is not a number from 0 to {bits}"),
            format!("write \"{ip}\" for this one address, or \"{ip}/\" and a number"),
        );
    };
    if let IpAddr::V6(v6) = ip
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        let v4 = IpNet::new(v4.into(), network.prefix_len().saturating_sub(96))
            .map_or_else(|_| IpNet::from(IpAddr::V4(v4)), |v4| v4.trunc());
        return problem(
            "it is an IPv4 network in the form of IPv6, and IPv6 sockets of ringlb speak IPv6 only".to_owned(),
            format!("write \"{v4}\""),
        );
    }
    if network != network.trunc() {
        return problem(
            format!("its address has bits behind the first {}, which would not count", network.prefix_len()),
            format!("write \"{}\" for the network, or \"{ip}\" for this one address", network.trunc()),
        );
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(list: &[&str]) -> Networks {
        list.iter().map(|text| Network::parse(text).unwrap()).collect()
    }

    #[test]
    fn who_is_in_a_list() {
        let inet = |text: &str| Address::Inet(text.parse().unwrap());
        let some = networks(&["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::1"]);
        for text in
            ["10.0.0.0:1", "10.255.255.255:1", "192.0.2.7:9", "[2001:db8:ffff::1]:1", "[::1]:1", "[::ffff:10.1.2.3]:1"]
        {
            assert!(some.contains(&inet(text)), "{text}");
        }
        for text in ["11.0.0.0:1", "9.255.255.255:1", "192.0.2.8:9", "[2001:db9::1]:1", "[::2]:1", "[::10.0.0.1]:1"] {
            assert!(!some.contains(&inet(text)), "{text}");
        }
        let unix = Address::Unix("".into());
        assert!(!some.contains(&unix) && !some.has_everybody() && !some.is_empty());
        let local = networks(&["unix:"]);
        assert!(local.contains(&unix) && !local.contains(&inet("127.0.0.1:1")) && !local.is_empty());
        assert!(networks(&["0.0.0.0/0"]).has_everybody() && networks(&["::/0", "::1"]).has_everybody());
        assert!(networks(&[]).is_empty());
    }

    #[test]
    fn every_wrong_network_says_what_would_be_right() {
        for (text, expected) in [
            ("", "\"\" is no network: an IPv4 or IPv6 address is expected"),
            ("proxy", "is no network: an IPv4 or IPv6 address is expected"),
            ("10.0.0/8", "is no network: an IPv4 or IPv6 address is expected"),
            ("10.0.0.1:80", "is no network: an IPv4 or IPv6 address is expected"),
            ("unix:/run/x", "is no network: an IPv4 or IPv6 address is expected"),
            ("10.0.0.0/33", "is not a number from 0 to 32; write \"10.0.0.0\" for this one address"),
            ("10.0.0.0/", "is not a number from 0 to 32"),
            ("10.0.0.0/+8", "is not a number from 0 to 32"),
            ("10.0.0.0/255.0.0.0", "is not a number from 0 to 32"),
            ("::/129", "is not a number from 0 to 128"),
            ("10.0.0.1/8", "write \"10.0.0.0/8\" for the network, or \"10.0.0.1\" for this one address"),
            ("2001:db8::1/32", "write \"2001:db8::/32\" for the network, or \"2001:db8::1\" for this one address"),
            ("::ffff:10.0.0.0/104", "IPv6 sockets of ringlb speak IPv6 only; write \"10.0.0.0/8\""),
            ("::ffff:10.0.0.1", "IPv6 sockets of ringlb speak IPv6 only; write \"10.0.0.1/32\""),
        ] {
            let problem = Network::parse(text).unwrap_err().to_string();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    /// Addresses that lie close together, so that networks meet.
    fn address() -> impl Strategy<Value = IpAddr> {
        let v4 = (0u32..64, any::<bool>())
            .prop_map(|(low, high)| IpAddr::from(Ipv4Addr::from_bits(if high { u32::MAX - low } else { low })));
        let v6 = (0u128..64, any::<bool>())
            .prop_map(|(low, high)| IpAddr::from(Ipv6Addr::from_bits(if high { u128::MAX - low } else { low << 90 })));
        prop_oneof![v4, v6]
    }

    fn list() -> impl Strategy<Value = Vec<Network>> {
        let near = (address(), 0u8..9).prop_map(|(ip, short)| {
            let bits = if ip.is_ipv4() { 32 } else { 128 };
            let length = if short == 8 { 0 } else { bits - short };
            Network::Ip(IpNet::new(ip, length).unwrap().trunc())
        });
        let one = prop_oneof![20 => near, 1 => Just(Network::Unix)];
        prop::collection::vec(one, 0..40)
    }

    /// One network after the other.
    fn naive(list: &[Network], client: &Address) -> bool {
        list.iter().any(|network| match (network, client) {
            (Network::Ip(network), Address::Inet(inet)) => network.contains(&inet.ip().to_canonical()),
            (Network::Unix, Address::Unix(_)) => true,
            _ => false,
        })
    }

    proptest! {
        #[test]
        fn the_search_finds_whom_a_scan_finds(list in list(), ips in prop::collection::vec(address(), 40)) {
            let networks: Networks = list.iter().copied().collect();
            let inet = ips.into_iter().map(|ip| Address::Inet((ip, 1).into()));
            for client in inet.chain([Address::Unix("".into())]) {
                prop_assert_eq!(networks.contains(&client), naive(&list, &client), "{}", client);
            }
        }

        #[test]
        fn a_list_covers_another_where_it_has_every_network_of_it(one in list(), other in list()) {
            let set: Networks = one.iter().copied().collect();
            // Networks of this size are within one of the others or are not; two halves that make a whole are not seen.
            let within = |network: &Network| one.iter().any(|wider| match (wider, network) {
                (Network::Ip(wider), Network::Ip(network)) => wider.contains(network),
                (wider, network) => wider == network,
            });
            prop_assert_eq!(set.covers(&other.iter().copied().collect()), other.iter().all(within));
            prop_assert_eq!(set.is_empty(), one.is_empty());
        }
    }
}
