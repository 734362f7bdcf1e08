//! What people see of answers.

use std::io::{self, IsTerminal};
use std::time::Duration;

use crate::control::wire::{Backend, Event, Listener, Pool, Sessions, Status};

use super::rates::{self, Rates};
use super::table::{Cell, Colour, Table, names, numbers, words};

/// How text is shown where it goes to.
#[derive(Copy, Clone, Debug)]
pub struct Look {
    /// Columns and rows of the terminal; `None`: it goes elsewhere, and is not cut.
    size: Option<(usize, usize)>,
    coloured: bool,
}

impl Look {
    /// Of standard output.
    pub fn of_stdout() -> Look {
        let stdout = io::stdout();
        if !stdout.is_terminal() {
            return Look { size: None, coloured: false };
        }
        let size = rustix::termios::tcgetwinsize(&stdout).ok();
        let size = size.map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
        let size = size.filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or((80, 24));
        let coloured = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Look { size: Some(size), coloured }
    }

    /// The widest that a line may be; `None`: it is not cut.
    pub fn columns(self) -> Option<usize> {
        self.size.map(|(columns, _)| columns)
    }

    /// Whether it is coloured.
    pub fn coloured(self) -> bool {
        self.coloured
    }

    /// Of a terminal without colours.
    #[cfg(test)]
    pub fn of_terminal(columns: usize, rows: usize) -> Look {
        Look { size: Some((columns, rows)), coloured: false }
    }
}

/// The whole status, with rates where they are known.
pub fn status(status: &Status, rates: Option<&Rates>, look: Look) -> String {
    let ready = if status.ready { "ready" } else { "not ready" };
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_ms / 1000));
    let mut text = format!(
        "ringlb {}, pid {}, {ready}, up {uptime}\n{} workers, {} of {} sessions{}{}\n\n",
        status.version,
        status.pid,
        status.workers,
        status.active,
        status.max_connections,
        rates.map_or_else(String::new, |rates| format!(", {} new a second", rates::shown(rates.sum()))),
        status.config.as_ref().map_or_else(String::new, |file| format!(", {file}"))
    );
    text.push_str(&listeners(&status.listeners, look));
    text.push('\n');
    text.push_str(&pools(&status.pools, rates, look));
    text
}

/// Pools, each with its backends.
pub fn pools(pools: &[Pool], rates: Option<&Rates>, look: Look) -> String {
    let mut text = String::new();
    for (number, pool) in pools.iter().enumerate() {
        if number > 0 {
            text.push('\n');
        }
        let recovery = if pool.in_recovery { ", in recovery: every backend is ejected" } else { "" };
        let waiting = if pool.waiting > 0 { format!(", {} clients wait", pool.waiting) } else { String::new() };
        text.push_str(&format!("pool {}: {}, revision {}{recovery}{waiting}\n", pool.name, pool.policy, pool.revision));
        if pool.backends.is_empty() {
            text.push_str("no backends\n");
        } else {
            text.push_str(&backends(pool, rates, look));
        }
        for leaving in &pool.leaving {
            text.push_str(&format!(
                "{} ({}) was removed; {} sessions are left\n",
                leaving.name, leaving.address, leaving.active
            ));
        }
    }
    text
}

/// Sessions, one a line.
pub fn sessions(sessions: &Sessions, look: Look) -> String {
    let columns =
        [words("ID"), names("CLIENT"), names("POOL"), names("BACKEND"), numbers("AGE"), numbers("IN"), numbers("OUT")];
    let mut table = Table::new(&columns);
    for session in &sessions.sessions {
        let backend = match (&session.backend, session.connected) {
            (Some(backend), true) => Cell::from(backend),
            (Some(backend), false) => Cell::from(format!("{backend}?")),
            (None, _) => "-".into(),
        };
        table.row([
            (&session.id).into(),
            session.client.as_deref().unwrap_or("-").into(),
            (&session.pool).into(),
            backend,
            format!("{}s", session.age_ms / 1000).into(),
            session.from_client.into(),
            session.from_backend.into(),
        ]);
    }
    let mut text = table.render(look.columns(), look.coloured);
    if sessions.next.is_some() {
        text.push_str("there are more: --limit N shows more of them\n");
    }
    text
}

