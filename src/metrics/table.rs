//! Every metric, in one table: what is exported is built from it, and the documentation is held against it.

/// What kind of number a metric is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Durations in buckets.
    Histogram,
}

impl Kind {
    /// As Prometheus calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it tells, in one line.
    pub help: &'static str,
}

use Kind::{Counter, Gauge, Histogram};

const PROCESS: &[&str] = &[];
const LISTENER: &[&str] = &["listener"];
const POOL: &[&str] = &["pool"];
const BACKEND: &[&str] = &["pool", "backend"];
const WORKER: &[&str] = &["worker"];

macro_rules! metrics {
    ($($id:ident = $name:literal, $kind:ident, $labels:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $id: Metric = Metric { name: $name, kind: $kind, labels: $labels, help: $help };
        )*

        /// Every metric, in the order of the documentation.
        pub const METRICS: &[Metric] = &[$($id),*];
    };
}

metrics! {
    BUILD_INFO = "ringlb_build_info", Gauge, &["version"], "always 1; the version is the label";
    WORKERS = "ringlb_workers", Gauge, PROCESS, "worker threads";
    MAX_CONNECTIONS = "ringlb_max_connections", Gauge, PROCESS, "sessions that the process may have";
    ACTIVE_CONNECTIONS = "ringlb_active_connections", Gauge, PROCESS, "sessions that it has now";
    RELOAD_SUCCESSFUL = "ringlb_config_last_reload_successful", Gauge, PROCESS, "1 where the configuration was taken when it was loaded last, else 0";
    RELOAD_TIMESTAMP = "ringlb_config_last_reload_success_timestamp_seconds", Gauge, PROCESS, "when a configuration was taken last, in seconds since 1970";
    ACCESS_LOG_LINES = "ringlb_access_log_lines_total", Counter, PROCESS, "lines written to the access log";
    ACCESS_LOG_DROPPED = "ringlb_access_log_dropped_total", Counter, PROCESS, "lines of the access log that were lost: it was not taken fast enough, or could not be written";
    STATE_WRITES = "ringlb_state_file_writes_total", Counter, PROCESS, "times that the state file was written";
    STATE_FAILURES = "ringlb_state_file_write_failures_total", Counter, PROCESS, "times that it could not be: until it can be, live edits are not kept over a restart";

    LISTENER_ACCEPTED = "ringlb_listener_accepted_total", Counter, LISTENER, "clients accepted";
    LISTENER_REFUSED = "ringlb_listener_refused_total", Counter, &["listener", "reason"], "clients accepted and turned away before a backend was chosen";
    LISTENER_ACTIVE = "ringlb_listener_active_connections", Gauge, LISTENER, "sessions now";
    LISTENER_MAX = "ringlb_listener_max_connections", Gauge, LISTENER, "sessions that it may have: its own limit or the process's, whichever is lower";
    LISTENER_PAUSED = "ringlb_listener_paused", Gauge, LISTENER, "sockets, one a worker and address, on which accepting pauses now; clients wait in the backlog";
    LISTENER_PAUSES = "ringlb_listener_pauses_total", Counter, &["listener", "reason"], "pauses of accepting that have begun";
    SESSIONS_CLOSED = "ringlb_sessions_closed_total", Counter, &["listener", "reason"], "sessions that have ended";
    SESSION_DURATION = "ringlb_session_duration_seconds", Histogram, LISTENER, "from accept to the end of the session";

    POOL_NO_BACKEND = "ringlb_pool_no_backend_total", Counter, POOL, "clients let go because no backend could serve them: sessions closed for the reason `no_backend`";
    POOL_WAITING = "ringlb_pool_waiting_clients", Gauge, POOL, "clients that wait for a backend to have room, see `queue_max`";
    POOL_BACKENDS = "ringlb_pool_backends", Gauge, &["pool", "state"], "backends in that state";

    BACKEND_CONNECTIONS = "ringlb_backend_connections_total", Counter, BACKEND, "connects that succeeded";
    BACKEND_ATTEMPTS = "ringlb_backend_connect_attempts_total", Counter, BACKEND, "connects begun: those succeeded, those failed, and those that the client did not wait for";
    BACKEND_FAILURES = "ringlb_backend_connect_failures_total", Counter, &["pool", "backend", "reason"], "connects that failed; a reason is there from its first time on";
    BACKEND_EJECTIONS = "ringlb_backend_ejections_total", Counter, BACKEND, "ejections for failed connects, failed probes included";
    BACKEND_ACTIVE = "ringlb_backend_active_connections", Gauge, BACKEND, "connections now, those being opened included";
    BACKEND_MAX = "ringlb_backend_max_connections", Gauge, BACKEND, "connections that it may have; 0 = no limit";
    BACKEND_WEIGHT = "ringlb_backend_weight", Gauge, BACKEND, "its weight";
    BACKEND_STATE = "ringlb_backend_state", Gauge, &["pool", "backend", "state"], "1 for the state that it is in, 0 for the others";
    BACKEND_SENT = "ringlb_backend_bytes_sent_total", Counter, BACKEND, "bytes sent to it, headers of the PROXY protocol included";
    BACKEND_RECEIVED = "ringlb_backend_bytes_received_total", Counter, BACKEND, "bytes received from it";
    BACKEND_CONNECT = "ringlb_backend_connect_duration_seconds", Histogram, BACKEND, "from the beginning of a connect to its success";
    BACKEND_FIRST_BYTE = "ringlb_backend_first_byte_duration_seconds", Histogram, BACKEND, "from a connect's success to the backend's first byte";

    RING_SUBMISSIONS = "ringlb_ring_submissions_total", Counter, WORKER, "operations given to io_uring";
    RING_COMPLETIONS = "ringlb_ring_completions_total", Counter, WORKER, "completions that came back; divided by the turns it is the batch size";
    RING_TURNS = "ringlb_ring_turns_total", Counter, WORKER, "waits for completions, one system call each";
    RING_OVERFLOWS = "ringlb_ring_overflows_total", Counter, WORKER, "turns that found the completion queue overflown";
    RING_STARVATIONS = "ringlb_ring_buffer_starvations_total", Counter, WORKER, "receives that found no free buffer";
    IO_THREADS = "ringlb_ring_kernel_threads", Gauge, PROCESS, "threads that io_uring has made for what workers wanted and it could not do at once; a data path of sockets needs none";

    PROCESS_CPU = "process_cpu_seconds_total", Counter, PROCESS, "CPU time, user and system";
    PROCESS_OPEN_FDS = "process_open_fds", Gauge, PROCESS, "open descriptors";
    PROCESS_MAX_FDS = "process_max_fds", Gauge, PROCESS, "descriptors that may be open";
    PROCESS_VIRTUAL = "process_virtual_memory_bytes", Gauge, PROCESS, "virtual memory";
    PROCESS_RESIDENT = "process_resident_memory_bytes", Gauge, PROCESS, "resident memory";
    PROCESS_THREADS = "process_threads", Gauge, PROCESS, "threads";
    PROCESS_START = "process_start_time_seconds", Gauge, PROCESS, "when the process started, in seconds since 1970";
}

/// The upper bounds of the buckets of connects and of first bytes, in seconds.
pub const BACKEND_BOUNDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The upper bounds of the buckets of sessions, in seconds.
pub const SESSION_BOUNDS: [f64; 12] =
    [0.001, 0.01, 0.1, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 14_400.0, 86_400.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_customs_of_prometheus() {
        for (index, metric) in METRICS.iter().enumerate() {
            let Metric { name, kind, labels, help } = metric;
            assert_eq!(METRICS.iter().position(|other| other.name == *name), Some(index), "{name} stands twice");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(name.starts_with("ringlb_") || name.starts_with("process_"), "{name}");
            assert!(*kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
            let known = ["listener", "pool", "backend", "reason", "state", "worker", "version"];
            assert!(labels.iter().all(|label| known.contains(label)), "{name}");
            assert!(!help.is_empty() && !help.ends_with('.') && !help.contains('|'), "{name}: it goes into a table");
        }
    }

    #[test]
    fn bounds_ascend() {
        assert!(BACKEND_BOUNDS.is_sorted_by(|one, next| one < next));
        assert!(SESSION_BOUNDS.is_sorted_by(|one, next| one < next));
    }
}
