//! Monotonic time as the data plane passes it around: read once a turn, then an argument.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the monotonic clock, in nanoseconds since an arbitrary start.
///
/// Pure rooms receive it and never read a clock themselves, so every path that depends on time is
/// an ordinary unit test.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Time = Time(0);
    /// Later than every deadline: "never".
    pub const NEVER: Time = Time(u64::MAX);

    /// A time from nanoseconds.
    pub const fn from_nanos(nanos: u64) -> Time {
        Time(nanos)
    }

    /// A time from milliseconds.
    pub const fn from_millis(millis: u64) -> Time {
        Time(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the start.
    pub const fn nanos(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the start, rounded down.
    pub const fn millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    /// Saturates at [`Time::NEVER`].
    fn add(self, rhs: Duration) -> Time {
        let nanos = u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX);
        Time(self.0.saturating_add(nanos))
    }
}

impl Sub<Time> for Time {
    type Output = Duration;

    /// As [`Time::since`].
    fn sub(self, rhs: Time) -> Duration {
        self.since(rhs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adding_saturates_at_never() {
        assert_eq!(Time::from_nanos(u64::MAX - 1) + Duration::from_secs(1), Time::NEVER);
        assert_eq!(Time::from_millis(3) + Duration::from_millis(4), Time::from_millis(7));
    }

    #[test]
    fn since_a_later_time_is_zero() {
        assert_eq!(Time::from_millis(1).since(Time::from_millis(2)), Duration::ZERO);
        assert_eq!(Time::from_millis(5) - Time::from_millis(2), Duration::from_millis(3));
    }
}
