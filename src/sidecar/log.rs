//! The log sidecar: one loop that never stops reading.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt, unix::net::UnixStream},
    path::PathBuf,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::fs::OFlags;
use signal_hook::{consts::SIGTERM, low_level::pipe};

use super::{
    journal::{Copied, Journal},
    ship::{Address, Ship},
    spool::{Spool, SpoolError, Taken},
    wait::{Interest, wait},
};

/// Bytes taken from the FIFO before others get their turn.
const TURN: usize = 1024 * 1024;
/// What waits for its newline goes out without after this time.
const PARTIAL: Duration = Duration::from_secs(2);
/// How long SIGTERM is put off for lines to go out.
const FLUSH: Duration = Duration::from_secs(2);
/// How long `--drain` may take.
const DRAIN: Duration = Duration::from_secs(10);
/// When a busy journal is tried again.
const JOURNAL: Duration = Duration::from_millis(100);
/// The loop looks around at least this often.
const ROUND: Duration = Duration::from_secs(60);

/// What the log sidecar is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whose log goes where.
    pub address: Address,
    /// Folder of all spools.
    pub spool: PathBuf,
    /// The journal's socket.
    pub journal: PathBuf,
    /// Send what an earlier sidecar left, remove the spool and end; standard input is not read.
    pub drain: bool,
}

/// Why the log sidecar ended.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The spool failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The FIFO can't be opened.
    #[error("standard input is no FIFO that can be read; the unit needs StandardInput=fd:log")]
    Fifo(#[source] io::Error),
    /// Waiting failed.
    #[error("can't wait for signals and sockets")]
    Wait(#[source] io::Error),
    /// `--drain` could not send everything in time.
    #[error("{bytes} bytes of {unit} could not be sent within {} s", DRAIN.as_secs())]
    Undrained {
        /// What is left.
        bytes: u64,
        /// Whose it is.
        unit: String,
    },
}

/// Runs until SIGTERM, or until the spool is drained.
///
/// # Errors
/// When the FIFO or the spool can't be used.
pub fn run(options: &Options) -> Result<(), LogError> {
    let (signals, wake) = UnixStream::pair().map_err(LogError::Wait)?;
    pipe::register(SIGTERM, wake).map_err(LogError::Wait)?;
    let Address {
        unit, uuid, app, ..
    } = &options.address;
    let mut spool = Spool::open(&options.spool, unit, uuid)?;
    let tag = format!("{app}[{}]", options.address.source);
    let mut journal = Journal::new(options.journal.clone(), &tag, app.as_str(), unit, &spool);
    let mut ship = Ship::new(options.address.clone());
    let fifo = if options.drain {
        None
    } else {
        Some(open_fifo().map_err(LogError::Fifo)?)
    };

    let mut ending = options.drain.then(|| Instant::now() + DRAIN);
    let mut partial = Partial::default();
    let mut readable = true;
    loop {
        let now_ms = wall_clock_ms();
        let empty = match &fifo {
            Some(fifo) if readable || ending.is_some() => take_turn(&mut spool, fifo, now_ms)?,
            _ => true,
        };
        let now = Instant::now();
        let flush = (ending.is_some() && empty) || partial.is_due(&spool, now);
        let copied = journal.step(&mut spool, flush, now_ms)?;
        ship.step(&mut spool, flush, now, now_ms);
        let sent = spool.acked().offset == spool.end();
        if ship.is_idle() && sent {
            spool.rest();
        }
        if let Some(end) = ending
            && ((empty && sent) || now >= end)
        {
            break;
        }

        let mut until = now + ROUND;
        let timers = [
            ending,
            ship.deadline(&spool),
            partial.deadline(&spool),
            (copied == Copied::Busy).then_some(now + JOURNAL),
            (!empty).then_some(now),
        ];
        for timer in timers.into_iter().flatten() {
            until = until.min(timer);
        }
        let mut interests = vec![Interest {
            fd: signals.as_fd(),
            writable: false,
        }];
        if let Some(fifo) = &fifo {
            interests.push(Interest {
                fd: fifo.as_fd(),
                writable: false,
            });
        }
        if let Some((fd, writable)) = ship.interest() {
            interests.push(Interest { fd, writable });
        }
        let ready = wait(&interests, until).map_err(LogError::Wait)?;
        readable = !empty || (fifo.is_some() && ready.get(1).copied().unwrap_or(true));
        if ready[0] && ending.is_none() {
            ending = Some(Instant::now() + FLUSH);
            ship.hurry();
        }
    }
    if options.drain {
        let left = spool.end() - spool.acked().offset;
        if left > 0 {
            return Err(LogError::Undrained {
                bytes: left,
                unit: unit.clone(),
            });
        }
        spool.destroy()?;
    }
    Ok(())
}

/// Opens standard input's FIFO anew, for reading and writing: then it never ends, however often
/// its writers come and go, and its flags are nobody else's.
fn open_fifo() -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open("/proc/self/fd/0")
}

/// Takes what the FIFO holds, up to a bound; true when it is empty.
fn take_turn(spool: &mut Spool, fifo: &File, now_ms: u64) -> Result<bool, SpoolError> {
    let mut taken = 0;
    while taken < TURN {
        match spool.take(fifo, now_ms)? {
            Taken::Bytes(bytes) => taken += bytes,
            Taken::Nothing => return Ok(true),
        }
    }
    Ok(false)
}

fn wall_clock_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// Since when nothing has come, while something still waits for its newline.
#[derive(Debug, Default)]
struct Partial {
    waiting: Option<(u64, Instant)>,
}

impl Partial {
    /// Whether what is there is to go out even without a newline.
    fn is_due(&mut self, spool: &Spool, now: Instant) -> bool {
        let end = spool.end();
        match self.waiting {
            Some((at, since)) if at == end => now >= since + PARTIAL,
            _ => {
                self.waiting = Some((end, now));
                false
            }
        }
    }

    fn deadline(&self, spool: &Spool) -> Option<Instant> {
        let (at, since) = self.waiting?;
        let waits = spool.acked().offset < at || spool.journaled().offset < at;
        let due = since + PARTIAL;
        (waits && due > Instant::now()).then_some(due)
    }
}
