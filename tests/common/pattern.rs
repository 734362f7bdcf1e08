//! Bytes that tell their place: of which stream they are, and where in it.

use std::io::{ErrorKind, Read, Write};
use std::sync::LazyLock;

/// A prime, so that no power of two (a buffer's size) maps a wrong place onto equal bytes.
const PERIOD: usize = 1_048_573;
const PIECE: usize = 256 * 1024;

/// One period, and one piece of the next, so that a piece from any place is one slice.
static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let period: Vec<u8> = (0..PERIOD)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect();
    period.iter().chain(&period[..PIECE]).copied().collect()
});

/// The bytes of stream number `stream` from `at` on: at most `len`, and at least one.
fn piece(stream: usize, at: u64, len: u64) -> &'static [u8] {
    let start = (at + stream as u64 * 7919) % PERIOD as u64;
    &BYTES[start as usize..][..len.min(PIECE as u64) as usize]
}

/// The first `len` bytes of a stream.
pub fn bytes(stream: usize, len: u64) -> Vec<u8> {
    let mut made = Vec::new();
    write(&mut made, stream, len);
    made
}

/// Writes the first `len` bytes of a stream.
pub fn write(to: &mut impl Write, stream: usize, len: u64) {
    let mut at = 0;
    while at < len {
        let piece = piece(stream, at, len - at);
        to.write_all(piece).unwrap_or_else(|error| panic!("stream {stream} at {at} of {len}: {error}"));
        at += piece.len() as u64;
    }
}

/// How a stream ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// In order.
    Eof,
    /// With a reset.
    Reset,
}

/// Reads to the end, while it checks every byte's place. Gives the length and how it ended.
pub fn read(from: &mut impl Read, stream: usize) -> (u64, End) {
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return (at, End::Eof),
            Ok(len) => {
                let wanted = piece(stream, at, len as u64);
                if buffer[..len] != *wanted {
                    let wrong = buffer.iter().zip(wanted).position(|(a, b)| a != b).expect("a byte that differs");
                    panic!("stream {stream}: byte {} is not the one that was sent", at + wrong as u64);
                }
                at += len as u64;
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return (at, End::Reset),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("stream {stream} at {at}: {error}"),
        }
    }
}

/// Reads exactly `len` bytes and checks them.
pub fn read_exactly(from: &mut impl Read, stream: usize, len: u64) {
    let (read, end) = read(&mut from.take(len), stream);
    assert_eq!((read, end), (len, End::Eof), "stream {stream} ended early");
}
