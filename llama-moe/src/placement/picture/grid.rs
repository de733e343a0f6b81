//! The tensors of a picture, added up: rows of blocks, columns of roles, memories.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::{Family, PictureCell};
use crate::gguf::Role;

/// A row, in the order of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RowKey {
    /// What is not of a block and comes before the first.
    Input,
    Block(u32),
    /// What is not of a block and comes after the last.
    Output,
}

/// A column: the small ones first, so that their bars stay near the numbers of the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ColumnKey {
    Attention,
    Norm,
    Router,
    SharedExpert,
    DenseFfn,
    RoutedExpert,
    Mtp,
    Other,
    /// Embeddings and output, which are never in the same row.
    Ends,
}

/// A memory and what is in it.
#[derive(Clone, Debug)]
pub(super) struct Memory<'a> {
    pub(super) family: Family,
    pub(super) name: &'a str,
    /// Its place among those of its family.
    pub(super) index: usize,
    pub(super) bytes: u128,
}

/// The part of a cell that is in one memory, with one wish about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part<'a> {
    /// Index of [`Grid::memories`].
    pub(super) memory: usize,
    /// What was asked for, where that is not what it got.
    pub(super) asked: Option<&'a str>,
    pub(super) bytes: u128,
}

/// The tensors of a row, by column.
#[derive(Clone, Debug)]
pub(super) struct Row<'a> {
    pub(super) key: RowKey,
    pub(super) cells: BTreeMap<ColumnKey, Vec<Part<'a>>>,
}

/// Tensors that are elsewhere than they were asked to be.
#[derive(Clone, Debug)]
pub(super) struct Misplaced<'a> {
    pub(super) asked: &'a str,
    /// Index of [`Grid::memories`].
    pub(super) memory: usize,
    pub(super) column: ColumnKey,
    pub(super) rows: Vec<RowKey>,
    pub(super) bytes: u128,
}

/// All of a picture's cells, added up.
#[derive(Clone, Debug)]
pub(super) struct Grid<'a> {
    pub(super) memories: Vec<Memory<'a>>,
    pub(super) columns: BTreeMap<ColumnKey, u128>,
    pub(super) rows: Vec<Row<'a>>,
    pub(super) misplaced: Vec<Misplaced<'a>>,
    pub(super) total: u128,
}

impl<'a> Grid<'a> {
    pub(super) fn new(cells: &'a [PictureCell]) -> Self {
        let mut memories = memories(cells);
        let index: BTreeMap<(Family, &str), usize> = memories
            .iter()
            .enumerate()
            .map(|(index, memory)| ((memory.family, memory.name), index))
            .collect();

        type Parts<'a> = BTreeMap<(usize, Option<&'a str>), u128>;
        let mut rows: BTreeMap<RowKey, BTreeMap<ColumnKey, Parts>> = BTreeMap::new();
        let mut columns = BTreeMap::new();
        let mut total = 0;
        for cell in cells {
            let memory = index[&(cell.family(), cell.memory.as_str())];
            let bytes = u128::from(cell.bytes);
            let asked = cell.asked.as_deref().filter(|_| !cell.is_as_asked());
            let column = ColumnKey::of(cell.role);
            *rows
                .entry(RowKey::of(cell))
                .or_default()
                .entry(column)
                .or_default()
                .entry((memory, asked))
                .or_default() += bytes;
            memories[memory].bytes += bytes;
            *columns.entry(column).or_default() += bytes;
            total += bytes;
        }
        let rows: Vec<Row> = rows
            .into_iter()
            .map(|(key, cells)| Row {
                key,
                cells: cells
                    .into_iter()
                    .map(|(column, parts)| (column, in_order(parts)))
                    .collect(),
            })
            .collect();
        Self {
            misplaced: misplaced(&rows),
            memories,
            columns,
            rows,
            total,
        }
    }

    pub(super) fn n_blocks(&self) -> usize {
        self.rows
            .iter()
            .filter(|row| matches!(row.key, RowKey::Block(_)))
            .count()
    }
}

impl Row<'_> {
    /// Bytes of the largest cell.
    pub(super) fn largest(&self) -> u128 {
        self.cells
            .values()
            .map(|parts| sum(parts))
            .max()
            .unwrap_or(0)
    }

    /// Whether this is one of many blocks of a kind, to be drawn as high as they are.
    pub(super) fn is_ordinary(&self) -> bool {
        matches!(self.key, RowKey::Block(_))
            && self.cells.keys().any(|column| *column != ColumnKey::Mtp)
    }
}

/// Bytes of a cell's parts together.
pub(super) fn sum(parts: &[Part]) -> u128 {
    parts.iter().map(|part| part.bytes).sum()
}

impl RowKey {
    fn of(cell: &PictureCell) -> Self {
        match (cell.block, cell.role) {
            (Some(block), _) => Self::Block(block),
            (None, Role::Embedding | Role::Other) => Self::Input,
            (None, _) => Self::Output,
        }
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Input => "input".to_owned(),
            Self::Block(block) => block.to_string(),
            Self::Output => "output".to_owned(),
        }
    }
}

impl ColumnKey {
    fn of(role: Role) -> Self {
        match role {
            Role::Attention => Self::Attention,
            Role::Norm => Self::Norm,
            Role::Router => Self::Router,
            Role::RoutedExpert => Self::RoutedExpert,
            Role::SharedExpert => Self::SharedExpert,
            Role::DenseFfn => Self::DenseFfn,
            Role::Mtp => Self::Mtp,
            Role::Embedding | Role::Output => Self::Ends,
            Role::Other => Self::Other,
        }
    }

