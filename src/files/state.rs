//! The state file: one text, written whole or not at all.
//!
//! A thread of its own writes it through io_uring (`tokio-uring`): to a new file beside it, which is synced and renamed over
//! the old one, and then the directory is synced. Whoever has a new state puts it down and goes on; where states come faster
//! than the disk takes them, the newest counts.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use std::{fmt, mem, thread};

use tokio::sync::Notify;
use tokio::time::timeout;

use super::lock::{Lock, LockError, with_ending};
use crate::limits::{ACCESS_LOG_RESTART_PAUSE, STATE_BYTES_MAX, STATE_RETRY_PAUSE};

/// Entries of the ring; there is one operation at a time.
const RING_ENTRIES: u32 = 8;

/// Its permissions, and those of what it is made of.
const MODE: u32 = 0o600;

/// The file, for those who have something to put into it. Clones are the same.
#[derive(Clone)]
pub struct StateFile {
    shared: Arc<Shared>,
}

/// What was there when it was opened.
#[derive(Debug)]
pub enum Found {
    /// There was none.
    Nothing,
    /// Its text.
    Text(Vec<u8>),
    /// It cannot be read, and this is why.
    Unreadable(String),
}

/// Why there can be no state file.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process writes it.
    #[error("{why}; give each ringlb a `state_file` of its own, or stop the other one")]
    Held {
        /// Which.
        why: LockError,
    },
    /// No file can be made in its directory.
    #[error("no file can be made in its directory {}: {source}; {}", directory.display(), help(source))]
    Directory {
        /// Which.
        directory: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What bears its name is a directory.
    #[error("it is a directory; `state_file` names a file: add the name of one in that directory")]
    IsDirectory,
    /// What cannot be used cannot be moved out of the way either.
    #[error("it cannot be used, and not moved aside: {source}; move it away by hand")]
    Stays {
        /// Why not.
        source: io::Error,
    },
    /// Its thread cannot be had.
    #[error("its thread cannot be started: {source}; raise the limit of threads, or set state_file = \"\"")]
    Thread {
        /// Why not.
        source: io::Error,
    },
}

/// A text that is not made yet: the thread makes it.
struct Job(Box<dyn FnOnce() -> Vec<u8> + Send>);

/// What the thread and the others share.
struct Shared {
    path: PathBuf,
    /// The newest state that is not being written yet.
    next: Mutex<Option<Job>>,
    bell: Notify,
    stop: AtomicBool,
    written: AtomicU64,
    failures: AtomicU64,
    ended: Mutex<bool>,
    has_ended: Condvar,
}

impl StateFile {
    /// Looks whether it can be written, reads what is there, and starts the thread. It is ours for as long as the lock is.
    ///
    /// # Errors
    /// It cannot be written, or another process does so.
    pub fn open(path: &Path) -> Result<(StateFile, Lock, Found), OpenError> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let refused = |source| OpenError::Directory { directory: directory.to_owned(), source };
        let lock = Lock::take(path).map_err(|error| match error {
            LockError::System(source) => refused(source),
            held @ LockError::Held(_) => OpenError::Held { why: held },
        })?;
        try_out(path).map_err(refused)?;
        let found = read(path)?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            next: Mutex::default(),
            bell: Notify::new(),
            stop: AtomicBool::new(false),
            written: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            ended: Mutex::default(),
            has_ended: Condvar::new(),
        });
        let writer = Writer { shared: shared.clone(), text: Vec::new(), failing: false };
        let thread = thread::Builder::new().name("ringlb-state".into()).spawn(move || writer.run());
        thread.map_err(|source| OpenError::Thread { source })?;
        Ok((StateFile { shared }, lock, found))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Makes what `text` gives the state, in its turn. Never waits for the disk; what was put before and is not being written
    /// yet is forgotten.
    pub fn put(&self, text: impl FnOnce() -> Vec<u8> + Send + 'static) {
        *self.shared.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Job(Box::new(text)));
        self.shared.bell.notify_one();
    }

    /// Writes what was put last and ends the thread. Says whether that was done in time.
    pub fn finish(&self, timeout: Duration) -> bool {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.bell.notify_one();
        let ended = self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.shared.has_ended.wait_timeout_while(ended, timeout, |ended| !*ended);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// How often it was written.
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Acquire)
    }

    /// How often that has failed.
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    /// Moves what is there out of the way, for somebody to look at; an earlier one that was moved so is replaced.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_aside(&self) -> Result<PathBuf, OpenError> {
        let aside = with_ending(&self.shared.path, ".bad");
        fs::rename(&self.shared.path, &aside).map_err(|source| OpenError::Stays { source })?;
        Ok(aside)
    }
}

