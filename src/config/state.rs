//! The file that keeps live edits: what it may be called, and what it must not be.

use std::path::{Path, PathBuf};

use crate::config::fault::Problem;
use crate::config::notation::quoted;
use crate::config::{Admin, LogTarget, value};

/// Where live edits are kept; "": nowhere.
///
/// # Errors
/// Not a whole path of a file.
pub fn state_file(text: &str) -> Result<Option<PathBuf>, Problem> {
    if text.is_empty() {
        return Ok(None);
    }
    value::file(text, "write it as in \"/var/lib/ringlb/state\", or \"\" for none").map(Some)
}

/// What else has that path, if something has.
pub fn taken(path: &Path, admin: Option<&Admin>, log: Option<&LogTarget>) -> Option<Problem> {
    let by = match (admin, log) {
        (_, Some(LogTarget::File(log))) if log == path => "`access_log`",
        (Some(Admin::At(admin)), _) if admin == path => "`admin`",
        _ => return None,
    };
    let what = format!("{} is the path of {by} too", quoted(&path.display().to_string()));
    Some(Problem::new(
        what,
        "the file is replaced as a whole, and whatever else is in it is lost",
        "give it another path",
    ))
}

/// A state file without an admin API.
pub fn nobody_edits() -> Problem {
    Problem::new(
        "there are no live edits to keep",
        "they are made over the admin API, which is switched off",
        "set `admin`, or take this out",
    )
}
