//! One active check: a connection of its own, made, used and closed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::address::Address;
use crate::balance::failure::{Blame, judge};
use crate::config::health::{Check, Statuses};
use crate::engine::socket::bind_source;
use crate::errno::Errno;
use crate::limits::{CHECK_BODY_BYTES_MAX, CHECK_HEADER_BYTES_MAX};
use crate::wire::proxy::{self, Command, Endpoint, Version};

/// What is to be done, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// Where it connects.
    pub address: Address,
    /// What it does then.
    pub check: Check,
    /// What it says in `Host`, where the check does not say.
    pub host: String,
    /// The PROXY header that it begins with.
    pub header: Option<Version>,
    /// How long all of it may take.
    pub timeout: Duration,
    /// Where it may come from: what lets clients' connections pass may let no others. Empty: from anywhere.
    pub sources: Vec<IpAddr>,
}

/// What it has shown.
#[derive(Debug)]
pub enum Outcome {
    /// The backend is well.
    Passed,
    /// The backend is not well.
    Failed(Cause),
    /// This host or process could not ask: nothing is known about the backend.
    Ours(Errno),
}

/// Why a check failed, in words for the log.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The connection was not made.
    #[error("{}", words(*.0))]
    Connect(Errno),
    /// The connection was not made in time.
    #[error("no connection within {}", humantime::format_duration(*.0))]
    ConnectTimeout(Duration),
    /// It accepted, and said nothing or not enough.
    #[error("connected, but no answer within {}", humantime::format_duration(*.0))]
    AnswerTimeout(Duration),
    /// It closed the connection before its answer was whole.
    #[error("connected, but the connection was closed before an answer")]
    Closed,
    /// The connection broke before its answer was whole.
    #[error("connected, but then {}", words(*.0))]
    Broken(Errno),
    /// What it answered is not HTTP.
    #[error("no valid answer over HTTP/1.1: {0}")]
    Http(hyper::Error),
    /// It answered with another status.
    #[error("status {status}, and expected is {expected}")]
    Status {
        /// Its status.
        status: u16,
        /// What would have passed.
        expected: Statuses,
    },
}

impl Probe {
    /// Carries out the check. It ends within its timeout.
    pub async fn run(&self) -> Outcome {
        let deadline = Instant::now() + self.timeout;
        let connected = match &self.address {
            Address::Inet(to) => {
                timeout_at(deadline, connect_inet(*to, &self.sources)).await.map(|made| made.map(Stream::Inet))
            }
            Address::Unix(path) => {
                timeout_at(deadline, UnixStream::connect(path)).await.map(|made| made.map(Stream::Unix))
            }
        };
        match connected {
            Err(_) => Outcome::Failed(Cause::ConnectTimeout(self.timeout)),
            Ok(Err(error)) => {
                let errno = Errno::from(&error);
                match judge(errno.into(), self.address.is_unix()).blame {
                    Blame::Backend => Outcome::Failed(Cause::Connect(errno)),
                    Blame::Ours => Outcome::Ours(errno),
                }
            }
            Ok(Ok(Stream::Inet(stream))) => {
                let ends = stream.local_addr().and_then(|own| Ok((own, stream.peer_addr()?)));
                self.converse(stream, ends.ok(), deadline).await
            }
            Ok(Ok(Stream::Unix(stream))) => self.converse(stream, None, deadline).await,
        }
    }

