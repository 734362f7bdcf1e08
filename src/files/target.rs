//! Where the access log goes, and how that is opened.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;
use std::{fmt, io};

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To standard output.
    StandardOutput,
    /// To the end of this file, which is made where it is missing.
    File(PathBuf),
}

/// Why there is no access log.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its file cannot be opened.
    #[error("the access log cannot be opened at {target}: {source}; {}", help(source))]
    File {
        /// Where.
        target: Target,
        /// Why not.
        source: io::Error,
    },
    /// Its thread cannot be had.
    #[error(
        "the thread of the access log cannot be started: {source}; raise the limit of threads, or set access_log = \"\""
    )]
    Thread {
        /// Why not.
        source: io::Error,
    },
}

impl Target {
    /// Opens it for appending.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(&self) -> Result<File, OpenError> {
        let opened = match self {
            Target::StandardOutput => io::stdout().as_fd().try_clone_to_owned().map(File::from),
            Target::File(path) => {
                // Opened for writing alone, a FIFO would make us wait for its reader, and a reader that leaves would make every
                // write fail until the log is reopened.
                let fifo = path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo());
                OpenOptions::new().append(true).read(fifo).create(!fifo).mode(0o640).open(path)
            }
        };
        opened.map_err(|source| OpenError::File { target: self.clone(), source })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::StandardOutput => f.write_str("standard output"),
            Target::File(path) => path.display().fmt(f),
        }
    }
}

fn help(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "make its directory, or set another `access_log`",
        io::ErrorKind::PermissionDenied => "let this user write there, or set another `access_log`",
        io::ErrorKind::IsADirectory => "`access_log` names a file: add the name of one in that directory",
        _ => "check the path and its disk, or set another `access_log`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_opened_is_told_with_a_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let cases = [
            (directory.path().to_owned(), "Is a directory", "add the name of one"),
            (directory.path().join("missing/access.log"), "No such file", "make its directory"),
        ];
        for (path, why, help) in cases {
            let error = Target::File(path.clone()).open().unwrap_err().to_string();
            for part in [path.to_str().unwrap(), why, help] {
                assert!(error.contains(part), "{error}");
            }
        }
    }
}
