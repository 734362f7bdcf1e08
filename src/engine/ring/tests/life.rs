//! Connections, cancels, the waker, and the end of a ring.

use rustix::net::sockopt;

use super::*;

#[test]
fn connects() {
    let mut bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = Address::Inet(listener.local_addr().unwrap());
    let options = SocketOptions { keepalive: Some(Duration::from_secs(60)), source: None };
    let socket = bench.ring.open(&address, &options).unwrap();
    bench.ring.connect(owner(1, 1), &socket, &address);
    assert!(matches!(bench.next(owner(1, 1)), Event::Connected));
    let accepted: OwnedFd = listener.accept().unwrap().0.into();
    assert_eq!(socket::peer_address(&accepted), socket::local_address(&socket));
    assert_eq!(socket::peer_address(&socket), address.inet());
    // A connection that comes to rest gets keepalive, and no other pays for it.
    assert_eq!(sockopt::socket_keepalive(&socket), Ok(false));
    bench.ring.keep_alive(&socket, Duration::from_secs(60));
    assert_eq!(sockopt::socket_keepalive(&socket), Ok(true));
    assert_eq!(sockopt::tcp_keepidle(&socket), Ok(Duration::from_secs(60)));

    // A port that was just given back refuses.
    drop((listener, accepted));
    let socket = bench.ring.open(&address, &options).unwrap();
    bench.ring.connect(owner(1, 1), &socket, &address);
    assert!(matches!(bench.next(owner(1, 1)), Event::ConnectFailed(Errno::ECONNREFUSED)));
}

#[test]
fn connects_to_unix_sockets() {
    let mut bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backend");
    let address = Address::Unix(path.clone());
    let socket = bench.ring.open(&address, &SocketOptions::default()).unwrap();
    bench.ring.connect(owner(1, 1), &socket, &address);
    assert!(matches!(bench.next(owner(1, 1)), Event::ConnectFailed(Errno::ENOENT)));
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    bench.ring.connect(owner(1, 1), &socket, &address);
    assert!(matches!(bench.next(owner(1, 1)), Event::Connected));
    let accepted: OwnedFd = listener.accept().unwrap().0.into();
    assert_eq!(socket::peer_address(&accepted), None);
    assert_eq!(bench.ring.inspect(&socket), crate::engine::Inspection::default());
    assert_eq!(bench.ring.unsent(&socket), 0);

    let endless = Address::Unix(folder.path().join("x".repeat(200)));
    bench.ring.connect(owner(2, 1), &socket, &endless);
    assert!(matches!(bench.next(owner(2, 1)), Event::ConnectFailed(Errno::ENAMETOOLONG)));
}

/// A listener whose queue is full does not answer: a connect to it hangs.
fn silent_listener() -> (OwnedFd, Address, Vec<TcpStream>) {
    let options = ListenOptions { workers: 1, backlog: 0, keepalive: None };
    let listener = Listener::bind(&Address::Inet("127.0.0.1:0".parse().unwrap()), &options).unwrap();
    let address = listener.address().clone();
    let socket = listener.sockets()[0].try_clone().unwrap();
    let queued = (0..4)
        .map_while(|_| TcpStream::connect_timeout(&address.inet().unwrap(), Duration::from_millis(200)).ok())
        .collect();
    (socket, address, queued)
}

#[test]
fn a_cancelled_connect_ends() {
    let mut bench = Bench::new();
    let (_listener, address, _queued) = silent_listener();
    let socket = bench.ring.open(&address, &SocketOptions::default()).unwrap();
    bench.ring.connect(owner(1, 1), &socket, &address);
    bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
    assert!(bench.seen.is_empty());
    bench.ring.cancel(owner(1, 1), OpKind::Connect);
    assert!(matches!(bench.next(owner(1, 1)), Event::ConnectFailed(Errno::ECANCELED)));

    // In one submission with the connect the cancel finds nothing at first.
    let socket = bench.ring.open(&address, &SocketOptions::default()).unwrap();
    bench.ring.connect(owner(2, 1), &socket, &address);
    bench.ring.cancel(owner(2, 1), OpKind::Connect);
    assert!(matches!(bench.next(owner(2, 1)), Event::ConnectFailed(Errno::ECANCELED)));
    assert!(bench.rest().is_empty(), "the cancels themselves are not seen");
}

