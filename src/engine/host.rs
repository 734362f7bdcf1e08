//! What the process may use of its host.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::sync::Once;

use rustix::process::{Resource, Rlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::errno::Errno;
use crate::limits::{HEAP_FREED_BYTES, HEAP_TOP_KEPT_BYTES};

/// The CPUs that this process may run on, by number.
///
/// # Errors
/// What the kernel says; `EINVAL` on a host with more than 1,024 CPUs.
pub fn cpus() -> Result<Vec<usize>, Errno> {
    let set = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// Keeps the calling thread on one CPU.
///
/// # Errors
/// `EINVAL` where the process may not use that CPU.
pub fn pin_current_thread(cpu: usize) -> Result<(), Errno> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(Errno::EINVAL);
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Raises the limit of open files to its hard limit, and says what it is now.
///
/// # Errors
/// What the kernel says; the old limit stays.
pub fn raise_descriptor_limit() -> Result<u64, Errno> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    // Without a hard limit the kernel still has one, fs.nr_open, above which it refuses.
    let Some(maximum) = limit.maximum else { return Ok(limit.current.unwrap_or(u64::MAX)) };
    if limit.current.is_some_and(|current| current < maximum) {
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: Some(maximum), maximum: Some(maximum) })?;
    }
    Ok(maximum)
}

/// Gives the kernel back what was freed, of all threads. The allocator keeps it otherwise: it returns only what lies behind all
/// that is in use, and not the last of that. Takes some microseconds for each free part.
pub fn trim_heap() {
    #[cfg(target_env = "gnu")]
    {
        static SET_UP: Once = Once::new();
        // SAFETY: the functions may be called at any time by any thread, and touch only what is free.
        unsafe {
            SET_UP.call_once(|| {
                libc::mallopt(libc::M_TRIM_THRESHOLD, HEAP_TOP_KEPT_BYTES);
                libc::mallopt(libc::M_TOP_PAD, HEAP_TOP_KEPT_BYTES);
            });
            libc::malloc_trim(0);
        }
        // That leaves the end of a thread's heap alone, which is looked at only when much is freed at once.
        drop(black_box(Vec::<u8>::with_capacity(HEAP_FREED_BYTES)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_has_one_cpu() {
        let all = cpus().unwrap();
        let last = *all.last().unwrap();
        let pinned = std::thread::spawn(move || {
            pin_current_thread(last).unwrap();
            cpus().unwrap()
        });
        assert_eq!(pinned.join().unwrap(), [last]);
        assert_eq!(cpus().unwrap(), all, "the other threads are left alone");
        assert_eq!(pin_current_thread(1 << 20), Err(Errno::EINVAL));
    }

    #[test]
    fn the_descriptor_limit_ends_at_the_hard_one() {
        let raised = raise_descriptor_limit().unwrap();
        let limit = rustix::process::getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(limit.current.unwrap_or(u64::MAX), raised);
    }
}
