//! Time by the clock, and on the CPU.

use std::time::{Duration, Instant};

/// What this thread spends from now on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopwatch {
    started: Instant,
    cpu: Option<Duration>,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self {
            started: Instant::now(),
            cpu: thread_cpu(),
        }
    }

    /// When it was started.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Time by the clock: waiting for a core is in it.
    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Time that the thread had a core, where the system tells. To be asked by the thread that
    /// started it.
    pub(super) fn cpu(&self) -> Option<Duration> {
        Some(thread_cpu()?.saturating_sub(self.cpu?))
    }
}

/// CPU time of this thread since it began.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn thread_cpu() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn thread_cpu() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    fn sleeping_takes_time_but_no_cpu() {
        let watch = Stopwatch::start();
        std::thread::sleep(Duration::from_millis(100));
        assert!(watch.elapsed() >= Duration::from_millis(100));
        let asleep = watch.cpu().unwrap();
        assert!(asleep < Duration::from_millis(50), "{asleep:?}");

        let watch = Stopwatch::start();
        while watch.cpu().unwrap() < Duration::from_millis(5) {}
        assert!(watch.elapsed() >= Duration::from_millis(4));
    }
}
