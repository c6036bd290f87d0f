//! An app's log as one, whichever loggers hold it: the past in order, then each new line.
//!
//! A process's lines go to one logger, and to another when that one is away: so all are asked, and
//! what two of them hold is shown once, told by the place in its stream ([`super::merge`]). A logger
//! that goes away while it is followed is asked again from where it was.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::future::join_all;
use reqwest::Response;
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    task::AbortHandle,
    time::{self, Instant, timeout},
};

use super::{
    client::{ANSWER, ClientError, Whose, client, loggers, send},
    http::PING,
    merge::Seen,
    order::{Meta, order},
    query::{MAX_LINES, Query},
    record::{Data, MAX_RECORD, Parsed, Record, parse},
    render::{Renderer, notice},
    shelf::now_ms,
};
use crate::{
    backoff::{Backoff, random},
    store::{Feed, Store, keys},
};

/// Most bytes of the past that are put together for one reader; older ones are left out.
const MAX_PAST: usize = 64 << 20;
/// Readers whose past is put together at once.
static PASTS: Semaphore = Semaphore::const_new(4);
/// KiB of the past that all readers together may hold while it is on its way to them.
static HELD_KIB: Semaphore = Semaphore::const_new(256 << 10);
/// Bytes of text in one piece.
const PIECE: usize = 64 * 1024;
/// Records of one logger that may wait for a slow reader.
const QUEUE: usize = 64;
/// A logger that is followed says something in this time, or is gone.
const SILENCE: Duration = Duration::from_secs(3 * PING.as_secs());
/// How long a followed logger may be away before its reader is told.
const UNSAID: Duration = Duration::from_secs(5);
/// How far a logger that appears later is looked back into.
const LOOK_BACK_MS: u64 = 120_000;
/// First and longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A log that is being read.
pub struct View {
    whose: Whose,
    query: Query,
    seen: Seen,
    renderer: Renderer,
    /// What is left of the past, and the leave to hold so much of it.
    past: std::vec::IntoIter<Bytes>,
    leave: Option<SemaphorePermit<'static>>,
    /// What can't be shown, to be said first.
    missing: String,
    follow: Option<Follow>,
}

/// What a follower hears.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Lines.
    Text(String),
    /// A logger has ended its stream: perhaps because the app is gone.
    Ended,
}

/// The loggers that are followed.
struct Follow {
    feed: Feed,
    tasks: HashMap<String, AbortHandle>,
    sender: mpsc::Sender<News>,
    news: mpsc::Receiver<News>,
    /// How far each was read, for the next try.
    places: HashMap<String, String>,
}

