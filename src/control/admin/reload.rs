//! Loading the configuration again, or saying what that would change.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use crate::config;
use crate::config::compare::{self, Difference};
use crate::control::reload::{self, Reloaded};
use crate::control::rosters::PoolPlan;
use crate::control::wire::{ChangedKeys, Differences, PoolDifferences, Proposal, Reload};
use crate::http::Peer;

use super::Admin;
use super::answer::{Refused, Revision};
use super::body::Query;

/// The query of a reload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    #[serde(default)]
    discard_live: bool,
    #[serde(default)]
    plan: bool,
}

/// `POST /v1/reload?discard_live=&plan=`. A plan may have a body, which is then looked at instead of the file.
pub async fn reload(
    State(admin): State<Arc<Admin>>,
    Extension(peer): Extension<Peer>,
    Query(wish): Query<Wish>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let text = admin.read_if_any::<Proposal>(&headers, body).await?.map(|proposal| proposal.text);
    let reloaded = match (wish.plan, text) {
        (true, text) => admin.reloader.plan(text, wish.discard_live).await?,
        (false, None) => admin.reloader.reload(wish.discard_live, peer.to_string()).await?,
        (false, Some(_)) => {
            let message = "a reload takes what the file says, and not what is sent";
            let hint = "send no body; with ?plan=true the body is looked at instead of the file";
            return Err(Refused::new(StatusCode::BAD_REQUEST, "bad_value", message, hint));
        }
    };
    let answer = shown(reloaded, !wish.plan, wish.discard_live);
    Ok(admin.json(StatusCode::OK, &answer, Revision::All(admin.rosters.revision())))
}

fn shown(reloaded: Reloaded, applied: bool, discarded: bool) -> Reload {
    let Reloaded { file, outcome, warnings } = reloaded;
    let compare::Differences { settings, restart, listeners, pools } = outcome.differences;
    let pools_that = |of: fn(&PoolPlan) -> &[Difference]| {
        let differing = outcome.pools.iter().filter(|pool| !of(pool).is_empty());
        differing.map(|pool| PoolDifferences { pool: pool.name.clone(), backends: of(pool).into() }).collect()
    };
    Reload {
        file,
        applied,
        settings: settings.into_iter().map(str::to_owned).collect(),
        restart: restart.into_iter().map(str::to_owned).collect(),
        listeners: listeners[..].into(),
        pools: pools[..].into(),
        backends: pools_that(|pool| &pool.backends),
        live: pools_that(|pool| &pool.live),
        discarded,
        warnings,
    }
}

impl From<&[Difference]> for Differences {
    fn from(list: &[Difference]) -> Differences {
        let mut differences = Differences::default();
        for difference in list {
            match difference {
                Difference::Added(name) => differences.added.push(name.clone()),
                Difference::Removed(name) => differences.removed.push(name.clone()),
                Difference::Changed(name, keys) => {
                    let keys = keys.iter().map(|&key| key.to_owned()).collect();
                    differences.changed.push(ChangedKeys { name: name.clone(), keys });
                }
            }
        }
        differences
    }
}

impl From<reload::Refused> for Refused {
    fn from(refused: reload::Refused) -> Refused {
        let (status, code) = match &refused {
            reload::Refused::NoFile => (StatusCode::CONFLICT, "no_file"),
            reload::Refused::File(config::Error::Faults(_)) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_config"),
            reload::Refused::File(_) => (StatusCode::CONFLICT, "unreadable"),
            reload::Refused::NeedsRestart(_) => (StatusCode::CONFLICT, "needs_restart"),
            reload::Refused::Pool(_) | reload::Refused::Address(_) => (StatusCode::CONFLICT, "conflict"),
            reload::Refused::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        Refused::new(status, code, refused.to_string(), refused.hint())
    }
}
