//! What each further policy promises, limits, backups and slow start.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::balance::failure::Failure;
use crate::balance::settings::{HealthSettings, State};
use crate::limits::LEAST_CONNECTIONS_EXACT_MAX;

fn new(policy: Policy, set: Vec<BackendSettings>) -> (Arc<Pool>, Chooser) {
    let pool = Pool::new(settings(policy), set, Time::ZERO).expect("a possible set");
    (pool.clone(), Chooser::new(pool, 7))
}

fn replace(pool: &Pool, policy: Policy, set: Vec<BackendSettings>, now: Time) {
    pool.replace(settings(policy), set, now).expect("a possible set");
}

fn limited(index: usize, limit: u32) -> BackendSettings {
    BackendSettings { max_connections: limit, ..backend(index, 1) }
}

fn client(number: u32) -> IpAddr {
    IpAddr::from(number.to_be_bytes())
}

/// Which backend each client is led to.
fn homes(chooser: &mut Chooser, clients: u32) -> HashMap<u32, String> {
    let tried = Tried::new();
    let mut home = |number| {
        let request = Request { client: Some(client(number)), tried: &tried };
        let claim = chooser.choose(&request, Time::ZERO).expect("somebody may serve");
        (number, claim.backend().name().to_owned())
    };
    (0..clients).map(&mut home).collect()
}

#[test]
fn first_fills_one_after_the_other() {
    let (_, mut chooser) = new(Policy::First, vec![limited(0, 2), limited(1, 0), limited(2, 0)]);
    let held: Vec<Claim> = (0..4).map(|_| choose(&mut chooser).expect("somebody may serve")).collect();
    assert_eq!(held.iter().map(index).collect::<Vec<_>>(), [0, 0, 1, 1]);
}

#[test]
fn a_limit_is_never_exceeded_and_backups_serve_what_is_over() {
    for &policy in Policy::ALL {
        let backup = BackendSettings { backup: true, ..limited(2, 1) };
        let (pool, mut chooser) = new(policy, vec![limited(0, 2), limited(1, 3), backup]);
        let primaries: Vec<Claim> = (0..5).map(|_| choose(&mut chooser).expect("room is left")).collect();
        assert!(primaries.iter().all(|claim| index(claim) < 2), "{policy}");
        let over = choose(&mut chooser).expect("the backup has room");
        assert_eq!(index(&over), 2, "{policy}");
        assert!(choose(&mut chooser).is_none(), "{policy}");
        let actives: Vec<u32> = pool.snapshot().backends().iter().map(|one| one.active()).collect();
        assert_eq!(actives, [2, 3, 1], "{policy}");
        drop(primaries);
        assert!(index(&choose(&mut chooser).expect("primaries have room")) < 2, "{policy}");
    }
}

#[test]
fn drained_and_maintained_backends_take_nothing_new() {
    for &policy in Policy::ALL {
        let stopped = |index, state| BackendSettings { state, ..backend(index, 1) };
        let set = vec![stopped(0, State::Drain), stopped(1, State::Maint), stopped(2, State::Ready)];
        let (_, mut chooser) = new(policy, set);
        assert!((0..20).all(|_| index(&choose(&mut chooser).expect("one may serve")) == 2), "{policy}");
    }
}

