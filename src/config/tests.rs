//! Every way to get a configuration wrong, with the exact words that a person gets to see, and what right ones mean.

use proptest::prelude::*;
use proptest::sample::Index;

use super::health::{Check, OnDown};
use super::*;
use crate::balance::settings::{Policy, Weight};

/// Cases: `### title`, the text of a file, `---`, and what is shown for it. A title that ends in `+ web` stands for a text
/// with [`WEB`] behind it.
const FAULTS: &str = include_str!("faults.txt");

const WEB: &str = "[[listener]]\nname = \"web\"\nbind = \":80\"\npool = \"web\"\n\
                   [[pool]]\nname = \"web\"\n[[pool.backend]]\naddress = \"127.0.0.1:3000\"\n";

const EXAMPLE: &str = include_str!("../../config/ringlb.toml");

fn parse(text: &str) -> Result<Checked, Faults> {
    Config::parse("web.toml", text, &Overrides::default())
}

fn valid(text: &str) -> Config {
    parse(text).unwrap_or_else(|faults| panic!("{faults}")).config
}

fn shown(text: &str) -> String {
    match parse(text) {
        Ok(checked) => checked.warnings.to_string(),
        Err(faults) => faults.to_string(),
    }
}

fn bind(text: &str) -> Bind {
    notation::bind(text).unwrap()
}

fn workers(count: usize) -> Option<Workers> {
    NonZeroUsize::new(count).map(Workers::Count)
}

#[test]
fn every_fault_is_shown_in_these_words() {
    let mut wrong = String::new();
    let mut cases = 0;
    for case in FAULTS.split("### ").skip(1) {
        let (title, rest) = case.split_once('\n').unwrap();
        let (text, expected) = rest.split_once("---\n").unwrap();
        let whole = if title.ends_with("+ web") { format!("{text}{WEB}") } else { text.to_owned() };
        let shown = shown(&whole);
        assert!(!shown.is_empty(), "{title}: no fault");
        if shown.trim_end() != expected.trim_end() {
            wrong.push_str(&format!("### {title}\n{text}---\n{shown}\n"));
        }
        cases += 1;
    }
    assert!(cases > 60, "{cases} cases");
    assert!(wrong.is_empty(), "these are shown otherwise now:\n{wrong}");
}

