//! What the git side (user `git`) and the builder daemon say to each other over builder.sock.
//!
//! The client sends one JSON line that asks; the daemon answers with JSON lines. After
//! [`Ask::Push`] the client sends the source as frames (a big-endian length of four bytes, then
//! the bytes; length 0 ends it) and then only stays: when it hangs up, the push is over.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::refs::Sha;
use crate::model::{AppName, Fingerprint, Username};

/// Longest first line: an RSA key of 16,384 bits and a Procfile fit in it.
pub const MAX_LINE: usize = 160 << 10;
/// Largest frame.
pub const MAX_FRAME: usize = 256 << 10;

/// What the git side wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Ask {
    /// Whose key is this? Asked by sshd's AuthorizedKeysCommand.
    Key {
        /// Its type, as sshd says (`%t`).
        kind: String,
        /// The key in base64, as sshd says (`%k`).
        blob: String,
    },
    /// May this user work with this app's repository?
    Open {
        /// Who.
        user: Username,
        /// Which app.
        app: AppName,
    },
    /// Build and release a commit.
    Push(Push),
}

/// A push to be built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    /// Who pushes.
    pub user: Username,
    /// With which key.
    pub fingerprint: Fingerprint,
    /// To which app.
    pub app: AppName,
    /// The app's id when the repository was opened: a new app of the same name has another.
    pub repository: Uuid,
    /// The commit.
    pub sha: Sha,
    /// The Procfile's text, if there is one.
    pub procfile: Option<String>,
    /// Whether there is a Dockerfile.
    pub dockerfile: bool,
}

/// The answer to [`Ask::Key`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "key", rename_all = "lowercase")]
pub enum KeyAnswer {
    /// It belongs to somebody.
    Known {
        /// To whom.
        user: Username,
    },
    /// Nobody added it.
    Unknown,
}

/// The answer to [`Ask::Open`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "open", rename_all = "lowercase")]
pub enum OpenAnswer {
    /// Go ahead.
    Granted {
        /// Names the repository.
        repository: Uuid,
        /// The commit that was deployed last, on whichever builder: here the branch follows it.
        deployed: Option<Sha>,
        /// A push is being built: the branches are left alone.
        pushing: bool,
    },
    /// No.
    Denied {
        /// Why, for the user.
        why: String,
    },
}

/// One line of the answer to [`Ask::Push`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PushAnswer {
    /// To be shown as it is.
    Out(String),
    /// The last line: whether the push is accepted.
    End {
        /// It is.
        accepted: bool,
    },
}

/// Writes one JSON line.
///
/// # Errors
/// As the writer says.
pub fn write_line(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one line of at most [`MAX_LINE`] bytes; none at the end.
///
/// # Errors
/// As the reader says, and when the line is too long or not what is expected.
pub fn read_line<T: for<'de> Deserialize<'de>>(
    from: &mut impl io::BufRead,
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    io::BufRead::read_until(&mut from.take(MAX_LINE as u64), b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

/// Writes what passes through as frames; [`Frames::finish`] says that it was all.
#[derive(Debug)]
pub struct Frames<W: Write>(W);

impl<W: Write> Frames<W> {
    /// Frames over `to`.
    pub fn new(to: W) -> Self {
        Self(to)
    }

    /// Sends the end mark.
    ///
    /// # Errors
    /// As the writer says.
    pub fn finish(mut self) -> io::Result<()> {
        self.0.write_all(&[0; 4])?;
        self.0.flush()
    }
}

impl<W: Write> Write for Frames<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bytes = &bytes[..bytes.len().min(MAX_FRAME)];
        if !bytes.is_empty() {
            let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            self.0.write_all(&length.to_be_bytes())?;
            self.0.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_back() {
        let ask = Ask::Push(Push {
            user: "ada".parse().expect("a user"),
            fingerprint: "00:11:22:33:44:55:66:77:88:99:aa:bb:cc:dd:ee:ff"
                .parse()
                .expect("one"),
            app: "hello".parse().expect("an app"),
            repository: Uuid::nil(),
            sha: Sha::try_from("a".repeat(40)).expect("an id"),
            procfile: Some("web: \"x\ny\"".into()),
            dockerfile: false,
        });
        let mut bytes = Vec::new();
        write_line(&mut bytes, &ask).expect("written");
        assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 1);
        assert_eq!(
            read_line::<Ask>(&mut bytes.as_slice()).expect("read"),
            Some(ask)
        );
        assert_eq!(read_line::<Ask>(&mut [].as_slice()).expect("read"), None);
        let mut long: &[u8] = &vec![b'x'; MAX_LINE + 10];
        assert!(read_line::<Ask>(&mut long).is_err());
    }

    #[test]
    fn frames_are_bounded_and_end() {
        let mut bytes = Vec::new();
        let mut frames = Frames::new(&mut bytes);
        frames.write_all(&vec![7; MAX_FRAME + 1]).expect("written");
        frames.finish().expect("finished");
        assert_eq!(bytes.len(), 4 + MAX_FRAME + 4 + 1 + 4);
        assert_eq!(bytes[bytes.len() - 4..], [0; 4]);
    }
}
