//! The pipes that bulk goes through: bytes move from one socket to the other by reference, without being copied.
//!
//! A pipe is made when one is wanted, up to a bound, and used again only when it is empty: one with bytes in it
//! that nobody wants any more is closed, and so are those that are too many. Where there is none, nothing is spliced.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno as Code;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::engine::{Buffers, Chain};
use crate::errno::Errno;
use crate::limits::{
    PIPE_BYTES, PIPE_BYTES_LEAST, PIPE_RETRY, PIPES_KEPT, PIPES_MAX, SPLICE_BYTES, SPLICE_BYTES_SHORT,
};

/// Bytes that wait in a pipe.
#[derive(Debug)]
#[must_use = "a pipe that is not given back is lost to the pool: `Engine::discard_piped`"]
pub struct Piped {
    id: u16,
    bytes: u32,
}

impl Piped {
    /// `bytes` bytes that wait in pipe `id`.
    pub const fn new(id: u16, bytes: u32) -> Piped {
        Piped { id, bytes }
    }

    /// Which pipe it is.
    pub const fn id(&self) -> u16 {
        self.id
    }

    /// How many bytes wait.
    pub const fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// So many have left.
    pub fn take(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.bytes());
        self.bytes -= bytes.min(self.bytes()) as u32;
    }
}

/// What became of an attempt to splice from a socket.
#[derive(Debug)]
pub enum Spliced {
    /// Bytes are in a pipe.
    Bytes(Piped),
    /// There was nothing to move, or no pipe to move it into: receive instead.
    Nothing,
    /// The stream has ended. See [`ReceiveEnd::Eof`](super::ReceiveEnd::Eof) for what this can hide.
    Eof,
    /// The connection is broken.
    Failed(Errno),
}

/// The pipes of one worker.
#[derive(Debug)]
pub(super) struct Pipes {
    /// By number; `None` where one was closed.
    pipes: Vec<Option<Pipe>>,
    /// Numbers of those that are open and empty, the last used last.
    free: Vec<u16>,
    /// Numbers of those that were closed.
    closed: Vec<u16>,
    most: usize,
    /// Attempts to be refused before the kernel is asked again.
    refusals: u32,
}

