//! How the process starts, and how it refuses to.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use tempfile::TempDir;

use common::backend::Backend;
use common::net::{self, has_ipv6};
use common::pattern::{self, End};
use common::ringlb::{Config, Ringlb, run_file, run_to_end};
use common::{DEADLINE, has_program, procfs, skip};

/// An echo server on a unix socket. It stays as long as the test program.
fn unix_echo(path: &Path) {
    let listener = UnixListener::bind(path).expect("a unix socket");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            thread::spawn(move || {
                let mut buffer = [0; 16 * 1024];
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..len]).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

fn unix_connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
    stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
    stream
}

/// Sends and receives the pattern, at the same time, up to the end of both streams.
fn echoes(stream: &mut (impl Read + Write + Send), end: impl FnOnce()) {
    // Less than fits in the sockets on the way, so that one thread can do it.
    pattern::write(stream, 1, 64 * 1024);
    end();
    assert_eq!(pattern::read(stream, 1), (64 * 1024, End::Eof));
}

fn echoes_over_tcp(address: SocketAddr) {
    let mut stream = net::connect(address);
    let other = stream.try_clone().expect("a second handle");
    echoes(&mut stream, || other.shutdown(std::net::Shutdown::Write).expect("half-close"));
}

fn echoes_over_unix(path: &Path) {
    let mut stream = unix_connect(path);
    let other = stream.try_clone().expect("a second handle");
    echoes(&mut stream, || other.shutdown(std::net::Shutdown::Write).expect("half-close"));
}

#[test]
fn unix_sockets_serve_on_both_sides() {
    let directory = TempDir::new().expect("a directory");
    let (front, back) = (directory.path().join("front.sock"), directory.path().join("back.sock"));
    unix_echo(&back);
    let bind = format!("[\"unix:{}\", \"127.0.0.1:0\"]", front.display());
    let ringlb = Config::new(&[]).bind(&bind).backend(format!("unix:{}", back.display()), "").start();
    echoes_over_unix(&front);
    let addresses = ringlb.addresses();
    assert_eq!(addresses[0], format!("unix:{}", front.display()));
    echoes_over_tcp(addresses[1].parse().expect("an IP address"));
    ringlb.stop();
    assert!(!front.exists(), "the socket's file is removed at the end");
}

#[test]
fn a_unix_listener_serves_with_tcp_backends() {
    let directory = TempDir::new().expect("a directory");
    let front = directory.path().join("front.sock");
    let backend = Backend::echo();
    let ringlb = Config::new(&[backend.address()]).bind(&format!("\"unix:{}\"", front.display())).start();
    echoes_over_unix(&front);
    ringlb.stop();
}

#[test]
fn ipv6_serves_on_both_sides() {
    if !has_ipv6() {
        return skip("IPv6", "this host has no IPv6 on its loopback");
    }
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || common::backend::echo(stream.expect("a client")));
        }
    });
    let ringlb = Config::new(&[address]).bind("[\"[::1]:0\", \"127.0.0.1:0\"]").start();
    for address in ringlb.addresses() {
        echoes_over_tcp(address.parse().expect("an IP address"));
    }
    ringlb.stop();
}

#[test]
fn all_addresses_on_a_free_port_are_one_port_for_both_families() {
    let backend = Backend::echo();
    let ringlb = Config::new(&[backend.address()]).bind("\":0\"").start();
    let addresses: Vec<SocketAddr> =
        ringlb.addresses().iter().map(|address| address.parse().expect("an IP address")).collect();
    echoes_over_tcp(([127, 0, 0, 1], addresses[0].port()).into());
    if has_ipv6() {
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        assert_eq!(addresses[0].port(), addresses[1].port());
        echoes_over_tcp((Ipv6Addr::LOCALHOST, addresses[1].port()).into());
    } else {
        skip("the IPv6 half of `:0`", "this host has no IPv6 on its loopback");
    }
    ringlb.stop();
}

