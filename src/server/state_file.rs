//! The state file, from the configuration to the end of the process.

use crate::config::Config;
use crate::control::roster::Rosters;
use crate::control::state;
use crate::files::Lock;
use crate::files::state::{Found, StateFile};
use crate::limits::STATE_END_MAX;
use crate::server::error::Error;

/// The file that the configuration asks for, and the right to write it.
pub(super) struct Keeper {
    pub(super) file: StateFile,
    _lock: Lock,
}

/// Opens it, and gives the pools what it has kept for them. What cannot be used is moved aside, and told: a balancer that
/// does not start serves nobody.
pub(super) fn open(config: &Config, rosters: &Rosters) -> Result<Option<Keeper>, Error> {
    let Some(path) = config.state_file() else { return Ok(None) };
    let refused = |source| Error::StateFile { path: path.to_owned(), source };
    let (file, lock, found) = StateFile::open(path).map_err(refused)?;
    tracing::info!(path = %path.display(), "state file");
    let trouble = match found {
        Found::Nothing => None,
        Found::Unreadable(why) => Some(why),
        Found::Text(text) => match state::read(&text) {
            Err(damage) => Some(damage.to_string()),
            Ok(kept) => {
                let lost = state::restore(rosters, kept).pools;
                (!lost.is_empty()).then(|| format!("live edits do not fit any more, of: {}", lost.join(", ")))
            }
        },
    };
    if let Some(why) = trouble {
        let aside = file.set_aside().map_err(refused)?;
        tracing::error!(
            path = %path.display(), aside = %aside.display(), why,
            "the state file cannot be used, at least not all of it: it was moved aside, and the configuration counts for \
             what it does not tell. Look at it, and make the edits anew that are missing"
        );
    }
    Ok(Some(Keeper { file, _lock: lock }))
}

/// Writes the last state.
pub(super) fn finish(keeper: &Keeper, rosters: &Rosters) {
    state::save(rosters, &keeper.file);
    if !keeper.file.finish(STATE_END_MAX) {
        tracing::error!("the state file is not written: ending without the last edits after {STATE_END_MAX:?}");
    }
}
