//! What differs between two configurations, by the keys of the file. Each destructuring sees to it that no key is forgotten.

use std::collections::HashMap;

use super::{Config, General, Listener, Pool};
use crate::balance::settings::PoolSettings;

/// Something of a name that two sides do not have alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Only the second has it.
    Added(String),
    /// Only the first has it.
    Removed(String),
    /// Both have it, with other values of these keys.
    Changed(String, Vec<&'static str>),
}

/// What differs between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Keys of the process that can be changed while it runs.
    pub settings: Vec<&'static str>,
    /// Keys of the process that count from its next start on.
    pub restart: Vec<&'static str>,
    /// Listeners.
    pub listeners: Vec<Difference>,
    /// Pools, without what their backends are told.
    pub pools: Vec<Difference>,
}

impl Config {
    /// What `next` has that this one has not, or otherwise. The order of listeners and pools is no difference.
    pub fn differences(&self, next: &Config) -> Differences {
        let (settings, restart) = self.general.differing(&next.general);
        Differences {
            settings,
            restart,
            listeners: differences(&self.listeners, &next.listeners, |one| &one.name, Listener::differing),
            pools: differences(&self.pools, &next.pools, |one| &one.settings.name, Pool::differing),
        }
    }
}

/// What differs between two lists of things with names of their own: what both have in the order of the second, then what
/// only the first has.
pub fn differences<T>(
    one: &[T],
    other: &[T],
    name: impl Fn(&T) -> &str,
    differing: impl Fn(&T, &T) -> Vec<&'static str>,
) -> Vec<Difference> {
    let before: HashMap<&str, &T> = one.iter().map(|thing| (name(thing), thing)).collect();
    let mut missing = before.clone();
    let mut found = Vec::new();
    for thing in other {
        missing.remove(name(thing));
        match before.get(name(thing)).map(|before| differing(before, thing)) {
            None => found.push(Difference::Added(name(thing).to_owned())),
            Some(keys) if keys.is_empty() => {}
            Some(keys) => found.push(Difference::Changed(name(thing).to_owned(), keys)),
        }
    }
    let gone = one.iter().map(name).filter(|name| missing.contains_key(name));
    found.extend(gone.map(|name| Difference::Removed(name.to_owned())));
    found
}

