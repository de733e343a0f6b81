//! Which experts a device has room for.

use std::collections::{BTreeMap, BTreeSet};

use super::super::preview::TensorPreview;

/// The routed experts of one block that no rule of the user's decides: in parts that are
/// computed with together, such as `ffn_up_exps` with its bias.
#[derive(Clone, Debug, Default)]
pub(super) struct ExpertBlock {
    /// The device of the block's layer.
    pub(super) device: usize,
    /// Bytes that each part takes there, by its name.
    pub(super) parts: BTreeMap<String, u64>,
}

/// What goes to devices, by blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filled {
    /// Blocks whose experts are on their device as a whole.
    pub(super) whole: BTreeSet<u32>,
    /// Parts that are, of other blocks.
    pub(super) parts: BTreeMap<u32, BTreeSet<String>>,
}

/// The experts that can be moved, by blocks: those whose layers are on a device.
pub(super) fn expert_blocks<'a>(
    experts: impl Iterator<Item = &'a TensorPreview>,
) -> BTreeMap<u32, ExpertBlock> {
    let mut blocks: BTreeMap<u32, ExpertBlock> = BTreeMap::new();
    for tensor in experts {
        let (Some(number), Some(device), Some(part)) =
            (tensor.block, tensor.index, part_of(&tensor.name))
        else {
            continue;
        };
        let block = blocks.entry(number).or_default();
        block.device = device;
        *block.parts.entry(part.to_owned()).or_default() += tensor.allocated;
    }
    blocks
}

/// `ffn_up_exps` of `blk.3.ffn_up_exps.weight`.
fn part_of(tensor: &str) -> Option<&str> {
    tensor.split('.').nth(2)
}

impl ExpertBlock {
    pub(super) fn bytes(&self) -> u64 {
        self.parts.values().sum()
    }
}

/// Fills `room`, bytes per device, with whole layers, then with single parts of others, if layers
/// may be split.
///
/// Layers come from the last on, unless another choice of them leaves less of the room unused:
/// quantised files have layers of two or three sizes.
pub(super) fn fill(blocks: &BTreeMap<u32, ExpertBlock>, room: &[u64], may_split: bool) -> Filled {
    let mut filled = Filled::default();
    for (device, &room) in room.iter().enumerate() {
        let on_device = blocks.iter().rev();
        let on_device = on_device.filter(|(_, block)| block.device == device);
        let kinds = Kind::of(on_device.map(|(number, block)| (*number, block)));
        best(&kinds, room, may_split).apply(&kinds, &mut filled);
    }
    filled
}

/// Steps of the search for each device: enough for three sizes of a hundred layers. After them
/// it takes what it finds first, since the sizes of a file may be chosen to have no end of it.
const MAX_STEPS: usize = 100_000;

/// Layers whose experts are of the same sizes.
struct Kind<'a> {
    bytes: u64,
    /// The largest first.
    parts: Vec<(&'a str, u64)>,
    /// The last first.
    blocks: Vec<u32>,
}

