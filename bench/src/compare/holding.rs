//! Rounds that hold connections and look at the proxy meanwhile: its memory, and how its workers share them.
//!
//! Each begins with a process that has held none before, and ends it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Contest, RoundError};
use crate::figures::{Figure, InUse, balance_sample, idle_sample, spike_sample};
use crate::interrupt;
use crate::load::{ExchangePlan, Life, LoadError, Pace, exchange, hold};
use crate::peers::Proxy;
use crate::procfs;
use crate::scenario::Traffic;

/// What each idle connection has said.
const IDLE_BYTES: usize = 64;

/// What each request of a spike has.
const SPIKE_BYTES: usize = 1024;

/// Clients that a proxy has served before its spike: it has work, but not that much.
const EVERYDAY_CONNECTIONS: usize = 64;

/// Memory that has not changed for so long is what is left of a spike.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// The longest wait for that.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// Between two looks at a proxy's memory.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Contest<'_> {
    /// Whether each round is a process of its own, checked while it is measured.
    pub(super) fn begins_afresh(&self) -> bool {
        matches!(self.scenario.traffic, Traffic::Idle { .. } | Traffic::Spike { .. } | Traffic::Balance { .. })
    }

    /// Connections of the scenario. A spike is as high as the descriptors allow.
    pub(super) fn connections(&self) -> usize {
        let wanted = self.scenario.connections();
        let spike = matches!(self.scenario.traffic, Traffic::Spike { .. });
        if spike { wanted.min(self.comparison.held_max) } else { wanted }
    }

    /// Memory before, with, and after connections at rest.
    pub(super) fn idle(&mut self, at: usize, proxied: bool) -> Result<BTreeMap<Figure, f64>, RoundError> {
        let connections = self.connections();
        self.afresh(at, |contest, proxy| {
            let in_use = || Ok::<_, std::io::Error>(InUse { user: proxy.memory()?, slab_kib: procfs::slab_kib()? });
            let before = in_use()?;
            let (mut rested, mut held) = (Ok(0.0), Ok(InUse::default()));
            hold(&mut contest.site, proxy.targets(), connections, IDLE_BYTES, &mut || {
                rested = settled(|| in_use().map(|in_use| in_use.user_kib()));
                held = in_use();
            })?;
            rested?;
            Ok(idle_sample(connections, before, held?, in_use()?, proxied))
        })
    }

    /// Memory before, with, and after connections that are all at work, of a proxy that has served some clients before.
    pub(super) fn spike(&mut self, at: usize, proxied: bool) -> Result<BTreeMap<Figure, f64>, RoundError> {
        let connections = self.connections();
        let window = self.comparison.window;
        self.afresh(at, |contest, proxy| {
            let in_use = || Ok::<_, std::io::Error>(InUse { user: proxy.memory()?, slab_kib: 0 }.user_kib());
            let (size, life, pace) = (SPIKE_BYTES, Life::Held, Pace::Closed);
            let plan = ExchangePlan { connections, size, life, check: true, pace };
            let everyday = ExchangePlan { connections: EVERYDAY_CONNECTIONS.min(connections), ..plan };
            exchange(&mut contest.site, &everyday, proxy.targets(), window, &mut || Ok(Duration::ZERO))?;
            let before = settled(in_use)?;
            let mut peak = before;
            let mut meter = || {
                peak = in_use()?.max(peak);
                Ok(Duration::ZERO)
            };
            let outcome = exchange(&mut contest.site, &plan, proxy.targets(), window, &mut meter)?;
            let mut sample = spike_sample(connections, before, peak, settled(in_use)?, proxied);
            sample.insert(Figure::Failures, outcome.failures as f64);
            sample.insert(Figure::Leftover, outcome.leftover as f64);
            Ok(sample)
        })
    }

    /// How many of the held connections each worker has.
    pub(super) fn balance(&mut self, at: usize) -> Result<BTreeMap<Figure, f64>, RoundError> {
        let connections = self.connections();
        self.afresh(at, |contest, proxy| {
            let before = proxy.held_by_workers()?;
            let mut held = Ok(Vec::new());
            hold(&mut contest.site, proxy.targets(), connections, IDLE_BYTES, &mut || held = proxy.held_by_workers())?;
            let since = held?.iter().zip(before).map(|(held, before)| held.saturating_sub(before)).collect::<Vec<_>>();
            Ok(balance_sample(connections, &since))
        })
    }

    /// A round of a process of its own, which is gone afterwards.
    fn afresh(
        &mut self,
        at: usize,
        round: impl FnOnce(&mut Self, &Proxy) -> Result<BTreeMap<Figure, f64>, RoundError>,
    ) -> Result<BTreeMap<Figure, f64>, RoundError> {
        self.entries[at].proxy = None;
        self.start(at)?;
        let Some(proxy) = self.entries[at].proxy.take() else { return Ok(BTreeMap::new()) };
        let sample = round(self, &proxy);
        // Had it ended by itself, its last words would be the reason.
        self.entries[at].proxy = sample.is_err().then_some(proxy);
        sample
    }
}

/// What is in use once that has not changed for a while.
fn settled(in_use: impl Fn() -> std::io::Result<f64>) -> Result<f64, RoundError> {
    let deadline = Instant::now() + SETTLE_MAX;
    let (mut last, mut since) = (in_use()?, Instant::now());
    while since.elapsed() < SETTLED_AFTER && Instant::now() < deadline {
        if interrupt::requested() {
            return Err(LoadError::Interrupted.into());
        }
        std::thread::sleep(LOOK_AGAIN);
        let now = in_use()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(last)
}
