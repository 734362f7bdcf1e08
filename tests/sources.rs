//! Where connections to backends come from. See `docs/limits.md`.

mod common;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use common::backend::{self, Backend};
use common::net;
use common::pattern::End;
use common::ringlb::{Config, run_file};
use common::{DEADLINE, has_program, skip, until};
use ringlb::engine::socket::bind_source;

/// A backend that says where each of its connections comes from, and echoes; it tells us too.
fn witness() -> (Backend, Receiver<IpAddr>) {
    let (tell, told) = channel();
    let backend = Backend::start(move |mut stream| {
        let Ok(peer) = stream.peer_addr() else { return };
        tell.send(peer.ip()).expect("the test listens");
        if writeln!(stream, "{}", peer.ip()).is_ok() {
            backend::echo(stream);
        }
    });
    (backend, told)
}

#[test]
fn connections_come_from_the_sources_in_turn() {
    let (backend, _told) = witness();
    for (source, expected) in [
        ("\"127.0.0.5\"", &["127.0.0.5"; 4][..]),
        ("[\"127.0.0.5\", \"::1\", \"127.0.0.6\"]", &["127.0.0.5", "127.0.0.6", "127.0.0.5", "127.0.0.6"]),
        ("[]", &["127.0.0.1"; 4]),
    ] {
        if source.contains("::1") && !net::has_ipv6() {
            skip("a source of another family", "this host has no IPv6");
            continue;
        }
        let ringlb = Config::new(&[backend.address()]).one_worker().pool(&format!("source = {source}")).start();
        for expected in expected {
            assert_eq!(net::read_line(&mut ringlb.connect()), *expected, "{source}");
        }
        ringlb.stop();
    }
}

/// A source is for its own family; for the other one, and for unix sockets, the kernel chooses.
#[test]
fn backends_that_a_source_cannot_reach_are_reached_without_it() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("back.sock");
    let unix = UnixListener::bind(&path).expect("a socket");
    let answer = std::thread::spawn(move || {
        let (mut stream, _) = unix.accept().expect("a connection");
        stream.write_all(b"unix\n").expect("the answer");
    });
    let (v4, _told) = witness();
    let ringlb = Config::new(&[v4.address()])
        .backend(format!("unix:{}", path.display()), "")
        .pool("policy = \"round_robin\"\nsource = \"127.0.0.5\"")
        .start();
    let mut said: Vec<String> = (0..2).map(|_| net::read_line(&mut ringlb.connect())).collect();
    said.sort_unstable();
    assert_eq!(said, ["127.0.0.5", "unix"]);
    answer.join().expect("it has answered");
    ringlb.stop();
    if !net::has_ipv6() {
        return skip("an IPv6 backend", "this host has no IPv6");
    }
    let v6 = Backend::on(TcpListener::bind("[::1]:0").expect("a free port"), backend::named("six"));
    let both = Config::new(&[v4.address(), v6.address()]).pool("policy = \"round_robin\"\nsource = \"127.0.0.5\"");
    let ringlb = both.start();
    let mut said: Vec<String> = (0..2).map(|_| net::read_line(&mut ringlb.connect())).collect();
    said.sort_unstable();
    assert_eq!(said, ["127.0.0.5", "six"]);
    // It refuses its own end, which comes from the IPv4 loopback.
    std::mem::forget(v6);
    ringlb.stop();
}

/// What lets the connections of clients pass may let no others.
#[test]
fn checks_come_from_the_source_too() {
    let (backend, told) = witness();
    let health = "source = [\"127.0.0.5\", \"127.0.0.6\"]\n[pool.health]\nkind = \"tcp\"\ninterval = \"100ms\"";
    let ringlb = Config::new(&[backend.address()]).pool(health).start();
    for _ in 0..3 {
        assert_eq!(told.recv_timeout(DEADLINE).expect("a check"), IpAddr::from([127, 0, 0, 5]));
    }
    ringlb.stop();
}

#[test]
fn an_address_that_this_host_does_not_have_is_an_error_before_anything_is_bound() {
    let directory = TempDir::new().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let bind = taken.local_addr().expect("an address");
    let config = Config::new(&[bind]).bind(&format!("\"{}\"", SocketAddr::from(([127, 0, 0, 2], bind.port()))));
    for (source, errno) in [("192.0.2.1", "EADDRNOTAVAIL"), ("127.0.0.1\", \"192.0.2.1", "EADDRNOTAVAIL")] {
        let text = config.clone().pool(&format!("source = [\"{source}\"]")).text();
        let (code, said) = run_file(directory.path(), &text);
        assert_eq!(code, Some(1), "{said}");
        let expected =
            format!("pool `back`: cannot connect from 192.0.2.1 ({errno}): `source` must be an address of this host");
        assert!(said.contains(&expected), "{said}");
    }
}

