//! Reads an app's log from a place on, in pieces, while it is being written.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    app_log::{AppLogError, LogFile, failed, path},
    record::{MAX_RECORD, Parsed, Record, parse},
    render,
};
use crate::model::AppName;

/// Bytes of records in one piece.
const PIECE: usize = 256 * 1024;

/// A place in a log, between two records.
#[derive(Debug, Clone)]
pub struct Reader {
    app: AppName,
    dir: PathBuf,
    file: u64,
    offset: u64,
    /// Lines to leave out from the next record.
    skip: usize,
}

impl Reader {
    /// A reader of the last `lines` lines; `files` are the log's files as they are now. None when
    /// there is no line at all.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn tail(
        app: &AppName,
        dir: &Path,
        files: &[LogFile],
        lines: usize,
    ) -> Result<Option<Self>, AppLogError> {
        let mut wanted = lines;
        let mut found = None;
        for file in files.iter().rev() {
            let mut records: Vec<(u64, usize)> = Vec::new();
            scan(dir, file, |offset, count| records.push((offset, count)))?;
            for (offset, count) in records.into_iter().rev().filter(|(_, count)| *count > 0) {
                found = Some(Self {
                    app: app.clone(),
                    dir: dir.to_owned(),
                    file: file.number,
                    offset,
                    skip: count.saturating_sub(wanted),
                });
                wanted = wanted.saturating_sub(count);
                if wanted == 0 {
                    return Ok(found);
                }
            }
        }
        Ok(found)
    }

    /// A reader of what is still to come.
    #[must_use]
    pub fn end(app: &AppName, dir: &Path, files: &[LogFile]) -> Self {
        let last = files.last();
        Self {
            app: app.clone(),
            dir: dir.to_owned(),
            file: last.map_or(0, |file| file.number),
            offset: last.map_or(0, |file| file.len),
            skip: 0,
        }
    }

    /// The next piece as text for people; none at the end of `files`, the log's files as they are
    /// now.
    ///
    /// # Errors
    /// When a file can't be read.
    pub fn next(&mut self, files: &[LogFile]) -> Result<Option<String>, AppLogError> {
        let mut text = String::new();
        for file in files {
            if file.number < self.file {
                continue;
            }
            if file.number > self.file {
                (self.file, self.offset, self.skip) = (file.number, 0, 0);
            }
            while self.offset < file.len {
                let bytes = match read(&self.dir, file, self.offset) {
                    Ok(bytes) => bytes,
                    // It was the oldest, and is gone meanwhile.
                    Err(AppLogError::File { source, .. })
                        if source.kind() == io::ErrorKind::NotFound =>
                    {
                        break;
                    }
                    Err(error) => return Err(error),
                };
                let mut at = 0;
                while let Parsed::Record(record, taken) = parse(&bytes[at..]) {
                    if let Record::Data(data) = record {
                        render::render(&self.app, &data, self.skip, &mut text);
                        self.skip = 0;
                    }
                    at += taken;
                }
                if at == 0 {
                    // Damaged: what is left of this file can't be read.
                    self.offset = file.len;
                }
                self.offset += at as u64;
                if !text.is_empty() {
                    return Ok(Some(text));
                }
            }
        }
        Ok(None)
    }
}

/// Reads from `offset` on: whole records, and the begin of another.
fn read(dir: &Path, file: &LogFile, offset: u64) -> Result<Vec<u8>, AppLogError> {
    let path = path(dir, file.number);
    let opened = File::open(&path).map_err(failed("open", &path))?;
    let left = usize::try_from(file.len.saturating_sub(offset)).unwrap_or(usize::MAX);
    let mut bytes = vec![0; left.min(PIECE.max(MAX_RECORD))];
    opened
        .read_exact_at(&mut bytes, offset)
        .map_err(failed("read", &path))?;
    Ok(bytes)
}

/// Goes through a file's records: where each begins, and how many lines it is.
fn scan(dir: &Path, file: &LogFile, mut visit: impl FnMut(u64, usize)) -> Result<(), AppLogError> {
    let mut offset = 0;
    while offset < file.len {
        let bytes = read(dir, file, offset)?;
        let mut at = 0;
        while let Parsed::Record(record, taken) = parse(&bytes[at..]) {
            if let Record::Data(data) = record {
                visit(offset + at as u64, render::count(&data));
            }
            at += taken;
        }
        if at == 0 {
            return Ok(());
        }
        offset += at as u64;
    }
    Ok(())
}
