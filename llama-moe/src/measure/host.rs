//! What the operating system says of this process's memory.

use std::fs;

use serde::{Deserialize, Serialize};

/// The system memory of this process, at one moment.
///
/// Linux counts pages in batches on each core, so that a few hundred KiB may be missing or too
/// much. Page-locked memory that a GPU's driver allocates counts as resident or not, as the driver
/// likes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HostMemory {
    /// Bytes in physical memory (`VmRSS`), pages of mapped files among them.
    pub rss: u64,
    /// Of these, bytes that belong to no file (`RssAnon`): what was allocated.
    pub anonymous: u64,
    /// Of these, bytes of mapped files (`RssFile`), such as weights that are used in place. Other
    /// processes may use the same pages, and the system takes them back when it needs them.
    pub file: u64,
    /// The most bytes in physical memory at once (`VmHWM`) since the process started.
    pub peak_rss: u64,
    /// Bytes that were moved out to the swap (`VmSwap`).
    pub swapped: u64,
    /// Page faults since the process started that needed no disk.
    pub minor_faults: u64,
    /// Page faults since the process started that waited for a disk: weights that did not stay
    /// in memory.
    pub major_faults: u64,
}

impl HostMemory {
    /// As it is now, by `/proc/self`. `None` where the system has no such files: anywhere
    /// but on Linux.
    #[must_use]
    pub fn now() -> Option<Self> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        Self::parse(&status, &stat)
    }

    fn parse(status: &str, stat: &str) -> Option<Self> {
        let bytes = |key: &str| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
            let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        };
        // The second field is the program's name, in parentheses, and may hold some itself.
        let (_, fields) = stat.rsplit_once(')')?;
        let mut fields = fields.split_ascii_whitespace();
        // Fields 10 and 12 of the line, which counts from 1.
        let minor_faults = fields.nth(7)?.parse().ok()?;
        let major_faults = fields.nth(1)?.parse().ok()?;
        Some(Self {
            rss: bytes("VmRSS")?,
            anonymous: bytes("RssAnon")?,
            file: bytes("RssFile")?,
            peak_rss: bytes("VmHWM")?,
            swapped: bytes("VmSwap")?,
            minor_faults,
            major_faults,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_of_the_files() {
        let status = "Name:\ta) b\nVmPeak:\t  999 kB\nVmHWM:\t    3000 kB\nVmRSS:\t    2000 kB\n\
                      RssAnon:\t 1500 kB\nRssFile:\t  500 kB\nRssShmem:\t 0 kB\nVmSwap:\t 7 kB\n";
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 1234 5 67 8 9 10 11 12 20 0 1 0 99";
        let memory = HostMemory::parse(status, stat).unwrap();
        let kib = |n: u64| n * 1024;
        assert_eq!((memory.rss, memory.peak_rss), (kib(2000), kib(3000)));
        assert_eq!((memory.anonymous, memory.file), (kib(1500), kib(500)));
        assert_eq!(memory.swapped, kib(7));
        assert_eq!((memory.minor_faults, memory.major_faults), (1234, 67));
        assert_eq!(HostMemory::parse("VmRSS: many kB", stat), None);
        assert_eq!(HostMemory::parse(status, "42 (name"), None);
    }
}
