use proptest::prelude::*;

use super::*;
use crate::control::overlay::EditError;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn clocks(now_ms: u64, wall_ms: u64) -> Clocks {
    Clocks { now: Time::from_millis(now_ms), wall: UNIX_EPOCH + Duration::from_millis(wall_ms) }
}

fn backend(name: &str, address: &str, weight: u32) -> Backend {
    Backend::new(notation::target(address).unwrap(), |address| BackendSettings {
        weight: Weight::new(weight).unwrap(),
        ..BackendSettings::new(name, address)
    })
}

fn overlay() -> Overlay {
    Overlay::new(vec![
        backend("a", "10.0.0.1:80", 1),
        backend("app", "app.example:80", 2),
        backend("sock", "unix:/run/a b.sock", 3),
    ])
}

fn resolve(overlay: &mut Overlay, ips: &[&str]) {
    let Target::Host(host) = notation::target("app.example:80").unwrap() else { panic!("a host") };
    let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    overlay.resolve("app", &host, &ips);
}

fn names(overlay: &Overlay) -> Vec<String> {
    overlay.backends().iter().map(|settings| settings.name.clone()).collect()
}

/// What the next process reads of what this one has written; its clocks are others.
fn over_a_restart(overlay: &Overlay, written: Clocks, read: Clocks) -> Overlay {
    let kept = Kept { pool: "web".into(), overlay: overlay.kept().expect("something was changed") };
    let text = write(std::slice::from_ref(&kept), written);
    let state = parse(&text, read).unwrap_or_else(|damage| panic!("{damage}: {}", String::from_utf8_lossy(&text)));
    assert_eq!((state.len(), &*state[0].pool), (1, "web"));
    state[0].overlay.clone()
}

#[test]
fn what_nobody_has_changed_is_not_kept() {
    let mut overlay = overlay();
    assert_eq!(overlay.kept(), None);
    resolve(&mut overlay, &["10.0.0.1", "::1"]);
    assert_eq!(overlay.kept(), None, "what names stand for is looked up anew");
    overlay.tell("a", |settings| settings.backup = true).unwrap();
    assert!(overlay.kept().is_some());
    overlay.tell("a", |settings| settings.backup = false).unwrap();
    assert_eq!(overlay.kept(), None);
    overlay.swap(vec![backend("app", "app.example:80", 2), backend("a", "10.0.0.1:80", 1)]).unwrap();
    assert!(overlay.kept().is_some(), "the order counts too");
}

#[test]
fn every_value_comes_back() {
    let mut before = overlay();
    resolve(&mut before, &["10.0.0.9", "::9", "10.0.0.8"]);
    before
        .tell("sock", |settings| {
            settings.backup = true;
            settings.max_connections = 77;
            settings.max_fails = 9;
            settings.fail_timeout = Duration::from_micros(90_061_000_500);
            settings.slow_start = Duration::from_nanos(1_000_000_007);
            settings.state = State::Maint;
        })
        .unwrap();
    before.tell("app/::9", |settings| settings.state = State::Drain).unwrap();
    before.remove("app/10.0.0.8").unwrap();
    before.remove("a").unwrap();
    before.add(backend("new", "[2001:db8::1]:443", 0), None).unwrap();
    let after = over_a_restart(&before, clocks(5_000_000, 1_700_000_000_000), clocks(3, 1_700_000_100_000));
    assert_eq!(Some(&after), before.kept().as_ref());
    let mut started = overlay();
    started.restore(after).unwrap();
    assert_eq!(names(&started), ["app/::9", "sock", "new"], "only what was edited of a host is known yet");
    resolve(&mut started, &["10.0.0.9", "::9", "10.0.0.8"]);
    assert_eq!(started.backends(), before.backends());
    assert_eq!(started.edits(), before.edits());
}

