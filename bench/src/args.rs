//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::compare::Comparison;
use crate::load::Window;
use crate::machine::Machine;
use crate::peers::{Kind, Peer};
use crate::report::Settings;
use crate::scenario::{GRAMMAR, Scenario};

/// Load generator and comparison harness for ringlb.
#[derive(Debug, Parser)]
#[command(name = "ringlb-bench", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compare proxies: start each, run interleaved rounds, print medians, stop everything
    Compare(Box<Compare>),
    /// Draw the plots of a comparison's JSON file
    Plot(Plot),
    /// Draw all plots and write a page of all tables, and of which targets were met
    Report(Report),
    /// Start a program pinned; for this program's own use
    #[command(hide = true)]
    Launch(Launch),
}

/// Options of `compare`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub struct Compare {
    /// Who takes part: direct, nginx, haproxy, ringlb, in this order in the tables
    #[arg(long, value_delimiter = ',', default_value = "ringlb,nginx,haproxy,direct")]
    pub peers: Vec<String>,
    /// Another build of ringlb that takes part
    #[arg(long, value_name = "NAME=PATH")]
    pub candidate: Vec<String>,
    #[arg(long, value_name = "SCENARIO", value_delimiter = ',', default_value = "request:64x64,connect:64x64,bulk-down:4,idle:1000", help = format!("What is measured: {GRAMMAR}"))]
    pub scenario: Vec<Scenario>,
    /// Rounds, interleaved over the peers; medians are shown
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
    /// Measured seconds of a round
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    pub seconds: f64,
    /// Seconds of a round before that
    #[arg(long, default_value_t = 0.3, value_parser = seconds)]
    pub warmup: f64,
    /// The ringlb to measure
    #[arg(long, default_value = "target/release/ringlb")]
    pub ringlb: PathBuf,
    /// The nginx to measure
    #[arg(long, default_value = "nginx")]
    pub nginx: PathBuf,
    /// The HAProxy to measure
    #[arg(long, default_value = "haproxy")]
    pub haproxy: PathBuf,
    /// Workers of each proxy
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub workers: u16,
    /// Backends behind each proxy
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub backends: u16,
    /// CPUs of the proxy [default: the first ones, one a worker]
    #[arg(long, value_delimiter = ',')]
    pub proxy_cpus: Vec<usize>,
    /// CPU of clients and backends [default: the last one]
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Compare every byte in measured rounds too (a short run of each peer always does)
    #[arg(long)]
    pub check: bool,
    /// The peer that the others' cost is divided by
    #[arg(long, default_value = "nginx")]
    pub baseline: String,
    /// Write everything that was measured into this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Options of `plot`.
#[derive(Debug, Args)]
pub struct Plot {
    /// What `compare --json` wrote
    pub report: PathBuf,
    /// Where the files go; it must exist
    #[arg(long, default_value = ".")]
    pub out: PathBuf,
    /// What their names begin with
    #[arg(long, default_value = "")]
    pub prefix: String,
}

/// Options of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// What `compare --json` wrote, in the order of the page
    #[arg(required = true)]
    pub reports: Vec<PathBuf>,
    /// Where README.md and the plots go; it must exist
    #[arg(long, default_value = ".")]
    pub out: PathBuf,
    /// The revision of the code that was measured
    #[arg(long)]
    pub commit: Option<String>,
    /// When it was measured
    #[arg(long)]
    pub date: Option<String>,
}

/// Options of `launch`.
#[derive(Debug, Args)]
pub struct Launch {
    /// The process that must still be there
    #[arg(long)]
    pub parent: i32,
    /// Where to run
    #[arg(long, value_delimiter = ',')]
    pub cpus: Vec<usize>,
    /// What to run
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

impl Compare {
    /// What the options ask for, on a machine where this process may use the CPUs `allowed` and so many descriptors.
    ///
    /// # Errors
    /// A peer that nobody knows, or a candidate without a path.
    pub fn comparison(&self, allowed: &[usize], descriptors: u64) -> Result<Comparison, String> {
        let mut peers = self.peers.iter().map(|name| self.peer(name)).collect::<Result<Vec<Peer>, String>>()?;
        for candidate in &self.candidate {
            let (name, path) = candidate
                .split_once('=')
                .ok_or_else(|| format!("--candidate {candidate:?} has no path; write NAME=PATH"))?;
            peers.push(Peer { name: name.to_owned(), kind: Kind::Ringlb, program: path.into() });
        }
        let first = allowed.iter().copied().take(self.workers.into()).collect();
        let proxy_cpus = if self.proxy_cpus.is_empty() { first } else { self.proxy_cpus.clone() };
        let generator_cpu = self.cpu.or(allowed.last().copied()).unwrap_or(0);
        Ok(Comparison {
            peers,
            scenarios: self.scenario.clone(),
            window: Window {
                warmup: Duration::from_secs_f64(self.warmup),
                measure: Duration::from_secs_f64(self.seconds),
            },
            machine: Machine::here(allowed.len()),
            held_max: held_max(descriptors),
            settings: Settings {
                rounds: self.rounds.into(),
                seconds: self.seconds,
                warmup_seconds: self.warmup,
                workers: self.workers.into(),
                backends: self.backends.into(),
                proxy_cpus,
                generator_cpu,
                checked: self.check,
                baseline: self.baseline.clone(),
            },
        })
    }

