//! Single values: what was typed becomes what it means, or a problem that says what would be right.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeInteger, DeValue};

use crate::address::Address;
use crate::balance::settings::{Percent, Policy, Share, Weight};
use crate::config::backend::Target;
use crate::config::fault::Problem;
use crate::config::notation::{self, quoted};
use crate::config::{Admin, LogFilter, LogFormat, LogTarget, Workers};
use crate::limits::{
    BACKEND_NAME_BYTES_MAX, DURATION_DIGITS_MAX, DURATION_TEXT_BYTES_MAX, KEEPALIVE_MAX, KEEPALIVE_MIN, NAME_BYTES_MAX,
    RESOLVERS_MAX, WEIGHT_MAX, WORKERS_MAX,
};
use crate::relay::WhenNone;
use crate::wire::proxy::Version;

/// The text of a string.
///
/// # Errors
/// The value is not a string.
pub fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Problem> {
    value.as_str().ok_or_else(|| {
        Problem::new(
            format!("{} is not text", shown(value)),
            "text is expected here",
            "put it between quotes, as in \"text\"",
        )
    })
}

/// A duration within `range`.
///
/// # Errors
/// The value is not a duration or lies outside.
pub fn duration(value: &DeValue<'_>, range: RangeInclusive<Duration>) -> Result<Duration, Problem> {
    let Some(text) = value.as_str() else {
        let help = match value.as_integer() {
            Some(number) => format!("write it with its unit and in quotes, as in \"{}s\"", number.as_str()),
            None => "write a number with a unit, in quotes, as in \"10s\"".to_owned(),
        };
        let why = "a duration is text, because a number alone does not say its unit";
        return Err(Problem::new(format!("{} is not a duration", shown(value)), why, help));
    };
    let duration = parse_duration(text)?;
    if range.contains(&duration) {
        return Ok(duration);
    }
    let (least, most) = (humantime::format_duration(*range.start()), humantime::format_duration(*range.end()));
    let why = if duration < *range.start() { format!("the least is {least}") } else { format!("the most is {most}") };
    Err(Problem::new(
        format!("{} is out of range", quoted(text)),
        why,
        format!("write a duration from \"{least}\" to \"{most}\""),
    ))
}

/// A duration, where 0 switches off what it is for.
///
/// # Errors
/// As [`duration`].
pub fn duration_or_off(value: &DeValue<'_>, range: RangeInclusive<Duration>) -> Result<Option<Duration>, Problem> {
    let zero = Duration::ZERO..=*range.end();
    match duration(value, zero)? {
        Duration::ZERO => Ok(None),
        _ => duration(value, range).map(Some).map_err(|problem| {
            let help = format!("{}, or \"0s\" to switch it off", problem.help);
            Problem { help, ..problem }
        }),
    }
}

/// The idle time of TCP keepalive; "0s" switches it off.
///
/// # Errors
/// As [`duration`], or it is not in whole seconds.
pub fn keepalive(value: &DeValue<'_>) -> Result<Option<Duration>, Problem> {
    let keepalive = duration_or_off(value, KEEPALIVE_MIN..=KEEPALIVE_MAX)?;
    if keepalive.is_some_and(|keepalive| keepalive.subsec_nanos() != 0) {
        return Err(Problem::new(
            format!("{} is not in whole seconds", shown(value)),
            "the kernel counts keepalive in seconds",
            "write whole seconds, as in \"60s\"",
        ));
    }
    Ok(keepalive)
}

/// A whole number within `range`.
///
/// # Errors
/// The value is not a whole number or lies outside.
pub fn number(value: &DeValue<'_>, range: RangeInclusive<u32>) -> Result<u32, Problem> {
    let help = format!("write a number from {} to {}", range.start(), range.end());
    let Some(number) = value.as_integer() else {
        let why = "a whole number is expected here, without quotes";
        return Err(Problem::new(format!("{} is not a whole number", shown(value)), why, help));
    };
    let number = as_i64(number);
    match number.and_then(|number| u32::try_from(number).ok()) {
        Some(number) if range.contains(&number) => Ok(number),
        _ => {
            let below = number.is_some_and(|number| number < i64::from(*range.start()));
            let why =
                if below { format!("the least is {}", range.start()) } else { format!("the most is {}", range.end()) };
            Err(Problem::new(format!("{} is out of range", shown(value)), why, help))
        }
    }
}

