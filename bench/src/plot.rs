//! Plots of a report, as SVG files.

mod curve;

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::curves;
use crate::figures::Figure;
use crate::report::{PeerReport, Report, ScenarioReport};
use crate::stats::Spread;

const WIDTH: u32 = 960;
const HEIGHT: u32 = 420;
const FONT: &str = "sans-serif";

/// Room for the names below the axis and for the legend above the plot, in pixels.
const NAMES_HEIGHT: i32 = 44;
const LEGEND_HEIGHT: i32 = 26;

/// One colour a peer, by its place; readable beside each other for the colour-blind too.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(213, 94, 0),
    RGBColor(120, 120, 120),
];

/// The points of a latency curve.
const QUANTILES: [Figure; 5] = [Figure::P50Us, Figure::P90Us, Figure::P99Us, Figure::P999Us, Figure::MaxUs];

/// The moments of a spike.
const SPIKE: [Figure; 3] = [Figure::UserKibBefore, Figure::UserKibPeak, Figure::UserKibAfter];

/// Why a plot could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw {file}: {reason}")]
pub struct PlotError {
    file: String,
    reason: String,
}

/// Where a plot is drawn.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws one kind of chart.
type Draw = fn(&Chart, &Area<'_>) -> Result<(), Box<dyn std::error::Error>>;

/// Figures by group and by series, ready to be drawn.
#[derive(Debug, PartialEq)]
struct Chart {
    title: String,
    unit: String,
    groups: Vec<String>,
    series: Vec<(String, Vec<Option<Spread>>)>,
}

/// Draws what `report` holds into `directory`, with file names that begin with `prefix`, and returns the names.
///
/// # Errors
/// A file cannot be written.
pub fn draw(report: &Report, directory: &Path, prefix: &str) -> Result<Vec<String>, PlotError> {
    let curves = curves::of(report);
    let cost = |kinds: &[&str], figure: Figure, title: &str, unit: &str| {
        let single = |name: &str| !curves.iter().any(|curve| curve.contains(name));
        let wanted = |name: &str| kinds.contains(&kind(name)) && single(name);
        let scenarios = report.scenarios.iter().filter(|scenario| wanted(&scenario.scenario));
        by_scenario(scenarios.collect(), figure, title, unit)
    };
    let bars = [
        ("request", cost(&["request"], Figure::CpuUsPerOperation, "Request and answer", "proxy CPU, µs an operation")),
        (
            "connect",
            cost(&["connect", "connect-server"], Figure::CpuUsPerOperation, "A connection a request", "proxy CPU, µs"),
        ),
        (
            "bulk",
            cost(
                &["bulk-up", "bulk-down", "bulk-both"],
                Figure::CpuSecondsPerGigabyte,
                "Bulk",
                "proxy CPU, s a gigabyte",
            ),
        ),
        ("memory", cost(&["idle"], Figure::UserKibPerConnection, "Idle connections", "user memory, KiB each")),
    ];
    let mut files = Vec::new();
    for (name, chart) in bars {
        if let Some(chart) = chart {
            files.push(save(directory, &format!("{prefix}{name}.svg"), |root| bar_chart(&chart, root))?);
        }
    }
    for curve in &curves {
        if let Some(chart) = curve::Chart::of(curve) {
            files.push(save(directory, &format!("{prefix}{}.svg", curve.name()), |root| chart.draw(root))?);
        }
    }
    for scenario in &report.scenarios {
        let chart = match kind(&scenario.scenario) {
            "open" => latency(scenario).map(|chart| (chart, line_chart as Draw)),
            "spike" => spike(scenario).map(|chart| (chart, bar_chart as Draw)),
            _ => None,
        };
        if let Some((chart, draw)) = chart {
            let name = scenario.scenario.replace([':', '@', '/'], "-").replace('%', "");
            files.push(save(directory, &format!("{prefix}{name}.svg"), |root| draw(&chart, root))?);
        }
    }
    Ok(files)
}

fn kind(scenario: &str) -> &str {
    scenario.split_once(':').map_or(scenario, |(kind, _)| kind)
}

/// A group a scenario, a series a peer; nothing, if nobody has the figure.
fn by_scenario(scenarios: Vec<&ScenarioReport>, figure: Figure, title: &str, unit: &str) -> Option<Chart> {
    let names = scenarios.first()?.peers.iter().map(|peer| peer.name.clone());
    let value = |scenario: &ScenarioReport, name: &str| {
        let peer = scenario.peers.iter().find(|peer| peer.name == name)?;
        peer.figures.get(&figure).map(|measured| measured.spread)
    };
    let series = names.map(|name| {
        let values = scenarios.iter().map(|scenario| value(scenario, &name)).collect();
        (name, values)
    });
    let groups = scenarios.iter().map(|scenario| scenario.scenario.clone()).collect();
    Chart { title: title.to_owned(), unit: unit.to_owned(), groups, series: series.collect() }.with_values()
}

/// Latency at an open pace, by quantile.
fn latency(scenario: &ScenarioReport) -> Option<Chart> {
    let title = format!("Latency from the intended send time, {}", scenario.scenario);
    by_figure(scenario, &QUANTILES, &["p50", "p90", "p99", "p99.9", "max"], title, "µs")
}

/// Memory around a spike.
fn spike(scenario: &ScenarioReport) -> Option<Chart> {
    let title = format!("User memory before, at and after {}", scenario.scenario);
    by_figure(scenario, &SPIKE, &["before", "peak", "after"], title, "KiB")
}

/// A group a figure, a series a peer.
fn by_figure(
    scenario: &ScenarioReport,
    figures: &[Figure],
    groups: &[&str],
    title: String,
    unit: &str,
) -> Option<Chart> {
    let curve = |peer: &PeerReport| {
        let values = figures.iter().map(|figure| peer.figures.get(figure).map(|measured| measured.spread));
        (peer.name.clone(), values.collect())
    };
    let groups = groups.iter().map(|group| (*group).to_owned()).collect();
    let series = scenario.peers.iter().map(curve).collect();
    Chart { title, unit: unit.to_owned(), groups, series }.with_values()
}

impl Chart {
    /// Without series that have no value at all; nothing, if none is left.
    fn with_values(mut self) -> Option<Chart> {
        self.series.retain(|(_, values)| values.iter().any(Option::is_some));
        (!self.series.is_empty()).then_some(self)
    }

    fn ends(&self) -> (f64, f64) {
        let values = self.series.iter().flat_map(|(_, values)| values).flatten();
        values.fold((f64::MAX, f64::MIN_POSITIVE), |(low, high), value| (low.min(value.low), high.max(value.high)))
    }
}

fn save(
    directory: &Path,
    name: &str,
    draw: impl Fn(&Area<'_>) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<String, PlotError> {
    let file = directory.join(name);
    let root = SVGBackend::new(&file, (WIDTH, HEIGHT)).into_drawing_area();
    let drawn = draw(&root).and_then(|()| Ok(root.present()?));
    drawn.map_err(|error| PlotError { file: file.display().to_string(), reason: error.to_string() })?;
    Ok(name.to_owned())
}

/// Bars from zero, with a line from the lowest to the highest round.
fn bar_chart(chart: &Chart, root: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let (_, high) = chart.ends();
    let mut area = ChartBuilder::on(root)
        .caption(&chart.title, (FONT, 22))
        .margin(10)
        .margin_top(LEGEND_HEIGHT)
        .x_label_area_size(NAMES_HEIGHT)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..chart.groups.len() as f64, 0.0..high * 1.05)?;
    area.configure_mesh()
        .disable_x_mesh()
        .max_light_lines(1)
        .x_labels(0)
        .y_desc(&chart.unit)
        .label_style((FONT, 16))
        .draw()?;
    let width = 0.8 / chart.series.len() as f64;
    for (place, (_, values)) in chart.series.iter().enumerate() {
        for (group, value) in values.iter().enumerate() {
            let Some(value) = value else { continue };
            let left = group as f64 + 0.1 + place as f64 * width;
            let middle = left + width / 2.0;
            let bar = [(left, 0.0), (left + width * 0.94, value.median)];
            area.draw_series([Rectangle::new(bar, colour(place).filled())])?;
            area.draw_series([PathElement::new([(middle, value.low), (middle, value.high)], BLACK)])?;
        }
    }
    let names = chart.groups.iter().enumerate();
    let names = names.map(|(group, name)| (area.plotting_area().map_coordinate(&(group as f64 + 0.5, 0.0)), name));
    annotate(root, names, chart.series.iter().map(|(name, _)| name))
}

/// A line a series over a logarithmic axis.
fn line_chart(chart: &Chart, root: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
    root.fill(&WHITE)?;
    let (low, high) = chart.ends();
    let low = low.max(0.1) * 0.8;
    let mut area = ChartBuilder::on(root)
        .caption(&chart.title, (FONT, 22))
        .margin(10)
        .margin_top(LEGEND_HEIGHT)
        .x_label_area_size(NAMES_HEIGHT)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..chart.groups.len() as f64, (low..high * 1.25).log_scale())?;
    area.configure_mesh()
        .disable_x_mesh()
        .max_light_lines(1)
        .x_labels(0)
        .y_desc(&chart.unit)
        .label_style((FONT, 16))
        .draw()?;
    for (place, (_, values)) in chart.series.iter().enumerate() {
        // Side by side, so that the lines from the lowest to the highest round do not hide each other.
        let shift = 0.5 + 0.03 * (place as f64 - (chart.series.len() - 1) as f64 / 2.0);
        let point = |(group, value): (usize, &Option<Spread>)| value.map(|value| (group as f64 + shift, value));
        let points: Vec<(f64, Spread)> = values.iter().enumerate().filter_map(point).collect();
        let line = points.iter().map(|(at, value)| (*at, value.median));
        area.draw_series(LineSeries::new(line.clone(), colour(place).stroke_width(2)))?;
        area.draw_series(line.map(|at| Circle::new(at, 3, colour(place).filled())))?;
        for (at, value) in points {
            area.draw_series([PathElement::new([(at, value.low.max(low)), (at, value.high)], colour(place))])?;
        }
    }
    let names = chart.groups.iter().enumerate();
    let names = names.map(|(group, name)| (area.plotting_area().map_coordinate(&(group as f64 + 0.5, low)), name));
    annotate(root, names, chart.series.iter().map(|(name, _)| name))
}

