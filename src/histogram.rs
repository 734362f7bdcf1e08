//! Counts of durations in log-linear buckets: one thread records, others read, nobody waits.
//!
//! A duration is taken in units of 256 ns. Below 64 of them (16 us) each unit has a bucket of its own; above, each power of
//! two is divided into 64, so that a bucket is at most 1/64 as wide as what it holds, and its middle is within 1/128
//! (0.8 %) of it. The buckets of one power of two are allocated together, with the first duration that falls among them:
//! a histogram of connects between 0.1 and 5 ms takes some 4 kB.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::limits::HISTOGRAM_NANOS_BITS;

/// Nanoseconds of a unit, as a power of two.
const UNIT_BITS: u32 = 8;
/// Buckets of a chunk, as a power of two.
const CHUNK_BITS: u32 = 6;
const CHUNK: usize = 1 << CHUNK_BITS;
/// One for the units below 64, and one for each power of two above.
const CHUNKS: usize = (HISTOGRAM_NANOS_BITS - UNIT_BITS - CHUNK_BITS) as usize + 1;

/// How far the middle of a bucket may be from a duration in it, as a share of that duration; below 16 us it is half a unit.
pub const ERROR_MAX: f64 = 1.0 / (2 * CHUNK) as f64;

/// What one thread has recorded. That only one does is its owner's business: with two, counts would be lost, but nothing
/// else would happen.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<Chunks>>);

#[derive(Debug)]
struct Chunks {
    chunks: [OnceLock<Box<[AtomicU64; CHUNK]>>; CHUNKS],
    /// Microseconds of all durations together: in nanoseconds those of 100,000 sessions at a time overflow after two days.
    sum: AtomicU64,
}

/// What was read from histograms: how many durations fell into each bucket, and their sum.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// By the bucket's number; buckets that are not there are empty.
    buckets: Vec<u64>,
    total: u64,
    sum_micros: u64,
}

/// [`Counts`] in little memory: some 16 bytes for each bucket that is not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// The numbers of the buckets that are not empty, ascending, and their counts.
    filled: Box<[(u16, u64)]>,
    sum_micros: u64,
}

impl Histogram {
    /// Nothing recorded; allocates with the first duration.
    pub const fn new() -> Histogram {
        Histogram(OnceLock::new())
    }

    /// Counts a duration.
    pub fn record(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let inner = self
            .0
            .get_or_init(|| Box::new(Chunks { chunks: [const { OnceLock::new() }; CHUNKS], sum: AtomicU64::new(0) }));
        let (chunk, cell) = place(nanos);
        let cells = inner.chunks[chunk].get_or_init(|| Box::new([const { AtomicU64::new(0) }; CHUNK]));
        // There is one writer, so that nothing is lost between the load and the store.
        cells[cell].store(cells[cell].load(Relaxed) + 1, Relaxed);
        let micros = nanos.saturating_add(500) / 1000;
        inner.sum.store(inner.sum.load(Relaxed).wrapping_add(micros), Relaxed);
    }

    /// Adds what was recorded so far to `counts`. A duration that is being recorded may be in the sum and not yet in a
    /// bucket, or the other way round.
    pub fn add_to(&self, counts: &mut Counts) {
        let Some(inner) = self.0.get() else { return };
        counts.sum_micros = counts.sum_micros.wrapping_add(inner.sum.load(Relaxed));
        for (number, chunk) in inner.chunks.iter().enumerate() {
            let Some(cells) = chunk.get() else { continue };
            let start = number * CHUNK;
            counts.reach(start + CHUNK);
            for (bucket, cell) in counts.buckets[start..].iter_mut().zip(&**cells) {
                let count = cell.load(Relaxed);
                *bucket += count;
                counts.total += count;
            }
        }
    }
}

impl Counts {
    /// Nothing.
    pub const fn new() -> Counts {
        Counts { buckets: Vec::new(), total: 0, sum_micros: 0 }
    }

