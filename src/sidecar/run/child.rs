//! The process itself, with pipes or on a terminal.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::ExitStatusExt,
    },
    process::{Command, ExitStatus, Stdio},
};

use rustix::{
    event::PollFlags,
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize},
};

use super::parse_size;
use crate::session::{Channel, Link, Part, Size, frame::MAX_PART};

/// What ends the input of a program on a terminal: Ctrl-D.
const END_OF_INPUT: u8 = 4;

/// The process with its streams.
pub(super) struct Child {
    process: Option<std::process::Child>,
    /// Where its input goes; with a terminal the same as where its output comes from.
    input: Option<File>,
    output: Option<File>,
    errors: Option<File>,
    is_terminal: bool,
    /// Parts that are not taken yet, in the order in which they came.
    waiting: VecDeque<Waiting>,
    /// How much of the first of them is written.
    written: usize,
}

/// A part that waits for its turn.
enum Waiting {
    /// Input that the process has not read yet.
    Input(Vec<u8>),
    /// Something that was carried out at once; it counts as taken when what came before it is.
    Done,
}

impl Child {
    /// No process: it could not be started.
    pub(super) const fn none() -> Self {
        Self {
            process: None,
            input: None,
            output: None,
            errors: None,
            is_terminal: false,
            waiting: VecDeque::new(),
            written: 0,
        }
    }

    /// Starts the process.
    pub(super) fn start(
        mut command: Command,
        terminal: Option<Size>,
        has_input: bool,
    ) -> io::Result<Self> {
        match terminal {
            Some(size) => Self::on_terminal(command, size),
            None => {
                command
                    .stdin(if has_input {
                        Stdio::piped()
                    } else {
                        Stdio::null()
                    })
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
                let mut process = command.spawn()?;
                Ok(Self {
                    input: process
                        .stdin
                        .take()
                        .map(|pipe| ours(pipe.into()))
                        .transpose()?,
                    output: process
                        .stdout
                        .take()
                        .map(|pipe| ours(pipe.into()))
                        .transpose()?,
                    errors: process
                        .stderr
                        .take()
                        .map(|pipe| ours(pipe.into()))
                        .transpose()?,
                    process: Some(process),
                    ..Self::none()
                })
            }
        }
    }

