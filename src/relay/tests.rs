//! The paths of one connection, step by step. What these do not think of, the simulation does.

use std::time::Duration;

use super::Side::{Backend, Client};
use super::*;
use crate::limits::{
    BUFFER_BYTES, BULK_BUFFER_BYTES, PROXY_HEADER_MAX, REFUSAL_DISCARD_BYTES_MAX, REFUSAL_LINGER_MAX, RESET_FLUSH_MAX,
    SPLICE_BYTES, SPLICE_PIECE_BYTES, UNSENT_POLL_MIN, WATCH_AFTER, WATCH_QUIET, WATERMARK_HIGH_BYTES,
    WATERMARK_LOW_BYTES,
};
use crate::time::Time;

struct Session {
    relay: Relay,
    rules: Rules,
    now: Time,
}

impl Session {
    fn new(start: Start) -> Session {
        let rules = Rules {
            connect_timeout: Duration::from_secs(4),
            connect_budget: Duration::from_secs(10),
            connect_attempts: 3,
            idle_timeout: Some(Duration::from_secs(600)),
            dead_peer_timeout: Some(Duration::from_secs(30)),
            when_none: WhenNone::Close,
            queue_timeout: Duration::from_secs(5),
            max_session_duration: None,
        };
        Session { relay: Relay::new(Time::ZERO, Time::NEVER, start), rules, now: Time::ZERO }
    }

    /// An accepted client, whose first actions are done.
    fn accepted() -> Session {
        let mut session = Session::new(Start::Choose { waiting: 0 });
        assert_eq!(session.drain(), [Action::Choose, receive(Client)]);
        session
    }

    /// A client that was accepted and owes us its header.
    fn announced() -> Session {
        let mut session = Session::new(Start::AwaitHeader);
        assert_eq!(session.drain(), [receive(Client)]);
        session
    }

    /// A relaying session that may last a minute.
    fn short() -> Session {
        let mut session = Session::relaying();
        session.relay.last_at = Time::ZERO + Duration::from_secs(60);
        session
    }

    /// A relaying session.
    fn relaying() -> Session {
        let mut session = Session::accepted();
        session.input(Input::Connecting);
        assert_eq!(session.input(Input::Connected), [receive(Backend)]);
        session
    }

    fn drain(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.relay.poll()).filter(|action| !matches!(action, Action::Deadline(_))).collect()
    }

    fn input(&mut self, input: Input) -> Vec<Action> {
        self.relay.handle(input, self.now, &self.rules);
        self.drain()
    }

    /// What a tick asks for, but for the watches of a quiet session.
    fn tick(&mut self, seconds: u64) -> Vec<Action> {
        let watch = |action: &Action| matches!(action, Action::Watch(_) | Action::CancelWatch(_));
        self.after(Duration::from_secs(seconds)).into_iter().filter(|action| !watch(action)).collect()
    }

    fn after(&mut self, time: Duration) -> Vec<Action> {
        self.now = self.now + time;
        self.input(Input::Tick)
    }

    fn received(&mut self, side: Side, bytes: usize) -> Vec<Action> {
        self.input(Input::Received { side, bytes, more: true })
    }

    fn sent(&mut self, side: Side, bytes: usize) -> Vec<Action> {
        self.input(Input::Sent { side, bytes, whole: true })
    }

    fn eof(&mut self, side: Side) -> Vec<Action> {
        self.input(Input::ReceiveEnded(side, ReceiveEnd::Eof))
    }

    fn reset(&mut self, side: Side) -> Vec<Action> {
        self.input(Input::ReceiveEnded(side, ReceiveEnd::Failed(Errno::ECONNRESET)))
    }
}

const fn receive(side: Side) -> Action {
    Action::Receive { side, bulk: false }
}

fn refused() -> Input {
    Input::ConnectFailed { errno: Errno::ECONNREFUSED, retry: true, counted: true }
}

#[test]
fn request_response_and_an_orderly_end() {
    let mut s = Session::relaying();
    assert_eq!(s.received(Client, 10), [Action::Send(Backend)]);
    assert_eq!(s.sent(Backend, 10), []);
    assert_eq!(s.received(Backend, 20), [Action::Send(Client)]);
    assert_eq!(s.sent(Client, 20), []);
    assert_eq!(s.eof(Client), [Action::Shutdown(Backend)]);
    // The backend's end says all that a shutdown of the client would: both are simply closed.
    assert_eq!(
        s.eof(Backend),
        [Action::Close(Client), Action::Close(Backend), Action::Finished(CloseReason::Eof(Client))]
    );
}

#[test]
fn a_half_close_waits_for_the_last_byte_and_leaves_the_other_direction_open() {
    let mut s = Session::relaying();
    assert_eq!(s.received(Client, 10), [Action::Send(Backend)]);
    assert_eq!(s.eof(Client), []);
    assert_eq!(s.sent(Backend, 10), [Action::Shutdown(Backend)]);
    assert_eq!(s.received(Backend, 5), [Action::Send(Client)]);
    assert_eq!(s.received(Backend, 5), []);
    assert_eq!(s.sent(Client, 5), [Action::Send(Client)]);
    // The backend has ended: its socket is closed although the client is slower.
    assert_eq!(s.eof(Backend), [Action::Close(Backend)]);
    assert_eq!(s.sent(Client, 5), [Action::Close(Client), Action::Finished(CloseReason::Eof(Client))]);
}

#[test]
fn what_a_client_sends_before_the_connect_waits_and_goes_first() {
    let mut s = Session::accepted();
    assert_eq!(s.input(Input::Connecting), []);
    assert_eq!(s.received(Client, 100), []);
    assert_eq!(s.eof(Client), []);
    assert_eq!(s.input(Input::Connected), [Action::Send(Backend), receive(Backend)]);
    assert_eq!(s.sent(Backend, 100), [Action::Shutdown(Backend)]);
}

