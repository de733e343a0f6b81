//! The cache of experts: decode rate against its size.

use llama_moe::measure::Series;

use super::canvas::{Anchor, Canvas, GREY, LINE, MARGIN, PALE, TEXT, WIDTH, shorten, width};
use super::look::Look;
use super::scale::Scale;
use super::{Plot, decode_length, legend_name, repetitions};
use crate::results::{Results, VariantResults};
use crate::summary::{Figure, has_moe_cache, series, split};
use crate::units::{mib, number, scaled, spread};

const HEIGHT: f64 = 430.0;
/// From one mark to the next of the same size.
const SIDESTEP: f64 = 24.0;

/// A variant that was measured.
struct Point {
    look: Look,
    /// MiB that its cache takes; none for a variant without a cache.
    size: Option<f64>,
    rate: Series,
    /// MiB that it takes of the devices, by llama.cpp's count.
    memory: Option<Series>,
}

/// Variants with a cache as points, those without as lines across. Nothing where no variant with a
/// cache was measured.
pub fn cache(results: &Results) -> Option<Plot> {
    if !has_moe_cache(results) {
        return None;
    }
    let n_prompt = decode_length(results)?;
    let variants = results.variants.iter().enumerate();
    let points: Vec<Option<Point>> = variants
        .map(|(index, variant)| {
            let bytes = variant.moe_cache.as_ref().map(|cache| cache.bytes as f64);
            let memory = series(variant, |measured| {
                Some(split(&measured.breakdown, false).iter().sum())
            });
            Some(Point {
                look: Look::of(index),
                size: bytes.map(mib),
                rate: Figure::Decode(n_prompt).series(variant)?,
                memory: memory.and_then(|bytes| scaled(&bytes, mib(1.0))),
            })
        })
        .collect();
    let measured = || points.iter().flatten();
    let largest = measured().filter_map(|point| point.size).reduce(f64::max)?;
    let title = "Decode rate against the size of the cache of experts".to_owned();
    let n = repetitions(measured().map(|point| &point.rate));
    let equal = if is_at_equal_memory(results) {
        "; at equal device memory"
    } else {
        ""
    };
    let caption = format!(
        "tokens/s after a prompt of {n_prompt} tokens, {n}; more is faster; variants without a \
         cache are lines{equal}"
    );
    let mut canvas = Canvas::new(&title, &caption);
    draw(&mut canvas, &points, largest);
    legend(&mut canvas, results, &points);
    Some(Plot {
        name: "cache",
        title,
        svg: canvas.finish(""),
    })
}

/// Whether every variant with a cache is a plan for a budget that a variant without one is a plan
/// for too.
fn is_at_equal_memory(results: &Results) -> bool {
    let budget = |variant: &VariantResults| -> Option<String> {
        let budget = variant.rules.strip_prefix("plan=")?;
        Some(budget.split('+').next()?.to_owned())
    };
    let (with, without): (Vec<_>, Vec<_>) = results
        .variants
        .iter()
        .partition(|variant| variant.moe_cache.is_some());
    let planned: Vec<String> = without.into_iter().filter_map(budget).collect();
    with.into_iter()
        .all(|variant| budget(variant).is_some_and(|budget| planned.contains(&budget)))
}

