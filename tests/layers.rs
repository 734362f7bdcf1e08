//! The walls of the house, executed: who may import whom, and where `unsafe` may stand.
//!
//! The scanner reads tokens, not lines, so that inline paths count like `use` trees, and comments and strings do
//! not count at all. `docs/architecture.md` has the reasons.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The rooms from the top to the bottom. A room may import only from rows below its own.
const ROWS: &[&[&str]] = &[
    &["main"],
    &["cli"],
    &["server"],
    &["control", "demo"],
    &["worker"],
    &["config", "files", "metrics"],
    &["balance", "relay", "engine"],
    &["address", "errno", "time", "wire", "http", "histogram", "limits", "slots", "systemd"],
];

/// Imports within one row that have a reason: every maximum stands in `limits`, those of parsers and counts too, and its
/// relations are proven against the bits of a slot.
const NEIGHBOURS: &[(&str, &str)] =
    &[("wire", "limits"), ("http", "limits"), ("histogram", "limits"), ("limits", "slots"), ("systemd", "limits")];

/// Rooms that get time, randomness and bytes as arguments ...
const PURE: &[&str] = &["balance", "relay", "wire"];

/// ... and the words that would give them a clock, a socket or a descriptor of their own.
const IMPURE: &[&str] = &[
    "Instant",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "OwnedFd",
    "BorrowedFd",
    "RawFd",
    "libc",
    "rustix",
    "socket2",
    "io_uring",
    "tokio",
];

#[test]
fn imports_run_downwards_and_unsafe_stays_in_the_engine() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    assert!(files.iter().any(|file| file.ends_with("src/engine/mod.rs")), "the scan must reach the rooms");

    let mut violations = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let path = file.strip_prefix(root).unwrap().to_str().unwrap();
        violations.extend(scan(path, &text));
    }
    let mut list = String::new();
    for violation in &violations {
        writeln!(list, "{violation}").unwrap();
    }
    assert!(violations.is_empty(), "\n{list}");
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The violations in one file, as `path:line: what`.
fn scan(path: &str, text: &str) -> Vec<String> {
    let mut scanner = Scanner::new(path, tokens(text));
    scanner.run();
    scanner.violations
}

fn row(room: &str) -> Option<usize> {
    ROWS.iter().position(|rooms| rooms.contains(&room))
}

struct Scanner<'t> {
    path: &'t str,
    room: &'t str,
    tokens: Vec<Token<'t>>,
    /// How many modules enclose the file's own items: 0 at the crate's root, 1 in a room's root.
    depth: usize,
    /// For every open brace, whether it is a module's.
    braces: Vec<bool>,
    /// The lowest row that `lib.rs` has declared so far.
    declared_row: usize,
    violations: Vec<String>,
}

