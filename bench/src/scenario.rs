//! What is measured, as it is written on the command line.

use std::fmt;
use std::str::FromStr;

use crate::load::{Direction, Life};
use crate::peers::Tuning;

/// How the words of [`Scenario`] are built; for error messages and `--help`.
pub const GRAMMAR: &str = "request:CONNECTIONSxBYTES, connect:CONNECTIONSxBYTES (the client closes), \
    connect-server:CONNECTIONSxBYTES (the backend closes), open:CONNECTIONSxBYTES@PERCENT% (of the peer's own most), \
    @PERCENT%slowest (of the most of the slowest peer: the same for all) or @RATE (a second), bulk-up:FLOWS, bulk-down:FLOWS, bulk-both:FLOWS, idle:CONNECTIONS, spike:CONNECTIONS, \
    balance:CONNECTIONS; BYTES may end in KiB, and each scenario in /BACKENDS (instead of --backends)";

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scenario {
    /// What goes through the proxy.
    pub traffic: Traffic,
    /// Backends behind it; as many as elsewhere, if absent.
    pub backends: Option<usize>,
}

/// What goes through the proxy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Traffic {
    /// Requests and answers in a closed loop.
    Exchange {
        /// Clients.
        connections: usize,
        /// Bytes of a request, and of its answer.
        size: usize,
        /// How long a connection lives.
        life: Life,
    },
    /// Requests and answers at a given rate, on held connections.
    Open {
        /// Clients.
        connections: usize,
        /// Bytes of a request, and of its answer.
        size: usize,
        /// How many.
        rate: Rate,
    },
    /// As many bytes as go through.
    Bulk {
        /// Connections.
        flows: usize,
        /// Which way.
        direction: Direction,
    },
    /// Memory of connections at rest.
    Idle {
        /// Connections.
        connections: usize,
    },
    /// Memory before, with and after many connections at work.
    Spike {
        /// Connections.
        connections: usize,
    },
    /// How held connections are spread over the workers.
    Balance {
        /// Connections.
        connections: usize,
    },
}

/// The rate of an open loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Percent of the most that the same peer did in a closed loop.
    Percent(f64),
    /// Percent of the most that the slowest peer did: the same rate for all.
    PercentOfSlowest(f64),
    /// Operations a second.
    PerSecond(f64),
}

impl Scenario {
    /// Client connections at a time.
    pub fn connections(&self) -> usize {
        match self.traffic {
            Traffic::Exchange { connections, .. }
            | Traffic::Open { connections, .. }
            | Traffic::Idle { connections }
            | Traffic::Spike { connections }
            | Traffic::Balance { connections }
            | Traffic::Bulk { flows: connections, .. } => connections,
        }
    }

    /// Addresses a proxy listens on: several where each request uses up a port for some time.
    pub fn listeners(&self) -> usize {
        match self.traffic {
            Traffic::Exchange { life: Life::ClientCloses | Life::ServerCloses, .. } => 4,
            _ => 1,
        }
    }

    /// Workers of a proxy, of which `wanted` are asked for: spreading takes two.
    pub fn workers(&self, wanted: usize) -> usize {
        if matches!(self.traffic, Traffic::Balance { .. }) { wanted.max(2) } else { wanted }
    }

    /// What peers' buffers are set for.
    pub fn tuning(&self) -> Tuning {
        match self.traffic {
            Traffic::Exchange { .. } | Traffic::Open { .. } | Traffic::Spike { .. } => Tuning::Messages,
            Traffic::Bulk { .. } => Tuning::Bulk,
            Traffic::Idle { .. } | Traffic::Balance { .. } => Tuning::Memory,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.traffic)?;
        self.backends.map_or(Ok(()), |backends| write!(f, "/{backends}"))
    }
}

impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Traffic::Exchange { connections, size, life } => {
                let name = match life {
                    Life::Held => "request",
                    Life::ClientCloses => "connect",
                    Life::ServerCloses => "connect-server",
                };
                write!(f, "{name}:{connections}x{}", Bytes(*size))
            }
            Traffic::Open { connections, size, rate } => match rate {
                Rate::Percent(percent) => write!(f, "open:{connections}x{}@{percent}%", Bytes(*size)),
                Rate::PercentOfSlowest(percent) => {
                    write!(f, "open:{connections}x{}@{percent}%slowest", Bytes(*size))
                }
                Rate::PerSecond(rate) => write!(f, "open:{connections}x{}@{rate}", Bytes(*size)),
            },
            Traffic::Bulk { flows, direction } => {
                let name = match direction {
                    Direction::Up => "bulk-up",
                    Direction::Down => "bulk-down",
                    Direction::Both => "bulk-both",
                };
                write!(f, "{name}:{flows}")
            }
            Traffic::Idle { connections } => write!(f, "idle:{connections}"),
            Traffic::Spike { connections } => write!(f, "spike:{connections}"),
            Traffic::Balance { connections } => write!(f, "balance:{connections}"),
        }
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Scenario, String> {
        let wrong = || format!("{text:?} is not a scenario; write {GRAMMAR}");
        let (traffic, backends) = match text.split_once('/') {
            Some((traffic, backends)) => (traffic, Some(backends)),
            None => (text, None),
        };
        let backends = backends.map(|backends| number(backends, 0).ok_or_else(wrong)).transpose()?;
        Ok(Scenario { traffic: traffic_of(traffic).ok_or_else(wrong)?, backends })
    }
}

