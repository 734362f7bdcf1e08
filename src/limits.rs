//! Every maximum in one place, with the argument for each, and their relations proven when the crate is compiled.

use std::time::Duration;

use crate::slots::SLOTS_MAX;

/// Size of one small receive buffer. Chatty traffic fits in one; the whole pool should stay near the size of
/// the L2 cache, because the kernel walks through all the buffers that are published to it.
pub const BUFFER_BYTES: usize = 4 * 1024;

/// Small buffers a worker has in all: 8 MiB, touched only as far as traffic needs them.
pub const BUFFERS_MAX: usize = 2048;

/// Small buffers published to the kernel at most. The kernel uses them in turn, so that fewer stay hotter; too few
/// end multishot receives with ENOBUFS (64 buffers for 512 busy connections halved the throughput).
pub const BUFFERS_PUBLISHED: usize = 512;

/// Small buffers published while traffic is light: 2 to 6 % less work for a round trip than with [`BUFFERS_PUBLISHED`].
pub const BUFFERS_PUBLISHED_MIN: usize = 64;

/// Large buffers published while traffic is light, and not more than receives wait for one. Receives that wait outnumber
/// the buffers where sessions rest after a large transfer.
pub const BULK_BUFFERS_PUBLISHED_MIN: usize = 16;

/// Turns of light traffic after which half as many buffers are published.
pub const BUFFERS_QUIET_TURNS: u32 = 1024;

/// Size of one large buffer, for a direction that has proved to be bulk.
pub const BULK_BUFFER_BYTES: usize = 64 * 1024;

/// Large buffers a worker has: 8 MiB, touched only as far as traffic needs them.
pub const BULK_BUFFERS_MAX: usize = 128;

/// Bytes that one splice moves at most: some tenths of a millisecond's work.
pub const SPLICE_BYTES: usize = 1024 * 1024;

/// The same where half of a worker's pipes or more hold bytes, because readers are slow.
pub const SPLICE_BYTES_SHORT: usize = 128 * 1024;

/// When so many bytes were spliced in one turn, messages come first again.
pub const SPLICE_TURN_BYTES: usize = 256 * 1024;

/// After a turn with so many other completions there may be more, which come before what is to be spliced ...
pub const SPLICE_MESSAGES_FIRST: usize = 16;

/// ... for so many turns in a row.
pub const SPLICE_TURNS_LATER: u32 = 4;

/// A piece of so many bytes is worth splicing: two system calls cost about as much as copying half of it twice.
pub const SPLICE_PIECE_BYTES: usize = 16 * 1024;

/// Room of one pipe as the kernel counts it: a page each for 256 fragments. What comes from a network card has one to four
/// kilobytes a fragment, what comes from the loopback up to 32.
pub const PIPE_BYTES: usize = 1024 * 1024;

/// Room of one where the kernel does not allow that much.
pub const PIPE_BYTES_LEAST: usize = 256 * 1024;

/// Pipes of one worker, all workers of an unprivileged user together having room for 64 (`fs.pipe-user-pages-soft`). A
/// direction has one only while it holds bytes in it, so that few are used unless many readers are slow.
pub const PIPES_MAX: usize = 64;

/// Empty pipes that a worker keeps for the next bytes.
pub const PIPES_KEPT: usize = 4;

/// Of so many descriptors that the process may open, pipes may have one.
pub const PIPE_DESCRIPTORS_SHARE: usize = 16;

/// Splices that are refused without asking the kernel, after it has refused a pipe.
pub const PIPE_RETRY: u32 = 256;

/// What one multishot receive may deliver after it has been asked to stop: the kernel hands over up to
/// 32 + 1 buffers before it looks up.
pub const RECEIVE_OVERSHOOT_BYTES: usize = 33 * BUFFER_BYTES;

/// Bytes received and not yet sent at which one direction of one session stops receiving.
pub const WATERMARK_HIGH_BYTES: usize = 64 * 1024;

