//! The contract's sentences about passive failure, one by one.

use std::time::Duration;

use super::*;
use crate::balance::Standing;
use crate::balance::failure::Failure;
use crate::balance::settings::{HealthSettings, Percent, Share};
use crate::balance::word;
use crate::errno::Errno;

const REFUSED: Failure = Failure::Errno(Errno::ECONNREFUSED);

fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

/// A pool whose backends are filled in their order, so that it is plain who comes next.
fn first(count: usize) -> (Arc<Pool>, Chooser) {
    let pool = pool(Policy::First, &vec![1; count]);
    (pool.clone(), Chooser::new(pool, 1))
}

fn take(chooser: &mut Chooser, now: Time) -> Option<Claim> {
    chooser.choose(&Request { client: None, tried: &Tried::new() }, now).ok()
}

/// Fails `count` connects of the next backend; says whether the last one ejected it.
fn fail(chooser: &mut Chooser, count: usize, now: Time) -> bool {
    let claims: Vec<Claim> = (0..count).map(|_| take(chooser, now).expect("one may serve")).collect();
    claims.into_iter().fold(false, |_, claim| claim.connect_failed(REFUSED, now).ejected)
}

fn standings(pool: &Pool) -> Vec<Standing> {
    pool.snapshot().backends().iter().map(|backend| backend.standing()).collect()
}

#[test]
fn failures_at_0_9_and_18_seconds_do_not_eject_but_three_within_ten_do() {
    let (pool, mut chooser) = first(2);
    for now in [0, 9_000, 18_000] {
        assert!(!fail(&mut chooser, 1, at(now)));
    }
    assert!(fail(&mut chooser, 1, at(18_999)), "9 to 19 seconds is less than ten");
    assert_eq!(standings(&pool), [Standing::Ejected, Standing::Ready]);
    assert_eq!(pool.snapshot().backends()[0].ejected_for(at(20_000)), Some(Duration::from_millis(8_999)));
    assert_eq!(pool.snapshot().backends()[0].ejections_total(), 1);
}

#[test]
fn an_ejection_is_in_every_worker_at_once() {
    let (pool, mut chooser) = first(2);
    let mut other = Chooser::new(pool, 2);
    assert!(fail(&mut chooser, 3, at(0)));
    assert_eq!(index(&take(&mut other, at(1)).expect("one may serve")), 1);
}

#[test]
fn exactly_one_client_probes_and_its_success_brings_the_backend_back_with_a_clean_window() {
    let (pool, mut chooser) = first(2);
    assert!(fail(&mut chooser, 3, at(0)));
    assert_eq!(index(&take(&mut chooser, at(9_999)).expect("the other may serve")), 1);
    let mut probe = take(&mut chooser, at(10_000)).expect("one probes");
    assert!(probe.is_probe() && index(&probe) == 0);
    let other = take(&mut chooser, at(10_000)).expect("the other may serve");
    assert!(!other.is_probe() && index(&other) == 1);
    assert!(probe.connected(at(10_001)));
    assert_eq!(standings(&pool), [Standing::Ready, Standing::Ready]);
    assert!(!fail(&mut chooser, 2, at(10_002)), "the window is clean");
    assert!(fail(&mut chooser, 1, at(10_002)));
}

#[test]
fn a_failed_probe_ejects_again_and_costs_its_client_no_attempt() {
    let (pool, mut chooser) = first(2);
    assert!(fail(&mut chooser, 3, at(0)));
    let probe = take(&mut chooser, at(10_000)).expect("one probes");
    let next = probe.connect_failed(REFUSED, at(10_500));
    assert!(next.go_on && !next.counts && next.ejected);
    let left = pool.snapshot().backends()[0].ejected_for(at(10_500));
    assert_eq!(left, Some(Duration::from_secs(10)));
    assert_eq!(index(&take(&mut chooser, at(20_499)).expect("the other may serve")), 1);
    assert!(take(&mut chooser, at(20_500)).expect("one probes").is_probe());
}

