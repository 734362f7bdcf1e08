//! What ringlb bounds: memory, descriptors, connections, CPU.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use ringlb::limits::{
    BUFFER_BYTES, BUFFERS_MAX, BULK_BUFFER_BYTES, BULK_BUFFERS_MAX, DIRECTION_BYTES_MAX, WATERMARK_HIGH_BYTES,
};
use rustix::process::{Resource, Rlimit, prlimit};
use socket2::SockRef;

use common::backend::Backend;
use common::net;
use common::pattern::{self, End};
use common::procfs::{anonymous_bytes, cpu_time, descriptor_numbers, descriptors, descriptors_besides_pipes};
use common::ringlb::{Config, Ringlb, field};
use common::scrape::Scrape;
use common::{at_once, has_program, skip, until};

const MIB: u64 = 1024 * 1024;
const WORKERS: u64 = 2;

/// What the buffers of all workers take when every one of them has been used.
const POOLS: u64 = WORKERS * (BUFFERS_MAX * BUFFER_BYTES + BULK_BUFFERS_MAX * BULK_BUFFER_BYTES) as u64;

/// Numbers that look random and come back with their seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }
}

/// To "flood": bytes without end, counted. To a number: so many bytes of the pattern.
fn serve(mut stream: TcpStream, flooded: &AtomicU64) {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(1..) if byte[0] != b'\n' => line.push(byte[0]),
            Ok(1..) => {
                let text = String::from_utf8(std::mem::take(&mut line)).expect("text");
                if text != "flood" {
                    let wanted = pattern::bytes(0, text.parse().expect("a number"));
                    if stream.write_all(&wanted).is_err() {
                        return;
                    }
                    continue;
                }
                SockRef::from(&stream).set_send_buffer_size(16 * 1024).expect("a small send buffer");
                while let Ok(len) = stream.write(&[0; 4096]) {
                    flooded.fetch_add(len as u64, Ordering::Relaxed);
                }
                return;
            }
            Ok(0) | Err(_) => return,
        }
    }
}

/// Asks for `len` bytes and gets them.
fn served(stream: &mut TcpStream, len: u64) {
    stream.write_all(format!("{len}\n").as_bytes()).expect("the request is sent");
    pattern::read_exactly(stream, 0, len);
}

#[test]
fn five_hundred_clients_who_do_not_read_bound_memory_and_do_not_hold_up_the_others() {
    let flooded = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&flooded);
    let backend = Backend::start(move |stream| serve(stream, &counter));
    let ringlb = Config::new(&[backend.address()]).start();
    let descriptors_before = descriptors_besides_pipes(ringlb.pid());
    let bound = anonymous_bytes(ringlb.pid()) + POOLS + FLOODS * DIRECTION_BYTES_MAX as u64 + 16 * MIB;
    let mut left = Vec::new();
    for _ in 0..4 {
        let most = flood(&ringlb, &flooded);
        println!("most {} MiB, bound {} MiB", most / MIB, bound / MIB);
        assert!(most <= bound, "{most} bytes of memory, {bound} are the bound");
        until("all descriptors are closed", || {
            (descriptors_besides_pipes(ringlb.pid()) <= descriptors_before).then_some(())
        });
        served(&mut ringlb.connect(), MIB);
        left.push(anonymous_bytes(ringlb.pid()));
    }
    // The allocator keeps some of what is freed, and uses it again: how much depends on how the clients were spread over the
    // workers. What is lost would add up from time to time.
    let (first, last) = (left[0].max(left[1]), left[2].min(left[3]));
    assert!(last <= first + 16 * MIB, "memory grows from time to time: {left:?}");
    ringlb.stop();
}

const FLOODS: u64 = 500;

/// Clients who ask for bytes without end and read none, and then leave. Gives the most memory that was seen meanwhile.
fn flood(ringlb: &Ringlb, flooded: &AtomicU64) -> u64 {
    let enough = flooded.load(Ordering::Relaxed) + FLOODS * DIRECTION_BYTES_MAX as u64;
    let floods = at_once(FLOODS as usize, |_| {
        let mut stream = ringlb.connect();
        SockRef::from(&stream).set_recv_buffer_size(4096).expect("a small receive buffer");
        stream.write_all(b"flood\n").expect("the request is sent");
        stream
    });
    let mut most = 0;
    until("the backends have flooded", || {
        most = most.max(anonymous_bytes(ringlb.pid()));
        (flooded.load(Ordering::Relaxed) > enough).then_some(())
    });
    for _ in 0..50 {
        served(&mut ringlb.connect(), 100_000);
        most = most.max(anonymous_bytes(ringlb.pid()));
    }
    ringlb.wait_for_rest();
    drop(floods);
    most
}