/// Bytes left unsent at which it receives again.
pub const WATERMARK_LOW_BYTES: usize = 16 * 1024;

/// What one direction of one session can hold at most, whatever its peers do: a splice's worth in a pipe, or received up to
/// the high mark, where the piece that crosses it may be almost all above it.
pub const DIRECTION_BYTES_MAX: usize = max(SPLICE_BYTES, WATERMARK_HIGH_BYTES + BUFFER_BYTES + RECEIVE_OVERSHOOT_BYTES);

/// Bytes of stalled directions that may be copied out of the receive buffers to the heap, in each worker, so that
/// clients who do not read cannot take the buffers of those who do.
pub const SPILL_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Small buffers that must be free; below it stalled directions give theirs back (see [`SPILL_BYTES_MAX`]).
pub const BUFFERS_RESERVE: usize = BUFFERS_MAX / 4;

/// Large buffers that must be free, likewise.
pub const BULK_BUFFERS_RESERVE: usize = BULK_BUFFERS_MAX / 4;

/// How long a send may make no progress, while buffers are short, before it has to give its buffers back.
pub const RECLAIM_INTERVAL: Duration = Duration::from_millis(20);

/// Chunks gathered into one send.
pub const GATHER_MAX: usize = 16;

/// Entries of the submission queue of one worker.
pub const SUBMISSION_ENTRIES: u32 = 2048;

/// Entries of the completion queue of one worker. An overflow ends every multishot operation, so it is large;
/// an entry is 16 bytes.
pub const COMPLETION_ENTRIES: u32 = 32 * 1024;

/// Sends of several chunks that can be prepared between two submissions; one more submits early.
pub const SCRATCH_GATHERS: usize = 256;

/// Connects that can be prepared between two submissions; one more submits early.
pub const SCRATCH_ADDRESSES: usize = 128;

/// Sockets that one slot has: roles are numbered below this, so that what is in flight fits in a table.
pub const ROLES_MAX: usize = 4;

/// What the engine keeps of the operations in flight on the two sockets of a session: for each the length of the send, the
/// descriptor of the receive, and a few bits.
pub const FLIGHTS_BYTES: usize = 24;

/// What the wheel keeps of a session's timer: the time, and two neighbours.
pub const TIMER_BYTES: usize = 16;

/// User memory of a session at rest: its slot, its flights and its timer. It is what a hundred thousand idle clients cost,
/// and five cache lines are what a busy one touches. Whatever most sessions can do without belongs into
/// `worker::session::rarely`; see docs/decisions/session-memory.md.
pub const SESSION_BYTES_MAX: usize = 336;

/// How often a worker gives back the memory that traffic has left behind. A worker without traffic does so a few times and sleeps.
pub const TIDY_INTERVAL: Duration = Duration::from_millis(500);

/// Free memory that the allocator keeps at the end of each thread's heap. As it comes it keeps 128 KiB and more, which is
/// much for a process at rest.
pub const HEAP_TOP_KEPT_BYTES: i32 = 16 * 1024;

/// The allocator of glibc looks at the end of a heap when 64 KiB or more are freed at once; blocks of 128 KiB are not in a heap.
pub const HEAP_FREED_BYTES: usize = 96 * 1024;

/// Completions of a turn for which the list keeps room for the next.
pub const COMPLETIONS_KEPT: usize = 256;

/// Attempts to submit, a millisecond apart, when the kernel says that it cannot take more for now (out of memory for
/// requests); then the ring is given up.
pub const SUBMIT_TRIES: usize = 1000;

/// Turns in which a ring that is dropped waits for the kernel to let go, of [`RING_DRAIN_WAIT`] at most each.
pub const RING_DRAIN_TURNS: usize = 64;

/// See [`RING_DRAIN_TURNS`].
pub const RING_DRAIN_WAIT: Duration = Duration::from_millis(20);

