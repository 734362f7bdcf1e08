//! What the queue for a place promises.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Barrier, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::balance::failure::Failure;
use crate::balance::settings::{HealthSettings, State};
use crate::balance::{Backend, Sought, Taker, Ticket};
use crate::slots::Key;

/// A worker that keeps what it is handed.
#[derive(Default)]
struct Desk(Mutex<VecDeque<(u32, Claim)>>);

impl Taker for Desk {
    fn take(&self, key: Key, claim: Claim) {
        self.lock().push_back((key.index(), claim));
    }
}

impl Desk {
    /// Also while a test fails: claims come here when they are dropped.
    fn lock(&self) -> MutexGuard<'_, VecDeque<(u32, Claim)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<(u32, Claim)> {
        self.lock().pop_front()
    }

    /// Who has been handed a place since the last call, in that order; they give it back.
    fn served(&self) -> Vec<u32> {
        std::iter::from_fn(|| self.next()).map(|(client, _)| client).collect()
    }
}

struct Scene {
    pool: Arc<Pool>,
    chooser: Chooser,
    desk: Arc<Desk>,
    settings: PoolSettings,
}

impl Scene {
    fn new(queue_max: u32, set: Vec<BackendSettings>) -> Scene {
        Scene::of(PoolSettings { queue_max, ..settings(Policy::LeastConnections) }, set)
    }

    fn of(settings: PoolSettings, set: Vec<BackendSettings>) -> Scene {
        let pool = Pool::new(settings.clone(), set, Time::ZERO).expect("a possible set");
        let desk = Arc::<Desk>::default();
        let chooser = Chooser::new(pool.clone(), 1).with_taker(desk.clone());
        Scene { pool, chooser, desk, settings }
    }

    fn seek(&mut self, client: u32) -> Sought {
        self.seek_again(client, &Tried::new())
    }

    fn seek_again(&mut self, client: u32, tried: &Tried) -> Sought {
        self.chooser.seek(&Request { client: None, tried }, Key::new(client, 0), Time::ZERO)
    }

    fn place(&mut self, client: u32) -> Claim {
        match self.seek(client) {
            Sought::Place(claim) => claim,
            other => panic!("client {client} gets {other:?} and no place"),
        }
    }

    fn ticket(&mut self, client: u32) -> Ticket {
        match self.seek(client) {
            Sought::Waits(ticket) => ticket,
            other => panic!("client {client} gets {other:?} and no ticket"),
        }
    }

    fn replace(&self, set: Vec<BackendSettings>) {
        self.pool.replace(self.settings.clone(), set, Time::ZERO).expect("a possible set");
    }
}

fn limited(index: usize, limit: u32) -> BackendSettings {
    BackendSettings { max_connections: limit, ..backend(index, 1) }
}

fn backup(index: usize, limit: u32) -> BackendSettings {
    BackendSettings { backup: true, ..limited(index, limit) }
}

#[test]
fn places_go_to_those_who_wait_in_order_of_arrival() {
    let mut scene = Scene::new(10, vec![limited(0, 1), limited(1, 1)]);
    let held = [scene.place(0), scene.place(1)];
    let tickets: Vec<Ticket> = (2..5).map(|client| scene.ticket(client)).collect();
    assert_eq!(scene.pool.waiting(), 3);
    let [first, second] = held;
    drop(second);
    let (client, third) = scene.desk.next().expect("a place for the oldest");
    assert_eq!((client, index(&third)), (2, 1));
    // A place that nobody takes goes to the next, and so on.
    drop(first);
    assert_eq!(scene.desk.served(), [3, 4]);
    assert_eq!(scene.pool.waiting(), 0);
    assert_eq!(scene.pool.snapshot().backends()[0].active(), 0);
    drop((tickets, third));
}