/// An event in a line.
pub fn event(event: &Event) -> String {
    let message: String = event.message.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    format!("{}  {:<13}  {message}\n", event.time, event.event)
}

/// The text at the place of the one before, cut to the height of the terminal.
pub fn in_place(text: &str, look: Look) -> String {
    let Some((_, rows)) = look.size else { return text.to_owned() };
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[..lines.len().min(rows.saturating_sub(1))];
    let cleared: String = shown.iter().map(|line| format!("{line}\x1b[K\n")).collect();
    format!("\x1b[H{cleared}\x1b[J")
}

fn listeners(listeners: &[Listener], look: Look) -> String {
    let columns =
        [names("LISTENER"), names("ADDRESS"), names("POOL"), numbers("ACTIVE"), numbers("MAX"), words("STATE")];
    let mut table = Table::new(&columns);
    for listener in listeners {
        let state = match listener.paused {
            true => Cell::from("paused").coloured(Colour::Yellow),
            false => Cell::from("accepting").coloured(Colour::Green),
        };
        let max = listener.max_connections.map_or_else(|| "-".to_owned(), |max| max.to_string());
        let (first, rest) = listener.addresses.split_first().map_or(("-", &[][..]), |(first, rest)| (first, rest));
        table.row([
            (&listener.name).into(),
            first.into(),
            (&listener.pool).into(),
            listener.active.into(),
            max.into(),
            state,
        ]);
        for address in rest {
            table.row(["".into(), address.into(), "".into(), "".into(), "".into(), "".into()]);
        }
    }
    table.render(look.columns(), look.coloured)
}

fn backends(pool: &Pool, rates: Option<&Rates>, look: Look) -> String {
    let columns = [
        names("BACKEND"),
        names("ADDRESS"),
        words("STATUS"),
        numbers("WEIGHT"),
        numbers("ACTIVE"),
        numbers(if rates.is_some() { "NEW/S" } else { "TOTAL" }),
        numbers("FAILED"),
        words("NOTE"),
    ];
    let mut table = Table::new(&columns);
    for backend in &pool.backends {
        let address = if backend.address == backend.name { "-" } else { &backend.address };
        let active = match backend.max_connections {
            0 => backend.active.to_string(),
            max => format!("{}/{max}", backend.active),
        };
        let total = match rates {
            None => backend.totals.connections.to_string(),
            Some(rates) => rates.of(&pool.name, &backend.name).map_or_else(|| "-".to_owned(), rates::shown),
        };
        table.row([
            (&backend.name).into(),
            address.into(),
            standing(backend),
            backend.weight.into(),
            active.into(),
            total.into(),
            backend.totals.failures.into(),
            note(backend).into(),
        ]);
    }
    table.render(look.columns(), look.coloured)
}

fn standing(backend: &Backend) -> Cell {
    let colour = match backend.status.as_str() {
        "ready" => Colour::Green,
        "drain" | "maint" => Colour::Yellow,
        _ => Colour::Red,
    };
    let text = match backend.ejected_for_ms {
        Some(0) if backend.status == "ejected" => "ejected, on probe".to_owned(),
        Some(ms) if backend.status == "ejected" => format!("ejected {}s", ms.div_ceil(1000)),
        _ => backend.status.clone(),
    };
    Cell::from(text).coloured(colour)
}

fn note(backend: &Backend) -> String {
    let backup = backend.backup.then(|| "backup".to_owned());
    let lease = backend.lease_ms.map(|ms| format!("lease {}s", ms.div_ceil(1000)));
    let live = (backend.source == "live" && lease.is_none()).then(|| "live".to_owned());
    [backup, lease, live].into_iter().flatten().collect::<Vec<_>>().join(" ")
}