    fn peer(&self, name: &str) -> Result<Peer, String> {
        let (kind, program) = match name {
            "direct" => (Kind::Direct, PathBuf::new()),
            "nginx" => (Kind::Nginx, self.nginx.clone()),
            "haproxy" => (Kind::Haproxy, self.haproxy.clone()),
            "ringlb" => (Kind::Ringlb, self.ringlb.clone()),
            _ => return Err(format!("there is no peer {name:?}; choose of direct, nginx, haproxy, ringlb")),
        };
        Ok(Peer { name: name.to_owned(), kind, program })
    }
}

/// Connections that a process of so many descriptors can hold: two each, also in the generator, which has both ends. An
/// eighth is left to what proxies keep back for themselves (ringlb: pipes, checks and a reserve).
fn held_max(descriptors: u64) -> usize {
    usize::try_from(descriptors - descriptors / 8).unwrap_or(usize::MAX) / 2
}

/// Seconds that make sense: none of what is measured gets better within hours.
fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("{text:?} is no number of seconds"))?;
    if (0.0..=3600.0).contains(&value) { Ok(value) } else { Err(format!("{text} is not within 0 and 3600 seconds")) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn compare(words: &[&str]) -> Compare {
        let words = ["ringlb-bench", "compare"].iter().chain(words);
        match Arguments::try_parse_from(words).expect("the words are options of compare").command {
            Command::Compare(compare) => *compare,
            _ => panic!("compare was asked for"),
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_proxy_and_the_load_take_different_cpus() {
        let one = compare(&[]).comparison(&[2, 5, 7], 1024).expect("the defaults are valid");
        assert_eq!((one.settings.proxy_cpus, one.settings.generator_cpu), (vec![2], 7));
        let two = compare(&["--workers", "2"]).comparison(&[2, 5, 7], 1024).expect("two workers are valid");
        assert_eq!((two.settings.proxy_cpus, two.settings.generator_cpu), (vec![2, 5], 7));
    }

    #[test]
    fn a_spike_fits_into_the_descriptors_of_every_process() {
        let held_max = |descriptors| compare(&[]).comparison(&[0], descriptors).map(|comparison| comparison.held_max);
        assert_eq!(held_max(20_000), Ok(8750));
        assert_eq!(held_max(1024), Ok(448));
        assert!(held_max(u64::MAX).is_ok_and(|held_max| held_max > 1 << 60));
    }

    #[test]
    fn scenarios_that_descriptors_may_not_suffice_for_are_told() {
        let options = compare(&["--scenario", "idle:449,idle:448,spike:10000,connect:64x64/1000,request:2000x64"]);
        let comparison = options.comparison(&[0, 1], 1024).expect("the options are valid");
        let told: Vec<String> = comparison.too_high().map(ToString::to_string).collect();
        assert_eq!(told, ["idle:449", "request:2000x64"]);
    }

    #[test]
    fn the_last_word_counts() {
        // Scripts give defaults and append what the person wrote.
        assert_eq!(compare(&["--rounds", "3", "--rounds", "7"]).rounds, 7);
    }

    #[test]
    fn candidates_are_peers_with_names_of_their_own() {
        let comparison = compare(&["--peers", "ringlb", "--candidate", "before=/tmp/old"]).comparison(&[0, 1], 1024);
        let peers = comparison.expect("it has a path").peers;
        assert_eq!(peers.iter().map(|peer| peer.name.as_str()).collect::<Vec<_>>(), ["ringlb", "before"]);
        assert!(compare(&["--candidate", "before"]).comparison(&[0], 1024).is_err());
        assert!(compare(&["--peers", "apache"]).comparison(&[0], 1024).is_err());
    }
}
