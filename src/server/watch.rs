//! The watchdog: the manager is told that all is well only as long as every worker turns and the control thread too. A
//! thread that is stuck for longer than the manager waits must not be hidden.
//!
//! Each gets a ping through its ordinary mailbox and answers in its ordinary turn. There is never more than one on its way.
//! Pure: time is an argument.

use std::time::{Duration, Instant};

use crate::limits::WATCHDOG_LOOK;

/// When to ping, and whether all have answered.
#[derive(Debug)]
pub(super) struct Watch {
    /// Between two messages to the manager: half of what it waits for.
    interval: Duration,
    /// The number of the last ping.
    ping: u64,
    next: Instant,
}

/// What is to be done at a look.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing: it is not time, or somebody has yet to answer.
    Wait,
    /// All have answered: tell the manager, and send out a ping of this number.
    Well {
        /// To answer with.
        ping: u64,
    },
}

impl Watch {
    /// For a manager that waits for `timeout`. The first look is due now.
    pub(super) fn new(timeout: Duration, now: Instant) -> Watch {
        Watch { interval: timeout / 2, ping: 0, next: now }
    }

    /// When the next look is due.
    pub(super) const fn next(&self) -> Instant {
        self.next
    }

    /// The number of the last ping.
    pub(super) const fn ping(&self) -> u64 {
        self.ping
    }

    /// Looks, where it is time. `answered` says whether all have answered the ping of this number, or later.
    pub(super) fn look(&mut self, now: Instant, answered: impl FnOnce(u64) -> bool) -> Look {
        if now < self.next {
            return Look::Wait;
        }
        if !answered(self.ping) {
            self.next = now + self.interval / WATCHDOG_LOOK;
            return Look::Wait;
        }
        self.ping += 1;
        self.next = now + self.interval;
        Look::Well { ping: self.ping }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_at_half_its_time_while_all_answer() {
        let start = Instant::now();
        let mut watch = Watch::new(Duration::from_secs(10), start);
        for number in 0..5 {
            let now = start + Duration::from_secs(5) * number;
            assert_eq!(watch.next(), now);
            let look = watch.look(now, |ping| ping == u64::from(number));
            assert_eq!(look, Look::Well { ping: u64::from(number) + 1 });
            assert_eq!(watch.look(now, |_| true), Look::Wait, "once");
        }
    }

    #[test]
    fn one_that_does_not_answer_silences_it_until_it_does() {
        let start = Instant::now();
        let timeout = Duration::from_secs(10);
        let mut watch = Watch::new(timeout, start);
        assert_eq!(watch.look(start, |_| true), Look::Well { ping: 1 });
        while watch.next() < start + 3 * timeout {
            let now = watch.next();
            assert_eq!(watch.look(now, |ping| ping < 1), Look::Wait);
            assert!(watch.next() > now && watch.next() - now < timeout / 4, "it looks again soon");
        }
        assert_eq!(watch.look(watch.next(), |ping| ping == 1), Look::Well { ping: 2 });
    }
}
