//! What ringlb is meant to cost, and whether it does.

use crate::curves::{self, Curve};
use crate::figures::Figure;
use crate::load::Life;
use crate::report::{PeerReport, Report, ScenarioReport};
use crate::scenario::{Scenario, Traffic};
use crate::stats::Spread;
use crate::table::figure;

/// Who is judged.
const SUBJECT: &str = "ringlb";

/// Those it is level with, or not.
const RIVALS: [&str; 2] = ["nginx", "haproxy"];

/// A small message has so many bytes at most; beyond, copying weighs more than what is done for each.
const SMALL_BYTES: usize = 1024;

/// CPU of a small request and its answer, over nginx's.
const REQUEST_MAX: f64 = 0.82;
/// CPU of a connection, over nginx's.
const CONNECT_MAX: f64 = 0.85;
/// CPU of a byte of bulk, over nginx's.
const BULK_MAX: f64 = 0.50;
/// User memory of a connection at rest.
const IDLE_BYTES_MAX: f64 = 400.0;
/// Sessions of the busier worker, over the mean.
const BUSIEST_MAX: f64 = 1.2;
/// Memory after a spike, in percent of what it was before.
const AFTER_SPIKE_PERCENT_MAX: f64 = 120.0;
/// Two figures are level up to this ratio: rounds on a quiet machine differ by some percent.
const LEVEL: f64 = 1.1;

/// One target, for one scenario.
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    /// What is wanted.
    pub(super) target: String,
    /// Where.
    pub(super) scenario: String,
    /// The number, and what single rounds gave where there is more than one.
    pub(super) measured: String,
    /// What it is to be.
    pub(super) wanted: String,
    /// Whether it is.
    pub(super) outcome: Outcome,
}

/// How a target came out.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    Met,
    Missed,
    /// Why there is no number.
    NotMeasured(String),
}

/// The targets that a report says something about. Costs are judged with one worker alone: two share a small machine
/// with the generator.
pub(super) fn of(report: &Report) -> Vec<Line> {
    let curves = curves::of(report);
    let mut lines = Vec::new();
    for measured in &report.scenarios {
        let Ok(scenario) = measured.scenario.parse::<Scenario>() else { continue };
        if curves.iter().any(|curve| curve.contains(&measured.scenario)) {
            continue;
        }
        let alone = report.settings.workers == 1;
        if alone || matches!(scenario.traffic, Traffic::Balance { .. }) {
            lines.extend(of_scenario(measured, scenario));
        }
    }
    lines.extend(curves.iter().map(growth));
    lines
}

fn of_scenario(measured: &ScenarioReport, scenario: Scenario) -> Vec<Line> {
    let ratio = |target: &str, figure: Figure, limit: f64| {
        let ratio = subject(measured)
            .and_then(|peer| peer.to_baseline.get(&figure).copied().ok_or_else(|| absent(measured, "nginx")));
        vec![at_most(target, measured, ratio, limit, "")]
    };
    let own = |figure: Figure| {
        let value = |peer: &PeerReport| peer.figures.get(&figure).map(|measured| measured.spread);
        subject(measured).and_then(|peer| value(peer).ok_or_else(|| "not measured".to_owned()))
    };
    match scenario.traffic {
        Traffic::Exchange { size, life: Life::Held, .. } if size <= SMALL_BYTES => {
            ratio("CPU of a small request, nginx = 1", Figure::CpuUsPerOperation, REQUEST_MAX)
        }
        Traffic::Exchange { life: Life::Held, .. } => Vec::new(),
        Traffic::Exchange { .. } => ratio("CPU of a connection, nginx = 1", Figure::CpuUsPerOperation, CONNECT_MAX),
        Traffic::Bulk { .. } => ratio("CPU of a byte, nginx = 1", Figure::CpuSecondsPerGigabyte, BULK_MAX),
        Traffic::Open { .. } => [("p50", Figure::P50Us), ("p90", Figure::P90Us), ("p99", Figure::P99Us)]
            .map(|(name, figure)| level(name, measured, figure))
            .into(),
        Traffic::Idle { .. } => {
            let bytes = own(Figure::UserKibPerConnection).map(|kib| kib.times(1024.0));
            vec![at_most("user memory of an idle connection", measured, bytes, IDLE_BYTES_MAX, " B")]
        }
        Traffic::Spike { .. } => {
            let after = own(Figure::UserAfterPercent);
            let target = "user memory after a spike, before it = 100";
            vec![at_most(target, measured, after, AFTER_SPIKE_PERCENT_MAX, " %")]
        }
        Traffic::Balance { .. } => {
            let target = "sessions of the busiest worker, mean = 1";
            vec![at_most(target, measured, own(Figure::BusiestOverMean), BUSIEST_MAX, "")]
        }
    }
}

