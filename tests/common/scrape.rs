//! What `/metrics` says.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::SocketAddr;

use super::ringlb::Ringlb;
use super::{net, until};

/// One scrape, by series as they are written: `name{label="value",...}`.
pub struct Scrape {
    /// The whole answer.
    pub text: String,
    /// Each series and its number.
    pub series: BTreeMap<String, f64>,
}

impl Scrape {
    /// What the process shows now.
    pub fn of(ringlb: &Ringlb) -> Scrape {
        let (status, text) = get(ringlb.metrics_address(), "/metrics");
        assert_eq!(status, 200, "{text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series = lines.map(|line| {
            let (series, number) = line.rsplit_once(' ').expect("a series and its number");
            (series.to_owned(), number.parse().expect("a number"))
        });
        Scrape { series: series.collect(), text }
    }

    /// The series of that name with all of these labels, summed up; nothing where there is none.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let labels: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let fits =
            |series: &str| series.split('{').next() == Some(name) && labels.iter().all(|one| series.contains(one));
        let found: Vec<f64> =
            self.series.iter().filter(|(series, _)| fits(series)).map(|(_, number)| *number).collect();
        (!found.is_empty()).then(|| found.iter().sum())
    }

    /// The same, where there must be one.
    pub fn number(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("no {name} with {labels:?} in\n{}", self.text))
    }

    /// The same for a backend of the pool that [`Config`](super::ringlb::Config) makes.
    pub fn backend(&self, name: &str, backend: impl ToString) -> f64 {
        self.number(name, &[("pool", "back"), ("backend", &backend.to_string())])
    }
}

/// A request for a path, and the answer's status and body.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = net::connect(address);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: ringlb\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, body.to_owned())
}

/// The sum of the series of that name with this label, written `label="value"`, or all of them with "".
pub fn metric(ringlb: &Ringlb, name: &str, label: &str) -> f64 {
    let fits = |series: &str| series.split('{').next() == Some(name) && series.contains(label);
    Scrape::of(ringlb).series.iter().filter(|(series, _)| fits(series)).map(|(_, number)| number).sum()
}

/// Scrapes until `wanted` gives something: the client sees the end of its session before the worker has counted it.
pub fn scrape_until<T>(ringlb: &Ringlb, what: &str, wanted: impl Fn(&Scrape) -> Option<T>) -> (Scrape, T) {
    until(what, || {
        let scrape = Scrape::of(ringlb);
        let found = wanted(&scrape)?;
        Some((scrape, found))
    })
}
