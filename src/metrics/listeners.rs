//! What is counted of listeners: the control thread's side.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::balance::Pool;
use crate::histogram::Counts;
use crate::relay::CloseReason;

use super::cells::ListenerCells;
use super::labels::{Pause, Refusal};

/// What all workers have counted of all listeners.
#[derive(Debug, Default)]
pub(super) struct ListenerBooks {
    books: Vec<Book>,
    /// Of listeners whose pools are gone: their own sums must not go back either.
    carried: BTreeMap<String, ListenerTotals>,
    /// Of the pools of listeners that are gone: a pool's sum must not go back.
    gone: BTreeMap<Arc<str>, ListenerTotals>,
}

/// Of a listener while it was served by one pool.
#[derive(Debug)]
struct Book {
    name: String,
    pool: Arc<str>,
    cells: Vec<Arc<ListenerCells>>,
    /// What was in blocks that are freed.
    freed: ListenerTotals,
}

/// What one listener has counted, over all its sockets and workers.
#[derive(Clone, Debug)]
pub struct ListenerTotals {
    /// Clients that the kernel has handed over.
    pub accepted: u64,
    /// Clients turned away, by [`Refusal`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Sessions that have ended, by [`CloseReason::number`].
    pub closed: [u64; CloseReason::LABELS.len()],
    /// Sockets on which accepting pauses now.
    pub paused: u64,
    /// Pauses that have begun, by [`Pause`].
    pub pauses: [u64; Pause::ALL.len()],
    /// How long sessions lasted.
    pub session: Counts,
}

impl ListenerBooks {
    /// A block of a listener.
    pub(super) fn take(&mut self, name: String, pool: Arc<str>, cells: Arc<ListenerCells>) {
        match self.books.iter_mut().find(|book| book.name == name && book.pool == pool) {
            Some(book) => book.cells.push(cells),
            None => self.books.push(Book { name, pool, cells: vec![cells], freed: ListenerTotals::default() }),
        }
    }

    /// What each has counted, by its name.
    pub(super) fn totals(&self) -> BTreeMap<&str, ListenerTotals> {
        let mut listeners = BTreeMap::new();
        for book in &self.books {
            let totals: &mut ListenerTotals = listeners.entry(book.name.as_str()).or_default();
            totals.add(&book.freed);
            book.cells.iter().for_each(|cells| totals.add_cells(cells));
        }
        for (name, carried) in &self.carried {
            listeners.entry(name.as_str()).or_default().add(carried);
        }
        listeners
    }

    /// How many sessions of a pool's clients have ended so.
    pub(super) fn closed(&self, pool: &str, reason: CloseReason) -> u64 {
        let number = reason.number();
        let of_pool = self.books.iter().filter(|book| *book.pool == *pool);
        let counted = of_pool.map(|book| {
            let cells = book.cells.iter().map(|cells| cells.closed(number));
            book.freed.closed[number] + cells.sum::<u64>()
        });
        counted.sum::<u64>() + self.gone.get(pool).map_or(0, |gone| gone.closed[number])
    }

    /// How long the sessions of a pool's clients lasted that have ended.
    pub(super) fn sessions(&self, pool: &str) -> Counts {
        let mut counts = self.gone.get(pool).map_or_else(Counts::new, |gone| gone.session.clone());
        for book in self.books.iter().filter(|book| *book.pool == *pool) {
            counts.add(&book.freed.session);
            book.cells.iter().for_each(|cells| cells.session.add_to(&mut counts));
        }
        counts
    }

