//! What must hold of a session that has ended: each end's fate follows from the reason, and the reason from the truth.

use std::time::Duration;

use super::kernel::Kernel;
use super::link::Link;
use crate::errno::Errno;
use crate::limits::{REFUSAL_DISCARD_BYTES_MAX, REFUSAL_LINGER_MAX, RESET_FLUSH_MAX, SESSION_JITTER};
use crate::relay::{CloseReason, Rules, Side, WhenNone};
use crate::time::Time;
use crate::wire::refusal::HTTP_503;
use crate::worker::session::Ended;

/// How long after a reset has reached us a session may live on, beside the time for what is still owed.
const NOTICE_MAX: Duration = Duration::from_secs(6);

/// What says nothing about any backend, and that another backend would not mend.
const OUR_TROUBLE: &[Errno] =
    &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::ENETDOWN, Errno::EPERM, Errno::EACCES];

/// The links of a session that has ended, and what is said of its end.
struct Case<'a> {
    client: &'a Link,
    /// Only one that was connected.
    backend: Option<&'a Link>,
    ended: &'a Ended,
    rules: &'a Rules,
    kernel: &'a Kernel,
}

impl Kernel {
    /// Checks a session that has just ended.
    pub(super) fn judge(&mut self, ended: &Ended, rules: &Rules, killed: bool) {
        let pair = self.audit.take(ended.key).expect("a session ends once, after it began");
        if self.tracing {
            eprintln!("{:>12} ended: {pair:?} {ended:?}", self.now.nanos() / 1000);
        }
        let client = pair.client.expect("a session has a client");
        for id in [Some(client), pair.backend].into_iter().flatten() {
            assert!(self.link(id).closing().is_some(), "{id:?} outlives its session");
        }
        let backend = pair.backend.map(|id| self.link(id)).filter(|link| link.established());
        let case = Case { client: self.link(client), backend, ended, rules, kernel: self };
        let told = [case.client.told.bytes, backend.map_or(0, |link| link.told.bytes)];
        assert_eq!(ended.received, told, "the session has miscounted");
        if let CloseReason::Killed(_) = ended.reason {
            assert!(killed, "killed by nobody");
            case.judge_killed();
        }
        if killed {
            // Whatever it was doing was cut short.
            return;
        }
        match ended.reason {
            CloseReason::Eof(first) => case.judge_order(first),
            CloseReason::Failed(side, errno) => case.judge_failure(side, errno),
            CloseReason::DeadPeer(side) => case.judge_dead(side),
            CloseReason::IdleTimeout => case.judge_idle(),
            CloseReason::MaxDuration => case.judge_long(),
            CloseReason::NoBackend
            | CloseReason::QueueFull
            | CloseReason::QueueTimeout
            | CloseReason::ConnectFailed(_)
            | CloseReason::ConnectTimeout
            | CloseReason::Internal(_) => case.judge_refusal(),
            CloseReason::Header(fault) => panic!("{fault:?}, where no header is asked for"),
            CloseReason::Denied | CloseReason::ClientLimit => panic!("{:?}, where all may come", ended.reason),
            CloseReason::WorkerFailed => panic!("a worker has failed"),
            CloseReason::Killed(_) => {}
        }
        case.judge_in_time();
        case.judge_resets();
        if !self.hurry {
            case.judge_clean();
        }
    }

    /// Checks what the peers have seen in the end, when everything has happened.
    pub(super) fn judge_peers(&self) {
        for (id, link) in self.links() {
            let Some(closing) = link.closing().filter(|_| link.established()) else { continue };
            let cause = closing.reset || closing.unread || link.told.orphaned;
            assert!(!link.peer.saw_reset || cause, "{id:?} was reset by nobody");
            let left = link.peer.vanished || link.peer.reset || link.gone.is_some();
            if left || (link.peer.closed && !link.peer.saw_end) || link.peer.saw_reset {
                continue;
            }
            assert!(link.peer.saw_end, "{id:?} has never seen an end");
            assert_eq!(link.outbound.read, link.outbound.taken, "{id:?} has not got all that our kernel took");
        }
    }
}

