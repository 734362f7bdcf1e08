//! Active checks: every backend of a pool with `[pool.health]` is asked now and then whether it is well.
//!
//! `schedule` says when (pure), `check` is one check, and [`Prober`] brings them together: it follows the sets of the
//! pools, keeps the number of checks under way bounded, and reports what they show. What the reports mean is the
//! pool's business ([`Pool::report_check`](crate::balance::Pool::report_check)).

mod check;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::sleep;

use crate::address::Address;
use crate::balance::settings::State;
use crate::balance::{Backend, BackendId, CheckEffect};
use crate::config::health::{Health, OnDown};
use crate::control::due::random;
use crate::control::news::{Kind, Newsroom};
use crate::control::roster::Roster;
use crate::control::rosters::Rosters;
use crate::limits::CLOSE_BATCH;
use crate::relay::Kill;
use crate::time::Time;
use crate::worker::clock;
use crate::worker::mailbox::{Command, Mailbox};

use check::{Outcome, Probe};
use schedule::{Conclusion, Newcomer, Schedule, Token};

/// Checks the backends of all pools.
pub struct Prober {
    rosters: Arc<Rosters>,
    workers: Vec<Mailbox>,
    in_flight_max: NonZeroUsize,
    schedule: Schedule,
    targets: HashMap<Token, Target>,
    flights: JoinSet<Flight>,
    /// Whose check each task is, so that one which panics is known too.
    tasks: HashMap<Id, Token>,
    /// Whose sessions are to be closed, and when the workers are told.
    closing: Vec<(Arc<str>, BackendId)>,
    close_at: Time,
    /// Checks cannot be made at the moment, for want of something of our own; this was logged.
    troubled: bool,
}

/// A backend that is watched.
struct Target {
    /// Its pool's.
    roster: Arc<Roster>,
    backend: Arc<Backend>,
    probe: Arc<Probe>,
    interval: Duration,
    on_down: OnDown,
}

/// A check that has ended.
struct Flight {
    begun: Time,
    outcome: Outcome,
}

enum Event {
    Told,
    Landed(Result<(Id, Flight), JoinError>),
    Due,
}

impl Prober {
    /// Will watch the backends of all `rosters`, with so many checks under way at most. `workers` are told whose sessions
    /// to close.
    pub fn new(rosters: Arc<Rosters>, workers: Vec<Mailbox>, in_flight_max: NonZeroUsize) -> Prober {
        Prober {
            rosters,
            workers,
            in_flight_max,
            schedule: Schedule::new(),
            targets: HashMap::new(),
            flights: JoinSet::new(),
            tasks: HashMap::new(),
            closing: Vec::new(),
            close_at: Time::NEVER,
            troubled: false,
        }
    }

    /// Checks for ever.
    pub async fn run(mut self) {
        let mut changes = self.rosters.changes();
        self.follow(clock::now());
        loop {
            self.begin(clock::now());
            match self.wait(&mut changes).await {
                Event::Told => self.follow(clock::now()),
                Event::Landed(Ok((id, flight))) => {
                    if let Some(token) = self.tasks.remove(&id) {
                        self.conclude(token, flight, clock::now());
                    }
                }
                Event::Landed(Err(error)) => self.lost(&error, clock::now()),
                Event::Due => {}
            }
            self.close(clock::now());
        }
    }

    async fn wait(&mut self, changes: &mut watch::Receiver<u64>) -> Event {
        let room = self.flights.len() < self.in_flight_max.get();
        let next = self.schedule.next().filter(|_| room).unwrap_or(Time::NEVER).min(self.close_at);
        tokio::select! {
            told = changes.changed() => match told {
                Ok(()) => Event::Told,
                Err(_) => std::future::pending().await,
            },
            Some(landed) = self.flights.join_next_with_id() => Event::Landed(landed),
            () = sleep(next.since(clock::now())), if next != Time::NEVER => Event::Due,
        }
    }

    /// Begins what is due, as far as there is room.
    fn begin(&mut self, now: Time) {
        while self.flights.len() < self.in_flight_max.get()
            && let Some(token) = self.schedule.poll(now)
        {
            let Some(target) = self.targets.get(&token) else { continue };
            let probe = target.probe.clone();
            let task = self.flights.spawn(async move {
                let begun = clock::now();
                Flight { begun, outcome: probe.run().await }
            });
            self.tasks.insert(task.id(), token);
        }
    }

    /// Watches those who are to be watched, and nobody else.
    fn follow(&mut self, now: Time) {
        let rosters = self.rosters.clone();
        let mut watched: HashMap<(*const Roster, BackendId), Token> =
            self.targets.iter().map(|(token, target)| (target.identity(), *token)).collect();
        let mut newcomers = Vec::new();
        for roster in rosters.all().iter() {
            for target in targets(roster) {
                let before = watched.get(&target.identity());
                if before.is_some_and(|token| self.targets[token].is_watched_as(&target)) {
                    watched.remove(&target.identity());
                } else {
                    newcomers.push(target);
                }
            }
        }
        for token in watched.into_values() {
            self.schedule.dismiss(token);
            self.targets.remove(&token);
        }
        let admitted: Vec<Newcomer> =
            newcomers.iter().map(|target| Newcomer { interval: target.interval, up: target.backend.is_up() }).collect();
        let tokens = self.schedule.admit(&admitted, now);
        self.targets.extend(tokens.into_iter().zip(newcomers));
    }

