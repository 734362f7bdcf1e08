//! Builds what the encoder writes.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::metrics::Buckets;
use crate::metrics::table::{self, Kind, METRICS};

/// The families of the table, being filled.
pub struct Families(Vec<MetricFamily>);

impl Families {
    /// None has a series yet.
    pub fn new() -> Families {
        let empty = METRICS.iter().map(|metric| {
            let mut family = MetricFamily::default();
            family.set_name(metric.name.to_owned());
            family.set_help(metric.help.to_owned());
            family.set_field_type(match metric.kind {
                Kind::Counter => MetricType::COUNTER,
                Kind::Gauge => MetricType::GAUGE,
                Kind::Histogram => MetricType::HISTOGRAM,
            });
            family
        });
        Families(empty.collect())
    }

    /// Adds a series: the values of the metric's labels, and the number.
    pub fn add(&mut self, metric: &table::Metric, labels: &[&str], number: u64) {
        self.add_fraction(metric, labels, number as f64);
    }

    /// The same with a fraction.
    pub fn add_fraction(&mut self, metric: &table::Metric, labels: &[&str], number: f64) {
        let mut series = labelled(metric, labels);
        if metric.kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(number);
            series.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(number);
            series.set_gauge(gauge);
        }
        self.family(metric).mut_metric().push(series);
    }

    /// Adds the series of a histogram.
    pub fn add_buckets<const N: usize>(
        &mut self,
        metric: &table::Metric,
        labels: &[&str],
        bounds: &[f64; N],
        buckets: &Buckets<N>,
    ) {
        let mut histogram = Histogram::default();
        let bucket = |(bound, count): (&f64, u64)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        histogram.set_bucket(bounds.iter().zip(buckets.cumulative).map(bucket).collect());
        histogram.set_sample_count(buckets.total);
        histogram.set_sample_sum(buckets.sum_seconds);
        let mut series = labelled(metric, labels);
        series.set_histogram(histogram);
        self.family(metric).mut_metric().push(series);
    }

    /// All that was added.
    pub fn into_vec(self) -> Vec<MetricFamily> {
        self.0
    }

    fn family(&mut self, metric: &table::Metric) -> &mut MetricFamily {
        let number = METRICS.iter().position(|one| std::ptr::eq(one.name, metric.name));
        let number = number.or_else(|| METRICS.iter().position(|one| one.name == metric.name));
        &mut self.0[number.unwrap_or_else(|| unreachable!("{} stands in the table", metric.name))]
    }
}

fn labelled(metric: &table::Metric, values: &[&str]) -> Metric {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let pair = |(name, value): (&&str, &&str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    Metric::from_label(metric.labels.iter().zip(values).map(pair).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::TextEncoder;

    /// Names of the configuration have no such characters; those that come by the API might.
    #[test]
    fn labels_are_escaped() {
        let mut families = Families::new();
        families.add(&table::BACKEND_WEIGHT, &["p", "a\"b\\c\nd"], 1);
        let text = TextEncoder::new().encode_to_string(&families.into_vec()[weight()..=weight()]).unwrap();
        let series = text.lines().last().unwrap();
        assert_eq!(series, r#"ringlb_backend_weight{pool="p",backend="a\"b\\c\nd"} 1"#);
    }

    #[test]
    fn a_histogram_ends_with_all_that_was_counted() {
        let mut families = Families::new();
        let buckets = Buckets { cumulative: [1, 3], total: 4, sum_seconds: 2.5 };
        families.add_buckets(&table::SESSION_DURATION, &["web"], &[0.5, 1.0], &buckets);
        let families: Vec<MetricFamily> =
            families.into_vec().into_iter().filter(|family| !family.get_metric().is_empty()).collect();
        let text = TextEncoder::new().encode_to_string(&families).unwrap();
        let name = table::SESSION_DURATION.name;
        let series: Vec<String> = text.lines().skip(2).map(|line| line.replace(name, "")).collect();
        let expected = [
            r#"_bucket{listener="web",le="0.5"} 1"#,
            r#"_bucket{listener="web",le="1"} 3"#,
            r#"_bucket{listener="web",le="+Inf"} 4"#,
            r#"_sum{listener="web"} 2.5"#,
            r#"_count{listener="web"} 4"#,
        ];
        assert_eq!(series, expected);
    }

    fn weight() -> usize {
        METRICS.iter().position(|metric| *metric == table::BACKEND_WEIGHT).unwrap()
    }
}
