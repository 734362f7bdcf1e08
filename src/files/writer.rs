//! The thread itself: takes records out of the queues, makes lines of them and writes these, a batch at a time.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};
use std::{io, mem, thread};

use tokio::time::{sleep, timeout};
use tokio_uring::buf::BoundedBuf;

use super::line::{self, Clock, Form};
use super::record::Record;
use super::target::Target;
use super::{Shared, nothing_written};
use crate::limits::{
    ACCESS_LOG_BATCH_BYTES, ACCESS_LOG_PAUSE, ACCESS_LOG_RESTART_PAUSE, ACCESS_LOG_RETRY_PAUSE,
    ACCESS_LOG_TELL_INTERVAL,
};

/// "Where the file stands": the end of what is opened for appending, and right for pipes too.
const HERE: u64 = u64::MAX;

/// Entries of the ring; there is one operation at a time.
const RING_ENTRIES: u32 = 8;

/// The thread's state. It outlives what the thread runs, so that a panic loses no more than it was about.
pub(super) struct Writer {
    shared: Arc<Shared>,
    target: Target,
    form: Form,
    file: File,
    queues: Vec<Receiver<Record>>,
    batch: Batch,
    /// Lines that are being written.
    in_flight: u64,
    /// The last write has failed, and that was told.
    failing: bool,
    /// The file's last line is not whole.
    torn: bool,
    /// Of the records that found no room, so many were told of, and when.
    told: u64,
    told_at: Option<Instant>,
}

/// Lines that wait to be written.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// How many of the bytes are whole lines: a panic may leave a part of one behind them.
    whole: usize,
    lines: u64,
}

impl Batch {
    fn push(&mut self, form: Form, record: &Record, clock: &Clock) {
        line::write(&mut self.bytes, form, record, clock);
        #[cfg(test)]
        assert_ne!(&*record.route.listener, tests::POISON, "the record that a test breaks the thread with");
        self.whole = self.bytes.len();
        self.lines += 1;
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, target: Target, form: Form, file: File) -> Writer {
        Writer {
            shared,
            target,
            form,
            file,
            queues: Vec::new(),
            batch: Batch::default(),
            in_flight: 0,
            failing: false,
            torn: false,
            told: 0,
            told_at: None,
        }
    }

