//! What a worker has to tell the control thread. Telling never waits: where the control thread is behind, news is lost and
//! counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::limits::NEWS_WAITING_MAX;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The connects of a backend have failed too often.
    Ejected {
        /// Its pool.
        pool: String,
        /// Its name.
        backend: String,
        /// The last failure.
        cause: String,
    },
    /// A connection to an ejected backend has succeeded.
    Returned {
        /// Its pool.
        pool: String,
        /// Its name.
        backend: String,
    },
    /// A limit is reached, and accepting pauses.
    Paused {
        /// The listener.
        listener: String,
        /// Which limit, for people.
        limit: &'static str,
        /// Its number.
        max: usize,
    },
    /// There is room again.
    Resumed {
        /// The listener.
        listener: String,
    },
}

/// The telling end. By default nobody hears.
#[derive(Clone, Debug, Default)]
pub struct Reporter(Option<Line>);

#[derive(Clone, Debug)]
struct Line {
    sender: Sender<News>,
    lost: Arc<AtomicU64>,
}

/// The hearing end.
#[derive(Debug)]
pub struct Hearer {
    receiver: Receiver<News>,
    lost: Arc<AtomicU64>,
}

impl Reporter {
    /// Both ends.
    pub fn new() -> (Reporter, Hearer) {
        let (sender, receiver) = channel(NEWS_WAITING_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        (Reporter(Some(Line { sender, lost: lost.clone() })), Hearer { receiver, lost })
    }

    /// Tells it, unless too much waits to be heard.
    pub fn tell(&self, news: News) {
        if let Some(line) = &self.0
            && line.sender.try_send(news).is_err()
        {
            line.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Hearer {
    /// The next news; `None` once nobody is left to tell any.
    pub async fn hear(&mut self) -> Option<News> {
        self.receiver.recv().await
    }

    /// How much was lost since the last call.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted_and_waits_for_nobody() {
        let (reporter, mut hearer) = Reporter::new();
        for _ in 0..NEWS_WAITING_MAX + 3 {
            reporter.tell(News::Resumed { listener: "web".into() });
        }
        assert_eq!((hearer.lost(), hearer.lost()), (3, 0));
        let heard = std::iter::from_fn(|| hearer.receiver.try_recv().ok()).count();
        assert_eq!(heard, NEWS_WAITING_MAX);
        Reporter::default().tell(News::Resumed { listener: "web".into() });
    }
}
