//! The whole way once, without a proxy: command line, generator, statistics, table, JSON.

use std::process::Command;

#[test]
fn a_short_comparison_of_nothing_with_itself() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let json = directory.path().join("report.json");
    let output = Command::new(env!("CARGO_BIN_EXE_ringlb-bench"))
        .args(["compare", "--peers", "direct", "--rounds", "1", "--seconds", "0.2", "--warmup", "0.05", "--check"])
        .args(["--scenario", "request:8x1KiB,connect:4x64,connect-server:4x64,open:8x64@2000,bulk-both:2,idle:20"])
        .arg("--json")
        .arg(&json)
        .output()
        .expect("the program starts");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}\n{errors}");

    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&json).expect("the report was written")).expect("the report is JSON");
    let scenarios = report["scenarios"].as_array().expect("scenarios are a list");
    assert_eq!(scenarios.len(), 6);
    for scenario in scenarios {
        let name = scenario["scenario"].as_str().expect("a scenario has a name");
        assert!(text.contains(name), "{name} is missing in the table:\n{text}");
        let peer = &scenario["peers"][0];
        assert!(peer["error"].is_null(), "{peer}");
        let median = |figure: &str| peer["figures"][figure]["median"].as_f64();
        let moved = match name.split_once(':').expect("a scenario has a shape").0 {
            "idle" => median("kernel_kib_per_connection").is_some(),
            "bulk-both" => median("gigabytes_per_second") > Some(0.0),
            _ => median("operations_per_second") > Some(0.0) && median("p50_us") <= median("max_us"),
        };
        assert!(moved, "{peer}");
        for trouble in ["failures", "unfinished", "leftover"] {
            assert!(matches!(median(trouble), None | Some(0.0)), "{trouble} in {name}: {peer}");
        }
    }
}

#[test]
fn a_peer_that_is_not_there_is_named_with_what_to_do_and_the_others_go_on() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringlb-bench"))
        .args(["compare", "--peers", "haproxy,direct", "--haproxy", "/nonexistent/haproxy"])
        .args(["--scenario", "request:1x64", "--rounds", "1", "--seconds", "0.05", "--warmup", "0"])
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("/nonexistent/haproxy") && text.contains("--haproxy"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("direct  ")), "{text}");
}