/// Turns that the test of a new ring may take, of [`PROBE_WAIT`] at most each: it needs three.
pub const PROBE_TURNS: usize = 16;

/// See [`PROBE_TURNS`].
pub const PROBE_WAIT: Duration = Duration::from_millis(250);

/// Workers at most: each has a ring, buffers and listening sockets of its own.
pub const WORKERS_MAX: usize = 1024;

/// Bytes that wait in our send queue when the peer of the other side has reset are owed; for so long.
pub const RESET_FLUSH_MAX: Duration = Duration::from_secs(5);

/// First look whether they were acknowledged; each next look waits twice as long, up to [`UNSENT_POLL_MAX`].
pub const UNSENT_POLL_MIN: Duration = Duration::from_millis(10);

/// See [`UNSENT_POLL_MIN`].
pub const UNSENT_POLL_MAX: Duration = Duration::from_secs(1);

/// A refused client's unread bytes are discarded for so long before its socket is closed ...
pub const REFUSAL_LINGER_MAX: Duration = Duration::from_secs(1);

/// ... and up to so many, because closing over unread bytes would reset the connection and destroy the refusal.
pub const REFUSAL_DISCARD_BYTES_MAX: u64 = 64 * 1024;

/// A side that has not been received from for so long gets a watch, so that its reset is seen.
pub const WATCH_AFTER: Duration = Duration::from_millis(100);

/// A session without a byte either way for so long gets a watch on both sides: a reset that came together with the last
/// bytes is not told to the receive. Shorter would set more watches in sessions that only pause.
pub const WATCH_QUIET: Duration = Duration::from_millis(250);

/// Time between two keepalive probes, once the first went unanswered.
pub const KEEPALIVE_PROBE_INTERVAL_MAX: Duration = Duration::from_secs(15);

/// How long accepting pauses when the process is out of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a socket that accepts nobody any more is kept, and its queue looked at again: handshakes that had begun end within
/// that, unless the network loses something. Whoever is late is reset.
pub const ACCEPT_REST: Duration = Duration::from_millis(20);

/// How long a proxy may take to send the header of the PROXY protocol, from the moment its connection is accepted.
pub const PROXY_HEADER_MAX: Duration = Duration::from_secs(5);

/// What the protocol demands at least, so that a segment that was lost can come again.
pub const PROXY_HEADER_MIN: Duration = Duration::from_secs(3);

/// Bytes of a header of the PROXY protocol: what fits into the buffer of HAProxy, so that no header that it can send is
/// refused. Addresses take 232 of them at most; the rest is for extensions, which may carry a certificate.
pub const PROXY_HEADER_BYTES_MAX: usize = 16 * 1024;

/// Networks of one list (`allow`, `deny`, `trusted_proxies`): the blocklists that people share have some ten thousand. A
/// client is looked for among so many in 16 steps, and they take 2 MiB.
pub const NETWORKS_MAX: usize = 64 * 1024;

/// Locks among which the clients of a listener are spread while they are counted, so that workers seldom meet at one.
pub const CLIENT_SHARDS: usize = 64;

/// Addresses that connections to the backends of a pool may come from: with some 28,000 ports each, 1.8 million connections to
/// one backend.
pub const SOURCES_MAX: usize = 64;

/// Clients that a listener may accept in a second: one worker takes some hundred thousand, and a bucket counts in nanoseconds.
pub const ACCEPT_RATE_MAX: u32 = 1_000_000;

/// Clients that it may accept at once; with the lowest rate they fill the bucket in 11 days.
pub const ACCEPT_BURST_MAX: u32 = 1_000_000;

/// An `accept_rate` that is reached is told once, and again when nobody had to wait for so long.
pub const ACCEPT_RATE_QUIET: Duration = Duration::from_secs(10);

/// Bits of an IPv6 address that name one client for `max_connections_per_client`: whoever has one address has all of such a
/// network (RFC 6177).
pub const CLIENT_PREFIX_V6: u32 = 64;

