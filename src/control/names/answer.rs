//! What the answers to a look-up mean, without asking anybody: pure functions.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::control::due::vary;
use crate::limits::{CHECK_JITTER, HOST_ADDRESSES_MAX, RESOLVE_RETRY_MIN};

/// The answer to the question for the addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These; where the name has none of this family, or does not exist, none.
    Found(Vec<IpAddr>),
    /// Nobody could say; in words.
    Failed(String),
}

/// What a look-up comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The addresses from now on, in their order: no two are equal.
    pub addresses: Vec<IpAddr>,
    /// Why they are not, or not all, what was just answered.
    pub trouble: Option<String>,
}

/// What the answers for IPv4 and IPv6 make of the addresses that there were `before`.
///
/// A family nobody could answer for stays as it was. A name without any address keeps those that it had: whether they
/// still serve is seen by connecting, while a name server that has lost its data would take all of them away.
pub fn settle(before: &[IpAddr], v4: Answer, v6: Answer) -> Outcome {
    let mut addresses = BTreeSet::new();
    let mut trouble = None;
    for (answer, is_v4) in [(v4, true), (v6, false)] {
        match answer {
            Answer::Found(found) => addresses.extend(found.iter().map(IpAddr::to_canonical).filter(is_a_server)),
            Answer::Failed(why) => {
                addresses.extend(before.iter().filter(|ip| ip.is_ipv4() == is_v4));
                trouble = trouble.or(Some(why));
            }
        }
    }
    if addresses.is_empty() {
        let why = trouble.unwrap_or_else(|| "there is no address under this name".to_owned());
        return Outcome { addresses: before.to_vec(), trouble: Some(why) };
    }
    if addresses.len() > HOST_ADDRESSES_MAX {
        let why = format!("it has {} addresses, of which {HOST_ADDRESSES_MAX} are used", addresses.len());
        trouble = trouble.or(Some(why));
    }
    Outcome { addresses: addresses.into_iter().take(HOST_ADDRESSES_MAX).collect(), trouble }
}

/// How long to wait before the next look-up, after so many in a row that met with trouble. `random`: any number, evenly
/// drawn.
pub fn pause(interval: Duration, failures: u32, random: u64) -> Duration {
    let base = match failures.checked_sub(1) {
        None => interval,
        Some(doublings) => interval.min(RESOLVE_RETRY_MIN.saturating_mul(1 << doublings.min(20))),
    };
    vary(base, CHECK_JITTER, random)
}

/// The complete names that `host` may stand for, in the order in which they are tried: as it is first, or last where it
/// has fewer than `ndots` dots. One that ends in a dot is complete.
pub fn candidates(host: &str, ndots: usize, search: &[String]) -> Vec<String> {
    if host.ends_with('.') {
        return vec![host.to_owned()];
    }
    let itself = format!("{host}.");
    if host == "localhost" || host.ends_with(".localhost") {
        return vec![itself];
    }
    let domains = search.iter().map(|domain| domain.trim_matches('.')).filter(|domain| !domain.is_empty());
    let mut names: Vec<String> = domains.map(|domain| format!("{host}.{domain}.")).collect();
    let at = if host.matches('.').count() >= ndots { 0 } else { names.len() };
    names.insert(at, itself);
    names
}

