//! Every key of the configuration, in one table: where it stands, what it means, its default, and whether this
//! version serves it. The parser, the documentation and the example file are all held against it.

/// A kind of section of the file.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Above the first header: settings of the whole process.
    Root,
    /// `[[listener]]`
    Listener,
    /// `[[pool]]`
    Pool,
    /// `[pool.health]`
    Health,
    /// `[[pool.backend]]`
    Backend,
}

impl Place {
    /// Every kind of section, in the order of the documentation.
    pub const ALL: &[Place] = &[Place::Root, Place::Listener, Place::Pool, Place::Health, Place::Backend];

    /// The header as it is written; for the root, what people call it.
    pub const fn header(self) -> &'static str {
        match self {
            Place::Root => "top of the file",
            Place::Listener => "[[listener]]",
            Place::Pool => "[[pool]]",
            Place::Health => "[pool.health]",
            Place::Backend => "[[pool.backend]]",
        }
    }

    /// The keys that may stand here.
    pub fn keys(self) -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(move |key| key.place == self)
    }

    /// The sections that may stand within this one.
    pub fn tables(self) -> impl Iterator<Item = &'static Table> {
        TABLES.iter().filter(move |table| table.parent == self)
    }
}

/// A section within another.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Where it stands.
    pub parent: Place,
    /// Its name there.
    pub name: &'static str,
    /// What it is.
    pub place: Place,
    /// Whether there may be many (`[[...]]`) or one (`[...]`).
    pub many: bool,
}

/// What holds where a key is absent.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Nothing: it must be given.
    Required,
    /// This value, in the notation of the file.
    Default(&'static str),
    /// No fixed value, but what these words say.
    Means(&'static str),
}

/// One key.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Where it stands.
    pub place: Place,
    /// Its name.
    pub name: &'static str,
    /// What holds without it.
    pub absent: Absent,
    /// What it does, in one line.
    pub meaning: &'static str,
}

use Absent::{Default, Means, Required};
use Place::{Backend, Health, Listener, Pool, Root};

const fn key(place: Place, name: &'static str, absent: Absent, meaning: &'static str) -> Key {
    Key { place, name, absent, meaning }
}

/// Every section but the root.
pub const TABLES: &[Table] = &[
    Table { parent: Root, name: "listener", place: Listener, many: true },
    Table { parent: Root, name: "pool", place: Pool, many: true },
    Table { parent: Pool, name: "health", place: Health, many: false },
    Table { parent: Pool, name: "backend", place: Backend, many: true },
];

