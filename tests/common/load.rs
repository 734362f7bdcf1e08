//! Clients that come again and again, each with one connection at a time.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::net;
use super::until;

/// Requests on one connection.
const REQUESTS: usize = 4;

/// Between two connections of one client. It shapes the load, so that a test does not use up the ports of the host; nobody
/// waits for anything by it.
const PACE: Duration = Duration::from_millis(4);

/// Running clients of backends that answer lines with their name and the line.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    seen: Mutex<Seen>,
}

/// What the clients have met.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Connections that got every answer, by the name of who gave it.
    pub served: BTreeMap<String, usize>,
    /// Connections that did not, in their order.
    pub lost: Vec<Lost>,
}

/// A connection that ended before its last answer.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Whose.
    pub client: usize,
    /// Who had answered on it before, if anybody.
    pub backend: Option<String>,
}

impl Load {
    /// So many clients of `address`.
    pub fn start(address: SocketAddr, clients: usize) -> Load {
        let shared = Arc::new(Shared::default());
        let threads = (0..clients)
            .map(|client| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || come_again(&shared, address, client))
            })
            .collect();
        Load { shared, threads }
    }

    /// What they have met so far.
    pub fn seen(&self) -> Seen {
        self.shared.seen.lock().expect("a lock").clone()
    }

    /// How many connections this backend has served.
    pub fn served_by(&self, backend: &str) -> usize {
        self.seen().served.get(backend).copied().unwrap_or(0)
    }

    /// Waits until `backend` has served so many more connections.
    pub fn wait_for(&self, backend: &str, more: usize) {
        let before = self.served_by(backend);
        until(&format!("{backend} serves {more} more"), || (self.served_by(backend) >= before + more).then_some(()));
    }

    /// Ends them, after the connection that each has, and gives what they have met.
    pub fn stop(self) -> Seen {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().expect("a client");
        }
        self.shared.seen.lock().expect("a lock").clone()
    }
}

fn come_again(shared: &Shared, address: SocketAddr, client: usize) {
    while !shared.stop.load(Ordering::SeqCst) {
        let mut stream = match net::try_connect(address) {
            Ok(stream) => stream,
            // A reset that has come before the call returned.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                shared.seen.lock().expect("a lock").lost.push(Lost { client, backend: None });
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let mut name = None;
        let whole = (0..REQUESTS).all(|number| match exchange(&mut stream, number) {
            Some(answer) => {
                let (by, question) = answer.split_once(' ').expect("a name and the question");
                assert_eq!(question, format!("{number}"), "an answer to another question");
                assert!(name.as_deref().is_none_or(|name| name == by), "{name:?} has become {by}");
                name = Some(by.to_owned());
                true
            }
            None => false,
        });
        let mut seen = shared.seen.lock().expect("a lock");
        match name {
            Some(name) if whole => *seen.served.entry(name).or_default() += 1,
            backend => seen.lost.push(Lost { client, backend }),
        }
        drop(seen);
        drop(stream);
        thread::sleep(PACE);
    }
}

/// The answer to a question, or none if the connection ends before it.
fn exchange(stream: &mut TcpStream, number: usize) -> Option<String> {
    stream.write_all(format!("{number}\n").as_bytes()).ok()?;
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(1) if byte[0] == b'\n' => return Some(String::from_utf8(line).expect("text")),
            Ok(1) => line.push(byte[0]),
            Ok(_) => return None,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// One request over a connection of its own: the name of the backend that answered.
pub fn request(address: SocketAddr) -> String {
    let mut stream = net::connect(address);
    stream.write_all(b"hello\n").expect("a request");
    let answer = net::read_line(&mut stream);
    answer.strip_suffix(" hello").unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

/// Asks over an open connection.
pub fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"hello\n").expect("a request");
    net::read_line(stream)
}

/// Runs `body` while clients ask without a pause; every request of theirs must be answered. Gives how many there were.
pub fn under_load(address: SocketAddr, body: impl FnOnce()) -> usize {
    let (done, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    request(address);
                    requests.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Also if the body fails, or nobody would ever end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    requests.into_inner()
}
