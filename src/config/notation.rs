//! The notation of addresses, the same in the file and on the command line.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::address::Address;
use crate::config::Bind;
use crate::config::backend::{Host, Target};
use crate::config::fault::Problem;
use crate::limits::{HOST_BYTES_MAX, HOST_LABEL_BYTES_MAX, UNIX_PATH_BYTES_MAX};

const EXAMPLES: &str = "write it as in \"127.0.0.1:80\", \"[::1]:80\" or \"unix:/run/app.sock\"";

/// Where name servers listen.
const DNS_PORT: u16 = 53;

/// Reads an address to accept clients on. Port 0 is any free one.
///
/// # Errors
/// What is wrong with the text.
pub fn bind(text: &str) -> Result<Bind, Problem> {
    match written(text)? {
        Written::Address(address) => Ok(Bind::Address(address)),
        Written::AllAddresses(port) => Ok(Bind::AllAddresses(port)),
        Written::Host(_) => Err(Problem::not_yet(
            format!("{} names a host, and a name to listen on", quoted(text)),
            "write the address itself, or \":port\" for all addresses of this machine",
        )),
    }
}

/// Reads an address to connect to, or a host and port.
///
/// # Errors
/// What is wrong with the text.
pub fn target(text: &str) -> Result<Target, Problem> {
    match written(text)? {
        Written::Address(Address::Inet(address)) if address.port() == 0 => Err(port_zero(text)),
        Written::Host(host) if host.port == 0 => Err(port_zero(text)),
        Written::Host(host) => Ok(Target::Host(host)),
        Written::Address(Address::Inet(address)) if address.ip().is_unspecified() => Err(Problem::new(
            format!("{} is the address of every interface", quoted(text)),
            "it can be listened on, but says nothing about whom to connect to",
            format!("for a backend on this machine write \"127.0.0.1:{0}\" or \"[::1]:{0}\"", address.port()),
        )),
        Written::Address(address) => Ok(address.into()),
        Written::AllAddresses(port) => Err(Problem::new(
            format!("{} names no host", quoted(text)),
            "without one it is every address of this machine, which can be listened on but not connected to",
            format!("for a backend on this machine write \"127.0.0.1:{port}\""),
        )),
    }
}

/// Reads the address of a name server; its port is 53 where none is written.
///
/// # Errors
/// What is wrong with the text.
pub fn name_server(text: &str) -> Result<SocketAddr, Problem> {
    let address = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT)).or_else(|_| text.parse());
    match address {
        Ok(address) if address.port() == 0 => Err(port_zero(text)),
        Ok(address) => Ok(address),
        Err(_) => Err(Problem::new(
            format!("{} is not the address of a name server", quoted(text)),
            "an IP address is expected, with a port where it is not 53; a name would have to be looked up itself",
            "write it as in \"127.0.0.53\", \"10.0.0.2:5353\" or \"[::1]:53\"",
        )),
    }
}

/// The text in quotes, cut where it is long, without characters that a terminal would obey.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = text.chars().take(SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    format!("\"{shown}\"")
}

enum Written {
    Address(Address),
    AllAddresses(u16),
    Host(Host),
}

fn written(text: &str) -> Result<Written, Problem> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix(text, path).map(Written::Address);
    }
    if let Some(digits) = text.strip_prefix(':')
        && !digits.contains(':')
    {
        return port(text, digits).map(Written::AllAddresses);
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return inet(text, address).map(Written::Address);
    }
    host(text)
}

fn unix(text: &str, path: &str) -> Result<Address, Problem> {
    let problem =
        |why: String, help: &str| Err(Problem::new(format!("{} is no unix address", quoted(text)), why, help));
    if !path.starts_with('/') {
        return problem(
            "its path does not begin with `/`, and the directory that a service is started in says nothing".to_owned(),
            "write the whole path, as in \"unix:/run/app.sock\"",
        );
    }
    if path.contains('\0') {
        return problem("its path contains a zero byte".to_owned(), "take that character out");
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        return problem(
            format!("its path has {} bytes, and the kernel takes {UNIX_PATH_BYTES_MAX}", path.len()),
            "put the socket into a directory with a shorter path",
        );
    }
    Ok(Address::Unix(PathBuf::from(path)))
}