#[test]
fn a_failed_connect_goes_on_until_the_attempts_are_used_up() {
    let mut s = Session::accepted();
    for _ in 0..2 {
        s.input(Input::Connecting);
        assert_eq!(s.input(refused()), [Action::Choose]);
    }
    s.input(Input::Connecting);
    assert_eq!(s.input(refused()), [Action::Drop(Backend), Action::Shutdown(Client)]);
    assert_eq!(
        s.eof(Client),
        [Action::Close(Client), Action::Finished(CloseReason::ConnectFailed(Errno::ECONNREFUSED))]
    );
}

#[test]
fn what_this_process_lacks_is_no_failed_connect() {
    let mut s = Session::accepted();
    s.input(Input::ConnectFailed { errno: Errno::EMFILE, retry: false, counted: true });
    assert!(s.eof(Client).contains(&Action::Finished(CloseReason::Internal(Errno::EMFILE))));
}

#[test]
fn a_connect_that_takes_too_long_is_cancelled_and_the_next_backend_tried() {
    let mut s = Session::accepted();
    s.input(Input::Connecting);
    assert_eq!(s.after(Duration::from_millis(3_999)), []);
    assert_eq!(s.after(Duration::from_millis(1)), [Action::CancelConnect]);
    assert_eq!(s.relay.judge(Errno::ECANCELED), Verdict::TimedOut);
    let cancelled = Input::ConnectFailed { errno: Errno::ECANCELED, retry: true, counted: true };
    assert_eq!(s.input(cancelled), [Action::Choose]);
}

#[test]
fn a_connect_that_succeeds_after_its_deadline_is_used() {
    let mut s = Session::accepted();
    s.input(Input::Connecting);
    assert_eq!(s.after(Duration::from_secs(4)), [Action::CancelConnect]);
    assert_eq!(s.input(Input::Connected), [receive(Backend)]);
}

#[test]
fn a_client_that_ends_its_stream_after_the_deadline_is_still_the_first() {
    let mut s = Session::accepted();
    s.input(Input::Connecting);
    assert_eq!(s.after(Duration::from_secs(4)), [Action::CancelConnect]);
    assert_eq!(s.eof(Client), []);
    assert_eq!(s.input(Input::Connected), [receive(Backend), Action::Shutdown(Backend)]);
    assert!(s.eof(Backend).contains(&Action::Finished(CloseReason::Eof(Client))));
}

#[test]
fn a_client_that_resets_while_connecting_is_gone_and_blames_nobody() {
    let mut s = Session::accepted();
    s.input(Input::Connecting);
    assert_eq!(s.reset(Client), [Action::CancelConnect, Action::Close(Client)]);
    assert_eq!(s.relay.judge(Errno::ECANCELED), Verdict::Abandoned);
    let cancelled = Input::ConnectFailed { errno: Errno::ECANCELED, retry: false, counted: false };
    assert_eq!(s.input(cancelled), [Action::Finished(CloseReason::Failed(Client, Errno::ECONNRESET))]);
}

#[test]
fn a_connect_that_succeeds_after_the_client_has_gone_is_reset() {
    let mut s = Session::accepted();
    s.input(Input::Connecting);
    s.reset(Client);
    let finished = Action::Finished(CloseReason::Failed(Client, Errno::ECONNRESET));
    assert_eq!(s.input(Input::Connected), [Action::Reset(Backend), finished]);
}

#[test]
fn the_high_mark_stops_receiving_and_the_low_mark_resumes_it_as_bulk() {
    let mut s = Session::relaying();
    assert_eq!(s.received(Client, WATERMARK_HIGH_BYTES - 1), [Action::Send(Backend)]);
    assert_eq!(s.received(Client, 1), [Action::CancelReceive(Client)]);
    // What was on its way still comes.
    assert_eq!(s.received(Client, 4096), []);
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), []);
    let left = WATERMARK_LOW_BYTES;
    let resumed = s.sent(Backend, WATERMARK_HIGH_BYTES + 4096 - left);
    assert_eq!(resumed, [Action::Send(Backend), Action::Receive { side: Client, bulk: true }]);
}

#[test]
fn full_pieces_in_a_row_are_bulk_and_small_ones_end_it() {
    let mut s = Session::relaying();
    for _ in 0..7 {
        s.received(Client, BUFFER_BYTES);
        s.sent(Backend, BUFFER_BYTES);
    }
    // One that is not full begins the count anew.
    s.received(Client, BUFFER_BYTES - 1);
    s.sent(Backend, BUFFER_BYTES - 1);
    for _ in 0..7 {
        assert_eq!(s.received(Client, BUFFER_BYTES), [Action::Send(Backend)]);
        s.sent(Backend, BUFFER_BYTES);
    }
    assert_eq!(s.received(Client, BUFFER_BYTES), [Action::Send(Backend), Action::CancelReceive(Client)]);
    let large = Action::Receive { side: Client, bulk: true };
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [large]);
    s.sent(Backend, BUFFER_BYTES);
    for n in 1..=8 {
        let piece = s.input(Input::Received { side: Client, bytes: 10, more: false });
        let next = if n < 8 { large } else { receive(Client) };
        assert_eq!(piece, [Action::Send(Backend), next]);
        s.sent(Backend, 10);
    }
}

/// A relaying session whose client is spliced from, with nothing waiting.
fn splicing() -> Session {
    let mut s = Session::relaying();
    s.received(Client, WATERMARK_HIGH_BYTES);
    let large = Action::Receive { side: Client, bulk: true };
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [large]);
    assert_eq!(s.sent(Backend, WATERMARK_HIGH_BYTES), []);
    for n in 1..=4 {
        let next = s.piece(SPLICE_PIECE_BYTES);
        // A large one is asked for while the last is on its way, a pipe is filled when it is empty.
        assert_eq!(next[1..], if n < 4 { vec![large] } else { vec![] });
        assert_eq!(s.sent(Backend, SPLICE_PIECE_BYTES), if n < 4 { vec![] } else { vec![Action::Splice(Client)] });
    }
    s
}