#[test]
fn a_file_means_what_it_says() {
    let config = valid(
        "
        workers = 3
        max_connections = 1_000
        shutdown_delay = '5s'
        shutdown_timeout = '1m 30s'
        log = 'warn, ringlb::worker=trace'
        log_format = 'json'
        metrics = ':9090'
        backend_series_max = 0
        [[listener]]
        name = 'a'
        bind = ['127.0.0.1:80', 'unix:/run/a.sock', '[::1]:0']
        pool = 'p'
        max_connections = 7
        idle_timeout = '0s'
        keepalive = '0s'
        dead_peer_timeout = '0s'
        backlog = 0x10
        [[listener]]
        name = 'b'
        bind = ':81'
        pool = 'p'
        [[pool]]
        name = 'p'
        policy = 'round_robin'
        resolve_interval = '1m'
        connect_timeout = '250ms'
        connect_attempts = 1
        connect_budget = '2s'
        keepalive = '5s'
        max_fails = 5
        fail_timeout = '20s'
        fail_share = 0.25
        max_ejected_percent = 50
        [[pool.backend]]
        address = '[::1]:3000'
        weight = 0
        backup = true
        max_connections = 9
        slow_start = '3s'
        [[pool.backend]]
        name = 'second'
        max_fails = 0
        fail_timeout = '1ms'
        address = 'unix:/run/my second.sock'
        weight = 65535
        [[pool.backend]]
        address = 'App.Example:3000'
        weight = 5
        ",
    );
    assert_eq!(Some(config.workers()), workers(3));
    assert_eq!(config.max_connections(), NonZeroU32::new(1000));
    assert_eq!(config.backend_series_max(), 0);
    assert_eq!(config.shutdown_delay(), Duration::from_secs(5));
    assert_eq!(config.shutdown_timeout(), Duration::from_secs(90));
    assert_eq!(config.log().targets().default_level(), Some(LevelFilter::WARN));
    assert!(config.log().targets().would_enable("ringlb::worker::session", &tracing::Level::TRACE));
    assert!(!config.log().targets().would_enable("ringlb::server", &tracing::Level::INFO));
    assert_eq!(config.log_format(), LogFormat::Json);
    assert_eq!(config.metrics(), Some(&Bind::AllAddresses(9090)));
    let [a, b] = config.listeners() else { panic!("{config:?}") };
    assert_eq!(a.bind, [bind("127.0.0.1:80"), bind("unix:/run/a.sock"), bind("[::1]:0")]);
    assert_eq!(a.max_connections, NonZeroU32::new(7));
    assert_eq!((a.idle_timeout, a.keepalive, a.dead_peer_timeout), (None, None, None));
    assert_eq!(a.backlog.get(), 16);
    assert_eq!((&*b.name, b.idle_timeout, b.max_connections), ("b", Some(Duration::from_secs(600)), None));
    let pool = config.pool(&a.pool).unwrap();
    assert_eq!(pool.settings.policy, Policy::RoundRobin);
    assert_eq!(pool.settings.connect_timeout, Duration::from_millis(250));
    assert_eq!(pool.settings.connect_attempts, 1);
    assert_eq!(pool.settings.keepalive, Some(Duration::from_secs(5)));
    assert_eq!(pool.connect_budget, Duration::from_secs(2));
    assert_eq!(pool.resolve_interval, Duration::from_secs(60));
    assert_eq!((&pool.health, pool.settings.health, config.resolvers()), (&None, None, &[][..]));
    let [Backend::Fixed(first), Backend::Fixed(second), Backend::Named(third)] = &*pool.backends else {
        panic!("{pool:?}")
    };
    let at = third.at("10.0.0.1".parse().unwrap());
    assert_eq!((third.name(), &*at.name, at.weight.as_u32()), ("app.example:3000", "app.example:3000/10.0.0.1", 5));
    assert_eq!(at.address, Address::Inet("10.0.0.1:3000".parse().unwrap()));
    assert_eq!((&*first.name, first.weight.as_u32()), ("[::1]:3000", 0));
    assert_eq!((&*second.name, second.weight.as_u32()), ("second", 65_535));
    assert_eq!((first.backup, first.max_connections, first.slow_start), (true, 9, Duration::from_secs(3)));
    assert_eq!((first.max_fails, first.fail_timeout), (5, Duration::from_secs(20)), "as the pool says");
    assert_eq!((second.max_fails, second.fail_timeout), (0, Duration::from_millis(1)), "as it says itself");
    assert_eq!((second.backup, second.max_connections, second.slow_start), (false, 0, Duration::ZERO));
    assert_eq!((at.max_fails, at.backup), (5, false), "those of a host too");
    assert_eq!(pool.settings.fail_share.as_f64(), 0.25);
    assert_eq!(pool.settings.max_ejected_percent.as_u8(), 50);
    assert_eq!(second.address, Address::Unix("/run/my second.sock".into()));
}

#[test]
fn checks_mean_what_they_say() {
    let health = |text: &str| {
        let config = valid(&format!("{WEB}[pool.health]\n{text}"));
        (config.pools()[0].settings.health.unwrap(), config.pools()[0].health.clone().unwrap())
    };
    let (counts, tcp) = health("kind = 'tcp'\n");
    assert_eq!((counts.rise, counts.fall), (2, 3));
    let expected = Health {
        check: Check::Tcp,
        port: None,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        on_down: OnDown::Keep,
    };
    assert_eq!(tcp, expected);

    let (counts, http) = health(
        "kind = 'http'\nrise = 1\nfall = 255\ninterval = '100ms'\ntimeout = '1ms'\non_down = 'close'\nport = 8081\n\
         path = '/health?from=ringlb'\nexpect_status = [204, '300-399']\nhost = 'app.example:80'\n",
    );
    assert_eq!((counts.rise, counts.fall), (1, 255));
    assert_eq!((http.interval, http.timeout), (Duration::from_millis(100), Duration::from_millis(1)));
    assert_eq!((http.port.unwrap().get(), http.on_down), (8081, OnDown::Close));
    let Check::Http { path, expect, host } = &http.check else { panic!("{http:?}") };
    assert_eq!((path.as_str(), host.as_ref().unwrap().to_str().unwrap()), ("/health?from=ringlb", "app.example:80"));
    assert_eq!(expect.to_string(), "204, 300-399");
    let passing: Vec<u16> = (100..600).filter(|status| expect.contains(*status)).collect();
    assert_eq!(passing, std::iter::once(204).chain(300..400).collect::<Vec<_>>());
}