#[test]
fn accepts_until_cancelled_and_leaves_the_rest_in_the_queue() {
    let mut bench = Bench::new();
    let listener = listen(1);
    let address = listener.address().inet().unwrap();
    let accepting = owner(0, 3);
    bench.ring.accept(accepting, &listener.sockets()[0]);
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(TcpStream::connect(address).unwrap());
        match bench.next(accepting) {
            Event::Accepted { socket, more: true } => {
                assert_eq!(socket::peer_address(&socket), clients.last().unwrap().local_addr().ok());
                assert_eq!(rustix::net::sockopt::tcp_nodelay(&socket), Ok(true), "inherited");
                let flags = rustix::fs::fcntl_getfl(&socket).unwrap();
                assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
                let flags = rustix::io::fcntl_getfd(&socket).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
                bench.ring.close(socket);
            }
            event => panic!("{event:?}"),
        }
    }
    bench.ring.cancel(accepting, OpKind::Accept);
    assert!(matches!(bench.next(accepting), Event::AcceptEnded(Errno::ECANCELED)));
    for client in &mut clients {
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "closed by the close operation");
    }
    let late: Vec<_> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
    let rest: Vec<_> = accept_rest(&listener.sockets()[0]).collect();
    assert_eq!(rest.len(), late.len());
    assert!(bench.rest().is_empty());
}

#[test]
fn each_kind_of_operation_can_be_cancelled() {
    let mut bench = Bench::new();
    let (near, _far) = tcp_pair();
    for how in [Receive::Multishot, Receive::Bulk] {
        bench.ring.receive(owner(1, 0), &near, how);
        bench.ring.cancel(owner(1, 0), OpKind::Receive);
        let event = bench.next(owner(1, 0));
        assert!(matches!(event, Event::ReceiveEnded(ReceiveEnd::Cancelled)), "{event:?}");
    }
    assert_eq!((bench.ring.waiting_large, bench.ring.large.published()), (0, 1), "still published, for the next");
    bench.ring.receive(owner(1, 0), &near, Receive::Bulk);
    bench.ring.watch(owner(1, 0), &near);
    bench.ring.cancel(owner(1, 0), OpKind::Watch);
    assert!(matches!(bench.next(owner(1, 0)), Event::WatchEnded));
    bench.ring.cancel(owner(1, 0), OpKind::Receive);
    assert!(matches!(bench.next(owner(1, 0)), Event::ReceiveEnded(ReceiveEnd::Cancelled)));
    bench.ring.cancel(owner(1, 0), OpKind::Send);
    assert!(bench.rest().is_empty(), "nothing of it is in flight");
}

#[test]
fn a_watch_is_silent_on_data_and_sees_fin_and_reset() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    bench.ring.watch(owner(1, 0), &near);
    far.write_all(b"data").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    let event = bench.next(owner(1, 0));
    assert!(matches!(event, Event::HungUp { reset: false, more: true }), "{event:?}");
    reset(far);
    let event = bench.next(owner(1, 0));
    assert!(matches!(event, Event::HungUp { reset: true, more: true }), "{event:?}");
    bench.ring.cancel(owner(1, 0), OpKind::Watch);
    assert!(matches!(bench.next(owner(1, 0)), Event::WatchEnded));
}

#[test]
fn reset_resets() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    bench.ring.reset(near);
    bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
    assert_eq!(far.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn what_the_peer_has_not_acknowledged_is_counted() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    assert_eq!(bench.ring.unsent(&near), 0);
    let mut chain = Chain::new();
    let all = chunks(&mut bench.ring, &mut chain, 8, 1 << 20).len();
    bench.ring.send(owner(1, 0), &near, &chain);
    bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
    assert!(bench.ring.unsent(&near) > 0, "nobody reads");
    let heard = bench.ring.inspect(&near).heard;
    let reader = std::thread::spawn(move || {
        far.read_exact(&mut vec![0; all]).unwrap();
        far
    });
    assert!(matches!(bench.next(owner(1, 0)), Event::Sent { whole: true, .. }));
    let _far = reader.join().unwrap();
    bench.ring.buffers().clear(&mut chain);
    let after = bench.ring.inspect(&near);
    assert!(after.heard > heard && after.rtt_us > 0 && !after.closed, "{after:?}");
}

