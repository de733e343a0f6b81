//! Lines: time to the first token and prefill rate against the prompt's length.

use llama_moe::measure::Series;

use super::canvas::{Anchor, Canvas, GREY, LINE, MARGIN, PALE, TEXT, WIDTH, shorten, width};
use super::look::Look;
use super::scale::Scale;
use super::{Plot, legend_name, repetitions};
use crate::results::Results;
use crate::summary::{Figure, prompt_lengths};

const HEIGHT: f64 = 430.0;
/// From one variant to the next, so that error bars do not hide each other.
const SIDESTEP: f64 = 7.0;
/// From here on, times from the first to the last prompt length take a logarithmic scale.
const WIDE: f64 = 20.0;

/// TTFT for each prompt length.
pub fn ttft(results: &Results) -> Option<Plot> {
    plot(
        results,
        "ttft",
        "Time to the first token (TTFT)",
        "less is faster",
        Figure::Ttft,
    )
}

/// The prefill rate against the prompt length.
pub fn prefill(results: &Results) -> Option<Plot> {
    plot(
        results,
        "prefill",
        "Prefill rate against prompt length",
        "more is faster",
        Figure::Prefill,
    )
}

/// One variant's values: the index of the prompt length, and its series.
struct Line {
    look: Look,
    points: Vec<(usize, Series)>,
}

fn plot(
    results: &Results,
    name: &'static str,
    title: &str,
    better: &str,
    figure: fn(usize) -> Figure,
) -> Option<Plot> {
    let lengths = prompt_lengths(&results.settings);
    let lines: Vec<Line> = results
        .variants
        .iter()
        .enumerate()
        .map(|(index, variant)| {
            let points = lengths.iter().enumerate();
            let points = points.filter_map(|(at, n)| Some((at, figure(*n).series(variant)?)));
            Line {
                look: Look::of(index),
                points: points.collect(),
            }
        })
        .collect();
    let all = || {
        lines
            .iter()
            .flat_map(|line| &line.points)
            .map(|(_, series)| series)
    };
    let largest = all()
        .map(|s| s.mean() + s.std_dev().unwrap_or(0.0))
        .reduce(f64::max)?;
    let smallest = all().map(Series::mean).reduce(f64::min)?;
    let is_log = smallest > 0.0 && largest / smallest > WIDE && !figure(0).more_is_better();
    let unit = figure(0).unit();
    let kind = if is_log { ", logarithmic" } else { "" };
    let caption = format!("{unit}{kind}, {}; {better}", repetitions(all()));
    let mut canvas = Canvas::new(title, &caption);
    let (top, bottom) = (canvas.y + 10.0, canvas.y + 10.0 + HEIGHT);
    let scale = if is_log {
        Scale::log(smallest, largest, (bottom, top))
    } else {
        Scale::from_zero(largest, (bottom, top))
    };
    let left = axes(&mut canvas, &scale, &lengths, (top, bottom));
    let x = |at: usize| position(at, lengths.len(), left);
    for (index, line) in lines.iter().enumerate() {
        let middle = (lines.len() as f64 - 1.0) / 2.0;
        let aside = (index as f64 - middle) * SIDESTEP.min(60.0 / lines.len() as f64);
        draw(&mut canvas, line, &scale, |at| x(at) + aside);
    }
    canvas.y = bottom + 2.0 * LINE + 16.0;
    for (variant, line) in results.variants.iter().zip(&lines) {
        let y = canvas.y + 15.0;
        line.look
            .path(&mut canvas, &[(MARGIN, y), (MARGIN + 76.0, y)]);
        line.look.mark(&mut canvas, (MARGIN + 38.0, y));
        let name = shorten(&legend_name(variant), WIDTH - 2.0 * MARGIN - 92.0);
        canvas.text(MARGIN + 92.0, y + 8.0, Anchor::Start, &name);
        canvas.y += LINE + 6.0;
    }
    Some(Plot {
        name,
        title: title.to_owned(),
        svg: canvas.finish(""),
    })
}

/// Where the `at`-th of some prompt lengths is.
fn position(at: usize, count: usize, left: f64) -> f64 {
    let room = WIDTH - MARGIN - left;
    left + room * (at as f64 + 0.5) / count as f64
}

/// Draws both axes, and gives the left end of the lower one.
fn axes(canvas: &mut Canvas, scale: &Scale, lengths: &[usize], ends: (f64, f64)) -> f64 {
    let (top, bottom) = ends;
    let labels: Vec<String> = scale.ticks.iter().map(|tick| scale.label(*tick)).collect();
    let widest = labels
        .iter()
        .map(|label| width(label, TEXT))
        .fold(0.0, f64::max);
    let left = MARGIN + widest + 12.0;
    for (tick, label) in scale.ticks.iter().zip(&labels) {
        let y = scale.at(*tick);
        canvas.line((left, y), (WIDTH - MARGIN, y), PALE, 1.5);
        canvas.coloured(left - 10.0, y + 8.0, Anchor::End, GREY, label);
    }
    canvas.line((left, top), (left, bottom), GREY, 2.0);
    canvas.line((left, bottom), (WIDTH - MARGIN, bottom), GREY, 2.0);
    // Labels that would touch the one before are left out.
    let mut free = 0.0;
    for (at, length) in lengths.iter().enumerate() {
        let x = position(at, lengths.len(), left);
        canvas.line((x, bottom), (x, bottom + 7.0), GREY, 2.0);
        let label = length.to_string();
        let half = width(&label, TEXT) / 2.0;
        if x - half >= free {
            canvas.coloured(x, bottom + LINE, Anchor::Middle, GREY, &label);
            free = x + half + 8.0;
        }
    }
    let middle = (left + WIDTH - MARGIN) / 2.0;
    canvas.coloured(
        middle,
        bottom + 2.0 * LINE,
        Anchor::Middle,
        GREY,
        "prompt, tokens",
    );
    left
}

fn draw(canvas: &mut Canvas, line: &Line, scale: &Scale, x: impl Fn(usize) -> f64) {
    let place = |(at, series): &(usize, Series)| (x(*at), scale.at(series.mean()));
    let places: Vec<(f64, f64)> = line.points.iter().map(place).collect();
    line.look.path(canvas, &places);
    for ((_, series), &(x, y)) in line.points.iter().zip(&places) {
        let deviation = series.std_dev().unwrap_or(0.0);
        let [low, high] = [-deviation, deviation].map(|d| scale.at(series.mean() + d));
        if low - high > 2.0 {
            canvas.error_bar((x, low), (x, high));
        }
        line.look.mark(canvas, (x, y));
    }
}
