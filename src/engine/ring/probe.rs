//! The test of a new ring: flags such as multishot are not among the things that the kernel lists.

use std::os::fd::OwnedFd;

use io_uring::{Probe, Submitter, opcode};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{Ring, SetupError};
use crate::engine::buffers::Chain;
use crate::engine::{Engine, Event, OpKind, Owner, Receive, ReceiveEnd, Role};
use crate::errno::Errno;
use crate::limits::{PROBE_TURNS, PROBE_WAIT};
use crate::slots::Key;

/// Asks for the operations that the engine uses.
pub(super) fn opcodes(submitter: &Submitter<'_>) -> Result<(), SetupError> {
    let mut probe = Probe::new();
    let listed = submitter.register_probe(&mut probe);
    listed.map_err(|error| SetupError::Broken { step: "listing its operations", errno: Errno::from(&error) })?;
    let needed = [
        (opcode::AcceptMulti::CODE, "accept"),
        (opcode::AsyncCancel::CODE, "cancel"),
        (opcode::Close::CODE, "close"),
        (opcode::Connect::CODE, "connect"),
        (opcode::PollAdd::CODE, "poll"),
        (opcode::Recv::CODE, "receive"),
        (opcode::Send::CODE, "send"),
        (opcode::SendMsg::CODE, "send messages"),
    ];
    match needed.into_iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, operation)) => Err(SetupError::Missing { operation }),
        None => Ok(()),
    }
}

/// More than one, so that the send is a gathered one.
const CHUNKS: [&[u8]; 2] = [b"ring", b"lb"];
const OWNER: Owner = Owner { key: Key::new(0, 0), role: Role(0) };

impl Ring {
    /// Sends two chunks through a pair of sockets into a multishot receive and cancels that. Finds out whether the
    /// kernel has the vectored send.
    pub(super) fn try_out(&mut self) -> Result<(), SetupError> {
        let broken = |step, errno| SetupError::Broken { step, errno };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|errno| broken("making a pair of sockets", Errno::from(errno)))?;
        let (mut outward, mut inward) = (Chain::new(), Chain::new());
        for chunk in CHUNKS {
            self.buffers.append_copy(&mut outward, chunk);
        }
        self.receive(OWNER, &far, Receive::Multishot);
        self.send(OWNER, &near, &outward);
        let result = self.exchange(&near, &outward, &mut inward);
        self.buffers.clear(&mut outward);
        let content = self.buffers.slices(&inward).collect::<Vec<_>>().concat();
        self.buffers.clear(&mut inward);
        result?;
        if content != CHUNKS.concat() {
            return Err(broken("comparing what was received with what was sent", Errno::EIO));
        }
        Ok(())
    }

    fn exchange(&mut self, near: &OwnedFd, outward: &Chain, inward: &mut Chain) -> Result<(), SetupError> {
        let broken = |step, errno| SetupError::Broken { step, errno };
        let (mut sent, mut completions) = (false, Vec::new());
        for _ in 0..PROBE_TURNS {
            self.wait(Some(PROBE_WAIT), &mut completions).map_err(|errno| broken("waiting", errno))?;
            for completion in completions.drain(..) {
                match completion.event {
                    Event::Received { filled, more: true } => self.buffers.append(inward, filled),
                    Event::Received { filled, more: false } => {
                        self.buffers.append(inward, filled);
                        return Err(SetupError::Missing { operation: "go on receiving (multishot)" });
                    }
                    Event::Sent { whole: true, .. } => sent = true,
                    Event::SendFailed(Errno::EINVAL) if self.vectorized => {
                        self.vectorized = false;
                        self.send(OWNER, near, outward);
                    }
                    Event::SendFailed(errno) => return Err(broken("sending", errno)),
                    Event::ReceiveEnded(ReceiveEnd::Cancelled) if sent => return Ok(()),
                    Event::ReceiveEnded(ReceiveEnd::Failed(errno)) => return Err(broken("receiving", errno)),
                    event => {
                        tracing::debug!(?event, "unexpected in the test of a ring");
                        return Err(broken("receiving", Errno::EPROTO));
                    }
                }
            }
            if sent && inward.bytes() == outward.bytes() {
                self.cancel(OWNER, OpKind::Receive);
            }
        }
        Err(broken("waiting for a completion", Errno::ETIMEDOUT))
    }
}
