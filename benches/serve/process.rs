//! What a process takes of the machine, from Linux's /proc.
//!
//! CPU times are what the kernel has counted for a thread or a process, in it and on its behalf,
//! in ticks of 10 ms. A process's time has that of threads that have ended; they themselves are
//! not listed any more.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A unit of the times in /proc, on every architecture that matters.
const TICK: Duration = Duration::from_millis(10);

/// The name of the engine's thread, as far as Linux keeps it. The threads that llama.cpp starts
/// from it inherit it.
const ENGINE: &str = "llama-moe engin";

/// A running process. `None` in its answers: the system does not tell.
#[derive(Clone, Debug)]
pub struct Process(PathBuf);

impl Process {
    pub fn new(id: u32) -> Self {
        Self(Path::new("/proc").join(id.to_string()))
    }

    /// CPU time of all its threads, those included that have ended.
    pub fn cpu(&self) -> Option<Duration> {
        Some(Stat::read(&self.0)?.cpu)
    }

    /// CPU time of each of its threads that are not the engine's nor llama.cpp's, by the
    /// thread's number.
    ///
    /// Not the process's time without the engine's threads': those that llama.cpp starts to load
    /// the model end, and their time is in no thread that is still listed.
    pub fn cpu_beside_engine(&self) -> Option<BTreeMap<u32, Duration>> {
        let tasks = fs::read_dir(self.0.join("task")).ok()?;
        let tasks = tasks.filter_map(|task| {
            let task = task.ok()?;
            let id = task.file_name().to_str()?.parse().ok()?;
            Some((id, Stat::read(&task.path())?))
        });
        let beside = tasks.filter(|(_, task)| task.name != ENGINE);
        Some(beside.map(|(id, task)| (id, task.cpu)).collect())
    }

    /// Bytes that it has in memory, of its own: the model's file, mapped, does not count.
    pub fn resident(&self) -> Option<u64> {
        let status = fs::read_to_string(self.0.join("status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib: u64 = line?.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kib << 10)
    }
}

/// A thread's or a process's `stat`.
struct Stat {
    name: String,
    cpu: Duration,
}

impl Stat {
    fn read(path: &Path) -> Option<Self> {
        let stat = fs::read_to_string(path.join("stat")).ok()?;
        // The name is in brackets and may have any character, these included.
        let (before, after) = stat.rsplit_once(") ")?;
        let (_, name) = before.split_once(" (")?;
        let ticks = |index| after.split(' ').nth(index)?.parse::<u32>().ok();
        Some(Self {
            name: name.to_owned(),
            cpu: TICK * (ticks(11)? + ticks(12)?),
        })
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_time_of_threads_is_told_apart_by_their_name() {
        let work = || {
            let start = Instant::now();
            let process = Process::new(std::process::id());
            while start.elapsed() < Duration::from_millis(100) {}
            process.cpu_beside_engine().unwrap()
        };
        let named = |name: &str| thread::Builder::new().name(name.to_owned());
        // A brace in a name ends nothing.
        let beside = named("a) b (c").spawn(work).unwrap().join().unwrap();
        assert!(beside.values().any(|&time| time >= 4 * TICK), "{beside:?}");
        let process = Process::new(std::process::id());
        let engine = named("llama-moe engine").spawn(work).unwrap();
        let beside = engine.join().unwrap();
        assert!(beside.values().all(|&time| time < 4 * TICK), "{beside:?}");
        assert!(process.cpu().unwrap() >= 8 * TICK);
        assert!(process.resident().unwrap() > 1 << 16);
    }
}
