//! Listening sockets: one for each worker, all on one address.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, sockopt};
use socket2::{SockFilter, SockRef};

use super::socket;
use crate::address::Address;
use crate::errno::Errno;

/// What a listener should be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Workers that accept.
    pub workers: usize,
    /// Connections the kernel queues for each worker before they are accepted (for all of them together on a unix
    /// socket); the kernel caps it at `net.core.somaxconn`.
    pub backlog: u32,
    /// TCP keepalive of the accepted connections: idle time before the first probe. `None`: off.
    pub keepalive: Option<Duration>,
}

/// Why an address cannot be listened on. The message names the cause and the cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there already.
    #[error(
        "cannot listen on {0}: something listens there already (`ss -ltnxp` shows what); stop it or choose another address"
    )]
    Taken(Address),
    /// The process may not.
    #[error(
        "cannot listen on {address} ({errno}): ports below net.ipv4.ip_unprivileged_port_start (1024) need \
         CAP_NET_BIND_SERVICE, a unix socket needs a directory that may be written"
    )]
    Forbidden {
        /// The address.
        address: Address,
        /// What the kernel said.
        errno: Errno,
    },
    /// The host does not have the address, or not its family.
    #[error("cannot listen on {address} ({errno}): no interface of this host has that address")]
    NoSuchAddress {
        /// The address.
        address: Address,
        /// What the kernel said.
        errno: Errno,
    },
    /// The path names something that is no socket; it is left alone.
    #[error("cannot listen on {0}: the path exists and is no socket; remove it or choose another path")]
    NotASocket(Address),
    /// Any other error.
    #[error("cannot listen on {address} ({errno})")]
    Other {
        /// The address.
        address: Address,
        /// What the kernel said.
        errno: Errno,
    },
}

impl ListenError {
    fn new(address: &Address, errno: Errno) -> ListenError {
        let address = address.clone();
        match errno {
            Errno::EADDRINUSE => ListenError::Taken(address),
            Errno::EACCES | Errno::EPERM => ListenError::Forbidden { address, errno },
            Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT | Errno::ENODEV => ListenError::NoSuchAddress { address, errno },
            _ => ListenError::Other { address, errno },
        }
    }
}

/// An address that is listened on.
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<Arc<OwnedFd>>,
    /// So many of them, from the first on, are a service manager's, which keeps its own end.
    kept: usize,
    address: Address,
    file: Option<SocketFile>,
}

/// The file of a unix socket, recognised by more than its name.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Listener {
    /// Listens on `address`. Port 0 takes a free one, the same for all workers. IPv6 sockets are for IPv6 alone. The file of a
    /// unix socket that nobody answers on is replaced.
    ///
    /// # Errors
    /// Says why not. Another ringlb on the address is an error too.
    pub fn bind(address: &Address, options: &ListenOptions) -> Result<Listener, ListenError> {
        match address {
            Address::Inet(inet) => {
                bind_inet(*inet, options).map_err(|errno| ListenError::new(address, Errno::from(errno)))
            }
            Address::Unix(path) => bind_unix(path, options),
        }
    }

    /// Listens on a socket that a service manager has bound to `address`. Further workers get sockets of their own beside it
    /// where the kernel allows that (the manager's has SO_REUSEPORT and belongs to the same user), or else accept on the same
    /// one. The file of a unix socket stays the manager's.
    ///
    /// # Errors
    /// The socket cannot listen.
    pub fn adopt(socket: OwnedFd, address: &Address, options: &ListenOptions) -> Result<Listener, ListenError> {
        let prepare = || -> rustix::io::Result<()> {
            let flags = rustix::fs::fcntl_getfl(&socket)?;
            rustix::fs::fcntl_setfl(&socket, flags | OFlags::NONBLOCK)?;
            if !address.is_unix() {
                inherited(&socket, options)?;
            }
            rustix::net::listen(&socket, i32::try_from(options.backlog).unwrap_or(i32::MAX))
        };
        prepare().map_err(|errno| ListenError::new(address, errno.into()))?;
        let beside = beside(&socket, address, options);
        let kept = if beside.is_empty() { options.workers } else { 1 };
        let first = Arc::new(socket);
        let sockets = std::iter::repeat_n(first, kept).chain(shared(beside)).collect();
        Ok(Listener { sockets, kept, address: address.clone(), file: None })
    }

    /// Makes these the options, but for the workers. Clients that are accepted later inherit them.
    ///
    /// # Errors
    /// What the kernel refuses; it is no reason to stop listening.
    pub fn retune(&self, options: &ListenOptions) -> Result<(), Errno> {
        for socket in &self.sockets {
            if !self.address.is_unix() {
                inherited(socket, options)?;
            }
            rustix::net::listen(socket, i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        }
        Ok(())
    }

    /// Whether the socket of this worker is a service manager's: who waits in its queue is served by the next process.
    pub fn is_kept(&self, worker: usize) -> bool {
        worker < self.kept
    }

    /// The address that is bound, with the port where that was 0.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The sockets, one for each worker (of a unix socket all the same one, duplicated).
    pub fn sockets(&self) -> &[Arc<OwnedFd>] {
        &self.sockets
    }

    /// Removes the file of a unix socket, unless somebody has replaced it. Clients that come later are refused.
    pub fn remove_file(&self) {
        let Some(file) = &self.file else { return };
        let ours = std::fs::symlink_metadata(&file.path)
            .is_ok_and(|found| found.st_dev() == file.device && found.st_ino() == file.inode);
        if ours && let Err(error) = std::fs::remove_file(&file.path) {
            tracing::warn!(path = %file.path.display(), %error, "the socket file could not be removed");
        }
    }
}

