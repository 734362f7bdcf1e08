//! `source_hash`: Maglev tables, which give every backend its share of the clients and move few when backends change.
//!
//! A table is made of the names and weights that were configured, not of who may serve at the moment: where the
//! table's answer cannot serve, the client is hashed again, so only the clients of that backend move, and they return
//! with it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::backend::Backend;
use super::random::{mix, scale};
use super::settings::Policy;
use super::turn;
use crate::limits::BACKENDS_MAX;

/// Sizes of tables, all prime, so that every step walks through the whole table. The smallest that has a hundred
/// entries a backend is taken: shares are then right to about 1 %.
const SIZES: &[usize] = &[65_537, 262_147, 1_048_583, 2_097_169];

const ENTRIES_EACH: usize = 100;

const _: () = assert!(BACKENDS_MAX * ENTRIES_EACH <= SIZES[SIZES.len() - 1]);

/// The tables of one set; empty where the policy is another.
#[derive(Clone, Default)]
pub(super) struct Tables {
    primaries: Option<Table>,
    backups: Option<Table>,
}

/// A table, and where its backends stand in the group that serves.
#[derive(Clone)]
pub(super) struct Table {
    maglev: Arc<Maglev>,
    /// For each of the table's backends its ordinal in the group, or [`ABSENT`].
    ordinals: Vec<u16>,
}

const ABSENT: u16 = u16::MAX;

const _: () = assert!(BACKENDS_MAX < ABSENT as usize);

struct Maglev {
    /// What it was made of: names and weights, by name.
    of: Vec<(String, u32)>,
    entries: Box<[u16]>,
}

impl Tables {
    /// The tables for `backends`, made anew only where those `before` do not fit.
    pub(super) fn new(policy: Policy, backends: &[Arc<Backend>], before: &Tables) -> Tables {
        if policy != Policy::SourceHash {
            return Tables::default();
        }
        Tables {
            primaries: Some(Table::new(backends, false, before.primaries.as_ref())),
            backups: Some(Table::new(backends, true, before.backups.as_ref())),
        }
    }

    pub(super) fn primaries(&self) -> Option<&Table> {
        self.primaries.as_ref()
    }

    pub(super) fn backups(&self) -> Option<&Table> {
        self.backups.as_ref()
    }
}

impl Table {
    fn new(backends: &[Arc<Backend>], backup: bool, before: Option<&Table>) -> Table {
        let members = backends.iter().filter(|one| one.settings().backup == backup && one.weight().as_u32() > 0);
        let mut of: Vec<(String, u32)> =
            members.clone().map(|member| (member.name().to_owned(), member.weight().as_u32())).collect();
        // By name, so that the order in the configuration means nothing.
        of.sort_unstable();
        let serving: HashMap<&str, u16> =
            members.filter(|one| one.may_serve()).map(|one| one.name()).zip(0..).collect();
        let ordinals = of.iter().map(|(name, _)| serving.get(name.as_str()).copied().unwrap_or(ABSENT)).collect();
        let maglev = match before {
            Some(before) if before.maglev.of == of => before.maglev.clone(),
            _ => Arc::new(Maglev::new(of)),
        };
        Table { maglev, ordinals }
    }

