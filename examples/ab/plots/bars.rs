//! Bars: memory and decode rate of each variant.

use llama_moe::measure::Series;

use super::canvas::{Anchor, Canvas, GREY, LINE, MARGIN, PALE, TEXT, WIDTH, shorten, width};
use super::look::{BAR, CACHE_PART, PARTS, textures};
use super::scale::Scale;
use super::{Plot, decode_length, repetitions};
use crate::results::{Results, VariantResults};
use crate::summary::{Figure, breakdowns, has_device, has_moe_cache, is_dry_run, split, why_empty};
use crate::units::{scaled, spread};

const BAR_HEIGHT: f64 = 36.0;
const BAR_GAP: f64 = 18.0;
const GIB: f64 = 1_073_741_824.0;
const MIB: f64 = 1_048_576.0;

/// One variant's bar.
struct Bar<'a> {
    variant: &'a VariantResults,
    /// What its length is of. `None` if it has none.
    total: Option<Series>,
    /// Parts and what they are filled with, from the left. Together they are the mean.
    parts: Vec<(f64, &'static str)>,
}

/// Memory: the devices' where there is one, else the system's.
pub fn memory(results: &Results) -> Option<Plot> {
    let is_host = !has_device(results);
    let of = |variant, part: fn([f64; 4]) -> f64| {
        let breakdowns = breakdowns(results, variant).into_iter();
        Series::new(breakdowns.map(|breakdown| part(split(breakdown, is_host)))).ok()
    };
    let total = |variant| of(variant, |parts| parts.iter().sum());
    let totals = results.variants.iter().filter_map(total);
    let largest = totals.map(|series| series.max()).reduce(f64::max)?;
    let (unit, name) = if largest >= GIB {
        (GIB, "GiB")
    } else {
        (MIB, "MiB")
    };
    let bars: Vec<Bar> = results
        .variants
        .iter()
        .map(|variant| {
            let parts: [fn([f64; 4]) -> f64; 4] = [
                |[model, ..]| model,
                |[_, kv, ..]| kv,
                |[_, _, cache, _]| cache,
                |[.., compute]| compute,
            ];
            let mean = |part| of(variant, part).map_or(0.0, |part| part.mean() / unit);
            let fills = PARTS.iter().map(|(_, fill)| *fill);
            Bar {
                variant,
                total: total(variant).and_then(|total| scaled(&total, 1.0 / unit)),
                parts: parts.into_iter().map(mean).zip(fills).collect(),
            }
        })
        .collect();
    let (title, whose) = if is_host {
        ("System memory per variant", "no device was used")
    } else {
        ("Device memory per variant", "all devices together")
    };
    let n = if is_dry_run(results) {
        "a dry\u{a0}run, nothing was loaded".to_owned()
    } else {
        repetitions(bars.iter().filter_map(|bar| bar.total.as_ref()))
    };
    let mut canvas = Canvas::new(title, &format!("{name}, llama.cpp's count, {whose}, {n}"));
    legend(&mut canvas, has_moe_cache(results));
    draw(&mut canvas, &bars);
    Some(Plot {
        name: "memory",
        title: title.to_owned(),
        svg: canvas.finish(&textures()),
    })
}

/// The decode rate.
pub fn decode(results: &Results) -> Option<Plot> {
    let n_prompt = decode_length(results)?;
    let bars: Vec<Bar> = results
        .variants
        .iter()
        .map(|variant| {
            let total = Figure::Decode(n_prompt).series(variant);
            let parts = total.iter().map(|total| (total.mean(), BAR)).collect();
            Bar {
                variant,
                total,
                parts,
            }
        })
        .collect();
    let title = "Decode rate per variant".to_owned();
    let n = repetitions(bars.iter().filter_map(|bar| bar.total.as_ref()));
    let caption = format!("tokens/s after a prompt of {n_prompt} tokens, {n}; more is faster");
    let mut canvas = Canvas::new(&title, &caption);
    draw(&mut canvas, &bars);
    Some(Plot {
        name: "decode",
        title,
        svg: canvas.finish(""),
    })
}

