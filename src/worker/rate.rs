//! How many clients a listener accepts in a second: a token bucket that all workers share.
//!
//! The bucket is one number, the time at which it is full again; each client moves that on by the time that one client takes.
//! A worker whose accept was under way when others took the last tokens still takes one: the bucket is then in debt, and the
//! debt is waited for.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::limits::ACCEPT_RATE_QUIET;
use crate::time::Time;

/// So many clients a second, and so many at once after a quiet time.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In a second.
    pub per_second: NonZeroU32,
    /// At once.
    pub burst: NonZeroU32,
}

/// The tokens of a [`Rate`]; full at first.
#[derive(Debug)]
pub struct Bucket {
    rate: Rate,
    /// Nanoseconds for one token, rounded up, so that there are never more in a second than there may be.
    interval: u64,
    full_at: AtomicU64,
    /// When somebody last had to wait; 0: never.
    waited_at: AtomicU64,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: Rate) -> Bucket {
        let interval = 1_000_000_000_u64.div_ceil(u64::from(rate.per_second.get()));
        Bucket { rate, interval, full_at: AtomicU64::new(0), waited_at: AtomicU64::new(0) }
    }

    /// What it was made of.
    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes a token, where there is none too.
    pub fn take(&self, now: Time) {
        let taken = |full_at: u64| Some(full_at.max(now.nanos()).saturating_add(self.interval));
        let (Ok(_) | Err(_)) = self.full_at.fetch_update(Relaxed, Relaxed, taken);
    }

    /// How many tokens there are.
    pub fn room(&self, now: Time) -> usize {
        let lacking = self.full_at.load(Relaxed).saturating_sub(now.nanos()).div_ceil(self.interval);
        u64::from(self.rate.burst.get()).saturating_sub(lacking) as usize
    }

    /// When there is a token again; `None`: now.
    pub fn opens_at(&self, now: Time) -> Option<Time> {
        let slack = (u64::from(self.rate.burst.get()) - 1) * self.interval;
        let opens_at = Time::from_nanos(self.full_at.load(Relaxed).saturating_sub(slack));
        (opens_at > now).then_some(opens_at)
    }

    /// Notes that somebody waits, and says whether nobody has had to for [`ACCEPT_RATE_QUIET`]: where the rate is reached again
    /// and again, that is one thing to tell and not many.
    pub fn wait(&self, now: Time) -> bool {
        let before = self.waited_at.swap(now.nanos().max(1), Relaxed);
        before == 0 || now.since(Time::from_nanos(before)) >= ACCEPT_RATE_QUIET
    }
}

/// A bucket's time fits a word for as long as a host runs: the largest debt is small against what is left of it.
const _: () = assert!(Duration::from_secs(1).as_nanos() * (crate::limits::ACCEPT_BURST_MAX as u128) < 1 << 60);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(per_second: u32, burst: u32) -> Bucket {
        let number = |number| NonZeroU32::new(number).unwrap();
        Bucket::new(Rate { per_second: number(per_second), burst: number(burst) })
    }

    #[test]
    fn a_burst_is_let_in_and_then_one_for_each_interval() {
        let bucket = bucket(10, 3);
        let mut now = Time::from_millis(1_000);
        for left in [3, 2, 1] {
            assert_eq!((bucket.room(now), bucket.opens_at(now)), (left, None));
            bucket.take(now);
        }
        for _ in 0..5 {
            let next = now + Duration::from_millis(100);
            assert_eq!((bucket.room(now), bucket.opens_at(now)), (0, Some(next)));
            now = next;
            assert_eq!((bucket.room(now), bucket.opens_at(now)), (1, None));
            bucket.take(now);
        }
        assert_eq!(bucket.room(now + Duration::from_millis(299)), 2);
        assert_eq!(bucket.room(now + Duration::from_secs(3600)), 3, "no more than the burst, however long nobody came");
    }

    #[test]
    fn what_was_taken_too_much_is_waited_for() {
        let bucket = bucket(10, 1);
        let now = Time::from_millis(1_000);
        (0..4).for_each(|_| bucket.take(now));
        assert_eq!(bucket.opens_at(now), Some(now + Duration::from_millis(400)));
    }

    #[test]
    fn waiting_is_told_once_and_again_after_a_quiet_time() {
        let bucket = bucket(10, 1);
        let mut now = Time::from_millis(1_000);
        assert!(bucket.wait(now));
        for _ in 0..100 {
            now = now + (ACCEPT_RATE_QUIET - Duration::from_millis(1));
            assert!(!bucket.wait(now));
        }
        assert!(bucket.wait(now + ACCEPT_RATE_QUIET));
    }

    proptest! {
        /// Against a bucket that is counted in parts of a token: whoever waits when he is told to never gets more, and gets
        /// all but what rounding takes.
        #[test]
        fn as_many_as_a_plain_bucket_lets_in(
            per_second in prop_oneof![1u32..50, 1u32..1_000_000],
            burst in 1u32..50,
            steps in prop::collection::vec((0u64..2_000_000_000, 1usize..60), 1..60),
        ) {
            const WHOLE: u128 = 1_000_000_000;
            let bucket = bucket(per_second, burst);
            let mut now = Time::from_millis(1_000);
            let mut parts = u128::from(burst) * WHOLE;
            let mut taken = 0;
            for (pause, clients) in steps {
                now = now + Duration::from_nanos(pause);
                parts = (parts + u128::from(pause) * u128::from(per_second)).min(u128::from(burst) * WHOLE);
                for _ in 0..clients {
                    prop_assert_eq!(bucket.opens_at(now).is_none(), bucket.room(now) > 0);
                    if bucket.room(now) > 0 {
                        prop_assert!(parts >= WHOLE, "one too many after {} clients", taken);
                        bucket.take(now);
                        parts -= WHOLE;
                        taken += 1;
                    } else {
                        // Each token's time is rounded up by a nanosecond at most.
                        let lost = (u128::from(burst) + 1) * u128::from(per_second);
                        prop_assert!(parts < WHOLE + lost, "one too few after {} clients", taken);
                        let open = bucket.opens_at(now).unwrap();
                        parts = (parts + open.since(now).as_nanos() * u128::from(per_second)).min(u128::from(burst) * WHOLE);
                        now = open;
                    }
                }
            }
        }
    }

    /// Workers that all find a token at the same time take one too many each, and no more over all.
    #[test]
    fn the_debt_is_that_of_the_workers() {
        const WORKERS: usize = 4;
        let bucket = bucket(1_000, 5);
        let start = Time::from_millis(1_000);
        let (mut now, mut taken) = (start, 0);
        while taken < 1_000 {
            now = bucket.opens_at(now).unwrap_or(now);
            (0..WORKERS).for_each(|_| bucket.take(now));
            taken += WORKERS;
            let allowed = 5 + now.since(start).as_millis() as usize + WORKERS;
            assert!(taken <= allowed, "{taken} of {allowed}");
        }
    }
}
