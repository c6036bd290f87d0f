//! One app's log: numbered files of records, the last one being written, the oldest going when
//! there are too many.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use tracing::warn;

use uuid::Uuid;

use super::{
    index::Index,
    owner::Owner,
    record::{Data, MAX_RECORD, Mark, Missing, Parsed, Record, StreamState, parse},
};
use crate::sidecar::wire::{Hello, MAX_FRAME, Position, Source, StreamId, newlines};

/// How much is kept of each app.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes after which a new file begins.
    pub file_bytes: u64,
    /// Files; then the oldest goes.
    pub files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 10 * 1024 * 1024,
            files: 10,
        }
    }
}

/// A stream that said nothing for so long is forgotten.
const FORGET_MS: u64 = 7 * 24 * 3600 * 1000;
/// Events that are known again when they come twice.
const EVENTS: usize = 512;
/// The file that tells this log from one that was kept elsewhere, or lost.
const ID_FILE: &str = "id";

/// Why a log can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum AppLogError {
    /// A file operation failed.
    #[error("the logger can't {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// A sidecar contradicts itself.
    #[error("stream {stream} sends {sent}, which doesn't fit {have}")]
    Contradiction {
        /// Which stream.
        stream: StreamId,
        /// Where it says to be.
        sent: Position,
        /// Where it was.
        have: Position,
    },
}

/// A file of records.
#[derive(Debug, Clone)]
pub struct LogFile {
    /// Its number.
    pub number: u64,
    /// Bytes of whole records in it.
    pub len: u64,
    /// Where in it is what; none when nobody has asked since the logger's start.
    pub index: Option<Arc<Index>>,
}

/// What the platform itself has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Identity: an event that comes twice is kept once.
    pub id: Uuid,
    /// When it happened, in milliseconds since 1970.
    pub time_ms: u64,
    /// What it is about: a process, or the controller's own voice.
    pub about: Source,
    /// Lines of text.
    pub text: Vec<u8>,
}

/// A log that is open.
#[derive(Debug)]
pub struct AppLog {
    dir: PathBuf,
    limits: Limits,
    /// Oldest first, never none.
    files: Vec<LogFile>,
    current: Arc<File>,
    streams: HashMap<StreamId, StreamState>,
    /// Those that have said something since the log was opened, and are not forgotten.
    heard: HashSet<StreamId>,
    /// The latest events, oldest first.
    events: VecDeque<StreamId>,
    /// Whose log it is, as far as anybody has said.
    owner: Option<Owner>,
    id: Uuid,
    /// Not written to disk for sure.
    dirty: bool,
    buffer: Vec<u8>,
}

impl AppLog {
    /// Opens an app's log, or begins one.
    ///
    /// # Errors
    /// When its folder can't be used.
    pub fn open(dir: &Path, limits: Limits) -> Result<Self, AppLogError> {
        fs::create_dir_all(dir).map_err(failed("make", dir))?;
        let mut files = find_files(dir)?;
        let mut known = Known::default();
        let mut fresh = files.is_empty();
        if let Some(last) = files.last_mut() {
            fresh = !recover(dir, last, &mut known)?;
        }
        let number = files.last().map_or(0, |last| last.number);
        let Known { streams, events } = known;
        let mut log = Self {
            dir: dir.to_owned(),
            limits,
            current: Arc::new(if fresh {
                create(&path(dir, number + 1), &[])?
            } else {
                append_to(&path(dir, number))?
            }),
            files,
            streams,
            heard: HashSet::new(),
            events,
            owner: Owner::load(dir)?,
            id: identity(dir)?,
            dirty: false,
            buffer: Vec::new(),
        };
        if fresh {
            log.files.push(LogFile::begun(number + 1, 0));
        }
        Ok(log)
    }

    /// Where its files are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Tells this log from one that was kept elsewhere, or lost.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// The files as they are now, oldest first.
    #[must_use]
    pub fn files(&self) -> &[LogFile] {
        &self.files
    }

    /// Keeps what a reader found out about a file that is not written any more.
    pub fn learn(&mut self, number: u64, index: Arc<Index>) {
        if let Some(file) = self.files.iter_mut().find(|file| file.number == number) {
            file.index.get_or_insert(index);
        }
    }

