//! When each backend is checked, as a pure state machine: time and randomness are arguments.
//!
//! Feed it newcomers ([`Schedule::admit`]) and results ([`Schedule::conclude`]), and begin what
//! [`poll`](Schedule::poll) gives. A backend has one check under way at most. What the results mean for the backend is
//! the pool's business; here they only decide how soon the next check comes.

use std::collections::HashMap;
use std::time::Duration;

use crate::control::due::{Due, vary};
use crate::limits::{CHECK_HURRY, CHECK_JITTER, CHECK_SPACING};
use crate::time::Time;

/// One backend that is watched, from [`Schedule::admit`] to [`Schedule::dismiss`]. No two are ever equal.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

/// A backend that is to be watched.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// Time from one check to the next.
    pub interval: Duration,
    /// Whether it counts as up.
    pub up: bool,
}

/// What a check has shown.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// When it began.
    pub begun: Time,
    /// Whether it passed; `None`: it says nothing about the backend.
    pub passed: Option<bool>,
    /// Whether it turned the backend up or down.
    pub turned: Option<bool>,
    /// Whether the backend is ejected, now that the check has counted.
    pub ejected: bool,
}

/// All backends that are watched.
#[derive(Debug)]
pub struct Schedule {
    watches: HashMap<Token, Watch>,
    due: Due<Token>,
    admitted: u64,
}

#[derive(Debug)]
struct Watch {
    interval: Duration,
    up: bool,
    /// The last result ...
    passed: Option<bool>,
    /// ... and how many in a row were the same.
    streak: u32,
}

impl Schedule {
    /// Nobody is watched.
    pub fn new() -> Schedule {
        Schedule { watches: HashMap::new(), due: Due::new(), admitted: 0 }
    }

    /// Begins to watch `newcomers`, who are first checked one after the other: see
    /// [`CHECK_SPACING`](crate::limits::CHECK_SPACING). Their tokens come in their order.
    pub fn admit(&mut self, newcomers: &[Newcomer], now: Time) -> Vec<Token> {
        let count = u32::try_from(newcomers.len()).unwrap_or(u32::MAX).max(1);
        let mut tokens = Vec::with_capacity(newcomers.len());
        for (index, newcomer) in (0..).zip(newcomers) {
            self.admitted += 1;
            let token = Token(self.admitted);
            let Newcomer { interval, up } = *newcomer;
            self.watches.insert(token, Watch { interval, up, passed: None, streak: 0 });
            self.due.set(token, now + CHECK_SPACING.min(interval / count) * index);
            tokens.push(token);
        }
        tokens
    }

    /// Ends watching. A check that is under way may end as it likes.
    pub fn dismiss(&mut self, token: Token) {
        self.watches.remove(&token);
        self.due.remove(token);
    }

    /// Whose check begins now; the one that has waited for longest.
    pub fn poll(&mut self, now: Time) -> Option<Token> {
        self.due.pop(now)
    }

    /// When the next check is to begin.
    pub fn next(&self) -> Option<Time> {
        self.due.next()
    }

    /// Takes the result of a check, and plans the next with `random`. Says how many in a row have had this result; 0
    /// where it has none, or nobody watches any more.
    pub fn conclude(&mut self, token: Token, conclusion: Conclusion, now: Time, random: u64) -> u32 {
        let Some(watch) = self.watches.get_mut(&token) else { return 0 };
        let streak = conclusion.passed.map_or(0, |passed| watch.count(passed));
        if let Some(up) = conclusion.turned {
            watch.up = up;
        }
        let changing = conclusion.passed.is_some_and(|passed| passed != watch.up);
        let returning = conclusion.passed == Some(true) && conclusion.ejected;
        let delay = if changing || returning { watch.interval / CHECK_HURRY } else { watch.interval };
        self.due.set(token, now.max(conclusion.begun + vary(delay, CHECK_JITTER, random)));
        streak
    }
}

