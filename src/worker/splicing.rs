//! The spliced half of a session: what waits for each side in a pipe.

use crate::engine::{Chain, Engine, Owner, Piped};
use crate::errno::Errno;
use crate::relay::{Input, Side};

/// What waits in pipes, before all that waits in the session's chains.
#[derive(Debug, Default)]
pub(super) struct Splices {
    waiting: [Option<Waiting>; 2],
}

#[derive(Debug)]
struct Waiting {
    piped: Piped,
    target: Target,
}

/// What is known of the socket that the bytes are for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Target {
    /// It may have room.
    Untried,
    /// It has taken a part, and so it is full.
    Full,
    /// It is said to have room and takes nothing.
    Odd,
}

/// What a send of spliced bytes wants.
pub(super) enum Send {
    /// Tell the relay.
    Done(Input),
    /// Wait for its completion.
    Waits,
    /// There is nothing in a pipe: send what waits in the chain.
    Nothing,
}

impl Splices {
    /// Whether bytes for `side` wait in a pipe.
    pub(super) const fn wait(&self, side: Side) -> bool {
        self.waiting[side as usize].is_some()
    }

    /// How many.
    pub(super) fn bytes(&self, side: Side) -> usize {
        self.waiting[side as usize].as_ref().map_or(0, |waiting| waiting.piped.bytes())
    }

    /// `piped` is for `side`.
    pub(super) fn hold(&mut self, side: Side, piped: Piped) {
        debug_assert!(!self.wait(side), "a pipe is filled when the last one is empty");
        self.waiting[side as usize] = Some(Waiting { piped, target: Target::Untried });
    }

    /// Sends what waits for `side`, as far as its socket has room. What a socket does not take although it is said to have room
    /// goes to the front of `chain`: the kernel sends that.
    #[inline]
    pub(super) fn send<E: Engine>(
        &mut self,
        engine: &mut E,
        (owner, side): (Owner, Side),
        socket: &E::Socket,
        chain: &mut Chain,
    ) -> Send {
        let Some(waiting) = &self.waiting[side as usize] else { return Send::Nothing };
        match waiting.target {
            Target::Untried => {
                if let Some(input) = self.advance(engine, side, socket) {
                    return Send::Done(input);
                }
            }
            Target::Full => {}
            Target::Odd => {
                self.spill(engine, side, chain);
                return Send::Nothing;
            }
        }
        engine.await_writable(owner, socket);
        Send::Waits
    }

    /// The socket of `side`, which was waited for, is said to have room.
    pub(super) fn writable<E: Engine>(&mut self, engine: &mut E, side: Side, socket: &E::Socket) -> Input {
        self.advance(engine, side, socket).unwrap_or_else(|| {
            if let Some(waiting) = &mut self.waiting[side as usize] {
                waiting.target = Target::Odd;
            }
            Input::Sent { side, bytes: 0, whole: true }
        })
    }

    /// Copies what waits for `side` to the front of `chain`.
    pub(super) fn spill<E: Engine>(&mut self, engine: &mut E, side: Side, chain: &mut Chain) {
        if let Some(waiting) = self.waiting[side as usize].take() {
            engine.spill_piped(waiting.piped, chain);
        }
    }

    /// Throws away what waits for `side`.
    pub(super) fn clear<E: Engine>(&mut self, engine: &mut E, side: Side) {
        if let Some(waiting) = self.waiting[side as usize].take() {
            engine.discard_piped(waiting.piped);
        }
    }

    /// Moves what there is room for; `None` where there is none.
    fn advance<E: Engine>(&mut self, engine: &mut E, side: Side, socket: &E::Socket) -> Option<Input> {
        let waiting = self.waiting[side as usize].as_mut()?;
        match engine.splice_out(&mut waiting.piped, socket) {
            Ok(bytes) => {
                waiting.target = Target::Full;
                if waiting.piped.bytes() == 0 {
                    self.clear(engine, side);
                }
                // What is left is asked for anew: the relay shall know that bytes move.
                Some(Input::Sent { side, bytes, whole: true })
            }
            Err(Errno::EAGAIN) => None,
            Err(errno) => Some(Input::SendFailed(side, errno)),
        }
    }
}
