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
    /// User memory before the first connection, KiB.
    UserKibBefore,
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
            Figure::UserKibBefore => "before KiB",
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

/// The figures of a round of idle connections.
pub fn idle_sample(
    connections: usize,
    before: InUse,
    held: InUse,
    after: InUse,
    proxied: bool,
) -> BTreeMap<Figure, f64> {
    let user = |moment: InUse| (moment.user.anonymous_kib + moment.user.shared_kib) as f64;
    let each = connections as f64;
    let mut sample = BTreeMap::new();
    sample.insert(Figure::KernelKibPerConnection, (held.slab_kib as f64 - before.slab_kib as f64) / each);
    if proxied {
        sample.insert(Figure::UserKibPerConnection, (user(held) - user(before)) / each);
        sample.insert(Figure::UserKibBefore, user(before));
        sample.insert(Figure::UserKibLeft, user(after) - user(before));
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
