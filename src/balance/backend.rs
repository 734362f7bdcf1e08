//! One backend: what a snapshot says of it, and the numbers that belong to its name.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::cells::{Chunk, Row, Slot};
use super::gate;
use super::pool::Pool;
use super::queue::Queue;
use super::settings::{BackendSettings, State, Weight};
use super::tried::BackendId;
use super::word;
use crate::address::Address;
use crate::time::Time;

/// One backend as a snapshot knows it; its numbers are shared with every other snapshot of its name.
pub struct Backend {
    record: Arc<Record>,
    settings: BackendSettings,
    up: bool,
}

/// What belongs to a backend's name, whatever becomes of its settings. While any snapshot or claim holds the record,
/// the slot of its numbers is not given to another.
pub(super) struct Record {
    pub(super) id: BackendId,
    pub(super) slot: Slot,
    pub(super) chunk: Arc<Chunk>,
    /// Weak, because the pool's snapshot leads here.
    pub(super) pool: Weak<Pool>,
    /// The pool's, at hand for whoever gives a place back.
    pub(super) queue: Arc<Queue>,
}

/// What a backend is, in one word.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// It may serve.
    Ready,
    /// Told to take no new connections.
    Drain,
    /// As `Drain`, and not checked either.
    Maint,
    /// Its connects have failed.
    Ejected,
    /// Its active checks have failed.
    Down,
}

impl Standing {
    /// Every standing, in the order of the documentation.
    pub const ALL: &[Standing] =
        &[Standing::Ready, Standing::Drain, Standing::Maint, Standing::Ejected, Standing::Down];

    /// Its name in the API and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Standing::Ready => "ready",
            Standing::Drain => "drain",
            Standing::Maint => "maint",
            Standing::Ejected => "ejected",
            Standing::Down => "down",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Backend {
    pub(super) fn new(record: Arc<Record>, settings: BackendSettings, up: bool) -> Backend {
        Backend { record, settings, up }
    }

    /// Its name, unique in its pool.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.settings.address
    }

    /// Its share; 0: no new connections.
    pub fn weight(&self) -> Weight {
        self.settings.weight
    }

    /// All that it was told to be.
    pub fn settings(&self) -> &BackendSettings {
        &self.settings
    }

    /// Its identity within its pool, which outlives changes of its settings.
    pub fn id(&self) -> BackendId {
        self.record.id
    }

    /// Whether its active checks pass, or there are none.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// What it is. What its operator wants goes before what is known of it.
    pub fn standing(&self) -> Standing {
        match self.settings.state {
            State::Maint => Standing::Maint,
            State::Drain => Standing::Drain,
            State::Ready if !self.up => Standing::Down,
            State::Ready if self.is_ejected() => Standing::Ejected,
            State::Ready => Standing::Ready,
        }
    }

    /// Whether its connects have failed too often.
    pub fn is_ejected(&self) -> bool {
        !word::read(self.cell(|chunk| &chunk.words)).gate().is_open()
    }

    /// How long its ejection lasts yet; zero where it waits for a client that probes it. `None`: it is not ejected.
    pub fn ejected_for(&self, now: Time) -> Option<Duration> {
        let ejected = !word::read_acquire(self.cell(|chunk| &chunk.words)).gate().is_open();
        ejected.then(|| Time::from_nanos(self.number(|chunk| &chunk.until)).since(now))
    }

    /// Connections that hold a place with it at this moment, those being opened included.
    pub fn active(&self) -> u32 {
        word::read(self.cell(|chunk| &chunk.words)).active()
    }

    /// Connects that succeeded, since its name appeared.
    pub fn connected_total(&self) -> u64 {
        self.number(|chunk| &chunk.connected)
    }

    /// Connects that failed by its fault, since its name appeared.
    pub fn failed_total(&self) -> u64 {
        self.number(|chunk| &chunk.failed)
    }

    /// How often it was ejected, failed probes included, since its name appeared.
    pub fn ejections_total(&self) -> u64 {
        self.number(|chunk| &chunk.ejections)
    }

    /// Whether it could take connections, were it not ejected or full.
    pub(super) fn may_serve(&self) -> bool {
        self.settings.state == State::Ready && self.up && self.settings.weight.as_u32() > 0
    }

    pub(super) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// The record, for its sole owner.
    pub(super) fn record_mut(&mut self) -> Option<&mut Record> {
        Arc::get_mut(&mut self.record)
    }

    pub(super) fn cell(&self, row: impl Fn(&Chunk) -> &Row) -> &AtomicU64 {
        self.record.cell(row)
    }

    pub(super) fn gate(&self) -> gate::Cells<'_, AtomicU64> {
        self.record.chunk.gate(self.record.slot.cell())
    }

    fn number(&self, row: impl Fn(&Chunk) -> &Row) -> u64 {
        self.cell(row).load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Backend");
        debug.field("name", &self.name()).field("address", self.address()).field("weight", &self.weight());
        debug.field("standing", &self.standing()).field("active", &self.active()).finish()
    }
}

impl Record {
    pub(super) fn cell(&self, row: impl Fn(&Chunk) -> &Row) -> &AtomicU64 {
        row(&self.chunk).at(self.slot.cell())
    }

    /// Empties the cells for the next owner of the slot. Exclusive: nobody else holds the record, so no claim and no
    /// snapshot leads to the slot.
    pub(super) fn clear(&mut self) {
        debug_assert_eq!(word::read(self.cell(|chunk| &chunk.words)).active(), 0, "a place without a claim");
        self.chunk.clear(self.slot.cell());
    }
}
