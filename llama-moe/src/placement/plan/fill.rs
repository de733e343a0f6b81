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

/// Fills `room`, bytes per device: whole layers from the last on, then single parts, from the
/// last layer on, the largest of a layer first.
pub(super) fn fill(blocks: &BTreeMap<u32, ExpertBlock>, room: &[u64]) -> Filled {
    let mut room = room.to_vec();
    let mut take = |device: usize, bytes: u64| {
        let Some(room) = room.get_mut(device) else {
            return false;
        };
        let fits = bytes <= *room;
        if fits {
            *room -= bytes;
        }
        fits
    };
    let mut filled = Filled::default();
    for (number, block) in blocks.iter().rev() {
        if take(block.device, block.bytes()) {
            filled.whole.insert(*number);
        }
    }
    for (number, block) in blocks.iter().rev() {
        if filled.whole.contains(number) {
            continue;
        }
        let mut parts: Vec<(&String, &u64)> = block.parts.iter().collect();
        parts.sort_by(|(_, a), (_, b)| b.cmp(a));
        for (part, bytes) in parts {
            if take(block.device, *bytes) {
                filled
                    .parts
                    .entry(*number)
                    .or_default()
                    .insert(part.clone());
            }
        }
    }
    filled
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
        let filled = fill(&blocks, &[75]);
        assert_eq!(filled.whole, BTreeSet::from([4, 5]));
        assert_eq!(filled.parts[&3].len(), 1);
        assert_eq!(fill(&blocks, &[90]).whole.len(), 3);
        assert_eq!(fill(&blocks, &[0]), Filled::default());
        assert_eq!(fill(&blocks, &[]), Filled::default());
    }

    #[test]
    fn each_device_has_its_own_room() {
        let blocks = BTreeMap::from([(0, block(0, [10; 3])), (1, block(1, [10; 3]))]);
        let filled = fill(&blocks, &[30, 29]);
        assert_eq!(filled.whole, BTreeSet::from([0]));
        assert_eq!(filled.parts[&1].len(), 2);
    }
}
