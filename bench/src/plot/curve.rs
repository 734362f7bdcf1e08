//! Cost against scale: the number along a logarithmic axis, the cost from zero.

use plotters::prelude::*;

use super::{Area, FONT, LEGEND_HEIGHT, NAMES_HEIGHT, annotate, colour};
use crate::curves::Curve;
use crate::stats::Spread;

/// One line a peer over an axis that is common to all.
#[derive(Debug, PartialEq)]
pub(super) struct Chart {
    title: String,
    /// What stands below the axis.
    axis: &'static str,
    numbers: Vec<usize>,
    series: Vec<(String, Vec<(usize, Spread)>)>,
}

impl Chart {
    /// Nothing, if no peer has a cost.
    pub(super) fn of(curve: &Curve<'_>) -> Option<Chart> {
        let series = curve.costs();
        let chart = Chart { title: curve.title(), axis: curve.axis(), numbers: curve.numbers(), series };
        (!chart.series.is_empty()).then_some(chart)
    }

    pub(super) fn draw(&self, root: &Area<'_>) -> Result<(), Box<dyn std::error::Error>> {
        root.fill(&WHITE)?;
        let (left, right) = self.ends();
        let mut area = ChartBuilder::on(root)
            .caption(&self.title, (FONT, 22))
            .margin(10)
            .margin_top(LEGEND_HEIGHT)
            .x_label_area_size(NAMES_HEIGHT)
            .y_label_area_size(64)
            .build_cartesian_2d((left..right).log_scale(), 0.0..self.highest() * 1.05)?;
        area.configure_mesh()
            .disable_x_mesh()
            .max_light_lines(1)
            .x_labels(0)
            .x_desc(self.axis)
            .y_desc("proxy CPU, µs an operation")
            .label_style((FONT, 16))
            .draw()?;
        for (place, (_, points)) in self.series.iter().enumerate() {
            let line = points.iter().map(|(number, cost)| (*number as f64, cost.median));
            area.draw_series(LineSeries::new(line.clone(), colour(place).stroke_width(2)))?;
            area.draw_series(line.map(|at| Circle::new(at, 3, colour(place).filled())))?;
            for (number, cost) in points {
                let at = *number as f64;
                area.draw_series([PathElement::new([(at, cost.low), (at, cost.high)], colour(place))])?;
            }
        }
        let names: Vec<String> = self.numbers.iter().map(usize::to_string).collect();
        let places = self.numbers.iter().map(|number| area.plotting_area().map_coordinate(&(*number as f64, 0.0)));
        annotate(root, places.zip(&names), self.series.iter().map(|(name, _)| name))
    }

    /// Where the axis begins and ends: room on both sides of the numbers, which are at least 1.
    fn ends(&self) -> (f64, f64) {
        let first = self.numbers.first().copied().unwrap_or(1).max(1);
        let last = self.numbers.last().copied().unwrap_or(1).max(first);
        (first as f64 / 1.25, last as f64 * 1.25)
    }

    fn highest(&self) -> f64 {
        let costs = self.series.iter().flat_map(|(_, points)| points).map(|(_, cost)| cost.high);
        costs.fold(f64::MIN_POSITIVE, f64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(usize, f64)]) -> Chart {
        let spread = |cost: f64| Spread { median: cost, low: cost * 0.9, high: cost * 1.1 };
        Chart {
            title: "t".to_owned(),
            axis: "backends",
            numbers: points.iter().map(|(number, _)| *number).collect(),
            series: vec![("a".to_owned(), points.iter().map(|(number, cost)| (*number, spread(*cost))).collect())],
        }
    }

    #[test]
    fn the_axis_holds_every_point_and_begins_above_zero() {
        let chart = chart(&[(2, 50.0), (10, 40.0), (1000, 60.0)]);
        assert_eq!(chart.ends(), (1.6, 1250.0));
        assert!((chart.highest() - 66.0).abs() < 1e-9, "{}", chart.highest());
    }

    #[test]
    fn equal_factors_are_equal_distances() {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let chart = chart(&[(10, 5.0), (100, 5.0), (1000, 5.0)]);
        super::super::save(directory.path(), "curve.svg", |root| chart.draw(root)).expect("it is drawn");
        let text = std::fs::read_to_string(directory.path().join("curve.svg")).expect("it was written");
        let circles = text.split("<circle cx=\"").skip(1).map(|rest| rest.split('"').next().expect("an attribute"));
        let x: Vec<i32> = circles.map(|cx| cx.parse().expect("a number of pixels")).collect();
        assert_eq!(x.len(), 3, "{text}");
        assert!(x[0] < x[1] && ((x[1] - x[0]) - (x[2] - x[1])).abs() <= 1, "{x:?}");
    }
}
