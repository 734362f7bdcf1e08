//! The kernel's pipes: bytes on their way from one link to another that the owner never sees.

use super::faults::Sabotage;
use super::kernel::{Kernel, SimSocket};
use super::link::{LinkId, op_index};
use super::random::{Chance, Random};
use crate::engine::{Chain, OpKind, Piped, Spliced};
use crate::errno::Errno;
use crate::limits::{BULK_BUFFER_BYTES, SPLICE_BYTES};

/// All pipes that there are. In a run their number is drawn: there may be none.
#[derive(Debug)]
pub(super) struct Pipes {
    /// What each holds; `None`: nothing, and it is free.
    pipes: Vec<Option<Content>>,
}

/// Bytes of a link's stream.
#[derive(Copy, Clone, Debug)]
struct Content {
    from: LinkId,
    offset: u64,
    bytes: u64,
}

impl Pipes {
    pub(super) fn new(count: usize) -> Pipes {
        Pipes { pipes: vec![None; count] }
    }

    pub(super) fn draw(random: &mut Random) -> Pipes {
        Pipes::new(random.pick(&[0, 1, 2, 4, 64, 64]))
    }

    pub(super) fn are_free(&self) -> bool {
        self.pipes.iter().all(Option::is_none)
    }

    pub(super) fn are_short(&self) -> bool {
        !self.pipes.is_empty() && self.pipes.iter().all(Option::is_some)
    }

    fn content(&mut self, piped: &Piped) -> &mut Content {
        let content = self.pipes[usize::from(piped.id())].as_mut().expect("a pipe that was given back");
        assert_eq!(content.bytes, piped.bytes() as u64, "{piped:?} holds something else");
        content
    }
}

impl Kernel {
    /// Moves what has come into a pipe, if there is a free one: all of it, or a part.
    pub(super) fn fill_pipe(&mut self, socket: &SimSocket) -> Spliced {
        let id = socket.link;
        let link = self.link(id);
        assert!(link.established() && link.open(), "a splice from {id:?}, which is not connected");
        assert!(link.ops[op_index(OpKind::Receive)].is_none(), "a splice from {id:?} under a receive");
        assert!(self.all_begun(), "a splice from {id:?} before all that came in this turn was handled");
        self.link_mut(id).told.may_splice = false;
        let free = self.pipes.pipes.iter().position(Option::is_none);
        let Some(number) = free.filter(|_| !self.random.chance(self.faults.starved)) else {
            self.seen.splices_refused += 1;
            return Spliced::Nothing;
        };
        let unread = self.link(id).unread();
        if unread == 0 {
            return self.splice_nothing(id);
        }
        let bytes = match unread.min(SPLICE_BYTES as u64) {
            all if self.random.coin() => all,
            all => self.random.between(1, all),
        };
        let mut offset = self.link(id).inbound.read;
        if bytes < unread && self.plant(Sabotage::DropPiped) {
            offset += 1;
        }
        self.pipes.pipes[number] = Some(Content { from: id, offset, bytes });
        self.link_mut(id).inbound.read += bytes;
        self.seen.spliced += 1;
        self.seen.bytes += bytes;
        self.audit_spliced(id, bytes);
        self.move_inbound(id);
        Spliced::Bytes(Piped::new(number as u16, bytes as u32))
    }

    fn splice_nothing(&mut self, id: LinkId) -> Spliced {
        let link = self.link_mut(id);
        if link.inbound.fin_arrived {
            self.audit_eof(id);
            return Spliced::Eof;
        }
        if link.gone.is_none() {
            self.seen.false_alarms += 1;
            return Spliced::Nothing;
        }
        link.error.take().map_or(Spliced::Eof, Spliced::Failed)
    }

    /// Moves the front of a pipe into the send queue: as much as there is room for, or less.
    pub(super) fn empty_pipe(&mut self, piped: &mut Piped, socket: &SimSocket) -> Result<usize, Errno> {
        let id = socket.link;
        let content = *self.pipes.content(piped);
        self.audit_splice_out(id, content.from, content.offset, content.bytes);
        self.link_mut(id).told.may_splice = false;
        let odd = self.random.chance(self.faults.slow_wake) && self.random.chance(Chance(300));
        let link = self.link_mut(id);
        if link.gone.is_some() {
            return Err(link.error.take().unwrap_or(Errno::EPIPE));
        }
        let room = link.path.send_queue.saturating_sub(link.outbound.taken - link.outbound.acknowledged);
        let most = room.min(content.bytes);
        if most == 0 || odd {
            self.seen.pipes_stalled += 1;
            return Err(Errno::EAGAIN);
        }
        let bytes = if self.random.coin() { most } else { self.random.between(1, most) };
        self.link_mut(id).outbound.taken += bytes;
        let content = self.pipes.content(piped);
        content.offset += bytes;
        content.bytes -= bytes;
        piped.take(bytes as usize);
        self.audit_sent(id);
        self.move_outbound(id);
        Ok(bytes as usize)
    }

    /// A pipe comes back, with bytes in it or without.
    pub(super) fn end_pipe(&mut self, piped: &Piped) {
        self.pipes.content(piped);
        self.pipes.pipes[usize::from(piped.id())] = None;
    }

    /// What is left in a pipe is read.
    pub(super) fn read_pipe(&mut self, piped: &Piped, chain: &mut Chain) {
        let content = *self.pipes.content(piped);
        let stream = self.link(content.from).stream;
        let mut copy = Vec::new();
        while copy.len() < piped.bytes() {
            let piece = (piped.bytes() - copy.len()).min(BULK_BUFFER_BYTES);
            copy.extend_from_slice(stream.slice(content.offset + copy.len() as u64, piece));
        }
        self.seen.pipes_spilt += 1;
        self.buffers.prepend_copy(chain, &copy);
        self.end_pipe(piped);
    }
}
