//! What decides who gets a client: policies, backups, limits, weights, a slow start.

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use common::backend::{self, Backend};
use common::net::{self, Reserved};
use common::pattern::End;
use common::ringlb::{Config, Ringlb, field};
use common::{DEADLINE, at_once, until};
use socket2::{Domain, Socket, Type};

/// Quick to eject and quick to try again.
const QUICK: &str = "max_fails = 1\nfail_timeout = \"100ms\"";

fn named(names: &[&str]) -> Vec<Backend> {
    names.iter().map(|name| Backend::named(name)).collect()
}

/// A free port that refuses, and may be a backend again.
fn leave(backend: Backend) -> SocketAddr {
    let address = backend.address();
    drop(backend);
    address
}

fn come_back(address: SocketAddr, name: &str) -> Backend {
    let listener = until("its port is free", || std::net::TcpListener::bind(address).ok());
    Backend::on(listener, backend::named(name))
}

/// Opens `count` connections one after the other and holds them; who serves how many.
fn hold(ringlb: &Ringlb, count: usize) -> (Vec<TcpStream>, BTreeMap<String, usize>) {
    let mut shares = BTreeMap::new();
    let held = (0..count).map(|_| {
        let mut stream = ringlb.connect();
        *shares.entry(net::read_line(&mut stream)).or_default() += 1;
        stream
    });
    (held.collect(), shares)
}

fn shares<const N: usize>(of: [(&str, usize); N]) -> BTreeMap<String, usize> {
    of.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

/// Who serves the client at this address.
fn server_of(ringlb: &Ringlb, client: IpAddr) -> String {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(client, 0).into()).expect("all of 127.0.0.0/8 is ours");
    socket.connect_timeout(&ringlb.address().into(), DEADLINE).expect("it accepts");
    let mut stream = TcpStream::from(socket);
    net::limit(&stream);
    net::read_line(&mut stream)
}

fn clients() -> Vec<IpAddr> {
    (0..64).map(|number| Ipv4Addr::new(127, 0, 1, number + 1).into()).collect()
}

fn servers(ringlb: &Ringlb) -> Vec<String> {
    clients().into_iter().map(|client| server_of(ringlb, client)).collect()
}

#[test]
fn source_hash_keeps_each_client_with_its_backend_over_restarts_and_failures() {
    let [a, b, c] = ["a", "b", "c"].map(Backend::named);
    let config =
        Config::new(&[a.address(), b.address(), c.address()]).pool(&format!("policy = \"source_hash\"\n{QUICK}"));
    let ringlb = config.start();
    let first = servers(&ringlb);
    for name in ["a", "b", "c"] {
        assert!(first.iter().filter(|server| *server == name).count() > 5, "{name} has its share: {first:?}");
    }
    assert_eq!(servers(&ringlb), first, "they come again");
    ringlb.stop();

    let ringlb = config.start();
    assert_eq!(servers(&ringlb), first, "another process hashes alike");
    let address = leave(b);
    let without = servers(&ringlb);
    for (client, (before, after)) in first.iter().zip(&without).enumerate() {
        assert!(before == "b" || before == after, "client {client} was moved from {before} to {after}");
        assert_ne!(after, "b");
    }
    let moved_to = first.iter().zip(&without).filter(|(before, _)| *before == "b").map(|(_, after)| after.as_str());
    assert_eq!(moved_to.collect::<std::collections::BTreeSet<_>>().len(), 2, "both others take some of them");
    let _b = come_back(address, "b");
    until("its clients return", || (servers(&ringlb) == first).then_some(()));
    ringlb.stop();
}

#[test]
fn first_fills_one_after_the_other() {
    let backends = named(&["a", "b", "c"]);
    let mut config = Config::new(&[]).pool("policy = \"first\"");
    for backend in &backends {
        config = config.backend(backend.address(), "max_connections = 5");
    }
    let ringlb = config.start();
    let (mut held, got) = hold(&ringlb, 12);
    assert_eq!(got, shares([("a", 5), ("b", 5), ("c", 2)]));
    // Those of `a` were the first; their places are taken again before those of `c`.
    held.drain(..3);
    ringlb.wait_for_ends(3);
    assert_eq!(hold(&ringlb, 3).1, shares([("a", 3)]));
    drop(held);
    ringlb.stop();
}

#[test]
fn random_two_spreads_by_load() {
    let backends = named(&["a", "b", "c"]);
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let ringlb = Config::new(&addresses).pool("policy = \"random_two\"").start();
    let (held, got) = hold(&ringlb, 90);
    // The less loaded of two out of three: the fullest is never chosen, unless it is level with another.
    assert!(got.len() == 3 && got.values().all(|count| (25..=35).contains(count)), "{got:?}");
    drop(held);
    ringlb.stop();
}

#[test]
fn a_weight_of_nothing_gets_nobody() {
    let backends = named(&["a", "b"]);
    for policy in ["least_connections", "round_robin", "random_two", "source_hash", "first"] {
        let config = Config::new(&[]).pool(&format!("policy = \"{policy}\""));
        let config = config.backend(backends[0].address(), "weight = 0").backend(backends[1].address(), "");
        let ringlb = config.start();
        assert_eq!(hold(&ringlb, 10).1, shares([("b", 10)]), "{policy}");
        ringlb.stop();
    }
}

