//! What submissions point at until the kernel has taken them: it copies all of it while it submits
//! (`IORING_FEAT_SUBMIT_STABLE`), so that a few fixed arrays serve every turn anew.
#![allow(unsafe_code)]

use rustix::net::SocketAddrAny;

use crate::limits::{GATHER_MAX, SCRATCH_ADDRESSES, SCRATCH_GATHERS};

const IOVECS: usize = SCRATCH_GATHERS * GATHER_MAX;

/// The arrays. They never move, and are emptied only when the submission queue is empty.
#[derive(Debug)]
pub(super) struct Scratch {
    iovecs: Vec<libc::iovec>,
    headers: Vec<libc::msghdr>,
    addresses: Vec<SocketAddrAny>,
}

impl Scratch {
    pub(super) fn new() -> Scratch {
        Scratch {
            iovecs: Vec::with_capacity(IOVECS),
            headers: Vec::with_capacity(SCRATCH_GATHERS),
            addresses: Vec::with_capacity(SCRATCH_ADDRESSES),
        }
    }

    /// Whether one more gather (of up to [`GATHER_MAX`] chunks, with its header) and one more address find room.
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        self.iovecs.len() + GATHER_MAX <= IOVECS
            && self.headers.len() < SCRATCH_GATHERS
            && self.addresses.len() < SCRATCH_ADDRESSES
    }

    /// Forgets everything. Only when the kernel has taken every submission.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.iovecs.clear();
        self.headers.clear();
        self.addresses.clear();
    }

    /// Lays the slices side by side; gives where they are listed, how many there are, and how many bytes they hold.
    #[inline]
    pub(super) fn gather<'a>(&mut self, slices: impl Iterator<Item = &'a [u8]>) -> (*const libc::iovec, usize, usize) {
        let (start, mut bytes) = (self.iovecs.len(), 0);
        for slice in slices {
            assert!(self.iovecs.len() < IOVECS, "room was asked for before");
            bytes += slice.len();
            self.iovecs.push(libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() });
        }
        (self.iovecs[start..].as_ptr(), self.iovecs.len() - start, bytes)
    }

    /// A message header for a gather.
    pub(super) fn header(&mut self, iovecs: *const libc::iovec, count: usize) -> *const libc::msghdr {
        assert!(self.headers.len() < SCRATCH_GATHERS, "room was asked for before");
        // SAFETY: `msghdr` is plain data, for which zeros (null pointers, no lengths) are a valid value.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_iov = iovecs.cast_mut();
        header.msg_iovlen = count as _;
        self.headers.push(header);
        &raw const self.headers[self.headers.len() - 1]
    }

    /// A socket address.
    pub(super) fn address(&mut self, address: SocketAddrAny) -> (*const libc::sockaddr, libc::socklen_t) {
        assert!(self.addresses.len() < SCRATCH_ADDRESSES, "room was asked for before");
        self.addresses.push(address);
        let last = &self.addresses[self.addresses.len() - 1];
        (last.as_ptr().cast(), last.addr_len())
    }
}
