//! The simulated kernel by itself: it does what the real one was seen to do, and finds whoever breaks the rules of
//! the engine.

use std::time::Duration;

use super::faults::Faults;
use super::kernel::{Kernel, SimSocket};
use super::link::Descriptor;
use super::random::Random;
use super::script::{Plan, Reading, Step};
use crate::engine::{Chain, Engine, Event, OpKind, Owner, Receive, ReceiveEnd};
use crate::errno::Errno;
use crate::relay::Side;
use crate::slots::Key;
use crate::worker::session::role;

const OWNER: Owner = Owner { key: Key::new(0, 0), role: role(Side::Client) };

/// An accepted client and what its owner has received. What it says is expected back from it: it is its own partner.
struct Client {
    kernel: Kernel,
    socket: SimSocket,
    chain: Chain,
    events: Vec<Event<SimSocket>>,
}

impl Client {
    fn accept(seed: u64, steps: &[Step]) -> Client {
        let mut kernel = Kernel::new(Random::new(seed), Faults::none());
        kernel.client_arrives(Plan { client: steps.to_vec(), backend: Vec::new(), clean: None });
        let link = kernel.backlog.pop_front().expect("a client");
        kernel.link_mut(link).descriptor = Descriptor::Open;
        kernel.link_mut(link).partner = Some(link);
        Client { kernel, socket: SimSocket { link, open: true }, chain: Chain::new(), events: Vec::new() }
    }

    fn receive(&mut self) {
        self.kernel.receive(OWNER, &self.socket, Receive::Multishot);
    }

    fn send(&mut self) {
        self.kernel.send(OWNER, &self.socket, &self.chain);
    }

    /// Waits until `done`, and keeps what completes.
    fn until(&mut self, done: impl Fn(&Client) -> bool) {
        for _ in 0..1_000 {
            if done(self) {
                return;
            }
            let mut completions = Vec::new();
            let waited = self.kernel.wait(Some(Duration::from_millis(10)), &mut completions);
            waited.expect("the simulated kernel always works");
            for completion in completions {
                self.kernel.begin(&completion.event);
                match completion.event {
                    Event::Received { filled, .. } => self.kernel.buffers.append(&mut self.chain, filled),
                    event => self.events.push(event),
                }
            }
        }
        panic!("it never happens: {:?} {:?}", self.events, self.kernel.link(self.socket.link));
    }

    fn idle(&self) -> bool {
        self.kernel.link(self.socket.link).idle()
    }

    /// Waits until a receive has ended.
    fn end(&mut self) -> ReceiveEnd {
        let ended = |event: &Event<SimSocket>| match event {
            Event::ReceiveEnded(end) => Some(*end),
            _ => None,
        };
        self.until(|client| client.events.iter().any(|event| ended(event).is_some()));
        self.events.iter().find_map(ended).expect("waited for")
    }

    fn closed(&mut self) -> bool {
        self.kernel.inspect(&self.socket).closed
    }

    fn close(mut self) {
        self.until(Client::idle);
        self.kernel.buffers.clear(&mut self.chain);
        self.kernel.close(self.socket);
    }
}

const NAP: Step = Step::Sleep(Duration::from_secs(1));

/// A full send queue and a reset: the news goes to the send, which hides it, or to the receive.
#[test]
fn a_reset_can_be_swallowed_by_a_send() {
    let (mut swallowed, mut told) = (0, 0);
    for seed in 0..60 {
        let mut client = Client::accept(seed, &[Step::Read(Reading::NotAtAll), Step::Say(100_000), NAP, Step::Reset]);
        client.receive();
        client.until(|client| client.chain.bytes() == 100_000);
        client.send();
        let end = client.end();
        client.until(Client::idle);
        let short = client.events.iter().any(|event| matches!(event, Event::Sent { whole: false, .. }));
        match end {
            ReceiveEnd::Eof => swallowed += u32::from(short),
            ReceiveEnd::Failed(Errno::ECONNRESET) => told += 1,
            other => panic!("seed {seed}: {other:?}"),
        }
        assert!(client.closed());
        client.close();
    }
    assert!(swallowed > 0 && told > 0, "{swallowed} swallowed, {told} told");
}

#[test]
fn a_reset_behind_an_end_of_stream_shows_as_epipe_only() {
    let mut client = Client::accept(1, &[Step::Say(10), Step::Fin, NAP, Step::Reset]);
    client.receive();
    assert_eq!(client.end(), ReceiveEnd::Eof);
    assert!(!client.closed());
    client.kernel.watch(OWNER, &client.socket);
    client.until(|client| client.events.len() == 3);
    let resets: Vec<_> =
        client.events[1..].iter().map(|event| matches!(event, Event::HungUp { reset: true, .. })).collect();
    assert_eq!(resets, [false, true], "{:?}", client.events);
    assert!(client.closed());
    client.send();
    client.until(|client| client.events.len() == 4);
    assert!(matches!(client.events[3], Event::SendFailed(Errno::EPIPE)), "{:?}", client.events);
    client.kernel.bind(client.socket.link, OWNER);
    client.kernel.cancel(OWNER, OpKind::Watch);
    client.close();
}