impl Drop for Follow {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

enum News {
    Record(Bytes),
    At(String, String),
    Away(String),
    Ended,
}

/// One thing in a logger's answer.
enum Item {
    Record(Bytes),
    At(String),
    Ping,
}

/// Opens an app's log; none when there is not one line in it, and nobody wants to wait for one.
///
/// # Errors
/// When no logger answers.
pub async fn open(store: &Store, whose: Whose, query: Query) -> Result<Option<View>, ClientError> {
    let _turn = match timeout(ANSWER, PASTS.acquire()).await {
        Ok(turn) => turn.ok(),
        Err(_) => return Err(ClientError::Busy),
    };
    // The watch first: a logger that appears meanwhile is not missed.
    let feed = store.follow(keys::parts(super::PART).as_str());
    let addresses = loggers(store).await?;
    let answers = addresses
        .iter()
        .map(|address| past(address, &whose, &query));
    let (mut records, mut places, mut last, mut any) =
        (Vec::new(), HashMap::new(), ClientError::None, false);
    let mut missing = String::new();
    for (address, answer) in addresses.iter().zip(join_all(answers).await) {
        match answer {
            Ok(Past { found, place }) => {
                any = true;
                records.extend(found);
                if let Some(place) = place {
                    places.insert(address.clone(), place);
                }
            }
            Err(error) => {
                let why = format!("{error}; its lines are missing here");
                missing.push_str(&notice(&whose.app, now_ms(), &why));
                last = error;
            }
        }
    }
    if !any {
        return Err(last);
    }
    let mut seen = Seen::default();
    let (past, skip) = put_together(records, &mut seen, query.lines);
    if past.is_empty() && missing.is_empty() && !query.follow {
        return Ok(None);
    }
    let kib = past.iter().map(Bytes::len).sum::<usize>() >> 10;
    let leave = HELD_KIB.try_acquire_many(u32::try_from(kib).unwrap_or(u32::MAX));
    let leave = leave.map_err(|_| ClientError::Busy)?;
    let (sender, news) = mpsc::channel(QUEUE);
    let mut view = View {
        renderer: Renderer::new(&whose.app, skip),
        past: past.into_iter(),
        leave: Some(leave),
        missing,
        seen,
        follow: query.follow.then(|| Follow {
            feed,
            tasks: HashMap::new(),
            sender,
            news,
            places,
        }),
        whose,
        query,
    };
    for address in addresses {
        let is_known = view
            .follow
            .as_ref()
            .is_some_and(|f| f.places.contains_key(&address));
        view.attend(address, (!is_known).then(now_ms));
    }
    Ok(Some(view))
}

/// One logger's part of the past.
struct Past {
    found: Vec<Bytes>,
    place: Option<String>,
}

async fn past(address: &str, whose: &Whose, query: &Query) -> Result<Past, ClientError> {
    let request = client().get(url(address, whose, query));
    let response = timeout(ANSWER, send(address, request)).await;
    let response = response.map_err(|_| ClientError::Silent(address.to_owned()))??;
    let mut link = Link::new(address, response);
    let (mut found, mut size, mut place) = (Vec::new(), 0, None);
    while let Some(item) = link.next(ANSWER).await? {
        match item {
            Item::Record(record) => {
                size += record.len();
                if size > MAX_PAST {
                    // The newest are the last ones, and the wanted ones.
                    let gone: usize = found.drain(..found.len() / 2).map(|r: Bytes| r.len()).sum();
                    size -= gone;
                }
                found.push(record);
            }
            Item::At(at) => place = Some(at),
            Item::Ping => {}
        }
    }
    Ok(Past { found, place })
}

fn url(address: &str, whose: &Whose, query: &Query) -> String {
    let mut url = format!(
        "{}&format=records&lines={}",
        whose.url(address),
        query.lines
    );
    if let Some(of) = &query.of {
        url.push_str(&format!("&ps={of}"));
    }
    if let Some(since) = query.since_ms {
        url.push_str(&format!("&since={since}"));
    }
    url
}

/// Orders what several loggers hold; answers with what of it is to be shown, and how many lines at
/// its begin are too many.
fn put_together(records: Vec<Bytes>, seen: &mut Seen, lines: usize) -> (Vec<Bytes>, usize) {
    let new: Vec<Bytes> = records
        .into_iter()
        .flat_map(|record| only_new(seen, &record))
        .collect();
    let new: Vec<Bytes> = new
        .into_iter()
        .map(|record| settled(seen, record))
        .collect();
    let metas: Vec<Meta> = new
        .iter()
        .filter_map(|record| match parse(record) {
            Parsed::Record(Record::Data(data), _) => Some(Meta::of(&data)),
            _ => None,
        })
        .collect();
    let (order, total) = order(&metas);
    let ordered = order.into_iter().map(|at| new[at].clone()).collect();
    (ordered, total.saturating_sub(lines))
}

/// A record's parts that were not shown yet, as records.
fn only_new(seen: &mut Seen, record: &Bytes) -> Vec<Bytes> {
    let Parsed::Record(Record::Data(data), _) = parse(record) else {
        return Vec::new();
    };
    let len = data.bytes.len();
    let new = seen.take(data);
    match &new[..] {
        [whole] if whole.bytes.len() == len => vec![record.clone()],
        parts => parts.iter().map(encode).collect(),
    }
}

/// A record, without the word that something is missing before it that is not.
fn settled(seen: &Seen, record: Bytes) -> Bytes {
    match parse(&record) {
        Parsed::Record(Record::Data(data), _) if !data.elsewhere.is_none() => {
            encode(&seen.settle(data))
        }
        _ => record,
    }
}

fn encode(data: &Data<'_>) -> Bytes {
    let mut bytes = Vec::new();
    Record::Data(data.clone()).encode(&mut bytes);
    bytes.into()
}

impl View {
    /// The next lines; none at the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Piece> {
        let mut text = std::mem::take(&mut self.missing);
        while text.len() < PIECE {
            let Some(record) = self.past.next() else {
                self.leave = None;
                break;
            };
            self.show(&record, &mut text);
        }
        if !text.is_empty() {
            return Some(Piece::Text(text));
        }
        if self.follow.is_none() {
            self.renderer.finish(&mut text);
            return (!text.is_empty()).then_some(Piece::Text(text));
        }
        self.new_lines().await
    }

