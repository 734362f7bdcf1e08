//! What belongs to the slots of a slab and is kept beside it.

use super::{BLOCK_CACHED_BYTES, chunks_first};

/// A row for each slot's number, made when it is first written and let go of, with its neighbours, when all of them are at rest.
#[derive(Debug)]
pub struct Rows<T> {
    chunks: Vec<Chunk<T>>,
}

/// None while it is let go of.
type Chunk<T> = Option<Box<[T; CHUNK]>>;

const CHUNK: usize = 128;

impl<T> Default for Rows<T> {
    fn default() -> Rows<T> {
        Rows { chunks: Vec::new() }
    }
}

impl<T: Copy + Default> Rows<T> {
    /// The row of this number, unless it was never written.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        Some(&self.chunks.get(index as usize / CHUNK)?.as_ref()?[index as usize % CHUNK])
    }

    /// The row of this number; as [`Default`] has it where there was none.
    #[inline]
    pub fn row(&mut self, index: u32) -> &mut T {
        let number = index as usize / CHUNK;
        if self.chunks.get(number).is_none_or(Option::is_none) {
            self.grow(number);
        }
        let chunk = self.chunks[number].as_mut().unwrap_or_else(|| unreachable!("it was just made"));
        &mut chunk[index as usize % CHUNK]
    }

    /// Lets go of the chunks all of whose rows are at rest.
    pub fn shrink(&mut self, rests: impl Fn(&T) -> bool) {
        for chunk in &mut self.chunks {
            if chunk.as_ref().is_some_and(|rows| rows.iter().all(&rests)) {
                *chunk = None;
            }
        }
        let used = self.chunks.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.chunks.truncate(used);
        self.chunks.shrink_to((2 * used).max(chunks_first::<Chunk<T>>()));
    }

    #[cold]
    fn grow(&mut self, number: usize) {
        const { assert!(size_of::<[T; CHUNK]>() > BLOCK_CACHED_BYTES) };
        if self.chunks.is_empty() {
            self.chunks.reserve(chunks_first::<Chunk<T>>());
        }
        if number >= self.chunks.len() {
            self.chunks.resize_with(number + 1, || None);
        }
        self.chunks[number] = Some(Box::new([T::default(); CHUNK]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_what_was_written_until_their_neighbours_rest_too() {
        // More than there is room for from the beginning.
        let first = chunks_first::<Chunk<u128>>();
        let count = (2 * first * CHUNK) as u32;
        let mut rows: Rows<u128> = Rows::default();
        assert_eq!(rows.get(3), None);
        for index in 0..count {
            *rows.row(index) = u128::from(index) + 1;
        }
        assert_eq!(rows.get(200), Some(&201));
        for index in (0..count).filter(|index| *index != 200) {
            *rows.row(index) = 0;
        }
        rows.shrink(|row| *row == 0);
        assert_eq!((rows.get(200), rows.get(201), rows.get(5), rows.chunks.len()), (Some(&201), Some(&0), None, 2));
        *rows.row(200) = 0;
        rows.shrink(|row| *row == 0);
        assert_eq!((rows.get(200), rows.chunks.len(), rows.chunks.capacity()), (None, 0, first));
        *rows.row(300) = 7;
        assert_eq!((*rows.row(299), *rows.row(300)), (0, 7));
    }
}
