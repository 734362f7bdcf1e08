//! A locked file beside another: the right to make or write that one, so that of two processes one is refused.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};

/// The right, while it lasts. The kernel takes it from a process that dies; dropped, its file goes.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

/// Why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it, and this is its number, if it is known.
    #[error("another process{} has it", .0.map_or_else(String::new, |pid| format!(" (pid {pid})")))]
    Held(Option<i32>),
    /// The kernel refuses.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl Lock {
    /// Takes that of the file at `beside`: `NAME.lock`.
    ///
    /// # Errors
    /// Another process has it, or its file cannot be made.
    pub fn take(beside: &Path) -> Result<Lock, LockError> {
        let path = with_ending(beside, ".lock");
        loop {
            let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR);
            let mut file = File::from(file.map_err(io::Error::from)?);
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(LockError::Held(read_pid(&mut file))),
                Err(errno) => return Err(LockError::System(errno.into())),
            }
            // Whoever ends removes the file before the lock goes: then what we have locked is nobody's any more.
            let locked = file.metadata()?;
            if fs::symlink_metadata(&path).is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino()))
            {
                file.set_len(0)?;
                file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
                return Ok(Lock { file, path });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let locked = self.file.metadata().map(|file| (file.dev(), file.ino()));
        let named = fs::symlink_metadata(&self.path).map(|file| (file.dev(), file.ino()));
        if let (Ok(locked), Ok(named)) = (locked, named)
            && locked == named
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "a lock file stays behind");
        }
    }
}

/// The path with this behind its name.
pub(super) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(ending);
    path.into()
}

fn read_pid(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_one_is_refused_until_the_other_has_let_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let lock = Lock::take(&path).unwrap();
        let held = Lock::take(&path).unwrap_err();
        assert!(matches!(held, LockError::Held(Some(pid)) if pid.unsigned_abs() == std::process::id()), "{held}");
        drop(lock);
        assert!(!with_ending(&path, ".lock").exists());
        drop(Lock::take(&path).unwrap());
        let nowhere = Lock::take(&directory.path().join("none/state")).unwrap_err();
        assert!(matches!(nowhere, LockError::System(_)), "{nowhere}");
    }
}
