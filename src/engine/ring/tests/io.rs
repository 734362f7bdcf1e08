//! Sending and receiving.

use super::*;

#[test]
fn echoes_both_ways_over_multishot() {
    let mut bench = Bench::new();
    let (a, mut far_a) = tcp_pair();
    let (b, mut far_b) = unix_pair();
    for (index, socket) in [&a, &b].into_iter().enumerate() {
        bench.ring.receive(owner(index as u32, 1), socket, Receive::Multishot);
    }
    for round in 0..20u8 {
        for (index, socket) in [&a, &b].into_iter().enumerate() {
            let message = vec![round; 100 + usize::from(round)];
            if index == 0 {
                far_a.write_all(&message).unwrap()
            } else {
                far_b.write_all(&message).unwrap()
            }
            let mut got = Vec::new();
            while got.len() < message.len() {
                let event = bench.next(owner(index as u32, 1));
                assert!(bench.take(event, &mut got), "the receive stays armed");
            }
            assert_eq!(got, message);
            let mut chain = Chain::new();
            bench.ring.buffers().append_copy(&mut chain, &got);
            bench.ring.send(owner(index as u32, 0), socket, &chain);
            let event = bench.next(owner(index as u32, 0));
            assert!(matches!(event, Event::Sent { bytes, whole: true } if bytes == got.len()), "{event:?}");
            bench.ring.buffers().clear(&mut chain);
            let mut back = vec![0; got.len()];
            if index == 0 {
                far_a.read_exact(&mut back).unwrap()
            } else {
                far_b.read_exact(&mut back).unwrap()
            }
            assert_eq!(back, message);
        }
    }
    assert_eq!(bench.ring.in_flight(), 2);
    assert_eq!(bench.ring.statistics().overflows, 0);
}

#[test]
fn what_is_submitted_is_on_its_way_before_the_next_turn() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    let mut chain = Chain::new();
    bench.ring.buffers().append_copy(&mut chain, b"before bulk");
    bench.ring.send(owner(1, 0), &near, &chain);
    bench.ring.submit();
    let mut got = [0; 11];
    far.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"before bulk");
    let event = bench.next(owner(1, 0));
    assert!(matches!(event, Event::Sent { bytes: 11, whole: true }), "{event:?}");
    bench.ring.buffers().clear(&mut chain);
}

fn gathers(vectorized: bool) {
    let mut bench = Bench::new();
    bench.ring.vectorized &= vectorized;
    let (near, mut far) = tcp_pair();
    // More chunks than one send takes, and more bytes than the socket's buffers: the kernel must finish it later.
    let mut chain = Chain::new();
    let content = chunks(&mut bench.ring, &mut chain, GATHER_MAX + 3, 1 << 20);
    let expected = content.clone();
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; expected.len()];
        far.read_exact(&mut got).unwrap();
        assert!(got == expected, "the bytes arrive in order");
    });
    for count in [GATHER_MAX, 3] {
        bench.ring.send(owner(1, 0), &near, &chain);
        let event = bench.next(owner(1, 0));
        assert!(matches!(event, Event::Sent { bytes, whole: true } if bytes == count << 20), "{event:?}");
        bench.ring.buffers().consume(&mut chain, count << 20);
    }
    reader.join().unwrap();
    assert!(chain.is_empty());
}

#[test]
fn gathers_chunks_with_the_vectored_send() {
    gathers(true);
}

#[test]
fn gathers_chunks_with_messages() {
    gathers(false);
}

#[test]
fn a_reset_under_a_pending_send_ends_it_short() {
    let mut bench = Bench::new();
    let (near, far) = tcp_pair();
    let mut chain = Chain::new();
    let all = chunks(&mut bench.ring, &mut chain, 8, 1 << 20).len();
    bench.ring.send(owner(1, 0), &near, &chain);
    bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
    assert!(bench.seen.is_empty(), "nobody reads: the send waits");
    reset(far);
    match bench.next(owner(1, 0)) {
        Event::Sent { bytes, whole } => assert!(!whole && bytes < all),
        Event::SendFailed(errno) => assert!(matches!(errno, Errno::ECONNRESET | Errno::EPIPE), "{errno}"),
        event => panic!("{event:?}"),
    }
    bench.ring.buffers().clear(&mut chain);
}

