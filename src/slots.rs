//! A slab whose keys carry generations, so that a late reference to a reused slot is recognised.

mod rows;

pub use rows::Rows;

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

/// The slab. Slots are handed out last-freed first within a chunk, so that the hot ones stay in the cache, and from the first
/// chunk that has one, so that those behind become empty and can be let go of.
#[derive(Debug)]
pub struct Slots<T> {
    chunks: Vec<Chunk<T>>,
    /// One bit for each chunk that has slots, and a free one among them.
    open: Vec<u64>,
    /// No word of `open` before this one has a bit.
    open_from: usize,
    /// Chunks that were let go of.
    gone: Vec<u32>,
    /// Chunks all of whose slots are free.
    empty: usize,
    len: usize,
}

#[derive(Debug)]
struct Chunk<T> {
    /// None while it is let go of.
    slots: Box<[Slot<T>]>,
    free_head: u8,
    taken: u8,
    /// The first generation of its slots when it is made anew: above all that they had.
    generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    state: State<T>,
}

#[derive(Debug)]
enum State<T> {
    Taken(T),
    Free { next: u8 },
}

/// Behind the last free slot of a chunk.
const NONE: u8 = u8::MAX;
const CHUNK: usize = 64;

/// One empty chunk is kept, and one for so many that are in use: what comes and goes need not be allocated again and again.
const CHUNKS_KEPT_SHARE: usize = 8;

/// Blocks up to this size each thread keeps when they are freed, seven of every size, and with them the pages they are in (the
/// cache of glibc). What grows with the number of clients is made of larger ones.
const BLOCK_CACHED_BYTES: usize = 1032;

/// For so many chunks a list has room from the beginning. One that grew from nothing would leave a block of each small size behind,
/// among the blocks of the crowd that has made it grow.
const fn chunks_first<C>() -> usize {
    BLOCK_CACHED_BYTES / size_of::<C>() + 1
}

const _: () = assert!(CHUNK < NONE as usize);

impl<T> Default for Slots<T> {
    fn default() -> Slots<T> {
        Slots::new()
    }
}

impl<T> Slots<T> {
    /// What one slot takes.
    pub const SLOT_BYTES: usize = size_of::<Slot<T>>();

    /// An empty slab; it allocates with the first insert and then chunk by chunk, never moving what it holds.
    pub const fn new() -> Slots<T> {
        Slots { chunks: Vec::new(), open: Vec::new(), open_from: 0, gone: Vec::new(), empty: 0, len: 0 }
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
        let Some(number) = self.first_open() else { return Err(value) };
        let chunk = &mut self.chunks[number];
        let within = chunk.free_head;
        let slot = &mut chunk.slots[usize::from(within)];
        let State::Free { next } = slot.state else { unreachable!("the free list holds free slots only") };
        slot.state = State::Taken(value);
        let key = Key::new((number * CHUNK) as u32 + u32::from(within), slot.generation);
        chunk.free_head = next;
        if chunk.taken == 0 {
            self.empty -= 1;
        }
        chunk.taken += 1;
        if next == NONE {
            self.open[number / 64] &= !(1 << (number % 64));
        }
        self.len += 1;
        Ok(key)
    }

    /// The value under `key`, if that occupancy still lasts.
    #[inline]
    pub fn get(&self, key: Key) -> Option<&T> {
        match self.slot(key.index) {
            Some(Slot { generation, state: State::Taken(value) }) if *generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The value under `key`, if that occupancy still lasts.
    #[inline]
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.chunks.get_mut(key.index as usize / CHUNK)?.slots.get_mut(key.index as usize % CHUNK)?;
        match &mut slot.state {
            State::Taken(value) if slot.generation == key.generation => Some(value),
            _ => None,
        }
    }

    /// The key of the slot of this number, if it is taken.
    pub fn key(&self, index: u32) -> Option<Key> {
        let slot = self.slot(index)?;
        matches!(slot.state, State::Taken(_)).then(|| Key::new(index, slot.generation))
    }

    /// Frees the slot and ends the life of its key.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        let (number, within) = (key.index as usize / CHUNK, key.index as usize % CHUNK);
        let chunk = &mut self.chunks[number];
        let slot = &mut chunk.slots[within];
        slot.generation = (slot.generation + 1) & GENERATION_MASK;
        let State::Taken(value) = std::mem::replace(&mut slot.state, State::Free { next: chunk.free_head }) else {
            unreachable!("`get` found it taken")
        };
        chunk.free_head = within as u8;
        chunk.taken -= 1;
        self.empty += usize::from(chunk.taken == 0);
        self.open[number / 64] |= 1 << (number % 64);
        self.open_from = self.open_from.min(number / 64);
        self.len -= 1;
        Some(value)
    }

    /// Whether more chunks are empty than should be kept.
    pub const fn has_surplus(&self) -> bool {
        self.empty > self.spare()
    }

    /// Lets go of empty chunks, but for some.
    pub fn shrink(&mut self) {
        let mut surplus = self.empty.saturating_sub(self.spare());
        for (number, chunk) in self.chunks.iter_mut().enumerate().rev() {
            if surplus == 0 {
                break;
            }
            if chunk.taken > 0 || chunk.slots.is_empty() {
                continue;
            }
            // A key of before must find nothing in what comes after.
            let last = chunk.slots.iter().map(|slot| slot.generation.wrapping_sub(chunk.generation) & GENERATION_MASK);
            let last = last.max().unwrap_or_default();
            chunk.generation = (chunk.generation + last + 1) & GENERATION_MASK;
            chunk.slots = Box::default();
            self.open[number / 64] &= !(1 << (number % 64));
            self.gone.push(number as u32);
            self.empty -= 1;
            surplus -= 1;
        }
    }

