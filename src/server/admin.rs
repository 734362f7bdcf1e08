//! What the admin API is given of the process.

use std::os::unix::net::UnixListener;
use std::sync::Arc;

use crate::control::admin::socket::AdminSocket;
use crate::control::admin::{Facts, ListenerFacts};
use crate::server::bind::Bound;
use crate::server::error::{Error, system};
use crate::server::setup::Plan;
use crate::worker::clock;

/// What the admin API listens on, and what it tells of the process.
pub(super) fn serve(
    admin: &AdminSocket,
    plan: &Plan<'_>,
    bound: &[Bound],
) -> Result<(Arc<UnixListener>, Facts), Error> {
    let listener = admin.listener().map_err(system("the admin socket"))?;
    let addresses = |name: &str| {
        let bound = bound.iter().filter(|bound| bound.name == name);
        bound.map(|bound| bound.listening.address().to_string()).collect()
    };
    let listeners = plan.config.listeners().iter().map(|listener| ListenerFacts {
        name: listener.name.clone(),
        addresses: addresses(&listener.name),
        pool: listener.pool.clone(),
        gate: Arc::clone(&plan.shared[&listener.name].gate),
    });
    let facts = Facts {
        started: clock::now(),
        origin: plan.config.origin().cloned(),
        process: Arc::clone(&plan.process),
        listeners: listeners.collect(),
        routes: bound.iter().map(|bound| bound.name.clone()).collect(),
    };
    tracing::info!(path = %admin.path().display(), "admin API");
    Ok((Arc::new(listener), facts))
}
