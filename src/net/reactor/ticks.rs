//! What happens every so often on a reactor: timerfd_create(2). Another thread that had to ring for it would be woken for that alone.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::{Source, with_reactor};

/// The ticks of a clock on this thread's reactor. At rest they are few, and the first thing that comes is a tick as well.
#[derive(Debug)]
pub struct Ticks {
    source: Source,
    period: Duration,
    /// The period while the thread is at rest.
    rest: Duration,
}

impl Ticks {
    /// One after `period`, which isn't zero, nor is `rest`.
    ///
    /// # Errors
    /// There is no reactor, or those of `timerfd_create`, `timerfd_settime` and `epoll_ctl`.
    pub fn new(period: Duration, rest: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let ticks = Self { source: Source::new(timer, EventFlags::IN | EventFlags::ET)?, period, rest };
        ticks.after(period)?;
        Ok(ticks)
    }

    /// Waits for the tick that is due.
    ///
    /// # Errors
    /// It is another thread's.
    pub async fn tick(&self) -> io::Result<()> {
        poll_fn(|cx| self.source.poll_event(cx)).await
    }

    /// Has the next one come: after the period, or at rest after the longer one, when nothing has come to the reactor since the last
    /// and `may_rest` says so.
    ///
    /// # Errors
    /// It is another thread's, or those of `timerfd_settime`.
    pub fn go_on(&self, may_rest: bool) -> io::Result<()> {
        let rests = with_reactor(self.source.reactor, |reactor| {
            let rests = !reactor.busy.replace(false) && may_rest;
            reactor.early.set(rests.then_some(self.source.key));
            Ok(rests)
        })?;
        self.after(if rests { self.rest } else { self.period })
    }

    /// Once: a timer that goes on by itself would have to be read as well.
    fn after(&self, time: Duration) -> io::Result<()> {
        let it_value = Timespec::try_from(time).map_err(io::Error::other)?;
        let times = Itimerspec { it_interval: Timespec::default(), it_value };
        timerfd_settime(&self.source.fd, TimerfdTimerFlags::empty(), &times)?;
        Ok(())
    }
}
