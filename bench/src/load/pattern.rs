//! Bytes whose place can be told from their value, so that a lost, doubled or moved byte shows.

/// Length after which the bytes repeat: a prime, so that no buffer size of a proxy divides it and a chunk that
/// went missing cannot be mistaken for the next one.
pub const PERIOD: usize = 65_521;

/// A table of random bytes that repeats every [`PERIOD`], long enough to take `longest` bytes from any offset
/// below the period in one piece.
#[derive(Debug)]
pub struct Pattern {
    bytes: Vec<u8>,
}

impl Pattern {
    /// The same table each time, for pieces of up to `longest` bytes.
    pub fn new(longest: usize) -> Pattern {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut bytes: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        bytes.reserve(longest);
        for at in 0..longest {
            bytes.push(bytes[at]);
        }
        Pattern { bytes }
    }

    /// `length` bytes of the stream from position `from` on.
    ///
    /// # Panics
    /// `length` is more than the table was made for.
    pub fn piece(&self, from: u64, length: usize) -> &[u8] {
        let start = (from % PERIOD as u64) as usize;
        &self.bytes[start..start + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_continue_each_other_across_the_period() {
        let pattern = Pattern::new(3000);
        let from = PERIOD as u64 - 1000;
        let whole = pattern.piece(from, 3000).to_vec();
        let mut joined = pattern.piece(from, 1700).to_vec();
        joined.extend_from_slice(pattern.piece(from + 1700, 1300));
        assert_eq!(whole, joined);
    }

    #[test]
    fn a_shifted_piece_differs() {
        let pattern = Pattern::new(64 * 1024);
        for shift in [1, 2, 4096, 16_384, 65_536] {
            assert_ne!(pattern.piece(5, 64), pattern.piece(5 + shift, 64), "shift {shift}");
        }
    }
}
