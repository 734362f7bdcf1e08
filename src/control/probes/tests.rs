//! Checks against real servers, and the prober against real pools.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::check::Cause;
use super::{
    Address, Arc, Duration, HashSet, JoinSet, Mailbox, NonZeroUsize, Outcome, Probe, Prober, Roster, Rosters, State,
    clock,
};
use crate::config::health::{Check, Statuses};
use crate::config::{Config, Overrides};
use crate::engine::socket::Waker;
use crate::errno::Errno;
use crate::relay::Kill;
use crate::wire::proxy::{Command, Endpoint, Parsed, Version, parse};
use crate::worker::mailbox::Command as Told;

const SECOND: Duration = Duration::from_secs(1);

/// Longer than anything here takes, on any machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn http(expect: std::ops::RangeInclusive<u16>) -> Check {
    Check::Http { path: "/health".parse().unwrap(), expect: Statuses::new(vec![expect]).unwrap(), host: None }
}

fn probe(address: impl Into<Address>, check: Check, timeout: Duration) -> Probe {
    Probe { address: address.into(), check, host: "app:80".to_owned(), header: None, timeout, sources: Vec::new() }
}

/// A server that reads a request's header and says `answer` to each; gives what it was asked.
async fn server(answer: Vec<u8>) -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, asked) = mpsc::channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => request.push(byte),
                    Err(_) => break,
                }
            }
            sender.send(String::from_utf8(request).unwrap()).unwrap();
            // A check that has seen enough closes, and the rest cannot be written.
            if stream.write_all(&answer).await.is_ok() {
                drop(stream);
            }
        }
    });
    (address, asked)
}

fn failed(outcome: Outcome) -> Cause {
    match outcome {
        Outcome::Failed(cause) => cause,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_status_passes_or_fails() {
    let (address, asked) =
        server(b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 2\r\n\r\nhi".to_vec()).await;
    assert!(matches!(probe(address, http(200..=399), PATIENCE).run().await, Outcome::Passed));
    let request = asked.recv().unwrap();
    let lines: Vec<&str> = request.lines().collect();
    assert_eq!(lines[0], "GET /health HTTP/1.1");
    assert!(lines.contains(&"host: app:80") && lines.contains(&"connection: close"), "{request}");
    let cause = failed(probe(address, http(200..=299), PATIENCE).run().await);
    assert_eq!(cause.to_string(), "status 302, and expected is 200-299");
    asked.recv().unwrap();
    asked.try_recv().expect_err("a redirect is not followed");
}

#[tokio::test]
async fn a_host_that_is_told_is_said() {
    let (address, asked) = server(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).await;
    let Check::Http { path, expect, .. } = http(200..=200) else { unreachable!("it is one") };
    let host = Some("app.example".parse().unwrap());
    assert!(matches!(probe(address, Check::Http { path, expect, host }, PATIENCE).run().await, Outcome::Passed));
    assert!(asked.recv().unwrap().contains("host: app.example\r\n"));
}

#[tokio::test]
async fn what_is_no_answer_fails_and_says_why() {
    let cases: [(Vec<u8>, &str); 5] = [
        (Vec::new(), "connected, but the connection was closed before an answer"),
        (b"HTTP/1.1 20".to_vec(), "connected, but the connection was closed before an answer"),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec(), "no valid answer over HTTP/1.1: invalid HTTP version parsed"),
        (
            [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 1 << 20]].concat(),
            "no valid answer over HTTP/1.1: message head is too large",
        ),
        (b"HTTP/1.1 600 Odd\r\n\r\n".to_vec(), "status 600, and expected is 200-599"),
    ];
    for (answer, expected) in cases {
        let (address, _asked) = server(answer).await;
        assert_eq!(failed(probe(address, http(200..=599), PATIENCE).run().await).to_string(), expected);
    }
}

#[tokio::test]
async fn a_header_goes_ahead_and_says_that_nobody_is_meant() {
    for (version, check) in [Version::V1, Version::V2].into_iter().flat_map(|v| [(v, Check::Tcp), (v, http(200..=200))])
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asks = check != Check::Tcp;
        let served = tokio::spawn(async move {
            let (mut stream, from) = listener.accept().await.unwrap();
            let mut said = Vec::new();
            // The header of version 2 begins as that of HTTP ends.
            while !(asks && said.len() > 40 && said.ends_with(b"\r\n\r\n")) {
                match stream.read_u8().await {
                    Ok(byte) => said.push(byte),
                    Err(_) => break,
                }
            }
            if asks {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            }
            (said, from)
        });
        let probe = Probe { header: Some(version), ..probe(address, check, PATIENCE) };
        let outcome = probe.run().await;
        assert!(matches!(outcome, Outcome::Passed), "{outcome:?}");
        let (said, from) = served.await.unwrap();
        let Parsed::Header(header) = parse(&said) else { panic!("{said:?}") };
        match version {
            Version::V1 => {
                let (source, destination) = (Endpoint::Inet(from), Endpoint::Inet(address));
                assert_eq!(header.command, Command::Proxy { source, destination });
            }
            Version::V2 => assert_eq!(header.command, Command::Local),
        }
        assert_eq!(said[header.bytes..].starts_with(b"GET /health HTTP/1.1\r\n"), asks);
    }
}

