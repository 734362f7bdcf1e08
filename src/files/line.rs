//! A record becomes a line: `key=value` pairs, or a JSON object. Whatever stands in a value, a line is one line.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use super::record::{End, Record};
use crate::relay::{CloseReason, HeaderFault, Kill, Side};
use crate::time::Time;

/// The form of the lines.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// Pairs of keys and values.
    Text,
    /// One JSON object a line.
    Json,
}

/// One field of a line.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    /// What it tells.
    pub meaning: &'static str,
}

const fn field(name: &'static str, meaning: &'static str) -> Field {
    Field { name, meaning }
}

/// Every field, in the order in which they stand in a line. A line at a session's start has the first [`START_FIELDS`].
#[rustfmt::skip]
pub const FIELDS: [Field; 20] = [
    field("time", "when this happened, RFC 3339 in UTC, to the millisecond"),
    field("event", "`end`, or `start` with `access_log_start = true`"),
    field("session", "tells the sessions of this process apart: worker, slot, how often the slot was used; `0.1` is worker 0 after it was started again"),
    field("listener", "the listener's name"),
    field("client", "the client's address and port; behind a trusted proxy what that says, but in a `start` the proxy's own; absent for a unix socket"),
    field("pool", "the pool's name"),
    field("backend", "the backend that was chosen last, by its name; absent where none was"),
    field("backend_address", "its address when it was chosen"),
    field("from_client", "bytes received from the client, without a proxy's header"),
    field("from_backend", "bytes received from the backend"),
    field("attempts", "connects begun for this client"),
    field("queue_ms", "how long it waited in the queue for a place with a backend"),
    field("connect_ms", "how long the connect took that succeeded; absent where none did"),
    field("first_byte_ms", "from then to the backend's first byte; absent where there was none"),
    field("total_ms", "from accept to the end of the session"),
    field("reason", "why it ended, as in `ringlb_sessions_closed_total`"),
    field("ended_by", "who ended it: `client`, `backend`, `ringlb` (a limit, a timeout, a lack) or `operator`"),
    field("errno", "the kernel's error behind it, by name; absent where there is none"),
    field("client_rtt_ms", "smoothed round-trip time of the client's connection at its close; absent where it is unknown"),
    field("backend_rtt_ms", "the same of the backend's connection"),
];

/// How many fields a line at a session's start has.
pub const START_FIELDS: usize = 6;

/// Turns monotonic time into that of the day.
#[derive(Copy, Clone, Debug)]
pub struct Clock {
    monotonic: Time,
    wall: SystemTime,
}

impl Clock {
    /// As the clocks stand now.
    pub fn now() -> Clock {
        let monotonic = clock_gettime(ClockId::Monotonic);
        let nanos = monotonic.tv_sec.unsigned_abs() * 1_000_000_000 + monotonic.tv_nsec.unsigned_abs();
        Clock { monotonic: Time::from_nanos(nanos), wall: SystemTime::now() }
    }

    fn wall(&self, at: Time) -> SystemTime {
        let wall = if at < self.monotonic {
            self.wall.checked_sub(self.monotonic - at)
        } else {
            self.wall.checked_add(at - self.monotonic)
        };
        // A clock that is not set yet may stand at 1970.
        wall.filter(|wall| *wall >= UNIX_EPOCH).unwrap_or(UNIX_EPOCH)
    }
}

/// Appends the line of `record`, with its end.
pub fn write(line: &mut Vec<u8>, form: Form, record: &Record, clock: &Clock) {
    let mut values = Values { line, form, number: 0 };
    values.text(format_args!("{}", humantime::format_rfc3339_millis(clock.wall(record.at))));
    values.word(if record.end.is_some() { "end" } else { "start" });
    values.text(format_args!("{}", record.session));
    values.word(&record.route.listener);
    values.optional(record.client);
    values.word(&record.route.pool);
    if let Some(end) = &record.end {
        write_end(&mut values, end);
    }
    debug_assert!([START_FIELDS, FIELDS.len()].contains(&values.number));
    values.finish();
}

fn write_end(values: &mut Values<'_>, end: &End) {
    let backend = end.backend.as_deref();
    values.optional(backend.map(|backend| &backend.name));
    values.optional(backend.map(|backend| &backend.address));
    let [from_client, from_backend] = end.received;
    values.number(from_client);
    values.number(from_backend);
    values.number(u64::from(end.attempts));
    values.milliseconds(Some(end.queue));
    values.milliseconds(end.connect);
    values.milliseconds(end.first_byte);
    values.milliseconds(Some(end.total));
    values.word(end.reason.label());
    values.word(ended_by(end.reason));
    values.optional(end.reason.errno());
    for rtt in end.rtt_us {
        values.milliseconds((rtt > 0).then(|| Duration::from_micros(rtt.into())));
    }
}

