//! The PROXY protocol, versions 1 and 2: who a connection was really made by, told ahead of its bytes.
//!
//! [`parse`] reads the header at the front of what a trusted proxy has sent, and [`write()`] makes one for a backend.
//! The parser takes the specification (`proxy-protocol.txt` of HAProxy) by its letter and guesses nothing: what it
//! does not know it refuses. It is incremental: a prefix of a header is [`Parsed::Incomplete`], and what is
//! decided on a prefix stays decided whatever follows.

mod v1;
mod v2;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;

/// Bytes of a unix socket's name in a header: the whole of `sun_path`.
pub const UNIX_NAME_BYTES: usize = 108;

/// The longest header that [`write()`] makes: version 2 with two unix names.
pub const WRITTEN_BYTES_MAX: usize = v2::PREAMBLE_BYTES + 2 * UNIX_NAME_BYTES;

/// Which form a header has.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// What the front of a stream is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    Incomplete {
        /// The header has at least so many bytes in all, which is more than there are yet; parsing earlier again is
        /// idle.
        need: usize,
    },
    /// A header. What follows it are the client's bytes.
    Header(Header),
    /// Not a header, whatever follows.
    Invalid(Reason),
}

/// A complete header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// How many bytes it takes.
    pub bytes: usize,
    /// What it says.
    pub command: Command,
}

/// What a header says about its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The proxy speaks for itself, as in a health check: the connection's own ends count.
    Local,
    /// The proxy speaks for somebody whom the header cannot name (`UNKNOWN`, `UNSPEC`, a datagram): the connection's
    /// own ends count.
    Unknown,
    /// The proxy speaks for a client.
    Proxy {
        /// The client.
        source: Endpoint,
        /// Whom it has connected to.
        destination: Endpoint,
    },
}

/// One end of a proxied connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// An IP address and a port. Flow and scope of an IPv6 address do not travel.
    Inet(SocketAddr),
    /// A unix socket.
    Unix(Box<UnixName>),
}

/// The name of a unix socket as it travels: padded with zeros, all zeros where it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixName([u8; UNIX_NAME_BYTES]);

impl UnixName {
    /// The name of those bytes; `None` where they are more than [`UNIX_NAME_BYTES`].
    pub fn new(name: &[u8]) -> Option<UnixName> {
        let mut padded = [0; UNIX_NAME_BYTES];
        padded.get_mut(..name.len())?.copy_from_slice(name);
        Some(UnixName(padded))
    }

    /// The name with its padding.
    pub const fn as_bytes(&self) -> &[u8; UNIX_NAME_BYTES] {
        &self.0
    }
}

/// What is wrong with a header.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It begins like neither version.
    NoHeader,
    /// Version 1: the protocol is not `TCP4`, `TCP6` or `UNKNOWN`.
    V1Protocol,
    /// Version 1: the line is too long, or ends otherwise than with CR and LF.
    V1Line,
    /// Version 1: not four fields with one space between.
    V1Fields,
    /// Version 1: a field is not an address of the family.
    V1Address,
    /// Version 1: a field is not a port.
    V1Port,
    /// Version 2: a version that there is not.
    V2Version,
    /// Version 2: a command that there is not.
    V2Command,
    /// Version 2: an address family that there is not.
    V2Family,
    /// Version 2: a transport protocol that there is not.
    V2Protocol,
    /// Version 2: shorter than the addresses of its family.
    V2Short,
    /// Version 2: longer than [`PROXY_HEADER_BYTES_MAX`](crate::limits::PROXY_HEADER_BYTES_MAX).
    V2Long,
    /// Version 2: the extensions do not fill the header exactly, or one has an impossible length.
    V2Extensions,
    /// Version 2: the checksum is wrong.
    V2Checksum,
}

impl Reason {
    /// Every reason.
    pub const ALL: &[Reason] = &[
        Reason::NoHeader,
        Reason::V1Protocol,
        Reason::V1Line,
        Reason::V1Fields,
        Reason::V1Address,
        Reason::V1Port,
        Reason::V2Version,
        Reason::V2Command,
        Reason::V2Family,
        Reason::V2Protocol,
        Reason::V2Short,
        Reason::V2Long,
        Reason::V2Extensions,
        Reason::V2Checksum,
    ];

    /// The label of metrics and logs: one of a closed list.
    pub const fn label(self) -> &'static str {
        match self {
            Reason::NoHeader => "proxy_no_header",
            Reason::V1Protocol => "proxy_v1_protocol",
            Reason::V1Line => "proxy_v1_line",
            Reason::V1Fields => "proxy_v1_fields",
            Reason::V1Address => "proxy_v1_address",
            Reason::V1Port => "proxy_v1_port",
            Reason::V2Version => "proxy_v2_version",
            Reason::V2Command => "proxy_v2_command",
            Reason::V2Family => "proxy_v2_family",
            Reason::V2Protocol => "proxy_v2_protocol",
            Reason::V2Short => "proxy_v2_short",
            Reason::V2Long => "proxy_v2_long",
            Reason::V2Extensions => "proxy_v2_extensions",
            Reason::V2Checksum => "proxy_v2_checksum",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Reads the header at the front of a stream, of which `bytes` have arrived so far.
pub fn parse(bytes: &[u8]) -> Parsed {
    // The first byte tells the versions apart.
    match bytes.first() {
        None => Parsed::Incomplete { need: v1::LINE_BYTES_MIN },
        Some(first) if *first == v1::SIGNATURE[0] => v1::parse(bytes),
        Some(_) => v2::parse(bytes),
    }
}

/// Makes a header, to be sent before anything else.
///
/// Version 1 can name two IPv4 or two IPv6 addresses, and version 2 two unix sockets as well; for other pairs the
/// header says that the client is not known. Version 1 has no [`Command::Local`] and says the same for it: a probe
/// should rather name its own two ends.
pub fn write(version: Version, command: &Command) -> Vec<u8> {
    match version {
        Version::V1 => v1::write(command),
        Version::V2 => v2::write(command),
    }
}

/// Whether `bytes` begin with all of `prefix` (`Some(true)`), with less of it because they are too few (`Some(false)`), or
/// otherwise.
fn begins(bytes: &[u8], prefix: &[u8]) -> Option<bool> {
    let common = bytes.len().min(prefix.len());
    (bytes[..common] == prefix[..common]).then_some(common == prefix.len())
}
