//! What people read about the configuration is what the parser does: the reference and the example file are compared
//! with the table of keys, key by key.

use std::path::Path;

use ringlb::config::keys::{Absent, KEYS, Key, Place};
use ringlb::config::{Config, Overrides};
use ringlb::files::line::FIELDS;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The table of the reference for one section.
fn table(place: Place) -> String {
    let row = |key: &Key| {
        let absent = match key.absent {
            Absent::Required => "required".to_owned(),
            Absent::Default(value) => format!("`{value}`"),
            Absent::Means(words) => words.to_owned(),
        };
        format!("| `{}` | {absent} | {} |\n", key.name, key.meaning)
    };
    let rows: String = place.keys().map(row).collect();
    format!("| key | default | meaning |\n|---|---|---|\n{rows}")
}

/// The comment above a key in the example file.
fn comment(key: &Key) -> String {
    let absent = match key.absent {
        Absent::Required => "required".to_owned(),
        Absent::Default(value) => format!("default {value}"),
        Absent::Means(words) => format!("default: {words}"),
    };
    format!("# {} [{absent}]", key.meaning)
}

#[test]
fn the_reference_has_every_key_as_the_parser_has_it() {
    let reference = read("docs/configuration.md");
    for place in Place::ALL {
        let table = table(*place);
        assert!(reference.contains(&table), "docs/configuration.md lacks this table of {}:\n{table}", place.header());
    }
    let rows = reference.lines().filter(|line| line.starts_with("| `")).count();
    assert_eq!(rows, KEYS.len(), "docs/configuration.md has rows for keys that do not exist");
}

#[test]
fn the_example_is_valid_without_a_warning() {
    let checked = Config::parse("config/ringlb.toml", &read("config/ringlb.toml"), &Overrides::default());
    let checked = checked.unwrap_or_else(|faults| panic!("{faults}"));
    assert!(checked.warnings.is_empty(), "{}", checked.warnings);
}

#[test]
fn the_example_has_every_key_with_its_meaning_and_default() {
    let example = read("config/ringlb.toml");
    let mut place = Place::Root;
    let mut previous = "";
    let mut explained: Vec<&Key> = Vec::new();
    for line in example.lines() {
        let bare = line.trim_start_matches("# ");
        if let Some(header) = Place::ALL.iter().find(|place| place.header() == bare) {
            place = *header;
        } else if let Some((key, value)) = setting(place, bare) {
            if previous == comment(key) {
                explained.push(key);
                let shown = line == bare;
                // What is best left to its default may be shown as a comment.
                let may_be_hidden = matches!(key.absent, Absent::Means(_));
                assert!(shown || may_be_hidden, "keys with a fixed default are set: {line}");
                if let Absent::Default(default) = key.absent {
                    assert_eq!(value, default, "a key shows its default: {line}");
                }
            } else {
                assert!(explained.contains(&key), "above `{line}` there should stand:\n{}", comment(key));
            }
        }
        previous = line;
    }
    let missing: Vec<&Key> = KEYS.iter().filter(|key| !explained.contains(key)).collect();
    assert!(missing.is_empty(), "config/ringlb.toml lacks {missing:#?}");
}

fn setting(place: Place, line: &str) -> Option<(&'static Key, &str)> {
    let (name, value) = line.split_once(" = ")?;
    let key = place.keys().find(|key| key.name == name)?;
    Some((key, value))
}

/// The table of the access log's fields is that of the lines.
#[test]
fn the_fields_of_the_access_log_are_documented() {
    let rows: String = FIELDS.iter().map(|field| format!("| `{}` | {} |\n", field.name, field.meaning)).collect();
    let table = format!("| field | what it tells |\n|---|---|\n{rows}\n");
    assert!(read("docs/access-log.md").contains(&table), "docs/access-log.md lacks this table:\n{table}");
}

