//! Medians and spreads of a handful of rounds.

use serde::{Deserialize, Serialize};

/// The middle and the ends of some rounds' figures.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one; of an even number the mean of the middle two.
    pub median: f64,
    /// The smallest.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Spread {
    /// Nothing, if there are no values.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Spread { median, low, high })
    }

    /// One value alone.
    pub fn single(value: f64) -> Spread {
        Spread { median: value, low: value, high: value }
    }

    /// The same in another unit.
    pub fn times(self, factor: f64) -> Spread {
        Spread { median: self.median * factor, low: self.low * factor, high: self.high * factor }
    }

    /// Half the distance between the ends, in percent of the median; 0 where the median is.
    pub fn half_width_percent(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { 50.0 * (self.high - self.low) / self.median.abs() }
    }
}

/// `ours` over `theirs`, round by round: what slowed the machine in one round slowed both.
/// Nothing, if a round is missing on either side or a denominator is 0.
pub fn paired_ratio(ours: &[f64], theirs: &[f64]) -> Option<Spread> {
    if ours.len() != theirs.len() || theirs.contains(&0.0) {
        return None;
    }
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(our, their)| our / their).collect();
    Spread::of(&ratios)
}

/// The order in which `count` peers take their turn in a round: each round another one begins, so that no peer
/// always follows the same one's heat.
pub fn rotation(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| (place + round) % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0]), Some(Spread::single(3.0)));
        assert_eq!(Spread::of(&[9.0, 1.0, 2.0]), Some(Spread { median: 2.0, low: 1.0, high: 9.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 9.0]), Some(Spread { median: 3.0, low: 1.0, high: 9.0 }));
    }

    #[test]
    fn the_spread_is_relative() {
        assert_eq!(Spread { median: 10.0, low: 9.0, high: 11.0 }.half_width_percent(), 10.0);
        assert_eq!(Spread::single(0.0).half_width_percent(), 0.0);
        assert_eq!(Spread { median: 1.0, low: 0.5, high: 2.0 }.times(4.0), Spread { median: 4.0, low: 2.0, high: 8.0 });
    }

    #[test]
    fn ratios_pair_the_rounds() {
        // Both slow down in the second round; the ratio does not move.
        assert_eq!(paired_ratio(&[1.0, 10.0], &[2.0, 20.0]), Some(Spread::single(0.5)));
        assert_eq!(paired_ratio(&[1.0], &[2.0, 2.0]), None);
        assert_eq!(paired_ratio(&[1.0], &[0.0]), None);
    }

    #[test]
    fn every_peer_begins_as_often_as_the_others() {
        let orders: Vec<Vec<usize>> = (0..3).map(|round| rotation(3, round).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
        assert_eq!(rotation(3, 5).collect::<Vec<_>>(), [2, 0, 1]);
    }
}
