//! `state_file`: what is changed in a running ringlb counts after a restart too, however it ended; a file that cannot be
//! used keeps nobody from starting, and is never lost.

mod common;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use common::api::call;
use common::backend::Backend;
use common::net;
use common::ringlb::{Config, Ringlb, field, run_file};
use common::scrape::{Scrape, scrape_until};
use common::{DEADLINE, until};

const BACKENDS: &str = "/v1/pools/back/backends";

/// A state file in a directory of its own, which outlives the processes of a test.
struct State {
    directory: TempDir,
}

impl State {
    fn new() -> State {
        State { directory: TempDir::new().expect("a directory") }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    fn line(&self) -> String {
        format!("state_file = \"{}\"", self.path().display())
    }

    /// A pool with these backends, which refuse whoever connects unless a test has servers for them.
    fn config(&self, backends: &[(&str, &str)]) -> Config {
        let config = Config::new(&[]).process(&self.line());
        let refuses = "127.0.0.1:1";
        backends
            .iter()
            .fold(config, |config, (name, keys)| config.backend(refuses, &format!("name = \"{name}\"\n{keys}")))
    }

    fn read(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.path()).ok()?).ok()
    }

    /// Waits until the file says this of a pool.
    fn wait_for(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        until(&format!("the state file has {what}"), || self.read().filter(|state| holds(&state["pools"])));
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).expect("a directory");
        let mut names: Vec<String> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort_unstable();
        names
    }
}

fn pool(ringlb: &Ringlb) -> Value {
    call(&ringlb.admin(), "GET", "/v1/pools/back", "").json(200)
}

/// Its backends: name, weight, state, source.
fn shown(ringlb: &Ringlb) -> Vec<(String, u64, String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let pool = pool(ringlb);
    let backends = pool["backends"].as_array().expect("a list").iter();
    let shown = backends.map(|one| {
        (text(&one["name"]), one["weight"].as_u64().expect("a weight"), text(&one["state"]), text(&one["source"]))
    });
    shown.collect()
}

fn rows(rows: &[(&str, u64, &str, &str)]) -> Vec<(String, u64, String, String)> {
    rows.iter()
        .map(|(name, weight, state, source)| ((*name).into(), *weight, (*state).into(), (*source).into()))
        .collect()
}

fn weigh(ringlb: &Ringlb, name: &str, weight: u32) {
    let told = json!({"weight": weight}).to_string();
    call(&ringlb.admin(), "PATCH", &format!("{BACKENDS}/{name}"), &told).json(200);
}

fn request(address: SocketAddr) -> String {
    let mut stream = net::connect(address);
    stream.write_all(b"hello\n").expect("a request");
    net::read_line(&mut stream)
}

fn end(mut ringlb: Ringlb, signal: Signal) {
    ringlb.signal(signal);
    ringlb.wait();
}

fn says(ringlb: &Ringlb, part: &str) -> String {
    ringlb.wait_for_log(part, |line| line.contains(part))
}

