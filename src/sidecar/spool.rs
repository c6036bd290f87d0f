//! The spool of one process's log: files on tmpfs into which the kernel moves the app's bytes.
//!
//! splice(2) takes bytes out of the FIFO and adds them to the file in one system call that a kill
//! can cut short but not tear apart: each byte is in the FIFO or in the spool. A segment's name
//! is the position of its first byte, so the files alone say where the stream is:
//!
//! ```text
//! <root>/<unit>/<uuid>/state                                  epoch, acknowledged, journaled
//! <root>/<unit>/<uuid>/00000000000000262144-0000000000009001  bytes
//! <root>/<unit>/<uuid>/00000000000000262144-0000000000009001.times
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fd::AsFd,
    fs::{FlockOperation, flock},
    io::Errno,
    pipe::{SpliceFlags, splice},
};

use super::{
    frame,
    segments::{Cursor, MAX_TIMES, SEGMENT_BYTES, Segment, Segments, Times},
    wire::{MAX_FRAME, Position, StreamId, WireError, newlines},
};

/// Why a spool can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// A file operation failed.
    #[error("the log spool can't {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// Another sidecar works on it.
    #[error("another log sidecar holds {0}; it must end first")]
    Held(PathBuf),
    /// The uuid is none.
    #[error("the process's uuid can't name a stream")]
    Uuid(#[source] WireError),
    /// The FIFO failed.
    #[error("the log FIFO on standard input can't be read")]
    Fifo(#[source] io::Error),
}

/// Whether there may be more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// So many bytes came.
    Bytes(usize),
    /// The FIFO is empty.
    Nothing,
}

/// A piece of the stream, ready to go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub at: Position,
    /// When it was first seen.
    pub time_ms: u64,
    /// Its bytes: the first so many of the buffer.
    pub len: usize,
}

/// What survives in the `state` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct State {
    epoch: u64,
    acked: Position,
    journaled: Position,
}

impl State {
    const BYTES: usize = 40;

    fn encode(&self) -> [u8; Self::BYTES] {
        let words = [
            self.epoch,
            self.acked.offset,
            self.acked.lines,
            self.journaled.offset,
            self.journaled.lines,
        ];
        let mut bytes = [0; Self::BYTES];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let mut words = bytes
            .chunks_exact(8)
            .map(|b| u64::from_le_bytes(b.try_into().expect("invariant: chunks of eight bytes")));
        let mut next = || words.next().expect("invariant: five words");
        let epoch = next();
        let mut position = || Position {
            offset: next(),
            lines: next(),
        };
        Some(Self {
            epoch,
            acked: position(),
            journaled: position(),
        })
    }
}

/// The files of the segment being written.
#[derive(Debug)]
struct Current {
    data: File,
    times: File,
    noted: usize,
}

/// An open spool; no two processes hold the same.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    stream: StreamId,
    state: State,
    state_file: File,
    segments: Segments,
    times: Times,
    /// None: the file couldn't be made, the file system is full.
    current: Option<Current>,
    /// The segment read last, by its offset.
    reading: Option<(u64, File)>,
    /// Holds the lock on the folder.
    _lock: File,
}

