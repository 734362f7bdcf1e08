//! Load generator and comparison harness for ringlb.
//!
//! `ringlb-bench compare` starts proxies one beside the other, sends the same traffic through each in turn, and
//! shows what it cost them. `docs/benchmarks.md` tells what is measured and how.

mod args;
mod compare;
mod curves;
mod figures;
mod interrupt;
mod load;
mod machine;
mod peers;
mod plot;
mod procfs;
mod report;
mod scenario;
mod stats;
mod summary;
mod table;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};

use args::{Arguments, Command, Compare, Plot};
use report::Report;
use summary::{Part, Summary};

/// Exit code for a command line that cannot be followed.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Compare(options) => compare(&options),
        Command::Plot(options) => plot(&options),
        Command::Report(options) => report(&options),
        Command::Launch(launch) => {
            let error = peers::launch(launch.parent, &launch.cpus, &launch.command);
            eprintln!("cannot start {:?}: {error}", launch.command[0]);
            ExitCode::FAILURE
        }
    }
}

fn compare(options: &Compare) -> ExitCode {
    let descriptors = raise_descriptor_limit();
    let comparison = match options.comparison(&allowed_cpus(), descriptors) {
        Ok(comparison) => comparison,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(USAGE);
        }
    };
    for scenario in comparison.too_high() {
        eprintln!(
            "{scenario} may fail: {descriptors} files that a process may open are enough for {} connections with both \
             ends; raise the hard limit (ulimit -Hn)",
            comparison.held_max
        );
    }
    if let Err(error) = interrupt::install() {
        eprintln!("cannot watch for Ctrl-C: {error}");
        return ExitCode::FAILURE;
    }
    let cpu = comparison.settings.generator_cpu;
    if let Err(error) = peers::pin(&[cpu]) {
        eprintln!("cannot run on CPU {cpu}: {error}; choose another one with --cpu");
        return ExitCode::FAILURE;
    }
    let mut out = std::io::stdout();
    let report = match comparison.run(&mut out) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(file) = &options.json
        && let Err(error) = write_json(&report, file)
    {
        eprintln!("cannot write {}: {error}", file.display());
        return ExitCode::FAILURE;
    }
    if let Err(error) = write!(out, "{}", report.origin()) {
        eprintln!("cannot write to standard output: {error}");
        return ExitCode::FAILURE;
    }
    let failed = report.scenarios.iter().flat_map(|scenario| &scenario.peers).any(|peer| peer.error.is_some());
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn plot(options: &Plot) -> ExitCode {
    let read = std::fs::read(&options.report).map_err(|error| error.to_string());
    let report: Result<Report, String> =
        read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()));
    let drawn = match report {
        Ok(report) => plot::draw(&report, &options.out, &options.prefix).map_err(|error| error.to_string()),
        Err(error) => Err(format!("cannot read {}: {error}", options.report.display())),
    };
    match drawn {
        Ok(files) => {
            files.iter().for_each(|file| println!("{file}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn report(options: &args::Report) -> ExitCode {
    let parts: Vec<Part> = options.reports.iter().map(|file| Part::read(file)).collect();
    let mut code = ExitCode::SUCCESS;
    for error in parts.iter().filter_map(|part| part.report.as_ref().err()) {
        eprintln!("{error}; the page is written without it");
        code = ExitCode::FAILURE;
    }
    let summary = Summary { parts, commit: options.commit.clone(), date: options.date.clone() };
    match summary.write(&options.out) {
        Ok(file) => println!("{}", file.display()),
        Err(error) => {
            eprintln!("{error}");
            code = ExitCode::FAILURE;
        }
    }
    code
}

fn write_json(report: &Report, file: &Path) -> std::io::Result<()> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    std::fs::write(file, text)
}

/// CPUs this process may use; none if the kernel will not say.
fn allowed_cpus() -> Vec<usize> {
    sched_getaffinity(None).map(|set| (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()).unwrap_or_default()
}

/// Takes as many descriptors as are allowed, for itself and for the proxies, which inherit the limit, and says how many
/// that are.
fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let allowed = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            eprintln!("the limit of open files stays at {:?}: {error}", limit.current);
            limit.current
        }
    };
    allowed.unwrap_or(u64::MAX)
}
