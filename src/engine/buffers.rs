//! Receive buffers and the chains they wait in.
//!
//! A worker has two groups: many small buffers for multishot receives and some large ones for bulk. A chunk is
//! a buffer with bytes in it, or bytes on the heap. Chunks wait in [`Chain`]s, which are linked through a
//! table beside the buffers: queueing allocates nothing, and an empty chain holds nothing.
//!
//! Free buffers are kept last-freed first, so that traffic touches few of them however many there are. A buffer is in
//! one of four places: free here, published to the kernel, in a [`Filled`], or in a chain.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

use crate::engine::Receive;
use crate::limits::{BUFFER_BYTES, BUFFERS_MAX, BULK_BUFFER_BYTES, BULK_BUFFERS_MAX};

/// A buffer that a receive has filled, on its way into a chain.
#[derive(Debug)]
#[must_use = "a filled buffer that enters no chain is lost to the pool: `Buffers::discard` it"]
pub struct Filled {
    id: u16,
    bytes: u32,
}

impl Filled {
    /// A buffer that the kernel reports as filled with `bytes` bytes.
    pub(super) const fn new(id: u16, bytes: u32) -> Filled {
        Filled { id, bytes }
    }

    /// How many bytes it holds.
    pub const fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Whether the bytes fill the buffer: more were probably waiting.
    pub const fn is_full(&self) -> bool {
        self.bytes as usize >= if self.id < FIRST_LARGE { BUFFER_BYTES } else { BULK_BUFFER_BYTES }
    }
}

/// Bytes that wait in order. Must be emptied with [`Buffers::clear`] before it is dropped.
#[derive(Debug)]
pub struct Chain {
    head: u32,
    tail: u32,
    bytes: u32,
}

impl Chain {
    /// An empty chain.
    pub const fn new() -> Chain {
        Chain { head: NONE, tail: NONE, bytes: 0 }
    }

    /// How many bytes wait.
    pub const fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// Whether none wait.
    pub const fn is_empty(&self) -> bool {
        self.head == NONE
    }

    /// Forgets what waits, whose buffers are gone with their engine.
    pub const fn forget(&mut self) {
        (self.head, self.tail, self.bytes) = (NONE, NONE, 0);
    }
}

impl Default for Chain {
    fn default() -> Chain {
        Chain::new()
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        debug_assert!(self.is_empty() || std::thread::panicking(), "a chain was dropped with chunks in it");
    }
}

const NONE: u32 = u32::MAX;
const FIRST_LARGE: u16 = BUFFERS_MAX as u16;
const POOLED: usize = BUFFERS_MAX + BULK_BUFFERS_MAX;
const ARENA_BYTES: usize = BUFFERS_MAX * BUFFER_BYTES + BULK_BUFFERS_MAX * BULK_BUFFER_BYTES;

/// One chunk's place in its chain and what of it still waits.
#[derive(Copy, Clone, Debug)]
struct Link {
    next: u32,
    offset: u32,
    bytes: u32,
}

const UNLINKED: Link = Link { next: NONE, offset: 0, bytes: 0 };

/// The buffers of one worker and the table that links them.
///
/// On a panic the arena is not unmapped: the kernel may still write into published buffers.
#[derive(Debug)]
pub struct Buffers {
    arena: NonNull<u8>,
    /// Chunk `id` is a pooled buffer below [`POOLED`], and `heap[id - POOLED]` from there on.
    links: Vec<Link>,
    free_small: Vec<u16>,
    free_large: Vec<u16>,
    heap: Vec<Box<[u8]>>,
    heap_free: Vec<u32>,
    heap_bytes: usize,
    /// Pooled buffers that may have pages.
    touched: Vec<bool>,
    /// The fewest that were free, small and large, since the last [`Buffers::tidy`].
    free_least: [usize; 2],
    #[cfg(test)]
    lent: Vec<bool>,
}

