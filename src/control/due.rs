//! Things that are due at some time, in the order of their times.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::time::Duration;

use crate::time::Time;

/// Keys with the time at which each is due.
#[derive(Debug)]
pub struct Due<K> {
    order: BTreeSet<(Time, K)>,
    times: HashMap<K, Time>,
}

impl<K: Copy + Ord + Hash> Due<K> {
    /// Nothing is due.
    pub fn new() -> Due<K> {
        Due { order: BTreeSet::new(), times: HashMap::new() }
    }

    /// `key` is due at `at`, and at no other time.
    pub fn set(&mut self, key: K, at: Time) {
        self.remove(key);
        self.order.insert((at, key));
        self.times.insert(key, at);
    }

    /// `key` is not due.
    pub fn remove(&mut self, key: K) {
        if let Some(at) = self.times.remove(&key) {
            self.order.remove(&(at, key));
        }
    }

    /// Takes the one that has been due for longest, if one is due at `now`.
    pub fn pop(&mut self, now: Time) -> Option<K> {
        let (at, key) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.remove(key);
        Some(key)
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Time> {
        self.order.first().map(|(at, _)| *at)
    }
}

/// `base`, longer or shorter by up to one part of `parts`, as `random` (any number, evenly drawn) says.
pub fn vary(base: Duration, parts: u32, random: u64) -> Duration {
    let part = base / parts;
    // 32 bits are fine enough for any delay, and their product with it fits.
    let share = (random >> 32) as u128;
    let nanos = (2 * part.as_nanos() * share) >> 32;
    base - part + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Any number, evenly drawn. The standard library seeds its hashers with such; no further dependency is needed for it.
pub fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_due_comes_in_the_order_of_its_time() {
        let mut due = Due::new();
        for (key, at) in [(1, 30), (2, 10), (3, 20), (2, 25), (4, 5)] {
            due.set(key, Time::from_millis(at));
        }
        due.remove(4);
        assert_eq!(due.next(), Some(Time::from_millis(20)));
        let now = Time::from_millis(25);
        assert_eq!([due.pop(now), due.pop(now), due.pop(now)], [Some(3), Some(2), None]);
        assert_eq!(due.next(), Some(Time::from_millis(30)));
    }

    proptest! {
        #[test]
        fn a_varied_delay_stays_near_its_base(millis in 1..10_000_000_u64, parts in 2..50_u32, random in any::<u64>()) {
            let base = Duration::from_millis(millis);
            let varied = vary(base, parts, random);
            prop_assert!(varied >= base - base / parts && varied <= base + base / parts, "{varied:?}");
        }
    }

    #[test]
    fn a_delay_varies_evenly() {
        let base = Duration::from_secs(10);
        let seconds = |random| vary(base, 10, random).as_secs_f64();
        assert!((seconds(0) - 9.0).abs() < 1e-6 && (seconds(u64::MAX) - 11.0).abs() < 1e-6);
        assert!((seconds(u64::MAX / 2) - 10.0).abs() < 1e-6 && (seconds(u64::MAX / 4) - 9.5).abs() < 1e-6);
    }
}