    fn on_terminal(mut command: Command, size: Size) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let flags =
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let slave = rustix::fs::open(name.as_c_str(), flags, rustix::fs::Mode::empty())?;
        tcsetwinsize(&master, winsize(size))?;
        // The container has a terminal of its own, which echoes and edits lines: this one must not,
        // also while the runtime is still on its way.
        let mut modes = tcgetattr(&slave)?;
        modes.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &modes)?;
        // The runtime hears of a new size by a signal from its controlling terminal. systemd has made
        // us the leader of a session already.
        let _ = rustix::process::setsid();
        rustix::process::ioctl_tiocsctty(&slave)?;
        command
            .stdin(Stdio::from(slave.try_clone()?))
            .stdout(Stdio::from(slave.try_clone()?))
            .stderr(Stdio::from(slave));
        let process = command.spawn()?;
        // What is left of the slave's descriptors belongs to the process: its end is seen at ours.
        drop(command);
        let master = ours(master)?;
        Ok(Self {
            process: Some(process),
            input: Some(master.try_clone()?),
            output: Some(master),
            is_terminal: true,
            ..Self::none()
        })
    }

    /// Takes a part of the other end.
    pub(super) fn hear(&mut self, part: Part, link: &mut Link) {
        let waiting = match part.channel {
            Channel::Input => Waiting::Input(part.bytes),
            Channel::Size => {
                if let (Some(size), true, Some(output)) =
                    (parse_size(&part.bytes), self.is_terminal, &self.output)
                {
                    let _ = tcsetwinsize(output, winsize(size));
                }
                Waiting::Done
            }
            Channel::Signal => {
                match part.bytes.as_slice() {
                    b"INT" => self.signal(Signal::INT),
                    b"TERM" => self.signal(Signal::TERM),
                    b"HUP" => self.signal(Signal::HUP),
                    _ => {}
                }
                Waiting::Done
            }
            Channel::Output | Channel::Errors | Channel::Status => Waiting::Done,
        };
        self.waiting.push_back(waiting);
        self.feed(link);
    }

    /// Writes input as far as the process takes it.
    pub(super) fn feed(&mut self, link: &mut Link) {
        while let Some(waiting) = self.waiting.front() {
            if let (Waiting::Input(bytes), Some(input)) = (waiting, &mut self.input) {
                let bytes = match bytes.as_slice() {
                    [] if self.is_terminal => &[END_OF_INPUT],
                    bytes => bytes,
                };
                if bytes.is_empty() {
                    self.input = None;
                } else {
                    match input.write(&bytes[self.written..]) {
                        Ok(written) if self.written + written < bytes.len() => {
                            self.written += written;
                            continue;
                        }
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        // It has closed its input: the rest is for nobody.
                        Err(_) => self.input = None,
                    }
                }
            }
            self.waiting.pop_front();
            self.written = 0;
            link.take();
        }
    }

    /// Reads output as far as there is room for it.
    pub(super) fn read(&mut self, link: &mut Link) {
        read(&mut self.output, Channel::Output, link);
        read(&mut self.errors, Channel::Errors, link);
    }

    /// Whether it has ended and all that it printed is on its way; then its exit code.
    pub(super) fn ended(&mut self, link: &mut Link) -> io::Result<Option<i32>> {
        let Some(process) = &mut self.process else {
            return Ok(None);
        };
        let Some(status) = process.try_wait()? else {
            return Ok(None);
        };
        // Nobody writes any more: what is there is all. Without room, the rest comes later.
        let output = read(&mut self.output, Channel::Output, link);
        let errors = read(&mut self.errors, Channel::Errors, link);
        if !(output && errors) {
            return Ok(None);
        }
        (self.output, self.errors, self.input) = (None, None, None);
        self.feed(link);
        Ok(Some(code(status)))
    }

    /// Asks it to end, as a terminal does that is closed.
    pub(super) fn hang_up(&self) {
        if self.is_terminal {
            self.signal(Signal::HUP);
        } else {
            self.signal(Signal::TERM);
        }
    }

    /// Ends it.
    pub(super) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.process.as_ref().and_then(|process| {
            let id = i32::try_from(process.id()).ok()?;
            Pid::from_raw(id)
        });
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }

    /// What to wait for.
    pub(super) fn interests<'c>(
        &'c self,
        link: &Link,
        interests: &mut Vec<(BorrowedFd<'c>, PollFlags)>,
    ) {
        let has_room = link.room() > 0;
        for stream in [&self.output, &self.errors].into_iter().flatten() {
            if has_room {
                interests.push((stream.as_fd(), PollFlags::IN));
            }
        }
        if let (Some(input), false) = (&self.input, self.waiting.is_empty()) {
            interests.push((input.as_fd(), PollFlags::OUT));
        }
    }
}

/// Reads until there is nothing, or no room. Whether there is nothing (now).
fn read(stream: &mut Option<File>, channel: Channel, link: &mut Link) -> bool {
    let mut chunk = [0; MAX_PART];
    while let Some(file) = stream {
        let room = link.room();
        if room == 0 {
            return false;
        }
        match file.read(&mut chunk[..room]) {
            // A terminal whose last user is gone fails with EIO.
            Ok(0) => *stream = None,
            Ok(read) => link.push(Part::new(channel, &chunk[..read])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => *stream = None,
        }
    }
    true
}

fn winsize(size: Size) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Our end of a pipe or terminal: nothing that is done with it waits.
fn ours(fd: OwnedFd) -> io::Result<File> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd.into())
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(9))
}
