//! What the admin API is given of the process.

use std::collections::HashMap;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use crate::config::Config;
use crate::control::admin::{Facts, ListenerFacts};
use crate::server::Fleet;
use crate::server::error::{Error, system};
use crate::worker::admission::Gate;
use crate::worker::clock;

impl Fleet {
    /// What the admin API listens on, and what it tells of the process.
    pub(super) fn admin(
        &self,
        config: &Config,
        gates: &HashMap<String, Arc<Gate>>,
    ) -> Result<Option<(UnixListener, Facts)>, Error> {
        let Some(admin) = &self.admin else { return Ok(None) };
        let listener = admin.listener().map_err(system("the admin socket"))?;
        let addresses = |name: &str| {
            let bound = self.listeners.iter().filter(|bound| bound.name == name);
            bound.map(|bound| bound.listening.address().to_string()).collect()
        };
        let listeners = config.listeners().iter().map(|listener| ListenerFacts {
            name: listener.name.clone(),
            addresses: addresses(&listener.name),
            pool: listener.pool.clone(),
            gate: Arc::clone(&gates[&listener.name]),
        });
        let facts = Facts {
            started: clock::now(),
            origin: config.origin().cloned(),
            process: Arc::clone(&self.process),
            listeners: listeners.collect(),
            routes: self.listeners.iter().map(|bound| bound.name.clone()).collect(),
        };
        tracing::info!(path = %admin.path().display(), "admin API");
        Ok(Some((listener, facts)))
    }
}
