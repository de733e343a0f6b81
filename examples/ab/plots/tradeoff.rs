//! The trade-off: decode rate against device memory.

use llama_moe::measure::{DeviceUse, Series};

use super::canvas::{Anchor, Canvas, GREY, LINE, MARGIN, PALE, TEXT, WIDTH, shorten, width};
use super::look::Look;
use super::scale::Scale;
use super::{Plot, decode_length, legend_name, repetitions};
use crate::results::{Measured, Results};
use crate::summary::{Figure, done, has_device, series, split};
use crate::units::{scaled, spread};

const HEIGHT: f64 = 470.0;
const GIB: f64 = 1_073_741_824.0;
const MIB: f64 = 1_048_576.0;

/// A variant in the plane.
struct Point {
    memory: Series,
    rate: Series,
}

/// The curve that people choose from.
pub fn tradeoff(results: &Results) -> Option<Plot> {
    if !has_device(results) {
        return None;
    }
    let n_prompt = decode_length(results)?;
    // What drivers say has what they keep themselves, but not all of them say it.
    let is_told = results
        .variants
        .iter()
        .flat_map(done)
        .all(|m| taken(m).is_some());
    let memory = |measured: &Measured| {
        if is_told {
            taken(measured)
        } else {
            Some(split(&measured.breakdown, false).iter().sum())
        }
    };
    let variants = results.variants.iter();
    let in_bytes: Vec<Option<(Series, Series)>> = variants
        .map(|variant| {
            Some((
                series(variant, memory)?,
                Figure::Decode(n_prompt).series(variant)?,
            ))
        })
        .collect();
    let most = in_bytes.iter().flatten().map(|(memory, _)| memory.max());
    let most = most.reduce(f64::max)?;
    let (unit, name) = if most >= GIB {
        (GIB, "GiB")
    } else {
        (MIB, "MiB")
    };
    let points: Vec<Option<Point>> = in_bytes
        .into_iter()
        .map(|pair| {
            let (memory, rate) = pair?;
            Some(Point {
                memory: scaled(&memory, 1.0 / unit)?,
                rate,
            })
        })
        .collect();
    let n = repetitions(points.iter().flatten().map(|point| &point.rate));
    let title = "Decode rate against device memory".to_owned();
    let caption =
        format!("tokens/s after a prompt of {n_prompt} tokens, {n}; up and left is better");
    let mut canvas = Canvas::new(&title, &caption);
    let source = if is_told {
        "taken from the free memory"
    } else {
        "llama.cpp's count"
    };
    draw(
        &mut canvas,
        &points,
        &format!("device memory, {name}, {source}"),
    );
    legend(&mut canvas, results, &points, name);
    Some(Plot {
        name: "tradeoff",
        title,
        svg: canvas.finish(""),
    })
}

/// What all devices gave away, where all of them tell.
fn taken(measured: &Measured) -> Option<f64> {
    if measured.devices.is_empty() {
        return None;
    }
    let taken: Option<Vec<i64>> = measured.devices.iter().map(DeviceUse::taken).collect();
    Some(taken?.into_iter().map(|bytes| bytes.max(0) as f64).sum())
}

