//! Live edits over a restart: what of the pools goes into the state file, when, and what comes out of it at the next start.
//!
//! Nobody waits for the file: an edit counts when its pool says so. The first edit after a quiet second goes to the disk at
//! once, those that follow within a second go together.

use std::future::pending;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::sleep;

use crate::files::state::StateFile;
use crate::limits::STATE_PAUSE;
use crate::worker::clock;

use super::overlay::text::{self, Clocks, Damage, Kept};
use super::overlay::{Edit, Overlay};
use super::roster::{Roster, Rosters};

/// What of an earlier process's state could not be taken up. The rest was.
#[derive(Debug, Default)]
pub struct Lost {
    /// The pools whose edits do not fit into the configuration any more.
    pub pools: Vec<String>,
}

/// Reads a state, by the clocks as they stand.
///
/// # Errors
/// What is wrong with it.
pub fn read(text: &[u8]) -> Result<Vec<Kept>, Damage> {
    text::parse(text, clocks())
}

/// Takes up what an earlier process has kept, and tells of it.
pub fn restore(rosters: &Rosters, state: Vec<Kept>) -> Lost {
    let mut lost = Lost::default();
    for Kept { pool, overlay } in state {
        let edits = overlay.edits().len();
        let Some(roster) = rosters.find(&pool) else {
            tracing::warn!(pool, edits, "live edits are forgotten: the configuration has no such pool any more");
            continue;
        };
        let restored = roster.edit(None, clock::now(), |now| now.restore(overlay));
        match restored {
            Ok(_) => tell(&pool, &roster.moment().overlay),
            Err(error) => {
                tracing::error!(
                    pool, edits, %error,
                    "live edits cannot be taken up: what follows would not be a set of backends. The pool is as the \
                     configuration has it"
                );
                lost.pools.push(pool);
            }
        }
    }
    lost
}

/// Puts what is to be kept into the file, whenever it changes. Runs for ever.
pub async fn keep(rosters: Arc<Rosters>, file: StateFile) {
    let mut changes = rosters.changes();
    let mut last = None;
    loop {
        changes.mark_unchanged();
        let state = kept(&rosters);
        if last.as_ref() != Some(&state) {
            put(&file, state.clone());
            last = Some(state);
            sleep(STATE_PAUSE).await;
        }
        if changes.changed().await.is_err() {
            return pending().await;
        }
    }
}

/// Puts what is to be kept into the file, as it is at the end.
pub fn save(rosters: &Rosters, file: &StateFile) {
    put(file, kept(rosters));
}

fn put(file: &StateFile, state: Vec<Kept>) {
    // Both clocks are read now: leases are told by the time that is left of them.
    let clocks = clocks();
    file.put(move || text::write(&state, clocks));
}

fn kept(rosters: &Rosters) -> Vec<Kept> {
    let kept = |roster: &Roster| Some(Kept { pool: roster.pool().name().to_owned(), overlay: roster.kept()? });
    rosters.all().iter().filter_map(kept).collect()
}

fn clocks() -> Clocks {
    Clocks { now: clock::now(), wall: SystemTime::now() }
}

fn tell(pool: &str, overlay: &Overlay) {
    let edits = overlay.edits();
    let count = |wanted: fn(&Edit) -> bool| edits.iter().filter(|edit| wanted(edit)).count();
    let added = count(|edit| matches!(edit, Edit::Added(_)));
    let removed = count(|edit| matches!(edit, Edit::Removed(_)));
    let changed = count(|edit| matches!(edit, Edit::Changed(..)));
    tracing::info!(pool, added, removed, changed, "live edits of before the restart count again");
    for name in overlay.expired() {
        tracing::warn!("backend {pool}/{name}: its lease has ended before or during the restart");
    }
}