impl Session {
    /// The client's next piece.
    fn piece(&mut self, bytes: usize) -> Vec<Action> {
        self.input(Input::Received { side: Client, bytes, more: false })
    }
}

#[test]
fn bulk_that_goes_on_is_spliced_one_pipe_at_a_time_until_it_comes_slowly() {
    let mut s = splicing();
    for _ in 0..3 {
        assert_eq!(s.piece(SPLICE_BYTES), [Action::Send(Backend)]);
        // A full socket takes a part; the rest is asked for anew.
        assert_eq!(s.sent(Backend, 1000), [Action::Send(Backend)]);
        assert_eq!(s.sent(Backend, SPLICE_BYTES - 1000), [Action::Splice(Client)]);
    }
    for _ in 1..8 {
        assert_eq!(s.piece(10), [Action::Send(Backend)]);
        assert_eq!(s.sent(Backend, 10), [Action::Splice(Client)]);
    }
    assert_eq!(s.piece(10), [Action::Send(Backend), Action::Receive { side: Client, bulk: true }]);
}

#[test]
fn what_cannot_be_spliced_is_received() {
    let mut s = splicing();
    let large = Action::Receive { side: Client, bulk: true };
    assert_eq!(s.input(Input::Unspliced(Client)), [large]);
    assert_eq!(s.piece(100), [Action::Send(Backend), large]);
}

#[test]
fn a_splice_that_was_taken_back_is_not_asked_for_again_by_a_session_that_ends() {
    let mut s = splicing();
    let both = [Action::CancelReceive(Client), Action::CancelReceive(Backend)];
    assert_eq!(s.input(Input::Kill(Kill::Shutdown)), both);
    assert_eq!(s.input(Input::Unspliced(Client)), [Action::Reset(Client)]);
}

#[test]
fn the_end_and_the_reset_of_a_spliced_side_come_after_what_is_in_the_pipe() {
    let mut s = splicing();
    s.piece(SPLICE_BYTES);
    assert_eq!(s.sent(Backend, SPLICE_BYTES), [Action::Splice(Client)]);
    assert_eq!(s.eof(Client), [Action::Shutdown(Backend)]);

    // Where the watch tells of the reset while the pipe is full, what the client has sent before is still spliced.
    let mut s = splicing();
    s.piece(SPLICE_BYTES);
    s.after(WATCH_AFTER);
    let gone = s.input(Input::HungUp { side: Client, reset: true, more: true });
    assert_eq!(gone, [Action::Drop(Client), Action::CancelReceive(Backend)]);
    assert_eq!(s.input(Input::ReceiveEnded(Backend, ReceiveEnd::Cancelled)), []);
    assert_eq!(s.sent(Backend, SPLICE_BYTES), [Action::Splice(Client)]);
    assert_eq!(s.piece(100), [Action::Send(Backend)]);
    assert_eq!(s.sent(Backend, 100), [Action::Splice(Client)]);
    assert_eq!(s.reset(Client), [Action::CancelWatch(Client), Action::PollUnsent(Backend)]);
}

/// Nothing has moved, and so it is no sign of life.
#[test]
fn a_send_that_is_asked_for_anew_does_not_keep_an_idle_session() {
    let mut s = splicing();
    s.piece(SPLICE_BYTES);
    s.tick(599);
    assert_eq!(s.sent(Backend, 0), [Action::Send(Backend)]);
    let ends = s.tick(1);
    assert!(ends.contains(&Action::CancelSend(Backend)), "{ends:?}");
}

#[test]
fn a_reset_is_passed_on_once_what_came_before_it_is_acknowledged() {
    let mut s = Session::relaying();
    assert_eq!(s.received(Backend, 100), [Action::Send(Client)]);
    assert_eq!(s.reset(Backend), [Action::Drop(Backend), Action::CancelReceive(Client), Action::Close(Backend)]);
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), []);
    assert_eq!(s.sent(Client, 100), [Action::PollUnsent(Client)]);
    assert_eq!(s.input(Input::Unsent(Client, 100)), []);
    assert_eq!(s.after(UNSENT_POLL_MIN), [Action::PollUnsent(Client)]);
    let finished = Action::Finished(CloseReason::Failed(Backend, Errno::ECONNRESET));
    assert_eq!(s.input(Input::Unsent(Client, 0)), [Action::Reset(Client), finished]);
}

/// Otherwise the worker would not sleep until the slow side has taken what is owed to it.
#[test]
fn what_is_owed_before_a_reset_is_waited_for_without_a_deadline_in_the_past() {
    let mut s = Session::relaying();
    s.received(Backend, 100);
    s.reset(Backend);
    s.after(UNSENT_POLL_MIN);
    assert!(s.relay.next > s.now);
}

#[test]
fn a_peer_that_does_not_read_is_reset_when_time_is_up() {
    let mut s = Session::relaying();
    s.received(Backend, 100);
    s.reset(Backend);
    s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled));
    assert_eq!(s.after(RESET_FLUSH_MAX), [Action::CancelSend(Client)]);
    let finished = Action::Finished(CloseReason::Failed(Backend, Errno::ECONNRESET));
    assert_eq!(s.input(Input::SendFailed(Client, Errno::ECANCELED)), [Action::Reset(Client), finished]);
}

