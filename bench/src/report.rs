//! The result of a comparison: for a person a table a scenario, for a program JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::figures::Figure;
use crate::machine::Machine;
use crate::stats::{Spread, paired_ratio};
use crate::table::{self, Table};

/// Everything that was measured, and on what.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// Whom.
    pub peers: Vec<PeerVersion>,
    /// What.
    pub scenarios: Vec<ScenarioReport>,
}

/// How it was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Rounds, interleaved over the peers.
    pub rounds: usize,
    /// Measured seconds of a round.
    pub seconds: f64,
    /// Seconds of a round before that.
    pub warmup_seconds: f64,
    /// Workers of each proxy.
    pub workers: usize,
    /// Backends behind it.
    pub backends: usize,
    /// CPUs of the proxy.
    pub proxy_cpus: Vec<usize>,
    /// CPU of the generator.
    pub generator_cpu: usize,
    /// Whether every byte was compared while measuring (one short run of each peer always is).
    pub checked: bool,
    /// The peer the others are compared with.
    pub baseline: String,
}

/// A peer and its version.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerVersion {
    /// Its name in the tables.
    pub name: String,
    /// What its program says.
    pub version: String,
}

/// All peers in one scenario.
#[derive(Debug, Serialize, Deserialize)]
pub struct ScenarioReport {
    /// As on the command line.
    pub scenario: String,
    /// In the order of the command line.
    pub peers: Vec<PeerReport>,
}

/// One peer in one scenario.
#[derive(Debug, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its name.
    pub name: String,
    /// Its figures.
    pub figures: BTreeMap<Figure, Measured>,
    /// Its cost over the baseline's: median and ends of the rounds' ratios.
    pub to_baseline: BTreeMap<Figure, Spread>,
    /// Why there are no or fewer figures.
    pub error: Option<String>,
}

/// One figure over all rounds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Middle and ends.
    #[serde(flatten)]
    pub spread: Spread,
    /// Each round's.
    pub rounds: Vec<f64>,
}

impl Report {
    /// Lines that say what the figures were measured on.
    pub fn origin(&self) -> String {
        let peers = self.peers.iter().map(|peer| format!("{}: {}\n", peer.name, peer.version));
        format!("{}\n{}", self.machine.line(), peers.collect::<String>())
    }
}

impl PeerReport {
    /// From a figure's values round by round.
    pub fn new(name: String, rounds: BTreeMap<Figure, Vec<f64>>, error: Option<String>) -> PeerReport {
        let figures = rounds
            .into_iter()
            .filter_map(|(figure, rounds)| Some((figure, Measured { spread: Spread::of(&rounds)?, rounds })))
            .collect();
        PeerReport { name, figures, to_baseline: BTreeMap::new(), error }
    }
}

impl ScenarioReport {
    /// Sets every peer's cost in relation to `baseline`'s, if that one was measured.
    pub fn relate(&mut self, baseline: &str) {
        let Some(at) = self.peers.iter().position(|peer| peer.name == baseline) else { return };
        let costs: BTreeMap<Figure, Vec<f64>> = self.peers[at]
            .figures
            .iter()
            .filter(|(figure, _)| figure.is_headline())
            .map(|(figure, measured)| (*figure, measured.rounds.clone()))
            .collect();
        for peer in &mut self.peers {
            for (figure, theirs) in &costs {
                let ours = peer.figures.get(figure).map(|measured| measured.rounds.as_slice());
                if let Some(ratio) = ours.and_then(|ours| paired_ratio(ours, theirs)) {
                    peer.to_baseline.insert(*figure, ratio);
                }
            }
        }
    }

    /// The table, with a line for each peer that failed below it.
    pub fn text(&self, baseline: &str) -> String {
        let figures = self.columns();
        let mut headings = vec![self.scenario.clone()];
        for figure in &figures {
            headings.push(figure.heading().to_owned());
            headings.extend(figure.shows_spread().then(|| "±%".to_owned()));
            headings.extend(figure.is_headline().then(|| format!("/{baseline}")));
        }
        let mut table = Table::new(headings);
        for peer in self.peers.iter().filter(|peer| !peer.figures.is_empty()) {
            table.row(self.row(peer, &figures));
        }
        let mut text = table.render();
        for peer in &self.peers {
            if let Some(error) = &peer.error {
                text.push_str(&format!("{}: {error}\n", peer.name));
            }
        }
        text
    }

