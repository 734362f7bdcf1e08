//! What clients cost in memory while they rest, and what they leave behind.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use socket2::SockRef;

use common::procfs::anonymous_bytes;
use common::ringlb::{Config, Ringlb};
use common::until;

const CLIENTS: usize = 5000;

/// Each says so much, and gets as much: more than one buffer.
const BYTES: usize = 5000;

/// User memory of one session at rest.
const SESSION_BYTES: u64 = 400;

/// Clients that it has served before the crowd comes, and what they may leave behind.
const FEW: usize = 64;
const LITTLE: u64 = 160 * 1024;

/// Beyond a fifth, of a process that takes one megabyte at rest: what the allocator's own lists keep.
const SLACK: u64 = 128 * 1024;

/// So many connect at a time, so that nobody's backlog overflows.
const BATCH: usize = 100;

/// Clients, with their backend's ends, each of which has said something and got an answer.
fn crowd(ringlb: &Ringlb, backend: &TcpListener, clients: usize) -> Vec<(TcpStream, TcpStream)> {
    let mut crowd = Vec::new();
    let mut bytes = vec![7; BYTES];
    while crowd.len() < clients {
        let mut batch: Vec<TcpStream> = (0..BATCH.min(clients - crowd.len())).map(|_| ringlb.connect()).collect();
        for client in &mut batch {
            client.write_all(&bytes).expect("the request is sent");
        }
        let mut served: Vec<TcpStream> = batch.iter().map(|_| backend.accept().expect("ringlb connects").0).collect();
        for end in &mut served {
            end.read_exact(&mut bytes).expect("the request comes");
            end.write_all(&bytes).expect("the answer is sent");
        }
        for client in &mut batch {
            client.read_exact(&mut bytes).expect("the answer comes");
        }
        crowd.extend(batch.into_iter().zip(served));
    }
    crowd
}

#[test]
fn a_client_at_rest_costs_little_and_a_crowd_that_has_gone_nothing() {
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    SockRef::from(&backend).listen(4096).expect("a longer backlog");
    let ringlb = Config::new(&[backend.local_addr().expect("an address")]).one_worker().start();
    let fresh = anonymous_bytes(ringlb.pid());
    drop(crowd(&ringlb, &backend, FEW));
    let before = until("what some clients have used is given back", || {
        let bytes = anonymous_bytes(ringlb.pid());
        (bytes <= fresh + LITTLE).then_some(bytes)
    });
    for round in 0..2 {
        let clients = crowd(&ringlb, &backend, CLIENTS);
        let most = before + CLIENTS as u64 * SESSION_BYTES;
        let held = until(&format!("{CLIENTS} clients at rest take {most} bytes at most"), || {
            let bytes = anonymous_bytes(ringlb.pid());
            (bytes <= most).then_some(bytes)
        });
        drop(clients);
        let left = until(&format!("a fifth more than {before} bytes is left at most"), || {
            let bytes = anonymous_bytes(ringlb.pid());
            (bytes <= before + before / 5 + SLACK).then_some(bytes)
        });
        println!("round {round}: {before} before, {held} with {CLIENTS} clients, {left} left");
    }
    ringlb.stop();
}