impl<'t> Scanner<'t> {
    fn new(path: &'t str, tokens: Vec<Token<'t>>) -> Scanner<'t> {
        let inside = path.strip_prefix("src/").unwrap_or(path).trim_end_matches(".rs");
        let parts: Vec<&str> = inside.split('/').collect();
        let depth = match parts.as_slice() {
            ["lib" | "main"] => 0,
            [.., "mod"] => parts.len() - 1,
            _ => parts.len(),
        };
        Scanner { path, room: parts[0], tokens, depth, braces: Vec::new(), declared_row: 0, violations: Vec::new() }
    }

    fn run(&mut self) {
        if self.room != "lib" && row(self.room).is_none() {
            let room = self.room;
            self.report(1, format!("the room `{room}` has no row: give it one in ROWS of tests/layers.rs"));
            return;
        }
        for at in 0..self.tokens.len() {
            let token = self.tokens[at];
            match token.text {
                "{" => self.braces.push(at >= 2 && self.text(at - 2) == "mod"),
                "}" => {
                    self.braces.pop();
                }
                "crate" if self.previous(at) == "extern" => {
                    self.report(token.line, "`extern crate` hides an import from this test".to_owned());
                }
                "crate" if self.is_visibility(at) => {}
                "crate" => self.crate_path(at),
                "ringlb" if self.text(at + 1) == "::" => self.library_path(at),
                "super" if self.is_visibility(at) => {}
                "super" => self.super_path(at),
                "mod" if self.text(at + 2) == ";" => self.declaration(at),
                "use" if self.room == "lib" => {
                    self.report(token.line, "lib.rs only declares rooms: a re-export is a second way in".to_owned());
                }
                "path" if at >= 2 && self.text(at - 1) == "[" && self.text(at - 2) == "#" => {
                    self.report(token.line, "`#[path]` puts a file into another room".to_owned());
                }
                "include" if self.text(at + 1) == "!" => {
                    self.report(token.line, "`include!` hides a file from this test".to_owned());
                }
                "unsafe" | "unsafe_code" if self.room != "engine" => {
                    self.report(token.line, format!("`{}` belongs to src/engine alone", token.text));
                }
                word if PURE.contains(&self.room) && IMPURE.contains(&word) => {
                    let room = self.room;
                    self.report(token.line, format!("`{room}` is pure: `{word}` must come in as an argument"));
                }
                _ => {}
            }
        }
    }

    /// A path from `crate`: its first segments are rooms.
    fn crate_path(&mut self, at: usize) {
        if self.text(at + 1) != "::" {
            self.report(self.tokens[at].line, "`crate` without a room behind it: name the room".to_owned());
            return;
        }
        self.rooms_behind(at + 2);
    }

    fn library_path(&mut self, at: usize) {
        if self.room == "main" {
            self.rooms_behind(at + 2);
        } else {
            self.report(self.tokens[at].line, "inside the library it is `crate::`, not `ringlb::`".to_owned());
        }
    }

    /// Checks the room at `at`, or each room of the group that opens there.
    fn rooms_behind(&mut self, at: usize) {
        if self.text(at) != "{" {
            self.import(at);
            return;
        }
        let mut open = 0;
        for inner in at..self.tokens.len() {
            match self.text(inner) {
                "{" => open += 1,
                "}" => open -= 1,
                _ if open == 1 && matches!(self.previous(inner), "{" | ",") => self.import(inner),
                _ => {}
            }
            if open == 0 {
                break;
            }
        }
    }

    fn import(&mut self, at: usize) {
        let Token { text: target, line } = self.tokens.get(at).copied().unwrap_or(Token { text: "", line: 0 });
        let room = self.room;
        let Some(target_row) = row(target) else {
            self.report(line, format!("`crate::{target}` is not a room of ROWS in tests/layers.rs"));
            return;
        };
        let Some(own_row) = row(room) else {
            self.report(line, "lib.rs only declares rooms and imports none".to_owned());
            return;
        };
        if room == target || own_row < target_row || NEIGHBOURS.contains(&(room, target)) {
            return;
        }
        let direction = if own_row == target_row { "sideways" } else { "upwards" };
        self.report(line, format!("`{room}` imports `{target}`, which is {direction}; imports run downwards only"));
    }

    fn super_path(&mut self, at: usize) {
        let line = self.tokens[at].line;
        if self.previous(at) == "::" && at >= 2 && self.text(at - 2) == "super" {
            return;
        }
        let group_has_super = self.text(at + 2) == "{" && self.group_contains(at + 2, "super");
        if self.text(at + 1) == "::" && (self.text(at + 2) == "super" || group_has_super) {
            self.report(line, "`super::super` climbs too far to be read: start from `crate::`".to_owned());
            return;
        }
        let modules = self.braces.iter().filter(|module| **module).count();
        if self.depth + modules < 2 {
            self.report(line, "`super` is the crate's root here: write `crate::` and the room".to_owned());
        }
    }

    fn group_contains(&self, at: usize, word: &str) -> bool {
        let mut open = 0;
        for token in &self.tokens[at..] {
            match token.text {
                "{" => open += 1,
                "}" => open -= 1,
                text if text == word => return true,
                _ => {}
            }
            if open == 0 {
                break;
            }
        }
        false
    }

    /// `mod name;` in `lib.rs`, in layer order; nowhere in `main.rs`.
    fn declaration(&mut self, at: usize) {
        let (name, line) = (self.text(at + 1), self.tokens[at].line);
        match (self.room, row(name)) {
            ("main", _) => self.report(line, "main.rs has no modules: they belong to the library".to_owned()),
            ("lib", None) => self.report(line, format!("the room `{name}` has no row: give it one in ROWS")),
            ("lib", Some(row)) if row < self.declared_row => {
                self.report(line, format!("`{name}` stands below a lower room: keep lib.rs in layer order"));
            }
            ("lib", Some(row)) => self.declared_row = row,
            _ => {}
        }
    }

    /// `pub(crate)` and `pub(super)` name no import.
    fn is_visibility(&self, at: usize) -> bool {
        self.previous(at) == "(" && self.text(at + 1) == ")" && at >= 2 && self.text(at - 2) == "pub"
    }

    fn text(&self, at: usize) -> &'t str {
        self.tokens.get(at).map_or("", |token| token.text)
    }

    fn previous(&self, at: usize) -> &'t str {
        if at == 0 { "" } else { self.text(at - 1) }
    }

    fn report(&mut self, line: usize, what: String) {
        self.violations.push(format!("{}:{line}: {what}", self.path));
    }
}

