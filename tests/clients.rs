//! Who is served, how often, how fast and for how long. See `docs/limits.md`.

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use common::backend::Backend;
use common::net;
use common::pattern::End;
use common::ringlb::{Config, Ringlb, field};
use common::{DEADLINE, at_once, until};
use ringlb::wire::proxy::{Command, Endpoint, Version, write};

/// An address of this host's loopback.
fn local(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, number).into()
}

/// Connects from that address.
fn connect_from(ip: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from((ip, 0)).into()).expect("an address of this host");
    socket.connect_timeout(&to.into(), DEADLINE).expect("it listens");
    let stream = TcpStream::from(socket);
    net::limit(&stream);
    stream
}

/// Whether the client is served by the backend that says "a", or closed at once.
fn is_served(stream: &mut impl Read) -> bool {
    net::read_to_end_of_line(stream).is_some()
}

fn served(mut stream: TcpStream) -> TcpStream {
    assert_eq!(net::read_line(&mut stream), "a");
    stream
}

/// Closed without a word, and in order as it has said nothing itself.
fn turned_away(mut stream: TcpStream) {
    assert_eq!(net::read_to_end(&mut stream), (vec![], End::Eof));
}

/// A header of the PROXY protocol that names this client.
fn named(client: IpAddr) -> Vec<u8> {
    let any = if client.is_ipv4() { "192.0.2.1:443" } else { "[2001:db8::1]:443" };
    let source = Endpoint::Inet((client, 5000).into());
    write(Version::V2, &Command::Proxy { source, destination: Endpoint::Inet(any.parse().expect("an address")) })
}

/// Connects as a proxy that speaks for `client`.
fn on_behalf(ringlb: &Ringlb, client: &str) -> TcpStream {
    let mut stream = ringlb.connect();
    stream.write_all(&named(client.parse().expect("an address"))).expect("the header is sent");
    stream
}

const TRUSTING: &str = "accept_proxy_protocol = true\ntrusted_proxies = [\"127.0.0.0/8\", \"unix:\"]";

#[test]
fn clients_are_served_or_closed_as_allow_and_deny_say() {
    let backend = Backend::named("a");
    let config = Config::new(&[backend.address()]);
    let lists = "allow = [\"127.0.0.0/29\", \"127.0.0.77\"]\ndeny = [\"127.0.0.4/31\"]";
    let ringlb = config.listener(lists).start();
    let front = ringlb.address();
    let mut refused = 0;
    for (number, expected) in [(1, true), (3, true), (4, false), (5, false), (6, true), (8, false), (77, true)] {
        let mut stream = connect_from(local(number), front);
        assert_eq!(is_served(&mut stream), expected, "127.0.0.{number}");
        refused += usize::from(!expected);
    }
    let ends = ringlb.wait_for_ends(7);
    assert_eq!(ends.iter().filter(|reason| *reason == "denied").count(), refused, "{ends:?}");
    assert_eq!(backend.accepted(), 7 - refused, "nobody who is refused reaches a backend");
    ringlb.stop();
}

#[test]
fn whoever_a_proxy_names_is_the_client_who_is_judged() {
    let backend = Backend::named("a");
    // The proxy itself may not be a client.
    let lists = "allow = [\"203.0.113.0/24\", \"2001:db8::/32\"]\ndeny = [\"203.0.113.66\", \"127.0.0.0/8\"]";
    let ringlb = Config::new(&[backend.address()]).listener(TRUSTING).listener(lists).start();
    for (client, expected) in [
        ("203.0.113.7", true),
        ("203.0.113.66", false),
        ("192.0.2.1", false),
        ("2001:db8::7", true),
        ("2001:db9::7", false),
        // IPv4 in the form of IPv6 is IPv4.
        ("::ffff:203.0.113.7", true),
        ("::ffff:203.0.113.66", false),
    ] {
        assert_eq!(is_served(&mut on_behalf(&ringlb, client)), expected, "{client}");
    }
    // It speaks for itself.
    let mut check = ringlb.connect();
    check.write_all(&write(Version::V2, &Command::Local)).expect("the header is sent");
    turned_away(check);
    let denied = ringlb.wait_for_ends(8).iter().filter(|reason| *reason == "denied").count();
    assert_eq!(denied, 5);
    let line = ringlb.wait_for_log("the client is named", |line| field(line, "reason") == Some("denied"));
    assert_eq!(field(&line, "client"), Some("203.0.113.66:5000"), "{line}");
    ringlb.stop();
}

#[test]
fn clients_of_a_unix_socket_are_a_network_of_their_own() {
    let backend = Backend::named("a");
    for (lists, inet, unix) in
        [("allow = [\"unix:\"]", false, true), ("deny = [\"127.0.0.1\"]", false, true), ("", true, true)]
    {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("front.sock");
        let bind = format!("[\"127.0.0.1:0\", \"unix:{}\"]", path.display());
        let ringlb = Config::new(&[backend.address()]).bind(&bind).listener(lists).start();
        assert_eq!(is_served(&mut ringlb.connect()), inet, "{lists}");
        let mut stream = UnixStream::connect(&path).expect("it listens");
        stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
        assert_eq!(is_served(&mut stream), unix, "{lists}");
        drop(stream);
        ringlb.stop();
    }
}