/// A session may be shorter than `max_session_duration` by up to this part of it, at random, so that those which began
/// together do not end together.
pub const SESSION_JITTER: u32 = 10;

/// Backends tried for one client at most, however the configuration sets `connect_attempts`.
pub const CONNECT_ATTEMPTS_MAX: usize = 16;

/// Clients of one of the process's own HTTP listeners at a time; more wait in the backlog.
pub const HTTP_CLIENTS_MAX: usize = 64;

/// How long the workers may take to close their sessions when they are told to; then they are left behind.
pub const KILL_MAX: Duration = Duration::from_secs(10);

/// The pause before a thread that has failed twice within [`RESTART_QUIET`] is started again; each further failure doubles
/// it. The first time there is none, because clients wait.
pub const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest of these pauses: clients in the accept queue of a worker give up after longer ones.
pub const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A thread that has run for so long has not failed because of how it began.
pub const RESTART_QUIET: Duration = Duration::from_secs(60);

/// Looks for answers of threads within one interval of the watchdog, once one is late.
pub const WATCHDOG_LOOK: u32 = 8;

/// How long a message to a service manager that does not read may take.
pub const NOTIFY_MAX: Duration = Duration::from_secs(1);

/// Between two lines of status for a service manager.
pub const STATUS_INTERVAL: Duration = Duration::from_secs(5);

/// So many failures of threads within [`FAILURES_WINDOW`], and the process drains and ends: another one may do better.
pub const FAILURES_MAX: usize = 10;

/// See [`FAILURES_MAX`].
pub const FAILURES_WINDOW: Duration = Duration::from_secs(60);

/// How long an HTTP client may take to send its header.
pub const HTTP_HEADER_MAX: Duration = Duration::from_secs(10);

/// Room for an HTTP request's header.
pub const HTTP_BUFFER_BYTES: usize = 16 * 1024;

/// How long one HTTP connection may last, so that clients who do not read cannot hold all places.
pub const HTTP_CONNECTION_MAX: Duration = Duration::from_secs(60);

/// Bytes of the body of a request to the admin API: a set of [`BACKENDS_MAX`] backends, each with every field and the longest
/// name and address, has some 500 bytes for each.
pub const ADMIN_BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A body of up to so many bytes is read at any time ...
pub const ADMIN_SMALL_BODY_BYTES: usize = 64 * 1024;

/// ... and of larger ones so many at a time, so that they take 32 MiB at most.
pub const ADMIN_BODIES_MAX: usize = 4;

/// The shortest lease of a backend: renewing one more often than this would be its main work.
pub const LEASE_MIN: Duration = Duration::from_secs(1);

/// The longest lease of a backend.
pub const LEASE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Clients of the admin API that may wait to be accepted, beyond [`HTTP_CLIENTS_MAX`].
pub const ADMIN_BACKLOG: i32 = 256;

/// How long a command waits for the answer of the admin API.
pub const COMMAND_MAX: Duration = Duration::from_secs(60);

/// How often `status --watch` asks again.
pub const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// News of the workers that may wait for the control thread: as much as thousands of backends have to tell at once.
pub const NEWS_WAITING_MAX: usize = 8192;

/// Slots that a worker looks at for one question about its sessions: some 100 us.
pub const CENSUS_SLOTS: u32 = 256;

/// Sessions in one answer.
pub const SESSIONS_PAGE_MAX: usize = 10_000;

/// Sessions in one answer where the request says nothing.
pub const SESSIONS_PAGE: usize = 1000;

/// How long a worker may take to answer a question; it answers between two turns.
pub const WORKER_ANSWER_MAX: Duration = Duration::from_secs(10);

/// Events that a slow reader may be behind before it loses some.
pub const EVENTS_BEHIND_MAX: usize = 1024;

/// Events of the past that are kept for those who ask.
pub const EVENTS_KEPT: usize = 256;

