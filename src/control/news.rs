//! What happens to listeners, pools and backends: told once, as a log line and to everybody who follows the events.
//!
//! Telling never waits. Whoever reads too slowly loses events, and is told how many.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;

use crate::balance::Changes;
use crate::control::roster::Rosters;
use crate::control::wire::Event;
use crate::http::Peer;
use crate::limits::{EVENTS_BEHIND_MAX, EVENTS_KEPT};
use crate::worker::news::{Hearer, News};

/// What has happened.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A backend's connects have failed too often.
    Ejected,
    /// Its ejection is over.
    Returned,
    /// Its active checks pass.
    Up,
    /// Its active checks fail.
    Down,
    /// It came.
    Added,
    /// It went.
    Removed,
    /// It was told to be something else.
    Changed,
    /// Its lease was not renewed.
    Expired,
    /// A whole set took the place of another.
    Swap,
    /// A listener's clients wait at a limit.
    Paused,
    /// They are accepted again.
    Resumed,
}

impl Kind {
    /// Every kind, in the order of the documentation.
    pub const ALL: &[Kind] = &[
        Kind::Ejected,
        Kind::Returned,
        Kind::Up,
        Kind::Down,
        Kind::Added,
        Kind::Removed,
        Kind::Changed,
        Kind::Expired,
        Kind::Swap,
        Kind::Paused,
        Kind::Resumed,
    ];

    /// Its word in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Ejected => "ejected",
            Kind::Returned => "returned",
            Kind::Up => "up",
            Kind::Down => "down",
            Kind::Added => "added",
            Kind::Removed => "removed",
            Kind::Changed => "changed",
            Kind::Expired => "lease_expired",
            Kind::Swap => "swap",
            Kind::Paused => "paused",
            Kind::Resumed => "resumed",
        }
    }

    const fn is_trouble(self) -> bool {
        matches!(self, Kind::Ejected | Kind::Down | Kind::Expired | Kind::Paused)
    }
}

/// Where everything is told.
#[derive(Debug)]
pub struct Newsroom {
    live: broadcast::Sender<Arc<Event>>,
    past: Mutex<VecDeque<Arc<Event>>>,
}

impl Default for Newsroom {
    fn default() -> Newsroom {
        Newsroom::new()
    }
}

impl Newsroom {
    /// Nothing has happened yet.
    pub fn new() -> Newsroom {
        let (live, _) = broadcast::channel(EVENTS_BEHIND_MAX);
        Newsroom { live, past: Mutex::default() }
    }

    /// Something about a backend; `message` is the log line.
    pub fn of_backend(&self, kind: Kind, pool: &str, backend: &str, message: String) {
        log(kind, None, &message);
        self.publish(kind, (Some(pool), Some(backend), None), message);
    }

    /// Somebody has edited single backends; `message` is the log line.
    pub fn edited(&self, pool: &str, changes: &Changes, message: &str, peer: Peer) {
        let Changes { added, removed, changed, .. } = changes;
        let counts = (added.len(), removed.len(), changed.len());
        tracing::info!(added = counts.0, removed = counts.1, changed = counts.2, "{message} ({peer})");
        for (kind, names) in [(Kind::Added, added), (Kind::Removed, removed), (Kind::Changed, changed)] {
            for name in names {
                self.publish(kind, (Some(pool), Some(name), None), format!("{message} ({peer})"));
            }
        }
    }

    /// A host name stands for other addresses; `message` is the log line.
    pub fn looked_up(&self, pool: &str, changes: &Changes, message: &str) {
        tracing::info!("{message}");
        for (kind, names) in [(Kind::Added, &changes.added), (Kind::Removed, &changes.removed)] {
            for name in names {
                self.publish(kind, (Some(pool), Some(name), None), message.to_owned());
            }
        }
    }

    /// Somebody has swapped a whole set.
    pub fn swapped(&self, pool: &str, changes: &Changes, peer: Peer) {
        let Changes { added, removed, kept, changed } = changes;
        let (added, removed, changed) = (added.len(), removed.len(), changed.len());
        tracing::info!(added, removed, changed, "pool {pool}: the set was swapped ({peer})");
        let counts = format!("{added} added, {removed} removed, {changed} changed, {} kept", kept.len());
        self.publish(
            Kind::Swap,
            (Some(pool), None, None),
            format!("pool {pool}: the set was swapped: {counts} ({peer})"),
        );
    }