    /// Whose log it is.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Somebody knows whose log this is to be. Lines of another app that had the name before are
    /// forgotten. Answers whether they were, or none when it is a later app's already.
    ///
    /// With `spare`, streams that have said something since the log was opened are the new owner's.
    ///
    /// # Errors
    /// When the files can't be replaced.
    pub fn claim(
        &mut self,
        owner: Owner,
        spare: bool,
        now_ms: u64,
    ) -> Result<Option<bool>, AppLogError> {
        let forgotten = match self.owner {
            Some(known) if known == owner => return Ok(Some(false)),
            Some(known) if known.created_ms > owner.created_ms => return Ok(None),
            Some(_) => {
                let spared = std::mem::take(&mut self.heard);
                self.delete(now_ms)?;
                if spare {
                    for stream in &spared {
                        if let Some(state) = self.streams.get_mut(stream) {
                            state.dead = false;
                        }
                    }
                }
                true
            }
            None => false,
        };
        owner.save(&self.dir)?;
        self.owner = Some(owner);
        Ok(Some(forgotten))
    }

    /// Up to where a stream is kept; of an unknown one, what its sidecar says.
    #[must_use]
    pub fn have(&self, hello: &Hello) -> Position {
        self.streams
            .get(&hello.stream)
            .map_or(hello.acked, |known| known.at)
    }

    /// Adds a frame; answers up to where the stream is kept now.
    ///
    /// What is there already (a connection that was cut, and its successor) is not added again.
    ///
    /// # Errors
    /// When it can't be written; nothing of it is kept then.
    pub fn append(
        &mut self,
        hello: &Hello,
        at: Position,
        time_ms: u64,
        bytes: &[u8],
        now_ms: u64,
    ) -> Result<Position, AppLogError> {
        let known = self.streams.get(&hello.stream).copied();
        let have = known.map_or(hello.acked, |known| known.at);
        let end = at.after(bytes);
        if end.offset <= have.offset {
            return Ok(have);
        }
        let contradiction = || AppLogError::Contradiction {
            stream: hello.stream.clone(),
            sent: at,
            have,
        };
        let overlap =
            usize::try_from(have.offset.saturating_sub(at.offset)).map_err(|_| contradiction())?;
        let (seen, new) = bytes.split_at(overlap);
        let begin = at.after(seen);
        if begin.lines < have.lines || (begin.offset == have.offset && begin != have) {
            return Err(contradiction());
        }
        let state = StreamState {
            at: end,
            mid_line: !bytes.ends_with(b"\n"),
            seen_ms: now_ms,
            dead: known.is_some_and(|known| known.dead),
        };
        if !state.dead {
            // Another logger may have taken what lies between our position and the one that the
            // sidecar knows to be acknowledged; the rest of a gap is lost.
            let safe = hello.acked.clamp(have, begin);
            self.write(&Record::Data(Data {
                time_ms,
                source: hello.source.clone(),
                origin: Some((hello.stream.clone(), begin)),
                continues: begin == have && known.is_some_and(|known| known.mid_line),
                elsewhere: Missing::between(have, safe),
                dropped: Missing::between(safe, begin),
                bytes: new,
            }))?;
        }
        self.streams.insert(hello.stream.clone(), state);
        if !self.heard.contains(&hello.stream) {
            self.heard.insert(hello.stream.clone());
        }
        self.rotate_if_full(now_ms)?;
        Ok(end)
    }

