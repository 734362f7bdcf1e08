//! Reload: the file is read and checked again, and what it says becomes what is, all of it or nothing.
//!
//! ```text
//! asked -> read and checked (on a thread aside) -> ordered from the main thread, which owns the sockets
//!              '-> refused: the file is wrong          '-> refused: a socket, a pool, or a key that needs a restart
//!                                                      '-> done: answered with what was different
//! ```
//!
//! One after the other. Whatever refuses it does so before anything has changed. A plan goes the same way, and stops before
//! anything would change.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{Mutex, oneshot};
use tokio::time::timeout;

use crate::config::compare::{Difference, Differences};
use crate::config::{self, Config, Origin};
use crate::control::metrics::Metrics;
use crate::control::news::Kind;
use crate::control::rosters::{Mode, PoolPlan, PoolRefusal, Rosters};
use crate::control::{Notice, Readiness};
use crate::limits::WORKER_ANSWER_MAX;
use crate::systemd;

/// An order to the main thread.
#[derive(Debug)]
pub struct Order {
    /// What is to be. It has the same origin as what is.
    pub config: Box<Config>,
    /// How far to go.
    pub mode: Mode,
    /// Where the outcome goes.
    pub reply: oneshot::Sender<Result<(Outcome, Vec<Settled>), Refused>>,
}

/// A worker answers here once nobody is accepted any more as it was before. One that fails lets go of it.
pub type Settled = oneshot::Receiver<()>;

/// What a reload has changed, or would change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Between the file as it was loaded last and as it is.
    pub differences: Differences,
    /// Of the pools that stay: their backends.
    pub pools: Vec<PoolPlan>,
}

/// The outcome, and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// What was read.
    pub file: String,
    /// What has changed.
    pub outcome: Outcome,
    /// What is odd about the file, each on a line.
    pub warnings: Vec<String>,
}

/// Why nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It was started with options alone.
    #[error("this ringlb was started without a configuration file: there is nothing to load again")]
    NoFile,
    /// The file cannot be read, or is wrong.
    #[error("{0}")]
    File(#[from] config::Error),
    /// Keys have changed that count from the start on.
    #[error("{} in the file, and can only be changed by a restart", changed_keys(.0))]
    NeedsRestart(Vec<&'static str>),
    /// A pool cannot be so.
    #[error(transparent)]
    Pool(#[from] PoolRefusal),
    /// An address cannot be listened on, or connected from.
    #[error("{0}")]
    Address(String),
    /// The process is about to end.
    #[error("this ringlb is stopping")]
    Stopping,
}

impl Refused {
    /// What to do about it.
    pub const fn hint(&self) -> &'static str {
        match self {
            Refused::NoFile => "start it with `ringlb run --config FILE`; backends can be edited live without one",
            Refused::File(config::Error::Faults(_)) => "correct the file; `ringlb check --config FILE` checks it too",
            Refused::File(_) => "nothing has changed",
            Refused::NeedsRestart(_) => "take these changes back, or restart; nothing else has been applied either",
            Refused::Pool(_) => "change the file, or undo live edits with --discard-live",
            Refused::Address(_) => "change the file, or free the address",
            Refused::Stopping => "ask the one that takes its place",
        }
    }
}

impl Outcome {
    /// Of a change of these pools. Where their backends stand in another order, that is told with the pools' keys.
    pub fn new(mut differences: Differences, pools: Vec<PoolPlan>) -> Outcome {
        for PoolPlan { name, .. } in pools.iter().filter(|pool| pool.reordered) {
            let known = differences.pools.iter_mut().find_map(|difference| match difference {
                Difference::Changed(changed, keys) if changed == name => Some(keys),
                _ => None,
            });
            match known {
                Some(keys) => keys.push(ORDER),
                None => differences.pools.push(Difference::Changed(name.clone(), vec![ORDER])),
            }
        }
        Outcome { differences, pools }
    }
}

/// For the log: a line, however much it is.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Differences { settings, restart: _, listeners, pools } = &self.differences;
        let mut parts: Vec<String> = settings.iter().map(|key| format!("`{key}` changed")).collect();
        for (kind, differences) in [("listener", listeners), ("pool", pools)] {
            parts.extend(differences.iter().map(|difference| match difference {
                Difference::Added(name) => format!("{kind} {name} added"),
                Difference::Removed(name) => format!("{kind} {name} removed"),
                Difference::Changed(name, keys) => format!("{kind} {name} changed ({})", keys.join(", ")),
            }));
        }
        for PoolPlan { name, backends, .. } in self.pools.iter().filter(|pool| !pool.backends.is_empty()) {
            let count = |of: fn(&Difference) -> bool| backends.iter().filter(|one| of(one)).count();
            let added = count(|one| matches!(one, Difference::Added(_)));
            let removed = count(|one| matches!(one, Difference::Removed(_)));
            let changed = backends.len() - added - removed;
            parts.push(format!("pool {name}: backends {added} added, {removed} removed, {changed} changed"));
        }
        if parts.is_empty() {
            return f.write_str("nothing is different");
        }
        f.write_str(&parts.join("; "))
    }
}

