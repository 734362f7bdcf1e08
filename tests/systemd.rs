//! ringlb under a service manager, which this test plays: notifications, watchdog, sockets that are handed over; and the
//! unit files.

mod common;

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use common::backend::Backend;
use common::ringlb::{Config, Ringlb, field};
use common::{DEADLINE, has_program, net, skip, until};

/// What a manager hears.
struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Manager {
        let directory = TempDir::new().expect("a directory");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("a socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Manager { socket, directory }
    }

    fn start(&self, config: &Config, variables: &[&str]) -> Ringlb {
        let notify = format!("NOTIFY_SOCKET={}", self.directory.path().join("notify").display());
        let words: Vec<&str> = ["env", &notify].into_iter().chain(variables.iter().copied()).collect();
        config.start_under(&words)
    }

    /// The next message, as its lines.
    fn hear(&self) -> Vec<String> {
        let mut message = [0; 4096];
        let bytes = self.socket.recv(&mut message).expect("a message");
        String::from_utf8_lossy(&message[..bytes]).lines().map(str::to_owned).collect()
    }

    /// Hears until a message has this line; gives how many came before it.
    fn hear_until(&self, line: &str) -> usize {
        let mut before = 0;
        while !self.hear().iter().any(|heard| heard == line) {
            before += 1;
        }
        before
    }

    /// How many messages with this line wait to be heard.
    fn count_waiting(&self, line: &str) -> usize {
        self.socket.set_nonblocking(true).expect("an option");
        let mut message = [0; 4096];
        let mut count = 0;
        loop {
            match self.socket.recv(&mut message) {
                Ok(bytes) => {
                    count += usize::from(String::from_utf8_lossy(&message[..bytes]).lines().any(|heard| heard == line));
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    break;
                }
            }
        }
        self.socket.set_nonblocking(false).expect("an option");
        count
    }
}

fn exchange(stream: &mut (impl Read + Write)) {
    stream.write_all(b"x").expect("it is sent");
    stream.read_exact(&mut [0]).expect("it comes back");
}

#[test]
fn the_manager_hears_of_readiness_sessions_and_the_end() {
    let backend = Backend::echo();
    let manager = Manager::new();
    let mut ringlb = manager.start(&Config::new(&[backend.address()]), &[]);
    let ready = manager.hear();
    assert_eq!(ready, ["READY=1", "STATUS=serving: 0 sessions, 2 workers"]);
    let mut client = ringlb.connect();
    exchange(&mut client);
    manager.hear_until("STATUS=serving: 1 sessions, 2 workers");
    drop(client);
    ringlb.signal(Signal::TERM);
    let stopping = loop {
        let heard = manager.hear();
        if heard[0] == "STOPPING=1" {
            break heard;
        }
    };
    assert!(stopping.iter().any(|line| line.starts_with("EXTEND_TIMEOUT_USEC=")), "{stopping:?}");
    assert_eq!(ringlb.wait().code(), Some(0));
    assert!(manager.count_waiting("WATCHDOG=1") == 0, "nobody has asked for a watchdog");
}

#[test]
fn the_manager_hears_of_a_reload_and_of_its_end_whatever_comes_of_it() {
    let backend = Backend::echo();
    let (manager, config) = (Manager::new(), Config::new(&[backend.address()]));
    let mut ringlb = manager.start(&config, &[]);
    manager.hear_until("READY=1");
    for text in [config.clone().listener("idle_timeout = \"1m\"").text(), "no configuration".to_owned()] {
        std::fs::write(ringlb.path("ringlb.toml"), text).expect("the file is written");
        ringlb.signal(Signal::HUP);
        let reloading = loop {
            let heard = manager.hear();
            assert_ne!(heard[0], "READY=1", "it has yet to begin");
            if heard[0] == "RELOADING=1" {
                break heard;
            }
        };
        assert!(reloading.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading:?}");
        manager.hear_until("READY=1");
    }
    ringlb.signal(Signal::TERM);
    assert_eq!(ringlb.wait().code(), Some(0));
}