/// Clients that follow the events at a time.
pub const EVENT_CLIENTS_MAX: usize = 32;

/// How long the HTTP listeners wait after a failed accept.
pub const HTTP_ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Descriptors kept aside for everything that is not a session: logs, rings, listeners, the control thread.
pub const DESCRIPTORS_RESERVE: usize = 256;

/// The largest weight of a backend.
pub const WEIGHT_MAX: u32 = 65_535;

/// Backends of one pool at most. Replacing a set of so many takes the control thread some 40 ms (a second with new hash
/// tables), a scan of all of them a worker some 35 us.
pub const BACKENDS_MAX: usize = 16 * 1024;

/// Backends up to which `least_connections` looks at all of them: a scan of so many takes 3 to 7 us.
pub const LEAST_CONNECTIONS_EXACT_MAX: usize = 1024;

/// How often a client looks again at a group of backends where others have taken what it found free. Each look means that
/// somebody else was served; whoever loses so many moves on as if the group were closed.
pub const SEEK_AGAIN_MAX: usize = 1000;

/// Above it, the best of so many draws is taken: with a chance of 1 - 2^-64 it is in the better half, and on average
/// only one in 65 is better.
pub const LEAST_CONNECTIONS_DRAWS: usize = 64;
/// Bytes of a configuration file: some hundred thousand backends. What is larger is not a configuration but a mistake
/// (a log, a device), and is refused before it fills the memory.
pub const CONFIG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Characters of a duration as it is written; "30days 12hours 15min 10s" has 24. With [`DURATION_DIGITS_MAX`] it keeps
/// every sum far below the overflow of the parser's 64 bits.
pub const DURATION_TEXT_BYTES_MAX: usize = 64;

/// Digits of one number in a duration; see [`DURATION_TEXT_BYTES_MAX`].
pub const DURATION_DIGITS_MAX: usize = 9;

/// Every timeout and delay: 30 days. A session that is silent for longer is forgotten by both of its ends.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// TCP keepalive: the kernel's own maximum (`MAX_TCP_KEEPIDLE`); setting more fails with EINVAL.
pub const KEEPALIVE_MAX: Duration = Duration::from_secs(32_767);

/// TCP keepalive is told to the kernel in whole seconds, and 0 is refused.
pub const KEEPALIVE_MIN: Duration = Duration::from_secs(1);

/// Below a second a peer would be declared dead before its first retransmission has had a chance (the kernel's initial
/// retransmission timeout is one second).
pub const DEAD_PEER_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Clients that wait to be accepted, as asked of the kernel, which cuts it to `net.core.somaxconn` without a word.
/// Kernels have kept this in 16 bits.
pub const BACKLOG_MAX: u32 = 65_535;

/// Sessions of the process or of one listener: one worker's slots, so that no worker can be asked for more than it has.
pub const CONNECTIONS_MAX: u32 = SLOTS_MAX as u32;

/// Listeners of one configuration.
pub const LISTENERS_MAX: usize = 1024;

/// Addresses that all listeners bind together. Every worker has a socket for each.
pub const BINDS_MAX: usize = 1024;

/// Pools of one configuration.
pub const POOLS_MAX: usize = 4096;

/// Bytes of the name of a listener or pool: it becomes a metric's label and a part of a path.
pub const NAME_BYTES_MAX: usize = 64;

/// Bytes of the path of a unix socket: `sun_path` has 108, the last of which is the closing zero.
pub const UNIX_PATH_BYTES_MAX: usize = 107;

/// Bytes of the name of a backend. It may be its address, and the longest of those is `unix:` and a path.
pub const BACKEND_NAME_BYTES_MAX: usize = 128;

/// Bytes of an IP address as it is written, which is what the longest IPv6 address has.
pub const ADDRESS_BYTES_MAX: usize = 39;

/// Characters between two dots of a host name (RFC 1035).
pub const HOST_LABEL_BYTES_MAX: usize = 63;

