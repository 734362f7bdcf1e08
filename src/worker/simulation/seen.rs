//! What has happened in a run, counted, so that a test knows that it was nasty enough.

macro_rules! seen {
    ($($(#[doc = $doc:literal])* $name:ident)*) => {
        #[doc = "Counts of what has happened."]
        #[derive(Copy, Clone, Debug, Default)]
        pub(super) struct Seen {
            $($(#[doc = $doc])* pub(super) $name: u64,)*
        }

        impl Seen {
            pub(super) fn add(&mut self, other: &Seen) {
                $(self.$name += other.$name;)*
            }

            /// Every count by its name.
            pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

seen! {
    completions
    bytes
    /// A peer's reset reached an open socket.
    resets
    /// A receive said 0 after a reset, because somebody else had the error.
    swallowed
    /// A send stopped short without an errno.
    short
    /// A receive was told that there are no buffers although there were some.
    starved
    /// There were none.
    exhausted
    /// A multishot receive had to wait until its completions were handled.
    bursts
    /// Data came after a receive was cancelled.
    after_cancel
    /// A cancelled send had taken something.
    recalled
    /// A connect succeeded after it was cancelled.
    late_connects
    /// A watch saw something.
    hung_up
    /// The kernel ended a watch by itself.
    watches_dropped
    /// A half-close met a connection that was reset before.
    shut_refused
    vanished
    paths_lost
    /// A reset threw away bytes that waited.
    thrown_away
    /// Bytes came for a socket that was closed.
    orphans
    /// Waiting bytes were copied to the heap.
    spilt
    /// Splices waited for the next turn.
    splices_put_off
    late_turns
    interrupted
    open_failures
    connect_failures
    /// A backend was tried again from another source.
    sources_left
    bulk_pieces
    /// A session waited for a place.
    waited
    /// A place came for a session that waited no longer.
    places_passed_on
    /// A client was told in words that nobody serves it.
    answered
    /// And went on talking.
    answered_talkers
    /// Bytes were moved into a pipe.
    spliced
    /// There was no pipe.
    splices_refused
    /// A socket was said to have something, and had nothing.
    false_alarms
    /// A socket took nothing out of a pipe.
    pipes_stalled
    /// What was in a pipe was copied to the heap.
    pipes_spilt
}