    /// Adds what the platform itself has to say; false when it is known already.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn event(&mut self, event: &Event, now_ms: u64) -> Result<bool, AppLogError> {
        let id = StreamId::event(event.id);
        if self.events.contains(&id) {
            return Ok(false);
        }
        for (begin, piece) in pieces(&event.text) {
            self.write(&Record::Data(Data {
                time_ms: event.time_ms,
                source: event.about.clone(),
                origin: Some((id.clone(), begin)),
                continues: false,
                dropped: Missing::default(),
                elsewhere: Missing::default(),
                bytes: piece,
            }))?;
        }
        remember(&mut self.events, id);
        self.rotate_if_full(now_ms)?;
        Ok(true)
    }

    /// Forgets all lines. What the streams known so far still send is thrown away, so that an app
    /// created later under the same name doesn't show it.
    ///
    /// # Errors
    /// When the files can't be replaced.
    pub fn delete(&mut self, now_ms: u64) -> Result<(), AppLogError> {
        for state in self.streams.values_mut() {
            state.dead = true;
        }
        self.owner = None;
        Owner::forget(&self.dir)?;
        self.rotate(now_ms)?;
        while self.files.len() > 1 {
            self.remove_oldest()?;
        }
        Ok(())
    }

    /// Whether what a stream still says is thrown away.
    #[must_use]
    pub fn is_dead(&self, hello: &Hello) -> bool {
        self.streams
            .get(&hello.stream)
            .is_some_and(|state| state.dead)
    }

    /// Whether there is no line in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_empty = |file: &LogFile| {
            let index = file.index.as_ref();
            file.len == 0 || index.is_some_and(|index| index.is_empty())
        };
        self.files.iter().all(is_empty)
    }

    /// When something last came for it, in milliseconds since 1970.
    #[must_use]
    pub fn last_heard_ms(&self) -> u64 {
        let seen = self.streams.values().map(|state| state.seen_ms);
        seen.max().unwrap_or(0)
    }

    /// Removes it, folder and all. What is written afterwards is lost.
    ///
    /// # Errors
    /// When it can't be removed.
    pub fn remove(&mut self) -> Result<(), AppLogError> {
        fs::remove_dir_all(&self.dir).map_err(failed("remove", &self.dir))
    }

    /// The file to bring to disk, if there is something new in it.
    pub fn take_dirty(&mut self) -> Option<Arc<File>> {
        std::mem::take(&mut self.dirty).then(|| Arc::clone(&self.current))
    }

    /// One record, one write: a kill leaves it whole, or torn at the file's end, where the next
    /// start cuts it off.
    fn write(&mut self, record: &Record<'_>) -> Result<(), AppLogError> {
        self.buffer.clear();
        record.encode(&mut self.buffer);
        let Some(last) = self.files.last_mut() else {
            return Ok(());
        };
        let path = path(&self.dir, last.number);
        if let Err(source) = (&*self.current).write_all(&self.buffer) {
            // A full disk takes a part of it.
            self.current
                .set_len(last.len)
                .map_err(failed("shorten", &path))?;
            return Err(failed("write", &path)(source));
        }
        if let Record::Data(data) = record {
            let index = last.index.get_or_insert_default();
            Arc::make_mut(index).add(last.len, data.time_ms);
        }
        last.len += self.buffer.len() as u64;
        self.dirty = true;
        Ok(())
    }

    fn rotate_if_full(&mut self, now_ms: u64) -> Result<(), AppLogError> {
        if self
            .files
            .last()
            .is_some_and(|f| f.len >= self.limits.file_bytes)
        {
            self.rotate(now_ms)?;
            while self.files.len() > self.limits.files {
                self.remove_oldest()?;
            }
        }
        Ok(())
    }

    /// Begins a file. It starts with where all streams stand, so that a start reads only one file.
    fn rotate(&mut self, now_ms: u64) -> Result<(), AppLogError> {
        self.streams
            .retain(|_, state| now_ms.saturating_sub(state.seen_ms) < FORGET_MS);
        self.heard
            .retain(|stream| self.streams.contains_key(stream));
        let mut marks = Vec::new();
        for (stream, state) in &self.streams {
            let mark = Mark {
                stream: stream.clone(),
                state: *state,
            };
            Record::Mark(mark).encode(&mut marks);
        }
        let number = self.files.last().map_or(0, |last| last.number) + 1;
        let next = create(&path(&self.dir, number), &marks)?;
        // The file that is left must reach the disk, too.
        let left = std::mem::replace(&mut self.current, Arc::new(next));
        left.sync_data().map_err(failed("sync", &self.dir))?;
        self.files.push(LogFile::begun(number, marks.len() as u64));
        Ok(())
    }

    fn remove_oldest(&mut self) -> Result<(), AppLogError> {
        let oldest = self.files.remove(0);
        let path = path(&self.dir, oldest.number);
        fs::remove_file(&path).map_err(failed("remove", &path))
    }
}

impl LogFile {
    /// A file that has just been made.
    fn begun(number: u64, len: u64) -> Self {
        Self {
            number,
            len,
            index: Some(Arc::default()),
        }
    }
}

/// What the last file says of streams and events.
#[derive(Debug, Default)]
struct Known {
    streams: HashMap<StreamId, StreamState>,
    events: VecDeque<StreamId>,
}

