//! The backends that a policy chooses among, laid out for scanning.

use std::sync::Arc;

use super::backend::Backend;
use super::cells::{Chunk, Slot};
use super::random::Random;
use super::tried::BackendId;
use super::turn;

/// What a scan reads of a backend: 16 bytes, so that a thousand fit in the nearest cache beside their words.
#[derive(Copy, Clone, Debug)]
pub(super) struct Member {
    pub(super) slot: Slot,
    pub(super) weight: u32,
    /// The number of connections that it must not exceed.
    pub(super) limit: u32,
    pub(super) id: BackendId,
}

const _: () = assert!(size_of::<Member>() == 16);

/// Backends that could serve, in the order in which they were given.
pub(super) struct Group {
    members: Vec<Member>,
    /// Beside the members, because only a tie asks for them.
    strides: Vec<u64>,
    /// How long each one's slow start takes, in nanoseconds; empty where none has one.
    ramps: Vec<u64>,
    /// The sums of the weights up to each member, itself included: for draws by weight.
    sums: Vec<u64>,
    backends: Vec<Arc<Backend>>,
    chunks: Arc<[Arc<Chunk>]>,
}

impl Group {
    pub(super) fn new(backends: Vec<Arc<Backend>>, chunks: Arc<[Arc<Chunk>]>, heaviest: u32) -> Group {
        let member = |backend: &Arc<Backend>| Member {
            slot: backend.record().slot,
            weight: backend.weight().as_u32(),
            limit: match backend.settings().max_connections {
                0 => u32::MAX,
                limit => limit,
            },
            id: backend.id(),
        };
        let members: Vec<Member> = backends.iter().map(member).collect();
        let strides = members.iter().map(|member| turn::stride(member.weight, heaviest)).collect();
        let ramp = |backend: &Arc<Backend>| backend.settings().slow_start.as_nanos().min(u128::from(u64::MAX)) as u64;
        let mut ramps: Vec<u64> = backends.iter().map(ramp).collect();
        if ramps.iter().all(|&ramp| ramp == 0) {
            ramps = Vec::new();
        }
        let mut sum = 0;
        let add = |member: &Member| {
            sum += u64::from(member.weight);
            sum
        };
        let sums = members.iter().map(add).collect();
        Group { members, strides, ramps, sums, backends, chunks }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    pub(super) fn backends(&self) -> &[Arc<Backend>] {
        &self.backends
    }

    #[inline]
    pub(super) fn stride(&self, ordinal: usize) -> u64 {
        self.strides[ordinal]
    }

    /// Whether any member has a slow start.
    #[inline]
    pub(super) fn has_ramps(&self) -> bool {
        !self.ramps.is_empty()
    }

    /// How long the member's slow start takes, in nanoseconds; 0: it has none.
    pub(super) fn ramp(&self, ordinal: usize) -> u64 {
        self.ramps.get(ordinal).copied().unwrap_or(0)
    }

    pub(super) fn member(&self, ordinal: usize) -> (&Member, &Chunk) {
        let member = &self.members[ordinal];
        (member, &self.chunks[member.slot.chunk()])
    }

    /// Draws a member by weight, but not `except`; `None` where there is no other.
    pub(super) fn draw(&self, except: Option<usize>, random: &mut Random) -> Option<usize> {
        let total = *self.sums.last()?;
        let (start, weight) = match except {
            Some(except) => {
                let weight = u64::from(self.members[except].weight);
                (self.sums[except] - weight, weight)
            }
            None => (total, 0),
        };
        if total == weight {
            return None;
        }
        // The excepted member's stretch is cut out of the line, so the others are drawn by their weights still.
        let drawn = random.below(total - weight);
        let drawn = if drawn < start { drawn } else { drawn + weight };
        Some(self.sums.partition_point(|&sum| sum <= drawn))
    }

    /// Shows every member to `visit`, in order. Neighbours mostly share a chunk, so its address is looked up once for
    /// the whole run and the words are read one beside the other.
    #[inline]
    pub(super) fn each<'a>(&'a self, mut visit: impl FnMut(usize, &'a Member, &'a Chunk)) {
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
