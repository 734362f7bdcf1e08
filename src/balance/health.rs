//! Up or down by active checks: counting them. Who makes the checks is not this room's business.

use super::settings::HealthSettings;
use crate::time::Time;

/// What the checks of one backend have shown since it came to its address.
#[derive(Clone, Debug)]
pub(super) struct Health {
    up: bool,
    /// No check has ended yet: the first alone decides.
    unchecked: bool,
    /// Checks in a row that contradict `up`.
    against: u32,
    /// Checks begun before do not count.
    since: Time,
    /// The ejection that `passes` counts for.
    ejected_at: Option<Time>,
    /// Passes in a row that were begun after that ejection.
    passes: u32,
}

impl Health {
    /// Of a backend that came at `since`: up, until its first check.
    pub(super) fn new(since: Time) -> Health {
        Health { up: true, unchecked: true, against: 0, since, ejected_at: None, passes: 0 }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    pub(super) fn counts_from(&self) -> Time {
        self.since
    }

    /// Counts a check. Says whether it turned the backend up or down.
    pub(super) fn count(&mut self, passed: bool, rules: HealthSettings) -> Option<bool> {
        let needed = match (self.unchecked, passed) {
            (true, _) => 1,
            (false, true) => rules.rise,
            (false, false) => rules.fall,
        };
        self.unchecked = false;
        if passed == self.up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.up = passed;
        Some(passed)
    }

    /// Counts a check towards the end of an ejection. Says whether that is due.
    pub(super) fn count_since_ejection(
        &mut self,
        passed: bool,
        begun: Time,
        ejected_at: Option<Time>,
        rules: HealthSettings,
    ) -> bool {
        if self.ejected_at != ejected_at {
            self.ejected_at = ejected_at;
            self.passes = 0;
        }
        let after = ejected_at.is_some_and(|at| begun > at);
        match (after, passed) {
            (true, true) => self.passes += 1,
            (true, false) => self.passes = 0,
            (false, _) => return false,
        }
        self.passes >= rules.rise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: HealthSettings = HealthSettings { rise: 2, fall: 3 };

    #[test]
    fn the_first_check_alone_decides_and_then_rise_and_fall() {
        let mut health = Health::new(Time::ZERO);
        let checks = [
            (false, Some(false)),
            (true, None),
            (false, None),
            (true, None),
            (true, Some(true)),
            (false, None),
            (false, None),
            (true, None),
            (false, None),
            (false, None),
            (false, Some(false)),
        ];
        for (number, (passed, turned)) in checks.into_iter().enumerate() {
            assert_eq!(health.count(passed, RULES), turned, "check {number}");
        }
    }

    #[test]
    fn only_passes_in_a_row_begun_after_the_ejection_end_it() {
        let mut health = Health::new(Time::ZERO);
        let at = Some(Time::from_millis(10));
        let mut check = |passed, begun| health.count_since_ejection(passed, Time::from_millis(begun), at, RULES);
        assert!(!check(true, 9));
        assert!(!check(true, 10));
        assert!(!check(true, 11));
        assert!(!check(false, 12));
        assert!(!check(true, 13));
        assert!(check(true, 14));
        let later = Some(Time::from_millis(20));
        assert!(!health.count_since_ejection(true, Time::from_millis(21), later, RULES));
    }
}
