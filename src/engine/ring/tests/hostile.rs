//! A kernel that refuses. Each of these runs in a process of its own: this test binary again, with one test.

use std::process::{Command, Output};

use rustix::process::{Resource, Rlimit};

use super::*;
use crate::engine::Spliced;

const CHILD: &str = "engine::ring::tests::hostile::child_";

/// Runs one of the ignored tests below, under strace with this injection if there is one. `None`: no strace here.
fn child(name: &str, inject: Option<&str>) -> Option<Output> {
    let binary = std::env::current_exe().unwrap();
    let mut command = match inject {
        None => Command::new(binary),
        Some(inject) => {
            if !Command::new("strace").args(["-f", "true"]).output().is_ok_and(|output| output.status.success()) {
                eprintln!("skipped: this needs strace, which is missing here or may not trace");
                return None;
            }
            let call = inject.split(':').next().unwrap();
            let mut command = Command::new("strace");
            command.args(["-f", "-q", "-o", "/dev/null", "-e"]).arg(format!("trace={call}"));
            command.arg("-e").arg(format!("inject={inject}")).arg(binary);
            command
        }
    };
    command.args(["--ignored", "--nocapture", "--exact", &format!("{CHILD}{name}")]);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("running 1 test"), "{text}");
    Some(output)
}

#[test]
#[ignore = "run by `out_of_descriptors_accepting_ends`"]
fn child_accept() {
    let mut bench = Bench::new();
    let listener = listen(1);
    let address = listener.address().inet().unwrap();
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let lowest_free = std::os::fd::AsRawFd::as_raw_fd(&listener.sockets()[0].try_clone().unwrap()) as u64;
    let client = |address| TcpStream::connect(address).unwrap();
    let clients = [client(address), client(address)];
    let room_for_one = Rlimit { current: Some(lowest_free + clients.len() as u64 + 1), maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, room_for_one).unwrap();
    bench.ring.accept(owner(0, 0), &listener.sockets()[0]);
    let first = bench.next(owner(0, 0));
    assert!(matches!(first, Event::Accepted { .. }), "{first:?}");
    let event = bench.next(owner(0, 0));
    assert!(matches!(event, Event::AcceptEnded(Errno::EMFILE)), "{event:?}");
    // The second client is still in the queue, and comes when there is room again.
    drop(first);
    bench.ring.accept(owner(0, 0), &listener.sockets()[0]);
    let event = bench.next(owner(0, 0));
    let Event::Accepted { socket, .. } = &event else { panic!("{event:?}") };
    assert_eq!(socket::peer_address(socket), clients[1].local_addr().ok());
}

#[test]
fn out_of_descriptors_accepting_ends() {
    let output = child("accept", None).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "run by `a_refused_setup_names_cause_and_cure`"]
fn child_setup() {
    match Ring::new() {
        Ok(_) => println!("set up"),
        Err(error) => println!("{error}"),
    }
}

#[test]
fn a_refused_setup_names_cause_and_cure() {
    let cases = [
        ("EPERM", "seccomp"),
        ("ENOSYS", "seccomp"),
        ("ENOMEM", "memory limit"),
        ("EMFILE", "ulimit -n"),
        ("EINVAL", "could not be set up"),
    ];
    for (errno, cure) in cases {
        let Some(output) = child("setup", Some(&format!("io_uring_setup:error={errno}"))) else { return };
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains(errno) && text.contains(cure), "{text}");
    }
}

#[test]
fn a_kernel_without_the_newest_flag_is_asked_again_without_it() {
    let Some(output) = child("setup", Some("io_uring_setup:error=EINVAL:when=1")) else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("set up\n"), "{text}");
}

#[test]
#[ignore = "run by `the_ring_survives_what_enter_may_say`"]
fn child_echo() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    bench.ring.receive(owner(1, 0), &near, Receive::Multishot);
    for round in 0..50u8 {
        let mut chain = Chain::new();
        bench.ring.buffers().append_copy(&mut chain, &[round; 1000]);
        bench.ring.send(owner(1, 1), &near, &chain);
        assert!(matches!(bench.next(owner(1, 1)), Event::Sent { whole: true, .. }));
        bench.ring.buffers().clear(&mut chain);
        let mut back = [0; 1000];
        far.read_exact(&mut back).unwrap();
        assert_eq!(back, [round; 1000]);
        far.write_all(&back).unwrap();
        let mut got = Vec::new();
        while got.len() < back.len() {
            let event = bench.next(owner(1, 0));
            bench.take(event, &mut got);
        }
        assert_eq!(got, back);
    }
}

#[test]
fn the_ring_survives_what_enter_may_say() {
    for errno in ["EINTR", "EAGAIN", "EBUSY", "ETIME"] {
        let Some(output) = child("echo", Some(&format!("io_uring_enter:error={errno}:when=2+3"))) else { return };
        assert!(output.status.success(), "{errno}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn what_makes_a_ring_unusable_is_told() {
    let Some(output) = child("echo", Some("io_uring_enter:error=EBADF:when=20+")) else { return };
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("EBADF"));
}

#[test]
fn a_panic_does_not_hang_or_unmap() {
    let thread = std::thread::spawn(|| {
        let mut bench = Bench::new();
        let (near, _far) = tcp_pair();
        bench.ring.receive(owner(1, 0), &near, Receive::Multishot);
        bench.ring.wait(Some(Duration::ZERO), &mut bench.seen).unwrap();
        panic!("meant");
    });
    assert_eq!(*thread.join().unwrap_err().downcast::<&str>().unwrap(), "meant");
}

#[test]
fn a_ring_stays_on_its_thread() {
    // Compiles only while `Ring` is not `Send`: with it there would be two ways to name `proof`.
    trait Proof<Marker> {
        fn proof() {}
    }
    struct IfSend;
    impl<T> Proof<()> for T {}
    impl<T: Send> Proof<IfSend> for T {}
    <Ring as Proof<_>>::proof();
}

#[test]
#[ignore = "run by `without_a_descriptor_for_a_pipe_nothing_is_spliced`"]
fn child_pipe() {
    let mut bench = Bench::new();
    let (near, mut far) = tcp_pair();
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let scarce = Rlimit { current: Some(1), maximum: limit.maximum };
    rustix::process::setrlimit(Resource::Nofile, scarce).unwrap();
    far.write_all(b"bytes").unwrap();
    for _ in 0..3 {
        assert!(matches!(bench.ring.splice_in(&near), Spliced::Nothing));
        assert!(!bench.ring.pipes_short(), "nobody could give one back");
    }
    rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
    let got = (0..=crate::limits::PIPE_RETRY).find_map(|_| match bench.ring.splice_in(&near) {
        Spliced::Bytes(piped) => Some(piped),
        _ => None,
    });
    let piped = got.expect("the kernel is asked again");
    assert_eq!(piped.bytes(), 5);
    bench.ring.discard_piped(piped);
}

#[test]
fn without_a_descriptor_for_a_pipe_nothing_is_spliced() {
    let output = child("pipe", None).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