/// Latency as low as the best of the others.
fn level(name: &str, measured: &ScenarioReport, quantile: Figure) -> Line {
    let of = |peer: &PeerReport| peer.figures.get(&quantile).map(|measured| measured.spread.median);
    let rivals = measured.peers.iter().filter(|peer| RIVALS.contains(&peer.name.as_str())).filter_map(of);
    let best = rivals.min_by(f64::total_cmp).filter(|best| *best > 0.0);
    let ratio = subject(measured).and_then(|peer| {
        let ours = of(peer).ok_or_else(|| "not measured".to_owned())?;
        best.map(|best| Spread::single(ours / best)).ok_or_else(|| "no other peer was measured".to_owned())
    });
    at_most(&format!("{name} at an open pace, best other = 1"), measured, ratio, LEVEL, "")
}

/// A cost that grows no faster than the one that grows least.
fn growth(curve: &Curve<'_>) -> Line {
    let rivals = RIVALS.iter().filter_map(|peer| curve.growth(peer)).map(|growth| growth.factor());
    let ratio = match (curve.growth(SUBJECT), rivals.min_by(f64::total_cmp)) {
        (Some(ours), Some(least)) => Ok(Spread::single(ours.factor() / least)),
        (None, _) => Err(format!("{SUBJECT} was not measured at every number")),
        (_, None) => Err("no other peer was measured at every number".to_owned()),
    };
    line("growth of the cost, least other = 1", &curve.name(), ratio, LEVEL, "")
}

fn at_most(target: &str, measured: &ScenarioReport, value: Result<Spread, String>, limit: f64, unit: &str) -> Line {
    line(target, &measured.scenario, value, limit, unit)
}

fn line(target: &str, scenario: &str, value: Result<Spread, String>, limit: f64, unit: &str) -> Line {
    let (measured, outcome) = match value {
        Ok(value) => {
            let outcome = if value.median <= limit { Outcome::Met } else { Outcome::Missed };
            let rounds = format!(" ({} to {})", figure(value.low), figure(value.high));
            let rounds = if value.low < value.high { rounds } else { String::new() };
            (format!("{}{unit}{rounds}", figure(value.median)), outcome)
        }
        Err(why) => ("-".to_owned(), Outcome::NotMeasured(why)),
    };
    let wanted = format!("≤ {limit}{unit}");
    Line { target: target.to_owned(), scenario: scenario.to_owned(), measured, wanted, outcome }
}

fn subject(measured: &ScenarioReport) -> Result<&PeerReport, String> {
    let peer = measured.peers.iter().find(|peer| peer.name == SUBJECT);
    peer.filter(|peer| !peer.figures.is_empty()).ok_or_else(|| absent(measured, SUBJECT))
}