#[test]
fn backups_serve_only_while_no_other_may() {
    let primary = Backend::named("primary");
    let backup = Backend::named("backup");
    let config = Config::new(&[primary.address()]).backend(backup.address(), "backup = true").pool(QUICK);
    let ringlb = config.start();
    assert_eq!(hold(&ringlb, 10).1, shares([("primary", 10)]));
    let address = leave(primary);
    assert_eq!(hold(&ringlb, 10).1, shares([("backup", 10)]), "the first was tried elsewhere first, and not lost");
    let _primary = come_back(address, "primary");
    until("the primary serves again", || (net::read_line(&mut ringlb.connect()) == "primary").then_some(()));
    assert_eq!(hold(&ringlb, 10).1, shares([("primary", 10)]));
    ringlb.stop();
}

#[test]
fn a_backup_on_the_command_line_is_one() {
    let (primary, backup) = (Backend::named("primary"), Backend::named("backup"));
    let (primary_at, backup_at) = (primary.address().to_string(), format!("{},backup", backup.address()));
    let arguments = ["run", "--listen", "127.0.0.1:0", "--backend", &backup_at, "--backend", &primary_at];
    let ringlb = Ringlb::with_arguments(&arguments);
    // Its log is for people here, so the address is read from the line of words.
    let ready = ringlb.wait_for_log("it is ready", |line| line.contains("listeners="));
    let address = ready.split("default=").nth(1).expect("an address");
    let address = address.split(['"', ' ']).next().expect("an address").parse().expect("an address");
    for _ in 0..5 {
        assert_eq!(net::read_line(&mut net::connect(address)), "primary");
    }
    leave(primary);
    assert_eq!(net::read_line(&mut net::connect(address)), "backup");
}

#[test]
fn a_backends_limit_is_exact_over_two_workers_and_its_places_come_back() {
    const LIMIT: usize = 4;
    const BACKENDS: usize = 3;
    let backends = named(&["a", "b", "c"]);
    let mut config = Config::new(&[]);
    for backend in &backends {
        config = config.backend(backend.address(), &format!("max_connections = {LIMIT}"));
    }
    let ringlb = config.start();
    let mut ended = 0;
    for round in 0..5 {
        let clients = at_once(30, |_| {
            let mut stream = ringlb.connect();
            net::read_to_end_of_line(&mut stream).map(|name| (stream, name))
        });
        let served: Vec<_> = clients.into_iter().flatten().collect();
        let mut got = BTreeMap::<&str, usize>::new();
        served.iter().for_each(|(_, name)| *got.entry(name).or_default() += 1);
        assert_eq!(got, BTreeMap::from([("a", LIMIT), ("b", LIMIT), ("c", LIMIT)]), "round {round}");
        drop(served);
        ended += 30;
        let reasons = ringlb.wait_for_ends(ended);
        let refused = reasons.iter().filter(|reason| *reason == "no_backend").count();
        assert_eq!(refused, (round + 1) * (30 - BACKENDS * LIMIT));
    }
    ringlb.stop();
}

#[test]
fn a_backend_that_returns_starts_slowly() {
    let (a, b) = (Backend::named("a"), Backend::named("b"));
    let config = Config::new(&[]).pool(QUICK).backend(a.address(), "").backend(b.address(), "slow_start = \"1h\"");
    let ringlb = config.start();
    let (held, got) = hold(&ringlb, 20);
    assert_eq!(got, shares([("a", 10), ("b", 10)]), "those of the beginning are warm");
    drop(held);
    ringlb.wait_for_ends(20);
    let address = leave(b);
    until("it is ejected", || {
        drop(net::read_line(&mut ringlb.connect()));
        ringlb.log().iter().any(|line| line.contains("is ejected")).then_some(())
    });
    let _b = come_back(address, "b");
    until("it serves again", || (net::read_line(&mut ringlb.connect()) == "b").then_some(()));
    let (held, got) = hold(&ringlb, 40);
    let of_b = got.get("b").copied().unwrap_or(0);
    assert!(of_b <= 4, "an hour is not over: {got:?}");
    drop(held);
    ringlb.stop();
}

/// A backend alone is never ejected: whoever comes may as well try it.
#[test]
fn the_only_backend_is_tried_for_everybody() {
    let only = Reserved::new();
    let ringlb = Config::new(&[only.address()]).pool("max_fails = 1\nfail_timeout = \"1h\"").start();
    for _ in 0..10 {
        let mut stream = ringlb.connect();
        stream.write_all(b"hello?").expect("sent");
        assert_eq!(net::read_to_end(&mut stream), (vec![], End::Eof));
    }
    let reasons = ringlb.wait_for_ends(10);
    assert!(reasons.iter().all(|reason| reason == "connect_failed"), "{reasons:?}");
    let _backend = Backend::on(only.listen(128), backend::named("only"));
    assert_eq!(net::read_line(&mut ringlb.connect()), "only");
    assert!(!ringlb.log().iter().any(|line| field(line, "message").is_some_and(|text| text.contains("ejected"))));
    ringlb.stop();
}