/// Every key, section by section, in the order of the documentation.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key(Root, "workers", Default("\"auto\""), "threads, one ring each; \"auto\" = the CPUs this process may use"),
    key(Root, "max_connections", Means("computed from RLIMIT_NOFILE"), "sessions of the whole process; at the limit accepting pauses and clients wait in the backlog"),
    key(Root, "shutdown_delay", Default("\"0s\""), "accepting goes on for so long after SIGTERM, while `/ready` already says 503"),
    key(Root, "shutdown_timeout", Default("\"30s\""), "sessions have so long to end after that; the rest is closed"),
    key(Root, "log", Default("\"info\""), "`off`, `error`, `warn`, `info`, `debug` or `trace`; for single modules as in \"info,ringlb::worker=debug\""),
    key(Root, "log_format", Default("\"text\""), "`text`, or `json` with one object a line"),
    key(Root, "metrics", Means("none"), "address that serves `/metrics`, `/ready` and `/health` over HTTP"),
    key(Root, "resolvers", Means("the system's, of `/etc/resolv.conf`"), "list of name servers, `IP` or `IP:port`, that are asked for the host names of backends"),
    key(Root, "admin", Means("the first of `/run/ringlb/admin.sock` and `$XDG_RUNTIME_DIR/ringlb/admin.sock` that can be made"), "unix socket of the admin API; \"\" = none"),
    key(Root, "admin_mode", Default("\"0600\""), "permissions of that socket; whoever may write to it may change everything"),
    key(Root, "state_file", Default("\"\""), "file that keeps live edits over a restart; \"\" = they are lost with the process"),
    key(Root, "access_log", Default("\"\""), "file with one line for each session, in the form of `log_format`; \"-\" = standard output, \"\" = none"),
    key(Root, "access_log_start", Default("false"), "a line at the start of each session too"),
    key(Root, "backend_series_max", Default("1000"), "backends with metrics of their own; the rest become `_other`"),

    key(Listener, "name", Required, "its name in logs and metrics"),
    key(Listener, "bind", Required, "address or list of addresses to accept clients on"),
    key(Listener, "pool", Required, "name of the pool that serves its clients"),
    key(Listener, "max_connections", Default("0"), "sessions of this listener, as the process's key of that name; 0 = only the process's limit"),
    key(Listener, "idle_timeout", Default("\"10m\""), "a session without a byte either way for so long is closed; \"0s\" = never"),
    key(Listener, "max_session_duration", Default("\"0s\""), "a session is closed after so long, however busy it is, or up to a tenth earlier; \"0s\" = never"),
    key(Listener, "keepalive", Default("\"60s\""), "TCP keepalive on the clients' side: idle time before the first probe, whole seconds; \"0s\" = off"),
    key(Listener, "dead_peer_timeout", Default("\"30s\""), "a peer that acknowledges nothing and is not heard of for so long is given up; \"0s\" = never"),
    key(Listener, "backlog", Default("4096"), "clients that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`"),
    key(Listener, "max_connections_per_client", Default("0"), "sessions of one client address, of one /64 network in IPv6; more are closed at once; 0 = no limit"),
    key(Listener, "accept_rate", Default("0"), "clients accepted in a second, over all workers; more wait in the backlog; 0 = no limit"),
    key(Listener, "accept_burst", Means("as `accept_rate`"), "clients accepted at once after a quiet time"),
    key(Listener, "allow", Default("[]"), "networks whose clients are served, as in \"10.0.0.0/8\", and no others; \"unix:\" is the clients of unix sockets; empty = everybody"),
    key(Listener, "deny", Default("[]"), "networks whose clients are closed at once, whatever `allow` says"),
    key(Listener, "accept_proxy_protocol", Default("false"), "every client is a proxy of `trusted_proxies` and begins with a PROXY protocol header, v1 or v2; others are closed"),
    key(Listener, "trusted_proxies", Default("[]"), "networks whose proxies may send that header, as in \"10.0.0.0/8\"; \"unix:\" is whoever may use a bound unix socket"),

    key(Pool, "name", Required, "its name in logs and metrics, and in `pool` of a listener"),
    key(Pool, "policy", Default("\"least_connections\""), "how a backend is chosen: `least_connections`, `round_robin`, `random_two`, `source_hash` or `first`"),
    key(Pool, "connect_timeout", Default("\"4s\""), "how long one connect to a backend may take; above 3 s, because the second SYN goes out at 3 s"),
    key(Pool, "connect_attempts", Default("3"), "different backends tried for one client, the first included"),
    key(Pool, "connect_budget", Default("\"10s\""), "how long all attempts for one client may take together"),
    key(Pool, "keepalive", Default("\"60s\""), "TCP keepalive on the backends' side, as in a listener"),
    key(Pool, "source", Default("[]"), "address or list of addresses of this host that connections to its backends come from, in turn; empty = the kernel chooses"),
    key(Pool, "resolve_interval", Default("\"10s\""), "time between two look-ups of a host name among its backends"),
    key(Pool, "max_fails", Default("3"), "failed connects within `fail_timeout` that eject a backend; 0 = never"),
    key(Pool, "fail_timeout", Default("\"10s\""), "the window of `max_fails`, and the length of an ejection"),
    key(Pool, "fail_share", Default("0.0"), "share of that window's connects that must have failed as well; 0 = the plain count"),
    key(Pool, "send_proxy_protocol", Default("\"off\""), "PROXY protocol header to the backends: `off`, `v1` or `v2`"),
    key(Pool, "max_ejected_percent", Default("100"), "share of the ready backends that may be ejected, at least one"),
    key(Pool, "when_none", Default("\"close\""), "what a client gets when no backend may serve: `close`, `reset` or `http_503`"),
    key(Pool, "queue_max", Default("0"), "clients that may wait while all backends are at their `max_connections`; 0 = none"),
    key(Pool, "queue_timeout", Default("\"5s\""), "how long they may wait; then they get what `when_none` says"),

    key(Health, "kind", Required, "active check: `tcp` connects, `http` asks and looks at the status"),
    key(Health, "interval", Default("\"2s\""), "time from one check to the next, give or take a tenth; a quarter of it while a change is being counted"),
    key(Health, "timeout", Default("\"1s\""), "time for one check, its connect included"),
    key(Health, "rise", Default("2"), "checks in a row that must pass before a backend is up, or its ejection ends early"),
    key(Health, "fall", Default("3"), "checks in a row that must fail before it is down"),
    key(Health, "on_down", Default("\"keep\""), "what becomes of the sessions of a backend that goes down: `keep` or `close`"),
    key(Health, "port", Means("the backend's"), "port that is checked instead of the backend's own"),
    key(Health, "path", Default("\"/\""), "path of an `http` check"),
    key(Health, "expect_status", Default("200"), "statuses that pass an `http` check: one, a range as in \"200-399\", or a list of both"),
    key(Health, "host", Means("the backend's address as written"), "`Host` header of an `http` check"),

    key(Backend, "name", Means("its address"), "its name in logs and metrics, unique in its pool; its counters belong to it"),
    key(Backend, "address", Required, "address that it listens on; a host name becomes one backend an address, named `name/ip`"),
    key(Backend, "weight", Default("1"), "its share of new connections relative to the others; 0 = none"),
    key(Backend, "backup", Default("false"), "serves only while no other backend may"),
    key(Backend, "max_connections", Default("0"), "sessions it may have at a time; 0 = no limit"),
    key(Backend, "max_fails", Means("the pool's"), "as in the pool, for this backend"),
    key(Backend, "fail_timeout", Means("the pool's"), "as in the pool, for this backend"),
    key(Backend, "slow_start", Default("\"0s\""), "its share grows from nearly nothing to its weight over so long, after it came or came back"),
];

/// The key `name` of a section.
pub fn find(place: Place, name: &str) -> Option<&'static Key> {
    place.keys().find(|key| key.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_stands_once_and_has_a_meaning() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(!key.meaning.is_empty() && !key.meaning.ends_with('.'), "{key:?}");
            assert!(!key.meaning.contains('|'), "{key:?}: it goes into a table of the documentation");
            let same = |other: &Key| other.place == key.place && other.name == key.name;
            assert_eq!(KEYS.iter().position(same), Some(index), "{key:?} stands twice");
            assert!(!key.place.tables().any(|table| table.name == key.name), "{key:?} is a section too");
        }
    }

    #[test]
    fn the_keys_stand_in_the_order_of_their_places() {
        let order: Vec<_> = KEYS.iter().map(|key| Place::ALL.iter().position(|place| *place == key.place)).collect();
        assert!(order.is_sorted());
    }
}
