//! Reload of the real binary: under load, with wrong files, and of everything that a file can change.

mod common;

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use common::api::{call, names};
use common::backend::Backend;
use common::command::{command, said};
use common::load::{ask, request, under_load};
use common::net;
use common::ringlb::{Config, Ringlb, field};
use common::scrape::{Scrape, metric};
use common::until;

/// Puts another text where its configuration is.
fn write(ringlb: &Ringlb, text: &str) {
    std::fs::write(ringlb.path("ringlb.toml"), text).expect("the file is written");
}

/// Makes it the file, and has it loaded; what that has changed.
#[track_caller]
fn load(ringlb: &Ringlb, text: &str) -> Value {
    write(ringlb, text);
    call(&ringlb.admin(), "POST", "/v1/reload", "").json(200)
}

/// The code of the refusal with this status.
#[track_caller]
fn refused(ringlb: &Ringlb, text: &str, status: u16) -> String {
    write(ringlb, text);
    call(&ringlb.admin(), "POST", "/v1/reload", "").code(status)
}

fn status(ringlb: &Ringlb) -> Value {
    call(&ringlb.admin(), "GET", "/v1/status", "").json(200)
}

/// The address of a listener, as the status has it.
fn address(ringlb: &Ringlb, listener: &str) -> Option<SocketAddr> {
    let status = status(ringlb);
    let listener = status["listeners"].as_array()?.iter().find(|found| found["name"] == listener)?.clone();
    listener["addresses"][0].as_str()?.parse().ok()
}

fn backend(ringlb: &Ringlb, name: &str) -> Value {
    let pool = call(&ringlb.admin(), "GET", "/v1/pools/back", "").json(200);
    pool["backends"].as_array().expect("a list").iter().find(|found| found["name"] == name).expect("it").clone()
}

fn named(config: Config, name: &str, server: &Backend, keys: &str) -> Config {
    config.backend(server.address(), &format!("name = \"{name}\"\n{keys}"))
}

/// Ends it; errors in the log are expected.
fn end(mut ringlb: Ringlb) {
    ringlb.signal(Signal::TERM);
    assert_eq!(ringlb.wait().code(), Some(0));
}

#[test]
fn reloads_under_load_lose_no_request_and_no_session() {
    let servers = ["a", "b"].map(Backend::answering);
    let start = named(Config::new(&[]), "a", &servers[0], "");
    let ringlb = start.start();
    let mut held = ringlb.connect();
    assert_eq!(ask(&mut held), "a hello");
    let texts = [
        start.clone().listener("idle_timeout = \"5m\"").text(),
        named(start.clone(), "b", &servers[1], "").text(),
        named(start.clone(), "b", &servers[1], "weight = 3").pool("connect_timeout = \"2s\"").text(),
        start.clone().listener("backlog = 512\nkeepalive = \"0s\"").pool("policy = \"round_robin\"").text(),
        start.clone().listener("max_connections = 500\nallow = [\"127.0.0.0/8\"]").process("log = \"info\"").text(),
    ];
    let requests = under_load(ringlb.address(), || {
        for round in 0..40 {
            let text = texts[round % texts.len()].replace("log = \"info,ringlb::worker=debug\"\n", "");
            assert_eq!(load(&ringlb, &text)["applied"], true);
        }
    });
    assert!(requests >= 100, "{requests} requests are no load");
    assert_eq!(ask(&mut held), "a hello", "it has outlived all of them");
    until("those of the load have ended", || (status(&ringlb)["listeners"][0]["active"] == 1).then_some(()));
    drop(held);
    until("nothing is left counted", || (status(&ringlb)["active"] == 0).then_some(()));
    ringlb.stop();
}

