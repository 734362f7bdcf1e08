//! What happens, line by line, for as long as somebody listens.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Bytes, Frame};
use serde::Deserialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::control::news::now;
use crate::control::wire::Event;
use crate::http::Stay;
use crate::limits::EVENT_CLIENTS_MAX;

use super::Admin;
use super::answer::Refused;
use super::body::Query;

/// The query of the events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// So many of those before.
    #[serde(default)]
    past: usize,
    /// Whether those to come are wanted.
    follow: Option<bool>,
}

/// `GET /v1/events`
pub async fn follow(
    State(admin): State<Arc<Admin>>,
    Extension(stay): Extension<Stay>,
    Query(wish): Query<Wish>,
) -> Result<Response, Refused> {
    let (past, live) = admin.rosters.news().follow(wish.past);
    let place = admin.followers.clone().try_acquire_owned().map_err(|_| {
        let message = format!("{EVENT_CLIENTS_MAX} clients follow the events already");
        Refused::new(StatusCode::SERVICE_UNAVAILABLE, "too_many", message, "end one of them, or ask again later")
    })?;
    let (sender, lines) = channel(16);
    let live = wish.follow.unwrap_or(true).then_some(live);
    if live.is_some() {
        stay.without_end();
    }
    tokio::spawn(async move {
        let _place = place;
        write(&sender, past, live).await;
    });
    let mut response = Response::new(Body::new(Lines(lines)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

/// Writes until the reader has gone.
async fn write(sender: &Sender<Bytes>, past: Vec<Arc<Event>>, live: Option<broadcast::Receiver<Arc<Event>>>) {
    for event in past {
        if sender.send(line(&event)).await.is_err() {
            return;
        }
    }
    let Some(mut live) = live else { return };
    // So that whoever follows knows from when on nothing is missing.
    let mut next = Event { time: now(), event: "following".into(), message: "from here on".into(), ..Event::default() };
    loop {
        if sender.send(line(&next)).await.is_err() {
            return;
        }
        let heard = tokio::select! {
            heard = live.recv() => heard,
            () = sender.closed() => return,
        };
        next = match heard {
            Ok(event) => Event::clone(&event),
            Err(RecvError::Lagged(lost)) => Event {
                time: now(),
                event: "lost".into(),
                message: format!("{lost} events were lost: they came faster than they were read"),
                lost: Some(lost),
                ..Event::default()
            },
            Err(RecvError::Closed) => return,
        };
    }
}

fn line(event: &Event) -> Bytes {
    let mut line = serde_json::to_vec(event).unwrap_or_else(|error| unreachable!("an event that is no JSON: {error}"));
    line.push(b'\n');
    line.into()
}

/// A body that comes line by line.
struct Lines(Receiver<Bytes>);

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
