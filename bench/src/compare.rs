//! The comparison: every peer in every scenario, rounds interleaved.

mod holding;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use crate::figures::{Figure, bulk_sample, exchange_sample};
use crate::interrupt;
use crate::load::{BulkPlan, ExchangePlan, Fault, Life, LoadError, Outcome, Pace, Site, Window, bulk, exchange};
use crate::machine::Machine;
use crate::peers::{Kind, Peer, PeerError, Proxy, Setup};
use crate::report::{PeerReport, PeerVersion, Report, ScenarioReport, Settings};
use crate::scenario::{Rate, Scenario, Traffic};
use crate::stats::{Spread, rotation};

/// Length of the run in which every byte of every peer is compared, before anything is measured.
const CHECK_FOR: Duration = Duration::from_millis(200);

/// Rounds in which a peer's own most is found, before an open loop asks for a part of it.
const CALIBRATIONS: usize = 3;

/// What is compared, and how.
#[derive(Debug)]
pub struct Comparison {
    /// Who.
    pub peers: Vec<Peer>,
    /// In what.
    pub scenarios: Vec<Scenario>,
    /// One round's time.
    pub window: Window,
    /// Where.
    pub machine: Machine,
    /// Connections that the generator and every proxy can hold at a time.
    pub held_max: usize,
    /// The rest, as it is reported.
    pub settings: Settings,
}

/// Why a comparison gave no report.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// Somebody wanted it to end. Everything is stopped.
    #[error("interrupted")]
    Interrupted,
    /// The machine said no.
    #[error("the backends cannot listen: {0}")]
    Site(std::io::Error),
    /// Nobody reads the tables any more.
    #[error("cannot write the tables: {0}")]
    Output(std::io::Error),
}

impl Comparison {
    /// Scenarios that hold more connections than the descriptors of one process are sure to allow. A spike is none of
    /// them: it takes what there is.
    pub fn too_high(&self) -> impl Iterator<Item = &Scenario> {
        let fixed = |scenario: &&Scenario| !matches!(scenario.traffic, Traffic::Spike { .. });
        self.scenarios.iter().filter(fixed).filter(|scenario| scenario.connections() > self.held_max)
    }

    /// Runs all of it. A peer that fails is out of its scenario and says why in the report; the others go on.
    /// Tables go to `out` as they come.
    ///
    /// # Errors
    /// See [`CompareError`].
    pub fn run(self, out: &mut dyn Write) -> Result<Report, CompareError> {
        let mut scenarios = Vec::new();
        for scenario in &self.scenarios {
            let mut contest = Contest::new(&self, *scenario)?;
            contest.run()?;
            let report = contest.report();
            writeln!(out, "{}", report.text(&self.settings.baseline)).map_err(CompareError::Output)?;
            scenarios.push(report);
        }
        let peers =
            self.peers.iter().map(|peer| PeerVersion { name: peer.name.clone(), version: peer.version() }).collect();
        Ok(Report { machine: self.machine, settings: self.settings, peers, scenarios })
    }
}

/// One scenario.
struct Contest<'a> {
    comparison: &'a Comparison,
    scenario: Scenario,
    site: Site,
    entries: Vec<Entry<'a>>,
}

/// One peer in it.
struct Entry<'a> {
    peer: &'a Peer,
    proxy: Option<Proxy>,
    /// The most it did in a closed loop, a second.
    most: f64,
    rounds: BTreeMap<Figure, Vec<f64>>,
    /// The first operation that failed, if one did.
    first_failure: Option<Fault>,
    error: Option<String>,
}

/// Why a peer has no figures for a round.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("its state cannot be read: {0}")]
    State(#[from] std::io::Error),
}