#[test]
fn live_edits_hold_over_a_restart_and_over_a_crash() {
    let (fresh, leased) = (Backend::answering("fresh"), Backend::answering("leased"));
    for signal in [Signal::TERM, Signal::KILL] {
        let state = State::new();
        let config = state.config(&[("a", ""), ("b", ""), ("c", ""), ("d", "weight = 4")]).pool("max_fails = 0");
        let ringlb = config.start();
        let admin = ringlb.admin();
        weigh(&ringlb, "a", 0);
        call(&admin, "PATCH", &format!("{BACKENDS}/b"), r#"{"state":"drain"}"#).json(200);
        call(&admin, "DELETE", &format!("{BACKENDS}/c"), "").json(200);
        call(&admin, "PATCH", &format!("{BACKENDS}/d"), r#"{"state":"maint","slow_start":"3s"}"#).json(200);
        let told = json!({"name": "fresh", "address": fresh.address().to_string(), "weight": 3, "max_connections": 9,
            "max_fails": 7, "fail_timeout": "1m 30s", "backup": false});
        call(&admin, "POST", BACKENDS, &told.to_string()).json(201);
        let told = json!({"address": leased.address().to_string(), "ttl": "1h", "weight": 0});
        call(&admin, "PUT", &format!("{BACKENDS}/leased"), &told.to_string()).json(201);
        let before = pool(&ringlb);
        if signal == Signal::KILL {
            // An edit is on the disk a moment after it counts.
            state.wait_for("the last edit", |pools| pools.to_string().contains("leased"));
        }
        end(ringlb, signal);
        let mode = fs::metadata(state.path()).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{signal:?}");

        let ringlb = config.start();
        assert_eq!(
            shown(&ringlb),
            rows(&[
                ("a", 0, "ready", "file"),
                ("b", 1, "drain", "file"),
                ("d", 4, "maint", "file"),
                ("fresh", 3, "ready", "live"),
                ("leased", 0, "ready", "live"),
            ]),
            "{signal:?}"
        );
        let after = pool(&ringlb);
        for (before, after) in before["backends"].as_array().into_iter().zip(after["backends"].as_array()) {
            for (before, after) in before.iter().zip(after) {
                for key in ["address", "backup", "max_connections", "max_fails", "fail_timeout", "slow_start"] {
                    assert_eq!(before[key], after[key], "{key} of {after}");
                }
            }
        }
        let left = |pool: &Value| pool["backends"][4]["lease_ms"].as_u64().expect("a lease");
        assert!(left(&after) > 0 && left(&after) <= left(&before), "{after}");
        assert_eq!(request(ringlb.address()), "fresh hello", "it serves");
        let line = says(&ringlb, "live edits of before the restart count again");
        assert_eq!(["added", "removed", "changed"].map(|name| field(&line, name)), [Some("2"), Some("1"), Some("3")]);
        // What was kept is kept on, and can be taken back.
        weigh(&ringlb, "a", 1);
        for name in ["fresh", "leased"] {
            call(&ringlb.admin(), "DELETE", &format!("{BACKENDS}/{name}"), "").json(200);
        }
        end(ringlb, Signal::TERM);
        let ringlb = config.start();
        assert_eq!(
            shown(&ringlb),
            rows(&[("a", 1, "ready", "file"), ("b", 1, "drain", "file"), ("d", 4, "maint", "file")])
        );
        ringlb.stop();
        assert_eq!(state.names(), ["state"], "nothing else stays behind");
    }
}

#[test]
fn a_whole_set_that_was_swapped_is_the_set_after_a_restart() {
    let state = State::new();
    let config = state.config(&[("a", ""), ("b", "")]);
    let ringlb = config.start();
    let backend = |number: usize| json!({"name": format!("n{number}"), "address": "127.0.0.1:1"});
    let set = json!({"backends": (0..2000).rev().map(backend).collect::<Vec<_>>()}).to_string();
    call(&ringlb.admin(), "PUT", BACKENDS, &set).json(200);
    end(ringlb, Signal::TERM);
    let ringlb = config.start();
    let names: Vec<String> = shown(&ringlb).into_iter().map(|(name, ..)| name).collect();
    let expected: Vec<String> = (0..2000).rev().map(|number| format!("n{number}")).collect();
    assert_eq!(names, expected);
    ringlb.stop();
}

#[test]
fn a_lease_that_ended_meanwhile_takes_its_backend_with_it() {
    let state = State::new();
    let config = state.config(&[("a", "")]);
    let ringlb = config.start();
    for name in ["late", "early"] {
        let told = json!({"address": "127.0.0.1:1", "ttl": "1h"}).to_string();
        call(&ringlb.admin(), "PUT", &format!("{BACKENDS}/{name}"), &told).json(201);
    }
    end(ringlb, Signal::TERM);
    let mut text = state.read().expect("a state");
    let lease = &mut text["pools"][0]["live"][1]["lease"];
    assert_eq!((&lease["ttl"], &lease["expired"]), (&json!("1h"), &json!(false)));
    // As if it had taken a day to start again.
    lease["until"] = json!("2024-02-29T12:00:00Z");
    fs::write(state.path(), text.to_string()).expect("it is written");

    let ringlb = config.start();
    says(&ringlb, "backend back/late: its lease has ended before or during the restart");
    until("it is removed", || (shown(&ringlb).len() == 2).then_some(()));
    assert_eq!(shown(&ringlb), rows(&[("a", 1, "ready", "file"), ("early", 1, "ready", "live")]));
    let told = json!({"address": "127.0.0.1:1", "ttl": "1h"}).to_string();
    call(&ringlb.admin(), "PUT", &format!("{BACKENDS}/late"), &told).json(201);
    ringlb.stop();
}

#[test]
fn a_file_that_cannot_be_used_is_moved_aside_and_the_configuration_counts() {
    let state = State::new();
    let config = state.config(&[("a", ""), ("b", "")]);
    let ringlb = config.start();
    weigh(&ringlb, "a", 7);
    end(ringlb, Signal::TERM);
    let good = fs::read_to_string(state.path()).expect("text");
    assert!(good.contains("\"weight\":7"), "{good}");
    let cases = [
        (String::new(), "it is not the JSON of a state file"),
        ("\0\u{1}garbage".to_owned(), "it is not the JSON of a state file"),
        (good[..good.len() / 2].to_owned(), "it is not the JSON of a state file"),
        (good.replace("\"version\":1", "\"version\":9"), "version 9 of the form"),
        (good.replace("\"weight\":7", "\"weight\":77777"), "the weight 77777 is more than"),
    ];
    for (number, (bad, why)) in cases.into_iter().enumerate() {
        fs::write(state.path(), &bad).expect("it is written");
        let ringlb = config.start();
        let line = says(&ringlb, "the state file cannot be used");
        assert!(line.contains("\"ERROR\"") && field(&line, "aside").is_some(), "{line}");
        says(&ringlb, &why.replace('"', "\\\""));
        assert_eq!(shown(&ringlb), rows(&[("a", 1, "ready", "file"), ("b", 1, "ready", "file")]));
        let aside = state.directory.path().join("state.bad");
        assert_eq!(fs::read_to_string(aside).expect("it is kept"), bad);
        let weight = 10 + number as u32;
        weigh(&ringlb, "b", weight);
        end(ringlb, Signal::TERM);
        let ringlb = config.start();
        assert_eq!(shown(&ringlb)[1].1, u64::from(weight), "what was edited then is kept");
        ringlb.stop();
        assert_eq!(state.names(), ["state", "state.bad"]);
    }
}

#[test]
fn what_changed_in_the_configuration_meanwhile_counts_as_in_a_reload() {
    let state = State::new();
    let config = state.config(&[("a", ""), ("b", ""), ("c", "")]);
    let ringlb = config.start();
    weigh(&ringlb, "a", 7);
    weigh(&ringlb, "b", 5);
    call(&ringlb.admin(), "DELETE", &format!("{BACKENDS}/c"), "").json(200);
    call(&ringlb.admin(), "POST", BACKENDS, r#"{"name":"x","address":"127.0.0.1:1"}"#).json(201);
    end(ringlb, Signal::TERM);
    let ringlb = state.config(&[("a", "weight = 2"), ("b", ""), ("c", ""), ("d", "")]).start();
    assert_eq!(
        shown(&ringlb),
        rows(&[
            ("a", 2, "ready", "file"),
            ("b", 5, "ready", "file"),
            ("d", 1, "ready", "file"),
            ("x", 1, "ready", "live"),
        ])
    );
    ringlb.stop();
}

#[test]
fn edits_of_a_pool_that_is_gone_or_fits_no_more_are_told_and_the_rest_counts() {
    let state = State::new();
    let config = state.config(&[("a", "")]);
    let text = |pools: &str| format!("{}{pools}", config.text());
    let other = "[[pool]]\nname = \"other\"\n[[pool.backend]]\nname = \"o\"\naddress = \"127.0.0.1:1\"\n";
    let ringlb = Ringlb::with_file(&text(other));
    weigh(&ringlb, "a", 7);
    call(&ringlb.admin(), "PATCH", "/v1/pools/other/backends/o", r#"{"weight":9}"#).json(200);
    end(ringlb, Signal::TERM);
    let kept = state.read().expect("a state");
    assert_eq!(kept["pools"].as_array().map(Vec::len), Some(2));

    let ringlb = config.start();
    let line = says(&ringlb, "live edits are forgotten: the configuration has no such pool any more");
    assert_eq!((field(&line, "pool"), field(&line, "edits")), (Some("other"), Some("1")));
    assert_eq!(shown(&ringlb)[0].1, 7);
    end(ringlb, Signal::TERM);

    // More backends than a pool may have: half of them the file's, half of them live.
    let mut kept = state.read().expect("a state");
    let live = &mut kept["pools"][0]["live"];
    let told = live[0]["told"].clone();
    *live = (0..16_384).map(|number| json!({"name": format!("n{number}"), "told": told})).collect();
    fs::write(state.path(), kept.to_string()).expect("it is written");
    let ringlb = state.config(&[("a", ""), ("b", "")]).start();
    let line = says(&ringlb, "live edits cannot be taken up");
    assert_eq!(field(&line, "pool"), Some("back"), "{line}");
    says(&ringlb, "live edits do not fit any more, of: back");
    assert_eq!(shown(&ringlb), rows(&[("a", 1, "ready", "file"), ("b", 1, "ready", "file")]));
    assert!(state.names().contains(&"state.bad".to_owned()));
    end(ringlb, Signal::TERM);
}

#[test]
fn where_it_cannot_be_written_nothing_starts() {
    let state = State::new();
    let config = state.config(&[("a", "")]);
    let directory = TempDir::new().expect("a directory");
    let refused = |path: &Path, why: &str, help: &str| {
        let text = config.text().replace(&state.line(), &format!("state_file = \"{}\"", path.display()));
        let (code, said) = run_file(directory.path(), &text);
        assert_eq!(code, Some(1), "{said}");
        for part in [path.to_str().expect("text"), why, help] {
            assert!(said.contains(part), "{said}");
        }
    };
    refused(&state.path().join("none/state"), "No such file or directory", "StateDirectory=");
    refused(state.directory.path(), "it is a directory", "add the name of one");
    let ringlb = config.start();
    let pid = format!("another process (pid {}) has it", ringlb.pid());
    refused(&state.path(), &pid, "give each ringlb a `state_file` of its own");
    ringlb.stop();
}

#[test]
fn edits_that_come_fast_go_together_and_the_last_one_counts() {
    let state = State::new();
    let config = state.config(&[("a", "")]);
    let ringlb = config.start();
    let began = Instant::now();
    let mut texts = std::collections::HashSet::new();
    for weight in 1..=1000 {
        weigh(&ringlb, "a", weight);
        texts.extend(fs::read_to_string(state.path()));
    }
    // One at once, then one a second at most.
    let most = 3 + began.elapsed().as_secs() as usize;
    assert!(texts.len() <= most, "{} states in {:?}", texts.len(), began.elapsed());
    state.wait_for("the last edit", |pools| pools[0]["live"][0]["told"]["weight"] == 1000);
    end(ringlb, Signal::KILL);
    let ringlb = config.start();
    assert_eq!(shown(&ringlb)[0].1, 1000);
    ringlb.stop();
}

#[test]
fn a_disk_that_takes_nothing_is_told_and_counted_and_tried_again() {
    let state = State::new();
    let home = state.directory.path().join("home");
    fs::create_dir(&home).expect("a directory");
    let file = home.join("state");
    let config = Config::new(&[]).backend("127.0.0.1:1", "name = \"a\"").process("metrics = \"127.0.0.1:0\"");
    let ringlb = config.process(&format!("state_file = \"{}\"", file.display())).start();
    let written = |scrape: &Scrape| (scrape.number("ringlb_state_file_writes_total", &[]) >= 1.0).then_some(());
    let (scrape, ()) = scrape_until(&ringlb, "the first state is written", written);
    assert_eq!(scrape.number("ringlb_state_file_write_failures_total", &[]), 0.0);
    assert_eq!(scrape.number("ringlb_ring_kernel_threads", &[]), 0.0, "files are no data path");

    let away = state.directory.path().join("away");
    fs::rename(&home, &away).expect("it is moved");
    weigh(&ringlb, "a", 5);
    let line = says(&ringlb, "the state file cannot be written");
    assert!(line.contains("\"ERROR\"") && line.contains("No such file or directory"), "{line}");
    let failed = |scrape: &Scrape| (scrape.number("ringlb_state_file_write_failures_total", &[]) >= 1.0).then_some(());
    scrape_until(&ringlb, "the failure is counted", failed);
    assert_eq!(shown(&ringlb)[0].1, 5, "the edit counts all the same");
    fs::rename(&away, &home).expect("it is moved back");
    weigh(&ringlb, "a", 6);
    says(&ringlb, "the state file is written again");
    until("the last edit is there", || fs::read_to_string(&file).ok().filter(|text| text.contains("\"weight\":6,")));
    end(ringlb, Signal::TERM);
}

/// Whatever happened first, the reload or the restart: the set is the same.
#[test]
fn what_was_reloaded_is_what_a_restart_finds() {
    let state = State::new();
    let config = state.config(&[("a", ""), ("b", ""), ("c", "")]);
    let ringlb = config.start();
    weigh(&ringlb, "a", 7);
    call(&ringlb.admin(), "DELETE", &format!("{BACKENDS}/c"), "").json(200);
    call(&ringlb.admin(), "POST", BACKENDS, r#"{"name":"x","address":"127.0.0.1:1"}"#).json(201);
    let next = state.config(&[("a", ""), ("b", "weight = 3"), ("c", ""), ("d", "")]);
    let reload = |ringlb: &Ringlb, query: &str| {
        fs::write(ringlb.path("ringlb.toml"), next.text()).expect("the file is written");
        call(&ringlb.admin(), "POST", &format!("/v1/reload{query}"), "").json(200);
    };
    reload(&ringlb, "");
    let expected = rows(&[
        ("a", 7, "ready", "file"),
        ("b", 3, "ready", "file"),
        ("d", 1, "ready", "file"),
        ("x", 1, "ready", "live"),
    ]);
    assert_eq!(shown(&ringlb), expected);
    end(ringlb, Signal::TERM);
    let ringlb = next.start();
    assert_eq!(shown(&ringlb), expected);

    // What was discarded does not come back, after a crash neither.
    reload(&ringlb, "?discard_live=true");
    let expected = rows(&[
        ("a", 1, "ready", "file"),
        ("b", 3, "ready", "file"),
        ("c", 1, "ready", "file"),
        ("d", 1, "ready", "file"),
    ]);
    assert_eq!(shown(&ringlb), expected);
    state.wait_for("no edit any more", |pools| pools.as_array().is_some_and(Vec::is_empty));
    end(ringlb, Signal::KILL);
    let ringlb = next.start();
    assert_eq!(shown(&ringlb), expected);
    ringlb.stop();
}

#[test]
fn a_pool_that_a_reload_takes_out_takes_its_edits_with_it() {
    let state = State::new();
    let config = state.config(&[("a", "")]);
    let other = "[[pool]]\nname = \"other\"\n[[pool.backend]]\nname = \"o\"\naddress = \"127.0.0.1:1\"\n";
    let ringlb = Ringlb::with_file(&format!("{}{other}", config.text()));
    weigh(&ringlb, "a", 7);
    call(&ringlb.admin(), "PATCH", "/v1/pools/other/backends/o", r#"{"weight":9}"#).json(200);
    state.wait_for("both pools", |pools| pools.as_array().is_some_and(|pools| pools.len() == 2));
    fs::write(ringlb.path("ringlb.toml"), config.text()).expect("the file is written");
    call(&ringlb.admin(), "POST", "/v1/reload", "").json(200);
    state.wait_for("one pool", |pools| pools.as_array().is_some_and(|pools| pools.len() == 1));
    end(ringlb, Signal::KILL);
    let ringlb = config.start();
    assert_eq!(shown(&ringlb), rows(&[("a", 7, "ready", "file")]));
    ringlb.stop();
}

/// Killed in the middle of a write: either what was there before is there, or what was being written, and nothing between.
#[test]
fn a_kill_while_it_is_written_leaves_a_whole_state() {
    const MANY: usize = 10_000;
    let state = State::new();
    let config = state.config(&[("a", "")]);
    let new = state.directory.path().join("state.new");
    let set = |weight: usize| {
        let backend = |number: usize| json!({"name": format!("n{number}"), "address": "127.0.0.1:1", "weight": weight});
        json!({"backends": (0..MANY).map(backend).collect::<Vec<_>>()}).to_string()
    };
    let mut possible = vec![rows(&[("a", 1, "ready", "file")])];
    for weight in 1..=3_u64 {
        let ringlb = config.start();
        let found = shown(&ringlb);
        assert!(possible.contains(&found), "{} backends: {:?}", found.len(), found.first());
        call(&ringlb.admin(), "PUT", BACKENDS, &set(weight as usize)).json(200);
        possible = vec![found, shown(&ringlb)];
        // Without a pause between two looks: it is not there for long.
        let deadline = Instant::now() + DEADLINE;
        let last = format!("\"weight\":{weight},");
        while !new.exists() && !fs::read_to_string(state.path()).is_ok_and(|text| text.contains(&last)) {
            assert!(Instant::now() < deadline, "nothing is written");
        }
        end(ringlb, Signal::KILL);
    }
    let ringlb = config.start();
    assert!(possible.contains(&shown(&ringlb)));
    ringlb.stop();
}

/// What a process that was killed while it wrote has left hurts nobody.
#[test]
fn half_a_new_file_is_no_state() {
    let state = State::new();
    let config = state.config(&[("a", "")]);
    let ringlb = config.start();
    weigh(&ringlb, "a", 6);
    end(ringlb, Signal::TERM);
    fs::write(state.directory.path().join("state.new"), "{\"version\":1,\"ri").expect("it is written");
    let ringlb = config.start();
    assert_eq!(shown(&ringlb)[0].1, 6);
    ringlb.stop();
    assert_eq!(state.names(), ["state"]);
}

#[test]
fn without_the_key_nothing_is_kept_and_nothing_is_written() {
    let config = Config::new(&[]).backend("127.0.0.1:1", "name = \"a\"");
    let ringlb = config.start();
    weigh(&ringlb, "a", 6);
    let directory = ringlb.path("");
    let threads = fs::read_dir(format!("/proc/{}/task", ringlb.pid())).expect("its threads");
    let names =
        threads.map(|thread| fs::read_to_string(thread.expect("a thread").path().join("comm")).expect("a name"));
    assert!(names.into_iter().all(|name| name.trim() != "ringlb-state"));
    ringlb.signal(Signal::TERM);
    says(&ringlb, "stopped");
    let files = fs::read_dir(&directory).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    let expected = ["ringlb.toml", "admin.sock", "admin.sock.lock"];
    assert!(files.into_iter().all(|file| expected.iter().any(|name| file == *name)));
    drop(ringlb);
    let ringlb = config.start();
    assert_eq!(shown(&ringlb), rows(&[("a", 1, "ready", "file")]));
    ringlb.stop();
}
