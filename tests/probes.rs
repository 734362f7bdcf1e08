//! Active checks: who is down gets no clients, who comes back gets them again, and many checks are no herd.

mod common;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::thread;

use common::backend::Backend;
use common::net::{self, Reserved};
use common::pattern::End;
use common::ringlb::{Config, Ringlb, field};
use common::{procfs, until};

/// A server that answers every request with its name, under a status that the test chooses.
struct Web {
    backend: Backend,
    status: Arc<AtomicU16>,
}

impl Web {
    fn start(name: &str, status: u16) -> Web {
        let status = Arc::new(AtomicU16::new(status));
        let (chosen, name) = (status.clone(), name.to_owned());
        let backend = Backend::start(move |mut stream| {
            while read_header(&mut stream).is_some() {
                let status = chosen.load(Ordering::SeqCst);
                let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{name}\n", name.len() + 1);
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        });
        Web { backend, status }
    }

    fn answer_with(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }
}

fn read_header(stream: &mut TcpStream) -> Option<String> {
    let mut header = Vec::new();
    let mut byte = [0];
    while !header.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => header.push(byte[0]),
            _ => return None,
        }
    }
    String::from_utf8(header).ok()
}

/// Asks on a connection who serves it.
fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET /who HTTP/1.1\r\n\r\n").expect("the request is sent");
    while !net::read_line(stream).trim().is_empty() {}
    net::read_line(stream)
}

fn who_serves(ringlb: &Ringlb, clients: usize) -> BTreeSet<String> {
    (0..clients).map(|_| ask(&mut ringlb.connect())).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn two(webs: [&Web; 2], health: &str) -> Config {
    let config = webs.iter().zip(["a", "b"]).fold(Config::new(&[]), |config, (web, name)| {
        config.backend(web.backend.address(), &format!("name = \"{name}\""))
    });
    config.pool(&format!("policy = \"round_robin\"\n[pool.health]\ninterval = \"100ms\"\n{health}"))
}

/// Waits for the line that begins so, and gives it.
fn told(ringlb: &Ringlb, beginning: &str) -> String {
    let wanted = |line: &str| field(line, "message").is_some_and(|message| message.starts_with(beginning));
    ringlb.wait_for_log(&format!("it says {beginning:?}"), wanted)
}

fn count(ringlb: &Ringlb, part: &str) -> usize {
    ringlb.log().iter().filter(|line| line.contains(part)).count()
}

#[test]
fn a_wrong_status_takes_a_backend_down_and_right_ones_bring_it_back() {
    let (a, b) = (Web::start("a", 500), Web::start("b", 204));
    let ringlb = two([&a, &b], "kind = \"http\"\nexpect_status = [200, \"203-299\"]\n").start();
    told(&ringlb, "backend back/a is down: 1 failed check, the last: status 500, and expected is 200, 203-299");
    assert_eq!(who_serves(&ringlb, 6), names(&["b"]));

    a.answer_with(200);
    told(&ringlb, "backend back/a is up: 2 passed checks");
    assert_eq!(who_serves(&ringlb, 6), names(&["a", "b"]));

    // Now that both were checked, one check alone no longer decides.
    b.answer_with(404);
    told(&ringlb, "backend back/b is down: 3 failed checks, the last: status 404");
    assert_eq!(who_serves(&ringlb, 6), names(&["a"]));
    assert_eq!((count(&ringlb, "is down"), count(&ringlb, "is up")), (2, 1), "each change is told once");
    ringlb.stop();
}

#[test]
fn a_backend_that_accepts_and_never_answers_is_found_out() {
    let mute = Backend::start(|mut stream| {
        common::backend::drain(&mut stream);
    });
    let b = Web::start("b", 200);
    let config = Config::new(&[]).backend(mute.address(), "name = \"mute\"").backend(b.backend.address(), "");
    let health = "[pool.health]\nkind = \"http\"\ninterval = \"100ms\"\ntimeout = \"50ms\"";
    let ringlb = config.pool(health).start();
    told(&ringlb, "backend back/mute is down: 1 failed check, the last: connected, but no answer within 50ms");
    assert_eq!(who_serves(&ringlb, 4), names(&["b"]));
    ringlb.stop();
}

#[test]
fn a_port_of_its_own_is_checked_and_nobody_serves_while_all_are_down() {
    let (a, b) = (Web::start("a", 200), Web::start("b", 200));
    let checked = Reserved::new();
    let health = format!("kind = \"tcp\"\nport = {}\n", checked.address().port());
    let ringlb = two([&a, &b], &health).start();
    for name in ["a", "b"] {
        told(&ringlb, &format!("backend back/{name} is down: 1 failed check, the last: connection refused"));
    }
    let (bytes, end) = net::read_to_end(&mut ringlb.connect());
    assert_eq!((bytes.len(), end), (0, End::Eof));

    let listener = checked.listen(16);
    for name in ["a", "b"] {
        told(&ringlb, &format!("backend back/{name} is up: 2 passed checks"));
    }
    assert_eq!(who_serves(&ringlb, 4), names(&["a", "b"]));
    drop(listener);
    ringlb.stop();
}

#[test]
fn sessions_of_a_backend_that_goes_down_are_kept_or_closed_as_told() {
    for (on_down, ends) in [("keep", &[][..]), ("close", &["backend_down"][..])] {
        let (a, b) = (Web::start("a", 200), Web::start("b", 200));
        let ringlb = two([&a, &b], &format!("kind = \"http\"\nfall = 1\non_down = \"{on_down}\"\n")).start();
        let mut held = [ringlb.connect(), ringlb.connect()];
        let mut served = held.each_mut().map(ask);
        if served[0] == "b" {
            held.reverse();
            served.reverse();
        }
        assert_eq!(served, ["a", "b"]);
        a.answer_with(503);
        told(&ringlb, "backend back/a is down");
        if on_down == "close" {
            let mut byte = [0];
            let error = held[0].read(&mut byte).expect_err("it is cut, and not ended politely");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            ringlb.wait_for_ends(1);
        } else {
            assert_eq!(ask(&mut held[0]), "a");
        }
        assert_eq!(ask(&mut held[1]), "b");
        assert_eq!(ringlb.ends(), ends);
        drop(held);
        ringlb.stop();
    }
}

/// A client whose connect is under way when its backend goes down has lost nothing yet; once it is connected it has.
#[test]
fn a_connect_that_succeeds_after_its_backend_went_down_is_no_session() {
    let (hole, filler) = net::black_hole();
    let at = hole.local_addr().expect("an address");
    let checked = Reserved::new();
    let health = format!(
        "connect_timeout = \"20s\"\nconnect_budget = \"20s\"\n[pool.health]\nkind = \"tcp\"\ninterval = \"100ms\"\n\
         on_down = \"close\"\nport = {}\n",
        checked.address().port()
    );
    let well = checked.listen(64);
    let ringlb = Config::new(&[]).backend(at, "name = \"a\"").pool(&health).start();
    let mut client = ringlb.connect();
    until("its connect is under way", || procfs::is_connecting(at).then_some(()));
    drop(well);
    told(&ringlb, "backend back/a is down");
    assert!(ringlb.ends().is_empty(), "{:?}", ringlb.ends());
    // Room in the queue: the next SYN is answered.
    drop(hole.accept().expect("the one that filled it"));
    assert_eq!(net::read_to_end(&mut client).1, End::Reset);
    assert_eq!(ringlb.wait_for_ends(1), ["backend_down"]);
    drop(filler);
    ringlb.stop();
}

#[test]
fn passed_checks_end_an_ejection_early() {
    let (refusing, well) = (Reserved::new(), Web::start("b", 200));
    let checked = Reserved::new();
    let health = format!("[pool.health]\nkind = \"tcp\"\ninterval = \"100ms\"\nport = {}\n", checked.address().port());
    let listener = checked.listen(64);
    let config = Config::new(&[]).backend(refusing.address(), "name = \"a\"").backend(well.backend.address(), "");
    let ringlb = config.pool(&health).start();
    // Three clients whose connect to the first is refused eject it; they are served by the other.
    until("its ejection ends", || {
        assert_eq!(who_serves(&ringlb, 4), names(&["b"]));
        (count(&ringlb, "backend back/a has returned: ") > 0).then_some(())
    });
    assert_eq!(count(&ringlb, "backend back/a is down"), 0, "its checks pass");
    drop(listener);
    ringlb.stop();
}

/// A server that answers nothing, and counts how many are connected to it at a time.
struct Mute {
    address: SocketAddr,
    most: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Mute {
    fn start() -> Mute {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (most, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, end) = (most.clone(), stop.clone());
        let thread = thread::spawn(move || {
            let mut open: Vec<TcpStream> = Vec::new();
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.expect("a connection");
                stream.set_nonblocking(true).expect("no waiting");
                open.retain_mut(is_open);
                open.push(stream);
                seen.fetch_max(open.len(), Ordering::SeqCst);
            }
        });
        Mute { address, most, stop, thread: Some(thread) }
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || thread::panicking(), "the mute server has panicked");
        }
    }
}

