//! What follows from the state: sending, receiving, half-closing, resetting, closing, deadlines.
//!
//! [`Relay::advance`] runs after every input that may change more than a byte count, and brings both directions as
//! far as they can go. It only looks at the state, so it does not matter what the input was.

use super::machine::{Cancelled, Phase, Relay, Rx, Socket, Todo, Tx, Watch};
use super::pieces::Pieces;
use super::{CloseReason, HeaderFault, Rules, Side, WhenNone};
use crate::errno::Errno;
use crate::limits::{
    REFUSAL_DISCARD_BYTES_MAX, REFUSAL_LINGER_MAX, RESET_FLUSH_MAX, UNSENT_POLL_MIN, WATCH_AFTER, WATCH_QUIET,
    WATERMARK_HIGH_BYTES,
};
use crate::time::Time;

impl Relay {
    pub(super) fn advance(&mut self, now: Time, rules: &Rules) {
        match self.phase {
            Phase::AwaitingHeader { .. }
            | Phase::Choosing
            | Phase::Queued { .. }
            | Phase::Connecting { .. }
            | Phase::ConnectCancelling(Cancelled::Deadline) => self.flow(Side::Client),
            Phase::ConnectCancelling(Cancelled::ClientGone | Cancelled::Killed) | Phase::Ending => {}
            Phase::Relaying { .. } => {
                self.flow(Side::Client);
                self.flow(Side::Backend);
                self.believe_watches(now);
            }
            Phase::Resetting { broken, .. } => self.advance_resetting(broken, now),
            Phase::Refusing { discarded, answering, .. } => self.advance_refusing(discarded, answering, rules),
        }
        self.settle();
        self.schedule(self.deadline(rules));
    }

    /// Sends what waits for `side`, if nothing is being sent to it.
    pub(super) fn push(&mut self, side: Side) {
        let end = self.end_mut(side);
        if end.tx != Tx::Idle || end.queued == 0 {
            return;
        }
        if end.is_open() {
            end.tx = Tx::Sending;
            self.want(Todo::Send, side);
        } else if matches!(self.phase, Phase::AwaitingHeader { .. }) {
            self.want(Todo::ReadHeader, Side::Client);
        }
    }

    /// Receives from `side` until told otherwise.
    pub(super) fn arm(&mut self, side: Side) {
        self.end_mut(side).rx = Rx::Armed;
        self.want(Todo::Receive, side);
    }

    /// Weighs one piece, and says whether the side has proved to be bulk while it still receives small ones.
    pub(super) fn note_piece(&mut self, side: Side, bytes: usize) -> bool {
        let pieces = &mut self.end_mut(side).pieces;
        *pieces = pieces.after(bytes);
        pieces.prove_bulk()
    }

    /// One side is broken: what it sent is still owed to the other one, which is then reset.
    pub(super) fn break_side(&mut self, side: Side, reason: CloseReason, now: Time) {
        self.blame(reason);
        match self.phase {
            Phase::AwaitingHeader { .. } | Phase::Choosing | Phase::Queued { .. } | Phase::Refusing { .. } => {
                self.finish(false);
            }
            Phase::Connecting { .. } | Phase::ConnectCancelling(Cancelled::Deadline) => {
                self.cancel_connect(Cancelled::ClientGone)
            }
            Phase::Relaying { .. } if !self.end(side.other()).is_open() => self.finish(false),
            Phase::Relaying { .. } => {
                let (until, step_ms) = (now + RESET_FLUSH_MAX, UNSENT_POLL_MIN.as_millis() as u16);
                self.phase = Phase::Resetting { broken: side, until, poll_at: Time::ZERO, step_ms };
            }
            Phase::Resetting { broken, .. } if broken != side => self.finish(false),
            Phase::Resetting { .. } | Phase::ConnectCancelling(_) | Phase::Ending => {}
        }
    }

