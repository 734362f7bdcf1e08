//! What the kernel tells about processes and memory, read from /proc.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::Pid;
use serde::Serialize;

/// Memory of a group of processes, in kibibytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Private memory the processes have touched (RssAnon).
    pub anonymous_kib: u64,
    /// Shared memory they have touched (RssShmem): rings and zones.
    pub shared_kib: u64,
}

/// CPU time the processes and their kernel threads have run, exactly, not in ticks.
///
/// A thread that ended takes its time with it, so the total may fall; nothing measured here ends threads at work.
///
/// # Errors
/// A process is gone, or the kernel has no schedstat.
pub fn cpu_time(processes: &[Pid]) -> io::Result<Duration> {
    let mut total_ns = 0;
    for process in processes {
        for task in fs::read_dir(format!("/proc/{}/task", process.as_raw_pid()))? {
            match fs::read_to_string(task?.path().join("schedstat")) {
                Ok(text) => total_ns += first_number(&text)?,
                // The thread ended between the listing and the reading.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Duration::from_nanos(total_ns))
}

/// User memory of the processes together.
///
/// # Errors
/// A process is gone.
pub fn memory(processes: &[Pid]) -> io::Result<Memory> {
    let mut total = Memory::default();
    for process in processes {
        let status = fs::read_to_string(format!("/proc/{}/status", process.as_raw_pid()))?;
        total.anonymous_kib += kib_field(&status, "RssAnon:").unwrap_or(0);
        total.shared_kib += kib_field(&status, "RssShmem:").unwrap_or(0);
    }
    Ok(total)
}

/// Sockets that a process has open.
///
/// # Errors
/// The process is gone, or another user's.
pub fn sockets(process: Pid) -> io::Result<u64> {
    let mut count = 0;
    for descriptor in fs::read_dir(format!("/proc/{}/fd", process.as_raw_pid()))? {
        // One that was closed since the listing is none.
        let target = fs::read_link(descriptor?.path()).unwrap_or_default();
        count += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
    }
    Ok(count)
}

/// Memory of the kernel's own objects, of the whole machine, in kibibytes.
///
/// # Errors
/// /proc is not there.
pub fn slab_kib() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    kib_field(&text, "Slab:").ok_or_else(|| io::Error::other("/proc/meminfo has no line Slab"))
}

/// The processes of a process group, the leader and all it has started.
///
/// # Errors
/// /proc is not there.
pub fn group_members(group: Pid) -> io::Result<Vec<Pid>> {
    let mut members = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()) else {
            continue;
        };
        if group_of(&path) == Some(group.as_raw_pid()) {
            members.extend(Pid::from_raw(pid));
        }
    }
    Ok(members)
}

fn group_of(process: &Path) -> Option<i32> {
    // The name in parentheses may hold anything, so counting starts after the last parenthesis.
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    let (_, after) = stat.rsplit_once(')')?;
    after.split_whitespace().nth(2)?.parse().ok()
}

fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line[name.len()..].split_whitespace().next()?.parse().ok()
}

fn first_number(text: &str) -> io::Result<u64> {
    let number = text.split_whitespace().next().and_then(|word| word.parse().ok());
    number.ok_or_else(|| io::Error::other(format!("schedstat reads {text:?}, which begins with no number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "VmRSS:\t   9 kB\nRssAnon:\t    1234 kB\nRssFile:\t  5 kB\n";
        assert_eq!(kib_field(status, "RssAnon:"), Some(1234));
        assert_eq!(kib_field(status, "RssShmem:"), None);
    }

    #[test]
    fn own_cpu_time_advances_with_work() {
        let me = [rustix::process::getpid()];
        let before = cpu_time(&me).expect("this process runs");
        let mut sum = 0_u64;
        while cpu_time(&me).expect("this process runs") <= before {
            sum = sum.wrapping_mul(31).wrapping_add(std::hint::black_box(7));
        }
        assert!(memory(&me).expect("this process runs").anonymous_kib > 0, "{sum}");
    }

    #[test]
    fn open_sockets_are_counted_and_closed_ones_are_not() {
        let me = rustix::process::getpid();
        // Other tests open and close some meanwhile: ours are so many that they show.
        let open: Vec<_> = (0..200).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port")).collect();
        let with = sockets(me).expect("this process runs");
        drop(open);
        let without = sockets(me).expect("this process runs");
        assert!(with >= without + 100, "{with} with 200 sockets more, {without} without");
    }

    #[test]
    fn a_process_is_in_its_own_group() {
        let me = rustix::process::getpid();
        let members = group_members(rustix::process::getpgrp()).expect("/proc is there");
        assert!(members.contains(&me), "{me:?} is not in {members:?}");
    }
}
