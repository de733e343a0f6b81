//! Colours, marks and textures: whoever sees no colours tells things apart by the latter two.
//!
//! The hues are those of Okabe and Ito.

use std::f64::consts::{FRAC_PI_2, PI, TAU};

use super::canvas::Canvas;

const BLACK: &str = "#000000";
const BLUE: &str = "#0072b2";
const VERMILION: &str = "#d55e00";
const GREEN: &str = "#009e73";
const ORANGE: &str = "#e69f00";
const PURPLE: &str = "#cc79a7";
const SKY: &str = "#56b4e9";
const YELLOW: &str = "#f0e442";

/// How one variant of several looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Its colour.
    pub colour: &'static str,
    shape: Shape,
    /// Of its lines: strokes and gaps.
    dashes: &'static str,
    /// Its marks are rings from the second time round on.
    is_hollow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Polygon { corners: u32, turned: bool },
    Circle,
    Star { points: u32 },
}

const TRIANGLE: Shape = polygon(3, false);
const LOOKS: [(&str, Shape, &str); 8] = [
    (BLACK, Shape::Circle, ""),
    (BLUE, polygon(4, true), "14 6"),
    (VERMILION, TRIANGLE, "4 5"),
    (GREEN, polygon(4, false), "16 5 4 5"),
    (ORANGE, polygon(3, true), "22 7"),
    (PURPLE, Shape::Star { points: 5 }, "9 4"),
    (SKY, polygon(6, false), "3 3 12 3"),
    (YELLOW, Shape::Star { points: 4 }, "2 4"),
];

const fn polygon(corners: u32, turned: bool) -> Shape {
    Shape::Polygon { corners, turned }
}

impl Look {
    /// Of the `index`-th variant.
    pub fn of(index: usize) -> Self {
        let (colour, shape, dashes) = LOOKS[index % LOOKS.len()];
        Self {
            colour,
            shape,
            dashes,
            is_hollow: (index / LOOKS.len()) % 2 == 1,
        }
    }

    /// Draws its mark. Pale fills have a dark edge.
    pub fn mark(self, canvas: &mut Canvas, (x, y): (f64, f64)) {
        const RADIUS: f64 = 11.0;
        let fill = if self.is_hollow {
            "#ffffff"
        } else {
            self.colour
        };
        let edge = if self.is_hollow && self.colour != YELLOW {
            self.colour
        } else {
            BLACK
        };
        let paint = format!(r#"fill="{fill}" stroke="{edge}" stroke-width="1.5""#);
        let points: Vec<f64> = match self.shape {
            Shape::Circle => {
                canvas.add(&format!(
                    r#"<circle cx="{x:.1}" cy="{y:.1}" r="9" {paint}/>"#
                ));
                return;
            }
            Shape::Polygon { corners, .. } => vec![RADIUS; corners as usize],
            Shape::Star { points } => [12.5, 5.5].repeat(points as usize),
        };
        let start = match self.shape {
            Shape::Polygon {
                corners,
                turned: true,
            } => PI / f64::from(corners) - FRAC_PI_2,
            _ => -FRAC_PI_2,
        };
        let step = TAU / points.len() as f64;
        let corner = |(index, radius): (usize, f64)| {
            let angle = start + step * index as f64;
            format!(
                "{:.1},{:.1}",
                x + radius * angle.cos(),
                y + radius * angle.sin()
            )
        };
        let corners: Vec<String> = points.into_iter().enumerate().map(corner).collect();
        canvas.add(&format!(
            r#"<polygon points="{}" {paint}/>"#,
            corners.join(" ")
        ));
    }

    /// Draws its line through some points.
    pub fn path(self, canvas: &mut Canvas, points: &[(f64, f64)]) {
        let points: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        let points = points.join(" ");
        let (colour, dashes) = (self.colour, self.dashes);
        // Yellow on white is seen by its dark edge alone.
        if colour == YELLOW {
            canvas.add(&format!(
                r#"<polyline points="{points}" fill="none" stroke="{BLACK}" stroke-width="6" stroke-dasharray="{dashes}"/>"#
            ));
        }
        let dashes = match dashes {
            "" => String::new(),
            dashes => format!(r#" stroke-dasharray="{dashes}""#),
        };
        canvas.add(&format!(
            r#"<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="4"{dashes}/>"#
        ));
    }
}

/// How the parts of a stacked bar are filled: model, KV cache, cache of experts, compute.
pub const PARTS: [(&str, &str); 4] = [
    ("model", BLUE),
    ("KV cache", "url(#ab-kv)"),
    ("expert cache", "url(#ab-cache)"),
    ("compute", "url(#ab-compute)"),
];

/// The place of the cache of experts among [`PARTS`].
pub const CACHE_PART: usize = 2;

/// The textures that [`PARTS`] names.
pub fn textures() -> String {
    let texture = |id: &str, fill: &str, marks: &str| {
        format!(
            r#"<pattern id="{id}" width="12" height="12" patternUnits="userSpaceOnUse"><rect width="12" height="12" fill="{fill}"/>{marks}</pattern>"#
        )
    };
    let lines =
        r##"<path d="M-3,3 L3,-3 M0,12 L12,0 M9,15 L15,9" stroke="#000000" stroke-width="2"/>"##;
    let dots = r##"<circle cx="3" cy="3" r="2" fill="#ffffff"/><circle cx="9" cy="9" r="2" fill="#ffffff"/>"##;
    let grid = r##"<path d="M0,6 L12,6 M6,0 L6,12" stroke="#000000" stroke-width="1.5"/>"##;
    texture("ab-kv", ORANGE, lines)
        + &texture("ab-cache", PURPLE, grid)
        + &texture("ab-compute", GREEN, dots)
}

/// The fill of bars that are of one kind.
pub const BAR: &str = SKY;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_variants_look_different() {
        let looks: Vec<Look> = (0..16).map(Look::of).collect();
        for (index, look) in looks.iter().enumerate() {
            assert_eq!(looks.iter().position(|other| other == look), Some(index));
        }
        // Of the first eight not even the colour is needed.
        for (index, (_, shape, dashes)) in LOOKS.iter().enumerate() {
            assert!(
                LOOKS[..index]
                    .iter()
                    .all(|(_, s, d)| s != shape && d != dashes)
            );
        }
    }
}