    /// Figures that some peer has; those of trouble only where there was some.
    fn columns(&self) -> BTreeSet<Figure> {
        let all = self.peers.iter().flat_map(|peer| &peer.figures);
        all.filter(|(figure, measured)| !figure.is_trouble() || measured.spread.high > 0.0)
            .map(|(figure, _)| *figure)
            .collect()
    }

    fn row(&self, peer: &PeerReport, figures: &BTreeSet<Figure>) -> Vec<String> {
        let mut cells = vec![peer.name.clone()];
        for figure in figures {
            let measured = peer.figures.get(figure);
            // One lost operation must not hide behind a median of zero.
            let shown = |spread: &Spread| if figure.is_trouble() { spread.high } else { spread.median };
            cells.push(measured.map_or("-".to_owned(), |measured| table::figure(shown(&measured.spread))));
            if figure.shows_spread() {
                let width = measured.map(|measured| measured.spread.half_width_percent());
                cells.push(width.map_or("-".to_owned(), |percent| format!("{percent:.1}")));
            }
            if figure.is_headline() {
                let ratio = peer.to_baseline.get(figure);
                cells.push(ratio.map_or("-".to_owned(), |ratio| format!("{:.2}", ratio.median)));
            }
        }
        cells
    }
}

/// Reports for the tests of those who read them.
#[cfg(test)]
pub mod samples {
    use super::*;

    /// A scenario with some figures of some peers, the same in two rounds, in relation to nginx.
    pub fn scenario(name: &str, figures: &[(&str, Figure, f64)]) -> ScenarioReport {
        let mut peers: Vec<PeerReport> = Vec::new();
        for (name, figure, value) in figures {
            let measured = PeerReport::new(String::new(), BTreeMap::from([(*figure, vec![*value; 2])]), None).figures;
            match peers.iter_mut().find(|peer| peer.name == *name) {
                Some(peer) => peer.figures.extend(measured),
                None => {
                    let (name, to_baseline) = ((*name).to_owned(), BTreeMap::new());
                    peers.push(PeerReport { name, figures: measured, to_baseline, error: None });
                }
            }
        }
        let mut report = ScenarioReport { scenario: name.to_owned(), peers };
        report.relate("nginx");
        report
    }

    /// A report of some scenarios.
    pub fn report(scenarios: Vec<ScenarioReport>) -> Report {
        let settings = Settings {
            rounds: 2,
            seconds: 1.0,
            warmup_seconds: 0.25,
            workers: 1,
            backends: 4,
            proxy_cpus: vec![0],
            generator_cpu: 1,
            checked: false,
            baseline: "nginx".to_owned(),
        };
        let version = |name: &str| PeerVersion { name: name.to_owned(), version: format!("{name} 1.2.3") };
        Report { machine: Machine::here(2), settings, peers: ["ringlb", "nginx"].map(version).into(), scenarios }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str, cpu: &[f64]) -> PeerReport {
        let rounds = BTreeMap::from([(Figure::CpuUsPerOperation, cpu.to_vec()), (Figure::Failures, vec![0.0, 0.0])]);
        PeerReport::new(name.to_owned(), rounds, None)
    }

    #[test]
    fn costs_stand_beside_the_baselines() {
        let peers = vec![peer("ringlb", &[6.0, 6.6]), peer("nginx", &[8.0, 8.8])];
        let mut report = ScenarioReport { scenario: "request:1x64".to_owned(), peers };
        report.relate("nginx");
        let text = report.text("nginx");
        let expected = "request:1x64  CPU µs/op   ±%  /nginx\n\
                        ringlb             6.30  4.8    0.75\n\
                        nginx              8.40  4.8    1.00\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn trouble_shows_once_there_is_some() {
        let mut bad = peer("bad", &[1.0, 1.0]);
        bad.figures
            .extend(PeerReport::new(String::new(), BTreeMap::from([(Figure::Failures, vec![0.0, 3.0])]), None).figures);
        let failed = PeerReport::new("gone".to_owned(), BTreeMap::new(), Some("it ended".to_owned()));
        let report = ScenarioReport { scenario: "x".to_owned(), peers: vec![bad, failed] };
        let text = report.text("nginx");
        assert!(text.contains("failed") && text.contains("3.00") && text.ends_with("gone: it ended\n"), "{text}");
    }

    #[test]
    fn figures_are_named_in_json() {
        let json = serde_json::to_value(peer("ringlb", &[1.0, 2.0])).expect("the report is plain data");
        assert_eq!(json["figures"]["cpu_us_per_operation"]["median"], 1.5);
        assert_eq!(json["figures"]["cpu_us_per_operation"]["rounds"][1], 2.0);
    }
}
