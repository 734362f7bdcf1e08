//! What a connection looks like on both of its sides: bytes, half-closes, resets. See `docs/wire.md`.

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::mpsc::{self, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::backend::{self, Backend};
use common::net::{self, Reserved, black_hole};
use common::pattern::{self, End};
use common::ringlb::Config;
use common::{DEADLINE, at_once, procfs, until};
use ringlb::relay::Side;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// The backends' streams have numbers of their own.
const ANSWER: usize = 1000;

#[test]
fn sixty_four_mib_each_way_on_fifty_connections_at_once_arrive_byte_for_byte() {
    const CONNECTIONS: usize = 50;
    let len = 64 * MIB;
    let (verdicts, heard) = channel();
    let backend = Backend::start(move |mut stream| {
        let mut number = [0; 8];
        stream.read_exact(&mut number).expect("the number of the stream");
        let number = usize::from_ne_bytes(number);
        let read = thread::scope(|scope| {
            scope.spawn(|| {
                pattern::write(&mut &stream, ANSWER + number, len);
                backend::end_stream(&stream);
            });
            pattern::read(&mut &stream, number)
        });
        verdicts.send((number, read)).expect("the test listens");
    });
    let ringlb = Config::new(&[backend.address()]).start();
    let start = Instant::now();
    let read = at_once(CONNECTIONS, |number| {
        let mut stream = ringlb.connect();
        stream.write_all(&number.to_ne_bytes()).expect("the number is sent");
        thread::scope(|scope| {
            scope.spawn(|| {
                pattern::write(&mut &stream, number, len);
                backend::end_stream(&stream);
            });
            pattern::read(&mut &stream, ANSWER + number)
        })
    });
    println!("{CONNECTIONS} connections, {} MiB each way: {:?}", len / MIB, start.elapsed());
    assert_eq!(read, vec![(len, End::Eof); CONNECTIONS]);
    let mut verdicts: Vec<_> = heard.iter().take(CONNECTIONS).collect();
    verdicts.sort_unstable_by_key(|(number, _)| *number);
    let wanted: Vec<_> = (0..CONNECTIONS).map(|number| (number, (len, End::Eof))).collect();
    assert_eq!(verdicts, wanted);
    ringlb.stop();
}

#[test]
fn a_client_that_ends_its_stream_gets_a_late_answer_whole() {
    let (go, may_go) = channel();
    let may_go = Mutex::new(may_go);
    let backend = Backend::start(move |mut stream| {
        let asked = pattern::read(&mut stream, 1);
        assert_eq!(asked, (100 * KIB, End::Eof));
        may_go.lock().expect("a lock").recv_timeout(DEADLINE).expect("the test says when");
        pattern::write(&mut stream, ANSWER, MIB);
    });
    let ringlb = Config::new(&[backend.address()]).start();
    let mut stream = ringlb.connect();
    pattern::write(&mut stream, 1, 100 * KIB);
    stream.shutdown(Shutdown::Write).expect("half-close");
    go.send(()).expect("the backend listens");
    assert_eq!(pattern::read(&mut stream, ANSWER), (MIB, End::Eof));
    assert_eq!(ringlb.wait_for_ends(1), ["client_eof"]);
    ringlb.stop();
}

#[test]
fn a_backend_that_ends_its_stream_first_still_receives() {
    let (heard, hears) = channel();
    let backend = Backend::start(move |mut stream| {
        pattern::write(&mut stream, ANSWER, 100 * KIB);
        backend::end_stream(&stream);
        heard.send(pattern::read(&mut stream, 1)).expect("the test listens");
    });
    let ringlb = Config::new(&[backend.address()]).start();
    let mut stream = ringlb.connect();
    // All of it, and its end, before the client says anything.
    assert_eq!(pattern::read(&mut stream, ANSWER), (100 * KIB, End::Eof));
    pattern::write(&mut stream, 1, MIB);
    stream.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(hears.recv_timeout(DEADLINE), Ok((MIB, End::Eof)));
    assert_eq!(ringlb.wait_for_ends(1), ["backend_eof"]);
    ringlb.stop();
}

#[test]
fn a_client_that_ends_its_stream_before_its_backend_is_connected_is_not_gone() {
    let (listener, filler) = black_hole();
    let ringlb = Config::new(&[listener.local_addr().expect("an address")]).start();
    let mut stream = ringlb.connect();
    pattern::write(&mut stream, 1, 10 * KIB);
    stream.shutdown(Shutdown::Write).expect("half-close");
    drop(filler);
    drop(listener.accept().expect("the filler"));
    let (mut backend, _) = listener.accept().expect("ringlb's connection");
    net::limit(&backend);
    assert_eq!(pattern::read(&mut backend, 1), (10 * KIB, End::Eof));
    pattern::write(&mut backend, ANSWER, 10 * KIB);
    drop(backend);
    assert_eq!(pattern::read(&mut stream, ANSWER), (10 * KIB, End::Eof));
}

/// Answers with `len` bytes, waits until they are acknowledged if so wanted, resets, and says so.
fn resetting_backend(len: u64, acknowledged: bool) -> (Backend, mpsc::Receiver<()>) {
    let (done, is_done) = channel();
    let backend = Backend::start(move |mut stream| {
        // The client speaks first, so that it is certain to be there.
        stream.read_exact(&mut [0]).expect("a byte of the client");
        pattern::write(&mut stream, ANSWER, len);
        if acknowledged {
            until("all is acknowledged", || (procfs::unacknowledged(&stream) == 0).then_some(()));
        }
        net::reset(stream);
        done.send(()).expect("the test listens");
    });
    (backend, is_done)
}

#[test]
fn a_backends_reset_arrives_after_the_whole_of_its_answer() {
    for len in [1, 100 * KIB, MIB] {
        let (backend, _is_done) = resetting_backend(len, true);
        let ringlb = Config::new(&[backend.address()]).start();
        let mut stream = ringlb.connect();
        stream.write_all(b"?").expect("a byte is sent");
        assert_eq!(pattern::read(&mut stream, ANSWER), (len, End::Reset), "{len} bytes");
        assert_eq!(ringlb.wait_for_ends(1), ["backend_reset"]);
        ringlb.stop();
    }
}

#[test]
fn a_backends_reset_waits_for_a_client_who_reads_late() {
    for len in [1, 100 * KIB] {
        let (backend, is_done) = resetting_backend(len, true);
        let ringlb = Config::new(&[backend.address()]).start();
        let mut stream = ringlb.connect();
        stream.write_all(b"?").expect("a byte is sent");
        is_done.recv_timeout(DEADLINE).expect("the backend has reset");
        assert_eq!(pattern::read(&mut stream, ANSWER), (len, End::Reset), "{len} bytes");
        ringlb.stop();
    }
}

#[test]
fn a_backends_sudden_reset_is_a_reset_after_a_part_of_its_answer() {
    for len in [0, 1, 100 * KIB, MIB] {
        let (backend, _is_done) = resetting_backend(len, false);
        let ringlb = Config::new(&[backend.address()]).start();
        let mut stream = ringlb.connect();
        stream.write_all(b"?").expect("a byte is sent");
        let (read, end) = pattern::read(&mut stream, ANSWER);
        assert!(read <= len);
        assert_eq!(end, End::Reset, "{read} of {len} bytes");
        assert_eq!(ringlb.wait_for_ends(1), ["backend_reset"]);
        ringlb.stop();
    }
}

#[test]
fn a_clients_reset_arrives_after_the_whole_of_what_it_said() {
    for len in [1, 100 * KIB, MIB] {
        let (heard, hears) = channel();
        let backend = Backend::start(move |mut stream| {
            heard.send(pattern::read(&mut stream, 1)).expect("the test listens");
        });
        let ringlb = Config::new(&[backend.address()]).start();
        let mut stream = ringlb.connect();
        pattern::write(&mut stream, 1, len);
        until("all is acknowledged", || (procfs::unacknowledged(&stream) == 0).then_some(()));
        net::reset(stream);
        assert_eq!(hears.recv_timeout(DEADLINE), Ok((len, End::Reset)));
        assert_eq!(ringlb.wait_for_ends(1), ["client_reset"]);
        ringlb.stop();
    }
}

#[test]
fn a_client_that_resets_in_the_middle_of_an_answer_ends_its_backend() {
    let (heard, hears) = channel();
    let backend = Backend::start(move |mut stream| {
        while stream.write_all(&[0; 4096]).is_ok() {}
        heard.send(()).expect("the test listens");
    });
    let ringlb = Config::new(&[backend.address()]).start();
    let mut stream = ringlb.connect();
    stream.read_exact(&mut [0; 100_000]).expect("a part of the answer");
    net::reset(stream);
    hears.recv_timeout(DEADLINE).expect("the backend's writes fail");
    assert_eq!(ringlb.wait_for_ends(1), ["client_reset"]);
    ringlb.stop();
}

#[test]
fn a_client_that_resets_after_its_half_close_ends_its_backend() {
    let (heard, hears) = channel();
    let (stay, stays) = channel::<()>();
    let stays = Mutex::new(stays);
    let backend = Backend::start(move |mut stream| {
        assert_eq!(pattern::read(&mut stream, 1), (10, End::Eof));
        heard.send(()).expect("the test listens");
        // It keeps its socket and says nothing: only the client's reset can end the session.
        stays.lock().expect("a lock").recv().expect_err("the test only lets go");
    });
    let ringlb = Config::new(&[backend.address()]).start();
    let mut stream = ringlb.connect();
    pattern::write(&mut stream, 1, 10);
    stream.shutdown(Shutdown::Write).expect("half-close");
    hears.recv_timeout(DEADLINE).expect("the backend has seen the end");
    net::reset(stream);
    assert_eq!(ringlb.wait_for_ends(1), ["client_reset"]);
    drop(stay);
    ringlb.stop();
}

#[test]
fn bytes_sent_before_the_backend_is_connected_arrive_first_and_once() {
    let (listener, filler) = black_hole();
    let ringlb = Config::new(&[listener.local_addr().expect("an address")]).start();
    let mut stream = ringlb.connect();
    thread::scope(|scope| {
        // More than ringlb holds for a client: the rest waits in the sockets.
        let writer = scope.spawn(|| {
            pattern::write(&mut &stream, 1, MIB);
            backend::end_stream(&stream);
        });
        drop(filler);
        drop(listener.accept().expect("the filler"));
        let (mut backend, _) = listener.accept().expect("ringlb's connection");
        net::limit(&backend);
        assert_eq!(pattern::read(&mut backend, 1), (MIB, End::Eof));
        backend.write_all(b"all there\n").expect("the answer is sent");
        writer.join().expect("the client has sent all");
    });
    assert_eq!(net::read_line(&mut stream), "all there");
}

#[test]
fn after_the_connect_timeout_the_next_backend_gets_the_clients_bytes_once() {
    let timeout = Duration::from_millis(300);
    let (hole, _filler) = black_hole();
    let backend = Backend::echo();
    let ringlb = Config::new(&[hole.local_addr().expect("an address"), backend.address()])
        .pool("policy = \"round_robin\"\nconnect_timeout = \"300ms\"")
        .start();
    let times = at_once(8, |number| {
        let start = Instant::now();
        let mut stream = ringlb.connect();
        pattern::write(&mut stream, number, 32 * KIB);
        stream.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(pattern::read(&mut stream, number), (32 * KIB, End::Eof));
        start.elapsed()
    });
    assert!(times.iter().any(|time| *time >= timeout), "nobody has met the backend that does not answer: {times:?}");
    ringlb.stop();
}

#[test]
fn a_connect_that_takes_too_long_everywhere_ends_the_client_in_order() {
    let (hole, _filler) = black_hole();
    let ringlb = Config::new(&[hole.local_addr().expect("an address")]).pool("connect_timeout = \"100ms\"").start();
    let mut stream = ringlb.connect();
    stream.write_all(b"is anybody there?").expect("sent");
    assert_eq!(net::read_to_end(&mut stream), (vec![], End::Eof));
    drop(stream);
    assert_eq!(ringlb.wait_for_ends(1), ["connect_timeout"]);
    ringlb.stop();
}

#[test]
fn where_nobody_serves_the_client_is_ended_in_order() {
    let refusing = Reserved::new();
    for (config, reason) in [(Config::new(&[]), "no_backend"), (Config::new(&[refusing.address()]), "connect_failed")] {
        let ringlb = config.start();
        let mut stream = ringlb.connect();
        // Unread bytes must not turn the polite end into a reset.
        stream.write_all(b"is anybody there?").expect("sent");
        assert_eq!(net::read_to_end(&mut stream), (vec![], End::Eof), "{reason}");
        drop(stream);
        assert_eq!(ringlb.wait_for_ends(1), [reason]);
        ringlb.stop();
    }
}

#[test]
fn a_session_without_bytes_ends_at_the_idle_timeout_on_both_sides() {
    let (heard, hears) = channel();
    let backend = Backend::start(move |mut stream: TcpStream| {
        heard.send(net::read_to_end(&mut stream)).expect("the test listens");
    });
    let ringlb = Config::new(&[backend.address()]).listener("idle_timeout = \"200ms\"").start();
    let mut stream = ringlb.connect();
    stream.write_all(b"and then nothing").expect("sent");
    assert_eq!(net::read_to_end(&mut stream), (vec![], End::Eof));
    assert_eq!(hears.recv_timeout(DEADLINE), Ok((b"and then nothing".to_vec(), End::Eof)));
    assert_eq!(ringlb.wait_for_ends(1), ["idle_timeout"]);
    ringlb.stop();
}

#[test]
fn a_session_that_owes_bytes_is_reset_at_the_idle_timeout() {
    let backend = Backend::start(|mut stream: TcpStream| while stream.write_all(&[0; 4096]).is_ok() {});
    let ringlb = Config::new(&[backend.address()]).listener("idle_timeout = \"500ms\"").start();
    let mut stream = ringlb.connect();
    // The client does not read until the session is over.
    assert_eq!(ringlb.wait_for_ends(1), ["idle_timeout"]);
    assert_eq!(net::read_to_end(&mut stream).1, End::Reset);
    ringlb.stop();
}

/// `ss -K` ends a connection with ECONNABORTED, as an administrator may.
#[test]
fn a_connection_that_fails_in_another_way_is_a_reset_too() {
    for side in [Side::Client, Side::Backend] {
        let (heard, hears) = channel();
        let backend = Backend::start(move |mut stream: TcpStream| {
            stream.write_all(format!("{}\n", stream.peer_addr().expect("an address")).as_bytes()).expect("sent");
            heard.send(net::read_to_end(&mut stream)).expect("the test listens");
        });
        let ringlb = Config::new(&[backend.address()]).start();
        let mut stream = ringlb.connect();
        let towards_backend = net::read_line(&mut stream);
        let ends = match side {
            Side::Client => [ringlb.address().to_string(), stream.local_addr().expect("an address").to_string()],
            Side::Backend => [towards_backend, backend.address().to_string()],
        };
        let killed = Command::new("ss").args(["-K", "-tn", "src", &ends[0], "dst", &ends[1]]).output();
        let listed = |output: &Output| String::from_utf8_lossy(&output.stdout).contains(&ends[1]);
        if !killed.as_ref().is_ok_and(listed) {
            common::skip("a connection that fails", &format!("`ss -K` cannot end one here: {killed:?}"));
            return;
        }
        assert_eq!(net::read_to_end(&mut stream).1, End::Reset, "{side}");
        assert_eq!(hears.recv_timeout(DEADLINE).expect("the backend is told").1, End::Reset, "{side}");
        assert_eq!(ringlb.wait_for_ends(1), [format!("{side}_error")]);
        ringlb.stop();
    }
}

/// The page, the reasons of the code, and the tests: one truth.
#[test]
fn the_table_of_ends_names_every_reason_and_only_tests_that_exist() {
    let page = include_str!("../docs/wire.md");
    let code = include_str!("../src/relay/mod.rs");
    let label = code.split_once("pub const fn label(self)").expect("the function").1;
    let label = label.split_once("\n    }\n").expect("its end").0;
    let labels: BTreeSet<&str> = label.split('"').skip(1).step_by(2).collect();
    assert!(labels.len() > 10, "{labels:?}");

    let rows = page.lines().filter(|line| line.starts_with("| ")).skip(1);
    let rows: Vec<Vec<&str>> = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect();
    let named: BTreeSet<&str> = rows.iter().flat_map(|row| row[3].split('`').skip(1).step_by(2)).collect();
    assert_eq!(labels, named, "reasons of the code, and of docs/wire.md");

    let tests = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests")).expect("the tests");
    let paths = tests.map(|entry| entry.expect("a file").path()).filter(|path| path.extension().is_some());
    let tests: String = paths.map(|path| std::fs::read_to_string(path).expect("text")).collect();
    let unit = include_str!("../src/relay/tests.rs");
    for test in rows.iter().flat_map(|row| row[4].split('`').skip(1).step_by(2)) {
        let function = format!("fn {test}(");
        assert!(tests.contains(&function) || unit.contains(&function), "docs/wire.md: no test `{test}`");
    }
}
