//! What a client gets when no backend may serve it: `when_none`. See `docs/wire.md`.

mod common;

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread;

use common::net::{self, Reserved, black_hole};
use common::pattern::End;
use common::ringlb::Config;
use ringlb::wire::refusal::HTTP_503;

/// A request for which nobody is there: its header says how long the body is, and all of that is sent.
fn write_request(mut stream: &TcpStream, body: usize) {
    let header = format!("POST /upload HTTP/1.1\r\nHost: web\r\nContent-Length: {body}\r\n\r\n");
    stream.write_all(header.as_bytes()).expect("the header is sent");
    stream.write_all(&vec![b'x'; body]).expect("the body is sent");
}

/// Three pools that serve nobody, each for another reason, with the name of that.
fn pools(refusing: &Reserved, silent: std::net::SocketAddr) -> [(Config, &'static str); 3] {
    [
        (Config::new(&[]), "no_backend"),
        (Config::new(&[refusing.address()]), "connect_failed"),
        (Config::new(&[silent]).pool("connect_timeout = \"50ms\""), "connect_timeout"),
    ]
}

#[test]
fn a_client_that_nobody_serves_is_reset_where_that_is_wanted() {
    let (refusing, (listener, _filler)) = (Reserved::new(), black_hole());
    for (config, reason) in pools(&refusing, listener.local_addr().expect("an address")) {
        let ringlb = config.pool("when_none = \"reset\"").start();
        let mut stream = ringlb.connect();
        assert_eq!(net::read_to_end(&mut stream), (vec![], End::Reset), "{reason}");
        assert_eq!(ringlb.wait_for_ends(1), [reason]);
        ringlb.stop();
    }
}

#[test]
fn a_client_that_nobody_serves_is_answered_in_http_where_that_is_wanted() {
    let (refusing, (listener, _filler)) = (Reserved::new(), black_hole());
    for (config, reason) in pools(&refusing, listener.local_addr().expect("an address")) {
        let ringlb = config.pool("when_none = \"http_503\"").start();
        // One that asks, one that says nothing, and one that has said all before anybody could answer.
        for (body, ends) in [(Some(100), false), (None, false), (Some(100), true)] {
            let mut stream = ringlb.connect();
            if let Some(body) = body {
                write_request(&stream, body);
            }
            if ends {
                stream.shutdown(Shutdown::Write).expect("half-close");
            }
            assert_eq!(net::read_to_end(&mut stream), (HTTP_503.into(), End::Eof), "{reason}");
        }
        assert_eq!(ringlb.wait_for_ends(3), [reason; 3]);
        ringlb.stop();
    }
}

/// Closing over what nobody has read would reset the connection and destroy the answer.
#[test]
fn the_answer_arrives_although_nobody_reads_the_long_request() {
    let body = 3 * 1024 * 1024;
    let ringlb = Config::new(&[]).pool("when_none = \"http_503\"").start();
    // A simple client looks at the answer when it has said all.
    let mut simple = ringlb.connect();
    write_request(&simple, body);
    simple.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(net::read_to_end(&mut simple), (HTTP_503.into(), End::Eof));
    // A better one looks while it is talking.
    let mut better = ringlb.connect();
    let talking = better.try_clone().expect("a second handle");
    thread::scope(|scope| {
        scope.spawn(|| write_request(&talking, body));
        assert_eq!(net::read_to_end(&mut better), (HTTP_503.into(), End::Eof));
    });
    drop((better, talking));
    assert_eq!(ringlb.wait_for_ends(2), ["no_backend", "no_backend"]);
    ringlb.stop();
}
