//! Random weights, drawn as blocks of the type that they are stored in, so that nothing has
//! to be quantised.

use std::io;

use super::half;
use super::random::Random;
use super::tensors::Tensor;
use super::types::{Scale, TensorType};

/// Bytes that are drawn at a time, about.
const CHUNK: u64 = 1 << 20;

/// What the weights of a file depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw {
    pub(super) seed: u64,
    pub(super) router_skew: f32,
}

impl Draw {
    /// Writes the weights of a tensor, which are of the given type.
    pub(super) fn write(
        self,
        tensor: &Tensor,
        kind: TensorType,
        write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut random = Random::new(self.seed, &tensor.name);
        let values = Values::of(tensor);
        let block = kind.block();
        let (n_rows, row_blocks) = match *tensor.shape.as_slice() {
            [row, n_rows] if self.router_skew > 0.0 && tensor.is_router() => {
                (n_rows as usize, row / block.elements)
            }
            _ => return values.draw(&mut random, kind, tensor.bytes / block.bytes, write),
        };
        for rank in random.permutation(n_rows) {
            let row = Values {
                deviation: values.deviation * (rank as f32 + 1.0).powf(-self.router_skew),
                ..values
            };
            row.draw(&mut random, kind, row_blocks, write)?;
        }
        Ok(())
    }
}

/// How the values of a tensor are distributed.
#[derive(Clone, Copy)]
struct Values {
    /// Zero in quantised types, whatever stands here.
    mean: f32,
    deviation: f32,
}

impl Values {
    /// Such that every layer changes the hidden state about as much as the embedding made
    /// it, and logits differ by a few units.
    fn of(tensor: &Tensor) -> Self {
        let name = tensor.name.as_str();
        let row = tensor.shape.first().copied().unwrap_or(1).max(1) as f32;
        let (mean, deviation) = if name.contains("norm.weight") || name.starts_with("rope_") {
            (1.0, 0.1)
        } else if tensor.shape.len() == 1 || !name.ends_with("weight") {
            (0.0, 0.05)
        } else if name == "token_embd.weight" {
            (0.0, 0.7)
        } else if tensor.is_router() {
            (0.0, 2.0 / row.sqrt())
        } else {
            (0.0, 1.0 / row.sqrt())
        };
        Self { mean, deviation }
    }

    fn draw(
        self,
        random: &mut Random,
        kind: TensorType,
        n_blocks: u64,
        write: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let block_bytes = kind.block().bytes;
        let mut left = n_blocks * block_bytes;
        let mut chunk = vec![0; left.min(CHUNK / block_bytes * block_bytes) as usize];
        while left > 0 {
            let n = left.min(chunk.len() as u64);
            let chunk = &mut chunk[..n as usize];
            self.fill(random, kind, chunk);
            write(chunk)?;
            left -= n;
        }
        Ok(())
    }

    /// Fills whole blocks.
    fn fill(self, random: &mut Random, kind: TensorType, bytes: &mut [u8]) {
        let block = kind.block();
        if block.scale == Scale::None {
            return self.fill_numbers(random, kind, bytes);
        }
        random.fill(bytes);
        let at_scale = |spread: f32| self.deviation / spread;
        for block in bytes.chunks_exact_mut(block.bytes as usize) {
            match kind.block().scale {
                Scale::None => (),
                Scale::Half { at, spread } => put(block, at, at_scale(spread)),
                Scale::HalfAndOffset { at, spread, offset } => {
                    let scale = at_scale(spread);
                    put(block, at, scale);
                    put(block, at + 2, scale * offset);
                }
                Scale::Exponent { spread } => {
                    let exponent = at_scale(spread).log2().round().clamp(-100.0, 100.0);
                    block[0] = (127 + exponent as i32) as u8;
                }
            }
        }
    }

    fn fill_numbers(self, random: &mut Random, kind: TensorType, bytes: &mut [u8]) {
        let mut number = || self.mean + random.noise(self.deviation);
        match kind {
            TensorType::F16 => {
                for slot in bytes.chunks_exact_mut(2) {
                    slot.copy_from_slice(&half::bits(number()).to_le_bytes());
                }
            }
            TensorType::Bf16 => {
                for slot in bytes.chunks_exact_mut(2) {
                    let bits = (number().to_bits() >> 16) as u16;
                    slot.copy_from_slice(&bits.to_le_bytes());
                }
            }
            _ => {
                for slot in bytes.chunks_exact_mut(4) {
                    slot.copy_from_slice(&number().to_le_bytes());
                }
            }
        }
    }
}

fn put(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&half::bits(value).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::quants;

    #[test]
    fn a_block_is_as_large_as_ggml_has_it() {
        for kind in TensorType::ALL {
            let block = kind.block();
            let ours = (block.elements, block.bytes);
            assert_eq!(ours, quants::block(block.id), "{kind:?}");
            assert_eq!(TensorType::from_id(block.id), Some(kind));
        }
    }

    #[test]
    fn values_spread_as_they_are_asked_to() {
        for kind in TensorType::ALL
            .into_iter()
            .filter(|&kind| kind != TensorType::F32)
        {
            for deviation in [0.7, 0.02] {
                let values = Values {
                    mean: 0.0,
                    deviation,
                };
                let mut bytes = Vec::new();
                let mut random = Random::new(1, "spread");
                let n_blocks = 100_000 / kind.block().elements;
                let mut write = |chunk: &[u8]| {
                    bytes.extend(chunk);
                    Ok(())
                };
                values
                    .draw(&mut random, kind, n_blocks, &mut write)
                    .unwrap();
                let numbers = quants::dequantise(kind.block().id, &bytes);
                let n = numbers.len() as f32;
                let mean = numbers.iter().sum::<f32>() / n;
                let spread = (numbers.iter().map(|x| x * x).sum::<f32>() / n).sqrt();
                assert!(mean.abs() < 0.15 * deviation, "{kind:?}: {mean}");
                // MXFP4 has powers of two only.
                let factor = if kind == TensorType::Mxfp4 { 1.42 } else { 1.1 };
                let range = deviation / factor..deviation * factor;
                assert!(
                    range.contains(&spread),
                    "{kind:?}: {spread} for {deviation}"
                );
            }
        }
    }
}
