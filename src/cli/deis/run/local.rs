//! Our side of a session: the terminal, the streams, the signals. Threads do what may wait for ever
//! (a pager that is not scrolled), so that the connection is kept alive meanwhile.

use std::{
    io::{self, Write},
    thread,
};

use anyhow::Context as _;
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::super::{Ui, args};
use crate::session::{Size, Term, Terminal, frame::MAX_PART};

/// Pieces of input that are read ahead.
const AHEAD: usize = 2;

/// A terminal that doesn't know its size.
const USUAL: Size = Size { rows: 24, cols: 80 };

/// What happens on our side.
pub(super) enum Event {
    /// A piece of output was written.
    Written,
    /// Nobody reads the output any more.
    Closed,
    /// It can't be written.
    Failed(io::Error),
    /// Input; none: its end.
    Input(Vec<u8>),
    /// The window has another size.
    Size(Size),
    /// Ctrl-C, where there is no terminal to pass it on.
    Interrupt,
    /// We are to end, with this exit code.
    Leave(u8),
}

type Piece = (Vec<u8>, bool);

/// Our side.
pub(super) struct Local {
    terminal: Option<Terminal>,
    has_input: bool,
    /// How the terminal was before: put back however this ends.
    raw: Option<Raw>,
    input: Option<mpsc::Receiver<Vec<u8>>>,
    output: Option<mpsc::UnboundedSender<Piece>>,
    taken: (
        mpsc::UnboundedSender<io::Result<()>>,
        mpsc::UnboundedReceiver<io::Result<()>>,
    ),
    /// Pieces that are being written.
    writing: usize,
    signals: Signals,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    resize: Signal,
}

/// A terminal in raw mode: each key goes to the process.
struct Raw(Termios);

impl Raw {
    fn set() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

fn size() -> Size {
    match tcgetwinsize(io::stdout()) {
        Ok(Winsize { ws_row, ws_col, .. }) if ws_row > 0 && ws_col > 0 => Size {
            rows: ws_row,
            cols: ws_col,
        },
        _ => USUAL,
    }
}

impl Local {
    /// Looks at what there is; changes nothing yet.
    pub(super) fn new(ui: &Ui, args: &args::Run) -> anyhow::Result<Self> {
        let both = ui.reads_terminal() && ui.is_terminal();
        let wanted = args.tty || (both && !args.no_tty && !args.no_input);
        let terminal = wanted.then(|| Terminal {
            size: size(),
            term: std::env::var("TERM")
                .ok()
                .and_then(|term| Term::try_from(term).ok())
                .unwrap_or_default(),
        });
        let signal = |kind| signal(kind).context("can't catch signals");
        Ok(Self {
            terminal,
            has_input: !args.no_input,
            raw: None,
            input: None,
            output: None,
            taken: mpsc::unbounded_channel(),
            writing: 0,
            signals: Signals {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hang_up: signal(SignalKind::hangup())?,
                resize: signal(SignalKind::window_change())?,
            },
        })
    }

    pub(super) fn terminal(&self) -> Option<Terminal> {
        self.terminal.clone()
    }

    pub(super) const fn has_input(&self) -> bool {
        self.has_input
    }

    /// From now on the user speaks with the process.
    pub(super) fn begin(&mut self, ui: &mut Ui) -> anyhow::Result<()> {
        if self.terminal.is_some() && ui.reads_terminal() {
            self.raw = Some(Raw::set().context("can't set the terminal's mode")?);
        }
        if self.has_input {
            self.input = Some(if ui.is_own() {
                read_stdin()
            } else {
                pieces(&ui.read_all())
            });
        }
        if ui.is_own() {
            let (output, pieces) = mpsc::unbounded_channel();
            let taken = self.taken.0.clone();
            thread::spawn(move || write_out(pieces, &taken));
            self.output = Some(output);
        }
        Ok(())
    }

    /// From now on with us again.
    pub(super) fn end(&mut self) {
        self.raw = None;
    }

    /// Puts output in line. The session's window bounds how much that can be.
    pub(super) fn write(
        &mut self,
        ui: &mut Ui,
        bytes: Vec<u8>,
        errors: bool,
    ) -> anyhow::Result<()> {
        self.writing += 1;
        match &self.output {
            Some(output) => output
                .send((bytes, errors))
                .context("the thread that writes has ended"),
            None => {
                let _ = self.taken.0.send(ui.write_raw(&bytes, errors));
                Ok(())
            }
        }
    }

    /// Whether all output was written.
    pub(super) const fn is_quiet(&self) -> bool {
        self.writing == 0
    }

    /// Waits until something happens on our side; input only where it may be read. May be given up and
    /// called again.
    pub(super) async fn next(&mut self, may_read: bool) -> Event {
        let has_terminal = self.terminal.is_some();
        loop {
            tokio::select! {
                Some(written) = self.taken.1.recv() => return match written {
                    Ok(()) => {
                        self.writing -= 1;
                        Event::Written
                    }
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Event::Closed,
                    Err(error) => Event::Failed(error),
                },
                bytes = next(&mut self.input), if may_read => {
                    if bytes.is_none() {
                        self.input = None;
                    }
                    return Event::Input(bytes.unwrap_or_default());
                }
                _ = self.signals.resize.recv() => if has_terminal {
                    return Event::Size(size());
                },
                // With a terminal in raw mode, Ctrl-C is a byte; this one comes from elsewhere.
                _ = self.signals.interrupt.recv() => return if has_terminal {
                    Event::Leave(130)
                } else {
                    Event::Interrupt
                },
                _ = self.signals.terminate.recv() => return Event::Leave(128 + 15),
                _ = self.signals.hang_up.recv() => return Event::Leave(128 + 1),
            }
        }
    }
}

async fn next(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(input) => input.recv().await,
        None => std::future::pending().await,
    }
}

/// Reads our input, no faster than it is taken. The thread may wait for it as long as the program runs.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    thread::spawn(move || {
        let mut buffer = vec![0; MAX_PART / 2];
        loop {
            match rustix::io::read(io::stdin(), &mut buffer) {
                Ok(0) => return,
                Ok(read) => {
                    if sender.blocking_send(buffer[..read].to_vec()).is_err() {
                        return;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// A stand-in's input.
fn pieces(bytes: &[u8]) -> mpsc::Receiver<Vec<u8>> {
    let pieces: Vec<_> = bytes.chunks(MAX_PART / 2).map(<[u8]>::to_vec).collect();
    let (sender, receiver) = mpsc::channel(pieces.len().max(1));
    for piece in pieces {
        // There is room for all.
        let _ = sender.try_send(piece);
    }
    receiver
}

/// Writes what the process prints, and tells of each piece.
fn write_out(
    mut pieces: mpsc::UnboundedReceiver<Piece>,
    taken: &mpsc::UnboundedSender<io::Result<()>>,
) {
    while let Some((bytes, errors)) = pieces.blocking_recv() {
        let written = if errors {
            io::stderr().write_all(&bytes)
        } else {
            // As it comes, without waiting for the end of a line.
            let mut out = io::stdout().lock();
            out.write_all(&bytes).and_then(|()| out.flush())
        };
        if taken.send(written).is_err() {
            return;
        }
    }
}
