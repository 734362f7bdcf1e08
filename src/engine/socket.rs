//! The socket calls around the engine, and the waker.
#![allow(unsafe_code)]

use std::ffi::{OsString, c_int, c_void};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::net::{AddressFamily, Shutdown, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::{Addresses, Inspection, SocketOptions};
use crate::address::Address;
use crate::errno::Errno;
use crate::limits::KEEPALIVE_PROBE_INTERVAL_MAX;

/// Wakes a worker from another thread. Clones wake the same worker.
#[derive(Clone, Debug)]
pub struct Waker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    event: OwnedFd,
    /// Used since the worker last looked. What was written before the use is seen by the worker after its look.
    used: AtomicBool,
}

impl Waker {
    /// A waker that no ring listens to yet (see [`Ring::arm_waker`](super::ring::Ring::arm_waker)).
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`, `ENOMEM`.
    pub fn new() -> Result<Waker, Errno> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Waker { shared: Arc::new(Shared { event, used: AtomicBool::new(false) }) })
    }

    /// Makes the worker's wait return with [`Event::Woken`](super::Event::Woken). One write; none where the
    /// worker has not yet seen the last.
    pub fn wake(&self) {
        if self.shared.used.swap(true, Ordering::AcqRel) {
            return;
        }
        // The counter cannot be full: nobody lives to write it 2^64 times.
        if let Err(errno) = rustix::io::write(&self.shared.event, &1u64.to_ne_bytes()) {
            tracing::error!(%errno, "a worker could not be woken");
        }
    }

    /// Whether it was used since the last look.
    pub(super) fn take(&self) -> bool {
        self.shared.used.swap(false, Ordering::AcqRel)
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }
}

/// The address of the other end; `None` for a unix socket, and where the connection is gone already.
pub fn peer_address(socket: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getpeername(socket).ok()??).ok().map(canonical)
}

/// The address of our end; `None` for a unix socket.
pub fn local_address(socket: &OwnedFd) -> Option<SocketAddr> {
    SocketAddr::try_from(rustix::net::getsockname(socket).ok()?).ok()
}

/// A client of IPv4 on a socket for both (only a service manager hands over such) is one of IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::from((v4, address.port())),
        IpAddr::V6(_) => address,
    }
}

/// See [`Engine::addresses`](super::Engine::addresses).
pub(super) fn addresses(socket: &OwnedFd) -> Addresses {
    let peer = rustix::net::getpeername(socket).ok().flatten();
    let local = rustix::net::getsockname(socket).ok();
    Addresses { peer: peer.and_then(address), local: local.and_then(address) }
}

pub(super) fn address(address: SocketAddrAny) -> Option<Address> {
    if let Ok(inet) = SocketAddr::try_from(address.clone()) {
        return Some(Address::Inet(canonical(inet)));
    }
    let unix = SocketAddrUnix::try_from(address).ok()?;
    let mut name = Vec::new();
    if let Some(path) = unix.path() {
        name.extend(path.to_bytes());
    } else if let Some(hidden) = unix.abstract_name() {
        name.push(0);
        name.extend(hidden);
    }
    Some(Address::Unix(OsString::from_vec(name).into()))
}

/// Switches TCP keepalive on: first probe after `idle`, the next ones every [`KEEPALIVE_PROBE_INTERVAL_MAX`] (or `idle`, if
/// that is shorter), as many as the system's default says.
pub(super) fn set_keepalive(socket: BorrowedFd<'_>, idle: Duration) -> rustix::io::Result<()> {
    let whole = Duration::from_secs(1);
    // The count stays the system's: one call less for each connection.
    sockopt::set_tcp_keepidle(socket, idle.max(whole))?;
    sockopt::set_tcp_keepintvl(socket, idle.clamp(whole, KEEPALIVE_PROBE_INTERVAL_MAX))?;
    sockopt::set_socket_keepalive(socket, true)
}

/// See [`Engine::keep_alive`](super::Engine::keep_alive).
pub(super) fn keep_alive(socket: &OwnedFd, idle: Duration) {
    if let Err(errno) = set_keepalive(socket.as_fd(), idle) {
        tracing::debug!(%errno, "a connection is held without keepalive");
    }
}

/// A non-blocking socket of the address's family.
pub(super) fn stream(address: &Address) -> rustix::io::Result<OwnedFd> {
    let family = match address {
        Address::Inet(SocketAddr::V4(_)) => AddressFamily::INET,
        Address::Inet(SocketAddr::V6(_)) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    };
    rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

/// See [`Engine::open`](super::Engine::open).
pub(super) fn open(address: &Address, options: &SocketOptions) -> Result<OwnedFd, Errno> {
    let socket = stream(address)?;
    if !address.is_unix() {
        sockopt::set_tcp_nodelay(&socket, true)?;
        if let Some(source) = options.source {
            bind_source(socket.as_fd(), source)?;
        }
    }
    Ok(socket)
}

/// Has `socket` connect from `source`. Which port it gets is left to the connect: the same port serves connections to
/// different backends, where one that is bound first is taken for all of them.
///
/// # Errors
/// `EADDRNOTAVAIL` where the host does not have that address.
pub fn bind_source(socket: BorrowedFd<'_>, source: IpAddr) -> Result<(), Errno> {
    let on: c_int = 1;
    // SAFETY: the descriptor is open while it is borrowed, and the kernel reads one int from `on`, which outlives the call.
    let result = unsafe {
        let on = (&raw const on).cast::<c_void>();
        let bytes = size_of::<c_int>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, on, bytes)
    };
    if result != 0 {
        return Err(Errno::from(&std::io::Error::last_os_error()));
    }
    Ok(rustix::net::bind(socket, &SocketAddr::new(source, 0))?)
}

/// Whether connections can come from `source`.
///
/// # Errors
/// `EADDRNOTAVAIL` where the host does not have that address, `EAFNOSUPPORT` where it has nothing of its family.
pub fn try_source(source: IpAddr) -> Result<(), Errno> {
    let socket = stream(&Address::Inet(SocketAddr::new(source, 0)))?;
    bind_source(socket.as_fd(), source)
}

/// See [`Engine::shutdown_write`](super::Engine::shutdown_write).
pub(super) fn shutdown_write(socket: &OwnedFd) -> Result<(), Errno> {
    Ok(rustix::net::shutdown(socket, Shutdown::Write)?)
}

/// Makes the coming close a reset. A unix socket has none and ignores it.
pub(super) fn linger_none(socket: &OwnedFd) {
    if let Err(errno) = sockopt::set_socket_linger(socket, Some(Duration::ZERO)) {
        tracing::debug!(%errno, "a connection is closed without the reset that was meant");
    }
}

/// Closes with a reset, without an engine: for what is left of a worker that has failed.
pub fn abort(socket: OwnedFd) {
    linger_none(&socket);
}

/// See [`Engine::unsent`](super::Engine::unsent).
pub(super) fn unsent(socket: &OwnedFd) -> usize {
    // A unix socket counts what its peer has not read; that survives our close.
    if sockopt::socket_domain(socket) == Ok(AddressFamily::UNIX) {
        return 0;
    }
    let mut bytes: c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed, and this request (`SIOCOUTQ`) writes one int.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        0 => bytes.max(0) as usize,
        _ => 0,
    }
}

/// The start of the kernel's `struct tcp_info`, which only ever grows at its end.
#[repr(C)]
#[derive(Default)]
struct TcpInfo {
    state: u8,
    ca_state: u8,
    retransmits: u8,
    probes: u8,
    /// backoff, options, window scales, flags
    bytes: [u8; 4],
    /// rto, ato, snd_mss, rcv_mss
    sizes: [u32; 4],
    unacked: u32,
    /// sacked, lost, retrans, fackets, the four times, pmtu, rcv_ssthresh
    counts: [u32; 10],
    rtt: u32,
    /// rttvar, snd_ssthresh, snd_cwnd, advmss, reordering, rcv_rtt, rcv_space, total_retrans
    windows: [u32; 8],
    /// pacing_rate, max_pacing_rate, bytes_acked, bytes_received
    totals: [u64; 4],
    segs_out: u32,
    segs_in: u32,
}

const _: () = assert!(std::mem::offset_of!(TcpInfo, unacked) == std::mem::offset_of!(libc::tcp_info, tcpi_unacked));
const _: () = assert!(std::mem::offset_of!(TcpInfo, rtt) == std::mem::offset_of!(libc::tcp_info, tcpi_rtt));
const _: () = assert!(std::mem::offset_of!(TcpInfo, totals) == 104);
const _: () = assert!(std::mem::offset_of!(TcpInfo, segs_in) == 140);

/// `TCP_CLOSE`
const CLOSED: u8 = 7;

/// See [`Engine::inspect`](super::Engine::inspect).
pub(super) fn inspect(socket: &OwnedFd) -> Inspection {
    let mut info = TcpInfo::default();
    let mut bytes = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes at most `bytes` bytes into `info`, which is plain
    // data, and `bytes` itself.
    let result = unsafe {
        let info = (&raw mut info).cast::<c_void>();
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info, &raw mut bytes)
    };
    if result != 0 {
        // No TCP socket.
        return Inspection::default();
    }
    Inspection {
        closed: info.state == CLOSED,
        unanswered: info.unacked > 0 || info.probes > 0,
        heard: info.segs_in,
        rtt_us: info.rtt,
    }
}