#[test]
fn name_servers_are_addresses() {
    let config = valid(&format!("resolvers = ['10.0.0.2', '[::1]:5300']\n{WEB}"));
    assert_eq!(config.resolvers(), ["10.0.0.2:53".parse().unwrap(), "[::1]:5300".parse().unwrap()]);
}

#[test]
fn numbers_mean_the_same_in_every_base() {
    assert_eq!(Some(valid(&format!("workers = 0x10\n{WEB}")).workers()), workers(16));
    assert_eq!(Some(valid(&format!("workers = 1_0\n{WEB}")).workers()), workers(10));
}

#[test]
fn the_order_of_the_file_is_kept() {
    let text = format!("{WEB}[[pool.backend]]\naddress = \"127.0.0.1:80\"\nname = \"0\"\n");
    let text = text.replace("\":80\"", "\":81\"");
    let names: Vec<String> = valid(&text).pools()[0].backends.iter().map(|one| one.name().to_owned()).collect();
    assert_eq!(names, ["127.0.0.1:3000", "0"]);
}

#[test]
fn free_ports_do_not_overlap() {
    let text = WEB.replace("\":80\"", "[\":0\", \":0\", \"127.0.0.1:0\", \"0.0.0.0:80\", \"[::]:80\"]");
    assert_eq!(valid(&text).listeners()[0].bind.len(), 5);
}

#[test]
fn all_addresses_are_one_socket_of_each_family() {
    let texts: Vec<String> = bind(":80").addresses().iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["0.0.0.0:80", "[::]:80"]);
    assert_eq!(bind("unix:/x").addresses(), [Address::Unix("/x".into())]);
    for text in [":80", "[::1]:0", "unix:/run/a b.sock"] {
        assert_eq!(bind(text).to_string(), text);
    }
}

#[test]
fn options_count_for_more_than_the_file() {
    let overrides = Overrides { workers: workers(2), metrics: Some(bind("127.0.0.1:9")), admin: None };
    let text = format!("workers = 8\nmetrics = \"127.0.0.1:8\"\n{WEB}");
    let config = Config::parse("web.toml", &text, &overrides).unwrap().config;
    assert_eq!((Some(config.workers()), config.metrics()), (workers(2), Some(&bind("127.0.0.1:9"))));

    let overrides = Overrides { metrics: Some(bind("0.0.0.0:80")), ..Overrides::default() };
    let faults = Config::parse("web.toml", WEB, &overrides).unwrap_err().to_string();
    assert!(faults.starts_with("error: --metrics: the address \"0.0.0.0:80\" is taken already\n"), "{faults}");
}

#[test]
fn options_alone_make_one_listener_and_one_pool() {
    let flags = Flags {
        listen: vec![bind(":80"), bind("unix:/run/a.sock")],
        backends: vec![FlagBackend::parse("127.0.0.1:3000,weight=5").unwrap(), FlagBackend::parse("unix:/b").unwrap()],
        policy: Some(Policy::RoundRobin),
        overrides: Overrides { workers: workers(1), metrics: Some(bind(":9090")), admin: None },
    };
    let config = Config::from_flags(&flags).unwrap().config;
    let file = valid(
        "
        workers = 1
        metrics = ':9090'
        [[listener]]
        name = 'default'
        bind = [':80', 'unix:/run/a.sock']
        pool = 'default'
        [[pool]]
        name = 'default'
        policy = 'round_robin'
        [[pool.backend]]
        address = '127.0.0.1:3000'
        weight = 5
        [[pool.backend]]
        address = 'unix:/b'
        ",
    );
    assert_eq!(config, file);
}