#[derive(Copy, Clone, Debug, PartialEq)]
struct Token<'t> {
    text: &'t str,
    line: usize,
}

/// Words, `::` and single signs; no comments, no literals, no lifetimes.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < text.len() {
        let length = skipped(&text[at..]);
        if length > 0 {
            line += text[at..at + length].matches('\n').count();
            at += length;
            continue;
        }
        let rest = &text[at..];
        let rest = rest.strip_prefix("r#").unwrap_or(rest);
        at = text.len() - rest.len();
        let length = match word_length(rest) {
            0 if rest.starts_with("::") => 2,
            0 => rest.chars().next().map_or(1, char::len_utf8),
            length => length,
        };
        tokens.push(Token { text: &rest[..length], line });
        at += length;
    }
    tokens
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// The length of the white space, comment, literal or lifetime that `text` begins with; 0 where it begins a token.
fn skipped(text: &str) -> usize {
    let first = text.chars().next().unwrap_or(' ');
    if first.is_whitespace() {
        return first.len_utf8();
    }
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment(text);
    }
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| text.starts_with(prefix)).unwrap_or("");
    let rest = &text[prefix.len()..];
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    if prefix.ends_with('r') && rest[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let body = &rest[hashes + 1..];
        return prefix.len() + hashes + 1 + body.find(&end).map_or(body.len(), |found| found + end.len());
    }
    if rest.starts_with('"') {
        return prefix.len() + quoted(rest, '"');
    }
    if rest.starts_with('\'') && matches!(prefix, "" | "b") {
        let mut inner = rest[1..].chars();
        let literal = inner.next() == Some('\\') || inner.next() == Some('\'');
        return prefix.len() + if literal { quoted(rest, '\'') } else { 1 + word_length(&rest[1..]) };
    }
    0
}

/// The length of the literal that `text` begins with, its quotes included.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match &text[at..] {
            rest if rest.starts_with("/*") => (depth, at) = (depth + 1, at + 2),
            rest if rest.starts_with("*/") => (depth, at) = (depth - 1, at + 2),
            rest => at += rest.chars().next().map_or(1, char::len_utf8),
        }
        if depth == 0 {
            break;
        }
    }
    at
}

mod planted {
    use super::scan;