/// Takes the connections that wait in the queue of `listener`, until it is empty or one cannot be taken: for emptying it
/// before it is closed, as closing resets what waits. No new connection enters the queue from the call on.
pub fn accept_rest(listener: &OwnedFd) -> impl Iterator<Item = OwnedFd> {
    if let Err(error) = ignore_new(listener) {
        tracing::debug!(%error, "a client that connects at the last moment may be reset");
    }
    std::iter::from_fn(move || {
        loop {
            match rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => return Some(socket),
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => {}
                Err(rustix::io::Errno::AGAIN) => return None,
                Err(errno) => {
                    tracing::warn!(%errno, "connections may be left in a listener's queue");
                    return None;
                }
            }
        }
    })
}

/// Makes the kernel ignore further attempts to connect. Those that have begun go on; a new client tries again after a second,
/// when the socket is closed, and is refused. Otherwise one who connects between the last accept and the close is reset.
fn ignore_new(listener: &OwnedFd) -> io::Result<()> {
    if sockopt::socket_domain(listener)? == AddressFamily::UNIX {
        // No filter sees its connects. Its file has gone by now.
        return Ok(());
    }
    SockRef::from(listener).attach_filter(&[
        // The flags of the segment; a first segment has SYN and not ACK.
        SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, 13),
        SockFilter::new((libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16, 0, 0, 0x12),
        SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, 0x02),
        SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0),
        SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX),
    ])
}

/// The first socket listens before it may share its port: the kernel then refuses it where anybody else listens there,
/// sharing or not, and there is no moment between a trial and the real thing.
fn bind_inet(address: SocketAddr, options: &ListenOptions) -> rustix::io::Result<Listener> {
    let first = bound(address, options, false)?;
    sockopt::set_socket_reuseport(&first, true)?;
    let address = socket::local_address(&first).unwrap_or(address);
    let mut sockets = vec![first];
    for _ in 1..options.workers {
        sockets.push(bound(address, options, true)?);
    }
    Ok(Listener { sockets: shared(sockets), kept: 0, address: Address::Inet(address), file: None })
}

/// Each socket belongs to the one who bound it and to the worker that accepts on it.
fn shared(sockets: Vec<OwnedFd>) -> Vec<Arc<OwnedFd>> {
    sockets.into_iter().map(Arc::new).collect()
}

fn bound(address: SocketAddr, options: &ListenOptions, share: bool) -> rustix::io::Result<OwnedFd> {
    let socket = socket::stream(&Address::Inet(address))?;
    // Connections of an earlier life may still be in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if share {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    inherited(&socket, options)?;
    rustix::net::bind(&socket, &SocketAddrAny::from(address))?;
    rustix::net::listen(&socket, i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    Ok(socket)
}

/// Sets what accepted sockets inherit.
fn inherited(socket: &OwnedFd, options: &ListenOptions) -> rustix::io::Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    match options.keepalive {
        Some(idle) => socket::set_keepalive(socket.as_fd(), idle),
        None => sockopt::set_socket_keepalive(socket, false),
    }
}

