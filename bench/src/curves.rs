//! Cost against scale: scenarios of a report that differ in one number alone.

use crate::figures::Figure;
use crate::load::Life;
use crate::report::{Report, ScenarioReport};
use crate::scenario::{Scenario, Traffic};
use crate::stats::Spread;

/// Fewer points are no curve.
const POINTS_MIN: usize = 4;

/// What grows along a curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// Held connections.
    Connections,
    /// Backends behind the proxy.
    Backends,
}

/// Scenarios that differ in one number, ascending.
#[derive(Debug)]
pub struct Curve<'a> {
    /// What grows.
    pub variable: Variable,
    /// All of them, with that number left out.
    shape: Scenario,
    points: Vec<(usize, &'a ScenarioReport)>,
}

/// One peer's cost from the smallest number to the largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// The lowest cost, and at which number.
    pub lowest: (usize, f64),
    /// The cost at the largest number.
    pub last: (usize, f64),
}

impl Growth {
    /// The cost at the largest number over the lowest one.
    pub fn factor(&self) -> f64 {
        self.last.1 / self.lowest.1
    }
}

/// The curves of a report, in its order.
pub fn of(report: &Report) -> Vec<Curve<'_>> {
    let mut curves: Vec<Curve<'_>> = Vec::new();
    for measured in &report.scenarios {
        let Ok(scenario) = measured.scenario.parse::<Scenario>() else { continue };
        let Some((variable, shape, number)) = placed(scenario) else { continue };
        match curves.iter_mut().find(|curve| curve.variable == variable && curve.shape == shape) {
            Some(curve) => curve.points.push((number, measured)),
            None => curves.push(Curve { variable, shape, points: vec![(number, measured)] }),
        }
    }
    for curve in &mut curves {
        curve.points.sort_by_key(|(number, _)| *number);
        curve.points.dedup_by_key(|(number, _)| *number);
    }
    curves.retain(|curve| curve.points.len() >= POINTS_MIN);
    curves
}

impl Curve<'_> {
    /// Its name, fit for a file.
    pub fn name(&self) -> String {
        match (self.variable, self.shape.traffic) {
            (Variable::Connections, Traffic::Exchange { size, .. }) => format!("request-{size}-by-connections"),
            _ => format!("{}-by-backends", self.shape).replace(':', "-"),
        }
    }

    /// What it shows, for a person.
    pub fn title(&self) -> String {
        match (self.variable, self.shape.traffic) {
            (Variable::Connections, Traffic::Exchange { size, .. }) => {
                format!("Request and answer of {size} bytes by connections")
            }
            _ => format!("{} by backends", self.shape),
        }
    }

    /// What stands along its axis.
    pub fn axis(&self) -> &'static str {
        match self.variable {
            Variable::Connections => "connections",
            Variable::Backends => "backends",
        }
    }

    /// The numbers, ascending.
    pub fn numbers(&self) -> Vec<usize> {
        self.points.iter().map(|(number, _)| *number).collect()
    }

    /// Whether a scenario is one of its points.
    pub fn contains(&self, scenario: &str) -> bool {
        self.points.iter().any(|(_, measured)| measured.scenario == scenario)
    }

    /// The cost of an operation by number, for each peer that has one.
    pub fn costs(&self) -> Vec<(String, Vec<(usize, Spread)>)> {
        let Some((_, first)) = self.points.first() else { return Vec::new() };
        let costs = first.peers.iter().map(|peer| (peer.name.clone(), self.cost(&peer.name)));
        costs.filter(|(_, cost)| !cost.is_empty()).collect()
    }

    /// How one peer's cost grows; nothing, unless it has one at every number.
    pub fn growth(&self, peer: &str) -> Option<Growth> {
        let cost = self.cost(peer);
        if cost.len() < self.points.len() {
            return None;
        }
        let medians = || cost.iter().map(|(number, spread)| (*number, spread.median));
        Some(Growth { lowest: medians().min_by(|one, other| one.1.total_cmp(&other.1))?, last: medians().next_back()? })
    }

    fn cost(&self, peer: &str) -> Vec<(usize, Spread)> {
        let cost = |measured: &ScenarioReport| {
            let peer = measured.peers.iter().find(|measured| measured.name == peer)?;
            Some(peer.figures.get(&Figure::CpuUsPerOperation)?.spread)
        };
        self.points.iter().filter_map(|(number, measured)| Some((*number, cost(measured)?))).collect()
    }
}

/// Which curve a scenario may belong to: what grows, what is the same, and the number.
fn placed(scenario: Scenario) -> Option<(Variable, Scenario, usize)> {
    let Traffic::Exchange { connections, size, life } = scenario.traffic else { return None };
    match scenario.backends {
        Some(backends) => Some((Variable::Backends, Scenario { backends: None, ..scenario }, backends)),
        None if life == Life::Held => {
            let traffic = Traffic::Exchange { connections: 0, size, life };
            Some((Variable::Connections, Scenario { traffic, backends: None }, connections))
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{report, scenario};

    #[test]
    fn scenarios_that_differ_in_one_number_are_a_curve() {
        let cpu = |name: &str, cost: f64| scenario(name, &[("ringlb", Figure::CpuUsPerOperation, cost)]);
        let report = report(vec![
            cpu("request:300x64", 9.0),
            cpu("request:10x64", 12.0),
            cpu("request:10x1KiB", 13.0),
            cpu("request:8000x64", 10.8),
            cpu("request:30x64", 11.0),
            cpu("connect:64x64/2", 50.0),
            cpu("connect:64x64/10", 50.5),
            cpu("connect:64x64/100", 52.0),
            cpu("connect:64x64/1000", 60.0),
            cpu("connect:64x64", 50.0),
            cpu("bulk-up:4", 1.0),
        ]);
        let curves = of(&report);
        let names: Vec<String> = curves.iter().map(Curve::name).collect();
        assert_eq!(names, ["request-64-by-connections", "connect-64x64-by-backends"]);
        assert_eq!(curves[0].numbers(), [10, 30, 300, 8000]);
        assert_eq!(curves[1].numbers(), [2, 10, 100, 1000]);
        assert!(curves[1].contains("connect:64x64/10") && !curves[1].contains("connect:64x64"));
        assert_eq!(
            curves[0].costs()[0].1.iter().map(|(_, cost)| cost.low).collect::<Vec<_>>(),
            [12.0, 11.0, 9.0, 10.8]
        );
        let growth = curves[0].growth("ringlb").expect("it has every point");
        assert_eq!((growth.lowest, growth.last), ((300, 9.0), (8000, 10.8)));
        assert!((growth.factor() - 1.2).abs() < 1e-9, "{growth:?}");
    }

    #[test]
    fn a_peer_that_lacks_a_point_has_no_growth() {
        let both = |name: &str| {
            let cost = Figure::CpuUsPerOperation;
            scenario(name, &[("ringlb", cost, 9.0), ("nginx", cost, 11.0)])
        };
        let mut scenarios: Vec<ScenarioReport> =
            ["request:1x64", "request:2x64", "request:3x64", "request:4x64"].map(both).into();
        scenarios[3].peers[1].figures.clear();
        let report = report(scenarios);
        let curves = of(&report);
        assert_eq!(curves[0].growth("nginx"), None);
        assert!(curves[0].growth("ringlb").is_some());
        assert_eq!(curves[0].costs()[1].1.len(), 3, "its other points are drawn");
        assert_eq!(curves[0].growth("haproxy"), None);
    }
}
