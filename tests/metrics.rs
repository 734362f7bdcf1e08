//! The metrics of the real process: exact for known traffic, valid for Prometheus, and as the documentation says.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use common::backend::Backend;
use common::net::{self, Reserved};
use common::ringlb::{Config, Ringlb};
use common::scrape::{Scrape, get, scrape_until};
use common::{at_once, has_program, skip, until};
use ringlb::metrics::table::{BACKEND_BOUNDS, METRICS, SESSION_BOUNDS};
use ringlb::metrics::{ConnectFailure, Pause, Refusal};
use ringlb::relay::CloseReason;

const METRICS_ADDRESS: &str = "metrics = \"127.0.0.1:0\"";

fn wait_for_closed(ringlb: &Ringlb, count: f64) -> Scrape {
    let closed = |scrape: &Scrape| (scrape.number("ringlb_sessions_closed_total", &[]) >= count).then_some(());
    scrape_until(ringlb, &format!("{count} sessions are counted as closed"), closed).0
}

/// Sends so many bytes to an echo, reads them back, and ends the session.
fn exchange(mut stream: TcpStream, bytes: usize) {
    let mut reader = stream.try_clone().expect("a second handle");
    let echoed = std::thread::spawn(move || net::read_to_end(&mut reader).0.len());
    stream.write_all(&vec![7; bytes]).expect("they are taken");
    stream.shutdown(Shutdown::Write).expect("our stream ends");
    assert_eq!(echoed.join().expect("a reader"), bytes);
}

#[test]
fn known_traffic_is_counted_exactly() {
    const CLIENTS: usize = 24;
    const BYTES: usize = 100_003;
    let backends = [Backend::echo(), Backend::echo()];
    let ringlb = Config::new(&[backends[0].address(), backends[1].address()])
        .process(METRICS_ADDRESS)
        .pool("policy = \"round_robin\"")
        .start();
    at_once(CLIENTS, |_| exchange(ringlb.connect(), BYTES));
    let scrape = wait_for_closed(&ringlb, CLIENTS as f64);

    let front = [("listener", "front")];
    assert_eq!(scrape.number("ringlb_listener_accepted_total", &front), CLIENTS as f64);
    assert_eq!(scrape.number("ringlb_listener_refused_total", &front), 0.0);
    assert_eq!(scrape.number("ringlb_listener_active_connections", &front), 0.0);
    let eof = [("listener", "front"), ("reason", "client_eof")];
    assert_eq!(scrape.number("ringlb_sessions_closed_total", &eof), CLIENTS as f64);
    assert_eq!(scrape.number("ringlb_session_duration_seconds_count", &front), CLIENTS as f64);
    for backend in &backends {
        let name = backend.address();
        let connections = scrape.backend("ringlb_backend_connections_total", name);
        assert_eq!(connections, backend.accepted() as f64);
        assert_eq!(scrape.backend("ringlb_backend_connect_attempts_total", name), connections);
        assert_eq!(scrape.backend("ringlb_backend_bytes_sent_total", name), connections * BYTES as f64);
        assert_eq!(scrape.backend("ringlb_backend_bytes_received_total", name), connections * BYTES as f64);
        assert_eq!(scrape.backend("ringlb_backend_active_connections", name), 0.0);
        assert_eq!(scrape.backend("ringlb_backend_ejections_total", name), 0.0);
        for histogram in ["connect", "first_byte"] {
            let count = format!("ringlb_backend_{histogram}_duration_seconds_count");
            assert_eq!(scrape.backend(&count, name), connections, "{histogram}");
        }
        let state = |state| {
            let labels = [("backend", &*name.to_string()), ("state", state)];
            scrape.number("ringlb_backend_state", &labels)
        };
        assert_eq!(["ready", "drain", "maint", "ejected", "down"].map(state), [1.0, 0.0, 0.0, 0.0, 0.0]);
    }
    assert_eq!(scrape.number("ringlb_pool_backends", &[("state", "ready")]), 2.0);
    assert_eq!(scrape.number("ringlb_workers", &[]), 2.0);
    assert!(scrape.number("ringlb_ring_submissions_total", &[]) > CLIENTS as f64);
    assert!(scrape.number("process_open_fds", &[]) > 5.0);
    ringlb.stop();
}

