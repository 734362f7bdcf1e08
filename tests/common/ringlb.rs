//! The process under test.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tempfile::TempDir;

use super::net;
use super::{DEADLINE, until};

/// The length decides nothing: a process that rests uses a small part of any.
const REST_PERIOD: Duration = Duration::from_millis(500);

/// A configuration with one listener and one pool, as text in parts. What a test does not set has its default.
#[derive(Clone, Debug)]
pub struct Config {
    bind: String,
    process: String,
    listener: String,
    pool: String,
    backends: String,
}

impl Config {
    /// Two workers, a free port of 127.0.0.1, these backends.
    pub fn new(backends: &[SocketAddr]) -> Config {
        let config = Config {
            bind: "\"127.0.0.1:0\"".into(),
            process: "workers = 2\n".into(),
            listener: String::new(),
            pool: String::new(),
            backends: String::new(),
        };
        backends.iter().fold(config, |config, backend| config.backend(backend, ""))
    }

    /// Keys of the process.
    pub fn process(mut self, keys: &str) -> Config {
        writeln!(self.process, "{keys}").expect("text");
        self
    }

    /// One worker instead of two.
    pub fn one_worker(mut self) -> Config {
        self.process = self.process.replace("workers = 2", "workers = 1");
        self
    }

    /// Keys of the listener.
    pub fn listener(mut self, keys: &str) -> Config {
        writeln!(self.listener, "{keys}").expect("text");
        self
    }

    /// Other addresses to listen on: a string or a list in TOML.
    pub fn bind(mut self, bind: &str) -> Config {
        self.bind = bind.into();
        self
    }

    /// Keys of the pool.
    pub fn pool(mut self, keys: &str) -> Config {
        writeln!(self.pool, "{keys}").expect("text");
        self
    }

    /// One more backend, with further keys.
    pub fn backend(mut self, address: impl std::fmt::Display, keys: &str) -> Config {
        writeln!(self.backends, "[[pool.backend]]\naddress = \"{address}\"\n{keys}").expect("text");
        self
    }

    /// The whole file.
    pub fn text(&self) -> String {
        let Config { bind, process, listener, pool, backends } = self;
        format!(
            "{process}log = \"info,ringlb::worker=debug\"\nlog_format = \"json\"\n\
             [[listener]]\nname = \"front\"\npool = \"back\"\nbind = {bind}\n{listener}\n\
             [[pool]]\nname = \"back\"\n{pool}\n{backends}"
        )
    }

    /// Starts ringlb and waits until it is ready.
    pub fn start(&self) -> Ringlb {
        self.start_under(&[])
    }

    /// Starts it through another program (`sh -c ...`, `strace ...`), to whose arguments ours are added.
    pub fn start_under(&self, wrapper: &[&str]) -> Ringlb {
        let ringlb = self.launch(wrapper);
        ringlb.wait_for_log("it is ready", |line| field(line, "message") == Some("ready"));
        ringlb
    }

    /// Starts it and waits for nothing.
    pub fn launch(&self, wrapper: &[&str]) -> Ringlb {
        let directory = TempDir::new().expect("a directory");
        let file = directory.path().join("ringlb.toml");
        std::fs::write(&file, self.text()).expect("the file is written");
        let arguments = ["run", "--config", file.to_str().expect("a path of text")];
        Ringlb::launch(wrapper, &arguments, directory)
    }
}