#[test]
fn the_watchdog_is_fed_while_all_threads_turn() {
    let backend = Backend::echo();
    let manager = Manager::new();
    let ringlb = manager.start(&Config::new(&[backend.address()]), &["WATCHDOG_USEC=200000"]);
    for _ in 0..10 {
        manager.hear_until("WATCHDOG=1");
    }
    ringlb.stop();
}

#[test]
fn the_watchdog_hides_no_worker_that_is_stuck() {
    if !cfg!(debug_assertions) {
        return skip("a stuck worker", "this is not a debug build");
    }
    let backend = Backend::echo();
    let manager = Manager::new();
    let faults = manager.directory.path().join("faults");
    let variable = format!("RINGLB_FAULTS={}", faults.display());
    let config = Config::new(&[backend.address()]).one_worker();
    let ringlb = manager.start(&config, &["WATCHDOG_USEC=100000", &variable]);
    let mut client = ringlb.connect();
    exchange(&mut client);
    manager.hear_until("WATCHDOG=1");
    UnixDatagram::unbound().expect("a socket").send_to(b"0 stall 3s", &faults).expect("it is heard");
    // At the latest now it is planted: the next one comes after the worker was woken for it.
    manager.hear_until("WATCHDOG=1");
    manager.hear_until("WATCHDOG=1");
    let before = manager.count_waiting("WATCHDOG=1");
    // Answered only when the worker turns again; meanwhile there would be as many as the socket's queue has room for.
    exchange(&mut client);
    let during = before + manager.count_waiting("WATCHDOG=1");
    assert!(during < 10, "{during} times all was well, while a worker did not turn");
    manager.hear_until("WATCHDOG=1");
    drop(client);
    ringlb.stop();
}

/// Only one test at a time may have descriptors open that are inherited by whatever is started.
static INHERITING: Mutex<()> = Mutex::new(());

/// Starts ringlb with these sockets handed over. `extra` is put into its environment last.
fn hand_over(config: &Config, sockets: &[BorrowedFd<'_>], extra: &str) -> Ringlb {
    let _one = INHERITING.lock().unwrap_or_else(PoisonError::into_inner);
    // Far from 3, so that moving them there overwrites none.
    let inherited: Vec<_> =
        sockets.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 100).expect("a copy")).collect();
    let mut script = String::new();
    for (number, fd) in inherited.iter().enumerate() {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).expect("it is inherited");
        script += &format!("exec {}<&{1} {1}<&-; ", 3 + number, fd.as_raw_fd());
    }
    script += &format!("export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES=one:two; {extra} exec \"$@\"", sockets.len());
    config.launch(&["bash", "-c", &script, "bash"])
}

/// Waits until it is ready.
fn handed_over(config: &Config, sockets: &[BorrowedFd<'_>]) -> Ringlb {
    let ringlb = hand_over(config, sockets, "");
    ringlb.addresses();
    ringlb
}

fn listener(reuse_port: bool) -> (TcpListener, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(reuse_port).expect("an option");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    socket.listen(64).expect("it listens");
    let address = socket.local_addr().expect("an address").as_socket().expect("an IP address");
    (socket.into(), address)
}

/// Sockets of this host that listen on this port of IPv4.
fn listening_on(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("a table");
    let (port, listen) = (format!(":{port:04X}"), "0A");
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[1].ends_with(&port) && row[3] == listen).count()
}

#[test]
fn a_handed_over_socket_is_used_and_its_queue_outlives_the_process() {
    let backend = Backend::echo();
    let (socket, address) = listener(false);
    let config = Config::new(&[backend.address()]).bind(&format!("\"{address}\""));
    let mut early = net::connect(address);
    let ringlb = handed_over(&config, &[socket.as_fd()]);
    exchange(&mut early);
    assert_eq!(ringlb.address(), address);
    let mut clients: Vec<TcpStream> = (0..16).map(|_| net::connect(address)).collect();
    clients.iter_mut().for_each(exchange);
    assert_eq!(listening_on(address.port()), 1, "all workers accept on the one");
    drop((clients, early));
    ringlb.stop();

    let mut waiting: Vec<TcpStream> = (0..4).map(|_| net::connect(address)).collect();
    let ringlb = handed_over(&config, &[socket.as_fd()]);
    waiting.iter_mut().for_each(exchange);
    drop(waiting);
    ringlb.stop();
}