/// Why a peer has no figures.
fn absent(measured: &ScenarioReport, name: &str) -> String {
    match measured.peers.iter().find(|peer| peer.name == name) {
        Some(peer) if peer.error.is_some() => format!("{name} failed, see below"),
        Some(_) => format!("{name} has no figure"),
        None => format!("{name} did not take part"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{report, scenario};

    /// Each scenario's target: measured and outcome.
    fn outcomes(report: &Report) -> Vec<(String, Outcome)> {
        of(report).into_iter().map(|line| (line.measured, line.outcome)).collect()
    }

    fn met(measured: &str) -> (String, Outcome) {
        (measured.to_owned(), Outcome::Met)
    }

    fn missed(measured: &str) -> (String, Outcome) {
        (measured.to_owned(), Outcome::Missed)
    }

    #[test]
    fn costs_are_judged_by_the_ratio_to_nginx() {
        let cpu = |name: &str, ours: f64| {
            let cost = Figure::CpuUsPerOperation;
            scenario(name, &[("ringlb", cost, ours), ("nginx", cost, 100.0), ("haproxy", cost, 10.0)])
        };
        let bulk = |name: &str, ours: f64| {
            scenario(
                name,
                &[("ringlb", Figure::CpuSecondsPerGigabyte, ours), ("nginx", Figure::CpuSecondsPerGigabyte, 1.0)],
            )
        };
        let report = report(vec![
            cpu("request:64x1KiB", 82.0),
            cpu("request:1x64", 82.1),
            cpu("request:64x16KiB", 500.0),
            cpu("connect:64x64", 85.0),
            cpu("connect-server:64x64", 86.0),
            bulk("bulk-up:4", 0.5),
            bulk("bulk-both:4", 0.51),
        ]);
        let expected = [met("0.820"), missed("0.821"), met("0.850"), missed("0.860"), met("0.500"), missed("0.510")];
        assert_eq!(outcomes(&report), expected, "16 KiB is no small message");
    }

    #[test]
    fn memory_and_spread_are_judged_by_themselves() {
        let own = |name: &str, figure: Figure, value: f64| scenario(name, &[("ringlb", figure, value)]);
        let report = report(vec![
            own("idle:5000", Figure::UserKibPerConnection, 0.375),
            own("spike:8750", Figure::UserAfterPercent, 121.0),
            own("balance:8000", Figure::BusiestOverMean, 1.02),
        ]);
        assert_eq!(outcomes(&report), [met("384 B"), missed("121 %"), met("1.02")]);
    }

    #[test]
    fn what_single_rounds_gave_stands_beside_the_median_that_is_judged() {
        let rounds = Spread { median: 0.8, low: 0.75, high: 0.9 };
        let judged = line("t", "s", Ok(rounds), 0.82, " B");
        assert_eq!((judged.measured.as_str(), judged.outcome), ("0.800 B (0.750 to 0.900)", Outcome::Met));
    }

    #[test]
    fn with_more_workers_only_their_balance_is_judged() {
        let cost = scenario("request:64x64", &[("ringlb", Figure::CpuUsPerOperation, 1.0)]);
        let spread = scenario("balance:8000", &[("ringlb", Figure::BusiestOverMean, 1.3)]);
        let mut report = report(vec![cost, spread]);
        report.settings.workers = 2;
        assert_eq!(outcomes(&report), [missed("1.30")]);
    }

    #[test]
    fn latency_is_measured_by_the_best_other_proxy() {
        let latency = |peer: &'static str, p50: f64, p99: f64| {
            [(peer, Figure::P50Us, p50), (peer, Figure::P90Us, p50 * 2.0), (peer, Figure::P99Us, p99)]
        };
        let figures = [latency("ringlb", 44.0, 300.0), latency("nginx", 50.0, 200.0), latency("haproxy", 40.0, 250.0)];
        let mut figures: Vec<_> = figures.concat();
        figures.extend(latency("direct", 1.0, 1.0));
        let report = report(vec![scenario("open:64x64@70%", &figures)]);
        assert_eq!(outcomes(&report), [met("1.10"), met("1.10"), missed("1.50")]);
    }

    #[test]
    fn growth_is_measured_by_the_one_that_grows_least() {
        let cost = Figure::CpuUsPerOperation;
        let point = |(number, ours): (usize, f64)| {
            let theirs = 10.0 + number as f64 / 10_000.0;
            scenario(
                &format!("request:{number}x64"),
                &[("ringlb", cost, ours), ("nginx", cost, theirs), ("haproxy", cost, theirs * theirs)],
            )
        };
        let curve = |last: f64| report([(10, 9.0), (100, 8.0), (1000, 8.1), (10_000, last)].map(point).into());
        // The others grow by 1.1 and by 1.21.
        assert_eq!(outcomes(&curve(9.6)), [met("1.09")]);
        assert_eq!(outcomes(&curve(9.8)), [missed("1.11")]);
    }

    #[test]
    fn what_was_not_measured_says_why() {
        let alone = scenario("request:64x64", &[("ringlb", Figure::CpuUsPerOperation, 9.0)]);
        let mut failed = scenario("connect:64x64", &[("nginx", Figure::CpuUsPerOperation, 9.0)]);
        failed.peers.push(PeerReport::new("ringlb".to_owned(), Default::default(), Some("it ended".to_owned())));
        let outcomes = outcomes(&report(vec![alone, failed]));
        let why = |text: &str| ("-".to_owned(), Outcome::NotMeasured(text.to_owned()));
        assert_eq!(outcomes, [why("nginx did not take part"), why("ringlb failed, see below")]);
    }
}
