//! The access log of the real binary: a line for each session, whatever happens to the file. See `docs/access-log.md`.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use common::backend::Backend;
use common::net::{self, Reserved};
use common::ringlb::{Config, Ringlb, field, run_file};
use common::scrape::{Scrape, scrape_until};
use common::{DEADLINE, at_once, until};

/// Configured to log to a file of its own directory, in JSON.
fn logging(backends: &[SocketAddr], to: &Path) -> Config {
    let keys = format!("access_log = \"{}\"\nmetrics = \"127.0.0.1:0\"", to.display());
    Config::new(backends).process(&keys)
}

/// The lines of a log; each must be whole.
fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line of {} is torn", path.display());
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Waits until the log has so many lines.
fn wait_for_lines(path: &Path, count: usize) -> Vec<Value> {
    until(&format!("{count} lines"), || {
        // While it grows, its last line may be on its way.
        let text = fs::read_to_string(path).unwrap_or_default();
        (text.ends_with('\n') && text.lines().count() >= count).then_some(())
    });
    lines(path)
}

/// Sends so many bytes and reads them back; gives our address.
fn echo(ringlb: &Ringlb, bytes: usize) -> SocketAddr {
    let mut stream = ringlb.connect();
    let own = stream.local_addr().expect("an address");
    stream.write_all(&vec![b'x'; bytes]).expect("sent");
    stream.shutdown(Shutdown::Write).expect("half-close");
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("an answer");
    assert_eq!(back.len(), bytes);
    own
}

#[test]
fn each_session_has_a_line_with_its_bytes_and_its_end() {
    const SESSIONS: usize = 20;
    let directory = TempDir::new().expect("a directory");
    let log = directory.path().join("access.log");
    let backend = Backend::echo();
    let ringlb = logging(&[backend.address()], &log).process("access_log_start = true").start();
    let asked: BTreeMap<String, usize> =
        at_once(SESSIONS, |number| (echo(&ringlb, 1 + 999 * number).to_string(), 1 + 999 * number))
            .into_iter()
            .collect();
    let lines = wait_for_lines(&log, 2 * SESSIONS);
    assert_eq!(lines.len(), 2 * SESSIONS);
    let (starts, ends): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["event"] == "start");
    assert_eq!((starts.len(), ends.len()), (SESSIONS, SESSIONS));
    for end in ends {
        let bytes = asked[end["client"].as_str().expect("an address")];
        assert_eq!((&end["from_client"], &end["from_backend"]), (&bytes.into(), &bytes.into()), "{end}");
        let address = backend.address().to_string();
        assert_eq!((&end["backend"], &end["backend_address"]), (&address.as_str().into(), &address.as_str().into()));
        assert_eq!((&end["listener"], &end["pool"]), (&"front".into(), &"back".into()));
        assert_eq!((&end["reason"], &end["ended_by"]), (&"client_eof".into(), &"client".into()), "{end}");
        assert_eq!((&end["errno"], &end["attempts"]), (&Value::Null, &1.into()));
        let number = |name: &str| end[name].as_f64().unwrap_or_else(|| panic!("{name} in {end}"));
        assert!(number("total_ms") >= number("connect_ms") + number("first_byte_ms"), "{end}");
        assert!(number("client_rtt_ms") > 0.0 && number("backend_rtt_ms") > 0.0, "{end}");
        let start = starts.iter().find(|start| start["session"] == end["session"]).expect("its start");
        assert_eq!(start["client"], end["client"]);
        assert!(start["time"].as_str() <= end["time"].as_str(), "{start} {end}");
    }
    let scrape = Scrape::of(&ringlb);
    assert_eq!(scrape.number("ringlb_access_log_lines_total", &[]), 2.0 * SESSIONS as f64);
    assert_eq!(scrape.number("ringlb_access_log_dropped_total", &[]), 0.0);
    ringlb.stop();
}