/// Characters of a host name: 255 bytes on the wire (RFC 1035), less the lengths of its first and its empty last label.
pub const HOST_BYTES_MAX: usize = 253;

/// Name servers of one configuration; the system's own resolver takes three.
pub const RESOLVERS_MAX: usize = 8;

/// Look-ups more often than this would only ask a name server again for what it has just said.
pub const RESOLVE_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// A host name that could not be looked up is tried again so soon, then after twice as long each time, up to the pool's
/// `resolve_interval`.
pub const RESOLVE_RETRY_MIN: Duration = Duration::from_secs(1);

/// How long one look-up may take, all name servers and search domains together.
pub const RESOLVE_MAX: Duration = Duration::from_secs(10);

/// How long one name server may take to answer before the next is asked, where `resolvers` says which they are.
pub const RESOLVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Look-ups under way at a time; each has at most a descriptor for each of its two questions and two servers.
pub const RESOLVES_MAX: usize = 8;

/// How long the start waits for the first look-up of every host name.
pub const RESOLVE_START_MAX: Duration = Duration::from_secs(5);

/// Addresses of one host name that become backends; an answer with more is cut.
pub const HOST_ADDRESSES_MAX: usize = 1024;

/// Time between two active checks. A quarter of it is still longer than a check over a network takes.
pub const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Part of the interval between two checks while a change is being counted.
pub const CHECK_HURRY: u32 = 4;

/// The time between two checks varies by up to this part of it, so that checks which began together do not stay so.
pub const CHECK_JITTER: u32 = 10;

/// Backends that come together are checked for the first time one after the other, so far apart, or spread over their
/// interval where that is shorter: few are known at once, and many are no herd.
pub const CHECK_SPACING: Duration = Duration::from_millis(5);

/// Checks in a row that `rise` and `fall` may want.
pub const CHECKS_MAX: u32 = 255;

/// Active checks under way at a time, where descriptors are plenty; they need one each. With so many, 1,000 backends
/// that never answer are still each checked every 2 s with a timeout of 1 s.
pub const CHECKS_IN_FLIGHT_MAX: usize = 512;

/// Active checks under way at a time where descriptors are scarce: [`DESCRIPTORS_RESERVE`] covers them.
pub const CHECKS_IN_FLIGHT_MIN: usize = 16;

/// Of so many descriptors that the process may open, active checks may have one.
pub const CHECK_DESCRIPTORS_SHARE: usize = 32;

/// Room for the header of the answer to an `http` check.
pub const CHECK_HEADER_BYTES_MAX: usize = 16 * 1024;

/// Bytes of the body of such an answer that are read and thrown away, so that the server is not reset while it writes.
pub const CHECK_BODY_BYTES_MAX: usize = 64 * 1024;

/// Bytes of the path of an `http` check.
pub const CHECK_PATH_BYTES_MAX: usize = 1024;

/// Bytes of the `Host` of an `http` check: a host name, a colon and a port.
pub const CHECK_HOST_BYTES_MAX: usize = HOST_BYTES_MAX + 6;

/// Statuses and ranges that `expect_status` may list.
pub const CHECK_STATUSES_MAX: usize = 64;

/// Backends that go down within so long have their sessions closed together: for each such batch, every worker looks
/// through all of its sessions once.
pub const CLOSE_BATCH: Duration = Duration::from_millis(20);

/// How often the control thread frees what backends and snapshots that are gone have left behind.
pub const COLLECT_INTERVAL: Duration = Duration::from_secs(1);

/// Failed connects of one backend whose times are remembered: a larger `max_fails` counts as this.
pub const FAILS_MAX: u32 = 1000;

/// Parts that `fail_timeout` is divided into to know how many connects finished within it (`fail_share`).
pub const SHARE_PARTS: u32 = 16;

/// A probe of an ejected backend may take the connect timeout and so much longer before another client may try: a
/// worker that is late by more has lost its turn.
pub const PROBE_GRACE: Duration = Duration::from_secs(1);