/// Sockets of our own beside one that was handed over, for all workers but one; none where that cannot be.
fn beside(first: &OwnedFd, address: &Address, options: &ListenOptions) -> Vec<OwnedFd> {
    let Some(inet) = address.inet() else { return Vec::new() };
    if sockopt::socket_reuseport(first) != Ok(true) || inet.is_ipv6() && sockopt::ipv6_v6only(first) != Ok(true) {
        return Vec::new();
    }
    let sockets: rustix::io::Result<Vec<OwnedFd>> = (1..options.workers).map(|_| bound(inet, options, true)).collect();
    match sockets {
        Ok(sockets) => sockets,
        Err(errno) => {
            tracing::info!(%address, %errno, "no socket can stand beside the one handed over: all workers accept on it");
            Vec::new()
        }
    }
}

fn bind_unix(path: &Path, options: &ListenOptions) -> Result<Listener, ListenError> {
    let address = Address::Unix(path.to_owned());
    let fail = |errno: Errno| ListenError::new(&address, errno);
    let name = SocketAddrUnix::new(path).map_err(|errno| fail(errno.into()))?;
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ListenError::NotASocket(address)),
        Ok(_) => remove_stale(path, &address, &name)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(Errno::from(&error))),
    }
    let listen = || -> rustix::io::Result<Vec<OwnedFd>> {
        let first = socket::stream(&address)?;
        rustix::net::bind(&first, &name)?;
        rustix::net::listen(&first, i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
        let mut sockets = vec![first];
        for _ in 1..options.workers {
            sockets.push(rustix::io::fcntl_dupfd_cloexec(&sockets[0], 0)?);
        }
        Ok(sockets)
    };
    let sockets = listen().map_err(|errno| fail(errno.into()))?;
    let made = std::fs::symlink_metadata(path).map_err(|error| fail(Errno::from(&error)))?;
    let file = SocketFile { path: path.to_owned(), device: made.st_dev(), inode: made.st_ino() };
    Ok(Listener { sockets: shared(sockets), kept: 0, address, file: Some(file) })
}