    /// Reports what a check has shown, and plans the next.
    fn conclude(&mut self, token: Token, flight: Flight, now: Time) {
        let Some(target) = self.targets.get(&token) else { return };
        let Flight { begun, outcome } = flight;
        let pool = target.roster.pool();
        let passed = match &outcome {
            Outcome::Passed => Some(true),
            Outcome::Failed(_) => Some(false),
            Outcome::Ours(_) => None,
        };
        let name = target.backend.name();
        let effect = passed.map_or_else(CheckEffect::default, |passed| pool.report_check(name, passed, begun, now));
        let conclusion = Conclusion { begun, passed, turned: effect.up, ejected: target.backend.is_ejected() };
        let streak = self.schedule.conclude(token, conclusion, now, random());
        let news = self.rosters.news();
        self.troubled = log(news, (pool.name(), name), &outcome, (effect, streak), self.troubled);
        if effect.up == Some(false) && target.on_down == OnDown::Close {
            self.closing.push((pool.name().into(), target.backend.id()));
            self.close_at = self.close_at.min(now + CLOSE_BATCH);
        }
    }

    /// A check that did not end by itself says nothing, and the next comes in its time.
    fn lost(&mut self, error: &JoinError, now: Time) {
        tracing::error!(%error, "an active check was lost; please report this");
        if let Some(token) = self.tasks.remove(&error.id()) {
            let conclusion = Conclusion { begun: now, passed: None, turned: None, ejected: false };
            self.schedule.conclude(token, conclusion, now, random());
        }
    }

    /// Tells the workers whose sessions to close, a few at once: each time they look through all of theirs.
    fn close(&mut self, now: Time) {
        if now < self.close_at {
            return;
        }
        self.close_at = Time::NEVER;
        let backends: Arc<HashSet<(Arc<str>, BackendId)>> = Arc::new(self.closing.drain(..).collect());
        for worker in &self.workers {
            worker.send(Command::CloseBackends(backends.clone(), Kill::BackendDown));
        }
    }
}

impl Target {
    /// Tells it from all others that are there at the same time: it holds the roster.
    fn identity(&self) -> (*const Roster, BackendId) {
        (Arc::as_ptr(&self.roster), self.backend.id())
    }

    /// Whether the one that is watched already need not be watched otherwise.
    fn is_watched_as(&self, other: &Target) -> bool {
        let same = self.backend.address() == other.backend.address() && self.probe == other.probe;
        same && self.interval == other.interval && self.on_down == other.on_down
    }
}

/// Those of a pool who are to be watched.
fn targets(roster: &Arc<Roster>) -> Vec<Target> {
    let Some(health) = roster.health() else { return Vec::new() };
    let hosts = roster.hosts_of_backends();
    // What listens on a port for checks alone does not speak for clients.
    let header = roster.send_proxy_protocol().filter(|_| health.port.is_none());
    let snapshot = roster.pool().snapshot();
    let watched = snapshot.backends().iter().filter(|backend| backend.settings().state != State::Maint);
    watched
        .map(|backend| {
            let address = checked_address(backend.address(), &health);
            let host = hosts.get(backend.name()).cloned().unwrap_or_else(|| match &address {
                Address::Inet(address) => address.to_string(),
                Address::Unix(_) => "localhost".to_owned(),
            });
            let (check, timeout, sources) = (health.check.clone(), health.timeout, roster.sources());
            let probe = Arc::new(Probe { address, check, host, header, timeout, sources });
            let (interval, on_down) = (health.interval, health.on_down);
            Target { roster: roster.clone(), backend: backend.clone(), probe, interval, on_down }
        })
        .collect()
}

/// Where the check of a backend goes.
fn checked_address(address: &Address, health: &Health) -> Address {
    match (address, health.port) {
        (Address::Inet(inet), Some(port)) => {
            let mut inet = *inet;
            inet.set_port(port.get());
            Address::Inet(inet)
        }
        _ => address.clone(),
    }
}

/// Logs what a check has changed, and nothing where it has changed nothing. Says whether checks cannot be made.
fn log(
    news: &Newsroom,
    (pool, name): (&str, &str),
    outcome: &Outcome,
    (effect, streak): (CheckEffect, u32),
    troubled: bool,
) -> bool {
    let checks = if streak == 1 { "check" } else { "checks" };
    match outcome {
        Outcome::Failed(cause) if effect.up == Some(false) => {
            let message = format!("backend {pool}/{name} is down: {streak} failed {checks}, the last: {cause}");
            news.of_backend(Kind::Down, pool, name, message);
        }
        Outcome::Failed(cause) => tracing::debug!("backend {pool}/{name} failed a check: {cause}"),
        Outcome::Passed if effect.up == Some(true) => {
            news.of_backend(Kind::Up, pool, name, format!("backend {pool}/{name} is up: {streak} passed {checks}"));
        }
        Outcome::Passed if effect.returned => {
            let message = format!("backend {pool}/{name} has returned: {streak} passed {checks} since its ejection");
            news.of_backend(Kind::Returned, pool, name, message);
        }
        Outcome::Passed => {}
        Outcome::Ours(errno) => {
            if !troubled {
                tracing::warn!(
                    "backends cannot be checked for now, {pool}/{name} for one: {errno}. That says nothing about \
                     them, so they stay as they are; look for what this host or process lacks"
                );
            }
            return true;
        }
    }
    false
}
