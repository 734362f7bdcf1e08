//! Host names as backends: addresses come and go with the records, and trouble with the name server takes nobody away.

mod common;

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use common::api::call;
use common::backend::{self, Backend};
use common::net;
use common::pattern::End;
use common::ringlb::{Config, Ringlb, field};
use common::scrape::{Scrape, scrape_until};
use common::{skip, until};

const A: u16 = 1;
const AAAA: u16 = 28;

/// A name server on a free port of 127.0.0.1, which says what the test wants.
struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

#[derive(Default)]
struct Zone {
    records: HashMap<String, Vec<IpAddr>>,
    mood: Mood,
    asked: usize,
}

#[derive(Copy, Clone, Default, PartialEq)]
enum Mood {
    #[default]
    Answers,
    Fails,
    Silent,
}

impl NameServer {
    fn start() -> NameServer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("an address");
        let zone = Arc::new(Mutex::new(Zone::default()));
        let shared = Arc::downgrade(&zone);
        thread::spawn(move || {
            let mut query = [0; 1500];
            // Ends with the test that owns the zone.
            while let Ok((bytes, from)) = socket.recv_from(&mut query) {
                let Some(zone) = shared.upgrade() else { return };
                let answer = zone.lock().expect("a lock").answer(&query[..bytes]);
                if let Some(answer) = answer
                    && socket.send_to(&answer, from).is_err()
                {
                    return;
                }
            }
        });
        NameServer { address, zone }
    }

    fn set(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        self.zone().records.insert(format!("{name}."), addresses);
    }

    fn remove(&self, name: &str) {
        self.zone().records.remove(&format!("{name}."));
    }

    fn be(&self, mood: Mood) {
        self.zone().mood = mood;
    }

    fn asked(&self) -> usize {
        self.zone().asked
    }

    fn zone(&self) -> std::sync::MutexGuard<'_, Zone> {
        self.zone.lock().expect("a lock")
    }
}

impl Zone {
    /// The answer in the form of RFC 1035: the question again, and the records, whose name points to it.
    fn answer(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        self.asked += 1;
        if self.mood == Mood::Silent {
            return None;
        }
        let (mut name, mut at) = (String::new(), 12);
        while query[at] > 0 {
            let label = &query[at + 1..=at + usize::from(query[at])];
            name.push_str(&String::from_utf8_lossy(label).to_lowercase());
            name.push('.');
            at += 1 + label.len();
        }
        let question = &query[12..at + 5];
        let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
        let records = self.records.get(&name);
        let wanted = |ip: &&IpAddr| if ip.is_ipv4() { kind == A } else { kind == AAAA };
        let found: Vec<&IpAddr> = records.into_iter().flatten().filter(wanted).collect();
        let code = match (self.mood, records) {
            (Mood::Fails, _) => 2,
            (_, None) => 3,
            (_, Some(_)) => 0,
        };
        let found = if code == 0 { found } else { Vec::new() };
        let count = u8::try_from(found.len()).expect("few records");
        let mut answer = [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0], question].concat();
        for ip in found {
            let data = match ip {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            answer.extend([0xc0, 12]);
            answer.extend([kind, 1].map(u16::to_be_bytes).concat());
            // A long life, which nobody is to wait for.
            answer.extend(600_u32.to_be_bytes());
            answer.extend([0, u8::try_from(data.len()).expect("4 or 16")]);
            answer.extend(data);
        }
        Some(answer)
    }
}

/// Servers named after their addresses, all on one port.
fn servers<const N: usize>(ips: [&str; N]) -> (u16, [Backend; N]) {
    let listeners = until("a port is free on all addresses", || {
        let first = TcpListener::bind((ips[0], 0)).expect("a free port");
        let port = first.local_addr().expect("an address").port();
        let rest = ips[1..].iter().map(|ip| TcpListener::bind((*ip, port)).ok());
        let all: Option<Vec<TcpListener>> = std::iter::once(Some(first)).chain(rest).collect();
        all.map(|all| (port, all))
    });
    let (port, listeners) = listeners;
    let mut backends = ips.iter().zip(listeners).map(|(ip, listener)| Backend::on(listener, backend::named(ip)));
    (port, std::array::from_fn(|_| backends.next().expect("one for each address")))
}

fn config(names: &NameServer, host: &str) -> Config {
    let config = Config::new(&[]).process(&format!("resolvers = [\"{}\"]", names.address));
    config.backend(host, "name = \"app\"").pool("resolve_interval = \"100ms\"\npolicy = \"round_robin\"")
}

