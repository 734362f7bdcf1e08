//! The generator against relays that misbehave, because a check that never fails checks nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::*;

/// Relays one connection to `backend`; `spoil` may change every piece that goes to the client and knows the
/// position of its first byte.
fn relay(backend: SocketAddr, spoil: fn(&mut [u8], u64)) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port is found");
    let address = listener.local_addr().expect("the listener is bound");
    let thread = thread::spawn(move || {
        let (client, _) = listener.accept().expect("the client comes");
        drop(listener);
        let server = TcpStream::connect(backend).expect("the backend listens");
        let (up_from, up_to) = (client.try_clone().expect("cloned"), server.try_clone().expect("cloned"));
        let up = thread::spawn(move || copy(up_from, up_to, |_, _| {}));
        copy(server, client, spoil);
        up.join().expect("copying does not panic");
    });
    (address, thread)
}

/// Copies until either side ends, and ends both.
fn copy(mut from: TcpStream, mut to: TcpStream, spoil: fn(&mut [u8], u64)) {
    let mut buffer = vec![0; 16 * 1024];
    let mut position = 0;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        spoil(&mut buffer[..count], position);
        position += count as u64;
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other thread may have done the same before.
    from.shutdown(Shutdown::Both).unwrap_or_default();
    to.shutdown(Shutdown::Both).unwrap_or_default();
}

fn flip(bytes: &mut [u8], position: u64, victim: u64) {
    if let Some(at) = victim.checked_sub(position)
        && let Some(byte) = bytes.get_mut(at as usize)
    {
        *byte ^= 0x10;
    }
}

fn plan(connections: usize, size: usize, pace: Pace) -> ExchangePlan {
    ExchangePlan { connections, size, life: Life::Held, check: true, pace }
}

fn no_meter() -> std::io::Result<Duration> {
    Ok(Duration::ZERO)
}

const LONG: Window = Window { warmup: Duration::ZERO, measure: Duration::from_secs(30) };

#[test]
fn one_wrong_bit_in_an_answer_is_found() {
    let mut site = Site::new(1).expect("a backend listens");
    let (address, relay) = relay(site.addresses()[0], |bytes, position| flip(bytes, position, 100_003));
    let error = exchange(&mut site, &plan(1, 1000, Pace::Closed), &[address], LONG, &mut no_meter);
    let Err(LoadError::Corrupt { connection: 0, position, length }) = error else { panic!("{error:?}") };
    assert!((position..position + length as u64).contains(&3), "the 4th byte of a message is wrong, not {position}");
    drop(site);
    relay.join().expect("the relay ends");
}

#[test]
fn one_wrong_bit_in_a_flow_is_found() {
    let mut site = Site::new(1).expect("a backend listens");
    let (address, relay) = relay(site.addresses()[0], |bytes, position| flip(bytes, position, 10_000_000));
    let plan = BulkPlan { flows: 1, direction: Direction::Down, check: true };
    let error = bulk(&mut site, &plan, &[address], LONG, &mut no_meter);
    let Err(LoadError::Corrupt { position, length, .. }) = error else { panic!("{error:?}") };
    assert!((position..position + length as u64).contains(&10_000_000), "{position} {length}");
    drop(site);
    relay.join().expect("the relay ends");
}

#[test]
fn an_open_loop_counts_those_who_wait_while_the_proxy_stalls() {
    const STALL: Duration = Duration::from_millis(400);
    let mut site = Site::new(1).expect("a backend listens");
    let (address, relay) = relay(site.addresses()[0], |_, position| {
        if position == 200 * 64 {
            thread::sleep(STALL);
        }
    });
    let window = Window { warmup: Duration::ZERO, measure: Duration::from_secs(2) };
    let outcome = exchange(&mut site, &plan(1, 64, Pace::PerSecond(1000.0)), &[address], window, &mut no_meter)
        .expect("the relay only stalls");
    // In a closed loop one operation would have seen the stall; here all see it that were due meanwhile.
    let late = outcome.latency.count_between(STALL.as_nanos() as u64 / 4, u64::MAX);
    assert!(late > 200, "only {late} of {} operations were late", outcome.operations);
    assert_eq!((outcome.unfinished, outcome.failures), (0, 0));
    drop(site);
    relay.join().expect("the relay ends");
}

#[test]
fn a_proxy_that_refuses_everybody_ends_the_run() {
    let mut site = Site::new(1).expect("a backend listens");
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let result = exchange(&mut site, &plan(4, 64, Pace::Closed), &[nobody], LONG, &mut no_meter);
    let Err(LoadError::Failing { first, .. }) = result else { panic!("{result:?}") };
    assert_eq!(first, Fault::Errno(Errno::CONNREFUSED));
}

#[test]
fn closed_clients_leave_nothing_behind() {
    let mut site = Site::new(2).expect("backends listen");
    let targets = site.addresses().to_vec();
    let window = Window { warmup: Duration::ZERO, measure: Duration::from_millis(50) };
    for life in [Life::Held, Life::ClientCloses, Life::ServerCloses] {
        let plan = ExchangePlan { connections: 8, size: 3000, life, check: true, pace: Pace::Closed };
        let outcome = exchange(&mut site, &plan, &targets, window, &mut no_meter).expect("the loopback works");
        assert!(outcome.operations > 0, "{life:?}");
        assert_eq!((outcome.failures, outcome.unfinished, outcome.leftover), (0, 0, 0), "{life:?}");
        assert_eq!(outcome.bytes, outcome.operations * 2 * 3000, "{life:?}");
    }
}
