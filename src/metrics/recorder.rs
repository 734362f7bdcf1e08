//! A worker's side of the numbers.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use crate::balance::{BackendId, BackendSet};

use super::cells::{BackendCells, ListenerCells, RingCells};

/// A block of cells that a worker has begun to write.
#[derive(Debug)]
pub enum Announced {
    /// Of a worker's ring.
    Ring {
        /// The worker's number.
        worker: usize,
        /// The block.
        cells: Arc<RingCells>,
    },
    /// Of a listening socket.
    Listener {
        /// The listener's name.
        name: String,
        /// The name of the pool that serves it.
        pool: Arc<str>,
        /// The block.
        cells: Arc<ListenerCells>,
    },
    /// Of a backend.
    Backend {
        /// The name of its pool.
        pool: Arc<str>,
        /// Which.
        id: BackendId,
        /// The block.
        cells: Arc<BackendCells>,
    },
}

/// Makes the blocks that one worker writes, and announces them.
#[derive(Debug)]
pub struct Recorder {
    announcements: Sender<Announced>,
    pools: Vec<Pool>,
    /// The number in `pools` of each route's; none where the route has ended.
    routes: Vec<Option<usize>>,
}

#[derive(Debug)]
struct Pool {
    name: Arc<str>,
    backends: HashMap<BackendId, Arc<BackendCells>>,
}

impl Recorder {
    /// A worker's, that announces its blocks there.
    pub const fn new(announcements: Sender<Announced>) -> Recorder {
        Recorder { announcements, pools: Vec::new(), routes: Vec::new() }
    }

    /// The block of the worker's ring.
    pub fn ring(&self, worker: usize) -> Arc<RingCells> {
        let cells = Arc::new(RingCells::default());
        self.announce(Announced::Ring { worker, cells: cells.clone() });
        cells
    }

    /// The block of the worker's listening socket of this number, from 0 on. A number that is free again may be given again.
    pub fn listener(&mut self, listener: u16, name: &str, pool: &str) -> Arc<ListenerCells> {
        let number = self.pool(pool);
        match self.routes.get_mut(usize::from(listener)) {
            Some(route) => *route = Some(number),
            None => self.routes.push(Some(number)),
        }
        let cells = Arc::new(ListenerCells::default());
        let pool = self.pools[number].name.clone();
        self.announce(Announced::Listener { name: name.to_owned(), pool, cells: cells.clone() });
        cells
    }

    /// The listening socket of this number is no more, and neither are its sessions. With the last of its pool, the blocks of
    /// that pool's backends are let go of: another pool of that name would count its own by the same identities.
    pub fn end(&mut self, listener: u16) {
        if let Some(number) = self.routes[usize::from(listener)].take()
            && !self.routes.contains(&Some(number))
        {
            self.pools[number].backends = HashMap::new();
        }
    }

    /// The block of a backend of the pool that serves the listening socket of this number.
    pub fn backend(&mut self, listener: u16, backend: BackendId) -> Arc<BackendCells> {
        let Some(number) = self.routes[usize::from(listener)] else { unreachable!("a session outlives its route") };
        let pool = &mut self.pools[number];
        if let Some(cells) = pool.backends.get(&backend) {
            return cells.clone();
        }
        let cells = Arc::new(BackendCells::default());
        pool.backends.insert(backend, cells.clone());
        let announced = Announced::Backend { pool: pool.name.clone(), id: backend, cells: cells.clone() };
        self.announce(announced);
        cells
    }

    /// Lets go of the blocks of backends that are not in `set`, which is that of the socket's pool now.
    pub fn retain(&mut self, listener: u16, set: &BackendSet) {
        let Some(number) = self.routes[usize::from(listener)] else { return };
        let pool = &mut self.pools[number];
        let present: HashSet<BackendId> = set.backends().iter().map(|backend| backend.id()).collect();
        pool.backends.retain(|id, _| present.contains(id));
    }

    /// The number of the pool of this name; that of one that no route has any more may be given again.
    fn pool(&mut self, name: &str) -> usize {
        let known = self.pools.iter().position(|known| *known.name == *name);
        let vacant = || (0..self.pools.len()).find(|number| !self.routes.contains(&Some(*number)));
        let pool = || Pool { name: name.into(), backends: HashMap::new() };
        match known.or_else(vacant) {
            Some(number) if known.is_some() => number,
            Some(number) => {
                self.pools[number] = pool();
                number
            }
            None => {
                self.pools.push(pool());
                self.pools.len() - 1
            }
        }
    }

    fn announce(&self, announced: Announced) {
        if self.announcements.send(announced).is_err() {
            tracing::debug!("nobody keeps the numbers any more");
        }
    }
}