/// Draws of `random_two` that hit a backend which may not serve, before all are looked at.
pub const RANDOM_DRAWS: usize = 16;

/// How often `source_hash` hashes a client again before it walks through all backends. With half of them out, one
/// client in 2^32 gets so far.
pub const REHASHES_MAX: u64 = 32;

/// Durations up to 2^52 ns (52 days) are told apart in histograms; a longer one counts as that. Sessions may be idle for
/// [`TIMEOUT_MAX`], and few last longer.
pub const HISTOGRAM_NANOS_BITS: u32 = 52;

/// How long the parts are that the windows of the API's percentiles are made of.
pub const LATENCY_TURN: Duration = Duration::from_secs(60);

/// Backends with series of their own in the metrics, however the configuration sets `backend_series_max`: some seventy lines
/// each, which nobody's Prometheus wants for more.
pub const BACKEND_SERIES_MAX: u32 = 100_000;

/// Bytes that a session may have passed on, each way, before they are added to the metrics while it lasts; a power of two.
pub const BYTES_UNREPORTED_MAX: u64 = 64 * 1024;

/// Records of the access log that one worker may have queued: with 200 bytes each some 1.6 MB. At 20,000 sessions a second
/// they are full after 0.4 s in which the files thread does not write.
pub const ACCESS_LOG_QUEUE: usize = 8192;

/// Bytes of lines that are written at a time.
pub const ACCESS_LOG_BATCH_BYTES: usize = 256 * 1024;

/// How long the files thread lets lines gather after it has written some; a line is not older than this when it is
/// written, and 50 writes a second are the most while traffic is light.
pub const ACCESS_LOG_PAUSE: Duration = Duration::from_millis(20);

/// Time between two looks whether a standard output that does not block takes more.
pub const ACCESS_LOG_RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Time between two lines of the log about records that were dropped.
pub const ACCESS_LOG_TELL_INTERVAL: Duration = Duration::from_secs(1);

/// How long the files thread rests before it begins again after a failure.
pub const ACCESS_LOG_RESTART_PAUSE: Duration = Duration::from_millis(100);

/// How long the end of the process waits for the access log, after the last session. A log that nobody reads must not
/// hold it up for ever.
pub const ACCESS_LOG_END_MAX: Duration = Duration::from_secs(3);

/// Bytes of a state file. A pool of [`BACKENDS_MAX`] backends that were all changed takes some 10 MB. What is larger is not
/// read, and not written.
pub const STATE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Time between two writes of the state file, each of which the disk has to confirm. What an edit does counts at once; so
/// long it may be lost by a crash of the host or a SIGKILL.
pub const STATE_PAUSE: Duration = Duration::from_secs(1);

/// Time between two attempts to write a state file where one has failed.
pub const STATE_RETRY_PAUSE: Duration = Duration::from_secs(5);

/// How long the end of the process waits for the state file. A disk that does not answer must not hold it up for ever.
pub const STATE_END_MAX: Duration = Duration::from_secs(5);

const _: () = assert!(BYTES_UNREPORTED_MAX.is_power_of_two());
const _: () = assert!(TIMEOUT_MAX.as_nanos() < 1 << HISTOGRAM_NANOS_BITS);

const fn max(one: usize, other: usize) -> usize {
    if one > other { one } else { other }
}