/// Removes the file of a socket that nobody listens on any more.
fn remove_stale(path: &Path, address: &Address, name: &SocketAddrUnix) -> Result<(), ListenError> {
    let fail = |errno: Errno| ListenError::new(address, errno);
    let probe = socket::stream(address).map_err(|errno| fail(errno.into()))?;
    match rustix::net::connect(&probe, name) {
        // A full queue is a listener as well.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => Err(ListenError::Taken(address.clone())),
        Err(rustix::io::Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(|error| fail(Errno::from(&error))),
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(fail(errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn options(workers: usize) -> ListenOptions {
        ListenOptions { workers, backlog: 64, keepalive: Some(Duration::from_secs(60)) }
    }

    fn inet(text: &str) -> Address {
        Address::Inet(text.parse().unwrap())
    }

    #[test]
    fn what_clients_inherit_can_be_told_otherwise_while_it_listens() {
        let listener = Listener::bind(&inet("127.0.0.1:0"), &options(2)).unwrap();
        for keepalive in [None, Some(Duration::from_secs(7))] {
            listener.retune(&ListenOptions { backlog: 7, keepalive, ..options(2) }).unwrap();
            for socket in listener.sockets() {
                assert_eq!(sockopt::socket_keepalive(socket), Ok(keepalive.is_some()));
                assert!(keepalive.is_none_or(|idle| sockopt::tcp_keepidle(socket) == Ok(idle)));
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let unix = Address::Unix(directory.path().join("socket"));
        Listener::bind(&unix, &options(2)).unwrap().retune(&options(2)).unwrap();
    }

    #[test]
    fn workers_share_a_port_that_was_free() {
        for any in ["127.0.0.1:0", "[::1]:0"] {
            let listener = Listener::bind(&inet(any), &options(3)).unwrap();
            let address = listener.address().inet().unwrap();
            assert!(address.port() != 0);
            assert_eq!(listener.sockets().len(), 3);
            for socket in listener.sockets() {
                assert_eq!(socket::local_address(socket), Some(address));
                assert_eq!(sockopt::tcp_keepidle(socket), Ok(Duration::from_secs(60)));
                assert_eq!(sockopt::socket_keepalive(socket), Ok(true));
            }
            // The kernel spreads clients over all of them, the first, which joined late, included.
            let clients: Vec<_> = (0..64).map(|_| TcpStream::connect(address).unwrap()).collect();
            let shares: Vec<_> = listener.sockets().iter().map(|socket| accept_rest(socket).count()).collect();
            assert_eq!(shares.iter().sum::<usize>(), clients.len());
            assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
        }
    }

    #[test]
    fn a_second_balancer_is_refused() {
        let listener = Listener::bind(&inet("127.0.0.1:0"), &options(2)).unwrap();
        let address = listener.address().clone();
        let port = address.inet().unwrap().port();
        for taken in [address.clone(), inet(&format!("0.0.0.0:{port}"))] {
            let refused = Listener::bind(&taken, &options(2)).unwrap_err();
            assert_eq!(refused, ListenError::Taken(taken.clone()));
            assert!(refused.to_string().contains(&taken.to_string()), "{refused}");
        }
        // On IPv6 the same port is another one.
        let other = Listener::bind(&inet(&format!("[::]:{port}")), &options(1)).unwrap();
        drop((listener, other));
        Listener::bind(&address, &options(2)).unwrap();
    }

    #[test]
    fn connections_of_an_earlier_life_do_not_hold_the_port() {
        let listener = Listener::bind(&inet("127.0.0.1:0"), &options(1)).unwrap();
        let address = listener.address().clone();
        let mut gone = TcpStream::connect(address.inet().unwrap()).unwrap();
        let kept = TcpStream::connect(address.inet().unwrap()).unwrap();
        let accepted: Vec<_> = accept_rest(&listener.sockets()[0]).collect();
        let peers: Vec<_> = accepted.iter().map(socket::peer_address).collect();
        assert_eq!(peers, [gone.local_addr().ok(), kept.local_addr().ok()]);
        let mut accepted = accepted.into_iter();
        // Closed from our end first: this one is in TIME_WAIT, the other one lives.
        drop(accepted.next());
        assert_eq!(gone.read(&mut [0]).unwrap(), 0);
        drop((gone, listener));
        Listener::bind(&address, &options(1)).unwrap();
    }

    #[test]
    fn says_why_not() {
        let far = Listener::bind(&inet("192.0.2.1:0"), &options(1)).unwrap_err();
        assert!(matches!(far, ListenError::NoSuchAddress { errno: Errno::EADDRNOTAVAIL, .. }), "{far}");
        let folder = tempfile::tempdir().unwrap();
        let file = Address::Unix(folder.path().join("file"));
        std::fs::write(folder.path().join("file"), "precious").unwrap();
        assert_eq!(Listener::bind(&file, &options(1)).unwrap_err(), ListenError::NotASocket(file));
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"precious");
        let nowhere = Address::Unix(folder.path().join("no/such/folder"));
        let error = Listener::bind(&nowhere, &options(1)).unwrap_err();
        assert!(matches!(error, ListenError::Other { errno: Errno::ENOENT, .. }), "{error}");
    }

    #[test]
    fn a_unix_socket_is_replaced_only_when_nobody_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let address = Address::Unix(path.clone());
        let alive = UnixListener::bind(&path).unwrap();
        assert_eq!(Listener::bind(&address, &options(2)).unwrap_err(), ListenError::Taken(address.clone()));
        drop(alive);
        let listener = Listener::bind(&address, &options(2)).unwrap();
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"x").unwrap();
        assert_eq!(accept_rest(&listener.sockets()[1]).count(), 1, "one queue for all workers");
        assert_eq!(accept_rest(&listener.sockets()[0]).count(), 0);
        listener.remove_file();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_somebody_has_replaced_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = Listener::bind(&Address::Unix(path.clone()), &options(1)).unwrap();
        std::fs::rename(&path, folder.path().join("old")).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        listener.remove_file();
        assert!(path.exists());
    }
}
