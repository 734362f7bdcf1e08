//! How a side is received from: each piece says something about the next.

use crate::limits::{BUFFER_BYTES, BULK_BUFFER_BYTES, SPLICE_PIECE_BYTES, WATERMARK_LOW_BYTES};

/// So many small pieces in a row and a direction is not bulk any more.
const SMALL_PIECES: i8 = 8;

/// So many full small pieces in a row, 32 KiB, and it is.
pub(super) const FULL_PIECES: u8 = 8;

/// So many pieces in a row that were worth splicing, and it is spliced.
const WORTHY_PIECES: i8 = 4;

/// How a side is received from. Bulk shows itself by full buffers, and its end by pieces that need no large one.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Pieces {
    /// In small ones, until further notice; so many in a row were full.
    Small { full: u8 },
    /// In large ones, each asked for by itself; so many in a row were worth splicing or, below 0, would have fit a small buffer.
    Large { run: i8 },
    /// Through a pipe, each asked for by itself; so many in a row were not worth it.
    Spliced { small: i8 },
}

impl Pieces {
    /// Nothing is known of the side.
    pub(super) const NEW: Pieces = Pieces::Small { full: 0 };

    /// The side is bulk.
    pub(super) const BULK: Pieces = Pieces::Large { run: 0 };

    /// Whether each piece is asked for by itself, into a large buffer.
    pub(super) const fn are_large(self) -> bool {
        matches!(self, Pieces::Large { .. })
    }

    /// Whether they go through a pipe.
    pub(super) const fn are_spliced(self) -> bool {
        matches!(self, Pieces::Spliced { .. })
    }

    /// So many bytes may wait for the other side when the next piece is asked for. A pipe is used when it is empty, because
    /// a full one looks like a socket with nothing to read.
    pub(super) const fn room(self) -> usize {
        match self {
            Pieces::Small { .. } => WATERMARK_LOW_BYTES,
            Pieces::Large { .. } => BULK_BUFFER_BYTES,
            Pieces::Spliced { .. } => 0,
        }
    }

    /// Whether the side has proved to be bulk although it is received from in small pieces.
    pub(super) const fn prove_bulk(self) -> bool {
        matches!(self, Pieces::Small { full } if full >= FULL_PIECES)
    }

    /// What follows from one more piece.
    pub(super) fn after(self, bytes: usize) -> Pieces {
        match self {
            Pieces::Small { full } if bytes >= BUFFER_BYTES => Pieces::Small { full: full.saturating_add(1) },
            Pieces::Small { .. } => Pieces::Small { full: 0 },
            Pieces::Large { run } if bytes < BUFFER_BYTES => match run.min(0) - 1 {
                run if run == -SMALL_PIECES => Pieces::Small { full: 0 },
                run => Pieces::Large { run },
            },
            Pieces::Large { run } if bytes >= SPLICE_PIECE_BYTES => match run.max(0) + 1 {
                WORTHY_PIECES => Pieces::Spliced { small: 0 },
                run => Pieces::Large { run },
            },
            Pieces::Large { .. } => Pieces::BULK,
            Pieces::Spliced { small } if bytes < SPLICE_PIECE_BYTES => match small + 1 {
                SMALL_PIECES => Pieces::BULK,
                small => Pieces::Spliced { small },
            },
            Pieces::Spliced { .. } => Pieces::Spliced { small: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(pieces: Pieces, sizes: impl IntoIterator<Item = usize>) -> Pieces {
        sizes.into_iter().fold(pieces, Pieces::after)
    }

    #[test]
    fn a_direction_is_spliced_once_it_has_moved_enough_fast_enough() {
        let almost = after(Pieces::BULK, [SPLICE_PIECE_BYTES; 3]);
        assert!(almost.are_large());
        assert!(almost.after(SPLICE_PIECE_BYTES).are_spliced());
        // One piece that came slowly begins the count anew.
        let slowed = almost.after(SPLICE_PIECE_BYTES - 1);
        assert!(after(slowed, [SPLICE_PIECE_BYTES; 3]).are_large());
    }

    #[test]
    fn small_pieces_in_a_row_end_it_step_by_step() {
        let spliced = after(Pieces::BULK, [SPLICE_PIECE_BYTES; 4]);
        let paused = after(spliced, [1; 7]);
        assert!(paused.are_spliced() && paused.after(SPLICE_PIECE_BYTES).are_spliced());
        assert_eq!(after(paused, [SPLICE_PIECE_BYTES, 1, 1, 1, 1, 1, 1, 1]), paused);
        assert_eq!(paused.after(1), Pieces::BULK);
        assert_eq!(after(Pieces::BULK, [1; 8]), Pieces::NEW);
    }
}
