//! All apps' logs, each behind a lock of its own.
//!
//! Everything here may wait for the disk: call it from a thread that may.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::{Notify, mpsc, watch};
use tracing::error;

use uuid::Uuid;

use super::{
    app_log::{AppLog, AppLogError, Event, Limits},
    drain::Drain,
    owner::Owner,
    query::Query,
    reader::{Place, Reader},
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

/// After so long a silence nothing is left of an app that is no more.
const QUIET_MS: u64 = 3600 * 1000;

/// All logs.
#[derive(Debug)]
pub struct Shelf {
    root: PathBuf,
    limits: Limits,
    books: Mutex<HashMap<AppName, Arc<Book>>>,
    /// Rings when something is to be brought to disk.
    written: Notify,
    /// Logs that have just begun, for whoever looks whether their apps exist.
    begun: (
        mpsc::Sender<AppName>,
        tokio::sync::Mutex<mpsc::Receiver<AppName>>,
    ),
    /// The logs that were found at the start have been held against the apps.
    swept: AtomicBool,
    drain: Option<Arc<Drain>>,
}

/// New logs that may wait to be looked at; the regular look finds those that don't fit.
const BEGUN: usize = 256;

impl Shelf {
    /// The logs in a folder.
    ///
    /// # Errors
    /// When the folder can't be made.
    pub fn open(root: PathBuf, limits: Limits) -> Result<Self, AppLogError> {
        let (sender, begun) = mpsc::channel(BEGUN);
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
            begun: (sender, begun.into()),
            swept: AtomicBool::new(false),
            drain: None,
        })
    }

    /// The same, with a copy of each line to a drain.
    #[must_use]
    pub fn with_drain(self, drain: Arc<Drain>) -> Self {
        Self {
            drain: Some(drain),
            ..self
        }
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
        drop(books);
        // When it is full, there is enough to look at.
        let _ = self.begun.0.try_send(app.clone());
        Ok(book)
    }

    /// A log that has just begun. Cancel safe.
    pub async fn begun(&self) -> AppName {
        match self.begun.1.lock().await.recv().await {
            Some(app) => app,
            // The sender is ours.
            None => std::future::pending().await,
        }
    }

    /// The apps of which there is a log.
    ///
    /// # Errors
    /// When the folder can't be read.
    pub fn names(&self) -> Result<Vec<AppName>, AppLogError> {
        let failed = || super::app_log::failed("list", &self.root);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            names.extend(name.to_str().and_then(|name| name.parse().ok()));
        }
        Ok(names)
    }

    /// What was found at the start has been looked at.
    pub fn opened(&self) {
        self.swept.store(true, Ordering::Relaxed);
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
        let is_dead = log.is_dead(hello);
        for (data, bytes) in frames {
            let known = position.offset.saturating_sub(data.at.offset);
            position = log.append(hello, data.at, data.time_ms, bytes, now)?;
            let known = usize::try_from(known).unwrap_or(usize::MAX);
            if let Some(drain) = self.drain.as_ref().filter(|_| !is_dead)
                && let Some(new) = bytes.get(known..)
            {
                drain.offer(&book.app, &hello.source, data.time_ms, new);
            }
        }
        drop(log);
        self.wrote(book);
        Ok(position)
    }

    /// Adds what the platform itself has to say.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn event(&self, book: &Book, event: &Event) -> Result<(), AppLogError> {
        if lock(&book.log).event(event, now_ms())? {
            self.wrote(book);
            if let Some(drain) = &self.drain {
                drain.offer(&book.app, &Source::controller(), event.time_ms, &event.text);
            }
        }
        Ok(())
    }

    /// Forgets an app's lines; not those of another app that has its name by now.
    ///
    /// # Errors
    /// When its files can't be replaced.
    pub fn delete(&self, book: &Book, of: Option<Owner>) -> Result<(), AppLogError> {
        let mut log = lock(&book.log);
        if let (Some(of), Some(owner)) = (of, log.owner())
            && of != owner
        {
            return Ok(());
        }
        log.delete(now_ms())?;
        drop(log);
        book.pulse.send_modify(|pulse| pulse.deletions += 1);
        Ok(())
    }

    /// Somebody knows which app a log is of; false when it is a later one's of that name.
    ///
    /// # Errors
    /// When the lines of an earlier one can't be forgotten.
    pub fn claim(&self, book: &Book, owner: Owner) -> Result<bool, AppLogError> {
        // Before the first look at all logs, streams that say something are the new owner's.
        let spare = !self.swept.load(Ordering::Relaxed);
        let claimed = lock(&book.log).claim(owner, spare, now_ms())?;
        if claimed == Some(true) {
            book.pulse.send_modify(|pulse| pulse.deletions += 1);
        }
        Ok(claimed.is_some())
    }

    /// Forgets a log whose app is not there, unless somebody has claimed it since it was `owner`'s.
    /// Answers whether there was something to forget.
    ///
    /// # Errors
    /// When its files can't be removed.
    pub fn bury(&self, book: &Book, owner: Option<Owner>) -> Result<bool, AppLogError> {
        let mut log = lock(&book.log);
        if log.owner() != owner {
            return Ok(false);
        }
        if log.is_empty() {
            // Its streams may still have something to say for a while.
            if now_ms().saturating_sub(log.last_heard_ms()) > QUIET_MS {
                let mut books = lock(&self.books);
                log.remove()?;
                books.remove(&book.app);
            }
            return Ok(false);
        }
        log.delete(now_ms())?;
        drop(log);
        book.pulse.send_modify(|pulse| pulse.deletions += 1);
        Ok(true)
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

    /// Whose log it is, as far as anybody has said.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        lock(&self.log).owner()
    }

    /// Rings with each write and deletion.
    #[must_use]
    pub fn pulse(&self) -> watch::Receiver<Pulse> {
        self.pulse.subscribe()
    }

    /// A reader of what a query asks for. `from` is where an earlier one was, in the log of that id.
    ///
    /// # Errors
    /// When the files can't be read.
    pub fn read(&self, query: Query, from: Option<(Uuid, Place)>) -> Result<Opened, AppLogError> {
        let (id, dir, files) = {
            let log = lock(&self.log);
            (log.id(), log.dir().to_owned(), log.files().to_vec())
        };
        let known = from.filter(|(of, _)| *of == id);
        let resumed =
            known.and_then(|(_, place)| Reader::resume(&dir, &files, query.clone(), place));
        if let Some(reader) = resumed {
            return Ok(Opened {
                id,
                reader,
                skip: 0,
                any: true,
            });
        }
        let found = Reader::find(&dir, &files, query)?;
        let mut log = lock(&self.log);
        for (number, index) in found.learnt {
            log.learn(number, index);
        }
        Ok(Opened {
            id,
            reader: found.reader,
            skip: found.skip,
            any: found.any,
        })
    }

    /// A reader's next piece.
    ///
    /// # Errors
    /// When the files can't be read.
    pub fn next(&self, reader: &mut Reader) -> Result<Option<Vec<u8>>, AppLogError> {
        let files = lock(&self.log).files().to_vec();
        reader.next(&files)
    }
}

/// A log that is being read.
#[derive(Debug)]
pub struct Opened {
    /// Which log it is.
    pub id: Uuid,
    /// Gives out the records.
    pub reader: Reader,
    /// Lines at the begin that are more than was asked for.
    pub skip: usize,
    /// Whether there is a line at all.
    pub any: bool,
}

/// A panic while a log was locked left it as it was before a record, or after it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}
