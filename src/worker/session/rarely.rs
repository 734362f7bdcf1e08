//! What a session needs only where something unusual is asked of it, or happens to it: most sessions do without, and then it
//! takes eight bytes of theirs.

use std::net::SocketAddr;

use crate::balance::{Backend, Ticket, Tried};
use crate::worker::clients::Place;
use crate::worker::log::Trace;

/// Nothing, or something of it.
#[derive(Debug, Default)]
pub(super) struct Rarely(Option<Box<Parts>>);

#[derive(Debug, Default)]
struct Parts {
    /// Where its route asks for it: who the client is.
    client: Option<SocketAddr>,
    /// Counts for its client, where clients are counted.
    place: Option<Place>,
    /// Its turn in the queue for a place.
    ticket: Option<Ticket>,
    /// The backends to which a connect has failed.
    tried: Option<Box<Tried>>,
    /// What the access log wants to know, where there is one.
    trace: Option<Box<Trace>>,
}

impl Rarely {
    /// What is known of a session that begins; `traced`: there is an access log.
    pub(super) fn new(client: Option<SocketAddr>, place: Option<Place>, traced: bool) -> Rarely {
        if client.is_none() && place.is_none() && !traced {
            return Rarely(None);
        }
        let trace = traced.then(Box::default);
        Rarely(Some(Box::new(Parts { client, place, trace, ..Parts::default() })))
    }

    /// Who the client is, where that was asked.
    pub(super) fn client(&self) -> Option<SocketAddr> {
        self.0.as_ref()?.client
    }

    /// A proxy has named its client.
    pub(super) fn name_client(&mut self, client: Option<SocketAddr>) {
        if client.is_some() || self.0.is_some() {
            self.parts().client = client;
        }
    }

    /// Counts for its client.
    pub(super) fn hold(&mut self, place: Option<Place>) {
        if place.is_some() || self.0.is_some() {
            self.parts().place = place;
        }
    }

    /// It waits for a place with a backend.
    pub(super) fn queue(&mut self, ticket: Ticket) {
        self.parts().ticket = Some(ticket);
    }

    /// It waits no longer.
    pub(super) fn leave_queue(&mut self) {
        if let Some(parts) = &mut self.0 {
            parts.ticket = None;
        }
    }

    /// The backends that it has tried; `None`: none.
    pub(super) fn tried(&self) -> Option<&Tried> {
        self.0.as_ref()?.tried.as_deref()
    }

    /// Whether there are some.
    #[cfg(test)]
    pub(super) fn has_tried(&self) -> bool {
        self.tried().is_some()
    }

    /// It has tried this one too.
    pub(super) fn note_tried(&mut self, backend: &Backend) {
        self.parts().tried.get_or_insert_default().insert(backend);
    }

    /// It is connected, and the others are of no interest any more.
    pub(super) fn forget_tried(&mut self) {
        let Some(parts) = &mut self.0 else { return };
        (parts.tried, parts.ticket) = (None, None);
        if parts.client.is_none() && parts.place.is_none() && parts.trace.is_none() {
            self.0 = None;
        }
    }

    /// What is noted for the access log.
    pub(super) fn trace(&mut self) -> Option<&mut Trace> {
        self.0.as_mut()?.trace.as_deref_mut()
    }

    /// The same, at the end.
    pub(super) fn take_trace(&mut self) -> Option<Box<Trace>> {
        self.0.as_mut()?.trace.take()
    }

    fn parts(&mut self) -> &mut Parts {
        self.0.get_or_insert_default()
    }
}
