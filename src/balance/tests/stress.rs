use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Lets threads through together. It spins, so that they really start at once: woken one after the other they would
/// hardly ever meet.
struct Gate {
    arrived: AtomicUsize,
    threads: usize,
}

impl Gate {
    fn new(threads: usize) -> Gate {
        Gate { arrived: AtomicUsize::new(0), threads }
    }

    fn pass(&self) {
        let mine = self.arrived.fetch_add(1, Ordering::AcqRel);
        let full = (mine / self.threads + 1) * self.threads;
        let mut spins = 0u32;
        while self.arrived.load(Ordering::Acquire) < full {
            spins += 1;
            // The other thread may be waiting for this very processor.
            if spins.is_multiple_of(1024) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    }
}

/// Two workers, 30 connections that stay open, 3 backends: always 10 each, however the threads interleave.
#[test]
fn thirty_held_claims_of_two_workers_are_ten_each() {
    const ROUNDS: usize = 20_000;
    let pool = pool(Policy::LeastConnections, &[1, 1, 1]);
    let barrier = Gate::new(2);
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (pool, barrier) = (&pool, &barrier);
            scope.spawn(move || {
                let mut chooser = Chooser::new(pool.clone(), worker);
                for round in 0..ROUNDS {
                    barrier.pass();
                    let held: Vec<Claim> = (0..15).map(|_| choose(&mut chooser).expect("all may serve")).collect();
                    barrier.pass();
                    let actives: Vec<u32> = pool.snapshot().backends().iter().map(|one| one.active()).collect();
                    assert_eq!(actives, [10, 10, 10], "in round {round}");
                    barrier.pass();
                    drop(held);
                }
            });
        }
    });
}

/// Each turn is handed out once, over all workers.
#[test]
fn turns_of_two_workers_are_as_many_as_the_weights_say() {
    const CYCLES: usize = 3_000;
    let pool = pool(Policy::RoundRobin, &[3, 2, 1]);
    let barrier = Gate::new(2);
    let counts: Vec<[usize; 3]> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|worker| {
                let (pool, barrier) = (&pool, &barrier);
                scope.spawn(move || {
                    let mut chooser = Chooser::new(pool.clone(), worker);
                    let mut counts = [0; 3];
                    barrier.pass();
                    for _ in 0..3 * CYCLES {
                        counts[index(&choose(&mut chooser).expect("all may serve"))] += 1;
                    }
                    counts
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("the worker has not panicked")).collect()
    });
    let sum = |backend: usize| counts.iter().map(|counts| counts[backend]).sum::<usize>();
    let sums = [sum(0), sum(1), sum(2)];
    for (sum, share) in sums.into_iter().zip([3 * CYCLES, 2 * CYCLES, CYCLES]) {
        assert!(sum.abs_diff(share) <= 1, "{sums:?}");
    }
}
