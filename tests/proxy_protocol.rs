//! The PROXY protocol over real sockets: what backends are told, what proxies may tell, and HAProxy and nginx on either
//! side. See `docs/proxy-protocol.md`.

mod common;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command as Program, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use common::backend::Backend;
use common::net::{self, Reserved};
use common::ringlb::{Config, Ringlb, field};
use common::{DEADLINE, has_program, skip, until};
use ringlb::limits::PROXY_HEADER_MIN;
use ringlb::wire::proxy::{Command, Endpoint, UnixName, Version, write};

const TRUSTING: &str = "accept_proxy_protocol = true\ntrusted_proxies = [\"127.0.0.0/8\", \"::1\"]";

fn pair(source: SocketAddr, destination: SocketAddr) -> Command {
    Command::Proxy { source: Endpoint::Inet(source), destination: Endpoint::Inet(destination) }
}

/// A client far away that a proxy may name, and whom it wanted.
fn far_away() -> Command {
    pair("203.0.113.7:56324".parse().unwrap(), "198.51.100.2:443".parse().unwrap())
}

/// A backend that reads each connection to its end, tells us what it has read, and answers with a word.
fn recorder() -> (Backend, Receiver<Vec<u8>>) {
    let (tell, told) = channel();
    let backend = Backend::start(move |mut stream| {
        tell.send(net::read_to_end(&mut stream).0).expect("the test listens");
        stream.write_all(b"done").expect("the answer is sent");
    });
    (backend, told)
}

/// Says these bytes, ends the stream and reads the recorder's answer.
fn say(mut stream: TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("the bytes are sent");
    stream.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(net::read_to_end(&mut stream).0, b"done");
}

fn next(told: &Receiver<Vec<u8>>) -> Vec<u8> {
    told.recv_timeout(DEADLINE).expect("the backend tells what it was sent")
}

/// The log line of the first session that has ended.
fn ended(ringlb: &Ringlb) -> String {
    ringlb.wait_for_log("a session ends", |line| field(line, "message") == Some("session ended"))
}

#[test]
fn backends_are_told_who_their_client_is() {
    let binds = [Some("127.0.0.1:0"), net::has_ipv6().then_some("[::1]:0")];
    for (name, version) in [("v1", Version::V1), ("v2", Version::V2)] {
        for bind in binds.into_iter().flatten() {
            let (backend, told) = recorder();
            let config = Config::new(&[backend.address()]).bind(&format!("\"{bind}\""));
            let ringlb = config.pool(&format!("send_proxy_protocol = \"{name}\"")).start();
            let stream = ringlb.connect();
            let header = write(version, &pair(stream.local_addr().unwrap(), ringlb.address()));
            say(stream, b"hello");
            assert_eq!(next(&told), [&header[..], b"hello"].concat(), "{name} {bind}");
            let line = ended(&ringlb);
            assert_eq!(field(&line, "from_client"), Some("5"), "the header is not the client's: {line}");
            ringlb.stop();
        }
    }
}

#[test]
fn a_client_of_a_unix_socket_is_told_as_one() {
    for (name, version) in [("v1", Version::V1), ("v2", Version::V2)] {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("front.sock");
        let (backend, told) = recorder();
        let config = Config::new(&[backend.address()]).bind(&format!("\"unix:{}\"", path.display()));
        let ringlb = config.pool(&format!("send_proxy_protocol = \"{name}\"")).start();
        let mut stream = UnixStream::connect(&path).expect("it listens");
        stream.write_all(b"hello").expect("the bytes are sent");
        stream.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(net::read_to_end(&mut stream).0, b"done");
        let endpoint = |name: &[u8]| Endpoint::Unix(Box::new(UnixName::new(name).unwrap()));
        let ends = Command::Proxy { source: endpoint(b""), destination: endpoint(path.as_os_str().as_encoded_bytes()) };
        assert_eq!(next(&told), [&write(version, &ends)[..], b"hello"].concat(), "{name}");
        ringlb.stop();
    }
}

