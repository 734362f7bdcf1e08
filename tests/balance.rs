//! Who serves: exact shares over all workers, and what happens when backends are down.

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use common::backend::{self, Backend};
use common::net::{self, Reserved};
use common::pattern::End;
use common::ringlb::{Config, Ringlb};
use common::{at_once, until};

const NAMES: [&str; 3] = ["a", "b", "c"];

fn three() -> Vec<Backend> {
    NAMES.iter().map(|name| Backend::named(name)).collect()
}

/// Opens `count` connections at once and holds them. Gives them, and how many each backend has got.
fn hold(ringlb: &Ringlb, count: usize) -> (Vec<TcpStream>, BTreeMap<String, usize>) {
    let address = ringlb.address();
    let held = at_once(count, |_| {
        let mut stream = net::connect(address);
        let name = net::read_line(&mut stream);
        (stream, name)
    });
    let mut shares = BTreeMap::new();
    let streams = held.into_iter().map(|(stream, name)| {
        *shares.entry(name).or_default() += 1;
        stream
    });
    (streams.collect(), shares)
}

fn shares(of: [usize; 3]) -> BTreeMap<String, usize> {
    NAMES.into_iter().map(str::to_owned).zip(of).collect()
}

#[test]
fn held_connections_are_shared_exactly_over_two_workers() {
    const ROUNDS: usize = 10;
    let backends = three();
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let ringlb = Config::new(&addresses).start();
    for round in 1..=ROUNDS {
        let (streams, got) = hold(&ringlb, 30);
        assert_eq!(got, shares([10, 10, 10]), "round {round}");
        drop(streams);
        // A connection counts until it is over.
        ringlb.wait_for_ends(30 * round);
    }
    ringlb.stop();
}

#[test]
fn weights_are_exact_over_two_workers() {
    let backends = three();
    let mut config = Config::new(&[]);
    for (weight, backend) in (1..).zip(&backends) {
        config = config.backend(backend.address(), &format!("weight = {weight}"));
    }
    let ringlb = config.start();
    for round in 1..=5 {
        let (streams, got) = hold(&ringlb, 60);
        assert_eq!(got, shares([10, 20, 30]), "round {round}");
        drop(streams);
        ringlb.wait_for_ends(60 * round);
    }
    ringlb.stop();
}

#[test]
fn round_robin_takes_turns_over_two_workers() {
    let backends = three();
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let ringlb = Config::new(&addresses).pool("policy = \"round_robin\"").start();
    let names: Vec<String> = (0..30).map(|_| net::read_line(&mut ringlb.connect())).collect();
    for turn in names.windows(4) {
        assert_ne!(turn[0], turn[1], "{names:?}");
        assert_eq!(turn[0], turn[3], "{names:?}");
    }
    ringlb.stop();
}

#[test]
fn round_robin_obeys_weights_in_every_cycle() {
    let backends = three();
    let mut config = Config::new(&[]).pool("policy = \"round_robin\"");
    for (weight, backend) in (1..).zip(&backends) {
        config = config.backend(backend.address(), &format!("weight = {weight}"));
    }
    let ringlb = config.start();
    for _ in 0..5 {
        assert_eq!(hold(&ringlb, 6).1, shares([1, 2, 3]));
    }
    ringlb.stop();
}

#[test]
fn connections_that_come_and_go_leave_no_share_behind() {
    let backends = three();
    let addresses: Vec<_> = backends.iter().map(Backend::address).collect();
    let ringlb = Config::new(&addresses).start();
    at_once(10, |_| {
        for _ in 0..50 {
            net::read_line(&mut ringlb.connect());
        }
    });
    ringlb.wait_for_ends(500);
    let (streams, got) = hold(&ringlb, 30);
    assert_eq!(got, shares([10, 10, 10]));
    drop(streams);
    ringlb.stop();
}

#[test]
fn a_dead_backend_among_live_ones_loses_no_client() {
    let dead = Reserved::new();
    let live = [Backend::named("a"), Backend::named("b")];
    let ringlb = Config::new(&[dead.address(), live[0].address(), live[1].address()]).start();
    let (streams, got) = hold(&ringlb, 60);
    assert_eq!(got.values().sum::<usize>(), 60, "{got:?}");
    drop(streams);
    ringlb.stop();
}

#[test]
fn two_dead_backends_before_a_live_one_lose_no_client() {
    let dead = [Reserved::new(), Reserved::new()];
    let live = Backend::named("a");
    let ringlb = Config::new(&[dead[0].address(), dead[1].address(), live.address()])
        .pool("policy = \"round_robin\"\nconnect_attempts = 3")
        .start();
    let (streams, got) = hold(&ringlb, 60);
    assert_eq!(got, BTreeMap::from([("a".to_owned(), 60)]));
    drop(streams);
    ringlb.stop();
}

/// No timeout has to pass: those that could are longer than any deadline of the test.
#[test]
fn with_all_backends_down_clients_are_closed_at_once_without_cpu_and_served_when_one_returns() {
    let dead = [Reserved::new(), Reserved::new(), Reserved::new()];
    let addresses: Vec<_> = dead.iter().map(Reserved::address).collect();
    let ringlb = Config::new(&addresses)
        .pool("connect_timeout = \"1h\"\nconnect_budget = \"1h\"\nfail_timeout = \"300ms\"")
        .start();
    let before = ringlb.cpu_time();
    at_once(100, |_| {
        for _ in 0..3 {
            let mut stream = ringlb.connect();
            stream.write_all(b"hello?").expect("sent");
            assert_eq!(net::read_to_end(&mut stream), (vec![], End::Eof));
        }
    });
    // 900 refused connects; a loop that spins takes seconds.
    let spent = ringlb.cpu_time() - before;
    assert!(spent < Duration::from_millis(1500), "{spent:?} for 300 clients");
    let reasons = ringlb.wait_for_ends(300);
    assert!(reasons.iter().all(|reason| reason == "connect_failed" || reason == "no_backend"), "{reasons:?}");

    ringlb.assert_rests();

    let [_, returns, _] = dead;
    let _backend = Backend::on(returns.listen(128), backend::named("back"));
    // Where it was ejected this takes a while.
    until("the backend that has returned gets a client", || net::read_to_end_of_line(&mut ringlb.connect()));
    ringlb.stop();
}

#[test]
fn a_backend_that_leaves_and_returns_is_used_again() {
    let first = Backend::named("a");
    let second = Reserved::new();
    let ringlb = Config::new(&[first.address(), second.address()]).pool("fail_timeout = \"300ms\"").start();
    let (streams, got) = hold(&ringlb, 10);
    assert_eq!(got, BTreeMap::from([("a".to_owned(), 10)]));
    let _second = Backend::on(second.listen(128), backend::named("b"));
    // Where it was ejected this takes a while.
    until("the backend that has returned gets a client", || {
        (net::read_line(&mut ringlb.connect()) == "b").then_some(())
    });
    drop(streams);
    ringlb.stop();
}