fn draw(canvas: &mut Canvas, points: &[Option<Point>], x_title: &str) {
    let reach = |of: fn(&Point) -> &Series| {
        let series = points.iter().flatten().map(of);
        let reach = series.map(|s| s.mean() + s.std_dev().unwrap_or(0.0));
        reach.fold(0.0, f64::max)
    };
    let (top, bottom) = (canvas.y + 10.0, canvas.y + 10.0 + HEIGHT);
    let y = Scale::from_zero(reach(|point| &point.rate), (bottom, top));
    let y_labels: Vec<String> = y.ticks.iter().map(|tick| y.label(*tick)).collect();
    let widest = y_labels
        .iter()
        .map(|label| width(label, TEXT))
        .fold(0.0, f64::max);
    let (left, right) = (MARGIN + widest + 12.0, WIDTH - MARGIN - 20.0);
    let x = Scale::from_zero(reach(|point| &point.memory), (left, right));
    for (tick, label) in y.ticks.iter().zip(&y_labels) {
        let at = y.at(*tick);
        canvas.line((left, at), (right, at), PALE, 1.5);
        canvas.coloured(left - 10.0, at + 8.0, Anchor::End, GREY, label);
    }
    for tick in &x.ticks {
        let at = x.at(*tick);
        canvas.line((at, top), (at, bottom), PALE, 1.5);
        canvas.coloured(at, bottom + LINE, Anchor::Middle, GREY, &x.label(*tick));
    }
    canvas.line((left, top), (left, bottom), GREY, 2.0);
    canvas.line((left, bottom), (right, bottom), GREY, 2.0);
    let middle = WIDTH / 2.0;
    canvas.coloured(middle, bottom + 2.0 * LINE, Anchor::Middle, GREY, x_title);

    let place = |point: &Point| (x.at(point.memory.mean()), y.at(point.rate.mean()));
    let mut curve: Vec<(f64, f64)> = points.iter().flatten().map(place).collect();
    curve.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    for pair in curve.windows(2) {
        canvas.line(pair[0], pair[1], GREY, 2.0);
    }
    let mut taken = curve.clone();
    for (index, point) in points.iter().enumerate() {
        let Some(point) = point else { continue };
        let at = place(point);
        error_bars(canvas, point, (&x, &y), at);
        Look::of(index).mark(canvas, at);
        let label = (index + 1).to_string();
        let to = beside(at, &taken);
        taken.push(to);
        // Letters with a light edge are read on any line.
        canvas.add(&format!(
            r##"<text x="{:.1}" y="{:.1}" text-anchor="middle" font-weight="bold" stroke="#ffffff" stroke-width="6" paint-order="stroke">{label}</text>"##,
            to.0,
            to.1 + 8.0
        ));
    }
    canvas.y = bottom + 2.0 * LINE + 16.0;
}

fn error_bars(canvas: &mut Canvas, point: &Point, scales: (&Scale, &Scale), at: (f64, f64)) {
    let ends = |series: &Series, scale: &Scale| {
        let deviation = series.std_dev().unwrap_or(0.0);
        [-deviation, deviation].map(|d| scale.at(series.mean() + d))
    };
    let [left, right] = ends(&point.memory, scales.0);
    if right - left > 2.0 {
        canvas.error_bar((left, at.1), (right, at.1));
    }
    let [low, high] = ends(&point.rate, scales.1);
    if low - high > 2.0 {
        canvas.error_bar((at.0, low), (at.0, high));
    }
}

/// A place for a label beside a mark: the first around it that no mark or label is at, or the
/// last that was tried.
fn beside((x, y): (f64, f64), taken: &[(f64, f64)]) -> (f64, f64) {
    const FREE: f64 = 24.0;
    let around = [28.0, 52.0, 76.0].into_iter().flat_map(|distance| {
        [-135.0f64, 45.0, -90.0, 90.0, 0.0, 180.0, -45.0, 135.0].map(|degrees| {
            let angle = degrees.to_radians();
            (x + distance * angle.cos(), y + distance * angle.sin())
        })
    });
    let mut last = (x, y);
    for place in around {
        last = place;
        let is_inside = (MARGIN..WIDTH - MARGIN).contains(&place.0);
        let is_free = taken
            .iter()
            .all(|other| (other.0 - place.0).hypot(other.1 - place.1) >= FREE);
        if is_inside && is_free {
            break;
        }
    }
    last
}

fn legend(canvas: &mut Canvas, results: &Results, points: &[Option<Point>], unit: &str) {
    for (index, (variant, point)) in results.variants.iter().zip(points).enumerate() {
        let y = canvas.y + 15.0;
        canvas.text(MARGIN, y + 8.0, Anchor::Start, &(index + 1).to_string());
        Look::of(index).mark(canvas, (MARGIN + 48.0, y));
        let name = shorten(&legend_name(variant), WIDTH - 2.0 * MARGIN - 72.0);
        canvas.text(MARGIN + 72.0, y + 8.0, Anchor::Start, &name);
        canvas.y += LINE;
        if let Some(point) = point {
            let values = format!(
                "{} tokens/s, {} {unit}",
                spread(&point.rate),
                spread(&point.memory)
            );
            canvas.coloured(MARGIN + 72.0, canvas.y + 23.0, Anchor::Start, GREY, &values);
            canvas.y += LINE;
        }
        canvas.y += 8.0;
    }
}
