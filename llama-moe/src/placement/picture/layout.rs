//! Where things are in a picture, in pixels.
//!
//! Every bar fills the height of its row, so within rows of one height the length says the
//! bytes as well as the area does. A row that one tensor fills (embeddings, output) is
//! higher, and its bar shorter in proportion: the area is to scale everywhere.

use super::grid::{ColumnKey, Grid, Row, RowKey};
use super::text;

/// The width of the page.
pub(super) const WIDTH: f64 = 1000.0;
/// White on both sides.
pub(super) const MARGIN: f64 = 24.0;
/// Of ordinary text.
pub(super) const FONT: f64 = 15.0;
/// Of sums and notes.
pub(super) const SMALL: f64 = 13.0;
/// A bar narrower than this is a dot.
pub(super) const NARROWEST: f64 = 0.75;
/// The longest side of the square that states the scale.
pub(super) const SQUARE: f64 = 22.0;
/// From one dot to the next.
pub(super) const DOT: f64 = 6.0;

/// Between the name of a row and its first bar.
pub(super) const NAME_GAP: f64 = 10.0;
/// Between two columns.
const GAP: f64 = 12.0;
/// The height that the blocks take together, if they can.
const BLOCKS_HEIGHT: f64 = 1040.0;
/// A row, from the top of its bar to the top of the next.
const PITCH: std::ops::RangeInclusive<f64> = 7.0..=26.0;
/// How many rows high a row of one tensor may be.
const HIGHEST: f64 = 4.0;
/// A row is made higher until its bar is this long, against the longest of the blocks.
const SHARE: f64 = 0.4;

/// A column and where it is.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) key: ColumnKey,
    pub(super) x: f64,
    pub(super) width: f64,
}

/// A row and where it is, counted from the top of the first.
#[derive(Clone, Debug)]
pub(super) struct Band {
    pub(super) top: f64,
    pub(super) height: f64,
    /// Whether its name is written.
    pub(super) named: bool,
}

/// The measures of one picture.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) columns: Vec<Column>,
    /// One per row of the grid.
    pub(super) bands: Vec<Band>,
    /// Square pixels per byte; 0 if there are no bytes.
    pub(super) scale: f64,
    /// Of all rows.
    pub(super) height: f64,
}

impl Layout {
    pub(super) fn new(grid: &Grid) -> Self {
        let pitch = (BLOCKS_HEIGHT / grid.n_blocks().max(1) as f64)
            .floor()
            .clamp(*PITCH.start(), *PITCH.end());
        let (bands, height) = bands(grid, pitch);
        let needs: Vec<Need> = grid
            .columns
            .iter()
            .map(|(&key, &bytes)| Need::new(key, bytes, grid, &bands))
            .collect();
        let gaps = GAP * needs.len().saturating_sub(1) as f64;
        let names = grid
            .rows
            .iter()
            .map(|row| text::width(&row.key.name(), SMALL))
            .fold(0.0, f64::max);
        let left = MARGIN + names + NAME_GAP;
        // A byte alone still fits into the square of the legend.
        let scale = scale(&needs, WIDTH - MARGIN - left - gaps).min(SQUARE * SQUARE);
        let mut x = left;
        let columns = needs
            .iter()
            .map(|need| {
                let width = need.width(scale);
                let column = Column {
                    key: need.key,
                    x,
                    width,
                };
                x += width + GAP;
                column
            })
            .collect();
        Self {
            columns,
            bands,
            scale,
            height,
        }
    }

    /// How wide the bar of so many bytes is in a row.
    pub(super) fn bar(&self, bytes: u128, band: &Band) -> f64 {
        bytes as f64 * self.scale / band.height
    }
}

/// What a column wants.
#[derive(Clone, Debug)]
struct Need {
    key: ColumnKey,
    /// The most bytes per pixel of height in a row.
    density: f64,
    /// For its heading.
    least: f64,
}

