//! What a listener asks of its clients before it serves them: where they come from, and how many sessions they have.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::address::Address;
use crate::config::access::Access;
use crate::limits::{CLIENT_PREFIX_V6, CLIENT_SHARDS};
use crate::relay::CloseReason;

/// A shard's table that has shrunk to this part of its room gives the room back ...
const SPARSE: usize = 8;
/// ... unless it is smaller than this.
const ROOM_KEPT: usize = 64;

/// The rules for the clients of one listener; clones share the counts.
#[derive(Clone, Debug, Default)]
pub struct ClientRules {
    /// Who is served; `None`: everybody.
    pub access: Option<Arc<Access>>,
    /// How many sessions each has; `None`: nobody counts.
    pub counts: Option<Arc<ClientCounts>>,
}

impl ClientRules {
    /// Whether nobody needs to know who the client is.
    pub const fn is_off(&self) -> bool {
        self.access.is_none() && self.counts.is_none()
    }

    /// Whether `client` is served; with the place that its session takes. `None` is a client that has gone already.
    ///
    /// # Errors
    /// Why it is not.
    pub fn admit(&self, client: Option<&Address>) -> Result<Option<Place>, CloseReason> {
        if self.access.as_ref().is_some_and(|access| !access.admits(client)) {
            return Err(CloseReason::Denied);
        }
        // The clients of a unix socket have no address to be told apart by.
        let (Some(counts), Some(Address::Inet(inet))) = (&self.counts, client) else { return Ok(None) };
        counts.enter(inet.ip()).map(Some).ok_or(CloseReason::ClientLimit)
    }
}

/// What counts as one client.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
enum Client {
    V4(u32),
    /// The network part of its address.
    V6(u64),
}

impl Client {
    fn new(ip: IpAddr) -> Client {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Client::V4(v4.to_bits()),
            IpAddr::V6(v6) => Client::V6((v6.to_bits() >> (128 - CLIENT_PREFIX_V6)) as u64),
        }
    }
}

/// How many sessions each client of a listener has, over all workers. It remembers nobody who has none.
#[derive(Debug)]
pub struct ClientCounts {
    max: u32,
    /// Strangers choose the addresses: without its secret they could choose those that fall together.
    hasher: RandomState,
    shards: Box<[Shard]>,
}

/// On cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard(Mutex<HashMap<Client, u32>>);

/// A session that counts for its client, as long as it is not dropped.
#[derive(Debug)]
pub struct Place {
    counts: Arc<ClientCounts>,
    client: Client,
}

impl ClientCounts {
    /// Up to `max` sessions each.
    pub fn new(max: NonZeroU32) -> ClientCounts {
        let shards = (0..CLIENT_SHARDS).map(|_| Shard::default()).collect();
        ClientCounts { max: max.get(), hasher: RandomState::new(), shards }
    }

    /// Counts a session in, where its client has room for it.
    fn enter(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let client = Client::new(ip);
        let mut shard = self.shard(client);
        match shard.entry(client) {
            Entry::Occupied(count) if *count.get() >= self.max => return None,
            Entry::Occupied(mut count) => *count.get_mut() += 1,
            Entry::Vacant(none) => {
                none.insert(1);
            }
        }
        Some(Place { counts: Arc::clone(self), client })
    }

    fn leave(&self, client: Client) {
        let mut shard = self.shard(client);
        let Entry::Occupied(mut count) = shard.entry(client) else {
            debug_assert!(false, "{client:?} leaves, and was never counted");
            return;
        };
        *count.get_mut() -= 1;
        if *count.get() > 0 {
            return;
        }
        count.remove();
        if shard.capacity() > ROOM_KEPT && shard.len() < shard.capacity() / SPARSE {
            let room = shard.len() * 2;
            shard.shrink_to(room);
        }
    }

    /// What is behind the lock is changed in single steps, so a poisoned lock is as good as new.
    fn shard(&self, client: Client) -> MutexGuard<'_, HashMap<Client, u32>> {
        let shard = self.hasher.hash_one(client) as usize % self.shards.len();
        self.shards[shard].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.counts.leave(self.client);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

    use proptest::prelude::*;

    use super::*;

    fn counts(max: u32) -> Arc<ClientCounts> {
        Arc::new(ClientCounts::new(NonZeroU32::new(max).unwrap()))
    }

