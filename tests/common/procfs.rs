//! What the kernel tells of a process and of a connection.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    descriptor_numbers(pid).len()
}

/// How many pipes a process has, its own and those of its output.
pub fn pipes(pid: u32) -> usize {
    pipe_ends(pid) / 2
}

/// How many descriptors a process has open besides pipes, of which ringlb keeps a few.
pub fn descriptors_besides_pipes(pid: u32) -> usize {
    descriptors(pid) - pipe_ends(pid)
}

fn pipe_ends(pid: u32) -> usize {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives");
    let names = open.filter_map(|entry| fs::read_link(entry.expect("a descriptor").path()).ok());
    names.filter(|name| name.to_string_lossy().starts_with("pipe:")).count()
}

/// The numbers of its descriptors.
pub fn descriptor_numbers(pid: u32) -> BTreeSet<u64> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives");
    open.map(|entry| entry.expect("a descriptor").file_name().to_str().expect("text").parse().expect("a number"))
        .collect()
}

/// Anonymous memory in use, in bytes.
pub fn anonymous_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    let kilobytes: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kilobytes * 1024
}

/// CPU time of all threads, user and system.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
    // The name stands in brackets and may contain anything.
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// The names of the threads.
pub fn threads(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().into())
        .collect()
}

/// Bytes that the peer of this IPv4 connection has not acknowledged.
pub fn unacknowledged(stream: &TcpStream) -> u64 {
    let (local, peer) = (stream.local_addr().expect("an address"), stream.peer_addr().expect("an address"));
    let table = fs::read_to_string("/proc/self/net/tcp").expect("/proc/self/net/tcp");
    let (local, peer) = (written(local), written(peer));
    let row = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = row.into_iter().find(|fields| fields[1] == local && fields[2] == peer);
    let queues = row.unwrap_or_else(|| panic!("no connection {local} {peer}"))[4].to_owned();
    u64::from_str_radix(queues.split(':').next().expect("tx_queue"), 16).expect("hexadecimal")
}

/// Whether somebody on this host waits for an answer to a connect to this IPv4 address.
pub fn is_connecting(to: SocketAddr) -> bool {
    connecting(to) > 0
}

/// How many sockets on this host wait for an answer to a connect to this IPv4 address.
pub fn connecting(to: SocketAddr) -> usize {
    const SYN_SENT: &str = "02";
    let table = fs::read_to_string("/proc/self/net/tcp").expect("/proc/self/net/tcp");
    let to = written(to);
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row[2] == to && row[3] == SYN_SENT).count()
}

/// An IPv4 address as /proc/net/tcp writes it.
fn written(address: SocketAddr) -> String {
    let SocketAddr::V4(v4) = address else { panic!("{address} is not IPv4") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())
}
