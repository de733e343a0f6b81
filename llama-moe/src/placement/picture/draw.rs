//! The picture as SVG, from top to bottom.

use std::fmt::{self, Write};

use super::grid::{Grid, Memory, Misplaced, Part, Row, RowKey};
use super::layout::{
    Band, Column, DOT, FONT, Layout, MARGIN, NAME_GAP, NARROWEST, SMALL, SQUARE, WIDTH,
};
use super::style::Style;
use super::text::{self, escape};
use super::{Family, Picture};

const TITLE: f64 = 24.0;
/// From one line of text to the next.
const LINE: f64 = 24.0;
/// The legend: where the names of memories begin, the most they take, what a number takes.
const NAMES: f64 = MARGIN + 42.0;
const NAMES_WIDTH: f64 = 320.0;
const NUMBER: f64 = 86.0;
/// Between the numbers and the explanations of marks.
const MARKS_GAP: f64 = 70.0;
/// The longest list of misplaced tensors.
const MOST_MISPLACED: usize = 20;
/// The same name is not written again in a column within this many pixels.
const AGAIN: f64 = 160.0;
/// Characters of a name in a title under the pointer.
const MOST_CHARS: usize = 200;

const DARK: &str = "#222222";
const GREY: &str = "#555555";
const RULE: &str = "#e4e4e4";
const FRAME: &str = "#000000";

pub(super) fn draw(picture: &Picture) -> String {
    let grid = Grid::new(&picture.cells);
    let mut page = Page {
        layout: Layout::new(&grid),
        styles: grid
            .memories
            .iter()
            .map(|memory| Style::new(memory.family, memory.index))
            .collect(),
        grid: &grid,
        body: String::new(),
        y: MARGIN,
    };
    page.title(&picture.title, &picture.notes);
    page.legend();
    page.chart();
    page.misplaced();
    page.finish(&picture.title)
}

/// A picture that is being drawn.
struct Page<'a> {
    grid: &'a Grid<'a>,
    layout: Layout,
    /// One per memory.
    styles: Vec<Style>,
    body: String,
    /// Where what comes next begins.
    y: f64,
}

/// How a text stands.
#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

/// A part of a cell, with its place.
struct Mark<'a> {
    part: &'a Part<'a>,
    x: f64,
    /// `None` for a dot.
    width: Option<f64>,
}

/// A number of pixels with as many digits as matter.
struct Px(f64);

impl fmt::Display for Px {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:.3}", self.0);
        f.write_str(digits.trim_end_matches('0').trim_end_matches('.'))
    }
}

impl<'a> Page<'a> {
    fn add(&mut self, element: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.body.write_fmt(element);
        self.body.push('\n');
    }

