//! When a backend has failed too often: the cold half of passive ejection.

use std::collections::VecDeque;
use std::time::Duration;

use super::settings::Share;
use crate::limits::{FAILS_MAX, SHARE_PARTS};
use crate::time::Time;

/// The failures of one backend, and how many connects it has finished meanwhile.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The times of the newest failures, oldest first.
    failures: VecDeque<Time>,
    /// Numbers of finished connects, one sample for each part of the window in which there was one.
    samples: VecDeque<Sample>,
}

/// How many connects had ended how, just before the connect that ended at `at`.
#[derive(Copy, Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Time,
    pub(super) connected: u64,
    pub(super) failed: u64,
}

/// When a backend is to be ejected.
#[derive(Copy, Clone, Debug)]
pub(super) struct Threshold {
    pub(super) max_fails: u32,
    pub(super) fail_timeout: Duration,
    pub(super) fail_share: Share,
}

impl Threshold {
    /// After how long the next sample is wanted.
    pub(super) fn part(&self) -> Duration {
        self.fail_timeout / SHARE_PARTS
    }
}

impl Window {
    /// Notes a failure. Workers read their clocks a moment apart, so it may be older than the newest.
    pub(super) fn fail(&mut self, at: Time, max_fails: u32) {
        let place = self.failures.iter().rposition(|&failure| failure <= at).map_or(0, |before| before + 1);
        self.failures.insert(place, at);
        while self.failures.len() > max_fails.min(FAILS_MAX) as usize {
            self.failures.pop_front();
        }
    }

    /// Notes how many connects had finished before the one that just did.
    pub(super) fn sample(&mut self, sample: Sample, threshold: &Threshold) {
        while self.samples.front().is_some_and(|first| sample.at.since(first.at) >= threshold.fail_timeout) {
            self.samples.pop_front();
        }
        if self.samples.back().is_none_or(|last| sample.at.since(last.at) >= threshold.part()) {
            self.samples.push_back(sample);
        }
    }

    /// Whether the backend is to be ejected, if `now` is what it has finished in all. Where there is a `fail_share`, the
    /// last connect has been offered as a sample, so that none of the samples is too old.
    pub(super) fn is_over(&self, threshold: &Threshold, now: Sample) -> bool {
        // Only the newest `max_fails` are kept: the window is full if the oldest of them is young enough.
        let (Some(oldest), Some(newest)) = (self.failures.front(), self.failures.back()) else { return false };
        let full = self.failures.len() >= threshold.max_fails.min(FAILS_MAX) as usize;
        full && newest.since(*oldest) < threshold.fail_timeout && self.share(now) >= threshold.fail_share
    }

    fn share(&self, now: Sample) -> Share {
        let Some(first) = self.samples.front() else { return Share::default() };
        let failed = (now.failed - first.failed) as f64;
        let finished = failed + (now.connected - first.connected) as f64;
        Share::new(failed / finished.max(1.0)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_SECONDS: Duration = Duration::from_secs(10);

    fn threshold(share: f64) -> Threshold {
        let fail_share = Share::new(share).expect("a share");
        Threshold { max_fails: 3, fail_timeout: TEN_SECONDS, fail_share }
    }

    fn is_over_after(failures: &[u64]) -> bool {
        let mut window = Window::default();
        for &seconds in failures {
            window.fail(Time::from_millis(seconds * 1000), 3);
        }
        window.is_over(&threshold(0.0), Sample { at: Time::NEVER, connected: 0, failed: 0 })
    }

    #[test]
    fn the_window_slides() {
        assert!(is_over_after(&[0, 5, 9]));
        assert!(!is_over_after(&[0, 9, 18]), "a quiet period is not what is asked for");
        assert!(is_over_after(&[0, 9, 18, 18]));
        assert!(!is_over_after(&[0, 9]));
        assert!(!is_over_after(&[0, 5, 10]), "the first has just left the window");
    }

    #[test]
    fn a_worker_whose_clock_is_behind_does_not_disorder_the_window() {
        assert!(is_over_after(&[1, 12, 11, 12]));
        assert!(!is_over_after(&[12, 1, 12]));
    }

    #[test]
    fn the_share_is_that_of_the_window() {
        let ejected = |connects: u64, share: f64| {
            let (mut window, threshold) = (Window::default(), threshold(share));
            let mut sum = Sample { at: Time::ZERO, connected: 0, failed: 0 };
            // A thousand successes that have left the window by the time of the failures.
            for step in 0..1_000 {
                sum.at = Time::from_millis(step);
                window.sample(sum, &threshold);
                sum.connected += 1;
            }
            for step in 0..connects + 3 {
                sum.at = Time::from_millis(20_000 + step * 10);
                window.sample(sum, &threshold);
                if step < connects {
                    sum.connected += 1;
                } else {
                    sum.failed += 1;
                    window.fail(sum.at, threshold.max_fails);
                }
            }
            window.is_over(&threshold, sum)
        };
        assert!(ejected(0, 1.0));
        assert!(ejected(3, 0.5), "3 of 6");
        assert!(!ejected(4, 0.5), "3 of 7");
        assert!(ejected(100, 0.0));
    }
}
