//! llama.cpp's array of rules points into the patterns: it must not outlive them.

use llama_moe::{LoweredOverrides, RawOverrides};

fn dangling(lowered: LoweredOverrides) -> RawOverrides<'static> {
    let raw = lowered.raw();
    raw
}

fn dropped(lowered: LoweredOverrides) -> usize {
    let raw = lowered.raw();
    drop(lowered);
    raw.len()
}

fn main() {}