fn draw(canvas: &mut Canvas, points: &[Option<Point>], largest: f64) {
    let reach = points.iter().flatten().map(|point| {
        let deviation = point.rate.std_dev().unwrap_or(0.0);
        point.rate.mean() + deviation
    });
    let (top, bottom) = (canvas.y + 10.0, canvas.y + 10.0 + HEIGHT);
    let y = Scale::from_zero(reach.fold(0.0, f64::max), (bottom, top));
    let y_labels: Vec<String> = y.ticks.iter().map(|tick| y.label(*tick)).collect();
    let widest = y_labels
        .iter()
        .map(|label| width(label, TEXT))
        .fold(0.0, f64::max);
    let (left, right) = (MARGIN + widest + 12.0, WIDTH - MARGIN - 20.0);
    let x = Scale::from_zero(largest, (left, right));
    for (tick, label) in y.ticks.iter().zip(&y_labels) {
        let at = y.at(*tick);
        canvas.line((left, at), (right, at), PALE, 1.5);
        canvas.coloured(left - 10.0, at + 8.0, Anchor::End, GREY, label);
    }
    for tick in &x.ticks {
        let at = x.at(*tick);
        canvas.line((at, bottom), (at, bottom + 7.0), GREY, 2.0);
        canvas.coloured(at, bottom + LINE, Anchor::Middle, GREY, &x.label(*tick));
    }
    canvas.line((left, top), (left, bottom), GREY, 2.0);
    canvas.line((left, bottom), (right, bottom), GREY, 2.0);
    let middle = WIDTH / 2.0;
    let title = "cache of experts, MiB of the devices";
    canvas.coloured(middle, bottom + 2.0 * LINE, Anchor::Middle, GREY, title);

    // Lines below marks.
    for point in points.iter().flatten().filter(|point| point.size.is_none()) {
        let at = y.at(point.rate.mean());
        band(canvas, point, &y, (left, right));
        point.look.path(canvas, &[(left, at), (right, at)]);
    }
    for (index, point) in points.iter().enumerate() {
        let Some((size, point)) = point.as_ref().and_then(|of| Some((of.size?, of))) else {
            continue;
        };
        let aside = SIDESTEP * sidesteps(points, index, size);
        let at = (x.at(size) + aside, y.at(point.rate.mean()));
        let deviation = point.rate.std_dev().unwrap_or(0.0);
        let [low, high] = [-deviation, deviation].map(|d| y.at(point.rate.mean() + d));
        if low - high > 2.0 {
            canvas.error_bar((at.0, low), (at.0, high));
        }
        point.look.mark(canvas, at);
    }
    canvas.y = bottom + 2.0 * LINE + 16.0;
}

/// How many steps a mark goes aside, so that marks of one size do not hide each other.
fn sidesteps(points: &[Option<Point>], index: usize, size: f64) -> f64 {
    let is_here = |point: &&Option<Point>| point.as_ref().and_then(|of| of.size) == Some(size);
    let before = points[..index].iter().filter(is_here).count();
    let all = points.iter().filter(is_here).count();
    before as f64 - (all.saturating_sub(1)) as f64 / 2.0
}

/// ± σ of a line.
fn band(canvas: &mut Canvas, point: &Point, y: &Scale, (left, right): (f64, f64)) {
    let deviation = point.rate.std_dev().unwrap_or(0.0);
    let [low, high] = [-deviation, deviation].map(|d| y.at(point.rate.mean() + d));
    if low - high > 2.0 {
        let (colour, width, height) = (point.look.colour, right - left, low - high);
        canvas.add(&format!(
            r#"<rect x="{left:.1}" y="{high:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}" fill-opacity="0.15"/>"#
        ));
    }
}

fn legend(canvas: &mut Canvas, results: &Results, points: &[Option<Point>]) {
    for (index, (variant, point)) in results.variants.iter().zip(points).enumerate() {
        let (y, look) = (canvas.y + 15.0, Look::of(index));
        if variant.moe_cache.is_some() {
            look.mark(canvas, (MARGIN + 38.0, y));
        } else {
            look.path(canvas, &[(MARGIN, y), (MARGIN + 76.0, y)]);
        }
        let name = shorten(&legend_name(variant), WIDTH - 2.0 * MARGIN - 92.0);
        canvas.text(MARGIN + 92.0, y + 8.0, Anchor::Start, &name);
        canvas.y += LINE;
        if let Some(point) = point {
            let memory = point.memory.as_ref().map_or_else(String::new, |memory| {
                format!(", {} MiB on devices", number(memory.mean()))
            });
            let values = format!("{} tokens/s{memory}", spread(&point.rate));
            let values = shorten(&values, WIDTH - 2.0 * MARGIN - 92.0);
            canvas.coloured(MARGIN + 92.0, canvas.y + 23.0, Anchor::Start, GREY, &values);
            canvas.y += LINE;
        }
        canvas.y += 8.0;
    }
}
