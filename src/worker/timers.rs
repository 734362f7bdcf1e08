//! One timer wheel a worker: hierarchical, in ticks of 8 ms, with no allocation in steady state.
//!
//! Five levels of 64 slots, each level 64 times as coarse as the one below, so that a timer is moved at most four
//! times in its life (the hashed hierarchical wheel of Varghese and Lauck, 1987). A word of bits per level finds
//! the next occupied slot. Nothing is ever cancelled: whoever set a timer ignores one that it has no more use for.

use crate::slots::Key;
use crate::time::Time;

/// The wheel's resolution: a timer fires up to this much late, and never early.
pub const TICK_MILLIS: u64 = 8;

const LEVELS: usize = 5;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Emptied slots keep room for so many timers, and give back what a burst has left above it.
const ROOM_KEPT: usize = 64;

/// The timers of one worker.
#[derive(Debug)]
pub struct Timers {
    /// Everything before this tick has fired.
    tick: u64,
    occupied: [u64; LEVELS],
    slots: Vec<Vec<Timer>>,
    /// Timers of a slot that is being spread over finer ones.
    moving: Vec<Timer>,
}

/// A timer that has come due.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Timer {
    /// Whose it is.
    pub key: Key,
    /// For when it was set.
    pub at: Time,
}

impl Timers {
    /// An empty wheel that starts at `now`.
    pub fn new(now: Time) -> Timers {
        Timers {
            tick: now.millis() / TICK_MILLIS,
            occupied: [0; LEVELS],
            slots: std::iter::repeat_with(Vec::new).take(LEVELS * SLOTS).collect(),
            moving: Vec::new(),
        }
    }

    /// Sets a timer. One that lies in the past fires with the next [`expire`](Timers::expire); [`Time::NEVER`] is none.
    pub fn set(&mut self, key: Key, at: Time) {
        if at != Time::NEVER {
            self.place(Timer { key, at });
        }
    }

    /// When the wheel wants to be looked at next; nothing can be due before.
    pub fn next(&self) -> Option<Time> {
        let ticks = (0..LEVELS).filter_map(|level| self.first_tick(level));
        ticks.min().map(|tick| Time::from_millis(tick * TICK_MILLIS))
    }

    /// Appends to `due` all that is due at `now`.
    pub fn expire(&mut self, now: Time, due: &mut Vec<Timer>) {
        let until = now.millis() / TICK_MILLIS;
        while let Some((level, tick)) = self.earliest(until) {
            self.tick = tick;
            let slot = slot_of(level, tick);
            self.occupied[level] &= !(1 << (slot % SLOTS));
            if level == 0 {
                due.append(&mut self.slots[slot]);
            } else {
                let mut moving = std::mem::replace(&mut self.slots[slot], std::mem::take(&mut self.moving));
                moving.drain(..).for_each(|timer| self.place(timer));
                self.moving = moving;
                self.moving.shrink_to(ROOM_KEPT);
            }
            self.slots[slot].shrink_to(ROOM_KEPT);
        }
        self.tick = self.tick.max(until);
    }

    fn place(&mut self, timer: Timer) {
        // Rounded up: never early.
        let tick = timer.at.nanos().div_ceil(TICK_MILLIS * 1_000_000).max(self.tick);
        let differing = (tick ^ self.tick) | (SLOTS as u64 - 1);
        let level = ((63 - differing.leading_zeros()) / SLOT_BITS) as usize;
        // Beyond the last level, or across its wrap: looked at again when its slot comes, at the latest after one round.
        let farthest = self.tick + (SLOTS as u64 - 1) * width(LEVELS - 1);
        let (level, tick) = if level < LEVELS { (level, tick) } else { (LEVELS - 1, tick.min(farthest)) };
        let slot = slot_of(level, tick);
        self.occupied[level] |= 1 << (slot % SLOTS);
        self.slots[slot].push(timer);
    }

    /// The first occupied slot that begins at `until` or before. Of two that begin together the coarser comes first, because
    /// it may hold timers for the finer.
    fn earliest(&self, until: u64) -> Option<(usize, u64)> {
        let firsts = (0..LEVELS).rev().filter_map(|level| Some((level, self.first_tick(level)?)));
        firsts.min_by_key(|&(level, tick)| (tick, LEVELS - level)).filter(|&(_, tick)| tick <= until)
    }

    /// The tick at which the level's first occupied slot begins; the present one where it has begun already.
    fn first_tick(&self, level: usize) -> Option<u64> {
        if self.occupied[level] == 0 {
            return None;
        }
        let here = (self.tick / width(level)) as u32 % SLOTS as u32;
        let ahead = u64::from(self.occupied[level].rotate_right(here).trailing_zeros());
        Some(((self.tick / width(level) + ahead) * width(level)).max(self.tick))
    }
}

const fn width(level: usize) -> u64 {
    1 << (SLOT_BITS as usize * level)
}

const fn slot_of(level: usize, tick: u64) -> usize {
    level * SLOTS + (tick / width(level)) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn key(index: u32) -> Key {
        Key::new(index, 0)
    }

    #[test]
    fn a_timer_in_the_past_fires_at_once_and_never_is_none() {
        let mut timers = Timers::new(Time::from_millis(5_000));
        timers.set(key(1), Time::from_millis(10));
        timers.set(key(2), Time::NEVER);
        let mut due = Vec::new();
        timers.expire(Time::from_millis(5_000), &mut due);
        assert_eq!(due, [Timer { key: key(1), at: Time::from_millis(10) }]);
        assert_eq!(timers.next(), None);
    }

    proptest! {
        /// Every timer fires exactly once, not early, and at most a tick late when the wheel is driven by `next`.
        #[test]
        fn timers_fire_once_and_in_time(
            start in 0u64..1 << 40,
            delays in proptest::collection::vec((0u64..5_000, 0u32..40), 1..80),
        ) {
            let mut now = Time::from_millis(start);
            let mut timers = Timers::new(now);
            let mut wanted: Vec<Timer> = Vec::new();
            let mut fired: Vec<Timer> = Vec::new();
            for (index, (delay, shift)) in delays.into_iter().enumerate() {
                // Spread over all levels and beyond the last.
                let at = now + Duration::from_millis(delay << (shift % 24));
                timers.set(key(index as u32), at);
                wanted.push(Timer { key: key(index as u32), at });
                if index % 7 == 0 && let Some(next) = timers.next() {
                    now = now.max(next);
                    check(&mut timers, now, &mut fired)?;
                }
            }
            let mut rounds = 0;
            while let Some(next) = timers.next() {
                now = now.max(next);
                check(&mut timers, now, &mut fired)?;
                rounds += 1;
                prop_assert!(rounds < 10_000, "the wheel turns without end");
            }
            fired.sort_by_key(|timer| timer.key.index());
            prop_assert_eq!(fired, wanted);
        }
    }

    fn check(timers: &mut Timers, now: Time, fired: &mut Vec<Timer>) -> Result<(), TestCaseError> {
        let before = fired.len();
        timers.expire(now, fired);
        for timer in &fired[before..] {
            prop_assert!(timer.at <= now, "early");
            prop_assert!(now.since(timer.at) <= Duration::from_millis(TICK_MILLIS), "late");
        }
        Ok(())
    }
}
