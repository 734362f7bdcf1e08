//! The page that stands beside the results: what was wanted and what was measured, every table, every plot.

mod targets;

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::curves;
use crate::plot::{self, PlotError};
use crate::report::Report;
use crate::table::figure;

use targets::Outcome;

/// Fewer rounds do not tell a figure from its noise.
const ROUNDS_MIN: usize = 3;

/// One comparison's report, as it was kept.
#[derive(Debug)]
pub struct Part {
    /// The name of its file, without the ending.
    pub name: String,
    /// What was measured; or why that cannot be read.
    pub report: Result<Report, String>,
}

/// What the page is made of.
#[derive(Debug)]
pub struct Summary {
    /// In the order of the page.
    pub parts: Vec<Part>,
    /// The revision of the code that was measured.
    pub commit: Option<String>,
    /// When.
    pub date: Option<String>,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    /// A plot could not be drawn.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// The page could not be written.
    #[error("cannot write {file}: {source}")]
    Write {
        /// Its name.
        file: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl Part {
    /// Reads what `compare --json` wrote.
    pub fn read(file: &Path) -> Part {
        let name = file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        let read = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()));
        let report = read.and_then(|bytes| {
            serde_json::from_slice(&bytes).map_err(|error| format!("{} is no report: {error}", file.display()))
        });
        Part { name, report }
    }
}

impl Summary {
    /// Draws all plots into `directory`, writes `README.md` there, and returns its path.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<PathBuf, SummaryError> {
        let plots = self.parts.iter().map(|part| match &part.report {
            Ok(report) => plot::draw(report, directory, &format!("{}-", part.name)),
            Err(_) => Ok(Vec::new()),
        });
        let text = self.text(&plots.collect::<Result<Vec<_>, _>>()?);
        let file = directory.join("README.md");
        std::fs::write(&file, text)
            .map_err(|source| SummaryError::Write { file: file.display().to_string(), source })?;
        Ok(file)
    }

    /// The page. `plots` are the names of each part's files.
    fn text(&self, plots: &[Vec<String>]) -> String {
        let mut text = String::from(
            "# Results\n\n\
             `scripts/benchmark.sh` wrote this page and all beside it. What is measured, and how each peer is \
             configured, is in [docs/benchmarks.md](../../docs/benchmarks.md). The machine decides the rates; take the \
             ratios.\n",
        );
        text.push_str(&self.origin());
        if self.reports().any(|report| report.settings.rounds < ROUNDS_MIN) {
            text.push_str("\n**Measured briefly, to see that it works: the figures mean little.**\n");
        }
        text.push_str(&self.targets());
        text.push_str(&self.growth());
        for (part, plots) in self.parts.iter().zip(plots) {
            let congestion = part.report.as_ref().ok().and_then(|report| self.congestion_of_its_own(report));
            text.push_str(&part_text(part, plots, congestion));
        }
        text
    }

    fn reports(&self) -> impl Iterator<Item = &Report> {
        self.parts.iter().filter_map(|part| part.report.as_ref().ok())
    }

    /// What was measured, on what, and when.
    fn origin(&self) -> String {
        let mut rows = vec![("code", self.commit.clone().unwrap_or_else(|| "unknown".to_owned()))];
        rows.extend(self.date.clone().map(|date| ("date", date)));
        if let Some(report) = self.reports().next() {
            rows.push(("machine", report.machine.line()));
            rows.extend(report.peers.iter().map(|peer| (peer.name.as_str(), peer.version.clone())));
            rows.extend(report.machine.settings.iter().map(|(name, value)| (name.as_str(), format!("`{value}`"))));
        }
        rows.iter()
            .fold("\n| | |\n|---|---|\n".to_owned(), |text, (name, value)| text + &format!("| {name} | {value} |\n"))
    }

    /// The congestion control of a part that was measured with another one than the first.
    fn congestion_of_its_own<'a>(&self, report: &'a Report) -> Option<&'a str> {
        let first = self.reports().next().and_then(|first| first.machine.congestion_control());
        report.machine.congestion_control().filter(|own| Some(*own) != first)
    }

    fn targets(&self) -> String {
        let lines: Vec<targets::Line> = self
            .reports()
            .flat_map(|report| {
                let congestion = self.congestion_of_its_own(report);
                targets::of(report).into_iter().map(move |mut line| {
                    line.scenario = format!("`{}`", line.scenario);
                    if let Some(congestion) = congestion {
                        line.scenario.push_str(&format!(" with {congestion}"));
                    }
                    line
                })
            })
            .collect();
        let count = |outcome: &Outcome| lines.iter().filter(|line| line.outcome == *outcome).count();
        let (met, missed) = (count(&Outcome::Met), count(&Outcome::Missed));
        let mut text = format!("\n## Targets\n\n{met} met, {missed} missed");
        let open = lines.len() - met - missed;
        if open > 0 {
            text.push_str(&format!(", {open} not measured"));
        }
        text.push_str(". Judged is the median; in brackets is what single rounds gave.\n\n| target | scenario | measured | wanted | |\n|---|---|---|---|---|\n");
        for line in &lines {
            let outcome = match &line.outcome {
                Outcome::Met => "met",
                Outcome::Missed => "**missed**",
                Outcome::NotMeasured(why) => why,
            };
            let row =
                format!("| {} | {} | {} | {} | {outcome} |\n", line.target, line.scenario, line.measured, line.wanted);
            text.push_str(&row);
        }
        text
    }

    fn growth(&self) -> String {
        let mut text = String::new();
        for report in self.reports() {
            for curve in curves::of(report) {
                let heading =
                    format!("\n{}:\n\n| peer | lowest, CPU µs | at the largest number | growth |\n", curve.title());
                text.push_str(&(heading + "|---|---|---|---|\n"));
                for (peer, _) in curve.costs() {
                    let Some(growth) = curve.growth(&peer) else { continue };
                    let (lowest, last) = (growth.lowest, growth.last);
                    let written = writeln!(
                        text,
                        "| {peer} | {} at {} | {} at {} | {:.2} |",
                        figure(lowest.1),
                        lowest.0,
                        figure(last.1),
                        last.0,
                        growth.factor()
                    );
                    written.expect("writing to a string cannot fail");
                }
            }
        }
        let intro = "\n## Growth\n\nCost of an operation at the largest number of connections or backends, over the lowest \
                     cost on the way there. Caches and the kernel's own tables make everybody dearer; nothing should \
                     grow faster than it does for the best of the others.\n";
        if text.is_empty() { text } else { intro.to_owned() + &text }
    }
}

