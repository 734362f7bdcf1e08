//! Percentiles of what clients wait for: in the API and in the command, from real connections to a backend that is slow on
//! purpose. Lower bounds only, and the order: how much longer a busy machine takes is not ours to say.

mod common;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use common::api::call;
use common::backend::{self, Backend};
use common::net;
use common::ringlb::{Config, Ringlb};
use common::until;

/// How long the slow backend thinks about each answer. Longer than the scheduler ever needs for a quick one.
const THOUGHT: Duration = Duration::from_millis(200);

/// Percentiles are as exact as this, downwards.
const LEAST: f64 = 0.99;

const POOL: &str = "/v1/pools/back";

/// Answers each line, after a while where it says so.
fn thoughtful() -> Backend {
    Backend::start(|mut stream| {
        let line = net::read_line(&mut stream);
        if line == "think" {
            thread::sleep(THOUGHT);
        }
        stream.write_all(b"done\n").expect("an answer");
        backend::drain(&mut stream);
    })
}

/// One session with one question.
fn ask(address: SocketAddr, question: &str) {
    let mut stream = net::connect(address);
    stream.write_all(format!("{question}\n").as_bytes()).expect("a question");
    assert_eq!(net::read_line(&mut stream), "done");
}

fn pool(ringlb: &Ringlb, window: &str) -> Value {
    call(&ringlb.admin(), "GET", &format!("{POOL}?window={window}"), "").json(200)
}

/// The pool's answer once so many of its sessions have ended and are counted.
fn counted(ringlb: &Ringlb, window: &str, sessions: u64) -> Value {
    until("the sessions are counted", || {
        let pool = pool(ringlb, window);
        (pool["latency"]["session_seconds"]["count"].as_u64()? >= sessions).then_some(pool)
    })
}

fn seconds(percentiles: &Value, name: &str) -> f64 {
    percentiles[name].as_f64().unwrap_or_else(|| panic!("no {name} in {percentiles}"))
}

#[track_caller]
fn assert_ordered(percentiles: &Value) {
    let all = ["p50", "p90", "p95", "p99", "p999", "max"].map(|name| seconds(percentiles, name));
    assert!(all.is_sorted(), "{percentiles}");
    assert!(all[0] > 0.0 && seconds(percentiles, "mean") <= seconds(percentiles, "max") * 1.01, "{percentiles}");
}

fn ringlb(servers: &[&Backend], more: impl FnOnce(Config) -> Config) -> Ringlb {
    let names = ["a", "b"];
    let config = servers.iter().zip(names).fold(Config::new(&[]), |config, (server, name)| {
        config.backend(server.address(), &format!("name = \"{name}\""))
    });
    more(config).start()
}

fn command(socket: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringlb"));
    command.args(arguments).env("RINGLB_ADMIN", socket).output().expect("the binary runs")
}

#[test]
fn a_slow_backend_shows_in_the_percentiles_and_a_quick_one_in_its_own() {
    let (slow, quick) = (thoughtful(), thoughtful());
    let ringlb = ringlb(&[&slow, &quick], |config| config.pool("policy = \"round_robin\"").one_worker());
    // Taking turns: the first backend always gets those who wait, the other never.
    for _ in 0..10 {
        ask(ringlb.address(), "think");
        ask(ringlb.address(), "at once");
    }
    for window in ["1m", "5m", "all"] {
        let pool = counted(&ringlb, window, 20);
        assert_eq!(pool["window"], window);
        let [a, b] = [0, 1].map(|number| &pool["backends"][number]["latency"]);
        let (latency, thought) = (&pool["latency"], THOUGHT.as_secs_f64() * LEAST);
        for all in [&a["first_byte_seconds"], &latency["first_byte_seconds"], &latency["session_seconds"]] {
            assert!(seconds(all, "p99") >= thought, "{all}");
            assert_ordered(all);
        }
        assert!(seconds(&a["first_byte_seconds"], "p50") >= thought, "{a}");
        assert!(seconds(&b["first_byte_seconds"], "p50") < seconds(&a["first_byte_seconds"], "p50"), "{a} {b}");
        let counts = [a, b, latency].map(|of| [&of["connect_seconds"]["count"], &of["first_byte_seconds"]["count"]]);
        assert_eq!(counts, [[&json!(10); 2], [&json!(10); 2], [&json!(20); 2]]);
        assert!(a["session_seconds"].is_null(), "sessions are the pool's: {a}");
    }
    ringlb.stop();
}

#[test]
fn half_of_the_answers_are_slow_and_the_median_tells_them_apart() {
    let server = thoughtful();
    let ringlb = ringlb(&[&server], |config| config);
    for _ in 0..10 {
        ask(ringlb.address(), "at once");
    }
    let before = &counted(&ringlb, "all", 10)["backends"][0]["latency"]["first_byte_seconds"];
    for _ in 0..9 {
        ask(ringlb.address(), "think");
    }
    let after = &counted(&ringlb, "all", 19)["backends"][0]["latency"]["first_byte_seconds"];
    assert_eq!(after["count"], 19);
    // The ten quick ones are the half, so that the median is one of theirs still, and the rest is slow.
    assert!(seconds(after, "p50") <= seconds(before, "max"), "{before} {after}");
    assert!(seconds(after, "p90") >= THOUGHT.as_secs_f64() * LEAST, "{after}");
    ringlb.stop();
}