impl fmt::Debug for StateFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateFile").field("path", &self.shared.path).field("written", &self.written()).finish()
    }
}

/// The thread's state. It outlives what the thread runs.
struct Writer {
    shared: Arc<Shared>,
    /// What is to be written, or is being written; empty: nothing is.
    text: Vec<u8>,
    /// The last write has failed, and that was told.
    failing: bool,
}

impl Writer {
    /// Runs until told to stop, and begins anew where something breaks.
    fn run(mut self) {
        loop {
            let ended = catch_unwind(AssertUnwindSafe(|| {
                let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(RING_ENTRIES))?;
                runtime.block_on(self.serve());
                Ok::<_, io::Error>(())
            }));
            match ended {
                Ok(Ok(())) => break,
                Ok(Err(error)) => tracing::error!(%error, "the thread of the state file has failed; starting it again"),
                Err(_) => tracing::error!("the thread of the state file has panicked; starting it again"),
            }
            // A state that was put behind the one that broke it is written still.
            let is_idle = self.shared.next.lock().unwrap_or_else(PoisonError::into_inner).is_none();
            if self.shared.stop.load(Ordering::Acquire) && is_idle {
                break;
            }
            thread::sleep(ACCESS_LOG_RESTART_PAUSE);
        }
        *self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.has_ended.notify_all();
    }

    async fn serve(&mut self) {
        let shared = self.shared.clone();
        loop {
            // Asked before the state is taken: what was put by then is written.
            let stopping = shared.stop.load(Ordering::Acquire);
            let next = shared.next.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(Job(text)) = next {
                self.text = text();
            }
            if !self.text.is_empty() {
                self.write().await;
            }
            // Whoever rings meanwhile leaves a permit.
            let rung = shared.bell.notified();
            if stopping {
                return;
            } else if self.text.is_empty() {
                rung.await;
            } else if timeout(STATE_RETRY_PAUSE, rung).await.is_err() {
                tracing::debug!("the state file is tried again");
            }
        }
    }

    /// Writes the text, or keeps it for another time.
    async fn write(&mut self) {
        let text = mem::take(&mut self.text);
        let (result, text) = match text.len() as u64 > STATE_BYTES_MAX {
            true => (Err(too_large(text.len() as u64)), text),
            false => replace(&self.shared.path, text).await,
        };
        let path = self.shared.path.display();
        match result {
            Ok(()) => {
                self.shared.written.fetch_add(1, Ordering::Release);
                if mem::take(&mut self.failing) {
                    tracing::info!(%path, "the state file is written again");
                }
            }
            Err(error) => {
                self.shared.failures.fetch_add(1, Ordering::Relaxed);
                if !mem::replace(&mut self.failing, true) {
                    tracing::error!(
                        %path, %error,
                        "the state file cannot be written: until it can be, a restart loses the live edits since the last \
                         time. They count as before; it is tried again"
                    );
                }
                self.text = text;
            }
        }
    }
}

/// Makes `text` the content of the file at `path`, in one step. Gives the text back.
async fn replace(path: &Path, text: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
    let new = with_ending(path, ".new");
    let (result, text) = write_new(&new, text).await;
    let result = match result {
        Ok(()) => move_over(&new, path).await,
        Err(error) => Err(error),
    };
    if result.is_err()
        && let Err(error) = tokio_uring::fs::remove_file(&new).await
    {
        tracing::debug!(path = %new.display(), %error, "nothing was left behind");
    }
    (result, text)
}

async fn write_new(path: &Path, text: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
    // What a process that died has left behind. Made anew, the file is ours, and nobody else may read it.
    match tokio_uring::fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return (Err(error), text),
        Ok(()) | Err(_) => {}
    }
    let opened = tokio_uring::fs::OpenOptions::new().write(true).create_new(true).mode(MODE).open(path).await;
    let file = match opened {
        Ok(file) => file,
        Err(error) => return (Err(error), text),
    };
    let (written, text) = file.write_all_at(text, 0).await;
    let synced = match written {
        Ok(()) => file.sync_all().await,
        Err(error) => Err(error),
    };
    let closed = file.close().await;
    (synced.and(closed), text)
}

async fn move_over(new: &Path, path: &Path) -> io::Result<()> {
    tokio_uring::fs::rename(new, path).await?;
    // The name is in the directory, which is a file too.
    let directory = tokio_uring::fs::File::open(path.parent().unwrap_or(Path::new("/"))).await?;
    let synced = directory.sync_all().await;
    synced.and(directory.close().await)
}

