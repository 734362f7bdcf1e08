//! What the sections of a file mean. Every value is looked at, also where others are wrong already.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::address::Address;
use crate::balance::settings::{BackendSettings, HealthSettings, Policy, PoolSettings};
use crate::config::access::{self, Access};
use crate::config::backend::{Backend, Target};
use crate::config::fault::{At, Fault, Problem};
use crate::config::file::Section;
use crate::config::health::{self, Check, Health};
use crate::config::keys::{self, Absent, Place};
use crate::config::networks::{Network, Networks};
use crate::config::notation::quoted;
use crate::config::queue;
use crate::config::relations::{BackendParts, ListenerParts, Placed, PoolParts, Relations};
use crate::config::{
    AcceptRate, AccessLog, Admin, Bind, Config, General, Listener, Overrides, Pool, notation, source, state, trusted,
    value,
};
use crate::limits::{
    ACCEPT_BURST_MAX, ACCEPT_RATE_MAX, BACKEND_SERIES_MAX, BACKLOG_MAX, CHECK_INTERVAL_MIN, CHECKS_MAX,
    CONNECT_ATTEMPTS_MAX, CONNECTIONS_MAX, DEAD_PEER_TIMEOUT_MIN, FAILS_MAX, NETWORKS_MAX, RESOLVE_INTERVAL_MIN,
    SOURCES_MAX, TIMEOUT_MAX,
};

const MILLISECOND: Duration = Duration::from_millis(1);

/// The configuration of the file, or nothing where `faults` has got an error.
pub fn check(root: &Section<'_>, overrides: &Overrides, faults: &mut Vec<Fault>) -> Option<Config> {
    let mut relations = Relations::default();
    let general = general(root, overrides, &mut relations, faults);
    let listeners: Vec<_> =
        root.children(Place::Listener).map(|section| listener(section, &mut relations, faults)).collect();
    let pools: Vec<_> = root.children(Place::Pool).map(|section| pool(section, &mut relations, faults)).collect();
    relations.check(faults);
    Some(Config {
        general: general?,
        listeners: listeners.into_iter().collect::<Option<_>>()?,
        pools: pools.into_iter().collect::<Option<_>>()?,
        origin: None,
    })
}

fn general(
    section: &Section<'_>,
    overrides: &Overrides,
    relations: &mut Relations,
    faults: &mut Vec<Fault>,
) -> Option<General> {
    let mut reader = Reader { section, faults };
    let workers = reader.read("workers", value::workers);
    let max_connections = reader.read("max_connections", |value| {
        value::number(value, 1..=CONNECTIONS_MAX).map_err(|problem| {
            let help = format!("{}, or leave the key out to have it computed", problem.help);
            Problem { help, ..problem }
        })
    });
    let shutdown_delay = reader.duration("shutdown_delay", Duration::ZERO);
    let shutdown_timeout = reader.duration("shutdown_timeout", Duration::ZERO);
    let log = reader.text("log", value::log);
    let log_format = reader.text("log_format", value::log_format);
    let metrics = reader.placed("metrics", |value| notation::bind(value::text(value)?));
    let metrics = match &overrides.metrics {
        Some(bind) => Some(Placed { value: bind.clone(), at: At::Option("--metrics") }),
        None => metrics,
    };
    let resolvers = reader.optional("resolvers", value::resolvers);
    let admin = reader.optional("admin", |value| value::admin(value::text(value)?));
    let admin_mode = reader.text("admin_mode", value::mode);
    let access_log = reader.access_log();
    let admin = admin.map(|admin| overrides.admin.clone().or(admin).unwrap_or(Admin::Usual));
    let state_file = reader.state_file(admin.as_ref(), access_log.as_ref());
    let backend_series_max = reader.read("backend_series_max", |value| value::number(value, 0..=BACKEND_SERIES_MAX));
    relations.metrics.clone_from(&metrics);
    Some(General {
        workers: overrides.workers.or(workers)?,
        max_connections: max_connections.and_then(NonZeroU32::new),
        shutdown_delay: shutdown_delay?,
        shutdown_timeout: shutdown_timeout?,
        log: log?,
        log_format: log_format?,
        metrics: metrics.map(|metrics| metrics.value),
        resolvers: resolvers?.unwrap_or_default(),
        admin: admin?,
        admin_mode: admin_mode?,
        state_file: state_file?,
        access_log: access_log?,
        backend_series_max: backend_series_max?,
    })
}

