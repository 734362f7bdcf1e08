//! The immutable snapshot of a pool: settings, addresses, weights and states together, so that no two can disagree.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::cells::{Chunk, Slot};
use super::settings::{BackendSettings, PoolSettings, Weight};
use super::tried::BackendId;
use super::turn;
use super::word;
use crate::address::Address;

/// One backend as a snapshot knows it; its numbers are shared with every other snapshot of its name.
#[derive(Debug)]
pub struct Backend {
    pub(super) record: Arc<Record>,
    settings: BackendSettings,
}

/// What belongs to a backend's name, whatever becomes of its settings. While any snapshot or claim holds the record,
/// the slot of its numbers is not given to another.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) id: BackendId,
    pub(super) slot: Slot,
    pub(super) chunk: Arc<Chunk>,
}

impl Backend {
    pub(super) fn new(record: Arc<Record>, settings: BackendSettings) -> Backend {
        Backend { record, settings }
    }

    /// Its name, unique in its pool.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.settings.address
    }

    /// Its share; 0: no new connections.
    pub fn weight(&self) -> Weight {
        self.settings.weight
    }

    /// All that it was told to be.
    pub fn settings(&self) -> &BackendSettings {
        &self.settings
    }

    /// Its identity within its pool, which outlives changes of its settings.
    pub fn id(&self) -> BackendId {
        self.record.id
    }

    /// Connections that hold a place with it at this moment, those being opened included.
    pub fn active(&self) -> u32 {
        word::read(self.record.chunk.words.at(self.record.slot.cell())).active()
    }

    /// Connects that succeeded, since its name appeared.
    pub fn connected_total(&self) -> u64 {
        self.record.chunk.connected.at(self.record.slot.cell()).load(Ordering::Relaxed)
    }

    /// Connects that failed by its fault, since its name appeared.
    pub fn failed_total(&self) -> u64 {
        self.record.chunk.failed.at(self.record.slot.cell()).load(Ordering::Relaxed)
    }
}

/// A snapshot. It never changes; a new one takes its place.
pub struct BackendSet {
    settings: PoolSettings,
    revision: u64,
    backends: Vec<Arc<Backend>>,
    heaviest: u32,
    pub(super) primaries: Group,
}

impl BackendSet {
    pub(super) fn empty(settings: PoolSettings) -> BackendSet {
        BackendSet::new(settings, 0, Vec::new(), Arc::new([]))
    }

    pub(super) fn new(
        settings: PoolSettings,
        revision: u64,
        backends: Vec<Arc<Backend>>,
        chunks: Arc<[Arc<Chunk>]>,
    ) -> BackendSet {
        let heaviest = backends.iter().map(|backend| backend.weight().as_u32()).max().unwrap_or(0);
        let serving = backends.iter().filter(|backend| backend.weight().as_u32() > 0);
        let primaries = Group::new(serving.cloned().collect(), chunks, heaviest);
        BackendSet { settings, revision, backends, heaviest, primaries }
    }

    /// How far a turn moves a backend of `weight` in this set.
    pub(super) fn stride(&self, weight: Weight) -> u64 {
        turn::stride(weight.as_u32().max(1), self.heaviest.max(1))
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
}

impl fmt::Debug for BackendSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendSet").field("revision", &self.revision).field("backends", &self.backends).finish()
    }
}

/// What a scan reads of a backend: 16 bytes, so that a thousand fit in the nearest cache beside their words.
#[derive(Copy, Clone, Debug)]
pub(super) struct Member {
    pub(super) slot: Slot,
    pub(super) weight: u32,
    /// The number of connections that it must not exceed.
    pub(super) limit: u32,
    pub(super) id: BackendId,
}

/// The backends that a policy chooses among, in the order in which they were given.
pub(super) struct Group {
    members: Vec<Member>,
    /// Beside the members, because only a tie asks for them.
    strides: Vec<u64>,
    backends: Vec<Arc<Backend>>,
    chunks: Arc<[Arc<Chunk>]>,
}

impl Group {
    fn new(backends: Vec<Arc<Backend>>, chunks: Arc<[Arc<Chunk>]>, heaviest: u32) -> Group {
        let member = |backend: &Arc<Backend>| Member {
            slot: backend.record.slot,
            weight: backend.weight().as_u32(),
            limit: u32::MAX,
            id: backend.record.id,
        };
        let members: Vec<Member> = backends.iter().map(member).collect();
        let strides = members.iter().map(|member| turn::stride(member.weight, heaviest)).collect();
        Group { members, strides, backends, chunks }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn backend(&self, ordinal: usize) -> &Arc<Backend> {
        &self.backends[ordinal]
    }

    pub(super) fn stride(&self, ordinal: usize) -> u64 {
        self.strides[ordinal]
    }

    pub(super) fn member(&self, ordinal: usize) -> (&Member, &Chunk) {
        let member = &self.members[ordinal];
        (member, &self.chunks[member.slot.chunk()])
    }

    /// Shows every member to `visit`, in order. Neighbours mostly share a chunk, so its address is looked up once for
    /// the whole run and the words are read one beside the other.
    #[inline]
    pub(super) fn each(&self, mut visit: impl FnMut(usize, &Member, &Chunk)) {
        let mut ordinal = 0;
        for run in self.members.chunk_by(|one, next| one.slot.chunk() == next.slot.chunk()) {
            let chunk = &*self.chunks[run[0].slot.chunk()];
            for member in run {
                visit(ordinal, member, chunk);
                ordinal += 1;
            }
        }
    }
}
