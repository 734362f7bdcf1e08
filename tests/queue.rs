//! Clients that wait for a place while all backends are at their `max_connections`. See `docs/queue.md`.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;

use rustix::process::Signal;

use common::api::call;
use common::backend::{self, Backend};
use common::net;
use common::pattern::End;
use common::ringlb::{Config, Ringlb, field};
use common::scrape::Scrape;
use common::{DEADLINE, until};
use ringlb::wire::refusal::HTTP_503;

/// One backend with one place, and a queue.
fn one_place(backend: &Backend, keys: &str) -> Config {
    Config::new(&[]).pool(keys).backend(backend.address(), "max_connections = 1")
}

/// A client that has a place.
fn served(ringlb: &Ringlb) -> TcpStream {
    let mut stream = ringlb.connect();
    stream.write_all(b"hello\n").expect("sent");
    assert_eq!(net::read_line(&mut stream), "a hello");
    stream
}

/// Waits until so many sessions wait.
fn wait_for_waiting(ringlb: &Ringlb, count: usize) {
    ringlb.wait_for_log(&format!("{count} clients wait"), |line| {
        field(line, "message") == Some("client waits") && field(line, "waiting") == Some(&count.to_string())
    });
}

/// Nothing has come for this client: neither a byte nor an end.
fn assert_waits(stream: &TcpStream) {
    stream.set_nonblocking(true).expect("non-blocking");
    let result = stream.peek(&mut [0]);
    assert_eq!(result.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    stream.set_nonblocking(false).expect("blocking");
}

/// A client that waits: it has said a line before anybody could hear it.
fn waiting(ringlb: &Ringlb, number: usize) -> TcpStream {
    let mut stream = ringlb.connect();
    stream.write_all(format!("{number}\n").as_bytes()).expect("sent");
    wait_for_waiting(ringlb, number);
    stream
}

#[test]
fn clients_that_wait_are_served_in_order_of_arrival_over_all_workers() {
    const WAITING: usize = 24;
    let (heard, hears) = channel();
    // Each connection says one line, and its end gives the place to the next.
    let backend = Backend::start(move |mut stream: TcpStream| {
        let line = net::read_line(&mut stream);
        heard.send(line).expect("the test listens");
        stream.write_all(b"a answer\n").expect("sent");
        backend::drain(&mut stream);
    });
    let ringlb = one_place(&backend, "queue_max = 100\nqueue_timeout = \"1h\"").start();
    let mut first = ringlb.connect();
    first.write_all(b"first\n").expect("sent");
    assert_eq!(hears.recv_timeout(DEADLINE).expect("it is served"), "first");
    let clients: Vec<TcpStream> = (1..=WAITING).map(|number| waiting(&ringlb, number)).collect();
    clients.iter().for_each(assert_waits);
    assert_eq!(backend.accepted(), 1);
    drop(first);
    for (number, mut client) in clients.into_iter().enumerate() {
        assert_eq!(hears.recv_timeout(DEADLINE).expect("it is served"), (number + 1).to_string());
        assert_eq!(net::read_line(&mut client), "a answer");
    }
    ringlb.wait_for_ends(WAITING + 1);
    ringlb.stop();
}

#[test]
fn who_waits_too_long_or_finds_the_queue_full_gets_what_when_none_says() {
    let backend = Backend::answering("a");
    for (timeout, reason) in [("1h", "queue_full"), ("50ms", "queue_timeout")] {
        let keys = format!("queue_max = 1\nqueue_timeout = \"{timeout}\"\nwhen_none = \"http_503\"");
        let before = backend.accepted();
        let ringlb = one_place(&backend, &keys).start();
        let mut held = served(&ringlb);
        // The first waits; where it does so for long, the queue is full for the second.
        let waits = (reason == "queue_full").then(|| waiting(&ringlb, 1));
        let mut over = ringlb.connect();
        assert_eq!(net::read_to_end(&mut over), (HTTP_503.into(), End::Eof));
        drop(over);
        assert_eq!(ringlb.wait_for_ends(1), [reason]);
        // Those who have a place, or wait for one, notice nothing of that.
        waits.iter().for_each(assert_waits);
        held.write_all(b"still\n").expect("sent");
        assert_eq!(net::read_line(&mut held), "a still");
        assert_eq!(backend.accepted(), before + 1);
        drop((waits, held));
        ringlb.stop();
    }
}

#[test]
fn those_who_wait_are_counted_for_operators() {
    let backend = Backend::answering("a");
    let config = one_place(&backend, "queue_max = 9\nqueue_timeout = \"1h\"");
    let ringlb = config.process("metrics = \"127.0.0.1:0\"").start();
    let held = served(&ringlb);
    let waits = [waiting(&ringlb, 1), waiting(&ringlb, 2)];
    let count = || Scrape::of(&ringlb).number("ringlb_pool_waiting_clients", &[("pool", "back")]);
    assert_eq!(count(), 2.0);
    assert_eq!(call(&ringlb.admin(), "GET", "/v1/pools/back", "").json(200)["waiting"], 2);
    drop((held, waits));
    until("nobody waits", || (count() == 0.0).then_some(()));
    ringlb.stop();
}

#[test]
fn backups_serve_those_whom_the_queue_does_not_take() {
    let (primary, backup) = (Backend::answering("a"), Backend::answering("backup"));
    let config =
        one_place(&primary, "queue_max = 1\nqueue_timeout = \"1h\"").backend(backup.address(), "backup = true");
    let ringlb = config.start();
    let held = served(&ringlb);
    let mut waits = waiting(&ringlb, 1);
    let mut over = ringlb.connect();
    over.write_all(b"over\n").expect("sent");
    assert_eq!(net::read_line(&mut over), "backup over");
    assert_waits(&waits);
    drop(held);
    assert_eq!(net::read_line(&mut waits), "a 1");
    drop((waits, over));
    ringlb.stop();
}

#[test]
fn a_client_that_resets_while_it_waits_leaves_the_queue_and_one_that_ends_its_stream_does_not() {
    let backend = Backend::answering("a");
    let ringlb = one_place(&backend, "queue_max = 2\nqueue_timeout = \"1h\"").start();
    let held = served(&ringlb);
    let gone = waiting(&ringlb, 1);
    let mut ended = waiting(&ringlb, 2);
    ended.shutdown(Shutdown::Write).expect("half-close");
    net::reset(gone);
    assert_eq!(ringlb.wait_for_ends(1), ["client_reset"]);
    // The one that has left has made room in the queue.
    let mut last = ringlb.connect();
    last.write_all(b"last\n").expect("sent");
    until("it waits", || {
        let log = ringlb.log();
        (log.iter().filter(|line| field(line, "message") == Some("client waits")).count() == 3).then_some(())
    });
    drop(held);
    assert_eq!(net::read_to_end(&mut ended), (b"a 2\n".to_vec(), End::Eof));
    assert_eq!(net::read_line(&mut last), "a last");
    drop(last);
    let ends = ringlb.wait_for_ends(4);
    assert_eq!(ends, ["client_eof", "client_eof", "client_eof", "client_reset"]);
    assert_eq!(backend.accepted(), 3);
    ringlb.stop();
}

/// A reset behind the end of the stream is seen too, although nobody receives any more.
#[test]
fn a_client_that_resets_after_its_end_of_stream_leaves_the_queue() {
    let backend = Backend::answering("a");
    let ringlb = one_place(&backend, "queue_max = 2\nqueue_timeout = \"1h\"").start();
    let held = served(&ringlb);
    let gone = waiting(&ringlb, 1);
    gone.shutdown(Shutdown::Write).expect("half-close");
    net::reset(gone);
    assert_eq!(ringlb.wait_for_ends(1), ["client_reset"]);
    drop(held);
    ringlb.wait_for_ends(2);
    assert_eq!(backend.accepted(), 1);
    ringlb.stop();
}

#[test]
fn those_who_wait_for_a_backend_that_dies_are_served_by_others() {
    let (doomed, other) = (Backend::answering("doomed"), Backend::answering("other"));
    let keys = "queue_max = 100\nqueue_timeout = \"1h\"\nmax_fails = 1\nfail_timeout = \"1h\"";
    let config = one_place(&doomed, keys).backend(other.address(), "max_connections = 1");
    let ringlb = config.start();
    let mut held: Vec<TcpStream> = (0..2).map(|_| ringlb.connect()).collect();
    let mut answers: Vec<String> = Vec::new();
    for stream in &mut held {
        stream.write_all(b"hello\n").expect("sent");
        answers.push(net::read_line(stream));
    }
    let on_doomed = answers.iter().position(|answer| answer == "doomed hello").expect("one of the two");
    let mut waits: Vec<TcpStream> = (1..=4).map(|number| waiting(&ringlb, number)).collect();
    // It refuses from now on, and its only session ends: its place goes to somebody who finds that out.
    drop(doomed);
    drop(held.swap_remove(on_doomed));
    ringlb.wait_for_log("it is ejected", |line| {
        field(line, "message").is_some_and(|message| message.contains("is ejected"))
    });
    held.iter().chain(&waits).for_each(assert_waits);
    drop(held);
    let mut served = 0;
    while !waits.is_empty() {
        // One after the other; the one who has tried the dead backend is the last.
        let next = until("somebody is served", || {
            waits.iter().position(|stream| {
                stream.set_nonblocking(true).expect("non-blocking");
                let ready = stream.peek(&mut [0]).is_ok();
                stream.set_nonblocking(false).expect("blocking");
                ready
            })
        });
        let mut stream = waits.remove(next);
        assert!(net::read_line(&mut stream).starts_with("other "));
        served += 1;
    }
    assert_eq!(served, 4);
    ringlb.stop();
}

#[test]
fn who_waits_at_sigterm_is_served_within_the_shutdown_timeout() {
    let backend = Backend::answering("a");
    let mut ringlb =
        one_place(&backend, "queue_max = 10\nqueue_timeout = \"1h\"").process("shutdown_timeout = \"10m\"").start();
    let held = served(&ringlb);
    let mut waits = waiting(&ringlb, 1);
    ringlb.signal(Signal::TERM);
    ringlb.wait_for_log("it drains", |line| field(line, "message") == Some("draining"));
    assert_waits(&waits);
    drop(held);
    assert_eq!(net::read_line(&mut waits), "a 1");
    drop(waits);
    assert_eq!(ringlb.wait().code(), Some(0));
    assert_eq!(ringlb.ends(), ["client_eof", "client_eof"]);
}

#[test]
fn who_waits_when_the_shutdown_timeout_is_over_is_reset() {
    let backend = Backend::answering("a");
    let mut ringlb =
        one_place(&backend, "queue_max = 10\nqueue_timeout = \"1h\"").process("shutdown_timeout = \"200ms\"").start();
    let mut held = served(&ringlb);
    let mut waits = waiting(&ringlb, 1);
    ringlb.signal(Signal::TERM);
    assert_eq!(net::read_to_end(&mut waits), (vec![], End::Reset));
    assert_eq!(net::read_to_end(&mut held), (vec![], End::Reset));
    assert_eq!(ringlb.wait().code(), Some(0));
    assert_eq!(ringlb.ends(), ["shutdown", "shutdown"]);
}

/// What a client says while it waits is held, and what it may say has a bound; all of it arrives, once and in order.
#[test]
fn what_a_client_says_while_it_waits_arrives_whole() {
    let len = 2 * 1024 * 1024;
    let (heard, hears) = channel();
    let first = Mutex::new(true);
    let backend = Backend::start(move |mut stream: TcpStream| {
        if std::mem::take(&mut *first.lock().expect("a lock")) {
            stream.write_all(b"!").expect("sent");
            backend::drain(&mut stream);
        } else {
            heard.send(common::pattern::read(&mut stream, 1)).expect("the test listens");
        }
    });
    let ringlb = one_place(&backend, "queue_max = 1\nqueue_timeout = \"1h\"").start();
    let mut held = ringlb.connect();
    held.read_exact(&mut [0]).expect("it is served");
    let mut waits = ringlb.connect();
    wait_for_waiting(&ringlb, 1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            common::pattern::write(&mut waits, 1, len);
            waits.shutdown(Shutdown::Write).expect("half-close");
        });
        drop(held);
        assert_eq!(hears.recv_timeout(DEADLINE), Ok((len, End::Eof)));
    });
    drop(waits);
    ringlb.stop();
}

