//! Real servers behind ringlb: nginx, Redis and PostgreSQL, where they are installed.

mod common;

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use common::net::{self, Reserved};
use common::pattern::{self, End};
use common::ringlb::Config;
use common::{at_once, has_program, skip, until};

/// A server that another program is. Dropped, it is told to stop.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts what `command` makes of a free port, and waits until it accepts. None of these programs can say which port it
    /// has got, so the port was free a moment before; where somebody took it, another is tried.
    fn start(command: impl Fn(SocketAddr) -> Command) -> Server {
        for _ in 0..5 {
            let address = Reserved::new().address();
            let mut command = command(address);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().expect("the server starts");
            let accepts = until("the server accepts, or has ended", || {
                let ended = child.try_wait().expect("our child").is_some();
                if ended { Some(false) } else { TcpStream::connect(address).is_ok().then_some(true) }
            });
            if accepts {
                return Server { child, address };
            }
        }
        panic!("the server ends at once, on five ports");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process number");
        // At once: for PostgreSQL "fast shutdown".
        kill_process(pid, Signal::INT).expect("our child is not reaped");
        until("the server ends", || self.child.try_wait().expect("our child"));
    }
}

#[test]
fn http_by_nginx() {
    const BODY: u64 = 3 << 20;
    if !has_program("nginx") && !Path::new("/usr/sbin/nginx").exists() {
        return skip("HTTP by nginx", "there is no `nginx` (Debian: nginx)");
    }
    let directory = TempDir::new().expect("a directory");
    let root = directory.path().display().to_string();
    std::fs::write(directory.path().join("body"), pattern::bytes(1, BODY)).expect("the file is written");
    let nginx = |name: &str| {
        let (root, name) = (root.clone(), name.to_owned());
        Server::start(move |address| {
            let file = format!("{root}/{name}.conf");
            let text = format!(
                "daemon off; master_process off; pid {root}/{name}.pid; error_log {root}/{name}.log;\n\
                 events {{ }}\n\
                 http {{ access_log off; client_body_temp_path {root}/b; proxy_temp_path {root}/p;\n\
                 fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n\
                 server {{ listen {address}; root {root}; location = /name {{ return 200 '{name}'; }} }} }}\n"
            );
            std::fs::write(&file, text).expect("the file is written");
            let program = if has_program("nginx") { "nginx" } else { "/usr/sbin/nginx" };
            let mut command = Command::new(program);
            command.args(["-p", &root, "-c", &file]);
            command
        })
    };
    let servers = [nginx("one"), nginx("two")];
    let ringlb = Config::new(&[servers[0].address, servers[1].address]).start();

    let names = at_once(20, |_| String::from_utf8(get(ringlb.address(), "/name")).expect("text"));
    assert!(names.iter().any(|name| name == "one") && names.iter().any(|name| name == "two"), "{names:?}");
    let bodies = at_once(8, |_| get(ringlb.address(), "/body"));
    let wanted = pattern::bytes(1, BODY);
    assert!(bodies.iter().all(|body| *body == wanted), "a body is not the file");

    if has_program("curl") {
        let url = format!("http://{}/body", ringlb.address());
        let output =
            Command::new("curl").args(["-sS", "--fail", "--max-time", "30", &url, &url]).output().expect("curl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.stdout.len() as u64, 2 * BODY, "two requests on one connection");
    } else {
        skip("curl", "there is no `curl` (Debian: curl)");
    }
    ringlb.stop();
}

/// The body of an HTTP answer with status 200.
fn get(address: SocketAddr, path: &str) -> Vec<u8> {
    let mut stream = net::connect(address);
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the request is sent");
    let (answer, end) = net::read_to_end(&mut stream);
    assert_eq!(end, End::Eof);
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..answer.len().min(200)]));
    let body = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("the end of the header");
    answer[body + 4..].to_vec()
}