fn listener(section: &Section<'_>, relations: &mut Relations, faults: &mut Vec<Fault>) -> Option<Listener> {
    let mut reader = Reader { section, faults };
    let name = reader.placed("name", |value| value::name(value::text(value)?));
    let bind = reader.binds();
    // Whether a pool of that name exists is a question of relations; what its name may be is asked at the pool.
    let pool = reader.placed("pool", |value| value::text(value).map(str::to_owned));
    let max_connections = reader.read("max_connections", |value| value::limit(value, CONNECTIONS_MAX));
    let idle_timeout = reader.read("idle_timeout", |value| value::duration_or_off(value, MILLISECOND..=TIMEOUT_MAX));
    let max_session_duration =
        reader.read("max_session_duration", |value| value::duration_or_off(value, MILLISECOND..=TIMEOUT_MAX));
    let keepalive = reader.read("keepalive", value::keepalive);
    let dead_peer_timeout =
        reader.read("dead_peer_timeout", |value| value::duration_or_off(value, DEAD_PEER_TIMEOUT_MIN..=TIMEOUT_MAX));
    let backlog = reader.read("backlog", |value| value::number(value, 1..=BACKLOG_MAX));
    let per_client = reader.read("max_connections_per_client", |value| value::limit(value, CONNECTIONS_MAX));
    let accept_rate = reader.accept_rate();
    let accept_proxy_protocol = reader.accept_proxy_protocol(&bind);
    let access = reader.access(&bind);

    relations.listeners.push(ListenerParts { name: name.clone(), bind: bind.clone(), pool: pool.clone() });
    Some(Listener {
        name: name?.value,
        bind: bind.into_iter().map(|bind| bind.value).collect(),
        pool: pool?.value,
        max_connections: max_connections?,
        max_connections_per_client: per_client?,
        accept_rate: accept_rate?,
        access: access?,
        idle_timeout: idle_timeout?,
        max_session_duration: max_session_duration?,
        keepalive: keepalive?,
        dead_peer_timeout: dead_peer_timeout?,
        accept_proxy_protocol: accept_proxy_protocol?,
        backlog: NonZeroU32::new(backlog?)?,
    })
}