#[test]
fn an_end_that_is_not_orderly_is_told_with_who_and_why() {
    let directory = TempDir::new().expect("a directory");
    let log = |name: &str| directory.path().join(name);
    // A backend that reads a byte and resets.
    let resets = Backend::start(|mut stream| {
        stream.read_exact(&mut [0]).expect("a byte");
        net::reset(stream);
    });
    let ringlb = logging(&[resets.address()], &log("reset")).start();
    let mut stream = ringlb.connect();
    stream.write_all(b"x").expect("sent");
    net::read_to_end(&mut stream);
    let ends = wait_for_lines(&log("reset"), 1);
    let told = |end: &Value| ["reason", "ended_by", "errno"].map(|name| end[name].as_str().unwrap_or("-").to_owned());
    assert_eq!(told(&ends[0]), ["backend_reset", "backend", "ECONNRESET"]);
    assert_eq!((&ends[0]["from_client"], &ends[0]["first_byte_ms"]), (&1.into(), &Value::Null));
    ringlb.stop();

    // Two that refuse.
    let dead = [Reserved::new(), Reserved::new()];
    let ringlb = logging(&[dead[0].address(), dead[1].address()], &log("refused")).start();
    net::read_to_end(&mut ringlb.connect());
    let ends = wait_for_lines(&log("refused"), 1);
    assert_eq!((&ends[0]["attempts"], &ends[0]["connect_ms"]), (&2.into(), &Value::Null), "{}", ends[0]);
    assert!(ends[0]["backend"].is_string(), "{}", ends[0]);
    ringlb.stop();

    // None at all.
    let ringlb = logging(&[], &log("none")).start();
    net::read_to_end(&mut ringlb.connect());
    let ends = wait_for_lines(&log("none"), 1);
    assert_eq!(told(&ends[0]), ["no_backend", "ringlb", "-"]);
    assert_eq!((&ends[0]["backend"], &ends[0]["attempts"]), (&Value::Null, &0.into()));
    ringlb.stop();
}

#[test]
fn what_is_queued_at_the_end_is_written() {
    const SESSIONS: usize = 50;
    let directory = TempDir::new().expect("a directory");
    let log = directory.path().join("access.log");
    let backend = Backend::echo();
    let mut ringlb = logging(&[backend.address()], &log).start();
    // Sessions that the end of the process ends: their lines are its last ones.
    let streams: Vec<TcpStream> = (0..SESSIONS).map(|_| ringlb.connect()).collect();
    until("all are connected", || (backend.active() == SESSIONS).then_some(()));
    ringlb.signal(Signal::TERM);
    ringlb.wait_for_log("it drains", |line| field(line, "message") == Some("draining"));
    ringlb.signal(Signal::TERM);
    assert_eq!(ringlb.wait().code(), Some(0));
    drop(streams);
    let lines = lines(&log);
    assert_eq!(lines.len(), SESSIONS);
    assert!(lines.iter().all(|line| line["reason"] == "shutdown" && line["ended_by"] == "operator"), "{}", lines[0]);
}

#[test]
fn reopening_under_load_loses_no_line() {
    const ROTATIONS: usize = 5;
    let directory = TempDir::new().expect("a directory");
    let log = directory.path().join("access.log");
    let old = |number: usize| directory.path().join(format!("access.log.{number}"));
    let backend = Backend::echo();
    let ringlb = logging(&[backend.address()], &log).start();
    let (stop, sessions) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    echo(&ringlb, 100);
                    sessions.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for number in 0..ROTATIONS {
            let before = sessions.load(Ordering::SeqCst);
            until("there is traffic", || (sessions.load(Ordering::SeqCst) > before + 20).then_some(()));
            wait_for_growth(&log);
            fs::rename(&log, old(number)).expect("renamed");
            ringlb.signal(Signal::USR1);
            until("the new file is there", || log.exists().then_some(()));
        }
        stop.store(true, Ordering::SeqCst);
    });
    let sessions = sessions.load(Ordering::SeqCst);
    scrape_until(&ringlb, "all lines are written", |scrape| {
        (scrape.number("ringlb_access_log_lines_total", &[]) == sessions as f64).then_some(())
    });
    assert_eq!(Scrape::of(&ringlb).number("ringlb_access_log_dropped_total", &[]), 0.0);
    let mut found: Vec<Value> = (0..ROTATIONS).flat_map(|number| lines(&old(number))).collect();
    found.extend(lines(&log));
    let told: BTreeSet<String> = found.iter().map(|line| line["session"].to_string()).collect();
    assert_eq!((found.len(), told.len()), (sessions, sessions), "a line is lost or stands twice");
    let reopened = ringlb.log().iter().filter(|line| line.contains("is open anew")).count();
    assert_eq!(reopened, ROTATIONS);
    ringlb.stop();
}

#[test]
fn a_file_that_was_removed_is_made_again() {
    let directory = TempDir::new().expect("a directory");
    let log = directory.path().join("access.log");
    let backend = Backend::echo();
    let ringlb = logging(&[backend.address()], &log).start();
    echo(&ringlb, 1);
    wait_for_lines(&log, 1);
    fs::remove_file(&log).expect("removed");
    let client = echo(&ringlb, 2);
    let lines = wait_for_lines(&log, 1);
    assert_eq!((lines.len(), &lines[0]["client"]), (1, &client.to_string().into()));
    ringlb.stop();
}

