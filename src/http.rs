//! Serves an axum router over HTTP/1 with limits: on clients, on the header's size and time, on a connection's life.
//!
//! `axum::serve` has none of them: it holds partial requests for ever and lets clients who do not read pile up answers.

use std::io;
use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::limits::{HTTP_ACCEPT_PAUSE, HTTP_BUFFER_BYTES, HTTP_CLIENTS_MAX, HTTP_CONNECTION_MAX, HTTP_HEADER_MAX};

/// Serves `router` on `listener` until the task is dropped. Clients beyond the limit wait in the backlog.
pub async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(HTTP_CLIENTS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let _place = place;
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HTTP_HEADER_MAX)
                .max_buf_size(HTTP_BUFFER_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            match timeout(HTTP_CONNECTION_MAX, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "an HTTP client was let go"),
                Err(_) => tracing::debug!("an HTTP client took too long and was let go"),
            }
        });
    }
}

/// Out of descriptors, the next accept would fail at once and burn a CPU.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "cannot accept an HTTP client; trying again");
    sleep(HTTP_ACCEPT_PAUSE).await;
}
