//! Backends that are killed, stopped, cut off and started again under load: nobody is lost but who was with the one that died.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use common::backend::{self, Backend};
use common::load::Load;
use common::net::{self, Reserved};
use common::process::{self, Process};
use common::ringlb::{Config, Ringlb, field};
use common::{procfs, until};
use rustix::process::Signal;

const CLIENTS: usize = 12;

/// Quick to eject and quick to try again; a connect that hangs is given up soon.
const QUICK: &str = "connect_timeout = \"300ms\"\nmax_fails = 2\nfail_timeout = \"300ms\"";

/// Not a test: what [`Process`] starts.
#[test]
#[ignore = "the backend process that other tests start"]
fn a_backend_process() {
    process::serve();
}

/// How often the log says this of a backend.
fn said(ringlb: &Ringlb, backend: &str, words: &str) -> usize {
    let log = ringlb.log();
    let message = |line: &&String| field(line, "message").is_some_and(|message| message.contains(words));
    log.iter().filter(message).filter(|line| line.contains(backend)).count()
}

/// The reasons of ended sessions which say that somebody could not be served.
fn unserved(ringlb: &Ringlb) -> Vec<String> {
    let refused = ["no_backend", "connect_failed", "connect_timeout", "internal"];
    ringlb.ends().into_iter().filter(|reason| refused.contains(&reason.as_str())).collect()
}

#[test]
fn a_killed_backend_takes_only_its_own_connections_with_it() {
    const KILLS: usize = 4;
    let stays = [Process::start("a"), Process::start("b")];
    let mut dies = Process::start("dies-0");
    let address = dies.address();
    let config = Config::new(&[stays[0].address(), stays[1].address(), address]).pool(QUICK);
    let ringlb = config.start();
    let load = Load::start(ringlb.address(), CLIENTS);
    for kill in 1..=KILLS {
        load.wait_for(&format!("dies-{}", kill - 1), 30);
        dies.kill();
        until("it is ejected", || (said(&ringlb, &address.to_string(), "is ejected") >= kill).then_some(()));
        load.wait_for("a", 30);
        load.wait_for("b", 30);
        dies = Process::start_at(&format!("dies-{kill}"), address);
    }
    load.wait_for(&format!("dies-{KILLS}"), 30);
    let seen = load.stop();

    // Each client has one connection at a time, so each kill costs it one at most.
    let mut by_client = BTreeMap::<usize, usize>::new();
    for lost in &seen.lost {
        *by_client.entry(lost.client).or_default() += 1;
        assert!(lost.backend.as_ref().is_none_or(|name| name.starts_with("dies")), "{lost:?} was with a live one");
    }
    assert!(by_client.values().all(|lost| *lost <= KILLS), "{by_client:?}");
    assert_eq!(unserved(&ringlb), Vec::<String>::new(), "there was always somebody to serve");
    ringlb.stop();
}

/// A kernel goes on to accept for a stopped process: only a check that wants an answer notices.
#[test]
fn a_stopped_backend_loses_nobody_and_is_left_out_while_its_checks_fail() {
    let stays = Process::start("stays");
    let stops = Process::start("stops");
    let health = "[pool.health]\nkind = \"http\"\ninterval = \"100ms\"\ntimeout = \"200ms\"\nrise = 1\nfall = 2";
    let config = Config::new(&[stays.address(), stops.address()]).pool(&format!("{QUICK}\n{health}"));
    let ringlb = config.start();
    let load = Load::start(ringlb.address(), CLIENTS);
    for round in 1..=2 {
        load.wait_for("stops", 30);
        stops.signal(Signal::STOP);
        until("it is down", || (said(&ringlb, &stops.address().to_string(), "is down") >= round).then_some(()));
        load.wait_for("stays", 50);
        stops.signal(Signal::CONT);
        until("it is up", || (said(&ringlb, &stops.address().to_string(), "is up") >= round).then_some(()));
    }
    load.wait_for("stops", 30);
    let seen = load.stop();
    assert!(seen.lost.is_empty(), "those who were with it have waited: {:?}", seen.lost);
    ringlb.stop();
}

