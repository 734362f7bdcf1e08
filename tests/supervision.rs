//! Threads that fail: they are noticed and started again, the others go on, and nothing they held stays counted.
//!
//! The faults are planted in the real process, which only a debug build lets happen (docs/decisions/planted-faults.md).

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

use rustix::process::Signal;
use tempfile::TempDir;

use common::api::call;
use common::backend::Backend;
use common::procfs::descriptors;
use common::ringlb::{Config, Ringlb, field};
use common::scrape::{get, metric};
use common::{DEADLINE, net, skip, until};
use ringlb::limits::FAILURES_MAX;

const ACTIVE: &str = "ringlb_listener_active_connections";

/// ringlb, and where its faults are planted.
struct Faulty {
    ringlb: Ringlb,
    directory: TempDir,
}

impl Faulty {
    /// Nothing where the binary has no faults to plant.
    fn start(config: &Config) -> Option<Faulty> {
        if !cfg!(debug_assertions) {
            skip("planted faults", "this is not a debug build");
            return None;
        }
        let directory = TempDir::new().expect("a directory");
        let variable = format!("RINGLB_FAULTS={}", directory.path().join("faults").display());
        let config = config.clone().process("metrics = \"127.0.0.1:0\"");
        Some(Faulty { ringlb: config.start_under(&["env", &variable]), directory })
    }

    fn plant(&self, fault: &str) {
        let socket = UnixDatagram::unbound().expect("a socket");
        socket.send_to(fault.as_bytes(), self.directory.path().join("faults")).expect("it is heard");
    }

    /// Waits until so many failures were logged.
    fn wait_for_failures(&self, count: usize) {
        until(&format!("{count} failures"), || {
            let log = self.ringlb.log();
            let failed =
                |line: &&String| field(line, "message").is_some_and(|message| message.contains("has failed; it is"));
            (log.iter().filter(failed).count() >= count).then_some(())
        });
    }

    fn wait_for_metric(&self, name: &str, label: &str, value: f64) {
        let end = Instant::now() + DEADLINE;
        let mut seen = metric(&self.ringlb, name, label);
        while seen != value {
            assert!(Instant::now() < end, "{name} is {seen}, not {value}");
            seen = metric(&self.ringlb, name, label);
        }
    }

    fn connect(&self, count: usize) -> Vec<TcpStream> {
        let mut clients: Vec<_> = (0..count).map(|_| self.ringlb.connect()).collect();
        clients.iter_mut().for_each(|client| assert_eq!(exchange(client), Ok(())));
        clients
    }
}

/// One byte there and back, or how the connection had ended.
fn exchange(client: &mut TcpStream) -> Result<(), ErrorKind> {
    client.write_all(b"x").map_err(|error| error.kind())?;
    let mut byte = [0];
    match client.read(&mut byte) {
        Ok(1) => Ok(()),
        Ok(_) => Err(ErrorKind::UnexpectedEof),
        Err(error) => Err(error.kind()),
    }
}

