//! Progress bars: on stderr, and only where that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// Steps of a bar that is told shares.
const STEPS: f32 = 1000.0;

/// A bar for a share from 0 to 1, which goes when it is dropped.
pub struct ShareBar(ProgressBar);

impl ShareBar {
    /// A bar with a title before it, at 0.
    #[must_use]
    pub fn new(title: &str) -> Self {
        Self(bar(
            STEPS as u64,
            title,
            "{msg} [{wide_bar}] {percent:>3} %",
        ))
    }

    /// Moves the bar.
    pub fn set(&self, share: f32) {
        self.0.set_position((share * STEPS) as u64);
    }
}

impl Drop for ShareBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A bar for bytes.
#[cfg(feature = "hf")]
pub(crate) fn byte_bar(title: &str) -> ProgressBar {
    bar(
        0,
        title,
        "{msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ({eta})",
    )
}

fn bar(length: u64, title: &str, template: &str) -> ProgressBar {
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length)
        .with_style(style)
        .with_message(title.to_owned())
}