#[test]
fn who_leaves_is_passed_over() {
    let mut scene = Scene::new(10, vec![limited(0, 1)]);
    let held = scene.place(0);
    let (second, _third) = (scene.ticket(1), scene.ticket(2));
    drop(second);
    assert_eq!(scene.pool.waiting(), 1);
    drop(held);
    assert_eq!(scene.desk.served(), [2]);
}

#[test]
fn a_full_queue_leads_to_the_backups_and_then_nowhere() {
    let mut scene = Scene::new(1, vec![limited(0, 1), backup(1, 1)]);
    let primary = scene.place(0);
    assert_eq!(index(&primary), 0);
    let ticket = scene.ticket(1);
    let reserve = scene.place(2);
    assert_eq!(index(&reserve), 1, "the queue for the primary is full");
    assert!(matches!(scene.seek(3), Sought::QueueFull));
    // A backup's place is not what the primary's queue waits for.
    drop(reserve);
    assert_eq!(scene.desk.served(), [0; 0]);
    drop(primary);
    assert_eq!(scene.desk.served(), [1]);
    drop(ticket);
}

#[test]
fn backups_are_waited_for_where_no_primary_could_serve() {
    let drained = BackendSettings { state: State::Drain, ..limited(0, 1) };
    let mut scene = Scene::new(1, vec![drained, backup(1, 1)]);
    let reserve = scene.place(0);
    let ticket = scene.ticket(1);
    drop(reserve);
    assert_eq!(scene.desk.served(), [1]);
    drop(ticket);
}

#[test]
fn nobody_waits_for_those_who_could_not_serve_with_room() {
    let mut scene = Scene::new(1, vec![limited(0, 1)]);
    let held = scene.place(0);
    let mut tried = Tried::new();
    tried.insert(held.backend());
    assert!(matches!(scene.seek_again(1, &tried), Sought::None));
    scene.replace(vec![BackendSettings { state: State::Drain, ..limited(0, 1) }]);
    assert!(matches!(scene.seek(2), Sought::None));
    assert_eq!(scene.pool.waiting(), 0);
}

#[test]
fn without_a_queue_nobody_waits() {
    let mut scene = Scene::new(0, vec![limited(0, 1)]);
    let _held = scene.place(0);
    assert!(matches!(scene.seek(1), Sought::None));
}

#[test]
fn who_has_tried_a_backend_is_not_handed_its_place() {
    let mut scene = Scene::new(10, vec![limited(0, 1), limited(1, 1)]);
    let held = [scene.place(0), scene.place(1)];
    let mut tried = Tried::new();
    tried.insert(held[0].backend());
    let Sought::Waits(_picky) = scene.seek_again(2, &tried) else { panic!("the other one is only full") };
    let _easy = scene.ticket(3);
    let [zero, one] = held;
    drop(zero);
    let (client, _taken) = scene.desk.next().expect("somebody takes it");
    assert_eq!(client, 3);
    drop(one);
    assert_eq!(scene.desk.served(), [2]);
}

/// A newcomer may have a place that those who wait have no use for, and no other.
#[test]
fn nobody_overtakes() {
    let mut scene = Scene::new(10, vec![limited(0, 2), limited(1, 1)]);
    let held = scene.place(0);
    let [one, other] = [scene.place(1), scene.place(2)];
    let mut tried = Tried::new();
    tried.insert(held.backend());
    let Sought::Waits(_picky) = scene.seek_again(3, &tried) else { panic!("the other one is only full") };
    drop(held);
    let newcomer = scene.place(4);
    let _last = scene.ticket(5);
    drop((one, other, newcomer));
    assert_eq!(scene.desk.served().len(), 2);
}

