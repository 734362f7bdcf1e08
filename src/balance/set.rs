//! The immutable snapshot of a pool: settings, addresses, weights and states together, so that no two can disagree.

use std::fmt;
use std::sync::Arc;

use super::backend::Backend;
use super::cells::Chunk;
use super::group::Group;
use super::hash::Tables;
use super::settings::{PoolSettings, State, Weight};
use super::turn;

/// A snapshot. It never changes; a new one takes its place.
pub struct BackendSet {
    settings: PoolSettings,
    revision: u64,
    backends: Vec<Arc<Backend>>,
    heaviest: u32,
    pub(super) primaries: Group,
    pub(super) backups: Group,
    pub(super) tables: Tables,
}

impl BackendSet {
    pub(super) fn empty(settings: PoolSettings) -> BackendSet {
        BackendSet::new(settings, 0, Vec::new(), Arc::new([]), &Tables::default())
    }

    /// `tables`: those of the set before, which are used again if they still fit.
    pub(super) fn new(
        settings: PoolSettings,
        revision: u64,
        backends: Vec<Arc<Backend>>,
        chunks: Arc<[Arc<Chunk>]>,
        tables: &Tables,
    ) -> BackendSet {
        let heaviest = backends.iter().map(|backend| backend.weight().as_u32()).max().unwrap_or(0);
        let group = |backup| {
            let serving = backends.iter().filter(|one| one.settings().backup == backup && one.may_serve());
            Group::new(serving.cloned().collect(), chunks.clone(), heaviest)
        };
        let (primaries, backups) = (group(false), group(true));
        let tables = Tables::new(settings.policy, &backends, tables);
        BackendSet { settings, revision, backends, heaviest, primaries, backups, tables }
    }

    /// What the pool was told to be.
    pub fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    /// Counts the snapshots of the pool, from 1.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Every backend, in the order in which they were given.
    pub fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    /// How far a turn moves a backend of `weight` in this set.
    pub(super) fn stride(&self, weight: Weight) -> u64 {
        turn::stride(weight.as_u32().max(1), self.heaviest.max(1))
    }

    /// The backends that an operator wants to serve: the whole that `max_ejected_percent` is a part of, and the one that
    /// is never ejected if it is the only one.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &Arc<Backend>> {
        self.backends.iter().filter(|one| one.settings().state == State::Ready && one.weight().as_u32() > 0)
    }

    /// Whether there are backends that could serve, and every one of them is ejected.
    pub(super) fn all_ejected(&self) -> bool {
        let mut serving = self.primaries.backends().iter().chain(self.backups.backends()).peekable();
        serving.peek().is_some() && serving.all(|backend| backend.is_ejected())
    }
}

impl fmt::Debug for BackendSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendSet").field("revision", &self.revision).field("backends", &self.backends).finish()
    }
}