#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Pipes {
    pub(super) const fn new() -> Pipes {
        Pipes { pipes: Vec::new(), free: Vec::new(), closed: Vec::new(), most: PIPES_MAX, refusals: 0 }
    }

    /// Allows `most` pipes, at most [`PIPES_MAX`].
    pub(super) fn limit(&mut self, most: usize) {
        self.most = most.min(PIPES_MAX);
    }

    /// Whether as many hold bytes as there may be, or as the kernel grants.
    pub(super) fn are_short(&self) -> bool {
        let held = self.held();
        held > 0 && (held >= self.most || self.refusals > 0)
    }

    /// How many hold bytes.
    fn held(&self) -> usize {
        self.pipes.len() - self.closed.len() - self.free.len()
    }

    /// See [`Engine::splice_in`](super::Engine::splice_in).
    pub(super) fn splice_in(&mut self, socket: &OwnedFd) -> Spliced {
        // What a reader who is slow leaves in a pipe is less where many are.
        let most = if 2 * self.held() >= self.most { SPLICE_BYTES_SHORT } else { SPLICE_BYTES };
        let Some(id) = self.take() else { return Spliced::Nothing };
        let Some(pipe) = &self.pipes[usize::from(id)] else { return Spliced::Nothing };
        match advance(socket, &pipe.writer, most) {
            Ok(bytes @ 1..) => Spliced::Bytes(Piped::new(id, bytes as u32)),
            result => {
                self.free.push(id);
                match result {
                    Ok(_) => Spliced::Eof,
                    Err(code) if is_ours(code) => Spliced::Nothing,
                    Err(code) => Spliced::Failed(Errno::from(code)),
                }
            }
        }
    }

    /// See [`Engine::splice_out`](super::Engine::splice_out).
    pub(super) fn splice_out(&mut self, piped: &mut Piped, socket: &OwnedFd) -> Result<usize, Errno> {
        let Some(pipe) = &self.pipes[usize::from(piped.id)] else { return Err(Errno::EIO) };
        match advance(&pipe.reader, socket, piped.bytes()) {
            // A pipe that holds bytes has not ended: nothing was taken.
            Ok(0) => Err(Errno::EAGAIN),
            Ok(bytes) => {
                piped.take(bytes);
                Ok(bytes)
            }
            Err(code) if is_ours(code) => Err(Errno::EAGAIN),
            Err(code) => Err(Errno::from(code)),
        }
    }

    /// See [`Engine::discard_piped`](super::Engine::discard_piped).
    pub(super) fn discard(&mut self, piped: Piped) {
        if piped.bytes == 0 && self.free.len() < PIPES_KEPT {
            self.free.push(piped.id);
        } else {
            self.pipes[usize::from(piped.id)] = None;
            self.closed.push(piped.id);
        }
    }

    /// See [`Engine::spill_piped`](super::Engine::spill_piped).
    pub(super) fn spill(&mut self, mut piped: Piped, chain: &mut Chain, buffers: &mut Buffers) {
        let mut copy = vec![0; piped.bytes()];
        let mut filled = 0;
        if let Some(pipe) = &self.pipes[usize::from(piped.id)] {
            while filled < copy.len() {
                match rustix::io::read(&pipe.reader, &mut copy[filled..]) {
                    Ok(bytes @ 1..) => filled += bytes,
                    Err(Code::INTR) => {}
                    result => unreachable!("a pipe holds {} bytes less than it took: {result:?}", copy.len() - filled),
                }
            }
        }
        piped.take(filled);
        self.discard(piped);
        buffers.prepend_copy(chain, &copy);
    }

    /// An empty pipe.
    fn take(&mut self) -> Option<u16> {
        if let Some(id) = self.free.pop() {
            return Some(id);
        }
        if self.pipes.len() - self.closed.len() >= self.most {
            return None;
        }
        if self.refusals > 0 {
            self.refusals -= 1;
            return None;
        }
        match Pipe::new() {
            Ok(pipe) => {
                let id = self.closed.pop().unwrap_or_else(|| {
                    self.pipes.push(None);
                    self.pipes.len() as u16 - 1
                });
                self.pipes[usize::from(id)] = Some(pipe);
                Some(id)
            }
            Err(code) => {
                self.refusals = PIPE_RETRY;
                tracing::debug!(errno = %Errno::from(code), "no pipe to splice through; bulk is copied");
                None
            }
        }
    }
}

impl Pipe {
    /// A pipe of [`PIPE_BYTES`], or of [`PIPE_BYTES_LEAST`]: a smaller one, which is what users get who have many, would not pay.
    fn new() -> rustix::io::Result<Pipe> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Users without privileges have so many pages in all their pipes, and so many in one.
        fcntl_setpipe_size(&writer, PIPE_BYTES).or_else(|_| fcntl_setpipe_size(&writer, PIPE_BYTES_LEAST))?;
        Ok(Pipe { reader, writer })
    }
}

/// Whether this says nothing about the connection: then its bytes go another way.
const fn is_ours(code: Code) -> bool {
    matches!(
        code,
        Code::AGAIN
            | Code::INTR
            | Code::NOMEM
            | Code::NOBUFS
            | Code::PERM
            | Code::NOSYS
            | Code::INVAL
            | Code::OPNOTSUPP
    )
}

fn advance(from: impl AsFd, to: impl AsFd, bytes: usize) -> rustix::io::Result<usize> {
    splice(from, None, to, None, bytes, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_short_where_the_kernel_refuses_one_while_others_hold_bytes() {
        let mut pipes = Pipes::new();
        pipes.refusals = PIPE_RETRY;
        assert!(!pipes.are_short(), "there is nobody to take one from");
        pipes.refusals = 0;
        let held = pipes.take().expect("a pipe");
        assert!(!pipes.are_short());
        pipes.refusals = PIPE_RETRY;
        assert!(pipes.are_short());
        pipes.free.push(held);
        assert!(!pipes.are_short());
    }
}
