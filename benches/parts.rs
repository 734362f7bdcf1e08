//! Micro benchmarks of what every connection and every byte goes through, without I/O: `cargo bench`.
//!
//! They find out which part has become dearer, not what a proxy costs: that is measured from outside
//! (`docs/benchmarks.md`). All of it is the library's public face, so that the same file measures another revision.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use ringlb::balance::settings::{BackendSettings, Policy, PoolSettings};
use ringlb::balance::{Chooser, Claim, Pool, Request, Tried};
use ringlb::histogram::{Counts, Histogram};
use ringlb::relay::{Input, Relay, Rules, Side, Start, WhenNone};
use ringlb::slots::{Key, Slots};
use ringlb::time::Time;
use ringlb::worker::timers::Timers;

/// Backends of a pool. Least connections looks at all of them, up to 1,024.
const BACKENDS: [usize; 4] = [2, 10, 100, 1_000];
/// Above 1,024 it looks at a sample.
const SAMPLED: usize = 5_000;
/// Connections that each backend has while one more is placed.
const HELD: usize = 3;

/// Sessions of a worker, of which each has a slot and a timer.
const SESSIONS: u32 = 10_000;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    choosing(&mut criterion);
    choosing_together(&mut criterion);
    timers(&mut criterion);
    relaying(&mut criterion);
    counting(&mut criterion);
    slots(&mut criterion);
    criterion.final_summary();
}

/// A connection's way through the pool: its backend is chosen, it is connected, it ends.
fn choosing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("choose");
    for policy in Policy::ALL {
        let sampled = (*policy == Policy::LeastConnections).then_some(SAMPLED);
        for backends in BACKENDS.into_iter().chain(sampled) {
            let (mut chooser, _held) = pool(*policy, backends);
            let tried = Tried::new();
            let mut client = 0_u32;
            group.bench_function(BenchmarkId::new(policy.name(), backends), |bencher| {
                bencher.iter(|| {
                    client = client.wrapping_add(1);
                    let client = Some(IpAddr::V4(Ipv4Addr::from_bits(client)));
                    place(&mut chooser, &Request { client, tried: &tried })
                });
            });
        }
    }
    group.finish();
}

/// The same while another thread does nothing else: what the counters that all workers share cost at the worst.
fn choosing_together(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("choose_together");
    let tried = Tried::new();
    let request = Request { client: None, tried: &tried };
    for backends in BACKENDS {
        let (mut chooser, _held) = pool(Policy::LeastConnections, backends);
        let mut other = Chooser::new(chooser.pool().clone(), 2);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    drop(place(&mut other, &request));
                }
            });
            group.bench_function(BenchmarkId::new(Policy::LeastConnections.name(), backends), |bencher| {
                bencher.iter(|| place(&mut chooser, &request));
            });
            over.store(true, Ordering::Relaxed);
        });
    }
    group.finish();
}

/// A pool whose backends have connections already, which live as long as the claims beside it.
fn pool(policy: Policy, backends: usize) -> (Chooser, Vec<Claim>) {
    let backend = |port: usize| {
        let address = SocketAddr::from(([127, 0, 0, 1], port as u16 + 1));
        BackendSettings::new(address.to_string(), address.into())
    };
    let settings = PoolSettings { policy, ..PoolSettings::new("web") };
    let pool = Pool::new(settings, (0..backends).map(backend).collect(), Time::ZERO).expect("the names are different");
    let mut chooser = Chooser::new(pool, 1);
    let tried = Tried::new();
    let held = (0..(HELD * backends) as u32).map(|client| {
        let client = Some(IpAddr::V4(Ipv4Addr::from_bits(client)));
        place(&mut chooser, &Request { client, tried: &tried })
    });
    let held = held.collect();
    (chooser, held)
}

fn place(chooser: &mut Chooser, request: &Request<'_>) -> Claim {
    let mut claim = chooser.choose(request, Time::ZERO).expect("every backend may serve");
    claim.connected(Time::ZERO);
    claim
}

/// Timers are never cancelled: whoever set one ignores it. So a timer's life is to be set and to expire.
fn timers(criterion: &mut Criterion) {
    const LONGEST_MILLIS: u64 = 60_000;
    let mut group = criterion.benchmark_group("timers");
    let delay = |number: u64| Duration::from_millis(number.wrapping_mul(7_919) % LONGEST_MILLIS);
    let filled = || {
        let mut timers = Timers::new(Time::ZERO);
        (0..SESSIONS).for_each(|index| timers.set(Key::new(index, 0), Time::ZERO + delay(index.into())));
        timers
    };

    // As many expire as are set: half the longest delay passes while each of them is set once.
    let pace = Duration::from_millis(LONGEST_MILLIS) / 2 / SESSIONS;
    let (mut wheel, mut now, mut number, mut due) = (filled(), Time::ZERO, 0_u64, Vec::new());
    group.bench_function(BenchmarkId::new("set_and_expire", SESSIONS), |bencher| {
        bencher.iter(|| {
            number += 1;
            now = now + pace;
            wheel.set(Key::new(number as u32 % SESSIONS, 0), now + delay(number));
            wheel.expire(now, &mut due);
            let expired = due.len();
            due.clear();
            expired
        });
    });

    let wheel = filled();
    group.bench_function(BenchmarkId::new("next", SESSIONS), |bencher| bencher.iter(|| black_box(&wheel).next()));
    group.finish();
}

