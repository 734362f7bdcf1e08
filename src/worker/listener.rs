//! Accepting: one accept a listener and worker, which goes on by itself while there is room for all who may come, and takes
//! one client at a time near a limit.
//!
//! ```text
//! Armed -> Ended -> Armed                      it has ended: one client was taken, or the kernel had a cause
//!   |        '----> Pausing(until) -> Armed    descriptors or memory are short: no loop that fails at once
//!   |        '----> Resting(until) -> Armed    as many were accepted in this second as may be
//!   '-> Cancelling -> Full -> Armed            a limit is near, then reached
//!              '----> Stopped                  told to stop: the accept queue is emptied, then the socket let go
//! ```

use std::sync::Arc;

use crate::engine::{Engine, Event, OpKind, Owner, Role};
use crate::errno::Errno;
use crate::limits::ACCEPT_PAUSE;
use crate::metrics::Pause;
use crate::slots::Key;
use crate::time::Time;
use crate::worker::admission::Admission;
use crate::worker::news::{News, Reporter};

/// The role of a listener in an operation's tag; the slot's index is its number.
pub const ROLE: Role = Role(2);

/// One listener as one worker sees it. Its number is also that of the route of its clients.
pub struct Acceptor<S> {
    /// Its name in the configuration.
    name: String,
    owner: Owner,
    socket: Option<Arc<S>>,
    admission: Admission,
    state: State,
    stopping: bool,
    reporter: Reporter,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum State {
    Ended,
    Armed {
        /// It goes on by itself.
        many: bool,
    },
    Cancelling,
    Pausing(Time),
    Resting(Time),
    Full,
    Stopped,
}

/// What the worker is to do with an event of a listener.
#[derive(Debug)]
pub enum Accepted<S> {
    /// Serve this client.
    Client(S),
    /// Nothing.
    Nothing,
}

impl<S> Acceptor<S> {
    /// Listener number `number`, called `name`; the first [`Acceptor::turn`] arms it. `reporter` is told when it pauses.
    pub const fn new(
        number: u16,
        name: String,
        socket: Arc<S>,
        admission: Admission,
        reporter: Reporter,
    ) -> Acceptor<S> {
        let owner = Owner { key: Key::new(number as u32, 0), role: ROLE };
        Acceptor { name, owner, socket: Some(socket), admission, state: State::Ended, stopping: false, reporter }
    }

    /// The limits that its sessions count against.
    pub const fn admission(&self) -> &Admission {
        &self.admission
    }

    /// The socket that it accepts on, until it has let that go.
    pub const fn socket(&self) -> Option<&Arc<S>> {
        self.socket.as_ref()
    }

    /// Whether it is told to stop.
    pub const fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether it has let its socket go.
    pub fn is_stopped(&self) -> bool {
        self.state == State::Stopped
    }

    /// Why it does not accept now, where it would like to.
    pub const fn pause(&self) -> Option<Pause> {
        match self.state {
            State::Full => Some(Pause::Limit),
            State::Pausing(_) => Some(Pause::Resources),
            State::Resting(_) => Some(Pause::Rate),
            State::Ended | State::Armed { .. } | State::Cancelling | State::Stopped => None,
        }
    }

    /// When it wants a [`turn`](Acceptor::turn) although nothing has happened.
    pub const fn next_deadline(&self) -> Option<Time> {
        match self.state {
            State::Pausing(until) | State::Resting(until) => Some(until),
            _ => None,
        }
    }

    /// Handles an event of its accept.
    pub fn handle(&mut self, event: Event<S>, now: Time) -> Accepted<S> {
        match event {
            Event::Accepted { socket, more } => {
                if !more {
                    self.state = State::Ended;
                }
                Accepted::Client(socket)
            }
            Event::AcceptEnded(errno) => {
                self.state = self.after(errno, now);
                Accepted::Nothing
            }
            _ => unreachable!("a listener only accepts"),
        }
    }

