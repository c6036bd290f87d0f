//! Bodies as they pass through: nothing is collected, and nobody waits for ever.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use super::{exchange::Exchange, wait::Wait};
use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// So much of a streamed body is kept until its answer begins, to be sent once more if the process
/// says that it has not looked at it.
const KEPT: usize = 64 << 10;

/// A client may send nothing of a body for so long.
const CLIENT_SILENCE: Duration = Duration::from_secs(60);
/// Over all it may be waited for so long, and a second more per so many bytes: who drips a byte now and
/// then holds a process of an app, and does nothing else.
const BYTES_PER_SECOND: u64 = 128;

/// Why a body breaks off.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection did.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// It is larger than the operator allows.
    #[error("the request's body is larger than routers take here")]
    TooLarge,
    /// The client stopped sending.
    #[error("the client stopped sending the request's body")]
    Slow,
    /// The process stopped answering.
    #[error("the process sent nothing more of its answer in time")]
    Silent,
}

/// A request's body on its way to a backend.
#[derive(Debug)]
pub enum RequestBody {
    /// As the client sends it.
    Client(Box<ClientBody>),
    /// None: such a request can be sent again.
    Empty,
    /// As the client sends it, and its beginning once more if need be.
    Streamed(Streamed),
}

/// What a client sends.
#[derive(Debug)]
pub struct ClientBody {
    body: Incoming,
    /// Bytes that may still come.
    left: u64,
    received: u64,
    waited: Duration,
    wait: Wait,
    /// How long the client may be silent, when it may talk for as long as it likes.
    chat: Option<Duration>,
}

/// A body of which the beginning is kept. Whoever sends it has one of these; only the last one made
/// reads on.
#[derive(Debug)]
pub struct Streamed {
    shared: Arc<Mutex<Kept>>,
    /// What of the kept has been sent by this one.
    at: usize,
}

#[derive(Debug)]
struct Kept {
    body: ClientBody,
    parts: Vec<Part>,
    bytes: usize,
    /// It has become too much, or nobody needs it any more.
    forgotten: bool,
}

/// A frame that can be sent twice.
#[derive(Debug, Clone)]
enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Part {
    fn of(frame: &Frame<Bytes>) -> Option<Self> {
        let data = frame.data_ref().cloned().map(Self::Data);
        data.or_else(|| frame.trailers_ref().cloned().map(Self::Trailers))
    }

    fn frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(_) => 0,
        }
    }
}

impl Streamed {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same body from its beginning, if that is still there.
    fn again(&self) -> Option<Self> {
        let shared = Arc::clone(&self.shared);
        (!self.kept().forgotten).then_some(Self { shared, at: 0 })
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut kept = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = kept.parts.get(self.at).cloned() {
            self.at += 1;
            return Poll::Ready(Some(Ok(part.frame())));
        }
        let frame = std::task::ready!(kept.body.poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && !kept.forgotten
            && let Some(part) = Part::of(frame)
        {
            kept.bytes += part.len();
            if kept.bytes > KEPT {
                kept.forget();
            } else {
                kept.parts.push(part);
                self.at = kept.parts.len();
            }
        }
        Poll::Ready(frame)
    }
}

impl Kept {
    fn forget(&mut self) {
        self.forgotten = true;
        self.parts = Vec::new();
    }
}

impl RequestBody {
    /// A client's body that is passed on as it comes, however long that goes on: a conversation in
    /// which the client may be silent for so long.
    #[must_use]
    pub fn streamed(body: Incoming, silence: Duration) -> Self {
        match Self::of(body, None) {
            Self::Client(mut body) => {
                body.chat = Some(silence);
                Self::Streamed(Streamed {
                    shared: Arc::new(Mutex::new(Kept {
                        body: *body,
                        parts: Vec::new(),
                        bytes: 0,
                        forgotten: false,
                    })),
                    at: 0,
                })
            }
            other => other,
        }
    }

    /// The same once more, if none of it is lost.
    #[must_use]
    pub fn again(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Streamed(streamed) => streamed.again().map(Self::Streamed),
            Self::Client(_) => None,
        }
    }

