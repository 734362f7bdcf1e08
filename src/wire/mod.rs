//! What travels on the wire before the clients' own bytes: parsers and writers. Pure: bytes in, bytes or values out.

pub mod proxy;
pub mod refusal;