    /// How many durations.
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The sum of the durations, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_micros as f64 / 1e6
    }

    /// Adds those of `other`.
    pub fn add(&mut self, other: &Counts) {
        self.reach(other.buckets.len());
        for (bucket, count) in self.buckets.iter_mut().zip(&other.buckets) {
            *bucket += count;
        }
        self.total += other.total;
        self.sum_micros = self.sum_micros.wrapping_add(other.sum_micros);
    }

    /// The same in little memory, to be kept.
    pub fn pack(&self) -> Packed {
        let filled = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        Packed { filled: filled.map(|(index, count)| (index as u16, *count)).collect(), sum_micros: self.sum_micros }
    }

    /// Adds those of `packed`.
    pub fn add_packed(&mut self, packed: &Packed) {
        self.reach(packed.filled.last().map_or(0, |(index, _)| usize::from(*index) + 1));
        for (index, count) in &packed.filled {
            self.buckets[usize::from(*index)] += count;
            self.total += count;
        }
        self.sum_micros = self.sum_micros.wrapping_add(packed.sum_micros);
    }

    /// Takes away those of `earlier`, which these include.
    pub fn subtract(&mut self, earlier: &Packed) {
        for (index, count) in &earlier.filled {
            self.buckets[usize::from(*index)] -= count;
            self.total -= count;
        }
        self.sum_micros = self.sum_micros.wrapping_sub(earlier.sum_micros);
    }

    /// The duration that this share of all durations does not exceed, within [`ERROR_MAX`]; `None` where there are none.
    /// At 0 it is the shortest, at 1 the longest.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut counted = 0;
        let found = self.middles().find(|(_, count)| {
            counted += count;
            counted >= wanted
        });
        found.map(|(nanos, _)| Duration::from_nanos(nanos))
    }

    /// The mean; `None` where there are none.
    pub fn mean(&self) -> Option<Duration> {
        self.sum_micros.checked_div(self.total).map(Duration::from_micros)
    }

    /// Each bucket that is not empty: the duration in its middle, in nanoseconds, and its count; the shortest first.
    pub fn middles(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let filled = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(index, count)| (middle(index), *count))
    }

    /// How many durations are at most as long as each of `bounds`, which are in seconds and ascending. A duration within
    /// [`ERROR_MAX`] of a bound may be counted on its wrong side.
    pub fn cumulative<const N: usize>(&self, bounds: &[f64; N]) -> [u64; N] {
        let mut counts = [0; N];
        let mut at = 0;
        for (nanos, count) in self.middles() {
            let seconds = nanos as f64 / 1e9;
            while at < N && seconds > bounds[at] {
                at += 1;
            }
            let Some(bound) = counts.get_mut(at) else { break };
            *bound += count;
        }
        let mut sum = 0;
        counts.map(|count| {
            sum += count;
            sum
        })
    }

    fn reach(&mut self, len: usize) {
        if self.buckets.len() < len {
            self.buckets.resize(len, 0);
        }
    }
}

/// The chunk of a duration, and its cell there.
const fn place(nanos: u64) -> (usize, usize) {
    let units = nanos >> UNIT_BITS;
    let max = (1 << (HISTOGRAM_NANOS_BITS - UNIT_BITS)) - 1;
    let units = if units > max { max } else { units };
    if units < CHUNK as u64 {
        return (0, units as usize);
    }
    let power = 63 - units.leading_zeros();
    let cell = (units >> (power - CHUNK_BITS)) as usize & (CHUNK - 1);
    ((power - CHUNK_BITS + 1) as usize, cell)
}

/// The middle of a bucket, in nanoseconds.
const fn middle(index: usize) -> u64 {
    let (chunk, cell) = (index / CHUNK, (index % CHUNK) as u64);
    if chunk == 0 {
        return (cell << UNIT_BITS) + (1 << UNIT_BITS) / 2;
    }
    let width_bits = chunk as u32 - 1 + UNIT_BITS;
    ((CHUNK as u64 + cell) << width_bits) + (1 << width_bits) / 2
}

