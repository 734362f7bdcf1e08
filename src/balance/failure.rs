//! Whose fault a failed connect is: the table of the error numbers.

use std::fmt;

use crate::errno::Errno;

/// How a connect ended without a connection.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The kernel's answer.
    Errno(Errno),
    /// Our own connect timeout passed first.
    TimedOut,
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Errno(errno)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Errno(errno) => errno.fmt(f),
            Failure::TimedOut => f.write_str("connect timeout"),
        }
    }
}

/// Who is to blame for a failed connect.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The backend: it counts as a failure of its.
    Backend,
    /// This host or this process: says nothing about the backend.
    Ours,
}

/// What follows from a failed connect.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Who is to blame.
    pub blame: Blame,
    /// Whether another backend may do better. Out of descriptors or memory, none will.
    pub go_on: bool,
}

const BACKEND: Judgement = Judgement { blame: Blame::Backend, go_on: true };
const OURS_GO_ON: Judgement = Judgement { blame: Blame::Ours, go_on: true };
const OURS_STOP: Judgement = Judgement { blame: Blame::Ours, go_on: false };

/// Judges a failed connect; `unix`: the backend is a unix socket.
pub fn judge(failure: Failure, unix: bool) -> Judgement {
    let errno = match failure {
        Failure::TimedOut => return BACKEND,
        Failure::Errno(errno) => errno,
    };
    match errno {
        Errno::ECONNREFUSED | Errno::ECONNRESET | Errno::ETIMEDOUT | Errno::EHOSTUNREACH => BACKEND,
        // No such path: its process has gone. Try again: its accept queue is full.
        Errno::ENOENT | Errno::EAGAIN if unix => BACKEND,
        // Ports and routes are per destination.
        Errno::EADDRNOTAVAIL | Errno::ENETUNREACH => OURS_GO_ON,
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS => OURS_STOP,
        Errno::ENETDOWN | Errno::EPERM | Errno::EACCES => OURS_STOP,
        // We ended the connect ourselves, and not because of its deadline: the client has gone.
        Errno::ECANCELED => OURS_STOP,
        // Anything else (an address family that this host lacks, a path too long) is a mistake about this one
        // backend, made on our side.
        _ => OURS_GO_ON,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The whole table: error number, over IP, over a unix socket.
    const TABLE: &[(Errno, Judgement, Judgement)] = &[
        (Errno::ECONNREFUSED, BACKEND, BACKEND),
        (Errno::ECONNRESET, BACKEND, BACKEND),
        (Errno::ETIMEDOUT, BACKEND, BACKEND),
        (Errno::EHOSTUNREACH, BACKEND, BACKEND),
        (Errno::ENOENT, OURS_GO_ON, BACKEND),
        (Errno::EAGAIN, OURS_GO_ON, BACKEND),
        (Errno::ENETUNREACH, OURS_GO_ON, OURS_GO_ON),
        (Errno::EADDRNOTAVAIL, OURS_GO_ON, OURS_GO_ON),
        (Errno::ENETDOWN, OURS_STOP, OURS_STOP),
        (Errno::EPERM, OURS_STOP, OURS_STOP),
        (Errno::EACCES, OURS_STOP, OURS_STOP),
        (Errno::EMFILE, OURS_STOP, OURS_STOP),
        (Errno::ENFILE, OURS_STOP, OURS_STOP),
        (Errno::ENOMEM, OURS_STOP, OURS_STOP),
        (Errno::ENOBUFS, OURS_STOP, OURS_STOP),
        (Errno::ECANCELED, OURS_STOP, OURS_STOP),
        (Errno::EAFNOSUPPORT, OURS_GO_ON, OURS_GO_ON),
    ];

    #[test]
    fn the_table_of_error_numbers() {
        for &(errno, inet, unix) in TABLE {
            assert_eq!(judge(errno.into(), false), inet, "{errno} over IP");
            assert_eq!(judge(errno.into(), true), unix, "{errno} over a unix socket");
        }
        assert_eq!(judge(Failure::TimedOut, false), BACKEND);
        assert_eq!(judge(Failure::TimedOut, true), BACKEND);
    }
}
