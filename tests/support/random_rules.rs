//! Random rules, and random ways to load a model, for property tests.

use llama_moe::{Device, LoadMode, ModelParams, Pattern, Target, TensorOverrides};
use proptest::prelude::*;

/// What a rule takes. Layers are parts of a hundred of those that there are.
#[derive(Clone, Debug)]
pub enum Tensors {
    All,
    Blocks(u32),
    First(u32),
    Last(u32),
    Range(u32, u32),
    Pattern(&'static str),
}

#[derive(Clone, Debug)]
pub struct RandomRule {
    pub tensors: Tensors,
    /// 0 is the CPU, others are devices.
    pub target: usize,
}

pub fn rule() -> impl Strategy<Value = RandomRule> {
    let patterns = [
        "attn",
        "ffn_down",
        "exps.bias",
        "norm",
        "^token_embd",
        "^output",
        r"ffn_(gate|up)_(ch)?exps",
        r"blk\.\d*[02468]\.",
        "ffn_gate_inp",
        "shexp",
    ];
    let tensors = prop_oneof![
        Just(Tensors::All),
        (1u32..=100).prop_map(Tensors::Blocks),
        (1u32..=100).prop_map(Tensors::First),
        (1u32..=100).prop_map(Tensors::Last),
        (0u32..100, 1u32..=100).prop_map(|(start, length)| Tensors::Range(start, length)),
        prop::sample::select(patterns.to_vec()).prop_map(Tensors::Pattern),
    ];
    (tensors, 0usize..3).prop_map(|(tensors, target)| RandomRule { tensors, target })
}

/// Where a model is loaded and how.
#[derive(Clone, Debug)]
pub struct Place {
    pub n_devices: usize,
    pub split: Option<(u8, u8)>,
    pub n_gpu_layers: Option<u32>,
    pub mode: LoadMode,
    pub no_host: bool,
    pub extra_buffer_types: bool,
}

impl Place {
    /// The parameters of a load with these rules on the first devices.
    pub fn params(&self, devices: &[Device], overrides: TensorOverrides) -> ModelParams {
        let devices = &devices[..self.n_devices];
        let mut params = ModelParams::default()
            .with_devices(devices.to_vec())
            .with_overrides(overrides)
            .with_load_mode(self.mode)
            .with_no_host(self.no_host)
            .with_extra_buffer_types(self.extra_buffer_types);
        if let Some(n) = self.n_gpu_layers {
            params = params.with_n_gpu_layers(n);
        }
        if let (2, Some((first, second))) = (devices.len(), self.split) {
            params = params.with_tensor_split([f32::from(first), f32::from(second)]);
        }
        params
    }
}

pub fn place() -> impl Strategy<Value = Place> {
    let split = prop::option::of((0u8..5, 1u8..5));
    let modes = [LoadMode::None, LoadMode::Mmap, LoadMode::Auto];
    (
        0usize..3,
        split,
        prop::option::of(0u32..8),
        prop::sample::select(modes.to_vec()),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(n_devices, split, n_gpu_layers, mode, no_host, extra)| Place {
                n_devices,
                split,
                n_gpu_layers,
                mode,
                no_host,
                extra_buffer_types: extra,
            },
        )
}

/// The rules for a model of so many blocks and MoE layers.
pub fn overrides(
    rules: &[RandomRule],
    n_blocks: u32,
    n_moe: u32,
    devices: &[Device],
) -> TensorOverrides {
    let mut overrides = TensorOverrides::new().allow_unmatched();
    let part = |percent: &u32, of: u32| (percent * of).div_ceil(100).clamp(1, of);
    for RandomRule { tensors, target } in rules {
        let device = target.checked_sub(1).and_then(|index| devices.get(index));
        let target = device.map_or(Target::Cpu, |device| Target::Device(*device));
        let everywhere = 0..n_blocks;
        overrides = match tensors {
            Tensors::Pattern(pattern) => {
                overrides.with_override(Pattern::new(*pattern).unwrap(), target)
            }
            Tensors::All => overrides.with_moe_layers_on(everywhere, target),
            Tensors::Blocks(n) => overrides.with_n_cpu_moe(part(n, n_blocks)),
            Tensors::Range(start, length) => {
                let start = start * n_blocks / 100;
                let end = (start + part(length, n_blocks)).min(n_blocks);
                overrides.with_moe_layers_on(start..end, target)
            }
            Tensors::First(_) | Tensors::Last(_) if n_moe == 0 => overrides,
            Tensors::First(n) => overrides.with_cpu_moe_first(part(n, n_moe)),
            Tensors::Last(n) => overrides.with_cpu_moe_last(part(n, n_moe)),
        };
    }
    overrides
}
