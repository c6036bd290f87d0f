//! A session: what connects a one-off process (`deis run`) with whoever has asked for it.
//!
//! ```text
//!  deis run ==websocket== controller ==TCP 8001== agent ==agent.sock== deis-sidecar run == the process
//!    Link <------------------ frames, relayed as they are ------------------> Link
//! ```
//!
//! **Who does what.** The unit of a one-off runs `deis-sidecar run`, which starts the container
//! runtime as its child, with pipes or a terminal of its own. So neither agent nor systemd nor
//! controller is in the data path of the process: each of them may be restarted without the process
//! noticing more than a pause. The two *ends* (the sidecar, and the client or, for v1's clients,
//! the controller on its behalf) keep the session: each has a [`Link`] that numbers what it sends
//! and keeps it until the other end has acknowledged it. All that is between them passes frames on
//! and remembers nothing.
//!
//! **Nothing comes twice, nothing is lost.** A sidecar whose connection broke (the agent was
//! restarted) connects anew and says how many parts it *has*; the other end says the same and both
//! go on from there. The connection has a number, so that an answer to an earlier one, still on its
//! way, is not taken for the answer to this one.
//!
//! **Back-pressure.** A part is acknowledged when it was *taken*: written to the user's terminal, to
//! the process's input. An end has at most [`link::WINDOW`] bytes unacknowledged, and then stops
//! reading: the process blocks in its write(2), as it would with a slow terminal. Output is never
//! dropped, no buffer grows, and a user who presses Ctrl-S or reads in a pager may take all day.
//!
//! **Who ends what.** Presence is told apart from progress: the client answers the controller's
//! pings, and the controller the sidecar's, however slow the output is taken. A client that is gone
//! makes the controller take the assignment away, and the agent stops the unit. A controller that is
//! gone leaves a sidecar that hears nothing for 30 s: it ends the process itself (SIGHUP with a
//! terminal, else SIGTERM; SIGKILL after the grace), and another controller removes the assignment.
//! A host that is gone ends the session with an error that says so. Nobody starts a one-off twice.
//!
//! **On the wire** ([`frame`]): a frame is one byte that says what it is, and its payload. In a
//! websocket it is a binary message; on a byte stream its length as 4 bytes (big endian) goes before
//! it. The first message of a client is text instead: an [`Ask`].
//!
//! | byte | what | payload | counted |
//! |---|---|---|---|
//! | 0 | input, to the process | bytes; none at all is its end | yes |
//! | 1, 2 | output, error output | bytes | yes |
//! | 3 | how it ended, the last of all | [`Status`] as JSON | yes |
//! | 4 | the terminal's size | [`Size`] as JSON | yes |
//! | 5 | a signal for the process | its name: `INT`, `TERM`, `HUP` | yes |
//! | 8 | have: the connection's number, how many parts have arrived | u32, u64, big endian | no |
//! | 9 | ack: how many parts were taken | u64, big endian | no |
//! | 10, 11 | ping, pong, between sidecar and controller | none | no |
//! | 12 | nobody waits for this process (any more) | none | no |

pub mod frame;
pub mod link;
mod words;

pub use self::{
    frame::{Channel, Frame, FrameError, Part},
    link::{Link, LinkError},
    words::{Ask, Order, Size, Status, Term, Terminal},
};

use std::time::Duration;

/// How often the side that is to be told from a dead one says something.
pub const PING: Duration = Duration::from_secs(5);

/// A connection on which nothing came for so long is given up.
pub const SILENCE: Duration = Duration::from_secs(15);

/// So long a process runs on without anybody to talk to.
pub const ALONE: Duration = Duration::from_secs(30);

/// The websocket's subprotocol.
pub const PROTOCOL: &str = "deis.run.v1";
