//! The word logic under loom's model checker: every interleaving of a few threads.

use std::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use loom::thread;

use crate::balance::queue;
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

    fn fence() {
        loom::sync::atomic::fence(Ordering::SeqCst);
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

/// The two words of the queue: a place that is given back, and the number of those who wait.
#[test]
fn who_waits_sees_the_place_or_is_seen_by_who_gives_it_back() {
    loom::model(|| {
        let word = Arc::new(AtomicU64::new(0));
        let (open, waiting) = (Arc::new(AtomicU64::new(1)), Arc::new(AtomicU64::new(0)));
        assert!(word::claim_behind(&*word, Gate::default(), 1));
        let releaser = {
            let (word, open, waiting) = (word.clone(), open, waiting.clone());
            thread::spawn(move || {
                word::release(&*word);
                queue::is_awaited(&*open, &*waiting)
            })
        };
        queue::announce(&*waiting, 1);
        let found = word::claim_behind(&*word, Gate::default(), 1);
        let seen = releaser.join().unwrap();
        assert!(found || seen, "the place is lost: the waiter sleeps and nobody wakes it");
    });
}
