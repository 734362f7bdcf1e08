//! When a thread that has failed is started again, and when that is useless. Pure: time is an argument.
//!
//! A thread that has run well for a while is started again at once; one that fails soon after is given a pause, which
//! grows. Where failures come too often, over all threads, the process had better be another.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::limits::{FAILURES_MAX, FAILURES_WINDOW, RESTART_PAUSE_MAX, RESTART_PAUSE_MIN, RESTART_QUIET};

/// The failures of a fixed number of threads.
#[derive(Debug)]
pub(super) struct Restarts {
    /// When threads failed, whichever, as far back as it matters.
    recent: VecDeque<Instant>,
    threads: Vec<Thread>,
}

#[derive(Clone, Debug, Default)]
struct Thread {
    /// Failures, each within [`RESTART_QUIET`] of the one before it.
    in_a_row: u32,
    failed_at: Option<Instant>,
    due: Option<Instant>,
}

impl Restarts {
    /// Of `threads` threads, none of which has failed.
    pub(super) fn new(threads: usize) -> Restarts {
        Restarts { recent: VecDeque::new(), threads: vec![Thread::default(); threads] }
    }

    /// A thread has failed. After which pause it is [due](Restarts::poll) again; `None`: it is not, there were too many.
    pub(super) fn failed(&mut self, thread: usize, now: Instant) -> Option<Duration> {
        while self.recent.front().is_some_and(|at| now.duration_since(*at) > FAILURES_WINDOW) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        if self.recent.len() >= FAILURES_MAX {
            return None;
        }
        let thread = &mut self.threads[thread];
        let soon = thread.failed_at.is_some_and(|before| now.duration_since(before) < RESTART_QUIET);
        thread.in_a_row = if soon { thread.in_a_row + 1 } else { 0 };
        let pause = match thread.in_a_row {
            0 => Duration::ZERO,
            again => RESTART_PAUSE_MIN.saturating_mul(1 << (again - 1).min(16)).min(RESTART_PAUSE_MAX),
        };
        (thread.failed_at, thread.due) = (Some(now), Some(now + pause));
        Some(pause)
    }

    /// When a thread is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.threads.iter().filter_map(|thread| thread.due).min()
    }

    /// Takes a thread that is to be started again by now.
    pub(super) fn poll(&mut self, now: Instant) -> Option<usize> {
        let due = self.threads.iter().position(|thread| thread.due.is_some_and(|due| due <= now))?;
        self.threads[due].due = None;
        Some(due)
    }

    /// Takes a thread that waits, whether its pause is over or not.
    pub(super) fn hurry(&mut self) -> Option<usize> {
        let waiting = self.threads.iter().position(|thread| thread.due.is_some())?;
        self.threads[waiting].due = None;
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_the_next_ones_after_longer_and_longer_pauses() {
        let mut restarts = Restarts::new(2);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        while let Some(pause) = restarts.failed(1, now) {
            assert_eq!(restarts.next(), Some(now + pause));
            if !pause.is_zero() {
                assert_eq!(restarts.poll(now), None, "not before its time");
            }
            now += pause;
            assert_eq!(restarts.poll(now), Some(1));
            assert_eq!((restarts.poll(now), restarts.next()), (None, None), "once");
            pauses.push(pause);
        }
        assert_eq!(pauses.len(), FAILURES_MAX - 1);
        assert_eq!(pauses[..3], [Duration::ZERO, RESTART_PAUSE_MIN, RESTART_PAUSE_MIN * 2]);
        assert!(pauses.is_sorted() && pauses.last() == Some(&RESTART_PAUSE_MAX));
    }

    #[test]
    fn a_thread_that_ran_well_for_a_while_is_forgiven() {
        let mut restarts = Restarts::new(1);
        let start = Instant::now();
        for number in 0..100 {
            let now = start + RESTART_QUIET * number;
            assert_eq!(restarts.failed(0, now), Some(Duration::ZERO));
            assert_eq!(restarts.poll(now), Some(0));
        }
    }

    #[test]
    fn failures_of_all_threads_count_together() {
        let mut restarts = Restarts::new(FAILURES_MAX);
        let now = Instant::now();
        for thread in 0..FAILURES_MAX - 1 {
            assert_eq!(restarts.failed(thread, now), Some(Duration::ZERO), "none of them has failed before");
        }
        assert_eq!(restarts.failed(FAILURES_MAX - 1, now), None);
        let mut hurried = std::iter::from_fn(|| restarts.hurry()).collect::<Vec<_>>();
        hurried.sort_unstable();
        assert_eq!(hurried, (0..FAILURES_MAX - 1).collect::<Vec<_>>());
    }
}
