//! The word logic under loom's model checker: every interleaving of a few threads.

use std::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use crate::balance::word::{self, AtomicWord, Gate};

impl AtomicWord for AtomicU64 {
    fn load(&self, order: Ordering) -> u64 {
        AtomicU64::load(self, order)
    }

    fn store(&self, value: u64, order: Ordering) {
        AtomicU64::store(self, value, order);
    }

    fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        AtomicU64::compare_exchange(self, current, new, success, failure)
    }

    fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
        AtomicU64::fetch_sub(self, value, order)
    }
}

/// Chooses the emptier of two words as the scan does, until the exchange succeeds.
fn choose_of_two(cells: &[AtomicU64; 2]) -> usize {
    loop {
        let seen = [word::read(&cells[0]), word::read(&cells[1])];
        let best = usize::from(seen[1].active() < seen[0].active());
        if word::claim(&cells[best], seen[best]) {
            return best;
        }
        thread::yield_now();
    }
}

#[test]
fn two_workers_never_put_both_clients_on_one_backend() {
    loom::model(|| {
        let cells = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let other = {
            let cells = cells.clone();
            thread::spawn(move || choose_of_two(&cells))
        };
        let mine = choose_of_two(&cells);
        assert_ne!(mine, other.join().unwrap());
    });
}

#[test]
fn a_limit_of_one_is_never_two() {
    loom::model(|| {
        let cell = Arc::new(AtomicU64::new(0));
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let cell = cell.clone();
                thread::spawn(move || {
                    let claimed = word::claim_behind(&*cell, Gate::default(), 1);
                    if claimed {
                        assert_eq!(word::read(&*cell).active(), 1);
                        word::release(&*cell);
                    }
                    claimed
                })
            })
            .collect();
        let claimed = workers.into_iter().map(|worker| usize::from(worker.join().unwrap())).sum::<usize>();
        assert!(claimed >= 1);
        assert_eq!(word::read(&*cell).active(), 0);
    });
}