    /// How many clients are remembered, and for how many there is room.
    fn size(counts: &ClientCounts) -> (usize, usize) {
        let shards = counts.shards.iter().map(|shard| shard.0.lock().unwrap());
        shards.fold((0, 0), |(len, room), shard| (len + shard.len(), room + shard.capacity()))
    }

    #[test]
    fn one_client_is_an_ipv4_address_or_a_64_bit_network_of_ipv6() {
        let counts = counts(1);
        let enter = |ip: &str| counts.enter(ip.parse().unwrap());
        let _v4 = enter("192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none() && enter("::ffff:192.0.2.1").is_none());
        assert!(enter("192.0.2.2").is_some());
        let _v6 = enter("2001:db8:0:1::1").unwrap();
        assert!(enter("2001:db8:0:1:ffff::2").is_none());
        assert!(enter("2001:db8:0:2::1").is_some());
        // Neither is the network of the other family with the same bits.
        assert!(enter("::192.0.2.1").is_some());
    }

    #[test]
    fn what_a_crowd_has_taken_is_given_back() {
        let counts = counts(3);
        let crowd: Vec<Place> =
            (0..100_000).map(|low| counts.enter(Ipv4Addr::from_bits(low / 2).into()).unwrap()).collect();
        let (clients, room) = size(&counts);
        assert!(clients == 50_000 && room >= clients, "{clients} clients, room for {room}");
        drop(crowd);
        let (clients, room) = size(&counts);
        assert!(clients == 0 && room <= 2 * ROOM_KEPT * CLIENT_SHARDS, "{clients} clients, room for {room}");
    }

    /// As many as there may be are let in, and never one more, whoever comes and goes meanwhile.
    #[test]
    fn a_limit_of_n_is_never_n_plus_one() {
        const MAX: u32 = 3;
        const CLIENTS: usize = 4;
        let counts = counts(MAX);
        let inside: [AtomicU32; CLIENTS] = Default::default();
        let refused = AtomicU32::new(0);
        let begin = Barrier::new(4);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (counts, inside, refused, begin) = (&counts, &inside, &refused, &begin);
                scope.spawn(move || {
                    begin.wait();
                    let mut state = thread.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
                    let mut held = Vec::new();
                    for _ in 0..20_000 {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        let client = (state >> 20) as usize % CLIENTS;
                        if state.is_multiple_of(3) && !held.is_empty() {
                            let (client, place): (usize, Place) = held.swap_remove((state >> 30) as usize % held.len());
                            inside[client].fetch_sub(1, SeqCst);
                            drop(place);
                        } else if let Some(place) = counts.enter(Ipv4Addr::from_bits(client as u32).into()) {
                            let now = inside[client].fetch_add(1, SeqCst) + 1;
                            assert!(now <= MAX, "{now} sessions");
                            held.push((client, place));
                        } else {
                            refused.fetch_add(1, SeqCst);
                        }
                    }
                    for (client, place) in held {
                        inside[client].fetch_sub(1, SeqCst);
                        drop(place);
                    }
                });
            }
        });
        assert!(refused.load(SeqCst) > 0, "the limit was never reached");
        assert_eq!(size(&counts).0, 0);
    }

    proptest! {
        #[test]
        fn the_counts_are_those_of_a_plain_list(
            max in 1u32..4,
            steps in prop::collection::vec((0u8..6, any::<bool>(), any::<prop::sample::Index>()), 0..200),
        ) {
            let counts = counts(max);
            let mut held: Vec<(IpAddr, Place)> = Vec::new();
            for (number, enters, which) in steps {
                let ip = match number {
                    0..3 => IpAddr::from(Ipv4Addr::from_bits(u32::from(number))),
                    _ => IpAddr::from(Ipv6Addr::from_bits(u128::from(number) << 64 | which.index(1000) as u128)),
                };
                if enters {
                    let same = held.iter().filter(|(other, _)| Client::new(*other) == Client::new(ip)).count();
                    let place = counts.enter(ip);
                    prop_assert_eq!(place.is_some(), same < max as usize);
                    held.extend(place.map(|place| (ip, place)));
                } else if !held.is_empty() {
                    held.swap_remove(which.index(held.len()));
                }
                let clients: std::collections::HashSet<_> = held.iter().map(|(ip, _)| Client::new(*ip)).collect();
                prop_assert_eq!(size(&counts).0, clients.len());
            }
        }
    }
}