/// Of the clients, those whose worker has failed were reset; the others are given back, and go on.
fn survivors(clients: Vec<TcpStream>) -> Vec<TcpStream> {
    let mut living = Vec::new();
    for mut client in clients {
        match exchange(&mut client) {
            Ok(()) => living.push(client),
            Err(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {}
            Err(other) => panic!("neither reset nor served: {other:?}"),
        }
    }
    living
}

fn a_worker_is_replaced(fault: &str, cause: &str) {
    let backend = Backend::echo();
    let Some(faulty) = Faulty::start(&Config::new(&[backend.address()])) else { return };
    let ringlb = &faulty.ringlb;
    let address = backend.address().to_string();
    drop(faulty.connect(8));
    faulty.wait_for_metric(ACTIVE, "", 0.0);
    let idle = descriptors(ringlb.pid());

    let clients = faulty.connect(32);
    faulty.wait_for_metric(ACTIVE, "", 32.0);
    faulty.plant(&format!("0 {fault}"));
    faulty.wait_for_failures(1);
    let mut clients = survivors(clients);
    assert!((1..32).contains(&clients.len()), "one worker of two: {} have survived", clients.len());
    faulty.wait_for_metric(ACTIVE, "", clients.len() as f64);
    faulty.wait_for_metric("ringlb_backend_active_connections", &address, clients.len() as f64);
    let lost = 32 - clients.len();
    faulty.wait_for_metric("ringlb_sessions_closed_total", "worker_failed", lost as f64);
    let told = ringlb.wait_for_log("the cause is told", |line| {
        field(line, "message").is_some_and(|message| message.starts_with("worker 0 has failed"))
    });
    assert!(told.contains(cause) && told.contains("\"ERROR\""), "{told}");

    // Both sockets are accepted from again: the kernel spreads so many clients over both.
    clients.extend(faulty.connect(32));
    clients.iter_mut().for_each(|client| assert_eq!(exchange(client), Ok(())));
    faulty.plant("1 panic");
    faulty.wait_for_failures(2);
    let clients = survivors(clients);
    assert!(clients.len() > 4, "the replaced worker serves its share: {}", clients.len());
    drop(clients);
    faulty.wait_for_metric(ACTIVE, "", 0.0);
    faulty.wait_for_metric("ringlb_backend_active_connections", &address, 0.0);
    // Before, the last scrape's connection may not have been closed yet.
    until("all descriptors are closed", || (descriptors(ringlb.pid()) <= idle).then_some(()));
    until("the backend has lost them all", || (backend.active() == 0).then_some(()));
}

#[test]
fn a_worker_that_panics_is_replaced_and_the_other_goes_on() {
    a_worker_is_replaced("panic", "it panicked: a fault was planted here");
}

#[test]
fn a_worker_whose_ring_is_unusable_is_replaced_and_the_other_goes_on() {
    a_worker_is_replaced("ring", "its ring is unusable");
}

/// The successor begins with the first slot anew, and its sessions are not those of before.
#[test]
fn the_id_of_a_session_of_a_failed_worker_names_no_other() {
    let backend = Backend::echo();
    let Some(faulty) = Faulty::start(&Config::new(&[backend.address()]).one_worker()) else { return };
    let admin = faulty.ringlb.admin();
    let ids = |count: usize| -> Vec<String> {
        let sessions = call(&admin, "GET", "/v1/sessions", "").json(200)["sessions"].clone();
        let ids: Vec<String> = sessions
            .as_array()
            .into_iter()
            .flatten()
            .map(|session| session["id"].as_str().expect("an id").to_owned())
            .collect();
        assert_eq!(ids.len(), count, "{ids:?}");
        ids
    };
    let before = faulty.connect(3);
    let old = ids(3);
    faulty.plant("0 panic");
    faulty.wait_for_failures(1);
    assert!(survivors(before).is_empty());
    let mut after = faulty.connect(3);
    let new = ids(3);
    assert!(
        old.iter().all(|id| id.starts_with("0-")) && new.iter().all(|id| id.starts_with("0.1-")),
        "{old:?} {new:?}"
    );
    let slot = |id: &String| id.split_once('-').map(|(_, slot)| slot.to_owned());
    assert_eq!(old.iter().filter_map(slot).max(), new.iter().filter_map(slot).max(), "the slots are the same");
    for id in &old {
        assert_eq!(call(&admin, "DELETE", &format!("/v1/sessions/{id}"), "").code(404), "no_such_session");
    }
    after.iter_mut().for_each(|client| assert_eq!(exchange(client), Ok(())));
    call(&admin, "DELETE", &format!("/v1/sessions/{}", new[0]), "").json(200);
    assert_eq!(survivors(after).len(), 2);
}

#[test]
fn limits_have_room_again_for_those_who_waited() {
    let backend = Backend::echo();
    let config = Config::new(&[backend.address()]).one_worker();
    let config = config.listener("max_connections = 4\nmax_connections_per_client = 5");
    let Some(faulty) = Faulty::start(&config) else { return };
    let held = faulty.connect(4);
    let full =
        |line: &str| field(line, "message").is_some_and(|message| message.contains("max_connections is reached"));
    faulty.ringlb.wait_for_log("it is full", full);
    // In the backlog by now; the worker does not accept.
    let mut waiting: Vec<_> = (0..4).map(|_| faulty.ringlb.connect()).collect();
    faulty.wait_for_metric("ringlb_listener_paused", "", 1.0);
    faulty.plant("0 panic");
    for client in &mut waiting {
        assert_eq!(exchange(client), Ok(()), "nobody in the queue is lost");
    }
    assert!(survivors(held).is_empty());
    faulty.wait_for_metric(ACTIVE, "", 4.0);
    drop(waiting);
    faulty.wait_for_metric(ACTIVE, "", 0.0);
    faulty.wait_for_metric("ringlb_listener_paused", "", 0.0);
    assert_eq!(faulty.connect(4).len(), 4);
}

#[test]
fn clients_who_come_while_a_worker_is_down_are_served_when_it_is_back() {
    let backend = Backend::echo();
    let Some(faulty) = Faulty::start(&Config::new(&[backend.address()]).one_worker()) else { return };
    // Each comes when the one before it has been dealt with, so the pauses grow.
    (0..5).for_each(|_| faulty.plant("0 panic"));
    faulty.wait_for_failures(5);
    let clients = faulty.connect(16);
    faulty.wait_for_metric(ACTIVE, "", 16.0);
    drop(clients);
    faulty.wait_for_metric(ACTIVE, "", 0.0);
    // The rings of all its lives are one series.
    assert!(metric(&faulty.ringlb, "ringlb_ring_turns_total", "worker=\"0\"") > 5.0);
}

#[test]
fn a_worker_that_is_down_when_the_process_drains_still_serves_its_queue() {
    let backend = Backend::echo();
    let Some(mut faulty) = Faulty::start(&Config::new(&[backend.address()]).one_worker()) else { return };
    (0..5).for_each(|_| faulty.plant("0 panic"));
    faulty.wait_for_failures(5);
    let mut client = faulty.ringlb.connect();
    faulty.ringlb.signal(Signal::TERM);
    assert_eq!(exchange(&mut client), Ok(()));
    drop(client);
    assert_eq!(faulty.ringlb.wait().code(), Some(0));
}

#[test]
fn a_process_whose_threads_fail_again_and_again_ends() {
    let backend = Backend::echo();
    let Some(mut faulty) = Faulty::start(&Config::new(&[backend.address()])) else { return };
    for number in 0..FAILURES_MAX {
        faulty.plant(&format!("{} panic", number % 2));
    }
    assert_eq!(faulty.ringlb.wait().code(), Some(1));
    let log = faulty.ringlb.log();
    assert!(log.iter().any(|line| line.contains("Restart ringlb and report this")), "why is told at last");
    assert!(log.iter().any(|line| line.contains("\"draining\"")));
}

#[test]
fn live_edits_are_kept_by_the_next_control_thread_too() {
    let backend = Backend::echo();
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("state");
    let config = Config::new(&[]).backend(backend.address(), "name = \"a\"");
    let config = config.process(&format!("state_file = \"{}\"", file.display()));
    let Some(mut faulty) = Faulty::start(&config) else { return };
    let weigh = |weight: u32| {
        let (admin, told) = (faulty.ringlb.admin(), format!("{{\"weight\":{weight}}}"));
        call(&admin, "PATCH", "/v1/pools/back/backends/a", &told).json(200);
        let kept = format!("\"weight\":{weight},");
        until("it is kept", || std::fs::read_to_string(&file).ok().filter(|text| text.contains(&kept)));
    };
    weigh(7);
    faulty.plant("control");
    faulty.wait_for_failures(1);
    weigh(8);
    faulty.ringlb.signal(Signal::TERM);
    assert_eq!(faulty.ringlb.wait().code(), Some(0));
    assert!(std::fs::read_to_string(&file).is_ok_and(|text| text.contains("\"weight\":8,")));
}

#[test]
fn a_control_thread_that_fails_is_replaced_while_traffic_goes_on() {
    let backend = Backend::echo();
    let Some(mut faulty) = Faulty::start(&Config::new(&[backend.address()])) else { return };
    let address = faulty.ringlb.metrics_address();
    let mut clients = faulty.connect(8);
    assert_eq!(get(address, "/ready").0, 200);
    faulty.plant("control");
    faulty.wait_for_failures(1);
    clients.iter_mut().for_each(|client| assert_eq!(exchange(client), Ok(())));
    assert_eq!(get(address, "/ready").0, 200, "at the address of before");
    faulty.wait_for_metric(ACTIVE, "", 8.0);
    drop(clients);
    faulty.wait_for_metric("ringlb_sessions_closed_total", "", 8.0);
    faulty.ringlb.signal(Signal::TERM);
    assert_eq!(faulty.ringlb.wait().code(), Some(0), "signals are heard as before");
    assert!(net::try_connect(address).is_err());
}