    fn text(&mut self, x: f64, y: f64, size: f64, anchor: Anchor, colour: &str, words: &str) {
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
            Anchor::End => r#" text-anchor="end""#,
        };
        self.add(format_args!(
            r#"<text x="{}" y="{}" font-size="{}"{anchor} fill="{colour}">{}</text>"#,
            Px(x),
            Px(y),
            Px(size),
            escape(words)
        ));
    }

    fn title(&mut self, title: &str, notes: &[String]) {
        // Bold letters are wider.
        let short = text::shorten(title, TITLE * 1.12, WIDTH - 2.0 * MARGIN);
        self.add(format_args!(
            r#"<text x="{}" y="{}" font-size="{}" font-weight="bold" fill="{DARK}">{}</text>"#,
            Px(MARGIN),
            Px(self.y + TITLE * 0.8),
            Px(TITLE),
            escape(&short)
        ));
        self.y += TITLE + 8.0;
        let summary = self.summary();
        self.text(MARGIN, self.y + FONT, FONT, Anchor::Start, GREY, &summary);
        for note in notes {
            self.y += LINE;
            let note = text::shorten(note, FONT, WIDTH - 2.0 * MARGIN);
            self.text(MARGIN, self.y + FONT, FONT, Anchor::Start, DARK, &note);
        }
        self.y += FONT + 20.0;
    }

    /// The whole in a line.
    fn summary(&self) -> String {
        let n_blocks = self.grid.n_blocks();
        let blocks = if n_blocks == 1 { "block" } else { "blocks" };
        let mut words = format!(
            "{} of weights, {n_blocks} {blocks}",
            text::bytes(self.grid.total)
        );
        let elsewhere: u128 = self.grid.misplaced.iter().map(|found| found.bytes).sum();
        if !self.grid.misplaced.is_empty() {
            words += &format!("; {} not where asked for", text::bytes(elsewhere));
        }
        words
    }

    fn legend(&mut self) {
        let top = self.y;
        let names = (self.grid.memories.iter())
            .map(|memory| text::width(name_of(memory), FONT))
            .fold(0.0, f64::max);
        let names = names.min(NAMES_WIDTH);
        for index in 0..self.grid.memories.len() {
            self.memory_key(index, names);
        }
        let bottom = self.y;
        self.y = top;
        let marks = NAMES + names + 2.0 * NUMBER + MARKS_GAP;
        self.scale_key(marks);
        if self.has_dots() {
            self.dot_key(marks);
        }
        if !self.grid.misplaced.is_empty() {
            self.frame_key(marks);
        }
        self.y = self.y.max(bottom) + 12.0;
    }

    /// A memory with its sum, beside names of this width.
    fn memory_key(&mut self, index: usize, names: f64) {
        let memory = &self.grid.memories[index];
        let baseline = self.y + FONT;
        self.add(format_args!(
            r#"<rect x="{}" y="{}" width="32" height="17" fill="{}"/>"#,
            Px(MARGIN),
            Px(self.y + 1.0),
            self.styles[index].paint()
        ));
        let name = text::shorten(name_of(memory), FONT, NAMES_WIDTH);
        self.text(NAMES, baseline, FONT, Anchor::Start, DARK, &name);
        let bytes = text::bytes(memory.bytes);
        let x = NAMES + names + NUMBER;
        self.text(x, baseline, FONT, Anchor::End, DARK, &bytes);
        let share = text::per_cent(memory.bytes, self.grid.total);
        let x = x + NUMBER;
        self.text(x, baseline, FONT, Anchor::End, DARK, &share);
        self.y += LINE;
    }

    /// The square that states the scale of all areas.
    fn scale_key(&mut self, x: f64) {
        if self.layout.scale <= 0.0 {
            return;
        }
        let mut bytes = 1_u128;
        let side = |bytes: u128| (bytes as f64 * self.layout.scale).sqrt();
        while bytes < 1 << 120 && side(bytes * 2) <= SQUARE {
            bytes *= 2;
        }
        let side = side(bytes);
        self.add(format_args!(
            r#"<rect class="scale" x="{}" y="{}" width="{side}" height="{side}" fill="{GREY}"/>"#,
            Px(x + (SQUARE - side) / 2.0),
            Px(self.y + 9.5 - side / 2.0),
            side = Px(side),
        ));
        let words = format!("area of {}, the same in all bars", round_bytes(bytes));
        self.text(x + 32.0, self.y + FONT, FONT, Anchor::Start, DARK, &words);
        self.y += LINE;
    }

    fn dot_key(&mut self, x: f64) {
        self.add(format_args!(
            r#"<circle cx="{}" cy="{}" r="2" fill="{GREY}"/>"#,
            Px(x + SQUARE / 2.0),
            Px(self.y + 9.5)
        ));
        self.text(
            x + 32.0,
            self.y + FONT,
            FONT,
            Anchor::Start,
            DARK,
            "too small to be drawn to scale",
        );
        self.y += LINE;
    }

    fn frame_key(&mut self, x: f64) {
        self.add(format_args!(
            r##"<rect x="{}" y="{}" width="20" height="15" fill="#ffffff" stroke="{FRAME}" stroke-width="2"/>"##,
            Px(x + 1.0),
            Px(self.y + 2.0)
        ));
        self.text(
            x + 32.0,
            self.y + FONT,
            FONT,
            Anchor::Start,
            DARK,
            "not where a rule asked for it",
        );
        self.y += LINE;
    }

    fn has_dots(&self) -> bool {
        self.layout.columns.iter().any(|column| {
            let rows = self.grid.rows.iter().zip(&self.layout.bands);
            rows.into_iter().any(|(row, band)| {
                marks(&self.layout, column, row, band)
                    .iter()
                    .any(|mark| mark.width.is_none())
            })
        })
    }

    fn chart(&mut self) {
        if self.grid.rows.is_empty() {
            return;
        }
        self.headings();
        self.row_names();
        for index in 0..self.layout.columns.len() {
            let column = self.layout.columns[index].clone();
            self.add(format_args!(
                r#"<path d="M{},{} V{}" stroke="{GREY}" stroke-width="0.6"/>"#,
                Px(column.x - 0.3),
                Px(self.y - 2.0),
                Px(self.y + self.layout.height + 2.0)
            ));
            self.bars(&column);
            self.names_in_bars(&column);
        }
        self.y += self.layout.height + 14.0;
    }

    fn headings(&mut self) {
        let headings: Vec<Vec<String>> = self.layout.columns.iter().map(heading).collect();
        let most = headings.iter().map(Vec::len).max().unwrap_or(0);
        let leading = FONT + 2.0;
        for (index, lines) in headings.iter().enumerate() {
            let column = self.layout.columns[index].clone();
            let mut baseline = self.y + FONT + (most - lines.len()) as f64 * leading;
            for line in lines {
                self.text(column.x, baseline, FONT, Anchor::Start, DARK, line);
                baseline += leading;
            }
            let sum = self.grid.columns.get(&column.key).copied().unwrap_or(0);
            let sum = text::bytes(sum);
            self.text(column.x, baseline, SMALL, Anchor::Start, GREY, &sum);
        }
        self.y += (most + 1) as f64 * leading + 10.0;
    }

    fn row_names(&mut self) {
        let x = self
            .layout
            .columns
            .first()
            .map_or(MARGIN, |column| column.x);
        for index in 0..self.layout.bands.len() {
            let band = self.layout.bands[index].clone();
            if !band.named {
                continue;
            }
            let middle = self.y + band.top + band.height / 2.0;
            self.add(format_args!(
                r#"<path d="M{},{y} H{}" stroke="{RULE}" stroke-width="0.8"/>"#,
                Px(x - 6.0),
                Px(WIDTH - MARGIN),
                y = Px(middle),
            ));
            let name = self.grid.rows[index].key.name();
            let baseline = middle + SMALL * 0.36;
            self.text(x - NAME_GAP, baseline, SMALL, Anchor::End, DARK, &name);
        }
    }

    fn bars(&mut self, column: &Column) {
        let grid = self.grid;
        for (index, row) in grid.rows.iter().enumerate() {
            let band = self.layout.bands[index].clone();
            for mark in marks(&self.layout, column, row, &band) {
                self.mark(&mark, &band, &self.says(row, column, mark.part));
            }
        }
    }

    fn mark(&mut self, mark: &Mark, band: &Band, title: &str) {
        let top = self.y + band.top;
        let style = &self.styles[mark.part.memory];
        let is_elsewhere = mark.part.asked.is_some();
        let Some(width) = mark.width else {
            let (fill, line) = style.dot();
            let line = if is_elsewhere { FRAME.to_owned() } else { line };
            self.add(format_args!(
                r#"<circle cx="{}" cy="{}" r="{}" fill="{fill}" stroke="{line}"><title>{}</title></circle>"#,
                Px(mark.x),
                Px(top + band.height / 2.0),
                Px((band.height / 2.0 - 0.5).min(if is_elsewhere { 3.0 } else { 2.0 })),
                escape(title)
            ));
            return;
        };
        self.add(format_args!(
            r#"<rect class="bar" x="{}" y="{}" width="{}" height="{}" fill="{}"><title>{}</title></rect>"#,
            Px(mark.x),
            Px(top),
            Px(width),
            Px(band.height),
            style.paint(),
            escape(title)
        ));
        if is_elsewhere {
            // Inside of the bar where there is room, so that neighbours stay apart.
            let inset = if width > 6.0 { 0.8 } else { -0.8 };
            self.add(format_args!(
                r#"<rect class="elsewhere" x="{}" y="{}" width="{}" height="{}" fill="none" stroke="{FRAME}" stroke-width="1.6"/>"#,
                Px(mark.x + inset),
                Px(top + 0.8),
                Px(width - 2.0 * inset),
                Px(band.height - 1.6)
            ));
        }
    }

    /// What stands under the pointer.
    fn says(&self, row: &Row, column: &Column, part: &Part) -> String {
        let row_name = match row.key {
            RowKey::Block(block) => format!("block {block}, "),
            RowKey::Input | RowKey::Output => String::new(),
        };
        let memory = &self.grid.memories[part.memory];
        let place = match memory.family {
            Family::Unplaced => name_of(memory).to_owned(),
            Family::Host | Family::Device => {
                format!("in {}", text::clip(memory.name, MOST_CHARS))
            }
        };
        let mut words = format!(
            "{row_name}{}: {} {place} ({})",
            column.key.name_in(row.key),
            text::bytes(part.bytes),
            text::exact_bytes(part.bytes)
        );
        if let Some(asked) = part.asked {
            words += &format!(", asked for {}", text::clip(asked, MOST_CHARS));
        }
        words
    }

    /// Writes the memory's name on neighbouring bars that are in the same one, so that
    /// the large areas need no legend.
    fn names_in_bars(&mut self, column: &Column) {
        if self.grid.memories.len() < 2 {
            return;
        }
        let mut written: Vec<Vec<f64>> = vec![Vec::new(); self.styles.len()];
        for run in self.runs(column) {
            let memory = &self.grid.memories[run.memory];
            let name = text::shorten(name_of(memory), SMALL, 200.0);
            let room = text::width(&name, SMALL) + 10.0;
            let middle = (run.top + run.bottom) / 2.0;
            let is_said = written[run.memory]
                .iter()
                .any(|said| (middle - said).abs() < AGAIN);
            if is_said || run.width() < room + 6.0 || run.height() < 19.0 {
                continue;
            }
            written[run.memory].push(middle);
            let centre = (run.left + run.right) / 2.0;
            let y = self.y + middle;
            self.add(format_args!(
                r##"<rect x="{}" y="{}" width="{}" height="17" rx="3" fill="#ffffff" pointer-events="none"/>"##,
                Px(centre - room / 2.0),
                Px(y - 8.5),
                Px(room)
            ));
            self.text(centre, y + SMALL * 0.36, SMALL, Anchor::Middle, DARK, &name);
        }
    }

    /// The areas of a column that are in one memory, the largest first.
    fn runs(&self, column: &Column) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        // Those that the row before was a part of.
        let mut open = Vec::new();
        for (row, band) in self.grid.rows.iter().zip(&self.layout.bands) {
            let mut next = Vec::new();
            for (place, mark) in marks(&self.layout, column, row, band).iter().enumerate() {
                let Some(width) = mark.width else { continue };
                let here = Run {
                    memory: mark.part.memory,
                    place,
                    top: band.top,
                    bottom: band.top + band.height,
                    left: mark.x,
                    right: mark.x + width,
                };
                let before = open
                    .iter()
                    .find(|&&run: &&usize| runs[run].goes_on_in(&here));
                match before {
                    Some(&run) => {
                        runs[run].join(&here);
                        next.push(run);
                    }
                    None => {
                        next.push(runs.len());
                        runs.push(here);
                    }
                }
            }
            open = next;
        }
        runs.sort_by(|a, b| (b.width() * b.height()).total_cmp(&(a.width() * a.height())));
        runs
    }

    /// What is not where it was asked for, in words.
    fn misplaced(&mut self) {
        let grid = self.grid;
        if grid.misplaced.is_empty() {
            return;
        }
        self.text(
            MARGIN,
            self.y + FONT,
            FONT,
            Anchor::Start,
            DARK,
            "Not where a rule asked for it:",
        );
        self.y += LINE;
        for found in grid.misplaced.iter().take(MOST_MISPLACED) {
            let words = self.misplaced_words(found);
            let words = text::shorten(&words, FONT, WIDTH - 2.0 * MARGIN - 16.0);
            self.text(
                MARGIN + 16.0,
                self.y + FONT,
                FONT,
                Anchor::Start,
                DARK,
                &words,
            );
            self.y += LINE;
        }
        if let Some(more) = grid.misplaced.len().checked_sub(MOST_MISPLACED)
            && more > 0
        {
            let words = format!("and {more} more");
            self.text(
                MARGIN + 16.0,
                self.y + FONT,
                FONT,
                Anchor::Start,
                DARK,
                &words,
            );
            self.y += LINE;
        }
    }

    fn misplaced_words(&self, found: &Misplaced) -> String {
        let blocks: Vec<u32> = found
            .rows
            .iter()
            .filter_map(|row| match row {
                RowKey::Block(block) => Some(*block),
                RowKey::Input | RowKey::Output => None,
            })
            .collect();
        let what = match (blocks.len(), found.rows.first()) {
            (0, Some(&row)) => found.column.name_in(row),
            (n, _) => format!(
                "{} of {} {}",
                found.column.heading().join(" "),
                if n == 1 { "block" } else { "blocks" },
                text::ranges(&blocks, 8)
            ),
        };
        format!(
            "{what}: {} asked for {}, in {}",
            text::bytes(found.bytes),
            text::clip(found.asked, 24),
            text::clip(name_of(&self.grid.memories[found.memory]), 24)
        )
    }

    /// The file, around what has been drawn.
    fn finish(self, title: &str) -> String {
        let height = (self.y + MARGIN - 8.0).ceil();
        let patterns: Vec<String> = self.styles.iter().filter_map(Style::definition).collect();
        format!(
            concat!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" height="{height}""#,
                r#" viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, 'DejaVu Sans', sans-serif">"#,
                "\n<title>{title}</title>\n<desc>{summary}</desc>\n<defs>{patterns}</defs>\n",
                r##"<rect width="{width}" height="{height}" fill="#ffffff"/>"##,
                "\n{body}</svg>\n"
            ),
            width = Px(WIDTH),
            height = Px(height),
            title = escape(&text::clip(title, MOST_CHARS)),
            summary = escape(&self.summary()),
            patterns = patterns.concat(),
            body = self.body
        )
    }
}