fn is_open(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// 1,000 backends, none of which answers: the checks under way stay bounded, all of them are found out, and the clients of
/// another pool are served meanwhile.
#[test]
fn a_thousand_checks_are_no_herd_and_stall_nobody() {
    const BACKENDS: usize = 1000;
    // A process that may open 1,024 files may have 32 checks under way.
    const CHECKS_MAX: usize = 32;
    let (mute, echo) = (Mute::start(), Backend::echo());
    let live = format!(
        "[[listener]]\nname = \"live\"\npool = \"live\"\nbind = \"127.0.0.1:0\"\n\
         [[pool]]\nname = \"live\"\n[[pool.backend]]\naddress = \"{}\"\n",
        echo.address()
    );
    let port = mute.address.port();
    let health = format!("[pool.health]\nkind = \"http\"\ninterval = \"500ms\"\ntimeout = \"50ms\"\nport = {port}\n");
    let config = (1..=BACKENDS).fold(Config::new(&[]).listener(&live).pool(&health), |config, port| {
        config.backend(format!("127.0.0.1:{port}"), "")
    });
    let ringlb = config.start_under(&["sh", "-c", "ulimit -n 1024 && exec \"$0\" \"$@\""]);
    let live: SocketAddr = ringlb.addresses()[1].parse().expect("an address");
    let mut held = net::connect(live);
    let mut rounds = 0_u64;
    until("every backend is down", || {
        held.write_all(&rounds.to_be_bytes()).expect("it is sent");
        let mut echoed = [0; 8];
        held.read_exact(&mut echoed).expect("it is echoed");
        assert_eq!(u64::from_be_bytes(echoed), rounds);
        rounds += 1;
        (count(&ringlb, "is down: ") == BACKENDS).then_some(())
    });
    assert!((2..=CHECKS_MAX).contains(&mute.most()), "{} checks at a time", mute.most());
    drop(held);
    ringlb.stop();
}
