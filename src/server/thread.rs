//! One worker's thread: it says when it has started and when it ends, whatever ends it.

use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::{io, thread};

use crate::control::Notice as Told;
use crate::engine::ring::SetupError;
use crate::worker::{Setup, Worker};

pub(super) enum Notice {
    Told(Told),
    Started { result: Result<(), SetupError> },
    Ended { number: usize, result: Result<(), String> },
}

/// Runs a worker on a thread of its own, which says when it has started and when it ends.
pub(super) fn spawn(setup: Setup, sender: Sender<Notice>) -> io::Result<JoinHandle<()>> {
    let number = setup.number;
    thread::Builder::new().name(format!("ringlb-{number}")).spawn(move || {
        let body = || match Worker::new(setup) {
            Ok(worker) => {
                notify(&sender, Notice::Started { result: Ok(()) });
                worker.run().map_err(|errno| format!("its ring is unusable: {errno}"))
            }
            Err(error) => {
                notify(&sender, Notice::Started { result: Err(error) });
                Ok(())
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        let result = result.unwrap_or_else(|panic| Err(format!("it panicked: {}", message(&*panic))));
        notify(&sender, Notice::Ended { number, result });
    })
}

/// The main thread hears until the process ends; a notice that comes after that has nobody to care.
pub(super) fn notify(sender: &Sender<Notice>, notice: Notice) {
    if sender.send(notice).is_err() {
        tracing::debug!("a notice came after the end");
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