#[test]
fn nothing_is_told_without_a_window_or_without_a_sample() {
    let server = thoughtful();
    let ringlb = ringlb(&[&server, &server], |config| config.pool("policy = \"first\""));
    let silent = pool(&ringlb, "1m");
    assert_eq!((&silent["window"], &silent["latency"]), (&json!("1m"), &json!({})));
    assert!(silent["backends"][0].get("latency").is_none(), "{silent}");
    ask(ringlb.address(), "at once");
    let told = counted(&ringlb, "1m", 1);
    assert_eq!(told["backends"][0]["latency"]["connect_seconds"]["count"], 1);
    assert!(told["backends"][1].get("latency").is_none(), "{told}");
    let without = call(&ringlb.admin(), "GET", POOL, "").json(200);
    assert!(without.get("latency").is_none() && without.get("window").is_none(), "{without}");
    assert!(without["backends"][0].get("latency").is_none(), "{without}");
    let all = call(&ringlb.admin(), "GET", "/v1/pools?window=5m", "").json(200);
    assert_eq!(all["pools"][0]["latency"]["session_seconds"]["count"], 1);
    ringlb.stop();
}

#[test]
fn a_window_that_does_not_exist_is_refused_with_those_that_do() {
    let ringlb = Config::new(&[]).start();
    for path in ["/v1/pools", POOL] {
        for window in ["2m", "", "1M", "1m%00"] {
            let refused = call(&ringlb.admin(), "GET", &format!("{path}?window={window}"), "");
            assert_eq!(refused.code(400), "bad_value", "{window}");
            let error = &refused.json(400)["error"];
            assert_eq!(error["hint"], "send window=1m, window=5m or window=all");
            assert!(error["message"].as_str().is_some_and(|message| message.contains("is not a window")), "{error}");
        }
        let unknown = call(&ringlb.admin(), "GET", &format!("{path}?windwo=1m"), "").json(400);
        assert_eq!(unknown["error"]["code"], "bad_query");
        assert_eq!(unknown["error"]["hint"], "did you mean `window`?");
    }
    assert_eq!(call(&ringlb.admin(), "GET", "/v1/pools/none?window=1m", "").code(404), "no_such_pool");
    ringlb.stop();
}

#[test]
fn a_pool_of_five_thousand_backends_tells_those_that_have_served() {
    let server = thoughtful();
    let ringlb = ringlb(&[&server], |config| config);
    ask(ringlb.address(), "at once");
    counted(&ringlb, "1m", 1);
    let backend = |number: usize| {
        let (name, weight) = if number == 2500 { ("a".to_owned(), 1) } else { (format!("b{number}"), 0) };
        json!({"name": name, "address": server.address().to_string(), "weight": weight})
    };
    let set = json!({"backends": (0..5000).map(backend).collect::<Vec<_>>()}).to_string();
    call(&ringlb.admin(), "PUT", &format!("{POOL}/backends"), &set).json(200);
    ask(ringlb.address(), "at once");
    let told = counted(&ringlb, "5m", 2);
    let backends = told["backends"].as_array().expect("a list");
    let served: Vec<&Value> = backends.iter().filter(|backend| backend.get("latency").is_some()).collect();
    assert_eq!((backends.len(), served.len()), (5000, 1));
    assert_eq!(served[0]["latency"]["connect_seconds"]["count"], 2, "what it was before the swap counts on");
    ringlb.stop();
}

#[test]
fn the_command_shows_a_table_and_json() {
    let (slow, other) = (thoughtful(), thoughtful());
    let ringlb = ringlb(&[&slow, &other], |config| config.pool("policy = \"first\""));
    let said = |arguments: &[&str]| {
        let output = command(&ringlb.admin(), arguments);
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr)), (Some(0), "".into()));
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(
        said(&["latency"]),
        "pool back: the last minute and the running one\nno connection was made in this time\n"
    );
    for _ in 0..3 {
        ask(ringlb.address(), "think");
    }
    counted(&ringlb, "1m", 3);
    for arguments in [&["latency"][..], &["latency", "back", "--window", "5m"], &["latency", "--window", "all"]] {
        let table = said(arguments);
        assert!(!table.contains('\x1b') && table.lines().all(|line| line.chars().count() <= 80), "{table}");
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["BACKEND", "PHASE", "COUNT", "P50", "P90", "P99", "P99.9", "MAX"]);
        assert_eq!(
            (rows[2][..3].to_vec(), rows[4][..2].to_vec()),
            (vec!["(all)", "connect", "3"], vec!["session", "3"])
        );
        assert_eq!(rows[5][..3], ["a", "connect", "3"]);
        assert_eq!(rows[6][..3], ["first", "byte", "3"]);
        let unit = |text: &str| text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').to_owned();
        assert!(rows[6][3..].iter().all(|cell| ["ms", "s"].contains(&&*unit(cell))), "{table}");
        assert!(table.ends_with("1 backends without a connection in this time\n"), "{table}");
    }
    let json: Value = serde_json::from_str(&said(&["latency", "back", "--json"])).expect("JSON");
    assert_eq!(json["latency"]["session_seconds"]["count"], 3);
    let json: Value = serde_json::from_str(&said(&["latency", "--json"])).expect("JSON");
    assert_eq!(json["pools"][0]["name"], "back");

    let fails = |arguments: &[&str], expected: &str| {
        let output = command(&ringlb.admin(), arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && stderr.contains(expected), "{stderr}");
    };
    fails(&["latency", "--window", "1h"], "send window=1m");
    fails(&["latency", "bakc"], "did you mean \"back\"?");
    ringlb.stop();
}