#[test]
fn a_probe_without_a_verdict_gives_its_turn_back() {
    let (_, mut chooser) = first(2);
    assert!(fail(&mut chooser, 3, at(0)));
    drop(take(&mut chooser, at(10_000)).expect("one probes"));
    let probe = take(&mut chooser, at(10_000)).expect("another probes");
    assert!(probe.is_probe());
    let next = probe.connect_failed(Failure::Errno(Errno::EMFILE), at(10_001));
    assert!(!next.go_on && !next.counts && !next.ejected);
    assert!(take(&mut chooser, at(10_001)).expect("a third probes").is_probe());
}

#[test]
fn a_lease_lasts_the_connect_timeout_and_a_second_and_a_late_verdict_is_not_heard() {
    let (pool, mut chooser) = first(2);
    assert!(fail(&mut chooser, 3, at(0)));
    let mut late = take(&mut chooser, at(10_000)).expect("one probes");
    assert_eq!(index(&take(&mut chooser, at(14_999)).expect("the other may serve")), 1);
    let next = take(&mut chooser, at(15_000)).expect("another probes");
    assert!(next.is_probe());
    assert!(!late.connected(at(15_001)));
    drop(late);
    assert_eq!(standings(&pool)[0], Standing::Ejected);
    assert_eq!(index(&take(&mut chooser, at(15_002)).expect("the other may serve")), 1, "one still probes");
    drop(next);
}

#[test]
fn a_connect_begun_before_the_ejection_neither_extends_nor_ends_it() {
    let (pool, mut chooser) = first(2);
    let mut before: Vec<Claim> = (0..5).map(|_| take(&mut chooser, at(0)).expect("one may serve")).collect();
    assert!(fail(&mut chooser, 3, at(0)));
    assert!(!before.pop().expect("held").connected(at(1)));
    for claim in before.drain(..2) {
        assert!(!claim.connect_failed(REFUSED, at(5_000)).ejected);
    }
    assert_eq!(pool.snapshot().backends()[0].ejected_for(at(5_000)), Some(Duration::from_secs(5)));
    let mut probe = take(&mut chooser, at(10_000)).expect("one probes");
    assert!(probe.connected(at(10_000)));
    for claim in before {
        assert!(!claim.connect_failed(REFUSED, at(10_001)).ejected);
    }
    assert!(!fail(&mut chooser, 2, at(10_001)), "failures of old connects do not count");
}

#[test]
fn a_wholly_ejected_pool_may_be_probed_at_once_each_backend_once_and_by_one_at_a_time() {
    let (pool, mut chooser) = first(2);
    assert!(fail(&mut chooser, 3, at(0)));
    assert!(!pool.is_in_recovery());
    assert!(fail(&mut chooser, 3, at(1_000)));
    assert!(pool.is_in_recovery());
    let one = take(&mut chooser, at(1_001)).expect("the first is probed");
    let two = take(&mut chooser, at(1_001)).expect("the second is probed");
    assert_eq!((index(&one), index(&two)), (0, 1));
    assert!(take(&mut chooser, at(1_001)).is_none(), "one client at a time");
    drop(one);
    let one = take(&mut chooser, at(1_002)).expect("its turn was given back");
    assert!(!one.connect_failed(REFUSED, at(1_003)).counts);
    assert!(take(&mut chooser, at(1_004)).is_none(), "each has been probed once");
    assert_eq!(standings(&pool), [Standing::Ejected; 2]);
    let mut two = two;
    assert!(two.connected(at(1_005)));
    assert!(!pool.is_in_recovery());
    assert_eq!(standings(&pool), [Standing::Ejected, Standing::Ready]);
    // A new recovery: the first may be probed early again.
    assert!(fail(&mut chooser, 3, at(1_006)));
    assert_eq!(index(&take(&mut chooser, at(1_007)).expect("the first is probed")), 0);
}

