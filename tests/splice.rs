//! Bulk goes through pipes where there are any, and looks to both sides as if there were none.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Instant;

use rustix::process::{Resource, Rlimit, prlimit};
use socket2::SockRef;

use common::backend::{self, Backend};
use common::net;
use common::pattern::{self, End};
use common::procfs::{self, descriptors_besides_pipes, pipes};
use common::ringlb::{Config, Ringlb};
use common::{DEADLINE, at_once, until};
use ringlb::limits::{PIPES_KEPT, PIPES_MAX};

const MIB: u64 = 1024 * 1024;

/// Enough to be spliced whatever the machine does.
const BULK: u64 = 16 * MIB;

/// The backends' streams have numbers of their own.
const ANSWER: usize = 1000;

/// Answers a line that names a length with so many bytes, and then does what `end` does.
fn answering(end: impl Fn(TcpStream) + Send + Sync + 'static) -> Backend {
    Backend::start(move |mut stream| {
        let len = net::read_line(&mut stream).parse().expect("a number");
        pattern::write(&mut stream, ANSWER, len);
        end(stream);
    })
}

fn ask(ringlb: &Ringlb, len: u64) -> TcpStream {
    let mut stream = ringlb.connect();
    writeln!(stream, "{len}").expect("the request is sent");
    stream
}

#[test]
fn bulk_goes_through_few_pipes_and_messages_through_none() {
    let backend = answering(|mut stream| assert_eq!(backend::drain(&mut stream), 0));
    let ringlb = Config::new(&[backend.address()]).one_worker().start();
    let before = pipes(ringlb.pid());
    at_once(8, |_| pattern::read_exactly(&mut ask(&ringlb, 10_000), ANSWER, 10_000));
    assert_eq!(pipes(ringlb.pid()), before);
    at_once(8, |_| pattern::read_exactly(&mut ask(&ringlb, BULK), ANSWER, BULK));
    let used = pipes(ringlb.pid()) - before;
    println!("{used} pipes");
    assert!((1..=8).contains(&used), "{used} pipes for 8 flows");
    ringlb.stop();
}

#[test]
fn the_longest_duration_counts_for_bulk_that_never_pauses() {
    const FLOWS: usize = 64;
    let backend = Backend::start(|mut stream| while stream.write_all(&[0; 262_144]).is_ok() {});
    let config = Config::new(&[backend.address()]).one_worker().listener("max_session_duration = \"1s\"");
    let ringlb = config.start();
    at_once(FLOWS, |_| {
        let (mut stream, mut bytes) = (ringlb.connect(), vec![0; 1 << 20]);
        let end = Instant::now() + DEADLINE;
        while Instant::now() < end && stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
    });
    assert_eq!(ringlb.wait_for_ends(FLOWS), vec!["max_session_duration"; FLOWS]);
    ringlb.stop();
}

#[test]
fn the_end_of_a_spliced_stream_leaves_the_other_direction_open() {
    let (heard, hears) = channel();
    let backend = Backend::start(move |mut stream| {
        heard.send(pattern::read(&mut stream, 1)).expect("the test listens");
        pattern::write(&mut stream, ANSWER, BULK);
        backend::end_stream(&stream);
    });
    let ringlb = Config::new(&[backend.address()]).start();
    let mut stream = ringlb.connect();
    pattern::write(&mut stream, 1, BULK);
    stream.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(hears.recv_timeout(DEADLINE), Ok((BULK, End::Eof)));
    assert_eq!(pattern::read(&mut stream, ANSWER), (BULK, End::Eof));
    assert_eq!(ringlb.wait_for_ends(1), ["client_eof"]);
    ringlb.stop();
}

#[test]
fn a_reset_behind_a_spliced_stream_arrives_after_the_whole_of_it() {
    let backend = answering(|stream| {
        until("all is acknowledged", || (procfs::unacknowledged(&stream) == 0).then_some(()));
        net::reset(stream);
    });
    let ringlb = Config::new(&[backend.address()]).start();
    let mut stream = ask(&ringlb, BULK);
    assert_eq!(pattern::read(&mut stream, ANSWER), (BULK, End::Reset));
    assert_eq!(ringlb.wait_for_ends(1), ["backend_reset"]);
    ringlb.stop();
}