    async fn new_lines(&mut self) -> Option<Piece> {
        loop {
            let follow = self.follow.as_mut()?;
            let mut text = String::new();
            tokio::select! {
                update = follow.feed.next() => {
                    for change in update.changes {
                        let entry = change.entry.and_then(|e| e.decode::<crate::model::PartPresence>().ok());
                        match entry {
                            Some(presence) => self.attend(presence.address, Some(now_ms())),
                            None => self.leave_alone(&change.key),
                        }
                    }
                }
                Some(news) = follow.news.recv() => {
                    match news {
                        News::Record(record) => for record in only_new(&mut self.seen, &record) {
                            let record = settled(&self.seen, record);
                            self.show(&record, &mut text);
                        },
                        News::At(address, place) => { follow.places.insert(address, place); }
                        News::Away(why) => text = notice(&self.whose.app, now_ms(), &why),
                        News::Ended => return Some(Piece::Ended),
                    }
                    if !text.is_empty() {
                        return Some(Piece::Text(text));
                    }
                }
            }
        }
    }

    fn show(&mut self, record: &Bytes, text: &mut String) {
        if let Parsed::Record(Record::Data(data), _) = parse(record) {
            self.renderer.add(&data, text);
        }
    }

    /// Follows a logger, unless it is followed already. One that `appeared` later is looked back
    /// into, for what it took before it was known.
    fn attend(&mut self, address: String, appeared: Option<u64>) {
        let Some(follow) = &mut self.follow else {
            return;
        };
        if follow
            .tasks
            .get(&address)
            .is_some_and(|task| !task.is_finished())
        {
            return;
        }
        let since = appeared.map(|now| now.saturating_sub(LOOK_BACK_MS));
        let query = Query {
            // What is in a log that was not there before is new.
            lines: MAX_LINES,
            since_ms: since.max(self.query.since_ms),
            ..self.query.clone()
        };
        let stay = stay(
            address.clone(),
            self.whose.clone(),
            query,
            follow.places.get(&address).cloned(),
            follow.sender.clone(),
        );
        let task = tokio::spawn(stay).abort_handle();
        follow.tasks.insert(address, task);
    }

    /// A logger is registered no more.
    fn leave_alone(&mut self, key: &str) {
        let Some(follow) = &mut self.follow else {
            return;
        };
        let ip = keys::last_part(key, keys::parts(super::PART).as_str()).unwrap_or_default();
        let of_ip = |address: &str| address.rsplit_once(':').is_some_and(|(host, _)| host == ip);
        follow.tasks.retain(|address, task| {
            if of_ip(address) {
                task.abort();
            }
            !of_ip(address)
        });
    }
}

