//! The addresses that connections to backends come from: `source` of a pool.

use std::net::IpAddr;

use crate::address::Address;
use crate::config::backend::Target;
use crate::config::fault::Problem;
use crate::config::notation::quoted;

/// One address.
///
/// # Errors
/// Not an address, or none that a connection can come from.
pub fn source(text: &str) -> Result<IpAddr, Problem> {
    let help = "write an address of this host, as in \"10.0.0.5\" or \"2001:db8::5\"";
    let problem = |why: &str| Problem::new(format!("{} is no address to connect from", quoted(text)), why, help);
    let Ok(ip) = text.parse::<IpAddr>() else {
        return Err(problem(
            "an IPv4 or IPv6 address is expected, without a port: each connection gets one of its own",
        ));
    };
    if ip.is_unspecified() {
        return Err(problem("it stands for any address, and that is what the kernel chooses without this key"));
    }
    if ip.is_multicast() || ip == IpAddr::from([255; 4]) {
        return Err(problem("it stands for many hosts"));
    }
    if ip.to_canonical() != ip {
        let ip = ip.to_canonical();
        let help = format!("write \"{ip}\"");
        return Err(Problem {
            help,
            ..problem("it is an IPv4 address in the form of IPv6, from which no backend is reached")
        });
    }
    Ok(ip)
}

/// Whether any of these backends can be connected to from one of `sources`. Of a host name nobody knows yet.
pub fn is_of_use<'t>(sources: &[IpAddr], backends: impl IntoIterator<Item = &'t Target>) -> bool {
    let mut backends = backends.into_iter().peekable();
    backends.peek().is_none()
        || backends.any(|target| match target {
            Target::Address(Address::Inet(inet)) => sources.iter().any(|source| source.is_ipv4() == inet.is_ipv4()),
            Target::Address(Address::Unix(_)) => false,
            _ => true,
        })
}

/// None of the backends can be connected to from any of the addresses.
pub fn of_no_use() -> Problem {
    Problem::new(
        "no backend of this pool can be connected to from any `source`",
        "an IPv4 address reaches IPv4 backends and an IPv6 address IPv6 ones; for all others the kernel chooses",
        "write an address of the backends' family, or take `source` out",
    )
}

/// An address that stands there already.
pub fn twice(ip: IpAddr) -> Problem {
    Problem::new(
        format!("{} stands there already", quoted(&ip.to_string())),
        "the addresses are used in turn, and one address has no more ports for being named twice",
        "take one of the two out",
    )
}
