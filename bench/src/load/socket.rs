//! The socket calls both ends need. Everything is non-blocking, without delay, and on the loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, accept_with, bind, connect, getsockname, listen,
    recv, send, socket_with, sockopt,
};

/// Connections that may wait to be accepted; the kernel cuts it to its own limit.
const BACKLOG: i32 = 4096;

/// What a receive or a send came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing now.
    Later,
    /// The peer has ended its stream in order.
    End,
    /// The connection is broken.
    Broken(Errno),
}

/// A backend's listening socket on a free port of the loopback.
///
/// # Errors
/// The kernel's.
pub fn listener() -> io::Result<(OwnedFd, SocketAddr)> {
    let socket = open()?;
    bind(&socket, &SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)))?;
    listen(&socket, BACKLOG)?;
    let bound = getsockname(&socket)?;
    let address = SocketAddr::try_from(bound).map_err(|_| io::Error::other("a TCP socket has no IP address"))?;
    Ok((socket, address))
}

/// A connection that is being made to `target`.
///
/// # Errors
/// The kernel's, `ECONNREFUSED` only if it is known at once.
pub fn dial(target: SocketAddr) -> io::Result<OwnedFd> {
    let socket = open()?;
    match connect(&socket, &target) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno.into()),
    }
}

/// The next waiting connection, if there is one; options are inherited from the listener.
///
/// # Errors
/// The kernel's; a connection that died while it waited is none.
pub fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok(socket) => Ok(Some(socket)),
        Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Receives into `buffer`. With `discard` the kernel throws the bytes away instead of copying them, and only
/// their number is true.
pub fn receive(socket: &OwnedFd, buffer: &mut [u8], discard: bool) -> Moved {
    let flags = if discard { RecvFlags::TRUNC } else { RecvFlags::empty() };
    loop {
        match recv(socket, &mut *buffer, flags) {
            Ok((_, 0)) => return Moved::End,
            Ok((_, count)) => return Moved::Bytes(count),
            Err(Errno::AGAIN) => return Moved::Later,
            Err(Errno::INTR) => {}
            Err(errno) => return Moved::Broken(errno),
        }
    }
}

/// Sends what the kernel will take of `bytes`.
pub fn transmit(socket: &OwnedFd, bytes: &[u8]) -> Moved {
    loop {
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => return Moved::Bytes(count),
            Err(Errno::AGAIN) => return Moved::Later,
            Err(Errno::INTR) => {}
            Err(errno) => return Moved::Broken(errno),
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}