#[test]
fn bytes_of_a_session_are_seen_while_it_lasts() {
    let backend = Backend::echo();
    let ringlb = Config::new(&[backend.address()]).process(METRICS_ADDRESS).start();
    let mut client = ringlb.connect();
    let mut send = |bytes: usize| {
        client.write_all(&vec![1; bytes]).expect("they are taken");
        client.read_exact(&mut vec![0; bytes]).expect("they come back");
    };
    send(10);
    let sent = |wanted: f64| {
        move |scrape: &Scrape| {
            let number = |name| scrape.find(name, &[]).filter(|bytes| *bytes == wanted);
            number("ringlb_backend_bytes_sent_total")?;
            number("ringlb_backend_bytes_received_total")
        }
    };
    scrape_until(&ringlb, "a quiet session's bytes are counted", sent(10.0));
    send(1_000_000);
    scrape_until(&ringlb, "they are counted again", sent(1_000_010.0));
    assert_eq!(Scrape::of(&ringlb).number("ringlb_listener_active_connections", &[]), 1.0);
    drop(client);
    ringlb.stop();
}

#[test]
fn failures_are_counted_by_their_reason() {
    let refusing = Reserved::new();
    let (hole, _filler) = net::black_hole();
    let hole = hole.local_addr().expect("an address");
    let missing = "unix:/nonexistent/ringlb-test.sock";
    let ringlb = Config::new(&[refusing.address()])
        .process(METRICS_ADDRESS)
        .backend(hole, "")
        .backend(missing, "")
        .pool("connect_timeout = \"250ms\"\nmax_fails = 1\nfail_timeout = \"1h\"\npolicy = \"first\"")
        .start();
    let mut client = ringlb.connect();
    assert_eq!(net::read_to_end(&mut client).0, b"");
    let scrape = wait_for_closed(&ringlb, 1.0);
    let failed = |backend: &str, reason: &str| {
        let labels = [("pool", "back"), ("backend", backend), ("reason", reason)];
        scrape.number("ringlb_backend_connect_failures_total", &labels)
    };
    assert_eq!(failed(&refusing.address().to_string(), "refused"), 1.0);
    assert_eq!(failed(&hole.to_string(), "timeout"), 1.0);
    assert_eq!(failed(missing, "no_socket"), 1.0);
    for backend in [&*refusing.address().to_string(), &*hole.to_string(), missing] {
        assert_eq!(scrape.backend("ringlb_backend_connect_attempts_total", backend), 1.0);
        assert_eq!(scrape.backend("ringlb_backend_connections_total", backend), 0.0);
        assert_eq!(scrape.backend("ringlb_backend_ejections_total", backend), 1.0);
        let labels = [("backend", backend), ("state", "ejected")];
        assert_eq!(scrape.number("ringlb_backend_state", &labels), 1.0);
        let histogram = "ringlb_backend_connect_duration_seconds_count";
        assert_eq!(scrape.find(histogram, &[("backend", backend)]), None, "there was no sample");
    }
    assert_eq!(scrape.number("ringlb_sessions_closed_total", &[("reason", "connect_failed")]), 1.0);
    assert_eq!(scrape.number("ringlb_pool_backends", &[("state", "ejected")]), 3.0);
    ringlb.stop();
}

