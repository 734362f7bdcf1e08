//! What is measured, as it is written on the command line.

use std::fmt;
use std::str::FromStr;

use crate::load::{Direction, Life};
use crate::peers::Tuning;

/// How the words of [`Scenario`] are built; for error messages and `--help`.
pub const GRAMMAR: &str = "request:CONNECTIONSxBYTES, connect:CONNECTIONSxBYTES (the client closes), \
    connect-server:CONNECTIONSxBYTES (the backend closes), open:CONNECTIONSxBYTES@PERCENT% (of the peer's own most) \
    or @RATE (a second), bulk-up:FLOWS, bulk-down:FLOWS, bulk-both:FLOWS, idle:CONNECTIONS; BYTES may end in KiB";

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scenario {
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
}

/// The rate of an open loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Percent of the most that the same peer did in a closed loop.
    Percent(f64),
    /// Operations a second.
    PerSecond(f64),
}

impl Scenario {
    /// Client connections at a time.
    pub fn connections(&self) -> usize {
        match self {
            Scenario::Exchange { connections, .. }
            | Scenario::Open { connections, .. }
            | Scenario::Idle { connections }
            | Scenario::Bulk { flows: connections, .. } => *connections,
        }
    }

    /// Addresses a proxy listens on: several where each request uses up a port for some time.
    pub fn listeners(&self) -> usize {
        match self {
            Scenario::Exchange { life: Life::ClientCloses | Life::ServerCloses, .. } => 4,
            _ => 1,
        }
    }

    /// What peers' buffers are set for.
    pub fn tuning(&self) -> Tuning {
        match self {
            Scenario::Exchange { .. } | Scenario::Open { .. } => Tuning::Messages,
            Scenario::Bulk { .. } => Tuning::Bulk,
            Scenario::Idle { .. } => Tuning::Memory,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scenario::Exchange { connections, size, life } => {
                let name = match life {
                    Life::Held => "request",
                    Life::ClientCloses => "connect",
                    Life::ServerCloses => "connect-server",
                };
                write!(f, "{name}:{connections}x{}", Bytes(*size))
            }
            Scenario::Open { connections, size, rate } => match rate {
                Rate::Percent(percent) => write!(f, "open:{connections}x{}@{percent}%", Bytes(*size)),
                Rate::PerSecond(rate) => write!(f, "open:{connections}x{}@{rate}", Bytes(*size)),
            },
            Scenario::Bulk { flows, direction } => {
                let name = match direction {
                    Direction::Up => "bulk-up",
                    Direction::Down => "bulk-down",
                    Direction::Both => "bulk-both",
                };
                write!(f, "{name}:{flows}")
            }
            Scenario::Idle { connections } => write!(f, "idle:{connections}"),
        }
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Scenario, String> {
        let wrong = || format!("{text:?} is not a scenario; write {GRAMMAR}");
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let exchange = |life| {
            let (connections, size) = pair(rest).ok_or_else(wrong)?;
            Ok(Scenario::Exchange { connections, size, life })
        };
        let bulk = |direction| Ok(Scenario::Bulk { flows: number(rest, 4).ok_or_else(wrong)?, direction });
        match name {
            "request" => exchange(Life::Held),
            "connect" => exchange(Life::ClientCloses),
            "connect-server" => exchange(Life::ServerCloses),
            "open" => {
                let (shape, rate) = rest.split_once('@').unwrap_or((rest, "70%"));
                let (connections, size) = pair(shape).ok_or_else(wrong)?;
                let rate = match rate.strip_suffix('%') {
                    Some(percent) => Rate::Percent(positive(percent).ok_or_else(wrong)?),
                    None => Rate::PerSecond(positive(rate).ok_or_else(wrong)?),
                };
                Ok(Scenario::Open { connections, size, rate })
            }
            "bulk-up" => bulk(Direction::Up),
            "bulk-down" => bulk(Direction::Down),
            "bulk-both" => bulk(Direction::Both),
            "idle" => Ok(Scenario::Idle { connections: number(rest, 1000).ok_or_else(wrong)? }),
            _ => Err(wrong()),
        }
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
            "open:64x64@20000",
            "bulk-up:4",
            "bulk-down:64",
            "bulk-both:1",
            "idle:5000",
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
            "bulk-up:0",
            "idle:x",
        ] {
            let error = text.parse::<Scenario>().expect_err(text);
            assert!(error.contains("bulk-both:FLOWS"), "{error}");
        }
    }
}
