//! The closed lists of what may stand in the label `reason`. That of ended sessions is
//! [`CloseReason::LABELS`](crate::relay::CloseReason::LABELS).

use crate::balance::Failure;
use crate::errno::Errno;

/// Why a connect to a backend failed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum ConnectFailure {
    /// `ECONNREFUSED`
    Refused,
    /// `ECONNRESET`
    Reset,
    /// Our own connect timeout.
    Timeout,
    /// `ETIMEDOUT`: the kernel gave up first.
    TimedOut,
    /// `EHOSTUNREACH`
    Unreachable,
    /// `ENOENT`: a unix socket that is not there.
    NoSocket,
    /// `EAGAIN`: a unix socket whose accept queue is full.
    QueueFull,
    /// `ENETUNREACH`, `ENETDOWN`
    Network,
    /// `EADDRNOTAVAIL`: no port of ours is free for this destination.
    NoPort,
    /// `EMFILE`, `ENFILE`
    NoDescriptor,
    /// `ENOMEM`, `ENOBUFS`
    NoMemory,
    /// `EPERM`, `EACCES`: a firewall of this host, or permissions.
    Forbidden,
    /// Anything else.
    Other,
}

impl ConnectFailure {
    /// All of them, in the order of the documentation.
    pub const ALL: [ConnectFailure; 13] = [
        ConnectFailure::Refused,
        ConnectFailure::Reset,
        ConnectFailure::Timeout,
        ConnectFailure::TimedOut,
        ConnectFailure::Unreachable,
        ConnectFailure::NoSocket,
        ConnectFailure::QueueFull,
        ConnectFailure::Network,
        ConnectFailure::NoPort,
        ConnectFailure::NoDescriptor,
        ConnectFailure::NoMemory,
        ConnectFailure::Forbidden,
        ConnectFailure::Other,
    ];

    /// What it is called in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            ConnectFailure::Refused => "refused",
            ConnectFailure::Reset => "reset",
            ConnectFailure::Timeout => "timeout",
            ConnectFailure::TimedOut => "timed_out",
            ConnectFailure::Unreachable => "unreachable",
            ConnectFailure::NoSocket => "no_socket",
            ConnectFailure::QueueFull => "queue_full",
            ConnectFailure::Network => "network",
            ConnectFailure::NoPort => "no_port",
            ConnectFailure::NoDescriptor => "no_descriptor",
            ConnectFailure::NoMemory => "no_memory",
            ConnectFailure::Forbidden => "forbidden",
            ConnectFailure::Other => "other",
        }
    }
}

impl From<Failure> for ConnectFailure {
    fn from(failure: Failure) -> ConnectFailure {
        match failure {
            Failure::TimedOut => ConnectFailure::Timeout,
            Failure::Errno(errno) => match errno {
                Errno::ECONNREFUSED => ConnectFailure::Refused,
                Errno::ECONNRESET => ConnectFailure::Reset,
                Errno::ETIMEDOUT => ConnectFailure::TimedOut,
                Errno::EHOSTUNREACH => ConnectFailure::Unreachable,
                Errno::ENOENT => ConnectFailure::NoSocket,
                Errno::EAGAIN => ConnectFailure::QueueFull,
                Errno::ENETUNREACH | Errno::ENETDOWN => ConnectFailure::Network,
                Errno::EADDRNOTAVAIL => ConnectFailure::NoPort,
                Errno::EMFILE | Errno::ENFILE => ConnectFailure::NoDescriptor,
                Errno::ENOMEM | Errno::ENOBUFS => ConnectFailure::NoMemory,
                Errno::EPERM | Errno::EACCES => ConnectFailure::Forbidden,
                _ => ConnectFailure::Other,
            },
        }
    }
}

/// Why a client was turned away at the door: it was accepted, and no backend was chosen for it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Its worker has as many sessions as it can have.
    NoSlot,
    /// Its listener does not serve clients from there.
    Denied,
    /// It has as many sessions as one client may have.
    ClientLimit,
}

impl Refusal {
    /// All of them, in the order of the documentation.
    pub const ALL: [Refusal; 3] = [Refusal::NoSlot, Refusal::Denied, Refusal::ClientLimit];

    /// What it is called in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Refusal::NoSlot => "no_slot",
            Refusal::Denied => "denied",
            Refusal::ClientLimit => "client_limit",
        }
    }
}

/// Why a listener does not accept for the moment.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pause {
    /// A `max_connections` is reached.
    Limit,
    /// The process or the system is out of descriptors or memory.
    Resources,
    /// The `accept_rate` is reached.
    Rate,
}

impl Pause {
    /// All of them, in the order of the documentation.
    pub const ALL: [Pause; 3] = [Pause::Limit, Pause::Resources, Pause::Rate];

    /// What it is called in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Pause::Limit => "limit",
            Pause::Resources => "resources",
            Pause::Rate => "rate",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stands_at_its_own_number() {
        for (number, failure) in ConnectFailure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, number, "{failure:?}");
        }
        assert!(Refusal::ALL.into_iter().enumerate().all(|(number, refusal)| refusal as usize == number));
        assert!(Pause::ALL.into_iter().enumerate().all(|(number, pause)| pause as usize == number));
    }

    #[test]
    fn a_timeout_of_ours_is_told_from_one_of_the_kernel() {
        assert_eq!(ConnectFailure::from(Failure::TimedOut).label(), "timeout");
        assert_eq!(ConnectFailure::from(Failure::Errno(Errno::ETIMEDOUT)).label(), "timed_out");
        assert_eq!(ConnectFailure::from(Failure::Errno(Errno::EAFNOSUPPORT)).label(), "other");
    }
}