    /// Adds up the blocks that nobody else holds, and frees them; and what was kept of pools that are not among `pools`.
    pub(super) fn free_blocks(&mut self, pools: &[Arc<Pool>]) {
        for book in &mut self.books {
            let freed = &mut book.freed;
            book.cells.retain_mut(|cells| {
                // Succeeds only for the sole owner, and sees all that the others have written before they let go.
                if Arc::get_mut(cells).is_none() {
                    return true;
                }
                freed.add_cells(cells);
                false
            });
        }
        let is_there = |name: &str| pools.iter().any(|pool| pool.name() == name);
        for book in self.books.extract_if(.., |book| !is_there(&book.pool) && book.cells.is_empty()) {
            self.carried.entry(book.name).or_default().add(&book.freed);
        }
        self.gone.retain(|name, _| is_there(name));
    }

    /// Forgets those that are not there, as far as nobody counts for them any more.
    pub(super) fn forget(&mut self, is_there: impl Fn(&str) -> bool) {
        for book in self.books.extract_if(.., |book| !is_there(&book.name) && book.cells.is_empty()) {
            self.gone.entry(book.pool).or_default().add(&book.freed);
        }
        self.carried.retain(|name, _| is_there(name));
    }
}

impl ListenerTotals {
    fn add(&mut self, other: &ListenerTotals) {
        let ListenerTotals { accepted, refused, closed, paused, pauses, session } = other;
        self.accepted += accepted;
        self.refused.iter_mut().zip(refused).for_each(|(sum, count)| *sum += count);
        self.closed.iter_mut().zip(closed).for_each(|(sum, count)| *sum += count);
        self.paused += paused;
        self.pauses.iter_mut().zip(pauses).for_each(|(sum, count)| *sum += count);
        self.session.add(session);
    }

    fn add_cells(&mut self, cells: &ListenerCells) {
        for (number, sum) in self.closed.iter_mut().enumerate() {
            *sum += cells.closed(number);
        }
        for (sum, refusal) in self.refused.iter_mut().zip(Refusal::ALL) {
            *sum += cells.refused(refusal);
        }
        self.accepted += cells.accepted.get();
        self.paused += u64::from(cells.is_paused());
        for (sum, pause) in self.pauses.iter_mut().zip(Pause::ALL) {
            *sum += cells.pauses(pause);
        }
        cells.session.add_to(&mut self.session);
    }
}

impl Default for ListenerTotals {
    fn default() -> ListenerTotals {
        ListenerTotals {
            accepted: 0,
            refused: [0; Refusal::ALL.len()],
            closed: [0; CloseReason::LABELS.len()],
            paused: 0,
            pauses: [0; Pause::ALL.len()],
            session: Counts::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::balance::settings::PoolSettings;
    use crate::time::Time;

    #[test]
    fn what_a_closed_door_has_counted_stays_and_goes_with_its_listener_but_not_from_its_pool() {
        let pools = [Pool::new(PoolSettings::new("web"), Vec::new(), Time::ZERO).unwrap()];
        let mut books = ListenerBooks::default();
        let door = |books: &mut ListenerBooks, sessions: usize| {
            let cells = Arc::new(ListenerCells::default());
            books.take("front".into(), "web".into(), cells.clone());
            for _ in 0..sessions {
                cells.accepted.add(1);
                cells.close(CloseReason::NoBackend, Duration::from_secs(1));
            }
            cells
        };
        let counted = |books: &ListenerBooks| {
            let totals = books.totals().get("front").map_or(0, |totals| totals.accepted);
            (totals, books.closed("web", CloseReason::NoBackend), books.sessions("web").total())
        };
        let (first, second) = (door(&mut books, 3), door(&mut books, 2));
        drop(first);
        books.free_blocks(&pools);
        assert_eq!((books.books.len(), books.books[0].cells.len()), (1, 1), "one block is freed");
        assert_eq!(counted(&books), (5, 5, 5));
        books.forget(|_| false);
        assert_eq!(counted(&books), (5, 5, 5), "the other door has sessions yet");
        drop(second);
        books.free_blocks(&pools);
        books.forget(|_| false);
        assert_eq!(counted(&books), (0, 5, 5));
        books.free_blocks(&[]);
        assert_eq!(counted(&books), (0, 0, 0));
    }
}
