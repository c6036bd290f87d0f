//! What the pusher sees, in Heroku's form, on its way to the hook.

use tokio::sync::mpsc;

use super::protocol::PushAnswer;

/// Lines that wait for a slow reader; then the build waits with them.
const QUEUE: usize = 256;

/// Where a push's output goes. When nobody reads any more, it goes nowhere.
#[derive(Debug, Clone)]
pub struct Output(mpsc::Sender<PushAnswer>);

impl Output {
    /// An output and what comes out of it.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<PushAnswer>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    /// Text as it is.
    pub async fn raw(&self, text: String) {
        let _ = self.0.send(PushAnswer::Out(text)).await;
    }

    /// `-----> Launching...`
    pub async fn step(&self, text: &str) {
        self.raw(format!("-----> {text}\n")).await;
    }

    /// A line that belongs to the step before it.
    pub async fn detail(&self, text: &str) {
        self.raw(format!("       {text}\n")).await;
    }

    /// As [`Output::detail`], from where nothing can wait; dropped when the reader is far behind.
    pub fn detail_now(&self, text: &str) {
        let _ = self.0.try_send(PushAnswer::Out(format!("       {text}\n")));
    }

    /// ` !     ...`
    pub async fn warning(&self, text: &str) {
        for line in text.lines() {
            self.raw(format!(" !     {line}\n")).await;
        }
    }

    /// The last word.
    pub async fn end(self, accepted: bool) {
        let _ = self.0.send(PushAnswer::End { accepted }).await;
    }
}