#[test]
fn whatever_makes_room_serves_those_who_wait() {
    let mut scene = Scene::new(10, vec![limited(0, 1)]);
    scene.settings.health = Some(HealthSettings { rise: 1, fall: 1 });
    scene.replace(vec![limited(0, 1)]);
    let held = scene.place(0);
    let mut tickets = vec![scene.ticket(1), scene.ticket(2), scene.ticket(3)];
    // A limit that is raised.
    scene.replace(vec![limited(0, 2)]);
    let (client, second) = scene.desk.next().expect("room for one");
    assert_eq!((client, scene.desk.served()), (1, vec![]));
    // A backend that is added ...
    scene.pool.report_check("0", false, Time::ZERO, Time::ZERO);
    scene.replace(vec![limited(0, 2), limited(1, 1)]);
    let (client, third) = scene.desk.next().expect("room for one");
    assert_eq!((client, index(&third), scene.desk.served()), (2, 1, vec![]));
    // ... and one that comes up again.
    drop(second);
    assert_eq!(scene.desk.served(), [0; 0], "it is down");
    scene.pool.report_check("0", true, Time::ZERO, Time::ZERO);
    assert_eq!(scene.desk.served(), [3]);
    tickets.clear();
    drop(held);
}

#[test]
fn a_backend_that_returns_serves_those_who_wait() {
    let often = |index| BackendSettings { max_fails: 1, fail_timeout: Duration::from_secs(1), ..limited(index, 1) };
    let mut scene = Scene::new(10, vec![often(0), often(1)]);
    let failing = scene.place(0);
    let name = index(&failing);
    assert!(failing.connect_failed(Failure::TimedOut, Time::ZERO).ejected);
    let _held = scene.place(1);
    let _tickets = [scene.ticket(2), scene.ticket(3)];
    assert_eq!(scene.desk.served(), [0; 0], "it is ejected");
    // Its time is over: whoever comes next finds that out for the oldest.
    let later = Time::ZERO + Duration::from_secs(2);
    let sought = scene.chooser.seek(&Request { client: None, tried: &Tried::new() }, Key::new(4, 0), later);
    let Sought::Waits(_ticket) = sought else { panic!("{sought:?} before its turn") };
    let (client, mut probe) = scene.desk.next().expect("a probe");
    assert_eq!((client, index(&probe), probe.is_probe()), (2, name, true));
    assert!(probe.connected(later));
    drop(probe);
    assert_eq!(scene.desk.served(), [3, 4]);
}

/// A limit that is lowered below what is taken is not filled up again.
#[test]
fn a_lowered_limit_is_respected() {
    let mut scene = Scene::new(10, vec![limited(0, 3)]);
    let held = [scene.place(0), scene.place(1), scene.place(2)];
    let _ticket = scene.ticket(3);
    scene.replace(vec![limited(0, 1)]);
    let [one, two, three] = held;
    drop((one, two));
    assert_eq!(scene.desk.served(), [0; 0]);
    drop(three);
    assert_eq!(scene.desk.served(), [3]);
}

#[derive(Clone, Debug)]
enum Step {
    Arrive { tried: u8 },
    GiveBack(u8),
    Leave(u8),
    Take,
    Limit { backend: u8, limit: u8 },
    Drain { backend: u8, drained: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..12).prop_map(|tried| Step::Arrive { tried }),
        5 => any::<u8>().prop_map(Step::GiveBack),
        2 => any::<u8>().prop_map(Step::Leave),
        4 => Just(Step::Take),
        1 => (0u8..3, 1u8..4).prop_map(|(backend, limit)| Step::Limit { backend, limit }),
        1 => (0u8..3, any::<bool>()).prop_map(|(backend, drained)| Step::Drain { backend, drained }),
    ]
}

/// What the test knows of a client that waits.
struct Waiting {
    ticket: Ticket,
    tried: Option<usize>,
}

struct History {
    scene: Scene,
    set: Vec<BackendSettings>,
    held: Vec<Claim>,
    waiting: BTreeMap<u32, Waiting>,
    /// Clients that have been handed a place and do not know it yet.
    handed: Vec<u32>,
    clients: u32,
}