    /// It won't be sent once more.
    pub fn forget(&self) {
        if let Self::Streamed(streamed) = self {
            streamed.kept().forget();
        }
    }

    /// A client's body, of so many bytes at most.
    #[must_use]
    pub fn of(body: Incoming, most: Option<u64>) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        Self::Client(Box::new(ClientBody {
            body,
            left: most.unwrap_or(u64::MAX),
            received: 0,
            waited: Duration::ZERO,
            wait: Wait::default(),
            chat: None,
        }))
    }
}

impl ClientBody {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            if let Some(silence) = self.chat {
                let wait = self.wait.poll(cx, silence);
                return wait.map(|()| Some(Err(BodyError::Slow)));
            }
            // Only time in which the client was waited for counts.
            let earned = Duration::from_secs(self.received / BYTES_PER_SECOND);
            let left = (CLIENT_SILENCE + earned).saturating_sub(self.waited);
            let wait = self.wait.poll(cx, left.min(CLIENT_SILENCE));
            return wait.map(|()| Some(Err(BodyError::Slow)));
        };
        self.waited += self.wait.over();
        let frame = match frame {
            None => return Poll::Ready(None),
            Some(frame) => frame?,
        };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        self.received += bytes;
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => return Poll::Ready(Some(Err(BodyError::TooLarge))),
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Client(body) => body.poll_frame(cx),
            Self::Empty => Poll::Ready(None),
            Self::Streamed(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(client) => client.body.is_end_stream(),
            Self::Empty => true,
            Self::Streamed(streamed) => {
                let kept = streamed.kept();
                streamed.at >= kept.parts.len() && kept.body.body.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(client) => client.body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
            // Whoever makes a length of it would be wrong the second time.
            Self::Streamed(_) => SizeHint::default(),
        }
    }
}

/// A response's body on its way to the client. While it lives, its exchange is not over.
#[derive(Debug)]
pub struct ReplyBody {
    source: Source,
    /// None when it goes on elsewhere.
    exchange: Option<Exchange>,
}

#[derive(Debug)]
enum Source {
    Backend {
        body: Incoming,
        /// How long it may be silent.
        silence: Duration,
        wait: Wait,
    },
    Text(Option<Bytes>),
}

impl ReplyBody {
    /// What a backend answers; it may be silent for so long.
    #[must_use]
    pub fn backend(body: Incoming, silence: Duration, exchange: Exchange) -> Self {
        Self {
            source: Source::Backend {
                body,
                silence,
                wait: Wait::default(),
            },
            exchange: Some(exchange),
        }
    }

    /// What the router says itself.
    #[must_use]
    pub const fn text(text: Bytes, exchange: Exchange) -> Self {
        Self {
            source: Source::Text(Some(text)),
            exchange: Some(exchange),
        }
    }

    /// No body; the exchange goes on as a tunnel.
    #[must_use]
    pub const fn nothing() -> Self {
        Self {
            source: Source::Text(None),
            exchange: None,
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match &mut this.source {
            Source::Backend {
                body,
                silence,
                wait,
            } => match Pin::new(body).poll_frame(cx) {
                Poll::Ready(frame) => {
                    wait.over();
                    frame.map(|frame| frame.map_err(BodyError::Http))
                }
                Poll::Pending => {
                    std::task::ready!(wait.poll(cx, *silence));
                    Some(Err(BodyError::Silent))
                }
            },
            Source::Text(text) => text.take().map(|text| Ok(Frame::data(text))),
        };
        if let Some(exchange) = &mut this.exchange {
            match &frame {
                Some(Ok(frame)) => exchange.passed(frame.data_ref().map_or(0, Bytes::len)),
                Some(Err(error)) => exchange.failed(error),
                None => exchange.complete(),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Backend { body, .. } => body.is_end_stream(),
            Source::Text(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Backend { body, .. } => body.size_hint(),
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
        }
    }
}

impl Drop for ReplyBody {
    fn drop(&mut self) {
        // A body of known length is complete before anybody asks for its end.
        if self.is_end_stream()
            && let Some(exchange) = &mut self.exchange
        {
            exchange.complete();
        }
    }
}
