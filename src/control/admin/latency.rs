//! How long clients wait: percentiles, for those who ask with a window. They are added up on a thread of their own, as a
//! scrape is, and nobody pays for them who does not ask.

use std::collections::HashMap;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::Deserialize;

use crate::balance::Pool;
use crate::config::Problem;
use crate::config::notation::quoted;
use crate::control::metrics::Metrics;
use crate::control::wire::{self, Latency};
use crate::metrics::{Latencies, Percentiles, PoolNumbers, Window};

use super::answer::Refused;

/// The query of pools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    window: Option<String>,
}

impl Wish {
    /// The window; `None`: no latencies are asked for.
    ///
    /// # Errors
    /// There is no such window.
    pub fn window(&self) -> Result<Option<Window>, Refused> {
        let Some(text) = &self.window else { return Ok(None) };
        let window = Window::ALL.into_iter().find(|window| window.name() == text);
        window.map(Some).ok_or_else(|| {
            let what = format!("{} is not a window", quoted(text));
            let why = "only these are counted: the last minute, the last five, and all since the start";
            Refused::value("`window`", Problem::new(what, why, "send window=1m, window=5m or window=all"))
        })
    }
}

/// Adds to each of `shown` the latencies of its pool, which is the one at its place in `pools`.
///
/// # Errors
/// They cannot be added up, which the log explains.
pub async fn tell(
    shown: &mut [wire::Pool],
    numbers: &Metrics,
    pools: Vec<Arc<Pool>>,
    window: Window,
) -> Result<(), Refused> {
    let numbers = numbers.of(pools, window).await.map_err(|error| {
        let message = format!("the latencies could not be added up: {error}");
        Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", message, "please report what the log says")
    })?;
    for (pool, numbers) in shown.iter_mut().zip(&numbers) {
        pool.window = Some(window.name().to_owned());
        tell_pool(pool, numbers);
    }
    Ok(())
}

fn tell_pool(pool: &mut wire::Pool, numbers: &PoolNumbers) {
    let session_seconds = percentiles(&numbers.session);
    pool.latency = Some(Latency { session_seconds, ..latency(&numbers.latencies) });
    let of: HashMap<&str, &Latencies> =
        numbers.backends.iter().map(|backend| (backend.name.as_str(), &backend.latencies)).collect();
    for backend in &mut pool.backends {
        let found = of.get(backend.name.as_str()).map(|latencies| latency(latencies));
        backend.latency = found.filter(|latency| *latency != Latency::default());
    }
}

fn latency(latencies: &Latencies) -> Latency {
    Latency {
        connect_seconds: percentiles(&latencies.connect),
        first_byte_seconds: percentiles(&latencies.first_byte),
        session_seconds: None,
    }
}

/// Nothing where nothing was counted: a zero would look like a very fast backend.
fn percentiles(from: &Percentiles) -> Option<wire::Percentiles> {
    let Percentiles { count, mean, p50, p90, p95, p99, p999, max } = *from;
    (count > 0).then_some(wire::Percentiles {
        count,
        mean: mean.as_secs_f64(),
        p50: p50.as_secs_f64(),
        p90: p90.as_secs_f64(),
        p95: p95.as_secs_f64(),
        p99: p99.as_secs_f64(),
        p999: p999.as_secs_f64(),
        max: max.as_secs_f64(),
    })
}