#[test]
fn a_second_ringlb_on_the_same_address_is_refused() {
    let backend = Backend::echo();
    let first = Config::new(&[backend.address()]).start();
    let mut second = Config::new(&[backend.address()]).bind(&format!("\"{}\"", first.address())).launch(&[]);
    assert_eq!(second.wait().code(), Some(1));
    let said = second.log().join("\n");
    assert!(said.contains("something listens there already") && said.contains("stop it"), "{said}");
    // The first has lost nothing by it: no share of its clients went to the second.
    for _ in 0..20 {
        echoes_over_tcp(first.address());
    }
    first.stop();
}

#[test]
fn an_address_that_another_program_listens_on_is_refused() {
    let taken = Backend::echo();
    let directory = TempDir::new().expect("a directory");
    for text in [
        Config::new(&[taken.address()]).bind(&format!("\"{}\"", taken.address())).text(),
        Config::new(&[taken.address()]).process(&format!("metrics = \"{}\"", taken.address())).text(),
    ] {
        // A listener that leads to itself is another fault.
        let text = text.replace(&format!("address = \"{}\"", taken.address()), "address = \"127.0.0.1:9\"");
        let (code, said) = run_file(directory.path(), &text);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&taken.address().to_string()), "{said}");
        assert!(said.contains("choose another address"), "{said}");
    }
}

#[test]
fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
    let backend = Backend::echo();
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("front.sock");
    let bind = format!("\"unix:{}\"", path.display());
    // Its file stays behind, as after a crash.
    drop(UnixListener::bind(&path).expect("a unix socket"));
    let first = Config::new(&[backend.address()]).bind(&bind).start();
    echoes_over_unix(&path);
    let mut second = Config::new(&[backend.address()]).bind(&bind).launch(&[]);
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.log().join("\n").contains("something listens there already"), "{:?}", second.log());
    echoes_over_unix(&path);
    first.stop();
}

#[test]
fn a_path_that_is_no_socket_is_left_alone() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").expect("the file is written");
    let text = Config::new(&[]).bind(&format!("\"unix:{}\"", path.display())).text();
    let (code, said) = run_file(directory.path(), &text);
    assert_eq!(code, Some(1));
    assert!(said.contains("is no socket") && said.contains("remove it"), "{said}");
    assert_eq!(std::fs::read_to_string(&path).expect("it is still there"), "data");
}

#[test]
fn an_address_of_another_host_is_refused_with_its_reason() {
    let directory = TempDir::new().expect("a directory");
    // Set aside for documentation (RFC 5737): nobody has it.
    let (code, said) = run_file(directory.path(), &Config::new(&[]).bind("\"192.0.2.1:0\"").text());
    assert_eq!(code, Some(1));
    assert!(said.contains("no interface of this host has that address"), "{said}");
}

#[test]
fn a_file_that_cannot_be_used_is_told_with_its_place() {
    let directory = TempDir::new().expect("a directory");
    let (code, said) = run_file(directory.path(), "workers = 2\n[[listener]]\nname = \"a\"\nbimd = \":0\"\n");
    assert_eq!(code, Some(1));
    assert!(said.contains("ringlb.toml:4:1: error") && said.contains("did you mean"), "{said}");

    let missing = directory.path().join("missing.toml");
    let (code, said) = run_to_end(&[], &["run", "--config", missing.to_str().expect("text")]);
    assert_eq!(code, Some(1));
    assert!(said.contains("missing.toml"), "{said}");

    // It exists and cannot be read, even by root.
    let (code, said) = run_to_end(&[], &["run", "--config", directory.path().to_str().expect("text")]);
    assert_eq!(code, Some(1));
    assert!(said.contains(directory.path().to_str().expect("text")), "{said}");
}

