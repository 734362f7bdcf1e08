//! From the owner's operations to the kernel's.
#![allow(unsafe_code)]

use std::os::fd::RawFd;
use std::time::Duration;

use io_uring::{opcode, squeue, types};

use super::{LARGE, Ring, SMALL, tag};
use crate::engine::{OpKind, Owner, Receive};
use crate::errno::Errno;
use crate::limits::SUBMIT_TRIES;

/// `IORING_RECVSEND_POLL_FIRST`: wait for readiness before the first try.
const POLL_FIRST: u16 = 1 << 0;
/// `IORING_RECV_MULTISHOT`
const MULTISHOT: u16 = 1 << 1;

impl Ring {
    /// Queues an operation for the next enter. Each entry's descriptor is open now, and the kernel resolves it when it is
    /// submitted: the owner may close it only when nothing is in flight on it.
    #[inline]
    pub(super) fn push(&mut self, entry: squeue::Entry) {
        self.statistics.submissions += 1;
        // SAFETY: entries point into scratch, which is not emptied before they are submitted, and at buffers: chunks of chains,
        // which the kernel only reads, mapped or allocated for as long as the ring lives (see `Drop`).
        if !unsafe { self.queue.push(&entry) } {
            self.make_room();
            // SAFETY: as above.
            if !unsafe { self.queue.push(&entry) } {
                tracing::error!(errno = ?self.failure, "an operation could not be submitted");
            }
        }
    }

    /// Makes room for an operation that points into the scratch memory, in the queue too: were it made when the entry is there,
    /// what the entry points at would count as submitted and be used again.
    #[inline]
    pub(super) fn make_room_for_scratch(&mut self) {
        if !self.scratch.has_room() || self.queue.is_full() {
            self.make_room();
        }
    }

    /// Lets go of what submissions need, if the kernel has taken all of them. Whether it has.
    pub(super) fn forget_submitted(&mut self) -> bool {
        let all = self.queue.is_empty();
        if all {
            self.scratch.clear();
            self.closing.clear();
        }
        all
    }

    /// Submits early, because a queue or the scratch memory is full. What completes meanwhile is kept for the
    /// next turn.
    #[cold]
    pub(super) fn make_room(&mut self) {
        self.publish();
        for _ in 0..SUBMIT_TRIES {
            match self.queue.submit() {
                Ok(()) => {}
                Err(Errno::EAGAIN | Errno::EBUSY) => {
                    // The kernel wants completions to be taken, or memory to come back, before it accepts more.
                    if let Err(errno) = self.queue.wait_only(Some(Duration::from_millis(1))) {
                        self.failure = Some(errno);
                        return;
                    }
                    let mut early = std::mem::take(&mut self.early);
                    self.reap(&mut early);
                    self.early = early;
                }
                Err(errno) => {
                    self.failure = Some(errno);
                    return;
                }
            }
            if self.forget_submitted() {
                return;
            }
        }
        self.failure = Some(Errno::EAGAIN);
    }

    /// Fills both groups up from the free buffers, last-freed first, as far as traffic wants.
    #[inline]
    pub(super) fn publish(&mut self) {
        let small = self.small_demand.wanted();
        let large = self.large_demand.wanted().min(self.waiting_large.try_into().unwrap_or(u16::MAX));
        self.fill_up(Receive::Multishot, small);
        self.fill_up(Receive::Bulk, large);
        self.small_demand.published(self.small.published());
        self.large_demand.published(self.large.published());
    }

    /// Publishes free buffers of a group until so many are.
    #[inline]
    pub(super) fn fill_up(&mut self, how: Receive, wanted: u16) {
        let group = if how == Receive::Bulk { &mut self.large } else { &mut self.small };
        while group.published() < wanted {
            let Some(id) = self.buffers.take(how) else { break };
            let (start, bytes) = self.buffers.room(id);
            // SAFETY: `take` made the buffer ours alone, and the arena stays mapped until the ring is gone (see `Drop`).
            unsafe { group.publish(id, start, bytes) };
        }
    }

    /// Waits once until there are `events` on a socket.
    pub(super) fn poll(&mut self, owner: Owner, kind: OpKind, fd: RawFd, events: i16) {
        let entry = opcode::PollAdd::new(types::Fd(fd), events as u32).build();
        self.push(entry.user_data(tag::write(kind as u8, owner)));
    }

    /// Arms a receive. `again`: it has just found no large buffer.
    #[inline]
    pub(super) fn arm_receive(&mut self, owner: Owner, fd: RawFd, how: Receive, again: bool) {
        let large = how == Receive::Bulk && (self.large.published() > 0 || self.buffers.large_free() > 0);
        let ioprio = match how {
            // Waiting first saves a futile try where nothing has come yet, which costs thrice what it costs where something
            // has; and without buffers the kernel ends a receive at its first try, even where there is nothing to receive.
            Receive::Multishot => MULTISHOT | POLL_FIRST,
            Receive::Bulk if large && !again => 0,
            Receive::Bulk | Receive::Single => POLL_FIRST,
        };
        self.waiting_large += usize::from(large);
        let flight = self.flights.begin(owner, OpKind::Receive);
        (flight.fd, flight.large, flight.waits) = (fd, large, false);
        let entry = opcode::Recv::new(types::Fd(fd), std::ptr::null_mut(), 0);
        let entry = entry.ioprio(ioprio).buf_group(if large { LARGE } else { SMALL }).build();
        let entry = entry.flags(squeue::Flags::BUFFER_SELECT);
        self.push(entry.user_data(tag::write(OpKind::Receive as u8, owner)));
    }
}