impl Buffers {
    /// Maps the arena; its pages are touched only as far as traffic needs them.
    ///
    /// # Errors
    /// When the kernel has no address space for it (`ENOMEM`).
    pub fn new() -> io::Result<Buffers> {
        // SAFETY: a fresh anonymous private mapping at an address of the kernel's choice touches no memory of ours.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                ARENA_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let arena = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // A child must never share pages that the kernel writes into on our behalf.
        // SAFETY: the range is exactly the mapping made above; the advice changes nothing for this process.
        if unsafe { libc::madvise(address, ARENA_BYTES, libc::MADV_DONTFORK) } != 0 {
            let error = io::Error::last_os_error();
            // SAFETY: the range is exactly the mapping made above, and nobody has seen it yet.
            unsafe { libc::munmap(address, ARENA_BYTES) };
            return Err(error);
        }
        Ok(Buffers {
            arena,
            links: vec![UNLINKED; POOLED],
            free_small: (0..FIRST_LARGE).rev().collect(),
            free_large: (FIRST_LARGE..POOLED as u16).rev().collect(),
            heap: Vec::new(),
            heap_free: Vec::new(),
            heap_bytes: 0,
            touched: vec![false; POOLED],
            free_least: [BUFFERS_MAX, BULK_BUFFERS_MAX],
            #[cfg(test)]
            lent: Vec::new(),
        })
    }

    /// Small buffers that are free here; those published to the kernel are not among them.
    pub fn small_free(&self) -> usize {
        self.free_small.len()
    }

    /// Large buffers that are free here; those published to the kernel are not among them.
    pub fn large_free(&self) -> usize {
        self.free_large.len()
    }

    /// Bytes that chunks on the heap take.
    pub fn heap_bytes(&self) -> usize {
        self.heap_bytes
    }

    /// Queues a filled buffer at the end of `chain`.
    pub fn append(&mut self, chain: &mut Chain, filled: Filled) {
        self.link(chain, u32::from(filled.id), filled.bytes);
    }

    /// Queues a copy of `bytes` at the end of `chain`, on the heap: for the few bytes that ringlb says itself.
    pub fn append_copy(&mut self, chain: &mut Chain, bytes: &[u8]) {
        if !bytes.is_empty() {
            let id = self.take_heap(bytes.into());
            self.link(chain, id, bytes.len() as u32);
        }
    }

    /// Puts a copy of `bytes` before all that waits in `chain`, on the heap. Nothing of the chain may be in flight.
    pub fn prepend_copy(&mut self, chain: &mut Chain, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let id = self.take_heap(bytes.into());
        self.links[id as usize] = Link { next: chain.head, offset: 0, bytes: bytes.len() as u32 };
        chain.head = id;
        if chain.tail == NONE {
            chain.tail = id;
        }
        chain.bytes += bytes.len() as u32;
    }

    /// Gives a filled buffer back unread and says how many bytes it held.
    pub fn discard(&mut self, filled: Filled) -> usize {
        self.free(u32::from(filled.id));
        filled.bytes as usize
    }

    /// Takes `bytes` bytes, at most what waits, from the front of `chain` and frees the chunks that are used up.
    pub fn consume(&mut self, chain: &mut Chain, bytes: usize) {
        debug_assert!(bytes <= chain.bytes());
        let mut left = bytes.min(chain.bytes()) as u32;
        chain.bytes -= left;
        while left > 0 {
            let id = chain.head;
            let link = &mut self.links[id as usize];
            if link.bytes > left {
                link.bytes -= left;
                link.offset += left;
                return;
            }
            left -= link.bytes;
            chain.head = link.next;
            self.free(id);
        }
        if chain.head == NONE {
            chain.tail = NONE;
        }
    }

    /// Empties `chain`.
    pub fn clear(&mut self, chain: &mut Chain) {
        self.consume(chain, chain.bytes());
    }

