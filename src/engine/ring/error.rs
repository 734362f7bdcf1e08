//! Why io_uring cannot be used, and what to do about it.

use crate::errno::Errno;

/// Why a ring could not be set up. The message names the cause and the cure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The administrator has switched io_uring off.
    #[error(
        "io_uring is switched off on this host: kernel.io_uring_disabled is {value} (io_uring_setup: {errno}); {cure}",
        cure = if *value == 1 {
            "set it to 0 with `sysctl kernel.io_uring_disabled=0`, or put ringlb's user into the group named by \
             kernel.io_uring_group"
        } else {
            "set it to 0 with `sysctl kernel.io_uring_disabled=0`"
        }
    )]
    SwitchedOff {
        /// The value of `kernel.io_uring_disabled`.
        value: u32,
        /// What `io_uring_setup` said.
        errno: Errno,
    },
    /// A seccomp filter (containers have one by default) or a security module forbids it.
    #[error(
        "io_uring is forbidden to this process (io_uring_setup: {errno}), although kernel.io_uring_disabled does not \
         forbid it: probably by the seccomp profile of a container. Run it with a profile that allows io_uring_setup, \
         io_uring_enter and io_uring_register (`docker run --security-opt seccomp=PROFILE.json ...`)"
    )]
    Filtered {
        /// What `io_uring_setup` said.
        errno: Errno,
    },
    /// The kernel is too old.
    #[error("Linux {release} is too old (io_uring_setup: {errno}): ringlb needs 6.1 or later; upgrade the kernel")]
    TooOld {
        /// The kernel's release, as `uname -r` prints it.
        release: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// The kernel was built without it.
    #[error("this kernel ({release}) was built without io_uring (CONFIG_IO_URING); use one that has it")]
    NotBuilt {
        /// The kernel's release, as `uname -r` prints it.
        release: String,
    },
    /// The kernel lacks an operation.
    #[error("the io_uring of this kernel cannot {operation}; ringlb needs Linux 6.1 or later")]
    Missing {
        /// What it cannot do.
        operation: &'static str,
    },
    /// No memory for the ring.
    #[error(
        "no memory for a worker's ring and buffers ({errno}): raise the memory limit of the container or service, or the \
         limit of locked memory (`ulimit -l`, in a systemd unit `LimitMEMLOCK=`)"
    )]
    Memory {
        /// What the kernel said.
        errno: Errno,
    },
    /// No descriptor for the ring.
    #[error(
        "no file descriptor for a worker's ring ({errno}): raise the limit of open files (`ulimit -n`, in a systemd unit \
         `LimitNOFILE=`)"
    )]
    Descriptors {
        /// What the kernel said.
        errno: Errno,
    },
    /// Setting up worked, using it did not.
    #[error("io_uring was set up but failed its test at {step} ({errno}); this kernel cannot be used")]
    Broken {
        /// What was being tried.
        step: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// Any other error.
    #[error("io_uring could not be set up on Linux {release} ({errno})")]
    Other {
        /// What `io_uring_setup` said.
        errno: Errno,
        /// The kernel's release, as `uname -r` prints it.
        release: String,
    },
}

/// What an errno of `io_uring_setup` means on this host.
pub(super) fn explain(errno: Errno) -> SetupError {
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let disabled = disabled.ok().and_then(|text| text.trim().parse().ok());
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "(unknown)".to_owned());
    diagnose(errno, disabled, release.trim())
}

/// What an errno of `io_uring_setup` means where `kernel.io_uring_disabled` has this value (`None`: it does not exist).
fn diagnose(errno: Errno, disabled: Option<u32>, release: &str) -> SetupError {
    let release = release.to_owned();
    match errno {
        Errno::ENOMEM => SetupError::Memory { errno },
        Errno::EMFILE | Errno::ENFILE => SetupError::Descriptors { errno },
        _ if version(&release).is_some_and(|version| version < (6, 1)) => SetupError::TooOld { release, errno },
        Errno::EPERM | Errno::EACCES | Errno::ENOSYS => match disabled {
            Some(value @ 1..) if errno != Errno::ENOSYS => SetupError::SwitchedOff { value, errno },
            // The setting exists since 6.6, and only where io_uring was built.
            None if errno == Errno::ENOSYS && version(&release) >= Some((6, 6)) => SetupError::NotBuilt { release },
            _ => SetupError::Filtered { errno },
        },
        _ => SetupError::Other { errno, release },
    }
}

/// The first two numbers of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(errno: Errno, disabled: Option<u32>, release: &str) -> String {
        diagnose(errno, disabled, release).to_string()
    }

    #[test]
    fn each_cause_names_its_cure() {
        let now = "6.18.4-arch1";
        let cases = [
            (Errno::EPERM, Some(1), now, "io_uring_disabled is 1", "io_uring_group"),
            (Errno::EPERM, Some(2), now, "io_uring_disabled is 2", "sysctl kernel.io_uring_disabled=0"),
            (Errno::EPERM, Some(0), now, "EPERM", "--security-opt seccomp"),
            (Errno::ENOSYS, Some(0), now, "ENOSYS", "--security-opt seccomp"),
            (Errno::ENOSYS, Some(2), now, "ENOSYS", "--security-opt seccomp"),
            (Errno::EPERM, None, "6.1.0-18-amd64", "EPERM", "--security-opt seccomp"),
            (Errno::ENOSYS, None, now, "built without io_uring", "CONFIG_IO_URING"),
            (Errno::EINVAL, None, "5.15.0-101-generic", "5.15.0-101-generic is too old", "6.1 or later"),
            (Errno::ENOSYS, None, "4.19.0", "4.19.0 is too old", "6.1 or later"),
            (Errno::ENOMEM, Some(0), now, "ENOMEM", "ulimit -l"),
            (Errno::EMFILE, Some(0), now, "EMFILE", "ulimit -n"),
            (Errno::EINVAL, Some(0), now, "EINVAL", now),
        ];
        for (errno, disabled, release, what, cure) in cases {
            let text = message(errno, disabled, release);
            assert!(text.contains(what) && text.contains(cure), "{errno} {disabled:?} {release}: {text}");
        }
    }

    #[test]
    fn only_level_1_has_a_group() {
        assert!(!message(Errno::EPERM, Some(2), "6.18.4").contains("io_uring_group"));
    }

    #[test]
    fn versions() {
        assert_eq!(version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(version("6.1"), Some((6, 1)));
        assert_eq!(version("unknown"), None);
    }
}
