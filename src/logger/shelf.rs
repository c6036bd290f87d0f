//! All apps' logs, each behind a lock of its own.
//!
//! Everything here may wait for the disk: call it from a thread that may.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::{Notify, watch};
use tracing::error;

use super::{
    app_log::{AppLog, AppLogError, Limits},
    reader::Reader,
};
use crate::{
    model::AppName,
    sidecar::wire::{Data, Hello, Position, Source},
};

/// Counts what happens to a log, for those who follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pulse {
    /// Writes.
    pub writes: u64,
    /// Deletions: a follower of what is deleted is done.
    pub deletions: u64,
}

/// One app's log.
#[derive(Debug)]
pub struct Book {
    app: AppName,
    log: Mutex<AppLog>,
    pulse: watch::Sender<Pulse>,
}

/// All logs.
#[derive(Debug)]
pub struct Shelf {
    root: PathBuf,
    limits: Limits,
    books: Mutex<HashMap<AppName, Arc<Book>>>,
    /// Rings when something is to be brought to disk.
    written: Notify,
}

impl Shelf {
    /// The logs in a folder.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn open(root: PathBuf, limits: Limits) -> Result<Self, AppLogError> {
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&root);
        made.map_err(super::app_log::failed("make", &root))?;
        Ok(Self {
            root,
            limits,
            books: Mutex::default(),
            written: Notify::new(),
        })
    }

    /// An app's log, made if there is none.
    ///
    /// # Errors
    /// When its files can't be used.
    pub fn book(&self, app: &AppName) -> Result<Arc<Book>, AppLogError> {
        let mut books = lock(&self.books);
        if let Some(book) = books.get(app) {
            return Ok(Arc::clone(book));
        }
        let book = Arc::new(Book {
            app: app.clone(),
            log: Mutex::new(AppLog::open(&self.root.join(app.as_str()), self.limits)?),
            pulse: watch::Sender::default(),
        });
        books.insert(app.clone(), Arc::clone(&book));
        Ok(book)
    }

    /// An app's log, if there is one.
    ///
    /// # Errors
    /// When its files can't be used.
    pub fn existing(&self, app: &AppName) -> Result<Option<Arc<Book>>, AppLogError> {
        let there = lock(&self.books).contains_key(app) || self.root.join(app.as_str()).is_dir();
        there.then(|| self.book(app)).transpose()
    }

    /// Adds frames; answers up to where the stream is kept now.
    ///
    /// # Errors
    /// When one of them can't be kept; those before it are.
    pub fn append(
        &self,
        book: &Book,
        hello: &Hello,
        frames: &[(Data, bytes::Bytes)],
    ) -> Result<Position, AppLogError> {
        let mut log = lock(&book.log);
        let now = now_ms();
        let mut position = log.have(hello);
        for (data, bytes) in frames {
            position = log.append(hello, data.at, data.time_ms, bytes, now)?;
        }
        drop(log);
        self.wrote(book);
        Ok(position)
    }

    /// Adds what the platform itself has to say.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn event(&self, book: &Book, source: Source, text: &[u8]) -> Result<(), AppLogError> {
        lock(&book.log).event(source, text, now_ms())?;
        self.wrote(book);
        Ok(())
    }

    /// Forgets an app's lines.
    ///
    /// # Errors
    /// When its files can't be replaced.
    pub fn delete(&self, book: &Book) -> Result<(), AppLogError> {
        lock(&book.log).delete(now_ms())?;
        book.pulse.send_modify(|pulse| pulse.deletions += 1);
        Ok(())
    }

    /// Names of all apps that have a log.
    #[must_use]
    pub fn apps(&self) -> Vec<AppName> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    }

    /// Removes an app's log with its files: its app is gone, and nobody writes there any more.
    ///
    /// # Errors
    /// When its files can't be removed.
    pub fn remove(&self, app: &AppName) -> Result<(), AppLogError> {
        let mut books = lock(&self.books);
        if let Some(book) = books.remove(app) {
            self.delete(&book)?;
        }
        let dir = self.root.join(app.as_str());
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(super::app_log::failed("remove", &dir)(error))
            }
            _ => Ok(()),
        }
    }

    fn wrote(&self, book: &Book) {
        book.pulse.send_modify(|pulse| pulse.writes += 1);
        self.written.notify_one();
    }

    /// Returns when something is to be brought to disk.
    pub async fn written(&self) {
        self.written.notified().await;
    }

    /// Brings everything to disk.
    pub fn sync(&self) {
        let books: Vec<_> = lock(&self.books).values().cloned().collect();
        for book in books {
            let dirty = lock(&book.log).take_dirty();
            if let Some(file) = dirty
                && let Err(error) = file.sync_data()
            {
                error!(app = %book.app, %error, "log not brought to disk");
            }
        }
    }
}

impl Book {
    /// Up to where a stream is kept.
    #[must_use]
    pub fn have(&self, hello: &Hello) -> Position {
        lock(&self.log).have(hello)
    }

    /// Rings with each write and deletion.
    #[must_use]
    pub fn pulse(&self) -> watch::Receiver<Pulse> {
        self.pulse.subscribe()
    }

    /// A reader of the last lines, if there are any.
    ///
    /// # Errors
    /// When the files can't be read.
    pub fn tail(&self, lines: usize) -> Result<Option<Reader>, AppLogError> {
        let (dir, files) = {
            let log = lock(&self.log);
            (log.dir().to_owned(), log.files().to_vec())
        };
        Reader::tail(&self.app, &dir, &files, lines)
    }

    /// A reader of what is still to come.
    #[must_use]
    pub fn end(&self) -> Reader {
        let log = lock(&self.log);
        Reader::end(&self.app, log.dir(), log.files())
    }

    /// A reader's next piece.
    ///
    /// # Errors
    /// When the files can't be read.
    pub fn read(&self, reader: &mut Reader) -> Result<Option<String>, AppLogError> {
        let files = lock(&self.log).files().to_vec();
        reader.next(&files)
    }
}

/// A panic while a log was locked left it as it was before a record, or after it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}
