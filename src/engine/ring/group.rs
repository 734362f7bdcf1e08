//! A group of receive buffers that the kernel picks from.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::limits::BUFFERS_QUIET_TURNS;

/// The ring through which buffers of one group are published to the kernel.
#[derive(Debug)]
pub(super) struct Group {
    entries: NonNull<BufRingEntry>,
    capacity: u16,
    tail: u16,
    published: u16,
    /// Buffers that the kernel has used since the group was made.
    used: u64,
}

impl Group {
    /// A group for up to `capacity` published buffers, a power of two; it still has to be registered.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(super) fn new(capacity: u16) -> io::Result<Group> {
        debug_assert!(capacity.is_power_of_two());
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes(capacity),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let entries = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let group = Group { entries, capacity, tail: 0, published: 0, used: 0 };
        // SAFETY: the range is exactly the mapping made above; the advice changes nothing for this process.
        if unsafe { libc::madvise(address, bytes(capacity), libc::MADV_DONTFORK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(group)
    }

    /// Where the ring lies, for its registration: page-aligned, zeroed.
    pub(super) fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    /// Buffers published at most.
    pub(super) const fn capacity(&self) -> u16 {
        self.capacity
    }

    /// Buffers that the kernel has, or has used without our knowing yet.
    #[inline]
    pub(super) const fn published(&self) -> u16 {
        self.published
    }

    /// Buffers that the kernel has used so far.
    pub(super) const fn used(&self) -> u64 {
        self.used
    }

    /// Hands a buffer to the kernel.
    ///
    /// # Safety
    /// The buffer must be writable, touched by nobody else until a completion names `id`, and it must stay mapped until the
    /// ring that this group is registered with is gone.
    #[inline]
    pub(super) unsafe fn publish(&mut self, id: u16, start: NonNull<u8>, bytes: usize) {
        assert!(self.published < self.capacity, "the kernel holds fewer buffers than its ring has entries");
        let index = usize::from(self.tail & (self.capacity - 1));
        // SAFETY: the index lies inside the mapping; the kernel does not read an entry beyond the tail, and those before it
        // are used up, since fewer than `capacity` are published. No reference to an entry lives across calls.
        let entry = unsafe { &mut *self.entries.as_ptr().add(index) };
        entry.set_addr(start.as_ptr() as u64);
        entry.set_len(bytes as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        self.published += 1;
        // SAFETY: the tail lies in the first entry, 2-byte aligned, in a field which the setters above do not write; we alone
        // write it, and the kernel reads it atomically.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Notes that a completion has named a buffer of this group.
    #[inline]
    pub(super) fn taken(&mut self) {
        debug_assert!(self.published > 0);
        self.published -= 1;
        self.used += 1;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the mapping made in `new`. The kernel has its own reference to the pages while the group
        // is registered, so that it never follows an address that is gone.
        let result = unsafe { libc::munmap(self.entries.as_ptr().cast(), bytes(self.capacity)) };
        debug_assert_eq!(result, 0);
    }
}

/// How many buffers of a group should be published: few while traffic is light, so that they stay in the cache.
#[derive(Debug)]
pub(super) struct Demand {
    wanted: u16,
    least: u16,
    most: u16,
    /// What was published at the end of the last turn.
    before: u16,
    starved: bool,
    quiet: u32,
}

impl Demand {
    /// Between `least` and `most` buffers.
    pub(super) const fn new(least: usize, most: usize) -> Demand {
        Demand { wanted: least as u16, least: least as u16, most: most as u16, before: 0, starved: false, quiet: 0 }
    }

    /// How many there should be.
    #[inline]
    pub(super) const fn wanted(&self) -> u16 {
        self.wanted
    }

    /// Adapts to a turn that has left `published` buffers over.
    #[inline]
    pub(super) fn turn(&mut self, published: u16) {
        let used = self.before.saturating_sub(published);
        if self.starved || used > self.wanted / 2 {
            self.wanted = if self.starved { self.most } else { self.most.min(self.wanted * 2) };
            self.starved = false;
            self.quiet = 0;
        } else if used > self.wanted / 8 {
            self.quiet = 0;
        } else {
            self.quiet += 1;
            if self.quiet == BUFFERS_QUIET_TURNS {
                self.wanted = self.least.max(self.wanted / 2);
                self.quiet = 0;
            }
        }
    }

    /// So many are published now.
    #[inline]
    pub(super) fn published(&mut self, count: u16) {
        self.before = count;
    }

    /// There is no traffic any more; so many are published.
    pub(super) const fn rest(&mut self, published: u16) {
        (self.wanted, self.before, self.quiet) = (self.least, published, 0);
    }

    /// A receive has found none.
    pub(super) fn starve(&mut self) {
        self.starved = true;
    }
}

const fn bytes(capacity: u16) -> usize {
    capacity as usize * size_of::<BufRingEntry>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: u16 = 64;
    const MAX: u16 = 512;

    fn turn(demand: &mut Demand, used: u16) -> u16 {
        demand.turn(demand.before.saturating_sub(used));
        demand.published(demand.wanted());
        demand.wanted()
    }

    #[test]
    fn demand_follows_traffic() {
        let mut demand = Demand::new(MIN.into(), MAX.into());
        assert_eq!(turn(&mut demand, 0), MIN);
        assert_eq!(turn(&mut demand, MIN / 2), MIN, "half is still enough");
        assert_eq!(turn(&mut demand, MIN / 2 + 1), 2 * MIN);
        while demand.wanted() < MAX {
            let used = demand.wanted();
            turn(&mut demand, used);
        }
        assert_eq!(turn(&mut demand, MAX), MAX, "the ring has no more room");
        for _ in 1..BUFFERS_QUIET_TURNS {
            assert_eq!(turn(&mut demand, 1), MAX);
        }
        assert_eq!(turn(&mut demand, 1), MAX / 2);
        for _ in 0..20 * BUFFERS_QUIET_TURNS {
            turn(&mut demand, 0);
        }
        assert_eq!(demand.wanted(), MIN);
    }

    #[test]
    fn one_starvation_is_enough() {
        let mut demand = Demand::new(MIN.into(), MAX.into());
        assert_eq!(turn(&mut demand, 0), MIN);
        demand.starve();
        assert_eq!(turn(&mut demand, MIN), MAX);
    }
}
