//! A slab whose keys carry generations, so that a late reference to a reused slot is recognised.

/// How many bits of a key's generation are kept: it travels in 24 bits of an operation's tag.
const GENERATION_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// The largest number of slots: an index travels in 24 bits of an operation's tag.
pub const SLOTS_MAX: usize = 1 << 24;

/// Names one occupancy of one slot. After the slot is freed and taken again, the old key finds nothing.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// A key from its parts, as read back from an operation's tag.
    pub const fn new(index: u32, generation: u32) -> Key {
        Key { index, generation: generation & GENERATION_MASK }
    }

    /// The slot's number, below [`SLOTS_MAX`].
    pub const fn index(self) -> u32 {
        self.index
    }

    /// The slot's generation, below 2^24.
    pub const fn generation(self) -> u32 {
        self.generation
    }
}

/// The slab. Slots are handed out last-freed first, so that the hot ones stay in the cache.
#[derive(Debug)]
pub struct Slots<T> {
    chunks: Vec<Box<[Slot<T>]>>,
    free_head: u32,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    Taken(T),
    Free { next: u32 },
}

const NONE: u32 = u32::MAX;
const CHUNK: usize = 64;

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots::new()
    }
}

impl<T> Slots<T> {
    /// An empty slab; it allocates with the first insert and then chunk by chunk, never moving what it holds.
    pub const fn new() -> Slots<T> {
        Slots { chunks: Vec::new(), free_head: NONE, len: 0 }
    }

    /// How many slots are taken.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no slot is taken.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes a slot for `value`.
    ///
    /// # Errors
    /// Gives the value back when [`SLOTS_MAX`] slots are taken.
    pub fn insert(&mut self, value: T) -> Result<Key, T> {
        if self.free_head == NONE && !self.grow() {
            return Err(value);
        }
        let index = self.free_head;
        let slot = &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK];
        let State::Free { next } = slot.state else { unreachable!("the free list holds free slots only") };
        self.free_head = next;
        slot.state = State::Taken(value);
        self.len += 1;
        Ok(Key::new(index, slot.generation))
    }

    /// The value under `key`, if that occupancy still lasts.
    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.chunks.get(key.index as usize / CHUNK)?.get(key.index as usize % CHUNK)?;
        match &slot.state {
            State::Taken(value) if slot.generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The value under `key`, if that occupancy still lasts.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.chunks.get_mut(key.index as usize / CHUNK)?.get_mut(key.index as usize % CHUNK)?;
        match &mut slot.state {
            State::Taken(value) if slot.generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// Frees the slot and ends the life of its key.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let slot = &mut self.chunks[key.index as usize / CHUNK][key.index as usize % CHUNK];
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        let State::Taken(value) = std::mem::replace(&mut slot.state, State::Free { next: self.free_head }) else {
            unreachable!("`get` found it taken")
        };
        self.free_head = key.index;
        self.len -= 1;
        Some(value)
    }

    /// The keys of all taken slots, in slot order.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        let slots = self.chunks.iter().flat_map(|chunk| chunk.iter());
        slots.enumerate().filter_map(|(index, slot)| match slot.state {
            State::Taken(_) => Some(Key::new(index as u32, slot.generation)),
            State::Free { .. } => None,
        })
    }

    /// The keys of the taken ones among `most` slots from number `from` on, in slot order, and the number behind these
    /// slots; `None`: there are no more.
    pub fn window(&self, from: u32, most: u32) -> (Vec<Key>, Option<u32>) {
        let end = from.saturating_add(most);
        let key = |index: u32| {
            let slot = self.chunks.get(index as usize / CHUNK)?.get(index as usize % CHUNK)?;
            matches!(slot.state, State::Taken(_)).then(|| Key::new(index, slot.generation))
        };
        let last = u32::try_from(self.chunks.len() * CHUNK).unwrap_or(u32::MAX);
        ((from..end.min(last)).filter_map(key).collect(), Some(end).filter(|end| *end < last))
    }

    fn grow(&mut self) -> bool {
        let start = self.chunks.len() * CHUNK;
        if start + CHUNK > SLOTS_MAX {
            return false;
        }
        let last = start + CHUNK - 1;
        let slots = (start..=last).map(|index| {
            let next = if index == last { self.free_head } else { index as u32 + 1 };
            Slot { generation: 0, state: State::Free { next } }
        });
        self.chunks.push(slots.collect());
        self.free_head = start as u32;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_old_key_finds_nothing_after_reuse() {
        let mut slots = Slots::new();
        let old = slots.insert("old").unwrap();
        assert_eq!(slots.remove(old), Some("old"));
        let new = slots.insert("new").unwrap();
        assert_eq!(new.index(), old.index());
        assert_eq!(slots.get(old), None);
        assert_eq!(slots.remove(old), None);
        assert_eq!(slots.get(new), Some(&"new"));
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec(any::<(bool, u16)>(), 0..600)) {
            let mut slots = Slots::new();
            let mut model: Vec<(Key, u16)> = Vec::new();
            for (insert, value) in steps {
                if insert || model.is_empty() {
                    model.push((slots.insert(value).unwrap(), value));
                } else {
                    let (key, value) = model.swap_remove(value as usize % model.len());
                    prop_assert_eq!(slots.remove(key), Some(value));
                    prop_assert_eq!(slots.get(key), None);
                }
                prop_assert_eq!(slots.len(), model.len());
            }
            for (key, value) in &model {
                prop_assert_eq!(slots.get(*key), Some(value));
            }
            prop_assert_eq!(slots.keys().count(), model.len());
            let (mut from, mut seen) = (Some(0), Vec::new());
            while let Some(start) = from {
                let (keys, next) = slots.window(start, 7);
                prop_assert!(keys.iter().all(|key| (start..start + 7).contains(&key.index())));
                seen.extend(keys);
                from = next;
            }
            prop_assert_eq!(seen, slots.keys().collect::<Vec<_>>());
        }
    }
}
