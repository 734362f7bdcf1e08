//! How nasty a run's kernel and peers are: drawn once a run, so that runs differ in kind and not only in detail.

use std::time::Duration;

use super::random::{Chance, Random};

/// What may happen, and how often.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    /// A completion is handed over late, by up to `late_by`.
    pub(super) late: Chance,
    pub(super) late_by: Duration,
    /// The kernel notices something late that an operation waits for.
    pub(super) slow_wake: Chance,
    /// A cancel takes its time; what it cancels may succeed meanwhile.
    pub(super) slow_cancel: Chance,
    /// A multishot receive ends with a piece of data.
    pub(super) receive_ends: Chance,
    /// A receive ends for want of a buffer although there is one.
    pub(super) starved: Chance,
    /// A watch is dropped without news, or spent with its first.
    pub(super) watch_drops: Chance,
    /// A connect fails.
    pub(super) connect_fails: Chance,
    /// A connect is never answered.
    pub(super) connect_hangs: Chance,
    /// No socket can be opened.
    pub(super) open_fails: Chance,
    /// The worker is late, by up to seconds.
    pub(super) jump: Chance,
    /// A wait ends with nothing.
    pub(super) interrupted: Chance,
    /// A peer misbehaves.
    pub(super) peer: Chance,
    /// A peer says a lot.
    pub(super) bulk: Chance,
    /// Links are this slow at most.
    pub(super) latency: Duration,
}

impl Faults {
    /// None at all.
    pub(super) fn none() -> Faults {
        Faults {
            late: Chance::NEVER,
            late_by: Duration::ZERO,
            slow_wake: Chance::NEVER,
            slow_cancel: Chance::NEVER,
            receive_ends: Chance::NEVER,
            starved: Chance::NEVER,
            watch_drops: Chance::NEVER,
            connect_fails: Chance::NEVER,
            connect_hangs: Chance::NEVER,
            open_fails: Chance::NEVER,
            jump: Chance::NEVER,
            interrupted: Chance::NEVER,
            peer: Chance::NEVER,
            bulk: Chance::NEVER,
            latency: Duration::from_micros(50),
        }
    }

    pub(super) fn draw(random: &mut Random) -> Faults {
        // A third of the runs has none of a kind, most have some, a few have a lot.
        let draw = |random: &mut Random, most: u64| match random.below(8) {
            0..3 => Chance::NEVER,
            3..7 => Chance(random.between(1, most / 4 + 1) as u16),
            _ => Chance(random.between(1, most) as u16),
        };
        Faults {
            late: draw(random, 512),
            late_by: Duration::from_millis(random.pick(&[1, 10, 50, 300])),
            slow_wake: draw(random, 512),
            slow_cancel: draw(random, 900),
            receive_ends: draw(random, 512),
            starved: draw(random, 300),
            watch_drops: draw(random, 512),
            connect_fails: draw(random, 400),
            connect_hangs: draw(random, 200),
            open_fails: draw(random, 200),
            jump: draw(random, 8),
            interrupted: draw(random, 200),
            peer: Chance(random.pick(&[0, 0, 100, 250, 500, 1000])),
            bulk: Chance(if random.below(16) == 0 { 512 } else { 16 }),
            latency: Duration::from_micros(random.pick(&[20, 200, 2_000, 20_000])),
        }
    }
}

/// A fault planted into the kernel to see that the checks bite: each is what a bug of relay or engine would look like
/// from outside.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Sabotage {
    /// A byte is lost on its way in.
    DropByte,
    /// A piece comes twice.
    Repeat,
    /// Two halves of a piece change places.
    Swap,
    /// A send is said to have taken everything, but its last byte goes nowhere.
    LoseTail,
    /// A peer's reset looks like the end of its stream.
    PoliteReset,
    /// A stream ends before its time.
    EarlyEnd,
    /// A peer's reset is never told.
    SilentReset,
    /// A completion is never handed over.
    LoseCompletion,
    /// A byte is lost in a pipe.
    DropPiped,
    /// A buffer never comes back.
    LeakBuffer,
    /// A peer is reset out of the blue.
    SpuriousReset,
}

impl Sabotage {
    /// Every one of them, with words of the check that must find it.
    pub(super) const ALL: &[(Sabotage, &str)] = &[
        (Sabotage::DropByte, "is sent something else"),
        (Sabotage::Repeat, "is sent something else"),
        (Sabotage::Swap, "is sent something else"),
        (Sabotage::DropPiped, "is sent something else"),
        (Sabotage::LoseTail, "bytes before it"),
        (Sabotage::PoliteReset, "is told of an end that its partner has not come to"),
        (Sabotage::EarlyEnd, "is told of an end that its partner has not come to"),
        (Sabotage::SilentReset, "was not noticed"),
        (Sabotage::LoseCompletion, "have not ended"),
        (Sabotage::LeakBuffer, "buffers are missing"),
        (Sabotage::SpuriousReset, "was reset by nobody"),
    ];
}