fn remember(events: &mut VecDeque<StreamId>, id: StreamId) {
    if events.back() != Some(&id) {
        events.push_back(id);
    }
    if events.len() > EVENTS {
        events.pop_front();
    }
}

/// Text in pieces that fit into a record.
fn pieces(text: &[u8]) -> impl Iterator<Item = (Position, &[u8])> {
    let begins = std::iter::successors(Some(Position::default()), |at| {
        let from = usize::try_from(at.offset).ok()?;
        Some(at.after(text.get(from..from + MAX_FRAME)?))
    });
    begins.zip(text.chunks(MAX_FRAME))
}

/// What the folder is called, whatever its path.
fn identity(dir: &Path) -> Result<Uuid, AppLogError> {
    let path = dir.join(ID_FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            if let Ok(id) = text.trim().parse() {
                return Ok(id);
            }
            warn!(path = %path.display(), "the log's id can't be read, giving it a new one");
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read", &path)(error)),
    }
    let id = Uuid::new_v4();
    fs::write(&path, format!("{id}\n")).map_err(failed("write", &path))?;
    Ok(id)
}

/// Name of a file of records.
#[must_use]
pub fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:010}.log"))
}

/// Makes an error of a failed file operation.
pub(super) fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> AppLogError {
    let path = path.to_owned();
    move |source| AppLogError::File { what, path, source }
}

fn append_to(path: &Path) -> Result<File, AppLogError> {
    OpenOptions::new()
        .append(true)
        .open(path)
        .map_err(failed("open", path))
}

/// Makes a file whose first bytes are there as soon as its name is.
fn create(path: &Path, begin: &[u8]) -> Result<File, AppLogError> {
    let new = path.with_extension("new");
    fs::write(&new, begin).map_err(failed("write", &new))?;
    fs::rename(&new, path).map_err(failed("make", path))?;
    append_to(path)
}

fn find_files(dir: &Path) -> Result<Vec<LogFile>, AppLogError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let entry = entry.map_err(failed("list", dir))?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|n| n.strip_suffix(".log")?.parse().ok());
        if let Some(number) = number {
            let len = entry.metadata().map_err(failed("list", dir))?.len();
            found.push(LogFile {
                number,
                len,
                index: None,
            });
        }
    }
    found.sort_unstable_by_key(|file| file.number);
    Ok(found)
}

/// Reads where the streams stand, and cuts off a record that was torn by a kill. False: the file
/// is damaged in another way; it stays as it is, and a new one is to be begun.
fn recover(dir: &Path, file: &mut LogFile, known: &mut Known) -> Result<bool, AppLogError> {
    let path = path(dir, file.number);
    let bytes = fs::read(&path).map_err(failed("read", &path))?;
    let mut at = 0;
    let mut index = Index::default();
    while at < bytes.len() {
        let Parsed::Record(record, taken) = parse(&bytes[at..]) else {
            break;
        };
        match record {
            Record::Mark(Mark { stream, state }) => {
                known.streams.insert(stream, state);
            }
            Record::Data(data) => {
                index.add(at as u64, data.time_ms);
                if let Some((id, _)) = data.origin.as_ref().filter(|(id, _)| id.is_event()) {
                    remember(&mut known.events, id.clone());
                } else if let Some((stream, begin)) = data.origin {
                    let state = StreamState {
                        at: Position {
                            offset: begin.offset + data.bytes.len() as u64,
                            lines: begin.lines + newlines(data.bytes),
                        },
                        mid_line: !data.bytes.ends_with(b"\n"),
                        seen_ms: data.time_ms,
                        dead: false,
                    };
                    known.streams.insert(stream, state);
                }
            }
        }
        at += taken;
    }
    file.index = Some(Arc::new(index));
    let rest = bytes.len() - at;
    if rest == 0 {
        return Ok(true);
    }
    if rest > MAX_RECORD {
        warn!(path = %path.display(), at, "log file is damaged, beginning a new one");
        return Ok(false);
    }
    let whole = OpenOptions::new()
        .write(true)
        .open(&path)
        .map_err(failed("open", &path))?;
    whole.set_len(at as u64).map_err(failed("shorten", &path))?;
    file.len = at as u64;
    Ok(true)
}

#[cfg(test)]
#[path = "app_log_tests.rs"]
mod tests;
