//! The end of the process: nobody is refused before it, nobody is lost in it.

mod common;

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustix::process::Signal;

use common::backend::Backend;
use common::net;
use common::pattern::{self, End};
use common::ringlb::{Config, Ringlb, field};
use common::until;

/// One client: a line, its answer, the end. Says whether it was refused instead.
fn request(address: SocketAddr) -> Result<(), String> {
    let mut stream = match net::try_connect(address) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Err("refused".into()),
        Err(error) => panic!("connect: {error}"),
    };
    // From here on it was accepted by the kernel, so it must be served.
    stream.write_all(b"hello\n").expect("the request is sent");
    let answer = net::read_line(&mut stream);
    assert_eq!(answer, "a hello");
    stream.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(net::read_to_end(&mut stream), (vec![], End::Eof));
    Ok(())
}

/// What `GET /ready` answers: the status.
fn ready(address: SocketAddr) -> u16 {
    let mut stream = net::connect(address);
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("the request is sent");
    let status = net::read_line(&mut stream);
    status.split(' ').nth(1).expect("a status").parse().expect("a number")
}

fn wait_for_message(ringlb: &Ringlb, message: &str) {
    ringlb.wait_for_log(message, |line| field(line, "message") == Some(message));
}

/// Connects and is served, so that the session stands.
fn held(ringlb: &Ringlb) -> TcpStream {
    let mut stream = ringlb.connect();
    stream.write_all(b"hello\n").expect("sent");
    assert_eq!(net::read_line(&mut stream), "a hello");
    stream
}

#[test]
fn sigterm_under_traffic_refuses_and_loses_nobody() {
    let backend = Backend::answering("a");
    let mut ringlb =
        Config::new(&[backend.address()]).process("shutdown_delay = \"1s\"\nmetrics = \"127.0.0.1:0\"").start();
    let (address, metrics) = (ringlb.address(), ringlb.metrics_address());
    let (served, told) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while request(address).is_ok() {
                    served.fetch_add(1, Ordering::Relaxed);
                }
                assert!(told.load(Ordering::SeqCst), "a client was refused before the signal");
            });
        }
        until("clients are served", || (served.load(Ordering::Relaxed) > 200).then_some(()));
        assert_eq!(ready(metrics), 200);
        told.store(true, Ordering::SeqCst);
        ringlb.signal(Signal::TERM);
        until("/ready says so", || (ready(metrics) == 503).then_some(()));
        let then = served.load(Ordering::Relaxed);
        // Balancers before us look at /ready only now and then: their clients are still served.
        until("accepting goes on", || (served.load(Ordering::Relaxed) > then + 50).then_some(()));
    });
    assert_eq!(ringlb.wait().code(), Some(0));
    assert_eq!(request(address), Err("refused".into()));
    println!("{} clients served", served.load(Ordering::Relaxed));
    assert!(ringlb.ends().iter().all(|reason| reason == "client_eof"), "{:?}", ringlb.ends());
}

#[test]
fn sessions_may_finish_after_sigterm() {
    let backend = Backend::echo();
    let mut ringlb = Config::new(&[backend.address()]).process("shutdown_timeout = \"10m\"").start();
    let mut stream = ringlb.connect();
    pattern::write(&mut stream, 1, 1000);
    pattern::read_exactly(&mut stream, 1, 1000);
    ringlb.signal(Signal::TERM);
    wait_for_message(&ringlb, "draining");
    until("connects are refused", || net::try_connect(ringlb.address()).err());
    thread::scope(|scope| {
        scope.spawn(|| {
            pattern::write(&mut &stream, 2, 4 << 20);
            stream.shutdown(Shutdown::Write).expect("half-close");
        });
        assert_eq!(pattern::read(&mut &stream, 2), (4 << 20, End::Eof));
    });
    assert_eq!(ringlb.wait().code(), Some(0));
    assert!(ringlb.ends().iter().all(|reason| reason == "client_eof"), "{:?}", ringlb.ends());
}

#[test]
fn sessions_that_are_left_at_the_shutdown_timeout_are_reset() {
    for signal in [Signal::TERM, Signal::INT] {
        let backend = Backend::answering("a");
        let mut ringlb = Config::new(&[backend.address()]).process("shutdown_timeout = \"200ms\"").start();
        let mut streams: Vec<_> = (0..10).map(|_| held(&ringlb)).collect();
        ringlb.signal(signal);
        for stream in &mut streams {
            assert_eq!(net::read_to_end(stream), (vec![], End::Reset));
        }
        assert_eq!(ringlb.wait().code(), Some(0));
        assert_eq!(ringlb.ends(), vec!["shutdown"; 10]);
        until("the backend is told", || (backend.active() == 0).then_some(()));
    }
}

#[test]
fn a_second_signal_ends_the_drain_at_once() {
    let backend = Backend::answering("a");
    let mut ringlb = Config::new(&[backend.address()]).process("shutdown_timeout = \"10m\"").start();
    let mut stream = held(&ringlb);
    ringlb.signal(Signal::TERM);
    wait_for_message(&ringlb, "draining");
    ringlb.signal(Signal::INT);
    assert_eq!(net::read_to_end(&mut stream), (vec![], End::Reset));
    assert_eq!(ringlb.wait().code(), Some(0));
}

#[test]
fn a_second_signal_cuts_the_shutdown_delay_short() {
    let backend = Backend::answering("a");
    let mut ringlb = Config::new(&[backend.address()]).process("shutdown_delay = \"10m\"").start();
    let mut stream = held(&ringlb);
    ringlb.signal(Signal::TERM);
    wait_for_message(&ringlb, "draining");
    drop(held(&ringlb));
    ringlb.signal(Signal::TERM);
    assert_eq!(net::read_to_end(&mut stream), (vec![], End::Reset));
    assert_eq!(ringlb.wait().code(), Some(0));
}

#[test]
fn clients_in_the_accept_queue_are_served_by_the_drain() {
    let backend = Backend::answering("a");
    let mut ringlb = Config::new(&[backend.address()]).listener("max_connections = 1").start();
    let first = held(&ringlb);
    wait_for_message(&ringlb, "the listener's max_connections is reached: new clients wait in the backlog");
    let mut waiting: Vec<_> = (0..20).map(|_| ringlb.connect()).collect();
    ringlb.signal(Signal::TERM);
    for stream in &mut waiting {
        stream.write_all(b"hello\n").expect("sent");
        assert_eq!(net::read_line(stream), "a hello");
    }
    drop((first, waiting));
    assert_eq!(ringlb.wait().code(), Some(0));
}

#[test]
fn sighup_and_sigusr1_hurt_nobody() {
    let backend = Backend::answering("a");
    let ringlb = Config::new(&[backend.address()]).start();
    let mut stream = held(&ringlb);
    for signal in [Signal::HUP, Signal::USR1, Signal::PIPE] {
        ringlb.signal(signal);
    }
    ringlb.wait_for_log("it answers", |line| line.contains("SIGUSR1"));
    stream.write_all(b"still there\n").expect("sent");
    assert_eq!(net::read_line(&mut stream), "a still there");
    drop(stream);
    ringlb.stop();
}