impl<'a> Contest<'a> {
    fn new(comparison: &'a Comparison, scenario: Scenario) -> Result<Contest<'a>, CompareError> {
        let backends = scenario.backends.unwrap_or(comparison.settings.backends);
        let site = Site::new(backends).map_err(CompareError::Site)?;
        let entry =
            |peer| Entry { peer, proxy: None, most: 0.0, rounds: BTreeMap::new(), first_failure: None, error: None };
        Ok(Contest { comparison, scenario, site, entries: comparison.peers.iter().map(entry).collect() })
    }

    fn run(&mut self) -> Result<(), CompareError> {
        for at in 0..self.entries.len() {
            self.attempt(at, "start and check", |contest, at| contest.enter(at))?;
        }
        if let Traffic::Open { rate: Rate::Percent(_) | Rate::PercentOfSlowest(_), .. } = self.scenario.traffic {
            self.calibrate()?;
        }
        let rounds = self.comparison.settings.rounds;
        for round in 0..rounds {
            for at in rotation(self.entries.len(), round) {
                let what = format!("round {} of {rounds}", round + 1);
                self.attempt(at, &what, |contest, at| {
                    let sample = contest.round(at)?;
                    let entry = &mut contest.entries[at];
                    for (figure, value) in sample {
                        entry.rounds.entry(figure).or_default().push(value);
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    fn report(self) -> ScenarioReport {
        progress("");
        let peers = self
            .entries
            .into_iter()
            .map(|entry| {
                let failed = entry.first_failure.map(|fault| format!("the first operation that failed: {fault}"));
                PeerReport::new(entry.peer.name.clone(), entry.rounds, entry.error.or(failed))
            })
            .collect();
        let mut report = ScenarioReport { scenario: self.scenario.to_string(), peers };
        report.relate(&self.comparison.settings.baseline);
        report
    }

    /// Does something with a peer that is still in; an error puts it out.
    fn attempt(
        &mut self,
        at: usize,
        what: &str,
        work: impl FnOnce(&mut Contest<'a>, usize) -> Result<(), RoundError>,
    ) -> Result<(), CompareError> {
        if self.entries[at].error.is_some() {
            return Ok(());
        }
        progress(&format!("{}  {}  {what}", self.scenario, self.entries[at].peer.name));
        let result = work(self, at);
        if interrupt::requested() {
            return Err(CompareError::Interrupted);
        }
        if let Err(error) = result {
            let entry = &mut self.entries[at];
            let ended = entry.proxy.as_mut().and_then(Proxy::obituary).unwrap_or_default();
            entry.error = Some(format!("{error}{ended}"));
            entry.proxy = None;
        }
        Ok(())
    }

    /// Starts a peer and runs the scenario once with every byte compared. Memory is measured in a fresh process
    /// each round, which is checked then.
    fn enter(&mut self, at: usize) -> Result<(), RoundError> {
        if self.begins_afresh() {
            return Ok(());
        }
        self.start(at)?;
        let window = Window { warmup: Duration::ZERO, measure: CHECK_FOR };
        match self.scenario.traffic {
            Traffic::Exchange { connections, size, life } => {
                let plan = ExchangePlan { connections, size, life, check: true, pace: Pace::Closed };
                self.exchange(at, &plan, window)?;
            }
            Traffic::Open { connections, size, .. } => {
                let plan = ExchangePlan { connections, size, life: Life::Held, check: true, pace: Pace::Closed };
                self.exchange(at, &plan, window)?;
            }
            Traffic::Bulk { flows, direction } => {
                self.bulk(at, &BulkPlan { flows, direction, check: true }, window)?;
            }
            Traffic::Idle { .. } | Traffic::Spike { .. } | Traffic::Balance { .. } => {}
        }
        Ok(())
    }

    fn start(&mut self, at: usize) -> Result<(), RoundError> {
        let settings = &self.comparison.settings;
        let connections = self.connections();
        let mut setup = Setup {
            listen: Vec::new(),
            backends: Vec::new(),
            workers: self.scenario.workers(settings.workers),
            // Those that were just closed may still count when the next ones come.
            connections: (connections * 5 / 4 + 256).min(self.comparison.held_max.max(connections)),
            tuning: self.scenario.tuning(),
        };
        let entry = &mut self.entries[at];
        let listeners = self.scenario.listeners();
        entry.proxy = Some(Proxy::start(entry.peer, &mut setup, listeners, &settings.proxy_cpus, &mut self.site)?);
        Ok(())
    }

    /// Finds each peer's most, interleaved like everything.
    fn calibrate(&mut self) -> Result<(), CompareError> {
        let Traffic::Open { connections, size, .. } = self.scenario.traffic else { return Ok(()) };
        let window = self.comparison.window;
        let mut rates = vec![Vec::new(); self.entries.len()];
        for round in 0..CALIBRATIONS {
            for at in rotation(self.entries.len(), round) {
                let rates = &mut rates[at];
                self.attempt(at, "finding its most", |contest, at| {
                    let plan = ExchangePlan { connections, size, life: Life::Held, check: false, pace: Pace::Closed };
                    let outcome = contest.exchange(at, &plan, window)?;
                    rates.push(outcome.operations as f64 / outcome.elapsed.as_secs_f64());
                    Ok(())
                })?;
            }
        }
        for (entry, rates) in self.entries.iter_mut().zip(rates) {
            entry.most = Spread::of(&rates).map_or(0.0, |spread| spread.median);
        }
        Ok(())
    }

    /// The least that a peer which takes part did at most.
    fn slowest(&self) -> f64 {
        let most = self.entries.iter().filter(|entry| entry.error.is_none()).map(|entry| entry.most);
        most.min_by(f64::total_cmp).unwrap_or(0.0)
    }

    fn round(&mut self, at: usize) -> Result<BTreeMap<Figure, f64>, RoundError> {
        let check = self.comparison.settings.checked;
        let window = self.comparison.window;
        let proxied = self.entries[at].peer.kind != Kind::Direct;
        match self.scenario.traffic {
            Traffic::Exchange { connections, size, life } => {
                let plan = ExchangePlan { connections, size, life, check, pace: Pace::Closed };
                Ok(exchange_sample(&self.exchange(at, &plan, window)?, proxied))
            }
            Traffic::Open { connections, size, rate } => {
                let rate = match rate {
                    Rate::Percent(percent) => self.entries[at].most * percent / 100.0,
                    Rate::PercentOfSlowest(percent) => self.slowest() * percent / 100.0,
                    Rate::PerSecond(rate) => rate,
                };
                let plan = ExchangePlan { connections, size, life: Life::Held, check, pace: Pace::PerSecond(rate) };
                let mut sample = exchange_sample(&self.exchange(at, &plan, window)?, proxied);
                sample.insert(Figure::OfferedPerSecond, rate);
                // The loop spins between due times, so this would always read 100.
                sample.remove(&Figure::GeneratorBusyPercent);
                Ok(sample)
            }
            Traffic::Bulk { flows, direction } => {
                Ok(bulk_sample(&self.bulk(at, &BulkPlan { flows, direction, check }, window)?, proxied))
            }
            Traffic::Idle { .. } => self.idle(at, proxied),
            Traffic::Spike { .. } => self.spike(at, proxied),
            Traffic::Balance { .. } => self.balance(at),
        }
    }

    fn exchange(&mut self, at: usize, plan: &ExchangePlan, window: Window) -> Result<Outcome, LoadError> {
        let entry = &mut self.entries[at];
        let Some(proxy) = &entry.proxy else { return Err(LoadError::Interrupted) };
        let outcome = exchange(&mut self.site, plan, proxy.targets(), window, &mut || proxy.cpu_time())?;
        entry.first_failure = entry.first_failure.or(outcome.first_failure);
        Ok(outcome)
    }

    fn bulk(&mut self, at: usize, plan: &BulkPlan, window: Window) -> Result<Outcome, LoadError> {
        match &self.entries[at].proxy {
            Some(proxy) => bulk(&mut self.site, plan, proxy.targets(), window, &mut || proxy.cpu_time()),
            None => Err(LoadError::Interrupted),
        }
    }
}

/// Says on a terminal what is going on, in one line that the next one overwrites.
fn progress(text: &str) {
    let mut error = std::io::stderr();
    if error.is_terminal() {
        // Nobody misses a line of progress that could not be written.
        write!(error, "\r\x1b[K{text}").and_then(|()| error.flush()).unwrap_or_default();
    }
}
