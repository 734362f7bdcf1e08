//! Byte streams whose every byte follows from the stream and its offset, so that nothing has to be remembered to check
//! what came out at the other end.

use std::sync::LazyLock;

use super::random::Random;
use crate::limits::BULK_BUFFER_BYTES;

/// A prime: no buffer size divides it, so a piece out of place never looks right.
const PERIOD: u64 = 65_521;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random::new(0x7269_6e67_6c62);
    let period: Vec<u8> = (0..PERIOD).map(|_| random.next() as u8).collect();
    period.iter().chain(&period).chain(&period).copied().collect()
});

/// What one peer says, without an end.
#[derive(Copy, Clone, Debug)]
pub(super) struct Stream(u64);

impl Stream {
    pub(super) fn new(random: &mut Random) -> Stream {
        Stream(random.below(PERIOD))
    }

    /// `bytes` bytes from `offset` on, at most a large buffer's worth.
    pub(super) fn slice(self, offset: u64, bytes: usize) -> &'static [u8] {
        assert!(bytes <= BULK_BUFFER_BYTES);
        let start = ((self.0 + offset) % PERIOD) as usize;
        &BYTES[start..start + bytes]
    }

    /// Whether `bytes` is what stands at `offset`.
    pub(super) fn matches(self, offset: u64, bytes: &[u8]) -> bool {
        let mut offset = offset;
        bytes.chunks(BULK_BUFFER_BYTES).all(|chunk| {
            let same = chunk == self.slice(offset, chunk.len());
            offset += chunk.len() as u64;
            same
        })
    }
}

#[test]
fn one_byte_out_of_place_is_seen() {
    let stream = Stream::new(&mut Random::new(1));
    let mut bytes = stream.slice(1_000_000, 3000).to_vec();
    assert!(stream.matches(1_000_000, &bytes));
    assert!(!stream.matches(1_000_001, &bytes));
    bytes.swap(10, 2000);
    assert!(!stream.matches(1_000_000, &bytes));
}
