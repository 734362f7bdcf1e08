//! Host names among the backends: each is looked up now and then, and becomes one backend for each of its addresses.
//!
//! `resolver` asks, `answer` says what the answers mean (pure), and [`Namer`] brings them together: it follows the
//! rosters, keeps the number of look-ups under way bounded, and makes the addresses those of the pool.

mod answer;
mod resolver;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{sleep, timeout};

use crate::balance::Changes;
use crate::control::due::{Due, random};
use crate::control::news::Newsroom;
use crate::control::roster::{Named, Roster, Rosters};
use crate::limits::{RESOLVE_MAX, RESOLVES_MAX};
use crate::time::Time;
use crate::worker::clock;

use answer::{Answer, pause, settle};
use resolver::Resolver;

/// Looks up the host names of all pools.
pub struct Namer<F> {
    rosters: Arc<Rosters>,
    resolver: Resolver,
    entries: HashMap<u64, Entry>,
    entered: u64,
    due: Due<u64>,
    flights: JoinSet<(Answer, Answer)>,
    tasks: HashMap<Id, u64>,
    /// Names that have not been looked up once, and whom to tell when there are none.
    unknown: HashSet<u64>,
    on_known: Option<F>,
}

/// One host name of one pool.
struct Entry {
    /// The pool's place among the rosters.
    pool: usize,
    named: Named,
    /// Look-ups in a row that met with trouble.
    failures: u32,
}

enum Event {
    Told,
    Landed(Result<(Id, (Answer, Answer)), JoinError>),
    Due,
}

impl<F: FnOnce()> Namer<F> {
    /// Will look up the host names of all `rosters`, asking `servers` or else the system's. `on_known` is called once all
    /// that are there at the beginning have been looked up, whatever came of it.
    pub fn new(rosters: Arc<Rosters>, servers: Vec<SocketAddr>, on_known: F) -> Namer<F> {
        Namer {
            rosters,
            resolver: Resolver::new(servers),
            entries: HashMap::new(),
            entered: 0,
            due: Due::new(),
            flights: JoinSet::new(),
            tasks: HashMap::new(),
            unknown: HashSet::new(),
            on_known: Some(on_known),
        }
    }

    /// Looks up for ever.
    pub async fn run(mut self) {
        let mut changes = self.rosters.changes();
        self.follow(clock::now());
        self.unknown = self.entries.keys().copied().collect();
        loop {
            self.begin(clock::now());
            if self.unknown.is_empty()
                && let Some(on_known) = self.on_known.take()
            {
                on_known();
            }
            match self.wait(&mut changes).await {
                Event::Told => self.follow(clock::now()),
                Event::Landed(Ok((id, answers))) => self.landed(id, answers, clock::now()),
                Event::Landed(Err(error)) => {
                    let why = "its look-up was lost".to_owned();
                    tracing::error!(%error, "a look-up was lost; please report this");
                    self.landed(error.id(), (Answer::Failed(why.clone()), Answer::Failed(why)), clock::now());
                }
                Event::Due => {}
            }
        }
    }

    async fn wait(&mut self, changes: &mut watch::Receiver<u64>) -> Event {
        let room = self.flights.len() < RESOLVES_MAX;
        let next = self.due.next().filter(|_| room).unwrap_or(Time::NEVER);
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
        while self.flights.len() < RESOLVES_MAX
            && let Some(key) = self.due.pop(now)
        {
            let Some(entry) = self.entries.get(&key) else { continue };
            let (resolver, host) = (self.resolver.current(), entry.named.host.name.clone());
            let task = self.flights.spawn(async move {
                timeout(RESOLVE_MAX, resolver.look_up(&host)).await.unwrap_or_else(|_| {
                    let why = format!("no answer within {}", humantime::format_duration(RESOLVE_MAX));
                    (Answer::Failed(why.clone()), Answer::Failed(why))
                })
            });
            self.tasks.insert(task.id(), key);
        }
    }

    /// Looks up the names that there are, and no others.
    fn follow(&mut self, now: Time) {
        let rosters = self.rosters.clone();
        let hosts = rosters
            .all()
            .iter()
            .enumerate()
            .flat_map(|(pool, roster)| roster.hosts().into_iter().map(move |named| (pool, named)));
        let mut wanted: HashSet<(usize, Named)> = hosts.collect();
        let gone: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, entry)| !wanted.remove(&(entry.pool, entry.named.clone())))
            .map(|(key, _)| *key)
            .collect();
        for key in gone {
            self.entries.remove(&key);
            self.due.remove(key);
            self.unknown.remove(&key);
        }
        for (pool, named) in wanted {
            self.entered += 1;
            self.entries.insert(self.entered, Entry { pool, named, failures: 0 });
            self.due.set(self.entered, now);
        }
    }

    /// Makes what was answered the addresses of the host, and plans its next look-up.
    fn landed(&mut self, id: Id, answers: (Answer, Answer), now: Time) {
        let Some(key) = self.tasks.remove(&id) else { return };
        self.unknown.remove(&key);
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let roster = &self.rosters.all()[entry.pool];
        let before = roster.addresses(&entry.named.name);
        let outcome = settle(&before, answers.0, answers.1);
        let (changes, trouble) = match roster.resolved(&entry.named, &outcome.addresses, now) {
            Ok(changes) => (changes, outcome.trouble),
            Err(error) => (Changes::default(), Some(error.to_string())),
        };
        tell_change(self.rosters.news(), roster, &entry.named, &changes);
        log_trouble(roster, &entry.named, trouble.as_deref(), entry.failures);
        entry.failures = trouble.map_or(0, |_| entry.failures.saturating_add(1));
        self.due.set(key, now + pause(roster.resolve_interval(), entry.failures, random()));
    }
}

fn tell_change(news: &Newsroom, roster: &Roster, named: &Named, changes: &Changes) {
    if changes.added.is_empty() && changes.removed.is_empty() {
        return;
    }
    let pool = roster.pool().name();
    let list = |word: &str, names: &[String]| match names {
        [] => String::new(),
        names => format!("; {word} {}", names.join(", ")),
    };
    let (added, removed) = (list("added", &changes.added), list("removed", &changes.removed));
    let now = count(&roster.addresses(&named.name));
    news.looked_up(pool, changes, &format!("pool {pool}: the host {} has {now} now{added}{removed}", named.host));
}

/// Trouble is told when it begins and when it is over.
fn log_trouble(roster: &Roster, named: &Named, trouble: Option<&str>, failures: u32) {
    let pool = roster.pool().name();
    let host = &named.host;
    match (trouble, roster.addresses(&named.name)) {
        (Some(why), none) if failures == 0 && none.is_empty() => {
            tracing::warn!("pool {pool}: the host {host} cannot be looked up: {why}. It has no backend until it can");
        }
        (Some(why), kept) if failures == 0 => {
            let kept = count(&kept);
            tracing::warn!("pool {pool}: the host {host} cannot be looked up: {why}. It keeps {kept}");
        }
        (Some(why), _) => tracing::debug!("pool {pool}: the host {host} still cannot be looked up: {why}"),
        (None, _) if failures > 0 => tracing::info!("pool {pool}: the host {host} can be looked up again"),
        (None, _) => {}
    }
}

fn count(addresses: &[IpAddr]) -> String {
    match addresses.len() {
        1 => "1 address".to_owned(),
        count => format!("{count} addresses"),
    }
}