    /// The keys of all taken slots, in slot order.
    pub fn keys(&self) -> impl Iterator<Item = Key> + '_ {
        (0..self.end()).filter_map(|index| self.key(index))
    }

    /// The keys of the taken ones among `most` slots from number `from` on, in slot order, and the number behind these
    /// slots; `None`: there are no more.
    pub fn window(&self, from: u32, most: u32) -> (Vec<Key>, Option<u32>) {
        let end = from.saturating_add(most);
        let keys = (from..end.min(self.end())).filter_map(|index| self.key(index)).collect();
        (keys, Some(end).filter(|end| *end < self.end()))
    }

    /// Behind the last slot.
    fn end(&self) -> u32 {
        u32::try_from(self.chunks.len() * CHUNK).unwrap_or(u32::MAX)
    }

    #[inline]
    fn slot(&self, index: u32) -> Option<&Slot<T>> {
        self.chunks.get(index as usize / CHUNK)?.slots.get(index as usize % CHUNK)
    }

    /// How many empty chunks to keep.
    const fn spare(&self) -> usize {
        1 + (self.chunks.len() - self.gone.len() - self.empty) / CHUNKS_KEPT_SHARE
    }

    /// The first chunk with a free slot, made where there is none.
    fn first_open(&mut self) -> Option<usize> {
        while let Some(word) = self.open.get(self.open_from) {
            if *word != 0 {
                return Some(self.open_from * 64 + word.trailing_zeros() as usize);
            }
            self.open_from += 1;
        }
        self.grow()
    }

    #[cold]
    fn grow(&mut self) -> Option<usize> {
        let number = match self.gone.pop() {
            Some(number) => number as usize,
            None if (self.chunks.len() + 1) * CHUNK > SLOTS_MAX => return None,
            None => {
                if self.chunks.is_empty() {
                    self.chunks.reserve(chunks_first::<Chunk<T>>());
                }
                self.chunks.push(Chunk { slots: Box::default(), free_head: NONE, taken: 0, generation: 0 });
                self.open.resize(self.chunks.len().div_ceil(64), 0);
                self.chunks.len() - 1
            }
        };
        let chunk = &mut self.chunks[number];
        let generation = chunk.generation;
        let next = |within: usize| if within + 1 == CHUNK { NONE } else { within as u8 + 1 };
        chunk.slots = (0..CHUNK).map(|within| Slot { generation, state: State::Free { next: next(within) } }).collect();
        chunk.free_head = 0;
        self.empty += 1;
        self.open[number / 64] |= 1 << (number % 64);
        self.open_from = self.open_from.min(number / 64);
        Some(number)
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

    #[test]
    fn what_a_crowd_has_taken_is_let_go_of_and_its_keys_stay_dead() {
        let mut slots = Slots::new();
        let crowd: Vec<Key> = (0..20 * CHUNK).map(|value| slots.insert(value).unwrap()).collect();
        for key in &crowd[1..] {
            slots.remove(*key);
        }
        assert!(slots.has_surplus());
        slots.shrink();
        assert!(!slots.has_surplus());
        let held = slots.chunks.iter().filter(|chunk| !chunk.slots.is_empty()).count();
        assert_eq!(held, 2, "the one in use and one to spare");
        assert_eq!((slots.get(crowd[0]), slots.len()), (Some(&0), 1));
        let again: Vec<Key> = (0..20 * CHUNK - 1).map(|value| slots.insert(value).unwrap()).collect();
        assert!(again.iter().all(|key| (key.index() as usize) < 20 * CHUNK), "numbers are used again");
        assert!(crowd[1..].iter().all(|key| slots.get(*key).is_none()));
    }

    #[test]
    fn the_first_chunk_with_room_is_filled_first() {
        let mut slots = Slots::new();
        let keys: Vec<Key> = (0..200 * CHUNK).map(|value| slots.insert(value).unwrap()).collect();
        let first = (0..CHUNK).map(|within| keys[70 * CHUNK + within]);
        for key in first.chain([keys[150 * CHUNK]]) {
            slots.remove(key);
        }
        let chunks: Vec<usize> = (0..=CHUNK).map(|_| slots.insert(0).unwrap().index() as usize / CHUNK).collect();
        assert_eq!(chunks[..CHUNK], [70; CHUNK]);
        assert_eq!(chunks[CHUNK], 150);
    }

    proptest! {
        #[test]
        fn behaves_like_a_map(steps in proptest::collection::vec(any::<(u8, u16)>(), 0..900)) {
            let mut slots = Slots::new();
            let mut model: Vec<(Key, u16)> = Vec::new();
            let (mut dead, mut ebb) = (Vec::new(), false);
            for (kind, value) in steps {
                ebb ^= kind == 0;
                if kind == 1 {
                    slots.shrink();
                    prop_assert!(!slots.has_surplus());
                } else if model.is_empty() || (kind % 4 == 0) == ebb {
                    model.push((slots.insert(value).unwrap(), value));
                } else {
                    let (key, value) = model.swap_remove(value as usize % model.len());
                    prop_assert_eq!(slots.remove(key), Some(value));
                    prop_assert_eq!(slots.get(key), None);
                    dead.push(key);
                }
                prop_assert_eq!(slots.len(), model.len());
            }
            for (key, value) in &model {
                prop_assert_eq!(slots.get(*key), Some(value));
            }
            prop_assert!(dead.iter().all(|key| slots.get(*key).is_none()));
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