#[test]
fn a_cancelled_send_says_what_was_taken() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    let mut chain = Chain::new();
    let all = chunks(&mut bench.ring, &mut chain, 8, 1 << 20);
    bench.ring.send(owner(1, 0), &near, &chain);
    bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
    bench.ring.cancel(owner(1, 0), OpKind::Send);
    let event = bench.next(owner(1, 0));
    let Event::Sent { bytes, whole: false } = event else { panic!("{event:?}") };
    assert!(bytes > 0 && bytes < all.len());
    bench.ring.buffers().consume(&mut chain, bytes);
    // Exactly the rest is missing.
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        got
    });
    bench.ring.send(owner(1, 0), &near, &chain);
    let event = bench.next(owner(1, 0));
    assert!(matches!(event, Event::Sent { bytes: rest, whole: true } if rest == all.len() - bytes), "{event:?}");
    bench.ring.buffers().clear(&mut chain);
    bench.ring.shutdown_write(&near).unwrap();
    assert!(reader.join().unwrap() == all);
}

#[test]
fn eof_and_reset_end_a_receive() {
    let mut bench = Bench::new();
    let (a, mut far_a) = tcp_pair();
    bench.ring.receive(owner(1, 0), &a, Receive::Multishot);
    far_a.write_all(b"last").unwrap();
    far_a.shutdown(Shutdown::Write).unwrap();
    let mut got = Vec::new();
    let event = bench.next(owner(1, 0));
    assert!(bench.take(event, &mut got));
    assert_eq!(got, b"last");
    let event = bench.next(owner(1, 0));
    assert!(matches!(event, Event::ReceiveEnded(ReceiveEnd::Eof)), "{event:?}");

    let (b, far_b) = tcp_pair();
    bench.ring.receive(owner(2, 0), &b, Receive::Multishot);
    bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
    reset(far_b);
    let event = bench.next(owner(2, 0));
    assert!(matches!(event, Event::ReceiveEnded(ReceiveEnd::Failed(Errno::ECONNRESET))), "{event:?}");
    assert!(bench.ring.inspect(&b).closed);
    assert!(!bench.ring.inspect(&a).closed, "a FIN is not the end of a connection");
    assert_eq!(bench.ring.in_flight(), 0);
    assert_eq!(bench.pool(), (BUFFERS_MAX, BULK_BUFFERS_MAX), "every buffer came back");
}

#[test]
fn starves_without_buffers_and_recovers() {
    let mut bench = Bench::new();
    let (near, far) = tcp_pair();
    let all = BUFFERS_MAX * BUFFER_BYTES + (4 << 20);
    let writer = std::thread::spawn(move || {
        let mut far = far;
        let content: Vec<u8> = (0..all).map(|i| (i / 3) as u8).collect();
        far.write_all(&content).unwrap();
        content
    });
    // Keep everything, until no buffer is left.
    let (mut chain, mut starved) = (Chain::new(), false);
    bench.ring.receive(owner(1, 0), &near, Receive::Multishot);
    while !starved {
        match bench.next(owner(1, 0)) {
            Event::Received { filled, more } => {
                bench.ring.buffers().append(&mut chain, filled);
                if !more {
                    bench.ring.receive(owner(1, 0), &near, Receive::Multishot);
                }
            }
            Event::ReceiveEnded(ReceiveEnd::Starved) => starved = true,
            event => panic!("{event:?}"),
        }
    }
    assert_eq!(bench.ring.buffers().small_free(), 0);
    assert!(bench.ring.statistics().starvations > 0);
    let mut got = Vec::new();
    for slice in bench.ring.buffers().slices(&chain) {
        got.extend_from_slice(slice);
    }
    bench.ring.buffers().clear(&mut chain);
    bench.ring.receive(owner(1, 0), &near, Receive::Multishot);
    while got.len() < all {
        match bench.next(owner(1, 0)) {
            Event::ReceiveEnded(ReceiveEnd::Starved) => bench.ring.receive(owner(1, 0), &near, Receive::Multishot),
            event => {
                if !bench.take(event, &mut got) {
                    bench.ring.receive(owner(1, 0), &near, Receive::Multishot);
                }
            }
        }
    }
    assert!(got == writer.join().unwrap(), "nothing is lost or doubled over a starvation");
}