#[test]
fn a_lease_goes_on_by_the_time_of_the_day() {
    let ttl = Duration::from_secs(60);
    let mut before = overlay();
    let lease = Lease { ttl, until: Time::from_millis(50_000), expired: false };
    before.add(backend("leased", "10.0.0.3:80", 1), Some(lease)).unwrap();
    // (the wall clock at the next start, how much is left of the 40 s then)
    let cases = [
        (1_000_000, Some(40_000)),
        (1_025_000, Some(15_000)),
        (1_040_000, None),
        (9_000_000, None),
        // The clock was set back by an hour: it is not longer than it was taken for.
        (1_000_000 - 3_600_000 / 4, Some(60_000)),
        (0, Some(60_000)),
    ];
    for (wall, left) in cases {
        let after = over_a_restart(&before, clocks(10_000, 1_000_000), clocks(700, wall));
        let (_, lease) = after.source("leased").unwrap();
        let until = Time::from_millis(700 + left.unwrap_or(0));
        assert_eq!(lease, Some(Lease { ttl, until, expired: left.is_none() }), "at {wall}");
        let mut started = overlay();
        started.restore(after).unwrap();
        let drains = started.backends().last().unwrap().state == State::Drain;
        assert_eq!(drains, left.is_none(), "at {wall}");
    }
    before.expire(Time::from_millis(50_000));
    let after = over_a_restart(&before, clocks(60_000, 1_000_000), clocks(700, 0));
    assert!(after.source("leased").unwrap().1.unwrap().expired, "what is over stays over, whatever the clock says");
}

#[test]
fn clocks_may_stand_anywhere() {
    let mut before = overlay();
    let lease = Lease { ttl: DAY, until: Time::from_millis(1) + DAY, expired: false };
    before.add(backend("leased", "10.0.0.3:80", 1), Some(lease)).unwrap();
    let never = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
    let before_1970 = SystemTime::UNIX_EPOCH - DAY;
    for wall in [never, before_1970] {
        over_a_restart(&before, Clocks { now: Time::NEVER, wall }, Clocks { now: Time::ZERO, wall });
        over_a_restart(&before, Clocks { now: Time::ZERO, wall }, Clocks { now: Time::NEVER, wall });
    }
}

#[test]
fn what_changed_in_the_file_meanwhile_counts_as_in_a_reload() {
    let mut before = Overlay::new(vec![
        backend("a", "10.0.0.1:80", 1),
        backend("b", "10.0.0.2:80", 1),
        backend("c", "10.0.0.3:80", 1),
        backend("d", "10.0.0.4:80", 1),
    ]);
    for (name, weight) in [("a", 7), ("b", 5)] {
        before.tell(name, |settings| settings.weight = Weight::new(weight).unwrap()).unwrap();
    }
    before.remove("c").unwrap();
    before.add(backend("x", "10.0.0.5:80", 4), None).unwrap();
    let mut reloaded = before.clone();
    let file = vec![
        backend("a", "10.0.0.1:80", 2),
        backend("b", "10.0.0.2:80", 1),
        backend("c", "10.0.0.3:80", 1),
        backend("e", "10.0.0.6:80", 1),
    ];
    reloaded.merge(file.clone());
    let mut started = Overlay::new(file);
    started.restore(over_a_restart(&before, clocks(1, 1), clocks(1, 1))).unwrap();
    assert_eq!(started, reloaded);
    let weights: Vec<(String, u32)> =
        started.backends().iter().map(|settings| (settings.name.clone(), settings.weight.as_u32())).collect();
    assert_eq!(weights, [("a".into(), 2), ("b".into(), 5), ("e".into(), 1), ("x".into(), 4)]);
}

#[test]
fn what_would_be_no_set_changes_nothing() {
    let mut before = overlay();
    before.remove("app").unwrap();
    before.add(backend("app/10.0.0.7", "10.0.0.7:80", 1), None).unwrap();
    let kept = over_a_restart(&before, clocks(1, 1), clocks(1, 1));
    // The host has become another one meanwhile, so that the configuration counts: and its backends have such names.
    let file = vec![backend("app2", "app.example:80", 2), backend("app", "app.example:81", 2)];
    let mut started = Overlay::new(file.clone());
    let mut kept_host = kept;
    kept_host.file.retain(|backend| backend.name() != "app");
    assert_eq!(started.restore(kept_host), Err(EditError::HostKind("app/10.0.0.7".into(), "app".into())));
    assert_eq!(started, Overlay::new(file));
}

