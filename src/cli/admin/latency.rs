//! `ringlb latency`: how long clients wait.

use clap::Args;

use crate::cli::Exit;
use crate::cli::output::print;
use crate::control::wire::{self, Latency, Percentiles};

use super::Whom;
use super::client::segment;
use super::show::Look;
use super::table::{Cell, Table, names, numbers, words};

/// `ringlb latency`
#[derive(Clone, Debug, Args)]
pub struct LatencyArgs {
    /// The pool [default: all of them]
    pool: Option<String>,
    /// Since when it counts: 1m or 5m (whole minutes and the running one), or all (since the start)
    #[arg(long, value_name = "WINDOW", default_value = "1m")]
    window: String,
    #[command(flatten)]
    whom: Whom,
}

impl LatencyArgs {
    /// Shows the percentiles.
    ///
    /// # Errors
    /// Nobody answers, the answer is no, or the output cannot be written.
    pub fn run(self) -> Result<(), Exit> {
        let pool = self.pool.as_ref().map_or_else(String::new, |pool| format!("/{}", segment(pool)));
        let answer = self.whom.client()?.get(&format!("/v1/pools{pool}?window={}", segment(&self.window)))?;
        if self.whom.json {
            return print(&answer.text);
        }
        let pools = match self.pool {
            Some(_) => vec![answer.parse::<wire::Pool>()?],
            None => answer.parse::<wire::Pools>()?.pools,
        };
        print(&shown(&pools, Look::of_stdout()))
    }
}

fn shown(pools: &[wire::Pool], look: Look) -> String {
    let texts: Vec<String> = pools.iter().map(|pool| shown_pool(pool, look)).collect();
    texts.join("\n")
}

/// The pool's own rows first, then those of its backends. What has not happened has no row.
fn shown_pool(pool: &wire::Pool, look: Look) -> String {
    let since = match pool.window.as_deref() {
        Some("1m") => "the last minute and the running one",
        Some("5m") => "the last five minutes and the running one",
        Some(_) | None => "since the start",
    };
    let mut text = format!("pool {}: {since}\n", pool.name);
    let columns = [
        names("BACKEND"),
        words("PHASE"),
        numbers("COUNT"),
        numbers("P50"),
        numbers("P90"),
        numbers("P99"),
        numbers("P99.9"),
        numbers("MAX"),
    ];
    let mut table = Table::new(&columns);
    add(&mut table, "(all)", &pool.latency.unwrap_or_default());
    for backend in &pool.backends {
        add(&mut table, &backend.name, &backend.latency.unwrap_or_default());
    }
    if table.is_empty() {
        text.push_str("no connection was made in this time\n");
        return text;
    }
    text.push_str(&table.render(look.columns(), look.coloured()));
    let silent = pool.backends.iter().filter(|backend| backend.latency.is_none()).count();
    if silent > 0 {
        text.push_str(&format!("{silent} backends without a connection in this time\n"));
    }
    text
}

fn add(table: &mut Table, name: &str, latency: &Latency) {
    let Latency { connect_seconds, first_byte_seconds, session_seconds } = latency;
    let parts = [("connect", connect_seconds), ("first byte", first_byte_seconds), ("session", session_seconds)];
    let mut name = name;
    for (part, percentiles) in parts {
        let Some(Percentiles { count, p50, p90, p99, p999, max, .. }) = percentiles else { continue };
        let durations = [p50, p90, p99, p999, max].map(|seconds| Cell::from(human(*seconds)));
        let [p50, p90, p99, p999, max] = durations;
        table.row([name.into(), part.into(), count.into(), p50, p90, p99, p999, max]);
        // The next lines are of the same.
        name = "";
    }
}

/// A duration with three digits and the unit that fits them.
fn human(seconds: f64) -> String {
    let units = [(1e-6, "us"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h")];
    // Below what is rounded up to the next unit: 999.6 us are 1.00 ms, and 99.96 s are 100 s.
    let tops = [0.9995e-3, 0.9995, 99.95, 99.95 * 60.0, f64::INFINITY];
    let fits = units.into_iter().zip(tops).find(|(_, top)| seconds < *top);
    let (unit, name) = fits.map_or((3600.0, "h"), |(unit, _)| unit);
    let number = seconds / unit;
    let decimals = match number {
        number if number >= 99.95 => 0,
        number if number >= 9.995 => 1,
        _ => 2,
    };
    format!("{number:.decimals$}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits_and_the_unit_that_fits() {
        let cases = [
            (0.000_000_128, "0.13us"),
            (0.000_052_34, "52.3us"),
            (0.000_999_4, "999us"),
            (0.000_999_6, "1.00ms"),
            (0.012_345, "12.3ms"),
            (0.250, "250ms"),
            (0.999_9, "1.00s"),
            (30.0, "30.0s"),
            (99.96, "1.67min"),
            (600.0, "10.0min"),
            (7200.0, "2.00h"),
            (1e6, "278h"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(human(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn the_table_fits_80_columns_and_leaves_out_what_has_not_happened() {
        let one = Percentiles {
            count: 123_456_789,
            mean: 59.99,
            p50: 59.99,
            p90: 5990.0,
            p95: 5990.0,
            p99: 5990.0,
            p999: 5990.0,
            max: 5990.0,
        };
        let backend = |name: &str, latency| -> wire::Backend {
            let json = format!(
                r#"{{"name":"{name}","address":"a","weight":1,"backup":false,"max_connections":0,"max_fails":3,
                "fail_timeout":"10s","slow_start":"0s","state":"ready","status":"ready","health":"up","active":0,
                "totals":{{"connections":0,"failures":0,"ejections":0}},"source":"file"}}"#
            );
            wire::Backend { latency, ..serde_json::from_str(&json).expect("a backend") }
        };
        let waited = Latency { connect_seconds: Some(one), first_byte_seconds: Some(one), session_seconds: None };
        let mut pool = wire::Pool {
            name: "web".into(),
            policy: "first".into(),
            revision: 1,
            in_recovery: false,
            waiting: 0,
            backends: vec![backend("a-rather-long-name-of-a-backend", Some(waited)), backend("b", None)],
            leaving: Vec::new(),
            window: Some("1m".into()),
            latency: Some(Latency { session_seconds: Some(one), ..Latency::default() }),
        };
        let text = shown(std::slice::from_ref(&pool), Look::of_terminal(80, 24));
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{text}");
        assert!(text.contains("(all)") && text.contains("session") && text.contains("99.8min"), "{text}");
        assert!(text.ends_with("1 backends without a connection in this time\n"), "{text}");
        pool.backends.clear();
        pool.latency = Some(Latency::default());
        assert!(shown(&[pool], Look::of_terminal(80, 24)).contains("no connection was made"));
    }
}
