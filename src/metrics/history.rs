//! What came in the last minutes: the differences from minute to minute of a histogram, for percentiles over windows.

use std::time::Duration;

use crate::histogram::{Counts, Packed};

/// Minutes that are kept.
const MINUTES: usize = 5;

/// Since when durations count.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last whole minute and the running one: 60 to 120 s.
    Minute,
    /// The last five whole minutes and the running one: 300 to 360 s.
    FiveMinutes,
    /// Since the backend came, or the process started.
    All,
}

impl Window {
    /// Each of them.
    pub const ALL: [Window; 3] = [Window::Minute, Window::FiveMinutes, Window::All];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Window::Minute => "1m",
            Window::FiveMinutes => "5m",
            Window::All => "all",
        }
    }
}

/// Percentiles of durations, each within 1 %.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Percentiles {
    /// How many durations; where there are none, the others are zero.
    pub count: u64,
    /// Their mean.
    pub mean: Duration,
    /// Half of them are at most so long.
    pub p50: Duration,
    /// 90 % of them.
    pub p90: Duration,
    /// 95 % of them.
    pub p95: Duration,
    /// 99 % of them.
    pub p99: Duration,
    /// 99.9 % of them.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

impl From<&Counts> for Percentiles {
    fn from(counts: &Counts) -> Percentiles {
        let at = |share| counts.quantile(share).unwrap_or_default();
        Percentiles {
            count: counts.total(),
            mean: counts.mean().unwrap_or_default(),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
        }
    }
}

/// The last minutes of one histogram.
#[derive(Debug, Default)]
pub struct History {
    /// What there was when the running minute began.
    before: Packed,
    /// What came in each whole minute, the last first.
    minutes: [Packed; MINUTES],
}

impl History {
    /// A minute is over, and this is all that there was so far.
    pub fn turn(&mut self, so_far: &Counts) {
        let mut came = so_far.clone();
        came.subtract(&self.before);
        self.minutes.rotate_right(1);
        self.minutes[0] = came.pack();
        self.before = so_far.pack();
    }

    /// What came within a window, where this is all that there was so far.
    pub fn within(&self, window: Window, so_far: &Counts) -> Counts {
        let mut counts = so_far.clone();
        let minutes = match window {
            Window::Minute => 1,
            Window::FiveMinutes => MINUTES,
            Window::All => return counts,
        };
        counts.subtract(&self.before);
        self.minutes[..minutes].iter().for_each(|minute| counts.add_packed(minute));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Histogram;

    #[test]
    fn a_window_has_its_whole_minutes_and_the_running_one() {
        let (histogram, mut history) = (Histogram::new(), History::default());
        let so_far = || {
            let mut counts = Counts::new();
            histogram.add_to(&mut counts);
            counts
        };
        // In minute number n come n durations of n seconds.
        for minute in 1..=8_u64 {
            (0..minute).for_each(|_| histogram.record(Duration::from_secs(minute)));
            let count = |window| history.within(window, &so_far()).total();
            let expected = |minutes: u64| (minute.saturating_sub(minutes).max(1)..=minute).sum::<u64>();
            let all: u64 = (1..=minute).sum();
            assert_eq!(Window::ALL.map(count), [expected(1), expected(5), all], "in minute {minute}");
            let shortest = history.within(Window::Minute, &so_far()).quantile(0.0).unwrap().as_secs_f64();
            let before = minute.saturating_sub(1).max(1) as f64;
            assert!((shortest - before).abs() <= 0.01 * before, "{shortest} s in minute {minute}");
            history.turn(&so_far());
        }
        for _ in 0..2 {
            history.turn(&so_far());
        }
        assert_eq!(Window::ALL.map(|window| history.within(window, &so_far()).total()), [0, 6 + 7 + 8, 36]);
    }

    #[test]
    fn percentiles_are_within_a_hundredth() {
        let histogram = Histogram::new();
        (1..=1000).for_each(|millis| histogram.record(Duration::from_millis(millis)));
        let mut counts = Counts::new();
        histogram.add_to(&mut counts);
        let Percentiles { count, mean, p50, p90, p95, p99, p999, max } = Percentiles::from(&counts);
        assert_eq!((count, mean), (1000, Duration::from_micros(500_500)));
        for (got, expected) in [(p50, 500), (p90, 900), (p95, 950), (p99, 990), (p999, 999), (max, 1000)] {
            assert!(got.abs_diff(Duration::from_millis(expected)) <= Duration::from_millis(expected) / 100, "{got:?}");
        }
        assert_eq!(Percentiles::from(&Counts::new()), Percentiles::default());
    }
}