/// Who ended a session.
pub fn ended_by(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Eof(side) | CloseReason::Failed(side, _) | CloseReason::DeadPeer(side) => match side {
            Side::Client => "client",
            Side::Backend => "backend",
        },
        CloseReason::Header(HeaderFault::Unfinished) => "client",
        CloseReason::ConnectFailed(_) => "backend",
        CloseReason::Killed(Kill::Operator | Kill::Shutdown) => "operator",
        _ => "ringlb",
    }
}

/// Writes the values of one line, one after the other.
struct Values<'l> {
    line: &'l mut Vec<u8>,
    form: Form,
    number: usize,
}

impl Values<'_> {
    fn word(&mut self, word: &str) {
        self.key();
        match self.form {
            Form::Text if is_plain(word) => self.line.extend_from_slice(word.as_bytes()),
            // The notation of JSON is what readers of `key=value` lines know, too; it has no control characters.
            Form::Text | Form::Json => quote(self.line, word),
        }
    }

    fn text(&mut self, text: std::fmt::Arguments<'_>) {
        // A time, a number, an address: short, and once a line.
        self.word(&text.to_string());
    }

    fn optional(&mut self, value: Option<impl std::fmt::Display>) {
        match value {
            Some(value) => self.text(format_args!("{value}")),
            None => self.absent(),
        }
    }

    fn number(&mut self, number: u64) {
        self.key();
        self.push(format_args!("{number}"));
    }

    fn milliseconds(&mut self, duration: Option<Duration>) {
        let Some(duration) = duration else { return self.absent() };
        self.key();
        let micros = duration.as_micros();
        self.push(format_args!("{}.{:03}", micros / 1000, micros % 1000));
    }

    fn absent(&mut self) {
        self.key();
        self.line.extend_from_slice(if self.form == Form::Json { b"null" } else { b"-" });
    }

    fn key(&mut self) {
        let name = FIELDS[self.number].name;
        match (self.form, self.number) {
            (Form::Text, 0) => self.push(format_args!("{name}=")),
            (Form::Text, _) => self.push(format_args!(" {name}=")),
            (Form::Json, 0) => self.push(format_args!("{{\"{name}\":")),
            (Form::Json, _) => self.push(format_args!(",\"{name}\":")),
        }
        self.number += 1;
    }

    fn finish(self) {
        self.line.extend_from_slice(if self.form == Form::Json { b"}\n" } else { b"\n" });
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        self.line.write_fmt(text).unwrap_or_else(|error| unreachable!("memory takes what is written: {error}"));
    }
}

/// Whether a word can stand without quotes, and be told from an absent value.
fn is_plain(word: &str) -> bool {
    !matches!(word, "" | "-") && word.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\=".contains(&byte))
}

