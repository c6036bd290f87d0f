//! Reads an app's log: the last records, in order, and then each new one as it arrives.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    app_log::{AppLogError, LogFile, failed, path},
    index::Index,
    order::{Meta, order},
    query::Query,
    record::{Data, MAX_RECORD, Parsed, Record, parse},
};

/// Bytes of records in one piece.
const PIECE: u64 = 256 * 1024;

/// A place in a log, between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file's number.
    pub file: u64,
    /// Bytes before it in the file.
    pub offset: u64,
}

/// Records that lie next to each other in a file, and are read so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    from: Place,
    len: u64,
}

/// Reads what a query asks for.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    query: Query,
    /// What is left of the past, in order.
    past: std::vec::IntoIter<Run>,
    /// Where the future begins.
    next: Place,
}

/// What a reader begins with.
#[derive(Debug)]
pub struct Found {
    /// It gives out the records.
    pub reader: Reader,
    /// Lines at the begin of the first of them that are more than was asked for.
    pub skip: usize,
    /// Whether there is a line at all.
    pub any: bool,
    /// Indexes of files that had none.
    pub learnt: Vec<(u64, Arc<Index>)>,
}

impl Reader {
    /// A reader of a query's part of the past, and of the future; `files` are the log's files as
    /// they are now.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn find(dir: &Path, files: &[LogFile], query: Query) -> Result<Found, AppLogError> {
        let mut learnt = Vec::new();
        let mut found: Vec<(Run, Meta)> = Vec::new();
        let mut lines = 0;
        'files: for file in files.iter().rev() {
            let index = match &file.index {
                Some(index) => Arc::clone(index),
                None => {
                    let index = Arc::new(index_of(dir, file)?);
                    learnt.push((file.number, Arc::clone(&index)));
                    index
                }
            };
            for (from, to, last_ms) in index.backwards(file.len) {
                if lines >= query.lines {
                    break 'files;
                }
                if !query.is_recent(last_ms) {
                    continue;
                }
                let before = found.len();
                each(dir, file, from, to, |offset, len, data| {
                    if query.has(&data.source) && query.is_recent(data.time_ms) {
                        let from = Place {
                            file: file.number,
                            offset,
                        };
                        found.push((Run { from, len }, Meta::of(data)));
                    }
                })?;
                // The whole is collected backwards.
                found[before..].reverse();
                let least = |(_, meta): &(Run, Meta)| meta.least_lines();
                lines += found[before..].iter().map(least).sum::<usize>();
            }
        }
        found.reverse();
        let metas: Vec<Meta> = found.iter().map(|(_, meta)| meta.clone()).collect();
        let (order, lines) = order(&metas);
        let runs = join(order.into_iter().map(|at| found[at].0));
        let any = lines > 0 && query.lines > 0;
        Ok(Found {
            skip: lines.saturating_sub(query.lines),
            any,
            learnt,
            reader: Self {
                dir: dir.to_owned(),
                past: if any { runs } else { Vec::new() }.into_iter(),
                next: end(files),
                query,
            },
        })
    }

    /// A reader that goes on where an earlier one was. None when the log does not know that place.
    #[must_use]
    pub fn resume(dir: &Path, files: &[LogFile], query: Query, from: Place) -> Option<Self> {
        if from.file > files.last()?.number {
            return None;
        }
        Some(Self {
            dir: dir.to_owned(),
            query,
            past: Vec::new().into_iter(),
            next: from,
        })
    }

    /// Where it goes on when the past has been read.
    #[must_use]
    pub fn next_place(&self) -> Place {
        self.next
    }

    /// Whether all of the past has been read.
    #[must_use]
    pub fn is_past_read(&self) -> bool {
        self.past.len() == 0
    }

    /// The next records, as they are stored; none at the end of `files`, the log's files as they
    /// are now.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn next(&mut self, files: &[LogFile]) -> Result<Option<Vec<u8>>, AppLogError> {
        let mut piece = Vec::new();
        while let Some(run) = self.past.as_slice().first().copied() {
            if !piece.is_empty() && piece.len() as u64 + run.len > PIECE {
                return Ok(Some(piece));
            }
            self.past.next();
            let end = run.from.offset + run.len;
            if let Some(bytes) = read(&self.dir, run.from.file, run.from.offset, end)? {
                piece.extend_from_slice(&bytes);
            }
        }
        if !piece.is_empty() {
            return Ok(Some(piece));
        }
        for file in files {
            if file.number < self.next.file {
                continue;
            }
            if file.number > self.next.file {
                self.next = Place {
                    file: file.number,
                    offset: 0,
                };
            }
            while self.next.offset < file.len {
                let (from, to) = (self.next.offset, file.len.min(self.next.offset + PIECE));
                let end = each_bytes(&self.dir, file, from, to, |bytes, data| {
                    if self.query.has(&data.source) {
                        piece.extend_from_slice(bytes);
                    }
                })?;
                self.next.offset = end;
                if !piece.is_empty() {
                    return Ok(Some(piece));
                }
            }
        }
        Ok(None)
    }
}

