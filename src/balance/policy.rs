//! How each policy chooses and claims in one step.

use std::sync::atomic::{AtomicU64, Ordering};

use super::cells::Chunk;
use super::choose::Request;
use super::claim::Claim;
use super::gate::Lease;
use super::group::{Group, Member};
use super::hash::{Table, hash_client};
use super::pool::Pool;
use super::random::{Random, scale};
use super::set::BackendSet;
use super::settings::Policy;
use super::turn::{self, Turn};
use super::word::{self, Gate, Word};
use crate::limits::{
    LEAST_CONNECTIONS_DRAWS, LEAST_CONNECTIONS_EXACT_MAX, PROBE_GRACE, RANDOM_DRAWS, REHASHES_MAX, SEEK_AGAIN_MAX,
};
use crate::time::Time;

/// Weights are multiplied by this, so that those of a slow start can be a part of one.
const WHOLE: u64 = 256;

/// What one choice is made of.
pub(super) struct Choice<'a> {
    pub(super) pool: &'a Pool,
    pub(super) set: &'a BackendSet,
    pub(super) request: &'a Request<'a>,
    pub(super) now: Time,
    /// Whether `now` is the present, and no moment of the past: only then can it be told that an ejection is over.
    pub(super) may_probe: bool,
}

/// How far a client gets that may wait.
pub(super) enum Reach {
    /// To a place.
    Place(Claim),
    /// To those who could serve it, but for their limits.
    Full,
    /// Nowhere.
    None,
}

/// What a group has for a client.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Room {
    Free,
    /// Somebody could serve, and is at the limit.
    Full,
    Closed,
}

/// A backend as a choice sees it.
#[derive(Copy, Clone)]
struct Seat<'a> {
    group: &'a Group,
    ordinal: usize,
    member: &'a Member,
    chunk: &'a Chunk,
}

/// The best backend found so far, as it was when it was looked at. Plain numbers, so that a scan keeps them in
/// registers.
#[derive(Copy, Clone)]
struct Best {
    ordinal: usize,
    word: Word,
    active: u64,
    weight: u64,
    /// Its place in line; only looked up when there is a tie.
    turn: Option<u64>,
}

impl Best {
    /// Nobody: heavier than anybody.
    const NONE: Best =
        Best { ordinal: usize::MAX, word: Word::new(Gate::FIRST, 0), active: 1 << 32, weight: 1, turn: None };

    fn found(self) -> Option<Best> {
        (self.ordinal != usize::MAX).then_some(self)
    }
}

impl<'a> Seat<'a> {
    fn of(group: &'a Group, ordinal: usize) -> Seat<'a> {
        let (member, chunk) = group.member(ordinal);
        Seat { group, ordinal, member, chunk }
    }

    fn cell(&self) -> usize {
        self.member.slot.cell()
    }

    fn word(&self) -> Word {
        word::read(self.chunk.words.at(self.cell()))
    }

    fn pass(&self) -> &'a AtomicU64 {
        self.chunk.passes.at(self.cell())
    }
}

impl<'a> Choice<'a> {
    /// Chooses by the pool's policy: a primary, or where none may serve a backup, or where all are ejected a probe.
    pub(super) fn claim(&self, random: &mut Random) -> Option<Claim> {
        let set = self.set;
        self.among(&set.primaries, set.tables.primaries(), random)
            .or_else(|| self.among(&set.backups, set.tables.backups(), random))
            .or_else(|| self.recover())
    }

    /// As [`claim`](Choice::claim), but those who are merely full are worth waiting for: nobody serves in their place.
    pub(super) fn seek(&self, random: &mut Random) -> Reach {
        let set = self.set;
        let groups = [(&set.primaries, set.tables.primaries()), (&set.backups, set.tables.backups())];
        for (group, table) in groups {
            for _ in 0..SEEK_AGAIN_MAX {
                if let Some(claim) = self.among(group, table, random) {
                    return Reach::Place(claim);
                }
                match self.room(group) {
                    Room::Full => return Reach::Full,
                    // A place was given back between the two looks.
                    Room::Free => {}
                    Room::Closed => break,
                }
            }
        }
        self.recover().map_or(Reach::None, Reach::Place)
    }

    /// A backup, whatever the primaries are.
    pub(super) fn claim_backup(&self, random: &mut Random) -> Option<Claim> {
        self.among(&self.set.backups, self.set.tables.backups(), random)
    }

    fn among(&self, group: &'a Group, table: Option<&Table>, random: &mut Random) -> Option<Claim> {
        match self.set.settings().policy {
            Policy::LeastConnections => self.least_connections(group, random),
            Policy::RoundRobin => self.round_robin(group),
            Policy::RandomTwo => self.random_two(group, random),
            Policy::SourceHash => self.source_hash(group, table, random),
            Policy::First => (0..group.len()).find_map(|ordinal| self.take(Seat::of(group, ordinal))),
        }
    }

