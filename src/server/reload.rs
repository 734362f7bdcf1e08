//! A reload, as far as it is the main thread's: sockets, and what the workers are told of them.
//!
//! What may be refused comes first: sockets for new addresses, then the pools. From then on nothing fails. An address that
//! stays keeps its sockets and those who wait in their queues, also where it goes from one listener to another.

use std::collections::HashMap;

use tokio::sync::oneshot;

use crate::config::{Config, Listener};
use crate::control::reload::{Order, Outcome, Refused, Settled};
use crate::control::rosters::Mode;
use crate::engine::handover::HandedOver;
use crate::engine::listener::ListenError;
use crate::server::Fleet;
use crate::server::admin::facts;
use crate::server::bind::{Bound, Doors, bind_one, options, try_sources};
use crate::server::capacity::connections_max;
use crate::server::setup::{Shared, Terms};
use crate::worker::clock;
use crate::worker::doors::ListenerList;
use crate::worker::mailbox::{Command, Mailbox};

/// The sockets that follow, in the order of the configuration.
struct Rebound<'c>(Vec<(&'c Listener, Place)>);

enum Place {
    /// The one of this door.
    Kept(u64),
    New(Bound),
}

impl Fleet {
    /// Does it, and says what has come of it.
    pub(super) fn reload(&mut self, order: Order) {
        let done = match self.is_stopping {
            true => Err(Refused::Stopping),
            false => self.change(*order.config, order.mode),
        };
        if order.reply.send(done).is_err() {
            tracing::debug!("whoever has asked for a reload has gone");
        }
    }

    fn change(&mut self, next: Config, mode: Mode) -> Result<(Outcome, Vec<Settled>), Refused> {
        let differences = self.plan.config.differences(&next);
        let rosters = self.plan.rosters.clone();
        let reload = |next: &Config| Ok::<_, Refused>(rosters.reload(next.pools(), mode, clock::now())?);
        if mode.plan_only {
            return Ok((Outcome::new(differences, reload(&next)?), Vec::new()));
        }
        if !differences.restart.is_empty() {
            return Err(Refused::NeedsRestart(differences.restart));
        }
        try_sources(&next).map_err(|error| Refused::Address(error.to_string()))?;
        let rebound = Rebound::new(&self.listeners, &next, self.plan.desks.len(), &mut self.doors);
        let rebound = rebound.map_err(|error| Refused::Address(error.to_string()))?;
        match reload(&next) {
            Ok(pools) => {
                let (listeners, gone) = self.take_over(rebound, &next);
                let workers = self.apply(next, listeners, &gone);
                Ok((Outcome::new(differences, pools), workers))
            }
            Err(refused) => {
                rebound.undo();
                Err(refused)
            }
        }
    }

    /// Gives the sockets that are kept to their listeners; the second are those of nobody any more.
    fn take_over(&mut self, rebound: Rebound<'_>, next: &Config) -> (Vec<Bound>, Vec<Bound>) {
        let mut before: HashMap<u64, Bound> = self.listeners.drain(..).map(|bound| (bound.door, bound)).collect();
        let old = &self.plan.config;
        let find = |name: &str| old.listeners().iter().find(|listener| listener.name == name);
        let mut bound = Vec::with_capacity(rebound.0.len());
        for (listener, place) in rebound.0 {
            let mut kept = match place {
                Place::New(new) => {
                    tracing::info!(listener = listener.name, address = %new.listening.address(), "listening");
                    bound.push(new);
                    continue;
                }
                Place::Kept(door) => match before.remove(&door) {
                    Some(kept) => kept,
                    None => unreachable!("a socket was given away twice"),
                },
            };
            let was = find(&kept.name);
            let terms = was.and_then(|was| Terms::new(old, was));
            if terms != Terms::new(next, listener) {
                kept.door = self.doors.next();
            }
            let workers = self.plan.desks.len();
            if was.is_none_or(|was| options(was, workers) != options(listener, workers))
                && let Err(errno) = kept.listening.retune(&options(listener, workers))
            {
                let address = kept.listening.address();
                tracing::error!(%address, %errno, "`backlog` and `keepalive` stay as they were");
            }
            kept.name.clone_from(&listener.name);
            bound.push(kept);
        }
        for gone in before.values() {
            tracing::info!(listener = gone.name, address = %gone.listening.address(), "not listening any more");
            gone.listening.remove_file();
        }
        (bound, before.into_values().collect())
    }