/// What is told where backends stand in another order than before.
const ORDER: &str = "order of its backends";

/// Whoever may ask for a reload.
#[derive(Clone)]
pub struct Reloader {
    origin: Option<Origin>,
    rosters: Arc<Rosters>,
    numbers: Metrics,
    orders: Arc<dyn Fn(Notice) + Send + Sync>,
    readiness: Readiness,
    turn: Arc<Mutex<()>>,
}

impl Reloader {
    /// One that orders from the main thread by `orders`. `origin` is what the configuration was read from.
    pub fn new(
        origin: Option<Origin>,
        rosters: Arc<Rosters>,
        (numbers, readiness): (Metrics, Readiness),
        orders: impl Fn(Notice) + Send + Sync + 'static,
    ) -> Reloader {
        Reloader { origin, rosters, numbers, readiness, orders: Arc::new(orders), turn: Arc::default() }
    }

    /// Reloads; `who` has asked for it. Everybody hears of it, whatever comes of it.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub async fn reload(&self, discard_live: bool, who: String) -> Result<Reloaded, Refused> {
        let reloader = self.clone();
        // On its own, so that it is told to its end where whoever asked for it does not wait for that.
        let done = tokio::spawn(async move { reloader.reload_and_tell(discard_live, &who).await });
        done.await.unwrap_or(Err(Refused::Stopping))
    }

    async fn reload_and_tell(&self, discard_live: bool, who: &str) -> Result<Reloaded, Refused> {
        let _turn = self.turn.lock().await;
        // Before, a manager waits for the first READY; afterwards, for the end.
        let is_serving = self.readiness.is_ready();
        if is_serving {
            systemd::reloading();
        }
        let done = self.order(None, Mode { discard_live, plan_only: false }).await;
        if is_serving {
            systemd::reloaded();
        }
        let news = self.rosters.news();
        match &done {
            Ok(Reloaded { file, outcome, warnings }) => {
                self.numbers.reloaded(true);
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                let edits = if discard_live { "live edits undone; " } else { "" };
                news.of_process(Kind::Reload, format!("{file} was loaded again: {edits}{outcome} ({who})"));
            }
            Err(refused) => {
                self.numbers.reloaded(false);
                if let Refused::File(config::Error::Faults(faults)) = refused {
                    faults.one_a_line().for_each(|fault| tracing::error!("{fault}"));
                }
                let why = refused.in_short();
                let message = format!("nothing was reloaded: {why}; {} ({who})", refused.hint());
                news.of_process(Kind::ReloadFailed, message);
            }
        }
        done
    }

    /// What a reload would do; of `text` instead of the file, where there is one.
    ///
    /// # Errors
    /// Why it would be refused. Keys that need a restart are part of the plan instead.
    pub async fn plan(&self, text: Option<String>, discard_live: bool) -> Result<Reloaded, Refused> {
        let _turn = self.turn.lock().await;
        self.order(text, Mode { discard_live, plan_only: true }).await
    }

    async fn order(&self, text: Option<String>, mode: Mode) -> Result<Reloaded, Refused> {
        let origin = self.origin.clone().ok_or(Refused::NoFile)?;
        let file = origin.file.display().to_string();
        let load = move || match text {
            Some(text) => origin.parse(&text),
            None => origin.load(),
        };
        // A panic while reading is heard like any other task's; the caller is then told that nobody is there.
        let checked = tokio::task::spawn_blocking(load).await.map_err(|_| Refused::Stopping)??;
        let warnings = checked.warnings.one_a_line().collect();
        let (reply, outcome) = oneshot::channel();
        (self.orders)(Notice::Reload(Order { config: Box::new(checked.config), mode, reply }));
        let (outcome, workers) = outcome.await.unwrap_or(Err(Refused::Stopping))?;
        let settled = async {
            for worker in workers {
                // It makes no difference whether it has settled or failed: it will not come back as it was.
                drop(worker.await);
            }
        };
        if timeout(WORKER_ANSWER_MAX, settled).await.is_err() {
            tracing::warn!("a worker has not yet taken the new configuration over: it is stuck, or has much to do");
        }
        Ok(Reloaded { file, outcome, warnings })
    }
}

impl Refused {
    /// On one line.
    fn in_short(&self) -> String {
        match self {
            Refused::File(config::Error::Faults(faults)) => {
                let count = faults.count(config::Severity::Error);
                format!("the file has {count} error{}", if count == 1 { "" } else { "s" })
            }
            refused => refused.to_string(),
        }
    }
}

fn changed_keys(keys: &[&'static str]) -> String {
    let keys: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    match &keys[..] {
        [one] => format!("{one} has changed"),
        several => format!("{} have changed", several.join(", ")),
    }
}
