//! `ringlb reload`, `ringlb diff` and `ringlb check --against-running`.

use std::path::Path;

use clap::Args;

use crate::cli::Exit;
use crate::cli::output::{complain, print};
use crate::control::wire::{Differences, PoolDifferences, Proposal, Reload};

use super::Whom;

/// `ringlb reload`
#[derive(Clone, Debug, Args)]
pub struct ReloadArgs {
    /// Undo what was changed live: the file becomes the truth
    #[arg(long)]
    discard_live: bool,
    #[command(flatten)]
    whom: Whom,
}

/// `ringlb diff`
#[derive(Clone, Debug, Args)]
pub struct DiffArgs {
    #[command(flatten)]
    whom: Whom,
}

impl ReloadArgs {
    /// Has the file loaded again, and shows what that has changed.
    ///
    /// # Errors
    /// Nobody answers, or the file was refused; then nothing has changed.
    pub fn run(self) -> Result<(), Exit> {
        let path = format!("/v1/reload?discard_live={}", self.discard_live);
        show(&self.whom, &path, None).map(|_| ())
    }
}

impl DiffArgs {
    /// Shows what a reload would change, and what was changed live.
    ///
    /// # Errors
    /// Nobody answers, or the file is wrong.
    pub fn run(self) -> Result<(), Exit> {
        show(&self.whom, "/v1/reload?plan=true", None).map(|_| ())
    }
}

/// Shows what would change if `file` were the file of the running ringlb and were loaded again.
///
/// # Errors
/// Nobody answers, or it would be refused.
pub fn against_running(file: &Path, whom: &Whom) -> Result<(), Exit> {
    let text = std::fs::read_to_string(file);
    let text = text.map_err(|error| Exit::Failed(format!("{} cannot be read: {error}", file.display())))?;
    let answer = show(whom, "/v1/reload?plan=true", Some(&Proposal { text }))?;
    if answer.restart.is_empty() {
        return Ok(());
    }
    Err(Exit::Failed("a reload would be refused: take these changes back, or restart".to_owned()))
}

fn show(whom: &Whom, path: &str, body: Option<&Proposal>) -> Result<Reload, Exit> {
    let answer = whom.client()?.send("POST", path, body)?;
    let reload: Reload = answer.parse()?;
    if whom.json {
        print(&answer.text)?;
    } else {
        // Of a text that was sent, they have been told already.
        if body.is_none() {
            complain(&reload.warnings.iter().map(|warning| format!("{warning}\n")).collect::<String>());
        }
        print(&lines(&reload))?;
    }
    Ok(reload)
}

/// A line for each thing: `+` it is new, `-` it goes, `~` it is told otherwise.
fn lines(reload: &Reload) -> String {
    let mut changes = String::new();
    for key in &reload.settings {
        changes += &format!("  ~ {key}\n");
    }
    for (kind, differences) in [("listener", &reload.listeners), ("pool", &reload.pools)] {
        list(&mut changes, &format!("{kind} "), differences);
    }
    for PoolDifferences { pool, backends } in &reload.backends {
        list(&mut changes, &format!("backend {pool}/"), backends);
    }
    for key in &reload.restart {
        changes += &format!("  ! {key} (needs a restart)\n");
    }
    let file = &reload.file;
    let head = match (reload.applied, changes.is_empty()) {
        (true, true) => format!("{file} was loaded again; nothing was different\n"),
        (true, false) => format!("{file} was loaded again:\n"),
        (false, true) => format!("{file} says what it said when it was loaded\n"),
        (false, false) => format!("a reload of {file} would change:\n"),
    };
    let mut text = head + &changes;
    let mut live = String::new();
    for PoolDifferences { pool, backends } in &reload.live {
        list(&mut live, &format!("backend {pool}/"), backends);
    }
    if !live.is_empty() {
        text += match (reload.applied, reload.discarded) {
            (true, true) => "changed live, and undone now:\n",
            (false, true) => "changed live, and undone by it:\n",
            (_, false) => "changed live, and kept (--discard-live undoes it):\n",
        };
        text += &live;
    }
    text
}

fn list(text: &mut String, before: &str, differences: &Differences) {
    let Differences { added, removed, changed } = differences;
    added.iter().for_each(|name| *text += &format!("  + {before}{name}\n"));
    removed.iter().for_each(|name| *text += &format!("  - {before}{name}\n"));
    changed.iter().for_each(|one| *text += &format!("  ~ {before}{}: {}\n", one.name, one.keys.join(", ")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::wire::ChangedKeys;

    #[test]
    fn a_plan_has_a_line_for_each_thing() {
        let changed = |name: &str, key: &str| vec![ChangedKeys { name: name.into(), keys: vec![key.into()] }];
        let reload = Reload {
            file: "/r.toml".into(),
            settings: vec!["log".into()],
            restart: vec!["workers".into()],
            listeners: Differences { added: vec!["api".into()], ..Differences::default() },
            pools: Differences { removed: vec!["old".into()], ..Differences::default() },
            backends: vec![PoolDifferences {
                pool: "web".into(),
                backends: Differences { changed: changed("a", "weight"), ..Differences::default() },
            }],
            live: vec![PoolDifferences {
                pool: "web".into(),
                backends: Differences { changed: changed("b", "state"), ..Differences::default() },
            }],
            ..Reload::default()
        };
        let expected = "a reload of /r.toml would change:\n  ~ log\n  + listener api\n  - pool old\n  \
                        ~ backend web/a: weight\n  ! workers (needs a restart)\n\
                        changed live, and kept (--discard-live undoes it):\n  ~ backend web/b: state\n";
        assert_eq!(lines(&reload), expected);
        let nothing = Reload { file: "/r.toml".into(), applied: true, ..Reload::default() };
        assert_eq!(lines(&nothing), "/r.toml was loaded again; nothing was different\n");
    }
}
