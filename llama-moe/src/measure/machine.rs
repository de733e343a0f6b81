//! The machine that a result is of.

use std::collections::BTreeMap;
use std::{env, fs};

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::error::Result;

/// The machine and its operating system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Machine {
    /// The processor's name, as llama.cpp's CPU describes itself.
    pub cpu: String,
    /// Its cores.
    pub physical_cores: usize,
    /// Its hardware threads, those that this process may use.
    pub logical_cores: usize,
    /// Bytes of system memory. A container may have less.
    pub ram: u64,
    /// Bytes of it that could be had without swapping (`MemAvailable`); `None` but on Linux.
    pub ram_available: Option<u64>,
    /// The operating system: the distribution's name on Linux, elsewhere `macos` or `windows`.
    pub os: String,
    /// The kernel's release, where it is known.
    pub kernel: Option<String>,
    /// The processor's architecture: `x86_64`, `aarch64`.
    pub architecture: String,
    /// What the kernel says of the GPU drivers that it has loaded, by their names.
    pub drivers: BTreeMap<String, String>,
}

impl Machine {
    /// This one.
    ///
    /// # Errors
    /// [`Error::UnknownDevice`](crate::Error::UnknownDevice) where no CPU backend is loaded.
    pub fn this(backend: &Backend) -> Result<Self> {
        let cpu = backend.cpu()?;
        let os = read("/etc/os-release").and_then(|text| distribution(&text));
        let drivers = [
            ("nvidia", "/proc/driver/nvidia/version"),
            ("amdgpu", "/sys/module/amdgpu/version"),
        ];
        let driver = |(name, path): (&str, &str)| {
            let text = read(path)?;
            Some((name.to_owned(), text.lines().next()?.trim().to_owned()))
        };
        Ok(Self {
            cpu: cpu.description().trim().to_owned(),
            physical_cores: num_cpus::get_physical(),
            logical_cores: num_cpus::get(),
            ram: cpu.memory().total,
            ram_available: read("/proc/meminfo").and_then(|text| available(&text)),
            os: os.unwrap_or_else(|| env::consts::OS.to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            architecture: env::consts::ARCH.to_owned(),
            drivers: drivers.into_iter().filter_map(driver).collect(),
        })
    }
}

/// A file of the system's, where there is one.
fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn distribution(os_release: &str) -> Option<String> {
    let mut lines = os_release.lines();
    let name = lines.find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches(['"', '\'']).to_owned())
}

fn available(meminfo: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let value = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_read() {
        let os = "NAME=\"Debian\"\nPRETTY_NAME=\"Debian GNU/Linux 13\"\n";
        assert_eq!(distribution(os).unwrap(), "Debian GNU/Linux 13");
        let memory = "MemTotal:  9 kB\nMemAvailable:    20 kB\n";
        assert_eq!(available(memory), Some(20 * 1024));
        assert_eq!(available("MemAvailable: much"), None);
    }
}