#[test]
fn a_header_goes_alone_where_the_backend_speaks_first() {
    let backend = Backend::start(|mut stream| {
        let header = net::read_line(&mut stream);
        stream.write_all(format!("220 {header}\n").as_bytes()).expect("the greeting is sent");
    });
    let ringlb = Config::new(&[backend.address()]).pool("send_proxy_protocol = \"v1\"").start();
    let mut stream = ringlb.connect();
    let (client, front) = (stream.local_addr().unwrap(), ringlb.address());
    let expected = format!("220 PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r", client.port(), front.port());
    assert_eq!(net::read_line(&mut stream), expected);
    drop(stream);
    ringlb.stop();
}

#[test]
fn a_retry_neither_repeats_nor_loses_the_header() {
    const CLIENTS: usize = 20;
    let (backend, told) = recorder();
    let refusing = [Reserved::new(), Reserved::new()];
    let addresses = [refusing[0].address(), refusing[1].address(), backend.address()];
    let config = Config::new(&addresses).pool("policy = \"round_robin\"\nsend_proxy_protocol = \"v2\"");
    let ringlb = config.start();
    for _ in 0..CLIENTS {
        let stream = ringlb.connect();
        let header = write(Version::V2, &pair(stream.local_addr().unwrap(), ringlb.address()));
        say(stream, b"hello");
        assert_eq!(next(&told), [&header[..], b"hello"].concat());
    }
    ringlb.stop();
}

#[test]
fn what_a_proxy_tells_is_taken_away_and_told_on() {
    let long = [write(Version::V2, &far_away()), vec![4, 0x20, 0], vec![7; 0x2000]].concat();
    let mut padded = long.clone();
    padded[14..16].copy_from_slice(&(12u16 + 3 + 0x2000).to_be_bytes());
    for header in [write(Version::V1, &far_away()), write(Version::V2, &far_away()), padded] {
        for told_on in ["off", "v1"] {
            let (backend, told) = recorder();
            let config = Config::new(&[backend.address()]).listener(TRUSTING);
            let ringlb = config.pool(&format!("send_proxy_protocol = \"{told_on}\"")).start();
            say(ringlb.connect(), &[&header[..], b"hello"].concat());
            let announced = if told_on == "v1" { write(Version::V1, &far_away()) } else { Vec::new() };
            assert_eq!(next(&told), [&announced[..], b"hello"].concat());
            let line = ended(&ringlb);
            assert_eq!(field(&line, "client"), Some("203.0.113.7:56324"), "{line}");
            assert_eq!(field(&line, "from_client"), Some("5"), "{line}");
            ringlb.stop();
        }
    }
}

#[test]
fn where_a_proxy_names_nobody_its_own_address_counts() {
    for header in [write(Version::V2, &Command::Local), write(Version::V1, &Command::Unknown)] {
        let (backend, told) = recorder();
        let config = Config::new(&[backend.address()]).listener(TRUSTING).pool("send_proxy_protocol = \"v2\"");
        let ringlb = config.start();
        let stream = ringlb.connect();
        let own = write(Version::V2, &pair(stream.local_addr().unwrap(), ringlb.address()));
        say(stream, &[&header[..], b"hello"].concat());
        assert_eq!(next(&told), [&own[..], b"hello"].concat());
        ringlb.stop();
    }
}

#[test]
fn a_header_may_come_byte_by_byte() {
    for version in [Version::V1, Version::V2] {
        let (backend, told) = recorder();
        let ringlb = Config::new(&[backend.address()]).listener(TRUSTING).start();
        let mut stream = ringlb.connect();
        for byte in write(version, &far_away()) {
            stream.write_all(&[byte]).expect("a byte is sent");
        }
        say(stream, b"hello");
        assert_eq!(next(&told), b"hello");
        ringlb.stop();
    }
}