    /// Runs until told to stop, and begins anew where something breaks.
    pub(super) fn run(mut self) {
        loop {
            let ended = catch_unwind(AssertUnwindSafe(|| {
                let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES))?;
                runtime.block_on(self.serve())
            }));
            match ended {
                Ok(Ok(())) => break,
                Ok(Err(error)) => tracing::error!(%error, "the thread of the access log has failed; starting it again"),
                Err(_) => tracing::error!("the thread of the access log has panicked; starting it again"),
            }
            self.recover();
            if self.is_stopping() {
                break;
            }
            thread::sleep(ACCESS_LOG_RESTART_PAUSE);
        }
        self.tell(true);
        self.shared.end();
    }

    /// After a failure: what was being written or made into a line is lost.
    fn recover(&mut self) {
        let lost = mem::take(&mut self.in_flight) + u64::from(self.batch.bytes.len() > self.batch.whole);
        self.batch.bytes.truncate(self.batch.whole);
        self.shared.unwritten.fetch_add(lost, Ordering::Relaxed);
    }

    async fn serve(&mut self) -> io::Result<()> {
        let mut file = self.for_ring()?;
        loop {
            // Asked before the queues are: what was in them by then is written.
            let stopping = self.is_stopping();
            if self.shared.reopen.swap(false, Ordering::AcqRel) || self.has_vanished() {
                self.reopen();
                file = self.for_ring()?;
            }
            self.collect();
            if self.batch.lines > 0 {
                let full = self.batch.bytes.len() >= ACCESS_LOG_BATCH_BYTES;
                let began = Instant::now();
                self.write(&file).await;
                // While a slow write went on, lines have gathered already, and queues may be full.
                let pause = ACCESS_LOG_PAUSE.saturating_sub(began.elapsed());
                if !full && !pause.is_zero() {
                    sleep(pause).await;
                }
            } else if stopping {
                return Ok(());
            } else {
                self.sleep().await;
            }
            self.tell(false);
        }
    }

    /// Takes records out of the queues until there are none or the batch is full.
    fn collect(&mut self) {
        self.queues.append(&mut self.shared.newcomers());
        // So that no worker goes last for ever.
        if !self.queues.is_empty() {
            self.queues.rotate_left(1);
        }
        let clock = Clock::now();
        let (batch, form) = (&mut self.batch, self.form);
        self.queues.retain(|queue| {
            while batch.bytes.len() < ACCESS_LOG_BATCH_BYTES {
                match queue.try_recv() {
                    Ok(record) => batch.push(form, &record, &clock),
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => return false,
                }
            }
            true
        });
    }

    /// Waits for whoever has something.
    async fn sleep(&mut self) {
        let shared = self.shared.clone();
        shared.asleep.store(true, Ordering::Relaxed);
        // Either we see the record here, or its worker sees that we sleep: see `Queue::push`.
        fence(Ordering::SeqCst);
        self.collect();
        if self.batch.lines == 0 {
            // Whoever rang before this left a permit.
            let rung = shared.bell.notified();
            if self.told == shared.overflown.load(Ordering::Relaxed) {
                rung.await;
            } else if timeout(ACCESS_LOG_TELL_INTERVAL, rung).await.is_err() {
                self.tell(false);
            }
        }
        shared.asleep.store(false, Ordering::Relaxed);
    }

    /// Writes the batch, or counts its lines as lost.
    async fn write(&mut self, file: &tokio_uring::fs::File) {
        let Batch { mut bytes, lines, .. } = mem::take(&mut self.batch);
        self.in_flight = lines;
        let mended = u64::from(self.torn);
        if self.torn {
            bytes.insert(0, b'\n');
        }
        let mut done = 0;
        let result = loop {
            if done == bytes.len() {
                break Ok(());
            }
            let mut write = pin!(file.write_at(bytes.slice(done..), HERE).submit());
            let (result, rest) = loop {
                match timeout(ACCESS_LOG_TELL_INTERVAL, &mut write).await {
                    Ok(answer) => break answer,
                    // A reader that does not read: the queues run over meanwhile.
                    Err(_) => self.tell(false),
                }
            };
            bytes = rest.into_inner();
            match result {
                Ok(0) => break Err(nothing_written()),
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Standard output that somebody has made non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.tell(false);
                    sleep(ACCESS_LOG_RETRY_PAUSE).await;
                }
                Err(error) => break Err(error),
            }
        };
        self.in_flight = 0;
        let ends = bytes[..done].iter().filter(|byte| **byte == b'\n').count() as u64;
        let written = ends.saturating_sub(mended);
        if done > 0 {
            self.torn = bytes[done - 1] != b'\n';
        }
        self.shared.written.fetch_add(written, Ordering::Relaxed);
        self.shared.unwritten.fetch_add(lines - written, Ordering::Relaxed);
        self.note(result);
        bytes.clear();
        self.batch.bytes = bytes;
    }

    /// Tells of the first failure, and of its end.
    fn note(&mut self, result: io::Result<()>) {
        let target = &self.target;
        match result {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!(%target, "the access log is written again");
            }
            Ok(()) => {}
            Err(_) if self.failing => {}
            Err(error) => {
                self.failing = true;
                tracing::error!(
                    %target, %error,
                    "the access log cannot be written: until it can be, its lines are dropped and counted in \
                     ringlb_access_log_dropped_total. Clients are served as before"
                );
            }
        }
    }

    /// Opens the file by its path. Where that fails, the old one is written to.
    fn reopen(&mut self) {
        match self.target.open() {
            Ok(file) => {
                self.file = file;
                self.torn = false;
                tracing::info!(target = %self.target, "the access log is open anew");
            }
            Err(error) if !self.failing => {
                tracing::error!(%error, "the access log goes on in the file that it was in");
            }
            Err(_) => {}
        }
    }

    /// Whether somebody has removed the file: what is written to it is lost with it.
    fn has_vanished(&self) -> bool {
        matches!(self.target, Target::File(_)) && self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    fn for_ring(&self) -> io::Result<tokio_uring::fs::File> {
        self.file.try_clone().map(tokio_uring::fs::File::from_std)
    }

    /// Tells of records that found no room: at once where none were for a while, and then now and again.
    fn tell(&mut self, last: bool) {
        let overflown = self.shared.overflown.load(Ordering::Relaxed);
        let early = self.told_at.is_some_and(|at| at.elapsed() < ACCESS_LOG_TELL_INTERVAL);
        if overflown == self.told || (early && !last) {
            return;
        }
        let lines = overflown - self.told;
        (self.told, self.told_at) = (overflown, Some(Instant::now()));
        tracing::warn!(
            target = %self.target, lines, total = overflown,
            "the access log is not taken fast enough: lines were dropped. Clients are served as before"
        );
    }

    fn is_stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }
}

