//! The figures a round gives, by name, with how they are shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::load::Outcome;
use crate::procfs::Memory;

/// One kind of figure. The order is the one of a table's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Operations asked for, a second (open loop).
    OfferedPerSecond,
    /// Operations a second.
    OperationsPerSecond,
    /// Payload received by its receiver, 10^9 bytes a second, both ways together.
    GigabytesPerSecond,
    /// The proxy's CPU time for one operation, microseconds.
    CpuUsPerOperation,
    /// The proxy's CPU time for 10^9 bytes, seconds.
    CpuSecondsPerGigabyte,
    /// Median latency, microseconds; so are the next ones.
    P50Us,
    /// 90 % are faster.
    P90Us,
    /// 99 % are faster.
    P99Us,
    /// 99.9 % are faster.
    P999Us,
    /// The slowest.
    MaxUs,
    /// The proxy's CPU time in percent of the time that passed.
    ProxyBusyPercent,
    /// The generator's.
    GeneratorBusyPercent,
    /// User memory more than without connections, KiB a connection.
    UserKibPerConnection,
    /// The kernel's objects on both sides, proxy's, clients' and backends' sockets together, KiB a connection.
    KernelKibPerConnection,
    /// Connections that were held: as many as were asked for, or as descriptors allow.
    Connections,
    /// What the busiest worker holds, over what each would hold if all held the same.
    BusiestOverMean,
    /// User memory before the first connection, KiB.
    UserKibBefore,
    /// User memory with all connections, KiB.
    UserKibPeak,
    /// User memory when all connections have gone, KiB.
    UserKibAfter,
    /// The same in percent of what it was before the first connection.
    UserAfterPercent,
    /// User memory that is still held when all connections have gone, KiB more than before.
    UserKibLeft,
    /// Operations that failed.
    Failures,
    /// Operations that had not ended seconds after the window.
    Unfinished,
    /// Connections the proxy held to the backends seconds after its clients had gone.
    Leftover,
}

impl Figure {
    /// The heading of its column.
    pub fn heading(self) -> &'static str {
        match self {
            Figure::OfferedPerSecond => "offered/s",
            Figure::OperationsPerSecond => "op/s",
            Figure::GigabytesPerSecond => "GB/s",
            Figure::CpuUsPerOperation => "CPU µs/op",
            Figure::CpuSecondsPerGigabyte => "CPU s/GB",
            Figure::P50Us => "p50 µs",
            Figure::P90Us => "p90",
            Figure::P99Us => "p99",
            Figure::P999Us => "p99.9",
            Figure::MaxUs => "max",
            Figure::ProxyBusyPercent => "proxy %",
            Figure::GeneratorBusyPercent => "load %",
            Figure::UserKibPerConnection => "user KiB/conn",
            Figure::KernelKibPerConnection => "kernel KiB/conn",
            Figure::Connections => "held",
            Figure::BusiestOverMean => "busiest/mean",
            Figure::UserKibBefore => "before KiB",
            Figure::UserKibPeak => "peak KiB",
            Figure::UserKibAfter => "after KiB",
            Figure::UserAfterPercent => "after/before %",
            Figure::UserKibLeft => "left KiB",
            Figure::Failures => "failed",
            Figure::Unfinished => "unfinished",
            Figure::Leftover => "leftover",
        }
    }

    /// Whether the spread of the rounds is shown beside it.
    pub fn shows_spread(self) -> bool {
        matches!(
            self,
            Figure::OperationsPerSecond
                | Figure::GigabytesPerSecond
                | Figure::CpuUsPerOperation
                | Figure::CpuSecondsPerGigabyte
                | Figure::UserKibPerConnection
        )
    }

    /// Whether peers are compared by it: cost, where lower is better.
    pub fn is_headline(self) -> bool {
        matches!(self, Figure::CpuUsPerOperation | Figure::CpuSecondsPerGigabyte | Figure::UserKibPerConnection)
    }

    /// Whether its column is left out as long as every value is zero.
    pub fn is_trouble(self) -> bool {
        matches!(self, Figure::Failures | Figure::Unfinished | Figure::Leftover)
    }
}

/// The figures of a round of requests and answers. `proxied`: there is a proxy whose CPU counts.
pub fn exchange_sample(outcome: &Outcome, proxied: bool) -> BTreeMap<Figure, f64> {
    let operations = outcome.operations as f64;
    let seconds = outcome.elapsed.as_secs_f64();
    let us = |quantile: f64| outcome.latency.value_at_quantile(quantile) as f64 / 1000.0;
    let mut sample = common_sample(outcome, proxied);
    sample.insert(Figure::OperationsPerSecond, operations / seconds);
    if proxied && operations > 0.0 {
        sample.insert(Figure::CpuUsPerOperation, outcome.proxy_cpu.as_secs_f64() * 1e6 / operations);
    }
    sample.insert(Figure::P50Us, us(0.5));
    sample.insert(Figure::P90Us, us(0.9));
    sample.insert(Figure::P99Us, us(0.99));
    sample.insert(Figure::P999Us, us(0.999));
    sample.insert(Figure::MaxUs, outcome.latency.max() as f64 / 1000.0);
    sample
}

