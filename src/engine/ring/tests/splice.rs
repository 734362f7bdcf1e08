//! Bytes that go through pipes.

use std::os::fd::AsRawFd;
use std::thread;

use super::*;
use crate::engine::{Piped, Spliced};
use crate::limits::{SPLICE_BYTES, SPLICE_BYTES_SHORT};

const SOURCE: u8 = 0;
const TARGET: u8 = 1;

impl Bench {
    /// Waits until there is something, and takes it into a pipe.
    fn splice(&mut self, socket: &OwnedFd) -> Spliced {
        self.ring.await_readable(owner(0, SOURCE), socket);
        let event = self.next(owner(0, SOURCE));
        assert!(matches!(event, Event::Readable), "{event:?}");
        self.ring.splice_in(socket)
    }

    fn splice_bytes(&mut self, socket: &OwnedFd) -> Piped {
        match self.splice(socket) {
            Spliced::Bytes(piped) => piped,
            other => panic!("{other:?}"),
        }
    }

    /// Empties a pipe, waiting for room where it has to. How often it had.
    fn pour(&mut self, mut piped: Piped, socket: &OwnedFd) -> usize {
        let mut waits = 0;
        while piped.bytes() > 0 {
            match self.ring.splice_out(&mut piped, socket) {
                Ok(bytes) => assert!(bytes > 0),
                Err(errno) => {
                    assert_eq!(errno, Errno::EAGAIN);
                    waits += 1;
                    self.ring.await_writable(owner(0, TARGET), socket);
                    let event = self.next(owner(0, TARGET));
                    assert!(matches!(event, Event::Writable), "{event:?}");
                }
            }
        }
        self.ring.discard_piped(piped);
        waits
    }

    /// What is in a pipe.
    fn read(&mut self, piped: Piped) -> Vec<u8> {
        let mut chain = Chain::new();
        self.ring.spill_piped(piped, &mut chain);
        let content = self.ring.buffers().slices(&chain).collect::<Vec<_>>().concat();
        self.ring.buffers().clear(&mut chain);
        content
    }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes as u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_le_bytes()).take(bytes).collect()
}

