//! One timer wheel a worker: hierarchical, in ticks of 8 ms.
//!
//! Five levels of 64 slots, each level 64 times as coarse as the one below, so that a timer is moved at most four
//! times in its life (the hashed hierarchical wheel of Varghese and Lauck, 1987). A word of bits per level finds
//! the next occupied slot. Everybody has one timer, and the timers of a slot are linked by the numbers of those whose they are,
//! in a table: setting one allocates nothing, and who is gone leaves nothing behind.

use crate::limits::TIMER_BYTES;
use crate::slots::Rows;
use crate::time::Time;

/// The wheel's resolution: a timer fires up to this much late, and never early.
pub const TICK_MILLIS: u64 = 8;

const LEVELS: usize = 5;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;

/// The timers of one worker.
#[derive(Debug)]
pub struct Timers {
    /// Everything before this tick has fired.
    tick: u64,
    occupied: [u64; LEVELS],
    /// Whose timer is the first in each slot.
    firsts: Box<[u32; LEVELS * SLOTS]>,
    timers: Rows<Timer>,
}

/// One timer. As it is made it is not set.
#[derive(Copy, Clone, Debug)]
struct Timer {
    at: Time,
    /// Whose comes before it in its slot; of the first, [`SLOT`] and the slot's number.
    before: u32,
    /// Whose comes behind it.
    behind: u32,
}

const _: () = assert!(size_of::<Timer>() == TIMER_BYTES);

/// Nobody's.
const NONE: u32 = u32::MAX;
/// Above the numbers of all whose timers they are.
const SLOT: u32 = 1 << 31;

impl Default for Timer {
    fn default() -> Timer {
        Timer { at: Time::NEVER, before: NONE, behind: NONE }
    }
}

impl Timers {
    /// An empty wheel that starts at `now`.
    pub fn new(now: Time) -> Timers {
        Timers {
            tick: now.millis() / TICK_MILLIS,
            occupied: [0; LEVELS],
            firsts: Box::new([NONE; LEVELS * SLOTS]),
            timers: Rows::default(),
        }
    }

    /// Sets the timer of number `whose`, in place of what was set before. One that lies in the past fires with the next
    /// [`expire`](Timers::expire); [`Time::NEVER`] is none.
    pub fn set(&mut self, whose: u32, at: Time) {
        self.clear(whose);
        if at != Time::NEVER {
            self.timers.row(whose).at = at;
            self.place(whose);
        }
    }

    /// Takes the timer of number `whose` back.
    pub fn clear(&mut self, whose: u32) {
        let Some(&Timer { before, behind, .. }) = self.timers.get(whose).filter(|timer| timer.before != NONE) else {
            return;
        };
        if before & SLOT == 0 {
            self.timers.row(before).behind = behind;
        } else {
            let slot = (before & !SLOT) as usize;
            self.firsts[slot] = behind;
            if behind == NONE {
                self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
            }
        }
        if behind != NONE {
            self.timers.row(behind).before = before;
        }
        *self.timers.row(whose) = Timer::default();
    }

    /// When the wheel wants to be looked at next; nothing can be due before.
    pub fn next(&self) -> Option<Time> {
        let ticks = (0..LEVELS).filter_map(|level| self.first_tick(level));
        ticks.min().map(|tick| Time::from_millis(tick * TICK_MILLIS))
    }

    /// Appends to `due` whose timers are due at `now`.
    pub fn expire(&mut self, now: Time, due: &mut Vec<u32>) {
        let until = now.millis() / TICK_MILLIS;
        while let Some((level, tick)) = self.earliest(until) {
            self.tick = tick;
            let slot = slot_of(level, tick);
            self.occupied[level] &= !(1 << (slot % SLOTS));
            let mut whose = std::mem::replace(&mut self.firsts[slot], NONE);
            while whose != NONE {
                let timer = self.timers.row(whose);
                let behind = timer.behind;
                if level == 0 {
                    *timer = Timer::default();
                    due.push(whose);
                } else {
                    self.place(whose);
                }
                whose = behind;
            }
        }
        self.tick = self.tick.max(until);
    }

    /// Lets go of the parts of the table where no timer is set.
    pub fn shrink(&mut self) {
        self.timers.shrink(|timer| timer.before == NONE);
    }