#[test]
fn a_pool_that_cannot_serve_and_a_full_listener_are_seen() {
    let backend = Backend::echo();
    let ringlb = Config::new(&[])
        .process(METRICS_ADDRESS)
        .one_worker()
        .backend(backend.address(), "max_connections = 1")
        .listener("max_connections = 2")
        .start();
    let held = ringlb.connect();
    scrape_until(&ringlb, "the first is served", |scrape| {
        scrape.find("ringlb_backend_active_connections", &[]).filter(|active| *active == 1.0)
    });
    let mut second = ringlb.connect();
    assert_eq!(net::read_to_end(&mut second).0, b"");
    drop(second);
    let scrape = wait_for_closed(&ringlb, 1.0);
    assert_eq!(scrape.number("ringlb_pool_no_backend_total", &[("pool", "back")]), 1.0);
    assert_eq!(scrape.number("ringlb_sessions_closed_total", &[("reason", "no_backend")]), 1.0);
    assert_eq!(scrape.backend("ringlb_backend_max_connections", backend.address()), 1.0);
    assert_eq!(scrape.number("ringlb_listener_max_connections", &[]), 2.0);

    // Two who stay: the first, and one that is refused slowly.
    let third = ringlb.connect();
    let (scrape, ()) = scrape_until(&ringlb, "accepting pauses", |scrape| {
        (scrape.number("ringlb_listener_paused", &[("listener", "front")]) == 1.0).then_some(())
    });
    assert!(scrape.number("ringlb_listener_pauses_total", &[("reason", "limit")]) >= 1.0);
    assert_eq!(scrape.number("ringlb_listener_pauses_total", &[("reason", "resources")]), 0.0);
    drop((held, third));
    scrape_until(&ringlb, "it goes on", |scrape| (scrape.number("ringlb_listener_paused", &[]) == 0.0).then_some(()));
    ringlb.stop();
}

#[test]
fn a_rate_that_is_reached_is_a_pause_of_its_own() {
    let backend = Backend::echo();
    let ringlb =
        Config::new(&[backend.address()]).process(METRICS_ADDRESS).one_worker().listener("accept_rate = 1").start();
    let clients: Vec<_> = (0..5).map(|_| ringlb.connect()).collect();
    let (scrape, ()) = scrape_until(&ringlb, "accepting pauses", |scrape| {
        (scrape.number("ringlb_listener_pauses_total", &[("reason", "rate")]) >= 1.0).then_some(())
    });
    for other in ["limit", "resources"] {
        assert_eq!(scrape.number("ringlb_listener_pauses_total", &[("reason", other)]), 0.0, "{other}");
    }
    drop(clients);
    ringlb.stop();
}

#[test]
fn backends_above_the_maximum_are_summed_up() {
    const BACKENDS: usize = 5;
    let backends: Vec<Backend> = (0..BACKENDS).map(|_| Backend::echo()).collect();
    let addresses: Vec<SocketAddr> = backends.iter().map(Backend::address).collect();
    let ringlb = Config::new(&addresses)
        .process(METRICS_ADDRESS)
        .process("backend_series_max = 2")
        .pool("policy = \"round_robin\"")
        .start();
    at_once(2 * BACKENDS, |_| exchange(ringlb.connect(), 1000));
    let scrape = wait_for_closed(&ringlb, (2 * BACKENDS) as f64);
    let connections = |backend: &str| scrape.backend("ringlb_backend_connections_total", backend);
    assert_eq!(connections(&addresses[0].to_string()), backends[0].accepted() as f64);
    assert_eq!(connections(&addresses[1].to_string()), backends[1].accepted() as f64);
    let rest: usize = backends[2..].iter().map(Backend::accepted).sum();
    assert_eq!(connections("_other"), rest as f64);
    assert_eq!(scrape.backend("ringlb_backend_bytes_sent_total", "_other"), rest as f64 * 1000.0);
    assert_eq!(scrape.backend("ringlb_backend_connect_duration_seconds_count", "_other"), rest as f64);
    assert_eq!(scrape.find("ringlb_backend_state", &[("backend", "_other")]), None);
    assert!(!scrape.text.contains(&addresses[2].to_string()));
    assert_eq!(scrape.number("ringlb_pool_backends", &[]), BACKENDS as f64);
    ringlb.stop();
}

#[test]
fn it_is_alive_before_and_after_it_is_ready() {
    let backend = Backend::echo();
    let ringlb = Config::new(&[backend.address()]).process(METRICS_ADDRESS).start();
    assert_eq!(get(ringlb.metrics_address(), "/ready"), (200, "ready\n".into()));
    assert_eq!(get(ringlb.metrics_address(), "/health"), (200, "alive\n".into()));
    let held = ringlb.connect();
    until("the client is served", || (backend.active() == 1).then_some(()));
    ringlb.signal(rustix::process::Signal::TERM);
    until("it is not ready any more", || (get(ringlb.metrics_address(), "/ready").0 == 503).then_some(()));
    assert_eq!(get(ringlb.metrics_address(), "/health").0, 200);
    drop(held);
}