/// Runs the test `name` of this program once more, in a network of its own, where ports can be made few. Gives whether this is
/// that run.
fn is_alone(name: &str) -> bool {
    const INSIDE: &str = "RINGLB_TEST_NETWORK";
    if std::env::var_os(INSIDE).is_some() {
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("`ip` runs");
        assert!(up.success(), "the loopback comes up");
        return true;
    }
    if !has_program("unshare") || !has_program("ip") {
        skip(name, "there is no `unshare` or no `ip` (Debian: util-linux, iproute2)");
        return false;
    }
    let able =
        |flags: &&str| Command::new("unshare").args([flags, "true"]).output().is_ok_and(|it| it.status.success());
    let Some(flags) = ["-n", "-rn"].into_iter().find(able) else {
        skip(name, "this process may not make a network of its own (it needs root, or user namespaces)");
        return false;
    };
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new("unshare");
    command.arg(flags).arg(program).args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
    let output = command.output().expect("`unshare` runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
    false
}

/// Connects from an address that is used for nothing else, so that its ports are not those that are counted. A port that is
/// bound before the connect would be taken from all addresses.
fn connect_as(number: u16, to: SocketAddr) -> TcpStream {
    let [high, low] = number.to_be_bytes();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    bind_source(socket.as_fd(), Ipv4Addr::new(127, 1, high, low + 1).into()).expect("an address of the loopback");
    socket.connect_timeout(&to.into(), DEADLINE).expect("it listens");
    let stream = TcpStream::from(socket);
    net::limit(&stream);
    stream
}

#[test]
fn ports_that_are_used_up_eject_nobody_and_a_second_source_has_as_many_again() {
    const PORTS: usize = 8;
    /// More than eject a backend.
    const REFUSED: usize = 12;
    if !is_alone("ports_that_are_used_up_eject_nobody_and_a_second_source_has_as_many_again") {
        return;
    }
    let backends = [Backend::named("a"), Backend::named("b")];
    // One worker: clients and sources then alternate in step, so that each backend would see one source alone.
    let config = Config::new(&backends.each_ref().map(Backend::address)).one_worker();
    for (sources, possible) in [("\"127.0.0.5\"", 2 * PORTS), ("[\"127.0.0.5\", \"127.0.0.6\"]", 4 * PORTS)] {
        set_ports("32768 60999");
        let ringlb = config.clone().pool(&format!("source = {sources}\nmax_fails = 3")).start();
        // Not those of listeners.
        set_ports(&format!("20000 {}", 20_000 + PORTS - 1));
        let mut held = Vec::new();
        for number in 0..possible {
            let mut stream = connect_as(number as u16, ringlb.address());
            let by = net::read_to_end_of_line(&mut stream);
            assert!(by.is_some(), "client {number} of {possible} is not served");
            held.push(stream);
        }
        for number in 0..REFUSED {
            let mut stream = connect_as((possible + number) as u16, ringlb.address());
            assert_eq!(net::read_to_end(&mut stream), (vec![], End::Eof), "there is no port left");
        }
        assert_eq!(ringlb.wait_for_ends(REFUSED), vec!["connect_failed"; REFUSED]);
        // Both serve at once when there are ports again: none of them was blamed.
        held.drain(..).for_each(net::reset);
        ringlb.wait_for_ends(REFUSED + possible);
        until("the backends' connections are over", || {
            backends.iter().all(|backend| backend.active() == 0).then_some(())
        });
        let again: Vec<_> = (0..possible)
            .map(|number| {
                let mut stream = connect_as(number as u16, ringlb.address());
                (net::read_line(&mut stream), stream)
            })
            .collect();
        for name in ["a", "b"] {
            assert_eq!(again.iter().filter(|(by, _)| by == name).count(), possible / 2, "{name}");
        }
        let log = ringlb.log();
        assert!(!log.iter().any(|line| line.contains("is ejected")), "{log:?}");
        again.into_iter().for_each(|(_, stream)| net::reset(stream));
        ringlb.stop();
    }
}

/// The ports of this network that connections may come from.
fn set_ports(range: &str) {
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("this network is ours");
    let shown = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("it can be read");
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), range.split(' ').collect::<Vec<_>>());
}