#[test]
fn a_receive_on_an_empty_pool_waits_for_its_socket() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    let (other, mut far_other) = tcp_pair();
    let mut taken = Vec::new();
    bench.ring.receive(owner(1, 0), &near, Receive::Multishot);
    while taken.len() < BUFFERS_MAX {
        far.write_all(b"x").unwrap();
        match bench.next(owner(1, 0)) {
            Event::Received { filled, .. } => taken.push(filled),
            event => panic!("{event:?}"),
        }
    }
    bench.ring.receive(owner(2, 0), &other, Receive::Multishot);
    bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
    assert!(bench.seen.is_empty(), "nothing is there to be received: no need of a buffer");
    far_other.write_all(b"y").unwrap();
    let event = bench.next(owner(2, 0));
    assert!(matches!(event, Event::ReceiveEnded(ReceiveEnd::Starved)), "{event:?}");
    for filled in taken {
        assert_eq!(bench.ring.buffers().discard(filled), 1);
    }
    bench.ring.receive(owner(2, 0), &other, Receive::Multishot);
    let mut got = Vec::new();
    let event = bench.next(owner(2, 0));
    assert!(bench.take(event, &mut got));
    assert_eq!(got, b"y");
}

#[test]
fn bulk_receives_once_into_a_large_buffer() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    let content: Vec<u8> = (0..3 << 20).map(|i: usize| (i / 5) as u8).collect();
    let writer = std::thread::spawn({
        let content = content.clone();
        move || far.write_all(&content).unwrap()
    });
    let (mut got, mut largest) = (Vec::new(), 0);
    while got.len() < content.len() {
        bench.ring.receive(owner(1, 0), &near, Receive::Bulk);
        let event = bench.next(owner(1, 0));
        let before = got.len();
        assert!(!bench.take(event, &mut got), "one receive at a time");
        largest = largest.max(got.len() - before);
    }
    writer.join().unwrap();
    assert!(got == content);
    assert!(largest > BUFFER_BYTES && largest <= BULK_BUFFER_BYTES, "{largest}");
    assert_eq!(bench.ring.waiting_large, 0);
    let event = {
        bench.ring.receive(owner(1, 0), &near, Receive::Bulk);
        bench.next(owner(1, 0))
    };
    assert!(matches!(event, Event::ReceiveEnded(ReceiveEnd::Eof)), "{event:?}");
    assert_eq!(bench.pool(), (BUFFERS_MAX, BULK_BUFFERS_MAX), "every buffer came back");
}

#[test]
fn bulk_falls_back_to_small_buffers() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    let mut taken = Vec::new();
    for _ in 0..BULK_BUFFERS_MAX {
        far.write_all(b"bulk").unwrap();
        bench.ring.receive(owner(1, 0), &near, Receive::Bulk);
        match bench.next(owner(1, 0)) {
            Event::Received { filled, more: false } => taken.push(filled),
            event => panic!("{event:?}"),
        }
    }
    let small = bench.ring.small.published();
    far.write_all(&[1; 2 * BUFFER_BYTES]).unwrap();
    bench.ring.receive(owner(1, 0), &near, Receive::Bulk);
    let mut got = Vec::new();
    let event = bench.next(owner(1, 0));
    assert!(!bench.take(event, &mut got));
    assert_eq!(bench.ring.small.published(), small - 1);
    assert!(got.len() <= BUFFER_BYTES);
    for filled in taken {
        bench.ring.buffers().discard(filled);
    }
    bench.ring.receive(owner(1, 0), &near, Receive::Bulk);
    assert_eq!(bench.ring.waiting_large, 1, "a large buffer is free again");
}

