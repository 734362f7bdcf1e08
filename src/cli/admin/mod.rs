//! The commands that ask a running ringlb over its admin API, and change it.

mod client;
mod latency;
mod rates;
mod reload;
mod show;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::cli::Exit;
use crate::cli::output::print;
use crate::control::wire::{self, SOCKET_VARIABLE};
use crate::limits::{EVENTS_KEPT, SESSIONS_PAGE, WATCH_INTERVAL};

use client::{Client, segment};
pub use latency::LatencyArgs;
use rates::Rates;
pub use reload::{DiffArgs, ReloadArgs, against_running};
use show::Look;

/// Which ringlb is asked, and how the answer is shown.
#[derive(Clone, Debug, Args)]
pub struct Whom {
    /// The admin socket [default: /run/ringlb/admin.sock, then $XDG_RUNTIME_DIR/ringlb/admin.sock]
    #[arg(long, value_name = "PATH", env = SOCKET_VARIABLE)]
    admin: Option<PathBuf>,
    /// Show the answer as JSON
    #[arg(long)]
    json: bool,
}

/// `ringlb status`
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    whom: Whom,
    /// Show it again every second, in place
    #[arg(long)]
    watch: bool,
}

/// `ringlb backend`
#[derive(Clone, Debug, Args)]
pub struct BackendArgs {
    #[command(subcommand)]
    verb: BackendVerb,
}

#[derive(Clone, Debug, Subcommand)]
enum BackendVerb {
    /// List the backends of a pool, or of all
    List {
        /// The pool
        pool: Option<String>,
        #[command(flatten)]
        whom: Whom,
    },
    /// Add a backend to a pool
    Add(Add),
    /// Remove backends from a pool; their sessions live on unless --sessions says otherwise
    Remove {
        #[command(flatten)]
        which: Which,
        /// What becomes of their sessions: keep, kill, or kill_after=30s
        #[arg(long, value_name = "FATE", default_value = "keep")]
        sessions: String,
    },
    /// Let backends take no new connections; the old live on, active checks go on
    Drain(Which),
    /// Let backends serve again
    Ready(Which),
    /// As drain, and active checks stop
    Maint(Which),
    /// Change the weight of a backend
    Weight {
        /// The pool
        pool: String,
        /// The backend
        name: String,
        /// Its new share of new connections; 0 = none
        weight: u32,
        #[command(flatten)]
        whom: Whom,
    },
}

#[derive(Clone, Debug, Args)]
struct Which {
    /// The pool
    pool: String,
    /// The backends, by name
    #[arg(required = true)]
    name: Vec<String>,
    #[command(flatten)]
    whom: Whom,
}

#[derive(Clone, Debug, Args)]
struct Add {
    /// The pool
    pool: String,
    /// Where the backend listens: 127.0.0.1:80, [::1]:80, host:80 or unix:/path
    address: String,
    /// Its name [default: its address]
    #[arg(long)]
    name: Option<String>,
    /// Its share of new connections
    #[arg(long)]
    weight: Option<u32>,
    /// It serves only while no other may
    #[arg(long)]
    backup: bool,
    /// Sessions that it may have at a time; 0 = no limit
    #[arg(long, value_name = "N")]
    max_connections: Option<u32>,
    /// Failed connects within --fail-timeout that eject it; 0 = never [default: the pool's]
    #[arg(long, value_name = "N")]
    max_fails: Option<u32>,
    /// The window of --max-fails, and the length of an ejection, as in 10s [default: the pool's]
    #[arg(long, value_name = "DURATION")]
    fail_timeout: Option<String>,
    /// Its share grows from nearly nothing to its weight over so long, as in 30s
    #[arg(long, value_name = "DURATION")]
    slow_start: Option<String>,
    /// ready, drain or maint
    #[arg(long)]
    state: Option<String>,
    /// It goes by itself after so long, unless it is renewed by then, as in 15s
    #[arg(long, value_name = "DURATION")]
    ttl: Option<String>,
    #[command(flatten)]
    whom: Whom,
}

/// `ringlb session`
#[derive(Clone, Debug, Args)]
pub struct SessionArgs {
    #[command(subcommand)]
    verb: SessionVerb,
}

#[derive(Clone, Debug, Subcommand)]
enum SessionVerb {
    /// List sessions
    List {
        /// Those served by this pool
        #[arg(long)]
        pool: Option<String>,
        /// Those with this backend
        #[arg(long)]
        backend: Option<String>,
        /// Those that have lasted so long, as in 10m
        #[arg(long, value_name = "DURATION")]
        older: Option<String>,
        /// So many at most
        #[arg(long, value_name = "N", default_value_t = SESSIONS_PAGE)]
        limit: usize,
        #[command(flatten)]
        whom: Whom,
    },
    /// End sessions, with a reset on both sides
    Kill {
        /// Their names, as `list` shows them
        #[arg(required = true)]
        id: Vec<String>,
        #[command(flatten)]
        whom: Whom,
    },
}

/// `ringlb events`
#[derive(Clone, Debug, Args)]
pub struct EventsArgs {
    /// Show those to come too, for ever
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    whom: Whom,
}

impl StatusArgs {
    /// Shows the status, once or for ever.
    ///
    /// # Errors
    /// Nobody answers, or the output cannot be written.
    pub fn run(self) -> Result<(), Exit> {
        let client = self.whom.client()?;
        let mut before: Option<wire::Status> = None;
        loop {
            let answer = client.get("/v1/status")?;
            let look = Look::of_stdout();
            let text = if self.whom.json {
                answer.text
            } else {
                let status = answer.parse::<wire::Status>()?;
                let rates = before.as_ref().and_then(|before| Rates::between(before, &status));
                let text = show::status(&status, rates.as_ref(), look);
                before = Some(status);
                text
            };
            if !self.watch {
                return print(&text);
            }
            print(&show::in_place(&text, look))?;
            std::thread::sleep(WATCH_INTERVAL);
        }
    }
}