impl<'a> Kind<'a> {
    /// From layers, the last first.
    fn of(layers: impl Iterator<Item = (u32, &'a ExpertBlock)>) -> Vec<Self> {
        let mut kinds: Vec<(&ExpertBlock, Self)> = Vec::new();
        for (number, block) in layers {
            if let Some((_, kind)) = kinds.iter_mut().find(|(of, _)| of.parts == block.parts) {
                kind.blocks.push(number);
                continue;
            }
            let parts = block.parts.iter();
            let mut parts: Vec<(&str, u64)> = parts.map(|(name, n)| (name.as_str(), *n)).collect();
            parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
            let kind = Self {
                bytes: block.bytes(),
                parts,
                blocks: vec![number],
            };
            kinds.push((block, kind));
        }
        kinds.into_iter().map(|(_, kind)| kind).collect()
    }

    /// How many of `left` layers fit.
    fn fitting(&self, left: usize, room: u64) -> usize {
        count(self.bytes, left, room)
    }
}

fn count(bytes: u64, left: usize, room: u64) -> usize {
    room.checked_div(bytes)
        .and_then(|n| usize::try_from(n).ok())
        .map_or(left, |n| n.min(left))
}

/// What is taken of each kind.
#[derive(Clone, Default)]
struct Choice {
    /// Whole layers.
    whole: Vec<usize>,
    /// Of further layers, so many of each part.
    parts: Vec<Vec<usize>>,
    bytes: u64,
}

impl Choice {
    fn apply(&self, kinds: &[Kind<'_>], filled: &mut Filled) {
        for ((kind, whole), parts) in kinds.iter().zip(&self.whole).zip(&self.parts) {
            let (whole, others) = kind.blocks.split_at(*whole);
            filled.whole.extend(whole);
            for ((name, _), n) in kind.parts.iter().zip(parts) {
                for block in &others[..*n] {
                    let parts = filled.parts.entry(*block).or_default();
                    parts.insert((*name).to_owned());
                }
            }
        }
    }
}

/// The choice that uses the most of the room; of equal ones, the first: layers from the last on.
fn best(kinds: &[Kind<'_>], room: u64, may_split: bool) -> Choice {
    let mut choices = vec![from_the_last(kinds, room)];
    let mut steps = MAX_STEPS;
    choose_whole(kinds, room, &mut Vec::new(), &mut choices, &mut steps);
    let mut steps = MAX_STEPS;
    let mut best: Option<Choice> = None;
    for whole in choices {
        let of_parts = if may_split { room } else { 0 };
        let choice = with_parts(kinds, whole, of_parts, &mut steps);
        if best.as_ref().is_none_or(|best| choice.bytes > best.bytes) {
            best = Some(choice);
        }
        if steps == 0 {
            break;
        }
    }
    best.unwrap_or_default()
}

/// Whole layers of each kind, from the last on, as they fit.
fn from_the_last(kinds: &[Kind<'_>], mut room: u64) -> Vec<usize> {
    let blocks = kinds.iter().enumerate();
    let mut order: Vec<(u32, usize)> = blocks
        .flat_map(|(index, kind)| kind.blocks.iter().map(move |block| (*block, index)))
        .collect();
    order.sort_unstable_by(|a, b| b.cmp(a));
    let mut whole = vec![0; kinds.len()];
    for (_, index) in order {
        if kinds[index].bytes <= room {
            room -= kinds[index].bytes;
            whole[index] += 1;
        }
    }
    whole
}

/// All choices of whole layers that leave no room for another one.
fn choose_whole(
    kinds: &[Kind<'_>],
    room: u64,
    whole: &mut Vec<usize>,
    choices: &mut Vec<Vec<usize>>,
    steps: &mut usize,
) {
    let Some(kind) = kinds.get(whole.len()) else {
        let mut left = kinds.iter().zip(&*whole);
        if left.all(|(kind, n)| kind.fitting(kind.blocks.len() - n, room) == 0) {
            choices.push(whole.clone());
        }
        return;
    };
    for n in (0..=kind.fitting(kind.blocks.len(), room)).rev() {
        if *steps == 0 {
            return;
        }
        *steps -= 1;
        whole.push(n);
        choose_whole(kinds, room - n as u64 * kind.bytes, whole, choices, steps);
        whole.pop();
    }
}

/// Fills what whole layers leave of the room with parts of the others.
fn with_parts(kinds: &[Kind<'_>], whole: Vec<usize>, room: u64, steps: &mut usize) -> Choice {
    let used: u64 = kinds
        .iter()
        .zip(&whole)
        .map(|(kind, n)| kind.bytes * *n as u64)
        .sum();
    // Each part with how many layers have it left.
    let left: Vec<(u64, usize)> = kinds
        .iter()
        .zip(&whole)
        .flat_map(|(kind, n)| {
            let left = kind.blocks.len() - n;
            kind.parts.iter().map(move |(_, bytes)| (*bytes, left))
        })
        .collect();
    let (bytes, counts) = choose_parts(&left, room.saturating_sub(used), steps);
    let mut counts = counts.into_iter();
    let parts = kinds
        .iter()
        .map(|kind| counts.by_ref().take(kind.parts.len()).collect())
        .collect();
    Choice {
        whole,
        parts,
        bytes: used + bytes,
    }
}

/// How many of each part fill the room best. The room is less than a layer, so there are few
/// ways.
fn choose_parts(left: &[(u64, usize)], room: u64, steps: &mut usize) -> (u64, Vec<usize>) {
    let Some((&(bytes, n_left), others)) = left.split_first() else {
        return (0, Vec::new());
    };
    let mut best = (0, vec![0; left.len()]);
    for n in (0..=count(bytes, n_left, room)).rev() {
        let used = bytes * n as u64;
        *steps = steps.saturating_sub(1);
        let (more, counts) = choose_parts(others, room - used, steps);
        if used + more > best.0 {
            best = (used + more, [vec![n], counts].concat());
        }
        if best.0 == room || *steps == 0 {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(device: usize, parts: [u64; 3]) -> ExpertBlock {
        let names = ["ffn_down_exps", "ffn_gate_exps", "ffn_up_exps"];
        ExpertBlock {
            device,
            parts: names.map(str::to_owned).into_iter().zip(parts).collect(),
        }
    }

    #[test]
    fn whole_layers_come_first_and_from_the_back() {
        let blocks = BTreeMap::from([
            (3, block(0, [10; 3])),
            (4, block(0, [10; 3])),
            (5, block(0, [10; 3])),
        ]);
        let filled = fill(&blocks, &[75], true);
        assert_eq!(filled.whole, BTreeSet::from([4, 5]));
        assert_eq!(filled.parts[&3].len(), 1);
        assert_eq!(fill(&blocks, &[90], true).whole.len(), 3);
        assert_eq!(fill(&blocks, &[0], true), Filled::default());
        assert_eq!(fill(&blocks, &[], true), Filled::default());
    }

    #[test]
    fn no_layer_is_split_where_none_may_be() {
        let blocks = BTreeMap::from([(3, block(0, [10; 3])), (4, block(0, [30, 10, 10]))]);
        for (room, whole) in [(29, vec![]), (45, vec![3]), (50, vec![4]), (79, vec![4])] {
            let filled = fill(&blocks, &[room], false);
            assert_eq!(filled.whole, BTreeSet::from_iter(whole), "{room}");
            assert!(filled.parts.is_empty(), "{room}");
        }
        assert_eq!(fill(&blocks, &[80], false).whole.len(), 2);
    }

    #[test]
    fn sizes_that_all_differ_do_not_take_for_ever() {
        let sizes = |n: u64| [1000 + 7 * n, 2000 + 13 * n, 3000 + 29 * n];
        let blocks: BTreeMap<u32, ExpertBlock> =
            (0..512).map(|n| (n, block(0, sizes(n.into())))).collect();
        let room = 1_000_001;
        let start = std::time::Instant::now();
        let filled = fill(&blocks, &[room], true);
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
        let of = |number: &u32| blocks[number].bytes();
        let whole: u64 = filled.whole.iter().map(of).sum();
        assert!(whole <= room && whole > room / 2);
    }

    #[test]
    fn other_layers_are_taken_where_they_fill_the_room_better() {
        // Of the last and one more 10 bytes would be left, of the first two 0.
        let blocks = BTreeMap::from([
            (0, block(0, [10; 3])),
            (1, block(0, [10; 3])),
            (2, block(0, [40, 5, 5])),
        ]);
        let filled = fill(&blocks, &[60], true);
        assert_eq!(filled.whole, BTreeSet::from([2]));
        assert_eq!(filled.parts[&1].len(), 1);
        let filled = fill(&blocks, &[65], true);
        assert_eq!(filled.whole, BTreeSet::from([0, 1]));
        assert_eq!(filled.parts[&2].len(), 1);
    }

    #[test]
    fn each_device_has_its_own_room() {
        let blocks = BTreeMap::from([(0, block(0, [10; 3])), (1, block(1, [10; 3]))]);
        let filled = fill(&blocks, &[30, 29], true);
        assert_eq!(filled.whole, BTreeSet::from([0]));
        assert_eq!(filled.parts[&1].len(), 2);
    }
}