/// Traffic that makes every metric appear.
fn with_everything() -> (Vec<Backend>, Ringlb) {
    let backends = vec![Backend::echo()];
    let refusing = Reserved::new();
    let ringlb = Config::new(&[refusing.address(), backends[0].address()])
        .process(METRICS_ADDRESS)
        .pool("policy = \"first\"")
        .start();
    exchange(ringlb.connect(), 1000);
    wait_for_closed(&ringlb, 1.0);
    (backends, ringlb)
}

#[test]
fn what_is_exported_is_what_the_table_says() {
    let (_backends, ringlb) = with_everything();
    let scrape = Scrape::of(&ringlb);
    let mut types = BTreeMap::new();
    for line in scrape.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a name and a type");
        assert_eq!(types.insert(name, kind), None, "{name} comes twice");
    }
    let table: BTreeMap<&str, &str> = METRICS.iter().map(|metric| (metric.name, metric.kind.name())).collect();
    assert_eq!(types, table);
    for series in scrape.series.keys() {
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let metric = METRICS.iter().find(|metric| name.starts_with(metric.name) && fits(metric.name, name));
        let metric = metric.unwrap_or_else(|| panic!("{series} is no metric of the table"));
        let named: BTreeSet<&str> = labels.split("\",").filter_map(|label| Some(label.split_once("=\"")?.0)).collect();
        let bucket = name.ends_with("_bucket").then_some("le");
        assert_eq!(named, metric.labels.iter().copied().chain(bucket).collect(), "{series}");
    }
    ringlb.stop();
}

/// Whether `series` is what a metric is exported under.
fn fits(metric: &str, series: &str) -> bool {
    matches!(series.strip_prefix(metric), Some("" | "_bucket" | "_sum" | "_count"))
}

#[test]
fn the_documentation_has_every_metric_and_reason() {
    let document = read("docs/metrics.md");
    let code = |words: &[&str]| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    let mut table = String::from("| metric | type | labels | what it tells |\n|---|---|---|---|\n");
    for metric in METRICS {
        let (name, kind) = (metric.name, metric.kind.name());
        table.push_str(&format!("| `{name}` | {kind} | {} | {} |\n", code(metric.labels), metric.help));
    }
    assert!(document.contains(&table), "docs/metrics.md lacks this table:\n{table}");
    let reasons = |header: &str| -> Vec<String> {
        let header = format!("| reason | {header} |\n|---|---|\n");
        let (_, table) = document.split_once(&header).unwrap_or_else(|| panic!("docs/metrics.md lacks {header}"));
        let rows = table.lines().map_while(|line| line.strip_prefix("| `")?.split('`').next());
        rows.map(str::to_owned).collect()
    };
    assert_eq!(reasons("the session ended because"), CloseReason::LABELS);
    assert_eq!(reasons("the client was turned away because"), Refusal::ALL.map(Refusal::label));
    assert_eq!(reasons("it pauses because"), Pause::ALL.map(Pause::label));
    assert_eq!(reasons("the connect failed with"), ConnectFailure::ALL.map(ConnectFailure::label));
    let list = |bounds: &[f64]| bounds.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
    for bounds in [list(&BACKEND_BOUNDS), list(&SESSION_BOUNDS)] {
        let document = document.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(document.contains(&bounds), "docs/metrics.md lacks the buckets {bounds}");
    }
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    if !has_program("promtool") {
        return skip("promtool check metrics", "promtool is not installed (Debian package prometheus)");
    }
    let (_backends, ringlb) = with_everything();
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    let text = Scrape::of(&ringlb).text;
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{}: {said}", output.status);
    ringlb.stop();
}

/// Every word of a text that could be the name of a metric is one.
#[test]
fn the_documents_and_the_dashboard_name_metrics_that_there_are() {
    for (path, at_least) in [("config/grafana-dashboard.json", 20), ("docs/metrics.md", 40)] {
        let text = read(path);
        let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
        let named: BTreeSet<&str> =
            words.filter(|word| word.starts_with("ringlb_") || word.starts_with("process_")).collect();
        for word in &named {
            // `process_` alone, and the prefixes of headings.
            let known = METRICS.iter().any(|metric| fits(metric.name, word));
            assert!(known || *word == "process_", "{path} names {word}, which is no metric");
        }
        assert!(named.len() >= at_least, "{path} names only {named:?}");
    }
}