const _: () = assert!(CHUNKS * CHUNK <= u16::MAX as usize);
const _: () = assert!(HISTOGRAM_NANOS_BITS > UNIT_BITS + CHUNK_BITS && HISTOGRAM_NANOS_BITS < 64);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Half a unit, below which nothing is told apart.
    const HALF_UNIT: f64 = 128.0;

    fn counted(nanos: &[u64]) -> Counts {
        let histogram = Histogram::new();
        nanos.iter().for_each(|nanos| histogram.record(Duration::from_nanos(*nanos)));
        let mut counts = Counts::new();
        histogram.add_to(&mut counts);
        counts
    }

    /// Durations of every magnitude.
    fn nanos() -> impl Strategy<Value = u64> {
        (0..HISTOGRAM_NANOS_BITS, any::<u64>()).prop_map(|(bits, random)| random & ((2 << bits) - 1) & ((1 << 52) - 1))
    }

    proptest! {
        #[test]
        fn the_middle_of_its_bucket_is_near_a_duration(nanos in nanos()) {
            let (middle, count) = counted(&[nanos]).middles().next().unwrap();
            prop_assert_eq!(count, 1);
            prop_assert!(middle.abs_diff(nanos) as f64 <= (nanos as f64 * ERROR_MAX).max(HALF_UNIT), "{middle}");
        }

        #[test]
        fn quantiles_are_those_of_an_hdr_histogram_of_the_exact_values(
            nanos in proptest::collection::vec(nanos(), 1..300),
            quantile in 0.0..=1.0_f64,
        ) {
            let mut exact = hdrhistogram::Histogram::<u64>::new(5).unwrap();
            nanos.iter().for_each(|nanos| exact.record(*nanos).unwrap());
            let expected = exact.value_at_quantile(quantile) as f64;
            let got = counted(&nanos).quantile(quantile).unwrap().as_nanos() as f64;
            prop_assert!((got - expected).abs() <= (expected * 0.01).max(HALF_UNIT), "{got}, not {expected}");
        }

        #[test]
        fn what_was_counted_adds_up(
            before in proptest::collection::vec(nanos(), 0..50),
            after in proptest::collection::vec(nanos(), 0..50),
        ) {
            let (one, two) = (counted(&before), counted(&after));
            let mut both = one.clone();
            both.add(&two);
            prop_assert_eq!(both.total() as usize, before.len() + after.len());
            let mut difference = both.clone();
            difference.subtract(&one.pack());
            prop_assert_eq!(difference.pack(), two.pack());
            prop_assert_eq!(difference.total(), two.total());
            difference.add_packed(&one.pack());
            prop_assert_eq!(difference.pack(), both.pack());
            let sum: f64 = before.iter().chain(&after).map(|nanos| *nanos as f64 / 1e9).sum();
            prop_assert!((both.sum_seconds() - sum).abs() <= 0.51e-6 * both.total() as f64 + sum * 1e-9);
        }

        #[test]
        fn bounds_divide_the_durations(nanos in proptest::collection::vec(nanos(), 0..200)) {
            const BOUNDS: [f64; 4] = [1e-5, 0.001, 1.0, 3600.0];
            let counted = counted(&nanos).cumulative(&BOUNDS);
            for (bound, count) in BOUNDS.iter().zip(counted) {
                let within = |factor: f64| nanos.iter().filter(|nanos| **nanos as f64 / 1e9 <= bound * factor).count() as u64;
                prop_assert!(within(0.98) <= count && count <= within(1.02), "{bound}: {count}");
            }
        }
    }

    #[test]
    fn the_longest_durations_count_as_the_longest_told_apart() {
        let counts = counted(&[u64::MAX, 1 << HISTOGRAM_NANOS_BITS, (1 << HISTOGRAM_NANOS_BITS) - 1]);
        assert_eq!(counts.middles().map(|(_, count)| count).collect::<Vec<_>>(), [3]);
        assert_eq!(counts.cumulative(&[1e6, 1e7]), [0, 3]);
    }

    #[test]
    fn where_nothing_was_counted_there_is_no_quantile() {
        assert_eq!((Counts::new().quantile(0.5), Counts::new().mean()), (None, None));
        let counts = counted(&[1_000_000, 3_000_000]);
        assert_eq!(counts.mean(), Some(Duration::from_millis(2)));
    }

    #[test]
    fn readers_see_a_growing_number_while_one_thread_records() {
        const RECORDED: u64 = 20_000;
        let histogram = Histogram::new();
        std::thread::scope(|scope| {
            scope.spawn(|| (0..RECORDED).for_each(|nanos| histogram.record(Duration::from_nanos(nanos * 1000))));
            let mut before = Counts::new();
            while before.total() < RECORDED {
                let mut now = Counts::new();
                histogram.add_to(&mut now);
                assert!(now.total() >= before.total());
                before = now;
                std::thread::yield_now();
            }
        });
    }
}