/// The example of the documentation does what it says.
#[test]
fn the_example_in_the_documentation_works() {
    let page = include_str!("../docs/queue.md");
    let text = page.split("```toml\n").nth(1).expect("an example").split("```").next().expect("its end");
    let backends: Vec<Backend> = ["a", "b"].into_iter().map(Backend::answering).collect();
    // On free ports, and with one place instead of a hundred.
    let text = text
        .replace("0.0.0.0:8080", "127.0.0.1:0")
        .replace("10.0.0.1:3000", &backends[0].address().to_string())
        .replace("10.0.0.2:3000", &backends[1].address().to_string())
        .replace("max_connections = 100", "max_connections = 1");
    let start = |timeout: &str| {
        let text = text.replace("queue_timeout = \"5s\"", &format!("queue_timeout = \"{timeout}\""));
        Ringlb::with_file(&format!("log = \"info,ringlb::worker=debug\"\nlog_format = \"json\"\n{text}"))
    };
    let ringlb = start("1h");
    let mut held: Vec<TcpStream> = (0..2).map(|_| ringlb.connect()).collect();
    for stream in &mut held {
        stream.write_all(b"hello\n").expect("sent");
        assert!(net::read_line(stream).ends_with(" hello"));
    }
    let mut waits = waiting(&ringlb, 1);
    drop(held);
    assert!(net::read_line(&mut waits).ends_with(" 1"));
    drop(waits);
    ringlb.stop();
    // And who waits too long is told so.
    let ringlb = start("50ms");
    let mut late: Vec<TcpStream> = (0..2).map(|_| ringlb.connect()).collect();
    for stream in &mut late {
        stream.write_all(b"hello\n").expect("sent");
        assert!(net::read_line(stream).ends_with(" hello"));
    }
    let mut over = ringlb.connect();
    assert_eq!(net::read_to_end(&mut over), (HTTP_503.into(), End::Eof));
    drop((late, over));
    ringlb.stop();
}