impl Spool {
    /// Opens the spool of a process, or makes one.
    ///
    /// # Errors
    /// When its folder can't be used, or another sidecar holds it.
    pub fn open(root: &Path, unit: &str, uuid: &str) -> Result<Self, SpoolError> {
        let dir = root.join(unit).join(uuid);
        // What an app prints is nobody else's business.
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir);
        made.map_err(failed("make", &dir))?;
        let lock = File::open(&dir).map_err(failed("open", &dir))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| SpoolError::Held(dir.clone()))?;
        let (state, state_file) = open_state(&dir)?;
        let (segments, gone) = Segments::recover(find_segments(&dir)?);
        let mut spool = Self {
            stream: StreamId::new(uuid, state.epoch).map_err(SpoolError::Uuid)?,
            dir,
            state,
            state_file,
            segments,
            times: Times::default(),
            current: None,
            reading: None,
            _lock: lock,
        };
        for segment in gone {
            spool.remove(&segment);
        }
        spool.recall_times()?;
        let current = *spool.segments.current();
        spool.current = Some(spool.open_segment(&current)?);
        Ok(spool)
    }

    /// Which stream this is.
    #[must_use]
    pub fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// Up to where a logger has it.
    #[must_use]
    pub fn acked(&self) -> Position {
        self.state.acked
    }

    /// Up to where it was copied to the journal.
    #[must_use]
    pub fn journaled(&self) -> Position {
        self.state.journaled
    }

    /// Offset after the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.segments.end()
    }

    /// A cursor at a position, or at the oldest whole line after it that is still here.
    #[must_use]
    pub fn cursor(&self, at: Position) -> Cursor {
        self.segments.cursor(at)
    }

    /// Where to go on for a logger that has everything before `have`.
    ///
    /// One that has less than another logger acknowledged gets the difference if it is still
    /// here, and goes on after it if not.
    #[must_use]
    pub fn resume(&self, have: Position) -> Cursor {
        if have.offset < self.segments.oldest().base.offset {
            self.segments.cursor(have.max(self.state.acked))
        } else {
            self.segments.cursor(have)
        }
    }

    /// Moves what the FIFO holds into the spool: one system call's worth.
    ///
    /// # Errors
    /// When the FIFO fails. A full file system is no error: what doesn't fit is dropped, the
    /// oldest first, and shows as a gap in the stream.
    pub fn take(&mut self, fifo: impl AsFd, now_ms: u64) -> Result<Taken, SpoolError> {
        let full = self.segments.current().len >= SEGMENT_BYTES;
        if full || self.current.as_ref().is_none_or(|c| c.noted >= MAX_TIMES) {
            self.rotate();
        }
        let end = self.end();
        let room = SEGMENT_BYTES.saturating_sub(self.segments.current().len);
        let Some(current) = &mut self.current else {
            return self.lose(fifo);
        };
        if self.times.see(end, now_ms) || current.noted == 0 {
            current.noted += 1;
            let note = [end.to_le_bytes(), now_ms.to_le_bytes()].concat();
            // Without it these lines get a later time: not worth losing them.
            let _ = current.times.write_all(&note);
        }
        let mut to = self.segments.current().len;
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        match splice(
            fifo.as_fd(),
            None,
            &current.data,
            Some(&mut to),
            room,
            flags,
        ) {
            Ok(0) | Err(Errno::AGAIN | Errno::INTR) => Ok(Taken::Nothing),
            Ok(bytes) => {
                self.segments.grew(bytes as u64);
                while let Some(gone) = self.segments.drop_overflow() {
                    self.remove(&gone);
                }
                Ok(Taken::Bytes(bytes))
            }
            Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::IO) => self.make_room(fifo),
            Err(error) => Err(SpoolError::Fifo(error.into())),
        }
    }

    /// The file system is full: the oldest segment goes, and if there is none, what comes in.
    fn make_room(&mut self, fifo: impl AsFd) -> Result<Taken, SpoolError> {
        match self.segments.drop_oldest() {
            Some(gone) => {
                self.remove(&gone);
                Ok(Taken::Bytes(0))
            }
            None => self.lose(fifo),
        }
    }

    /// Reads bytes from the FIFO that there is no place for; the stream goes on after them.
    fn lose(&mut self, fifo: impl AsFd) -> Result<Taken, SpoolError> {
        let mut buffer = [0; 16 * 1024];
        let bytes = match rustix::io::read(fifo, &mut buffer) {
            Ok(0) | Err(Errno::AGAIN | Errno::INTR) => return Ok(Taken::Nothing),
            Ok(bytes) => bytes,
            Err(error) => return Err(SpoolError::Fifo(error.into())),
        };
        let lost = Position::default().after(&buffer[..bytes]);
        let counted = self.newlines_in_current();
        for gone in self.segments.lose(counted, lost) {
            self.remove(&gone);
        }
        let current = *self.segments.current();
        self.current = self.open_segment(&current).ok();
        Ok(Taken::Bytes(bytes))
    }

    /// The next piece for a reader, whose cursor moves past it.
    ///
    /// # Errors
    /// When a segment can't be read.
    pub fn read(
        &mut self,
        cursor: &mut Cursor,
        buffer: &mut Vec<u8>,
        flush: bool,
        now_ms: u64,
    ) -> Result<Option<Piece>, SpoolError> {
        *cursor = self.segments.follow(*cursor);
        loop {
            buffer.resize(MAX_FRAME, 0);
            let read = self.read_at(cursor.at.offset, buffer)?;
            buffer.truncate(read);
            if !cursor.skipping {
                break;
            }
            let (len, ended) = frame::skip(buffer);
            cursor.at = cursor.at.after(&buffer[..len]);
            cursor.skipping = !ended;
            if len == 0 {
                return Ok(None);
            }
        }
        let at = cursor.at;
        let (time_ms, change) = self.times.at(at.offset).unwrap_or((now_ms, None));
        let change = change.and_then(|c| usize::try_from(c - at.offset).ok());
        let Some(len) = frame::next(buffer, change, flush) else {
            return Ok(None);
        };
        buffer.truncate(len);
        cursor.at = at.after(buffer);
        Ok(Some(Piece { at, time_ms, len }))
    }

    /// Reads as much as there is from `offset` on, over the borders of segments.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, SpoolError> {
        let mut read = 0;
        while read < buffer.len() {
            let from = offset + read as u64;
            let Some(segment) = self.segments.holding(from).copied() else {
                break;
            };
            let path = self.path(&segment);
            if self
                .reading
                .as_ref()
                .is_none_or(|(o, _)| *o != segment.base.offset)
            {
                let file = File::open(&path).map_err(failed("open", &path))?;
                self.reading = Some((segment.base.offset, file));
            }
            let Some((_, file)) = &self.reading else {
                break;
            };
            let got = file
                .read_at(&mut buffer[read..], from - segment.base.offset)
                .map_err(failed("read", &path))?;
            if got == 0 {
                break;
            }
            read += got;
        }
        Ok(read)
    }

    /// A logger has everything before `position`: it may go.
    pub fn acknowledge(&mut self, position: Position) {
        if position.offset > self.end() || position <= self.state.acked {
            return;
        }
        self.state.acked = position;
        self.save();
        while let Some(gone) = self.segments.drop_before(position.offset) {
            self.remove(&gone);
        }
    }

    /// Everything before `position` was copied to the journal.
    pub fn journal_has(&mut self, position: Position) {
        self.state.journaled = position;
        self.save();
    }

    /// Nothing is waiting: gives the memory of what was sent back to the host.
    pub fn rest(&mut self) {
        let end = self.end();
        let waiting = self.state.acked.offset < end || self.state.journaled.offset < end;
        if waiting || self.segments.current().len == 0 {
            return;
        }
        self.rotate();
        while let Some(gone) = self.segments.drop_before(end) {
            self.remove(&gone);
        }
    }

    /// Removes the spool from disk.
    ///
    /// # Errors
    /// When its folder can't be removed.
    pub fn destroy(self) -> Result<(), SpoolError> {
        fs::remove_dir_all(&self.dir).map_err(failed("remove", &self.dir))?;
        // Others of the same unit name may be there: then it stays.
        if let Some(unit) = self.dir.parent() {
            let _ = fs::remove_dir(unit);
        }
        Ok(())
    }

    /// Begins a new segment. When that fails, the next bytes are lost, and counted.
    fn rotate(&mut self) {
        if self.current.is_some() && self.segments.current().len == 0 {
            return;
        }
        let counted = self.newlines_in_current();
        let next = self.segments.rotate(counted);
        self.current = self.open_segment(&next).ok();
    }

    fn newlines_in_current(&mut self) -> u64 {
        let Segment { base, len } = *self.segments.current();
        let mut counted = 0;
        let mut at = base.offset;
        let mut buffer = vec![0; 64 * 1024];
        while at < base.offset + len {
            match self.read_at(at, &mut buffer) {
                Ok(read) if read > 0 => {
                    counted += newlines(&buffer[..read]);
                    at += read as u64;
                }
                // Unreadable bytes of a tmpfs file: their lines stay uncounted.
                _ => break,
            }
        }
        counted
    }

    fn save(&self) {
        // 40 bytes within one page: no kill can tear this write. If it fails, acknowledged lines
        // are offered again and refused as known.
        let _ = self.state_file.write_all_at(&self.state.encode(), 0);
    }

    fn path(&self, segment: &Segment) -> PathBuf {
        let Position { offset, lines } = segment.base;
        self.dir.join(format!("{offset:020}-{lines:020}"))
    }

    fn open_segment(&self, segment: &Segment) -> Result<Current, SpoolError> {
        let path = self.path(segment);
        let open = |path: &Path| {
            OpenOptions::new()
                .create(true)
                .read(true)
                .write(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(failed("open", path))
        };
        let mut times = open(&path.with_extension("times"))?;
        let noted = times
            .seek(SeekFrom::End(0))
            .map_err(failed("open", &path))?;
        Ok(Current {
            data: open(&path)?,
            times,
            noted: usize::try_from(noted / 16).unwrap_or(MAX_TIMES),
        })
    }

    fn remove(&mut self, segment: &Segment) {
        let path = self.path(segment);
        if self
            .reading
            .as_ref()
            .is_some_and(|(o, _)| *o == segment.base.offset)
        {
            self.reading = None;
        }
        // What can't be removed is found and removed at the next start.
        let _ = fs::remove_file(path.with_extension("times"));
        let _ = fs::remove_file(path);
        self.times.forget_before(self.segments.oldest().base.offset);
    }

    fn recall_times(&mut self) -> Result<(), SpoolError> {
        let mut offset = self.segments.oldest().base.offset;
        loop {
            let Some(segment) = self.segments.holding(offset).copied() else {
                return Ok(());
            };
            let path = self.path(&segment).with_extension("times");
            match fs::read(&path) {
                Ok(bytes) => {
                    for note in bytes.chunks_exact(16) {
                        let (at, time) = note.split_at(8);
                        let word = |b: &[u8]| b.try_into().map(u64::from_le_bytes).ok();
                        if let (Some(at), Some(time)) = (word(at), word(time)) {
                            self.times.recall(at, time);
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("read", &path)(error)),
            }
            offset = segment.end();
        }
    }
}

/// Makes an error of a failed file operation.
fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::File { what, path, source }
}

/// Reads the state, or begins a new stream with a new epoch.
fn open_state(dir: &Path) -> Result<(State, File), SpoolError> {
    let path = dir.join("state");
    let open = || OpenOptions::new().read(true).write(true).open(&path);
    if let Some(state) = fs::read(&path).ok().as_deref().and_then(State::decode) {
        return Ok((state, open().map_err(failed("open", &path))?));
    }
    // A new stream can't continue old files: positions start at zero again.
    for segment in find_segments(dir)? {
        let Position { offset, lines } = segment.base;
        let old = dir.join(format!("{offset:020}-{lines:020}"));
        fs::remove_file(&old).map_err(failed("remove", &old))?;
    }
    let state = State {
        epoch: super::backoff::random(),
        ..State::default()
    };
    let new = dir.join("state.new");
    fs::write(&new, state.encode()).map_err(failed("write", &new))?;
    fs::rename(&new, &path).map_err(failed("write", &path))?;
    Ok((state, open().map_err(failed("open", &path))?))
}

fn find_segments(dir: &Path) -> Result<Vec<Segment>, SpoolError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let entry = entry.map_err(failed("list", dir))?;
        let name = entry.file_name();
        let base = name
            .to_str()
            .and_then(|name| name.split_once('-'))
            .and_then(|(o, l)| {
                let (offset, lines) = (o.parse().ok()?, l.parse().ok()?);
                Some(Position { offset, lines })
            });
        if let Some(base) = base {
            let len = entry.metadata().map_err(failed("list", dir))?.len();
            found.push(Segment { base, len });
        }
    }
    Ok(found)
}