/// The other direction: clients that flood backends that do not read.
#[test]
fn backends_that_do_not_read_bound_memory_too() {
    const FLOODS: usize = 50;
    let silent = Backend::start(|stream| {
        SockRef::from(&stream).set_recv_buffer_size(4096).expect("a small receive buffer");
        // Its end comes with the client's reset.
        until_gone(&stream);
    });
    let ringlb = Config::new(&[silent.address()]).start();
    let idle = anonymous_bytes(ringlb.pid());
    let streams = at_once(FLOODS, |_| {
        let mut stream = ringlb.connect();
        SockRef::from(&stream).set_send_buffer_size(16 * 1024).expect("a small send buffer");
        stream.set_nonblocking(true).expect("non-blocking");
        // More than ringlb holds at once for somebody who reads.
        let mut sent = 0;
        until("ringlb takes so much", || {
            while let Ok(len) = stream.write(&[0; 4096]) {
                sent += len;
            }
            (sent > WATERMARK_HIGH_BYTES).then_some(())
        });
        stream
    });
    let bound = idle + POOLS + (FLOODS * DIRECTION_BYTES_MAX) as u64 + 16 * MIB;
    let most = anonymous_bytes(ringlb.pid());
    assert!(most <= bound, "{most} bytes of memory, {bound} are the bound");
    ringlb.assert_rests();
    streams.into_iter().for_each(net::reset);
    assert_eq!(ringlb.wait_for_ends(FLOODS), vec!["client_reset"; FLOODS]);
    ringlb.stop();
}

/// Waits until the peer has reset, without reading.
fn until_gone(stream: &TcpStream) {
    until("the peer has reset", || stream.take_error().expect("SO_ERROR"));
}

#[test]
fn two_thousand_clients_that_reset_at_any_stage_leave_no_descriptor() {
    const THREADS: usize = 20;
    const CLIENTS: usize = 100;
    let seed = 0x5eed_0000_0000_0001_u64;
    let unused = Arc::new(AtomicU64::new(0));
    let backend = Backend::start(move |stream| serve(stream, &unused));
    let ringlb = Config::new(&[backend.address()]).start();
    let baseline = descriptors_besides_pipes(ringlb.pid());
    at_once(THREADS, |thread| {
        let mut random = Random(seed ^ ((thread as u64) << 32));
        for _ in 0..CLIENTS {
            reset_somewhere(ringlb.connect(), &mut random);
        }
    });
    println!("seed {seed:#x}");
    ringlb.wait_for_ends(THREADS * CLIENTS);
    until("descriptors are back at their baseline", || {
        (descriptors_besides_pipes(ringlb.pid()) <= baseline).then_some(())
    });
    served(&mut ringlb.connect(), MIB);
    until("the backend's sessions are over", || (backend.active() == 0).then_some(()));
    ringlb.stop();
}

/// Goes a random part of the way of a request, and resets there.
fn reset_somewhere(mut stream: TcpStream, random: &mut Random) {
    let len = 1 + random.below(300_000);
    let request = format!("{len}\n");
    let stage = random.below(7);
    let said = match stage {
        0 => 0,
        1 => random.below(request.len() as u64),
        _ => request.len() as u64,
    };
    stream.write_all(&request.as_bytes()[..said as usize]).expect("sent");
    match stage {
        3 => pattern::read_exactly(&mut stream, 0, 1 + random.below(len)),
        4 => pattern::read_exactly(&mut stream, 0, len),
        5 => stream.shutdown(Shutdown::Write).expect("half-close"),
        6 => {
            stream.shutdown(Shutdown::Write).expect("half-close");
            pattern::read_exactly(&mut stream, 0, 1 + random.below(len));
        }
        _ => {}
    }
    net::reset(stream);
}

#[test]
fn clients_above_max_connections_wait_and_are_served_in_order() {
    // One worker: several have a queue each, and no order between them.
    for (process, listener) in [("", "max_connections = 4"), ("max_connections = 4", "")] {
        let backend = Backend::named("a");
        let config = Config::new(&[backend.address()]).one_worker().process(process).listener(listener);
        let ringlb = config.start();
        let mut held: Vec<_> = (0..4).map(|_| greeted(ringlb.connect())).collect();
        ringlb.wait_for_log("the limit is reached", is_full);
        let waiting: Vec<_> = (0..60).map(|_| ringlb.connect()).collect();
        ringlb.assert_rests();
        assert_eq!(backend.accepted(), 4);
        for (number, stream) in waiting.into_iter().enumerate() {
            drop(held.remove(0));
            held.push(greeted(stream));
            assert_eq!(backend.accepted(), 4 + number + 1, "one has left, so one may come");
        }
        drop(held);
        ringlb.stop();
    }
}

