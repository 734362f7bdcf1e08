//! What may be wrong with `trusted_proxies`: the proxies that a listener believes when they say whose connection it is.

use crate::config::fault::Problem;

/// Nobody is trusted where somebody must be.
pub fn nobody() -> Problem {
    Problem::new(
        "`accept_proxy_protocol` without `trusted_proxies`",
        "a header says who the client is, and whoever may send one may be anybody: nobody is trusted by default",
        "write the addresses of your proxies, as in `trusted_proxies = [\"10.0.0.0/8\"]`",
    )
}

/// Somebody is trusted with what is not asked for.
pub fn unused() -> Problem {
    Problem::new(
        "`trusted_proxies` without `accept_proxy_protocol`",
        "this listener expects no header, so nobody needs to be trusted with one",
        "write `accept_proxy_protocol = true`, or take the list out",
    )
}

/// Everybody is trusted.
pub fn everybody() -> Problem {
    Problem::new(
        "`trusted_proxies` trusts every address",
        "whoever reaches this listener can say that he is somebody else",
        "write the addresses of your proxies alone, unless a firewall lets nobody else through",
    )
}

/// A unix socket whose clients are not trusted.
pub fn no_unix() -> Problem {
    Problem::new(
        "none of `trusted_proxies` can be a client of this unix socket",
        "its clients have no address, so each of them would be closed",
        "add \"unix:\" to `trusted_proxies` to trust whoever may use its file",
    )
}