#[test]
fn a_send_that_ends_short_is_a_reset_whose_bytes_are_still_read() {
    let mut s = Session::relaying();
    s.received(Client, 100);
    let short = Input::Sent { side: Backend, bytes: 40, whole: false };
    assert_eq!(s.input(short), [Action::Drop(Backend), Action::CancelReceive(Client)]);
    assert!(s.relay.doubts_eof(Backend));
    assert_eq!(s.received(Backend, 7), [Action::Send(Client)]);
    s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled));
    // The news of the reset was spent on the send: what looks like an end of stream is the reset.
    assert_eq!(s.eof(Backend), [Action::Close(Backend)]);
    assert_eq!(s.sent(Client, 7), [Action::PollUnsent(Client)]);
}

#[test]
fn a_reset_behind_an_end_of_stream_is_seen_by_the_watch() {
    let mut s = Session::relaying();
    assert_eq!(s.eof(Client), [Action::Shutdown(Backend)]);
    assert_eq!(s.after(WATCH_AFTER), [Action::Watch(Client)]);
    let gone = Input::HungUp { side: Client, reset: true, more: true };
    let actions = s.input(gone);
    assert!(actions.contains(&Action::CancelReceive(Backend)), "{actions:?}");
}

#[test]
fn a_side_whose_receive_ended_with_too_much_waiting_is_watched() {
    let mut s = Session::relaying();
    let last = Input::Received { side: Client, bytes: WATERMARK_LOW_BYTES + 1, more: false };
    assert_eq!(s.input(last), [Action::Send(Backend)]);
    assert_eq!(s.after(WATCH_AFTER), [Action::Watch(Client)]);
}

#[test]
fn a_client_whose_receive_ended_while_connecting_is_watched() {
    let mut s = Session::accepted();
    s.input(Input::Connecting);
    s.received(Client, WATERMARK_LOW_BYTES + 1);
    s.input(Input::ReceiveEnded(Client, ReceiveEnd::Starved));
    s.input(Input::BuffersFree(Client));
    assert_eq!(s.input(Input::Connected), [Action::Send(Backend), receive(Backend)]);
    assert_eq!(s.after(WATCH_AFTER), [Action::Watch(Client)]);
}

#[test]
fn a_watch_that_the_kernel_ends_with_its_first_news_is_renewed() {
    let mut s = Session::relaying();
    assert_eq!(s.eof(Client), [Action::Shutdown(Backend)]);
    assert_eq!(s.after(WATCH_AFTER), [Action::Watch(Client)]);
    assert_eq!(s.input(Input::HungUp { side: Client, reset: false, more: false }), []);
    assert_eq!(s.after(WATCH_AFTER), [Action::Watch(Client)]);
}

#[test]
fn a_reset_that_came_with_the_last_bytes_is_asked_for_when_the_session_is_quiet() {
    let mut s = Session::relaying();
    s.now = s.now + WATCH_QUIET / 2;
    s.received(Client, 5);
    s.sent(Backend, 5);
    // Not as long as bytes move.
    assert_eq!(s.after(WATCH_QUIET / 2), []);
    assert_eq!(s.after(WATCH_QUIET / 2), [Action::Watch(Client), Action::Watch(Backend)]);
    let gone = Input::HungUp { side: Client, reset: true, more: true };
    assert_eq!(s.input(gone), [Action::CancelReceive(Client)]);
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [receive(Client)]);
    // Even if somebody else has taken the news, an end of stream is not believed.
    assert!(s.relay.doubts_eof(Client));
    let actions = s.reset(Client);
    assert!(actions.contains(&Action::PollUnsent(Backend)), "{actions:?}");
}

#[test]
fn a_reset_that_the_watch_told_of_is_believed_where_nobody_can_receive() {
    let mut s = Session::relaying();
    s.received(Backend, BUFFER_BYTES);
    assert_eq!(s.after(WATCH_QUIET), [Action::Watch(Client), Action::Watch(Backend)]);
    let gone = Input::HungUp { side: Backend, reset: true, more: true };
    assert_eq!(s.input(gone), [Action::CancelReceive(Backend)]);
    // The client does not read, and what comes with the end of the receive is more than may wait.
    let last = Input::Received { side: Backend, bytes: WATERMARK_HIGH_BYTES, more: false };
    assert_eq!(s.input(last), [Action::Drop(Backend), Action::CancelReceive(Client)]);
}

#[test]
fn starved_receives_wait_for_buffers() {
    let mut s = Session::relaying();
    let starved = Input::ReceiveEnded(Client, ReceiveEnd::Starved);
    assert_eq!(s.input(starved), [Action::AwaitBuffers { side: Client, bulk: false }]);
    assert_eq!(s.input(Input::BuffersFree(Client)), [receive(Client)]);
}

#[test]
fn reclaiming_recalls_the_send_and_spills_what_it_did_not_take() {
    let mut s = Session::relaying();
    s.received(Client, 100);
    assert_eq!(s.input(Input::Reclaim(Backend)), [Action::CancelSend(Backend)]);
    let partial = Input::Sent { side: Backend, bytes: 30, whole: false };
    assert_eq!(s.input(partial), [Action::Spill(Backend), Action::Send(Backend)]);
}

#[test]
fn idle_sessions_end_politely_and_those_that_owe_bytes_do_not() {
    let mut s = Session::relaying();
    assert_eq!(s.after(Duration::from_secs(600)), [Action::CancelReceive(Client), Action::CancelReceive(Backend)]);
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [Action::Close(Client)]);
    let finished = Action::Finished(CloseReason::IdleTimeout);
    assert_eq!(s.input(Input::ReceiveEnded(Backend, ReceiveEnd::Cancelled)), [Action::Close(Backend), finished]);

    let mut s = Session::relaying();
    s.received(Client, 10);
    s.after(Duration::from_secs(600));
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [Action::Reset(Client)]);
}