    /// Goes on: arms, pauses, resumes, or stops. Call it once a turn, after the events.
    pub fn turn<E: Engine<Socket = S>>(&mut self, engine: &mut E, now: Time) {
        match self.state {
            State::Armed { many } if self.stopping || self.must_end(many, now) => {
                engine.cancel(self.owner, OpKind::Accept);
                self.state = State::Cancelling;
            }
            State::Pausing(until) | State::Resting(until) if now < until && !self.stopping => {}
            State::Full if self.admission.is_full() && !self.stopping => {}
            State::Ended | State::Pausing(_) | State::Resting(_) | State::Full => {
                if self.state == State::Full {
                    self.admission.wait_over();
                    self.reporter.tell(News::Resumed { listener: self.name.clone() });
                }
                // Whoever is told to stop while it pauses has nothing under way either.
                self.state = State::Ended;
                if self.stopping || self.wait_if_full() || self.rest_if_fast(now) {
                    return;
                }
                if let Some(socket) = &self.socket {
                    let many = !self.admission.is_tight(now);
                    if many {
                        engine.accept(self.owner, socket)
                    } else {
                        engine.accept_one(self.owner, socket)
                    }
                    self.state = State::Armed { many };
                }
            }
            State::Armed { .. } | State::Cancelling | State::Stopped => {}
        }
    }

    /// Begins to stop: no further client is taken from the kernel but those that are in the accept queue already.
    pub const fn stop(&mut self) {
        self.stopping = true;
    }

    /// When it is stopping and its accept is over: the socket, whose accept queue is to be emptied before it is dropped.
    pub fn take_stopped(&mut self) -> Option<Arc<S>> {
        if !self.stopping || self.state != State::Ended {
            return None;
        }
        self.state = State::Stopped;
        self.socket.take()
    }

    /// Waits for room if there is none, and says whether it does.
    fn wait_if_full(&mut self) -> bool {
        let Some((limit, max)) = self.admission.full_limit() else { return false };
        self.admission.wait();
        if !self.admission.is_full() {
            self.admission.wait_over();
            return false;
        }
        self.state = State::Full;
        self.reporter.tell(News::Paused { listener: self.name.clone(), limit, max });
        true
    }

    /// Whether an accept that is under way may take too many.
    fn must_end(&self, many: bool, now: Time) -> bool {
        let limited = self.admission.is_full() || self.admission.rests_until(now).is_some();
        limited || many && self.admission.is_tight(now)
    }

    /// Rests where the rate is reached, and says whether it does.
    fn rest_if_fast(&mut self, now: Time) -> bool {
        let Some((until, bucket)) = self.admission.rests_until(now) else { return false };
        self.state = State::Resting(until);
        if bucket.wait(now) {
            let rate = bucket.rate();
            tracing::warn!(
                listener = self.name,
                rate = rate.per_second,
                burst = rate.burst,
                "accept_rate is reached: new clients wait in the backlog"
            );
        }
        true
    }

    fn after(&self, errno: Errno, now: Time) -> State {
        match errno {
            Errno::ECANCELED => State::Ended,
            // Troubles of one client, not of the listener.
            Errno::ECONNABORTED | Errno::EPROTO | Errno::EAGAIN | Errno::EINTR => State::Ended,
            errno => {
                tracing::warn!(
                    listener = self.name,
                    %errno,
                    "cannot accept: pausing for {} ms. {}",
                    ACCEPT_PAUSE.as_millis(),
                    cure(errno)
                );
                State::Pausing(now + ACCEPT_PAUSE)
            }
        }
    }
}

fn cure(errno: Errno) -> &'static str {
    match errno {
        Errno::EMFILE => "Raise the limit of open files (LimitNOFILE=, ulimit -n) or lower max_connections",
        Errno::ENFILE => "The whole system is out of open files: raise the sysctl fs.file-max",
        Errno::ENOMEM | Errno::ENOBUFS => "The system is out of memory for sockets",
        _ => "New clients wait in the backlog meanwhile",
    }
}