#[test]
fn redis() {
    const VALUE: u64 = 1 << 20;
    if !has_program("redis-server") {
        return skip("Redis", "there is no `redis-server` (Debian: redis-server)");
    }
    let directory = TempDir::new().expect("a directory");
    let server = Server::start(|address| {
        let mut command = Command::new("redis-server");
        command.current_dir(directory.path());
        command.args([
            "--bind",
            "127.0.0.1",
            "--port",
            &address.port().to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        command
    });
    let ringlb = Config::new(&[server.address]).start();
    at_once(10, |number| {
        let mut stream = ringlb.connect();
        stream.write_all(b"PING\r\n").expect("sent");
        assert_eq!(net::read_line(&mut stream), "+PONG\r");
        let key = format!("key{number}");
        let set = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${VALUE}\r\n", key.len());
        stream.write_all(set.as_bytes()).expect("sent");
        pattern::write(&mut stream, number, VALUE);
        stream.write_all(b"\r\n").expect("sent");
        assert_eq!(net::read_line(&mut stream), "+OK\r");
        for _ in 0..3 {
            stream.write_all(format!("GET {key}\r\n").as_bytes()).expect("sent");
            assert_eq!(net::read_line(&mut stream), format!("${VALUE}\r"));
            pattern::read_exactly(&mut stream, number, VALUE);
            assert_eq!(net::read_line(&mut stream), "\r");
        }
        stream.write_all(b"QUIT\r\n").expect("sent");
        assert_eq!(net::read_to_end(&mut stream), (b"+OK\r\n".to_vec(), End::Eof));
    });
    ringlb.stop();
}

/// The directory of PostgreSQL's server programs: the newest version that is installed.
fn postgresql() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let found = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    found.filter(|bin| bin.join("postgres").exists() && bin.join("initdb").exists()).max()
}

#[test]
fn postgresql_with_psql_and_pgbench() {
    let Some(programs) = postgresql() else {
        return skip("PostgreSQL", "there is no server below /usr/lib/postgresql (Debian: postgresql)");
    };
    let directory = TempDir::new().expect("a directory");
    let root = directory.path();
    // Its server refuses to run as root.
    let user = rustix::process::geteuid().is_root().then(|| user("postgres")).flatten();
    if rustix::process::geteuid().is_root() {
        let Some((uid, gid)) = user else { return skip("PostgreSQL", "there is no user `postgres`") };
        std::os::unix::fs::chown(root, Some(uid), Some(gid)).expect("the directory is given away");
    }
    let as_user = |program: &str| {
        let mut command = Command::new(programs.join(program));
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        command.current_dir(root);
        command
    };
    let data = root.join("data");
    let made = as_user("initdb").arg("-D").arg(&data).args(["-U", "postgres", "-A", "trust", "--no-sync"]).output();
    let made = made.expect("initdb runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let server = Server::start(|address| {
        let mut command = as_user("postgres");
        command.arg("-D").arg(&data).arg("-k").arg(root);
        command.args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-F"]);
        command
    });
    let ringlb = Config::new(&[server.address]).start();
    let run = |program: &str, arguments: &[&str]| {
        let port = ringlb.address().port().to_string();
        let mut command = as_user(program);
        command.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres"]).args(arguments).env("PGCONNECT_TIMEOUT", "30");
        let output = command.output().expect("the program runs");
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    // The server says early that it listens, and then a while that it is starting up.
    until("it answers", || {
        let port = server.address.port().to_string();
        let answer = as_user("pg_isready").args(["-q", "-h", "127.0.0.1", "-p", &port]).status();
        answer.expect("pg_isready runs").success().then_some(())
    });
    assert_eq!(run("psql", &["-Atc", "select 6 * 7"]).trim(), "42");
    let long = run("psql", &["-Atc", "select repeat('ringlb', 500000)"]);
    assert_eq!(long.trim(), "ringlb".repeat(500_000));
    run("pgbench", &["-i", "-q", "postgres"]);
    // -C: a connection for each transaction.
    let report = run("pgbench", &["-n", "-C", "-c", "8", "-t", "20", "postgres"]);
    assert!(report.contains("160/160"), "{report}");
    let report = run("pgbench", &["-n", "-M", "prepared", "-c", "8", "-t", "50", "postgres"]);
    assert!(report.contains("400/400"), "{report}");
    ringlb.stop();
}

/// The numbers of a user and its group.
fn user(name: &str) -> Option<(u32, u32)> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let fields: Vec<&str> = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').collect();
    Some((fields[2].parse().ok()?, fields[3].parse().ok()?))
}