fn pool(section: &Section<'_>, relations: &mut Relations, faults: &mut Vec<Fault>) -> Option<Pool> {
    let mut reader = Reader { section, faults };
    let name = reader.placed("name", |value| value::name(value::text(value)?));
    let policy = reader.text("policy", value::policy);
    let connect_timeout = reader.duration("connect_timeout", MILLISECOND);
    let connect_attempts =
        reader.read("connect_attempts", |value| value::number(value, 1..=CONNECT_ATTEMPTS_MAX as u32));
    let connect_budget = reader.duration("connect_budget", MILLISECOND);
    let keepalive = reader.read("keepalive", value::keepalive);
    let sources = reader.sources();
    let send_proxy_protocol = reader.text("send_proxy_protocol", value::proxy_protocol);
    if let (Some(timeout), Some(budget)) = (connect_timeout, connect_budget)
        && timeout > budget
    {
        reader.warn("connect_timeout", budget_is_shorter(timeout, budget));
    }
    let resolve_interval = reader.duration("resolve_interval", RESOLVE_INTERVAL_MIN);
    let when_none = reader.text("when_none", value::when_none);
    let queue_max = reader.queue_max(policy);
    let queue_timeout = reader.duration("queue_timeout", MILLISECOND);
    let fails = reader.fails(None);
    let fail_share = reader.read("fail_share", value::share);
    let max_ejected_percent = reader.read("max_ejected_percent", value::percent);

    let health = section.children(Place::Health).next().map(|section| health(section, faults));
    let mut parts = Vec::new();
    let backends: Vec<_> =
        section.children(Place::Backend).map(|section| backend(section, fails, &mut parts, faults)).collect();
    if policy == Some(Policy::SourceHash) || policy == Some(Policy::First) {
        section.children(Place::Backend).for_each(|section| warn_of_slow_start(section, faults));
    }
    let targets = || parts.iter().filter_map(|parts| parts.address.as_ref()).map(|address| &address.value);
    if let Some(Some(sources)) = &sources
        && !source::is_of_use(sources, targets())
    {
        Reader { section, faults }.warn("source", source::of_no_use());
    }
    let header = At::Bytes(section.header.clone());
    if let Some(Some((_, health))) = &health
        && health.port.is_some()
        && let Some(unix) =
            parts.iter().filter_map(|parts| parts.address.as_ref()).find(|address| is_unix(&address.value))
    {
        faults.push(Fault::warning(unix.at.clone(), unix_has_no_port(&unix.value)));
    }
    relations.pools.push(PoolParts { name: name.clone(), header, is_empty: backends.is_empty(), backends: parts });
    let (counts, health) = health.map_or(Some((None, None)), |health| {
        let (counts, health) = health?;
        Some((Some(counts), Some(health)))
    })?;
    Some(Pool {
        settings: PoolSettings {
            health: counts,
            policy: policy?,
            connect_timeout: connect_timeout?,
            connect_attempts: connect_attempts?,
            keepalive: keepalive?,
            fail_share: fail_share?,
            max_ejected_percent: max_ejected_percent?,
            queue_max: queue_max?,
            ..PoolSettings::new(name?.value)
        },
        connect_budget: connect_budget?,
        when_none: when_none?,
        queue_timeout: queue_timeout?,
        sources: sources?.unwrap_or_default(),
        send_proxy_protocol: send_proxy_protocol?,
        health,
        resolve_interval: resolve_interval?,
        max_fails: fails?.max_fails,
        fail_timeout: fails?.fail_timeout,
        backends: backends.into_iter().collect::<Option<_>>()?,
    })
}

fn health(section: &Section<'_>, faults: &mut Vec<Fault>) -> Option<(HealthSettings, Health)> {
    let mut reader = Reader { section, faults };
    let kind = reader.text("kind", health::kind);
    let interval = reader.duration("interval", CHECK_INTERVAL_MIN);
    let timeout = reader.duration("timeout", MILLISECOND);
    let rise = reader.read("rise", |value| value::number(value, 1..=CHECKS_MAX));
    let fall = reader.read("fall", |value| value::number(value, 1..=CHECKS_MAX));
    let on_down = reader.text("on_down", health::on_down);
    let port = reader.optional("port", |value| value::number(value, 1..=u32::from(u16::MAX)));
    let path = reader.text("path", health::path);
    let expect = reader.read("expect_status", health::statuses);
    let host = reader.optional("host", |value| health::host(value::text(value)?));
    let check = match kind? {
        health::Kind::Tcp => {
            for name in ["path", "expect_status", "host"] {
                reader.idle(name, "a `tcp` check asks nothing, so nothing would obey it");
            }
            Check::Tcp
        }
        health::Kind::Http => Check::Http { path: path?, expect: expect?, host: host? },
    };
    let port = port?.and_then(|port| u16::try_from(port).ok()).and_then(NonZeroU16::new);
    let health = Health { check, port, interval: interval?, timeout: timeout?, on_down: on_down? };
    Some((HealthSettings { rise: rise?, fall: fall? }, health))
}