const _: () = assert!(FAILURES_MAX as u128 * RESTART_PAUSE_MAX.as_millis() < FAILURES_WINDOW.as_millis());
const _: () = assert!(WATERMARK_LOW_BYTES < WATERMARK_HIGH_BYTES);
const _: () = assert!(2 * BULK_BUFFER_BYTES <= DIRECTION_BYTES_MAX, "a bulk direction holds two pieces at most");
const _: () = assert!(SPLICE_BYTES_SHORT < SPLICE_BYTES && SPLICE_BYTES <= PIPE_BYTES && PIPES_KEPT <= PIPES_MAX);
const _: () = assert!(BUFFER_BYTES < SPLICE_PIECE_BYTES && SPLICE_PIECE_BYTES <= BULK_BUFFER_BYTES);
const _: () = assert!(BUFFERS_PUBLISHED.is_power_of_two() && BUFFERS_PUBLISHED <= BUFFERS_MAX);
const _: () = assert!(BULK_BUFFERS_MAX.is_power_of_two() && BUFFERS_MAX + BULK_BUFFERS_MAX <= 1 << 15);
const _: () = assert!(BUFFERS_PUBLISHED_MIN > 33, "one receive takes up to 33 at once");
const _: () = assert!(BULK_BUFFERS_PUBLISHED_MIN.is_power_of_two() && BULK_BUFFERS_PUBLISHED_MIN < BULK_BUFFERS_MAX);
const _: () = assert!(BUFFERS_PUBLISHED_MIN.is_power_of_two() && BUFFERS_PUBLISHED_MIN < BUFFERS_PUBLISHED);
const _: () = assert!(BUFFERS_RESERVE < BUFFERS_MAX);
const _: () = assert!(CLIENT_SHARDS.is_power_of_two() && SESSION_JITTER > 1);
const _: () = assert!(PROXY_HEADER_MIN.as_millis() <= PROXY_HEADER_MAX.as_millis());
const _: () = assert!(PROXY_HEADER_BYTES_MAX <= WATERMARK_LOW_BYTES, "a header is received without a pause");
const _: () =
    assert!(STATE_BYTES_MAX >= 4 * CONFIG_BYTES_MAX, "the file's backends and the live ones, both with every key");
const _: () = assert!(COMPLETION_ENTRIES >= 4 * SUBMISSION_ENTRIES);
const _: () = assert!(UNSENT_POLL_MIN.as_millis() < UNSENT_POLL_MAX.as_millis());
const _: () = assert!(UNSENT_POLL_MAX.as_millis() < RESET_FLUSH_MAX.as_millis());
const _: () = assert!(BACKEND_NAME_BYTES_MAX >= "unix:".len() + UNIX_PATH_BYTES_MAX);
const _: () = assert!(BINDS_MAX >= LISTENERS_MAX, "each listener binds at least one address");
const _: () = assert!(KEEPALIVE_MIN.as_millis() < KEEPALIVE_MAX.as_millis());
const _: () = assert!(DEAD_PEER_TIMEOUT_MIN.as_millis() < TIMEOUT_MAX.as_millis());
const _: () = assert!(SLOTS_MAX <= 1 << 24, "a slot travels in 24 bits of an operation's tag");
const _: () = assert!(LEAST_CONNECTIONS_DRAWS < LEAST_CONNECTIONS_EXACT_MAX);
const _: () = assert!(LEAST_CONNECTIONS_EXACT_MAX < BACKENDS_MAX && BACKENDS_MAX <= u16::MAX as usize);
const _: () = assert!(BACKEND_NAME_BYTES_MAX > HOST_LABEL_BYTES_MAX + ":65535/".len() + ADDRESS_BYTES_MAX);
const _: () = assert!(CHECKS_IN_FLIGHT_MIN <= CHECKS_IN_FLIGHT_MAX && CHECK_JITTER > 1 && CHECK_HURRY > 1);
const _: () =
    assert!(2 * HTTP_CLIENTS_MAX + EVENT_CLIENTS_MAX + CHECKS_IN_FLIGHT_MIN + 4 * RESOLVES_MAX < DESCRIPTORS_RESERVE);
const _: () = assert!(ADMIN_BODY_BYTES_MAX >= 500 * BACKENDS_MAX);
const _: () = assert!(RESOLVE_INTERVAL_MIN.as_millis() < RESOLVE_RETRY_MIN.as_millis());
const _: () = assert!(HOST_ADDRESSES_MAX < BACKENDS_MAX);
