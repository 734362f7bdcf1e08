//! Backends as threads: one that accepts, and one for each connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use super::net;

/// A server on a free port of 127.0.0.1. Dropped, it refuses.
pub struct Backend {
    address: SocketAddr,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    stop: AtomicBool,
    accepted: AtomicUsize,
    active: AtomicUsize,
}

impl Backend {
    /// Serves every connection with `serve`, on a thread of its own; the connection is closed when that returns.
    pub fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        // The standard library's 128 overflow when a thousand clients come at once, and the kernel then lets them wait for many
        // seconds.
        socket2::SockRef::from(&listener).listen(4096).expect("a longer backlog");
        Backend::on(listener, serve)
    }

    /// The same, on a socket that listens already.
    pub fn on(listener: TcpListener, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Backend {
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || accept(&listener, &shared, Arc::new(serve)));
        Backend { address, state, thread: Some(thread) }
    }

    /// Sends back what it receives, then ends its stream.
    pub fn echo() -> Backend {
        Backend::start(echo)
    }

    /// Says its name in a line, then sends back what it receives.
    pub fn named(name: &str) -> Backend {
        Backend::start(named(name))
    }

    /// Reads lines; to each a line with its name and what it has read.
    pub fn answering(name: &str) -> Backend {
        let name = name.to_owned();
        Backend::start(move |mut stream| answer(&mut stream, &name))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that it has accepted in its life.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Connections that it serves at this moment.
    pub fn active(&self) -> usize {
        self.state.active.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        // Its accept waits for a connection, so it gets one.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the backend's accepting thread has panicked");
        }
    }
}

/// See [`Backend::named`].
pub fn named(name: &str) -> impl Fn(TcpStream) + Send + Sync + 'static {
    let greeting = format!("{name}\n");
    move |mut stream: TcpStream| {
        if stream.write_all(greeting.as_bytes()).is_ok() {
            echo(stream);
        }
    }
}

/// Sends back what it receives until either direction fails.
pub fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Some(len) = read_some(&mut stream, &mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

/// Reads until the end of the stream and says how many bytes there were.
pub fn drain(stream: &mut TcpStream) -> usize {
    let mut buffer = [0; 64 * 1024];
    let mut total = 0;
    while let Some(len) = read_some(stream, &mut buffer) {
        total += len;
    }
    total
}

/// See [`Backend::answering`]. To a request of HTTP it says 200, and closes.
pub fn answer(stream: &mut TcpStream, name: &str) {
    let mut waiting = Vec::new();
    let mut buffer = [0; 4096];
    let mut is_http = false;
    while let Some(len) = read_some(stream, &mut buffer) {
        waiting.extend_from_slice(&buffer[..len]);
        while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            is_http |= line.starts_with(b"GET ");
            let said = match (is_http, &*line) {
                (true, b"\r\n") => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
                (true, _) => continue,
                (false, _) => format!("{name} {}", String::from_utf8_lossy(&line)),
            };
            if stream.write_all(said.as_bytes()).is_err() || is_http {
                return;
            }
        }
    }
}

/// The next bytes; none at the end of the stream, and where it fails.
fn read_some(stream: &mut TcpStream, buffer: &mut [u8]) -> Option<usize> {
    loop {
        match stream.read(buffer) {
            Ok(0) => return None,
            Ok(len) => return Some(len),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn accept(listener: &TcpListener, state: &Arc<State>, serve: Arc<impl Fn(TcpStream) + Send + Sync + 'static>) {
    for stream in listener.incoming() {
        if state.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        net::limit(&stream);
        stream.set_read_timeout(None).expect("no read timeout: clients may hold connections");
        state.accepted.fetch_add(1, Ordering::SeqCst);
        state.active.fetch_add(1, Ordering::SeqCst);
        let (serve, state) = (Arc::clone(&serve), Arc::clone(state));
        let spawned = thread::Builder::new().stack_size(512 * 1024).spawn(move || {
            serve(stream);
            state.active.fetch_sub(1, Ordering::SeqCst);
        });
        spawned.expect("a thread");
    }
}

/// Ends our stream; the peer may have gone already.
pub fn end_stream(stream: &TcpStream) {
    if let Err(error) = stream.shutdown(Shutdown::Write) {
        assert_eq!(error.kind(), ErrorKind::NotConnected, "{error}");
    }
}
