//! A page of SVG, and the text on it.

use std::fmt::Write;

/// The width of all pictures. At 390 pixels, a phone's, their text is 13 pixels high.
pub const WIDTH: f64 = 720.0;
/// What is left free around.
pub const MARGIN: f64 = 28.0;
/// The size of text.
pub const TEXT: f64 = 24.0;
/// From one line of text to the next.
pub const LINE: f64 = 33.0;
/// The colour of text.
pub const DARK: &str = "#222222";
/// The colour of what explains.
pub const GREY: &str = "#555555";
/// The colour of lines behind the data.
pub const PALE: &str = "#dddddd";

const TITLE: f64 = 31.0;
const TITLE_LINE: f64 = 40.0;
const FONTS: &str = "'Noto Sans', 'Open Sans', Verdana, 'DejaVu Sans', sans-serif";
/// Room that bold letters take more.
const BOLD: f64 = 1.07;

/// Where a text stands against its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Behind it.
    Start,
    /// On both sides of it.
    Middle,
    /// Before it.
    End,
}

/// A picture that is being drawn, from top to bottom.
pub struct Canvas {
    title: String,
    body: String,
    /// Where what comes next begins.
    pub y: f64,
}

impl Canvas {
    /// A picture with its title, and below it what has to be known to read it.
    pub fn new(title: &str, caption: &str) -> Self {
        let mut canvas = Self {
            title: title.to_owned(),
            body: String::new(),
            y: MARGIN,
        };
        for line in wrap(title, TITLE * BOLD, WIDTH - 2.0 * MARGIN) {
            canvas.y += TITLE_LINE;
            let y = canvas.y - 10.0;
            let line = escape(&line);
            canvas.add(&format!(
                r#"<text x="{MARGIN}" y="{y:.1}" font-size="{TITLE}" font-weight="bold">{line}</text>"#
            ));
        }
        for line in wrap(caption, TEXT, WIDTH - 2.0 * MARGIN) {
            canvas.y += LINE;
            let y = canvas.y - 9.0;
            canvas.coloured(MARGIN, y, Anchor::Start, GREY, &line);
        }
        canvas.y += 14.0;
        canvas
    }

    /// Adds an element.
    pub fn add(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }

    /// Adds a text.
    pub fn text(&mut self, x: f64, y: f64, anchor: Anchor, text: &str) {
        self.coloured(x, y, anchor, DARK, text);
    }

    /// Adds a text in a colour.
    pub fn coloured(&mut self, x: f64, y: f64, anchor: Anchor, colour: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        self.add(&format!(
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}">{text}</text>"#
        ));
    }

    /// Adds a straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.add(&format!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}" stroke-width="{width}"/>"#
        ));
    }

    /// Adds an error bar along x or y, with a light edge so that it is seen on any fill.
    pub fn error_bar(&mut self, from: (f64, f64), to: (f64, f64)) {
        const CAP: f64 = 7.0;
        let along_x = (from.1 - to.1).abs() < f64::EPSILON;
        let cap = |(x, y): (f64, f64)| {
            if along_x {
                ((x, y - CAP), (x, y + CAP))
            } else {
                ((x - CAP, y), (x + CAP, y))
            }
        };
        for (colour, width) in [("#ffffff", 6.0), (DARK, 2.5)] {
            for (a, b) in [(from, to), cap(from), cap(to)] {
                self.line(a, b, colour, width);
            }
        }
    }

    /// The picture as the text of an SVG file, with definitions of what it fills with.
    pub fn finish(self, definitions: &str) -> String {
        let height = self.y + MARGIN;
        let title = escape(&self.title);
        let mut svg = String::new();
        // Writing to a String does not fail.
        let _ = write!(
            svg,
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" width="{WIDTH}" height="{height:.0}" font-family="{FONTS}" font-size="{TEXT}" fill="{DARK}" role="img" aria-label="{title}">
<title>{title}</title>
<defs>{definitions}</defs>
<rect width="{WIDTH}" height="{height:.0}" fill="#ffffff"/>
{}</svg>
"##,
            self.body
        );
        svg
    }
}

/// A text as XML. What XML has no way to write, and what would turn the direction of reading,
/// becomes U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\r' | '\t' => escaped.push(' '),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                escaped.push('\u{fffd}');
            }
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// About how wide a text is; rather more than less.
pub fn width(text: &str, size: f64) -> f64 {
    let advance = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '|' | '\'' | '!' | ' ' | '\u{a0}' => 0.31,
        'f' | 't' | 'r' | '-' | '(' | ')' | '/' | '[' | ']' => 0.42,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.95,
        'A'..='Z' => 0.74,
        c if c.is_ascii() => 0.62,
        '±' | '·' | '–' | '…' => 0.8,
        _ => 1.0,
    };
    text.chars().map(|c| advance(c) * size).sum()
}

/// A text cut to a width, with an ellipsis where something was cut off.
pub fn shorten(text: &str, most: f64) -> String {
    if width(text, TEXT) <= most {
        return text.to_owned();
    }
    let mut short = String::new();
    let mut room = most - width("…", TEXT);
    for c in text.chars() {
        room -= width(c.encode_utf8(&mut [0; 4]), TEXT);
        if room < 0.0 {
            break;
        }
        short.push(c);
    }
    short.push('…');
    short
}

/// A text in lines of a width, broken at spaces (U+0020 alone). A word that is longer is cut.
pub fn wrap(text: &str, size: f64, most: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let word = shorten(word, most * TEXT / size);
        let longer = lines.last().map(|line| format!("{line} {word}"));
        match (longer, lines.last_mut()) {
            (Some(longer), Some(line)) if width(&longer, size) <= most => *line = longer,
            _ => lines.push(word),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_and_broken_to_their_width() {
        let name = "n-cpu-moe=".repeat(20);
        let short = shorten(&name, 300.0);
        assert!(short.ends_with('…') && width(&short, TEXT) <= 300.0);
        assert_eq!(shorten("base", 300.0), "base");
        let lines = wrap(&format!("some words {name} and more"), TEXT, 200.0);
        assert!(lines.len() > 2);
        assert!(lines.iter().all(|line| width(line, TEXT) <= 200.0));
    }

    #[test]
    fn what_xml_does_not_allow_is_not_written() {
        assert_eq!(
            escape("<a\u{0}&\"b\n\u{202e}>"),
            "&lt;a\u{fffd}&amp;&quot;b \u{fffd}&gt;"
        );
    }
}