/// What the relay's state machine adds to a request and its answer, and to a whole session.
fn relaying(criterion: &mut Criterion) {
    let rules = Rules {
        connect_timeout: Duration::from_secs(4),
        connect_budget: Duration::from_secs(10),
        connect_attempts: 3,
        idle_timeout: Some(Duration::from_secs(600)),
        dead_peer_timeout: Some(Duration::from_secs(30)),
        when_none: WhenNone::Close,
        queue_timeout: Duration::from_secs(5),
        max_session_duration: None,
    };
    let mut group = criterion.benchmark_group("relay");
    let (mut relay, _) = opened(&rules);
    group.bench_function("request_and_answer", |bencher| bencher.iter(|| exchange(&mut relay, &rules)));
    group.bench_function("session", |bencher| {
        bencher.iter(|| {
            let (mut relay, opening) = opened(&rules);
            let exchanged = exchange(&mut relay, &rules);
            let ended = Side::BOTH.map(|side| step(&mut relay, eof(side), &rules));
            opening + exchanged + ended.iter().sum::<u32>()
        });
    });
    group.finish();
}

/// A session between a client and a backend that are connected, and how many actions that took.
fn opened(rules: &Rules) -> (Relay, u32) {
    let mut relay = Relay::new(Time::ZERO, Time::NEVER, Start::Choose { waiting: 0 });
    let actions = polled(&mut relay);
    let connecting = step(&mut relay, Input::Connecting, rules);
    let connected = step(&mut relay, Input::Connected, rules);
    (relay, actions + connecting + connected)
}

fn exchange(relay: &mut Relay, rules: &Rules) -> u32 {
    const BYTES: usize = 64;
    let way = |from: Side| {
        let received = Input::Received { side: from, bytes: BYTES, more: true };
        [received, Input::Sent { side: from.other(), bytes: BYTES, whole: true }]
    };
    let inputs = Side::BOTH.map(way).into_iter().flatten();
    inputs.map(|input| step(relay, input, rules)).sum()
}

/// One input and all the actions it has.
fn step(relay: &mut Relay, input: Input, rules: &Rules) -> u32 {
    relay.handle(black_box(input), Time::ZERO, rules);
    polled(relay)
}

fn polled(relay: &mut Relay) -> u32 {
    let mut actions = 0;
    while let Some(action) = relay.poll() {
        black_box(action);
        actions += 1;
    }
    actions
}

const fn eof(side: Side) -> Input {
    Input::ReceiveEnded(side, ringlb::relay::ReceiveEnd::Eof)
}

/// A duration is recorded by a worker; a scrape reads them all.
fn counting(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("histogram");
    let histogram = Histogram::new();
    let mut nanos = 0_u64;
    group.bench_function("record", |bencher| {
        bencher.iter(|| {
            // From 0.1 to 5 ms: connects.
            nanos = (nanos + 37_991) % 4_900_000;
            histogram.record(Duration::from_nanos(100_000 + nanos));
        });
    });
    group.bench_function("read", |bencher| {
        bencher.iter(|| {
            let mut counts = Counts::new();
            histogram.add_to(&mut counts);
            counts.quantile(0.99)
        });
    });
    group.finish();
}

/// A session's slot is taken, looked up with every completion, and freed.
fn slots(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("slots");
    let mut slots: Slots<[u64; 8]> = Slots::new();
    let taken = (0..SESSIONS).map(|number| slots.insert([number.into(); 8]).expect("there is room"));
    let keys: Vec<Key> = taken.collect();
    let mut at = 0;
    group.bench_function(BenchmarkId::new("get", SESSIONS), |bencher| {
        bencher.iter(|| {
            at = (at + 7_919) % keys.len();
            slots.get(keys[at]).map(|value| value[0])
        });
    });
    group.bench_function(BenchmarkId::new("insert_and_remove", SESSIONS), |bencher| {
        bencher.iter(|| {
            let key = slots.insert(black_box([1; 8])).expect("there is room");
            slots.remove(key)
        });
    });
    group.finish();
}