/// In quotes, with escapes for all that is not printable ASCII.
fn quote(line: &mut Vec<u8>, word: &str) {
    let mut quoted = String::with_capacity(word.len() + 2);
    quoted.push('"');
    for unit in word.encode_utf16() {
        match char::from_u32(unit.into()) {
            Some(c @ ('"' | '\\')) => quoted.extend(['\\', c]),
            Some(c @ ' '..='~') => quoted.push(c),
            _ => write!(quoted, "\\u{unit:04x}").unwrap_or_else(|error| unreachable!("memory takes it: {error}")),
        }
    }
    quoted.push('"');
    line.extend_from_slice(quoted.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::address::Address;
    use crate::errno::Errno;
    use crate::files::record::{BackendNames, RouteNames, SessionId};
    use crate::slots::Key;

    fn record(end: Option<End>) -> Record {
        Record {
            at: Time::from_millis(5_000),
            session: SessionId { worker: 1, life: 0, key: Key::new(7, 3) },
            route: Arc::new(RouteNames { listener: "web".into(), pool: "back".into() }),
            client: Some("192.0.2.7:5000".parse().unwrap()),
            end,
        }
    }

    fn end(name: &str, address: Address) -> End {
        End {
            backend: Some(Arc::new(BackendNames { name: name.into(), address })),
            received: [517, 1_048_576],
            attempts: 2,
            queue: Duration::from_millis(3),
            connect: Some(Duration::from_micros(1_042)),
            first_byte: None,
            total: Duration::from_secs(61),
            rtt_us: [0, 92],
            reason: CloseReason::Failed(Side::Backend, Errno::ECONNRESET),
        }
    }

    fn line(form: Form, record: &Record) -> String {
        let monotonic = Time::from_millis(5_250);
        let clock = Clock { monotonic, wall: UNIX_EPOCH + Duration::from_millis(1_700_000_000_250) };
        let mut line = Vec::new();
        write(&mut line, form, record, &clock);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn a_line_of_text() {
        let inet = Address::Inet("10.0.0.1:3000".parse().unwrap());
        assert_eq!(
            line(Form::Text, &record(Some(end("a", inet)))),
            "time=2023-11-14T22:13:20.000Z event=end session=1-7-3 listener=web client=192.0.2.7:5000 pool=back backend=a \
             backend_address=10.0.0.1:3000 from_client=517 from_backend=1048576 attempts=2 queue_ms=3.000 connect_ms=1.042 first_byte_ms=- \
             total_ms=61000.000 reason=backend_reset ended_by=backend errno=ECONNRESET client_rtt_ms=- backend_rtt_ms=0.092\n"
        );
        assert_eq!(
            line(Form::Text, &record(None)),
            "time=2023-11-14T22:13:20.000Z event=start session=1-7-3 listener=web client=192.0.2.7:5000 pool=back\n"
        );
    }

    #[test]
    fn a_line_of_json_has_every_field_in_order() {
        let line = line(Form::Json, &record(Some(end("a", Address::Inet("[::1]:3000".parse().unwrap())))));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let mut at = 0;
        for field in FIELDS {
            assert!(value.get(field.name).is_some(), "{} in {line}", field.name);
            let found = line.find(&format!("\"{}\":", field.name)).unwrap();
            assert!(at <= found, "{} in {line}", field.name);
            at = found;
        }
        assert_eq!(value.as_object().unwrap().len(), FIELDS.len());
        assert_eq!(
            (&value["connect_ms"], &value["first_byte_ms"]),
            (&serde_json::json!(1.042), &serde_json::json!(null))
        );
        assert_eq!(value["backend_address"], "[::1]:3000");
    }

    /// What somebody can choose must not forge a line, a field or a value.
    #[test]
    fn nothing_in_a_value_ends_the_line_or_the_value() {
        let evil = "a\nb\r\"\\ = x\u{1b}[31m\u{85}\u{2028}é😀\u{0}\u{7f}";
        let record = record(Some(end(evil, Address::Unix(format!("/run/{evil}").into()))));
        for form in [Form::Text, Form::Json] {
            let line = line(form, &record);
            assert_eq!(line.find('\n'), Some(line.len() - 1), "{line:?}");
            assert!(line.trim_end_matches('\n').bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
        }
        let json: serde_json::Value = serde_json::from_str(&line(Form::Json, &record)).unwrap();
        assert_eq!(json["backend"], evil);
        let text = line(Form::Text, &record);
        let quoted = text.split(" backend=").nth(1).unwrap().split(" backend_address=").next().unwrap();
        assert_eq!(serde_json::from_str::<String>(quoted).unwrap(), evil);
        assert!(!is_plain("-") && !is_plain("") && !is_plain("a b") && !is_plain("a=b") && is_plain("10.0.0.1:80"));
    }

    #[test]
    fn a_wall_clock_before_1970_is_1970() {
        let clock = Clock { monotonic: Time::from_millis(9_000), wall: UNIX_EPOCH };
        assert_eq!(clock.wall(Time::from_millis(1)), UNIX_EPOCH);
        assert_eq!(clock.wall(Time::from_millis(9_001)), UNIX_EPOCH + Duration::from_millis(1));
    }

    #[test]
    fn who_ended_it() {
        let cases = [
            (CloseReason::Eof(Side::Client), "client"),
            (CloseReason::Failed(Side::Backend, Errno::ECONNRESET), "backend"),
            (CloseReason::DeadPeer(Side::Backend), "backend"),
            (CloseReason::ConnectFailed(Errno::ECONNREFUSED), "backend"),
            (CloseReason::NoBackend, "ringlb"),
            (CloseReason::IdleTimeout, "ringlb"),
            (CloseReason::Killed(Kill::BackendDown), "ringlb"),
            (CloseReason::Killed(Kill::Shutdown), "operator"),
        ];
        for (reason, by) in cases {
            assert_eq!(ended_by(reason), by, "{reason:?}");
        }
    }
}