    /// Copies what waits in buffers to the heap and frees the buffers. Nothing of the chain may be in flight.
    pub fn spill(&mut self, chain: &mut Chain) {
        if self.pooled_chunks(chain) == 0 {
            return;
        }
        let mut copy = Vec::with_capacity(chain.bytes());
        for slice in self.slices(chain) {
            copy.extend_from_slice(slice);
        }
        self.clear(chain);
        let bytes = copy.len() as u32;
        let id = self.take_heap(copy.into_boxed_slice());
        self.link(chain, id, bytes);
    }

    /// How many buffers of the pool `chain` holds.
    pub fn pooled_chunks(&self, chain: &Chain) -> usize {
        self.ids(chain).filter(|id| (*id as usize) < POOLED).count()
    }

    /// What waits in `chain`, chunk by chunk.
    pub fn slices<'a>(&'a self, chain: &Chain) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.ids(chain).map(|id| {
            let link = &self.links[id as usize];
            let start = link.offset as usize;
            &self.memory(id)[start..start + link.bytes as usize]
        })
    }

    /// Fills a free buffer with the front of `bytes`, as a kernel would: for engines without one.
    /// `None` when no buffer is free.
    pub fn fill(&mut self, how: Receive, bytes: &[u8]) -> Option<Filled> {
        let id = self.take(how)?;
        let room = if id < FIRST_LARGE { BUFFER_BYTES } else { BULK_BUFFER_BYTES };
        let bytes = &bytes[..bytes.len().min(room)];
        // SAFETY: `take` made the buffer ours alone (neither free, published, filled nor in a chain); the start lies in
        // the arena with `room` bytes behind it, and `bytes` cannot overlap memory that nobody else can name.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start(id).as_ptr(), bytes.len()) };
        Some(Filled::new(id, bytes.len() as u32))
    }

    /// Takes a free buffer of the group, to publish it.
    pub(super) fn take(&mut self, how: Receive) -> Option<u16> {
        let large = how == Receive::Bulk;
        let free = if large { &mut self.free_large } else { &mut self.free_small };
        let id = free.pop()?;
        self.free_least[usize::from(large)] = self.free_least[usize::from(large)].min(free.len());
        self.touched[usize::from(id)] = true;
        Some(id)
    }

    /// Gives back the pages of the buffers that were free all the time since the last call, or of all that are free. They
    /// are last in the list, as those freed last are taken first.
    pub fn tidy(&mut self, all: bool) {
        let mut idle = Vec::new();
        for (free, least) in [&self.free_small, &self.free_large].into_iter().zip(&mut self.free_least) {
            let unused = if all { free.len() } else { *least };
            idle.extend(free[..unused].iter().filter(|id| self.touched[usize::from(**id)]));
            *least = free.len();
        }
        idle.sort_unstable();
        for run in idle.chunk_by(|one, next| one + 1 == *next && (*next != FIRST_LARGE)) {
            let (start, bytes) = self.room(run[0]);
            // SAFETY: the buffers of the run lie side by side inside the mapping, as those of one size do. They are free: neither has
            // the kernel been given them nor does a chain hold them, so nobody minds that they are zeros afterwards.
            if unsafe { libc::madvise(start.as_ptr().cast(), run.len() * bytes, libc::MADV_DONTNEED) } == 0 {
                run.iter().for_each(|id| self.touched[usize::from(*id)] = false);
            }
        }
        if self.heap_bytes == 0 && self.heap_free.len() == self.heap.len() {
            (self.heap, self.heap_free) = (Vec::new(), Vec::new());
            self.links.truncate(POOLED);
            self.links.shrink_to_fit();
        }
    }

    /// Where buffer `id` starts and how many bytes it has room for.
    pub(super) fn room(&self, id: u16) -> (NonNull<u8>, usize) {
        (self.start(id), if id < FIRST_LARGE { BUFFER_BYTES } else { BULK_BUFFER_BYTES })
    }

    /// Which group buffer `id` belongs to.
    #[inline]
    pub(super) const fn group(&self, id: u16) -> Receive {
        if id < FIRST_LARGE { Receive::Multishot } else { Receive::Bulk }
    }

    fn start(&self, id: u16) -> NonNull<u8> {
        let offset = if id < FIRST_LARGE {
            usize::from(id) * BUFFER_BYTES
        } else {
            BUFFERS_MAX * BUFFER_BYTES + usize::from(id - FIRST_LARGE) * BULK_BUFFER_BYTES
        };
        assert!(offset < ARENA_BYTES, "buffer {id} does not exist");
        // SAFETY: the assertion above keeps the offset inside the one mapping that `arena` starts.
        unsafe { self.arena.add(offset) }
    }

    fn memory(&self, id: u32) -> &[u8] {
        match (id as usize).checked_sub(POOLED) {
            Some(index) => &self.heap[index],
            None => {
                let (start, bytes) = self.room(id as u16);
                // SAFETY: only chunks of a chain come here: the kernel has handed the buffer over and it is not published again
                // before it leaves its chain, which needs `&mut self`; the mapping lives as long as `self`.
                unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) }
            }
        }
    }

    fn ids<'a>(&'a self, chain: &Chain) -> impl Iterator<Item = u32> + use<'a> {
        let mut next = chain.head;
        std::iter::from_fn(move || {
            let id = next;
            next = self.links.get(id as usize)?.next;
            Some(id)
        })
    }

    fn link(&mut self, chain: &mut Chain, id: u32, bytes: u32) {
        self.links[id as usize] = Link { next: NONE, offset: 0, bytes };
        if bytes == 0 {
            self.free(id);
            return;
        }
        match chain.tail {
            NONE => chain.head = id,
            tail => self.links[tail as usize].next = id,
        }
        chain.tail = id;
        chain.bytes += bytes;
    }

    fn take_heap(&mut self, bytes: Box<[u8]>) -> u32 {
        self.heap_bytes += bytes.len();
        if let Some(index) = self.heap_free.pop() {
            self.heap[index as usize] = bytes;
            return POOLED as u32 + index;
        }
        self.heap.push(bytes);
        self.links.push(UNLINKED);
        (POOLED + self.heap.len() - 1) as u32
    }

    fn free(&mut self, id: u32) {
        #[cfg(test)]
        assert!(!self.is_lent(id), "chunk {id} was freed while a send still reads it");
        match (id as usize).checked_sub(POOLED) {
            Some(index) => {
                self.heap_bytes -= self.heap[index].len();
                self.heap[index] = Box::default();
                self.heap_free.push(index as u32);
            }
            None if (id as u16) < FIRST_LARGE => self.free_small.push(id as u16),
            None => self.free_large.push(id as u16),
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // SAFETY: the range is exactly the mapping made in `new`; the owner ends the ring, and with it every publication,
        // before the buffers, and borrowed slices cannot outlive `self`.
        let result = unsafe { libc::munmap(self.arena.as_ptr().cast(), ARENA_BYTES) };
        debug_assert_eq!(result, 0);
    }
}