#[test]
fn a_proxy_may_come_by_a_unix_socket_that_is_trusted() {
    let directory = TempDir::new().expect("a directory");
    let path = directory.path().join("front.sock");
    let (backend, told) = recorder();
    let config = Config::new(&[backend.address()]).bind(&format!("\"unix:{}\"", path.display()));
    let config = config.listener("accept_proxy_protocol = true\ntrusted_proxies = \"unix:\"");
    let ringlb = config.pool("send_proxy_protocol = \"v1\"").start();
    let mut stream = UnixStream::connect(&path).expect("it listens");
    let header = write(Version::V2, &far_away());
    stream.write_all(&[&header[..], b"hello"].concat()).expect("the bytes are sent");
    stream.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(net::read_to_end(&mut stream).0, b"done");
    assert_eq!(next(&told), [&write(Version::V1, &far_away())[..], b"hello"].concat());
    ringlb.stop();
}

#[test]
fn strangers_are_closed_without_a_word() {
    let (backend, _told) = recorder();
    let config = Config::new(&[backend.address()]);
    let ringlb = config.listener("accept_proxy_protocol = true\ntrusted_proxies = [\"192.0.2.0/24\"]").start();
    for _ in 0..3 {
        let mut stream = ringlb.connect();
        // It may be closed before this arrives.
        if let Err(error) = stream.write_all(&write(Version::V1, &far_away())) {
            println!("closed already: {error}");
        }
        assert_eq!(net::read_to_end(&mut stream).0, b"");
    }
    assert_eq!(ringlb.wait_for_ends(3), ["proxy_untrusted"; 3]);
    assert_eq!(backend.accepted(), 0);
    ringlb.stop();
}

/// A reset takes the peer's address with it, so nobody can say whether it was trusted.
#[test]
fn who_has_gone_before_it_could_be_asked_is_no_stranger() {
    const CLIENTS: usize = 50;
    let (backend, _told) = recorder();
    let ringlb = Config::new(&[backend.address()]).listener(TRUSTING).start();
    ringlb.signal(Signal::STOP);
    let clients: Vec<_> = (0..CLIENTS).map(|_| ringlb.connect()).collect();
    clients.into_iter().for_each(net::reset);
    ringlb.signal(Signal::CONT);
    assert_eq!(ringlb.wait_for_ends(CLIENTS), vec!["client_reset"; CLIENTS]);
    ringlb.stop();
}

#[test]
fn whatever_is_no_header_closes_and_says_why() {
    let (backend, _told) = recorder();
    let ringlb = Config::new(&[backend.address()]).listener(TRUSTING).start();
    let mut wrong = write(Version::V2, &far_away());
    wrong[12] = 0x2f;
    let cases: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\n\r\n", "proxy_no_header"),
        (b"PROXY TCP4 192.0.02.1 192.0.2.2 1 2\r\nhello", "proxy_v1_address"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\nhello", "proxy_v1_port"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\nhello", "proxy_v1_line"),
        (&wrong, "proxy_v2_command"),
    ];
    for (number, (bytes, reason)) in cases.into_iter().enumerate() {
        let mut stream = ringlb.connect();
        stream.write_all(bytes).expect("the bytes are sent");
        assert_eq!(net::read_to_end(&mut stream).0, b"", "{reason}");
        ringlb.wait_for_ends(number + 1);
        assert!(ringlb.ends().iter().any(|end| end == reason), "{reason} is not among {:?}", ringlb.ends());
    }
    let unfinished = ringlb.connect();
    (&unfinished).write_all(b"PROXY TCP4 192.0.2.1").expect("the bytes are sent");
    unfinished.shutdown(Shutdown::Write).expect("half-close");
    assert_eq!(net::read_to_end(&mut &unfinished).0, b"");
    assert!(ringlb.wait_for_ends(cases.len() + 1).iter().any(|end| end == "proxy_unfinished"));
    assert_eq!(backend.accepted(), 0);
    ringlb.stop();
}