fn traffic_of(text: &str) -> Option<Traffic> {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    let exchange = |life| pair(rest).map(|(connections, size)| Traffic::Exchange { connections, size, life });
    let bulk = |direction| number(rest, 4).map(|flows| Traffic::Bulk { flows, direction });
    match name {
        "request" => exchange(Life::Held),
        "connect" => exchange(Life::ClientCloses),
        "connect-server" => exchange(Life::ServerCloses),
        "open" => {
            let (shape, rate) = rest.split_once('@').unwrap_or((rest, "70%"));
            let (connections, size) = pair(shape)?;
            let rate = match rate.split_once('%') {
                Some((percent, "")) => Rate::Percent(positive(percent)?),
                Some((percent, "slowest")) => Rate::PercentOfSlowest(positive(percent)?),
                Some(_) => return None,
                None => Rate::PerSecond(positive(rate)?),
            };
            Some(Traffic::Open { connections, size, rate })
        }
        "bulk-up" => bulk(Direction::Up),
        "bulk-down" => bulk(Direction::Down),
        "bulk-both" => bulk(Direction::Both),
        "idle" => Some(Traffic::Idle { connections: number(rest, 1000)? }),
        "spike" => Some(Traffic::Spike { connections: number(rest, 1000)? }),
        "balance" => Some(Traffic::Balance { connections: number(rest, 1000)? }),
        _ => None,
    }
}

/// The longest message: what it takes at a thousand connections still fits in a small machine.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;

struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1024) { write!(f, "{}KiB", self.0 / 1024) } else { write!(f, "{}", self.0) }
    }
}

fn pair(text: &str) -> Option<(usize, usize)> {
    if text.is_empty() {
        return Some((64, 64));
    }
    let (connections, size) = text.split_once('x')?;
    let size = match size.strip_suffix("KiB") {
        Some(kib) => number(kib, 0)?.checked_mul(1024)?,
        None => number(size, 0)?,
    };
    Some((number(connections, 0)?, Some(size).filter(|size| *size <= MESSAGE_BYTES_MAX)?))
}

/// A positive number; `default` where nothing is written, and a default of 0 means that something has to be.
fn number(text: &str, default: usize) -> Option<usize> {
    let value = if text.is_empty() { default } else { text.parse().ok()? };
    Some(value).filter(|value| *value > 0)
}

fn positive(text: &str) -> Option<f64> {
    text.parse().ok().filter(|value: &f64| value.is_finite() && *value > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_written_as_they_are_read() {
        for text in [
            "request:1x64",
            "request:1000x16KiB",
            "connect:64x100",
            "connect-server:8x1KiB",
            "open:64x64@70%",
            "open:64x64@70%slowest",
            "open:64x64@20000",
            "bulk-up:4",
            "bulk-down:64",
            "bulk-both:1",
            "idle:5000",
            "spike:10000",
            "balance:8000",
            "connect:64x64/1000",
            "request:10x64/2",
        ] {
            let scenario: Scenario = text.parse().expect(text);
            assert_eq!(scenario.to_string(), text);
        }
    }

    #[test]
    fn a_bare_name_has_defaults() {
        assert_eq!("request".parse::<Scenario>().map(|s| s.to_string()), Ok("request:64x64".to_owned()));
        assert_eq!("idle".parse::<Scenario>().map(|s| s.to_string()), Ok("idle:1000".to_owned()));
        assert_eq!("open".parse::<Scenario>().map(|s| s.to_string()), Ok("open:64x64@70%".to_owned()));
    }

    #[test]
    fn nonsense_is_refused_with_the_grammar() {
        for text in [
            "",
            "requests",
            "request:0x64",
            "request:64",
            "request:ax64",
            "request:1x2MiB",
            "request:1x9000KiB",
            "open:1x1@-3",
            "open:1x1@nan",
            "open:1x1@70%fastest",
            "open:1x1@%slowest",
            "bulk-up:0",
            "idle:x",
            "spike:0",
            "request:1x64/",
            "request:1x64/0",
            "request:1x64/2/3",
            "/2",
        ] {
            let error = text.parse::<Scenario>().expect_err(text);
            assert!(error.contains("bulk-both:FLOWS"), "{error}");
        }
    }
}