#[test]
fn a_session_that_has_lasted_long_enough_ends_as_an_idle_one_does() {
    let cancelled = |side| Input::ReceiveEnded(side, ReceiveEnd::Cancelled);
    let finished = Action::Finished(CloseReason::MaxDuration);
    let mut s = Session::short();
    // Bytes do not prolong it.
    s.now = s.now + Duration::from_secs(59);
    assert_eq!(s.received(Client, 10), [Action::Send(Backend)]);
    assert_eq!(s.sent(Backend, 10), []);
    let both = [Action::CancelReceive(Client), Action::CancelReceive(Backend)];
    assert_eq!(s.after(Duration::from_secs(1)), both);
    assert_eq!(s.input(cancelled(Client)), [Action::Close(Client)]);
    assert_eq!(s.input(cancelled(Backend)), [Action::Close(Backend), finished]);

    let mut s = Session::short();
    s.received(Client, 10);
    assert_eq!(s.after(Duration::from_secs(60)), [Action::CancelSend(Backend), both[0], both[1]]);
    assert_eq!(s.input(cancelled(Client)), [Action::Reset(Client)]);
}

/// Else the peer would take what it has got for the whole.
#[test]
fn bytes_that_come_while_a_session_ends_for_its_time_make_it_a_reset() {
    for reason in [CloseReason::IdleTimeout, CloseReason::MaxDuration] {
        let mut s = if reason == CloseReason::MaxDuration { Session::short() } else { Session::relaying() };
        let time = if reason == CloseReason::MaxDuration { 60 } else { 600 };
        s.after(Duration::from_secs(time));
        assert_eq!(s.received(Backend, 7), []);
        assert_eq!(s.input(Input::ReceiveEnded(Backend, ReceiveEnd::Cancelled)), [Action::Reset(Backend)]);
        let finished = Action::Finished(reason);
        assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [Action::Reset(Client), finished]);
    }
}

#[test]
fn the_time_of_a_session_is_counted_from_its_client_and_looked_at_once_it_is_connected() {
    let mut s = Session::accepted();
    s.relay.last_at = Time::from_millis(1);
    s.input(Input::Connecting);
    assert_eq!(s.after(Duration::from_secs(1)), []);
    assert_eq!(s.input(Input::Connected), [receive(Backend)]);
    assert_eq!(s.relay.next, Time::from_millis(1), "a tick is due at once");
    assert_eq!(s.after(Duration::ZERO), [Action::CancelReceive(Client), Action::CancelReceive(Backend)]);
}

#[test]
fn sessions_that_began_together_end_apart_and_never_late() {
    let second = Duration::from_secs(1);
    let rules = Rules { max_session_duration: Some(10 * second), ..Session::accepted().rules };
    let now = Time::from_millis(5);
    assert_eq!(rules.last_at(now, || 0), now + 10 * second);
    assert_eq!(rules.last_at(now, || u64::MAX / 2), now + Duration::from_nanos(9_500_000_001));
    assert_eq!(rules.last_at(now, || u64::MAX), now + Duration::from_nanos(9_000_000_001));
    let never = Rules { max_session_duration: None, ..rules };
    assert_eq!(never.last_at(now, || unreachable!("nobody draws where nothing follows")), Time::NEVER);
}

#[test]
fn a_peer_that_leaves_bytes_unanswered_and_says_nothing_is_dead() {
    let mut s = Session::relaying();
    s.received(Client, 10);
    s.sent(Backend, 10);
    let mute = |heard| Input::Inspected { side: Backend, outstanding: true, unanswered: true, heard };
    assert_eq!(s.tick(15), [Action::Inspect(Backend)]);
    assert_eq!(s.input(mute(7)), []);
    assert_eq!(s.tick(15), [Action::Inspect(Backend)]);
    // It was heard in between: the time begins anew.
    assert_eq!(s.input(mute(8)), []);
    assert_eq!(s.tick(15), [Action::Inspect(Backend)]);
    assert_eq!(s.input(mute(8)), []);
    assert_eq!(s.tick(15), [Action::Inspect(Backend)]);
    let dead = s.input(mute(8));
    assert_eq!(dead[..2], [Action::CancelReceive(Client), Action::CancelReceive(Backend)]);
}

/// Its probes are answered at this look, and perhaps not at the next.
#[test]
fn a_peer_with_a_closed_window_is_looked_at_again() {
    let mut s = Session::relaying();
    s.received(Client, 10);
    s.sent(Backend, 10);
    let look = |outstanding| Input::Inspected { side: Backend, outstanding, unanswered: false, heard: 7 };
    assert_eq!(s.tick(15), [Action::Inspect(Backend)]);
    s.input(look(true));
    assert_eq!(s.tick(15), [Action::Inspect(Backend)]);
    s.input(look(false));
    assert_eq!(s.tick(15), []);
}

#[test]
fn a_refused_client_may_finish_speaking_but_not_for_ever() {
    let mut s = Session::accepted();
    assert_eq!(s.input(Input::NoneEligible), [Action::Drop(Backend), Action::Shutdown(Client)]);
    assert_eq!(s.received(Client, 1000), []);
    assert_eq!(s.after(Duration::from_secs(1)), [Action::CancelReceive(Client)]);
    let finished = Action::Finished(CloseReason::NoBackend);
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [Action::Close(Client), finished]);
}

#[test]
fn a_refused_client_is_reset_at_once_where_that_is_wanted() {
    let mut s = Session::accepted();
    s.rules.when_none = WhenNone::Reset;
    assert_eq!(s.input(Input::NoneEligible), [Action::Drop(Backend), Action::CancelReceive(Client)]);
    // What comes with the end of the receive changes nothing.
    assert_eq!(s.input(Input::Received { side: Client, bytes: 10, more: true }), []);
    let finished = Action::Finished(CloseReason::NoBackend);
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Eof)), [Action::Reset(Client), finished]);
}

/// An accepted client that gets an answer whose last byte is not sent yet.
fn answered() -> Session {
    let mut s = Session::accepted();
    s.rules.when_none = WhenNone::Http503;
    assert_eq!(s.received(Client, 500), []);
    assert_eq!(s.input(Input::NoneEligible), [Action::Drop(Backend), Action::Answer]);
    assert_eq!(s.input(Input::Answered { bytes: 200 }), [Action::Send(Client)]);
    s
}