#[test]
fn what_came_before_a_reset_is_read_first() {
    let mut client = Client::accept(5, &[Step::Say(1_000), NAP, Step::Reset]);
    client.kernel.run_on(client.kernel.now + Duration::from_secs(2));
    client.receive();
    assert_eq!(client.end(), ReceiveEnd::Failed(Errno::ECONNRESET));
    assert_eq!(client.chain.bytes(), 1_000);
    assert_eq!(client.kernel.shutdown_write_unchecked(&client.socket), Err(Errno::ENOTCONN));
    client.close();
}

#[test]
fn a_reset_of_ours_throws_away_what_is_not_acknowledged() {
    for acknowledged in [false, true] {
        let slowly = Reading::Slowly { bytes: 500, every: Duration::from_millis(1) };
        let mut client = Client::accept(3, &[Step::Read(slowly), Step::Say(40_000), Step::AwaitEnd]);
        client.receive();
        client.until(|client| client.chain.bytes() == 40_000);
        client.send();
        client.kernel.cancel(OWNER, OpKind::Receive);
        client.until(Client::idle);
        if acknowledged {
            client.until(|client| client.kernel.link(client.socket.link).unsent() == 0);
        }
        client.kernel.buffers.clear(&mut client.chain);
        let link = client.socket.link;
        client.kernel.reset(client.socket);
        client.kernel.run_out();
        let link = client.kernel.link(link);
        assert!(link.peer.saw_reset);
        assert_eq!(link.outbound.read == link.outbound.taken, acknowledged);
    }
}

#[test]
fn no_byte_is_lost_when_a_receive_is_cancelled_and_armed_again() {
    let mut client = Client::accept(4, &[Step::Say(150_000), Step::AwaitEnd]);
    let mut receives = 0;
    while client.chain.bytes() < 150_000 {
        client.receive();
        client.kernel.cancel(OWNER, OpKind::Receive);
        client.until(Client::idle);
        receives += 1;
    }
    assert!(receives > 1);
    let stream = client.kernel.link(client.socket.link).stream;
    let mut offset = 0;
    for slice in client.kernel.buffers.slices(&client.chain) {
        assert!(stream.matches(offset, slice));
        offset += slice.len() as u64;
    }
    client.close();
}

/// The kernel calls a connection that ended in order closed, too.
#[test]
fn both_ends_make_a_closed_connection() {
    let mut client = Client::accept(5, &[Step::AwaitEnd, Step::Fin]);
    assert_eq!(client.kernel.shutdown_write_unchecked(&client.socket), Ok(()));
    client.receive();
    assert_eq!(client.end(), ReceiveEnd::Eof);
    assert!(client.closed());
    client.close();
}

#[test]
#[should_panic(expected = "while one is in flight")]
fn a_second_receive_is_found() {
    let mut client = Client::accept(6, &[]);
    client.receive();
    client.receive();
}

#[test]
#[should_panic(expected = "is closed while something is in flight on it")]
fn a_close_under_a_receive_is_found() {
    let mut client = Client::accept(6, &[Step::AwaitEnd]);
    client.receive();
    client.kernel.close(client.socket);
}

#[test]
#[should_panic(expected = "was dropped, not closed")]
fn a_forgotten_descriptor_is_found() {
    drop(Client::accept(6, &[Step::AwaitEnd]));
}

#[test]
#[should_panic(expected = "while a send still reads it")]
fn a_chunk_that_is_freed_under_a_send_is_found() {
    let mut client = Client::accept(6, &[Step::Say(10), Step::AwaitEnd]);
    client.receive();
    client.until(|client| client.chain.bytes() == 10);
    client.send();
    client.kernel.buffers.clear(&mut client.chain);
}

#[test]
#[should_panic(expected = "is sent something else")]
fn bytes_that_nobody_said_are_found() {
    let mut client = Client::accept(6, &[Step::Say(10)]);
    client.kernel.buffers.append_copy(&mut client.chain, b"ten bytes!");
    client.send();
}

#[test]
#[should_panic(expected = "is told of an end")]
fn an_end_that_nobody_came_to_is_found() {
    let mut client = Client::accept(6, &[Step::Say(10)]);
    let result = client.kernel.shutdown_write(&client.socket);
    panic!("nobody has minded: {result:?}");
}

#[test]
#[should_panic(expected = "is used again before")]
fn a_slot_that_is_reused_too_early_is_found() {
    let mut client = Client::accept(6, &[Step::AwaitEnd]);
    client.receive();
    client.kernel.client_arrives(Plan { client: Vec::new(), backend: Vec::new(), clean: None });
    let second = client.kernel.backlog.pop_front().expect("a second client");
    client.kernel.link_mut(second).descriptor = Descriptor::Open;
    client.kernel.bind(second, Owner { key: Key::new(0, 1), ..OWNER });
}