    /// Puts a timer, which is in no slot, into the one of its time.
    fn place(&mut self, whose: u32) {
        // Rounded up: never early.
        let at = self.timers.row(whose).at;
        let tick = at.nanos().div_ceil(TICK_MILLIS * 1_000_000).max(self.tick);
        let differing = (tick ^ self.tick) | (SLOTS as u64 - 1);
        let level = ((63 - differing.leading_zeros()) / SLOT_BITS) as usize;
        // Beyond the last level, or across its wrap: looked at again when its slot comes, at the latest after one round.
        let farthest = self.tick + (SLOTS as u64 - 1) * width(LEVELS - 1);
        let (level, tick) = if level < LEVELS { (level, tick) } else { (LEVELS - 1, tick.min(farthest)) };
        let slot = slot_of(level, tick);
        self.occupied[level] |= 1 << (slot % SLOTS);
        let behind = std::mem::replace(&mut self.firsts[slot], whose);
        if behind != NONE {
            self.timers.row(behind).before = whose;
        }
        *self.timers.row(whose) = Timer { at, before: SLOT | slot as u32, behind };
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
    use std::collections::BTreeMap;
    use std::time::Duration;

    #[test]
    fn a_timer_in_the_past_fires_at_once_and_never_is_none() {
        let mut timers = Timers::new(Time::from_millis(5_000));
        timers.set(1, Time::from_millis(10));
        timers.set(2, Time::NEVER);
        let mut due = Vec::new();
        timers.expire(Time::from_millis(5_000), &mut due);
        assert_eq!(due, [1]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn what_is_gone_leaves_nothing_behind() {
        let mut timers = Timers::new(Time::ZERO);
        for whose in 0..1000 {
            timers.set(whose, Time::from_millis(20_000 + u64::from(whose % 3)));
        }
        for whose in (0..1000).filter(|whose| *whose != 640) {
            timers.clear(whose);
        }
        timers.shrink();
        assert!(timers.timers.get(1).is_none() && timers.timers.get(640).is_some());
        timers.clear(640);
        assert_eq!(timers.next(), None);
    }

    proptest! {
        /// Every timer that is not taken back or set anew fires exactly once, not early, and at most a tick late when the wheel
        /// is driven by `next`.
        #[test]
        fn timers_fire_once_and_in_time(
            start in 0u64..1 << 40,
            steps in proptest::collection::vec((0u32..30, 0u64..5_000, 0u32..40), 1..200),
        ) {
            let mut now = Time::from_millis(start);
            let mut timers = Timers::new(now);
            let mut set: BTreeMap<u32, Time> = BTreeMap::new();
            for (index, (whose, delay, shift)) in steps.into_iter().enumerate() {
                if shift == 39 {
                    timers.clear(whose);
                    set.remove(&whose);
                } else {
                    // Spread over all levels and beyond the last.
                    let at = now + Duration::from_millis(delay << (shift % 24));
                    timers.set(whose, at);
                    set.insert(whose, at);
                }
                if index % 7 == 0 && let Some(next) = timers.next() {
                    now = now.max(next);
                    check(&mut timers, now, &mut set)?;
                }
            }
            let mut rounds = 0;
            while let Some(next) = timers.next() {
                now = now.max(next);
                check(&mut timers, now, &mut set)?;
                rounds += 1;
                prop_assert!(rounds < 10_000, "the wheel turns without end");
            }
            prop_assert!(set.is_empty(), "{set:?} did not fire");
            timers.shrink();
            prop_assert!((0..30).all(|whose| timers.timers.get(whose).is_none()));
        }
    }

    fn check(timers: &mut Timers, now: Time, set: &mut BTreeMap<u32, Time>) -> Result<(), TestCaseError> {
        let mut due = Vec::new();
        timers.expire(now, &mut due);
        for whose in due {
            let at = set.remove(&whose);
            prop_assert!(at.is_some(), "{whose} has no timer");
            prop_assert!(at <= Some(now), "early");
            prop_assert!(at.is_some_and(|at| now.since(at) <= Duration::from_millis(TICK_MILLIS)), "late");
        }
        Ok(())
    }
}
