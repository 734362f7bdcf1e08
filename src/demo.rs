//! The three small HTTP backends of `ringlb demo`.

use std::net::{Ipv4Addr, SocketAddr};
use std::{io, thread};

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::http;

/// Their names; each answers with its own.
pub const NAMES: [&str; 3] = ["ada", "grace", "linus"];

/// Starts the backends on free ports of 127.0.0.1, on a thread of their own, and says where. They run until the process ends.
///
/// # Errors
/// Where a socket, the runtime or the thread cannot be had.
pub fn start() -> io::Result<Vec<(&'static str, SocketAddr)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut backends = Vec::new();
    for name in NAMES {
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        backends.push((name, listener.local_addr()?));
        runtime.spawn(http::serve(listener, router(name)));
    }
    thread::Builder::new().name("ringlb-demo".into()).spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(backends)
}

fn router(name: &'static str) -> Router {
    let answer = move || async move { format!("hello from {name}\n") };
    Router::new().route("/", get(answer)).fallback(get(answer))
}
