//! The real binary: what it prints, where, and with which exit code.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const WEB: &str = "[[listener]]\nname = \"web\"\nbind = [\":8080\", \"unix:/run/web.sock\"]\npool = \"web\"\n\
                   [[pool]]\nname = \"web\"\n[[pool.backend]]\naddress = \"127.0.0.1:3000\"\n";

fn ringlb(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringlb"));
    command.args(args).env_remove("NO_COLOR").stdin(Stdio::null());
    command
}

fn output(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = ringlb(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }

    fn write(&self, text: &str) -> PathBuf {
        let path = self.0.path().join("web.toml");
        std::fs::write(&path, text).unwrap();
        path
    }
}

#[test]
fn a_good_file_is_ok() {
    let files = Files::new();
    let path = files.write(WEB);
    let path = path.to_str().unwrap();
    let (code, stdout, stderr) = output(&["check", "--config", path]);
    let summary = "  web: :8080, unix:/run/web.sock -> pool web (least_connections, 1 backend)\n";
    assert_eq!((code, stdout, stderr), (0, format!("{path}: ok\n{summary}"), String::new()));
}

#[test]
fn a_warning_is_shown_and_is_no_failure() {
    let files = Files::new();
    let path = files.write(&WEB.replace("[[pool.backend]]\naddress = \"127.0.0.1:3000\"\n", ""));
    let path = path.to_str().unwrap();
    let (code, stdout, stderr) = output(&["check", "--config", path]);
    assert_eq!(code, 0);
    assert!(stdout.starts_with(&format!("{path}: ok (1 warning)\n")), "{stdout}");
    assert!(stderr.starts_with(&format!("{path}:6:8: warning: the pool \"web\" has no backend\n")), "{stderr}");
}

#[test]
fn every_fault_is_told_at_once_and_run_tells_the_same() {
    let files = Files::new();
    let path = files.write(&format!("workres = 4\nlog = \"inof\"\n{WEB}weight = -1\n"));
    let path = path.to_str().unwrap();
    let checked = output(&["check", "--config", path]);
    let (code, stdout, stderr) = &checked;
    assert_eq!((*code, stdout.as_str()), (1, ""));
    let places: Vec<&str> = stderr.lines().filter_map(|line| line.strip_prefix(path)).collect();
    assert_eq!(
        places,
        [
            ":1:1: error: unknown key `workres`",
            ":2:7: error: `log`: \"inof\" is not a log level",
            ":11:10: error: `weight`: -1 is out of range",
        ]
    );
    assert!(stderr.ends_with("\n3 errors\n"), "{stderr}");
    assert!(!stderr.contains('\x1b'), "colour is for terminals");
    assert_eq!(output(&["run", "--config", path]), checked);
}

#[test]
fn check_binds_nothing() {
    let files = Files::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let socket = files.0.path().join("web.sock");
    let text = WEB.replace(":8080", &address.to_string()).replace("/run/web.sock", socket.to_str().unwrap());
    let path = files.write(&text);
    let (code, _, stderr) = output(&["check", "--config", path.to_str().unwrap()]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(!socket.exists());
}

#[test]
fn a_missing_file_says_which_and_what_to_do() {
    let files = Files::new();
    let path = files.0.path().join("none.toml");
    let path = path.to_str().unwrap();
    for command in ["check", "run"] {
        let (code, stdout, stderr) = output(&[command, "--config", path]);
        assert_eq!((code, stdout.as_str()), (1, ""));
        assert!(
            stderr.starts_with(&format!("ringlb: {path}: the configuration cannot be read: No such file")),
            "{stderr}"
        );
        assert!(stderr.ends_with("; write that file, or name another with --config FILE\n"), "{stderr}");
    }
}

#[test]
fn wrong_usage_is_2_and_says_what_is_wrong() {
    for (args, expected) in [
        (&[][..], "Usage: ringlb <COMMAND>"),
        (
            &["run", "--listen", ":80", "--config", "x"],
            "--listen cannot be combined with --config: the file says already",
        ),
        (&["run", "--config", "x", "--backend", "127.0.0.1:1"], "--backend cannot be combined with --config"),
        (&["run", "--config", "x", "--policy", "round_robin"], "--policy cannot be combined with --config"),
        (&["run", "--policy", "round_robin"], "--policy needs --listen"),
        (&["run", "--backend", "127.0.0.1:1"], "--backend needs --listen"),
        (&["run", "--listen", "80"], "invalid value '80' for '--listen <ADDR>': \"80\" is no address"),
        (&["run", "--listen", "a:1"], "is not yet served by this version"),
        (&["run", "--listen", ":80", "--backend", "127.0.0.1:1,spare"], "\"spare\" says nothing of a backend"),
        (
            &["run", "--listen", ":80", "--backend", "127.0.0.1:80"],
            "--backend: the backend \"127.0.0.1:80\" is the listener",
        ),
        (&["run", "--listen", ":80", "--policy", "frist"], "did you mean \"first\"?"),
        (&["run", "--workers", "0"], "\"0\" is not a number of workers"),
        (&["demo", "--listen", "x"], "\"x\" is no address"),
        (&["diff"], "`diff` is not yet served by this version"),
        (&["check", "--against-running"], "`--against-running` is not yet served by this version"),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
    ] {
        let (code, stdout, stderr) = output(args);
        assert_eq!((code, stdout.as_str()), (2, ""), "{args:?}: {stderr}");
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
    }
}

#[test]
fn help_and_version_are_no_failure() {
    assert_eq!(output(&["--version"]), (0, format!("ringlb {}\n", env!("CARGO_PKG_VERSION")), String::new()));
    let (code, help, _) = output(&["run", "--help"]);
    assert_eq!(code, 0);
    for option in ["--config", "--listen", "--backend", "--policy", "--workers", "--metrics"] {
        assert!(help.contains(option), "{option}: {help}");
    }
}

#[test]
fn a_reader_who_has_left_is_no_failure_and_a_full_disk_is_one() {
    let files = Files::new();
    let path = files.write(WEB);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let run = |stdout: Stdio, args: &[&str]| ringlb(args).stdout(stdout).output().unwrap();
    let check = ["check", "--config", path.to_str().unwrap()];
    for args in [&check[..], &["--help"]] {
        let output = run(writer.try_clone().unwrap().into(), args);
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{args:?}");
        let output = run(File::options().write(true).open("/dev/full").unwrap().into(), args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
    }
    let output = run(File::options().write(true).open("/dev/full").unwrap().into(), &check);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("ringlb: standard output cannot be written: No space left on device"), "{stderr}");
}

#[test]
fn standard_error_that_is_gone_changes_nothing_but_the_words() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    for (args, code) in [(&["check", "--config", "/none"][..], 1), (&["frobnicate"], 2)] {
        let status = ringlb(args).stderr(writer.try_clone().unwrap()).stdout(Stdio::null()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}");
    }
}
