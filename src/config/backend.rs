//! What a pool's backends are, as they are written: addresses, and names that stand for addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::address::Address;
use crate::balance::settings::BackendSettings;

/// Where a backend listens, as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An address.
    Address(Address),
    /// A host to be looked up.
    Host(Host),
}

/// A host by its name, and a port of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host {
    /// The name, in lower case; with a dot at its end it is complete, otherwise search domains may be appended.
    pub name: String,
    /// The port of each of its addresses, never 0.
    pub port: u16,
}

/// A `[[pool.backend]]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Backend {
    /// One server, whose address is known.
    Fixed(BackendSettings),
    /// As many servers as the host has addresses.
    Named(NamedBackend),
}

/// A host name that becomes one backend for each of its addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedBackend {
    host: Host,
    /// What each of them is told to be. Its address stands for none; nobody sees it.
    template: BackendSettings,
}

impl Backend {
    /// A backend at `target` whose settings are what `tell` makes of an address.
    pub fn new(target: Target, tell: impl FnOnce(Address) -> BackendSettings) -> Backend {
        match target {
            Target::Address(address) => Backend::Fixed(tell(address)),
            Target::Host(host) => {
                let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, host.port));
                Backend::Named(NamedBackend { host, template: tell(nowhere.into()) })
            }
        }
    }

    /// Where it listens, as it is written.
    pub fn target(&self) -> Target {
        match self {
            Backend::Fixed(settings) => Target::Address(settings.address.clone()),
            Backend::Named(named) => Target::Host(named.host.clone()),
        }
    }

    /// What it is told to be; for a host, what each of its backends is. Only [`target`](Backend::target) tells its address.
    pub fn settings(&self) -> &BackendSettings {
        match self {
            Backend::Fixed(settings) => settings,
            Backend::Named(named) => &named.template,
        }
    }

    /// Its name; for a host, what the names of its backends begin with.
    pub fn name(&self) -> &str {
        match self {
            Backend::Fixed(settings) => &settings.name,
            Backend::Named(named) => named.name(),
        }
    }
}

impl NamedBackend {
    /// What the names of its backends begin with.
    pub fn name(&self) -> &str {
        &self.template.name
    }

    /// What is looked up.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The backend at one of the host's addresses, named `name/ip`.
    pub fn at(&self, ip: IpAddr) -> BackendSettings {
        BackendSettings {
            name: format!("{}/{ip}", self.template.name),
            address: SocketAddr::new(ip, self.host.port).into(),
            ..self.template.clone()
        }
    }
}

impl From<Address> for Target {
    fn from(address: Address) -> Target {
        Target::Address(address)
    }
}

/// As it is written.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Address(address) => address.fmt(f),
            Target::Host(host) => host.fmt(f),
        }
    }
}

/// As it is written.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::settings::Weight;

    #[test]
    fn a_host_becomes_one_backend_an_address() {
        let host = Host { name: "app".into(), port: 80 };
        let weight = Weight::new(7).unwrap();
        let backend = Backend::new(Target::Host(host), |address| BackendSettings {
            weight,
            ..BackendSettings::new("web", address)
        });
        let Backend::Named(named) = &backend else { panic!("{backend:?}") };
        for (ip, name, address) in [("10.0.0.1", "web/10.0.0.1", "10.0.0.1:80"), ("::1", "web/::1", "[::1]:80")] {
            let settings = named.at(ip.parse().unwrap());
            assert_eq!((&*settings.name, settings.address.to_string().as_str()), (name, address));
            assert_eq!(settings.weight, weight);
        }
        assert_eq!((backend.name(), named.host().to_string().as_str()), ("web", "app:80"));
    }
}