/// The labels in the dashboard's and the documents' queries are those of their metrics.
#[test]
fn the_dashboard_is_json_and_asks_for_labels_that_there_are() {
    let dashboard: serde_json::Value = serde_json::from_str(&read("config/grafana-dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut queries = 0;
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten()) {
        let query = target["expr"].as_str().expect("a query");
        for metric in METRICS.iter().filter(|metric| query.contains(metric.name)) {
            for selector in query.split(metric.name).skip(1) {
                let rest = selector.trim_start_matches("_bucket");
                let Some(inside) = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()) else { continue };
                for label in inside.split(',').filter_map(|matcher| matcher.split(['=', '!']).next()) {
                    let known = metric.labels.contains(&label) || ["instance", "job"].contains(&label);
                    assert!(known, "{label} is no label of {} in {query}", metric.name);
                }
            }
        }
        queries += 1;
    }
    assert!(queries > 20, "{queries} queries");
}

#[test]
fn the_alerts_of_the_documentation_are_valid_rules() {
    if !has_program("promtool") {
        return skip("promtool check rules", "promtool is not installed (Debian package prometheus)");
    }
    let document = read("docs/metrics.md");
    let rules = document.split("```yaml\n").skip(1).filter_map(|block| block.split("```").next());
    let rules = rules.filter(|block| block.starts_with("groups:"));
    let directory = tempfile::TempDir::new().expect("a directory");
    let mut checked = 0;
    for (number, text) in rules.enumerate() {
        let file = directory.path().join(format!("rules-{number}.yml"));
        std::fs::write(&file, text).expect("it is written");
        let output = Command::new("promtool").args(["check", "rules"]).arg(&file).output().expect("promtool runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        checked += 1;
    }
    assert_eq!(checked, 1, "blocks of rules");
}

/// A Prometheus that scrapes `target` every second. Dropped, it is killed.
struct Prometheus {
    child: std::process::Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: SocketAddr) -> Prometheus {
        let directory = tempfile::TempDir::new().expect("a directory");
        let file = directory.path().join("prometheus.yml");
        let job = format!("[{{ job_name: ringlb, static_configs: [{{ targets: [\"{target}\"] }}] }}]");
        std::fs::write(&file, format!("global: {{ scrape_interval: 1s }}\nscrape_configs: {job}\n"))
            .expect("it is written");
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prometheus runs");
        let mut log = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let line = log.by_ref().map_while(Result::ok).find(|line| line.contains("msg=\"Listening on\""));
        let address = line.expect("it says where it listens");
        let address = address.rsplit("address=").next().expect("an address").parse().expect("an address");
        // It must not wait for somebody to read its log.
        std::thread::spawn(move || log.map_while(Result::ok).for_each(drop));
        Prometheus { child, address, _directory: directory }
    }

    /// The answer to a query, as a number; nothing while there is none.
    fn query(&self, query: &str) -> Option<f64> {
        let (_, answer) = get(self.address, &format!("/api/v1/query?query={query}"));
        let answer: serde_json::Value = serde_json::from_str(&answer).ok()?;
        answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }
}

#[test]
fn a_real_prometheus_scrapes_it() {
    if !has_program("prometheus") {
        return skip("a scrape by Prometheus", "it is not installed (Debian package prometheus)");
    }
    let (_backends, ringlb) = with_everything();
    let prometheus = Prometheus::start(ringlb.metrics_address());
    let closed = "sum(ringlb_sessions_closed_total)";
    until("it has scraped", || prometheus.query(closed).filter(|closed| *closed == 1.0));
    exchange(ringlb.connect(), 1000);
    until("it scrapes again", || prometheus.query(closed).filter(|closed| *closed == 2.0));
    assert_eq!(prometheus.query("up"), Some(1.0));
    let quantile = "histogram_quantile(0.5,sum(ringlb_backend_connect_duration_seconds_bucket)by(le))";
    let median = prometheus.query(quantile).expect("a median");
    assert!((0.0..10.0).contains(&median), "{median}");
    ringlb.stop();
}
