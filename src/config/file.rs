//! What was typed: the sections of the file with their keys and the place of each value, before anything is said
//! about what the values mean.
//!
//! The tree is walked here rather than by a derived `Deserialize`, which gives up at the first fault: a person who has
//! made five mistakes should hear of five.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::fault::{At, Fault, Problem};
use crate::config::keys::{self, KEYS, Key, Place, Table};
use crate::config::notation::quoted;
use crate::config::value::nearest;

/// One section with the keys that stand in it, all of them known and served.
#[derive(Debug)]
pub struct Section<'t> {
    /// Its kind.
    pub place: Place,
    /// Its header, or its braces.
    pub header: Range<usize>,
    values: Vec<(&'static Key, Spanned<DeValue<'t>>)>,
    children: Vec<Section<'t>>,
}

impl<'t> Section<'t> {
    /// The value of the key `name`, if it is given.
    pub fn given(&self, name: &str) -> Option<&Spanned<DeValue<'t>>> {
        self.values.iter().find(|(key, _)| key.name == name).map(|(_, value)| value)
    }

    /// The sections of that kind that stand directly within this one, in the order of the file.
    pub fn children(&self, place: Place) -> impl Iterator<Item = &Section<'t>> {
        self.children.iter().filter(move |child| child.place == place)
    }
}

/// Reads the sections of `text`, and adds to `faults` what is not TOML or not known.
/// Returns nothing where it is not TOML: what a broken file means would only be guessed.
pub fn read<'t>(text: &'t str, faults: &mut Vec<Fault>) -> Option<Section<'t>> {
    let (root, mut errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(section(Place::Root, 0..0, root.into_inner(), faults));
    }
    errors.sort_by_key(|error| error.span().map(|span| span.start));
    let mut line_end = 0;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        // One slip of the pen makes the parser stumble several times over the same line; the first tells most.
        if span.start >= line_end {
            let rest = text.as_bytes().get(span.start..).unwrap_or_default();
            line_end = span.start + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len()) + 1;
            let problem = if span.is_empty() && error.message().starts_with(UNQUOTED) {
                no_value()
            } else {
                not_toml(error.message())
            };
            faults.push(Fault::error(At::Bytes(span), problem));
        }
    }
    None
}

fn section<'t>(place: Place, header: Range<usize>, table: DeTable<'t>, faults: &mut Vec<Fault>) -> Section<'t> {
    let mut section = Section { place, header, values: Vec::new(), children: Vec::new() };
    for (typed, value) in table {
        let at = At::Bytes(typed.span());
        let name = typed.get_ref().as_ref();
        if let Some(table) = place.tables().find(|table| table.name == name) {
            children(table, at, value, &mut section.children, faults);
        } else if let Some(key) = keys::find(place, name) {
            section.values.push((key, value));
        } else {
            faults.push(Fault::error(at, unknown(place, name)));
        }
    }
    section.children.sort_by_key(|child| child.header.start);
    section
}

fn children<'t>(
    table: &Table,
    at: At,
    value: Spanned<DeValue<'t>>,
    children: &mut Vec<Section<'t>>,
    faults: &mut Vec<Fault>,
) {
    let span = value.span();
    match value.into_inner() {
        DeValue::Array(array) if table.many => {
            for element in array {
                let span = element.span();
                match element.into_inner() {
                    DeValue::Table(inner) => children.push(section(table.place, span, inner, faults)),
                    _ => faults.push(Fault::error(At::Bytes(span), not_a_section(table))),
                }
            }
        }
        DeValue::Table(inner) if !table.many => children.push(section(table.place, span, inner, faults)),
        _ => faults.push(Fault::error(at, not_a_section(table))),
    }
}

fn not_a_section(table: &Table) -> Problem {
    let header = table.place.header();
    let many = if table.many {
        "there may be several of them, so each has a header in double brackets"
    } else {
        "there is one at most"
    };
    Problem::new(
        format!("`{}` is not written as a section", table.name),
        many,
        format!("write the header `{header}` and its keys below"),
    )
}

fn unknown(place: Place, name: &str) -> Problem {
    let what = match place {
        Place::Root => format!("unknown key `{}`", name.escape_debug()),
        _ => format!("unknown key `{}` in {}", name.escape_debug(), place.header()),
    };
    let what = if name.len() > 60 { format!("unknown key {}", quoted(name)) } else { what };
    let why = "a key that nobody reads would be a setting that nobody obeys";
    let names = place.keys().map(|key| key.name).chain(place.tables().map(|table| table.name));
    let elsewhere = KEYS.iter().filter(|key| key.name == name).map(|key| match key.place {
        Place::Root => "at the top of the file, above the first header".to_owned(),
        place => format!("in {}", place.header()),
    });
    let elsewhere: Vec<String> = elsewhere.collect();
    let help = match nearest(name, names) {
        _ if !elsewhere.is_empty() => format!("`{name}` belongs {}", elsewhere.join(" or ")),
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let names: Vec<&str> = place.keys().map(|key| key.name).collect();
            format!("the keys that may stand here: {}", names.join(", "))
        }
    };
    Problem::new(what, why, help)
}

/// What the parser says of a value that is none.
const UNQUOTED: &str = "string values must be quoted";

fn no_value() -> Problem {
    Problem::new(
        "the value is missing",
        "a key says something only with a value behind its `=`",
        "write the value, or take the key out",
    )
}

/// The parser's words in ours where its own would not help.
fn not_toml(message: &str) -> Problem {
    let (why, help) = match message {
        _ if message.starts_with("duplicate key") => {
            ("each key has one value, and each `[section]` one place", "keep one of the two")
        }
        _ if message.starts_with(UNQUOTED) => (
            "text, durations and addresses stand between quotes; only numbers, true and false do not",
            "put quotes around the value",
        ),
        _ if message.starts_with("key with no value") => {
            ("a key is followed by `=` and its value", "write `key = value`")
        }
        _ => ("this is not TOML, so nothing behind it can be relied on", "see https://toml.io for the notation"),
    };
    let what = message.split(", expected nothing").next().unwrap_or(message);
    let what = if what.starts_with(UNQUOTED) { "this value is text without quotes" } else { what };
    Problem::new(what, why, help)
}