    /// The words over the column, one per line.
    pub(super) fn heading(self) -> &'static [&'static str] {
        match self {
            Self::Attention => &["attention"],
            Self::Norm => &["norm"],
            Self::Router => &["router"],
            Self::SharedExpert => &["shared", "experts"],
            Self::DenseFfn => &["dense", "FFN"],
            Self::RoutedExpert => &["routed", "experts"],
            Self::Mtp => &["MTP"],
            Self::Other => &["other"],
            Self::Ends => &["embedding,", "output"],
        }
    }

    /// What a cell of this column is called, in a row.
    pub(super) fn name_in(self, row: RowKey) -> String {
        match (self, row) {
            (Self::Ends, RowKey::Input) => "embedding".to_owned(),
            (Self::Ends, RowKey::Output) => "output".to_owned(),
            _ => self.heading().join(" "),
        }
    }
}

/// The memories that occur: system memory, then devices, each by name.
fn memories(cells: &[PictureCell]) -> Vec<Memory<'_>> {
    let mut found: Vec<(Family, &str)> = cells
        .iter()
        .map(|cell| (cell.family(), cell.memory.as_str()))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| by_number(a.1, b.1)));
    let mut memories: Vec<Memory> = Vec::with_capacity(found.len());
    for (family, name) in found {
        let index = match memories.last() {
            Some(last) if last.family == family => last.index + 1,
            _ => 0,
        };
        memories.push(Memory {
            family,
            name,
            index,
            bytes: 0,
        });
    }
    memories
}

/// By name, `CUDA2` before `CUDA10`.
fn by_number(a: &str, b: &str) -> Ordering {
    fn parts(name: &str) -> (&str, usize, &str) {
        let start = name
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(name.len());
        let (word, rest) = name.split_at(start);
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let number = rest[..end].trim_start_matches('0');
        (word, number.len(), number)
    }
    parts(a).cmp(&parts(b)).then_with(|| a.cmp(b))
}

fn in_order<'a>(parts: BTreeMap<(usize, Option<&'a str>), u128>) -> Vec<Part<'a>> {
    parts
        .into_iter()
        .map(|((memory, asked), bytes)| Part {
            memory,
            asked,
            bytes,
        })
        .collect()
}

fn misplaced<'a>(rows: &[Row<'a>]) -> Vec<Misplaced<'a>> {
    let mut found: BTreeMap<(ColumnKey, &str, usize), Misplaced> = BTreeMap::new();
    for row in rows {
        for (&column, parts) in &row.cells {
            for part in parts {
                let Some(asked) = part.asked else { continue };
                let entry = found
                    .entry((column, asked, part.memory))
                    .or_insert_with(|| Misplaced {
                        asked,
                        memory: part.memory,
                        column,
                        rows: Vec::new(),
                        bytes: 0,
                    });
                entry.rows.push(row.key);
                entry.bytes += part.bytes;
            }
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(block: Option<u32>, role: Role, bytes: u64, memory: &str) -> PictureCell {
        PictureCell {
            block,
            role,
            bytes,
            memory: memory.to_owned(),
            is_host: memory.starts_with("CPU"),
            asked: None,
        }
    }

    #[test]
    fn memories_are_in_the_order_people_count() {
        let cells = [
            "CUDA10",
            "CUDA2",
            "",
            "CPU_Mapped",
            "CUDA2",
            "CPU",
            "RPC0[a]",
        ]
        .map(|memory| cell(Some(0), Role::Attention, 1, memory));
        let grid = Grid::new(&cells);
        let names: Vec<(&str, usize, u128)> = grid
            .memories
            .iter()
            .map(|memory| (memory.name, memory.index, memory.bytes))
            .collect();
        assert_eq!(
            names,
            [
                ("CPU", 0, 1),
                ("CPU_Mapped", 1, 1),
                ("CUDA2", 0, 2),
                ("CUDA10", 1, 1),
                ("RPC0[a]", 2, 1),
                ("", 0, 1),
            ]
        );
    }

    #[test]
    fn cells_are_added_up_where_they_belong() {
        let cells = [
            cell(Some(7), Role::RoutedExpert, u64::MAX, "CPU"),
            cell(Some(7), Role::RoutedExpert, u64::MAX, "CPU"),
            cell(Some(7), Role::RoutedExpert, 3, "CUDA0"),
            cell(None, Role::Embedding, 5, "CPU"),
            cell(None, Role::Norm, 1, "CUDA0"),
            cell(None, Role::Output, 6, "CUDA0"),
        ];
        let grid = Grid::new(&cells);
        let rows: Vec<RowKey> = grid.rows.iter().map(|row| row.key).collect();
        assert_eq!(rows, [RowKey::Input, RowKey::Block(7), RowKey::Output]);
        let experts = &grid.rows[1].cells[&ColumnKey::RoutedExpert];
        assert_eq!(experts.len(), 2);
        assert_eq!(experts[0].bytes, 2 * u128::from(u64::MAX));
        assert_eq!(grid.columns[&ColumnKey::Ends], 11);
        assert_eq!(grid.total, 2 * u128::from(u64::MAX) + 15);
        assert_eq!(grid.n_blocks(), 1);
    }

    #[test]
    fn what_is_elsewhere_than_asked_is_listed() {
        let mut cells = [1, 2, 3].map(|block| cell(Some(block), Role::RoutedExpert, 10, "CPU"));
        cells[0].asked = Some("CUDA0".to_owned());
        cells[2].asked = Some("CUDA0".to_owned());
        cells[1].asked = Some("CPU".to_owned());
        let grid = Grid::new(&cells);
        assert_eq!(grid.misplaced.len(), 1);
        let found = &grid.misplaced[0];
        assert_eq!((found.asked, found.memory, found.bytes), ("CUDA0", 0, 20));
        assert_eq!(found.rows, [RowKey::Block(1), RowKey::Block(3)]);
    }
}