#[test]
fn who_does_not_send_its_header_in_time_is_closed_but_not_too_soon() {
    let (backend, _told) = recorder();
    let ringlb = Config::new(&[backend.address()]).listener(TRUSTING).start();
    let start = Instant::now();
    let mut silent = ringlb.connect();
    let mut slow = ringlb.connect();
    slow.write_all(b"PROXY TCP4 192.0").expect("the bytes are sent");
    for stream in [&mut silent, &mut slow] {
        assert_eq!(net::read_to_end(stream).0, b"");
        // The protocol leaves a lost segment the time to come again.
        assert!(start.elapsed() >= PROXY_HEADER_MIN, "{:?}", start.elapsed());
    }
    assert_eq!(ringlb.wait_for_ends(2), ["proxy_timeout"; 2]);
    assert_eq!(backend.accepted(), 0);
    ringlb.stop();
}

/// HAProxy or nginx. Dropped, it is ended.
struct Peer {
    child: Child,
    directory: TempDir,
}

impl Peer {
    /// HAProxy with this section behind the usual defaults; `None` where there is none.
    fn haproxy(section: impl Fn(&Path) -> String) -> Option<Peer> {
        let timeouts = "timeout connect 30s\n timeout client 30s\n timeout server 30s\n";
        let text = |directory: &Path| format!("defaults\n {timeouts}{}", section(directory));
        Peer::start("haproxy", text, &["-db", "-q", "-f"], "")
    }

    /// nginx with this server in its stream module, and these descriptors to inherit.
    fn nginx(server: impl Fn(&Path) -> String, inherited: &str) -> Option<Peer> {
        let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
        let load = if Path::new(module).exists() { format!("load_module {module};\n") } else { String::new() };
        let text = |directory: &Path| {
            format!(
                "{load}daemon off;\nworker_processes 1;\nuser root;\npid {}/pid;\nerror_log stderr;\nevents {{}}\n\
                 stream {{\n server {{\n{}\n }}\n}}\n",
                directory.display(),
                server(directory)
            )
        };
        Peer::start("nginx", text, &["-e", "stderr", "-c"], inherited)
    }

    fn start(program: &str, text: impl Fn(&Path) -> String, arguments: &[&str], inherited: &str) -> Option<Peer> {
        if !has_program(program) {
            skip(program, "it is not installed");
            return None;
        }
        let directory = TempDir::new().expect("a directory");
        let file = directory.path().join("configuration");
        std::fs::write(&file, text(directory.path())).expect("the file is written");
        let mut command = Program::new(program);
        command.args(arguments).arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        if !inherited.is_empty() {
            command.env("NGINX", inherited);
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        Some(Peer { child, directory })
    }

    /// Waits until it listens on the unix socket `name` of its directory, and gives the address for ringlb.
    fn unix(&mut self, name: &str) -> String {
        let path = self.directory.path().join(name);
        until("the peer listens", || {
            assert_eq!(self.child.try_wait().expect("our child"), None, "the peer has ended");
            UnixStream::connect(&path).ok()
        });
        format!("unix:{}", path.display())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // nginx has a child of its own, which it takes along when it is asked to end.
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process number");
        kill_process(pid, Signal::TERM).expect("our child");
        self.child.wait().expect("our child");
    }
}

/// A socket that listens already and is inherited by the next program, so that no port has to be guessed.
fn inherited() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    fcntl_setfd(&listener, FdFlags::empty()).expect("it is inherited");
    listener
}