fn end(files: &[LogFile]) -> Place {
    let last = files.last();
    Place {
        file: last.map_or(0, |file| file.number),
        offset: last.map_or(0, |file| file.len),
    }
}

/// Puts together what lies next to each other, up to a piece's size.
fn join(records: impl Iterator<Item = Run>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for record in records {
        match runs.last_mut() {
            Some(last)
                if last.from.file == record.from.file
                    && last.from.offset + last.len == record.from.offset
                    && last.len + record.len <= PIECE =>
            {
                last.len += record.len;
            }
            _ => runs.push(record),
        }
    }
    runs
}

/// Bytes of a file; none when it was the oldest, and is gone meanwhile.
fn read(dir: &Path, number: u64, from: u64, to: u64) -> Result<Option<Vec<u8>>, AppLogError> {
    let path = path(dir, number);
    let opened = match File::open(&path) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", &path)(error)),
    };
    let len = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len];
    opened
        .read_exact_at(&mut bytes, from)
        .map_err(failed("read", &path))?;
    Ok(Some(bytes))
}

/// Goes through the records that begin between `from` and `to`: where each is, and what.
fn each(
    dir: &Path,
    file: &LogFile,
    from: u64,
    to: u64,
    mut visit: impl FnMut(u64, u64, &Data<'_>),
) -> Result<(), AppLogError> {
    let mut offset = from;
    let end = each_record(dir, file, from, to, |bytes, data| {
        if let Some(data) = data {
            visit(offset, bytes.len() as u64, data);
        }
        offset += bytes.len() as u64;
    })?;
    debug_assert!(offset <= end);
    Ok(())
}

/// The same, with each record's bytes; answers with where it stopped.
fn each_bytes(
    dir: &Path,
    file: &LogFile,
    from: u64,
    to: u64,
    mut visit: impl FnMut(&[u8], &Data<'_>),
) -> Result<u64, AppLogError> {
    each_record(dir, file, from, to, |bytes, data| {
        if let Some(data) = data {
            visit(bytes, data);
        }
    })
}

/// Visits every record that begins between `from` and `to`, in portions; answers with the end of
/// the last one, or `file.len` when what follows is damaged and can't be read.
fn each_record(
    dir: &Path,
    file: &LogFile,
    from: u64,
    to: u64,
    mut visit: impl FnMut(&[u8], Option<&Data<'_>>),
) -> Result<u64, AppLogError> {
    let mut offset = from;
    while offset < to {
        let portion = (to - offset).min(PIECE).max(MAX_RECORD as u64);
        let portion_end = file.len.min(offset + portion);
        let Some(bytes) = read(dir, file.number, offset, portion_end)? else {
            return Ok(file.len);
        };
        let mut at = 0;
        while offset + (at as u64) < to
            && let Parsed::Record(record, taken) = parse(&bytes[at..])
        {
            let data = match &record {
                Record::Data(data) => Some(data),
                Record::Mark(_) => None,
            };
            visit(&bytes[at..at + taken], data);
            at += taken;
        }
        if at == 0 {
            return Ok(file.len);
        }
        offset += at as u64;
    }
    Ok(offset)
}

/// The index of a file that nobody has read since the logger's start.
fn index_of(dir: &Path, file: &LogFile) -> Result<Index, AppLogError> {
    let mut index = Index::default();
    each(dir, file, 0, file.len, |offset, _, data| {
        index.add(offset, data.time_ms);
    })?;
    Ok(index)
}