#[test]
fn damage_is_told_with_its_place() {
    let mut changed = overlay();
    changed.tell("a", |settings| settings.weight = Weight::new(9).unwrap()).unwrap();
    let lease = Lease { ttl: DAY, until: Time::ZERO + DAY, expired: false };
    changed.add(backend("leased", "10.0.0.3:80", 1), Some(lease)).unwrap();
    let kept = Kept { pool: "web".into(), overlay: changed.kept().unwrap() };
    let text = String::from_utf8(write(&[kept], clocks(1, 1))).unwrap();
    let told = |text: &str| parse(text.as_bytes(), clocks(1, 1)).unwrap_err().to_string();
    let replaced = |what: &str, with: &str| {
        assert!(text.contains(what), "{what} in {text}");
        told(&text.replace(what, with))
    };
    for (shown, expected) in [
        (told(""), "it is not the JSON of a state file: EOF"),
        (told("[]"), "it is not the JSON of a state file: "),
        (told("{\"version\":1}"), "missing field `ringlb`"),
        (told(&text[..text.len() / 2]), "it is not the JSON of a state file: "),
        (told(&format!("{text}x")), "trailing characters"),
        (replaced("\"version\":1", "\"version\":2"), "version 2 of the form, written by ringlb \"0"),
        (replaced("\"name\":\"web\"", "\"name\":\"w b\""), "pool \"w b\": "),
        (replaced("\"weight\":9", "\"weight\":99999"), "pool \"web\", backend \"a\": the weight 99999 is more than"),
        (replaced("\"weight\":9", "\"weight\":-9"), "invalid value"),
        (replaced("\"weight\":9", "\"wieght\":9"), "unknown field `wieght`"),
        (replaced("10.0.0.3:80", "10.0.0.3"), "backend \"leased\": "),
        (replaced("\"state\":\"ready\"", "\"state\":\"reday\""), "\"reday\" is not a state"),
        (replaced("\"ttl\":\"1day\"", "\"ttl\":\"0s\""), "\"0s\" is not a duration from 1s to 1day"),
        (replaced("\"until\":\"1970-", "\"until\":\"197-"), "backend \"leased\": until "),
        (replaced("\"name\":\"leased\"", "\"name\":\"le ased\""), "backend \"le ased\": "),
        (replaced("{\"name\":\"app\"}", "{\"name\":\"apple\"}"), "backend \"apple\": nothing says what it is"),
    ] {
        assert!(shown.contains(expected), "{shown}, not {expected}");
    }
    let pool = text.split_once("\"pools\":[").unwrap().1.rsplit_once("]}").unwrap().0;
    assert!(told(&text.replace(pool, &format!("{pool},{pool}"))).contains("pool \"web\": it stands there twice"));
}

/// What an operator may do, drawn at random.
fn edits() -> impl Strategy<Value = Vec<(u8, u8, u32)>> {
    proptest::collection::vec((0..9_u8, 0..5_u8, 0..=WEIGHT_MAX), 1..12)
}

fn edited(edits: &[(u8, u8, u32)]) -> Overlay {
    let mut overlay = overlay();
    resolve(&mut overlay, &["10.0.0.9", "::9"]);
    let names = ["a", "app", "app/::9", "b", "c"];
    for (kind, which, number) in edits {
        let name = names[usize::from(*which)];
        let weight = Weight::new(*number).unwrap();
        let lease = Lease { ttl: DAY, until: Time::from_millis(u64::from(*number)) + DAY, expired: *number % 3 == 0 };
        // What is not possible changes nothing.
        let result = match kind {
            0 => overlay.tell(name, |settings| settings.weight = weight),
            1 => overlay.tell(name, |settings| settings.state = State::ALL[*number as usize % 3]),
            2 => {
                overlay.tell(name, |settings| settings.fail_timeout = Duration::from_micros(1000 + u64::from(*number)))
            }
            3 => overlay.tell(name, |settings| settings.max_connections = *number),
            4 => overlay.remove(name),
            5 => overlay.clone().add(backend(name, "10.0.0.7:80", *number), None).map(|()| {
                overlay.add(backend(name, "10.0.0.7:80", *number), None).unwrap();
            }),
            6 => overlay.clone().put(backend(name, "[::7]:80", 1), Some(lease)).map(|()| {
                overlay.put(backend(name, "[::7]:80", 1), Some(lease)).unwrap();
            }),
            7 => overlay.tell(name, |settings| settings.slow_start = Duration::from_nanos(u64::from(*number))),
            _ => overlay.tell(name, |settings| settings.max_fails = *number % 100),
        };
        drop(result);
    }
    overlay
}

