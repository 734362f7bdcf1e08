//! What is wrong with a configuration, shown the way a good compiler shows it.

use std::fmt;
use std::ops::Range;

/// A line that is longer than this is not shown below its fault: it would not fit a terminal anyway.
const SHOWN_CHARS_MAX: usize = 200;

/// How bad a fault is.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// It can be used, but probably does not do what was meant.
    Warning,
}

/// Where a fault is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// These bytes of the file.
    Bytes(Range<usize>),
    /// The file as a whole.
    File,
    /// The value of this option of the command line.
    Option(&'static str),
}

/// One thing that is wrong: what, why that matters, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub at: At,
    /// What is wrong, naming the key.
    pub what: String,
    /// Why it cannot be so.
    pub why: String,
    /// What to do instead.
    pub help: String,
}

impl Fault {
    /// Puts a problem into its place.
    pub fn error(at: At, problem: Problem) -> Fault {
        let Problem { what, why, help } = problem;
        Fault { severity: Severity::Error, at, what, why, help }
    }

    /// As [`Fault::error`], for what can be lived with.
    pub fn warning(at: At, problem: Problem) -> Fault {
        Fault { severity: Severity::Warning, ..Fault::error(at, problem) }
    }
}

/// A fault before it is known where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// See [`Fault::what`].
    pub what: String,
    /// See [`Fault::why`].
    pub why: String,
    /// See [`Fault::help`].
    pub help: String,
}

impl Problem {
    /// A problem from its three sentences, which begin in lower case and have no full stop.
    pub fn new(what: impl Into<String>, why: impl Into<String>, help: impl Into<String>) -> Problem {
        Problem { what: what.into(), why: why.into(), help: help.into() }
    }

    /// What the file may say one day, and cannot yet.
    pub fn not_yet(what: impl fmt::Display, help: impl Into<String>) -> Problem {
        Problem::new(
            format!("{what} is not yet served by this version"),
            "it is refused rather than ignored, so that nobody relies on what does not happen",
            help,
        )
    }
}

/// In one line, for an option of the command line.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.what, self.why, self.help)
    }
}

impl std::error::Error for Problem {}

/// The faults of one configuration, in the order of the file, with the text they are shown against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    file: String,
    text: String,
    faults: Vec<Fault>,
}

impl Faults {
    /// The faults of the file of that name and content; both are empty for the command line.
    pub fn new(file: impl Into<String>, text: impl Into<String>, mut faults: Vec<Fault>) -> Faults {
        faults.sort_by_key(|fault| match &fault.at {
            At::Bytes(bytes) => (0, bytes.start, bytes.end),
            At::File => (1, 0, 0),
            At::Option(_) => (2, 0, 0),
        });
        Faults { file: file.into(), text: text.into(), faults }
    }

    /// The faults, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }

    /// How many faults there are.
    pub fn len(&self) -> usize {
        self.faults.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// Whether one of them makes the configuration unusable.
    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }

    /// How many faults of that severity there are.
    pub fn count(&self, severity: Severity) -> usize {
        self.faults.iter().filter(|fault| fault.severity == severity).count()
    }

    /// All of them for people to read, one below the other, with colour where the terminal has it.
    pub fn render(&self, colour: bool) -> String {
        let mut rendered = String::new();
        let starts = line_starts(&self.text);
        for fault in &self.faults {
            self.render_one(fault, &starts, colour, &mut rendered);
        }
        rendered
    }

    /// Each of them in one line, for a log.
    pub fn one_a_line(&self) -> impl Iterator<Item = String> {
        let starts = line_starts(&self.text);
        self.faults.iter().map(move |fault| {
            let place = match &fault.at {
                At::Bytes(bytes) => {
                    let (line, column, _) = locate(&self.text, &starts, bytes.start);
                    format!("{}:{line}:{column}", self.file)
                }
                At::File => self.file.clone(),
                At::Option(option) => (*option).to_owned(),
            };
            format!("{place}: {}: {}; {}", fault.what, fault.why, fault.help)
        })
    }