#[test]
fn one_with_room_among_very_many_full_ones_is_found() {
    let count = LEAST_CONNECTIONS_EXACT_MAX * 2;
    for &policy in Policy::ALL {
        let (_, mut chooser) = new(policy, (0..count).map(|index| limited(index, 1)).collect());
        let held: Vec<Claim> = (0..count).map_while(|_| choose(&mut chooser)).collect();
        assert_eq!(held.len(), count, "{policy}");
        assert!(choose(&mut chooser).is_none(), "{policy}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Two different draws: the one that alone has most connections per weight never wins.
    #[test]
    fn random_two_avoids_the_most_loaded(weights in proptest::collection::vec(1..=4u32, 2..8), seed in any::<u64>()) {
        let pool = pool(Policy::RandomTwo, &weights);
        let mut chooser = Chooser::new(pool.clone(), seed);
        let mut held = Vec::new();
        for _ in 0..100 {
            let snapshot = pool.snapshot();
            let loads: Vec<f64> = snapshot.backends().iter().zip(&weights).map(|(one, &weight)| f64::from(one.active()) / f64::from(weight)).collect();
            let claim = choose(&mut chooser).expect("all may serve");
            let most = loads.iter().copied().fold(0.0, f64::max);
            let alone = loads.iter().filter(|&&load| load >= most).count() == 1;
            prop_assert!(!(alone && loads[index(&claim)] >= most), "{loads:?}: {}", index(&claim));
            held.push(claim);
        }
    }

    /// Where a backend cannot serve only its clients move, and they return with it.
    #[test]
    fn source_hash_moves_only_the_clients_of_who_is_out(count in 2..8usize, out in any::<prop::sample::Index>()) {
        let out = out.index(count);
        let weights = vec![1; count];
        let (pool, mut chooser) = new(Policy::SourceHash, backends(&weights));
        let before = homes(&mut chooser, 500);
        let mut set = backends(&weights);
        set[out].state = State::Drain;
        replace(&pool, Policy::SourceHash, set, Time::ZERO);
        let during = homes(&mut chooser, 500);
        for (number, home) in &before {
            let stays = *home != out.to_string();
            prop_assert_eq!(stays, during[number] == *home);
        }
        replace(&pool, Policy::SourceHash, backends(&weights), Time::ZERO);
        prop_assert_eq!(homes(&mut chooser, 500), before);
    }
}

#[test]
fn random_two_draws_by_weight() {
    let (_, mut chooser) = new(Policy::RandomTwo, backends(&[6, 3, 1]));
    let held: Vec<Claim> = (0..3_000).map(|_| choose(&mut chooser).expect("all may serve")).collect();
    let count = |wanted| held.iter().filter(|claim| index(claim) == wanted).count();
    for (wanted, share) in [1_800, 900, 300].into_iter().enumerate() {
        assert!(count(wanted).abs_diff(share) < share / 10, "{wanted}: {}", count(wanted));
    }
}

#[test]
fn source_hash_gives_shares_by_weight_whatever_the_order() {
    let (_, mut chooser) = new(Policy::SourceHash, backends(&[3, 1]));
    let homes_one = homes(&mut chooser, 8_000);
    let heavy = homes_one.values().filter(|home| *home == "0").count();
    assert!(heavy.abs_diff(6_000) < 300, "{heavy}");
}

#[test]
fn source_hash_does_not_ask_for_the_order_of_the_backends() {
    let set = backends(&[1, 1, 1]);
    let reversed = set.iter().rev().cloned().collect();
    let (_, mut one) = new(Policy::SourceHash, set);
    let (_, mut other) = new(Policy::SourceHash, reversed);
    assert_eq!(homes(&mut one, 8_000), homes(&mut other, 8_000));
}

#[test]
fn clients_of_a_backend_that_cannot_serve_are_spread_over_all_others() {
    let (_, mut chooser) = new(Policy::SourceHash, (0..4).map(|index| limited(index, 1)).collect());
    let before = homes(&mut chooser, 4_000);
    let held = std::iter::repeat_with(|| choose(&mut chooser).expect("all have room")).find(|claim| index(claim) == 1);
    let during = homes(&mut chooser, 4_000);
    let displaced: Vec<&String> =
        before.keys().filter(|number| before[*number] == "1").map(|number| &during[number]).collect();
    for other in ["0", "2", "3"] {
        let share = displaced.iter().filter(|home| **home == other).count() * 100 / displaced.len();
        assert!((28..=38).contains(&share), "{other} has {share} % of them");
    }
    drop(held);
}

#[test]
fn clients_without_an_address_are_spread() {
    let (_, mut chooser) = new(Policy::SourceHash, backends(&[1, 1]));
    let ones = (0..1_000).filter(|_| index(&choose(&mut chooser).expect("all may serve")) == 1).count();
    assert!((400..600).contains(&ones), "{ones}");
}

/// The share of the newcomer among the connections chosen at `now`, none of which lasts.
fn share_of_newcomer(chooser: &mut Chooser, now: Time) -> usize {
    let tried = Tried::new();
    let mut chosen = || chooser.choose(&Request { client: None, tried: &tried }, now).expect("all may serve");
    (0..1_000).filter(|_| index(&chosen()) == 1).count()
}

#[test]
fn a_newcomer_with_slow_start_takes_its_share_by_and_by() {
    for policy in [Policy::LeastConnections, Policy::RoundRobin] {
        let slow = |index| BackendSettings { slow_start: Duration::from_secs(10), ..backend(index, 1) };
        let (pool, mut chooser) = new(policy, vec![slow(0)]);
        assert!(choose(&mut chooser).is_some());
        replace(&pool, policy, vec![slow(0), slow(1)], Time::from_millis(1_000));
        // Of 1,000: a quarter of the weight is 1 of 5, half of it 1 of 3.
        for (now, share) in [(1_000, 4), (3_500, 200), (6_000, 333), (11_000, 500), (60_000, 500)] {
            let had = share_of_newcomer(&mut chooser, Time::from_millis(now));
            assert!(had.abs_diff(share) <= 3, "{policy} at {now}: {had} of 1000, not {share}");
        }
    }
}

#[test]
fn slow_start_bounds_what_least_connections_gives_a_newcomer() {
    let slow = |index| BackendSettings { slow_start: Duration::from_secs(10), ..backend(index, 1) };
    let (pool, mut chooser) = new(Policy::LeastConnections, vec![slow(0)]);
    let mut held: Vec<Claim> = (0..100).map(|_| choose(&mut chooser).expect("it may serve")).collect();
    replace(&pool, Policy::LeastConnections, vec![slow(0), slow(1)], Time::from_millis(1_000));
    let tried = Tried::new();
    let now = Time::from_millis(2_000);
    held.extend((0..100).map(|_| chooser.choose(&Request { client: None, tried: &tried }, now).expect("both may")));
    // A tenth of the weight holds a tenth of what the other has: 182 and 18.
    let active = pool.snapshot().backends()[1].active();
    assert!((17..=19).contains(&active), "{active}");
}

#[test]
fn a_backend_back_from_maintenance_starts_slowly_and_one_back_from_draining_does_not() {
    for (state, share) in [(State::Maint, 4), (State::Drain, 500)] {
        let one = |state| BackendSettings { slow_start: Duration::from_secs(10), state, ..backend(1, 1) };
        let (pool, mut chooser) = new(Policy::RoundRobin, vec![backend(0, 1), one(state)]);
        replace(&pool, Policy::RoundRobin, vec![backend(0, 1), one(State::Ready)], Time::from_millis(1_000));
        let had = share_of_newcomer(&mut chooser, Time::from_millis(1_000));
        assert!(had.abs_diff(share) <= 3, "{state}: {had}");
    }
}

#[test]
fn a_backend_back_from_an_ejection_or_from_being_down_starts_slowly() {
    let slow = |index| BackendSettings { slow_start: Duration::from_secs(10), max_fails: 1, ..backend(index, 1) };
    let health = Some(HealthSettings { rise: 1, fall: 1 });
    let settings = PoolSettings { health, ..settings(Policy::RoundRobin) };
    let pool = Pool::new(settings, vec![slow(0), slow(1)], Time::ZERO).expect("a possible set");
    let mut chooser = Chooser::new(pool.clone(), 7);
    let at = Time::from_millis;
    let share = |chooser: &mut Chooser, now| share_of_newcomer(chooser, at(now));
    assert!(share(&mut chooser, 0).abs_diff(500) <= 3);
    let check = |passed, now| pool.report_check("1", passed, at(now), at(now + 1)).up;
    assert_eq!(check(false, 1_000), Some(false));
    assert_eq!(share(&mut chooser, 1_000), 0);
    assert_eq!(check(true, 2_000), Some(true));
    assert!(share(&mut chooser, 2_001).abs_diff(4) <= 3);
    assert!(share(&mut chooser, 20_000).abs_diff(500) <= 3);
    let tried_other = {
        let mut tried = Tried::new();
        tried.insert(&pool.snapshot().backends()[0]);
        tried
    };
    let request = Request { client: None, tried: &tried_other };
    let claim = chooser.choose(&request, at(20_000)).expect("it may serve");
    assert!(claim.connect_failed(Failure::TimedOut, at(20_000)).ejected);
    assert_eq!(share(&mut chooser, 20_001), 0);
    let mut probe = chooser.choose(&request, at(30_000)).expect("one probes");
    assert!(probe.connected(at(30_000)));
    assert!(share(&mut chooser, 30_001).abs_diff(4) <= 3);
}

#[test]
fn a_weight_that_grows_counts_from_the_next_turn_on() {
    let (pool, mut chooser) = new(Policy::RoundRobin, backends(&[1_000, 1]));
    let lights = (0..600).filter(|_| index(&choose(&mut chooser).expect("both may serve")) == 1).count();
    assert_eq!(lights, 1);
    replace(&pool, Policy::RoundRobin, backends(&[1, 1]), Time::ZERO);
    let had = share_of_newcomer(&mut chooser, Time::ZERO);
    assert!(had.abs_diff(500) <= 1, "{had} of 1000");
}
