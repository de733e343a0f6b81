//! What the engine's thread hands to one reader, blocking or not.
//!
//! Unbounded, so that a reader that does not read holds up nobody else. What it can be sent is
//! bounded by the tokens that its request may generate, where these are: an answer that leaves out
//! its beginning has no end of its own.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::ffi::catch_panic;

/// The engine's end. The reader sees that it was dropped after it has read the rest.
#[derive(Debug)]
pub(super) struct Sender<T>(Arc<Shared<T>>);

/// The reader's end. Dropping it [closes](Sender::is_closed) the channel.
#[derive(Debug)]
pub(super) struct Receiver<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<T>,
    sender_gone: bool,
    receiver_gone: bool,
    waker: Option<Waker>,
}

/// Both ends of a new channel.
pub(super) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            queue: VecDeque::new(),
            sender_gone: false,
            receiver_gone: false,
            waker: None,
        }),
        arrived: Condvar::new(),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Shared<T> {
    /// No code of others runs under the lock, so a panic leaves nothing half done. Wakers are
    /// code of others where they are cloned or dropped.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    /// The next item; `Some(None)` at the end, `None` while there may be more.
    fn next(&mut self) -> Option<Option<T>> {
        match self.queue.pop_front() {
            Some(item) => Some(Some(item)),
            None => self.sender_gone.then_some(None),
        }
    }
}

impl<T> Sender<T> {
    /// Sends, unless nobody reads any more.
    pub(super) fn send(&self, item: T) {
        let mut state = self.0.lock();
        if state.receiver_gone {
            return;
        }
        state.queue.push_back(item);
        self.0.wake(state);
    }

    /// Whether the reader is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().receiver_gone
    }
}

impl<T> Shared<T> {
    /// Wakes the reader, with the lock released.
    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        let waker = state.waker.take();
        drop(state);
        self.arrived.notify_one();
        if let Some(waker) = waker {
            wake(waker);
        }
    }
}

/// Wakes a task. Wakers are code of others, and this is called where nothing may unwind.
fn wake(waker: Waker) {
    let mut panic = None;
    catch_panic(&mut panic, || waker.wake());
    if let Some(message) = panic {
        tracing::error!("a waker panicked: {message}");
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.sender_gone = true;
        self.0.wake(state);
    }
}

impl<T> Receiver<T> {
    /// Waits for the next item; `None` at the end.
    pub(super) fn recv(&self) -> Option<T> {
        let mut state = self.0.lock();
        loop {
            if let Some(next) = state.next() {
                return next;
            }
            let waited = self.0.arrived.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next item, if it is there.
    pub(super) fn poll_recv(&self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let waker = context.waker().clone();
        let mut state = self.0.lock();
        if let Some(next) = state.next() {
            return Poll::Ready(next);
        }
        let earlier = state.waker.replace(waker);
        drop(state);
        drop(earlier);
        Poll::Pending
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receiver_gone = true;
        let unread = std::mem::take(&mut state.queue);
        let waker = state.waker.take();
        drop(state);
        drop((unread, waker));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, mpsc};
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread;
    use std::time::Duration;

    use super::{Sender, channel};

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_was_sent_is_read_before_the_end() {
        let (sender, receiver) = channel();
        let reader = thread::spawn(move || std::iter::from_fn(|| receiver.recv()).collect());
        for number in 0..100 {
            sender.send(number);
        }
        drop(sender);
        let read: Vec<i32> = reader.join().unwrap();
        assert_eq!(read, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_task_is_woken_once_for_each_time_it_waits() {
        let (sender, receiver) = channel();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        assert_eq!(receiver.poll_recv(&mut context), Poll::Pending);
        sender.send(1);
        sender.send(2);
        assert_eq!(woken.0.load(Ordering::SeqCst), 1);
        assert_eq!(receiver.poll_recv(&mut context), Poll::Ready(Some(1)));
        assert_eq!(receiver.poll_recv(&mut context), Poll::Ready(Some(2)));
        assert_eq!(receiver.poll_recv(&mut context), Poll::Pending);
        drop(sender);
        assert_eq!(woken.0.load(Ordering::SeqCst), 2);
        assert_eq!(receiver.poll_recv(&mut context), Poll::Ready(None));
    }

    /// A waker that comes back to the channel when it is dropped.
    struct Holds {
        _sender: Sender<i32>,
    }

    impl Wake for Holds {
        fn wake(self: Arc<Self>) {}
    }

    #[test]
    fn a_waker_is_dropped_without_the_lock() {
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let (sender, receiver) = channel();
            let first = Waker::from(Arc::new(Holds { _sender: sender }));
            let polled = receiver.poll_recv(&mut Context::from_waker(&first));
            assert_eq!(polled, Poll::Pending);
            drop(first);
            // The other task's waker replaces it.
            let woken = Arc::new(Woken::default());
            let second = Waker::from(Arc::clone(&woken));
            let mut context = Context::from_waker(&second);
            assert_eq!(receiver.poll_recv(&mut context), Poll::Pending);
            assert_eq!(woken.0.load(Ordering::SeqCst), 1);
            assert_eq!(receiver.poll_recv(&mut context), Poll::Ready(None));
            done.send(()).unwrap();
        });
        is_done.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn nothing_is_kept_for_a_reader_that_is_gone() {
        let (sender, receiver) = channel();
        let item = Arc::new(());
        sender.send(Arc::clone(&item));
        assert!(!sender.is_closed());
        drop(receiver);
        assert!(sender.is_closed());
        sender.send(Arc::clone(&item));
        assert_eq!(Arc::strong_count(&item), 1);
    }
}
