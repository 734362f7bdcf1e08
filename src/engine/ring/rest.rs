//! Giving memory back when traffic has gone.
//!
//! Buffers that are published are the kernel's: it may fill one at any time, and gives none back but filled. So a ring at rest has
//! some received into that were used before, a byte each, and publishes others in their place, which have no pages.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{cqueue, opcode, squeue, types};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use super::{LARGE, NOBODY, Ring, SMALL, tag};
use crate::engine::host;
use crate::engine::{Filled, Receive};
use crate::limits::{BUFFERS_PUBLISHED_MIN, BULK_BUFFERS_PUBLISHED_MIN};

/// What a ring knows of its rest.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Buffers used when it was last tidied.
    used: u64,
    /// And when published ones were last recalled; [`UNFINISHED`] where there was no room to replace all of them at once.
    used_at_recall: u64,
    recall: Option<Recall>,
}

/// Another recall is wanted, used buffers or not.
const UNFINISHED: u64 = u64::MAX;

/// Published buffers are being received into.
#[derive(Debug)]
struct Recall {
    left: usize,
    /// Open as long as something is in flight.
    _pair: (OwnedFd, OwnedFd),
}

impl Rest {
    /// Whether nothing is in flight.
    pub(super) const fn is_over(&self) -> bool {
        self.recall.is_none()
    }
}

impl Ring {
    /// See [`Engine::tidy`](crate::engine::Engine::tidy).
    pub(super) fn tidy_up(&mut self, freed: bool) -> bool {
        let used = self.small.used() + self.large.used();
        let resting = used == std::mem::replace(&mut self.rest.used, used);
        self.early.shrink_to_fit();
        self.closing.shrink_to_fit();
        if freed {
            self.flights.shrink();
        }
        self.buffers.tidy(resting);
        if freed {
            host::trim_heap();
        }
        if resting && self.rest.is_over() && self.rest.used_at_recall != used {
            self.recall();
        }
        !self.rest.is_over() || self.rest.used_at_recall != used
    }

    /// A buffer has come back.
    pub(super) fn recalled(&mut self, entry: &cqueue::Entry) {
        if let Some(id) = cqueue::buffer_select(entry.flags()) {
            self.taken(id);
            self.buffers.discard(Filled::new(id, 0));
        }
        let Some(recall) = &mut self.rest.recall else { return };
        recall.left -= 1;
        if recall.left == 0 {
            self.rest.recall = None;
            self.rest.used = self.small.used() + self.large.used();
            if self.rest.used_at_recall != UNFINISHED {
                self.rest.used_at_recall = self.rest.used;
            }
            // This was no traffic.
            self.small_demand.rest(self.small.published());
            self.large_demand.rest(self.large.published());
        }
    }

    /// Has the published buffers that may have pages replaced.
    fn recall(&mut self) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let Ok((near, far)) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None) else { return };
        let few = BULK_BUFFERS_PUBLISHED_MIN.min(self.waiting_large) as u16;
        let (mut left, mut whole) = (0, true);
        for (number, how, few) in
            [(SMALL, Receive::Multishot, BUFFERS_PUBLISHED_MIN as u16), (LARGE, Receive::Bulk, few)]
        {
            let most = if number == SMALL { self.small.capacity() } else { self.large.capacity() };
            let before = if number == SMALL { self.small.published() } else { self.large.published() };
            // The kernel takes those first that were published first.
            self.fill_up(how, most.min(before + few));
            whole &= before + few <= most;
            let now = if number == SMALL { self.small.published() } else { self.large.published() };
            let wanted = usize::from(now.saturating_sub(few).min(before));
            let sent = send(&near, &vec![0; wanted], SendFlags::NOSIGNAL).unwrap_or(0);
            for _ in 0..sent {
                let entry = opcode::Recv::new(types::Fd(far.as_raw_fd()), std::ptr::null_mut(), 1);
                let entry = entry.buf_group(number).build().flags(squeue::Flags::BUFFER_SELECT);
                self.push(entry.user_data(tag::write(tag::RECALL, NOBODY)));
            }
            left += sent;
        }
        self.rest.used_at_recall = if whole { self.rest.used } else { UNFINISHED };
        if left > 0 {
            self.rest.recall = Some(Recall { left, _pair: (near, far) });
        }
    }
}