    /// The smallest `active / weight`; ties by turn. The exchange succeeds only if the word is the one that was
    /// compared: whoever loses it to another worker looks again.
    fn least_connections(&self, group: &'a Group, random: &mut Random) -> Option<Claim> {
        loop {
            let best = match group.len() {
                0..=LEAST_CONNECTIONS_EXACT_MAX => self.lightest(group),
                _ => self.lightest_of_draws(group, random).or_else(|| self.lightest(group)),
            };
            if let Some(claim) = self.take_best(group, best?) {
                return Some(claim);
            }
        }
    }

    /// Whose turn it is. The exchange on the pass hands each turn out once, over all workers.
    fn round_robin(&self, group: &'a Group) -> Option<Claim> {
        loop {
            let floor = self.floor();
            let mut next: Option<(Turn, Seat<'a>)> = None;
            group.each(|ordinal, member, chunk| {
                let seat = Seat { group, ordinal, member, chunk };
                if self.may_take(seat, seat.word()) {
                    let turn = self.turn(seat, floor);
                    if next.is_none_or(|(best, _)| turn.at < best.at) {
                        next = Some((turn, seat));
                    }
                }
            });
            let (turn, seat) = next?;
            if turn::take(turn, seat.pass(), self.pool.floor(), self.stride(seat))
                && let Some(claim) = self.take(seat)
            {
                return Some(claim);
            }
        }
    }

    /// The lighter of two different draws. Where draws keep hitting backends that may not serve, all are looked at.
    fn random_two(&self, group: &'a Group, random: &mut Random) -> Option<Claim> {
        loop {
            let (mut best, floor) = (Best::NONE, self.floor());
            match self.draw(group, None, random) {
                Some(one) => {
                    self.consider(&mut best, floor, one);
                    if let Some(two) = self.draw(group, Some(one.ordinal), random) {
                        self.consider(&mut best, floor, two);
                    }
                }
                None => best = self.lightest(group)?,
            }
            if let Some(claim) = best.found().and_then(|best| self.take_best(group, best)) {
                return Some(claim);
            }
        }
    }

    /// Where the client's address leads; hashed again as long as that backend cannot serve. A client without an address
    /// is led anywhere.
    fn source_hash(&self, group: &'a Group, table: Option<&Table>, random: &mut Random) -> Option<Claim> {
        let hash = self.request.client.map_or_else(|| random.number(), hash_client);
        let table = table?;
        let hashed = (0..REHASHES_MAX).filter_map(|attempt| table.pick(hash, attempt));
        let start = scale(hash, group.len() as u64) as usize;
        let walked = (start..group.len()).chain(0..start);
        hashed.chain(walked).find_map(|ordinal| self.take(Seat::of(group, ordinal)))
    }

    /// In recovery, each backend may be probed before its ejection is over, by one client at a time, until each has
    /// been probed once.
    fn recover(&self) -> Option<Claim> {
        let recovery = self.pool.recovery().load(Ordering::Acquire);
        if recovery == 0 || !self.may_probe {
            return None;
        }
        [&self.set.primaries, &self.set.backups].into_iter().find_map(|group| {
            (0..group.len()).find_map(|ordinal| {
                let seat = Seat::of(group, ordinal);
                let probed = seat.chunk.probed.at(seat.cell());
                let unprobed = || probed.load(Ordering::Relaxed) != recovery;
                let word = seat.word();
                let possible = !word.gate().is_open() && self.has_room(seat.member, word) && unprobed();
                if possible { self.probe(seat, word, unprobed) } else { None }
            })
        })
    }

    fn lightest(&self, group: &Group) -> Option<Best> {
        let (mut best, floor) = (Best::NONE, self.floor());
        group.each(|ordinal, member, chunk| self.consider(&mut best, floor, Seat { group, ordinal, member, chunk }));
        best.found()
    }

    fn lightest_of_draws(&self, group: &Group, random: &mut Random) -> Option<Best> {
        let (mut best, floor) = (Best::NONE, self.floor());
        for _ in 0..LEAST_CONNECTIONS_DRAWS {
            let ordinal = random.below(group.len() as u64) as usize;
            self.consider(&mut best, floor, Seat::of(group, ordinal));
        }
        best.found()
    }

    /// Draws one by weight that may serve, and is not `except`.
    fn draw(&self, group: &'a Group, except: Option<usize>, random: &mut Random) -> Option<Seat<'a>> {
        for _ in 0..RANDOM_DRAWS {
            let seat = Seat::of(group, group.draw(except, random)?);
            if self.may_take(seat, seat.word()) {
                return Some(seat);
            }
        }
        None
    }

    #[inline(always)]
    fn consider(&self, best: &mut Best, floor: u64, seat: Seat<'_>) {
        let word = seat.word();
        let (active, weight) = (u64::from(word.active()), self.weight(seat));
        // At most 2^32 connections times a weight of 2^24: the products do not overflow.
        let (load, held) = (active * best.weight, best.active * weight);
        if load > held || !self.may_take(seat, word) {
            return;
        }
        let mut turn = None;
        if load == held {
            let held = *best.turn.get_or_insert_with(|| self.turn(Seat::of(seat.group, best.ordinal), floor).at);
            let mine = self.turn(seat, floor).at;
            if (mine, seat.ordinal) >= (held, best.ordinal) {
                return;
            }
            turn = Some(mine);
        }
        *best = Best { ordinal: seat.ordinal, word, active, weight, turn };
    }

    /// Claims the best, if it still is what was compared.
    fn take_best(&self, group: &Group, best: Best) -> Option<Claim> {
        let seat = Seat::of(group, best.ordinal);
        let claim = if best.word.gate().is_open() {
            let claimed = word::claim(seat.chunk.words.at(seat.cell()), best.word);
            claimed.then(|| self.claim_of(seat, best.word, Lease::NONE))
        } else {
            self.probe(seat, best.word, || false)
        };
        if claim.is_some() {
            turn::advance(seat.pass(), self.pool.floor(), self.stride(seat));
        }
        claim
    }

    /// Claims this backend, if it may serve.
    fn take(&self, seat: Seat<'a>) -> Option<Claim> {
        let word = seat.word();
        if !self.may_take(seat, word) {
            return None;
        }
        if !word.gate().is_open() {
            return self.probe(seat, word, || false);
        }
        let claimed = word::claim_behind(seat.chunk.words.at(seat.cell()), word.gate(), seat.member.limit);
        claimed.then(|| self.claim_of(seat, word, Lease::NONE))
    }

    /// Claims an ejected backend in order to probe it, if nobody else does.
    fn probe(&self, seat: Seat<'a>, word: Word, early: impl Fn() -> bool) -> Option<Claim> {
        let end = self.now + self.set.settings().connect_timeout + PROBE_GRACE;
        let gate = seat.chunk.gate(seat.cell());
        let lease = gate.lend((word.gate(), seat.member.limit), (self.now, end), early)?;
        Some(self.claim_of(seat, word, lease))
    }

    fn claim_of(&self, seat: Seat<'a>, word: Word, lease: Lease) -> Claim {
        Claim::new(seat.group.backends()[seat.ordinal].clone(), word.gate(), lease)
    }

    #[inline]
    fn may_take(&self, seat: Seat<'_>, word: Word) -> bool {
        self.has_room(seat.member, word) && self.may_enter(seat, word)
    }

    #[inline]
    fn may_enter(&self, seat: Seat<'_>, word: Word) -> bool {
        word.gate().is_open() || self.may_probe && seat.chunk.gate(seat.cell()).is_due(self.now)
    }

    /// Whether there is room for the client, or would be if a limit were higher.
    fn room(&self, group: &'a Group) -> Room {
        let mut room = Room::Closed;
        for ordinal in 0..group.len() {
            let seat = Seat::of(group, ordinal);
            let word = seat.word();
            if self.request.tried.contains(seat.member.id) || !self.may_enter(seat, word) {
                continue;
            }
            if word.active() < seat.member.limit {
                return Room::Free;
            }
            room = Room::Full;
        }
        room
    }

    #[inline]
    fn has_room(&self, member: &Member, word: Word) -> bool {
        let tried = self.request.tried;
        word.active() < member.limit && (tried.is_empty() || !tried.contains(member.id))
    }

    fn floor(&self) -> u64 {
        self.pool.floor().load(Ordering::Relaxed)
    }

    #[inline]
    fn turn(&self, seat: Seat<'_>, floor: u64) -> Turn {
        turn::glance(seat.pass(), (floor, self.pool.floor()), self.stride(seat))
    }

    /// Only comparable within its group.
    #[inline]
    fn weight(&self, seat: Seat<'_>) -> u64 {
        let weight = u64::from(seat.member.weight);
        if seat.group.has_ramps() { weight * self.started(seat) } else { weight }
    }

    #[inline]
    fn stride(&self, seat: Seat<'_>) -> u64 {
        let stride = seat.group.stride(seat.ordinal);
        if seat.group.has_ramps() { stride * WHOLE / self.started(seat) } else { stride }
    }

    /// How much of its weight a backend has by now, of [`WHOLE`]: less in its slow start.
    fn started(&self, seat: Seat<'_>) -> u64 {
        let ramp = seat.group.ramp(seat.ordinal);
        if ramp == 0 {
            return WHOLE;
        }
        let since = seat.chunk.since.at(seat.cell()).load(Ordering::Relaxed);
        let elapsed = self.now.nanos().saturating_sub(since);
        if since == 0 || elapsed >= ramp {
            return WHOLE;
        }
        let part = u128::from(elapsed) * u128::from(WHOLE) / u128::from(ramp);
        (part as u64).max(1)
    }
}