    /// Nobody serves this client: it gets what the rules have for that case, and may finish what it is saying.
    pub(super) fn refuse(&mut self, reason: CloseReason, now: Time, rules: &Rules) {
        self.blame(reason);
        self.leave_queue();
        self.end_mut(Side::Backend).queued = 0;
        self.want(Todo::Drop, Side::Backend);
        // What is discarded goes into no pipe.
        self.end_mut(Side::Client).pieces = Pieces::NEW;
        if rules.when_none == WhenNone::Reset {
            return self.finish(true);
        }
        let answering = rules.when_none == WhenNone::Http503;
        self.phase = Phase::Refusing { until: now + REFUSAL_LINGER_MAX, discarded: 0, answering };
        if answering {
            self.want(Todo::Answer, Side::Client);
        } else {
            self.end_refused();
        }
    }

    /// All that a refused client is told has been said.
    pub(super) fn end_refused(&mut self) {
        // Where its own stream has ended too, a close says the same.
        if self.end(Side::Client).rx != Rx::Eof {
            self.end_mut(Side::Client).tx = Tx::Shut;
            self.want(Todo::Shutdown, Side::Client);
        }
    }

    /// The client is not to be served, or nobody knows who it is: it is closed at once.
    pub(super) fn turn_away(&mut self, reason: CloseReason) {
        self.blame(reason);
        self.finish(false);
    }

    /// Ends a relaying session on both sides.
    fn time_is_up(&mut self, reason: CloseReason) {
        self.blame(reason);
        // A polite end would pass for the whole of a stream that is still owed bytes.
        self.end_all(self.owes());
    }

    /// Ends the session whatever it is doing; a connect in flight is cancelled first.
    pub(super) fn end_all(&mut self, reset: bool) {
        match self.phase {
            Phase::Connecting { .. } | Phase::ConnectCancelling(_) => self.cancel_connect(Cancelled::Killed),
            _ => self.finish(reset),
        }
    }

    /// Closes both sides; no connect is in flight.
    pub(super) fn finish(&mut self, reset: bool) {
        self.leave_queue();
        self.close_side(Side::Client, reset);
        self.close_side(Side::Backend, reset);
        self.phase = Phase::Ending;
    }

    pub(super) fn close_side(&mut self, side: Side, reset: bool) {
        let end = self.end_mut(side);
        if end.socket == Socket::Absent {
            end.socket = Socket::Closed;
        }
        if end.socket != Socket::Open {
            return;
        }
        end.socket = Socket::Closing { reset };
        if end.rx == Rx::Armed {
            end.rx = Rx::Cancelling;
            self.want(Todo::CancelReceive, side);
        }
        if self.end(side).tx == Tx::Sending {
            self.end_mut(side).tx = Tx::Recalling;
            self.want(Todo::CancelSend, side);
        }
        if self.end(side).watch == Watch::Armed {
            self.end_mut(side).watch = Watch::Cancelling;
            self.want(Todo::CancelWatch, side);
        }
    }

    /// A side that is not being received from gets a watch before long, unless receiving goes on and is busy by then.
    pub(super) fn watch_soon(&mut self, now: Time) {
        if let Phase::Relaying { watch_at, .. } | Phase::Queued { watch_at, .. } = &mut self.phase {
            *watch_at = (*watch_at).min(now + WATCH_AFTER);
        }
    }