fn who_serves(ringlb: &Ringlb, clients: usize) -> BTreeSet<String> {
    (0..clients).map(|_| net::read_line(&mut ringlb.connect())).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Waits for a line with this message.
fn told(ringlb: &Ringlb, message: &str) {
    let wanted = |line: &str| field(line, "message").is_some_and(|said| said.starts_with(message));
    ringlb.wait_for_log(&format!("it says {message:?}"), wanted);
}

#[test]
fn addresses_come_and_go_with_the_records() {
    let (port, _servers) = servers(["127.0.0.2", "127.0.0.3"]);
    let names = NameServer::start();
    names.set("app.test", &["127.0.0.2"]);
    let ringlb = config(&names, &format!("app.test:{port}")).start();
    told(&ringlb, &format!("pool back: the host app.test:{port} has 1 address now; added app/127.0.0.2"));
    // It is known before the first client can come.
    let mut held = ringlb.connect();
    assert_eq!(net::read_line(&mut held), "127.0.0.2");

    names.set("app.test", &["127.0.0.3", "127.0.0.2"]);
    told(&ringlb, &format!("pool back: the host app.test:{port} has 2 addresses now; added app/127.0.0.3"));
    assert_eq!(who_serves(&ringlb, 4), set(&["127.0.0.2", "127.0.0.3"]));

    names.set("app.test", &["127.0.0.3"]);
    told(&ringlb, &format!("pool back: the host app.test:{port} has 1 address now; removed app/127.0.0.2"));
    assert_eq!(who_serves(&ringlb, 4), set(&["127.0.0.3"]));
    held.write_all(b"still here\n").expect("its session lives on");
    assert_eq!(net::read_line(&mut held), "still here");
    drop(held);
    // Whoever follows the events is told what the log is.
    let events = call(&ringlb.admin(), "GET", "/v1/events?past=100&follow=false", "").text;
    // Between the objects stand the lengths of the chunks.
    let events = events.lines().filter(|line| line.starts_with('{'));
    let events: Vec<Value> = events.map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let seen = events.iter().filter(|event| event["event"] == "added" || event["event"] == "removed");
    let seen: Vec<[&str; 2]> =
        seen.map(|event| ["event", "backend"].map(|name| event[name].as_str().expect("text"))).collect();
    assert_eq!(seen, [["added", "app/127.0.0.2"], ["added", "app/127.0.0.3"], ["removed", "app/127.0.0.2"]]);
    ringlb.stop();
}

#[test]
fn the_series_of_a_removed_backend_leave_with_its_last_session() {
    let (port, _servers) = servers(["127.0.0.2", "127.0.0.3"]);
    let names = NameServer::start();
    names.set("app.test", &["127.0.0.2"]);
    let ringlb = config(&names, &format!("app.test:{port}")).process("metrics = \"127.0.0.1:0\"").start();
    let mut held = ringlb.connect();
    assert_eq!(net::read_line(&mut held), "127.0.0.2");
    names.set("app.test", &["127.0.0.3"]);
    told(
        &ringlb,
        &format!("pool back: the host app.test:{port} has 1 address now; added app/127.0.0.3; removed app/127.0.0.2"),
    );
    let connections =
        |scrape: &Scrape, backend: &str| scrape.find("ringlb_backend_connections_total", &[("backend", backend)]);
    assert_eq!(who_serves(&ringlb, 2), set(&["127.0.0.3"]));
    let scrape = Scrape::of(&ringlb);
    assert_eq!(connections(&scrape, "app/127.0.0.2"), Some(1.0), "its session lives on");
    drop(held);
    let gone = |scrape: &Scrape| connections(scrape, "app/127.0.0.2").is_none().then_some(());
    let (scrape, ()) = scrape_until(&ringlb, "the series are gone", gone);
    assert!(!scrape.text.contains("app/127.0.0.2"));
    assert_eq!(connections(&scrape, "app/127.0.0.3"), Some(2.0));
    ringlb.stop();
}

#[test]
fn trouble_with_the_name_server_takes_nobody_away() {
    let (port, _servers) = servers(["127.0.0.2"]);
    let names = NameServer::start();
    names.set("app.test", &["127.0.0.2"]);
    let ringlb = config(&names, &format!("app.test:{port}")).start();
    for (number, trouble) in [
        (1, &(|| names.be(Mood::Fails)) as &dyn Fn()),
        (2, &|| names.remove("app.test")),
        (3, &|| names.set("app.test", &[])),
        (4, &|| names.set("app.test", &["0.0.0.0"])),
    ] {
        trouble();
        let lines = |part: &str| ringlb.log().iter().filter(|line| line.contains(part)).count();
        until("it tells of the trouble", || (lines("It keeps 1 address") == number).then_some(()));
        let asked = names.asked();
        until("it goes on asking", || (names.asked() > asked + 4).then_some(()));
        assert_eq!(who_serves(&ringlb, 2), set(&["127.0.0.2"]));
        assert_eq!(lines("It keeps 1 address"), number, "trouble is told once");
        names.be(Mood::Answers);
        names.set("app.test", &["127.0.0.2"]);
        until("it tells of the end of the trouble", || (lines("can be looked up again") == number).then_some(()));
    }
    assert!(ringlb.log().iter().all(|line| !line.contains("removed app/")));
    ringlb.stop();
}

#[test]
fn a_name_that_appears_later_is_no_reason_not_to_start() {
    let (port, _servers) = servers(["127.0.0.2"]);
    let names = NameServer::start();
    let ringlb = config(&names, &format!("app.test:{port}")).start();
    told(
        &ringlb,
        &format!("pool back: the host app.test:{port} cannot be looked up: there is no address under this name"),
    );
    let (bytes, end) = net::read_to_end(&mut ringlb.connect());
    assert_eq!((bytes.len(), end), (0, End::Eof));
    names.set("app.test", &["127.0.0.2"]);
    told(&ringlb, &format!("pool back: the host app.test:{port} can be looked up again"));
    assert_eq!(who_serves(&ringlb, 2), set(&["127.0.0.2"]));
    ringlb.stop();
}

#[test]
fn a_silent_name_server_does_not_keep_other_pools_from_serving() {
    let names = NameServer::start();
    names.be(Mood::Silent);
    let other = Backend::named("other");
    let ringlb = config(&names, "app.test:80").backend(other.address(), "").start();
    assert!(names.asked() > 0);
    assert_eq!(who_serves(&ringlb, 2), set(&["other"]));
    ringlb.stop();
}

#[test]
fn localhost_is_this_host_and_nobody_is_asked() {
    let (port, _servers) = servers(["127.0.0.1"]);
    let names = NameServer::start();
    names.be(Mood::Fails);
    let ringlb = config(&names, &format!("localhost:{port}")).start();
    // Where ::1 is a second address of it, nobody listens there, and clients go on to the first.
    assert_eq!(who_serves(&ringlb, 4), set(&["127.0.0.1"]));
    assert_eq!(names.asked(), 0);
    ringlb.stop();
}

#[test]
fn both_families_are_asked_for() {
    if !net::has_ipv6() {
        return skip("both families", "this host has no IPv6");
    }
    let (port, _servers) = servers(["127.0.0.1", "::1"]);
    let names = NameServer::start();
    // To the last there is no route from anywhere, so it is left out.
    names.set("app.test", &["127.0.0.1", "::1", "ff02::1"]);
    let ringlb = config(&names, &format!("app.test:{port}")).start();
    told(&ringlb, &format!("pool back: the host app.test:{port} has 2 addresses now; added app/127.0.0.1, app/::1"));
    assert_eq!(who_serves(&ringlb, 4), set(&["127.0.0.1", "::1"]));
    ringlb.stop();
}

/// What an `http` check says in `Host` is the name as it is written, and not one of its addresses.
#[test]
fn a_check_says_the_name() {
    let names = NameServer::start();
    names.set("app.test", &["127.0.0.1"]);
    let (sender, asked) = std::sync::mpsc::channel();
    let web = Backend::start(move |mut stream| {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
            request.push(byte[0]);
        }
        sender.send(String::from_utf8_lossy(&request).into_owned()).expect("the test waits");
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("the check waits");
    });
    let host = format!("app.test:{}", web.address().port());
    let ringlb = config(&names, &host).pool("[pool.health]\nkind = \"http\"\ninterval = \"1h\"").start();
    let request = asked.recv_timeout(common::DEADLINE).expect("a check");
    assert!(request.contains(&format!("host: {host}\r\n")), "{request}");
    ringlb.stop();
}

