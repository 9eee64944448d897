//! How the threads share the cores. Whoever answers a question, which takes a moment, need not wait
//! until others have had their turn; whoever writes or sorts lets all others go first; all others,
//! those that empty the rings before all, are as the system makes them. No privilege is needed.
//!
//! A thread begins as the one that makes it, so each says what it is.

use std::{ffi::c_long, io, mem};

use libc::sched_attr;

/// How much others count beside who lets them go first.
const NICE: i32 = 5;
/// A turn of who answers, in nanoseconds: the shortest that there is.
const TURN: u64 = 100_000;

/// The calling thread has short turns, and gets the next one the sooner for it (Linux 6.12 and
/// later).
pub fn answer_soon() {
    change(|attributes| attributes.sched_runtime = TURN);
}

/// The calling thread has turns as others have.
pub fn as_others() {
    change(|attributes| attributes.sched_runtime = 0);
}

/// The calling thread lets others go first.
pub fn let_others_go_first() {
    change(|attributes| {
        attributes.sched_runtime = 0;
        attributes.sched_nice += NICE;
    });
}

/// Where the system does not allow it, the thread does its work as it is.
fn change(what: impl FnOnce(&mut sched_attr)) {
    let changed = attributes().and_then(|mut attributes| {
        what(&mut attributes);
        // SAFETY: the structure is whole, has its size in it, and lives until the call is over.
        done(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) })
    });
    if let Err(error) = changed {
        tracing::debug!(%error, "changing how a thread is scheduled");
    }
}

/// How the calling thread is scheduled.
fn attributes() -> io::Result<sched_attr> {
    // SAFETY: it is made of numbers.
    let mut attributes: sched_attr = unsafe { mem::zeroed() };
    let size = size_of::<sched_attr>();
    // SAFETY: the structure has that size, and lives until the call is over.
    done(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) })?;
    Ok(attributes)
}

fn done(result: c_long) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_is_scheduled_as_it_says_whoever_made_it() {
        let of_thread = |what: fn()| {
            thread::spawn(move || {
                let before = attributes().unwrap().sched_nice;
                answer_soon();
                let as_answering = attributes().unwrap();
                let made = thread::spawn(move || {
                    what();
                    attributes().unwrap()
                });
                assert_eq!(as_answering.sched_nice, before);
                let found = made.join().unwrap();
                let nicer = found.sched_nice - before;
                (as_answering.sched_runtime, found.sched_runtime, nicer)
            })
            .join()
            .unwrap()
        };
        let (answering, others, nicer) = of_thread(as_others);
        // Kernels before 6.12 know no turns.
        let knows_turns = answering != 0;
        assert!(
            !knows_turns || answering == TURN && others > TURN,
            "{answering} {others}"
        );
        assert_eq!(nicer, 0);
        let (_, writing, nicer) = of_thread(let_others_go_first);
        assert!(!knows_turns || writing > TURN, "{writing}");
        assert_eq!(nicer, NICE);
    }
}