/// The groups' names below the axis and the series' above the plot.
fn annotate<'a>(
    root: &Area<'_>,
    names: impl Iterator<Item = ((i32, i32), &'a String)>,
    series: impl Iterator<Item = &'a String>,
) -> Result<(), Box<dyn std::error::Error>> {
    let style = TextStyle::from((FONT, 16)).color(&BLACK);
    let centred = style.pos(Pos::new(HPos::Center, VPos::Top));
    for ((x, y), name) in names {
        root.draw(&Text::new(name.clone(), (x, y + 8), centred.clone()))?;
    }
    let mut x = 80;
    for (place, name) in series.enumerate() {
        root.draw(&Rectangle::new([(x, 10), (x + 12, 22)], colour(place).filled()))?;
        root.draw(&Text::new(name.clone(), (x + 17, 10), TextStyle::from((FONT, 16)).color(&BLACK)))?;
        x += 40 + 8 * i32::try_from(name.len())?;
    }
    Ok(())
}

fn colour(place: usize) -> RGBColor {
    COLOURS[place % COLOURS.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::samples::{report, scenario};

    #[test]
    fn a_peer_without_the_figure_has_no_series() {
        let first = scenario("request:1x64", &[("a", Figure::CpuUsPerOperation, 2.0), ("direct", Figure::P50Us, 1.0)]);
        let second = scenario("request:9x64", &[("direct", Figure::P50Us, 1.0)]);
        let chart = by_scenario(vec![&first, &second], Figure::CpuUsPerOperation, "t", "u").expect("a has it");
        assert_eq!(chart.groups, ["request:1x64", "request:9x64"]);
        assert_eq!(chart.series.len(), 1);
        assert_eq!(chart.series[0].0, "a");
        assert!(chart.series[0].1[0].is_some() && chart.series[0].1[1].is_none());
        assert_eq!(by_scenario(vec![&second], Figure::CpuUsPerOperation, "t", "u"), None);
    }

    #[test]
    fn charts_become_svg_files() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let bars = scenario("bulk-up:1", &[("fast & small", Figure::CpuSecondsPerGigabyte, 0.3)]);
        let chart = by_scenario(vec![&bars], Figure::CpuSecondsPerGigabyte, "Bulk", "s").expect("there is one");
        save(directory.path(), "bars.svg", |root| bar_chart(&chart, root)).expect("it is drawn");
        let curve = latency(&scenario("open:1x1@70%", &[("a", Figure::P50Us, 20.0)])).expect("there is one");
        save(directory.path(), "curve.svg", |root| line_chart(&curve, root)).expect("it is drawn");
        let text = std::fs::read_to_string(directory.path().join("bars.svg")).expect("it was written");
        assert!(text.contains("fast &amp; small") && text.contains("bulk-up:1"), "{text}");
        assert!(std::fs::read_to_string(directory.path().join("curve.svg")).expect("written").contains("p99.9"));
    }

    #[test]
    fn what_belongs_to_a_curve_is_drawn_as_one() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let cpu = |name: &str| scenario(name, &[("ringlb", Figure::CpuUsPerOperation, 9.0)]);
        let names = ["request:10x64", "request:100x64", "request:1000x64", "request:8000x64", "request:10x1KiB"];
        let files = draw(&report(names.map(cpu).into()), directory.path(), "all-").expect("they are drawn");
        assert_eq!(files, ["all-request.svg", "all-request-64-by-connections.svg"]);
        let text = |file: &str| std::fs::read_to_string(directory.path().join(file)).expect("it was written");
        let (bars, curve) = (text(&files[0]), text(&files[1]));
        assert!(bars.contains("request:10x1KiB") && !bars.contains("request:8000x64"), "{bars}");
        assert!(curve.contains("connections") && curve.contains("8000"), "{curve}");
    }

    #[test]
    fn a_spike_is_drawn_by_its_moments() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let moments = [
            ("a", Figure::UserKibBefore, 10.0),
            ("a", Figure::UserKibPeak, 90.0),
            ("a", Figure::UserKibAfter, 11.0),
            ("direct", Figure::Connections, 40.0),
        ];
        let spike = scenario("spike:40/9", &moments);
        let files = draw(&report(vec![spike]), directory.path(), "").expect("it is drawn");
        assert_eq!(files, ["spike-40-9.svg"]);
        let text = std::fs::read_to_string(directory.path().join("spike-40-9.svg")).expect("it was written");
        assert!(["before", "peak", "after"].iter().all(|moment| text.contains(moment)), "{text}");
        assert!(!text.contains("direct"), "there is no memory of no proxy: {text}");
    }
}
