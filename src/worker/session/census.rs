//! Who is there: the sessions of a worker as others ask about them, a bounded part of them at a time.

use crate::address::Address;
use crate::engine::Engine;
use crate::limits::CENSUS_SLOTS;
use crate::relay::{Input, Kill, Side};
use crate::slots::Key;
use crate::time::Time;
use crate::worker::mailbox::{Found, Page, Question};

use super::Sessions;

impl<E: Engine> Sessions<E> {
    /// Answers from the slots behind the question's cursor, [`CENSUS_SLOTS`] at most, so that a worker with many sessions
    /// serves them between two such questions. `life` is the worker's.
    pub fn census(&mut self, engine: &mut E, question: &Question, life: u32, now: Time) -> Page {
        let (keys, mut next) = self.slots.window(question.from, CENSUS_SLOTS);
        let mut found = Vec::new();
        for key in keys {
            if found.len() == question.limit {
                next = Some(key.index());
                break;
            }
            found.extend(self.describe(engine, key, question, now));
        }
        Page { found, next, life }
    }

    /// Ends one session, and says whether it was there.
    pub fn kill_one(&mut self, engine: &mut E, key: Key, kill: Kill, now: Time) -> bool {
        let is_there = self.slots.get(key).is_some();
        self.input(engine, key, Input::Kill(kill), now);
        is_there
    }

    fn describe(&self, engine: &mut E, key: Key, question: &Question, now: Time) -> Option<Found> {
        let session = self.slots.get(key)?;
        let age = now.since(session.started);
        let route = &self.context.routes[usize::from(session.route)];
        let pool = route.chooser.pool().name();
        let backend = session.claim.as_ref().map(|claim| claim.backend().name());
        let wanted =
            |wanted: &Option<String>, is: Option<&str>| wanted.as_deref().is_none_or(|wanted| Some(wanted) == is);
        if !wanted(&question.pool, Some(pool)) || !wanted(&question.backend, backend) || age < question.older {
            return None;
        }
        let client = session.rarely.client().map(Address::Inet).or_else(|| {
            let socket = session.sockets[Side::Client as usize].as_ref()?;
            engine.addresses(socket).peer
        });
        Some(Found {
            key,
            listener: route.listener.clone(),
            pool: pool.to_owned(),
            client,
            backend: backend.map(str::to_owned),
            connected: session.connected,
            age,
            received: session.tally.received(),
        })
    }
}
