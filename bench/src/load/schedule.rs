//! When operations are due at an open pace: independently of how fast the answers come.

use std::collections::VecDeque;

/// Who decides when the next operation begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Closed loop: each client asks again as soon as it is answered.
    Closed,
    /// Open loop: so many operations a second are due at random times, whether or not the proxy keeps up.
    PerSecond(f64),
}

/// Due times as a Poisson process, and the operations that are due but have no idle connection yet.
#[derive(Debug)]
pub struct Schedule {
    next_ns: f64,
    gap_ns: f64,
    random: u64,
    waiting: VecDeque<u64>,
    idle: VecDeque<usize>,
}

impl Schedule {
    /// A schedule that begins at `from_ns`. The same seed gives the same due times.
    pub fn new(per_second: f64, from_ns: u64, seed: u64) -> Schedule {
        let mut schedule = Schedule {
            next_ns: from_ns as f64,
            gap_ns: 1e9 / per_second,
            random: seed | 1,
            waiting: VecDeque::new(),
            idle: VecDeque::new(),
        };
        schedule.step();
        schedule
    }

    /// Moves what has come due by `now_ns` into the queue.
    pub fn advance(&mut self, now_ns: u64) {
        while self.next_ns <= now_ns as f64 {
            self.waiting.push_back(self.next_ns as u64);
            self.step();
        }
    }

    /// A connection has nothing to do. Connections take turns, so that all of them stay in use.
    pub fn rest(&mut self, client: usize) {
        self.idle.push_back(client);
    }

    /// The next due operation together with the connection that shall do it: (client, due time).
    pub fn take(&mut self) -> Option<(usize, u64)> {
        if self.idle.is_empty() {
            return None;
        }
        let due = self.waiting.pop_front()?;
        self.idle.pop_front().map(|client| (client, due))
    }

    /// Operations that wait for a connection and were due before `until_ns`.
    pub fn waiting_before(&self, until_ns: u64) -> u64 {
        self.waiting.iter().take_while(|due| **due < until_ns).count() as u64
    }

    fn step(&mut self) {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        // 53 random bits, as (0, 1]: its logarithm is finite.
        let uniform = ((self.random >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        self.next_ns -= uniform.ln() * self.gap_ns;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_times_come_at_the_rate_asked_for() {
        let mut schedule = Schedule::new(50_000.0, 0, 42);
        schedule.advance(2_000_000_000);
        let due = schedule.waiting_before(u64::MAX);
        // A Poisson count of mean 100,000 has a deviation of 316.
        assert!((98_500..101_500).contains(&due), "{due} operations came due");
    }

    #[test]
    fn an_operation_keeps_its_due_time_while_it_waits() {
        let mut schedule = Schedule::new(1000.0, 5_000, 7);
        schedule.advance(50_000_000);
        assert_eq!(schedule.take(), None, "nobody is idle");
        schedule.rest(3);
        schedule.rest(4);
        let (first_client, first) = schedule.take().expect("one is due and one is idle");
        let (second_client, second) = schedule.take().expect("another one too");
        assert_eq!((first_client, second_client), (3, 4));
        assert!(5_000 < first && first < second && second <= 50_000_000, "{first} {second}");
        assert_eq!(schedule.take(), None, "nobody is idle any more");
    }

    #[test]
    fn gaps_are_exponential_not_even() {
        let mut schedule = Schedule::new(1000.0, 0, 9);
        schedule.advance(20_000_000_000);
        let due: Vec<u64> = schedule.waiting.iter().copied().collect();
        let gaps: Vec<f64> = due.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        let ratio = variance.sqrt() / mean;
        assert!((0.95..1.05).contains(&ratio), "deviation over mean is {ratio}");
    }
}
