//! The curve as a picture.

use std::fmt::Write;

use super::curve::{HitRateCurve, HitRatePoint};
use crate::placement::picture::text::{bytes, escape, shorten};

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 500.0;
/// The frame that the lines are drawn in.
const LEFT: f64 = 84.0;
const RIGHT: f64 = 768.0;
const TOP: f64 = 118.0;
const BOTTOM: f64 = 396.0;

const FONTS: &str = "'Noto Sans', 'Open Sans', Verdana, 'DejaVu Sans', sans-serif";
const TITLE: f64 = 22.0;
const TEXT: f64 = 16.0;
const DARK: &str = "#222222";
const GREY: &str = "#555555";
const PALE: &str = "#e0e0e0";
/// Blue and orange of Okabe and Ito. The lines differ in their strokes too.
const HITS: &str = "#0072b2";
const RESIDENT: &str = "#d55e00";
/// Steps of the axes, in per cent: of the share, and of all experts' bytes.
const STEPS: [u32; 5] = [0, 25, 50, 75, 100];

impl HitRateCurve {
    /// The curve as the text of an SVG file, 800 by 500 pixels on white: the hit rate, and the
    /// share of experts that the same bytes keep resident, against the cache's bytes.
    #[must_use]
    pub fn svg(&self) -> String {
        let mut page = Page(String::new());
        page.titles(self);
        page.axes(self);
        let resident = |point: &HitRatePoint| Some(point.resident_share);
        page.line(self, resident, RESIDENT, r#" stroke-dasharray="10 6""#);
        page.line(self, |point| point.hit_rate, HITS, "");
        page.marks(self);
        page.finish(&self.model)
    }

    /// The largest size of the axis.
    fn most_bytes(&self) -> u64 {
        let last = self.points.last().map_or(0, |point| point.bytes);
        last.max(self.expert_bytes).max(1)
    }
}

fn x(bytes: u64, most: u64) -> f64 {
    LEFT + (RIGHT - LEFT) * (bytes as f64 / most as f64).min(1.0)
}

fn y(share: f64) -> f64 {
    BOTTOM - (BOTTOM - TOP) * share.clamp(0.0, 1.0)
}

/// A picture that is being drawn.
struct Page(String);

impl Page {
    fn add(&mut self, element: &str) {
        self.0.push_str(element);
        self.0.push('\n');
    }

    fn text(&mut self, at: (f64, f64), anchor: &str, colour: &str, words: &str) {
        let (x, y) = at;
        let words = escape(words);
        self.add(&format!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}">{words}</text>"#
        ));
    }

    fn titles(&mut self, curve: &HitRateCurve) {
        let title = "Hit rate of a cache of experts, by size";
        self.add(&format!(
            r#"<text x="24" y="38" font-size="{TITLE}" font-weight="bold">{title}</text>"#
        ));
        let measured = match curve.n_decoded {
            0 => "micro-batches of at most 32 tokens".to_owned(),
            1 => "1 token decoded".to_owned(),
            n => format!("{n} tokens decoded"),
        };
        let model = shorten(&curve.model, TEXT, 400.0);
        let caption = format!("{model}; {measured}, from an empty cache");
        self.text((24.0, 64.0), "start", GREY, &caption);
        let mut key = 24.0;
        for (colour, dash, name, step) in [
            (HITS, "", "hit rate", 150.0),
            (
                RESIDENT,
                r#" stroke-dasharray="10 6""#,
                "experts resident for the same bytes",
                0.0,
            ),
        ] {
            let end = key + 42.0;
            self.add(&format!(
                r#"<line x1="{key}" y1="88" x2="{end}" y2="88" stroke="{colour}" stroke-width="3"{dash}/>"#
            ));
            self.text((end + 10.0, 94.0), "start", DARK, name);
            key += step;
        }
    }

    fn axes(&mut self, curve: &HitRateCurve) {
        let (most, all) = (curve.most_bytes(), curve.expert_bytes.max(1));
        for step in STEPS {
            let share = f64::from(step) / 100.0;
            let level = y(share);
            self.add(&format!(
                r#"<line x1="{LEFT}" y1="{level:.1}" x2="{RIGHT}" y2="{level:.1}" stroke="{PALE}"/>"#
            ));
            let label = format!("{step} %");
            self.text((LEFT - 10.0, level + 5.5), "end", DARK, &label);

            let size = (all as f64 * share) as u64;
            let at = x(size, most);
            let foot = BOTTOM + 7.0;
            self.add(&format!(
                r#"<line x1="{at:.1}" y1="{BOTTOM}" x2="{at:.1}" y2="{foot}" stroke="{DARK}"/>"#
            ));
            let anchor = if step == 100 { "end" } else { "middle" };
            let at = if step == 100 { RIGHT + 8.0 } else { at };
            let label = if step == 0 {
                "0".to_owned()
            } else {
                bytes(size.into())
            };
            self.text((at, BOTTOM + 27.0), anchor, DARK, &label);
            let label = format!("{step} %");
            self.text((at, BOTTOM + 49.0), anchor, GREY, &label);
        }
        self.add(&format!(
            r#"<path d="M{LEFT},{TOP} V{BOTTOM} H{RIGHT}" fill="none" stroke="{DARK}"/>"#
        ));
        let middle = (LEFT + RIGHT) / 2.0;
        let axis = "bytes of the cache on devices; below, as a share of all experts";
        self.text((middle, BOTTOM + 80.0), "middle", DARK, axis);
        let middle = (TOP + BOTTOM) / 2.0;
        self.add(&format!(
            r#"<text transform="translate(24 {middle:.1}) rotate(-90)" text-anchor="middle" fill="{DARK}">share</text>"#
        ));
    }

    fn line(
        &mut self,
        curve: &HitRateCurve,
        share: impl Fn(&HitRatePoint) -> Option<f64>,
        colour: &str,
        dash: &str,
    ) {
        let most = curve.most_bytes();
        let mut points = String::new();
        for point in &curve.points {
            if let Some(share) = share(point) {
                // Writing to a String does not fail.
                let _ = write!(points, "{:.1},{:.1} ", x(point.bytes, most), y(share));
            }
        }
        let points = points.trim_end();
        self.add(&format!(
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="3"{dash}/>"#
        ));
    }

    /// A dot for each size, with its numbers for a viewer that shows titles.
    fn marks(&mut self, curve: &HitRateCurve) {
        let most = curve.most_bytes();
        for point in &curve.points {
            let Some(rate) = point.hit_rate else {
                continue;
            };
            let (at, level) = (x(point.bytes, most), y(rate));
            let words = format!(
                "{}: hit rate {:.1} %, resident {:.1} %",
                bytes(point.bytes.into()),
                100.0 * rate,
                100.0 * point.resident_share
            );
            self.add(&format!(
                r#"<circle cx="{at:.1}" cy="{level:.1}" r="4.5" fill="{HITS}"><title>{words}</title></circle>"#
            ));
        }
    }

    fn finish(self, model: &str) -> String {
        let title = escape(&format!("Hit rate of a cache of experts, by size: {model}"));
        let body = self.0;
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="{FONTS}" font-size="{TEXT}" fill="{DARK}" role="img" aria-label="{title}">
<title>{title}</title>
<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>
{body}</svg>
"##
        )
    }
}