/// What was said of single addresses of a host holds over a restart; the others are looked up anew. With a name server that
/// has failed meanwhile only what was said is known.
#[test]
fn edits_of_single_addresses_hold_over_a_restart() {
    let (port, _servers) = servers(["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    let names = NameServer::start();
    names.set("app.test", &["127.0.0.2", "127.0.0.3", "127.0.0.4"]);
    let directory = tempfile::TempDir::new().expect("a directory");
    let state = format!("state_file = \"{}\"", directory.path().join("state").display());
    let config = config(&names, &format!("app.test:{port}")).process(&state);
    let shown = |ringlb: &Ringlb| -> Vec<[String; 2]> {
        let pool = call(&ringlb.admin(), "GET", "/v1/pools/back", "").json(200);
        let text = |backend: &Value, key: &str| backend[key].as_str().expect("text").to_owned();
        let backends = pool["backends"].as_array().expect("a list").iter();
        backends.map(|backend| ["name", "state"].map(|key| text(backend, key))).collect()
    };
    let edited = [["app/127.0.0.2", "ready"], ["app/127.0.0.4", "drain"]].map(|row| row.map(str::to_owned));

    let mut ringlb = config.start();
    let path = |ip: &str| format!("/v1/pools/back/backends/app%2F{ip}");
    call(&ringlb.admin(), "DELETE", &path("127.0.0.3"), "").json(200);
    call(&ringlb.admin(), "PATCH", &path("127.0.0.4"), r#"{"state":"drain"}"#).json(200);
    for mood in [Mood::Answers, Mood::Fails] {
        assert_eq!(shown(&ringlb), edited);
        ringlb.stop();
        names.be(mood);
        ringlb = config.start();
    }
    assert_eq!(shown(&ringlb), edited[1..]);
    names.be(Mood::Answers);
    until("the name is looked up again", || (shown(&ringlb) == edited).then_some(()));
    assert_eq!(who_serves(&ringlb, 4), set(&["127.0.0.2"]));
    ringlb.stop();
}