fn port(text: &str, digits: &str) -> Result<u16, Problem> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(port) if all_digits => Ok(port),
        _ if all_digits => {
            let what = format!("{} has the port {digits}", quoted(text));
            Err(Problem::new(what, "ports end at 65535", "write a port from 0 to 65535"))
        }
        _ => {
            let what = format!("{} has no port number", quoted(text));
            Err(Problem::new(what, format!("{} is not a number", quoted(digits)), EXAMPLES))
        }
    }
}

fn inet(text: &str, address: SocketAddr) -> Result<Address, Problem> {
    if let IpAddr::V6(ip) = address.ip()
        && let Some(v4) = ip.to_ipv4_mapped()
    {
        return Err(Problem::new(
            format!("{} is an IPv4 address in the form of IPv6", quoted(text)),
            "IPv6 sockets of ringlb speak IPv6 only",
            format!("write \"{v4}:{}\"", address.port()),
        ));
    }
    Ok(Address::Inet(address))
}

/// What is left: a host with a port, or one of the ways to get an address wrong.
fn host(text: &str) -> Result<Written, Problem> {
    let problem = |why: &str, help: String| Err(Problem::new(format!("{} is no address", quoted(text)), why, help));
    if text.is_empty() {
        return problem("it is empty", EXAMPLES.to_owned());
    }
    if text.contains("://") {
        return problem("it is a URL, and what a connection carries is not looked at here", EXAMPLES.to_owned());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return problem("a number alone does not say whether it is a port", format!("for the port write \":{text}\""));
    }
    if text.starts_with('/') || text.starts_with("./") {
        return problem("a path needs `unix:` before it", format!("write {}", quoted(&format!("unix:{text}"))));
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let port = |ip: IpAddr| SocketAddr::new(ip, 80).to_string();
        return problem("it has no port", format!("write it with one, as in \"{}\"", port(ip)));
    }
    let Some((host, digits)) = text.rsplit_once(':') else {
        return problem("it has no port", format!("write it with one, as in {}", quoted(&format!("{text}:80"))));
    };
    let port = port(text, digits)?;
    if let Ok(ip) = host.parse::<Ipv6Addr>() {
        return problem(
            "an IPv6 address needs brackets, or its port could be a part of it",
            format!("write \"[{ip}]:{port}\""),
        );
    }
    if host.starts_with('[') || host.contains(':') {
        return problem("what stands in the brackets is no IPv6 address", EXAMPLES.to_owned());
    }
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && host.parse::<Ipv4Addr>().is_err() {
        return problem("an IPv4 address has four numbers from 0 to 255, without leading zeroes", EXAMPLES.to_owned());
    }
    if !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)) {
        return problem("a host name has letters, digits, `-`, `.` and `_` only", EXAMPLES.to_owned());
    }
    let fits = |label: &str| (1..=HOST_LABEL_BYTES_MAX).contains(&label.len());
    let relative = host.strip_suffix('.').unwrap_or(host);
    if relative.len() > HOST_BYTES_MAX || !relative.split('.').all(fits) {
        return problem(
            "between the dots of a host name stand 1 to 63 characters, and 253 in all",
            "check the name with `getent hosts NAME`".to_owned(),
        );
    }
    Ok(Written::Host(Host { name: host.to_ascii_lowercase(), port }))
}