#[test]
fn a_refused_client_is_answered_and_may_say_all_of_its_request() {
    let mut s = answered();
    // It has not read a byte of the answer yet, and its request is long: a close would reset it.
    assert_eq!(s.received(Client, 2 * REFUSAL_DISCARD_BYTES_MAX as usize), []);
    assert_eq!(s.sent(Client, 200), [Action::Shutdown(Client)]);
    assert_eq!(s.received(Client, 2 * REFUSAL_DISCARD_BYTES_MAX as usize), []);
    assert_eq!(s.eof(Client), [Action::Close(Client), Action::Finished(CloseReason::NoBackend)]);
}

#[test]
fn an_answered_client_that_goes_on_talking_is_closed_in_the_end() {
    let mut s = answered();
    s.now = s.now + Duration::from_millis(900);
    assert_eq!(s.sent(Client, 200), [Action::Shutdown(Client)]);
    s.received(Client, 1000);
    // The second begins when the answer is on its way.
    assert_eq!(s.after(Duration::from_millis(999)), []);
    assert_eq!(s.after(Duration::from_millis(1)), [Action::CancelReceive(Client)]);
    let finished = Action::Finished(CloseReason::NoBackend);
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [Action::Close(Client), finished]);
}

#[test]
fn a_refused_client_that_has_ended_its_stream_is_answered_too() {
    let mut s = Session::accepted();
    s.rules.when_none = WhenNone::Http503;
    assert_eq!(s.eof(Client), []);
    assert_eq!(s.input(Input::NoneEligible), [Action::Drop(Backend), Action::Answer]);
    assert_eq!(s.input(Input::Answered { bytes: 200 }), [Action::Send(Client)]);
    assert_eq!(s.sent(Client, 200), [Action::Close(Client), Action::Finished(CloseReason::NoBackend)]);
}

#[test]
fn an_answer_whose_send_is_recalled_is_sent_whole() {
    let mut s = answered();
    assert_eq!(s.input(Input::Reclaim(Client)), [Action::CancelSend(Client)]);
    let partial = Input::Sent { side: Client, bytes: 150, whole: false };
    assert_eq!(s.input(partial), [Action::Spill(Client), Action::Send(Client)]);
    assert_eq!(s.input(Input::Reclaim(Client)), [Action::CancelSend(Client)]);
    assert_eq!(s.sent(Client, 50), [Action::Shutdown(Client)]);
}

#[test]
fn an_answer_that_nobody_takes_is_given_up() {
    let mut s = answered();
    assert_eq!(s.after(REFUSAL_LINGER_MAX), [Action::CancelSend(Client), Action::CancelReceive(Client)]);
    s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled));
    let finished = Action::Finished(CloseReason::NoBackend);
    assert_eq!(s.input(Input::SendFailed(Client, Errno::ECANCELED)), [Action::Close(Client), finished]);
    // And one whose client resets meanwhile.
    let mut s = answered();
    assert_eq!(s.reset(Client), [Action::CancelSend(Client)]);
    assert_eq!(s.input(Input::SendFailed(Client, Errno::EPIPE)), [Action::Close(Client), finished]);
}

/// A client that waits for a place.
fn queued() -> Session {
    let mut s = Session::accepted();
    assert_eq!(s.input(Input::Queued), []);
    assert!(s.relay.is_queued());
    s
}

#[test]
fn a_client_that_waits_is_held_and_goes_on_with_its_place() {
    let mut s = queued();
    assert_eq!(s.received(Client, 100), []);
    // Its end of stream does not mean that it has gone, and being idle is all that it can be.
    assert_eq!(s.eof(Client), []);
    s.rules.idle_timeout = Some(Duration::from_secs(1));
    assert_eq!(s.after(Duration::from_secs(4)), [Action::Watch(Client)]);
    assert_eq!(s.input(Input::Placed), []);
    assert_eq!(s.input(Input::Connecting), []);
    assert_eq!(s.input(Input::Connected), [Action::Send(Backend), receive(Backend)]);
    assert_eq!(s.sent(Backend, 100), [Action::Shutdown(Backend)]);
}

#[test]
fn what_a_client_says_while_it_waits_has_a_bound() {
    let mut s = queued();
    assert_eq!(s.received(Client, WATERMARK_HIGH_BYTES), [Action::CancelReceive(Client)]);
    let large = Action::Receive { side: Client, bulk: true };
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [large]);
    assert_eq!(s.input(Input::Received { side: Client, bytes: BULK_BUFFER_BYTES, more: false }), []);
    // Nobody receives from it now, so that only a watch sees its reset.
    assert_eq!(s.after(WATCH_AFTER), [Action::Watch(Client)]);
    let gone = Input::HungUp { side: Client, reset: true, more: true };
    assert_eq!(s.input(gone), [Action::CancelWatch(Client), Action::LeaveQueue]);
    let finished = Action::Finished(CloseReason::Failed(Client, Errno::ECONNRESET));
    assert_eq!(s.input(Input::WatchEnded(Client)), [Action::Close(Client), finished]);
}

#[test]
fn a_client_that_waits_too_long_leaves_the_queue_and_is_refused() {
    let mut s = queued();
    assert_eq!(s.after(Duration::from_millis(4_999)), []);
    let refused = [Action::Drop(Backend), Action::Shutdown(Client), Action::LeaveQueue];
    assert_eq!(s.after(Duration::from_millis(1)), refused);
    assert!(!s.relay.is_queued());
    assert_eq!(s.eof(Client), [Action::Close(Client), Action::Finished(CloseReason::QueueTimeout)]);
}