    /// A file, its text, and the part of the one violation that must be found in it.
    const WRONG: &[(&str, &str, &str)] = &[
        (
            "src/balance/mod.rs",
            "\nuse crate::engine::Op;",
            "src/balance/mod.rs:2: `balance` imports `engine`, which is sideways",
        ),
        ("src/config/file.rs", "fn f(x: crate::worker::W) {}", ":1: `config` imports `worker`, which is upwards"),
        ("src/config/mod.rs", "use crate::{limits::A, cli::{self, B}};", "`config` imports `cli`"),
        ("src/config/mod.rs", "use crate::{limits::{A, B}, metrics};", "`config` imports `metrics`, which is sideways"),
        ("src/slots.rs", "use crate::limits::A;", "`slots` imports `limits`, which is sideways"),
        ("src/config/mod.rs", "use crate::*;", "`crate::*` is not a room"),
        ("src/config/mod.rs", "use crate as house;", "`crate` without a room"),
        ("src/config/mod.rs", "extern crate self as house;", "`extern crate`"),
        ("src/config/mod.rs", "use super::worker;", "`super` is the crate's root here"),
        ("src/address.rs", "use super::slots;", "`super` is the crate's root here"),
        ("src/address.rs", "use ringlb::slots;", "not `ringlb::`"),
        ("src/engine/ring/sqe.rs", "use super::super::Op;", "`super::super`"),
        ("src/engine/ring/sqe.rs", "use super::{super::Op};", "`super::super`"),
        ("src/relay/mod.rs", "mod tests { use super::super::engine; }", "`super::super`"),
        ("src/relay/mod.rs", "fn f() -> std::time::Instant { x }", "`relay` is pure: `Instant`"),
        ("src/worker/mod.rs", "fn f() { unsafe { g() } }", "`unsafe` belongs to src/engine"),
        ("src/worker/mod.rs", "#![allow(unsafe_code)]", "`unsafe_code` belongs to src/engine"),
        ("src/worker/mod.rs", "#[path = \"../cli/mod.rs\"] mod cli;", "`#[path]`"),
        ("src/worker/mod.rs", "include!(\"../cli/mod.rs\");", "`include!`"),
        ("src/worker/mod.rs", "macro_rules! m { () => { $crate::server::run() } }", "`worker` imports `server`"),
        ("src/cellar/mod.rs", "", "the room `cellar` has no row"),
        ("src/lib.rs", "pub mod cellar;", "the room `cellar` has no row"),
        ("src/lib.rs", "pub mod slots; pub mod worker;", "keep lib.rs in layer order"),
        ("src/lib.rs", "pub use worker::Worker;", "lib.rs only declares rooms"),
        ("src/main.rs", "mod hidden;", "main.rs has no modules"),
        ("src/main.rs", "fn main() { ringlb::cellar::run() }", "`crate::cellar` is not a room"),
        ("src/worker/mod.rs", "fn f<'a>(x: &'a str, c: char) { c == '\"'; crate::cli::x() }", "`worker` imports `cli`"),
        ("src/worker/mod.rs", "fn f() { g(b'\\'', r#\"\"#, '\\\\'); crate::cli::x() }", "`worker` imports `cli`"),
    ];

    const RIGHT: &[(&str, &str)] = &[
        ("src/main.rs", "fn main() -> std::process::ExitCode { ringlb::cli::main() }"),
        ("src/lib.rs", "//! words\npub mod cli;\npub mod worker;\npub mod slots;"),
        ("src/worker/mod.rs", "use crate::{config, engine::{Op, Engine}, worker::timers};"),
        ("src/worker/mod.rs", "pub(crate) mod timers; mod tests { use super::*; }"),
        ("src/worker/timers.rs", "use super::Worker; pub(super) fn f() {} pub(in crate::worker) fn g() {}"),
        ("src/limits.rs", "use crate::slots::SLOTS_MAX;"),
        ("src/engine/ring.rs", "#![allow(unsafe_code)] fn f() { unsafe { g() } }"),
        ("src/balance/mod.rs", "// crate::worker\n/* /* unsafe */ crate::cli */ /// [`crate::cli`]\nfn f() {}"),
        ("src/balance/mod.rs", "fn f() { g(\"crate::cli \\\" unsafe\", r#\"crate::cli \" unsafe\"#, b\"unsafe\") }"),
    ];

    #[test]
    fn every_planted_violation_is_found() {
        for (path, text, expected) in WRONG {
            let violations = scan(path, text);
            assert_eq!(violations.len(), 1, "{path}: {text}: {violations:?}");
            assert!(violations[0].contains(expected), "{path}: {text}: {violations:?}");
        }
    }

    #[test]
    fn what_is_allowed_is_not_reported() {
        for (path, text) in RIGHT {
            assert_eq!(scan(path, text), Vec::<String>::new(), "{path}: {text}");
        }
    }
}