impl<'a> Case<'a> {
    fn link(&self, side: Side) -> Option<&'a Link> {
        match side {
            Side::Client => Some(self.client),
            Side::Backend => self.backend,
        }
    }

    /// Both streams ended in order.
    fn judge_order(&self, first: Side) {
        let backend = self.backend.expect("no end in order without a backend");
        let fins = [self.client, backend].map(|link| {
            let closing = link.closing().expect("closed");
            assert!(closing.whole, "an end in order before all was sent to the {}", link.side);
            assert!(!closing.reset && !closing.unread, "the {} is reset after an end in order", link.side);
            let (_, number) = link.told.fin.unwrap_or_else(|| panic!("the {}'s stream has not ended", link.side));
            number
        });
        assert!(fins[first as usize] < fins[first.other() as usize], "the {first} was not the first to end");
    }

    /// A side broke: it must be true, and the other side must learn of it after the last byte.
    fn judge_failure(&self, side: Side, errno: Errno) {
        let broken = self.link(side).unwrap_or_else(|| panic!("the {side} that failed was never connected"));
        let gone = broken.gone.unwrap_or_else(|| panic!("the {side} is said to have failed with {errno}"));
        let names = if gone.reset { &[Errno::ECONNRESET][..] } else { &[Errno::ECONNRESET, Errno::ETIMEDOUT] };
        assert!(names.contains(&errno), "the {side} failed by a reset and not with {errno}");
        let Some(other) = self.link(side.other()) else { return };
        let closing = other.closing().expect("closed");
        if other.gone.is_some() {
            return;
        }
        if !closing.reset {
            let order = other.told.fin.is_some() && broken.told.fin.is_some() && closing.whole;
            assert!(order, "the {}'s reset became a polite end for the {}", side, side.other());
            return;
        }
        let connected = self.backend.and_then(|backend| backend.told.connected_at);
        let before_connect = connected.is_none_or(|at| at >= gone.at);
        let in_time = closing.at.since(gone.at) < RESET_FLUSH_MAX;
        let got_all = closing.whole && closing.delivered;
        assert!(
            got_all || before_connect || !in_time,
            "the reset for the {} overtook its bytes: {closing:?}",
            side.other()
        );
    }

    fn judge_dead(&self, side: Side) {
        let link = self.link(side).unwrap_or_else(|| panic!("the {side} was never connected"));
        let timeout = self.rules.dead_peer_timeout.expect("only with a timeout");
        let silent = self.kernel.now.since(link.peer.vanished_at);
        assert!(link.peer.vanished && silent >= timeout / 2, "the {side} is not dead");
    }

    fn judge_idle(&self) {
        let put_off = [Some(self.client), self.backend].into_iter().flatten().any(|link| link.told.may_splice);
        assert!(!put_off, "idle, while bytes waited to be spliced");
        let timeout = self.rules.idle_timeout.expect("only with a timeout");
        let backend = self.backend.expect("only a session that relays is idle");
        let active_at = self.client.told.active_at.max(backend.told.active_at);
        assert!(self.kernel.now.since(active_at) >= timeout, "the session is not idle");
        for link in [self.client, backend] {
            let slept = self.unnoticed(link);
            assert!(slept < NOTICE_MAX, "the {}'s reset was not noticed for {slept:?}", link.side);
            let dead = self.unanswered(link);
            let longest = self.rules.dead_peer_timeout.map_or(Duration::MAX, |timeout| timeout * 2 + NOTICE_MAX);
            assert!(dead < longest, "the {} was dead for {dead:?} and nobody looked", link.side);
        }
    }

    /// It has lasted as long as it might, and no side takes what it has got for the whole where more is owed.
    fn judge_long(&self) {
        let longest = self.rules.max_session_duration.expect("only with a longest duration");
        let lasted = self.kernel.now.since(self.ended.started);
        assert!(lasted >= longest - longest / SESSION_JITTER, "the session has lasted {lasted:?} of {longest:?}");
        let backend = self.backend.expect("only a session that relays can be too long");
        for link in [self.client, backend] {
            let closing = link.closing().expect("closed");
            assert!(closing.passed || closing.reset, "the {} is ended politely before it has got all", link.side);
        }
    }

    /// A session that relays does not outlast its time, but for what a late worker and an end that is under way take.
    fn judge_in_time(&self) {
        let Some(connected) = self.backend.and_then(|backend| backend.told.connected_at) else { return };
        let Some(longest) = self.rules.max_session_duration else { return };
        let due = connected.max(self.ended.started + longest);
        let late = self.kernel.now.since(due);
        assert!(late < RESET_FLUSH_MAX + NOTICE_MAX, "the session has lasted {late:?} too long");
    }

    /// How long our socket stayed open after its peer's reset.
    fn unnoticed(&self, link: &Link) -> Duration {
        let closed_at = link.closing().map_or(Time::NEVER, |closing| closing.at);
        link.told.reset_at.map_or(Duration::ZERO, |at| closed_at.since(at.max(self.ended.started)))
    }

    /// How long the peer has been silent although bytes of ours were outstanding.
    fn unanswered(&self, link: &Link) -> Duration {
        let closing = link.closing().expect("closed");
        if !link.peer.vanished || closing.delivered {
            return Duration::ZERO;
        }
        closing.at.since(link.peer.vanished_at.max(link.told.sent_at))
    }

    /// Both sides learn that this is no end in order.
    fn judge_killed(&self) {
        for link in [Some(self.client), self.backend].into_iter().flatten() {
            let polite = link.closing().is_some_and(|closing| !closing.reset);
            let over = link.told.fin.is_some() && link.closing().is_some_and(|closing| closing.whole);
            assert!(!polite || over || link.gone.is_some(), "the {} was killed politely", link.side);
        }
    }

    /// No backend: the client gets what the rules have for that, whatever it still says.
    fn judge_refusal(&self) {
        assert!(self.backend.is_none(), "refused with a backend");
        let closing = self.client.closing().expect("closed");
        let ours = matches!(self.ended.reason, CloseReason::Internal(_));
        if let Some(errno) = self.ended.reason.errno() {
            assert_eq!(ours, OUR_TROUBLE.contains(&errno), "{errno} is counted among {:?}", self.ended.reason);
        }
        if self.ended.reason == CloseReason::QueueTimeout {
            let lived = self.kernel.now.since(self.ended.started);
            assert!(lived >= self.rules.queue_timeout, "it has waited for {lived:?} only");
        }
        let reset = self.rules.when_none == WhenNone::Reset;
        assert_eq!(closing.reset, reset, "a refusal must be a reset or polite as the rules say");
        if reset || self.client.gone.is_some() || self.client.peer.vanished {
            return;
        }
        let answered = self.rules.when_none == WhenNone::Http503;
        let words = if answered { HTTP_503.len() as u64 } else { 0 };
        assert_eq!(self.client.outbound.taken, words, "a refusal that does not say what it should");
        if closing.unread {
            let waited = self.client.outbound.shut.map_or(Duration::ZERO, |shut| closing.at.since(shut));
            let enough = !answered && self.client.told.bytes > REFUSAL_DISCARD_BYTES_MAX;
            assert!(enough || waited >= REFUSAL_LINGER_MAX, "the refusal was destroyed by unread input");
            assert!(closing.delivered, "the words of the refusal were destroyed by unread input");
        }
    }

    /// A reset ends its session before long.
    fn judge_resets(&self) {
        let queued = self.rules.queue_timeout * self.rules.connect_attempts;
        let connecting = self.rules.connect_budget + self.rules.connect_timeout;
        let longest = queued + connecting + RESET_FLUSH_MAX + NOTICE_MAX;
        for link in [Some(self.client), self.backend].into_iter().flatten() {
            let late = self.unnoticed(link);
            assert!(late <= longest, "the {}'s reset closed its socket {late:?} later", link.side);
        }
    }

    /// Peers that behave get what they came for.
    fn judge_clean(&self) {
        let Some(said) = self.client.clean else { return };
        let Some(backend) = self.backend else { return };
        if self.ended.reason == CloseReason::MaxDuration {
            return;
        }
        // Who takes longer than the idle timeout to read what our kernel holds for it has not moved a byte of ours meanwhile.
        let held = [self.client, backend].iter().any(|link| link.closing().is_some_and(|closing| !closing.delivered));
        if held && self.ended.reason == CloseReason::IdleTimeout {
            return;
        }
        let order = matches!(self.ended.reason, CloseReason::Eof(_));
        assert!(order, "both peers behaved, and the session ended by {:?}", self.ended.reason);
        assert_eq!([self.client.inbound.arrived, backend.inbound.arrived], said, "the peers have not said all");
    }
}