    /// The ordinal in the group that a client's hash leads to at its `attempt`; `None` where that backend is not one of
    /// the group now.
    pub(super) fn pick(&self, hash: u64, attempt: u64) -> Option<usize> {
        let entries = &self.maglev.entries;
        if entries.is_empty() {
            return None;
        }
        let spread = mix(hash.wrapping_add(attempt.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let backend = entries[scale(spread, entries.len() as u64) as usize];
        let ordinal = self.ordinals[usize::from(backend)];
        (ordinal != ABSENT).then_some(usize::from(ordinal))
    }
}

impl Maglev {
    fn new(of: Vec<(String, u32)>) -> Maglev {
        let Some(heaviest) = of.iter().map(|&(_, weight)| weight).max() else {
            return Maglev { of, entries: Box::new([]) };
        };
        let size = SIZES.iter().copied().find(|&size| size >= of.len() * ENTRIES_EACH).unwrap_or(SIZES[0]);
        // Each backend walks through the table by a step of its own, and takes the first free entry that it comes to
        // when it is its turn; turns go by weight.
        let mut walks: Vec<(usize, usize)> = of.iter().map(|(name, _)| walk(name, size)).collect();
        let strides: Vec<u64> = of.iter().map(|&(_, weight)| turn::stride(weight, heaviest)).collect();
        let mut turns: BinaryHeap<Reverse<(u64, usize)>> =
            strides.iter().enumerate().map(|(index, stride)| Reverse((stride / 2, index))).collect();
        let mut entries = vec![ABSENT; size];
        for _ in 0..size {
            let Some(mut next) = turns.peek_mut() else { break };
            let Reverse((pass, index)) = *next;
            let (at, step) = &mut walks[index];
            while entries[*at] != ABSENT {
                *at = (*at + *step) % size;
            }
            entries[*at] = index as u16;
            *next = Reverse((pass + strides[index], index));
        }
        Maglev { of, entries: entries.into() }
    }
}

/// Where a backend's walk through a table begins, and its step.
fn walk(name: &str, size: usize) -> (usize, usize) {
    let hash = hash_bytes(name.as_bytes());
    let start = scale(mix(hash), size as u64) as usize;
    let step = 1 + scale(mix(hash ^ 0xA5A5_A5A5_A5A5_A5A5), size as u64 - 1) as usize;
    (start, step)
}

/// The hash of a client: the same in every process, and the same for an IPv4 address however it is written.
pub(super) fn hash_client(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => hash_bytes(&address.octets()),
        IpAddr::V6(address) => hash_bytes(&address.octets()),
    }
}

/// FNV-1a, then mixed, because its upper bits alone are poor.
fn hash_bytes(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    mix(bytes.iter().fold(0xCBF2_9CE4_8422_2325, fold))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(weights: &[(String, u32)]) -> Maglev {
        let mut of = weights.to_vec();
        of.sort_unstable();
        Maglev::new(of)
    }

    fn owner(table: &Maglev, entry: usize) -> &str {
        &table.of[usize::from(table.entries[entry])].0
    }

    #[test]
    fn sizes_are_prime() {
        for &size in SIZES {
            assert!((2..).take_while(|divisor| divisor * divisor <= size).all(|divisor| size % divisor != 0), "{size}");
        }
    }

    #[test]
    fn a_client_hashes_alike_over_v4_and_mapped_v6() {
        let v4: IpAddr = "192.0.2.7".parse().expect("an address");
        let mapped: IpAddr = "::ffff:192.0.2.7".parse().expect("an address");
        assert_eq!(hash_client(v4), hash_client(mapped));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

        /// Every backend has its share of the table, and removing one moves hardly anything but its own entries.
        #[test]
        fn shares_are_right_and_disruption_is_bounded(weights in proptest::collection::vec(1..=10u32, 2..40), gone in any::<prop::sample::Index>()) {
            let of: Vec<(String, u32)> = weights.iter().enumerate().map(|(index, &weight)| (format!("b{index}"), weight)).collect();
            let before = table(&of);
            let total: u32 = weights.iter().sum();
            let size = before.entries.len();
            for (name, weight) in &of {
                let had = (0..size).filter(|&entry| owner(&before, entry) == name).count();
                let share = size as f64 * f64::from(*weight) / f64::from(total);
                prop_assert!((had as f64 - share).abs() <= 0.01 * share + 2.0, "{name}: {had} of {share}");
            }
            let gone = gone.index(of.len());
            let mut rest = of.clone();
            let (name, _) = rest.remove(gone);
            let after = table(&rest);
            let others = (0..size).filter(|&entry| owner(&before, entry) != name);
            let moved = others.filter(|&entry| owner(&before, entry) != owner(&after, entry)).count();
            prop_assert!(moved * 100 <= size * 8, "{moved} of {size} entries of others moved");
        }
    }
}