/// Whether a file can be made where the new ones will be.
fn try_out(path: &Path) -> io::Result<()> {
    let new = with_ending(path, ".new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::OpenOptions::new().write(true).create_new(true).mode(MODE).open(&new)?;
    fs::remove_file(&new)
}

fn read(path: &Path) -> Result<Found, OpenError> {
    if path.is_dir() {
        return Err(OpenError::IsDirectory);
    }
    let mut text = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(STATE_BYTES_MAX + 1).read_to_end(&mut text));
    Ok(match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
        Err(error) => Found::Unreadable(error.to_string()),
        Ok(_) if text.len() as u64 > STATE_BYTES_MAX => Found::Unreadable(too_large(text.len() as u64).to_string()),
        Ok(_) => Found::Text(text),
    })
}

fn too_large(bytes: u64) -> io::Error {
    io::Error::other(format!("{bytes} bytes are more than the {STATE_BYTES_MAX} that a state file may have"))
}

fn help(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "make it (in a systemd unit: StateDirectory=), or set another `state_file`; \"\" is to do without"
        }
        io::ErrorKind::PermissionDenied => "let this user write there, or set another `state_file`",
        _ => "check it and its disk, or set another `state_file`",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn open(path: &Path) -> (StateFile, Lock, Found) {
        StateFile::open(path).unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.collect();
        names.sort_unstable();
        names
    }

    fn wait_until(what: &str, holds: impl Fn() -> bool) {
        let end = std::time::Instant::now() + LONG;
        while !holds() {
            assert!(std::time::Instant::now() < end, "{what}");
            thread::yield_now();
        }
    }

    #[test]
    fn the_last_state_is_there_at_the_end_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        // What a process that died has left, readable for everybody.
        fs::write(directory.path().join("state.new"), "half a sta").unwrap();
        let (file, lock, found) = open(&path);
        assert!(matches!(found, Found::Nothing), "{found:?}");
        for number in 0..100_u32 {
            file.put(move || format!("state {number}").into_bytes());
        }
        assert!(file.finish(LONG));
        assert!(file.written() >= 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), "state 99");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(lock);
        assert_eq!(names(directory.path()), ["state"]);
        let (_file, _lock, found) = open(&path);
        assert!(matches!(&found, Found::Text(text) if text == b"state 99"), "{found:?}");
    }

    #[test]
    fn who_reads_meanwhile_sees_whole_states_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let (file, _lock, _) = open(&path);
        for number in 1..=30_u8 {
            file.put(move || vec![number; 300_000]);
            wait_until("it is written", || {
                if let Ok(text) = fs::read(&path) {
                    assert_eq!(text.len(), 300_000);
                    assert!(text.iter().all(|byte| *byte == text[0]));
                }
                file.written() == u64::from(number)
            });
        }
        assert!(file.finish(LONG));
    }

    #[test]
    fn a_state_that_could_not_be_written_is_written_when_it_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("home");
        fs::create_dir(&home).unwrap();
        let (file, _lock, _) = open(&home.join("state"));
        file.put(|| b"one".to_vec());
        wait_until("it is written", || file.written() == 1);
        let away = directory.path().join("away");
        fs::rename(&home, &away).unwrap();
        file.put(|| b"two".to_vec());
        // A panic of the one who makes the text loses that text alone.
        file.put(|| panic!("a test breaks the thread with this"));
        file.put(|| b"three".to_vec());
        fs::rename(&away, &home).unwrap();
        assert!(file.finish(LONG));
        assert_eq!(fs::read_to_string(home.join("state")).unwrap(), "three");
    }

    #[test]
    fn what_cannot_be_is_told_with_a_remedy() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "").unwrap();
        let held = directory.path().join("held");
        let _other = Lock::take(&held).unwrap();
        let cases = [
            (directory.path().join("none/state"), "No such file", "StateDirectory="),
            (directory.path().join("file/state"), "Not a directory", "set another `state_file`"),
            (directory.path().to_owned(), "it is a directory", "add the name of one"),
            (held, "another process (pid ", "of its own"),
        ];
        for (path, why, help) in cases {
            let error = StateFile::open(&path).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(help), "{error}");
        }
    }

    #[test]
    fn what_is_too_large_is_neither_read_nor_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        fs::File::create(&path).unwrap().set_len(STATE_BYTES_MAX + 1).unwrap();
        let (file, _lock, found) = open(&path);
        assert!(matches!(&found, Found::Unreadable(why) if why.contains("more than")), "{found:?}");
        assert_eq!(file.set_aside().unwrap(), directory.path().join("state.bad"));
        file.put(|| vec![b' '; STATE_BYTES_MAX as usize + 1]);
        assert!(file.finish(LONG));
        assert_eq!((file.written(), file.failures(), path.exists()), (0, 1, false));
    }
}