    pub(super) fn handle_tick(&mut self, now: Time, rules: &Rules) {
        // The wheel has let go of the deadline.
        self.next = Time::NEVER;
        match self.phase {
            Phase::AwaitingHeader { until } if now >= until => self.turn_away(CloseReason::Header(HeaderFault::Late)),
            Phase::Queued { until, .. } if now >= until => self.refuse(CloseReason::QueueTimeout, now, rules),
            Phase::Queued { until, watch_at } if now >= watch_at => self.watch_queued(until),
            Phase::Connecting { until } if now >= until => self.cancel_connect(Cancelled::Deadline),
            Phase::Relaying { .. } if rules.idle_timeout.is_some_and(|timeout| now >= self.active_at + timeout) => {
                self.time_is_up(CloseReason::IdleTimeout);
            }
            Phase::Relaying { .. } if now >= self.last_at => self.time_is_up(CloseReason::MaxDuration),
            Phase::Relaying { look_at, watch_at } => self.look(now, look_at, watch_at, rules),
            Phase::Resetting { broken, until, .. } if now >= until => {
                self.close_side(broken, false);
                self.finish(true);
            }
            Phase::Refusing { until, .. } if now >= until => self.finish(false),
            _ => {}
        }
    }

    /// A client that waits and is not received from: only a watch sees its reset.
    fn watch_queued(&mut self, until: Time) {
        self.phase = Phase::Queued { until, watch_at: Time::NEVER };
        let client = self.end_mut(Side::Client);
        if !client.receives() && client.watch == Watch::Off {
            client.watch = Watch::Armed;
            self.want(Todo::Watch, Side::Client);
        }
    }

    fn leave_queue(&mut self) {
        if self.is_queued() {
            self.want(Todo::LeaveQueue, Side::Client);
        }
    }

    fn flow(&mut self, side: Side) {
        let other = side.other();
        self.push(other);
        self.pace(side);
        if self.end(side).rx == Rx::Eof && self.end(other).queued == 0 {
            self.pass_eof(other);
        }
    }

    /// A reset that the watch has told of, on a side that cannot be received from now: no receive will report it.
    fn believe_watches(&mut self, now: Time) {
        for side in Side::BOTH {
            let end = self.end(side);
            if end.hung_up && end.is_open() && matches!(end.rx, Rx::Off | Rx::Starved) {
                self.break_side(side, CloseReason::Failed(side, Errno::ECONNRESET), now);
            }
        }
        if let Phase::Resetting { broken, .. } = self.phase {
            self.advance_resetting(broken, now);
        }
    }

    /// Begins or stops receiving from `side`, as what waits for the other side demands.
    fn pace(&mut self, side: Side) {
        let queued = self.end(side.other()).queued as usize;
        let end = self.end_mut(side);
        match end.rx {
            Rx::Off if end.is_open() && queued <= end.pieces.room() => self.arm(side),
            Rx::Armed => {
                let small = matches!(end.pieces, Pieces::Small { .. });
                if !small || (!end.pieces.prove_bulk() && queued < WATERMARK_HIGH_BYTES) {
                    return;
                }
                end.rx = Rx::Cancelling;
                end.pieces = Pieces::BULK;
                self.want(Todo::CancelReceive, side);
            }
            _ => {}
        }
    }

    /// The stream towards `side` is complete: end it, or close the socket where that says the same.
    fn pass_eof(&mut self, side: Side) {
        let end = self.end_mut(side);
        if !end.is_open() || !matches!(end.tx, Tx::Idle | Tx::Shut) {
            return;
        }
        if end.rx == Rx::Eof {
            self.close_side(side, false);
        } else if end.tx == Tx::Idle {
            end.tx = Tx::Shut;
            self.want(Todo::Shutdown, side);
        }
    }

    fn advance_resetting(&mut self, broken: Side, now: Time) {
        let toward = broken.other();
        match self.end(broken).tx {
            Tx::Sending => {
                self.end_mut(broken).tx = Tx::Recalling;
                self.want(Todo::CancelSend, broken);
            }
            Tx::Idle | Tx::Shut => {
                self.end_mut(broken).tx = Tx::Broken;
                self.end_mut(broken).queued = 0;
                self.want(Todo::Drop, broken);
            }
            Tx::Recalling | Tx::Broken => {}
        }
        if self.end(toward).rx == Rx::Armed {
            self.end_mut(toward).rx = Rx::Cancelling;
            self.want(Todo::CancelReceive, toward);
        }
        self.push(toward);
        self.pace(broken);
        if !self.end(broken).rx_over() {
            return;
        }
        self.close_side(broken, false);
        let Phase::Resetting { poll_at, .. } = &mut self.phase else { return };
        if *poll_at <= now && self.ends[toward as usize].queued == 0 && !self.ends[toward as usize].sends() {
            *poll_at = Time::ZERO;
            self.want(Todo::PollUnsent, toward);
        }
    }

