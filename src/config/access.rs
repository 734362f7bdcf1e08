//! Who may be a client of a listener: `allow` and `deny`.

use std::collections::HashSet;

use crate::address::Address;
use crate::config::Networks;
use crate::config::fault::{At, Fault, Problem};
use crate::config::networks::Network;
use crate::config::notation::quoted;
use crate::config::relations::Placed;

/// The networks whose clients are served. What is denied is not served, whatever is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Nobody else is served; where it is empty, everybody is.
    pub allow: Networks,
    /// These are not.
    pub deny: Networks,
}

impl Access {
    /// Whether everybody is served, so that nobody needs to know who the client is.
    pub fn is_open(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    /// Whether `client` is served. One whose address cannot be told, because its connection has gone already, is served only
    /// where everybody is.
    pub fn admits(&self, client: Option<&Address>) -> bool {
        if self.is_open() {
            return true;
        }
        let Some(client) = client else { return false };
        !self.deny.contains(client) && (self.allow.is_empty() || self.allow.contains(client))
    }
}

/// A list with the places of its elements.
pub struct List {
    /// Its place, or that of its section.
    pub at: At,
    /// The elements.
    pub networks: Vec<Placed<Network>>,
}

impl List {
    fn set(&self) -> Networks {
        self.networks.iter().map(|network| network.value).collect()
    }
}

/// Puts both lists together, and says where one makes the other idle. `unix` are the listener's unix sockets whose clients
/// are not named by a proxy.
pub fn access(allow: &List, deny: &List, unix: &[At], faults: &mut Vec<Fault>) -> Option<Access> {
    let access = Access { allow: allow.set(), deny: deny.set() };
    if !access.allow.is_empty() && access.deny.covers(&access.allow) {
        faults.push(Fault::error(deny.at.clone(), all_denied()));
        return None;
    }
    if access.allow.is_empty() && unix.is_empty() && access.deny.covers(&Networks::every_ip()) {
        faults.push(Fault::error(deny.at.clone(), everybody_denied()));
        return None;
    }
    let allowed: HashSet<Network> = allow.networks.iter().map(|network| network.value).collect();
    for network in deny.networks.iter().filter(|network| allowed.contains(&network.value)) {
        faults.push(Fault::warning(network.at.clone(), in_both(network.value)));
    }
    let refused = !access.admits(Some(&Address::Unix("".into())));
    for at in unix.iter().filter(|_| refused) {
        faults.push(Fault::error(at.clone(), no_unix()));
    }
    (unix.is_empty() || !refused).then_some(access)
}

fn all_denied() -> Problem {
    Problem::new(
        "`deny` has everybody whom `allow` has",
        "`deny` wins, so this listener would serve nobody",
        "take out of `deny` whoever is to be served",
    )
}

fn everybody_denied() -> Problem {
    Problem::new(
        "`deny` has every address",
        "it wins over `allow`, so this listener would serve nobody",
        "write `allow` with those who are to be served, and take the rest out of `deny`: nobody else is served then",
    )
}

fn in_both(network: Network) -> Problem {
    let network = quoted(&network.to_string());
    Problem::new(
        format!("{network} stands in `allow` and in `deny`"),
        "`deny` wins, so allowing it does nothing",
        "take it out of one of the two",
    )
}

fn no_unix() -> Problem {
    Problem::new(
        "`allow` and `deny` leave nobody who can be a client of this unix socket",
        "its clients have no address, so each of them would be closed",
        "add \"unix:\" to `allow`, or take it out of `deny`, to serve whoever may use its file",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Networks {
        list.iter().map(|text| Network::parse(text).unwrap()).collect()
    }

    #[test]
    fn deny_wins_and_an_empty_allow_has_everybody() {
        let inet = |text: &str| Some(Address::Inet((text.parse::<std::net::IpAddr>().unwrap(), 1).into()));
        let unix = Some(Address::Unix("".into()));
        let (some, all) = (&["10.0.0.0/8", "unix:"][..], &["10.0.0.0/8", "0.0.0.0/0", "::/0", "unix:"][..]);
        for (allow, deny, ten, bad_ten, other, local, gone) in [
            (&[][..], &[][..], true, true, true, true, true),
            (some, &[], true, true, false, true, false),
            (some, &["10.66.0.0/16"], true, false, false, true, false),
            (&[], &["10.66.0.0/16"], true, false, true, true, false),
            (&["10.66.0.1"], &["10.0.0.0/8"], false, false, false, false, false),
            (&[], all, false, false, false, false, false),
        ] {
            let access = Access { allow: networks(allow), deny: networks(deny) };
            assert_eq!(access.is_open(), allow.is_empty() && deny.is_empty());
            for (client, served) in [
                (inet("10.1.2.3"), ten),
                (inet("::ffff:10.1.2.3"), ten),
                (inet("10.66.0.1"), bad_ten),
                (inet("192.0.2.1"), other),
                (inet("2001:db8::1"), other),
                (unix.clone(), local),
                (None, gone),
            ] {
                assert_eq!(access.admits(client.as_ref()), served, "{client:?}, allow {allow:?}, deny {deny:?}");
            }
        }
    }
}