#[test]
fn a_backend_that_answers_no_connect_delays_few_and_loses_nobody() {
    let stays = [Backend::answering("a"), Backend::answering("b")];
    let (hole, filler) = net::black_hole();
    let address = hole.local_addr().expect("an address");
    let ringlb = Config::new(&[stays[0].address(), stays[1].address(), address]).pool(QUICK).start();
    let load = Load::start(ringlb.address(), CLIENTS);
    until("it is ejected", || (said(&ringlb, &address.to_string(), "is ejected") >= 1).then_some(()));
    load.wait_for("a", 100);
    load.wait_for("b", 100);
    // Somebody accepts again.
    let _returns = Backend::on(hole, |mut stream| backend::answer(&mut stream, "back"));
    load.wait_for("back", 30);
    drop(filler);
    let seen = load.stop();
    assert!(seen.lost.is_empty(), "{:?}", seen.lost);
    assert_eq!(unserved(&ringlb), Vec::<String>::new());
    assert_eq!(said(&ringlb, &address.to_string(), "serves again"), 1);
    ringlb.stop();
}

#[test]
fn an_ejected_backend_is_probed_by_one_client_at_a_time_over_all_workers() {
    let stays = Backend::answering("stays");
    let (hole, _filler) = net::black_hole();
    let address = hole.local_addr().expect("an address");
    let patient = "connect_timeout = \"2s\"\nmax_fails = 1\nfail_timeout = \"1s\"";
    let ringlb = Config::new(&[stays.address(), address]).pool(patient).start();
    let load = Load::start(ringlb.address(), CLIENTS);
    until("it is ejected", || (said(&ringlb, &address.to_string(), "is ejected") >= 1).then_some(()));
    // Those who had begun before the ejection.
    until("the others have given up", || (procfs::connecting(address) <= 1).then_some(()));
    // Each probe that fails is an ejection anew.
    while said(&ringlb, &address.to_string(), "is ejected") < 3 {
        load.wait_for("stays", 1);
        let looked = Instant::now();
        let connecting = procfs::connecting(address);
        // The kernel's table is no snapshot: whoever reads it slowly may see the end of one probe and the next one too.
        assert!(connecting <= 1 || looked.elapsed() > Duration::from_millis(500), "{connecting} clients probe it");
    }
    let seen = load.stop();
    assert!(seen.lost.is_empty(), "the probing clients are served elsewhere: {:?}", seen.lost);
    ringlb.stop();
}

#[test]
fn no_more_than_max_ejected_percent_are_ejected() {
    let dead = [Reserved::new(), Reserved::new(), Reserved::new()];
    let stays = Backend::answering("stays");
    let mut config = Config::new(&[stays.address()])
        .pool("policy = \"round_robin\"\nmax_fails = 1\nfail_timeout = \"1h\"\nmax_ejected_percent = 50");
    for backend in &dead {
        config = config.backend(backend.address(), "");
    }
    let ringlb = config.pool("connect_attempts = 4").start();
    let load = Load::start(ringlb.address(), CLIENTS);
    load.wait_for("stays", 200);
    let seen = load.stop();
    assert!(seen.lost.is_empty(), "{:?}", seen.lost);
    let log = ringlb.log();
    let messages = log.iter().filter_map(|line| field(line, "message"));
    let names: Vec<&str> =
        messages.filter_map(|message| message.split_once(" is ejected")).map(|(backend, _)| backend).collect();
    assert_eq!(names.len(), 2, "half of four, once each: {names:?}");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 2, "{names:?}");
    ringlb.stop();
}

/// They go and return by turns, each while the other serves: nobody finds nobody.
#[test]
fn backends_that_flap_by_turns_lose_nobody_but_those_they_had() {
    const TURNS: usize = 6;
    const NAMES: [&str; 2] = ["a", "b"];
    let mut backends = NAMES.map(|name| Some(Process::start(name)));
    let addresses = backends.each_ref().map(|backend| backend.as_ref().expect("started").address());
    let ringlb = Config::new(&addresses).pool(QUICK).start();
    let load = Load::start(ringlb.address(), CLIENTS);
    for turn in 0..TURNS {
        NAMES.iter().for_each(|name| load.wait_for(name, 10));
        let dies = turn % 2;
        backends[dies].take().expect("it runs").kill();
        load.wait_for(NAMES[1 - dies], 40);
        backends[dies] = Some(Process::start_at(NAMES[dies], addresses[dies]));
    }
    NAMES.iter().for_each(|name| load.wait_for(name, 10));
    let seen = load.stop();
    assert!(seen.lost.len() <= TURNS * CLIENTS, "{:?}", seen.lost.len());
    assert_eq!(unserved(&ringlb), Vec::<String>::new(), "one of the two was always there");
    ringlb.stop();
}
