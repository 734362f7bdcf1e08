//! The laws of choosing, over the public interface.

mod gates;
mod laws;
mod model;
mod passive;
mod policies;
mod queue;
mod stress;
mod swaps;
mod words;

use std::net::SocketAddr;
use std::sync::Arc;

use super::settings::{BackendSettings, Policy, PoolSettings, Weight};
use super::{Chooser, Claim, Pool, Request, Tried};
use crate::time::Time;

/// A backend named by its index, of that weight.
fn backend(index: usize, weight: u32) -> BackendSettings {
    let address = SocketAddr::from(([10, 0, (index / 256) as u8, (index % 256) as u8], 3000));
    BackendSettings {
        weight: Weight::new(weight).expect("a possible weight"),
        ..BackendSettings::new(index.to_string(), address.into())
    }
}

fn backends(weights: &[u32]) -> Vec<BackendSettings> {
    weights.iter().enumerate().map(|(index, &weight)| backend(index, weight)).collect()
}

fn settings(policy: Policy) -> PoolSettings {
    PoolSettings { policy, ..PoolSettings::new("pool") }
}

fn pool(policy: Policy, weights: &[u32]) -> Arc<Pool> {
    Pool::new(settings(policy), backends(weights), Time::ZERO).expect("a possible set")
}

/// Chooses for a client that has tried nothing.
fn choose(chooser: &mut Chooser) -> Option<Claim> {
    chooser.choose(&Request { client: None, tried: &Tried::new() }, Time::ZERO).ok()
}

/// The index that the claim's backend was named by.
fn index(claim: &Claim) -> usize {
    claim.backend().name().parse().expect("named by its index")
}