impl Watch {
    fn count(&mut self, passed: bool) -> u32 {
        self.streak = if self.passed == Some(passed) { self.streak.saturating_add(1) } else { 1 };
        self.passed = Some(passed);
        self.streak
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTERVAL: Duration = Duration::from_secs(2);
    const UP: Newcomer = Newcomer { interval: INTERVAL, up: true };

    /// Half of all: no jitter.
    const MIDDLE: u64 = u64::MAX / 2 + 1;

    fn at(seconds: f64) -> Time {
        Time::ZERO + Duration::from_secs_f64(seconds)
    }

    fn result(begun: Time, passed: bool, turned: Option<bool>) -> Conclusion {
        Conclusion { begun, passed: Some(passed), turned, ejected: false }
    }

    #[test]
    fn it_is_in_a_hurry_while_a_change_is_counted() {
        let mut schedule = Schedule::new();
        let token = schedule.admit(&[UP], at(0.0))[0];
        let mut now = at(0.0);
        // Passed, what it turned, ejected; then the streak and the seconds to the next check.
        for (passed, turned, ejected, streak, seconds) in [
            (Some(true), None, false, 1, 2.0),
            (Some(false), None, false, 1, 0.5),
            (Some(false), None, false, 2, 0.5),
            (None, None, false, 0, 2.0),
            (Some(false), Some(false), false, 3, 2.0),
            (Some(false), None, false, 4, 2.0),
            (Some(true), None, false, 1, 0.5),
            (Some(true), Some(true), false, 2, 2.0),
            (Some(true), None, true, 3, 0.5),
            (Some(true), None, false, 4, 2.0),
        ] {
            assert_eq!(schedule.next(), Some(now));
            assert_eq!(schedule.poll(now), Some(token));
            let conclusion = Conclusion { begun: now, passed, turned, ejected };
            assert_eq!(schedule.conclude(token, conclusion, now, MIDDLE), streak);
            now = now + Duration::from_secs_f64(seconds);
        }
    }

    #[test]
    fn one_that_is_down_when_it_comes_hurries_to_come_up() {
        let mut schedule = Schedule::new();
        let token = schedule.admit(&[Newcomer { up: false, ..UP }], at(0.0))[0];
        schedule.poll(at(0.0)).unwrap();
        schedule.conclude(token, result(at(0.0), true, None), at(0.0), MIDDLE);
        assert_eq!(schedule.next(), Some(at(0.5)));
    }

    #[test]
    fn a_check_under_way_is_not_begun_again_and_a_long_one_delays_the_next() {
        let mut schedule = Schedule::new();
        let token = schedule.admit(&[UP], at(0.0))[0];
        assert_eq!(schedule.poll(at(0.0)), Some(token));
        assert_eq!((schedule.poll(at(100.0)), schedule.next()), (None, None));
        schedule.conclude(token, result(at(0.0), true, None), at(5.0), MIDDLE);
        assert_eq!(schedule.next(), Some(at(5.0)));
    }

    #[test]
    fn who_was_dismissed_is_not_checked_again() {
        let mut schedule = Schedule::new();
        let [first, second] = schedule.admit(&[UP, UP], at(0.0))[..] else { panic!("two tokens") };
        assert_eq!(schedule.poll(at(0.0)), Some(first));
        schedule.dismiss(first);
        schedule.dismiss(second);
        assert_eq!(schedule.conclude(first, result(at(0.0), false, None), at(1.0), 0), 0);
        assert_eq!(schedule.next(), None);
        assert_ne!(schedule.admit(&[UP], at(1.0)), [first]);
    }

    #[test]
    fn few_are_checked_at_once_and_many_are_spread_over_their_interval() {
        let mut schedule = Schedule::new();
        schedule.admit(&[UP; 3], at(0.0));
        let mut begun = 0;
        while schedule.poll(at(0.010)).is_some() {
            begun += 1;
        }
        assert_eq!(begun, 3);
        let mut schedule = Schedule::new();
        schedule.admit(&[UP; 1000], at(0.0));
        for step in 1..=20 {
            let mut begun = 0;
            while schedule.poll(at(0.1 * f64::from(step) - 0.000_001)).is_some() {
                begun += 1;
            }
            assert_eq!(begun, 50, "in step {step}");
        }
    }

    proptest! {
        /// However the results fall, with so many places and checks of such a length: nobody is forgotten, nobody is
        /// checked too soon, and where there are places enough nobody waits longer than the interval and its jitter.
        #[test]
        fn everybody_has_a_turn_and_none_too_often(
            count in 1..40_usize, places in 1..40_usize, length in 0..200_u64, seed in any::<u64>(),
        ) {
            let interval = Duration::from_millis(1000);
            let mut schedule = Schedule::new();
            let tokens = schedule.admit(&vec![Newcomer { interval, up: true }; count], Time::ZERO);
            let mut begins: HashMap<Token, Vec<Time>> = HashMap::new();
            let mut flights: Vec<(Time, Token)> = Vec::new();
            let mut random = seed;
            for now in (0..20_000).map(Time::from_millis) {
                let over = flights.iter().filter(|(begun, _)| now.since(*begun) >= Duration::from_millis(length));
                for (begun, token) in over.copied().collect::<Vec<_>>() {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let conclusion = Conclusion {
                        begun,
                        passed: [None, Some(true), Some(false)][(random >> 40) as usize % 3],
                        turned: [None, None, Some(random & 1 << 50 == 0)][(random >> 45) as usize % 3],
                        ejected: random & 1 << 55 == 0,
                    };
                    schedule.conclude(token, conclusion, now, random);
                    flights.retain(|flight| flight.1 != token);
                }
                while flights.len() < places && let Some(token) = schedule.poll(now) {
                    prop_assert!(!flights.iter().any(|flight| flight.1 == token));
                    begins.entry(token).or_default().push(now);
                    flights.push((now, token));
                }
            }
            let room = places >= count;
            for token in tokens {
                let begins = begins.get(&token).map_or(&[][..], Vec::as_slice);
                prop_assert!(!begins.is_empty());
                for two in begins.windows(2) {
                    let between = two[1].since(two[0]);
                    prop_assert!(between >= interval / CHECK_HURRY * 9 / 10, "{between:?}");
                    prop_assert!(!room || between <= interval * 11 / 10 + Duration::from_millis(2), "{between:?}");
                }
            }
        }
    }
}