#[test]
fn workers_listen_beside_a_handed_over_socket_that_may_be_shared() {
    let backend = Backend::echo();
    let (socket, address) = listener(true);
    let config = Config::new(&[backend.address()]).bind(&format!("\"{address}\""));
    let ringlb = handed_over(&config, &[socket.as_fd()]);
    assert_eq!(listening_on(address.port()), 2, "one was handed over, one is the other worker's");
    let mut clients: Vec<TcpStream> = (0..32).map(|_| net::connect(address)).collect();
    clients.iter_mut().for_each(exchange);
    drop(clients);
    ringlb.stop();
    assert_eq!(listening_on(address.port()), 1);
}

#[test]
fn a_handed_over_unix_socket_keeps_its_file() {
    let backend = Backend::echo();
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("front");
    let socket = UnixListener::bind(&path).expect("a socket");
    let config = Config::new(&[backend.address()]).bind(&format!("\"unix:{}\"", path.display()));
    for _ in 0..2 {
        let ringlb = handed_over(&config, &[socket.as_fd()]);
        let mut clients: Vec<_> = (0..4).map(|_| UnixStream::connect(&path).expect("it listens")).collect();
        clients.iter_mut().for_each(exchange);
        drop(clients);
        ringlb.stop();
        assert!(path.exists());
    }
}

#[test]
fn a_socket_for_both_families_serves_a_bind_to_all_addresses() {
    if !net::has_ipv6() {
        return skip("sockets for both families", "this host has no IPv6");
    }
    let backend = Backend::echo();
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket");
    socket.set_only_v6(false).expect("an option");
    socket.bind(&"[::]:0".parse::<SocketAddr>().expect("an address").into()).expect("a free port");
    socket.listen(64).expect("it listens");
    let port = socket.local_addr().expect("an address").as_socket().expect("an IP address").port();
    let config = Config::new(&[backend.address()]).bind(&format!("\":{port}\""));
    // Who may come is known by the client's own address, not by one of IPv6 that stands for it.
    let ringlb = handed_over(&config.listener("allow = [\"127.0.0.1\"]"), &[socket.as_fd()]);
    exchange(&mut net::connect(SocketAddr::from(([127, 0, 0, 1], port))));
    let six = format!("[::1]:{port}").parse().expect("an address");
    assert_eq!(net::connect(six).read(&mut [0]).expect("the end"), 0, "not allowed");
    ringlb.stop();
}

#[test]
fn what_matches_no_bind_is_told_and_closed() {
    let backend = Backend::echo();
    let (socket, address) = listener(false);
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let ringlb = handed_over(&Config::new(&[backend.address()]), &[datagrams.as_fd(), socket.as_fd()]);
    for name in ["one", "two"] {
        let told = ringlb
            .wait_for_log("it is told", |line| field(line, "name") == Some(name) && line.contains("matches no `bind`"));
        assert!(name == "one" || told.contains(&address.to_string()), "{told}");
    }
    exchange(&mut ringlb.connect());
    drop(socket);
    until("nobody holds it any more", || (listening_on(address.port()) == 0).then_some(()));
    ringlb.stop();
}

#[test]
fn sockets_that_were_meant_for_another_process_are_not_touched() {
    let backend = Backend::echo();
    let (socket, address) = listener(false);
    let config = Config::new(&[backend.address()]).bind(&format!("\"{address}\""));
    let mut ringlb = hand_over(&config, &[socket.as_fd()], "LISTEN_PID=1;");
    assert_eq!(ringlb.wait().code(), Some(1));
    assert!(ringlb.log().iter().any(|line| line.contains("something listens there already")));
}

