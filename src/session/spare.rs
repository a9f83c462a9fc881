//! What a worker's sessions take for a batch and give back: buffers, lists, and the room in which one is served.
//!
//! There are as many of them as there are batches under way, not as there are sessions, and those that were used last are taken first: in
//! the cache they are warmer than memory of the session's own.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use super::batch::{End, Item};
use super::worker::SCRATCH_LEN;
use super::{Ended, Session, Worker};

/// Of each kind, so many are kept.
const KEPT: usize = 64;

/// What is not in use.
#[derive(Default)]
pub(super) struct Spare {
    buffers: RefCell<Vec<Vec<u8>>>,
    items: RefCell<Vec<Vec<Item>>>,
    rooms: RefCell<Vec<Pin<Box<dyn Room>>>>,
}

/// A session and what came of its batch.
type Served = (Box<Session>, Result<(), Ended>);

/// Memory in which a batch is served.
pub(super) trait Room {
    /// Takes a session up whose next batch, the first so many bytes of its inbox, is to be served.
    fn enter(self: Pin<&mut Self>, session: Box<Session>, end: End, len: usize);

    /// Serves it. Ready once.
    fn poll_served(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Served>;
}

pin_project! {
    /// A room for what `serve` makes.
    struct Place<F, S> {
        #[pin]
        serving: Option<F>,
        serve: S,
    }
}

impl<F: Future<Output = Served>, S: Fn(Box<Session>, End, usize) -> F> Room for Place<F, S> {
    fn enter(self: Pin<&mut Self>, session: Box<Session>, end: End, len: usize) {
        let mut place = self.project();
        place.serving.set(Some((place.serve)(session, end, len)));
    }

    fn poll_served(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Served> {
        let mut place = self.project();
        let Some(serving) = place.serving.as_mut().as_pin_mut() else { return Poll::Pending };
        let served = ready!(serving.poll(cx));
        place.serving.set(None);
        Poll::Ready(served)
    }
}

fn room_for<F: Future<Output = Served> + 'static>(
    serve: impl Fn(Box<Session>, End, usize) -> F + 'static,
) -> Pin<Box<dyn Room>> {
    Box::pin(Place { serving: None, serve })
}

impl Worker {
    /// An empty buffer with room.
    pub(super) fn buffer(&self) -> Vec<u8> {
        self.spare.buffers.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(4096))
    }

    /// Takes a buffer back; big ones and those over the number kept are freed.
    pub(super) fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.spare.buffers.borrow_mut();
        if buffer.capacity() <= SCRATCH_LEN && buffer.capacity() > 0 && buffers.len() < KEPT {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// An empty list for a batch's messages.
    pub(super) fn items(&self) -> Vec<Item> {
        self.spare.items.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes it back.
    pub(super) fn give_items(&self, mut list: Vec<Item>) {
        list.clear();
        let mut items = self.spare.items.borrow_mut();
        if list.capacity() <= 1024 && items.len() < KEPT {
            items.push(list);
        }
    }

    /// A room for a batch.
    pub(super) fn room(&self) -> Pin<Box<dyn Room>> {
        self.spare.rooms.borrow_mut().pop().unwrap_or_else(|| {
            room_for(|mut session: Box<Session>, end, len| async move {
                let outcome = session.serve(end, len).await;
                (session, outcome)
            })
        })
    }

    /// Takes it back.
    pub(super) fn give_room(&self, room: Pin<Box<dyn Room>>) {
        let mut rooms = self.spare.rooms.borrow_mut();
        if rooms.len() < KEPT {
            rooms.push(room);
        }
    }
}