impl Need {
    fn new(key: ColumnKey, bytes: u128, grid: &Grid, bands: &[Band]) -> Self {
        let density = grid
            .rows
            .iter()
            .zip(bands)
            .filter_map(|(row, band)| {
                let parts = row.cells.get(&key)?;
                Some(super::grid::sum(parts) as f64 / band.height)
            })
            .fold(0.0, f64::max);
        let heading = key
            .heading()
            .iter()
            .map(|line| text::width(line, FONT))
            .fold(text::width(&text::bytes(bytes), SMALL), f64::max);
        Self {
            key,
            density,
            least: heading,
        }
    }

    fn width(&self, scale: f64) -> f64 {
        (self.density * scale).max(self.least)
    }
}

/// The largest scale at which all columns fit beside one another: columns that need less
/// than their heading get that, the others share what is left in proportion.
fn scale(needs: &[Need], available: f64) -> f64 {
    let mut limit = f64::INFINITY;
    loop {
        let is_wide = |need: &&Need| need.density > 0.0 && need.density * limit >= need.least;
        let density: f64 = needs.iter().filter(is_wide).map(|need| need.density).sum();
        let least: f64 = needs
            .iter()
            .filter(|need| !is_wide(need))
            .map(|need| need.least)
            .sum();
        if density <= 0.0 {
            // At the last limit, no column is wider than its heading.
            return if limit.is_finite() { limit } else { 0.0 };
        }
        let next = ((available - least) / density).max(0.0);
        // Fewer wide columns make the scale smaller, never larger: this ends.
        if next >= limit {
            return limit;
        }
        limit = next;
    }
}

fn bands(grid: &Grid, pitch: f64) -> (Vec<Band>, f64) {
    let gap = if pitch >= 10.0 { 2.0 } else { 1.0 };
    let base = grid
        .rows
        .iter()
        .filter(|row| row.is_ordinary())
        .map(Row::largest)
        .max()
        .unwrap_or(0);
    let step = if pitch >= 20.0 {
        1
    } else if pitch >= 10.0 {
        5
    } else {
        10
    };
    let mut bands: Vec<Band> = Vec::with_capacity(grid.rows.len());
    let mut top = 0.0;
    let mut before = None;
    for row in &grid.rows {
        let times = if row.is_ordinary() {
            1.0
        } else if base == 0 {
            2.0
        } else {
            (row.largest() as f64 / (base as f64 * SHARE))
                .ceil()
                .clamp(1.0, HIGHEST)
        };
        // The input and the output stand a little apart from the blocks.
        let apart = match (before, row.key) {
            (Some(RowKey::Input), _) | (Some(RowKey::Block(_)), RowKey::Output) => 8.0,
            _ => 0.0,
        };
        top += apart;
        let height = pitch * times - gap;
        bands.push(Band {
            top,
            height,
            named: false,
        });
        top += pitch * times;
        before = Some(row.key);
    }
    name_rows(grid, &mut bands, step);
    (bands, (top - gap).max(0.0))
}

/// Chooses the rows whose names are written: every `step`-th block, and where the numbers
/// begin, end and leave some out; never one over another.
fn name_rows(grid: &Grid, bands: &mut [Band], step: u32) {
    let wish = |index: usize| match grid.rows[index].key {
        RowKey::Input | RowKey::Output => 2,
        RowKey::Block(block) => {
            let neighbour = |row: Option<&Row>, other: Option<u32>| {
                row.is_some_and(|row| other.is_some_and(|other| row.key == RowKey::Block(other)))
            };
            let before = index
                .checked_sub(1)
                .and_then(|before| grid.rows.get(before));
            let goes_on = neighbour(before, block.checked_sub(1))
                && neighbour(grid.rows.get(index + 1), block.checked_add(1));
            if !goes_on {
                2
            } else if block.is_multiple_of(step) {
                1
            } else {
                0
            }
        }
    };
    for importance in [2, 1] {
        let mut last: Option<f64> = None;
        for index in 0..bands.len() {
            let middle = bands[index].top + bands[index].height / 2.0;
            if bands[index].named {
                last = Some(middle);
                continue;
            }
            let clear_before = last.is_none_or(|last| middle - last >= FONT);
            let clear_after = bands[index..]
                .iter()
                .take_while(|band| band.top + band.height / 2.0 - middle < FONT)
                .all(|band| !band.named);
            if wish(index) == importance && clear_before && clear_after {
                bands[index].named = true;
                last = Some(middle);
            }
        }
    }
}