/// The repository's unit, with the binary under test in the place of the installed one.
fn units() -> TempDir {
    let directory = TempDir::new().expect("a directory");
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for name in ["ringlb.service", "ringlb.socket"] {
        let text = std::fs::read_to_string(config.join(name)).expect("a unit");
        let text = text.replace("/usr/bin/ringlb", env!("CARGO_BIN_EXE_ringlb"));
        std::fs::write(directory.path().join(name), text).expect("it is written");
    }
    directory
}

/// Runs it and gives what it said, whatever that was.
fn analyze(arguments: &[&str], directory: &Path) -> (bool, String) {
    let output = Command::new("systemd-analyze").args(arguments).current_dir(directory).output().expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_units_are_right_and_the_service_is_confined() {
    if !has_program("systemd-analyze") {
        return skip("the units", "systemd-analyze is not installed (package systemd)");
    }
    let directory = units();
    let (right, said) = analyze(&["verify", "--man=no", "./ringlb.service", "./ringlb.socket"], directory.path());
    assert!(right && said.trim().is_empty(), "{said}");
    let (_, said) = analyze(&["security", "--offline=true", "--no-pager", "./ringlb.service"], directory.path());
    let overall = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{said}"));
    let level = overall.split_whitespace().find_map(|word| word.parse::<f64>().ok()).expect("a number");
    assert!(level <= 2.0, "{said}");
}

/// What systemd means by a word of `SystemCallFilter=`: a call, or a set of them, which may name further sets.
fn system_calls(word: &str) -> BTreeSet<String> {
    if !word.starts_with('@') {
        return BTreeSet::from([word.to_owned()]);
    }
    let (_, said) = analyze(&["syscall-filter", "--no-pager", word], Path::new("/"));
    let entries = said.lines().skip(1).map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    entries.flat_map(system_calls).collect()
}

/// What the unit allows: its lines one after the other.
fn allowed_calls() -> BTreeSet<String> {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/ringlb.service");
    let unit = std::fs::read_to_string(unit).expect("the unit");
    let mut allowed = BTreeSet::new();
    for line in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let calls: BTreeSet<String> = line.trim_start_matches('~').split(' ').flat_map(system_calls).collect();
        if line.starts_with('~') {
            allowed.retain(|call| !calls.contains(call));
        } else {
            allowed.extend(calls);
        }
    }
    allowed
}

/// The system calls of a real run, under traffic, against those that the unit allows.
#[test]
fn the_service_may_make_the_system_calls_that_it_makes() {
    if !has_program("systemd-analyze") || !has_program("strace") {
        return skip("the unit's system calls", "systemd-analyze or strace is not installed");
    }
    let allowed = allowed_calls();
    assert!(allowed.contains("io_uring_enter"), "{allowed:?}");

    let backend = Backend::echo();
    let trace = TempDir::new().expect("a directory");
    let file = trace.path().join("trace");
    let file = file.to_str().expect("text");
    let config = Config::new(&[backend.address()]).process("metrics = \"127.0.0.1:0\"");
    let mut ringlb = config.start_under(&["strace", "-f", "-qq", "-o", file]);
    (0..8).for_each(|_| exchange(&mut ringlb.connect()));
    assert_eq!(common::scrape::get(ringlb.metrics_address(), "/metrics").0, 200);
    // strace passes it on to nobody: it goes to ringlb itself.
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", ringlb.pid())).expect("a list");
    let child = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("a number");
    let child = rustix::process::Pid::from_raw(child).expect("a process");
    rustix::process::kill_process(child, Signal::TERM).expect("it lives");
    assert_eq!(ringlb.wait().code(), Some(0));
    let text = std::fs::read_to_string(file).expect("a trace");
    let calls = text.lines().filter_map(|line| {
        let call = line.split_once(' ')?.1.trim_start().split_once('(')?.0;
        call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then(|| call.to_owned())
    });
    let calls: BTreeSet<String> = calls.collect();
    assert!(calls.contains("io_uring_enter") && calls.contains("bind"), "{calls:?}");
    let forbidden: Vec<_> = calls.difference(&allowed).collect();
    assert!(forbidden.is_empty(), "the unit forbids {forbidden:?}");
}
