//! HTTP over the admin socket: one connection for each request.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::cli::Exit;
use crate::control::wire::{self, Failure};
use crate::limits::COMMAND_MAX;

/// What may stand in a part of a path as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Asks one ringlb.
pub struct Client {
    runtime: Runtime,
    socket: PathBuf,
}

/// An answer that is not a refusal.
pub struct Answer {
    /// Its body.
    pub text: String,
}

/// A name as a part of a path or query.
pub fn segment(name: &str) -> String {
    utf8_percent_encode(name, PLAIN).to_string()
}

impl Client {
    /// Will ask the one at `socket`, or else the first that answers at the usual places.
    ///
    /// # Errors
    /// None answers.
    pub fn new(socket: Option<&Path>) -> Result<Client, Exit> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Exit::Failed(format!("a runtime cannot be had: {error}")))?;
        let places = socket.map_or_else(wire::usual_sockets, |socket| vec![socket.to_owned()]);
        let mut refused: Option<(PathBuf, io::Error)> = None;
        for place in places {
            match std::os::unix::net::UnixStream::connect(&place) {
                Ok(_) => return Ok(Client { runtime, socket: place }),
                // What is there and does not answer says more than what is not there.
                Err(error) if refused.is_none() || error.kind() != ErrorKind::NotFound => {
                    refused = Some((place, error));
                }
                Err(_) => {}
            }
        }
        let (place, error) = refused.unwrap_or_else(|| unreachable!("there is a usual place"));
        Err(silent(&place, &error))
    }

    /// `GET`
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn get(&self, path: &str) -> Result<Answer, Exit> {
        self.send("GET", path, None::<&()>)
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// Nobody answers, or the answer is a refusal, whose words are shown.
    pub fn send(&self, method: &str, path: &str, body: Option<&impl Serialize>) -> Result<Answer, Exit> {
        let exchange = async {
            let (status, response) = self.begin(method, path, body).await?;
            let bytes = response.into_body().collect().await.map_err(|error| self.broken(&error))?.to_bytes();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if status.is_success() { Ok(Answer { text }) } else { Err(refusal(&text, status.as_u16())) }
        };
        let exchanged = self.runtime.block_on(async { timeout(COMMAND_MAX, exchange).await });
        exchanged.unwrap_or_else(|_| {
            let (place, most) = (self.socket.display(), COMMAND_MAX.as_secs());
            Err(Exit::Failed(format!("the ringlb at {place} has not answered within {most} s; look at its log")))
        })
    }

    /// `GET` of an answer that comes line by line, for as long as it lasts or `each` wants it.
    ///
    /// # Errors
    /// As [`Client::send`], and those of `each`.
    pub fn lines(&self, path: &str, mut each: impl FnMut(&str) -> Result<(), Exit>) -> Result<(), Exit> {
        self.runtime.block_on(async {
            let (status, response) = self.begin("GET", path, None::<&()>).await?;
            let mut body = response.into_body();
            let mut text = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| self.broken(&error))?;
                text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                while status.is_success()
                    && let Some(end) = text.iter().position(|byte| *byte == b'\n')
                {
                    let line: Vec<u8> = text.drain(..=end).collect();
                    each(String::from_utf8_lossy(&line[..end]).as_ref())?;
                }
            }
            let rest = String::from_utf8_lossy(&text);
            if status.is_success() { Ok(()) } else { Err(refusal(&rest, status.as_u16())) }
        })
    }

    async fn begin(
        &self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<(hyper::StatusCode, Response<Incoming>), Exit> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| silent(&self.socket, &error))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(&error))?;
        tokio::spawn(async move {
            // Whoever waits for the answer hears of it too.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the admin socket has ended");
            }
        });
        let body = body.map(serde_json::to_vec).transpose();
        let body = body.map_err(|error| Exit::Failed(format!("the request cannot be written: {error}")))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "ringlb")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| Exit::Failed(format!("the request cannot be written: {error}")))?;
        let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
        Ok((response.status(), response))
    }

    fn broken(&self, error: &hyper::Error) -> Exit {
        let place = self.socket.display();
        Exit::Failed(format!("the ringlb at {place} has broken off: {error}; look at its log"))
    }
}

impl Answer {
    /// What it says.
    ///
    /// # Errors
    /// Another version, or no ringlb at all.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Exit> {
        serde_json::from_str(&self.text).map_err(|error| {
            let what = "the answer is not what this version expects";
            Exit::Failed(format!("{what}: {error}; use the command of the version that is running"))
        })
    }
}

fn refusal(text: &str, status: u16) -> Exit {
    match serde_json::from_str::<Failure>(text) {
        // Several faults have a line or more each.
        Ok(Failure { error }) if error.message.contains('\n') => {
            Exit::Failed(format!("{}\n{}", error.message.trim_end(), error.hint))
        }
        Ok(Failure { error }) => Exit::Failed(format!("{}; {}", error.message, error.hint)),
        Err(_) => Exit::Failed(format!("the answer is {status}, and not in the form of ringlb; is it one?")),
    }
}

fn silent(place: &Path, error: &io::Error) -> Exit {
    let help = match error.kind() {
        ErrorKind::PermissionDenied => "this user may not use it: run this as its owner, or see `admin_mode`",
        ErrorKind::ConnectionRefused => "the one that made it has died; start it again",
        _ => "is it running? --admin PATH names another socket",
    };
    Exit::Failed(format!("no ringlb answers at {}: {error}; {help}", place.display()))
}