/// Waits until something is in the file.
fn wait_for_growth(path: &Path) {
    until("it has a line", || path.metadata().is_ok_and(|metadata| metadata.len() > 0).then_some(()));
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up_and_its_lines_are_counted() {
    const CLIENTS: usize = 8;
    let directory = TempDir::new().expect("a directory");
    let fifo = directory.path().join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo").success());
    let backend = Backend::echo();
    // Clients of a second listener are closed at once, which makes many lines in a short time.
    let closed = "[[listener]]\nname = \"closed\"\npool = \"back\"\nbind = \"127.0.0.1:0\"\ndeny = [\"127.0.0.0/8\"]";
    let config = logging(&[backend.address()], &fifo).one_worker().process("access_log_start = true");
    let ringlb = config.listener(closed).start();
    let closed: SocketAddr = ringlb.addresses()[1].parse().expect("an address");
    let full = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !full.load(Ordering::SeqCst) {
                    net::read_to_end(&mut net::connect(closed));
                }
            });
        }
        scope.spawn(|| {
            scrape_until(&ringlb, "lines are dropped", |scrape| {
                (scrape.number("ringlb_access_log_dropped_total", &[]) > 0.0).then_some(())
            });
            full.store(true, Ordering::SeqCst);
        });
    });
    ringlb.wait_for_log("it says so", |line| line.contains("not taken fast enough"));
    // Now each line is dropped, and each client is served.
    let before = Scrape::of(&ringlb).number("ringlb_access_log_dropped_total", &[]);
    at_once(CLIENTS, |_| echo(&ringlb, 10_000));
    scrape_until(&ringlb, "theirs are dropped too", |scrape| {
        (scrape.number("ringlb_access_log_dropped_total", &[]) >= before + 2.0 * CLIENTS as f64).then_some(())
    });
    // A reader that comes at last finds whole lines, those that have waited and new ones.
    let mut reader = fs::OpenOptions::new().read(true).open(&fifo).expect("the fifo");
    let (told, hears) = channel();
    thread::spawn(move || {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = reader.read(&mut bytes) {
            if told.send(bytes[..read].to_vec()).is_err() {
                return;
            }
        }
    });
    // Once a batch is gone there is room in the queue.
    scrape_until(&ringlb, "lines are written", |scrape| {
        (scrape.number("ringlb_access_log_lines_total", &[]) > 0.0).then_some(())
    });
    let last = echo(&ringlb, 77).to_string();
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(&format!("\"{last}\"")) {
        text.extend(hears.recv_timeout(DEADLINE).expect("lines"));
    }
    for line in String::from_utf8(text).expect("text").split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value["client"].is_string(), "{value}");
    }
    ringlb.stop();
}

#[test]
fn a_disk_that_is_full_is_told_once_and_its_lines_are_counted() {
    const SESSIONS: usize = 5;
    let backend = Backend::echo();
    let mut ringlb = logging(&[backend.address()], Path::new("/dev/full")).start();
    for number in 1..=SESSIONS {
        echo(&ringlb, 10);
        scrape_until(&ringlb, "its line is dropped", |scrape| {
            (scrape.number("ringlb_access_log_dropped_total", &[]) == number as f64).then_some(())
        });
    }
    let told = ringlb.log().into_iter().filter(|line| line.contains("cannot be written")).collect::<Vec<_>>();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("/dev/full") && told[0].contains("No space left"), "{}", told[0]);
    ringlb.signal(Signal::TERM);
    assert_eq!(ringlb.wait().code(), Some(0));
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_at_the_start() {
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, "").expect("written");
    let cases = [
        (directory.path().to_owned(), "Is a directory"),
        (directory.path().join("missing/access.log"), "No such file or directory"),
        (file.join("access.log"), "Not a directory"),
    ];
    for (path, why) in cases {
        let (code, said) = run_file(directory.path(), &logging(&[], &path).text());
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("the access log cannot be opened") && said.contains(why), "{said}");
        assert!(said.contains(path.to_str().expect("text")), "{said}");
    }
}

#[test]
fn there_is_a_thread_for_it_only_where_there_is_a_log() {
    let has_thread = |ringlb: &Ringlb| {
        let tasks = fs::read_dir(format!("/proc/{}/task", ringlb.pid())).expect("our child");
        let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.collect::<Vec<_>>().iter().any(|name| name.trim() == "ringlb-files")
    };
    let directory = TempDir::new().expect("a directory");
    let log = directory.path().join("access.log");
    let with = logging(&[], &log).start();
    assert!(has_thread(&with));
    with.stop();
    let without = Config::new(&[]).start();
    assert!(!has_thread(&without));
    without.signal(Signal::USR1);
    without.wait_for_log("it hears", |line| line.contains("no log file to reopen"));
    without.stop();
}