/// The figures of a round of bulk.
pub fn bulk_sample(outcome: &Outcome, proxied: bool) -> BTreeMap<Figure, f64> {
    let gigabytes = outcome.bytes as f64 / 1e9;
    let mut sample = common_sample(outcome, proxied);
    sample.insert(Figure::GigabytesPerSecond, gigabytes / outcome.elapsed.as_secs_f64());
    if proxied && gigabytes > 0.0 {
        sample.insert(Figure::CpuSecondsPerGigabyte, outcome.proxy_cpu.as_secs_f64() / gigabytes);
    }
    sample
}

/// What was in use at one moment of an idle round.
#[derive(Clone, Copy, Debug, Default)]
pub struct InUse {
    /// By the proxy.
    pub user: Memory,
    /// By the kernel, for the whole machine.
    pub slab_kib: u64,
}

impl InUse {
    /// User memory, KiB.
    pub fn user_kib(self) -> f64 {
        (self.user.anonymous_kib + self.user.shared_kib) as f64
    }
}

/// The figures of a round of idle connections.
pub fn idle_sample(
    connections: usize,
    before: InUse,
    held: InUse,
    after: InUse,
    proxied: bool,
) -> BTreeMap<Figure, f64> {
    let each = connections as f64;
    let mut sample = BTreeMap::new();
    sample.insert(Figure::KernelKibPerConnection, (held.slab_kib as f64 - before.slab_kib as f64) / each);
    if proxied {
        sample.insert(Figure::UserKibPerConnection, (held.user_kib() - before.user_kib()) / each);
        sample.insert(Figure::UserKibBefore, before.user_kib());
        sample.insert(Figure::UserKibLeft, after.user_kib() - before.user_kib());
    }
    sample
}

/// The figures of a round of a spike: user memory of the proxy, KiB, at three moments.
pub fn spike_sample(connections: usize, before: f64, peak: f64, after: f64, proxied: bool) -> BTreeMap<Figure, f64> {
    let mut sample = BTreeMap::from([(Figure::Connections, connections as f64)]);
    if proxied && before > 0.0 {
        sample.insert(Figure::UserKibBefore, before);
        sample.insert(Figure::UserKibPeak, peak);
        sample.insert(Figure::UserKibAfter, after);
        sample.insert(Figure::UserAfterPercent, 100.0 * after / before);
    }
    sample
}

/// The figures of a round of held connections, of which each worker has so many; without workers nothing can be told.
pub fn balance_sample(connections: usize, by_worker: &[u64]) -> BTreeMap<Figure, f64> {
    let mut sample = BTreeMap::from([(Figure::Connections, connections as f64)]);
    let total: u64 = by_worker.iter().sum();
    if let Some(most) = by_worker.iter().max().filter(|_| total > 0) {
        sample.insert(Figure::BusiestOverMean, *most as f64 * by_worker.len() as f64 / total as f64);
    }
    sample
}

fn common_sample(outcome: &Outcome, proxied: bool) -> BTreeMap<Figure, f64> {
    let percent = |part: std::time::Duration| 100.0 * part.as_secs_f64() / outcome.elapsed.as_secs_f64();
    let mut sample = BTreeMap::new();
    if proxied {
        sample.insert(Figure::ProxyBusyPercent, percent(outcome.proxy_cpu));
    }
    sample.insert(Figure::GeneratorBusyPercent, percent(outcome.generator_cpu));
    sample.insert(Figure::Failures, outcome.failures as f64);
    sample.insert(Figure::Unfinished, outcome.unfinished as f64);
    sample.insert(Figure::Leftover, outcome.leftover as f64);
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_worker_is_measured_by_the_mean() {
        let busiest = |by_worker: &[u64]| balance_sample(100, by_worker).get(&Figure::BusiestOverMean).copied();
        assert_eq!(busiest(&[60, 40]), Some(1.2));
        assert_eq!(busiest(&[100, 0]), Some(2.0));
        assert_eq!(busiest(&[25, 25, 25, 25]), Some(1.0));
        assert_eq!((busiest(&[]), busiest(&[0, 0])), (None, None));
    }

    #[test]
    fn what_a_spike_leaves_is_measured_by_what_was_before() {
        let sample = spike_sample(9000, 800.0, 20_000.0, 1000.0, true);
        assert_eq!(sample[&Figure::UserAfterPercent], 125.0);
        assert_eq!(sample[&Figure::Connections], 9000.0);
        assert_eq!(spike_sample(9000, 0.0, 0.0, 0.0, false).len(), 1, "without a proxy there is no memory of one");
    }
}
