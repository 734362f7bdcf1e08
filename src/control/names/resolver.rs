//! Asks for the addresses of a host: `/etc/hosts` first, then name servers, as the system or the configuration says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::linux::fs::MetadataExt;
use std::sync::Arc;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};

use crate::control::names::answer::{Answer, candidates};
use crate::limits::RESOLVER_TIMEOUT;

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Knows whom to ask, and notices when the system says something else.
pub struct Resolver {
    /// Of the configuration; none: the system's.
    servers: Vec<SocketAddr>,
    stamps: [Option<Stamp>; 2],
    current: Arc<Current>,
}

/// What is asked now. A look-up keeps the one that it began with.
pub struct Current {
    hosts: Hosts,
    /// Or why there are none, in words.
    servers: Result<Servers, String>,
}

struct Servers {
    resolver: TokioResolver,
    ndots: usize,
    search: Vec<String>,
}

/// By which a changed file is recognised.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl Resolver {
    /// Asks `servers`, or where there are none those of the system.
    pub fn new(servers: Vec<SocketAddr>) -> Resolver {
        let current = Arc::new(Current::read(&servers));
        Resolver { stamps: stamps(), servers, current }
    }

    /// What to ask now. Reads the system's files again where they have changed: containers and DHCP clients write them
    /// whenever they like.
    pub fn current(&mut self) -> Arc<Current> {
        let stamps = stamps();
        if stamps != self.stamps {
            self.stamps = stamps;
            self.current = Arc::new(Current::read(&self.servers));
        }
        self.current.clone()
    }
}

impl Current {
    fn read(servers: &[SocketAddr]) -> Current {
        let hosts = Hosts::from_system().unwrap_or_else(|error| {
            tracing::debug!(%error, "{HOSTS} cannot be read: going on without");
            Hosts::default()
        });
        Current { hosts, servers: Servers::new(servers) }
    }

    /// The IPv4 and the IPv6 addresses of `host`.
    pub async fn look_up(&self, host: &str) -> (Answer, Answer) {
        let (v4, v6) = match self.host(host) {
            Some(found) => found,
            None => match &self.servers {
                Ok(servers) => servers.look_up(host).await,
                Err(why) => (Answer::Failed(why.clone()), Answer::Failed(why.clone())),
            },
        };
        (v4, routable(v6))
    }

    /// What the file of hosts says. As everywhere else, its word on a name is the last, for both families.
    fn host(&self, host: &str) -> Option<(Answer, Answer)> {
        let name = Name::from_ascii(host).ok()?;
        let found = |kind| {
            let lookup = self.hosts.lookup_static_host(&Query::query(name.clone(), kind))?;
            Some(lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<IpAddr>>())
        };
        match (found(RecordType::A), found(RecordType::AAAA)) {
            (None, None) if host == "localhost" || host.ends_with(".localhost") => {
                let loopback = |ip: IpAddr| Answer::Found(vec![ip]);
                Some((loopback(Ipv4Addr::LOCALHOST.into()), loopback(Ipv6Addr::LOCALHOST.into())))
            }
            (None, None) => None,
            (v4, v6) => Some((Answer::Found(v4.unwrap_or_default()), Answer::Found(v6.unwrap_or_default()))),
        }
    }
}

impl Servers {
    fn new(servers: &[SocketAddr]) -> Result<Servers, String> {
        let (config, mut options) = if servers.is_empty() {
            system_conf::read_system_conf()
                .map_err(|error| format!("{RESOLV_CONF} says of no name server ({error}); write `resolvers` instead"))?
        } else {
            let servers = servers.iter().map(server).collect();
            let mut options = ResolverOpts::default();
            (options.timeout, options.edns0) = (RESOLVER_TIMEOUT, true);
            options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
            (ResolverConfig::from_name_servers(servers), options)
        };
        // The interval of the look-ups is what a person has chosen; a cache beside it would be a second one.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let (ndots, search) = (options.ndots, config.search().iter().map(ToString::to_string).collect());
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        let resolver = builder.build().map_err(|error| format!("no resolver can be had: {error}"))?;
        Ok(Servers { resolver, ndots, search })
    }