fn port_zero(text: &str) -> Problem {
    let help = "write the port that is listened on there";
    Problem::new(format!("{} has port 0", quoted(text)), "nobody can be connected to on port 0", help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_bound() {
        let inet = |text: &str| Bind::Address(Address::Inet(text.parse().unwrap()));
        for text in ["127.0.0.1:80", "0.0.0.0:0", "[::]:8080", "[::1]:65535", "[fe80::1%2]:80"] {
            assert_eq!(bind(text), Ok(inet(text)), "{text}");
        }
        assert_eq!(bind(":80"), Ok(Bind::AllAddresses(80)));
        assert_eq!(bind("unix:/run/x.sock"), Ok(Bind::Address(Address::Unix("/run/x.sock".into()))));
        assert_eq!(bind(&format!("unix:/{}", "x".repeat(UNIX_PATH_BYTES_MAX - 1))).map(|_| ()), Ok(()));
    }

    #[test]
    fn what_can_be_connected_to() {
        assert_eq!(target("[::1]:80"), Ok(Address::Inet("[::1]:80".parse().unwrap()).into()));
        assert_eq!(target("unix:/x"), Ok(Address::Unix("/x".into()).into()));
        for text in ["web:80", "localhost:1", "a-b.example.:65535", "_x.y:80"] {
            let (name, port) = text.split_once(':').unwrap();
            let host = Host { name: name.into(), port: port.parse().unwrap() };
            assert_eq!(target(text), Ok(Target::Host(host)));
            assert_eq!(target(text).unwrap().to_string(), text);
        }
        assert_eq!(target("Web.Example:80"), target("web.example:80"));
    }

    #[test]
    fn what_can_be_asked_for_names() {
        for (text, address) in [
            ("10.0.0.1", "10.0.0.1:53"),
            ("::1", "[::1]:53"),
            ("[::1]:5", "[::1]:5"),
            ("127.0.0.1:5300", "127.0.0.1:5300"),
        ] {
            assert_eq!(name_server(text), Ok(address.parse().unwrap()), "{text}");
        }
        for text in ["ns:53", "", "10.0.0.1:", "10.0.0.1:0", "[::1]", "10.0.0.1:65536"] {
            assert!(name_server(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_wrong_address_says_what_why_and_what_to_do() {
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_BYTES_MAX));
        let long_name = format!("{}:80", ["x".repeat(50).as_str()].repeat(6).join("."));
        let wrong = [
            ("", "\"\" is no address: it is empty; write it as in"),
            (
                "80",
                "\"80\" is no address: a number alone does not say whether it is a port; for the port write \":80\"",
            ),
            (":", "\":\" has no port number: \"\" is not a number;"),
            (":+80", "\":+80\" has no port number: \"+80\" is not a number;"),
            (":65536", "\":65536\" has the port 65536: ports end at 65535; write a port from 0 to 65535"),
            ("127.0.0.1", "\"127.0.0.1\" is no address: it has no port; write it with one, as in \"127.0.0.1:80\""),
            ("::1", "\"::1\" is no address: it has no port; write it with one, as in \"[::1]:80\""),
            ("[::1]", "\"[::1]\" is no address: it has no port; write it with one, as in \"[::1]:80\""),
            ("fe80::x:80", "what stands in the brackets is no IPv6 address"),
            ("1::2:3::4:80", "what stands in the brackets is no IPv6 address"),
            ("[::g]:80", "what stands in the brackets is no IPv6 address"),
            ("127.0.0.256:80", "an IPv4 address has four numbers from 0 to 255"),
            ("127.0.0.01:80", "an IPv4 address has four numbers from 0 to 255, without leading zeroes"),
            ("[::ffff:1.2.3.4]:80", "IPv6 sockets of ringlb speak IPv6 only; write \"1.2.3.4:80\""),
            ("web", "\"web\" is no address: it has no port; write it with one, as in \"web:80\""),
            ("web:http", "\"web:http\" has no port number: \"http\" is not a number"),
            ("http://web:80", "it is a URL"),
            ("we b:80", "a host name has letters, digits, `-`, `.` and `_` only"),
            ("we..b:80", "between the dots of a host name stand 1 to 63 characters"),
            (long_name.as_str(), "between the dots of a host name stand 1 to 63 characters"),
            ("/run/x", "a path needs `unix:` before it; write \"unix:/run/x\""),
            ("unix:run/x", "its path does not begin with `/`"),
            ("unix:", "its path does not begin with `/`"),
            ("unix:/a\0b", "its path contains a zero byte"),
            (long.as_str(), "its path has 108 bytes, and the kernel takes 107"),
        ];
        for (text, expected) in wrong {
            for problem in [bind(text).unwrap_err(), target(text).unwrap_err()] {
                assert!(problem.to_string().contains(expected), "{text}: {problem}");
            }
        }
        for (text, expected) in [
            ("127.0.0.1:0", "nobody can be connected to on port 0"),
            ("0.0.0.0:80", "write \"127.0.0.1:80\" or \"[::1]:80\""),
            (":80", "\":80\" names no host"),
            ("web:0", "nobody can be connected to on port 0"),
        ] {
            let problem = target(text).unwrap_err();
            assert!(problem.to_string().contains(expected), "{text}: {problem}");
        }
        assert!(bind("web:80").unwrap_err().to_string().contains("is not yet served by this version"));
    }
}
