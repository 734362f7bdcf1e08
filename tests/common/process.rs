//! Backends as processes of their own, to be killed, stopped and started again.
//!
//! The test program starts itself: its one ignored test, [`ENTRY`], is such a backend. It ends when its standard input does,
//! so that none outlives the tests.

use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};

use super::{backend, until};

/// The name of the ignored test that calls [`serve`].
pub const ENTRY: &str = "a_backend_process";

const NAME: &str = "RINGLB_TEST_BACKEND_NAME";
const ADDRESS: &str = "RINGLB_TEST_BACKEND_ADDRESS";
const SAID: &str = "listening on ";

/// A running backend that answers lines, see [`backend::Backend::answering`], and HTTP. Dropped, it is killed.
pub struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    /// One of that name on a free port of 127.0.0.1.
    pub fn start(name: &str) -> Process {
        Process::start_at(name, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// One of that name at this address.
    pub fn start_at(name: &str, address: SocketAddr) -> Process {
        let own = env::current_exe().expect("this program");
        let mut child = Command::new(own)
            .args(["--ignored", "--exact", "--nocapture", ENTRY])
            .env(NAME, name)
            .env(ADDRESS, address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program again");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let address =
            lines.find_map(|line| line.expect("text").split_once(SAID).map(|(_, address)| address.to_owned()));
        let address = address.expect("it says where it listens").parse().expect("an address");
        // What the frame of the tests prints at its end should find a reader.
        thread::spawn(move || lines.for_each(drop));
        Process { child, address }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills it; the kernel closes its sockets.
    pub fn kill(mut self) {
        self.end();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process number");
        kill_process(pid, signal).expect("it lives");
    }

    fn end(&mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().expect("our child").is_none() {
            self.end();
        }
    }
}

/// What the process does. Returns at once where it was not started by [`Process::start`].
pub fn serve() {
    let (Ok(name), Ok(address)) = (env::var(NAME), env::var(ADDRESS)) else { return };
    let address: SocketAddr = address.parse().expect("an address");
    // Where it was killed before, a connection of somebody else may have its port for a moment.
    let listener = until("the address is free", || TcpListener::bind(address).ok());
    socket2::SockRef::from(&listener).listen(4096).expect("a longer backlog");
    println!("{SAID}{}", listener.local_addr().expect("an address"));
    std::io::stdout().flush().expect("a reader");
    let _backend = backend::Backend::on(listener, move |mut stream| backend::answer(&mut stream, &name));
    std::io::stdin().read_to_end(&mut Vec::new()).expect("our standard input");
    // The connections' threads may wait for ever.
    std::process::exit(0);
}