    /// What comes after the connect, the same over every kind of socket. Dropping the stream closes it.
    async fn converse(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        ends: Option<(SocketAddr, SocketAddr)>,
        deadline: Instant,
    ) -> Outcome {
        if let Some(version) = self.header {
            match timeout_at(deadline, stream.write_all(&header(version, ends))).await {
                Err(_) => return Outcome::Failed(Cause::AnswerTimeout(self.timeout)),
                Ok(Err(error)) => return Outcome::Failed(Cause::Broken(Errno::from(&error))),
                Ok(Ok(())) => {}
            }
        }
        let Check::Http { path, expect, host } = &self.check else { return Outcome::Passed };
        // Dropped with this future, and then the connection ends too.
        let mut driver = JoinSet::new();
        let asked = timeout_at(deadline, ask(stream, path, self.host(host.as_ref()), &mut driver)).await;
        let response = match asked {
            Err(_) => return Outcome::Failed(Cause::AnswerTimeout(self.timeout)),
            Ok(Err(error)) if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => {
                return Outcome::Failed(Cause::Closed);
            }
            Ok(Err(error)) => return Outcome::Failed(broken(&error).map_or(Cause::Http(error), Cause::Broken)),
            Ok(Ok(response)) => response,
        };
        let status = response.status().as_u16();
        if timeout_at(deadline, discard(response)).await.is_err() {
            tracing::trace!(address = %self.address, "the body of a check's answer was cut: its time is over");
        }
        match expect.contains(status) {
            true => Outcome::Passed,
            false => Outcome::Failed(Cause::Status { status, expected: expect.clone() }),
        }
    }

    fn host(&self, told: Option<&HeaderValue>) -> HeaderValue {
        let own = || HeaderValue::try_from(&self.host).unwrap_or(HeaderValue::from_static("localhost"));
        told.cloned().unwrap_or_else(own)
    }
}

/// What a check says ahead of everything else: that it is made for nobody. Version 1 cannot say so, and names the ends of
/// the check's own connection.
fn header(version: Version, ends: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    let command = match (version, ends) {
        (Version::V1, Some((own, peer))) => {
            Command::Proxy { source: Endpoint::Inet(own), destination: Endpoint::Inet(peer) }
        }
        (Version::V1 | Version::V2, _) => Command::Local,
    };
    proxy::write(version, &command)
}

enum Stream {
    Inet(TcpStream),
    Unix(UnixStream),
}

async fn connect_inet(to: SocketAddr, sources: &[IpAddr]) -> io::Result<TcpStream> {
    let mut sources = sources.iter().filter(|source| source.is_ipv4() == to.is_ipv4());
    let mut source = sources.next();
    let stream = loop {
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        let bound = source.map_or(Ok(()), |source| bind_source(socket.as_fd(), *source));
        let made = match bound {
            Ok(()) => socket.connect(to).await,
            Err(errno) => Err(errno.into()),
        };
        match (made, sources.next()) {
            // No port is left there, or the host has lost that address.
            (Err(error), Some(next)) if Errno::from(&error) == Errno::EADDRNOTAVAIL => source = Some(next),
            (made, _) => break made?,
        }
    };
    // Where nobody listens on a port of this host that can be drawn for connections, a connect can draw that very port
    // and then meets itself.
    if stream.local_addr()? == to {
        return Err(Errno::ECONNREFUSED.into());
    }
    Ok(stream)
}

/// Asks over HTTP/1.1, on a connection that `driver` runs. Redirects are answers like others.
async fn ask(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    path: &PathAndQuery,
    host: HeaderValue,
    driver: &mut JoinSet<Result<(), hyper::Error>>,
) -> Result<Response<Incoming>, hyper::Error> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(CHECK_HEADER_BYTES_MAX);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
    driver.spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.clone().into();
    let headers = request.headers_mut();
    headers.insert(HOST, host);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("ringlb/", env!("CARGO_PKG_VERSION"))));
    sender.send_request(request).await
}

/// Reads the body as far as is polite: a server that is still writing is not reset by our close.
async fn discard(response: Response<Incoming>) {
    let mut body = response.into_body();
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > CHECK_BODY_BYTES_MAX {
            return;
        }
    }
}

/// The kernel's word, where that was what ended the connection.
fn broken(error: &hyper::Error) -> Option<Errno> {
    let source = std::error::Error::source(error)?;
    source.downcast_ref::<io::Error>().map(Errno::from)
}

fn words(errno: Errno) -> String {
    match errno {
        Errno::ECONNREFUSED => "connection refused".to_owned(),
        Errno::ECONNRESET => "connection reset".to_owned(),
        Errno::ETIMEDOUT => "the network gave no answer".to_owned(),
        Errno::EHOSTUNREACH => "no route to the host".to_owned(),
        Errno::ENOENT => "there is no such socket".to_owned(),
        Errno::EAGAIN => "its accept queue is full".to_owned(),
        errno => errno.to_string(),
    }
}
