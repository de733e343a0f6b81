//! Reading what a request is answered with.

use std::fmt;
use std::iter::FusedIterator;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::channel::Receiver;
use super::completion::Completion;
use super::error::EngineError;
use super::event::Event;
use crate::error::Result;

/// The events of a request, as they happen: an iterator that waits for each, and a
/// [`futures_core::Stream`] for any executor.
///
/// The last event is [`Event::Done`]; an error is the last item too. Dropping a stream cancels
/// its request: the engine notices before its next step, and the slots are free then. Events
/// that are not read yet are kept.
#[must_use = "dropping a stream cancels its request"]
pub struct Stream {
    events: Receiver<Result<Event>>,
    over: bool,
}

impl Stream {
    pub(super) fn new(events: Receiver<Result<Event>>) -> Self {
        Self {
            events,
            over: false,
        }
    }

    /// Waits for the whole of all answers.
    ///
    /// # Errors
    /// The stream's error.
    pub fn wait(self) -> Result<Completion> {
        let mut completion = Completion::default();
        for event in self {
            completion.push(event?);
        }
        Ok(completion)
    }

    /// As [`wait`](Self::wait), for an executor.
    ///
    /// # Errors
    /// The stream's error.
    pub async fn complete(mut self) -> Result<Completion> {
        let mut completion = Completion::default();
        while let Some(event) = std::future::poll_fn(|context| self.poll_event(context)).await {
            completion.push(event?);
        }
        Ok(completion)
    }

    /// The next event for an executor: what [`futures_core::Stream::poll_next`] does, without
    /// the trait.
    pub fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.events
            .poll_recv(context)
            .map(|event| Some(self.take(event)))
    }

    /// An event as it is returned. If the engine's end is gone without a last event, so is
    /// the engine.
    fn take(&mut self, event: Option<Result<Event>>) -> Result<Event> {
        let event = event.unwrap_or_else(|| Err(EngineError::Stopped.into()));
        self.over = matches!(event, Ok(Event::Done { .. }) | Err(_));
        event
    }
}

impl Iterator for Stream {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let event = self.events.recv();
        Some(self.take(event))
    }
}

impl FusedIterator for Stream {}

impl futures_core::Stream for Stream {
    type Item = Result<Event>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_event(context)
    }
}

impl futures_core::FusedStream for Stream {
    fn is_terminated(&self) -> bool {
        self.over
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}
