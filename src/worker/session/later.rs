//! Bulk after messages: splices that are due wait until all else that a turn has brought is on its way.
//!
//! One splice takes the kernel up to some tenths of a millisecond, and many may be due in one turn. A turn's messages,
//! connects and clients are handled and submitted first. Then pieces are moved, first come first served, until
//! [`SPLICE_TURN_BYTES`] have moved; what is left goes on with the next turn, which does not wait for anything. So a message
//! waits for about one piece, however many directions are bulk.
//!
//! To the relay such a completion is one that comes a little later. A session for which one waits is not asked about the time
//! before it is handled: it would be found idle while there are bytes.

use super::Sessions;
use crate::engine::{Engine, Owner};
use crate::limits::{BUFFER_BYTES, SPLICE_TURN_BYTES};
use crate::relay::Input;
use crate::time::Time;

/// A splice that is due.
#[derive(Copy, Clone, Debug)]
pub(super) struct Due {
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

impl<E: Engine> Sessions<E> {
    /// Whether splices are due that were put off: the worker is not to wait.
    pub fn splices_wait(&self) -> bool {
        !self.context.later.is_empty()
    }

    /// Puts a splice off until the end of the turn.
    pub(super) fn put_off(&mut self, owner: Owner, ready: Ready) {
        if let Some(session) = self.slots.get_mut(owner.key) {
            session.put_off += 1;
            self.context.later.push_back(Due { owner, ready });
        }
    }

    /// Submits what was asked for, and then moves bulk, as much as a turn may.
    pub(super) fn splice(&mut self, engine: &mut E, now: Time) {
        if self.context.later.is_empty() {
            return;
        }
        engine.submit();
        let mut moved = 0;
        while moved < SPLICE_TURN_BYTES {
            let Some(due) = self.context.later.pop_front() else { break };
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
        bytes
    }
}
