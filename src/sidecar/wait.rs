//! poll(2) with a bound.

use std::{
    io,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// One descriptor to wait for.
#[derive(Debug)]
pub struct Interest<'fd> {
    /// The descriptor.
    pub fd: BorrowedFd<'fd>,
    /// Wake up when it takes bytes, too (it always does when there are bytes to read or an error).
    pub writable: bool,
}

/// Waits until one of `interests` has something or `until` has come; tells for each whether it has.
///
/// # Errors
/// What poll(2) says, other than an interruption.
pub fn wait(interests: &[Interest<'_>], until: Instant) -> io::Result<Vec<bool>> {
    let fds: Vec<_> = interests
        .iter()
        .map(|interest| {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, interest.writable);
            (interest.fd, flags)
        })
        .collect();
    wait_for(&fds, until)
}

/// The same for descriptors of which only what is named is waited for (and errors, always).
///
/// # Errors
/// What poll(2) says, other than an interruption.
pub fn wait_for(
    interests: &[(BorrowedFd<'_>, PollFlags)],
    until: Instant,
) -> io::Result<Vec<bool>> {
    let mut fds: Vec<PollFd<'_>> = interests
        .iter()
        .map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
        .collect();
    // poll(2) counts milliseconds: rounded up, so that nobody wakes up just before the time.
    let left = until.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) => Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect()),
        Err(rustix::io::Errno::INTR) => Ok(vec![false; interests.len()]),
        Err(error) => Err(error.into()),
    }
}