/// Yes or no.
///
/// # Errors
/// The value is neither `true` nor `false`.
pub fn boolean(value: &DeValue<'_>) -> Result<bool, Problem> {
    value.as_bool().ok_or_else(|| {
        Problem::new(
            format!("{} is neither true nor false", shown(value)),
            "a choice between two is written without quotes",
            "write true or false",
        )
    })
}

/// A number, where 0 means that there is no limit of its own.
///
/// # Errors
/// As [`number`].
pub fn limit(value: &DeValue<'_>, most: u32) -> Result<Option<NonZeroU32>, Problem> {
    number(value, 0..=most).map(NonZeroU32::new)
}

/// The addresses of name servers.
///
/// # Errors
/// Not a list, empty, too long, or with an element that is no such address.
pub fn resolvers(value: &DeValue<'_>) -> Result<Vec<SocketAddr>, Problem> {
    let help = "write it as in [\"127.0.0.53\", \"10.0.0.2:5353\"]";
    let DeValue::Array(array) = value else {
        return Err(Problem::new(
            format!("{} is not a list", shown(value)),
            "a list of addresses is expected here",
            help,
        ));
    };
    if array.is_empty() || array.len() > RESOLVERS_MAX {
        let what = format!("a list of {}", array.len());
        return Err(Problem::new(what, format!("there can be 1 to {RESOLVERS_MAX} name servers"), help));
    }
    array.iter().map(|element| notation::name_server(text(element.get_ref())?)).collect()
}

/// How many workers.
///
/// # Errors
/// Neither a number in range nor "auto".
pub fn workers(value: &DeValue<'_>) -> Result<Workers, Problem> {
    match value {
        DeValue::String(text) => workers_text(text),
        DeValue::Integer(integer) => {
            let count = as_i64(integer).map_or_else(|| integer.to_string(), |count| count.to_string());
            workers_text(&count)
        }
        _ => Err(not_workers(&shown(value))),
    }
}

/// How many workers, as the command line says it.
///
/// # Errors
/// Neither a number in range nor "auto".
pub fn workers_text(text: &str) -> Result<Workers, Problem> {
    if text == "auto" {
        return Ok(Workers::Auto);
    }
    let count = text.parse().ok().filter(|count: &NonZeroUsize| count.get() <= WORKERS_MAX);
    count.map(Workers::Count).ok_or_else(|| not_workers(&quoted(text)))
}

/// The name of a listener or a pool.
///
/// # Errors
/// Too long, or with a character that a metric's label or a path could not carry unchanged.
pub fn name(text: &str) -> Result<String, Problem> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    checked_name(text, NAME_BYTES_MAX, fits, "a name has letters, digits, `_`, `.` and `-` only")
}

/// The name of a backend: wider than [`name`], because it may be an address.
///
/// # Errors
/// Too long, or with a space, a quote, a control character, or one outside of ASCII.
pub fn backend_name(text: &str) -> Result<String, Problem> {
    let fits = |c: char| c.is_ascii_graphic() && !"\"'\\`{},".contains(c);
    checked_name(
        text,
        BACKEND_NAME_BYTES_MAX,
        fits,
        "a backend's name has no spaces, quotes, braces, commas or letters with accents",
    )
}

/// A policy by its name.
///
/// # Errors
/// None of them.
pub fn policy(text: &str) -> Result<Policy, Problem> {
    Policy::ALL.iter().copied().find(|policy| policy.name() == text).ok_or_else(|| {
        let names: Vec<&str> = Policy::ALL.iter().map(|policy| policy.name()).collect();
        let what = format!("{} is not a policy", quoted(text));
        Problem::new(what, "nothing else is known of that name", one_of(text, &names))
    })
}

/// How backends are told who their clients are; "off": not at all.
///
/// # Errors
/// None of the three.
pub fn proxy_protocol(text: &str) -> Result<Option<Version>, Problem> {
    match text {
        "off" => Ok(None),
        "v1" => Ok(Some(Version::V1)),
        "v2" => Ok(Some(Version::V2)),
        _ => Err(Problem::new(
            format!("{} is not a version of the PROXY protocol", quoted(text)),
            "there are two, a line of text and a binary header",
            "write one of \"off\", \"v1\", \"v2\"",
        )),
    }
}

/// What a client gets when no backend may serve it.
///
/// # Errors
/// None of the three.
pub fn when_none(text: &str) -> Result<WhenNone, Problem> {
    WhenNone::ALL.iter().copied().find(|when_none| when_none.name() == text).ok_or_else(|| {
        Problem::new(
            format!("{} is nothing that a client can get", quoted(text)),
            "its connection is closed in order, reset, or answered in HTTP",
            "write one of \"close\", \"reset\", \"http_503\"",
        )
    })
}

