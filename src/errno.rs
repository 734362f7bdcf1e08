//! The kernel's error numbers, by name.

use std::fmt;

/// An error number of the kernel, always positive and below 4096.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Errno(u16);

macro_rules! names {
    ($($name:ident)*) => {
        impl Errno {
            $(
                #[doc = concat!("`", stringify!($name), "`")]
                pub const $name: Errno = Errno(libc::$name as u16);
            )*

            /// The symbolic name, as in `ECONNREFUSED`; `None` for one that ringlb never meets.
            pub const fn name(self) -> Option<&'static str> {
                match self.raw() {
                    $(libc::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

names! {
    EPERM ENOENT EINTR EIO ENXIO EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST ENODEV ENOTDIR EISDIR EINVAL
    ENFILE EMFILE ENOSPC EPIPE ENAMETOOLONG ENOSYS ELOOP ETIME EPROTO EOVERFLOW ENOTSOCK EDESTADDRREQ EMSGSIZE
    EPROTOTYPE EOPNOTSUPP EPROTONOSUPPORT EAFNOSUPPORT EADDRINUSE EADDRNOTAVAIL ENETDOWN ENETUNREACH
    ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN ESHUTDOWN ETIMEDOUT ECONNREFUSED
    EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ECANCELED
}

impl Errno {
    /// From a raw number, as in `errno` (positive) or in a completion's result (negative).
    pub const fn new(raw: i32) -> Errno {
        Errno(raw.unsigned_abs() as u16)
    }

    /// The raw positive number.
    pub const fn raw(self) -> i32 {
        self.0 as i32
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Errno {}

impl From<&std::io::Error> for Errno {
    /// An error without a number (made by a library, not by the kernel) becomes `EIO`.
    fn from(error: &std::io::Error) -> Errno {
        error.raw_os_error().map_or(Errno::EIO, Errno::new)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(error: rustix::io::Errno) -> Errno {
        Errno::new(error.raw_os_error())
    }
}

impl From<Errno> for std::io::Error {
    fn from(error: Errno) -> std::io::Error {
        std::io::Error::from_raw_os_error(error.raw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_signs() {
        assert_eq!(Errno::new(-libc::ECONNREFUSED), Errno::ECONNREFUSED);
        assert_eq!(Errno::ECONNREFUSED.to_string(), "ECONNREFUSED");
        assert_eq!(Errno::new(4242).to_string(), "errno 4242");
    }
}