#[test]
fn options_that_do_not_fit_are_told() {
    let faults = |listen: &[&str], backends: &[&str]| {
        let listen = listen.iter().map(|text| bind(text)).collect();
        let backends = backends.iter().map(|text| FlagBackend::parse(text).unwrap()).collect();
        match Config::from_flags(&Flags { listen, backends, ..Flags::default() }) {
            Ok(checked) => checked.warnings.to_string(),
            Err(faults) => faults.to_string(),
        }
    };
    assert!(faults(&[], &[]).contains("command line: error: there is no listener"));
    assert!(faults(&[":80"], &[]).starts_with("warning: --backend: the pool \"default\" has no backend\n"));
    assert!(faults(&[":80", "127.0.0.1:80"], &["127.0.0.1:1"]).starts_with("error: --listen: the address"));
    assert!(faults(&[":80"], &["127.0.0.1:80"]).starts_with("error: --backend: the backend \"127.0.0.1:80\" is the"));
    assert!(faults(&[":80"], &["127.0.0.1:1", "127.0.0.1:1"]).starts_with("error: --backend: a second backend"));
    assert_eq!(faults(&[":80"], &["127.0.0.1:1"]), "");
}

#[test]
fn a_backend_option_is_read_or_refused() {
    let backend = FlagBackend::parse("127.0.0.1:1,weight=0").unwrap();
    assert_eq!((backend.name.as_str(), backend.weight), ("127.0.0.1:1", Weight::new(0).unwrap()));
    let backend = FlagBackend::parse("127.0.0.1:1,backup,weight=3").unwrap();
    assert_eq!((backend.backup, backend.weight), (true, Weight::new(3).unwrap()));
    for (text, expected) in [
        ("127.0.0.1:1,weight=65536", "\"65536\" is not a weight: weights are whole numbers from 0 to 65535"),
        ("127.0.0.1:1,weight=-1", "\"-1\" is not a weight"),
        ("127.0.0.1:1,wieght=1", "\"wieght=1\" says nothing of a backend"),
        ("127.0.0.1:1,", "\"\" says nothing of a backend"),
        ("127.0.0.1:1,backup=1", "\"backup=1\" says nothing of a backend"),
        ("unix:/a b", "\"unix:/a b\" cannot be a name"),
        ("web:0", "has port 0"),
    ] {
        let problem = FlagBackend::parse(text).unwrap_err().to_string();
        assert!(problem.contains(expected), "{text}: {problem}");
    }
}

#[test]
fn too_many_of_anything_is_an_error() {
    let many = |count: usize, section: &dyn Fn(usize) -> String| (0..count).map(section).collect::<String>();
    let listeners = many(1025, &|n| format!("[[listener]]\nname = 'l{n}'\nbind = 'unix:/{n}'\npool = 'p0'\n"));
    let pools = many(4097, &|n| format!("[[pool]]\nname = 'p{n}'\n"));
    let backends = many(16_385, &|n| format!("[[pool.backend]]\naddress = 'unix:/b{n}'\n"));
    let faults = parse(&format!("{listeners}{pools}{backends}")).unwrap_err().to_string();
    for expected in
        ["1025 listeners", "1025 addresses to bind", "4097 pools", "16385 backends in this pool", "the most is 16384"]
    {
        assert!(faults.contains(expected), "{expected}: {faults}");
    }
}

#[test]
fn a_deep_file_is_refused_and_not_climbed() {
    for text in ["a = [", "a = { a = ", "[[", "[a.", "a."].map(|part| part.repeat(50_000)) {
        assert!(parse(&text).unwrap_err().has_errors());
    }
}

#[test]
fn a_file_that_cannot_be_read_says_why_and_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let load = |path: &Path| Config::load(path, &Overrides::default());
    let error = load(&directory.path().join("none.toml")).unwrap_err().to_string();
    assert!(error.contains("none.toml: the configuration cannot be read: No such file"), "{error}");
    assert!(error.ends_with("write that file, or name another with --config FILE"), "{error}");
    let error = load(directory.path()).unwrap_err().to_string();
    assert!(error.ends_with("name the file in it with --config FILE"), "{error}");

    let file = directory.path().join("latin.toml");
    std::fs::write(&file, b"# gr\xfc\xdfe\n").unwrap();
    let error = load(&file).unwrap_err().to_string();
    assert!(error.contains("latin.toml:1:5: error: this byte is not UTF-8\n 1 | # gr\u{fffd}\u{fffd}e\n"), "{error}");

    let zero = std::fs::File::create(&file).unwrap();
    zero.set_len(CONFIG_BYTES_MAX + 1).unwrap();
    let error = load(&file).unwrap_err().to_string();
    assert!(error.contains("is larger than 16777216 bytes"), "{error}");

    std::fs::write(&file, format!("\u{feff}{WEB}")).unwrap();
    let read = load(&file).unwrap().config;
    assert_eq!(read.pools(), valid(WEB).pools());
    let origin = Origin { file, overrides: Overrides::default() };
    assert_eq!(read.origin(), Some(&origin), "it can be read again");
}