const _: () = assert!(ACCESS_LOG_PAUSE.as_millis() >= Duration::from_millis(1).as_millis());

#[cfg(test)]
mod tests {
    use super::*;

    use crate::files::{AccessLog, RouteNames, SessionId};
    use crate::limits::ACCESS_LOG_QUEUE;
    use crate::slots::Key;
    use crate::time::Time;

    /// A listener of this name makes the thread panic.
    pub(super) const POISON: &str = "poison";

    const LONG: Duration = Duration::from_secs(30);

    fn record(listener: &str) -> Record {
        Record {
            at: Time::ZERO,
            session: SessionId { worker: 0, life: 0, key: Key::new(0, 0) },
            route: Arc::new(RouteNames { listener: listener.into(), pool: "back".into() }),
            client: None,
            end: None,
        }
    }

    fn wait_until(what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + LONG;
        while !holds() {
            assert!(Instant::now() < end, "{what}");
            thread::yield_now();
        }
    }

    #[test]
    fn a_panic_loses_one_record_and_the_thread_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let log = AccessLog::open(Target::File(path.clone()), Form::Text).unwrap();
        let queue = log.queue();
        for listener in ["one", "two", POISON, "three"] {
            queue.push(record(listener));
        }
        wait_until("what was queued behind it is written", || log.written() == 3);
        queue.push(record("four"));
        assert!(log.finish(LONG));
        assert_eq!((log.written(), log.dropped()), (4, 1));
        let text = std::fs::read_to_string(path).unwrap();
        let listeners: Vec<&str> = text.lines().map(|line| line.split("listener=").nth(1).unwrap()).collect();
        assert_eq!(listeners, ["one", "two", "three", "four"].map(|name| format!("{name} client=- pool=back")));
    }

    #[test]
    fn nothing_is_lost_between_sleep_and_waking() {
        let directory = tempfile::tempdir().unwrap();
        let log = AccessLog::open(Target::File(directory.path().join("log")), Form::Text).unwrap();
        let queue = log.queue();
        for number in 1..=50 {
            queue.push(record("one"));
            // Only the bell can wake it: it sleeps for ever otherwise.
            wait_until("it is written", || log.written() == number);
        }
        drop(queue);
        assert!(log.finish(LONG));
        assert_eq!(log.dropped(), 0);
    }

    #[test]
    fn a_write_that_does_not_end_holds_up_neither_workers_nor_the_end() {
        let (reader, pipe) = io::pipe().unwrap();
        let shared: Arc<Shared> = Arc::default();
        let log = AccessLog { shared: shared.clone() };
        let queue = log.queue();
        let pushed = 2 * ACCESS_LOG_QUEUE as u64;
        let file = File::from(std::os::fd::OwnedFd::from(pipe));
        let writer = Writer::new(shared, Target::StandardOutput, Form::Text, file);
        let thread = thread::spawn(move || writer.run());
        for _ in 0..pushed {
            queue.push(record("one"));
        }
        assert!(log.dropped() > 0);
        assert!(!log.finish(Duration::from_millis(1)));
        // When the reader goes, the rest is lost and counted, and the thread ends.
        drop(reader);
        assert!(log.finish(LONG));
        thread.join().unwrap();
        assert_eq!(log.written() + log.dropped(), pushed);
    }
}
