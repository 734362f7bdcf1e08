//! What the two peers of a session do: drawn together, so that most sessions make sense, and then spoilt.

use std::time::Duration;

use super::faults::Faults;
use super::random::{Chance, Random};
use crate::relay::Side;

/// One thing that a peer does.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Says so many bytes, in pieces.
    Say(u64),
    /// Waits until it has read so many bytes in all, or the connection is over.
    Await(u64),
    /// Waits for the end of our stream, or of the connection.
    AwaitEnd,
    /// Answers every byte with a byte until our stream ends.
    Echo,
    /// Does nothing for a while.
    Sleep(Duration),
    /// Reads in another way from now on.
    Read(Reading),
    /// Ends its stream.
    Fin,
    /// Closes its socket: over unread input that is a reset, and so is what arrives later.
    Close,
    /// Resets the connection.
    Reset,
    /// Is never heard again.
    Vanish,
}

/// How a peer reads.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Eagerly,
    Slowly { bytes: u64, every: Duration },
    NotAtAll,
}

/// The scripts of both peers.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) client: Vec<Step>,
    pub(super) backend: Vec<Step>,
    /// Whether both peers behave: what each will have said in the end. Then nothing short of a failed connect may
    /// keep the session from ending in order.
    pub(super) clean: Option<[u64; 2]>,
}

impl Plan {
    pub(super) fn draw(random: &mut Random, faults: &Faults) -> Plan {
        let mut plan = Plan::orderly(random, faults.bulk);
        for side in Side::BOTH {
            plan.vary(random, side);
        }
        if random.chance(faults.peer) {
            let side = if random.coin() { Side::Client } else { Side::Backend };
            plan.spoil(random, side);
            if random.chance(Chance(200)) {
                plan.spoil(random, side.other());
            }
        }
        plan
    }

    fn orderly(random: &mut Random, bulk: Chance) -> Plan {
        use Step::{Await, AwaitEnd, Close, Echo, Fin, Say};
        let (k, r) = (amount(random, bulk), amount(random, bulk));
        let (client, backend, said) = match random.below(8) {
            0..2 => return Plan::dialogue(random, bulk),
            2 => (vec![Say(k), Fin, AwaitEnd], vec![AwaitEnd, Say(r)], [k, r]),
            3 => (vec![AwaitEnd, Say(k)], vec![Say(r), Fin, AwaitEnd], [k, r]),
            4 => (vec![Say(k), Await(k), Fin, AwaitEnd], vec![Echo], [k, k]),
            5 => (vec![Say(k), Fin, AwaitEnd], vec![Say(r), Fin, AwaitEnd], [k, r]),
            6 => (vec![Say(k), AwaitEnd], vec![Await(k), Say(r), Fin, AwaitEnd], [k, r]),
            _ => (vec![Await(r), Say(k), Fin, AwaitEnd], vec![Say(r), AwaitEnd], [k, r]),
        };
        let close = |mut steps: Vec<Step>| {
            steps.push(Close);
            steps
        };
        Plan { client: close(client), backend: close(backend), clean: Some(said) }
    }

    /// Question and answer, some times.
    fn dialogue(random: &mut Random, bulk: Chance) -> Plan {
        let mut plan = Plan { client: Vec::new(), backend: Vec::new(), clean: None };
        let mut said = [0, 0];
        for _ in 0..random.between(1, 4) {
            let (question, answer) = (amount(random, bulk), amount(random, bulk));
            said[0] += question;
            said[1] += answer;
            plan.client.extend([Step::Say(question), Step::Await(said[1])]);
            plan.backend.extend([Step::Await(said[0]), Step::Say(answer)]);
        }
        plan.client.extend([Step::Fin, Step::AwaitEnd, Step::Close]);
        plan.backend.extend([Step::AwaitEnd, Step::Fin, Step::Close]);
        plan.clean = Some(said);
        plan
    }

    fn steps(&mut self, side: Side) -> &mut Vec<Step> {
        match side {
            Side::Client => &mut self.client,
            Side::Backend => &mut self.backend,
        }
    }

    /// Differences that change nothing but the time it takes.
    fn vary(&mut self, random: &mut Random, side: Side) {
        let most = self.clean.map_or(0, |said| said[0].max(said[1]));
        let steps = self.steps(side);
        if random.chance(Chance(150)) {
            let bytes = random.between(1 + most / 40, 2 + most);
            steps.insert(0, Step::Read(Reading::Slowly { bytes, every: random.up_to(Duration::from_millis(100)) }));
        }
        if random.chance(Chance(150)) {
            let place = random.below(steps.len() as u64) as usize;
            let longest = Duration::from_millis(random.pick(&[1, 100, 1000]));
            steps.insert(place, Step::Sleep(random.up_to(longest)));
        }
    }

    /// One thing that peers should not do, but do.
    fn spoil(&mut self, random: &mut Random, side: Side) {
        self.clean = None;
        let steps = self.steps(side);
        // A step before the last one: the close.
        let place = random.below(steps.len() as u64) as usize;
        match random.below(11) {
            0..3 => steps.insert(place, Step::Reset),
            3 => steps.insert(place, Step::Close),
            4 => steps.insert(place, Step::Vanish),
            5 => steps.insert(place, Step::Read(Reading::NotAtAll)),
            6 => {
                steps.truncate(place);
                steps.extend([Step::Fin, Step::Sleep(random.up_to(Duration::from_millis(400))), Step::Reset]);
                if random.coin() {
                    // The other one has nothing to say that would find it out.
                    self.steps(side.other()).insert(0, Step::Sleep(Duration::from_secs(40)));
                }
            }
            7 => {
                steps.truncate(place);
                steps.extend([Step::Fin, Step::AwaitEnd, Step::Close]);
            }
            8 => steps.insert(place, Step::Sleep(random.up_to(Duration::from_secs(40)))),
            9 => {
                let nap = Step::Sleep(random.up_to(Duration::from_secs(20)));
                steps.splice(place..place, [Step::Read(Reading::NotAtAll), nap, Step::Vanish]);
            }
            _ => {
                // More than may wait for a reader that does not read: the reset comes while nobody receives.
                let nap = Step::Sleep(random.up_to(Duration::from_secs(2)));
                let much = random.between(10_000, 200_000);
                steps.truncate(place);
                steps.extend([Step::Read(Reading::NotAtAll), Step::Say(much), nap, Step::Reset]);
                if random.coin() {
                    self.steps(side.other()).insert(0, Step::Read(Reading::NotAtAll));
                }
            }
        }
    }
}

/// Mostly little, sometimes a lot.
fn amount(random: &mut Random, bulk: Chance) -> u64 {
    let most = match random.below(128) {
        _ if random.chance(bulk) => 600_000,
        0..80 => 600,
        80..112 => 5_000,
        112..124 => 40_000,
        _ => 120_000,
    };
    random.below(most + 1)
}
