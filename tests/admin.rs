//! The admin API of the real binary over its real socket: hot swaps and edits under load, writers at the same time, clients
//! that misbehave, and the socket itself.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use ringlb::control::admin::ENDPOINTS;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use common::api::{self, call, call_with, names};
use common::backend::Backend;
use common::command::{command, said};
use common::load::{ask, request, under_load};
use common::net;
use common::ringlb::{Config, Ringlb, run_to_end};
use common::{has_program, skip, until};

const BACKENDS: &str = "/v1/pools/back/backends";

fn pool(ringlb: &Ringlb) -> Value {
    call(&ringlb.admin(), "GET", "/v1/pools/back", "").json(200)
}

fn backend(ringlb: &Ringlb, name: &str) -> Option<Value> {
    pool(ringlb)["backends"].as_array().expect("a list").iter().find(|backend| backend["name"] == name).cloned()
}

#[test]
fn a_hundred_swaps_of_ten_thousand_backends_under_load_lose_no_request() {
    let servers = ["a", "b", "c", "d"].map(Backend::answering);
    let ringlb = Config::new(&[servers[0].address()]).start();
    let set = |swap: usize| {
        let backend = |number: usize| {
            // Half of the names come anew with each swap, the others get another weight.
            let name = if number.is_multiple_of(2) { format!("b{number}") } else { format!("b{number}-{swap}") };
            let address = servers[number % 4].address().to_string();
            json!({"name": name, "address": address, "weight": 1 + swap % 2})
        };
        json!({"backends": (0..10_000).map(backend).collect::<Vec<_>>()}).to_string()
    };
    let requests = under_load(ringlb.address(), || {
        for swap in 0..100 {
            let changes = call(&ringlb.admin(), "PUT", BACKENDS, &set(swap)).json(200);
            let counts = ["added", "removed", "kept", "changed"].map(|list| names(&changes[list]).len());
            let expected = if swap == 0 { [10_000, 1, 0, 0] } else { [5_000, 5_000, 0, 5_000] };
            assert_eq!(counts, expected, "swap {swap}");
        }
    });
    assert!(requests >= 100, "{requests} requests are no load");
    let pool = pool(&ringlb);
    assert_eq!((pool["revision"].as_u64(), pool["backends"].as_array().map(Vec::len)), (Some(101), Some(10_000)));
    ringlb.stop();
}