/// The keys of those that differ.
pub fn named<const N: usize>(keys: [(&'static str, bool); N]) -> Vec<&'static str> {
    keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

impl General {
    /// The keys in which they differ: those that can be changed live, and those that cannot.
    fn differing(&self, other: &General) -> (Vec<&'static str>, Vec<&'static str>) {
        let General {
            workers,
            max_connections,
            shutdown_delay,
            shutdown_timeout,
            log,
            log_format,
            metrics,
            resolvers,
            backend_series_max,
            admin,
            admin_mode,
            access_log,
            state_file,
        } = self;
        let live = named([
            ("max_connections", *max_connections != other.max_connections),
            ("shutdown_delay", *shutdown_delay != other.shutdown_delay),
            ("shutdown_timeout", *shutdown_timeout != other.shutdown_timeout),
            ("log", *log != other.log),
        ]);
        let restart = named([
            ("workers", *workers != other.workers),
            ("log_format", *log_format != other.log_format),
            ("metrics", *metrics != other.metrics),
            ("resolvers", *resolvers != other.resolvers),
            ("backend_series_max", *backend_series_max != other.backend_series_max),
            ("admin", *admin != other.admin),
            ("admin_mode", *admin_mode != other.admin_mode),
            ("access_log", access_log.target != other.access_log.target),
            ("access_log_start", access_log.start != other.access_log.start),
            ("state_file", *state_file != other.state_file),
        ]);
        (live, restart)
    }
}

impl Listener {
    fn differing(&self, other: &Listener) -> Vec<&'static str> {
        let Listener {
            name: _,
            bind,
            pool,
            max_connections,
            max_connections_per_client,
            accept_rate,
            access,
            idle_timeout,
            max_session_duration,
            keepalive,
            dead_peer_timeout,
            backlog,
            accept_proxy_protocol,
        } = self;
        let (rate, other_rate) = (accept_rate.as_ref(), other.accept_rate.as_ref());
        let both = |listener: &Listener| listener.accept_proxy_protocol.is_some();
        named([
            ("bind", *bind != other.bind),
            ("pool", *pool != other.pool),
            ("max_connections", *max_connections != other.max_connections),
            ("max_connections_per_client", *max_connections_per_client != other.max_connections_per_client),
            ("accept_rate", rate.map(|rate| rate.per_second) != other_rate.map(|rate| rate.per_second)),
            ("accept_burst", rate.map(|rate| rate.burst) != other_rate.map(|rate| rate.burst)),
            ("allow", access.allow != other.access.allow),
            ("deny", access.deny != other.access.deny),
            ("idle_timeout", *idle_timeout != other.idle_timeout),
            ("max_session_duration", *max_session_duration != other.max_session_duration),
            ("keepalive", *keepalive != other.keepalive),
            ("dead_peer_timeout", *dead_peer_timeout != other.dead_peer_timeout),
            ("backlog", *backlog != other.backlog),
            ("accept_proxy_protocol", both(self) != both(other)),
            ("trusted_proxies", both(self) && both(other) && *accept_proxy_protocol != other.accept_proxy_protocol),
        ])
    }
}

impl Pool {
    /// The keys in which they differ, but for what their backends are told.
    fn differing(&self, other: &Pool) -> Vec<&'static str> {
        let Pool {
            settings,
            connect_budget,
            when_none,
            queue_timeout,
            sources,
            send_proxy_protocol,
            health,
            resolve_interval,
            max_fails,
            fail_timeout,
            backends: _,
        } = self;
        let PoolSettings {
            name: _,
            policy,
            connect_timeout,
            connect_attempts,
            keepalive,
            fail_share,
            max_ejected_percent,
            health: _,
            queue_max,
        } = settings;
        let told = &other.settings;
        named([
            ("policy", *policy != told.policy),
            ("max_fails", *max_fails != other.max_fails),
            ("fail_timeout", *fail_timeout != other.fail_timeout),
            ("fail_share", *fail_share != told.fail_share),
            ("connect_timeout", *connect_timeout != told.connect_timeout),
            ("connect_attempts", *connect_attempts != told.connect_attempts),
            ("connect_budget", *connect_budget != other.connect_budget),
            ("keepalive", *keepalive != told.keepalive),
            ("source", *sources != other.sources),
            ("send_proxy_protocol", *send_proxy_protocol != other.send_proxy_protocol),
            ("max_ejected_percent", *max_ejected_percent != told.max_ejected_percent),
            ("when_none", *when_none != other.when_none),
            ("queue_max", *queue_max != told.queue_max),
            ("queue_timeout", *queue_timeout != other.queue_timeout),
            ("resolve_interval", *resolve_interval != other.resolve_interval),
            ("health", *health != other.health),
        ])
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Overrides};

    use super::*;

    fn config(text: &str) -> Config {
        Config::parse("web.toml", text, &Overrides::default()).unwrap().config
    }

    const PLAIN: &str = "[[listener]]\nname = 'web'\nbind = ':80'\npool = 'web'\n\
                         [[pool]]\nname = 'web'\n[[pool.backend]]\naddress = '10.0.0.1:1'\n";

    /// Of every key of a listener, a pool and the process: another value shows up under its name, and nothing else does.
    #[test]
    fn each_key_is_told_by_its_name() {
        let plain = config(PLAIN);
        assert_eq!(plain.differences(&plain), Differences::default());
        for (key, value) in [
            ("bind", "':81'"),
            ("max_connections", "5"),
            ("max_connections_per_client", "5"),
            ("accept_rate", "5"),
            ("allow", "['10.0.0.0/8']"),
            ("deny", "['10.0.0.0/8']"),
            ("idle_timeout", "'1m'"),
            ("max_session_duration", "'1m'"),
            ("keepalive", "'1m1s'"),
            ("dead_peer_timeout", "'1m'"),
            ("backlog", "5"),
        ] {
            let text = PLAIN.replace("bind = ':80'\n", if key == "bind" { "" } else { "bind = ':80'\n" });
            let next = config(&text.replacen("pool = 'web'\n", &format!("pool = 'web'\n{key} = {value}\n"), 1));
            let found = plain.differences(&next);
            let Differences { settings, restart, listeners, pools } = &found;
            assert!(settings.is_empty() && restart.is_empty() && pools.is_empty(), "{key}: {found:?}");
            let [Difference::Changed(_, keys)] = &listeners[..] else { panic!("{key}: {found:?}") };
            assert!(keys.contains(&key) && keys.len() <= 2, "{key}: {keys:?}");
        }
        for (key, value) in [
            ("policy", "'first'"),
            ("max_fails", "5"),
            ("fail_timeout", "'5s'"),
            ("fail_share", "0.5"),
            ("connect_timeout", "'5s'"),
            ("connect_attempts", "5"),
            ("connect_budget", "'5s'"),
            ("keepalive", "'5s'"),
            ("source", "['10.0.0.9']"),
            ("send_proxy_protocol", "'v2'"),
            ("max_ejected_percent", "5"),
            ("when_none", "'reset'"),
            ("queue_max", "5"),
            ("queue_timeout", "'6s'"),
            ("resolve_interval", "'5s'"),
        ] {
            let next = config(&PLAIN.replace("[[pool]]\nname", &format!("[[pool]]\n{key} = {value}\nname")));
            let pools = [Difference::Changed("web".into(), vec![key])];
            assert_eq!(plain.differences(&next), Differences { pools: pools.into(), ..Differences::default() });
        }
        for (key, value, live) in [
            ("max_connections", "5", true),
            ("shutdown_delay", "'5s'", true),
            ("shutdown_timeout", "'5s'", true),
            ("log", "'debug'", true),
            ("workers", "5", false),
            ("log_format", "'json'", false),
            ("metrics", "'127.0.0.1:9090'", false),
            ("resolvers", "['127.0.0.1:53']", false),
            ("backend_series_max", "5", false),
            ("admin", "'/run/x.sock'", false),
            ("admin_mode", "'0660'", false),
            ("access_log", "'-'", false),
            ("state_file", "'/var/lib/ringlb/state'", false),
        ] {
            let next = config(&format!("{key} = {value}\n{PLAIN}"));
            let (settings, restart) = if live { (vec![key], vec![]) } else { (vec![], vec![key]) };
            assert_eq!(plain.differences(&next), Differences { settings, restart, ..Differences::default() });
        }
    }

    #[test]
    fn what_comes_and_goes_is_told_by_its_name_and_order_is_not() {
        let two = format!("{PLAIN}[[pool]]\nname = 'api'\n");
        let (plain, two) = (config(PLAIN), config(&two));
        assert_eq!(plain.differences(&two).pools, [Difference::Added("api".into())]);
        assert_eq!(two.differences(&plain).pools, [Difference::Removed("api".into())]);
        let turned = PLAIN.replace("[[pool]]", "[[pool]]\nname = 'api'\n[[pool]]");
        assert_eq!(two.differences(&config(&turned)), Differences::default());
        let renamed = config(&PLAIN.replacen("name = 'web'", "name = 'front'", 1));
        let listeners = [Difference::Added("front".into()), Difference::Removed("web".into())];
        assert_eq!(plain.differences(&renamed).listeners, listeners);
    }
}
