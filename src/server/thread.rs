//! One worker's thread: it says when it has started and when it ends, whatever ends it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::{io, thread};

use crate::control::Notice as Told;
use crate::engine::ring::SetupError;
use crate::errno::Errno;
use crate::worker::{Setup, Worker};

/// What the main thread is told.
pub(super) enum Notice {
    Told(Told),
    /// A worker has its ring, and serves.
    Started,
    /// A worker has let go of everything.
    Ended {
        number: usize,
        result: Result<(), Failure>,
    },
}

/// Why a worker has ended without being told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("its ring is unusable: {0}")]
    Ring(#[from] Errno),
    #[error("it panicked: {0}")]
    Panic(String),
    #[error("its thread could not be started: {0}")]
    Thread(io::Error),
}

/// Runs a worker on a thread of its own.
///
/// # Errors
/// Where the thread cannot be had.
pub(super) fn spawn(setup: Setup, sender: Sender<Notice>) -> io::Result<JoinHandle<()>> {
    let number = setup.number;
    thread::Builder::new().name(format!("ringlb-{number}")).spawn(move || {
        let result = run(setup, &sender);
        notify(&sender, Notice::Ended { number, result });
    })
}

/// Runs a worker to its end. When that is a bad one it is cleaned up outside of the panic, where a second one does no harm.
fn run(setup: Setup, sender: &Sender<Notice>) -> Result<(), Failure> {
    let mut worker = caught(|| Ok(Worker::new(setup)?))?;
    notify(sender, Notice::Started);
    let result = caught(|| Ok(worker.run()?));
    if result.is_err()
        && let Err(failure) = caught(|| {
            worker.abandon();
            Ok(())
        })
    {
        tracing::error!(%failure, "a worker that has failed could not be cleaned up; please report this");
    }
    result
}

fn caught<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // What may be half-done is the worker's own, which is given up.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(Failure::Panic(message(&*panic).to_owned())))
}

/// The main thread hears until the process ends; a notice that comes after that has nobody to care.
pub(super) fn notify(sender: &Sender<Notice>, notice: Notice) {
    if sender.send(notice).is_err() {
        tracing::debug!("a notice came after the end");
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
