//! A copy of each line for the host's journal, by journald's native protocol: best effort, never
//! waiting.

use std::{io, os::unix::net::UnixDatagram, path::PathBuf};

use super::{
    segments::Cursor,
    spool::{Spool, SpoolError},
};

/// Bytes of a line that one journal entry takes (the socket's default buffer holds some 200 KiB).
const MAX_MESSAGE: usize = 48 * 1024;

/// The way to the journal.
#[derive(Debug)]
pub struct Journal {
    socket: Option<UnixDatagram>,
    path: PathBuf,
    /// The fields that are the same in each entry.
    fields: Vec<u8>,
    cursor: Cursor,
    buffer: Vec<u8>,
    /// Lines of a piece that is not all written yet.
    pending: usize,
}

/// Whether all was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// Nothing is left.
    All,
    /// The journal is busy: try again soon.
    Busy,
}

impl Journal {
    /// Continues where an earlier sidecar stopped. `tag` is the identifier that people see.
    #[must_use]
    pub fn new(path: PathBuf, tag: &str, app: &str, unit: &str, spool: &Spool) -> Self {
        let fields = format!(
            "PRIORITY=6\nSYSLOG_IDENTIFIER={tag}\nDEIS_APP={app}\nDEIS_PROCESS={unit}\nMESSAGE="
        );
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Self {
            socket: socket.ok(),
            path,
            fields: fields.into_bytes(),
            cursor: spool.cursor(spool.journaled()),
            buffer: Vec::new(),
            pending: 0,
        }
    }

    /// Copies what is new. A host without a journal gets no copies.
    ///
    /// # Errors
    /// When the spool can't be read.
    pub fn step(
        &mut self,
        spool: &mut Spool,
        flush: bool,
        now_ms: u64,
    ) -> Result<Copied, SpoolError> {
        loop {
            while self.pending < self.buffer.len() {
                let rest = &self.buffer[self.pending..];
                let (line, len) = next_message(rest);
                match self.write(line) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        return Ok(Copied::Busy);
                    }
                    // No journal, or not for this line: the logger has it.
                    _ => self.pending += len,
                }
            }
            if self.pending > 0 {
                spool.journal_has(self.cursor.at);
            }
            self.pending = 0;
            let piece = spool.read(&mut self.cursor, &mut self.buffer, flush, now_ms)?;
            if piece.is_none() {
                self.buffer.clear();
                return Ok(Copied::All);
            }
        }
    }

    fn write(&self, line: &[u8]) -> io::Result<()> {
        let Some(socket) = &self.socket else {
            return Ok(());
        };
        let entry = [&self.fields, line, b"\n"].concat();
        socket.send_to(&entry, &self.path)?;
        Ok(())
    }
}

/// The next entry's text, and how many bytes it takes with its newline.
fn next_message(bytes: &[u8]) -> (&[u8], usize) {
    let window = &bytes[..bytes.len().min(MAX_MESSAGE)];
    match window.iter().position(|b| *b == b'\n') {
        Some(end) => (&window[..end], end + 1),
        None => (window, window.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(next_message(b"a\nb"), (&b"a"[..], 2));
        assert_eq!(next_message(b"\n"), (&b""[..], 1));
        assert_eq!(next_message(b"a\0b"), (&b"a\0b"[..], 3));
        let long = vec![b'x'; MAX_MESSAGE + 1];
        assert_eq!(next_message(&long).1, MAX_MESSAGE);
    }
}