    /// Makes it what is. Nothing of this can fail. Gives where each worker says that it serves nobody any more as it was.
    fn apply(&mut self, next: Config, listeners: Vec<Bound>, gone: &[Bound]) -> Vec<Settled> {
        // Each worker holds these sockets until it has emptied their queues.
        let workers = self.plan.desks.len();
        let mut gone: Vec<_> = (0..workers).map(|number| self.plan.listeners(number, gone)).collect();
        let old = std::mem::replace(&mut self.plan.config, next);
        let plan = &mut self.plan;
        let next = &plan.config;
        let mut before = std::mem::take(&mut plan.shared);
        for listener in next.listeners() {
            let was = old.listeners().iter().find(|was| was.name == listener.name);
            let shared = match (before.remove(&listener.name), was) {
                (Some(mut shared), Some(was)) => {
                    shared.told(was, listener);
                    shared
                }
                // It may have left with sessions, and come back.
                _ => match self.control.facts.listeners.find(&listener.name) {
                    Some(left) => Shared::at(left.gate, listener),
                    None => Shared::new(listener),
                },
            };
            plan.shared.insert(listener.name.clone(), shared);
        }
        self.listeners = listeners;
        let max = connections_max(next, &self.listeners, plan.desks.len(), plan.descriptors);
        plan.process.set_max(max);
        plan.lists += 1;
        plan.count_crowd(&self.listeners);
        if old.log() != next.log() {
            (self.on_log)(next.log());
        }
        self.control.facts.listeners.set(facts(&self.plan, &self.listeners));
        let mut tell = |(number, mailbox): (usize, &Mailbox)| {
            let (reply, settled) = oneshot::channel();
            let listeners = self.plan.listeners(number, &self.listeners);
            let gone = std::mem::take(&mut gone[number]);
            mailbox.send(Command::Listeners(ListenerList { number: self.plan.lists, listeners, gone }, reply));
            settled
        };
        self.plan.mailboxes().enumerate().map(&mut tell).collect()
    }
}

impl<'c> Rebound<'c> {
    /// Finds the sockets that stay, and opens the others.
    ///
    /// # Errors
    /// An address that cannot be listened on; then none of the others is any more.
    fn new(before: &[Bound], next: &'c Config, workers: usize, doors: &mut Doors) -> Result<Rebound<'c>, ListenError> {
        let binds =
            || next.listeners().iter().flat_map(|listener| listener.bind.iter().map(move |bind| (listener, bind)));
        let mut free: Vec<&[Bound]> = before.chunk_by(|one, other| one.group == other.group).collect();
        let mut take = |found: &dyn Fn(&Bound) -> bool| {
            free.iter().position(|group| found(&group[0])).map(|number| free.remove(number))
        };
        // Those that keep their listener come first: two listeners may both have any free port.
        let kept: Vec<Option<&[Bound]>> =
            binds().map(|(listener, bind)| take(&|bound| bound.bind == *bind && bound.name == listener.name)).collect();
        let mut rebound = Rebound(Vec::new());
        for ((listener, bind), kept) in binds().zip(kept) {
            if let Some(group) = kept.or_else(|| take(&|bound| bound.bind == *bind)) {
                rebound.0.extend(group.iter().map(|bound| (listener, Place::Kept(bound.door))));
                continue;
            }
            match bind_one((listener, bind), workers, doors, &mut HandedOver::default()) {
                Ok(new) => rebound.0.extend(new.into_iter().map(|new| (listener, Place::New(new)))),
                Err(error) => {
                    rebound.undo();
                    return Err(error);
                }
            }
        }
        Ok(rebound)
    }

    /// Nothing comes of it.
    fn undo(self) {
        for (_, place) in self.0 {
            if let Place::New(bound) = place {
                bound.listening.remove_file();
            }
        }
    }
}
