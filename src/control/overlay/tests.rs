use proptest::prelude::*;

use super::*;
use crate::balance::settings::Weight;

fn fixed(name: &str, weight: u32) -> Backend {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
    let weight = Weight::new(weight).unwrap();
    Backend::Fixed(BackendSettings { weight, ..BackendSettings::new(name, address.into()) })
}

fn named(name: &str, weight: u32) -> Backend {
    let host = Host { name: name.into(), port: 80 };
    Backend::new(Target::Host(host), |address| BackendSettings {
        weight: Weight::new(weight).unwrap(),
        ..BackendSettings::new(name, address)
    })
}

fn weigh(weight: u32) -> impl Fn(&mut BackendSettings) {
    move |settings| settings.weight = Weight::new(weight).unwrap()
}

fn shown(overlay: &Overlay) -> Vec<(String, u32)> {
    overlay.backends().iter().map(|settings| (settings.name.clone(), settings.weight.as_u32())).collect()
}

fn seen(shown: &[(String, u32)]) -> Vec<(&str, u32)> {
    shown.iter().map(|(name, weight)| (name.as_str(), *weight)).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn resolved(overlay: &mut Overlay, name: &str, ips: &[&str]) {
    let ips: Vec<IpAddr> = ips.iter().map(|text| ip(text)).collect();
    overlay.resolve(name, &Host { name: name.into(), port: 80 }, &ips);
}

#[test]
fn a_reload_applies_what_changed_in_the_file_and_keeps_what_was_changed_live() {
    let mut overlay = Overlay::new(vec![fixed("a", 1), fixed("b", 1), fixed("c", 1), fixed("d", 1)]);
    overlay.tell("a", weigh(7)).unwrap();
    overlay.tell("b", |settings| settings.state = State::Drain).unwrap();
    overlay.remove("c").unwrap();
    overlay.add(fixed("x", 5), None).unwrap();
    // The file: weight of b changed, d taken out, e put in behind a.
    overlay.merge(vec![fixed("a", 1), fixed("e", 2), fixed("b", 3), fixed("c", 1)]);
    assert_eq!(seen(&shown(&overlay)), [("a", 7), ("e", 2), ("b", 3), ("x", 5)]);
    assert_eq!(overlay.backends()[2].state, State::Drain, "the file says nothing of states");
    let edits = [
        Difference::Changed("a".into(), vec!["weight"]),
        Difference::Changed("b".into(), vec!["state"]),
        Difference::Removed("c".into()),
        Difference::Added("x".into()),
    ];
    assert_eq!(overlay.edits(), edits);
    // Once more without a change in the file: nothing happens.
    let before = overlay.clone();
    overlay.merge(before.file.clone());
    assert_eq!(overlay, before);
    overlay.replace(before.file.clone());
    assert_eq!(seen(&shown(&overlay)), [("a", 1), ("e", 2), ("b", 3), ("c", 1)]);
    assert_eq!(overlay.edits(), []);
}

#[test]
fn where_both_have_changed_one_value_the_file_counts() {
    let mut overlay = Overlay::new(vec![fixed("a", 1)]);
    overlay.tell("a", weigh(7)).unwrap();
    overlay.merge(vec![fixed("a", 2)]);
    assert_eq!(seen(&shown(&overlay)), [("a", 2)]);
    assert_eq!(overlay.edits(), []);
}

#[test]
fn what_the_file_adds_takes_over_one_that_was_added_live_and_keeps_its_state() {
    let mut overlay = Overlay::new(vec![fixed("a", 1)]);
    let lease = Lease { ttl: Duration::from_secs(1), until: Time::from_millis(5), expired: false };
    overlay.put(fixed("x", 5), Some(lease)).unwrap();
    overlay.tell("x", |settings| settings.state = State::Maint).unwrap();
    overlay.merge(vec![fixed("a", 1), fixed("x", 3)]);
    assert_eq!(seen(&shown(&overlay)), [("a", 1), ("x", 3)]);
    assert_eq!(overlay.backends()[1].state, State::Maint);
    assert_eq!(overlay.next_expiry(), None, "the file's backends have no lease");
}

#[test]
fn hosts_keep_their_addresses_and_what_each_was_told() {
    let mut overlay = Overlay::new(vec![fixed("a", 1), named("app", 2)]);
    resolved(&mut overlay, "app", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    overlay.tell("app/10.0.0.1", weigh(9)).unwrap();
    overlay.remove("app/10.0.0.2").unwrap();
    assert_eq!(overlay.remove("app/10.0.0.2"), Err(EditError::Unknown("app/10.0.0.2".into())));
    assert_eq!(seen(&shown(&overlay)), [("a", 1), ("app/10.0.0.1", 9), ("app/10.0.0.3", 2)]);
    let edits =
        [Difference::Changed("app/10.0.0.1".into(), vec!["weight"]), Difference::Removed("app/10.0.0.2".into())];
    assert_eq!(overlay.edits(), edits);

    // The next look-up does not bring it back ...
    resolved(&mut overlay, "app", &["10.0.0.3", "10.0.0.2", "10.0.0.1"]);
    assert_eq!(seen(&shown(&overlay)), [("a", 1), ("app/10.0.0.3", 2), ("app/10.0.0.1", 9)]);
    // ... and neither does a reload, which changes the weight of those that were told nothing.
    overlay.merge(vec![fixed("a", 1), named("app", 2)]);
    assert_eq!(seen(&shown(&overlay)), [("a", 1), ("app/10.0.0.3", 2), ("app/10.0.0.1", 9)]);
    overlay.merge(vec![fixed("a", 1), named("app", 4)]);
    assert_eq!(seen(&shown(&overlay)), [("a", 1), ("app/10.0.0.3", 4), ("app/10.0.0.1", 4)]);

    // What leaves and comes again is new.
    resolved(&mut overlay, "app", &["10.0.0.1"]);
    resolved(&mut overlay, "app", &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(seen(&shown(&overlay)), [("a", 1), ("app/10.0.0.1", 4), ("app/10.0.0.2", 4)]);

    overlay.tell("app", weigh(6)).unwrap();
    resolved(&mut overlay, "app", &["10.0.0.1", "10.0.0.4"]);
    assert_eq!(seen(&shown(&overlay)), [("a", 1), ("app/10.0.0.1", 6), ("app/10.0.0.4", 6)]);
    let moved = overlay.tell("app/10.0.0.1", |settings| {
        settings.address = std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into();
    });
    assert_eq!(moved, Err(EditError::LookedUp("app/10.0.0.1".into())));
}

#[test]
fn a_swap_may_name_a_host_or_its_backends() {
    let mut overlay = Overlay::new(vec![fixed("a", 1), named("app", 2), fixed("b", 1)]);
    resolved(&mut overlay, "app", &["10.0.0.1", "10.0.0.2"]);
    // What was read is written back: nothing changes.
    let all: Vec<Backend> = overlay.backends().into_iter().map(Backend::Fixed).collect();
    let before = overlay.clone();
    overlay.swap(all).unwrap();
    assert_eq!(overlay, before);
    // One of the host's is left out.
    let some: Vec<Backend> = overlay.backends().into_iter().skip(2).map(Backend::Fixed).collect();
    overlay.swap(some).unwrap();
    assert_eq!(seen(&shown(&overlay)), [("app/10.0.0.2", 2), ("b", 1)]);
    resolved(&mut overlay, "app", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(seen(&shown(&overlay)), [("app/10.0.0.2", 2), ("app/10.0.0.3", 2), ("b", 1)]);
    // The host by its name is all of it again.
    overlay.swap(vec![named("app", 3)]).unwrap();
    assert_eq!(seen(&shown(&overlay)), [("app/10.0.0.1", 3), ("app/10.0.0.2", 3), ("app/10.0.0.3", 3)]);
    let wrong = overlay.clone().swap(vec![named("app", 3), fixed("app/10.9.9.9", 1)]);
    assert_eq!(wrong, Err(EditError::HostKind("app/10.9.9.9".into(), "app".into())));
    assert_eq!(overlay.clone().swap(vec![fixed("x", 1), fixed("x", 2)]), Err(EditError::Twice("x".into())));
}

#[test]
fn a_lease_drains_when_it_ends_and_serves_again_when_it_is_renewed() {
    let lease = |until| Some(Lease { ttl: Duration::from_millis(10), until: Time::from_millis(until), expired: false });
    let mut overlay = Overlay::new(vec![fixed("a", 1)]);
    overlay.put(fixed("x", 1), lease(10)).unwrap();
    assert_eq!(overlay.next_expiry(), Some(Time::from_millis(10)));
    assert!(overlay.expire(Time::from_millis(9)).is_empty());
    assert_eq!(overlay.expire(Time::from_millis(10)), ["x"]);
    assert_eq!(overlay.backends()[1].state, State::Drain);
    assert_eq!((overlay.expired().collect::<Vec<_>>(), overlay.next_expiry()), (vec!["x"], None));
    overlay.put(fixed("x", 1), lease(20)).unwrap();
    assert_eq!((overlay.backends()[1].state, overlay.expired().count()), (State::Ready, 0));
    assert_eq!(overlay.put(fixed("a", 1), lease(20)), Err(EditError::LeaseOfFile("a".into())));
    overlay.put(fixed("x", 1), None).unwrap();
    assert_eq!(overlay.next_expiry(), None, "it was made to stay");
}

fn list() -> impl Strategy<Value = Vec<(u8, u32)>> {
    proptest::collection::vec((0_u8..8, 0_u32..4), 0..8)
}

/// Each name once, in the order of its first mention.
fn backends(list: &[(u8, u32)]) -> Vec<Backend> {
    let mut names = HashSet::new();
    list.iter()
        .filter(|(name, _)| names.insert(*name))
        .map(|(name, weight)| fixed(&name.to_string(), *weight))
        .collect()
}

#[derive(Clone, Debug)]
enum Step {
    Add(u8, u32),
    Put(u8, u32),
    Tell(u8, u32),
    Remove(u8),
    Swap(Vec<(u8, u32)>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u8..8, 0_u32..4).prop_map(|(name, weight)| Step::Add(name, weight)),
        (0_u8..8, 0_u32..4).prop_map(|(name, weight)| Step::Put(name, weight)),
        (0_u8..8, 0_u32..4).prop_map(|(name, weight)| Step::Tell(name, weight)),
        (0_u8..8).prop_map(Step::Remove),
        list().prop_map(Step::Swap),
    ]
}

fn take(overlay: &mut Overlay, step: &Step) {
    let mut next = overlay.clone();
    let done = match step {
        Step::Add(name, weight) => next.add(fixed(&name.to_string(), *weight), None),
        Step::Put(name, weight) => next.put(fixed(&name.to_string(), *weight), None),
        Step::Tell(name, weight) => next.tell(&name.to_string(), weigh(*weight)),
        Step::Remove(name) => next.remove(&name.to_string()),
        Step::Swap(list) => next.swap(backends(list)),
    };
    if done.is_ok() {
        *overlay = next;
    }
}

proptest! {
    #[test]
    fn without_live_edits_a_reload_is_the_file(old in list(), new in list()) {
        let mut overlay = Overlay::new(backends(&old));
        overlay.merge(backends(&new));
        prop_assert_eq!(overlay, Overlay::new(backends(&new)));
    }

    #[test]
    fn without_a_change_in_the_file_a_reload_changes_nothing(
        file in list(), steps in proptest::collection::vec(step(), 0..12)
    ) {
        let mut overlay = Overlay::new(backends(&file));
        steps.iter().for_each(|step| take(&mut overlay, step));
        let before = overlay.clone();
        overlay.merge(backends(&file));
        prop_assert_eq!(overlay, before);
    }

    /// The law of the merge, value by value, against the plainest way to say it.
    #[test]
    fn a_reload_is_three_way(
        old in list(), new in list(), steps in proptest::collection::vec(step(), 0..12)
    ) {
        let mut overlay = Overlay::new(backends(&old));
        steps.iter().for_each(|step| take(&mut overlay, step));
        let weights = |backends: Vec<BackendSettings>| -> HashMap<String, u32> {
            backends.into_iter().map(|settings| (settings.name, settings.weight.as_u32())).collect()
        };
        let file = |list: &[(u8, u32)]| weights(Overlay::new(backends(list)).backends());
        let (was, is, live) = (file(&old), file(&new), weights(overlay.backends()));
        overlay.merge(backends(&new));
        let names: HashSet<String> = overlay.backends().into_iter().map(|settings| settings.name).collect();
        prop_assert_eq!(names.len(), overlay.backends().len(), "each name once");
        let merged = weights(overlay.backends());
        for name in (0..8).map(|name: u8| name.to_string()) {
            let (was, is, live) = (was.get(&name), is.get(&name), live.get(&name));
            let expected = match (was, live, is) {
                (Some(_), None, _) | (_, _, None) if was.is_some() => None,
                (_, live, is) if was == is => live,
                (_, _, is) => is,
            };
            prop_assert_eq!(merged.get(&name), expected, "{}: {:?} {:?} {:?}", name, was, live, is);
        }
    }

    #[test]
    fn a_swap_is_the_set_that_was_given(
        file in list(), steps in proptest::collection::vec(step(), 0..12), wanted in list()
    ) {
        let mut overlay = Overlay::new(backends(&file));
        steps.iter().for_each(|step| take(&mut overlay, step));
        overlay.swap(backends(&wanted)).unwrap();
        prop_assert_eq!(overlay.backends(), Overlay::new(backends(&wanted)).backends());
        // The edits that are told are exactly what differs.
        let mut changed = Overlay::new(backends(&file));
        for edit in overlay.edits() {
            match edit {
                Difference::Removed(name) => changed.remove(&name).unwrap(),
                Difference::Added(name) | Difference::Changed(name, _) => {
                    let one = backends(&wanted).into_iter().find(|backend| backend.name() == name).unwrap();
                    changed.put(one, None).unwrap();
                }
            }
        }
        let sorted = |overlay: &Overlay| {
            let mut shown = shown(overlay);
            shown.sort();
            shown
        };
        prop_assert_eq!(sorted(&changed), sorted(&overlay));
    }
}