#[test]
fn a_waker_wakes_from_another_thread_once_a_turn() {
    let mut bench = Bench::new();
    let waker = Waker::new().unwrap();
    bench.ring.arm_waker(owner(9, 2), &waker);
    for _ in 0..3 {
        let remote = waker.clone();
        std::thread::spawn(move || (0..100).for_each(|_| remote.wake())).join().unwrap();
        assert!(matches!(bench.next(owner(9, 2)), Event::Woken));
        bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
        assert!(bench.seen.is_empty(), "many uses are one event");
    }
    // It also ends a wait that has begun, and survives its ring.
    let remote = waker.clone();
    let thread = std::thread::spawn(move || remote.wake());
    assert!(matches!(bench.next(owner(9, 2)), Event::Woken));
    thread.join().unwrap();
    drop(bench);
    waker.wake();
    let mut bench = Bench::new();
    bench.ring.arm_waker(owner(3, 2), &waker);
    assert!(matches!(bench.next(owner(3, 2)), Event::Woken), "what was missed is made up for");
}

#[test]
fn more_operations_in_one_turn_than_the_queue_has_entries() {
    let mut bench = Bench::new();
    let count = 3 * SUBMISSION_ENTRIES + 5;
    let (near, mut far) = unix_pair();
    // One send after the other on one socket would be wrong for content, but each is taken whole at once here.
    let mut chain = Chain::new();
    bench.ring.buffers().append_copy(&mut chain, b"a");
    bench.ring.buffers().append_copy(&mut chain, b"b");
    let reader = std::thread::spawn(move || {
        far.read_exact(&mut vec![0; 2 * count as usize]).unwrap();
        far
    });
    for index in 0..count {
        bench.ring.send(owner(index, 0), &near, &chain);
    }
    let done = bench.rest();
    assert_eq!(done.len(), count as usize);
    assert!(done.iter().all(|c| matches!(c.event, Event::Sent { bytes: 2, whole: true })));
    let _far = reader.join().unwrap();
    bench.ring.buffers().clear(&mut chain);
}

/// What the last entry of a full queue points at must outlive the submission that makes room for it.
#[test]
fn what_a_full_queue_has_to_send_is_not_mixed_up() {
    let mut bench = Bench::new();
    let (many, mut many_far) = unix_pair();
    let reader = std::thread::spawn(move || many_far.read_exact(&mut vec![0; SUBMISSION_ENTRIES as usize]).unwrap());
    let mut filler = Chain::new();
    bench.ring.buffers().append_copy(&mut filler, b"-");
    for index in 0..SUBMISSION_ENTRIES {
        bench.ring.send(owner(index, 0), &many, &filler);
    }
    let mut pairs = Vec::new();
    for (index, words) in [["for the", " first"], ["and the", " other"]].into_iter().enumerate() {
        let (near, far) = tcp_pair();
        let mut chain = Chain::new();
        words.iter().for_each(|word| bench.ring.buffers().append_copy(&mut chain, word.as_bytes()));
        bench.ring.send(owner(SUBMISSION_ENTRIES + index as u32, 0), &near, &chain);
        pairs.push((words.concat(), near, far, chain));
    }
    assert_eq!(bench.rest().len(), SUBMISSION_ENTRIES as usize + 2);
    for (words, _near, mut far, mut chain) in pairs {
        let mut got = vec![0; words.len()];
        far.read_exact(&mut got).unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), words);
        bench.ring.buffers().clear(&mut chain);
    }
    reader.join().unwrap();
    bench.ring.buffers().clear(&mut filler);
}

#[test]
fn an_overflow_of_completions_loses_nothing() {
    let mut bench = Bench::new();
    let count = crate::limits::COMPLETION_ENTRIES + 4 * SUBMISSION_ENTRIES;
    let (near, far) = unix_pair();
    let mut chain = Chain::new();
    bench.ring.buffers().append_copy(&mut chain, b"a");
    drop(far);
    for index in 0..count {
        bench.ring.send(owner(index, 0), &near, &chain);
    }
    let done = bench.rest();
    assert_eq!(done.len(), count as usize);
    assert!(done.iter().all(|c| matches!(c.event, Event::SendFailed(Errno::EPIPE))));
    assert!(bench.ring.statistics().overflows > 0);
    bench.ring.buffers().clear(&mut chain);
}

