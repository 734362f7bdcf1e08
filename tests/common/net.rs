//! Client sockets with deadlines.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::DEADLINE;
use super::pattern::End;

/// Connects, with a deadline on every later read and write.
pub fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).unwrap_or_else(|error| panic!("connect to {address}: {error}"))
}

/// The same, where it may fail.
pub fn try_connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    limit(&stream);
    Ok(stream)
}

/// Sets the deadlines.
pub fn limit(stream: &TcpStream) {
    stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
    stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
    stream.set_nodelay(true).expect("TCP_NODELAY");
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
}

/// Reads until the end and says how it came.
pub fn read_to_end(stream: &mut impl Read) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => (bytes, End::Eof),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => (bytes, End::Reset),
        Err(error) => panic!("after {} bytes: {error}", bytes.len()),
    }
}

/// The next line, which must come.
pub fn read_line(stream: &mut impl Read) -> String {
    read_to_end_of_line(stream).expect("a line, but the stream ended")
}

/// The next line, or none if the stream ends before it.
pub fn read_to_end_of_line(stream: &mut impl Read) -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.last() != Some(&b'\n') {
        match stream.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) => line.push(byte[0]),
            Err(error) => panic!("after {:?}: {error}", String::from_utf8_lossy(&line)),
        }
    }
    line.pop();
    Some(String::from_utf8(line).expect("text"))
}

/// A port of 127.0.0.1 that is ours and refuses, until somebody listens on it.
pub struct Reserved(Socket);

impl Reserved {
    /// A free one.
    pub fn new() -> Reserved {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(&any.into()).expect("a free port");
        Reserved(socket)
    }

    /// Where.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address").as_socket().expect("an IP address")
    }

    /// Listens from now on, with room for so many (and one more) who wait to be accepted.
    pub fn listen(self, backlog: i32) -> TcpListener {
        self.0.listen(backlog).expect("it listens");
        self.0.into()
    }
}

/// A listener whose queue is full: it answers no connect until somebody accepts from it. The connections that fill it come
/// with it.
pub fn black_hole() -> (TcpListener, Vec<TcpStream>) {
    let listener = Reserved::new().listen(0);
    let address = listener.local_addr().expect("an address");
    let filler = vec![connect(address)];
    (listener, filler)
}

/// Whether this host has IPv6 on its loopback.
pub fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}
