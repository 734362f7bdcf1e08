//! How each policy chooses and claims in one step.

use std::sync::atomic::AtomicU64;

use super::cells::Chunk;
use super::claim::Claim;
use super::random::Random;
use super::set::{Group, Member};
use super::tried::Tried;
use super::turn::{self, Turn};
use super::word::{self, Word};
use crate::limits::{LEAST_CONNECTIONS_DRAWS, LEAST_CONNECTIONS_EXACT_MAX};

/// What one choice is made for.
pub(super) struct Choice<'a> {
    pub(super) floor: &'a AtomicU64,
    pub(super) tried: &'a Tried,
}

/// The best backend found so far, as it was when it was looked at.
struct Best {
    ordinal: usize,
    word: Word,
    weight: u32,
    /// Its place in line; looked up only when there is a tie.
    turn: Option<u64>,
}

impl Choice<'_> {
    /// The smallest `active / weight`; ties by turn. The exchange succeeds only if the word is the one that was
    /// compared: whoever loses it to another worker looks again.
    pub(super) fn least_connections(&self, group: &Group, random: &mut Random) -> Option<Claim> {
        loop {
            let best = match group.len() {
                0..=LEAST_CONNECTIONS_EXACT_MAX => self.lightest(group),
                _ => self.lightest_of_draws(group, random).or_else(|| self.lightest(group)),
            };
            let Best { ordinal, word, .. } = best?;
            let (member, chunk) = group.member(ordinal);
            let cell = member.slot.cell();
            if word::claim(chunk.words.at(cell), word) {
                turn::advance(chunk.passes.at(cell), self.floor, group.stride(ordinal));
                return Some(Claim::new(group.backend(ordinal).clone(), word.gate()));
            }
        }
    }

    /// Whose turn it is. The exchange on the pass hands each turn out once, over all workers.
    pub(super) fn round_robin(&self, group: &Group) -> Option<Claim> {
        loop {
            let mut next: Option<(Turn, usize, Word)> = None;
            group.each(|ordinal, member, chunk| {
                let word = word::read(chunk.words.at(member.slot.cell()));
                if self.may_take(member, word) {
                    let turn = turn::read(chunk.passes.at(member.slot.cell()), self.floor, group.stride(ordinal));
                    if next.is_none_or(|(best, ..)| turn.at < best.at) {
                        next = Some((turn, ordinal, word));
                    }
                }
            });
            let (turn, ordinal, word) = next?;
            let (member, chunk) = group.member(ordinal);
            let cell = member.slot.cell();
            let won = turn::take(turn, chunk.passes.at(cell), self.floor, group.stride(ordinal));
            if won && word::claim_behind(chunk.words.at(cell), word.gate(), member.limit) {
                return Some(Claim::new(group.backend(ordinal).clone(), word.gate()));
            }
        }
    }

    fn lightest(&self, group: &Group) -> Option<Best> {
        let mut best = None;
        group.each(|ordinal, member, chunk| self.consider(group, &mut best, (ordinal, member, chunk)));
        best
    }

    fn lightest_of_draws(&self, group: &Group, random: &mut Random) -> Option<Best> {
        let mut best = None;
        for _ in 0..LEAST_CONNECTIONS_DRAWS {
            let ordinal = random.below(group.len() as u64) as usize;
            let (member, chunk) = group.member(ordinal);
            self.consider(group, &mut best, (ordinal, member, chunk));
        }
        best
    }

    #[inline]
    fn consider(&self, group: &Group, best: &mut Option<Best>, (ordinal, member, chunk): (usize, &Member, &Chunk)) {
        let word = word::read(chunk.words.at(member.slot.cell()));
        if !self.may_take(member, word) {
            return;
        }
        let challenger = Best { ordinal, word, weight: member.weight, turn: None };
        let Some(holder) = best else {
            *best = Some(challenger);
            return;
        };
        let load = u64::from(word.active()) * u64::from(holder.weight);
        let holders = u64::from(holder.word.active()) * u64::from(member.weight);
        if load < holders {
            *best = Some(challenger);
        } else if load == holders {
            let held = *holder.turn.get_or_insert_with(|| self.turn(group, holder.ordinal));
            let turn = self.turn(group, ordinal);
            if (turn, ordinal) < (held, holder.ordinal) {
                *best = Some(Best { turn: Some(turn), ..challenger });
            }
        }
    }

    fn turn(&self, group: &Group, ordinal: usize) -> u64 {
        let (member, chunk) = group.member(ordinal);
        turn::read(chunk.passes.at(member.slot.cell()), self.floor, group.stride(ordinal)).at
    }

    #[inline]
    fn may_take(&self, member: &Member, word: Word) -> bool {
        word.active() < member.limit && (self.tried.is_empty() || !self.tried.contains(member.id))
    }
}