/// No server listens on an address that means "none" or "many"; to connect to the first would be to connect to this
/// host.
fn is_a_server(ip: &IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && *ip != IpAddr::from([255, 255, 255, 255])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn found(texts: &[&str]) -> Answer {
        Answer::Found(ips(texts))
    }

    fn failed() -> Answer {
        Answer::Failed("no answer".to_owned())
    }

    #[test]
    fn an_answer_replaces_what_was() {
        let outcome = settle(&ips(&["10.0.0.9", "::9"]), found(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]), found(&["::1"]));
        assert_eq!(outcome, Outcome { addresses: ips(&["10.0.0.1", "10.0.0.2", "::1"]), trouble: None });
        let outcome = settle(&ips(&["10.0.0.9", "::9"]), found(&["10.0.0.1"]), found(&[]));
        assert_eq!(outcome, Outcome { addresses: ips(&["10.0.0.1"]), trouble: None });
    }

    #[test]
    fn a_family_nobody_answers_for_stays() {
        let before = ips(&["10.0.0.1", "::1"]);
        let outcome = settle(&before, found(&["10.0.0.2"]), failed());
        assert_eq!(outcome.addresses, ips(&["10.0.0.2", "::1"]));
        assert_eq!(outcome.trouble.as_deref(), Some("no answer"));
        assert_eq!(settle(&before, failed(), found(&[])).addresses, ips(&["10.0.0.1"]));
        assert_eq!(settle(&before, failed(), failed()).addresses, before);
    }

    #[test]
    fn a_name_that_has_lost_all_addresses_keeps_them() {
        let before = ips(&["10.0.0.1"]);
        let outcome = settle(&before, found(&[]), found(&[]));
        assert_eq!(outcome.addresses, before);
        assert_eq!(outcome.trouble.as_deref(), Some("there is no address under this name"));
        assert_eq!(settle(&[], failed(), found(&[])).trouble.as_deref(), Some("no answer"));
    }

    #[test]
    fn what_is_no_server_is_left_out() {
        let outcome = settle(
            &[],
            found(&["0.0.0.0", "255.255.255.255", "224.0.0.1"]),
            found(&["::", "ff02::1", "::ffff:10.0.0.1"]),
        );
        assert_eq!(outcome, Outcome { addresses: ips(&["10.0.0.1"]), trouble: None });
    }

    #[test]
    fn too_many_addresses_are_cut_and_told() {
        let many: Vec<IpAddr> =
            (0..=HOST_ADDRESSES_MAX as u32).map(|n| IpAddr::from((0x0a00_0001 + n).to_be_bytes())).collect();
        let outcome = settle(&[], Answer::Found(many.clone()), found(&[]));
        assert_eq!(outcome.addresses, many[..HOST_ADDRESSES_MAX]);
        assert_eq!(outcome.trouble.as_deref(), Some("it has 1025 addresses, of which 1024 are used"));
    }

    #[test]
    fn trouble_is_met_with_patience() {
        let seconds = |failures| pause(Duration::from_secs(10), failures, u64::MAX / 2).as_secs_f64().round();
        assert_eq!([0, 1, 2, 3, 4, 5, u32::MAX].map(seconds), [10.0, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]);
    }

    #[test]
    fn a_name_is_tried_as_the_system_would() {
        let search = ["a.example".to_owned(), "b.example.".to_owned()];
        assert_eq!(candidates("app", 1, &search), ["app.a.example.", "app.b.example.", "app."]);
        assert_eq!(candidates("app.x", 1, &search), ["app.x.", "app.x.a.example.", "app.x.b.example."]);
        assert_eq!(candidates("app.x", 5, &search), ["app.x.a.example.", "app.x.b.example.", "app.x."]);
        assert_eq!(candidates("app.", 1, &search), ["app."]);
        assert_eq!(candidates("localhost", 1, &search), ["localhost."]);
    }

    fn answer() -> impl Strategy<Value = Answer> {
        prop_oneof![Just(failed()), prop::collection::vec(any::<IpAddr>(), 0..6).prop_map(Answer::Found),]
    }

    proptest! {
        #[test]
        fn addresses_are_never_lost_without_a_better_answer(
            before in prop::collection::btree_set(any::<IpAddr>(), 0..6), v4 in answer(), v6 in answer(),
        ) {
            let before: Vec<IpAddr> = before.into_iter().collect();
            let outcome = settle(&before, v4.clone(), v6.clone());
            prop_assert!(before.is_empty() || !outcome.addresses.is_empty());
            let distinct: BTreeSet<&IpAddr> = outcome.addresses.iter().collect();
            prop_assert_eq!(distinct.len(), outcome.addresses.len());
            let both_failed = matches!((&v4, &v6), (Answer::Failed(_), Answer::Failed(_)));
            prop_assert!(!both_failed || outcome.addresses == before);
            prop_assert_eq!(settle(&outcome.addresses, v4, v6).addresses, outcome.addresses, "to hear it again changes nothing");
        }
    }
}