/// Chunks that a send in flight reads.
#[cfg(test)]
#[derive(Debug)]
pub struct Lent(Vec<u32>);

#[cfg(test)]
impl Buffers {
    /// Pages that the arena has.
    pub(super) fn pages(&self) -> usize {
        let mut pages = vec![0u8; ARENA_BYTES.div_ceil(rustix::param::page_size())];
        // SAFETY: the range is exactly the mapping made in `new`, and the list has a byte for each of its pages.
        let result = unsafe { libc::mincore(self.arena.as_ptr().cast(), ARENA_BYTES, pages.as_mut_ptr()) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        pages.iter().filter(|page| **page & 1 != 0).count()
    }
}

/// For engines without a kernel: they see to it that nobody frees what a kernel would still read.
#[cfg(test)]
impl Buffers {
    /// Notes that a send reads the first `chunks` chunks of `chain`. Freeing one of them is a fault until they are
    /// taken back, and so is lending it again.
    pub fn lend(&mut self, chain: &Chain, chunks: usize) -> Lent {
        let ids: Vec<u32> = self.ids(chain).take(chunks).collect();
        self.lent.resize(self.links.len(), false);
        for &id in &ids {
            let before = std::mem::replace(&mut self.lent[id as usize], true);
            assert!(!before, "chunk {id} is sent twice at once");
        }
        Lent(ids)
    }

