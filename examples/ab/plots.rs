//! The pictures of a report: for a narrow screen, and without a need for colours.

mod bars;
mod cache;
mod canvas;
mod lines;
mod look;
mod png;
mod scale;
mod tradeoff;

use std::path::Path;
use std::{fs, io};

use common::Result;
use llama_moe::measure::Series;

use crate::results::{Results, VariantResults};
use crate::summary::{Figure, done, prompt_lengths};

/// All pictures that there can be.
const NAMES: [&str; 6] = ["memory", "decode", "ttft", "prefill", "tradeoff", "cache"];

/// A picture.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Its file's name, without what follows the point.
    pub name: &'static str,
    /// What it shows.
    pub title: String,
    /// It, as the text of an SVG file.
    pub svg: String,
}

/// The pictures of these results. One that there is nothing for is not made.
pub fn all(results: &Results) -> Vec<Plot> {
    let plots = [
        bars::memory(results),
        bars::decode(results),
        lines::ttft(results),
        lines::prefill(results),
        tradeoff::tradeoff(results),
        cache::cache(results),
    ];
    plots.into_iter().flatten().collect()
}

/// Writes pictures into a folder, as SVG and as PNG. Those of an earlier report that are not
/// among them go.
///
/// # Errors
/// If a file cannot be written or a picture cannot be drawn.
pub fn write(plots: &[Plot], dir: &Path) -> Result<()> {
    let at = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    fs::create_dir_all(dir).map_err(|error| at(dir, &error))?;
    for name in NAMES {
        let plot = plots.iter().find(|plot| plot.name == name);
        for extension in ["svg", "png"] {
            let path = dir.join(format!("{name}.{extension}"));
            let written = match (plot, extension) {
                (Some(plot), "svg") => fs::write(&path, &plot.svg),
                (Some(plot), _) => {
                    let png = png::render(&plot.svg).map_err(|error| at(&path, &error))?;
                    fs::write(&path, png)
                }
                (None, _) => match fs::remove_file(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    removed => removed,
                },
            };
            written.map_err(|error| at(&path, &error))?;
        }
    }
    Ok(())
}

/// The prompt length whose decode rate stands for a variant: the longest, since a cache that is
/// filled is what a chat decodes with.
fn decode_length(results: &Results) -> Option<usize> {
    let lengths = prompt_lengths(&results.settings).into_iter().rev();
    let mut lengths = lengths.filter(|&n| {
        let mut variants = results.variants.iter();
        variants.any(|variant| Figure::Decode(n).series(variant).is_some())
    });
    lengths.next()
}

/// What a caption says of the repetitions, in words that stay together.
fn repetitions<'a>(series: impl IntoIterator<Item = &'a Series>) -> String {
    let counts: Vec<usize> = series.into_iter().map(Series::n).collect();
    let fewest = counts.iter().min().copied().unwrap_or(0);
    let most = counts.iter().max().copied().unwrap_or(0);
    let words = match (fewest, most) {
        (_, 1) => "N = 1, no σ".to_owned(),
        (fewest, most) if fewest == most => format!("mean ± σ, N = {most}"),
        (fewest, most) => format!("mean ± σ, N from {fewest} to {most}"),
    };
    words.replace(' ', "\u{a0}").replace(",\u{a0}", ", ")
}

/// A variant's name, and why it is not to be seen if it is not.
fn legend_name(variant: &VariantResults) -> String {
    if done(variant).next().is_none() {
        format!("{} – {}", variant.name, crate::summary::why_empty(variant))
    } else {
        variant.name.clone()
    }
}

#[cfg(test)]
mod tests;
