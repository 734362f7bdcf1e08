use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn a_swap_says_what_it_changes_and_keeps_the_counters_of_a_name() {
    let pool = pool(Policy::LeastConnections, &[1, 1, 1]);
    let mut chooser = Chooser::new(pool.clone(), 1);
    let mut held: Vec<Claim> = (0..6).map(|_| choose(&mut chooser).expect("all may serve")).collect();
    for claim in &mut held {
        assert!(!claim.connected(Time::ZERO), "nothing was ejected");
    }
    let mut moved = backend(1, 1);
    moved.address = SocketAddr::from(([127, 0, 0, 1], 1)).into();
    let changes = pool
        .replace(settings(Policy::LeastConnections), vec![backend(3, 1), moved, backend(2, 1)], Time::ZERO)
        .expect("a possible set");
    assert_eq!(changes.added, names(&["3"]));
    assert_eq!(changes.removed, names(&["0"]));
    assert_eq!(changes.changed, names(&["1"]));
    assert_eq!(changes.kept, names(&["2"]));
    let set = pool.snapshot();
    let numbers: Vec<(u32, u64)> = set.backends().iter().map(|one| (one.active(), one.connected_total())).collect();
    assert_eq!(numbers, [(0, 0), (2, 2), (2, 2)]);
    drop(held);
    assert!(set.backends().iter().all(|backend| backend.active() == 0));
}

#[test]
fn a_removed_backends_slot_is_not_reused_while_anybody_holds_on_to_it() {
    let pool = pool(Policy::LeastConnections, &[1]);
    let mut chooser = Chooser::new(pool.clone(), 1);
    let held = choose(&mut chooser).expect("it may serve");
    let newcomers = |numbers: &[usize]| numbers.iter().map(|&number| backend(number, 1)).collect::<Vec<_>>();
    let replace = |numbers: &[usize]| {
        pool.replace(settings(Policy::LeastConnections), newcomers(numbers), Time::ZERO).expect("a possible set")
    };
    replace(&[1]);
    // The claim and the chooser's snapshot hold it.
    assert_eq!(pool.collect(), names(&[]));
    chooser.set();
    assert_eq!(pool.collect(), names(&[]), "the claim still holds it");
    let leaving: Vec<(String, u32)> = pool.leaving().iter().map(|one| (one.name().to_owned(), one.active())).collect();
    assert_eq!(leaving, [("0".to_owned(), 1)]);
    // All the slots that can be had are taken, and none is the claim's.
    replace(&(1..200).collect::<Vec<_>>());
    let claims: Vec<Claim> = (0..199).map(|_| choose(&mut chooser).expect("all may serve")).collect();
    assert_eq!(held.backend().active(), 1);
    drop(held);
    assert_eq!(pool.collect(), names(&["0"]));
    replace(&(1..201).collect::<Vec<_>>());
    let snapshot = pool.snapshot();
    assert_eq!(snapshot.backends()[199].active(), 0);
    assert!(snapshot.backends()[..199].iter().all(|backend| backend.active() == 1));
    drop(claims);
}

#[test]
fn a_name_that_returns_while_its_sessions_live_finds_its_counters() {
    let pool = pool(Policy::LeastConnections, &[1, 1]);
    let mut chooser = Chooser::new(pool.clone(), 1);
    let held: Vec<Claim> = (0..4).map(|_| choose(&mut chooser).expect("both may serve")).collect();
    let id = pool.snapshot().backends()[0].id();
    let replace = |set| pool.replace(settings(Policy::LeastConnections), set, Time::ZERO).expect("a possible set");
    replace(vec![backend(1, 1)]);
    chooser.set();
    assert_eq!(pool.collect(), names(&[]));
    assert_eq!(replace(vec![backend(0, 1), backend(1, 1)]).added, names(&["0"]));
    assert_eq!(pool.snapshot().backends()[0].active(), 2);
    assert_eq!(pool.snapshot().backends()[0].id(), id);
    drop(held);
    assert_eq!(pool.snapshot().backends()[0].active(), 0);
}

#[test]
fn the_last_owner_of_a_retired_set_is_the_pool() {
    let pool = pool(Policy::LeastConnections, &[1]);
    let chooser = Chooser::new(pool.clone(), 1);
    let retired = Arc::downgrade(&pool.snapshot());
    pool.replace(settings(Policy::LeastConnections), backends(&[1, 1]), Time::ZERO).expect("a possible set");
    drop(chooser);
    assert!(retired.upgrade().is_some(), "the worker let go of it and dropped it");
    pool.collect();
    assert!(retired.upgrade().is_none(), "collecting drops it");
}

#[test]
fn a_newcomer_starts_at_the_floor() {
    for policy in &[Policy::LeastConnections, Policy::RoundRobin] {
        let pool = pool(*policy, &[1, 1]);
        let mut chooser = Chooser::new(pool.clone(), 1);
        for _ in 0..1_000 {
            assert!(choose(&mut chooser).is_some());
        }
        pool.replace(settings(*policy), backends(&[1, 1, 1]), Time::ZERO).expect("a possible set");
        let mut turns = [0; 3];
        for _ in 0..30 {
            turns[index(&choose(&mut chooser).expect("all may serve"))] += 1;
        }
        assert!(turns.iter().all(|turns| (9..=11).contains(turns)), "{policy}: {turns:?}");
    }
}

#[test]
fn an_impossible_set_changes_nothing() {
    let pool = pool(Policy::RoundRobin, &[1]);
    let twice = vec![backend(7, 1), backend(7, 2)];
    let error = pool.replace(settings(Policy::RoundRobin), twice, Time::ZERO).expect_err("two of one name");
    assert!(error.to_string().contains("two backends named `7`"), "{error}");
    assert_eq!(pool.snapshot().revision(), 1);
    assert_eq!(pool.snapshot().backends()[0].name(), "0");
}

/// Swaps, choices and releases at once; at the end nothing is held and nothing has leaked.
#[test]
fn swaps_under_load_lose_no_place() {
    let pool = pool(Policy::LeastConnections, &[1, 1, 1, 1]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (pool, stop) = (&pool, &stop);
            scope.spawn(move || {
                let mut chooser = Chooser::new(pool.clone(), worker);
                let mut held = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    held.extend(choose(&mut chooser));
                    if held.len() > 20 {
                        held.drain(..10);
                    }
                }
            });
        }
        for round in 0..2_000usize {
            let set = (0..4).map(|number| backend(round % 7 + number, 1)).collect();
            pool.replace(settings(Policy::LeastConnections), set, Time::ZERO).expect("a possible set");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(pool.snapshot().backends().iter().all(|backend| backend.active() == 0));
    pool.collect();
    assert!(pool.leaving().is_empty(), "removed backends are forgotten once nobody holds them");
}