#[test]
fn a_client_has_so_many_sessions_and_never_one_more() {
    const MAX: usize = 3;
    let backend = Backend::named("a");
    let ringlb = Config::new(&[backend.address()]).listener("max_connections_per_client = 3").start();
    let front = ringlb.address();
    // From one place at once, over all workers.
    let count = AtomicUsize::new(0);
    let held = at_once(20, |_| {
        let mut stream = connect_from(local(7), front);
        let inside = is_served(&mut stream);
        count.fetch_add(usize::from(inside), Ordering::SeqCst);
        inside.then_some(stream)
    });
    let mut held: Vec<TcpStream> = held.into_iter().flatten().collect();
    assert_eq!((held.len(), count.load(Ordering::SeqCst)), (MAX, MAX));
    assert_eq!(ringlb.wait_for_ends(20 - MAX), vec!["client_limit"; 20 - MAX]);
    // Others are none of its business.
    drop(served(connect_from(local(8), front)));
    ringlb.wait_for_ends(20 - MAX + 1);
    // Whoever leaves makes room for one.
    for round in 0..5 {
        drop(held.remove(0));
        ringlb.wait_for_ends(20 - MAX + 2 + 2 * round);
        held.push(served(connect_from(local(7), front)));
        turned_away(connect_from(local(7), front));
        ringlb.wait_for_ends(20 - MAX + 3 + 2 * round);
    }
    drop(held);
    ringlb.stop();
}

#[test]
fn the_client_that_a_proxy_names_is_the_one_that_is_counted() {
    let backend = Backend::named("a");
    let ringlb =
        Config::new(&[backend.address()]).listener(TRUSTING).listener("max_connections_per_client = 1").start();
    let one = served(on_behalf(&ringlb, "203.0.113.7"));
    let six = served(on_behalf(&ringlb, "2001:db8:1:2::1"));
    let others = [served(on_behalf(&ringlb, "203.0.113.8")), served(on_behalf(&ringlb, "2001:db8:1:3::1"))];
    for again in ["203.0.113.7", "::ffff:203.0.113.7", "2001:db8:1:2:ffff::9"] {
        turned_away(on_behalf(&ringlb, again));
    }
    assert_eq!(ringlb.wait_for_ends(3), vec!["client_limit"; 3]);
    drop(one);
    ringlb.wait_for_ends(4);
    drop(served(on_behalf(&ringlb, "203.0.113.7")));
    drop((six, others));
    ringlb.stop();
}

#[test]
fn a_session_ends_after_its_longest_duration_however_busy_it_is() {
    const LONGEST: Duration = Duration::from_secs(2);
    let backend = Backend::echo();
    let ringlb = Config::new(&[backend.address()]).listener("max_session_duration = \"2s\"").start();
    let begun = Instant::now();
    let lasted = at_once(8, |_| {
        let mut stream = ringlb.connect();
        // A word now and then: it is not idle, and nothing is owed when its time comes.
        stream.set_read_timeout(Some(LONGEST / 20)).expect("a read timeout");
        let mut bytes = [0; 16];
        loop {
            match stream.write_all(b"word").and_then(|()| stream.read(&mut bytes)) {
                Ok(0) => return begun.elapsed(),
                Ok(_) => match stream.read(&mut bytes) {
                    Ok(0) => return begun.elapsed(),
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    // A word was on its way.
                    Err(_) => return begun.elapsed(),
                },
                Err(_) => return begun.elapsed(),
            }
        }
    });
    assert!(lasted.iter().all(|lasted| *lasted >= LONGEST - LONGEST / 10), "{lasted:?}");
    assert_eq!(ringlb.wait_for_ends(8), vec!["max_session_duration"; 8]);
    until("the backend has no connection left", || (backend.active() == 0).then_some(()));

    // One that says nothing is ended in order, on both sides.
    let mut quiet = ringlb.connect();
    assert_eq!(net::read_to_end(&mut quiet), (vec![], End::Eof));
    ringlb.stop();
}

/// A second's worth at once, and then so many in a second; nobody is refused.
#[test]
fn above_the_accept_rate_clients_wait_and_all_are_served() {
    const CLIENTS: usize = 45;
    const WORKERS: usize = 2;
    let backend = Backend::named("a");
    let ringlb = Config::new(&[backend.address()]).listener("accept_rate = 20\naccept_burst = 5").start();
    let begun = Instant::now();
    at_once(CLIENTS, |_| drop(served(ringlb.connect())));
    // Each worker may take one too many, which is waited for later; so the last may be that much early, and no more.
    let least = Duration::from_secs((CLIENTS - 5 - WORKERS) as u64) / 20;
    let took = begun.elapsed();
    assert!(took >= least, "{CLIENTS} clients within {took:?}");
    assert_eq!(ringlb.wait_for_ends(CLIENTS).len(), CLIENTS);
    let told = ringlb.log().into_iter().filter(|line| is_too_fast(line)).count();
    assert_eq!(told, 1, "one line, however often somebody had to wait");
    ringlb.stop();
}

fn is_too_fast(line: &str) -> bool {
    field(line, "message") == Some("accept_rate is reached: new clients wait in the backlog")
}

/// Waiting for the next token costs nothing, and whoever waits when the process stops is served.
#[test]
fn clients_that_wait_for_the_accept_rate_are_served_when_the_process_stops() {
    let backend = Backend::named("a");
    let ringlb = Config::new(&[backend.address()]).one_worker().listener("accept_rate = 1\naccept_burst = 3").start();
    let first: Vec<_> = (0..3).map(|_| served(ringlb.connect())).collect();
    let waiting: Vec<_> = (0..20).map(|_| ringlb.connect()).collect();
    ringlb.wait_for_log("the rate is reached", is_too_fast);
    ringlb.assert_rests();
    ringlb.signal(rustix::process::Signal::TERM);
    waiting.into_iter().for_each(|stream| drop(served(stream)));
    drop(first);
    ringlb.wait_for_log("it stops", |line| field(line, "message") == Some("stopped"));
}