#[test]
fn a_single_backend_is_never_ejected() {
    let (pool, mut chooser) = first(1);
    assert!(!fail(&mut chooser, 100, at(0)));
    // A second one with weight 0 does not change that, a backup does.
    pool.replace(settings(Policy::First), backends(&[1, 0]), at(1)).expect("a possible set");
    assert!(!fail(&mut chooser, 100, at(1)));
    let backup = BackendSettings { backup: true, ..backend(1, 1) };
    pool.replace(settings(Policy::First), vec![backend(0, 1), backup], at(2)).expect("a possible set");
    assert!(fail(&mut chooser, 1, at(2)));
    assert_eq!(index(&take(&mut chooser, at(3)).expect("the backup may serve")), 1);
    // And alone again it returns.
    pool.replace(settings(Policy::First), backends(&[1]), at(4)).expect("a possible set");
    assert_eq!(standings(&pool), [Standing::Ready]);
}

#[test]
fn not_more_than_the_configured_part_is_ejected_but_always_one() {
    for (percent, ejected) in [(0, 1), (49, 1), (50, 2), (74, 2), (75, 3), (100, 4)] {
        let max_ejected_percent = Percent::new(percent).expect("a percentage");
        let settings = PoolSettings { max_ejected_percent, ..settings(Policy::LeastConnections) };
        let pool = Pool::new(settings, backends(&[1; 4]), Time::ZERO).expect("a possible set");
        let mut chooser = Chooser::new(pool.clone(), 1);
        for _ in 0..40 {
            if let Some(claim) = take(&mut chooser, at(1)).filter(|claim| !claim.is_probe()) {
                claim.connect_failed(REFUSED, at(1));
            }
        }
        let out = standings(&pool).iter().filter(|&&one| one == Standing::Ejected).count();
        assert_eq!(out, ejected, "of 4 at {percent} %");
    }
}

#[test]
fn with_a_fail_share_the_count_alone_does_not_eject() {
    let settings = PoolSettings { fail_share: Share::new(0.5).expect("a share"), ..settings(Policy::First) };
    let pool = Pool::new(settings, backends(&[1, 1]), Time::ZERO).expect("a possible set");
    let mut chooser = Chooser::new(pool, 1);
    for now in 0..4 {
        assert!(!take(&mut chooser, at(now)).expect("one may serve").connected(at(now)));
    }
    assert!(!fail(&mut chooser, 3, at(5)), "3 of 7");
    assert!(fail(&mut chooser, 1, at(6)), "4 of 8");
}

#[test]
fn max_fails_zero_switches_ejection_off() {
    let set = vec![BackendSettings { max_fails: 0, ..backend(0, 1) }, backend(1, 1)];
    let pool = Pool::new(settings(Policy::First), set, Time::ZERO).expect("a possible set");
    assert!(!fail(&mut Chooser::new(pool, 1), 100, at(0)));
}

#[test]
fn our_own_trouble_ejects_nobody() {
    let (_, mut chooser) = first(2);
    for errno in [Errno::EMFILE, Errno::EADDRNOTAVAIL, Errno::ENETUNREACH, Errno::ENOBUFS] {
        for _ in 0..10 {
            let claim = take(&mut chooser, at(0)).expect("one may serve");
            assert!(!claim.connect_failed(Failure::Errno(errno), at(0)).ejected);
        }
    }
    assert_eq!(index(&take(&mut chooser, at(0)).expect("one may serve")), 0);
}

#[test]
fn a_changed_address_begins_afresh_and_keeps_its_counters() {
    let (pool, mut chooser) = first(2);
    let held = take(&mut chooser, at(0)).expect("one may serve");
    let old = take(&mut chooser, at(0)).expect("one may serve");
    assert!(fail(&mut chooser, 3, at(0)));
    let mut moved = backend(0, 1);
    moved.address = SocketAddr::from(([127, 0, 0, 1], 1)).into();
    pool.replace(settings(Policy::First), vec![moved, backend(1, 1)], at(1)).expect("a possible set");
    assert_eq!(standings(&pool)[0], Standing::Ready);
    assert_eq!(pool.snapshot().backends()[0].active(), 2);
    assert!(!fail(&mut chooser, 2, at(2)));
    assert!(!old.connect_failed(REFUSED, at(2)).ejected, "it failed at the old address");
    assert!(fail(&mut chooser, 1, at(2)));
    drop(held);
}

