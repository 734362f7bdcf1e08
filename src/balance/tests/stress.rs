use std::sync::Barrier;

use super::*;

/// Two workers, 30 connections that stay open, 3 backends: always 10 each, however the threads interleave.
#[test]
fn thirty_held_claims_of_two_workers_are_ten_each() {
    const ROUNDS: usize = 2_000;
    let pool = pool(Policy::LeastConnections, &[1, 1, 1]);
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (pool, barrier) = (&pool, &barrier);
            scope.spawn(move || {
                let mut chooser = Chooser::new(pool.clone(), worker);
                for round in 0..ROUNDS {
                    barrier.wait();
                    let held: Vec<Claim> = (0..15).map(|_| choose(&mut chooser).expect("all may serve")).collect();
                    barrier.wait();
                    let actives: Vec<u32> = pool.snapshot().backends().iter().map(|one| one.active()).collect();
                    assert_eq!(actives, [10, 10, 10], "in round {round}");
                    barrier.wait();
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
    let barrier = Barrier::new(2);
    let counts: Vec<[usize; 3]> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2)
            .map(|worker| {
                let (pool, barrier) = (&pool, &barrier);
                scope.spawn(move || {
                    let mut chooser = Chooser::new(pool.clone(), worker);
                    let mut counts = [0; 3];
                    barrier.wait();
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
