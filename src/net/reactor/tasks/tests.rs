//! Tasks on a reactor of the test's own thread.

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;

use super::super::tests::on_reactor;
use super::super::{block_on, close, open, spawn};
use super::TASKS;

/// What happened, in order.
type Story = Rc<RefCell<Vec<&'static str>>>;

fn tell(story: &Story, what: &'static str) {
    story.borrow_mut().push(what);
}

/// Tells of its end.
struct Ends(Story);

impl Drop for Ends {
    fn drop(&mut self) {
        tell(&self.0, "dropped");
    }
}

#[test]
fn they_run_in_the_order_in_which_they_were_woken() {
    let story = Story::default();
    let seen = Rc::clone(&story);
    on_reactor(async move {
        let (first, second) = (Rc::clone(&seen), Rc::clone(&seen));
        let (give, take) = oneshot::channel();
        spawn(async move {
            take.await.unwrap();
            tell(&first, "first, woken by the second");
        });
        spawn(async move {
            tell(&second, "second");
            give.send(()).unwrap();
            yield_now().await;
            tell(&second, "second, another turn");
        });
        tell(&seen, "they are started");
        while seen.borrow().len() < 4 {
            yield_now().await;
        }
    });
    let expected = ["they are started", "second", "first, woken by the second", "second, another turn"];
    assert_eq!(*story.borrow(), expected);
}

#[test]
fn a_panic_ends_its_task_alone() {
    open().unwrap();
    block_on(async {
        let (dies, gone) = oneshot::channel::<()>();
        spawn(async move {
            let _dies = dies;
            panic!("this one is meant");
        });
        gone.await.unwrap_err();
    })
    .unwrap();
    let error = block_on(async { panic!("and this one") }).unwrap_err();
    assert!(error.to_string().contains("panic"), "{error}");
    block_on(async {}).unwrap();
    close();
}

#[test]
fn what_other_threads_wake_runs_here() {
    let (give, mut take) = mpsc::channel(1);
    let giving = std::thread::spawn(move || {
        for number in 0..10_000 {
            give.blocking_send(number).unwrap();
            if number % 1000 == 0 {
                // It sleeps by then.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    });
    let here = std::thread::current().id();
    on_reactor(async move {
        for number in 0..10_000 {
            assert_eq!(take.recv().await, Some(number));
            assert_eq!(std::thread::current().id(), here);
        }
    });
    giving.join().unwrap();
}

#[test]
fn many_that_never_rest_leave_the_others_their_turn() {
    let (give, take) = oneshot::channel();
    let giving = std::thread::spawn(move || give.send(()).unwrap());
    on_reactor(async move {
        for _ in 0..3 * TASKS {
            spawn(async {
                loop {
                    yield_now().await;
                }
            });
        }
        take.await.unwrap();
    });
    giving.join().unwrap();
}

#[test]
fn those_that_are_left_end_with_the_reactor() {
    open().unwrap();
    let story = Story::default();
    let (wakes, woken) = oneshot::channel::<()>();
    let (waits, in_vain) = (Ends(Rc::clone(&story)), Ends(Rc::clone(&story)));
    let (wakes_another, holds) = (Ends(Rc::clone(&story)), wakes);
    block_on(async move {
        spawn(async move {
            let _waits = waits;
            pending::<()>().await;
        });
        // Ended first, it wakes the next by what it drops.
        spawn(async move {
            let _of_both = (wakes_another, holds);
            pending::<()>().await;
        });
        spawn(async move {
            let _in_vain = in_vain;
            let _gone = woken.await;
        });
        yield_now().await;
    })
    .unwrap();
    assert!(story.borrow().is_empty());
    close();
    assert_eq!(*story.borrow(), ["dropped"; 3]);
}

#[test]
fn a_waker_may_outlive_its_task_and_its_reactor() {
    open().unwrap();
    let (show, shown) = std::sync::mpsc::sync_channel(1);
    block_on(async move {
        spawn(poll_fn(move |cx| {
            let _full = show.try_send(cx.waker().clone());
            Poll::Pending
        }));
        yield_now().await;
    })
    .unwrap();
    let waker = shown.recv().unwrap();
    close();
    std::thread::spawn(move || {
        waker.wake_by_ref();
        drop(waker);
    })
    .join()
    .unwrap();
}