    /// The send is over.
    pub fn take_back(&mut self, lent: Lent) {
        for id in lent.0 {
            self.lent[id as usize] = false;
        }
    }

    fn is_lent(&self, id: u32) -> bool {
        self.lent.get(id as usize).is_some_and(|lent| *lent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(buffers: &Buffers, chain: &Chain) -> Vec<u8> {
        buffers.slices(chain).flatten().copied().collect()
    }

    #[test]
    fn consuming_frees_what_is_used_up() {
        let mut buffers = Buffers::new().unwrap();
        let all = buffers.small_free();
        let mut chain = Chain::new();
        for text in ["abc", "de", "f"] {
            let filled = buffers.fill(Receive::Multishot, text.as_bytes()).unwrap();
            buffers.append(&mut chain, filled);
        }
        buffers.consume(&mut chain, 4);
        assert_eq!(content(&buffers, &chain), b"ef");
        assert_eq!(buffers.small_free(), all - 2);
        buffers.clear(&mut chain);
        assert!(chain.is_empty());
        assert_eq!(buffers.small_free(), all);
    }

    #[test]
    fn an_exhausted_group_says_so_and_recovers() {
        let mut buffers = Buffers::new().unwrap();
        let mut chain = Chain::new();
        while let Some(filled) = buffers.fill(Receive::Bulk, &[7; BULK_BUFFER_BYTES + 1]) {
            assert!(filled.is_full());
            assert_eq!(filled.bytes(), BULK_BUFFER_BYTES);
            buffers.append(&mut chain, filled);
        }
        assert_eq!(chain.bytes(), BULK_BUFFERS_MAX * BULK_BUFFER_BYTES);
        buffers.clear(&mut chain);
        assert_eq!(buffers.large_free(), BULK_BUFFERS_MAX);
    }

    proptest! {
        /// Any mix of appends, copies at either end, partial consumption and spills is a byte queue, and nothing leaks.
        #[test]
        fn a_chain_is_a_byte_queue(steps in proptest::collection::vec((0u8..6, any::<u16>()), 1..200)) {
            let mut buffers = Buffers::new().unwrap();
            let (small, large) = (buffers.small_free(), buffers.large_free());
            let mut chain = Chain::new();
            let mut model: Vec<u8> = Vec::new();
            for (step, (kind, n)) in steps.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..n % 6000).map(|i| (i as u8) ^ (step as u8)).collect();
                match kind {
                    0 | 1 => {
                        let how = if kind == 0 { Receive::Multishot } else { Receive::Bulk };
                        if let Some(filled) = buffers.fill(how, &bytes) {
                            model.extend(&bytes[..filled.bytes()]);
                            buffers.append(&mut chain, filled);
                        }
                    }
                    2 => {
                        buffers.append_copy(&mut chain, &bytes);
                        model.extend(&bytes);
                    }
                    3 => {
                        buffers.prepend_copy(&mut chain, &bytes);
                        model.splice(..0, bytes);
                    }
                    4 => {
                        let n = usize::from(n).min(model.len());
                        buffers.consume(&mut chain, n);
                        model.drain(..n);
                    }
                    _ => {
                        buffers.spill(&mut chain);
                        prop_assert_eq!(buffers.pooled_chunks(&chain), 0);
                    }
                }
                prop_assert_eq!(chain.bytes(), model.len());
                prop_assert_eq!(chain.is_empty(), model.is_empty());
            }
            prop_assert_eq!(content(&buffers, &chain), model);
            buffers.clear(&mut chain);
            prop_assert_eq!((buffers.small_free(), buffers.large_free()), (small, large));
            prop_assert_eq!(buffers.heap_bytes(), 0);
        }
    }
}