#[test]
fn a_client_that_resets_in_the_middle_of_a_spliced_answer_ends_its_backend_and_leaves_nothing() {
    const CLIENTS: usize = 20;
    let (heard, hears) = channel();
    let backend = Backend::start(move |mut stream| {
        while stream.write_all(&[0; 65_536]).is_ok() {}
        heard.send(()).expect("the test listens");
    });
    let ringlb = Config::new(&[backend.address()]).one_worker().start();
    let (before, pipes_before) = (descriptors_besides_pipes(ringlb.pid()), pipes(ringlb.pid()));
    at_once(CLIENTS, |number| {
        let mut stream = ringlb.connect();
        stream.read_exact(&mut vec![0; BULK as usize]).expect("a part of the answer");
        if number % 2 == 0 {
            // A full pipe, and nobody who empties it.
            until("ringlb waits for room", || (unread(&stream) > 100_000).then_some(()));
        }
        net::reset(stream);
    });
    for _ in 0..CLIENTS {
        hears.recv_timeout(DEADLINE).expect("the backend's writes fail");
    }
    assert_eq!(ringlb.wait_for_ends(CLIENTS), vec!["client_reset"; CLIENTS]);
    until("only a few pipes are left", || (descriptors_besides_pipes(ringlb.pid()) <= before).then_some(()));
    assert!(pipes(ringlb.pid()) - pipes_before <= PIPES_KEPT);
    ringlb.stop();
}

/// Bytes that wait to be read here.
fn unread(stream: &TcpStream) -> u64 {
    rustix::io::ioctl_fionread(stream).expect("a socket")
}

/// More of them than there may be pipes.
#[test]
fn clients_who_do_not_read_hold_no_more_pipes_than_there_are_and_keep_nobody_from_bulk() {
    let backend = Backend::start(move |mut stream| {
        let len: u64 = net::read_line(&mut stream).parse().expect("a number");
        SockRef::from(&stream).set_send_buffer_size(64 * 1024).expect("a small send buffer");
        if len > 0 {
            pattern::write(&mut stream, ANSWER, len);
            return;
        }
        while stream.write_all(&[0; 65_536]).is_ok() {}
    });
    let ringlb = Config::new(&[backend.address()]).one_worker().start();
    let before = pipes(ringlb.pid());
    let idle: Vec<TcpStream> = at_once(PIPES_MAX + 20, |_| {
        let mut stream = ask(&ringlb, 0);
        stream.read_exact(&mut vec![0; 2 * MIB as usize]).expect("a part of the answer");
        stream
    });
    at_once(4, |_| assert_eq!(pattern::read(&mut ask(&ringlb, BULK), ANSWER), (BULK, End::Eof)));
    let used = pipes(ringlb.pid()) - before;
    println!("{used} pipes");
    assert!((1..=PIPES_MAX).contains(&used), "{used} pipes");
    drop(idle);
    ringlb.wait_for_ends(PIPES_MAX + 20 + 4);
    ringlb.stop();
}

#[test]
fn without_descriptors_for_pipes_bulk_is_copied() {
    let (go, may_go) = channel::<()>();
    let may_go = Mutex::new(may_go);
    let backend = Backend::start(move |mut stream| {
        stream.write_all(b"hello\n").expect("sent");
        may_go.lock().expect("a lock").recv().expect("the test says when");
        thread::scope(|scope| {
            scope.spawn(|| {
                pattern::write(&mut &stream, ANSWER, BULK);
                backend::end_stream(&stream);
            });
            assert_eq!(pattern::read(&mut &stream, 1), (BULK, End::Eof));
        });
    });
    let ringlb = Config::new(&[backend.address()]).one_worker().start();
    let before = pipes(ringlb.pid());
    let mut stream = ringlb.connect();
    assert_eq!(net::read_line(&mut stream), "hello");
    let limit = Rlimit { current: Some(1), maximum: Some(4096) };
    prlimit(Some(ringlb.rustix_pid()), Resource::Nofile, limit).expect("the limit is lowered");
    go.send(()).expect("the backend listens");
    thread::scope(|scope| {
        scope.spawn(|| {
            pattern::write(&mut &stream, 1, BULK);
            backend::end_stream(&stream);
        });
        assert_eq!(pattern::read(&mut &stream, ANSWER), (BULK, End::Eof));
    });
    assert_eq!(pipes(ringlb.pid()), before);
    ringlb.stop();
}