#[test]
fn a_wrong_file_under_load_changes_nothing_and_says_why() {
    let server = Backend::answering("a");
    let config = named(Config::new(&[]).process("metrics = \"127.0.0.1:0\""), "a", &server, "");
    let ringlb = config.start();
    let told = || {
        let status = status(&ringlb);
        let told = ["name", "address", "weight", "state"].map(|key| status["pools"][0]["backends"][0][key].clone());
        (told, status["pools"][0]["revision"].clone(), address(&ringlb, "front"))
    };
    let before = told();
    let wrong = config.text().replace("pool = \"back\"", "pool = \"bakc\"\nidle_timeout = \"soon\"");
    under_load(ringlb.address(), || {
        assert_eq!(refused(&ringlb, &wrong, 422), "bad_config");
        let output = command(&ringlb.admin(), &["reload"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        for part in ["ringlb.toml:", "idle_timeout", "bakc", "soon"] {
            assert!(said.contains(part), "no {part:?} in: {said}");
        }
        ringlb.signal(Signal::HUP);
        ringlb.wait_for_log("the signal's reload is refused", |line| {
            field(line, "message")
                .is_some_and(|text| text.contains("(SIGHUP)") && text.contains("the file has 2 errors"))
        });
        let path = ringlb.path("ringlb.toml");
        std::fs::remove_file(&path).expect("it is there");
        let (pipe, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &path, pipe, mode, 0).expect("a pipe");
        assert_eq!(call(&ringlb.admin(), "POST", "/v1/reload", "").code(409), "unreadable");
        std::fs::remove_file(&path).expect("it is there");
        assert_eq!(call(&ringlb.admin(), "POST", "/v1/reload", "").code(409), "unreadable");
    });
    assert_eq!(told(), before);
    assert_eq!(metric(&ringlb, "ringlb_config_last_reload_successful", ""), 0.0);
    load(&ringlb, &config.text());
    assert_eq!(metric(&ringlb, "ringlb_config_last_reload_successful", ""), 1.0);
    end(ringlb);
}

#[test]
fn listeners_and_pools_come_and_go_and_their_sessions_end_when_they_end() {
    let servers = ["a", "b"].map(Backend::answering);
    let start = named(Config::new(&[]).process("metrics = \"127.0.0.1:0\""), "a", &servers[0], "");
    let ringlb = start.start();
    let path = ringlb.path("api.sock");
    let api = format!(
        "[[listener]]\nname = \"api\"\npool = \"api\"\nbind = [\"127.0.0.1:0\", \"unix:{}\"]\n[[pool]]\nname = \"api\"\n\
         [[pool.backend]]\nname = \"b\"\naddress = \"{}\"\n",
        path.display(),
        servers[1].address()
    );
    let both = start.text() + &api;
    let changes = load(&ringlb, &both);
    assert_eq!((names(&changes["listeners"]["added"]), names(&changes["pools"]["added"])), (vec!["api"], vec!["api"]));
    let inet = address(&ringlb, "api").expect("it listens");
    let mut held = net::connect(inet);
    assert_eq!(ask(&mut held), "b hello");
    let mut local = UnixStream::connect(&path).expect("it listens");
    local.write_all(b"hello\n").expect("a request");
    assert_eq!(net::read_line(&mut local), "b hello");
    let active =
        |listener: &str| Scrape::of(&ringlb).find("ringlb_listener_active_connections", &[("listener", listener)]);
    let connections = || Scrape::of(&ringlb).find("ringlb_backend_connections_total", &[("pool", "api")]);
    assert_eq!((active("api"), connections()), (Some(2.0), Some(2.0)));

    let changes = load(&ringlb, &start.text());
    let gone = (names(&changes["listeners"]["removed"]), names(&changes["pools"]["removed"]));
    assert_eq!(gone, (vec!["api"], vec!["api"]));
    until("nobody listens any more", || net::try_connect(inet).is_err().then_some(()));
    assert!(!path.exists());
    assert_eq!(address(&ringlb, "api"), None);
    call(&ringlb.admin(), "GET", "/v1/pools/api", "").code(404);
    assert_eq!(ask(&mut held), "b hello", "its session lives on");
    assert_eq!((active("api"), connections()), (Some(2.0), Some(2.0)), "and is still counted");
    drop((held, local));
    until("its numbers leave with its last session", || {
        (active("api").is_none() && connections().is_none()).then_some(())
    });

    // It may come back, and begins anew.
    load(&ringlb, &both);
    assert_eq!(request(address(&ringlb, "api").expect("it listens")), "b");
    assert_eq!(connections(), Some(1.0));
    assert_eq!(request(ringlb.address()), "a");
    ringlb.stop();
}

#[test]
fn an_address_goes_from_one_listener_to_another_with_those_who_wait() {
    let servers = ["a", "b"].map(Backend::answering);
    let first = named(Config::new(&[]), "a", &servers[0], "");
    let ringlb = first.start();
    let renamed = first.text().replace("name = \"front\"\npool = \"back\"", "name = \"renamed\"\npool = \"other\"")
        + &format!(
            "[[pool]]\nname = \"other\"\n[[pool.backend]]\nname = \"b\"\naddress = \"{}\"\n",
            servers[1].address()
        );
    let mut held = ringlb.connect();
    assert_eq!(ask(&mut held), "a hello");
    under_load(ringlb.address(), || {
        for _ in 0..10 {
            let changes = load(&ringlb, &renamed);
            assert_eq!(names(&changes["listeners"]["added"]), ["renamed"]);
            // Whoever was accepted before is still served by the pool of then.
            until("the other pool serves", || (request(ringlb.address()) == "b").then_some(()));
            load(&ringlb, &first.text());
            until("the first pool serves", || (request(ringlb.address()) == "a").then_some(()));
        }
    });
    assert_eq!(address(&ringlb, "front"), Some(ringlb.address()));
    assert_eq!(ask(&mut held), "a hello");
    drop(held);
    ringlb.stop();
}

#[test]
fn live_edits_stay_unless_they_are_discarded_and_the_plan_says_so_first() {
    let servers = ["a", "b", "x"].map(Backend::answering);
    let file = |weight: u32| {
        let config = named(Config::new(&[]), "a", &servers[0], &format!("weight = {weight}"));
        named(config, "b", &servers[1], "")
    };
    let ringlb = file(1).start();
    let admin = ringlb.admin();
    said(&admin, &["backend", "drain", "back", "b"]);
    said(&admin, &["backend", "add", "back", &servers[2].address().to_string(), "--name", "x"]);
    let live = "changed live, and kept (--discard-live undoes it):\n  + backend back/x\n  ~ backend back/b: state\n";
    let path = ringlb.path("ringlb.toml");
    let path = path.to_str().expect("a path of text");
    assert_eq!(said(&admin, &["diff"]), format!("{path} says what it said when it was loaded\n{live}"));

    write(&ringlb, &file(5).text());
    let plan = format!("a reload of {path} would change:\n  ~ backend back/a: weight\n{live}");
    assert_eq!(said(&admin, &["diff"]), plan);
    assert_eq!(said(&admin, &["check", "--config", path, "--against-running"]), plan);
    assert_eq!(backend(&ringlb, "a")["weight"], 1, "a plan changes nothing");
    let done = format!("{path} was loaded again:\n  ~ backend back/a: weight\n{live}");
    assert_eq!(said(&admin, &["reload"]), done);
    let told = |name: &str| (backend(&ringlb, name)["weight"].clone(), backend(&ringlb, name)["state"].clone());
    assert_eq!(
        (told("a"), told("b"), told("x")),
        ((json!(5), json!("ready")), (json!(1), json!("drain")), (json!(1), json!("ready")))
    );

    let undone = said(&admin, &["reload", "--discard-live"]);
    assert!(undone.contains("- backend back/x") && undone.contains("~ backend back/b: state"), "{undone}");
    assert!(undone.contains("changed live, and undone now:"), "{undone}");
    assert_eq!(told("b").1, "ready");
    let pool = call(&admin, "GET", "/v1/pools/back", "").json(200);
    assert_eq!(pool["backends"].as_array().map(Vec::len), Some(2));
    assert!(said(&admin, &["diff"]).ends_with("says what it said when it was loaded\n"));
    ringlb.stop();
}

#[test]
fn what_needs_a_restart_is_refused_by_name_with_all_the_rest() {
    let server = Backend::answering("a");
    let config = named(Config::new(&[]), "a", &server, "");
    let ringlb = config.start();
    let wanted = named(Config::new(&[]), "a", &server, "weight = 9").text().replace("workers = 2", "workers = 3");
    assert_eq!(refused(&ringlb, &wanted, 409), "needs_restart");
    let output = command(&ringlb.admin(), &["reload"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("`workers`"), "{said}");
    assert_eq!(backend(&ringlb, "a")["weight"], 1);
    let path = ringlb.path("ringlb.toml");
    let arguments = ["check", "--config", path.to_str().expect("text"), "--against-running"];
    let output = command(&ringlb.admin(), &arguments);
    let plan = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(1) && plan.contains("! workers (needs a restart)"), "{plan}");
    end(ringlb);
}

#[test]
fn an_address_that_cannot_be_listened_on_refuses_all_of_it() {
    let server = Backend::answering("a");
    let config = named(Config::new(&[]), "a", &server, "");
    let ringlb = config.start();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let file = ringlb.path("first.sock");
    let binds = format!(
        "[[listener]]\nname = \"more\"\npool = \"back\"\nbind = [\"unix:{}\", \"{}\"]\n",
        file.display(),
        taken.local_addr().expect("an address")
    );
    let wanted = named(Config::new(&[]), "a", &server, "weight = 9").text() + &binds;
    assert_eq!(refused(&ringlb, &wanted, 409), "conflict");
    assert!(!file.exists(), "the first address was given back");
    assert_eq!((backend(&ringlb, "a")["weight"].clone(), address(&ringlb, "more")), (json!(1), None));
    drop(taken);
    load(&ringlb, &wanted);
    assert!(file.exists());
    assert_eq!(backend(&ringlb, "a")["weight"], 9);
    end(ringlb);
}

#[test]
fn a_process_without_a_file_has_nothing_to_load() {
    let server = Backend::answering("a");
    let address = server.address().to_string();
    let arguments = ["run", "--listen", "127.0.0.1:0", "--backend", &address, "--workers", "1"];
    let ringlb = Ringlb::with_arguments(&arguments);
    until("it answers", || UnixStream::connect(ringlb.admin()).ok());
    until("it is ready", || (status(&ringlb)["ready"] == true).then_some(()));
    assert_eq!(call(&ringlb.admin(), "POST", "/v1/reload", "").code(409), "no_file");
    assert_eq!(call(&ringlb.admin(), "POST", "/v1/reload?plan=true", "").code(409), "no_file");
    let output = command(&ringlb.admin(), &["reload"]);
    assert_eq!(output.status.code(), Some(1));
    end(ringlb);
}

#[test]
fn what_the_command_line_has_said_counts_for_more_than_a_new_file_as_well() {
    let server = Backend::answering("a");
    let directory = tempfile::TempDir::new().expect("a directory");
    let file = directory.path().join("ringlb.toml");
    let config = named(Config::new(&[]), "a", &server, "");
    std::fs::write(&file, config.text()).expect("the file is written");
    let arguments = ["run", "--config", file.to_str().expect("text"), "--workers", "1"];
    let ringlb = Ringlb::with_arguments(&arguments);
    ringlb.addresses();
    std::fs::write(&file, config.text().replace("workers = 2", "workers = 4")).expect("the file is written");
    call(&ringlb.admin(), "POST", "/v1/reload", "").json(200);
    assert_eq!(status(&ringlb)["workers"], 1);
    ringlb.stop();
}

#[test]
fn a_limit_that_is_raised_lets_those_in_who_wait_and_a_lower_one_ends_nobody() {
    let server = Backend::answering("a");
    let config = |max: u32| named(Config::new(&[]), "a", &server, "").listener(&format!("max_connections = {max}"));
    let ringlb = config(1).one_worker().start();
    let mut first = ringlb.connect();
    assert_eq!(ask(&mut first), "a hello");
    let mut second = ringlb.connect();
    second.write_all(b"hello\n").expect("a request");
    until("the second waits", || (status(&ringlb)["listeners"][0]["paused"] == true).then_some(()));
    load(&ringlb, &config(2).one_worker().text());
    assert_eq!(net::read_line(&mut second), "a hello");
    load(&ringlb, &config(1).one_worker().text());
    assert_eq!((ask(&mut first), ask(&mut second)), ("a hello".into(), "a hello".into()));
    assert_eq!(status(&ringlb)["listeners"][0]["max_connections"], 1);
    drop(first);
    drop(second);
    until("both have ended", || (status(&ringlb)["active"] == 0).then_some(()));
    assert_eq!(request(ringlb.address()), "a");
    ringlb.stop();
}

/// An accept that goes on by itself would take all who wait: near a limit there is none, also where the queue has grown.
#[test]
fn a_limit_holds_where_the_accept_queue_has_become_longer() {
    let server = Backend::answering("a");
    let config = |backlog: u32| {
        let keys = format!("max_connections = 10\nbacklog = {backlog}");
        named(Config::new(&[]), "a", &server, "").one_worker().listener(&keys)
    };
    let ringlb = config(1).start();
    load(&ringlb, &config(1000).text());
    let mut clients: Vec<_> = (0..100).map(|_| ringlb.connect()).collect();
    for client in &mut clients[..10] {
        assert_eq!(ask(client), "a hello");
    }
    let active = status(&ringlb)["listeners"][0]["active"].as_u64().expect("a number");
    assert!(active <= 11, "{active} of 10");
    for mut client in clients {
        assert_eq!(ask(&mut client), "a hello");
    }
    ringlb.stop();
}

#[test]
fn sessions_keep_the_settings_that_they_began_with() {
    let server = Backend::answering("a");
    let config = named(Config::new(&[]), "a", &server, "");
    let ringlb = config.start();
    let mut old = ringlb.connect();
    assert_eq!(ask(&mut old), "a hello");
    load(&ringlb, &config.clone().listener("idle_timeout = \"100ms\"").text());
    let mut new = ringlb.connect();
    assert_eq!(ask(&mut new), "a hello");
    assert_eq!(ringlb.wait_for_ends(1), ["idle_timeout"]);
    assert_eq!(ask(&mut old), "a hello");
    // The door that the new one came by has closed by now, and its number may be another's.
    load(&ringlb, &config.text());
    let mut newest = ringlb.connect();
    assert_eq!((ask(&mut newest), ask(&mut old)), ("a hello".into(), "a hello".into()));
    assert_eq!(ringlb.ends().len(), 1);
    drop((old, newest));
    ringlb.stop();
}

#[test]
fn the_log_can_be_made_to_tell_more() {
    let server = Backend::answering("a");
    let config = named(Config::new(&[]), "a", &server, "");
    let quiet = config.text().replace("log = \"info,ringlb::worker=debug\"", "log = \"info\"");
    let ringlb = Ringlb::with_file(&quiet);
    request(ringlb.address());
    assert_eq!(ringlb.ends().len(), 0);
    assert_eq!(names(&load(&ringlb, &config.text())["settings"]), ["log"]);
    request(ringlb.address());
    ringlb.wait_for_ends(1);
    ringlb.stop();
}

/// What other files would change can be asked for, and nothing else may be sent.
#[test]
fn a_plan_may_be_of_a_text_that_is_no_file() {
    let server = Backend::answering("a");
    let config = named(Config::new(&[]), "a", &server, "");
    let ringlb = config.start();
    let plan = |text: &str| call(&ringlb.admin(), "POST", "/v1/reload?plan=true", &json!({"text": text}).to_string());
    let more = named(config.clone(), "b", &server, "").text();
    let planned = plan(&more).json(200);
    assert_eq!((names(&planned["backends"][0]["added"]), &planned["applied"]), (vec!["b"], &json!(false)));
    assert_eq!(plan("workers = 0").code(422), "bad_config");
    let sent = call(&ringlb.admin(), "POST", "/v1/reload", &json!({"text": more}).to_string());
    assert_eq!(sent.code(400), "bad_value");
    let pool = call(&ringlb.admin(), "GET", "/v1/pools/back", "").json(200);
    assert_eq!(pool["backends"].as_array().map(Vec::len), Some(1));
    assert!(Path::new(&ringlb.path("ringlb.toml")).exists());
    ringlb.stop();
}