/// Through the pipes from one pair of sockets to another, more than all buffers hold, until the end of the stream.
fn passes((near_a, mut far_a): (OwnedFd, impl Write + Send), (near_b, mut far_b): (OwnedFd, impl Read + Send)) {
    let mut bench = Bench::new();
    let all = content(24 << 20);
    thread::scope(|scope| {
        let all = &all;
        scope.spawn(move || {
            far_a.write_all(all).unwrap();
            drop(far_a);
        });
        let reader = scope.spawn(move || {
            let mut got = vec![0; all.len()];
            // The first bytes wait until nobody can send any more.
            far_b.read_exact(&mut got).unwrap();
            assert!(got == *all, "the bytes arrive in order");
        });
        let (mut moved, mut waits) = (0, 0);
        loop {
            match bench.splice(&near_a) {
                Spliced::Bytes(piped) => {
                    assert!(piped.bytes() <= SPLICE_BYTES);
                    moved += piped.bytes();
                    waits += bench.pour(piped, &near_b);
                }
                Spliced::Eof => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(moved, all.len());
        reader.join().unwrap();
        println!("{waits} waits for room");
    });
    assert_eq!(bench.ring.in_flight(), 0);
}

#[test]
fn bytes_pass_through_pipes_in_order() {
    passes(tcp_pair(), tcp_pair());
    passes(tcp_pair(), unix_pair());
    passes(unix_pair(), tcp_pair());
}

#[test]
fn a_socket_with_nothing_gives_nothing_and_its_end_and_reset_are_told() {
    let mut bench = Bench::new();
    let (near, far) = tcp_pair();
    assert!(matches!(bench.ring.splice_in(&near), Spliced::Nothing));
    far.shutdown(Shutdown::Write).unwrap();
    assert!(matches!(bench.splice(&near), Spliced::Eof));
    let (near, mut far) = tcp_pair();
    far.write_all(b"last words").unwrap();
    let piped = bench.splice_bytes(&near);
    assert_eq!(bench.read(piped), b"last words");
    reset(far);
    assert!(matches!(bench.splice(&near), Spliced::Failed(Errno::ECONNRESET)));
}

/// Splicing stops before urgent data, which says that there is something to read for as long as nobody receives.
#[test]
fn urgent_data_is_left_to_a_receive() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    far.write_all(b"before").unwrap();
    socket2::SockRef::from(&far).send_out_of_band(b"!").unwrap();
    far.write_all(b"behind").unwrap();
    let piped = bench.splice_bytes(&near);
    let mut got = bench.read(piped);
    while got.len() < 12 {
        match bench.splice(&near) {
            Spliced::Bytes(piped) => got.extend(bench.read(piped)),
            Spliced::Nothing => {
                bench.ring.receive(owner(0, SOURCE), &near, Receive::Bulk);
                let event = bench.next(owner(0, SOURCE));
                bench.take(event, &mut got);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, b"beforebehind");
}

#[test]
fn both_waits_can_be_cancelled() {
    let mut bench = Bench::new();
    let (near, far) = tcp_pair();
    bench.ring.await_readable(owner(0, SOURCE), &near);
    let full = content(1 << 20);
    near.set_full(&full);
    bench.ring.await_writable(owner(0, TARGET), &near);
    bench.ring.cancel(owner(0, SOURCE), OpKind::Receive);
    bench.ring.cancel(owner(0, TARGET), OpKind::Send);
    let seen = bench.rest();
    assert_eq!(seen.len(), 2);
    for Completion { owner, event } in seen {
        match owner.role.0 {
            SOURCE => assert!(matches!(event, Event::ReceiveEnded(ReceiveEnd::Cancelled)), "{event:?}"),
            _ => assert!(matches!(event, Event::SendFailed(Errno::ECANCELED)), "{event:?}"),
        }
    }
    // A wait leaves nothing behind that a receive or a send would mistake for its own.
    let mut chain = Chain::new();
    bench.ring.buffers().append_copy(&mut chain, b"no room");
    bench.ring.send(owner(0, TARGET), &near, &chain);
    bench.ring.cancel(owner(0, TARGET), OpKind::Send);
    let event = bench.next(owner(0, TARGET));
    assert!(matches!(event, Event::SendFailed(Errno::ECANCELED)), "{event:?}");
    bench.ring.buffers().clear(&mut chain);
    drop(far);
}

trait Fill {
    fn set_full(&self, with: &[u8]);
}

impl Fill for OwnedFd {
    /// Sends until there is no room.
    fn set_full(&self, with: &[u8]) {
        while rustix::io::write(self, with).is_ok() {}
    }
}

#[test]
fn pipes_are_bounded_and_one_with_bytes_in_it_is_never_used_again() {
    let mut bench = Bench::new();
    bench.ring.limit_pipes(1);
    let (near, mut far) = tcp_pair();
    far.write_all(b"nobody wants these").unwrap();
    let piped = bench.splice_bytes(&near);
    assert!(bench.ring.pipes_short());
    far.write_all(b"bytes that are wanted").unwrap();
    assert!(matches!(bench.splice(&near), Spliced::Nothing), "there is no second pipe");
    bench.ring.discard_piped(piped);
    assert!(!bench.ring.pipes_short());
    let piped = bench.splice_bytes(&near);
    assert_eq!(bench.read(piped), b"bytes that are wanted");

    bench.ring.limit_pipes(0);
    far.write_all(b"?").unwrap();
    let (other, mut other_far) = tcp_pair();
    other_far.write_all(b"?").unwrap();
    // The one that is there is still used.
    let piped = bench.splice_bytes(&near);
    assert!(matches!(bench.splice(&other), Spliced::Nothing));
    bench.ring.discard_piped(piped);
}

#[test]
fn pieces_are_shorter_where_half_of_the_pipes_hold_bytes() {
    let mut bench = Bench::new();
    bench.ring.limit_pipes(3);
    let all = content(2 * SPLICE_BYTES_SHORT);
    let mut held = Vec::new();
    for holders in 0..3 {
        let (near, far) = unix_pair();
        socket2::SockRef::from(&far).set_send_buffer_size(4 * all.len()).unwrap();
        assert_eq!(rustix::io::write(&far, &all).unwrap(), all.len());
        let piped = bench.splice_bytes(&near);
        if holders < 2 {
            assert_eq!(piped.bytes(), all.len());
        } else {
            assert!(piped.bytes() <= SPLICE_BYTES_SHORT, "{}", piped.bytes());
        }
        held.push((piped, near, far));
    }
    for (piped, ..) in held {
        bench.ring.discard_piped(piped);
    }
}

#[test]
fn what_is_spilt_from_a_pipe_goes_before_what_waits_behind_it() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    let (target, mut target_far) = tcp_pair();
    far.write_all(b"spliced ").unwrap();
    let mut piped = bench.splice_bytes(&near);
    assert_eq!(bench.ring.splice_out(&mut piped, &target), Ok(8));
    target_far.read_exact(&mut [0; 8]).unwrap();
    bench.ring.discard_piped(piped);
    far.write_all(b"in a pipe, ").unwrap();
    let piped = bench.splice_bytes(&near);
    let mut chain = Chain::new();
    bench.ring.buffers().append_copy(&mut chain, b"in a chain");
    bench.ring.spill_piped(piped, &mut chain);
    assert_eq!(bench.ring.buffers().slices(&chain).collect::<Vec<_>>().concat(), b"in a pipe, in a chain");
    bench.ring.buffers().clear(&mut chain);
    assert!(!bench.ring.pipes_short());
}

#[test]
fn a_target_that_has_gone_is_an_error_and_no_signal() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    let (target, target_far) = tcp_pair();
    reset(target_far);
    far.write_all(b"too late").unwrap();
    let mut piped = bench.splice_bytes(&near);
    bench.ring.await_writable(owner(0, TARGET), &target);
    bench.next(owner(0, TARGET));
    let first = bench.ring.splice_out(&mut piped, &target);
    assert!(matches!(first, Err(Errno::ECONNRESET | Errno::EPIPE)), "{first:?} of {}", target.as_raw_fd());
    assert_eq!(bench.ring.splice_out(&mut piped, &target), Err(Errno::EPIPE));
    bench.ring.discard_piped(piped);
}