fn backend(
    section: &Section<'_>,
    pool: Option<Fails>,
    parts: &mut Vec<BackendParts>,
    faults: &mut Vec<Fault>,
) -> Option<Backend> {
    let mut reader = Reader { section, faults };
    let address = reader.placed("address", |value| notation::target(value::text(value)?));
    let given = section.given("name").is_some();
    let mut name = reader.placed("name", |value| value::backend_name(value::text(value)?));
    let weight = reader.read("weight", value::weight);
    let backup = reader.read("backup", value::boolean);
    let max_connections = reader.read("max_connections", |value| value::number(value, 0..=CONNECTIONS_MAX));
    let slow_start = reader.duration("slow_start", Duration::ZERO);
    let fails = reader.fails(pool);
    if let Some(address) = &address
        && !given
    {
        name = reader.default_name(address);
    }
    parts.push(BackendParts { name: name.clone(), address: address.clone() });
    let (name, fails) = (name?.value, fails?);
    let (weight, backup, max_connections, slow_start) = (weight?, backup?, max_connections?, slow_start?);
    let tell = |address| BackendSettings {
        weight,
        backup,
        max_connections,
        max_fails: fails.max_fails,
        fail_timeout: fails.fail_timeout,
        slow_start,
        ..BackendSettings::new(name, address)
    };
    Some(Backend::new(address?.value, tell))
}

/// When a backend is ejected, as its pool says it or it itself.
#[derive(Copy, Clone)]
struct Fails {
    max_fails: u32,
    fail_timeout: Duration,
}

/// Reads the keys of one section, and notes what is wrong with them.
struct Reader<'r, 't> {
    section: &'r Section<'t>,
    faults: &'r mut Vec<Fault>,
}

impl Reader<'_, '_> {
    /// The value of a key, given or by default; nothing where it is wrong, or absent without a default.
    fn read<T>(&mut self, name: &str, parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>) -> Option<T> {
        self.placed(name, parse).map(|placed| placed.value)
    }

    /// As [`Reader::read`], with the place of the value.
    fn placed<T>(&mut self, name: &str, parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>) -> Option<Placed<T>> {
        if let Some(given) = self.section.given(name) {
            let at = At::Bytes(given.span());
            return match parse(given.get_ref()) {
                Ok(value) => Some(Placed { value, at }),
                Err(problem) => {
                    self.wrong(at, name, problem);
                    None
                }
            };
        }
        let place = self.section.place;
        let key = keys::find(place, name).unwrap_or_else(|| unreachable!("KEYS has every key that is read: {name}"));
        match key.absent {
            Absent::Means(_) => None,
            Absent::Required => {
                self.missing(name);
                None
            }
            Absent::Default(text) => {
                let value = DeValue::parse(text).ok().and_then(|value| parse(value.get_ref()).ok());
                let value = value.unwrap_or_else(|| unreachable!("a test parses every default of KEYS: {name}"));
                Some(Placed { value, at: At::Bytes(self.section.header.clone()) })
            }
        }
    }

