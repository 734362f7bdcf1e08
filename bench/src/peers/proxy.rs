//! A running proxy: started pinned in a process group of its own, stopped whatever happens.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process_group, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};
use tempfile::TempDir;

use super::{Kind, Peer, PeerError, Setup, ringlb};
use crate::load::{ExchangePlan, Life, Pace, Site, Window, exchange};
use crate::procfs::{self, Memory};

/// How long a proxy may take from its start to its first relayed request.
const START_MAX: Duration = Duration::from_secs(10);

/// How long it may take to end when asked to, before it is killed.
const STOP_MAX: Duration = Duration::from_secs(3);

/// Between two looks at something that gives no event to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A proxy at work, or none ([`Kind::Direct`]). Dropping it ends its processes and removes its files.
#[derive(Debug)]
pub struct Proxy {
    running: Option<Running>,
    targets: Vec<SocketAddr>,
}

#[derive(Debug)]
struct Running {
    peer: Peer,
    workers: usize,
    child: Child,
    group: Pid,
    members: Vec<Pid>,
    log: PathBuf,
    /// Removed when dropped.
    directory: TempDir,
}

impl Proxy {
    /// Starts `peer` on `cpus` before the site's backends and waits until a checked request has come through.
    ///
    /// # Errors
    /// It is missing, ends, or does not relay in time; its own words are in the error.
    pub fn start(
        peer: &Peer,
        setup: &mut Setup,
        listeners: usize,
        cpus: &[usize],
        site: &mut Site,
    ) -> Result<Proxy, PeerError> {
        setup.backends = site.addresses().to_vec();
        if peer.kind == Kind::Direct {
            return Ok(Proxy { running: None, targets: setup.backends.clone() });
        }
        setup.listen = free_addresses(listeners).map_err(PeerError::io("looking for free ports"))?;
        let directory = tempfile::Builder::new()
            .prefix("ringlb-bench-")
            .tempdir()
            .map_err(PeerError::io("making a temporary directory"))?;
        let command = peer.command(setup, directory.path())?;
        let log = directory.path().join("output");
        let admin = ringlb::admin_socket(directory.path());
        let child = spawn(&command, cpus, &log, &admin).map_err(PeerError::io("starting it"))?;
        let group = Pid::from_child(&child);
        let (peer, workers, members) = (peer.clone(), setup.workers, vec![group]);
        let running = Running { peer, workers, child, group, members, log, directory };
        let mut proxy = Proxy { running: Some(running), targets: setup.listen.clone() };
        proxy.wait_until_it_relays(site)?;
        let members = procfs::group_members(group).map_err(PeerError::io("reading /proc"))?;
        if let Some(running) = &mut proxy.running {
            running.members = members;
        }
        Ok(proxy)
    }

    /// Where clients connect to.
    pub fn targets(&self) -> &[SocketAddr] {
        &self.targets
    }

