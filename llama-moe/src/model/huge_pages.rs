//! Weights on huge pages.

use std::io;

use super::Model;
use crate::error::Result;
use crate::ffi;

/// How much of a model's weights is on huge pages, as [`Model::use_huge_pages`] left them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HugePages {
    /// Bytes of a huge page: 2 MiB on x86-64.
    pub page_size: u64,
    /// Bytes of all whole huge pages within the weights' buffers.
    pub asked: u64,
    /// Bytes of those that are huge pages now.
    pub huge: u64,
    /// Bytes of buffers in a mapped file, which stay as they are: see
    /// [`LoadMode::None`](crate::LoadMode::None).
    pub mapped: u64,
    refusal: i32,
}

impl HugePages {
    /// Why the kernel refused a page, the last one if there were several; `None` if it took all.
    /// Memory in too small pieces is [`OutOfMemory`](io::ErrorKind::OutOfMemory).
    #[must_use]
    pub fn refusal(&self) -> Option<io::Error> {
        (self.refusal != 0).then(|| io::Error::from_raw_os_error(self.refusal))
    }
}

impl Model {
    /// Moves the weights in the CPU's own memory to huge pages.
    ///
    /// Experts in system memory are read in no order that the processor could guess. With pages
    /// of 4 KiB it looks up addresses all the time, and more so in a virtual machine. Reading
    /// them from huge ones is faster, prefill and decode alike; results do not change. Each page
    /// is copied once: on the machine of `docs/serving.md` that takes a second for a GiB. It can
    /// be done from any thread, and while contexts of the model compute.
    ///
    /// Weights used in place in a mapped file stay there: load with
    /// [`LoadMode::None`](crate::LoadMode::None). So do those in a device's page-locked memory
    /// ([`ModelParams::with_no_host`](crate::ModelParams::with_no_host) has none there) and on
    /// devices.
    ///
    /// ```no_run
    /// use llama_moe::{Backend, LoadMode, Model, ModelParams};
    ///
    /// let backend = Backend::init()?;
    /// let params = ModelParams::default().with_load_mode(LoadMode::None);
    /// let model = Model::load(&backend, "qwen3-30b-a3b.gguf", params)?;
    /// let pages = model.use_huge_pages()?;
    /// println!("{} of {} MiB on huge pages", pages.huge >> 20, pages.asked >> 20);
    /// # Ok::<(), llama_moe::Error>(())
    /// ```
    ///
    /// Rests on `madvise` with `MADV_COLLAPSE`; llama.cpp has nothing of the kind. The whole
    /// process, contexts included, can be given huge pages from its start by glibc's
    /// `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`.
    ///
    /// # Errors
    /// [`Error::Llama`](crate::Error::Llama) of the kind
    /// [`Unsupported`](crate::FailureKind::Unsupported) on a system other than Linux 6.1 or
    /// newer, and with the feature `system`. A page that the kernel refuses is no error:
    /// [`HugePages`] tells.
    pub fn use_huge_pages(&self) -> Result<HugePages> {
        let pages = ffi::use_huge_pages(self.handle())?;
        Ok(HugePages {
            page_size: pages.page_size,
            asked: pages.asked,
            huge: pages.huge,
            mapped: pages.mapped,
            refusal: pages.refusal,
        })
    }
}