/// Where the socket of the admin API is to be; "": nowhere.
///
/// # Errors
/// Not a whole path, or too long for a socket.
pub fn admin(text: &str) -> Result<Admin, Problem> {
    if text.is_empty() {
        return Ok(Admin::Off);
    }
    let path = text.strip_prefix("unix:").unwrap_or(text);
    if !path.starts_with('/') {
        return Err(Problem::new(
            format!("{} is not a whole path", quoted(text)),
            "it does not begin with `/`, and the directory that a service is started in says nothing",
            "write it as in \"/run/ringlb/admin.sock\", or \"\" for no admin API",
        ));
    }
    match notation::target(&format!("unix:{path}"))? {
        Target::Address(Address::Unix(path)) => Ok(Admin::At(path)),
        _ => unreachable!("what begins with `unix:` is a unix address"),
    }
}

/// Where the access log goes; "": nowhere.
///
/// # Errors
/// Neither "-" nor a whole path of a file.
pub fn access_log(text: &str) -> Result<Option<LogTarget>, Problem> {
    let help = "write it as in \"/var/log/ringlb/access.log\", \"-\" for standard output, or \"\" for none";
    match text {
        "" => Ok(None),
        "-" => Ok(Some(LogTarget::StandardOutput)),
        _ => file(text, help).map(|path| Some(LogTarget::File(path))),
    }
}

/// The whole path of a file; `help` says how it is written.
///
/// # Errors
/// It does not begin at the root, or names no file.
pub fn file(text: &str, help: &str) -> Result<PathBuf, Problem> {
    if !text.starts_with('/') {
        let why = "it does not begin with `/`, and the directory that a service is started in says nothing";
        return Err(Problem::new(format!("{} is not a whole path", quoted(text)), why, help));
    }
    if text.ends_with('/') || text.contains('\0') {
        let what = format!("{} is not the path of a file", quoted(text));
        return Err(Problem::new(
            what,
            "a path ends with the name of the file, and no name has a zero byte in it",
            help,
        ));
    }
    Ok(text.into())
}

/// The permissions of a file, in octal.
///
/// # Errors
/// Not three digits from 0 to 7, with a 0 before them or without.
pub fn mode(text: &str) -> Result<u32, Problem> {
    let digits = if text.len() == 4 { text.strip_prefix('0') } else { Some(text) };
    let mode = digits.filter(|digits| digits.len() == 3 && digits.bytes().all(|byte| byte.is_ascii_digit()));
    mode.and_then(|digits| u32::from_str_radix(digits, 8).ok()).ok_or_else(|| {
        Problem::new(
            format!("{} is no permissions of a file", quoted(text)),
            "three octal digits say what the owner, the group and the others may do",
            "write it as in \"0600\", or \"0660\" for a group that may connect too",
        )
    })
}

/// The weight of a backend.
///
/// # Errors
/// Above the maximum.
pub fn weight(value: &DeValue<'_>) -> Result<Weight, Problem> {
    let number = number(value, 0..=WEIGHT_MAX)?;
    Weight::new(number).ok_or_else(|| {
        let what = format!("the weight {number} is out of range");
        Problem::new(what, format!("the most is {WEIGHT_MAX}"), "write the weights smaller: only their ratio counts")
    })
}

/// A share, as a fraction of 1.
///
/// # Errors
/// Not a number from 0 to 1.
pub fn share(value: &DeValue<'_>) -> Result<Share, Problem> {
    let number = match value {
        DeValue::Float(float) => float.as_str().replace('_', "").parse().ok(),
        DeValue::Integer(integer) => as_i64(integer).map(|number| number as f64),
        _ => None,
    };
    number.and_then(Share::new).ok_or_else(|| {
        let what = format!("{} is not a share", shown(value));
        Problem::new(what, "a share is a number from 0.0, nothing, to 1.0, all", "write it as in 0.5 for one half")
    })
}

/// A whole number of percent; none at all would be no share.
///
/// # Errors
/// Not a whole number from 1 to 100.
pub fn percent(value: &DeValue<'_>) -> Result<Percent, Problem> {
    let number = number(value, 1..=100)?;
    let percent = u8::try_from(number).ok().and_then(Percent::new);
    percent.ok_or_else(|| unreachable!("100 percent is the most, and {number} is not more"))
}