/// A running ringlb. Dropped, it is killed; its log is shown if the test fails.
pub struct Ringlb {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    directory: TempDir,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Lines>,
    changed: Condvar,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Ringlb {
    /// Starts the binary with these arguments, and waits for nothing.
    pub fn with_arguments(arguments: &[&str]) -> Ringlb {
        Ringlb::launch(&[], arguments, TempDir::new().expect("a directory"))
    }

    /// Starts it with this text as its file, and waits until it is ready.
    pub fn with_file(text: &str) -> Ringlb {
        let directory = TempDir::new().expect("a directory");
        let file = directory.path().join("ringlb.toml");
        std::fs::write(&file, text).expect("the file is written");
        let ringlb = Ringlb::launch(&[], &["run", "--config", file.to_str().expect("a path of text")], directory);
        ringlb.wait_for_log("it is ready", |line| field(line, "message") == Some("ready"));
        ringlb
    }

    fn launch(wrapper: &[&str], arguments: &[&str], directory: TempDir) -> Ringlb {
        raise_own_descriptors();
        let words: Vec<&str> = wrapper.iter().copied().chain([env!("CARGO_BIN_EXE_ringlb")]).collect();
        let mut command = Command::new(words[0]);
        // One of its own: the usual places belong to the machine.
        command.env("RINGLB_ADMIN", directory.path().join("admin.sock"));
        command.args(&words[1..]).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", words[0]));
        let stderr = child.stderr.take().expect("a pipe");
        let log = Arc::new(Log::default());
        let shared = Arc::clone(&log);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { break };
                shared.lines.lock().expect("a lock").lines.push(line);
                shared.changed.notify_all();
            }
            shared.lines.lock().expect("a lock").ended = true;
            shared.changed.notify_all();
        });
        Ringlb { child, log, reader: Some(reader), directory }
    }

    /// The address that it listens on first.
    pub fn address(&self) -> SocketAddr {
        self.addresses()[0].parse().expect("an IP address")
    }

    /// All addresses that it listens on, as it says when it is ready.
    pub fn addresses(&self) -> Vec<String> {
        let ready = self.wait_for_log("it is ready", |line| field(line, "message") == Some("ready"));
        let listeners = field(&ready, "listeners").expect("its listeners");
        listeners.split(' ').map(|listener| listener.split_once('=').expect("name=address").1.to_owned()).collect()
    }

    /// The address of `/ready`.
    pub fn metrics_address(&self) -> SocketAddr {
        let line = self.wait_for_log("it says its metrics address", |line| {
            field(line, "message").is_some_and(|message| message.starts_with("metrics address"))
        });
        field(&line, "address").expect("an address").parse().expect("an IP address")
    }

    /// The socket of its admin API.
    pub fn admin(&self) -> PathBuf {
        self.path("admin.sock")
    }

    /// Connects to its first address.
    pub fn connect(&self) -> std::net::TcpStream {
        net::connect(self.address())
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A file beside its configuration.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.rustix_pid(), signal).expect("the process lives");
    }

    /// Its process number for system calls.
    pub fn rustix_pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).expect("a process number")
    }

    /// Waits for a line of the log and gives it.
    pub fn wait_for_log(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + DEADLINE;
        let mut lines = self.log.lines.lock().expect("a lock");
        loop {
            if let Some(line) = lines.lines.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            let hopeless = if lines.ended { "its log has ended" } else { "time is up" };
            if lines.ended || left.is_zero() {
                // Not while the lock is held: the log is shown when the test fails.
                drop(lines);
                panic!("waited until {what}, but {hopeless}");
            }
            lines = self.log.changed.wait_timeout(lines, left).expect("a lock").0;
        }
    }

    /// The log as it is by now.
    pub fn log(&self) -> Vec<String> {
        self.log.lines.lock().expect("a lock").lines.clone()
    }

    /// Waits until `count` sessions have ended and gives their reasons, sorted.
    pub fn wait_for_ends(&self, count: usize) -> Vec<String> {
        until(&format!("{count} sessions end"), || {
            let reasons = self.ends();
            (reasons.len() >= count).then_some(reasons)
        })
    }

    /// The reasons of the sessions that have ended so far, sorted.
    pub fn ends(&self) -> Vec<String> {
        let log = self.log();
        let ended = log.iter().filter(|line| field(line, "message") == Some("session ended"));
        let mut reasons: Vec<String> = ended.filter_map(|line| field(line, "reason")).map(str::to_owned).collect();
        reasons.sort_unstable();
        reasons
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let status = until("the process ends", || self.child.try_wait().expect("our child"));
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the log is read to its end");
        }
        status
    }

    /// Stops it with SIGTERM and checks that it ends well, with a clean log.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{status}");
        let bad = self.log().into_iter().find(|line| line.contains("panicked") || line.contains("\"ERROR\""));
        assert_eq!(bad, None);
    }

    /// How long it may use the CPU in a period without work: a busy loop takes all of it.
    pub fn cpu_time(&self) -> Duration {
        super::procfs::cpu_time(self.pid())
    }

    /// Nothing is to be done, and so it uses hardly any CPU.
    pub fn assert_rests(&self) {
        assert_eq!(self.unrest(), None, "CPU of {REST_PERIOD:?} although there is nothing to do");
    }

    /// Waits until it rests: for where the kernel may still be filling socket buffers, which grow as long as a peer sends. Who
    /// spins never rests.
    pub fn wait_for_rest(&self) {
        until("ringlb rests", || self.unrest().is_none().then_some(()));
    }

    /// What it uses of the CPU in a period, if that is more than a process that rests uses.
    fn unrest(&self) -> Option<Duration> {
        let before = self.cpu_time();
        thread::sleep(REST_PERIOD);
        let spent = self.cpu_time() - before;
        (spent >= REST_PERIOD / 5).then_some(spent)
    }
}

impl Drop for Ringlb {
    fn drop(&mut self) {
        if self.child.try_wait().expect("our child").is_none() {
            self.child.kill().expect("our child");
            self.child.wait().expect("our child");
        }
        if thread::panicking() {
            let log = self.log();
            let shown = log.len().saturating_sub(40);
            eprintln!("the last lines of ringlb's log:\n{}", log[shown..].join("\n"));
        }
    }
}

/// The value of a field of a log line in JSON; without quotes and escapes, which no test's fields have.
pub fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let rest = line.split_once(&format!("\"{name}\":"))?.1;
    match rest.strip_prefix('"') {
        Some(text) => text.split('"').next(),
        None => rest.split([',', '}']).next(),
    }
}

/// Runs the binary to its end; gives its exit code and what it said on standard error.
pub fn run_to_end(wrapper: &[&str], arguments: &[&str]) -> (Option<i32>, String) {
    let mut ringlb = Ringlb::launch(wrapper, arguments, TempDir::new().expect("a directory"));
    let status = ringlb.wait();
    (status.code(), ringlb.log().join("\n"))
}

/// Runs `ringlb run` with this text as its file to its end.
pub fn run_file(directory: &Path, text: &str) -> (Option<i32>, String) {
    let file = directory.join("ringlb.toml");
    std::fs::write(&file, text).expect("the file is written");
    run_to_end(&[], &["run", "--config", file.to_str().expect("a path of text")])
}

/// The tests themselves hold thousands of sockets.
fn raise_own_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
            .expect("up to the hard limit");
    }
}