#[test]
fn more_bulk_receives_than_large_buffers_cost_nobody_anything() {
    let mut bench = Bench::new();
    let count = 2 * BULK_BUFFERS_MAX as u32;
    let mut pairs: Vec<_> = (0..count).map(|_| unix_pair()).collect();
    for (index, (near, _)) in pairs.iter().enumerate() {
        bench.ring.receive(owner(index as u32, 0), near, Receive::Bulk);
    }
    for _ in 0..3 {
        bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
    }
    assert!(bench.seen.is_empty(), "those that wait for nothing hold nothing and starve of nothing");
    assert!(bench.ring.buffers().large_free() >= BULK_BUFFERS_MAX - BULK_BUFFERS_PUBLISHED_MIN);
    // All at once: the large buffers go to some, small ones to the others.
    let message = [3; 2 * BUFFER_BYTES];
    for (_, far) in &mut pairs {
        far.write_all(&message).unwrap();
    }
    let (mut large, mut small, mut taken) = (0, 0, Vec::new());
    for index in 0..count {
        let event = bench.next(owner(index, 0));
        let Event::Received { filled, more: false } = event else { panic!("{event:?}") };
        match filled.bytes() {
            bytes if bytes == message.len() => large += 1,
            BUFFER_BYTES => small += 1,
            bytes => panic!("{bytes} bytes"),
        }
        taken.push(filled);
    }
    assert_eq!((large, small), (BULK_BUFFERS_MAX, BULK_BUFFERS_MAX));
    for filled in taken {
        bench.ring.buffers().discard(filled);
    }
    assert_eq!(bench.ring.statistics().starvations, 0);
    assert_eq!(bench.pool(), (BUFFERS_MAX, BULK_BUFFERS_MAX));
}

#[test]
fn a_bulk_receive_that_looks_for_another_buffer_can_be_cancelled() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    let mut taken = Vec::new();
    while bench.ring.buffers().large_free() > 0 || bench.ring.large.published() > 0 {
        far.write_all(b"bulk").unwrap();
        bench.ring.receive(owner(1, 0), &near, Receive::Bulk);
        let event = bench.next(owner(1, 0));
        let Event::Received { filled, .. } = event else { panic!("{event:?}") };
        taken.push(filled);
    }
    // One is free when the receive is asked for, and somebody else takes it in the same turn.
    bench.ring.buffers().discard(taken.pop().unwrap());
    let (other, mut far_other) = tcp_pair();
    far_other.write_all(b"first").unwrap();
    bench.ring.receive(owner(2, 0), &other, Receive::Bulk);
    bench.ring.receive(owner(1, 0), &near, Receive::Bulk);
    bench.ring.cancel(owner(1, 0), OpKind::Receive);
    let event = bench.next(owner(1, 0));
    assert!(matches!(event, Event::ReceiveEnded(ReceiveEnd::Cancelled)), "{event:?}");
    let event = bench.next(owner(2, 0));
    let Event::Received { filled, .. } = event else { panic!("{event:?}") };
    taken.push(filled);
    assert!(bench.rest().is_empty());
    for filled in taken {
        bench.ring.buffers().discard(filled);
    }
    assert_eq!(bench.pool(), (BUFFERS_MAX, BULK_BUFFERS_MAX));
}

#[test]
fn an_end_of_stream_right_behind_the_last_bytes_of_a_unix_socket_is_seen() {
    let mut bench = Bench::new();
    for round in 0..20 {
        let owner = owner(round, 0);
        let (near, far) = UnixStream::pair().unwrap();
        let near = OwnedFd::from(near);
        bench.ring.receive(owner, &near, Receive::Single);
        // The receive waits in the kernel when both come.
        bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
        (&far).write_all(b"last").unwrap();
        far.shutdown(Shutdown::Write).unwrap();
        let Event::Received { filled, more } = bench.next(owner) else { panic!("bytes come first") };
        assert_eq!((filled.bytes(), more), (4, false));
        bench.ring.buffers().discard(filled);
        bench.ring.receive(owner, &near, Receive::Single);
        assert!(matches!(bench.next(owner), Event::ReceiveEnded(ReceiveEnd::Eof)));
    }
}