/// Whoever reads the documents meets every command.
#[test]
fn every_command_is_documented() {
    let help =
        std::process::Command::new(env!("CARGO_BIN_EXE_ringlb")).arg("--help").output().expect("the binary runs");
    let help = String::from_utf8(help.stdout).expect("text");
    let list = help.split_once("Commands:\n").and_then(|(_, rest)| rest.split_once("\n\n")).expect("a list").0;
    // A description may go on in further lines, which begin further to the right.
    let names =
        list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty()));
    let names: Vec<&str> = names.filter(|name| *name != "help").collect();
    assert!(names.contains(&"run") && names.contains(&"reload"), "{names:?}");
    let documents = ["README.md", "docs/admin.md", "docs/reload.md"].map(read).concat();
    for name in names {
        let command = format!("ringlb {name}");
        let mut found = documents.match_indices(&command).map(|(at, found)| at + found.len());
        let whole = found.any(|end| !documents[end..].starts_with(|next: char| next.is_alphanumeric()));
        assert!(
            whole || name == "demo" && documents.contains("-- demo"),
            "`ringlb {name}` is nowhere in the documents"
        );
    }
}

/// A key must be read: what cannot be its value must be refused.
#[test]
fn every_key_is_read() {
    for key in KEYS {
        let section = |place: Place| match place {
            Place::Root => String::new(),
            _ => format!("{}\n", place.header()),
        };
        let parent = match key.place {
            Place::Health | Place::Backend => "[[pool]]\n",
            _ => "",
        };
        let text = format!("{parent}{}{} = {{}}\n", section(key.place), key.name);
        let faults = Config::parse("file", &text, &Overrides::default()).unwrap_err().to_string();
        let line = text.lines().count();
        let expected = format!("file:{line}:{}: error: `{}`: a table", key.name.len() + 4, key.name);
        assert!(faults.contains(&expected), "{key:?}: expected {expected} in\n{faults}");
    }
}

/// A minimal file, and the same with every default written out, mean the same.
#[test]
fn the_defaults_of_the_table_are_the_defaults_of_the_parser() {
    let given = |key: &Key| match (key.place, key.name) {
        (Place::Listener, "bind") => "\"127.0.0.1:8080\"",
        (Place::Backend, "address") => "\"127.0.0.1:3000\"",
        (Place::Health, "kind") => "\"http\"",
        _ => "\"web\"",
    };
    let text = |with_defaults: bool| {
        let mut text = String::new();
        for place in Place::ALL {
            if *place != Place::Root {
                text.push_str(&format!("{}\n", place.header()));
            }
            for key in place.keys() {
                match key.absent {
                    Absent::Required => text.push_str(&format!("{} = {}\n", key.name, given(key))),
                    Absent::Default(value) if with_defaults => text.push_str(&format!("{} = {value}\n", key.name)),
                    Absent::Default(_) | Absent::Means(_) => {}
                }
            }
        }
        text
    };
    let parse =
        |text: &str| Config::parse("file", text, &Overrides::default()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(parse(&text(false)).config, parse(&text(true)).config);
}

/// What people copy from the documents is a valid file without a warning.
#[test]
fn the_files_in_the_documents_are_valid() {
    let mut blocks = 0;
    let paths = ["access-log", "configuration", "health-checks", "limits", "names", "pools"]
        .map(|page| format!("docs/{page}.md"));
    for path in paths.iter().map(String::as_str).chain(["README.md"]) {
        let document = read(path);
        for block in document.split("```toml\n").skip(1) {
            let text = block.split("```").next().unwrap();
            let checked = Config::parse(path, text, &Overrides::default()).unwrap_or_else(|faults| panic!("{faults}"));
            assert!(checked.warnings.is_empty(), "{}", checked.warnings);
            blocks += 1;
        }
    }
    assert!(blocks >= 5, "{blocks} blocks");
}

/// The reference shows a fault in the words that a person sees.
#[test]
fn the_fault_in_the_reference_is_shown_in_these_words() {
    let reference = read("docs/configuration.md");
    let shown = reference.split("$ ringlb check --config web.toml\n").nth(1).unwrap().split("1 error").next().unwrap();
    let text = "[[listener]]\nname = \"web\"\npool = \"wbe\"\nbind = \":80\"\n[[pool]]\nname = \"web\"\n\
                [[pool.backend]]\naddress = \"127.0.0.1:1\"\n";
    let faults = Config::parse("web.toml", text, &Overrides::default()).unwrap_err();
    assert_eq!(faults.to_string(), shown);
}