#[test]
fn haproxy_and_nginx_read_what_is_sent_to_them() {
    let haproxy = || {
        Peer::haproxy(|directory| {
            let path = directory.join("echo").display().to_string();
            let answer = "%[src] %[src_port] %[dst] %[dst_port]";
            format!(
                "frontend echo\n mode http\n bind unix@{path} accept-proxy\n \
                 http-request return status 200 content-type text/plain lf-string \"{answer}\"\n"
            )
        })
    };
    let nginx = || {
        let answer =
            "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port";
        let server = |directory: &Path| {
            format!("listen unix:{} proxy_protocol;\nreturn \"{answer}\";", directory.join("echo").display())
        };
        Peer::nginx(server, "")
    };
    let request = "GET / HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n";
    for (mut peer, request) in [(haproxy(), request), (nginx(), "")].into_iter().filter_map(|(p, r)| Some((p?, r))) {
        let backend = peer.unix("echo");
        for version in ["v1", "v2"] {
            for bind in [Some("127.0.0.1:0"), net::has_ipv6().then_some("[::1]:0")].into_iter().flatten() {
                let config = Config::new(&[]).backend(&backend, "").bind(&format!("\"{bind}\""));
                let ringlb = config.pool(&format!("send_proxy_protocol = \"{version}\"")).start();
                let mut stream = ringlb.connect();
                stream.write_all(request.as_bytes()).expect("the request is sent");
                let answer = String::from_utf8(net::read_to_end(&mut stream).0).expect("text");
                let (client, front) = (stream.local_addr().unwrap(), ringlb.address());
                let expected = format!("{} {} {} {}", client.ip(), client.port(), front.ip(), front.port());
                assert_eq!(answer.rsplit("\r\n\r\n").next(), Some(&*expected), "{version} {bind}");
                drop(stream);
                ringlb.stop();
            }
        }
    }
}

#[test]
fn what_haproxy_and_nginx_send_is_read() {
    let (backend, told) = recorder();
    let config = Config::new(&[backend.address()]).listener(TRUSTING).pool("send_proxy_protocol = \"v2\"");
    let ringlb = config.start();
    let port = ringlb.address().port();
    let options = ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"];
    let mut fronts = Vec::new();
    for option in options {
        let listener = inherited();
        let section = |_: &Path| {
            let mut section = String::new();
            writeln!(section, "listen front\n mode tcp\n bind fd@{}", listener.as_raw_fd()).expect("text");
            writeln!(section, " unique-id-format %[uuid]\n server ringlb 127.0.0.1:{port} {option}").expect("text");
            section
        };
        fronts.push((option, Peer::haproxy(section), listener));
    }
    let listener = inherited();
    let address = listener.local_addr().unwrap();
    let server =
        |_: &Path| format!("listen {address};\nproxy_pass 127.0.0.1:{port};\nproxy_protocol on;\nproxy_half_close on;");
    fronts.push(("nginx", Peer::nginx(server, &format!("{};", listener.as_raw_fd())), listener));
    for (name, peer, listener) in fronts {
        if peer.is_none() {
            continue;
        }
        let front = listener.local_addr().unwrap();
        let stream = net::connect(front);
        let header = write(Version::V2, &pair(stream.local_addr().unwrap(), front));
        say(stream, b"hello");
        assert_eq!(next(&told), [&header[..], b"hello"].concat(), "{name}");
    }
    ringlb.stop();
}

#[test]
fn a_failed_checksum_of_a_real_header_is_seen() {
    let section = |directory: &Path| {
        let path = directory.join("front").display().to_string();
        let taken = directory.join("taken").display().to_string();
        format!(
            "listen front\n mode tcp\n bind unix@{path}\n server taken unix@{taken} send-proxy-v2 proxy-v2-options crc32c\n"
        )
    };
    let Some(mut peer) = Peer::haproxy(section) else { return };
    let taken = std::os::unix::net::UnixListener::bind(peer.directory.path().join("taken")).expect("a path");
    let front = peer.unix("front");
    let mut client = UnixStream::connect(front.trim_start_matches("unix:")).expect("it listens");
    client.write_all(b"hello").expect("the bytes are sent");
    // The first connection was the look whether it listens; whichever carries the bytes will do.
    let header = loop {
        let (mut stream, _) = taken.accept().expect("HAProxy connects");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut header = vec![0; 16];
        if stream.read_exact(&mut header).is_ok() {
            let rest = u16::from_be_bytes([header[14], header[15]]);
            stream.take(u64::from(rest)).read_to_end(&mut header).expect("the rest");
            break header;
        }
    };
    let parsed = |bytes: &[u8]| format!("{:?}", ringlb::wire::proxy::parse(bytes));
    assert!(parsed(&header).starts_with("Header"), "{header:?}");
    let last = header.len() - 1;
    let mut spoilt = header;
    spoilt[last] ^= 1;
    assert_eq!(parsed(&spoilt), "Invalid(V2Checksum)");
}
