use proptest::prelude::*;

use super::*;
use crate::limits::{CONNECT_ATTEMPTS_MAX, LEAST_CONNECTIONS_EXACT_MAX, WEIGHT_MAX};

fn weights() -> impl Strategy<Value = Vec<u32>> {
    let weight = prop_oneof![4 => 1..=5u32, 1 => Just(0), 1 => 1..=WEIGHT_MAX];
    proptest::collection::vec(weight, 1..12)
}

/// Active connections by index.
fn actives(pool: &Pool) -> Vec<u32> {
    pool.snapshot().backends().iter().map(|backend| backend.active()).collect()
}

proptest! {
    /// Whoever is chosen had the smallest active / weight; nobody of weight 0 is; a dropped claim gives its place back.
    #[test]
    fn least_connections_is_exact(weights in weights(), steps in proptest::collection::vec((any::<bool>(), any::<u16>()), 1..200)) {
        let pool = pool(Policy::LeastConnections, &weights);
        let mut workers = [Chooser::new(pool.clone(), 1), Chooser::new(pool.clone(), 2)];
        let mut held: Vec<Claim> = Vec::new();
        let mut model = vec![0u32; weights.len()];
        for (close, pick) in steps {
            if close && !held.is_empty() {
                let claim = held.swap_remove(usize::from(pick) % held.len());
                model[index(&claim)] -= 1;
                drop(claim);
            } else if let Some(claim) = choose(&mut workers[usize::from(pick) % 2]) {
                let chosen = index(&claim);
                for other in (0..weights.len()).filter(|&other| weights[other] > 0) {
                    prop_assert!(u64::from(model[chosen]) * u64::from(weights[other]) <= u64::from(model[other]) * u64::from(weights[chosen]));
                }
                prop_assert!(weights[chosen] > 0);
                model[chosen] += 1;
                held.push(claim);
            } else {
                prop_assert!(weights.iter().all(|&weight| weight == 0));
            }
            prop_assert_eq!(actives(&pool), model.clone());
        }
        drop(held);
        prop_assert!(actives(&pool).iter().all(|&active| active == 0));
    }

    /// After k turns a backend has had its share of them, give or take what the law of `turn` allows, by either policy:
    /// for least connections every turn is a tie, because each connection ends before the next begins.
    #[test]
    fn turns_go_round_by_weight(weights in proptest::collection::vec(prop_oneof![1..=5u32, 1..=1000u32], 1..12), least in any::<bool>(), turns in 1..600usize) {
        let policy = if least { Policy::LeastConnections } else { Policy::RoundRobin };
        let pool = pool(policy, &weights);
        let mut workers = [Chooser::new(pool.clone(), 1), Chooser::new(pool, 2)];
        let total = f64::from(weights.iter().sum::<u32>());
        let mut had = vec![0f64; weights.len()];
        for turn in 1..=turns {
            let claim = choose(&mut workers[turn % 2]).expect("somebody may serve");
            had[index(&claim)] += 1.0;
            for (had, &weight) in had.iter().zip(&weights) {
                let share = f64::from(weight) / total;
                let slack = 0.5 + (weights.len() as f64 - 2.0) * share / 2.0;
                let off = had - turn as f64 * share;
                prop_assert!(off.abs() <= slack.max(0.5) + 0.01, "after {turn} turns {had} of weight {weight} in {total}");
            }
        }
    }

    /// A tried backend is not offered again, and each of the others is.
    #[test]
    fn no_backend_is_tried_twice(count in 1..12usize, least in any::<bool>()) {
        let policy = if least { Policy::LeastConnections } else { Policy::RoundRobin };
        let pool = pool(policy, &vec![1; count]);
        let mut chooser = Chooser::new(pool, 1);
        let mut tried = Tried::new();
        for _ in 0..count {
            let claim = chooser.choose(&Request { client: None, tried: &tried }, Time::ZERO).expect("one is left");
            prop_assert!(!tried.contains(claim.backend().id()));
            tried.insert(claim.backend());
        }
        let after_all = chooser.choose(&Request { client: None, tried: &tried }, Time::ZERO);
        prop_assert!(after_all.is_err());
    }
}

#[test]
fn heavy_backends_are_served_in_smooth_order() {
    let pool = pool(Policy::RoundRobin, &[5, 1, 1]);
    let mut chooser = Chooser::new(pool, 1);
    let order: Vec<usize> = (0..14).map(|_| index(&choose(&mut chooser).expect("somebody may serve"))).collect();
    assert_eq!(order, [0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 1, 2, 0, 0]);
}

#[test]
fn nobody_serves_an_empty_or_weightless_pool() {
    for weights in [&[][..], &[0], &[0, 0]] {
        for policy in Policy::ALL {
            assert!(choose(&mut Chooser::new(pool(*policy, weights), 1)).is_none(), "{policy} {weights:?}");
        }
    }
}

#[test]
fn a_client_that_has_tried_as_many_as_can_be_remembered_gets_no_more() {
    let pool = pool(Policy::LeastConnections, &[1; CONNECT_ATTEMPTS_MAX + 1]);
    let mut tried = Tried::new();
    for backend in pool.snapshot().backends() {
        tried.insert(backend);
    }
    assert_eq!(tried.len(), CONNECT_ATTEMPTS_MAX);
    let offered = Chooser::new(pool, 1).choose(&Request { client: None, tried: &tried }, Time::ZERO);
    assert!(offered.is_err(), "it could be one that it has tried: {offered:?}");
}

#[test]
fn above_the_exact_limit_the_best_of_the_draws_is_taken() {
    let count = LEAST_CONNECTIONS_EXACT_MAX + 1;
    let pool = pool(Policy::LeastConnections, &vec![1; count]);
    let mut chooser = Chooser::new(pool.clone(), 1);
    let held: Vec<Claim> = (0..count * 4).map(|_| choose(&mut chooser).expect("somebody may serve")).collect();
    // Best of 64 keeps the spread near the exact 4; a single draw would leave some with none and some with 12.
    let actives = actives(&pool);
    assert!(actives.iter().all(|active| (2..=5).contains(active)), "{actives:?}");
    drop(held);
}

#[test]
fn one_free_backend_among_many_tried_or_weightless_is_found() {
    let mut weights = vec![0; LEAST_CONNECTIONS_EXACT_MAX * 2];
    weights[1_500] = 3;
    let mut chooser = Chooser::new(pool(Policy::LeastConnections, &weights), 1);
    assert_eq!(index(&choose(&mut chooser).expect("one may serve")), 1_500);
}