fn is_full(line: &str) -> bool {
    field(line, "message").is_some_and(|message| message.ends_with("is reached: new clients wait in the backlog"))
}

fn greeted(mut stream: TcpStream) -> TcpStream {
    assert_eq!(net::read_line(&mut stream), "a");
    stream
}

#[test]
fn a_crowd_is_not_let_in_above_max_connections() {
    const MAX: usize = 20;
    const CLIENTS: usize = 300;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (inside, peak) = (Arc::clone(&now), Arc::clone(&most));
    let backend = Backend::start(move |mut stream| {
        peak.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let mut line = [0; 6];
        stream.read_exact(&mut line).expect("the request");
        inside.fetch_sub(1, Ordering::SeqCst);
        stream.write_all(&line).expect("the answer");
    });
    let ringlb = Config::new(&[backend.address()]).process(&format!("max_connections = {MAX}")).start();
    at_once(CLIENTS, |_| {
        let mut stream = ringlb.connect();
        stream.write_all(b"hello\n").expect("sent");
        assert_eq!(net::read_line(&mut stream), "hello");
    });
    // Each worker may take one too many, when both take the last place.
    let most = most.load(Ordering::SeqCst);
    assert!(most <= MAX + WORKERS as usize, "{most} sessions where {MAX} are the limit");
    ringlb.stop();
}

#[test]
fn with_few_descriptors_from_the_start_clients_wait_and_nobody_is_lost() {
    let backend = Backend::named("a");
    let ringlb = Config::new(&[backend.address()]).start_under(&["sh", "-c", "ulimit -n 340; exec \"$0\" \"$@\""]);
    let ready = ringlb.wait_for_log("it is ready", |line| field(line, "message") == Some("ready"));
    let max: usize = field(&ready, "max_connections").expect("the limit").parse().expect("a number");
    assert!((10..100).contains(&max), "{ready}");
    let streams: Vec<_> = (0..3 * max).map(|_| ringlb.connect()).collect();
    ringlb.wait_for_log("the limit is reached", is_full);
    ringlb.assert_rests();
    // Which of them are served first is the workers' matter; each is, when others leave.
    at_once(streams.len(), |number| {
        let mut stream = &streams[number];
        assert_eq!(net::read_line(&mut stream), "a");
        stream.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(net::read_to_end(&mut stream), (vec![], End::Eof));
    });
    let log = ringlb.log();
    assert!(!log.iter().any(|line| line.contains("EMFILE")), "the reserve suffices");
    ringlb.stop();
}

/// An accept knows the limit of descriptors from when it was armed, so it is lowered while accepting waits for a place.
#[test]
fn out_of_descriptors_accepting_pauses_without_cpu_and_goes_on() {
    let backend = Backend::named("a");
    let config = Config::new(&[backend.address()]).process("metrics = \"127.0.0.1:0\"");
    let ringlb = config.one_worker().listener("max_connections = 10").start();
    let mut held: Vec<_> = (0..9).map(|_| greeted(ringlb.connect())).collect();
    let others = descriptor_numbers(ringlb.pid());
    held.push(greeted(ringlb.connect()));
    ringlb.wait_for_log("the limit is reached", is_full);
    let last = descriptor_numbers(ringlb.pid()).difference(&others).min().copied().expect("the last session's");
    let limit = |current| {
        let limit = Rlimit { current: Some(current), maximum: Some(last + 4096) };
        prlimit(Some(ringlb.rustix_pid()), Resource::Nofile, limit).expect("the limit is changed");
    };
    // The lowest free numbers are given out, and the last session's are above the new limit: when the first and the last have
    // left there are two places, and descriptors for one.
    limit(last);
    let mut waiting: Vec<_> = (0..8).map(|_| ringlb.connect()).collect();
    drop((held.remove(9), held.remove(0)));
    held.push(greeted(waiting.remove(0)));
    ringlb.wait_for_log("it is out of descriptors", |line| line.contains("cannot accept") && line.contains("EMFILE"));
    ringlb.assert_rests();
    for stream in &mut held {
        stream.write_all(b"still there\n").expect("sent");
        assert_eq!(net::read_line(stream), "still there");
    }
    limit(last + 4096);
    let pauses = |reason| Scrape::of(&ringlb).number("ringlb_listener_pauses_total", &[("reason", reason)]);
    assert!(pauses("resources") >= 1.0 && pauses("limit") >= 1.0);
    // Nobody who waited is lost.
    for stream in waiting {
        held.push(greeted(stream));
        drop(held.remove(0));
    }
    drop(held);
    ringlb.stop();
}