/// Which log lines are wanted: a level, and other levels for single modules.
///
/// # Errors
/// A level that there is not.
pub fn log(text: &str) -> Result<LogFilter, Problem> {
    LogFilter::parse(text).map_err(|wrong| {
        Problem::new(
            format!("{} is not a log level", quoted(wrong)),
            "a level, or `module=level`, is expected between the commas",
            one_of(wrong.rsplit('=').next().unwrap_or(wrong), LogFilter::LEVELS),
        )
    })
}

/// The form of log lines.
///
/// # Errors
/// Neither of the two.
pub fn log_format(text: &str) -> Result<LogFormat, Problem> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => {
            let what = format!("{} is not a log format", quoted(text));
            Err(Problem::new(what, "lines are written as text or as JSON", one_of(text, &["text", "json"])))
        }
    }
}

/// The name among `names` that `typed` was probably meant to be.
pub fn nearest<'n>(typed: &str, names: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // A slip of the fingers changes few letters; a wrong memory often keeps the beginning (`max_conn`).
    const SIMILAR: f64 = 0.85;
    if typed.len() > NAME_BYTES_MAX {
        return None;
    }
    let typed = &typed.to_lowercase();
    let names: Vec<&str> = names.into_iter().collect();
    let slips_max = (typed.chars().count() / 3).max(1);
    let slip = names.iter().map(|name| (strsim::osa_distance(typed, name), *name)).min_by_key(|(slips, _)| *slips);
    if let Some((slips, name)) = slip
        && slips <= slips_max
    {
        return Some(name);
    }
    let scored = names.iter().map(|name| (strsim::jaro_winkler(typed, name), *name));
    let (score, name) = scored.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (score >= SIMILAR).then_some(name)
}

/// The value as it would be shown in a sentence.
pub(super) fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => quoted(text),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn as_i64(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

pub(super) fn one_of(typed: &str, names: &[&str]) -> String {
    if let Some(name) = nearest(typed, names.iter().copied()) {
        return format!("did you mean \"{name}\"?");
    }
    let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("write one of {}", names.join(", "))
}

fn not_workers(shown: &str) -> Problem {
    Problem::new(
        format!("{shown} is not a number of workers"),
        format!("there can be 1 to {WORKERS_MAX}, or \"auto\" for one on each CPU that this process may use"),
        "write a number, or \"auto\"",
    )
}

fn parse_duration(text: &str) -> Result<Duration, Problem> {
    let problem = |why: String| {
        let help = "write a number with a unit, as in \"10s\", \"250ms\", \"5m\" or \"1h 30m\"";
        Problem::new(format!("{} is not a duration", quoted(text)), why, help)
    };
    // Within these bounds the parser cannot overflow: its sum of seconds and nanoseconds is not checked to the last.
    let digits_most = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or(0);
    if text.len() > DURATION_TEXT_BYTES_MAX || digits_most > DURATION_DIGITS_MAX {
        let what = format!("{} is out of range", quoted(text));
        return Err(Problem::new(what, "it is longer than any timeout needs to be", "write a shorter duration"));
    }
    humantime::parse_duration(text).map_err(|error| match error {
        humantime::DurationError::Empty => problem("it is empty".to_owned()),
        humantime::DurationError::UnknownUnit { unit, .. } if unit.is_empty() => {
            problem("its unit is missing".to_owned())
        }
        humantime::DurationError::UnknownUnit { unit, .. } => problem(format!("`{unit}` is not a unit of time")),
        humantime::DurationError::NumberOverflow => problem("its number is too large or too fine".to_owned()),
        humantime::DurationError::NumberExpected(_) => problem("a number is expected before each unit".to_owned()),
        humantime::DurationError::InvalidCharacter(_) => problem("it has a sign that no duration has".to_owned()),
    })
}

fn checked_name(text: &str, bytes_max: usize, fits: impl Fn(char) -> bool, rule: &str) -> Result<String, Problem> {
    let why = if text.is_empty() {
        "it is empty".to_owned()
    } else if text.len() > bytes_max {
        format!("it has {} bytes, and {bytes_max} is the most", text.len())
    } else if !text.chars().all(fits) {
        rule.to_owned()
    } else {
        return Ok(text.to_owned());
    };
    Err(Problem::new(
        format!("{} cannot be a name", quoted(text)),
        why,
        format!("choose a name of 1 to {bytes_max} such characters"),
    ))
}
