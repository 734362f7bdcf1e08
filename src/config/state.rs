//! The file that keeps live edits: what it may be called, and what it must not be.

use std::path::{Path, PathBuf};

use crate::config::fault::Problem;
use crate::config::notation::quoted;
use crate::config::{Admin, LogTarget};

/// Where live edits are kept; "": nowhere.
///
/// # Errors
/// Not a whole path of a file.
pub fn state_file(text: &str) -> Result<Option<PathBuf>, Problem> {
    let help = "write it as in \"/var/lib/ringlb/state\", or \"\" for none";
    match text {
        "" => Ok(None),
        _ if !text.starts_with('/') => Err(Problem::new(
            format!("{} is not a whole path", quoted(text)),
            "it does not begin with `/`, and the directory that a service is started in says nothing",
            help,
        )),
        _ if text.ends_with('/') || text.contains('\0') => {
            let what = format!("{} is not the path of a file", quoted(text));
            Err(Problem::new(what, "a path ends with the name of the file, and no name has a zero byte in it", help))
        }
        _ => Ok(Some(text.into())),
    }
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