impl BackendArgs {
    /// Does what was asked for.
    ///
    /// # Errors
    /// Nobody answers, or the answer is no.
    pub fn run(self) -> Result<(), Exit> {
        match self.verb {
            BackendVerb::List { pool, whom } => list(pool.as_deref(), &whom),
            BackendVerb::Add(add) => add.run(),
            BackendVerb::Remove { which, sessions } => which.each("removed", |client, path| {
                client.send("DELETE", &format!("{path}?sessions={}", segment(&sessions)), None::<&()>)
            }),
            BackendVerb::Drain(which) => which.tell("drain"),
            BackendVerb::Ready(which) => which.tell("ready"),
            BackendVerb::Maint(which) => which.tell("maint"),
            BackendVerb::Weight { pool, name, weight, whom } => {
                let told = wire::Told { weight: Some(weight), ..wire::Told::default() };
                let which = Which { pool, name: vec![name], whom };
                which.each(&format!("has the weight {weight}"), |client, path| client.send("PATCH", path, Some(&told)))
            }
        }
    }
}

impl SessionArgs {
    /// Does what was asked for.
    ///
    /// # Errors
    /// Nobody answers, or the answer is no.
    pub fn run(self) -> Result<(), Exit> {
        match self.verb {
            SessionVerb::List { pool, backend, older, limit, whom } => {
                let mut path = format!("/v1/sessions?limit={limit}");
                for (name, value) in [("pool", pool), ("backend", backend), ("older", older)] {
                    if let Some(value) = value {
                        path.push_str(&format!("&{name}={}", segment(&value)));
                    }
                }
                let answer = whom.client()?.get(&path)?;
                if whom.json {
                    return print(&answer.text);
                }
                print(&show::sessions(&answer.parse::<wire::Sessions>()?, Look::of_stdout()))
            }
            SessionVerb::Kill { id, whom } => {
                let client = whom.client()?;
                for id in &id {
                    let answer = client.send("DELETE", &format!("/v1/sessions/{}", segment(id)), None::<&()>)?;
                    match whom.json {
                        true => print(&answer.text)?,
                        false => print(&format!("{id} was ended\n"))?,
                    }
                }
                Ok(())
            }
        }
    }
}

impl EventsArgs {
    /// Shows what has happened, and with --follow what happens.
    ///
    /// # Errors
    /// Nobody answers, or the output cannot be written.
    pub fn run(self) -> Result<(), Exit> {
        let path = format!("/v1/events?past={EVENTS_KEPT}&follow={}", self.follow);
        self.whom.client()?.lines(&path, |line| {
            if self.whom.json {
                return print(&format!("{line}\n"));
            }
            let event: wire::Event = client::Answer { text: line.to_owned() }.parse()?;
            print(&show::event(&event))
        })
    }
}

fn list(pool: Option<&str>, whom: &Whom) -> Result<(), Exit> {
    let client = whom.client()?;
    let path = pool.map_or("/v1/pools".to_owned(), |pool| format!("/v1/pools/{}", segment(pool)));
    let answer = client.get(&path)?;
    if whom.json {
        return print(&answer.text);
    }
    let pools = match pool {
        Some(_) => vec![answer.parse::<wire::Pool>()?],
        None => answer.parse::<wire::Pools>()?.pools,
    };
    print(&show::pools(&pools, None, Look::of_stdout()))
}

impl Add {
    fn run(self) -> Result<(), Exit> {
        let client = self.whom.client()?;
        let told = wire::Told {
            name: self.name,
            address: Some(self.address),
            weight: self.weight,
            backup: self.backup.then_some(true),
            max_connections: self.max_connections,
            max_fails: self.max_fails,
            fail_timeout: self.fail_timeout,
            slow_start: self.slow_start,
            state: self.state,
            ttl: self.ttl,
        };
        let path = format!("/v1/pools/{}/backends", segment(&self.pool));
        let answer = client.send("POST", &path, Some(&told))?;
        if self.whom.json {
            return print(&answer.text);
        }
        let changes: wire::Changes = answer.parse()?;
        let added = match changes.added.is_empty() {
            true => "a host was added; its backends come when its name has been looked up".to_owned(),
            false => format!("{}/{} was added", self.pool, changes.added.join(", ")),
        };
        print(&format!("{added}\n"))
    }
}

impl Which {
    fn tell(self, state: &str) -> Result<(), Exit> {
        let told = wire::Told { state: Some(state.to_owned()), ..wire::Told::default() };
        self.each(&format!("is told: {state}"), |client, path| client.send("PATCH", path, Some(&told)))
    }

    /// Does it for each of them, in order, up to the first that is refused.
    fn each(self, done: &str, act: impl Fn(&Client, &str) -> Result<client::Answer, Exit>) -> Result<(), Exit> {
        let client = self.whom.client()?;
        for name in &self.name {
            let answer = act(&client, &format!("/v1/pools/{}/backends/{}", segment(&self.pool), segment(name)))?;
            match self.whom.json {
                true => print(&answer.text)?,
                false => print(&format!("{}/{name} {done}\n", self.pool))?,
            }
        }
        Ok(())
    }
}

impl Whom {
    /// Whether the answer is to be shown as JSON.
    pub const fn is_json(&self) -> bool {
        self.json
    }

    fn client(&self) -> Result<Client, Exit> {
        Client::new(self.admin.as_deref())
    }
}

const _: () = assert!(WATCH_INTERVAL.as_millis() >= Duration::from_millis(100).as_millis());