fn legend(canvas: &mut Canvas, has_cache: bool) {
    let mut x = MARGIN;
    for (index, (name, fill)) in PARTS.into_iter().enumerate() {
        if index == CACHE_PART && !has_cache {
            continue;
        }
        if x + 40.0 + width(name, TEXT) > WIDTH - MARGIN {
            x = MARGIN;
            canvas.y += LINE;
        }
        let y = canvas.y;
        canvas.add(&format!(
            r##"<rect x="{x:.1}" y="{y:.1}" width="30" height="24" fill="{fill}" stroke="#222222"/>"##
        ));
        canvas.text(x + 40.0, y + 21.0, Anchor::Start, name);
        x += 70.0 + width(name, TEXT);
    }
    canvas.y += LINE + 12.0;
}

fn draw(canvas: &mut Canvas, bars: &[Bar]) {
    let reach = |bar: &Bar| {
        let total = bar.total.as_ref()?;
        Some(total.mean() + total.std_dev().unwrap_or(0.0))
    };
    let largest = bars
        .iter()
        .filter_map(reach)
        .reduce(f64::max)
        .unwrap_or(1.0);
    let scale = Scale::from_zero(largest, (MARGIN, WIDTH - MARGIN - 12.0));
    let top = canvas.y;
    let row = LINE + BAR_HEIGHT + BAR_GAP;
    let bottom = top + row * bars.len() as f64;
    for bar in bars {
        let (above, below) = (canvas.y + LINE - 4.0, canvas.y + LINE + BAR_HEIGHT + 4.0);
        for &tick in &scale.ticks {
            let x = scale.at(tick);
            canvas.line((x, above), (x, below), PALE, 1.5);
        }
        draw_bar(canvas, bar, &scale);
        canvas.y += row;
    }
    for (index, &tick) in scale.ticks.iter().enumerate() {
        let anchor = match index {
            0 => Anchor::Start,
            _ if index + 1 == scale.ticks.len() => Anchor::End,
            _ => Anchor::Middle,
        };
        let x = match anchor {
            Anchor::End => WIDTH - MARGIN,
            _ => scale.at(tick),
        };
        canvas.coloured(x, bottom + 24.0, anchor, GREY, &scale.label(tick));
    }
    canvas.y = bottom + LINE;
}

fn draw_bar(canvas: &mut Canvas, bar: &Bar, scale: &Scale) {
    let value = match &bar.total {
        Some(total) => spread(total),
        None => why_empty(bar.variant).to_owned(),
    };
    let (left, right) = (MARGIN, WIDTH - MARGIN);
    let baseline = canvas.y + 25.0;
    let room = right - left - width(&value, TEXT) - 20.0;
    canvas.text(
        left,
        baseline,
        Anchor::Start,
        &shorten(&bar.variant.name, room),
    );
    canvas.text(right, baseline, Anchor::End, &value);
    let y = canvas.y + LINE;
    let mut sum = 0.0;
    for &(part, fill) in &bar.parts {
        let (start, end) = (scale.at(sum), scale.at(sum + part));
        sum += part;
        if end > start {
            canvas.add(&format!(
                r##"<rect x="{start:.1}" y="{y:.1}" width="{:.1}" height="{BAR_HEIGHT}" fill="{fill}" stroke="#222222"/>"##,
                end - start
            ));
        }
    }
    if let Some(total) = &bar.total {
        let deviation = total.std_dev().unwrap_or(0.0);
        let ends = [total.mean() - deviation, total.mean() + deviation].map(|end| scale.at(end));
        // Narrower than its own line it would say more than it knows.
        if ends[1] - ends[0] > 2.0 {
            let middle = y + BAR_HEIGHT / 2.0;
            canvas.error_bar((ends[0], middle), (ends[1], middle));
        }
    } else {
        canvas.line((left, y), (left, y + BAR_HEIGHT), GREY, 3.0);
    }
}