#[test]
fn a_full_queue_is_a_refusal() {
    let mut s = Session::accepted();
    s.rules.when_none = WhenNone::Reset;
    assert_eq!(s.input(Input::QueueFull), [Action::Drop(Backend), Action::CancelReceive(Client)]);
    let finished = Action::Finished(CloseReason::QueueFull);
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [Action::Reset(Client), finished]);
}

#[test]
fn a_client_that_resets_or_is_killed_leaves_the_queue() {
    let mut s = queued();
    let finished = Action::Finished(CloseReason::Failed(Client, Errno::ECONNRESET));
    assert_eq!(s.reset(Client), [Action::Close(Client), Action::LeaveQueue, finished]);
    let mut s = queued();
    assert_eq!(s.input(Input::Kill(Kill::Shutdown)), [Action::CancelReceive(Client), Action::LeaveQueue]);
    let finished = Action::Finished(CloseReason::Killed(Kill::Shutdown));
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [Action::Reset(Client), finished]);
}

#[test]
fn the_time_in_the_queue_is_not_taken_from_that_for_connects() {
    let mut s = Session::accepted();
    s.rules.connect_budget = Duration::from_secs(3);
    s.input(Input::Connecting);
    s.now = s.now + Duration::from_secs(1);
    assert_eq!(s.input(refused()), [Action::Choose]);
    s.input(Input::Queued);
    s.now = s.now + Duration::from_secs(4);
    s.input(Input::Placed);
    s.input(Input::Connecting);
    // A second of three was used up before.
    assert_eq!(s.after(Duration::from_millis(1_999)), []);
    assert_eq!(s.after(Duration::from_millis(1)), [Action::CancelConnect]);
}

#[test]
fn a_kill_resets_both_sides() {
    let mut s = Session::relaying();
    let both = [Action::CancelReceive(Client), Action::CancelReceive(Backend)];
    assert_eq!(s.input(Input::Kill(Kill::Shutdown)), both);
    assert_eq!(s.input(Input::ReceiveEnded(Backend, ReceiveEnd::Cancelled)), [Action::Reset(Backend)]);
    let finished = Action::Finished(CloseReason::Killed(Kill::Shutdown));
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Eof)), [Action::Reset(Client), finished]);
}

#[test]
fn a_header_comes_before_the_choice_of_a_backend() {
    let mut s = Session::announced();
    assert_eq!(s.received(Client, 20), [Action::ReadHeader]);
    // It was incomplete.
    assert_eq!(s.received(Client, 30), [Action::ReadHeader]);
    assert_eq!(s.input(Input::HeaderRead { waiting: 7 }), [Action::Choose]);
    assert_eq!(s.input(Input::Connecting), []);
    assert_eq!(s.received(Client, 3), []);
    assert_eq!(s.input(Input::Connected), [Action::Send(Backend), receive(Backend)]);
    assert_eq!(s.sent(Backend, 10), []);
}

#[test]
fn a_header_and_nothing_behind_it_is_enough() {
    let mut s = Session::announced();
    assert_eq!(s.received(Client, 50), [Action::ReadHeader]);
    assert_eq!(s.input(Input::HeaderRead { waiting: 0 }), [Action::Choose]);
    s.input(Input::Connecting);
    assert_eq!(s.input(Input::Connected), [receive(Backend)]);
    assert_eq!(s.received(Client, 5), [Action::Send(Backend)]);
}

#[test]
fn a_header_that_ends_its_receive_is_read_too() {
    let mut s = Session::announced();
    let last = Input::Received { side: Client, bytes: 50, more: false };
    assert_eq!(s.input(last), [receive(Client), Action::ReadHeader]);
    assert_eq!(s.input(Input::HeaderRead { waiting: 0 }), [Action::Choose]);
}

#[test]
fn what_is_no_header_closes_the_client_and_chooses_nobody() {
    let mut s = Session::announced();
    s.received(Client, 20);
    assert_eq!(s.input(Input::HeaderWrong(Reason::NoHeader)), [Action::CancelReceive(Client)]);
    // What still comes finds no taker.
    assert!(s.relay.discards(Client));
    assert_eq!(s.received(Client, 20), []);
    let finished = Action::Finished(CloseReason::Header(HeaderFault::Wrong(Reason::NoHeader)));
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [Action::Close(Client), finished]);
}

#[test]
fn a_client_that_its_header_names_may_be_refused() {
    let mut s = Session::announced();
    s.received(Client, 20);
    assert_eq!(s.input(Input::ClientRefused(CloseReason::Denied)), [Action::CancelReceive(Client)]);
    let finished = Action::Finished(CloseReason::Denied);
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [Action::Close(Client), finished]);
}

#[test]
fn a_header_that_does_not_come_in_time_closes_the_client() {
    let mut s = Session::new(Start::AwaitHeader);
    let deadline = std::iter::from_fn(|| s.relay.poll()).find(|action| matches!(action, Action::Deadline(_)));
    assert_eq!(deadline, Some(Action::Deadline(Time::ZERO + PROXY_HEADER_MAX)));
    let almost = PROXY_HEADER_MAX - Duration::from_millis(1);
    assert_eq!(s.received(Client, 20), [Action::ReadHeader]);
    assert_eq!(s.after(almost), [Action::ReadHeader]);
    assert_eq!(s.after(Duration::from_millis(1)), [Action::CancelReceive(Client)]);
    let finished = Action::Finished(CloseReason::Header(HeaderFault::Late));
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [Action::Close(Client), finished]);
}