    /// Asks for one complete name after the other until one has an address. Trouble with one of them is not the end, but
    /// where nothing is found it is the answer.
    async fn look_up(&self, host: &str) -> (Answer, Answer) {
        let mut answers = (Answer::Found(Vec::new()), Answer::Found(Vec::new()));
        for name in candidates(host, self.ndots, &self.search) {
            let next = tokio::join!(self.ask(&name, RecordType::A), self.ask(&name, RecordType::AAAA));
            if is_something(&next.0) || is_something(&next.1) {
                return next;
            }
            answers = (worse(answers.0, next.0), worse(answers.1, next.1));
        }
        answers
    }

    async fn ask(&self, name: &str, kind: RecordType) -> Answer {
        match self.resolver.lookup(name, kind).await {
            Ok(lookup) => Answer::Found(lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect()),
            Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Answer::Found(Vec::new()),
            Err(error) => Answer::Failed(error.to_string()),
        }
    }
}

fn is_something(answer: &Answer) -> bool {
    matches!(answer, Answer::Found(found) if !found.is_empty())
}

fn worse(one: Answer, other: Answer) -> Answer {
    if matches!(one, Answer::Failed(_)) { one } else { other }
}

/// Without the IPv6 addresses that this host has no route to: on many hosts that is all of them, and each would be tried
/// for clients in vain and could not be blamed for it.
fn routable(v6: Answer) -> Answer {
    match v6 {
        Answer::Found(found) => Answer::Found(found.into_iter().filter(|ip| has_route(*ip)).collect()),
        failed => failed,
    }
}

/// Asks the kernel; nothing is sent. An error of another kind says nothing about routes.
fn has_route(ip: IpAddr) -> bool {
    const NONE: &[i32] = &[libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EADDRNOTAVAIL, libc::EAFNOSUPPORT];
    let connected = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).and_then(|socket| socket.connect((ip, 53)));
    !matches!(connected, Err(error) if error.raw_os_error().is_some_and(|errno| NONE.contains(&errno)))
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        let ConnectionConfig { port, .. } = connection;
        *port = address.port();
    }
    server
}

fn stamps() -> [Option<Stamp>; 2] {
    [HOSTS, RESOLV_CONF].map(|path| {
        let file = std::fs::metadata(path).ok()?;
        let changed = (file.st_mtime(), file.st_mtime_nsec());
        Some(Stamp { inode: file.st_ino(), bytes: file.st_size(), changed })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current(hosts: &str) -> Current {
        let mut read = Hosts::default();
        read.read_hosts_conf(hosts.as_bytes()).unwrap();
        Current { hosts: read, servers: Err("nobody is asked".to_owned()) }
    }

    fn found(texts: &[&str]) -> Answer {
        Answer::Found(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[tokio::test]
    async fn the_word_of_the_file_of_hosts_is_the_last() {
        let hosts = current("127.0.0.2 app App.Example\n127.0.0.3 app # a second one\n127.0.0.4 other\n");
        assert_eq!(hosts.look_up("app").await, (found(&["127.0.0.2", "127.0.0.3"]), found(&[])));
        assert_eq!(hosts.look_up("app.example.").await, (found(&["127.0.0.2"]), found(&[])));
        let (v4, _) = hosts.look_up("localhost").await;
        assert_eq!(v4, found(&["127.0.0.1"]), "though the file does not say so");
        let (v4, _) = hosts.look_up("none").await;
        assert_eq!(v4, Answer::Failed("nobody is asked".to_owned()));
    }

    #[test]
    fn routes_are_the_kernels_word() {
        // Documentation's own network (RFC 3849) is routed where anything is; the loopback is wherever IPv6 is.
        let loopback = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        assert_eq!(has_route(Ipv6Addr::LOCALHOST.into()), loopback);
    }
}
