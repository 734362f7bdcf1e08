//! What the service manager hears while the process runs: that all is well, and how many sessions there are.

use std::time::Instant;

use crate::limits::STATUS_INTERVAL;
use crate::server::Fleet;
use crate::server::watch::{Look, Watch};
use crate::systemd;
use crate::worker::mailbox::Command;

/// The manager, where there is one.
pub(super) struct Manager {
    watch: Option<Watch>,
    /// What it was told last, and when it is to be told again.
    status: String,
    status_at: Instant,
}

impl Manager {
    /// Found in the environment; nobody, where nobody listens.
    pub(super) fn find(now: Instant) -> Option<Manager> {
        let watch = systemd::watchdog_interval().map(|timeout| Watch::new(timeout, now));
        systemd::is_listening().then(|| Manager { watch, status: String::new(), status_at: now })
    }

    /// When it is to hear something.
    pub(super) fn next(&self) -> Instant {
        self.watch.as_ref().map_or(self.status_at, |watch| watch.next().min(self.status_at))
    }

    /// The ping that threads which begin now have missed.
    pub(super) fn ping(&self) -> Option<u64> {
        self.watch.as_ref().map(Watch::ping)
    }
}

impl Fleet {
    /// Tells the manager what is due.
    pub(super) fn attend_manager(&mut self, now: Instant) {
        let Some(mut manager) = self.manager.take() else { return };
        if let Some(watch) = &mut manager.watch
            && let Look::Well { ping } = watch.look(now, |ping| self.has_answered(ping))
        {
            systemd::watchdog();
            self.control.pulse.ping(ping);
            self.tell(|| Command::Ping(ping));
        }
        if manager.status_at <= now {
            manager.status_at = now + STATUS_INTERVAL;
            let status = self.status();
            if manager.status != status {
                systemd::status(&status);
                manager.status = status;
            }
        }
        self.manager = Some(manager);
    }

    /// A line for people.
    pub(super) fn status(&self) -> String {
        let doing = if self.restarts.is_some() { "serving" } else { "draining" };
        let living = self.threads.iter().flatten().count();
        format!("{doing}: {} sessions, {living} workers", self.plan.process.active())
    }

    /// Threads that have ended, or wait to be started again, are not stuck: the main thread knows of them.
    fn has_answered(&self, ping: u64) -> bool {
        let workers = self.plan.desks.iter().zip(&self.threads);
        self.control.pulse.has_answered(ping)
            && workers.filter(|(_, thread)| thread.is_some()).all(|(desk, _)| desk.has_answered(ping))
    }
}