#[test]
fn a_completion_gives_back_the_generation_it_was_asked_with() {
    let mut bench = Bench::new();
    let (near, _far) = tcp_pair();
    let old = Owner { key: Key::new(5, 0xff_fffe), role: Role(1) };
    bench.ring.receive(old, &near, Receive::Multishot);
    bench.ring.cancel(old, OpKind::Receive);
    let all = bench.rest();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0].owner, old, "the owner recognises it as stale by its slots");
}

/// How many descriptors of this process lead to these sockets.
fn open_descriptors(inodes: &[u64]) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = open.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| inodes.iter().any(|inode| link.as_os_str() == format!("socket:[{inode}]").as_str())).count()
}

#[test]
fn a_dropped_ring_closes_what_nobody_took() {
    let listener = listen(1);
    let address = listener.address().inet().unwrap();
    let mut bench = Bench::new();
    bench.ring.accept(owner(0, 0), &listener.sockets()[0]);
    let waker = Waker::new().unwrap();
    bench.ring.arm_waker(owner(0, 1), &waker);
    let (near, _far) = tcp_pair();
    bench.ring.receive(owner(1, 0), &near, Receive::Multishot);
    bench.ring.watch(owner(1, 0), &near);
    bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
    assert!(bench.seen.is_empty());
    let clients: Vec<_> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
    // The kernel accepts, and nobody looks at the completions.
    bench.ring.queue.wait(Some(Duration::from_secs(10))).unwrap();
    drop(bench);
    let queued: Vec<_> = accept_rest(&listener.sockets()[0]).collect();
    let queued: Vec<_> = queued.iter().map(|socket| socket::peer_address(socket).unwrap()).collect();
    let mut accepted = 0;
    for mut client in clients {
        if !queued.contains(&client.local_addr().unwrap()) {
            accepted += 1;
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "an accepted socket is not left open");
        }
    }
    assert!(accepted > 0, "the test is one only if the ring has accepted some");
    let inode = rustix::fs::fstat(&near).unwrap().st_ino;
    assert_eq!(open_descriptors(&[inode]), 1, "ours alone");
}

#[test]
fn a_full_unix_listener_says_so_at_once() {
    let mut bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    let address = Address::Unix(folder.path().join("full"));
    let options = ListenOptions { workers: 1, backlog: 0, keepalive: None };
    let _listener = Listener::bind(&address, &options).unwrap();
    let mut ends = Vec::new();
    let sockets: Vec<_> = (0..3).map(|_| bench.ring.open(&address, &SocketOptions::default()).unwrap()).collect();
    for (index, socket) in sockets.iter().enumerate() {
        bench.ring.connect(owner(index as u32, 1), socket, &address);
        ends.push(bench.next(owner(index as u32, 1)));
    }
    assert!(matches!(ends[0], Event::Connected));
    assert!(matches!(ends[2], Event::ConnectFailed(Errno::EAGAIN)), "{ends:?}");
}

#[test]
fn a_socket_whose_close_the_kernel_never_took_is_closed_with_the_ring() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    let (early, mut early_far) = tcp_pair();
    bench.ring.close(early);
    bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
    assert_eq!(early_far.read(&mut [0]).unwrap(), 0);
    bench.ring.queue.spoil();
    bench.ring.close(near);
    assert!(bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).is_err());
    drop(bench);
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "closed");
}

#[test]
fn what_has_made_a_ring_unusable_may_pass_before_it_is_dropped() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    bench.ring.receive(owner(1, 0), &near, Receive::Multishot);
    bench.ring.fail();
    assert_eq!(bench.ring.wait(Some(Duration::ZERO), &mut bench.seen), Err(Errno::EAGAIN));
    bench.ring.close(near);
    drop(bench);
    assert_eq!(far.read(&mut [0]).unwrap(), 0, "closed");
}