/// A client whose backend's socket cannot be had is told at once, in order.
#[test]
fn without_a_descriptor_for_the_backend_the_client_is_ended_in_order() {
    let backend = Backend::named("a");
    let config = Config::new(&[backend.address()]).process("metrics = \"127.0.0.1:0\"");
    let ringlb = config.one_worker().start();
    let held = greeted(ringlb.connect());
    // No number is free below those that are in use.
    let limit = |current| {
        let limit = Rlimit { current: Some(current), maximum: Some(4096) };
        prlimit(Some(ringlb.rustix_pid()), Resource::Nofile, limit).expect("the limit is changed");
    };
    limit(descriptors(ringlb.pid()) as u64 - 2);
    // The accept that is armed still goes by the old limit.
    let mut stream = ringlb.connect();
    assert_eq!(net::read_to_end(&mut stream), (vec![], End::Eof));
    drop(stream);
    assert_eq!(ringlb.wait_for_ends(1), ["internal"]);
    limit(4096);
    let scrape = Scrape::of(&ringlb);
    assert_eq!(scrape.number("ringlb_backend_connect_failures_total", &[("reason", "no_descriptor")]), 1.0);
    assert_eq!(scrape.backend("ringlb_backend_ejections_total", backend.address()), 0.0);
    drop(held);
    ringlb.stop();
}

#[test]
fn idle_clients_cost_no_cpu_and_little_memory() {
    const CLIENTS: u64 = 1000;
    let backend = Backend::named("a");
    let ringlb = Config::new(&[backend.address()]).start();
    drop(greeted(ringlb.connect()));
    let before = anonymous_bytes(ringlb.pid());
    let held = at_once(CLIENTS as usize, |_| greeted(ringlb.connect()));
    let each = (anonymous_bytes(ringlb.pid()).saturating_sub(before + POOLS)) / CLIENTS;
    assert!(each < 4096, "{each} bytes for an idle client");
    ringlb.assert_rests();
    let busy = cpu_time(ringlb.pid());
    drop(held);
    ringlb.wait_for_ends(1 + CLIENTS as usize);
    println!("{:?} for {CLIENTS} ends", cpu_time(ringlb.pid()) - busy);
    ringlb.stop();
}

#[test]
fn keepalive_is_on_towards_clients_and_backends() {
    if !has_program("ss") {
        return skip("keepalive", "there is no `ss` (Debian: iproute2)");
    }
    let backend = Backend::named("a");
    let ringlb =
        Config::new(&[backend.address()]).listener("keepalive = \"100s\"").pool("keepalive = \"200s\"").start();
    let client = greeted(ringlb.connect());
    for (side, filter, seconds) in [
        ("clients", format!("sport = :{}", ringlb.address().port()), 60..=100),
        ("backends", format!("dport = :{}", backend.address().port()), 160..=200),
    ] {
        // Towards a backend it is on when the session has come to rest.
        let left = until(&format!("keepalive towards {side}"), || {
            let shown = Command::new("ss").args(["-tnoH", "state", "established", &filter]).output().expect("ss runs");
            let shown = String::from_utf8(shown.stdout).expect("text");
            let timer = shown.split_once("timer:(keepalive,")?.1.split(')').next().expect("a bracket");
            Some(timer.rsplit_once(',').expect("a time").0.to_owned())
        });
        assert!(seconds.contains(&whole_seconds(&left)), "{side}: {left} of {seconds:?}");
    }
    drop(client);
    ringlb.stop();
}

/// A time as `ss` writes it: "59sec", "1min39sec".
fn whole_seconds(text: &str) -> u64 {
    let (minutes, rest) = text.split_once("min").unwrap_or(("0", text));
    let seconds = rest.trim_end_matches("sec");
    let number = |text: &str| if text.is_empty() { 0 } else { text.parse::<f64>().expect("a number") as u64 };
    60 * number(minutes) + number(seconds)
}
