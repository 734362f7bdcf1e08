//! What an active check is told to be.

use std::fmt;
use std::num::NonZeroU16;
use std::ops::RangeInclusive;
use std::time::Duration;

use hyper::http::HeaderValue;
use hyper::http::uri::PathAndQuery;
use toml::de::DeValue;

use crate::config::fault::Problem;
use crate::config::notation::quoted;
use crate::config::value::{number, one_of, shown};
use crate::limits::{CHECK_HOST_BYTES_MAX, CHECK_PATH_BYTES_MAX, CHECK_STATUSES_MAX};

/// The active checks of a pool. How many of them decide stands in
/// [`HealthSettings`](crate::balance::settings::HealthSettings).
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// What is done.
    pub check: Check,
    /// The port that is checked; `None`: the backend's own. Unix sockets have none.
    pub port: Option<NonZeroU16>,
    /// Time from the beginning of one check to that of the next.
    pub interval: Duration,
    /// How long one check may take, its connect included.
    pub timeout: Duration,
    /// What becomes of the sessions of a backend that goes down.
    pub on_down: OnDown,
}

/// What a check does.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// Connects, and closes.
    Tcp,
    /// Connects, asks, and looks at the status of the answer.
    Http {
        /// What it asks for.
        path: PathAndQuery,
        /// The statuses that pass.
        expect: Statuses,
        /// What it says in `Host`; `None`: the backend's address as it is written.
        host: Option<HeaderValue>,
    },
}

/// What becomes of the sessions of a backend that goes down.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum OnDown {
    /// They go on as long as they can.
    Keep,
    /// They are ended.
    Close,
}

/// Statuses of HTTP; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

impl Statuses {
    /// These ranges, where there is at least one and none is empty.
    pub fn new(ranges: Vec<RangeInclusive<u16>>) -> Option<Statuses> {
        let fits = !ranges.is_empty() && !ranges.iter().any(RangeInclusive::is_empty);
        fits.then_some(Statuses(ranges))
    }

    /// Whether `status` is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

/// As in `200-399, 404`.
impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            match (range.start(), range.end()) {
                (start, end) if start == end => write!(f, "{comma}{start}")?,
                (start, end) => write!(f, "{comma}{start}-{end}")?,
            }
        }
        Ok(())
    }
}

/// The value of `kind`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp,
    Http,
}

/// The kind of a check.
///
/// # Errors
/// Neither of the two.
pub(super) fn kind(text: &str) -> Result<Kind, Problem> {
    match text {
        "tcp" => Ok(Kind::Tcp),
        "http" => Ok(Kind::Http),
        _ => {
            let what = format!("{} is not a kind of check", quoted(text));
            Err(Problem::new(what, "a check connects, or asks over HTTP/1.1", one_of(text, &["tcp", "http"])))
        }
    }
}

/// What becomes of sessions.
///
/// # Errors
/// Neither of the two.
pub(super) fn on_down(text: &str) -> Result<OnDown, Problem> {
    match text {
        "keep" => Ok(OnDown::Keep),
        "close" => Ok(OnDown::Close),
        _ => {
            let what = format!("{} says nothing of sessions", quoted(text));
            Err(Problem::new(
                what,
                "those of a backend that goes down are kept or closed",
                one_of(text, &["keep", "close"]),
            ))
        }
    }
}

/// What an `http` check asks for.
///
/// # Errors
/// Not a path.
pub(super) fn path(text: &str) -> Result<PathAndQuery, Problem> {
    let fits = text.starts_with('/') && !text.contains('#') && text.len() <= CHECK_PATH_BYTES_MAX;
    text.parse().ok().filter(|_| fits).ok_or_else(|| {
        Problem::new(
            format!("{} is not a path", quoted(text)),
            format!("it begins with `/`, has at most {CHECK_PATH_BYTES_MAX} bytes, and no spaces or `#`"),
            "write it as in \"/health\" or \"/health?from=ringlb\"",
        )
    })
}

/// What an `http` check says in `Host`.
///
/// # Errors
/// What no host is called.
pub(super) fn host(text: &str) -> Result<HeaderValue, Problem> {
    let fits = (1..=CHECK_HOST_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    text.parse().ok().filter(|_| fits).ok_or_else(|| {
        Problem::new(
            format!("{} is not a host", quoted(text)),
            format!("it has 1 to {CHECK_HOST_BYTES_MAX} visible characters"),
            "write it as in \"app.example\" or \"app.example:8080\"",
        )
    })
}

/// The statuses that pass: one, a range, or a list of both.
///
/// # Errors
/// What is no status.
pub(super) fn statuses(value: &DeValue<'_>) -> Result<Statuses, Problem> {
    let ranges = match value {
        DeValue::Array(array) if array.len() <= CHECK_STATUSES_MAX => {
            array.iter().map(|element| range(element.get_ref())).collect::<Result<Vec<_>, _>>()?
        }
        DeValue::Array(array) => {
            let what = format!("a list of {}", array.len());
            return Err(Problem::new(what, format!("the most is {CHECK_STATUSES_MAX}"), STATUSES));
        }
        one => vec![range(one)?],
    };
    let nothing = || Problem::new("an empty list", "no check could ever pass", STATUSES);
    Statuses::new(ranges).ok_or_else(nothing)
}

const STATUSES: &str = "write it as in 200, \"200-399\" or [200, \"300-399\"]";

/// Final statuses: those below 200 only announce one.
const STATUS: RangeInclusive<u32> = 200..=599;

fn range(value: &DeValue<'_>) -> Result<RangeInclusive<u16>, Problem> {
    if let DeValue::Integer(_) = value {
        let status = number(value, STATUS).map_err(|problem| Problem { help: STATUSES.into(), ..problem })? as u16;
        return Ok(status..=status);
    }
    let bounds = value.as_str().and_then(|text| text.split_once('-'));
    let bound = |text: &str| text.trim().parse().ok().filter(|status| STATUS.contains(&u32::from(*status)));
    match bounds.map(|(start, end)| (bound(start), bound(end))) {
        Some((Some(start), Some(end))) if start <= end => Ok(start..=end),
        _ => {
            let why = "a status is a number from 200 to 599, and a range two of them, the smaller one first";
            Err(Problem::new(format!("{} is not a status", shown(value)), why, STATUSES))
        }
    }
}
