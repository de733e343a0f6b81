//! How a memory looks: a fill and a texture, so that neither colour blindness nor a grey
//! print takes the difference away.
//!
//! The hues are those of Okabe and Ito. System memory is light blue with dark lines,
//! devices are strong and warm with white ones.

use super::Family;

/// What is drawn over a fill. Nothing level: the rows of a picture are that themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Texture {
    Plain,
    Rising,
    Falling,
    Upright,
    Dots,
    Lattice,
    Chevron,
}

/// The look of one memory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Style {
    /// The name of its pattern in the SVG. The same name always means the same pattern,
    /// so that several pictures can stand in one HTML page.
    id: String,
    family: Family,
    fill: Rgb,
    ink: Rgb,
    texture: Texture,
    /// Of the lines, in pixels.
    spacing: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rgb(u8, u8, u8);

const WHITE: Rgb = Rgb(255, 255, 255);
const BLACK: Rgb = Rgb(0, 0, 0);
const DARK_BLUE: Rgb = Rgb(0, 62, 102);

const HOST: [(Rgb, Rgb, Texture); 6] = [
    (Rgb(166, 213, 242), Rgb(0, 114, 178), Texture::Rising),
    (Rgb(86, 180, 233), DARK_BLUE, Texture::Falling),
    (Rgb(204, 227, 240), Rgb(0, 114, 178), Texture::Dots),
    (Rgb(126, 176, 214), DARK_BLUE, Texture::Lattice),
    (Rgb(150, 200, 222), Rgb(0, 114, 178), Texture::Upright),
    (Rgb(186, 206, 232), DARK_BLUE, Texture::Chevron),
];

const DEVICE: [(Rgb, Rgb, Texture); 6] = [
    (Rgb(213, 94, 0), WHITE, Texture::Plain),
    (Rgb(230, 159, 0), WHITE, Texture::Falling),
    (Rgb(204, 121, 167), WHITE, Texture::Upright),
    (Rgb(0, 158, 115), WHITE, Texture::Dots),
    (Rgb(240, 228, 66), Rgb(110, 100, 0), Texture::Lattice),
    (Rgb(60, 60, 60), WHITE, Texture::Chevron),
];

const UNPLACED: (Rgb, Rgb, Texture) = (Rgb(176, 176, 176), WHITE, Texture::Plain);

impl Style {
    /// The look of the `index`-th memory of a family.
    pub(super) fn new(family: Family, index: usize) -> Self {
        let (name, looks) = match family {
            Family::Host => ("host", &HOST[..]),
            Family::Device => ("device", &DEVICE[..]),
            Family::Unplaced => ("unplaced", &[UNPLACED][..]),
        };
        let (fill, ink, texture) = looks[index % looks.len()];
        // From the second time round the fills are darker and the lines further apart, so
        // that there is no end to looks.
        let round = index / looks.len();
        Self {
            id: format!("llama-moe-{name}-{index}"),
            family,
            fill: mix(fill, BLACK, round),
            ink,
            texture: match texture {
                Texture::Plain if round > 0 => Texture::Rising,
                texture => texture,
            },
            spacing: 8 + 3 * round,
        }
    }

    /// The value of a `fill` attribute.
    pub(super) fn paint(&self) -> String {
        match self.texture {
            Texture::Plain => self.fill.hex(),
            _ => format!("url(#{})", self.id),
        }
    }

    /// The fill and the line of a mark too small for a texture: system memory light with
    /// a dark line, devices strong.
    pub(super) fn dot(&self) -> (String, String) {
        let line = if self.family == Family::Host {
            self.ink
        } else {
            self.fill
        };
        (self.fill.hex(), line.hex())
    }

    /// The `<pattern>` that [`paint`](Self::paint) names.
    pub(super) fn definition(&self) -> Option<String> {
        let s = self.spacing;
        let (half, quarter) = (s as f64 / 2.0, s as f64 / 4.0);
        let rising = format!("M-1,1 l2,-2 M0,{s} L{s},0 M{},{} l2,-2", s - 1, s + 1);
        let falling = format!("M-1,{} l2,2 M0,0 L{s},{s} M{},-1 l2,2", s - 1, s - 1);
        let lines = match self.texture {
            Texture::Plain => return None,
            Texture::Rising => rising,
            Texture::Falling => falling,
            Texture::Upright => format!("M{half},0 V{s}"),
            Texture::Chevron => format!(
                "M-1,{} L{half},{quarter} L{},{0}",
                3.0 * quarter + 1.0,
                s + 1
            ),
            Texture::Lattice => format!("{rising} {falling}"),
            Texture::Dots => String::new(),
        };
        let marks = if self.texture == Texture::Dots {
            let dot = |at: f64| {
                format!(
                    r#"<circle cx="{at}" cy="{at}" r="1.4" fill="{}"/>"#,
                    self.ink.hex()
                )
            };
            dot(quarter) + &dot(3.0 * quarter)
        } else {
            format!(
                r#"<path d="{lines}" fill="none" stroke="{}" stroke-width="1.2"/>"#,
                self.ink.hex()
            )
        };
        Some(format!(
            r#"<pattern id="{}" width="{s}" height="{s}" patternUnits="userSpaceOnUse"><rect width="{s}" height="{s}" fill="{}"/>{marks}</pattern>"#,
            self.id,
            self.fill.hex(),
        ))
    }
}

impl Rgb {
    fn hex(self) -> String {
        format!("#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

/// A colour with `parts` of another in it, against three of its own.
fn mix(colour: Rgb, other: Rgb, parts: usize) -> Rgb {
    let share = parts as f64 / (parts as f64 + 3.0);
    let channel =
        |a: u8, b: u8| (f64::from(a) * (1.0 - share) + f64::from(b) * share).round() as u8;
    Rgb(
        channel(colour.0, other.0),
        channel(colour.1, other.1),
        channel(colour.2, other.2),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// More than llama.cpp has devices (16).
    const MANY: usize = 40;

    #[test]
    fn every_memory_has_its_own_look() {
        let mut looks = BTreeSet::new();
        let mut colours = BTreeSet::new();
        for family in [Family::Host, Family::Device] {
            for index in 0..MANY {
                let style = Style::new(family, index);
                looks.insert((style.texture, style.ink, style.spacing));
                if index < 16 {
                    colours.insert(style.fill);
                }
            }
        }
        assert_eq!(looks.len(), 2 * MANY);
        assert_eq!(colours.len(), 2 * 16);
    }

    #[test]
    fn an_identifier_stands_for_one_pattern() {
        let styles: BTreeSet<Style> = [Family::Host, Family::Device, Family::Unplaced]
            .into_iter()
            .flat_map(|family| (0..MANY).map(move |index| Style::new(family, index)))
            .collect();
        let ids: BTreeSet<&str> = styles.iter().map(|style| style.id.as_str()).collect();
        assert_eq!(ids.len(), styles.len());
    }
}