    /// As [`Reader::read`] of a key without a default: `Some(None)` where it is absent.
    fn optional<T>(&mut self, name: &str, parse: impl FnOnce(&DeValue<'_>) -> Result<T, Problem>) -> Option<Option<T>> {
        match self.section.given(name) {
            Some(_) => self.read(name, parse).map(Some),
            None => Some(None),
        }
    }

    /// Refuses a key that nothing would obey.
    fn idle(&mut self, name: &str, why: &str) {
        if let Some(given) = self.section.given(name) {
            let problem = Problem::new("it says nothing here", why, "take it out");
            self.wrong(At::Bytes(given.span()), name, problem);
        }
    }

    /// `access_log` and `access_log_start`.
    fn access_log(&mut self) -> Option<AccessLog> {
        let target = self.read("access_log", |value| value::access_log(value::text(value)?));
        let start = self.read("access_log_start", value::boolean);
        let (target, start) = (target?, start?);
        if start && target.is_none() {
            let problem = Problem::new(
                "there is no access log",
                "a line at the start of each session has nowhere to go",
                "set `access_log`, or take this out",
            );
            self.warn("access_log_start", problem);
        }
        Some(AccessLog { target, start })
    }

    /// `state_file`, which must be a file of its own.
    fn state_file(&mut self, admin: Option<&Admin>, log: Option<&AccessLog>) -> Option<Option<PathBuf>> {
        let file = self.placed("state_file", |value| state::state_file(value::text(value)?))?;
        if let Some(path) = &file.value {
            if let Some(problem) = state::taken(path, admin, log.and_then(|log| log.target.as_ref())) {
                self.wrong(file.at, "state_file", problem);
                return None;
            }
            if admin == Some(&Admin::Off) {
                self.warn("state_file", state::nobody_edits());
            }
        }
        Some(file.value)
    }

    /// `max_fails` and `fail_timeout`; what is not said here is as in `pool`.
    fn fails(&mut self, pool: Option<Fails>) -> Option<Fails> {
        let max_fails = |value: &DeValue<'_>| value::number(value, 0..=FAILS_MAX);
        let fail_timeout = |value: &DeValue<'_>| value::duration(value, MILLISECOND..=TIMEOUT_MAX);
        let (max_fails, fail_timeout) = match self.section.place {
            Place::Pool => (self.read("max_fails", max_fails), self.read("fail_timeout", fail_timeout)),
            _ => {
                let own = (self.optional("max_fails", max_fails), self.optional("fail_timeout", fail_timeout));
                let of_pool = pool?;
                (
                    own.0.map(|own| own.unwrap_or(of_pool.max_fails)),
                    own.1.map(|own| own.unwrap_or(of_pool.fail_timeout)),
                )
            }
        };
        Some(Fails { max_fails: max_fails?, fail_timeout: fail_timeout? })
    }

    fn text<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, Problem>) -> Option<T> {
        self.read(name, |value| parse(value::text(value)?))
    }

    fn duration(&mut self, name: &str, least: Duration) -> Option<Duration> {
        self.read(name, |value| value::duration(value, least..=TIMEOUT_MAX))
    }

    /// `bind`: one address or a list of them, each with its own place.
    fn binds(&mut self) -> Vec<Placed<Bind>> {
        let Some(given) = self.section.given("bind") else {
            self.missing("bind");
            return Vec::new();
        };
        let elements = elements(given);
        if elements.is_empty() {
            let problem = Problem::new(
                "an empty list",
                "a listener without an address accepts nobody",
                "write at least one address, as in \"0.0.0.0:8080\"",
            );
            self.wrong(At::Bytes(given.span()), "bind", problem);
        }
        let mut binds = Vec::new();
        for element in elements {
            let at = At::Bytes(element.span());
            match value::text(element.get_ref()).and_then(notation::bind) {
                Ok(value) => binds.push(Placed { value, at }),
                Err(problem) => self.wrong(at, "bind", problem),
            }
        }
        binds
    }

    /// `source`: one address or a list of them, `Some(None)` where there is none.
    fn sources(&mut self) -> Option<Option<Vec<IpAddr>>> {
        let Some(given) = self.section.given("source") else { return Some(None) };
        let mut sources = Vec::new();
        let mut right = true;
        for element in elements(given) {
            let parsed = value::text(element.get_ref()).and_then(source::source);
            match parsed {
                Ok(ip) if sources.contains(&ip) => self.wrong(At::Bytes(element.span()), "source", source::twice(ip)),
                Ok(ip) => sources.push(ip),
                Err(problem) => self.wrong(At::Bytes(element.span()), "source", problem),
            }
            right = sources.len() <= SOURCES_MAX;
            if !right {
                self.wrong(At::Bytes(element.span()), "source", too_many("address", SOURCES_MAX));
                break;
            }
        }
        right.then(|| (!sources.is_empty()).then_some(sources))
    }

