//! What a ring gives back when traffic has gone.

use super::*;
use crate::limits::BUFFERS_PUBLISHED_MIN;

/// Turns and tidies until there is nothing left to give back. Says how often.
fn come_to_rest(bench: &mut Bench) -> usize {
    for round in 1..10 {
        if !bench.ring.tidy(true) {
            return round;
        }
        bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
        assert!(bench.seen.is_empty(), "{:?}", bench.seen);
    }
    panic!("it finds more to do again and again");
}

#[test]
fn a_ring_at_rest_has_given_all_pages_back_and_loses_no_byte() {
    let mut bench = Bench::new();
    let all = bench.pool();
    // As many as there may be are published.
    bench.ring.small_demand.starve();
    let pairs: Vec<_> = (0..100).map(|_| tcp_pair()).collect();
    for (index, (near, _)) in pairs.iter().enumerate() {
        bench.ring.receive(owner(index as u32, 0), near, Receive::Multishot);
    }
    let mut held: Vec<Chain> = Vec::new();
    for round in 0..3u8 {
        for (mut far, content) in pairs.iter().map(|(_, far)| far).zip((0..=u8::MAX).cycle().skip(round.into())) {
            far.write_all(&[content; 1000]).unwrap();
        }
        held.resize_with(pairs.len(), Chain::new);
        while held.iter().any(|chain| chain.bytes() < 1000 * (usize::from(round) + 1)) {
            let ((), completion) = bench.until(|_, _, _| Some(()));
            let Event::Received { filled, more: true } = completion.event else { panic!("{:?}", completion.event) };
            bench.ring.buffers().append(&mut held[completion.owner.key.index() as usize], filled);
        }
    }
    // Every second one is still waited for.
    for chain in held.iter_mut().step_by(2) {
        bench.ring.buffers().clear(chain);
    }
    assert!(come_to_rest(&mut bench) > 1);
    let waiting: usize = held.iter().map(|chain| bench.ring.buffers.pooled_chunks(chain)).sum();
    assert_eq!(usize::from(bench.ring.small.published()), BUFFERS_PUBLISHED_MIN);
    assert!(bench.ring.buffers.pages() <= waiting, "{} pages for {waiting}", bench.ring.buffers.pages());
    for (index, chain) in held.iter_mut().enumerate().skip(1).step_by(2) {
        let expected: Vec<u8> = (0..3).flat_map(|round| [(index + round) as u8; 1000]).collect();
        assert!(bench.ring.buffers().slices(chain).flatten().eq(&expected), "chain {index} has changed");
        bench.ring.buffers().clear(chain);
    }
    // The receives are still armed, and one who speaks is heard.
    (&pairs[99].1).write_all(b"still there").unwrap();
    let mut got = Vec::new();
    let event = bench.next(owner(99, 0));
    assert!(bench.take(event, &mut got));
    assert_eq!(got, b"still there");
    assert!(come_to_rest(&mut bench) > 1);
    assert_eq!(come_to_rest(&mut bench), 1, "there is nothing more to do");
    assert_eq!((bench.pool(), bench.ring.in_flight(), bench.ring.statistics().starvations), (all, 100, 0));
}

#[test]
fn large_buffers_go_too_and_one_who_waits_for_one_still_gets_it() {
    let mut bench = Bench::new();
    let all = bench.pool();
    let (near, mut far) = tcp_pair();
    for waits in [false, true] {
        for _ in 0..3 {
            bench.ring.receive(owner(1, 0), &near, Receive::Bulk);
            far.write_all(&[3; 40_000]).unwrap();
            let mut got = Vec::new();
            let event = bench.next(owner(1, 0));
            assert!(!bench.take(event, &mut got));
            while got.len() < 40_000 {
                bench.ring.receive(owner(1, 0), &near, Receive::Bulk);
                let event = bench.next(owner(1, 0));
                bench.take(event, &mut got);
            }
        }
        if waits {
            bench.ring.receive(owner(1, 0), &near, Receive::Bulk);
        }
        come_to_rest(&mut bench);
        assert_eq!(bench.ring.large.published(), u16::from(waits));
        assert_eq!(bench.ring.buffers.pages(), 0);
    }
    far.write_all(&[3; 10_000]).unwrap();
    let event = bench.next(owner(1, 0));
    assert!(matches!(&event, Event::Received { filled, .. } if filled.bytes() == 10_000), "{event:?}");
    bench.take(event, &mut Vec::new());
    assert_eq!((bench.pool(), bench.ring.in_flight()), (all, 0));
}

#[test]
fn a_ring_can_be_dropped_while_it_comes_to_rest() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    bench.ring.receive(owner(1, 0), &near, Receive::Multishot);
    far.write_all(b"something").unwrap();
    let event = bench.next(owner(1, 0));
    bench.take(event, &mut Vec::new());
    assert!(bench.ring.tidy(true) && bench.ring.tidy(true));
    assert!(!bench.ring.rest.is_over(), "buffers are being recalled");
}
