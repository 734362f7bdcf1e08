//! What of an overlay outlives the process, and how the next one takes it up.

use crate::config::backend::Backend;

use super::{EditError, Entry, Overlay, Resolved};

impl Overlay {
    /// What a restart must not lose: the file and what was made of it, without what looking up names has found. `None` where
    /// nothing was made of it.
    pub fn kept(&self) -> Option<Overlay> {
        let same = |entry: &Entry, file: &Backend| {
            entry.backend == *file && entry.lease.is_none() && entry.edits_of_addresses().is_empty()
        };
        let untouched =
            self.live.len() == self.file.len() && self.live.iter().zip(&self.file).all(|(live, file)| same(live, file));
        if untouched {
            return None;
        }
        let live = self.live.iter().map(|entry| Entry { addresses: entry.edited_addresses(), ..entry.clone() });
        Some(Overlay { file: self.file.clone(), live: live.collect() })
    }

    /// Takes up what an earlier process has kept, as a reload would: what has changed in the file since then is applied, and
    /// what was changed live stays.
    ///
    /// # Errors
    /// What follows would not be a set; then nothing has changed.
    pub fn restore(&mut self, kept: Overlay) -> Result<(), EditError> {
        kept.check()?;
        let mut restored = kept;
        restored.merge(self.file.clone());
        restored.check()?;
        *self = restored;
        Ok(())
    }
}

impl Entry {
    /// Of a host: the addresses that were told something else than it, or removed. The others come with the next look-up.
    fn edited_addresses(&self) -> Vec<Resolved> {
        let Some(named) = self.named() else { return Vec::new() };
        let as_told = |at: &Resolved| at.settings.address.inet().map(|inet| named.at(inet.ip()));
        let edited = self.addresses.iter().filter(|at| at.hidden || as_told(at).as_ref() != Some(&at.settings));
        edited.cloned().collect()
    }
}
