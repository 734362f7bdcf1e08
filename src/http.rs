//! Serves an axum router over HTTP/1 with limits: on clients, on the header's size and time, on a connection's life.
//!
//! `axum::serve` has none of them: it holds partial requests for ever and lets clients who do not read pile up answers.

use std::fmt;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use crate::limits::{HTTP_ACCEPT_PAUSE, HTTP_BUFFER_BYTES, HTTP_CLIENTS_MAX, HTTP_CONNECTION_MAX, HTTP_HEADER_MAX};

/// Who is at the other end of a unix socket, as the kernel knows it. Handlers find it among the request's extensions.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process; `None` where the kernel does not say.
    pub pid: Option<i32>,
}

/// As a log line names it.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "uid {}, pid {pid}", self.uid),
            None => write!(f, "uid {}", self.uid),
        }
    }
}

/// A connection's claim to be there. Handlers find it among the request's extensions.
#[derive(Clone, Debug)]
pub struct Stay {
    place: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    endless: Arc<AtomicBool>,
}

impl Stay {
    /// Lets the connection last as long as its answer, and gives its place to the next client. Whoever calls this limits
    /// such answers in another way.
    pub fn without_end(&self) {
        self.endless.store(true, Ordering::Relaxed);
        drop(self.place.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn is_without_end(&self) -> bool {
        self.endless.load(Ordering::Relaxed)
    }
}

/// Serves `router` on `listener` until the task is dropped. Clients beyond the limit wait in the backlog.
pub async fn serve(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(HTTP_CLIENTS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        let accepted = listener.accept().await;
        admit(accepted.map(|(stream, _)| (stream, None)), place, &router).await;
    }
}

/// As [`serve`], on a unix socket; requests have a [`Peer`] too.
pub async fn serve_unix(listener: UnixListener, router: Router) {
    let places = Arc::new(Semaphore::new(HTTP_CLIENTS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        let accepted = listener.accept().await.and_then(|(stream, _)| {
            let peer = stream.peer_cred()?;
            Ok((stream, Some(Peer { uid: peer.uid(), pid: peer.pid() })))
        });
        admit(accepted, place, &router).await;
    }
}

async fn admit<S>(accepted: io::Result<(S, Option<Peer>)>, place: OwnedSemaphorePermit, router: &Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match accepted {
        Ok((stream, peer)) => {
            tokio::spawn(converse(stream, peer, place, router.clone()));
        }
        Err(error) => pause_after(&error).await,
    }
}

async fn converse<S>(stream: S, peer: Option<Peer>, place: OwnedSemaphorePermit, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stay = Stay { place: Arc::new(Mutex::new(Some(place))), endless: Arc::default() };
    let mut router = router.layer(Extension(stay.clone()));
    if let Some(peer) = peer {
        router = router.layer(Extension(peer));
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HTTP_HEADER_MAX)
        .max_buf_size(HTTP_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let result = match timeout(HTTP_CONNECTION_MAX, connection.as_mut()).await {
        Err(_) if stay.is_without_end() => connection.await,
        Ok(result) => result,
        Err(_) => return tracing::debug!("an HTTP client took too long and was let go"),
    };
    if let Err(error) = result {
        tracing::debug!(%error, "an HTTP client was let go");
    }
}

/// Out of descriptors, the next accept would fail at once and burn a CPU.
async fn pause_after(error: &io::Error) {
    tracing::warn!(%error, "cannot accept an HTTP client; trying again");
    sleep(HTTP_ACCEPT_PAUSE).await;
}
