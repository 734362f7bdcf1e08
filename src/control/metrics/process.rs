//! The process's own figures, read from /proc. The `prometheus` crate has a collector for them, which rounds the CPU time
//! down to whole seconds.

use procfs::process::{LimitValue, Process};
use procfs::{ProcResult, WithCurrentSystemInfo};

use crate::metrics::table;

use super::families::Families;

/// What io_uring's threads are called, before the number of the thread that they work for.
const KERNEL_THREAD: &str = "iou-wrk-";

/// The threads that write files; there it is usual that the kernel needs one for what takes long.
const FILE_THREADS: [&str; 2] = ["ringlb-files", "ringlb-state"];

/// Adds the figures that can be read; those that cannot are absent.
pub fn collect(families: &mut Families) {
    if let Err(error) = try_collect(families) {
        tracing::debug!(%error, "some figures of the process cannot be read");
    }
}

fn try_collect(families: &mut Families) -> ProcResult<()> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let cpu = (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64;
    families.add_fraction(&table::PROCESS_CPU, &[], cpu);
    families.add(&table::PROCESS_VIRTUAL, &[], stat.vsize);
    families.add(&table::PROCESS_RESIDENT, &[], stat.rss_bytes().get());
    families.add(&table::PROCESS_THREADS, &[], stat.num_threads.unsigned_abs());
    let started = procfs::boot_time_secs()? as f64 + stat.starttime as f64 / procfs::ticks_per_second() as f64;
    families.add_fraction(&table::PROCESS_START, &[], started);
    families.add(&table::PROCESS_OPEN_FDS, &[], process.fd_count()? as u64);
    if let LimitValue::Value(max) = process.limits()?.max_open_files.soft_limit {
        families.add(&table::PROCESS_MAX_FDS, &[], max);
    }
    // A thread may end while we look.
    let tasks = process.tasks()?.filter_map(|task| task.ok()?.stat().ok());
    let threads: Vec<(i32, String)> = tasks.map(|stat| (stat.pid, stat.comm)).collect();
    let writes_files = |id: &str| {
        threads.iter().any(|(thread, name)| thread.to_string() == id && FILE_THREADS.contains(&name.as_str()))
    };
    let of = threads.iter().filter_map(|(_, name)| name.strip_prefix(KERNEL_THREAD));
    let kernel_threads = of.filter(|id| !writes_files(id)).count();
    families.add(&table::IO_THREADS, &[], kernel_threads as u64);
    Ok(())
}
