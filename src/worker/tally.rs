//! What a session counts for the metrics. Its bytes are counted in the session itself, and added to its backend's block when
//! it has passed on some more of them ([`BYTES_UNREPORTED_MAX`]), when it has been quiet for a moment, and at the end.

use std::sync::Arc;

use crate::balance::Failure;
use crate::limits::BYTES_UNREPORTED_MAX;
use crate::metrics::BackendCells;
use crate::relay::Side;
use crate::time::Time;

/// A session's own numbers.
#[derive(Debug)]
pub struct Tally {
    /// Bytes received from each side, without the header of a proxy.
    received: [u64; 2],
    /// Bytes for the backend that its block does not count as sent yet: those that waited for it at the last report, and
    /// those that came since and were not thrown away. Few, because a report is due before long.
    unsent: u32,
    /// Bytes from the backend that are not in its block yet.
    unreported: u32,
    /// When the connect began, then when it succeeded; [`Time::NEVER`] once the backend has sent something.
    since: Time,
    /// The block of the backend that was chosen last.
    cells: Option<Arc<BackendCells>>,
}

impl Tally {
    /// Nothing yet, but so many bytes of our own that are queued for the backend.
    pub const fn new(queued: usize) -> Tally {
        Tally { received: [0; 2], unsent: queued as u32, unreported: 0, since: Time::ZERO, cells: None }
    }

    /// Bytes received from each side, without the header of a proxy.
    pub const fn received(&self) -> [u64; 2] {
        self.received
    }

    /// A backend was chosen, and is connected to.
    pub fn choose(&mut self, cells: Arc<BackendCells>, now: Time) {
        cells.attempts.add(1);
        self.cells = Some(cells);
        self.since = now;
    }

    /// It was in vain.
    pub fn fail(&mut self, failure: Failure) {
        if let Some(cells) = &self.cells {
            cells.fail(failure.into());
        }
    }

    /// The connect has succeeded.
    pub fn connected(&mut self, now: Time) {
        if let Some(cells) = &self.cells {
            cells.connected.add(1);
            cells.connect.record(now - self.since);
        }
        self.since = now;
    }

    /// Bytes have come. Says whether to [`report`](Tally::report).
    #[inline]
    pub const fn receive(&mut self, side: Side, bytes: usize) -> bool {
        let before = self.received[side as usize];
        let after = before + bytes as u64;
        self.received[side as usize] = after;
        match side {
            Side::Client => self.unsent += bytes as u32,
            Side::Backend => self.unreported += bytes as u32,
        }
        before == 0 || (before ^ after) >= BYTES_UNREPORTED_MAX
    }

    /// So many bytes of the client were the header of a proxy, and were taken away.
    pub const fn take_header(&mut self, bytes: usize) {
        self.received[Side::Client as usize] -= bytes as u64;
        self.unsent -= bytes as u32;
    }

    /// So many bytes of our own were queued for the backend.
    pub const fn queue(&mut self, bytes: usize) {
        self.unsent += bytes as u32;
    }

    /// Bytes of this side go nowhere.
    pub const fn discard(&mut self, side: Side, bytes: usize) {
        if matches!(side, Side::Client) {
            self.unsent -= bytes as u32;
        }
    }

    /// Adds to the backend's block what is not there yet. `queued`: bytes that wait for the backend.
    pub fn report(&mut self, queued: usize, now: Time) {
        let Some(cells) = &self.cells else { return };
        if self.unreported > 0 {
            cells.received.add(self.unreported.into());
            self.unreported = 0;
            if self.since != Time::NEVER {
                cells.first_byte.record(now - self.since);
                self.since = Time::NEVER;
            }
        }
        let queued = queued as u32;
        if self.unsent != queued {
            cells.sent.add((self.unsent - queued).into());
            self.unsent = queued;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use crate::histogram::Counts;

    #[test]
    fn what_was_sent_is_what_came_and_was_queued_less_what_waits_and_was_thrown_away() {
        let cells = Arc::new(BackendCells::default());
        // A header of 10 bytes of our own before the client's bytes, of which the first 7 are a header of its own.
        let mut tally = Tally::new(0);
        assert!(tally.receive(Side::Client, 107), "the first bytes of a side are reported");
        tally.take_header(7);
        tally.queue(10);
        tally.choose(cells.clone(), Time::ZERO);
        tally.report(110, Time::ZERO);
        assert_eq!(cells.sent.get(), 0, "nothing was sent yet");
        tally.connected(Time::from_millis(5));
        tally.report(30, Time::from_millis(5));
        assert_eq!(cells.sent.get(), 80);
        tally.receive(Side::Client, 1000);
        tally.discard(Side::Client, 1000);
        tally.discard(Side::Client, 30);
        tally.report(0, Time::from_millis(5));
        assert_eq!((cells.sent.get(), cells.received.get()), (80, 0));

        tally.receive(Side::Backend, 5);
        tally.report(0, Time::from_millis(12));
        tally.report(0, Time::from_millis(90));
        assert_eq!(cells.received.get(), 5);
        let seconds = |record: &dyn Fn(&mut Counts)| {
            let mut counts = Counts::new();
            record(&mut counts);
            (counts.total(), counts.sum_seconds())
        };
        assert_eq!(seconds(&|counts| cells.connect.add_to(counts)), (1, 0.005));
        assert_eq!(seconds(&|counts| cells.first_byte.add_to(counts)), (1, Duration::from_millis(7).as_secs_f64()));
    }

    #[test]
    fn a_report_is_due_at_the_first_bytes_and_whenever_enough_has_come() {
        let mut tally = Tally::new(0);
        let (mut reports, mut bytes) = (0, 0);
        while bytes < 10 * BYTES_UNREPORTED_MAX {
            reports += u32::from(tally.receive(Side::Client, 1000));
            bytes += 1000;
        }
        assert_eq!(reports, 1 + 10);
        assert!(tally.receive(Side::Backend, 1) && !tally.receive(Side::Backend, 1));
    }
}
