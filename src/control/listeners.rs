//! The listeners as they are now: the main thread says, and the admin API and the metrics show them.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::worker::admission::Gate;

/// All listeners.
#[derive(Debug, Default)]
pub struct Listeners(ArcSwap<Vec<ListenerFacts>>);

/// What is known of a listener.
#[derive(Clone, Debug)]
pub struct ListenerFacts {
    /// Its name.
    pub name: String,
    /// What is bound.
    pub addresses: Vec<String>,
    /// The name of its pool.
    pub pool: String,
    /// Its sessions.
    pub gate: Arc<Gate>,
    /// It is no longer in the configuration, and accepts nobody.
    pub leaving: bool,
}

impl Listeners {
    /// All of them, in the order of the configuration; then those that are leaving.
    pub fn all(&self) -> Arc<Vec<ListenerFacts>> {
        self.0.load_full()
    }

    /// The one of that name, which may be leaving.
    pub fn find(&self, name: &str) -> Option<ListenerFacts> {
        self.0.load().iter().find(|listener| listener.name == name).cloned()
    }

    /// Makes these the listeners. Those that were there before are leaving.
    pub fn set(&self, listeners: Vec<ListenerFacts>) {
        self.0.rcu(|before| {
            let mut all = listeners.clone();
            for gone in before.iter() {
                if !all.iter().any(|kept| kept.name == gone.name) {
                    all.push(ListenerFacts { leaving: true, ..gone.clone() });
                }
            }
            all
        });
    }

    /// Forgets those that are leaving and that no worker has a door of any more.
    pub fn forget(&self) {
        let is_over = |listener: &ListenerFacts| listener.leaving && Arc::strong_count(&listener.gate) == 1;
        // Looked at once: copying the list counts the gates up.
        let over: Vec<String> = self.all().iter().filter(|one| is_over(one)).map(|one| one.name.clone()).collect();
        if !over.is_empty() {
            let stays = |one: &&ListenerFacts| !one.leaving || !over.contains(&one.name);
            self.0.rcu(|all| all.iter().filter(stays).cloned().collect::<Vec<_>>());
        }
    }
}
