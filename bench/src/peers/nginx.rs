//! nginx's stream proxy.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Peer, PeerError, Setup, Tuning};

const HINT: &str = "install nginx and its stream module (Debian: nginx-light or nginx, and libnginx-mod-stream) or name it with --nginx";

pub(super) fn command(peer: &Peer, setup: &Setup, directory: &Path) -> Result<Vec<OsString>, PeerError> {
    let module = stream_module(peer)?;
    let file = directory.join("nginx.conf");
    std::fs::write(&file, configuration(setup, module.as_deref(), directory))
        .map_err(PeerError::io("writing its configuration"))?;
    Ok(vec![
        peer.program.clone().into(),
        "-e".into(),
        "stderr".into(),
        "-p".into(),
        directory.into(),
        "-c".into(),
        file.into(),
    ])
}

/// The stream module to load, nothing if it is built in.
fn stream_module(peer: &Peer) -> Result<Option<PathBuf>, PeerError> {
    let output = Command::new(&peer.program).arg("-V").output().map_err(|_| PeerError::missing(&peer.program, HINT))?;
    let arguments = String::from_utf8_lossy(&output.stderr).into_owned();
    let words: Vec<&str> = arguments.split_whitespace().collect();
    if words.contains(&"--with-stream") {
        return Ok(None);
    }
    let directory =
        words.iter().find_map(|word| word.strip_prefix("--modules-path=")).unwrap_or("/usr/lib/nginx/modules");
    let module = Path::new(directory).join("ngx_stream_module.so");
    if module.exists() { Ok(Some(module)) } else { Err(PeerError::missing(&module, HINT)) }
}

fn configuration(setup: &Setup, module: Option<&Path>, directory: &Path) -> String {
    let mut text = String::new();
    if let Some(module) = module {
        text.push_str(&format!("load_module {};\n", module.display()));
    }
    // Two descriptors a connection; nginx takes the limit it inherits.
    let connections = 2 * setup.connections + 64;
    let buffer = match setup.tuning {
        Tuning::Messages => "16k",
        Tuning::Bulk => "128k",
        Tuning::Memory => "4k",
    };
    let servers = lines(setup.backends.iter().map(|address| format!("        server {address};")));
    let listens = lines(setup.listen.iter().map(|address| format!("        listen {address} reuseport backlog=4096;")));
    let written = write!(
        text,
        "daemon off;
worker_processes {workers};
pid {directory}/nginx.pid;
error_log stderr error;
events {{
    worker_connections {connections};
    use epoll;
}}
stream {{
    access_log off;
    upstream backends {{
        least_conn;
{servers}    }}
    server {{
{listens}        proxy_pass backends;
        proxy_buffer_size {buffer};
        tcp_nodelay on;
    }}
}}
",
        workers = setup.workers,
        directory = directory.display(),
    );
    written.expect("writing to a string cannot fail");
    text
}

fn lines(each: impl Iterator<Item = String>) -> String {
    each.fold(String::new(), |mut text, line| {
        text.push_str(&line);
        text.push('\n');
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_and_the_tuning_are_in_the_file() {
        let setup = Setup {
            listen: vec!["127.0.0.1:7001".parse().expect("an address"), "127.0.0.1:7002".parse().expect("an address")],
            backends: vec!["127.0.0.1:8001".parse().expect("an address")],
            workers: 2,
            connections: 100,
            tuning: Tuning::Bulk,
        };
        let text = configuration(&setup, Some(Path::new("/modules/ngx_stream_module.so")), Path::new("/somewhere"));
        for line in [
            "load_module /modules/ngx_stream_module.so;",
            "worker_processes 2;",
            "worker_connections 264;",
            "listen 127.0.0.1:7001 reuseport backlog=4096;",
            "listen 127.0.0.1:7002 reuseport backlog=4096;",
            "server 127.0.0.1:8001;",
            "proxy_buffer_size 128k;",
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