    /// Everything from now on, and what was told before: up to `past` of it.
    pub fn follow(&self, past: usize) -> (Vec<Arc<Event>>, broadcast::Receiver<Arc<Event>>) {
        let kept = self.past();
        let before = kept.iter().skip(kept.len().saturating_sub(past)).cloned().collect();
        (before, self.live.subscribe())
    }

    fn publish(&self, kind: Kind, about: (Option<&str>, Option<&str>, Option<&str>), message: String) {
        let (pool, backend, listener) = about;
        let event = Arc::new(Event {
            time: now(),
            event: kind.name().to_owned(),
            pool: pool.map(str::to_owned),
            backend: backend.map(str::to_owned),
            listener: listener.map(str::to_owned),
            message,
            lost: None,
        });
        // Under the lock, so that whoever begins to follow misses nothing and gets nothing twice.
        let mut past = self.past();
        if past.len() == EVENTS_KEPT {
            past.pop_front();
        }
        past.push_back(event.clone());
        if self.live.send(event).is_err() {
            tracing::trace!("nobody follows the events");
        }
    }

    fn past(&self) -> MutexGuard<'_, VecDeque<Arc<Event>>> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells what the workers tell, until the last of them has ended.
pub async fn relay(rosters: Arc<Rosters>, hearer: Arc<tokio::sync::Mutex<Hearer>>) {
    let mut hearer = hearer.lock().await;
    while let Some(heard) = hearer.hear().await {
        let news = rosters.news();
        match heard {
            News::Ejected { pool, backend, cause } => {
                let message = format!("backend {pool}/{backend} is ejected: its connects fail: {cause}");
                news.of_backend(Kind::Ejected, &pool, &backend, message);
            }
            News::Returned { pool, backend } => {
                let message = format!("backend {pool}/{backend} serves again: a connection to it has succeeded");
                news.of_backend(Kind::Returned, &pool, &backend, message);
            }
            News::Paused { listener, limit, max } => {
                let message = format!("{limit} is reached: new clients wait in the backlog");
                log(Kind::Paused, Some((&listener, max)), &message);
                news.publish(Kind::Paused, (None, None, Some(&listener)), message);
            }
            News::Resumed { listener } => {
                tracing::info!(listener, "accepting again");
                news.publish(Kind::Resumed, (None, None, Some(&listener)), "accepting again".to_owned());
            }
        }
        let lost = hearer.lost();
        if lost > 0 {
            tracing::warn!(lost, "more has happened than could be told: events are missing here");
        }
    }
}

/// The time, as events write it.
pub fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

fn log(kind: Kind, limit: Option<(&str, usize)>, message: &str) {
    match (kind.is_trouble(), limit) {
        (true, Some((listener, max))) => tracing::warn!(listener, max, "{message}"),
        (true, None) => tracing::warn!("{message}"),
        (false, _) => tracing::info!("{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_begins_to_follow_misses_nothing_and_gets_nothing_twice() {
        let news = Newsroom::new();
        let tell = |number: usize| news.of_backend(Kind::Up, "web", &number.to_string(), "up".into());
        (0..EVENTS_KEPT + 3).for_each(tell);
        let (past, mut live) = news.follow(2);
        tell(999);
        let names: Vec<String> = past.iter().filter_map(|event| event.backend.clone()).collect();
        assert_eq!(names, [(EVENTS_KEPT + 1).to_string(), (EVENTS_KEPT + 2).to_string()]);
        assert_eq!(live.try_recv().unwrap().backend.as_deref(), Some("999"));
        assert!(live.try_recv().is_err());
        assert_eq!(news.follow(usize::MAX).0.len(), EVENTS_KEPT);
    }

    #[test]
    fn a_slow_reader_loses_events_and_learns_how_many() {
        let news = Newsroom::new();
        let (_, mut live) = news.follow(0);
        for _ in 0..EVENTS_BEHIND_MAX + 5 {
            news.of_backend(Kind::Down, "web", "a", "down".into());
        }
        assert_eq!(live.try_recv(), Err(broadcast::error::TryRecvError::Lagged(5)));
        assert!(live.try_recv().is_ok());
    }

    #[test]
    fn each_kind_has_a_word_of_its_own() {
        let words: std::collections::HashSet<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(words.len(), Kind::ALL.len());
    }
}
