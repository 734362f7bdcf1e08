//! How fast numbers grow: the difference of two looks at a running ringlb.

use std::collections::HashMap;

use crate::control::wire::{Pool, Status};

/// Connects in a second, by pool and backend, between two looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates(HashMap<(String, String), f64>);

impl Rates {
    /// Between these two; nothing where they are not of the same process, or at the same time. A backend that came between
    /// them has no rate yet.
    pub fn between(before: &Status, now: &Status) -> Option<Rates> {
        let millis =
            now.uptime_ms.checked_sub(before.uptime_ms).filter(|millis| *millis > 0 && before.pid == now.pid)?;
        let totals = |status: &Status| {
            let of_pool = |pool: &Pool| {
                let name = |backend: &str| (pool.name.clone(), backend.to_owned());
                let totals = pool.backends.iter().map(|backend| (name(&backend.name), backend.totals.connections));
                totals.collect::<Vec<_>>()
            };
            status.pools.iter().flat_map(of_pool).collect::<HashMap<_, _>>()
        };
        let earlier = totals(before);
        let rate = |(name, total): ((String, String), u64)| {
            let grown = total.checked_sub(*earlier.get(&name)?)?;
            Some((name, grown as f64 * 1000.0 / millis as f64))
        };
        Some(Rates(totals(now).into_iter().filter_map(rate).collect()))
    }

    /// Of one backend.
    pub fn of(&self, pool: &str, backend: &str) -> Option<f64> {
        self.0.get(&(pool.to_owned(), backend.to_owned())).copied()
    }

    /// Of all of them together.
    pub fn sum(&self) -> f64 {
        self.0.values().sum()
    }
}

/// A rate in few characters.
pub fn shown(rate: f64) -> String {
    if rate < 9.95 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pid: u32, uptime_ms: u64, connections: &[(&str, u64)]) -> Status {
        let backends: Vec<_> = connections
            .iter()
            .map(|(name, connections)| {
                serde_json::json!({
                    "name": name, "address": "10.0.0.1:1", "weight": 1, "backup": false, "max_connections": 0,
                    "max_fails": 3, "fail_timeout": "10s", "slow_start": "0s", "state": "ready", "status": "ready",
                    "health": "unchecked", "active": 0, "source": "file",
                    "totals": {"connections": connections, "failures": 0, "ejections": 0}
                })
            })
            .collect();
        let pool = serde_json::json!({
            "name": "web", "policy": "first", "revision": 1, "in_recovery": false, "waiting": 0,
            "backends": backends, "leaving": []
        });
        let status = serde_json::json!({
            "version": "1", "pid": pid, "uptime_ms": uptime_ms, "ready": true, "workers": 1, "active": 0,
            "max_connections": 1, "config": null, "listeners": [], "pools": [pool]
        });
        serde_json::from_value(status).expect("a status")
    }

    #[test]
    fn a_rate_is_what_has_come_in_the_time_between() {
        let before = status(1, 1_000, &[("a", 10), ("gone", 5)]);
        let now = status(1, 3_000, &[("a", 13), ("new", 7)]);
        let rates = Rates::between(&before, &now).expect("time has passed");
        assert_eq!((rates.of("web", "a"), rates.of("web", "new"), rates.of("web", "gone")), (Some(1.5), None, None));
        assert_eq!(rates.sum(), 1.5);
        assert_eq!(Rates::between(&before, &before), None);
        assert_eq!(Rates::between(&before, &status(2, 3_000, &[("a", 13)])), None, "it is another process");
    }

    #[test]
    fn a_rate_takes_few_characters() {
        assert_eq!([0.0, 0.25, 9.94, 9.96, 123_456.7].map(shown), ["0.0", "0.2", "9.9", "10", "123457"]);
    }
}