impl History {
    fn new(policy: Policy) -> History {
        let set = vec![limited(0, 1), limited(1, 2), backup(2, 1)];
        let scene = Scene::of(PoolSettings { queue_max: 4, ..settings(policy) }, set.clone());
        History { scene, set, held: Vec::new(), waiting: BTreeMap::new(), handed: Vec::new(), clients: 0 }
    }

    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Arrive { tried } => self.arrive(usize::from(tried)),
            Step::GiveBack(which) if !self.held.is_empty() => {
                drop(self.held.swap_remove(usize::from(which) % self.held.len()));
            }
            Step::Leave(which) if !self.waiting.is_empty() => {
                let client = *self.waiting.keys().nth(usize::from(which) % self.waiting.len()).expect("one of them");
                self.waiting.remove(&client);
            }
            Step::Take => {
                if let Some((client, claim)) = self.scene.desk.next() {
                    self.handed.retain(|&handed| handed != client);
                    // Whoever has left meanwhile lets it go to the next.
                    if self.waiting.remove(&client).is_some() {
                        self.held.push(claim);
                    }
                }
            }
            Step::Limit { backend, limit } => {
                self.set[usize::from(backend)].max_connections = limit.into();
                self.scene.replace(self.set.clone());
            }
            Step::Drain { backend, drained } => {
                self.set[usize::from(backend)].state = if drained { State::Drain } else { State::Ready };
                self.scene.replace(self.set.clone());
            }
            Step::GiveBack(_) | Step::Leave(_) => {}
        }
    }

    fn arrive(&mut self, tried: usize) {
        self.clients += 1;
        let mut set = Tried::new();
        let snapshot = self.scene.pool.snapshot();
        let one = snapshot.backends().get(tried);
        one.iter().for_each(|one| set.insert(one));
        match self.scene.seek_again(self.clients, &set) {
            Sought::Place(claim) => {
                assert_ne!(Some(index(&claim)), one.map(|_| tried), "it has tried that");
                self.held.push(claim);
            }
            Sought::Waits(ticket) => {
                self.waiting.insert(self.clients, Waiting { ticket, tried: one.map(|_| tried) });
            }
            Sought::QueueFull | Sought::None => {}
        }
    }

    /// The laws, after every step.
    fn check(&mut self) {
        let desk = self.scene.desk.lock();
        for (client, claim) in desk.iter().filter(|(client, _)| !self.handed.contains(client)) {
            let Some(waiting) = self.waiting.get(client) else { continue };
            assert_ne!(waiting.tried, Some(index(claim)), "it has tried that");
            // In order of arrival: who came before and still waits cannot use this place.
            let before = self
                .waiting
                .iter()
                .filter(|(other, _)| *other < client && !desk.iter().any(|(handed, _)| handed == *other));
            for (other, passed) in before {
                // Or would not, as there are primaries to wait for.
                let waits_for = |one: &&BackendSettings| {
                    !one.backup
                        && one.state == State::Ready
                        && Some(&one.name) != passed.tried.map(|one| one.to_string()).as_ref()
                };
                let waits = claim.backend().settings().backup && self.set.iter().any(|one| waits_for(&one));
                assert!(waits || passed.tried == Some(index(claim)), "{client} has overtaken {other}");
            }
        }
        self.handed = desk.iter().map(|(client, _)| *client).collect();
        let line: Vec<&Waiting> = self
            .waiting
            .iter()
            .filter(|(client, _)| !self.handed.contains(client))
            .map(|(_, waiting)| waiting)
            .collect();
        drop(desk);
        assert_eq!(self.scene.pool.waiting(), line.len());
        assert!(line.len() <= 4);
        let snapshot = self.scene.pool.snapshot();
        let serves = |one: &Backend| one.settings().state == State::Ready;
        for one in snapshot.backends().iter().filter(|one| serves(one) && !one.settings().backup) {
            // Nobody waits for a primary that has room.
            let room = one.active() < one.settings().max_connections;
            let wanted = |waiting: &&Waiting| waiting.tried.is_none_or(|tried| one.name() != tried.to_string());
            assert!(!room || !line.iter().any(wanted), "a place with {} is forgotten", one.name());
        }
    }
}