#[test]
fn a_client_that_ends_or_breaks_before_its_header_is_closed() {
    let mut s = Session::announced();
    s.received(Client, 20);
    let finished = Action::Finished(CloseReason::Header(HeaderFault::Unfinished));
    assert_eq!(s.eof(Client), [Action::Close(Client), finished]);
    let mut s = Session::announced();
    let finished = Action::Finished(CloseReason::Failed(Client, Errno::ECONNRESET));
    assert_eq!(s.reset(Client), [Action::Close(Client), finished]);
    let mut s = Session::announced();
    assert_eq!(s.input(Input::Kill(Kill::Shutdown)), [Action::CancelReceive(Client)]);
    let finished = Action::Finished(CloseReason::Killed(Kill::Shutdown));
    assert_eq!(s.input(Input::ReceiveEnded(Client, ReceiveEnd::Cancelled)), [Action::Reset(Client), finished]);
}

#[test]
fn a_client_that_may_send_no_header_is_never_received_from() {
    let reason = CloseReason::Header(HeaderFault::Untrusted);
    let mut s = Session::new(Start::Close(reason));
    assert_eq!(s.drain(), [Action::Close(Client), Action::Finished(reason)]);
}

#[test]
fn the_time_for_a_header_is_not_taken_from_that_for_connects() {
    let mut s = Session::announced();
    s.rules.connect_budget = Duration::from_secs(3);
    s.received(Client, 20);
    s.now = s.now + Duration::from_secs(4);
    s.input(Input::HeaderRead { waiting: 0 });
    s.input(Input::Connecting);
    assert_eq!(s.input(refused()), [Action::Choose]);
    s.input(Input::Connecting);
    assert_eq!(s.after(Duration::from_millis(2_999)), []);
    assert_eq!(s.after(Duration::from_millis(1)), [Action::CancelConnect]);
}

#[test]
fn what_we_say_first_waits_through_all_attempts_and_goes_once() {
    let mut s = Session::new(Start::Choose { waiting: 50 });
    assert_eq!(s.drain(), [Action::Choose, receive(Client)]);
    s.input(Input::Connecting);
    assert_eq!(s.received(Client, 10), []);
    assert_eq!(s.input(refused()), [Action::Choose]);
    s.input(Input::Connecting);
    assert_eq!(s.input(Input::Connected), [Action::Send(Backend), receive(Backend)]);
    assert_eq!(s.sent(Backend, 60), []);
    assert!(!s.relay.owes());

    // Without a word of the client it goes alone, at once, and before the client's end of stream.
    let mut s = Session::new(Start::Choose { waiting: 50 });
    s.drain();
    s.input(Input::Connecting);
    assert_eq!(s.eof(Client), []);
    assert_eq!(s.input(Input::Connected), [Action::Send(Backend), receive(Backend)]);
    assert_eq!(s.sent(Backend, 50), [Action::Shutdown(Backend)]);
}

#[test]
fn each_reason_has_a_label_of_its_own() {
    let faults = [HeaderFault::Untrusted, HeaderFault::Late, HeaderFault::Unfinished];
    let wrong = Reason::ALL.iter().map(|reason| HeaderFault::Wrong(*reason));
    let labels: Vec<&str> = faults.into_iter().chain(wrong).map(|fault| CloseReason::Header(fault).label()).collect();
    let distinct: std::collections::HashSet<_> = labels.iter().collect();
    assert_eq!(distinct.len(), labels.len(), "{labels:?}");
}

/// Every reason once, and those with an errno for each of its labels. Whoever adds a reason is led here by the match, and to
/// [`CloseReason::LABELS`].
fn reasons() -> Vec<CloseReason> {
    let mut all = vec![
        CloseReason::IdleTimeout,
        CloseReason::MaxDuration,
        CloseReason::Denied,
        CloseReason::ClientLimit,
        CloseReason::NoBackend,
        CloseReason::QueueFull,
        CloseReason::QueueTimeout,
        CloseReason::ConnectFailed(Errno::ECONNREFUSED),
        CloseReason::ConnectTimeout,
        CloseReason::Killed(Kill::BackendDown),
        CloseReason::Killed(Kill::Operator),
        CloseReason::Killed(Kill::Shutdown),
        CloseReason::Internal(Errno::EMFILE),
        CloseReason::WorkerFailed,
    ];
    for side in Side::BOTH {
        all.push(CloseReason::Eof(side));
        all.extend([Errno::ECONNRESET, Errno::ETIMEDOUT].map(|errno| CloseReason::Failed(side, errno)));
        all.push(CloseReason::DeadPeer(side));
    }
    all.extend([HeaderFault::Untrusted, HeaderFault::Late, HeaderFault::Unfinished].map(CloseReason::Header));
    let wrong = crate::wire::proxy::Reason::ALL.iter().copied().map(HeaderFault::Wrong);
    all.extend(wrong.map(CloseReason::Header));
    for reason in &all {
        match reason {
            CloseReason::Eof(_) | CloseReason::Failed(..) | CloseReason::DeadPeer(_) | CloseReason::IdleTimeout => {}
            CloseReason::MaxDuration | CloseReason::Denied | CloseReason::ClientLimit => {}
            CloseReason::QueueFull | CloseReason::QueueTimeout => {}
            CloseReason::NoBackend | CloseReason::ConnectFailed(_) | CloseReason::ConnectTimeout => {}
            CloseReason::Killed(Kill::Shutdown | Kill::BackendDown | Kill::Operator) | CloseReason::Internal(_) => {}
            CloseReason::WorkerFailed => {}
            CloseReason::Header(
                HeaderFault::Untrusted | HeaderFault::Late | HeaderFault::Unfinished | HeaderFault::Wrong(_),
            ) => {}
        }
    }
    all
}

#[test]
fn the_list_of_labels_has_those_of_every_reason_and_no_other() {
    let mut labels: Vec<&str> = reasons().into_iter().map(CloseReason::label).collect();
    labels.sort_unstable();
    let mut listed = CloseReason::LABELS.to_vec();
    listed.sort_unstable();
    assert_eq!(labels, listed);
    assert!(reasons().into_iter().all(|reason| CloseReason::LABELS[reason.number()] == reason.label()));
}
