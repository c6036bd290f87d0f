//! Bodies as they pass through: nothing is collected.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{exchange::Exchange, pace::Phase};

/// A request's body on its way to a backend.
#[derive(Debug)]
pub enum RequestBody {
    /// As the client sends it.
    Client(Incoming),
    /// None: such a request can be sent again.
    Empty,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Client(body) => Pin::new(body).poll_frame(cx),
            Self::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client(body) => body.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

/// A response's body on its way to the client. While it lives, its exchange is not over.
#[derive(Debug)]
pub struct ReplyBody {
    source: Source,
    /// None when it goes on elsewhere.
    exchange: Option<Exchange>,
    /// The client's connection, which is idle when this has been sent.
    phase: Option<Phase>,
}

#[derive(Debug)]
enum Source {
    Backend(Incoming),
    Text(Option<Bytes>),
}

impl ReplyBody {
    /// What a backend answers.
    #[must_use]
    pub const fn backend(body: Incoming, exchange: Exchange) -> Self {
        Self {
            source: Source::Backend(body),
            exchange: Some(exchange),
            phase: None,
        }
    }

    /// What the router says itself.
    #[must_use]
    pub const fn text(text: Bytes, exchange: Exchange) -> Self {
        Self {
            source: Source::Text(Some(text)),
            exchange: Some(exchange),
            phase: None,
        }
    }

    /// The client's connection is idle when this has been sent; a tunnel never is.
    pub fn then_idle(&mut self, phase: &Phase) {
        if self.exchange.is_some() {
            self.phase = Some(phase.clone());
        }
    }

    /// No body; the exchange goes on as a tunnel.
    #[must_use]
    pub const fn nothing() -> Self {
        Self {
            source: Source::Text(None),
            exchange: None,
            phase: None,
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = match &mut this.source {
            Source::Backend(body) => std::task::ready!(Pin::new(body).poll_frame(cx)),
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
            Source::Backend(body) => body.is_end_stream(),
            Source::Text(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Backend(body) => body.size_hint(),
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
        if let Some(phase) = &self.phase {
            phase.idle();
        }
    }
}
