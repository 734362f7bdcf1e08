//! The state and its two verbs: `handle` takes an input, `poll` gives the next action.

use std::time::Duration;

use super::pieces::Pieces;
use super::{Action, CloseReason, HeaderFault, Input, Kill, ReceiveEnd, Rules, Side, Start, Verdict};
use crate::errno::Errno;
use crate::limits::{
    PROXY_HEADER_MAX, REFUSAL_LINGER_MAX, UNSENT_POLL_MAX, WATCH_AFTER, WATCH_QUIET, WATERMARK_HIGH_BYTES,
};
use crate::time::Time;

/// The life of one connection. See the module for its phases.
#[derive(Debug)]
pub struct Relay {
    pub(super) phase: Phase,
    pub(super) ends: [End; 2],
    todo: u64,
    pub(super) attempts: u8,
    reason: Option<CloseReason>,
    /// How the last connect failed: the cause, when no backend is left to try.
    last_failure: Option<CloseReason>,
    /// When the last byte moved; on the hot path only this is written, the deadline follows lazily.
    pub(super) active_at: Time,
    /// When the wheel is to call again.
    pub(super) next: Time,
    /// When the first backend was wanted, less the time in the queue. While it is queued: how long it had taken before that.
    pub(super) started_at: Time,
    /// When it has lasted long enough.
    pub(super) last_at: Time,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    AwaitingHeader {
        until: Time,
    },
    Choosing,
    Queued {
        until: Time,
        watch_at: Time,
    },
    Connecting {
        until: Time,
    },
    ConnectCancelling(Cancelled),
    Relaying {
        look_at: Time,
        watch_at: Time,
    },
    /// `poll_at`: when to ask again what is unacknowledged; [`Time::ZERO`]: as soon as all is sent.
    Resetting {
        broken: Side,
        until: Time,
        poll_at: Time,
        step_ms: u16,
    },
    /// `answering`: the client has not been told in words yet, as it is to be.
    Refusing {
        until: Time,
        discarded: u32,
        answering: bool,
    },
    Ending,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Cancelled {
    Deadline,
    ClientGone,
    Killed,
}

/// One side: its socket, what is in flight on it, and what waits for it.
#[derive(Debug)]
pub(super) struct End {
    pub(super) socket: Socket,
    pub(super) rx: Rx,
    pub(super) tx: Tx,
    pub(super) watch: Watch,
    /// What it is received in.
    pub(super) pieces: Pieces,
    /// The watch has told of a reset while a receive was armed.
    pub(super) hung_up: bool,
    /// Something was sent since the last look at the connection.
    pub(super) sent: bool,
    /// Bytes received from the other side and not yet taken by the kernel for this one.
    pub(super) queued: u32,
    /// What was heard of the peer at the last look.
    pub(super) heard: u32,
    /// Since when it has said nothing although something is unanswered; [`Time::NEVER`] where nothing is.
    pub(super) mute_since: Time,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Socket {
    /// Not opened yet.
    Absent,
    Open,
    /// To be closed as soon as nothing is in flight on it.
    Closing {
        reset: bool,
    },
    Closed,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Rx {
    Off,
    Armed,
    Cancelling,
    Starved,
    Eof,
    Broken,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Tx {
    Idle,
    Sending,
    /// Its send was cancelled.
    Recalling,
    /// Our stream is ended.
    Shut,
    Broken,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Watch {
    Off,
    Armed,
    Cancelling,
}

/// Actions as bits: the lowest is executed first. Those of a side are followed by the same for the other.
#[derive(Copy, Clone, Debug)]
#[repr(u32)]
pub(super) enum Todo {
    Choose = 0,
    CancelConnect = 1,
    Drop = 2,
    Spill = 4,
    Send = 6,
    CancelSend = 8,
    Receive = 10,
    AwaitBuffers = 12,
    CancelReceive = 14,
    Watch = 16,
    CancelWatch = 18,
    Shutdown = 20,
    PollUnsent = 22,
    Inspect = 24,
    Close = 26,
    ReadHeader = 28,
    Answer = 29,
    LeaveQueue = 30,
    Deadline = 31,
    Finished = 32,
}

impl End {
    const fn new(socket: Socket) -> End {
        End {
            socket,
            rx: Rx::Off,
            tx: Tx::Idle,
            watch: Watch::Off,
            pieces: Pieces::NEW,
            hung_up: false,
            sent: false,
            queued: 0,
            heard: 0,
            mute_since: Time::NEVER,
        }
    }

    pub(super) const fn receives(&self) -> bool {
        matches!(self.rx, Rx::Armed | Rx::Cancelling)
    }

    pub(super) const fn sends(&self) -> bool {
        matches!(self.tx, Tx::Sending | Tx::Recalling)
    }

    pub(super) const fn rx_over(&self) -> bool {
        matches!(self.rx, Rx::Eof | Rx::Broken)
    }

    pub(super) const fn in_flight(&self) -> bool {
        self.receives() || self.sends() || matches!(self.watch, Watch::Armed | Watch::Cancelling)
    }

    pub(super) const fn is_open(&self) -> bool {
        matches!(self.socket, Socket::Open)
    }
}

impl Relay {
    /// A session whose client has just been accepted, and which may last until `last_at` (see [`Rules::last_at`]). Poll it
    /// at once.
    pub fn new(now: Time, last_at: Time, start: Start) -> Relay {
        let mut relay = Relay {
            phase: Phase::Choosing,
            ends: [End::new(Socket::Open), End::new(Socket::Absent)],
            todo: 0,
            attempts: 0,
            reason: None,
            last_failure: None,
            active_at: now,
            next: Time::NEVER,
            started_at: now,
            last_at,
        };
        match start {
            Start::Choose { waiting } => {
                relay.end_mut(Side::Backend).queued = waiting as u32;
                relay.want(Todo::Choose, Side::Client);
                relay.arm(Side::Client);
            }
            Start::AwaitHeader => {
                let until = now + PROXY_HEADER_MAX;
                relay.phase = Phase::AwaitingHeader { until };
                relay.arm(Side::Client);
                relay.schedule(until);
            }
            Start::Close(reason) => {
                relay.turn_away(reason);
                relay.settle();
            }
        }
        relay
    }

    /// Takes one input. Execute all of [`poll`](Self::poll) before the next.
    pub fn handle(&mut self, input: Input, now: Time, rules: &Rules) {
        match input {
            Input::Received { side, bytes, more } => return self.handle_received(side, bytes, more, now, rules),
            Input::Sent { side, bytes, whole } => return self.handle_sent(side, bytes, whole, now, rules),
            Input::HeaderRead { waiting } => self.handle_header_read(waiting, now),
            Input::HeaderWrong(reason) => self.turn_away(CloseReason::Header(HeaderFault::Wrong(reason))),
            Input::ClientRefused(reason) => self.turn_away(reason),
            Input::Connecting => self.handle_connecting(now, rules),
            Input::NoneEligible => self.refuse(self.last_failure.unwrap_or(CloseReason::NoBackend), now, rules),
            Input::QueueFull => self.refuse(CloseReason::QueueFull, now, rules),
            Input::Queued => self.handle_queued(now, rules),
            Input::Placed => self.handle_placed(now),
            Input::Answered { bytes } => self.handle_answered(bytes),
            Input::Connected => self.handle_connected(now, rules),
            Input::ConnectFailed { errno, retry, counted } => {
                self.handle_connect_failed(errno, retry, counted, now, rules)
            }
            Input::ReceiveEnded(side, end) => self.handle_receive_ended(side, end, now),
            Input::Unspliced(side) => self.handle_unspliced(side, now),
            Input::BuffersFree(side) => {
                if self.end(side).rx == Rx::Starved {
                    self.end_mut(side).rx = Rx::Off;
                }
            }
            Input::SendFailed(side, errno) => self.handle_send_failed(side, errno, now),
            Input::ShutdownFailed(side, errno) => {
                self.break_side(side, CloseReason::Failed(side, reset_name(errno)), now)
            }
            Input::HungUp { side, reset, more } => self.handle_hung_up(side, reset, more, now),
            Input::WatchEnded(side) => self.handle_watch_ended(side, now),
            Input::Unsent(side, bytes) => self.handle_unsent(side, bytes, now),
            Input::Inspected { side, outstanding, unanswered, heard } => {
                // A peer that keeps its window closed answers probes for now; it is looked at as long as it does.
                self.end_mut(side).sent = outstanding || unanswered;
                self.handle_mute(side, unanswered.then_some(heard), now, rules);
            }
            Input::Reclaim(side) => self.handle_reclaim(side),
            Input::Kill(kill) => self.handle_kill(kill),
            Input::Tick => self.handle_tick(now, rules),
        }
        self.advance(now, rules);
    }

    /// The next action, until there is none.
    pub fn poll(&mut self) -> Option<Action> {
        if self.todo == 0 {
            return None;
        }
        let bit = self.todo.trailing_zeros();
        self.todo &= self.todo - 1;
        let side = if bit & 1 == 0 { Side::Client } else { Side::Backend };
        Some(match bit {
            0 => Action::Choose,
            1 => Action::CancelConnect,
            2..4 => Action::Drop(side),
            4..6 => Action::Spill(side),
            6..8 => Action::Send(side),
            8..10 => Action::CancelSend(side),
            10..12 if self.end(side).pieces.are_spliced() => Action::Splice(side),
            10..12 => Action::Receive { side, bulk: self.end(side).pieces.are_large() },
            12..14 => Action::AwaitBuffers { side, bulk: self.end(side).pieces.are_large() },
            14..16 => Action::CancelReceive(side),
            16..18 => Action::Watch(side),
            18..20 => Action::CancelWatch(side),
            20..22 => Action::Shutdown(side),
            22..24 => Action::PollUnsent(side),
            24..26 => Action::Inspect(side),
            26..28 => match std::mem::replace(&mut self.end_mut(side).socket, Socket::Closed) {
                Socket::Closing { reset: true } => Action::Reset(side),
                _ => Action::Close(side),
            },
            28 => Action::ReadHeader,
            29 => Action::Answer,
            30 => Action::LeaveQueue,
            31 => Action::Deadline(self.next),
            _ => Action::Finished(self.reason.unwrap_or(CloseReason::NoBackend)),
        })
    }

    /// What the failure of the connect in flight, which ended with `errno`, says about its backend.
    pub const fn judge(&self, errno: Errno) -> Verdict {
        match self.phase {
            Phase::ConnectCancelling(Cancelled::Deadline) if errno.raw() == Errno::ECANCELED.raw() => Verdict::TimedOut,
            Phase::ConnectCancelling(Cancelled::ClientGone | Cancelled::Killed) => Verdict::Abandoned,
            _ => Verdict::Failed(errno),
        }
    }

    /// Whether a connect is in flight and its result is still waited for.
    pub const fn is_connecting(&self) -> bool {
        matches!(self.phase, Phase::Connecting { .. })
    }

    /// Whether bytes of this side find no taker: give their buffers back instead of queueing them.
    pub const fn discards(&self, side: Side) -> bool {
        match self.phase {
            Phase::Refusing { .. }
            | Phase::Ending
            | Phase::ConnectCancelling(Cancelled::ClientGone | Cancelled::Killed) => true,
            Phase::Resetting { broken, .. } => side as u8 != broken as u8 || !self.end(side).is_open(),
            _ => !self.end(side).is_open(),
        }
    }

    /// Whether an end of stream of this side may be a reset in disguise: the kernel tells a reset only once, and
    /// a send on the same socket may have taken the news.
    pub const fn doubts_eof(&self, side: Side) -> bool {
        self.end(side).hung_up || !matches!(self.end(side).tx, Tx::Idle | Tx::Shut)
    }

    /// Whether the client waits for a place.
    pub const fn is_queued(&self) -> bool {
        matches!(self.phase, Phase::Queued { .. })
    }

    /// Whether a byte waits in either direction.
    pub const fn owes(&self) -> bool {
        self.ends[0].queued > 0 || self.ends[1].queued > 0
    }

    fn handle_received(&mut self, side: Side, bytes: usize, more: bool, now: Time, rules: &Rules) {
        self.active_at = now;
        if self.discards(side) {
            match &mut self.phase {
                Phase::Refusing { discarded, .. } => *discarded = discarded.saturating_add(bytes as u32),
                Phase::Ending => self.end_rudely(),
                _ => {}
            }
            if !more {
                self.end_mut(side).rx = Rx::Off;
            }
            return self.advance(now, rules);
        }
        let other = side.other();
        self.end_mut(other).queued += bytes as u32;
        let bulk = self.note_piece(side, bytes);
        if !more {
            self.end_mut(side).rx = Rx::Off;
            self.advance(now, rules);
            if self.end(side).rx == Rx::Off {
                // Too much waits to receive again, for who knows how long.
                self.watch_soon(now);
                self.schedule(self.deadline(rules));
            }
            return;
        }
        self.push(other);
        if bulk || self.end(other).queued as usize >= WATERMARK_HIGH_BYTES {
            self.advance(now, rules);
        }
    }

    fn handle_sent(&mut self, side: Side, bytes: usize, whole: bool, now: Time, rules: &Rules) {
        if bytes > 0 {
            self.active_at = now;
        }
        let end = self.end_mut(side);
        end.queued -= bytes as u32;
        end.sent = true;
        let recalled = end.tx == Tx::Recalling;
        end.tx = Tx::Idle;
        if whole && self.end(side.other()).rx == Rx::Armed && matches!(self.phase, Phase::Relaying { .. }) {
            return self.push(side);
        }
        if recalled {
            self.give_back(side);
        } else if !whole {
            // Without a cancel of ours the kernel stops short only on a broken connection.
            self.break_side(side, CloseReason::Failed(side, Errno::ECONNRESET), now);
        }
        if let Phase::Refusing { discarded, answering: true, .. } = self.phase
            && self.end(side).queued == 0
        {
            self.phase = Phase::Refusing { until: now + REFUSAL_LINGER_MAX, discarded, answering: false };
            self.end_refused();
        }
        self.advance(now, rules);
    }

    fn handle_send_failed(&mut self, side: Side, errno: Errno, now: Time) {
        let end = self.end_mut(side);
        let recalled = end.tx == Tx::Recalling && errno == Errno::ECANCELED;
        end.tx = Tx::Idle;
        if recalled {
            self.give_back(side);
        } else {
            self.break_side(side, CloseReason::Failed(side, reset_name(errno)), now);
        }
    }

    fn handle_header_read(&mut self, waiting: usize, now: Time) {
        self.end_mut(Side::Backend).queued = waiting as u32;
        self.phase = Phase::Choosing;
        // The budget for connects begins when one can be made.
        self.started_at = now;
        self.want(Todo::Choose, Side::Client);
    }

    fn handle_answered(&mut self, bytes: usize) {
        if matches!(self.phase, Phase::Refusing { .. }) {
            self.end_mut(Side::Client).queued = bytes as u32;
        }
    }

    fn handle_queued(&mut self, now: Time, rules: &Rules) {
        let receives = self.end(Side::Client).receives();
        let watch_at = if receives { Time::NEVER } else { now + WATCH_AFTER };
        self.started_at = Time::from_nanos(now.nanos().saturating_sub(self.started_at.nanos()));
        self.phase = Phase::Queued { until: now + rules.queue_timeout, watch_at };
    }

    fn handle_placed(&mut self, now: Time) {
        if !self.is_queued() {
            return;
        }
        // Waiting is not part of the budget for connects.
        self.started_at = Time::from_nanos(now.nanos().saturating_sub(self.started_at.nanos()));
        self.phase = Phase::Choosing;
    }

    fn handle_connecting(&mut self, now: Time, rules: &Rules) {
        let until = (now + rules.connect_timeout).min(self.started_at + rules.connect_budget);
        self.phase = Phase::Connecting { until };
    }

    fn handle_connected(&mut self, now: Time, rules: &Rules) {
        self.ends[Side::Backend as usize] = End { queued: self.end(Side::Backend).queued, ..End::new(Socket::Open) };
        self.active_at = now;
        match self.phase {
            Phase::ConnectCancelling(Cancelled::ClientGone | Cancelled::Killed) => self.finish(true),
            _ => {
                // A connect that succeeded although its deadline had fired is as good as any.
                let period = rules.dead_peer_timeout.map_or(Duration::MAX, |timeout| timeout / 2);
                // The client's receive may have ended meanwhile: at its end of stream, at the high mark, for want of a buffer.
                let receives = self.end(Side::Client).receives();
                let watch_at = now + if receives { WATCH_QUIET } else { WATCH_AFTER };
                self.phase = Phase::Relaying { look_at: now + period, watch_at };
                self.arm(Side::Backend);
            }
        }
    }

    fn handle_connect_failed(&mut self, errno: Errno, retry: bool, counted: bool, now: Time, rules: &Rules) {
        let failure = match self.judge(errno) {
            Verdict::Abandoned => return self.finish(true),
            Verdict::TimedOut => CloseReason::ConnectTimeout,
            Verdict::Failed(errno) if retry => CloseReason::ConnectFailed(errno),
            // No other backend would do better: what is lacking is ours.
            Verdict::Failed(errno) => CloseReason::Internal(errno),
        };
        if counted {
            self.attempts = self.attempts.saturating_add(1);
        }
        let in_time = now < self.started_at + rules.connect_budget;
        if retry && u32::from(self.attempts) < rules.connect_attempts && in_time {
            self.last_failure = Some(failure);
            self.phase = Phase::Choosing;
            self.want(Todo::Choose, Side::Client);
        } else {
            self.refuse(failure, now, rules);
        }
    }

    fn handle_receive_ended(&mut self, side: Side, end: ReceiveEnd, now: Time) {
        let cancelling = self.end(side).rx == Rx::Cancelling;
        self.end_mut(side).rx = match end {
            ReceiveEnd::Eof => Rx::Eof,
            ReceiveEnd::Failed(_) => Rx::Broken,
            ReceiveEnd::Starved if !cancelling => Rx::Starved,
            ReceiveEnd::Starved | ReceiveEnd::Cancelled => Rx::Off,
        };
        match end {
            ReceiveEnd::Eof if matches!(self.phase, Phase::Resetting { broken, .. } if broken == side) => {
                self.end_mut(side).rx = Rx::Broken;
            }
            ReceiveEnd::Eof if matches!(self.phase, Phase::AwaitingHeader { .. }) => {
                self.turn_away(CloseReason::Header(HeaderFault::Unfinished));
            }
            ReceiveEnd::Eof => {
                let deadline = Phase::ConnectCancelling(Cancelled::Deadline);
                let connecting =
                    matches!(self.phase, Phase::Choosing | Phase::Queued { .. } | Phase::Connecting { .. });
                if connecting || self.phase == deadline || matches!(self.phase, Phase::Relaying { .. }) {
                    self.blame(CloseReason::Eof(side));
                    self.watch_soon(now);
                }
            }
            ReceiveEnd::Starved if self.end(side).rx == Rx::Starved => {
                self.want(Todo::AwaitBuffers, side);
                self.watch_soon(now);
            }
            ReceiveEnd::Starved | ReceiveEnd::Cancelled => self.watch_soon(now),
            ReceiveEnd::Failed(errno) => self.break_side(side, CloseReason::Failed(side, reset_name(errno)), now),
        }
    }

    /// The next pieces are received; those after them may be spliced again.
    fn handle_unspliced(&mut self, side: Side, now: Time) {
        let end = self.end_mut(side);
        end.rx = Rx::Off;
        end.pieces = Pieces::BULK;
        self.watch_soon(now);
    }

    fn handle_hung_up(&mut self, side: Side, reset: bool, more: bool, now: Time) {
        if !more {
            self.handle_watch_ended(side, now);
        }
        if !reset {
            return;
        }
        if !self.end(side).receives() {
            return self.break_side(side, CloseReason::Failed(side, Errno::ECONNRESET), now);
        }
        // What was received before is delivered first, and the next receive tells of the reset in its place.
        self.end_mut(side).hung_up = true;
        if self.end(side).rx == Rx::Armed {
            self.end_mut(side).rx = Rx::Cancelling;
            self.want(Todo::CancelReceive, side);
        }
    }

    /// The kernel may drop a watch at any time, with news or without: an end of stream is not the last of them.
    fn handle_watch_ended(&mut self, side: Side, now: Time) {
        self.end_mut(side).watch = Watch::Off;
        if !self.end(side).receives() {
            self.watch_soon(now);
        }
    }

    fn handle_unsent(&mut self, side: Side, bytes: usize, now: Time) {
        let Phase::Resetting { broken, poll_at, step_ms, .. } = &mut self.phase else { return };
        if bytes > 0 {
            *poll_at = now + Duration::from_millis((*step_ms).into());
            *step_ms = (*step_ms * 2).min(UNSENT_POLL_MAX.as_millis() as u16);
            return;
        }
        let broken = *broken;
        debug_assert_eq!(side, broken.other());
        self.close_side(broken, false);
        self.finish(true);
    }

    /// Something is unanswered, while so much has been heard (or nothing is): since when the same?
    fn handle_mute(&mut self, side: Side, heard: Option<u32>, now: Time, rules: &Rules) {
        let Some(timeout) = rules.dead_peer_timeout else { return };
        let end = self.end_mut(side);
        let Some(heard) = heard else {
            end.mute_since = Time::NEVER;
            return;
        };
        if end.mute_since == Time::NEVER || end.heard != heard {
            (end.heard, end.mute_since) = (heard, now);
        }
        if now.since(end.mute_since) >= timeout && end.is_open() {
            self.blame(CloseReason::DeadPeer(side));
            self.end_all(true);
        }
    }

    fn handle_reclaim(&mut self, side: Side) {
        match self.end(side).tx {
            Tx::Sending => {
                self.end_mut(side).tx = Tx::Recalling;
                self.want(Todo::CancelSend, side);
            }
            Tx::Idle if self.end(side).queued > 0 => self.want(Todo::Spill, side),
            _ => {}
        }
    }

    fn handle_kill(&mut self, kill: Kill) {
        self.blame(CloseReason::Killed(kill));
        self.end_all(true);
    }

    /// Bytes are lost to a session that is being ended in order because its time is up: neither side may take what it has got
    /// for the whole.
    fn end_rudely(&mut self) {
        if matches!(self.reason, Some(CloseReason::IdleTimeout | CloseReason::MaxDuration)) {
            for end in &mut self.ends {
                if let Socket::Closing { reset } = &mut end.socket {
                    *reset = true;
                }
            }
        }
    }

    /// After a recalled send: what is left leaves the receive buffers, if it is still to be delivered.
    fn give_back(&mut self, side: Side) {
        if self.end(side).is_open() && self.end(side).queued > 0 {
            self.want(Todo::Spill, side);
        }
    }

    /// Notes the cause, unless there is one: the first counts. That streams ended in order counts only while nothing worse comes.
    pub(super) fn blame(&mut self, reason: CloseReason) {
        let open = match self.reason {
            None => true,
            Some(CloseReason::Eof(_)) => !matches!(reason, CloseReason::Eof(_)),
            Some(_) => false,
        };
        if open && self.phase != Phase::Ending {
            self.reason = Some(reason);
        }
    }

    /// Asks for a tick at `at`. A later one than what is armed is left to the tick that comes first.
    pub(super) fn schedule(&mut self, at: Time) {
        if at < self.next {
            self.next = at;
            self.want(Todo::Deadline, Side::Client);
        }
    }

    pub(super) fn want(&mut self, todo: Todo, side: Side) {
        let second = matches!(side, Side::Backend);
        self.todo |= 1u64 << (todo as u32 + u32::from(second));
    }

    pub(super) const fn end(&self, side: Side) -> &End {
        &self.ends[side as usize]
    }

    pub(super) const fn end_mut(&mut self, side: Side) -> &mut End {
        &mut self.ends[side as usize]
    }
}

/// `EPIPE` is how a send meets a reset that came after an end of stream.
const fn reset_name(errno: Errno) -> Errno {
    if errno.raw() == Errno::EPIPE.raw() || errno.raw() == Errno::ENOTCONN.raw() { Errno::ECONNRESET } else { errno }
}
