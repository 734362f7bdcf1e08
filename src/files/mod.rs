//! What the process writes to disk, without anybody who serves a client waiting for it: the access log, here, and the
//! state file, in `state`. Each of the two has a thread of its own, so that a log that nobody reads holds up no state.
//!
//! The access log: each worker has a bounded [`Queue`] of small [`Record`]s; the thread takes them out,
//! makes lines of them and writes these in batches, through io_uring (`tokio-uring`). A queue that is full takes no record:
//! the record is dropped and counted, and the worker goes on. What the thread does not get rid of stays in the queues, so
//! a log that nobody reads costs a fixed amount of memory.
//!
//! Without an access log there is no thread, no queue, and nothing is asked of anybody.

pub mod line;
mod lock;
mod record;
pub mod state;
mod target;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io, thread};

use tokio::sync::Notify;

use crate::limits::ACCESS_LOG_QUEUE;

pub use line::Form;
pub use lock::{Lock, LockError};
pub use record::{BackendNames, End, Record, RouteNames, SessionId};
pub use target::{OpenError, Target};

use writer::Writer;

/// The access log, for those who steer it. Clones are the same.
#[derive(Clone)]
pub struct AccessLog {
    shared: Arc<Shared>,
}

/// Where one worker puts its records.
#[derive(Debug)]
pub struct Queue {
    records: SyncSender<Record>,
    shared: Arc<Shared>,
}

/// What the thread and the others share.
#[derive(Debug, Default)]
struct Shared {
    /// The thread sleeps: whoever has something for it rings.
    asleep: AtomicBool,
    bell: Notify,
    reopen: AtomicBool,
    stop: AtomicBool,
    /// Queues that the thread has not taken up yet.
    newcomers: Mutex<Vec<Receiver<Record>>>,
    /// Records that a queue had no room for.
    overflown: AtomicU64,
    /// Lines that could not be written.
    unwritten: AtomicU64,
    written: AtomicU64,
    ended: Mutex<bool>,
    has_ended: Condvar,
}

impl AccessLog {
    /// Opens the log and starts the thread.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread cannot be had; the message says why and what to do.
    pub fn open(target: Target, form: Form) -> Result<AccessLog, OpenError> {
        let file = target.open()?;
        let log = AccessLog { shared: Arc::default() };
        let writer = Writer::new(log.shared.clone(), target, form, file);
        thread::Builder::new()
            .name("ringlb-files".into())
            .spawn(move || writer.run())
            .map_err(|source| OpenError::Thread { source })?;
        Ok(log)
    }

    /// A queue for one more worker.
    pub fn queue(&self) -> Queue {
        let (records, receiver) = sync_channel(ACCESS_LOG_QUEUE);
        self.shared.newcomers().push(receiver);
        self.shared.bell.notify_one();
        Queue { records, shared: self.shared.clone() }
    }

    /// Opens the file anew, by its path, before the next lines are written.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        self.shared.bell.notify_one();
    }

    /// Writes what is queued and ends the thread. Says whether that was done in time.
    pub fn finish(&self, timeout: Duration) -> bool {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.notify_one();
        let ended = self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.has_ended.wait_timeout_while(ended, timeout, |ended| !*ended);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Lines written.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Lines lost: their queue was full, or they could not be written.
    pub fn dropped(&self) -> u64 {
        self.shared.overflown.load(Ordering::Relaxed) + self.shared.unwritten.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("written", &self.written()).field("dropped", &self.dropped()).finish()
    }
}

impl Queue {
    /// Takes a record, or drops and counts it where there is no room. Never waits.
    pub fn push(&self, record: Record) {
        if self.records.try_send(record).is_err() {
            self.shared.overflown.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // Either we see that the thread sleeps, or it sees the record before it does: see `Writer::sleep`.
        fence(Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::Relaxed) && self.shared.asleep.swap(false, Ordering::Relaxed) {
            self.shared.bell.notify_one();
        }
    }
}

impl Shared {
    fn newcomers(&self) -> MutexGuard<'_, Vec<Receiver<Record>>> {
        self.newcomers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.has_ended.notify_all();
    }
}

/// An error for an operation that the kernel has ended without one.
fn nothing_written() -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, "the kernel has taken no byte")
}
