//! The pair of queues shared with the kernel, and the one system call that drives them.
#![allow(unsafe_code)]

use std::io;
use std::mem::ManuallyDrop;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{CompletionQueue, EnterFlags, IoUring, SubmissionQueue, Submitter, cqueue, squeue};

use crate::errno::Errno;
use crate::limits::{COMPLETION_ENTRIES, SUBMISSION_ENTRIES};

/// A ring and its queues, open for the life of the thread that made it.
pub(super) struct Queue {
    /// Keeps the registered descriptor's index, which a fresh `Submitter` would not know.
    submitter: ManuallyDrop<Submitter<'static>>,
    submission: ManuallyDrop<SubmissionQueue<'static>>,
    completion: ManuallyDrop<CompletionQueue<'static>>,
    /// What the three above borrow from, made by `Box::into_raw` and freed after them.
    ring: *mut IoUring,
    /// Flags of every enter that waits or reaps.
    reap_flags: u32,
}

impl Queue {
    /// Sets up a ring for this thread alone: completions are worked on only when this thread asks for them.
    ///
    /// # Errors
    /// The errno of `io_uring_setup(2)` or of mapping its memory.
    pub(super) fn new() -> io::Result<Queue> {
        let ring = match build(true) {
            // Kernels before 6.6 always have the index array.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => build(false)?,
            built => built?,
        };
        let mut reap_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if ring.params().is_feature_no_iowait() {
            // An idle worker waits, but not for a disk.
            reap_flags |= EnterFlags::NO_IOWAIT;
        }
        let ring = Box::into_raw(Box::new(ring));
        // SAFETY: the pointer comes from `into_raw`, is used through these three only, and is freed in `drop` after them.
        let (mut submitter, submission, completion) = unsafe { &mut *ring }.split();
        if submitter.register_ring_fd().is_err() {
            tracing::debug!("the ring's descriptor could not be registered; each turn looks it up");
        }
        // Nothing is meant to be punted to kernel threads; if something is, then to few.
        if submitter.register_iowq_max_workers(&mut [1, 2]).is_err() {
            tracing::debug!("the number of the ring's kernel threads could not be limited");
        }
        Ok(Queue {
            submitter: ManuallyDrop::new(submitter),
            submission: ManuallyDrop::new(submission),
            completion: ManuallyDrop::new(completion),
            ring,
            reap_flags: reap_flags.bits(),
        })
    }

    /// For registrations.
    pub(super) fn submitter(&self) -> &Submitter<'static> {
        &self.submitter
    }

    /// Queues an operation; `false` when the queue is full.
    ///
    /// # Safety
    /// What the entry points at must stay valid as long as the kernel may use it.
    #[inline]
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.submission.push(entry) }.is_ok()
    }

    /// Whether the kernel has taken everything that was queued, as of the last enter.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.submission.is_empty()
    }

    /// Whether no operation can be queued.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.submission.is_full()
    }

    /// How many operations are queued that the kernel has not taken, as of the last enter.
    pub(super) fn len(&self) -> usize {
        self.submission.len()
    }

    /// Submits without running what waits to be completed.
    ///
    /// # Errors
    /// As [`Queue::wait`].
    pub(super) fn submit(&mut self) -> Result<(), Errno> {
        self.submission.sync();
        // SAFETY: no flags and no argument; the count is the queue's own.
        let result = unsafe { self.submitter.enter::<libc::sigset_t>(self.submission.len() as u32, 0, 0, None) };
        self.settle(result)
    }

    /// Submits, runs what waits to be completed, and waits for one completion, up to `timeout` (`None`: for ever).
    ///
    /// # Errors
    /// What the kernel says. `EINTR` and `ETIME` are not errors; `EAGAIN`, `EBUSY`: nothing could be submitted for now.
    #[inline]
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> Result<(), Errno> {
        self.submission.sync();
        self.enter(self.submission.len() as u32, timeout)
    }

    /// As [`Queue::wait`], but submits nothing.
    ///
    /// # Errors
    /// As [`Queue::wait`].
    pub(super) fn wait_only(&mut self, timeout: Option<Duration>) -> Result<(), Errno> {
        self.enter(0, timeout)
    }

    /// Whether completions wait inside the kernel because their queue was full; every multishot ends by that.
    #[inline]
    pub(super) fn has_overflown(&self) -> bool {
        self.submission.cq_overflow()
    }

    /// The next completion of those that the last enter has shown.
    #[inline]
    pub(super) fn next(&mut self) -> Option<cqueue::Entry> {
        self.completion.next()
    }

    /// Makes every later call fail: the descriptor is another file's from now on.
    #[cfg(test)]
    pub(super) fn spoil(&mut self) {
        use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
        self.submitter.unregister_ring_fd().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: the ring outlives the call; its number stays its own, which only means another file.
        let mut number = unsafe { OwnedFd::from_raw_fd((*self.ring).as_raw_fd()) };
        rustix::io::dup2(&null, &mut number).unwrap();
        let _kept: i32 = number.into_raw_fd();
    }

    #[inline]
    fn enter(&mut self, submit: u32, timeout: Option<Duration>) -> Result<(), Errno> {
        // The kernel must see what was consumed before it posts more.
        self.completion.sync();
        let want = u32::from(timeout != Some(Duration::ZERO));
        let timespec = Timespec::from(timeout.unwrap_or_default());
        let args = match timeout {
            Some(_) if want > 0 => SubmitArgs::new().timespec(&timespec),
            _ => SubmitArgs::new(),
        };
        // SAFETY: with `EXT_ARG` the argument is what `SubmitArgs` wraps, and it outlives the call with its timespec.
        let result = unsafe { self.submitter.enter(submit, want, self.reap_flags, Some(&args)) };
        self.settle(result)
    }

    #[inline]
    fn settle(&mut self, result: io::Result<usize>) -> Result<(), Errno> {
        // Entries may have been taken even where the call reports an error.
        self.submission.sync();
        self.completion.sync();
        match result {
            Ok(_) => Ok(()),
            Err(error) => match Errno::from(&error) {
                Errno::EINTR | Errno::ETIME => Ok(()),
                errno => Err(errno),
            },
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.submitter.unregister_ring_fd().is_err() {
            tracing::trace!("the ring's descriptor was not registered");
        }
        // SAFETY: each is dropped once, here, and used no more; the ring, which they borrow from, goes last.
        unsafe {
            ManuallyDrop::drop(&mut self.submitter);
            ManuallyDrop::drop(&mut self.submission);
            ManuallyDrop::drop(&mut self.completion);
            drop(Box::from_raw(self.ring));
        }
    }
}

fn build(without_array: bool) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    builder.setup_cqsize(COMPLETION_ENTRIES).setup_clamp().dontfork();
    if without_array {
        builder.setup_no_sqarray();
    }
    builder.build(SUBMISSION_ENTRIES)
}