    /// CPU time of all its processes so far; nothing without a proxy.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        self.running.as_ref().map_or(Ok(Duration::ZERO), |running| procfs::cpu_time(&running.members))
    }

    /// User memory of all its processes.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self) -> io::Result<Memory> {
        self.running.as_ref().map_or(Ok(Memory::default()), |running| procfs::memory(&running.members))
    }

    /// Sessions that each worker holds now; nothing of a proxy that does not tell.
    ///
    /// # Errors
    /// It has ended, or does not answer.
    pub fn held_by_workers(&self) -> io::Result<Vec<u64>> {
        let Some(running) = &self.running else { return Ok(Vec::new()) };
        match running.peer.kind {
            Kind::Ringlb => {
                ringlb::sessions_by_worker(&running.peer.program, running.directory.path(), running.workers)
            }
            // The leader only watches over the workers. A session is two sockets.
            Kind::Nginx => {
                let workers = running.members.iter().filter(|member| **member != running.group);
                workers.map(|worker| Ok(procfs::sockets(*worker)? / 2)).collect()
            }
            // Its threads share their descriptors.
            Kind::Haproxy | Kind::Direct => Ok(Vec::new()),
        }
    }

    /// How it ended and its last words, if it has ended.
    pub fn obituary(&mut self) -> Option<String> {
        let running = self.running.as_mut()?;
        let status = running.child.try_wait().ok()??;
        Some(format!("; it has ended ({status}) and said:\n{}", running.last_words()))
    }

    fn wait_until_it_relays(&mut self, site: &mut Site) -> Result<(), PeerError> {
        let plan = ExchangePlan { connections: 1, size: 64, life: Life::ClientCloses, check: true, pace: Pace::Closed };
        let window = Window { warmup: Duration::ZERO, measure: Duration::from_millis(1) };
        let deadline = Instant::now() + START_MAX;
        loop {
            let Some(running) = &mut self.running else { return Ok(()) };
            if let Ok(Some(status)) = running.child.try_wait() {
                return Err(running.died(status));
            }
            let target = self.targets[0];
            // Closed at once: a connection held through the match would be one the proxy cannot end.
            let reason = match TcpStream::connect_timeout(&target, START_MAX).map(drop) {
                Ok(()) => match exchange(site, &plan, &self.targets, window, &mut || Ok(Duration::ZERO)) {
                    Ok(_) => return Ok(()),
                    Err(error) => error.to_string(),
                },
                Err(error) => error.to_string(),
            };
            if Instant::now() > deadline || crate::interrupt::requested() {
                let log = running.last_words();
                return Err(PeerError::Silent { seconds: START_MAX.as_secs(), reason, log });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Running {
    fn died(&self, status: ExitStatus) -> PeerError {
        PeerError::Died { status: status.to_string(), log: self.last_words() }
    }

    /// The end of what it wrote to its output.
    fn last_words(&self) -> String {
        const LINES: usize = 15;
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }

    fn stop(&mut self) -> io::Result<()> {
        kill_process_group(self.group, Signal::TERM)?;
        let deadline = Instant::now() + STOP_MAX;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                kill_process_group(self.group, Signal::KILL)?;
                self.child.wait()?;
                return Ok(());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        match self.child.try_wait() {
            Ok(Some(status)) => {
                if status.signal().is_some() {
                    eprintln!("{} had ended before it was stopped: {status}\n{}", self.peer.name, self.last_words());
                }
            }
            Ok(None) | Err(_) => {
                if let Err(error) = self.stop() {
                    eprintln!(
                        "{} (process group {}) could not be stopped: {error}",
                        self.peer.name,
                        self.group.as_raw_pid()
                    );
                }
            }
        }
    }
}

/// Becomes `command`, pinned to `cpus`, that ends when the process `parent` does. Returns only on failure.
pub fn launch(parent: i32, cpus: &[usize], command: &[OsString]) -> io::Error {
    if let Err(errno) = set_parent_process_death_signal(Some(Signal::TERM)) {
        return errno.into();
    }
    if getppid().map(Pid::as_raw_pid) != Some(parent) {
        return io::Error::other("the process that wanted this one has ended");
    }
    if let Err(error) = pin(cpus) {
        return error;
    }
    let Some((program, arguments)) = command.split_first() else {
        return io::Error::other("no command was given");
    };
    Command::new(program).args(arguments).exec()
}

/// Lets the calling thread, and what it starts, run on `cpus` only. No CPUs: anywhere.
///
/// # Errors
/// One of the CPUs is not there or not allowed.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    Ok(sched_setaffinity(None, &set)?)
}

/// Starts `command` through this program's own `launch`, because between fork and exec nothing safe can pin it.
fn spawn(command: &[OsString], cpus: &[usize], log: &Path, admin: &Path) -> io::Result<Child> {
    let output = File::create(log)?;
    let cpus: Vec<String> = cpus.iter().map(usize::to_string).collect();
    let mut launcher = Command::new(std::env::current_exe()?);
    launcher.arg("launch").arg("--parent").arg(std::process::id().to_string());
    if !cpus.is_empty() {
        launcher.arg("--cpus").arg(cpus.join(","));
    }
    launcher.arg("--").args(command).env(ringlb::ADMIN_VARIABLE, admin);
    launcher.process_group(0).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()
}

/// Ports that were free a moment ago. All are held until the last is known, so that no two are the same.
fn free_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<_>>()?;
    held.iter().map(TcpListener::local_addr).collect()
}