    fn render_one(&self, fault: &Fault, starts: &[usize], colour: bool, out: &mut String) {
        let (name, code) = match fault.severity {
            Severity::Error => ("error", "\x1b[1;31m"),
            Severity::Warning => ("warning", "\x1b[1;33m"),
        };
        let label = if colour { format!("{code}{name}\x1b[0m") } else { name.to_owned() };
        let mut indent = 2;
        match &fault.at {
            At::Bytes(bytes) => {
                let (line, column, source) = locate(&self.text, starts, bytes.start);
                out.push_str(&format!("{}:{line}:{column}: {label}: {}\n", self.file, fault.what));
                if source.chars().count() <= SHOWN_CHARS_MAX {
                    let number = line.to_string();
                    indent = number.len() + 2;
                    let (shown, marks) = underline(source, column, bytes.len());
                    out.push_str(&format!(" {number} | {shown}\n"));
                    out.push_str(&format!("{:indent$}| {marks}\n", ""));
                }
            }
            At::File => out.push_str(&format!("{}: {label}: {}\n", self.file, fault.what)),
            At::Option(option) => out.push_str(&format!("{label}: {option}: {}\n", fault.what)),
        }
        out.push_str(&format!("{:indent$}= why: {}\n", "", fault.why));
        out.push_str(&format!("{:indent$}= help: {}\n", "", fault.help));
    }
}

/// Without colour.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Faults {}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

/// Line, column and the line itself, without its end, of the byte `at`.
fn locate<'t>(text: &'t str, starts: &[usize], at: usize) -> (usize, usize, &'t str) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let line = starts.partition_point(|start| *start <= at);
    let start = starts[line - 1];
    let source = text[start..].split('\n').next().unwrap_or_default();
    let source = source.strip_suffix('\r').unwrap_or(source);
    (line, text[start..at].chars().count() + 1, source)
}

/// The line as it can be shown (a control character could play tricks on the terminal), and marks below the `length`
/// bytes from `column` on. Tabs stay, so that the marks stand where the text does.
fn underline(source: &str, column: usize, length: usize) -> (String, String) {
    let shown = source.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect();
    let mut marks: String = source.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let marked: usize = source
        .chars()
        .skip(column - 1)
        .scan(0, |bytes, c| {
            let within = *bytes < length;
            *bytes += c.len_utf8();
            within.then_some(1)
        })
        .sum();
    marks.push_str(&"^".repeat(marked.max(1)));
    (shown, marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, at: Range<usize>) -> String {
        let fault = Fault::error(At::Bytes(at), Problem::new("what", "why", "help"));
        Faults::new("f", text, vec![fault]).to_string()
    }

    #[test]
    fn the_caret_stands_below_the_fault() {
        let text = "a = 1\r\n\tä = \"ö\" # x\n";
        assert_eq!(
            rendered(text, 13..17),
            "f:2:6: error: what\n 2 | \tä = \"ö\" # x\n   | \t    ^^^\n   = why: why\n   = help: help\n"
        );
    }

    #[test]
    fn a_fault_at_the_end_or_over_lines_has_a_caret_too() {
        assert!(rendered("a", 1..1).starts_with("f:1:2: error: what\n 1 | a\n   |  ^\n"));
        assert!(rendered("a\n", 2..2).starts_with("f:2:1: error: what\n 2 | \n   | ^\n"));
        assert!(rendered("ab\ncd", 1..5).starts_with("f:1:2: error: what\n 1 | ab\n   |  ^\n"));
        assert!(rendered("", 7..9).starts_with("f:1:1: error: what\n 1 | \n   | ^\n"));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let shown = rendered("a = \"\x1b[2J\u{9b}\"", 4..5);
        assert!(!shown.contains('\x1b') && !shown.contains('\u{9b}'), "{shown:?}");
    }

    #[test]
    fn a_very_long_line_is_not_shown() {
        assert_eq!(
            rendered(&"x".repeat(SHOWN_CHARS_MAX + 1), 3..4),
            "f:1:4: error: what\n  = why: why\n  = help: help\n"
        );
    }

    #[test]
    fn faults_are_in_the_order_of_the_file_and_colour_is_optional() {
        let fault = |at, what: &str| Fault::warning(at, Problem::new(what, "y", "z"));
        let faults = vec![fault(At::Option("--x"), "c"), fault(At::File, "b"), fault(At::Bytes(0..1), "a")];
        let faults = Faults::new("f", "k", faults);
        let order: String = faults.iter().map(|fault| fault.what.as_str()).collect();
        assert_eq!(order, "abc");
        assert!(!faults.has_errors() && faults.count(Severity::Warning) == 3);
        assert!(faults.render(true).contains("\x1b[1;33mwarning\x1b[0m") && !faults.to_string().contains('\x1b'));
    }
}