#[tokio::test]
async fn a_reset_instead_of_an_answer_is_told_by_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let cause = failed(probe(address, http(200..=200), PATIENCE).run().await);
    assert_eq!(cause.to_string(), "connected, but then connection reset");
}

#[tokio::test]
async fn a_body_without_an_end_is_left_and_a_silent_one_is_not_waited_for() {
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let endless = [head.clone(), b"10000\r\n".to_vec(), vec![b'x'; 1 << 22]].concat();
    let (address, _asked) = server(endless).await;
    assert!(matches!(probe(address, http(200..=200), PATIENCE).run().await, Outcome::Passed));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let held = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&head).await.unwrap();
        stream
    });
    assert!(matches!(probe(address, http(200..=200), SECOND).run().await, Outcome::Passed));
    drop(held.await.unwrap());
}

#[tokio::test]
async fn who_accepts_and_says_nothing_is_found_out_by_http_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    assert!(matches!(probe(address, Check::Tcp, PATIENCE).run().await, Outcome::Passed));
    let cause = failed(probe(address, http(200..=200), Duration::from_millis(50)).run().await);
    assert_eq!(cause.to_string(), "connected, but no answer within 50ms");
}

#[tokio::test]
async fn nobody_there_is_told_by_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for check in [Check::Tcp, http(200..=200)] {
        assert_eq!(failed(probe(address, check, PATIENCE).run().await).to_string(), "connection refused");
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let cause = failed(probe(Address::Unix(path.clone()), Check::Tcp, PATIENCE).run().await);
    assert_eq!(cause.to_string(), "there is no such socket");
    // That this host has no such address is its own fault.
    let ours = probe("[2001:db8::1]:1".parse::<SocketAddr>().unwrap(), Check::Tcp, PATIENCE);
    if let Outcome::Ours(errno) = ours.run().await {
        assert!([Errno::ENETUNREACH, Errno::EADDRNOTAVAIL, Errno::EAFNOSUPPORT].contains(&errno), "{errno}");
    }

    let listener = UnixListener::bind(&path).unwrap();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        stream
    });
    let passed = probe(Address::Unix(path), http(200..=200), PATIENCE).run().await;
    assert!(matches!(passed, Outcome::Passed), "{passed:?}");
    drop(served.await.unwrap());
}

fn rosters(health: &str, backends: &[String]) -> Arc<Rosters> {
    let mut text = format!(
        "[[listener]]\nname = 'web'\nbind = 'unix:/none'\npool = 'web'\n[[pool]]\nname = 'web'\n[pool.health]\n{health}\n"
    );
    for (number, address) in backends.iter().enumerate() {
        text.push_str(&format!("[[pool.backend]]\nname = 'b{number}'\naddress = '{address}'\n"));
    }
    let config =
        Config::parse("web.toml", &text, &Overrides::default()).unwrap_or_else(|faults| panic!("{faults}")).config;
    Arc::new(Rosters::new(config.pools(), clock::now()).unwrap())
}