#[test]
fn backends_that_are_added_drained_and_removed_under_load_lose_nothing() {
    let servers = ["a", "b", "c"].map(Backend::answering);
    let ringlb = Config::new(&[servers[0].address()]).start();
    let (admin, address) = (ringlb.admin(), ringlb.address());
    let mut held = net::connect(address);
    assert_eq!(ask(&mut held), "a hello");
    under_load(address, || {
        for _ in 0..20 {
            let added = json!({"name": "b", "address": servers[1].address().to_string()}).to_string();
            assert_eq!(names(&call(&admin, "POST", BACKENDS, &added).json(201)["added"]), ["b"]);
            until("b serves", || (request(address) == "b").then_some(()));
            call(&admin, "PATCH", &format!("{BACKENDS}/b"), r#"{"state":"drain"}"#).json(200);
            for _ in 0..8 {
                assert_eq!(request(address), "a", "a draining backend gets no new connection");
            }
            call(&admin, "DELETE", &format!("{BACKENDS}/b"), "").json(200);
        }
    });
    assert_eq!(ask(&mut held), "a hello");
    // The first backend goes, and the session that it has lives on.
    let replaced = json!({"backends": [{"name": "c", "address": servers[2].address().to_string()}]}).to_string();
    call(&admin, "PUT", BACKENDS, &replaced).json(200);
    assert_eq!(ask(&mut held), "a hello");
    assert_eq!(request(address), "c");
    assert_eq!(pool(&ringlb)["leaving"][0]["active"], 1);
    drop(held);
    until("the removed one is gone", || pool(&ringlb)["leaving"].as_array()?.is_empty().then_some(()));
    ringlb.stop();
}

#[test]
fn a_removed_backends_sessions_are_closed_where_that_is_asked_for() {
    let server = Backend::answering("a");
    let ringlb = Config::new(&[]).backend(server.address(), "name = \"a/b_c\"").start();
    let mut held = net::connect(ringlb.address());
    assert_eq!(ask(&mut held), "a hello");
    let path = format!("{BACKENDS}/a%2Fb_c");
    assert_eq!(call(&ringlb.admin(), "DELETE", &format!("{path}?sessions=kil"), "").code(400), "bad_value");
    call(&ringlb.admin(), "DELETE", &format!("{path}?sessions=kill_after=1ms"), "").json(200);
    assert_eq!(net::read_to_end(&mut held), (Vec::new(), common::pattern::End::Reset));
    assert_eq!(ringlb.wait_for_ends(1), ["killed"]);
    ringlb.stop();
}

#[test]
fn of_two_writers_none_undoes_what_the_other_has_done() {
    let ringlb = Config::new(&[]).backend("127.0.0.1:1", "name = \"a\"").start();
    let admin = ringlb.admin();
    let conflicts: usize = common::at_once(2, |_| {
        let mut conflicts = 0;
        for _ in 0..100 {
            loop {
                let read = call(&admin, "GET", "/v1/pools/back", "");
                let weight = read.json(200)["backends"][0]["weight"].as_u64().expect("a weight");
                let told = json!({"weight": weight + 1}).to_string();
                let guard = format!("if-match: {}\r\n", read.etag());
                let written = call_with(&admin, "PATCH", &format!("{BACKENDS}/a"), &guard, &told);
                if written.status == 200 {
                    break;
                }
                assert_eq!(written.code(412), "revision");
                conflicts += 1;
            }
        }
        conflicts
    })
    .into_iter()
    .sum();
    assert_eq!(backend(&ringlb, "a").expect("it stays")["weight"], 201, "{conflicts} conflicts");
    let other = call_with(&admin, "DELETE", &format!("{BACKENDS}/a"), "if-match: \"201-00000000\"\r\n", "");
    assert_eq!(other.code(412), "revision", "the revision of another process");
    call_with(&admin, "DELETE", &format!("{BACKENDS}/a"), "if-match: *\r\n", "").json(200);
    ringlb.stop();
}

#[test]
fn a_lease_that_is_not_renewed_drains_its_backend_and_takes_it_with_its_last_session() {
    let servers = ["a", "b"].map(Backend::answering);
    let ringlb = Config::new(&[]).backend(servers[0].address(), "name = \"a\"\nweight = 0").start();
    let (admin, address) = (ringlb.admin(), ringlb.address());
    let told = |ttl: &str| json!({"address": servers[1].address().to_string(), "ttl": ttl}).to_string();
    let path = format!("{BACKENDS}/worker%2F7");
    call(&admin, "PUT", &path, &told("1h")).json(201);
    let mut held = net::connect(address);
    assert_eq!(ask(&mut held), "b hello");
    assert_eq!(names(&call(&admin, "PUT", &path, &told("1s")).json(200)["kept"]), ["a", "worker/7"]);
    let drains = |_: &Value| backend(&ringlb, "worker/7").filter(|backend| backend["status"] == "drain");
    until("the lease is over", || drains(&Value::Null));
    assert_eq!(ask(&mut held), "b hello", "its session lives on");
    call(&admin, "PUT", &path, &told("1s")).json(200);
    assert_eq!(request(address), "b", "it serves again when it is renewed");
    until("the lease is over again", || drains(&Value::Null));
    drop(held);
    until("it is gone with its last session", || backend(&ringlb, "worker/7").is_none().then_some(()));
    assert_eq!(call(&admin, "PUT", &format!("{BACKENDS}/a"), &told("1s")).code(409), "conflict");
    ringlb.stop();
}

#[test]
fn requests_that_are_wrong_are_told_what_is_wrong_and_change_nothing() {
    let ringlb = Config::new(&[]).backend("127.0.0.1:1", "name = \"a\"").start();
    let admin = ringlb.admin();
    let one = format!("{BACKENDS}/a");
    let set = |text: &str| format!("{{\"backends\": [{text}]}}");
    let twice = set(r#"{"name": "x", "address": "127.0.0.1:1"}, {"name": "x", "address": "127.0.0.1:2"}"#);
    let many = json!({"backends": (0..17_000).map(|port| json!({"name": format!("b{port}"), "address": "127.0.0.1:1"})).collect::<Vec<_>>()});
    let many = many.to_string();
    let cases: &[(&str, &str, &str, u16, &str, &str)] = &[
        ("GET", "/v1/pool", "", 404, "no_such_path", "did you mean /v1/pools?"),
        ("GET", "/v1/pools/bakc", "", 404, "no_such_pool", "did you mean \\\"back\\\"?"),
        ("POST", "/v1/status", "", 405, "method_not_allowed", "allow"),
        ("PUT", BACKENDS, "", 400, "bad_json", "JSON object"),
        ("PUT", BACKENDS, "{", 400, "bad_json", "line and column"),
        ("PUT", BACKENDS, "[]", 400, "bad_field", "docs/admin.md"),
        ("PUT", BACKENDS, &set(r#"{"adress": "127.0.0.1:1"}"#), 400, "bad_field", "did you mean `address`?"),
        ("PUT", BACKENDS, &set("{}"), 400, "bad_value", "backends[0]: `address`"),
        ("PUT", BACKENDS, &set(r#"{"address": "127.0.0.1:1", "ttl": "5s"}"#), 400, "bad_value", "`ttl`"),
        ("PUT", BACKENDS, &twice, 409, "exists", "name of its own"),
        ("PUT", BACKENDS, &many, 409, "too_many", "several pools"),
        ("POST", BACKENDS, r#"{"address": "127.0.0.1"}"#, 400, "bad_value", "no port"),
        ("POST", BACKENDS, r#"{"address": "127.0.0.1:1", "name": "b b"}"#, 400, "bad_value", "no spaces"),
        ("POST", BACKENDS, r#"{"address": "127.0.0.1:1", "name": "a"}"#, 409, "exists", "another name"),
        ("POST", BACKENDS, r#"{"address": "127.0.0.1:1", "ttl": "5"}"#, 400, "bad_value", "unit is missing"),
        ("PATCH", &one, r#"{"weight": 65536}"#, 400, "bad_value", "the most is 65535"),
        ("PATCH", &one, r#"{"weight": -1}"#, 400, "bad_field", "expected u32"),
        ("PATCH", &one, r#"{"state": "drian"}"#, 400, "bad_value", "did you mean \\\"drain\\\"?"),
        ("PATCH", &one, r#"{"name": "b"}"#, 400, "bad_value", "cannot be changed"),
        ("PATCH", &one, r#"{"address": "app:80"}"#, 400, "bad_value", "host name"),
        ("PATCH", "/v1/pools/back/backends/zebra", "{}", 404, "no_such_backend", "there are: a"),
        ("DELETE", &format!("{one}?session=kill"), "", 400, "bad_query", "did you mean `sessions`?"),
    ];
    for (method, path, body, status, code, hint) in cases {
        let answer = call(&admin, method, path, body);
        assert_eq!(answer.code(*status), *code, "{method} {path} {body:.60}: {}", answer.text);
        assert!(answer.text.contains(hint), "{method} {path} {body:.60}: {}", answer.text);
    }
    let pool = pool(&ringlb);
    assert_eq!((&pool["revision"], &pool["backends"][0]["name"]), (&json!(1), &json!("a")));
    ringlb.stop();
}

#[test]
fn clients_that_misbehave_hurt_nobody() {
    let server = Backend::answering("a");
    let ringlb = Config::new(&[server.address()]).start();
    let (admin, address) = (ringlb.admin(), ringlb.address());
    let goes_on = |what: &str| assert_eq!(request(address), "a", "{what}");

    // A line of 10 MB: it is cut off long before its end.
    let mut stream = api::connect(&admin);
    let line = vec![b'a'; 64 * 1024];
    let mut sent = 0;
    while sent < 10 << 20 && stream.write_all(&line).is_ok() {
        sent += line.len();
    }
    assert!(sent < 10 << 20, "all of it was taken");
    goes_on("a line without an end");

    // A body that is too large is refused before it is sent.
    let huge = "content-length: 1000000000\r\n";
    let mut stream = api::connect(&admin);
    stream.write_all(format!("PUT {BACKENDS} HTTP/1.1\r\nhost: x\r\n{huge}\r\n").as_bytes()).expect("a header");
    let mut answer = [0; 1024];
    let len = stream.read(&mut answer).expect("an answer");
    assert!(answer[..len].starts_with(b"HTTP/1.1 413"), "{}", String::from_utf8_lossy(&answer[..len]));
    // One that is longer than it says, or has no length and no end, is no request.
    assert_eq!(call_with(&admin, "GET", "/v1/status", "content-length: 99\r\n", "").status, 400);
    goes_on("huge bodies");

    // Partial requests, held open, and those who say nothing: fewer than there are places.
    let partial: Vec<UnixStream> = (0..40)
        .map(|number| {
            let mut stream = api::connect(&admin);
            let part: &[u8] = if number % 2 == 0 { b"GET /v1/st" } else { b"" };
            stream.write_all(part).expect("a part");
            stream
        })
        .collect();
    // A client that asks and asks, and never reads.
    let mut deaf = api::connect(&admin);
    deaf.set_nonblocking(true).expect("non-blocking");
    for _ in 0..100_000 {
        if deaf.write(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n").is_err() {
            break;
        }
    }
    goes_on("partial requests and a client that never reads");
    assert_eq!(call(&admin, "GET", "/v1/status", "").json(200)["ready"], true);
    drop((partial, deaf));

    // Two hundred at once: all are served, those who find no place wait for one.
    for answer in common::at_once(200, |_| call(&admin, "GET", "/v1/pools", "")) {
        answer.json(200);
    }
    goes_on("200 clients");
    ringlb.stop();
}

#[test]
fn the_socket_is_private_and_goes_with_its_process() {
    let ringlb = Config::new(&[]).backend("127.0.0.1:1", "").start();
    let mode = std::fs::metadata(ringlb.admin()).expect("it exists").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let admin = ringlb.admin();
    ringlb.signal(Signal::TERM);
    let mut ringlb = ringlb;
    assert_eq!(ringlb.wait().code(), Some(0));
    assert!(!admin.exists() && !ringlb.path("admin.sock.lock").exists());

    let ringlb = Config::new(&[]).backend("127.0.0.1:1", "").process("admin_mode = \"0660\"").start();
    let mode = std::fs::metadata(ringlb.admin()).expect("it exists").permissions().mode();
    assert_eq!(mode & 0o7777, 0o660);
    ringlb.stop();
}

#[test]
fn a_dead_process_leaves_a_socket_that_is_replaced_and_a_living_ones_is_not_taken() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("admin.sock");
    let path_text = path.to_str().expect("text");
    let arguments = ["run", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1", "--admin", path_text];
    let ready = |ringlb: &Ringlb| {
        ringlb.wait_for_log("it is ready", |line| line.contains(" ready "));
    };
    let mut first = Ringlb::with_arguments(&arguments);
    ready(&first);
    let (code, text) = run_to_end(&[], &arguments);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("another ringlb (pid {}) serves there", first.pid())), "{text}");
    call(&path, "GET", "/v1/status", "").json(200);
    first.signal(Signal::KILL);
    first.wait();
    assert!(path.exists(), "a killed process cleans nothing up");
    let second = Ringlb::with_arguments(&arguments);
    ready(&second);
    assert_eq!(call(&path, "GET", "/v1/status", "").json(200)["pid"], second.pid());
    second.stop();

    // The socket of a program that knows nothing of our lock; a file that is no socket; no directory.
    let other = UnixListener::bind(&path).expect("a socket");
    let (code, text) = run_to_end(&[], &arguments);
    assert!(code == Some(1) && text.contains("another ringlb serves there"), "{text}");
    drop(other);
    std::fs::remove_file(&path).expect("it is ours");
    std::fs::write(&path, "precious").expect("a file");
    let (code, text) = run_to_end(&[], &arguments);
    assert!(code == Some(1) && text.contains("no socket, and it is left alone"), "{text}");
    assert_eq!(std::fs::read_to_string(&path).expect("it is left alone"), "precious");
    let nowhere = directory.path().join("none/admin.sock");
    let arguments =
        ["run", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1", "--admin", nowhere.to_str().expect("text")];
    let (code, text) = run_to_end(&[], &arguments);
    assert!(code == Some(1) && text.contains("does not exist; make it"), "{text}");
}

#[test]
fn of_many_that_start_at_once_on_one_socket_one_runs() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("admin.sock");
    drop(UnixListener::bind(&path).expect("a stale socket"));
    let text = path.to_str().expect("text");
    let arguments = ["run", "--listen", "127.0.0.1:0", "--backend", "127.0.0.1:1", "--workers", "1", "--admin", text];
    let all: Vec<Ringlb> = (0..5).map(|_| Ringlb::with_arguments(&arguments)).collect();
    let pid = until("one answers", || {
        UnixStream::connect(&path).ok()?;
        call(&path, "GET", "/v1/status", "").json(200)["pid"].as_u64()
    });
    // It stays until the last of the others has tried.
    let (winner, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|ringlb| u64::from(ringlb.pid()) == pid);
    for mut ringlb in others {
        assert_eq!(ringlb.wait().code(), Some(1), "{:?}", ringlb.log());
    }
    // Told to stop before that, it ends as one that could not start.
    until("it is ready", || (call(&path, "GET", "/v1/status", "").json(200)["ready"] == true).then_some(()));
    winner.into_iter().for_each(Ringlb::stop);
}

#[test]
fn the_commands_show_and_change_a_running_one() {
    let server = Backend::answering("a");
    let ringlb = Config::new(&[]).backend(server.address(), "name = \"a\"").start();
    let admin = ringlb.admin();
    let status = said(&admin, &["status"]);
    assert!(status.contains(&format!("ringlb {}, pid {}, ready", env!("CARGO_PKG_VERSION"), ringlb.pid())), "{status}");
    assert!(status.contains(&ringlb.addresses()[0]) && !status.contains('\x1b'), "{status}");
    let status: Value = serde_json::from_str(&said(&admin, &["status", "--json"])).expect("JSON");
    assert_eq!(status["listeners"][0]["addresses"][0], ringlb.addresses()[0]);

    assert_eq!(
        said(&admin, &["backend", "add", "back", "127.0.0.1:9", "--name", "b", "--weight", "2"]),
        "back/b was added\n"
    );
    assert_eq!(said(&admin, &["backend", "drain", "back", "a", "b"]), "back/a is told: drain\nback/b is told: drain\n");
    said(&admin, &["backend", "ready", "back", "a"]);
    said(&admin, &["backend", "maint", "back", "b"]);
    said(&admin, &["backend", "weight", "back", "a", "7"]);
    let list = said(&admin, &["backend", "list", "back"]);
    let row = |name: &str| -> Vec<String> {
        let line = list.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{list}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row("a ")[2..4], ["ready", "7"]);
    assert_eq!(row("b "), ["b", "127.0.0.1:9", "maint", "2", "0", "0", "0", "live"]);
    said(&admin, &["backend", "remove", "back", "b", "--sessions", "kill_after=30s"]);
    let every =
        ["--max-fails", "7", "--fail-timeout", "1m", "--slow-start", "30s", "--max-connections", "9", "--backup"];
    said(&admin, &[&["backend", "add", "back", "127.0.0.1:9", "--name", "c"][..], &every].concat());
    let added = backend(&ringlb, "c").expect("it was added");
    let told = ["max_fails", "fail_timeout", "slow_start", "max_connections", "backup"].map(|key| added[key].clone());
    assert_eq!(told, [json!(7), json!("1m"), json!("30s"), json!(9), json!(true)]);
    said(&admin, &["backend", "remove", "back", "c"]);
    assert!(!said(&admin, &["backend", "list"]).contains("127.0.0.1:9"));

    // What is refused, and whom nobody answers: the reason, and the exit code.
    let fails = |socket: &Path, arguments: &[&str], expected: (i32, &str)| {
        let output = command(socket, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(expected.0), "{stderr}");
        assert!(stderr.contains(expected.1) && output.stdout.is_empty(), "{stderr}");
    };
    fails(&admin, &["backend", "drain", "back", "c"], (1, "there is no backend named \"c\""));
    fails(&admin, &["backend", "list", "bakc"], (1, "did you mean \"back\"?"));
    fails(&admin, &["backend", "drain", "back"], (2, "<NAME>..."));
    fails(&ringlb.path("none"), &["status"], (1, "no ringlb answers at"));
    fails(&ringlb.path("none"), &["status"], (1, "is it running? --admin PATH"));
    ringlb.stop();
}

#[test]
fn sessions_are_listed_page_by_page_and_ended_one_by_one() {
    let servers = ["a", "b"].map(Backend::answering);
    let config = Config::new(&[]).backend(servers[0].address(), "name = \"a\"");
    let ringlb = config.backend(servers[1].address(), "name = \"b\"").start();
    let admin = ringlb.admin();
    let mut streams: Vec<TcpStream> = (0..700).map(|_| net::connect(ringlb.address())).collect();
    streams.iter_mut().for_each(|stream| assert!(ask(stream).ends_with(" hello")));

    let (mut cursor, mut found) = (String::new(), Vec::new());
    loop {
        let page = call(&admin, "GET", &format!("/v1/sessions?pool=back&limit=100{cursor}"), "").json(200);
        let sessions = page["sessions"].as_array().expect("a list");
        assert!(sessions.len() <= 100);
        found.extend(sessions.iter().cloned());
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let clients: std::collections::HashSet<String> =
        found.iter().map(|session| session["client"].as_str().expect("a client").to_owned()).collect();
    let expected = streams.iter().map(|stream| stream.local_addr().expect("an address").to_string()).collect();
    assert_eq!((found.len(), clients), (700, expected), "each once");
    assert!(found.iter().all(|session| session["from_client"] == 6 && session["from_backend"] == 8));
    let of_b = call(&admin, "GET", "/v1/sessions?backend=b", "").json(200);
    assert_eq!(of_b["sessions"].as_array().map(Vec::len), Some(350));
    let old = call(&admin, "GET", "/v1/sessions?older=1h", "").json(200);
    assert_eq!(old["sessions"], json!([]));
    assert!(said(&admin, &["session", "list", "--limit", "1"]).contains("there are more"));

    // One of them is ended, and no other.
    let client = streams[0].local_addr().expect("an address").to_string();
    let id = found.iter().find(|session| session["client"] == *client).expect("it is there")["id"].clone();
    let id = id.as_str().expect("a name");
    assert_eq!(said(&admin, &["session", "kill", id]), format!("{id} was ended\n"));
    assert_eq!(net::read_to_end(&mut streams[0]), (Vec::new(), common::pattern::End::Reset));
    assert_eq!(ringlb.wait_for_ends(1), ["killed"]);
    streams[1..].iter_mut().for_each(|stream| assert!(ask(stream).ends_with(" hello")));
    for unknown in [id, "9-0-0", "x", "0-0-99999999", "0-0"] {
        assert_eq!(call(&admin, "DELETE", &format!("/v1/sessions/{unknown}"), "").code(404), "no_such_session");
    }
    assert_eq!(call(&admin, "GET", "/v1/sessions?cursor=x", "").code(400), "bad_value");
    assert_eq!(call(&admin, "GET", "/v1/sessions?pool=x", "").code(404), "no_such_pool");
    drop(streams);
    ringlb.stop();
}

/// The events of a connection that follows them, from now on.
fn follow(ringlb: &Ringlb) -> impl Iterator<Item = Value> + use<> {
    let mut stream = api::connect(&ringlb.admin());
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: x\r\n\r\n").expect("a request");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(stream)).map(|line| line.expect("a line"));
    // Between the objects stand the header and the lengths of the chunks.
    let mut events = lines.filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(&line).expect("JSON"));
    let first: Value = events.next().expect("a first event");
    assert_eq!(first["event"], "following");
    events
}

#[test]
fn events_tell_what_happens_and_the_log_tells_it_once() {
    let server = Backend::answering("a");
    let reserved = net::Reserved::new();
    let config = Config::new(&[]).backend(server.address(), "name = \"a\"").listener("max_connections = 2");
    let ringlb = config.pool("max_fails = 1\nfail_timeout = \"10m\"").start();
    let (admin, address) = (ringlb.admin(), ringlb.address());
    let mut events = follow(&ringlb);
    let mut expect = |event: &str, about: &str, name: &str| -> Value {
        // Clients that leave may be counted a moment longer, and then the limit is reached now and then.
        let is_other =
            |next: &Value| next["event"] != event && (next["event"] == "paused" || next["event"] == "resumed");
        let next = events.by_ref().find(|next| !is_other(next)).expect("the next event");
        assert_eq!((&next["event"], &next[about]), (&json!(event), &json!(name)), "{next}");
        next
    };

    let told = json!({"name": "dead", "address": reserved.address().to_string(), "weight": 100}).to_string();
    call(&admin, "POST", BACKENDS, &told).json(201);
    let added = expect("added", "backend", "dead");
    assert!(added["message"].as_str().is_some_and(|message| message.contains(&format!("pid {}", std::process::id()))));
    for _ in 0..8 {
        assert_eq!(request(address), "a", "the dead one is tried, and the client served");
    }
    let ejected = expect("ejected", "backend", "dead");
    assert_eq!(ejected["pool"], "back");
    let message = ejected["message"].as_str().expect("a message");
    assert!(message.starts_with("backend back/dead is ejected: its connects fail: "), "{message}");
    ringlb.wait_for_log("the log has it too", |line| line.contains(message));
    assert_eq!(ringlb.log().iter().filter(|line| line.contains("is ejected")).count(), 1);

    call(&admin, "PATCH", &format!("{BACKENDS}/dead"), r#"{"state":"maint"}"#).json(200);
    expect("changed", "backend", "dead");
    call(&admin, "DELETE", &format!("{BACKENDS}/dead"), "").json(200);
    expect("removed", "backend", "dead");
    let set = json!({"backends": [{"name": "a", "address": server.address().to_string()}]}).to_string();
    call(&admin, "PUT", BACKENDS, &set).json(200);
    expect("swap", "pool", "back");

    let held: Vec<TcpStream> = (0..2)
        .map(|_| {
            let mut stream = net::connect(address);
            ask(&mut stream);
            stream
        })
        .collect();
    expect("paused", "listener", "front");
    let past = said(&admin, &["events"]);
    assert!(past.lines().any(|line| line.contains("  paused ")) && past.contains("is ejected"), "{past}");
    drop(held);
    ringlb.stop();
}

#[test]
fn those_who_follow_and_never_read_hurt_nobody_and_have_an_end() {
    let ringlb = Config::new(&[]).backend("127.0.0.1:1", "name = \"a\"").start();
    let admin = ringlb.admin();
    let mut deaf: Vec<_> = (0..32).map(|_| follow(&ringlb)).collect();
    let refused = call(&admin, "GET", "/v1/events", "");
    assert_eq!(refused.code(503), "too_many");
    // More than fits in the buffers on the way and in what a reader may be behind.
    for weight in 0..8000 {
        let told = format!("{{\"weight\": {}}}", weight % 2 + 1);
        call(&admin, "PATCH", &format!("{BACKENDS}/a"), &told).json(200);
    }
    let mut seen = 0;
    let lost = deaf[0].by_ref().inspect(|_| seen += 1).find_map(|event| event["lost"].as_u64()).expect("some are lost");
    assert!(lost > 0 && seen > 100, "{lost} lost behind {seen}");
    drop(deaf);
    until("there is room again", || (call(&admin, "GET", "/v1/events?follow=false", "").status == 200).then_some(()));
    ringlb.stop();
}

#[test]
fn completions_and_the_manual_are_printed_without_a_running_one() {
    let nowhere = Path::new("/nonexistent");
    for shell in ["bash", "zsh", "fish"] {
        assert!(said(nowhere, &["completions", shell]).contains("ringlb"), "{shell}");
    }
    let manual = said(nowhere, &["man"]);
    assert!(manual.contains(".TH") && manual.contains("kill_after=30s"), "{manual}");
}

/// The documentation has every event and no other; two of them are for one reader alone.
#[test]
fn the_events_of_the_documentation_are_those_that_are_told() {
    let document = include_str!("../docs/admin.md");
    let table = document.split("| event | what has happened |").nth(1).expect("the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with("| "));
    let mut documented: Vec<&str> =
        rows.flat_map(|row| row.split('|').nth(1).expect("a cell").split('`').skip(1).step_by(2)).collect();
    let mut told: Vec<&str> = ringlb::control::news::Kind::ALL.iter().map(|kind| kind.name()).collect();
    told.extend(["following", "lost"]);
    documented.sort_unstable();
    told.sort_unstable();
    assert_eq!(documented, told);
}

/// The documentation has every endpoint and no other.
#[test]
fn the_table_of_the_documentation_is_the_router() {
    let document = include_str!("../docs/admin.md");
    let row = |line: &str| -> Option<(String, String)> {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let (method, path) = (cells.next()?, cells.next()?.trim_matches('`'));
        path.starts_with("/v1/").then(|| (method.to_owned(), path.to_owned()))
    };
    let documented: Vec<(String, String)> = document.lines().filter_map(row).collect();
    let served: Vec<(String, String)> =
        ENDPOINTS.iter().map(|endpoint| (endpoint.method.to_owned(), endpoint.path.to_owned())).collect();
    assert_eq!(documented, served);
}

/// What the documentation tells people to type works, in its order.
#[test]
fn the_examples_of_the_documentation_work() {
    if !has_program("curl") {
        return skip("the examples of docs/admin.md", "there is no curl here");
    }
    let config = Config::new(&[]).backend("127.0.0.1:3001", "name = \"a\"").backend("127.0.0.1:3002", "name = \"b\"");
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("web.toml");
    let text = config.text().replace("\"back\"", "\"web\"");
    std::fs::write(&file, text).expect("the file is written");
    let ringlb = Ringlb::with_arguments(&["run", "--config", file.to_str().expect("text")]);
    ringlb.addresses();
    let admin = ringlb.admin();
    let document = include_str!("../docs/admin.md");
    let mut blocks = 0;
    for block in document.split("```sh\n").skip(1) {
        let script = block.split("```").next().expect("an end");
        // A refusal fails the script.
        let script = script
            .replace("/run/ringlb/admin.sock", admin.to_str().expect("text"))
            .replace("curl ", "curl --silent --show-error --fail-with-body --max-time 30 ")
            .replace("ringlb ", "\"$RINGLB\" ");
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &script]).env("RINGLB", env!("CARGO_BIN_EXE_ringlb")).env("RINGLB_ADMIN", &admin);
        let output = shell.output().expect("a shell");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script}\n{stdout}\n{stderr}");
        blocks += 1;
    }
    assert!(blocks >= 5, "{blocks} blocks");
    ringlb.stop();
}
