//! From the kernel's completions to the owner's.
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::{cqueue, opcode, squeue};

use super::{Ring, tag};
use crate::engine::buffers::Filled;
use crate::engine::{Completion, Event, OpKind, Owner, Receive, ReceiveEnd};
use crate::errno::Errno;

impl Ring {
    /// Queues everything that has completed.
    #[inline]
    pub(super) fn reap(&mut self, completions: &mut Vec<Completion<OwnedFd>>) {
        while let Some(entry) = self.queue.next() {
            self.statistics.completions += 1;
            let (number, owner) = tag::read(entry.user_data());
            let event = match tag::kind(number) {
                Some(OpKind::Receive) => self.received(owner, &entry),
                Some(OpKind::Send) => Some(self.sent(owner, &entry)),
                Some(OpKind::Accept) => Some(self.accepted(owner, &entry)),
                Some(OpKind::Connect) => Some(self.connected(owner, &entry)),
                Some(OpKind::Watch) => Some(self.watched(owner, &entry)),
                None => self.internal(number, owner, &entry),
            };
            if let Some(event) = event {
                completions.push(Completion { owner, event });
            }
        }
    }

    /// Asks for the end of an operation; only a failed cancel completes.
    pub(super) fn push_cancel(&mut self, owner: Owner, kind: OpKind) {
        let entry = opcode::AsyncCancel::new(tag::write(kind as u8, owner)).build();
        let entry = entry.flags(squeue::Flags::SKIP_SUCCESS);
        self.push(entry.user_data(tag::write(tag::CANCEL | kind as u8, owner)));
    }

    #[inline]
    fn received(&mut self, owner: Owner, entry: &cqueue::Entry) -> Option<Event<OwnedFd>> {
        let (result, more) = (entry.result(), cqueue::more(entry.flags()));
        let buffer = cqueue::buffer_select(entry.flags());
        if let Some(id) = buffer {
            self.taken(id);
        }
        if !more {
            let flight = self.flights.end(owner, OpKind::Receive);
            if flight.waits {
                return Some(if result > 0 { Event::Readable } else { Event::ReceiveEnded(self.end(result)) });
            }
            if flight.large {
                self.waiting_large -= 1;
                if result == -libc::ENOBUFS {
                    // More receives wait for a large buffer than are published. A small one does for now, if none is left.
                    self.large_demand.starve();
                    self.arm_receive(owner, flight.fd, Receive::Bulk, true);
                    return None;
                }
            }
        }
        if let (1.., Some(id)) = (result, buffer) {
            return Some(Event::Received { filled: Filled::new(id, result as u32), more });
        }
        if let Some(id) = buffer {
            self.buffers.discard(Filled::new(id, 0));
        }
        debug_assert!(!more, "a receive that goes on has brought bytes: {entry:?}");
        (!more).then(|| Event::ReceiveEnded(self.end(result)))
    }

    /// The kernel has used a buffer.
    #[inline]
    pub(super) fn taken(&mut self, id: u16) {
        match self.buffers.group(id) {
            Receive::Multishot | Receive::Single => self.small.taken(),
            Receive::Bulk => self.large.taken(),
        }
    }

    fn end(&mut self, result: i32) -> ReceiveEnd {
        match Errno::new(result) {
            _ if result >= 0 => ReceiveEnd::Eof,
            Errno::ENOBUFS => {
                self.statistics.starvations += 1;
                self.small_demand.starve();
                ReceiveEnd::Starved
            }
            Errno::ECANCELED => ReceiveEnd::Cancelled,
            errno => ReceiveEnd::Failed(errno),
        }
    }

    #[inline]
    fn sent(&mut self, owner: Owner, entry: &cqueue::Entry) -> Event<OwnedFd> {
        let asked = self.flights.end(owner, OpKind::Send).asked;
        match entry.result() {
            errno @ ..0 => Event::SendFailed(Errno::new(errno)),
            _ if asked == 0 => Event::Writable,
            bytes => Event::Sent { bytes: bytes as usize, whole: bytes as u32 == asked },
        }
    }

    fn accepted(&mut self, owner: Owner, entry: &cqueue::Entry) -> Event<OwnedFd> {
        let more = cqueue::more(entry.flags());
        if !more {
            self.flights.end(owner, OpKind::Accept);
        }
        match entry.result() {
            errno @ ..0 => Event::AcceptEnded(Errno::new(errno)),
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
            fd => Event::Accepted { socket: unsafe { OwnedFd::from_raw_fd(fd) }, more },
        }
    }

    fn connected(&mut self, owner: Owner, entry: &cqueue::Entry) -> Event<OwnedFd> {
        self.flights.end(owner, OpKind::Connect);
        match entry.result() {
            errno @ ..0 => Event::ConnectFailed(Errno::new(errno)),
            _ => Event::Connected,
        }
    }

    fn watched(&mut self, owner: Owner, entry: &cqueue::Entry) -> Event<OwnedFd> {
        let more = cqueue::more(entry.flags());
        if !more {
            self.flights.end(owner, OpKind::Watch);
        }
        match entry.result() {
            ..=0 => Event::WatchEnded,
            // A hang-up without an error is orderly: both streams have ended.
            events => Event::HungUp { reset: events & i32::from(libc::POLLERR) != 0, more },
        }
    }

    /// Completions of operations that have no owner.
    #[cold]
    fn internal(&mut self, number: u8, owner: Owner, entry: &cqueue::Entry) -> Option<Event<OwnedFd>> {
        match (number, tag::kind(number & !tag::CANCEL)) {
            (tag::WAKE, _) => return self.woken(entry),
            (tag::RECALL, _) => self.recalled(entry),
            // While an operation is being worked on a cancel does not find it: ask again.
            (_, Some(kind)) if entry.result() == -libc::ENOENT && self.flights.has(owner, kind) => {
                self.push_cancel(owner, kind);
            }
            (tag::CLOSE, _) => {
                tracing::warn!(errno = %Errno::new(entry.result()), "closing a socket failed");
            }
            _ => {}
        }
        None
    }

    fn woken(&mut self, entry: &cqueue::Entry) -> Option<Event<OwnedFd>> {
        if entry.result() == -libc::ECANCELED {
            self.waker = None;
            return None;
        }
        if !cqueue::more(entry.flags()) {
            self.poll_waker();
        }
        self.waker.as_ref()?.0.take().then_some(Event::Woken)
    }
}