/// Runs a prober until `done`, which is asked after every change of what the pool's backends are.
async fn until(rosters: &Arc<Rosters>, prober: Prober, done: impl Fn(&Roster) -> bool) {
    let mut task = JoinSet::new();
    task.spawn(prober.run());
    let roster = &rosters.all()[0];
    let waited = tokio::time::timeout(PATIENCE, async {
        while !done(roster) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.expect("it takes too long");
}

fn prober(rosters: &Arc<Rosters>, places: usize) -> Prober {
    Prober::new(rosters.clone(), Vec::new(), NonZeroUsize::new(places).unwrap())
}

fn ups(roster: &Roster) -> Vec<bool> {
    roster.pool().snapshot().backends().iter().map(|backend| backend.is_up()).collect()
}

#[tokio::test]
async fn verdicts_reach_the_pool_and_the_workers_are_told_whose_sessions_to_close() {
    let well = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [&well, &gone].map(|listener| listener.local_addr().unwrap().to_string());
    drop(gone);
    let rosters = rosters("kind = 'tcp'\ninterval = '100ms'\non_down = 'close'\n", &addresses);
    let mailbox = Mailbox::new(Waker::new().unwrap());
    let commands = mailbox.clone();
    let prober = Prober::new(rosters.clone(), vec![mailbox], NonZeroUsize::new(8).unwrap());
    let backend = rosters.all()[0].pool().snapshot().backends()[1].id();
    let told = AtomicUsize::new(0);
    until(&rosters, prober, |_| {
        told.fetch_add(
            std::iter::from_fn(|| commands.next())
                .map(|command| match command {
                    Told::CloseBackends(backends, Kill::BackendDown) => {
                        assert_eq!(*backends, HashSet::from([("web".into(), backend)]));
                        1
                    }
                    other => panic!("{other:?}"),
                })
                .sum::<usize>(),
            Ordering::Relaxed,
        ) > 0
    })
    .await;
    assert_eq!(ups(&rosters.all()[0]), [true, false]);
}

#[tokio::test]
async fn maint_is_not_checked_and_drain_is() {
    let addresses: Vec<String> = (0..2).map(|_| closed_port().to_string()).collect();
    let rosters = rosters("kind = 'tcp'\ninterval = '100ms'\n", &addresses);
    let roster = &rosters.all()[0];
    roster.tell("b0", |settings| settings.state = State::Maint, clock::now()).unwrap();
    roster.tell("b1", |settings| settings.state = State::Drain, clock::now()).unwrap();
    until(&rosters, prober(&rosters, 8), |roster| ups(roster)[1..] == [false]).await;
    assert!(ups(roster)[0], "nobody has looked");
    let prober = prober(&rosters, 8);
    roster.tell("b0", |settings| settings.state = State::Ready, clock::now()).unwrap();
    until(&rosters, prober, |roster| ups(roster) == [false, false]).await;
}

/// A thousand servers that never answer, and room for ten questions: never more are under way, and nobody is left out.
#[tokio::test]
async fn a_thousand_mute_backends_are_no_herd() {
    const PLACES: usize = 10;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let addresses: Vec<String> = (1..=1000).map(|port| format!("127.0.0.1:{port}")).collect();
    let health = format!("kind = 'http'\ninterval = '100ms'\ntimeout = '10ms'\nport = {port}\n");
    let rosters = rosters(&health, &addresses);
    let mut prober = prober(&rosters, PLACES);
    prober.follow(clock::now());
    let most = Arc::new(AtomicUsize::new(0));
    let seen = most.clone();
    let accepted = tokio::spawn(async move {
        let mut open: Vec<tokio::net::TcpStream> = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            // Whose peer has closed counts no more.
            open.retain(|stream| {
                loop {
                    match stream.try_read(&mut [0; 1024]) {
                        Ok(0) => return false,
                        Ok(_) => {}
                        Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
                    }
                }
            });
            open.push(stream);
            seen.fetch_max(open.len(), Ordering::Relaxed);
        }
    });
    until(&rosters, prober, |roster| ups(roster).iter().all(|up| !up)).await;
    accepted.abort();
    let most = most.load(Ordering::Relaxed);
    assert!((2..=2 * PLACES).contains(&most), "{most} at a time");
}

/// A port where nobody listens: it was free a moment ago.
fn closed_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