/// Bars of neighbouring rows in the same memory.
struct Run {
    memory: usize,
    /// Which part of its cell, counted from the left.
    place: usize,
    top: f64,
    bottom: f64,
    /// What they have in common.
    left: f64,
    right: f64,
}

impl Run {
    fn goes_on_in(&self, next: &Self) -> bool {
        self.memory == next.memory
            && self.place == next.place
            && (0.0..=3.0).contains(&(next.top - self.bottom))
    }

    fn width(&self) -> f64 {
        self.right - self.left
    }

    fn height(&self) -> f64 {
        self.bottom - self.top
    }

    fn join(&mut self, next: &Self) {
        self.bottom = next.bottom;
        self.left = self.left.max(next.left);
        self.right = self.right.min(next.right);
    }
}

/// The parts of a cell from left to right: bars, then dots.
fn marks<'a>(layout: &Layout, column: &Column, row: &'a Row, band: &Band) -> Vec<Mark<'a>> {
    let parts = row.cells.get(&column.key).map_or(&[][..], Vec::as_slice);
    let mut marks = Vec::with_capacity(parts.len());
    let mut dots = Vec::new();
    let mut x = column.x;
    for part in parts {
        let width = layout.bar(part.bytes, band);
        if width < NARROWEST {
            dots.push(part);
            continue;
        }
        marks.push(Mark {
            part,
            x,
            width: Some(width),
        });
        x += width;
    }
    x += DOT / 2.0;
    for part in dots {
        marks.push(Mark {
            part,
            x: x.min(column.x + column.width + DOT / 2.0),
            width: None,
        });
        x += DOT;
    }
    marks
}

/// The words over a column: in one line where it is wide enough.
fn heading(column: &Column) -> Vec<String> {
    let words = column.key.heading();
    let line = words.join(" ");
    if text::width(&line, FONT) <= column.width {
        vec![line]
    } else {
        words.iter().map(|&word| word.to_owned()).collect()
    }
}

fn name_of<'a>(memory: &Memory<'a>) -> &'a str {
    match memory.family {
        Family::Unplaced => "in the file only",
        Family::Host | Family::Device => memory.name,
    }
}

/// A power of two in its unit: `64 MiB`.
fn round_bytes(bytes: u128) -> String {
    text::bytes(bytes).replace(".00 ", " ").replace(".0 ", " ")
}
