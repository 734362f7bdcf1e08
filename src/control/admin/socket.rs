//! The socket of the admin API: private from birth, never taken from a process that lives, gone at the end.
//!
//! Whoever has the lock file beside it may make it, so that of two starts at the same instant one is refused. What a
//! process that died has left behind is replaced.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::Admin;
use crate::control::wire;
use crate::files::{Lock, LockError};
use crate::limits::ADMIN_BACKLOG;

/// The socket while it exists. Dropped, its file goes.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and number of its file.
    file: (u64, u64),
    _lock: Lock,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Its directory does not exist.
    #[error("its directory {} does not exist; make it (in a systemd unit: RuntimeDirectory=)", .0.display())]
    NoDirectory(PathBuf),
    /// Another process serves on it.
    #[error("another ringlb{} serves there; stop that one, or choose another path with --admin", whose(.0))]
    Taken(Option<i32>),
    /// Something else has that name.
    #[error("there is something that is no socket, and it is left alone; choose another path with --admin")]
    NoSocket,
    /// The kernel refuses.
    #[error("{what}: {source}; see who may write there, or choose another path with --admin")]
    System {
        /// To do what.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// A path on which no admin API can be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the admin API on {}: {source}", path.display())]
pub struct Error {
    /// Which.
    pub path: PathBuf,
    /// Why not.
    pub source: SocketError,
}

impl AdminSocket {
    /// Makes the socket where `admin` says. Where that is one of the usual places and none of them can be had, a log line
    /// says why, and there is none.
    ///
    /// # Errors
    /// It cannot be made where it must be.
    pub fn open(admin: &Admin, mode: u32) -> Result<Option<AdminSocket>, Error> {
        match admin {
            Admin::Off => Ok(None),
            Admin::At(path) => {
                AdminSocket::bind(path, mode).map(Some).map_err(|source| Error { path: path.clone(), source })
            }
            Admin::Usual => Ok(AdminSocket::open_usual(mode)),
        }
    }

    /// What listens, non-blocking.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_usual(mode: u32) -> Option<AdminSocket> {
        for path in usual_places() {
            if let Some(directory) = path.parent()
                && let Err(error) = fs::create_dir(directory)
                && error.kind() != io::ErrorKind::AlreadyExists
            {
                tracing::debug!(path = %path.display(), %error, "no admin socket here");
                continue;
            }
            match AdminSocket::bind(&path, mode) {
                Ok(socket) => return Some(socket),
                Err(error) => tracing::info!("no admin socket at {}: {error}", path.display()),
            }
        }
        tracing::info!(
            "no admin API: its socket can be made at none of the usual places; name one with `admin` or --admin"
        );
        None
    }

    fn bind(path: &Path, mode: u32) -> Result<AdminSocket, SocketError> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        if !directory.is_dir() {
            return Err(SocketError::NoDirectory(directory.to_owned()));
        }
        let lock = Lock::take(path).map_err(|error| match error {
            LockError::Held(pid) => SocketError::Taken(pid),
            LockError::System(source) => system("its lock file cannot be had")(source),
        })?;
        clear_away(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(system("a socket"))?;
        // The file gets these permissions when the address is bound, less what the umask takes: there is no moment in which
        // others may connect.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))
            .map_err(|errno| system("its permissions cannot be set")(errno.into()))?;
        let address = SockAddr::unix(path).map_err(system("its path"))?;
        socket.bind(&address).map_err(system("it cannot be made"))?;
        let ready = || {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
            socket.listen(ADMIN_BACKLOG)?;
            socket.set_nonblocking(true)?;
            fs::symlink_metadata(path)
        };
        let made = ready().map_err(system("it cannot be prepared"))?;
        Ok(AdminSocket { listener: socket.into(), path: path.to_owned(), file: (made.dev(), made.ino()), _lock: lock })
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the admin socket cannot be removed");
        }
    }
}

/// The usual places, the best first.
pub fn usual_places() -> Vec<PathBuf> {
    wire::usual_sockets()
}

/// Removes the socket of a process that has died. Nothing else goes.
fn clear_away(path: &Path) -> Result<(), SocketError> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(system("it cannot be looked at"))?,
    };
    if !found.file_type().is_socket() {
        return Err(SocketError::NoSocket);
    }
    // Non-blocking: a process whose backlog is full lives.
    let address = SockAddr::unix(path).map_err(system("its path"))?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(system("a socket"))?;
    match socket.connect(&address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(system("what a former process has left cannot be removed"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(()) => Err(SocketError::Taken(None)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SocketError::Taken(None)),
        Err(error) => Err(system("whether it is in use cannot be found out")(error)),
    }
}

fn whose(pid: &Option<i32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> SocketError {
    move |source| SocketError::System { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;
    use tempfile::TempDir;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn it_is_private_and_gone_at_the_end() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("admin.sock");
        let socket = AdminSocket::bind(&path, 0o600).unwrap();
        assert_eq!(mode(&path), 0o600);
        UnixStream::connect(&path).unwrap();
        drop(socket);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "neither the socket nor its lock file stays");
        let socket = AdminSocket::bind(&path, 0o666).unwrap();
        assert_eq!(mode(&path), 0o666, "whatever the umask is");
        drop(socket);
    }

    #[test]
    fn a_dead_one_is_replaced_and_a_living_one_is_not() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("admin.sock");
        drop(UnixListener::bind(&path).unwrap());
        let socket = AdminSocket::bind(&path, 0o600).unwrap();
        let taken = AdminSocket::bind(&path, 0o600).unwrap_err();
        assert!(matches!(taken, SocketError::Taken(Some(pid)) if pid == std::process::id().cast_signed()), "{taken}");
        drop(socket);
        // A process that knows nothing of our lock.
        let other = UnixListener::bind(&path).unwrap();
        let taken = AdminSocket::bind(&path, 0o600).unwrap_err();
        assert!(matches!(taken, SocketError::Taken(None)), "{taken}");
        UnixStream::connect(&path).unwrap();
        drop(other);
    }

    #[test]
    fn what_is_no_socket_stays_and_a_directory_must_exist() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("admin.sock");
        fs::write(&path, "precious").unwrap();
        let refused = AdminSocket::bind(&path, 0o600).unwrap_err();
        assert!(matches!(refused, SocketError::NoSocket), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let refused = AdminSocket::bind(&directory.path().join("none/admin.sock"), 0o600).unwrap_err();
        assert!(matches!(refused, SocketError::NoDirectory(_)), "{refused}");
    }

    #[test]
    fn of_many_that_start_at_once_one_gets_it() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("admin.sock");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let barrier = std::sync::Barrier::new(8);
            let sockets: Vec<_> = std::thread::scope(|scope| {
                let start = || {
                    barrier.wait();
                    AdminSocket::bind(&path, 0o600)
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(sockets.iter().filter(|socket| socket.is_ok()).count(), 1, "{sockets:?}");
        }
    }
}
