//! What happens every so often on a reactor: timerfd_create(2). Another thread that had to ring for it would be woken for that alone.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::Source;

/// The ticks of a clock on this thread's reactor.
#[derive(Debug)]
pub struct Ticks {
    source: Source,
    timer: OwnedFd,
}

impl Ticks {
    /// One after each `period`, which isn't zero.
    ///
    /// # Errors
    /// There is no reactor, or those of `timerfd_create`, `timerfd_settime` and `epoll_ctl`.
    pub fn every(period: Duration) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let period = Timespec::try_from(period).map_err(io::Error::other)?;
        let times = Itimerspec { it_interval: period, it_value: period };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
        Ok(Self { source: Source::new(timer.as_raw_fd())?, timer })
    }

    /// The next tick. Those that were missed count as one.
    ///
    /// # Errors
    /// It is another thread's, or those of `read`.
    pub async fn tick(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_tick(cx)).await
    }

    fn poll_tick(&self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        // The timer runs on when it has been read.
        match rustix::io::read(&self.timer, &mut [0; size_of::<u64>()]) {
            Ok(_) => Poll::Ready(Ok(())),
            Err(Errno::AGAIN) => self.source.wait(cx),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}