    /// `accept_rate` with `accept_burst`, which is as large where it is absent.
    fn accept_rate(&mut self) -> Option<Option<AcceptRate>> {
        let rate = self.read("accept_rate", |value| value::limit(value, ACCEPT_RATE_MAX));
        let burst = self.optional("accept_burst", |value| value::number(value, 1..=ACCEPT_BURST_MAX));
        let Some(per_second) = rate? else {
            self.idle("accept_burst", "without `accept_rate` clients are accepted as fast as they come");
            return Some(None);
        };
        let burst = burst?.and_then(NonZeroU32::new).unwrap_or(per_second);
        Some(Some(AcceptRate { per_second, burst }))
    }

    /// `accept_proxy_protocol` with `trusted_proxies`, and whether they fit each other and the addresses that are bound.
    /// Nothing where one of them is wrong.
    fn accept_proxy_protocol(&mut self, bind: &[Placed<Bind>]) -> Option<Option<Networks>> {
        let accept = self.read("accept_proxy_protocol", value::boolean);
        let trusted = self.trusted_proxies();
        let (accept, trusted) = (accept?, trusted?);
        if !accept {
            if !trusted.is_empty() {
                self.warn("trusted_proxies", trusted::unused());
            }
            return Some(None);
        }
        if trusted.is_empty() {
            let at = self.section.given("trusted_proxies").or_else(|| self.section.given("accept_proxy_protocol"));
            let at = at.map_or_else(|| self.section.header.clone(), |given| given.span());
            self.faults.push(Fault::error(At::Bytes(at), trusted::nobody()));
            return None;
        }
        if trusted.has_everybody() {
            self.warn("trusted_proxies", trusted::everybody());
        }
        let is_unix = |bind: &Placed<Bind>| matches!(&bind.value, Bind::Address(Address::Unix(_)));
        let mut all_reachable = true;
        for bind in bind.iter().filter(|bind| is_unix(bind) && !trusted.has_unix()) {
            self.faults.push(Fault::error(bind.at.clone(), trusted::no_unix()));
            all_reachable = false;
        }
        all_reachable.then_some(Some(trusted))
    }