#[test]
fn a_probe_of_an_ejection_that_is_over_does_not_stand_in_the_way_of_the_next_one() {
    let health = Some(HealthSettings { rise: 1, fall: 1 });
    let settings = PoolSettings { health, ..settings(Policy::First) };
    let pool = Pool::new(settings, backends(&[1, 1]), Time::ZERO).expect("a possible set");
    let mut chooser = Chooser::new(pool.clone(), 1);
    assert!(fail(&mut chooser, 3, at(0)));
    let old = take(&mut chooser, at(10_000)).expect("one probes");
    assert!(old.is_probe());
    assert!(pool.report_check("0", true, at(10_000), at(10_001)).returned);
    assert!(fail(&mut chooser, 3, at(10_002)) && fail(&mut chooser, 3, at(10_002)));
    assert!(pool.is_in_recovery());
    let new = take(&mut chooser, at(10_003)).expect("one probes");
    assert_eq!(index(&new), 0);
    assert!(!old.connect_failed(REFUSED, at(10_004)).ejected);
    assert_eq!(index(&take(&mut chooser, at(10_005)).expect("the other is probed")), 1, "the first still is");
    drop(new);
}

/// What only a race can bring about: chosen from the old snapshot just after the new one began its first epoch.
#[test]
fn a_backend_that_has_moved_is_not_blamed_for_its_old_address() {
    let (pool, _) = first(2);
    let old = pool.snapshot().backends()[0].clone();
    let mut moved = backend(0, 1);
    moved.address = SocketAddr::from(([127, 0, 0, 1], 1)).into();
    pool.replace(settings(Policy::First), vec![moved, backend(1, 1)], at(1)).expect("a possible set");
    let gate = word::read(old.cell(|chunk| &chunk.words)).gate();
    assert!((0..10).all(|_| !pool.failed(&old, gate, at(2))));
    let new = pool.snapshot().backends()[0].clone();
    assert!(pool.failed(&new, gate, at(2)), "the same failures would have been enough");
}

#[test]
fn checks_take_down_bring_up_and_end_an_ejection_early() {
    let health = Some(HealthSettings { rise: 2, fall: 3 });
    let settings = PoolSettings { health, ..settings(Policy::First) };
    let pool = Pool::new(settings.clone(), backends(&[1, 1]), Time::ZERO).expect("a possible set");
    let mut chooser = Chooser::new(pool.clone(), 1);
    let check = |passed, begun| pool.report_check("0", passed, at(begun), at(begun + 1));
    assert_eq!(check(false, 10).up, Some(false), "the first decides alone");
    assert_eq!(standings(&pool), [Standing::Down, Standing::Ready]);
    assert_eq!(index(&take(&mut chooser, at(12)).expect("the other may serve")), 1);
    assert_eq!(check(true, 20).up, None);
    assert_eq!(check(true, 30).up, Some(true));
    assert!(fail(&mut chooser, 3, at(40)));
    assert!(!check(true, 39).returned, "begun before the ejection");
    assert!(!check(true, 41).returned);
    assert!(!check(false, 42).returned);
    assert_eq!(pool.snapshot().backends()[0].ejected_for(at(42)), Some(Duration::from_millis(9_998)), "not lengthened");
    assert!(!check(true, 43).returned);
    assert!(check(true, 44).returned);
    assert_eq!(standings(&pool), [Standing::Ready, Standing::Ready]);
    // Without checks nobody is down.
    for begun in 50..53 {
        check(false, begun);
    }
    assert_eq!(standings(&pool)[0], Standing::Down);
    pool.replace(PoolSettings { health: None, ..settings }, backends(&[1, 1]), at(60)).expect("a possible set");
    assert_eq!(standings(&pool)[0], Standing::Ready);
}

#[test]
fn a_pool_that_is_gone_hears_no_verdict() {
    let (pool, mut chooser) = first(2);
    let mut one = take(&mut chooser, at(0)).expect("one may serve");
    let two = take(&mut chooser, at(0)).expect("one may serve");
    drop((pool, chooser));
    assert!(!one.connected(at(1)));
    assert!(two.connect_failed(REFUSED, at(1)).go_on);
    assert_eq!(one.backend().active(), 1);
}