    fn advance_refusing(&mut self, discarded: u32, answering: bool, rules: &Rules) {
        if answering {
            return self.push(Side::Client);
        }
        let client = self.end(Side::Client);
        // Who has been answered may still be saying all of a long request before it looks: that is bounded in time alone.
        let enough = u64::from(discarded) > REFUSAL_DISCARD_BYTES_MAX && rules.when_none != WhenNone::Http503;
        if client.rx_over() || enough {
            self.finish(false);
        } else if client.rx == Rx::Off {
            self.arm(Side::Client);
        }
    }

    /// Closes what is to be closed and idle, and ends the relay when all is closed.
    pub(super) fn settle(&mut self) {
        for side in Side::BOTH {
            let end = self.end(side);
            if matches!(end.socket, Socket::Closing { .. }) && !end.in_flight() {
                // `poll` marks it closed, when it says how.
                self.want(Todo::Close, side);
            }
        }
        let over = |side: Side| {
            matches!(self.end(side).socket, Socket::Closed | Socket::Closing { .. }) && !self.end(side).in_flight()
        };
        if over(Side::Client) && over(Side::Backend) {
            self.phase = Phase::Ending;
            self.want(Todo::Finished, Side::Client);
        }
    }

    /// Periodic care of a relaying session: watches where nobody receives, and a look at peers that may be dead.
    fn look(&mut self, now: Time, mut look_at: Time, mut watch_at: Time, rules: &Rules) {
        if now >= watch_at {
            watch_at = Time::NEVER;
            let quiet_at = self.active_at + WATCH_QUIET;
            for side in Side::BOTH {
                let end = self.end_mut(side);
                if !end.is_open() || end.watch != Watch::Off {
                    continue;
                }
                if end.receives() && now < quiet_at {
                    watch_at = quiet_at;
                } else {
                    end.watch = Watch::Armed;
                    self.want(Todo::Watch, side);
                }
            }
        }
        if let Some(timeout) = rules.dead_peer_timeout
            && now >= look_at
        {
            look_at = now + timeout / 2;
            for side in Side::BOTH {
                let end = self.end(side);
                if end.is_open() && (end.sent || end.sends()) {
                    self.want(Todo::Inspect, side);
                }
            }
        }
        self.phase = Phase::Relaying { look_at, watch_at };
    }

    pub(super) fn deadline(&self, rules: &Rules) -> Time {
        match self.phase {
            Phase::Choosing | Phase::ConnectCancelling(_) | Phase::Ending => Time::NEVER,
            Phase::AwaitingHeader { until } | Phase::Connecting { until } | Phase::Refusing { until, .. } => until,
            Phase::Queued { until, watch_at } => until.min(watch_at),
            Phase::Resetting { until, poll_at: Time::ZERO, .. } => until,
            Phase::Resetting { until, poll_at, .. } => until.min(poll_at),
            Phase::Relaying { look_at, watch_at } => {
                let idle = rules.idle_timeout.map_or(Time::NEVER, |timeout| self.active_at + timeout);
                idle.min(look_at).min(watch_at).min(self.last_at)
            }
        }
    }

    fn cancel_connect(&mut self, why: Cancelled) {
        if matches!(self.phase, Phase::Connecting { .. }) {
            self.want(Todo::CancelConnect, Side::Client);
        }
        self.phase = Phase::ConnectCancelling(why);
        if why != Cancelled::Deadline {
            self.close_side(Side::Client, why == Cancelled::Killed);
        }
    }
}
