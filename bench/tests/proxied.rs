//! The whole way with a proxy: scenarios that look into it, the page that is made of them, and the end by a signal.
//!
//! The proxy is ringlb: this program itself, started once more with [`AS_RINGLB`] set. That takes a `main` instead of
//! the test harness.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Makes this program ringlb, which leaves its process id as a file in the directory of that name.
const AS_RINGLB: &str = "RINGLB_BENCH_TEST_DIRECTORY";

const SCENARIOS: &str = "request:4x64,request:8x64,request:16x64,request:32x64,connect:4x64/1,connect:4x64/5,\
    connect:4x64/25,connect:4x64/100,spike:40,balance:40";

/// How long anything may take that has to happen.
const DEADLINE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if let Some(directory) = std::env::var_os(AS_RINGLB) {
        if std::env::args().nth(1).as_deref() == Some("run") {
            std::fs::write(Path::new(&directory).join(std::process::id().to_string()), "").expect("it can be written");
        }
        return ringlb::cli::main();
    }
    scenarios_look_into_the_proxy_and_become_a_page();
    a_signal_ends_the_proxy_too();
    ExitCode::SUCCESS
}

/// The comparison with this program as ringlb, whose traces go to `directory`.
fn compare(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringlb-bench"));
    let myself = std::env::current_exe().expect("a program knows its file");
    command.args(["compare", "--rounds", "1", "--warmup", "0.05", "--ringlb"]).arg(myself).env(AS_RINGLB, directory);
    command
}

fn scenarios_look_into_the_proxy_and_become_a_page() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let traces = tempfile::tempdir().expect("a temporary directory can be made");
    let json = directory.path().join("small.json");
    let output = compare(traces.path())
        .args(["--peers", "ringlb,direct", "--seconds", "0.1", "--scenario", SCENARIOS, "--json"])
        .arg(&json)
        .output()
        .expect("the program starts");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");

    let bytes = std::fs::read(&json).expect("the report was written");
    let report: Value = serde_json::from_slice(&bytes).expect("the report is JSON");
    let scenarios = report["scenarios"].as_array().expect("scenarios are a list");
    assert_eq!(scenarios.len(), 10, "{text}");
    scenarios.iter().for_each(look_at);

    let output = Command::new(env!("CARGO_BIN_EXE_ringlb-bench"))
        .args(["report", "--commit", "0123abc", "--out"])
        .arg(directory.path())
        .arg(&json)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let page = std::fs::read_to_string(directory.path().join("README.md")).expect("the page was written");
    for piece in ["| code | 0123abc |", "| `balance:40` |", "connect:4x64 by backends", "no other peer was measured"] {
        assert!(page.contains(piece), "{piece} is missing in\n{page}");
    }
    let plots: Vec<&str> =
        page.split("](").skip(1).filter_map(|rest| rest.split_once(".svg)")).map(|(name, _)| name).collect();
    let expected = ["small-request-64-by-connections", "small-connect-4x64-by-backends", "small-spike-40"];
    assert_eq!(plots, expected, "{page}");
    for plot in plots {
        assert!(directory.path().join(format!("{plot}.svg")).exists(), "{plot}");
    }
}

/// What has to be true of one scenario's figures, whatever they are.
fn look_at(scenario: &Value) {
    let name = scenario["scenario"].as_str().expect("a scenario has a name");
    let peer = &scenario["peers"][0];
    assert!(peer["error"].is_null(), "{peer}");
    let median = |figure: &str| peer["figures"][figure]["median"].as_f64();
    for trouble in ["failures", "unfinished", "leftover"] {
        assert!(matches!(median(trouble), None | Some(0.0)), "{trouble} in {name}: {peer}");
    }
    let sound = match name.split_once(':').expect("a scenario has a shape").0 {
        "balance" => {
            median("connections") == Some(40.0) && (1.0..=2.0).contains(&median("busiest_over_mean").unwrap_or(0.0))
        }
        "spike" => {
            let (before, peak) = (median("user_kib_before"), median("user_kib_peak"));
            median("connections") == Some(40.0)
                && before > Some(0.0)
                && peak >= before
                && median("user_after_percent") > Some(0.0)
        }
        _ => median("cpu_us_per_operation") > Some(0.0),
    };
    assert!(sound, "{name}: {peer}");
}

fn a_signal_ends_the_proxy_too() {
    let traces = tempfile::tempdir().expect("a temporary directory can be made");
    let mut compare = compare(traces.path())
        .args(["--peers", "ringlb", "--scenario", "request:4x64", "--seconds", "3600"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let proxy: PathBuf = until("the proxy starts", || {
        let mut entries = std::fs::read_dir(traces.path()).expect("the directory is there");
        let name = entries.next()?.expect("it can be read").file_name();
        Some(Path::new("/proc").join(name))
    });
    assert!(proxy.exists(), "{}", proxy.display());
    kill_process(Pid::from_child(&compare), Signal::INT).expect("it runs");
    let status = until("the comparison ends", || compare.try_wait().expect("it is our child"));
    let errors = std::io::read_to_string(compare.stderr.take().expect("it was piped")).expect("it is text");
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains("interrupted"), "{errors}");
    assert!(!proxy.exists(), "{} is left", proxy.display());
}

/// Looks until `seen` gives something, and fails after [`DEADLINE`] with `what`.
fn until<T>(what: &str, mut seen: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = seen() {
            return found;
        }
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