/// Follows one logger for ever, across its restarts.
async fn stay(
    address: String,
    whose: Whose,
    query: Query,
    mut place: Option<String>,
    news: mpsc::Sender<News>,
) {
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    let mut away_since: Option<Instant> = None;
    let mut told = false;
    loop {
        let mut came = false;
        let result = listen(&address, &whose, &query, &mut place, &news, &mut came).await;
        if news.is_closed() {
            return;
        }
        if came {
            (away_since, told) = (None, false);
            backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
        }
        let since = *away_since.get_or_insert_with(Instant::now);
        match result {
            Ok(()) => {
                let _ = news.send(News::Ended).await;
            }
            Err(error) if since.elapsed() >= UNSAID && !told => {
                told = true;
                let why = format!("{error}; its lines follow when it is back");
                let _ = news.send(News::Away(why)).await;
            }
            Err(_) => {}
        }
        time::sleep(backoff.next(random())).await;
    }
}

/// One connection to a logger, from `place` on if that is known.
async fn listen(
    address: &str,
    whose: &Whose,
    query: &Query,
    place: &mut Option<String>,
    news: &mpsc::Sender<News>,
    came: &mut bool,
) -> Result<(), ClientError> {
    let mut url = url(address, whose, query) + "&follow=1";
    if let Some(place) = place {
        url.push_str(&format!("&from={place}"));
    }
    let response = timeout(ANSWER, send(address, client().get(url))).await;
    let response = response.map_err(|_| ClientError::Silent(address.to_owned()))??;
    let mut link = Link::new(address, response);
    while let Some(item) = link.next(SILENCE).await? {
        *came = true;
        let item = match item {
            Item::Record(record) => News::Record(record),
            Item::At(at) => {
                *place = Some(at.clone());
                News::At(address.to_owned(), at)
            }
            Item::Ping => continue,
        };
        if news.send(item).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// A logger's answer, item by item.
struct Link {
    address: Arc<str>,
    response: Response,
    buffer: BytesMut,
}

impl Link {
    fn new(address: &str, response: Response) -> Self {
        Self {
            address: address.into(),
            response,
            buffer: BytesMut::new(),
        }
    }

    async fn next(&mut self, patience: Duration) -> Result<Option<Item>, ClientError> {
        let address = || self.address.to_string();
        loop {
            match take(&mut self.buffer) {
                Ok(Some(item)) => return Ok(Some(item)),
                Ok(None) => {}
                Err(Garbled) => return Err(ClientError::Garbled(address())),
            }
            let chunk = match timeout(patience, self.response.chunk()).await {
                Ok(Ok(chunk)) => chunk,
                Ok(Err(source)) => {
                    return Err(ClientError::Http {
                        address: address(),
                        source,
                    });
                }
                Err(_) => return Err(ClientError::Silent(address())),
            };
            match chunk {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(ClientError::Silent(address())),
            }
        }
    }
}

/// What came is neither a record nor a place.
#[derive(Debug)]
struct Garbled;

/// Takes one whole item from the front of what came.
fn take(buffer: &mut BytesMut) -> Result<Option<Item>, Garbled> {
    if buffer.first() == Some(&b'\n') {
        buffer.advance(1);
        return Ok(Some(Item::Ping));
    }
    if buffer.starts_with(b"@at ") {
        let Some(end) = buffer.iter().position(|b| *b == b'\n') else {
            return Ok(None);
        };
        let line = buffer.split_to(end + 1);
        let text = std::str::from_utf8(&line[4..end]).map_err(|_| Garbled)?;
        return Ok(Some(Item::At(text.replace(' ', ":"))));
    }
    let taken = match parse(buffer) {
        Parsed::Record(_, taken) => taken,
        Parsed::Short if buffer.len() <= MAX_RECORD => return Ok(None),
        Parsed::Short | Parsed::Broken => return Err(Garbled),
    };
    Ok(Some(Item::Record(buffer.split_to(taken).freeze())))
}
