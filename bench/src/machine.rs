//! The machine the figures are from, as far as it can be told without privileges.

use std::collections::BTreeMap;
use std::fs;

use serde::{Deserialize, Serialize};

/// What paces everybody's sockets, or does not.
const CONGESTION_CONTROL: &str = "net/ipv4/tcp_congestion_control";

/// Settings of the kernel that move the figures.
const SETTINGS: [&str; 7] = [
    "net/core/somaxconn",
    "net/ipv4/ip_local_port_range",
    CONGESTION_CONTROL,
    "net/ipv4/tcp_tw_reuse",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_wmem",
    "kernel/io_uring_disabled",
];

/// A description to stand beside the figures.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// CPUs this process may use.
    pub cpus: usize,
    /// Whether the kernel says that it runs in a virtual machine.
    pub virtual_machine: bool,
    /// Memory in mebibytes.
    pub memory_mib: u64,
    /// Name and version of the kernel.
    pub kernel: String,
    /// Settings of the kernel that move the figures, as it shows them.
    pub settings: BTreeMap<String, String>,
}

impl Machine {
    /// The machine this runs on, of which this process may use so many CPUs; what cannot be read is "unknown".
    pub fn here(cpus: usize) -> Machine {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let setting = |name: &'static str| {
            let value = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
            Some((name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
        };
        Machine {
            cpu: after(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cpus,
            virtual_machine: after(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor")),
            memory_mib: after(&meminfo, "MemTotal")
                .and_then(|size| size.split_whitespace().next())
                .and_then(|kib| kib.parse::<u64>().ok())
                .map_or(0, |kib| kib / 1024),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".to_owned(), |release| format!("Linux {}", release.trim())),
            settings: SETTINGS.into_iter().filter_map(setting).collect(),
        }
    }

    /// The congestion control of sockets that name none, where it can be told.
    pub fn congestion_control(&self) -> Option<&str> {
        self.settings.get(CONGESTION_CONTROL).map(String::as_str)
    }

    /// One line for a person.
    pub fn line(&self) -> String {
        let kind = if self.virtual_machine { ", virtual machine" } else { "" };
        format!("{}, {} CPUs, {} MiB{kind}, {}", self.cpu, self.cpus, self.memory_mib, self.kernel)
    }
}

/// What stands after the first `name :`.
fn after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_and_cpus() {
        let machine = Machine::here(2);
        assert!(machine.kernel.starts_with("Linux ") && machine.memory_mib > 0, "{machine:?}");
        assert!(machine.settings.contains_key("net/ipv4/tcp_rmem"), "{machine:?}");
    }
}
