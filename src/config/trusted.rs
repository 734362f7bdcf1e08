//! Who may say whose connection it is: the proxies that a listener believes.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::address::Address;
use crate::config::fault::Problem;
use crate::config::notation::quoted;
use crate::limits::TRUSTED_PROXIES_MAX;

/// How the clients of a unix socket are written.
const UNIX: &str = "unix:";

/// The networks of the proxies that may send a PROXY protocol header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    /// Also whoever connects to a unix socket: the permissions of its file say who may.
    unix: bool,
}

impl TrustedProxies {
    /// Whether the proxy at `peer` may send a header.
    pub fn contains(&self, peer: &Address) -> bool {
        match peer {
            Address::Inet(inet) => self.networks.iter().any(|network| network.contains(&inet.ip())),
            Address::Unix(_) => self.unix,
        }
    }

    /// Whether nobody may.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && !self.unix
    }

    /// Whether the clients of unix sockets may.
    pub const fn has_unix(&self) -> bool {
        self.unix
    }

    /// Whether every address of a family may.
    pub fn has_everybody(&self) -> bool {
        self.networks.iter().any(|network| network.prefix_len() == 0)
    }

    /// Adds a network (`10.0.0.0/8`), one address, or `unix:`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn add(&mut self, text: &str) -> Result<(), Problem> {
        if text == UNIX {
            self.unix = true;
            return Ok(());
        }
        if self.networks.len() == TRUSTED_PROXIES_MAX {
            return Err(Problem::new(
                format!("{} is one too many", quoted(text)),
                format!("every client is looked for in this list, which may have {TRUSTED_PROXIES_MAX} networks"),
                "write larger networks instead of many small ones",
            ));
        }
        self.networks.push(network(text)?);
        Ok(())
    }
}

/// Nobody is trusted where somebody must be.
pub fn nobody() -> Problem {
    Problem::new(
        "`accept_proxy_protocol` without `trusted_proxies`",
        "a header says who the client is, and whoever may send one may be anybody: nobody is trusted by default",
        "write the addresses of your proxies, as in `trusted_proxies = [\"10.0.0.0/8\"]`",
    )
}

/// Somebody is trusted with what is not asked for.
pub fn unused() -> Problem {
    Problem::new(
        "`trusted_proxies` without `accept_proxy_protocol`",
        "this listener expects no header, so nobody needs to be trusted with one",
        "write `accept_proxy_protocol = true`, or take the list out",
    )
}

/// Everybody is trusted.
pub fn everybody() -> Problem {
    Problem::new(
        "`trusted_proxies` trusts every address",
        "whoever reaches this listener can say that he is somebody else",
        "write the addresses of your proxies alone, unless a firewall lets nobody else through",
    )
}

/// A unix socket whose clients are not trusted.
pub fn no_unix() -> Problem {
    Problem::new(
        "none of `trusted_proxies` can be a client of this unix socket",
        "its clients have no address, so each of them would be closed",
        "add \"unix:\" to `trusted_proxies` to trust whoever may use its file",
    )
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
    use super::*;

    fn trusted(list: &[&str]) -> TrustedProxies {
        let mut trusted = TrustedProxies::default();
        list.iter().for_each(|text| trusted.add(text).unwrap());
        trusted
    }

    #[test]
    fn whom_a_list_trusts() {
        let inet = |text: &str| Address::Inet(text.parse().unwrap());
        let some = trusted(&["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::1"]);
        for text in ["10.0.0.0:1", "10.255.255.255:1", "192.0.2.7:9", "[2001:db8:ffff::1]:1", "[::1]:1"] {
            assert!(some.contains(&inet(text)), "{text}");
        }
        for text in ["11.0.0.0:1", "9.255.255.255:1", "192.0.2.8:9", "[2001:db9::1]:1", "[::2]:1", "[::10.0.0.1]:1"] {
            assert!(!some.contains(&inet(text)), "{text}");
        }
        let unix = Address::Unix("".into());
        assert!(!some.contains(&unix) && !some.has_everybody() && !some.is_empty());
        let local = trusted(&["unix:"]);
        assert!(local.contains(&unix) && !local.contains(&inet("127.0.0.1:1")) && !local.is_empty());
        assert!(trusted(&["0.0.0.0/0"]).has_everybody());
        assert!(trusted(&[]).is_empty());
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
            let problem = TrustedProxies::default().add(text).unwrap_err().to_string();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn the_list_has_an_end() {
        let mut trusted = TrustedProxies::default();
        (0..TRUSTED_PROXIES_MAX).for_each(|_| trusted.add("::1").unwrap());
        assert!(trusted.add("::1").unwrap_err().to_string().contains("is one too many"));
        assert_eq!(trusted.add("unix:"), Ok(()));
    }
}