fn part_text(part: &Part, plots: &[String], congestion: Option<&str>) -> String {
    let mut text = format!("\n## {}\n\n", part.name);
    let report = match &part.report {
        Ok(report) => report,
        Err(error) => return text + &format!("Not there: {error}\n"),
    };
    let settings = &report.settings;
    let plural = |count: usize, name: &str| if count == 1 { format!("1 {name}") } else { format!("{count} {name}s") };
    text.push_str(&format!(
        "{} and {} where the scenario names no other number, {} of {} s after {} s of warming up.\n",
        plural(settings.workers, "worker"),
        plural(settings.backends, "backend"),
        plural(settings.rounds, "round"),
        settings.seconds,
        settings.warmup_seconds,
    ));
    if let Some(congestion) = congestion {
        text.push_str(&format!("The congestion control is {congestion}.\n"));
    }
    for scenario in &report.scenarios {
        text.push_str(&format!("\n```\n{}```\n", scenario.text(&settings.baseline)));
    }
    for file in plots {
        let name = file.trim_end_matches(".svg");
        text.push_str(&format!("\n![{name}]({file})\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::Figure;
    use crate::report::samples::{report, scenario};

    fn summary(report: Result<Report, String>) -> Summary {
        let part = Part { name: "one-worker".to_owned(), report };
        Summary { parts: vec![part], commit: Some("0123abc".to_owned()), date: Some("2026-01-31".to_owned()) }
    }

    #[test]
    fn the_page_has_the_origin_the_verdicts_every_table_and_every_plot() {
        let cpu = Figure::CpuUsPerOperation;
        let fast = scenario("request:64x64", &[("ringlb", cpu, 8.0), ("nginx", cpu, 10.0)]);
        let slow = scenario("connect:64x64", &[("ringlb", cpu, 55.0), ("nginx", cpu, 60.0)]);
        let plots = vec!["one-worker-request.svg".to_owned()];
        let text = summary(Ok(report(vec![fast, slow]))).text(&[plots]);
        for piece in [
            "| code | 0123abc |\n| date | 2026-01-31 |\n",
            "| nginx | nginx 1.2.3 |\n",
            "\n1 met, 1 missed. ",
            "Measured briefly",
            "| CPU of a small request, nginx = 1 | `request:64x64` | 0.800 | ≤ 0.82 | met |\n",
            "| CPU of a connection, nginx = 1 | `connect:64x64` | 0.917 | ≤ 0.85 | **missed** |\n",
            "## one-worker\n\n1 worker and 4 backends where the scenario names no other number, 2 rounds of 1 s",
            "```\nrequest:64x64  CPU µs/op   ±%  /nginx\nringlb",
            "\n![one-worker-request](one-worker-request.svg)\n",
        ] {
            assert!(text.contains(piece), "{piece} is missing in\n{text}");
        }
        assert!(!text.contains("## Growth"), "there is no curve:\n{text}");
        let mut thorough = report(Vec::new());
        thorough.settings.rounds = ROUNDS_MIN;
        assert!(!summary(Ok(thorough)).text(&[Vec::new()]).contains("briefly"));
    }

    #[test]
    fn a_part_with_a_congestion_control_of_its_own_says_so() {
        let part = |name: &str, congestion: &str| {
            let bytes = Figure::CpuSecondsPerGigabyte;
            let bulk = scenario("bulk-down:4", &[("ringlb", bytes, 0.2), ("nginx", bytes, 0.5)]);
            let mut report = report(vec![bulk]);
            report.machine.settings.insert("net/ipv4/tcp_congestion_control".to_owned(), congestion.to_owned());
            Part { name: name.to_owned(), report: Ok(report) }
        };
        let parts = vec![part("one-worker", "bbr"), part("unpaced", "reno")];
        let text = Summary { parts, commit: None, date: None }.text(&[Vec::new(), Vec::new()]);
        assert!(text.contains("| `bulk-down:4` | 0.400 |"), "{text}");
        assert!(text.contains("| `bulk-down:4` with reno | 0.400 |"), "{text}");
        assert_eq!(text.matches("The congestion control is reno.").count(), 1, "{text}");
        assert!(!text.contains("The congestion control is bbr."), "{text}");
    }

    #[test]
    fn growth_is_told_for_each_peer() {
        let cpu = Figure::CpuUsPerOperation;
        let point = |(number, ours): (usize, f64)| {
            scenario(&format!("connect:64x64/{number}"), &[("ringlb", cpu, ours), ("nginx", cpu, 60.0)])
        };
        let scenarios = [(2, 51.0), (10, 50.0), (100, 52.0), (1000, 55.0)].map(point);
        let text = summary(Ok(report(scenarios.into()))).text(&[Vec::new()]);
        for piece in [
            "connect:64x64 by backends:",
            "| ringlb | 50.0 at 10 | 55.0 at 1000 | 1.10 |\n",
            "| nginx | 60.0 at 2 | 60.0 at 1000 | 1.00 |\n",
        ] {
            assert!(text.contains(piece), "{piece} is missing in\n{text}");
        }
    }

    #[test]
    fn a_part_that_cannot_be_read_is_named() {
        let part = Part::read(Path::new("/nonexistent/two-workers.json"));
        assert_eq!(part.name, "two-workers");
        let text = summary(part.report).text(&[Vec::new()]);
        assert!(text.contains("Not there: cannot read /nonexistent/two-workers.json: "), "{text}");
    }
}