proptest! {
    #[test]
    fn the_queue_keeps_its_laws(
        policy in proptest::sample::select(Policy::ALL),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut history = History::new(policy);
        let mut limits = [1, 2, 1];
        for step in &steps {
            let before: Vec<u32> = history.scene.pool.snapshot().backends().iter().map(|one| one.active()).collect();
            history.apply(step);
            history.check();
            for (index, one) in history.scene.pool.snapshot().backends().iter().enumerate() {
                limits[index] = one.settings().max_connections;
                let most = limits[index].max(before[index]);
                prop_assert!(one.active() <= most, "{} of {} with {}", one.active(), limits[index], one.name());
            }
        }
        // Everybody leaves: nothing is left of anything.
        let History { scene, held, waiting, .. } = history;
        waiting.into_values().for_each(|waiting| drop(waiting.ticket));
        drop(held);
        scene.desk.served();
        prop_assert_eq!(scene.pool.waiting(), 0);
        prop_assert!(scene.pool.snapshot().backends().iter().all(|one| one.active() == 0));
    }
}

/// A worker that is a thread.
struct Post(Mutex<Sender<(Key, Claim)>>);

impl Taker for Post {
    fn take(&self, key: Key, claim: Claim) {
        // One that has ended lets the place go to the next.
        if let Err(back) = self.0.lock().expect("a lock").send((key, claim)) {
            drop(back);
        }
    }
}

/// All come at once, each gets the one place and gives it back, and nobody comes after them who could find what was
/// forgotten.
#[test]
fn threads_lose_no_place() {
    const WORKERS: usize = 3;
    const ROUNDS: u32 = 2_000;
    let settings = PoolSettings { queue_max: 100, ..settings(Policy::LeastConnections) };
    let pool = Pool::new(settings, vec![limited(0, 1)], Time::ZERO).expect("a possible set");
    let barrier = Arc::new(Barrier::new(WORKERS));
    let work = |pool: Arc<Pool>, barrier: Arc<Barrier>, seed: u64| {
        let (sender, receiver): (_, Receiver<(Key, Claim)>) = channel();
        let mut chooser = Chooser::new(pool, seed).with_taker(Arc::new(Post(Mutex::new(sender))));
        let (mut waited, mut refused) = (0, Vec::new());
        for round in 0..ROUNDS {
            barrier.wait();
            let request = Request { client: None, tried: &Tried::new() };
            let claim = match chooser.seek(&request, Key::new(round, 0), Time::ZERO) {
                Sought::Place(claim) => claim,
                Sought::Waits(ticket) => {
                    waited += 1;
                    let (key, claim) = receiver.recv_timeout(Duration::from_secs(60)).expect("it is not forgotten");
                    assert_eq!(key, Key::new(round, 0));
                    drop(ticket);
                    claim
                }
                // The others wait at the barrier: whoever panics here has them wait for ever.
                other => {
                    refused.push(format!("{other:?}"));
                    continue;
                }
            };
            assert_eq!(claim.backend().active(), 1);
        }
        assert_eq!(refused, Vec::<String>::new(), "all that stands in the way is a limit");
        waited
    };
    let threads: Vec<_> = (0..WORKERS)
        .map(|seed| {
            let (pool, barrier) = (pool.clone(), barrier.clone());
            std::thread::spawn(move || work(pool, barrier, seed as u64))
        })
        .collect();
    let waited: u32 = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
    println!("{waited} of {} have waited", WORKERS as u32 * ROUNDS);
    assert_eq!(pool.waiting(), 0);
    assert!(pool.snapshot().backends().iter().all(|one| one.active() == 0));
}