    /// `queue_max`, and whether anybody could ever wait.
    fn queue_max(&mut self, policy: Option<Policy>) -> Option<u32> {
        let queue_max = self.placed("queue_max", |value| value::number(value, 0..=CONNECTIONS_MAX))?;
        if queue_max.value == 0 {
            return Some(0);
        }
        if policy == Some(Policy::SourceHash) {
            self.faults.push(Fault::error(queue_max.at, queue::not_with_source_hash()));
            return None;
        }
        let limited = |backend: &Section<'_>| {
            let given = backend.given("max_connections");
            given.is_some_and(|given| value::number(given.get_ref(), 0..=0).is_err())
        };
        if !self.section.children(Place::Backend).any(limited) {
            self.warn("queue_max", queue::nobody_is_full());
        }
        Some(queue_max.value)
    }

    fn trusted_proxies(&mut self) -> Option<Networks> {
        let list = self.networks("trusted_proxies")?;
        Some(list.networks.iter().map(|network| network.value).collect())
    }

    /// `allow` and `deny`, and whether they fit each other and the unix sockets that are bound.
    fn access(&mut self, bind: &[Placed<Bind>]) -> Option<Access> {
        let (allow, deny) = (self.networks("allow"), self.networks("deny"));
        let named = self.section.given("accept_proxy_protocol").and_then(|given| given.get_ref().as_bool());
        let is_unix = |bind: &&Placed<Bind>| matches!(&bind.value, Bind::Address(Address::Unix(_)));
        // Behind a proxy, a client of a unix socket has an address.
        let unix: Vec<At> = match named {
            Some(true) => Vec::new(),
            _ => bind.iter().filter(is_unix).map(|bind| bind.at.clone()).collect(),
        };
        access::access(&allow?, &deny?, &unix, self.faults)
    }

    /// A list of networks, empty where the key is absent; nothing where one of them is wrong.
    fn networks(&mut self, name: &str) -> Option<access::List> {
        let Some(given) = self.section.given(name) else {
            return Some(access::List { at: At::Bytes(self.section.header.clone()), networks: Vec::new() });
        };
        let mut networks = Vec::new();
        let mut right = true;
        for element in elements(given) {
            let at = At::Bytes(element.span());
            if networks.len() == NETWORKS_MAX {
                self.wrong(at, name, too_many("network", NETWORKS_MAX));
                return None;
            }
            match value::text(element.get_ref()).and_then(Network::parse) {
                Ok(value) => networks.push(Placed { value, at }),
                Err(problem) => {
                    self.wrong(at, name, problem);
                    right = false;
                }
            }
        }
        right.then_some(access::List { at: At::Bytes(given.span()), networks })
    }

    /// The address as the backend's name, where it can be one.
    fn default_name(&mut self, address: &Placed<Target>) -> Option<Placed<String>> {
        match value::backend_name(&address.value.to_string()) {
            Ok(value) => Some(Placed { value, at: address.at.clone() }),
            Err(problem) => {
                let help = "give the backend a `name` of its own";
                self.wrong(address.at.clone(), "address", Problem { help: help.to_owned(), ..problem });
                None
            }
        }
    }

    fn missing(&mut self, name: &str) {
        let header = self.section.place.header();
        let meaning = keys::find(self.section.place, name).map_or("", |key| key.meaning);
        let problem = Problem::new(
            format!("this {header} has no `{name}`"),
            format!("it has no default: it is the {}", meaning.trim_start_matches("its ")),
            format!("write `{name} = ...` below this header"),
        );
        self.faults.push(Fault::error(At::Bytes(self.section.header.clone()), problem));
    }

    fn warn(&mut self, name: &str, problem: Problem) {
        let at = self.section.given(name).map_or_else(|| self.section.header.clone(), |given| given.span());
        self.faults.push(Fault::warning(At::Bytes(at), problem));
    }

    fn wrong(&mut self, at: At, name: &str, problem: Problem) {
        let what = format!("`{name}`: {}", problem.what);
        self.faults.push(Fault::error(at, Problem { what, ..problem }));
    }
}

/// The elements of a list; a single value is a list of one.
fn elements<'v, 't>(given: &'v Spanned<DeValue<'t>>) -> Vec<&'v Spanned<DeValue<'t>>> {
    match given.get_ref() {
        DeValue::Array(array) => array.iter().collect(),
        _ => vec![given],
    }
}

fn too_many(what: &str, most: usize) -> Problem {
    Problem::new(
        format!("this is one {what} too many"),
        format!("the list may have {most}"),
        "take some out; several networks can be written as a larger one",
    )
}

fn is_unix(target: &Target) -> bool {
    matches!(target, Target::Address(address) if address.is_unix())
}

fn unix_has_no_port(target: &Target) -> Problem {
    Problem::new(
        format!("`port` of [pool.health] says nothing of the backend {}", quoted(&target.to_string())),
        "a unix socket has no port, so the check goes to the socket itself",
        "take `port` out, or put this backend into another pool",
    )
}

fn warn_of_slow_start(section: &Section<'_>, faults: &mut Vec<Fault>) {
    let Some(given) = section.given("slow_start") else { return };
    let problem = Problem::new(
        "`slow_start` says nothing in this pool",
        "its `policy` does not weigh backends against each other: a backend gets its clients or none",
        "take it out, or choose another `policy`",
    );
    faults.push(Fault::warning(At::Bytes(given.span()), problem));
}

fn budget_is_shorter(timeout: Duration, budget: Duration) -> Problem {
    let (timeout, budget) = (humantime::format_duration(timeout), humantime::format_duration(budget));
    Problem::new(
        format!("`connect_timeout` is longer than `connect_budget`: {timeout} and {budget}"),
        format!("all connects for one client together end after {budget}, the first one too"),
        "raise `connect_budget`, or lower `connect_timeout`",
    )
}
