//! Waits that are bounded, and cost next to nothing when what is waited for comes in time.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// A wait for whatever comes next. Its timer is made when there is something to wait for, and set
/// anew only when it has rung.
#[derive(Debug, Default)]
pub struct Wait {
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Wait {
    /// Nothing has come. Ready when that has been so for longer than the bound.
    pub fn poll(&mut self, cx: &mut Context<'_>, bound: Duration) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let end = since + bound;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if timer.deadline() > end {
            timer.as_mut().reset(end);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= end {
                return Poll::Ready(());
            }
            timer.as_mut().reset(end);
        }
        Poll::Pending
    }

    /// Something has come, after so long.
    pub fn over(&mut self) -> Duration {
        self.since
            .take()
            .map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Waits of one connection, one after the other: the timer of the last one serves the next.
#[derive(Debug, Default)]
pub struct Patience(Mutex<Option<Wait>>);

impl Patience {
    /// What a future gives; nothing when that takes longer than the bound.
    pub async fn bound<F: Future>(&self, bound: Duration, future: F) -> Option<F::Output> {
        let slot = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut future = pin!(future);
        // Requests of HTTP/2 wait side by side: those that find none have one of their own.
        let mut wait = slot().take().unwrap_or_default();
        let output = poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => wait.poll(cx, bound).map(|()| None),
        });
        let output = output.await;
        wait.over();
        *slot() = Some(wait);
        output
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_begins_anew_when_something_has_come() {
        let mut wait = Wait::default();
        let minute = Duration::from_secs(60);
        for _ in 0..5 {
            let waiting = poll_fn(|cx| wait.poll(cx, minute));
            let early = tokio::time::timeout(Duration::from_secs(50), waiting).await;
            assert!(early.is_err(), "not yet");
            assert_eq!(wait.over().as_secs(), 50);
        }
        let began = Instant::now();
        poll_fn(|cx| wait.poll(cx, minute)).await;
        assert_eq!(began.elapsed().as_secs(), 60);
        // A shorter bound counts at once.
        assert_eq!(wait.over().as_secs(), 60);
        let began = Instant::now();
        poll_fn(|cx| wait.poll(cx, Duration::from_secs(5))).await;
        assert_eq!(began.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn patience_is_as_long_each_time() {
        let patience = Patience::default();
        let minute = Duration::from_secs(60);
        for (takes, bound, want) in [
            (50, 60, true),
            (50, 60, true),
            (70, 60, false),
            (50, 60, true),
            (8, 5, false),
        ] {
            let began = Instant::now();
            let coming = sleep(Duration::from_secs(takes));
            let came = patience.bound(Duration::from_secs(bound), coming).await;
            assert_eq!(came.is_some(), want, "{takes} of {bound}");
            assert_eq!(began.elapsed().as_secs(), takes.min(bound));
        }
        let both = async {
            tokio::join!(
                patience.bound(minute, pending::<()>()),
                patience.bound(minute * 2, pending::<()>())
            )
        };
        let began = Instant::now();
        assert_eq!(both.await, (None, None));
        assert_eq!(began.elapsed().as_secs(), 120);
    }
}
