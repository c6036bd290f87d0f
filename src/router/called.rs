//! A future that seldom has something to do, beside a busy one in the same task.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Polls its future only when that has asked for it, however often its task is polled: looking at a
/// timer or a token costs locks, and a task that passes requests on is polled several times for each.
pub struct Called<F> {
    future: F,
    call: Option<Arc<Call>>,
}

struct Call {
    called: AtomicBool,
    task: Waker,
}

impl<F: Future + Unpin> Called<F> {
    /// Asks nothing yet.
    pub const fn new(future: F) -> Self {
        Self { future, call: None }
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.called.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<F: Future + Unpin> Future for Called<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let there = this.call.take();
        let call = match there.filter(|call| call.task.will_wake(cx.waker())) {
            Some(call) if !call.called.load(Ordering::Acquire) => {
                this.call = Some(call);
                return Poll::Pending;
            }
            Some(call) => {
                // Before the future is polled: a call that comes meanwhile counts.
                call.called.store(false, Ordering::Release);
                call
            }
            // At first, or in another task than before.
            None => Arc::new(Call {
                called: AtomicBool::new(false),
                task: cx.waker().clone(),
            }),
        };
        let waker = Waker::from(Arc::clone(this.call.insert(call)));
        Pin::new(&mut this.future).poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::Mutex, time::Duration};

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_has_called_and_no_other_time() {
        let (polls, waker) = (Mutex::new(0), Mutex::new(None::<Waker>));
        let future = pin!(poll_fn(|cx| {
            *polls.lock().expect("lock") += 1;
            *waker.lock().expect("lock") = Some(cx.waker().clone());
            match *polls.lock().expect("lock") {
                3 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        }));
        let mut called = Called::new(future);
        let mut poll = async || poll_fn(|cx| Poll::Ready(Pin::new(&mut called).poll(cx))).await;
        for _ in 0..3 {
            assert!(poll().await.is_pending());
        }
        assert_eq!(*polls.lock().expect("lock"), 1, "nobody called");
        let call = waker.lock().expect("lock").take().expect("polled");
        call.wake_by_ref();
        assert!(poll().await.is_pending());
        assert!(poll().await.is_pending());
        assert_eq!(*polls.lock().expect("lock"), 2);
        call.wake();
        assert!(poll().await.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn it_moves_from_one_task_to_another() {
        let sleep = Box::pin(tokio::time::sleep(Duration::from_secs(5)));
        let mut called = Called::new(sleep);
        let first = poll_fn(|cx| Poll::Ready(Pin::new(&mut called).poll(cx)));
        assert!(first.await.is_pending());
        let there = tokio::spawn(called);
        there.await.expect("woken there");
    }
}