#[test]
fn what_is_similar_is_suggested_and_nothing_else() {
    let names = ["idle_timeout", "keepalive", "max_connections", "bind"];
    let nearest = |typed: &str| value::nearest(typed, names);
    assert_eq!(nearest("idle_timout"), Some("idle_timeout"));
    assert_eq!(nearest("Bind"), Some("bind"));
    assert_eq!(nearest("bnid"), Some("bind"));
    assert_eq!(nearest("max_conn"), Some("max_connections"));
    assert_eq!(nearest("tls"), None);
    assert_eq!(nearest(&"x".repeat(100_000)), None);
}

/// What must hold of every valid configuration, because nobody asks again.
fn assert_sound(config: &Config) {
    assert!(!config.listeners().is_empty());
    for listener in config.listeners() {
        assert!(!listener.bind.is_empty());
        assert!(config.pool(&listener.pool).is_some());
        assert!(listener.keepalive.is_none_or(|keepalive| keepalive.as_secs() > 0));
    }
    for pool in config.pools() {
        assert!((1..=16).contains(&pool.settings.connect_attempts));
        assert!(!pool.settings.connect_timeout.is_zero() && !pool.connect_budget.is_zero());
        let mut names: Vec<&str> = pool.backends.iter().map(Backend::name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), pool.backends.len());
    }
}

fn survives(text: &str) {
    match parse(text) {
        Ok(checked) => assert_sound(&checked.config),
        Err(faults) => assert!(faults.has_errors() && !faults.render(true).is_empty()),
    }
}

/// Pieces that mean something, so that chance finds more than syntax errors.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(keys::KEYS).prop_map(|key| format!("{} = ", key.name)),
        prop::sample::select(keys::Place::ALL).prop_map(|place| format!("\n{}\n", place.header())),
        prop::sample::select(&["\"", "'", "[", "]", "{", "}", "\n", "=", ",", "#", ".", "\0", "\u{1f}", "ß"][..])
            .prop_map(str::to_owned),
        prop::sample::select(
            &["0", "-1", "1e9", "\"10s\"", "\":80\"", "\"a:1\"", "\"web\"", "true", "\"99999999w\""][..]
        )
        .prop_map(|value| format!("{value}\n")),
    ]
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        survives(&text);
    }

    #[test]
    fn no_mixture_of_pieces_makes_it_panic(pieces in prop::collection::vec(piece(), 0..40)) {
        survives(&pieces.concat());
    }

    /// Cut, doubled or spliced at any place, the example is still either an error or a valid configuration.
    #[test]
    fn no_mutation_of_the_example_makes_it_panic(
        from in any::<Index>(), length in 0..60_usize, insert in piece(), count in 0..3_usize,
    ) {
        let chars: Vec<char> = EXAMPLE.chars().collect();
        let from = from.index(chars.len());
        let to = (from + length).min(chars.len());
        let (before, after) = (String::from_iter(&chars[..from]), String::from_iter(&chars[to..]));
        survives(&(before + &insert.repeat(count) + &after));
    }

    #[test]
    fn no_duration_makes_it_panic(
        text in "[0-9]{0,25}[.,-]?[0-9]{0,5}(ns|us|ms|s|m|h|d|w|years| ){0,2}[0-9]{0,21}(ns|s|years)?",
    ) {
        survives(&format!("shutdown_delay = \"{text}\"\n{WEB}"));
    }

    #[test]
    fn no_address_makes_it_panic(text in "(unix:|:|\\[)?[0-9a-f.:]{0,20}\\]?(%[0-9a-z]{1,3})?:?[0-9]{0,6}") {
        if let Ok(bind) = notation::bind(&text) {
            prop_assert_eq!(notation::bind(&bind.to_string()), Ok(bind), "{} cannot be read again", text);
        }
        if let Ok(target) = notation::target(&text) {
            prop_assert_eq!(notation::target(&target.to_string()), Ok(target), "{} cannot be read again", text);
        }
    }
}