#[test]
fn wrong_usage_has_a_code_of_its_own() {
    for arguments in [&["run", "--nonsense"][..], &["run", "--backend", "127.0.0.1:9"], &["serve"], &["status", "now"]]
    {
        let (code, said) = run_to_end(&[], arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {said}");
    }
}

#[test]
fn flags_alone_are_enough() {
    let backend = Backend::echo();
    let address = backend.address().to_string();
    let arguments = ["run", "--listen", "127.0.0.1:0", "--backend", &address, "--workers", "1"];
    let ringlb = Ringlb::with_arguments(&arguments);
    let ready = ringlb.wait_for_log("it is ready", |line| line.contains(" ready "));
    let address = ready.split_once("default=").expect("its listener").1.trim_end_matches('"');
    echoes_over_tcp(address.parse().expect("an IP address"));
    ringlb.stop();
}

#[test]
fn the_demo_answers_from_three_backends() {
    let ringlb = Ringlb::with_arguments(&["demo", "--listen", "127.0.0.1:0", "--workers", "1"]);
    let ready = ringlb.wait_for_log("it is ready", |line| line.contains(" ready "));
    let address = ready.split_once("listeners=").expect("its listener").1;
    let address = address.split_once('=').expect("name=address").1.trim_matches('"').parse().expect("an IP address");
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..6 {
        let mut stream = net::connect(address);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
        let (answer, _) = net::read_to_end(&mut stream);
        let answer = String::from_utf8(answer).expect("text");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        names.insert(answer.rsplit("hello from ").next().expect("a name").trim().to_owned());
    }
    assert_eq!(names.len(), 3, "{names:?}");
    ringlb.stop();
}

#[test]
fn each_worker_is_a_thread_with_a_name() {
    let backend = Backend::echo();
    let ringlb = Config::new(&[backend.address()]).start();
    let mut names = procfs::threads(ringlb.pid());
    names.retain(|name| name.starts_with("ringlb-"));
    names.sort_unstable();
    assert_eq!(names, ["ringlb-0", "ringlb-1", "ringlb-control"]);
    ringlb.stop();
}

/// What a container or an old kernel says, injected at the system call.
#[test]
fn without_io_uring_the_message_names_the_errno_and_the_cure() {
    if !has_program("strace") {
        return skip("io_uring that is forbidden", "there is no `strace` (Debian: strace)");
    }
    if !Command::new("strace").args(["-qq", "true"]).output().is_ok_and(|output| output.status.success()) {
        return skip("io_uring that is forbidden", "`strace` may not trace here");
    }
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("ringlb.toml");
    std::fs::write(&file, Config::new(&[]).text()).expect("the file is written");
    for (errno, cure) in [
        ("EPERM", "seccomp"),
        ("ENOSYS", "seccomp"),
        ("ENOMEM", "memory limit"),
        ("EMFILE", "ulimit -n"),
        ("EINVAL", "io_uring could not be set up"),
    ] {
        let inject = format!("inject=io_uring_setup:error={errno}");
        let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=io_uring_setup", "-e", &inject];
        let (code, said) = run_to_end(&wrapper, &["run", "--config", file.to_str().expect("text")]);
        assert_eq!(code, Some(1), "{errno}: {said}");
        assert!(said.contains(errno) && said.contains(cure) && !said.contains("panicked"), "{errno}: {said}");
        assert!(!said.contains("\"ready\""), "{errno}: {said}");
    }
}

/// Ports below `ip_unprivileged_port_start` are for those who may.
#[test]
fn a_privileged_port_is_refused_with_its_cure() {
    let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if start.trim().parse().is_ok_and(|start: u32| start <= 1) {
        return skip("a privileged port", "on this host everybody may bind every port");
    }
    let drop_rights = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let wrapper: &[&str] = if rustix::process::geteuid().is_root() { &drop_rights } else { &[] };
    let reachable =
        |word: &&str| Command::new(word).args(&wrapper[1..]).args([env!("CARGO_BIN_EXE_ringlb"), "--version"]).output();
    if let Some(reached) = wrapper.first().map(reachable)
        && !reached.as_ref().is_ok_and(|output| output.status.success())
    {
        return skip("a privileged port", &format!("no unprivileged user can run the binary here: {reached:?}"));
    }
    let (code, said) = run_to_end(wrapper, &["run", "--listen", "127.0.0.1:1", "--backend", "127.0.0.1:9"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("CAP_NET_BIND_SERVICE") && said.contains("EACCES"), "{said}");
}
