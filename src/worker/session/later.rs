//! Bulk after messages: splices that are due wait until all else that a turn has brought is on its way.
//!
//! One splice takes the kernel up to some tenths of a millisecond, and many may be due in one turn. A turn's messages,
//! connects and clients are handled and submitted first. Then pieces are moved, first come first served, until
//! [`SPLICE_TURN_BYTES`] have moved; what is left goes on with the next turn, which does not wait for anything. The kernel hands
//! over a few completions at a time (20 at most, from Linux 6.13 on), so that after a turn with many messages the next looks for
//! more of them first, up to [`SPLICE_TURNS_LATER`] times. So a message waits for about one piece, however many directions
//! are spliced.
//!
//! To the relay such a completion is one that comes a little later. A session for which one waits is not asked about the time
//! before it is handled, because it would be found idle while there are bytes; its timer counts soon after that.

use std::collections::VecDeque;

use super::Sessions;
use crate::engine::{Engine, Owner};
use crate::limits::{BUFFER_BYTES, SPLICE_MESSAGES_FIRST, SPLICE_TURN_BYTES, SPLICE_TURNS_LATER};
use crate::relay::Input;
use crate::time::Time;

/// Splices that were put off, the first first.
#[derive(Debug, Default)]
pub(super) struct Later {
    due: VecDeque<Due>,
    /// Completions of this turn that were no splices.
    messages: usize,
    /// Turns in a row that had so many of these that nothing was spliced.
    turns: u32,
}

/// Whether a session's timer has fired while a splice of it was put off.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// It has not.
    No,
    /// It has, and is set again when the splice was handled.
    Later,
    /// It is set again, and counts whatever is put off then.
    Now,
}

/// A splice that is due.
#[derive(Copy, Clone, Debug)]
struct Due {
    owner: Owner,
    ready: Ready,
}

/// What the owner's socket is ready for.
#[derive(Copy, Clone, Debug)]
pub(super) enum Ready {
    /// It has something to be spliced.
    Give,
    /// It has room for what waits in a pipe.
    Take,
}

impl Later {
    /// Something else than a splice was handled.
    #[inline]
    pub(super) fn note_message(&mut self) {
        self.messages += 1;
    }

    /// Gives back what a crowd has left behind.
    pub(super) fn shrink(&mut self) {
        self.due.shrink_to_fit();
    }

    /// Ends a turn: whether it is time to splice.
    fn turn(&mut self) -> bool {
        let messages = std::mem::take(&mut self.messages);
        if self.due.is_empty() {
            return false;
        }
        let wait = messages >= SPLICE_MESSAGES_FIRST && self.turns < SPLICE_TURNS_LATER;
        self.turns = if wait { self.turns + 1 } else { 0 };
        !wait
    }
}

impl<E: Engine> Sessions<E> {
    /// Whether splices are due that were put off: the worker is not to wait.
    pub fn splices_wait(&self) -> bool {
        !self.context.later.due.is_empty()
    }

    /// Puts a splice off until the end of the turn.
    pub(super) fn put_off(&mut self, owner: Owner, ready: Ready) {
        if let Some(session) = self.slots.get_mut(owner.key) {
            session.put_off += 1;
            self.context.later.due.push_back(Due { owner, ready });
        }
    }

    /// Submits what was asked for, and then moves bulk, as much as a turn may.
    pub(super) fn splice(&mut self, engine: &mut E, now: Time) {
        if !self.context.later.turn() {
            return;
        }
        engine.submit();
        let mut moved = 0;
        while moved < SPLICE_TURN_BYTES {
            let Some(due) = self.context.later.due.pop_front() else { break };
            // One that moves nothing takes its time too.
            moved += self.splice_one(engine, due, now).max(BUFFER_BYTES);
        }
    }

    fn splice_one(&mut self, engine: &mut E, Due { owner, ready }: Due, now: Time) -> usize {
        let Some(session) = self.slots.get_mut(owner.key) else {
            debug_assert!(false, "a session has ended before its splice was handled");
            return 0;
        };
        session.put_off -= 1;
        let side = super::side(owner.role);
        let input = match ready {
            Ready::Give => session.splice(engine, side, now),
            Ready::Take => session.writable(engine, side),
        };
        let bytes = match input {
            Input::Received { bytes, .. } | Input::Sent { bytes, .. } => bytes,
            _ => 0,
        };
        self.input(engine, owner.key, input, now);
        if let Some(session) = self.slots.get_mut(owner.key)
            && session.overdue == Overdue::Later
            // Bulk both ways has always one that waits; but whoever moves bytes is not idle.
            && (bytes > 0 || session.put_off == 0)
        {
            session.overdue = Overdue::Now;
            // After what the next turns bring: it may be a reset, and not a peer that says nothing.
            self.context.timers.set(owner.key.index(), now);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Role;
    use crate::slots::Key;

    #[test]
    fn many_messages_go_first_but_not_for_ever() {
        let mut later = Later::default();
        assert!(!later.turn(), "nothing is due");
        later.due.push_back(Due { owner: Owner { key: Key::new(0, 0), role: Role(0) }, ready: Ready::Give });
        assert!(later.turn(), "nobody else wants anything");
        let crowd = |later: &mut Later| {
            (0..SPLICE_MESSAGES_FIRST).for_each(|_| later.note_message());
            later.turn()
        };
        for _ in 0..3 {
            for _ in 0..SPLICE_TURNS_LATER {
                assert!(!crowd(&mut later));
            }
            assert!(crowd(&mut later));
        }
        assert!(!crowd(&mut later));
        later.note_message();
        assert!(later.turn(), "a few messages are no reason");
    }
}
