//! What the admin API is given of the process.

use std::os::unix::net::UnixListener;
use std::sync::Arc;

use crate::control::admin::socket::AdminSocket;
use crate::control::listeners::ListenerFacts;
use crate::server::bind::Bound;
use crate::server::error::{Error, system};
use crate::server::setup::Plan;

/// What the admin API listens on.
pub(super) fn listen(admin: &AdminSocket) -> Result<Arc<UnixListener>, Error> {
    let listener = admin.listener().map_err(system("the admin socket"))?;
    tracing::info!(path = %admin.path().display(), "admin API");
    Ok(Arc::new(listener))
}

/// The listeners, in the order of the configuration.
pub(super) fn facts(plan: &Plan, bound: &[Bound]) -> Vec<ListenerFacts> {
    let addresses = |name: &str| {
        let bound = bound.iter().filter(|bound| bound.name == name);
        bound.map(|bound| bound.listening.address().to_string()).collect()
    };
    let facts = plan.config.listeners().iter().map(|listener| ListenerFacts {
        name: listener.name.clone(),
        addresses: addresses(&listener.name),
        pool: listener.pool.clone(),
        gate: Arc::clone(&plan.shared[&listener.name].gate),
        leaving: false,
    });
    facts.collect()
}