proptest! {
    #[test]
    fn what_is_kept_comes_back(edits in edits()) {
        let before = edited(&edits);
        let Some(kept) = before.kept() else { return Ok(()) };
        let clocks = clocks(0, 1_700_000_000_000);
        let text = write(&[Kept { pool: "web".into(), overlay: kept.clone() }], clocks);
        let state = parse(&text, clocks);
        let mut expected = kept.clone();
        for lease in expected.live.iter_mut().filter_map(|entry| entry.lease.as_mut()) {
            lease.until = lease.until.min(clocks.now + lease.ttl);
        }
        prop_assert_eq!(state, Ok(vec![Kept { pool: "web".into(), overlay: expected.clone() }]));
        let mut started = overlay();
        prop_assert_eq!(started.restore(expected.clone()), Ok(()));
        prop_assert_eq!(&started, &expected, "where the file is what it was, nothing else has changed");
        resolve(&mut started, &["10.0.0.9", "::9"]);
        prop_assert_eq!(started.backends().len(), before.backends().len());
    }

    /// Whatever was edited, and whatever became of the file meanwhile: a restart and a reload come to the same.
    #[test]
    fn a_restart_is_a_reload(edits in edits(), stay in 0..8_u8, weights in proptest::array::uniform3(1..4_u32), more in 0..3_u32) {
        let before = edited(&edits);
        let Overlay { file, .. } = overlay();
        let told = |(number, backend): (usize, &Backend)| {
            let target = match (backend.target(), more) {
                (Target::Host(_), 2) => notation::target("other.example:81").unwrap(),
                (target, _) => target,
            };
            let weight = Weight::new(weights[number]).unwrap();
            Backend::new(target, |address| BackendSettings { address, weight, ..backend.settings().clone() })
        };
        let stays = |(number, _): &(usize, &Backend)| stay & (1 << number) > 0;
        let mut next: Vec<Backend> = file.iter().enumerate().filter(stays).map(told).collect();
        next.extend((more > 0).then(|| backend("b", "10.0.0.4:80", 4)));
        let mut reloaded = before.clone();
        reloaded.merge(next.clone());
        let mut started = Overlay::new(next);
        match before.kept() {
            None => prop_assert_eq!(&started.kept(), &None),
            Some(_) => {
                let restored = started.restore(over_a_restart(&before, clocks(0, 1000), clocks(0, 1000)));
                prop_assume!(restored.is_ok(), "a name of a host's kind is refused");
            }
        }
        // What names stand for comes with the next look-up, and only what was edited is there before.
        for overlay in [&mut started, &mut reloaded] {
            resolve(overlay, &["10.0.0.9", "::9"]);
            for lease in overlay.live.iter_mut().filter_map(|entry| entry.lease.as_mut()) {
                lease.until = lease.until.min(Time::ZERO + lease.ttl);
            }
        }
        prop_assert_eq!(started.backends(), reloaded.backends());
        prop_assert_eq!(started.edits(), reloaded.edits());
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,80}", cut in 0..2000_usize, byte in any::<u8>()) {
        parse(text.as_bytes(), clocks(1, 1)).unwrap_err();
        let kept = edited(&[(0, 0, 7), (6, 3, 8), (4, 2, 0)]).kept().unwrap();
        let mut text = write(&[Kept { pool: "web".into(), overlay: kept }], clocks(1, 1));
        let at = cut % text.len();
        text[at] = byte;
        if let Ok(state) = parse(&text, clocks(1, 1)) {
            let again = parse(&write(&state, clocks(1, 1)), clocks(1, 1));
            prop_assert_eq!(again, Ok(state));
        }
    }
}
