//! The devices of a plan with their budgets, and where weights go on them.

use super::budget::DeviceBudget;
use super::error::PlanError;
use super::usage::Usage;
use crate::backend::Backend;
use crate::error::Result;
use crate::gguf::Header;
use crate::model::{LoadMode, ModelParams};
use crate::placement::lower::{DevicesInUse, LoweredOverrides};
use crate::placement::machine::{AssumedDevice, Machine};
use crate::placement::preview::{Preview, shares};

pub(super) struct Scene {
    pub(super) budgets: Vec<DeviceBudget>,
    pub(super) ram: Option<u64>,
    pub(super) is_assumed: bool,
    /// What all attempts start from.
    pub(super) params: ModelParams,
    /// Each device's part of the layers, in proportion.
    pub(super) shares: Vec<f32>,
    in_use: DevicesInUse,
    machine: Machine,
}

/// What is over its budget the most.
pub(super) struct Over {
    device: String,
    needed: u64,
    budget: u64,
    pub(super) short: u64,
}

impl Scene {
    pub(super) fn new(
        backend: &Backend,
        header: &Header,
        budgets: Vec<DeviceBudget>,
        ram: Option<u64>,
        is_assumed: bool,
        params: ModelParams,
    ) -> Result<Self> {
        let (in_use, machine, shares);
        if is_assumed {
            in_use = params.clone().with_devices([]).devices_in_use(backend)?;
            let devices = budgets.iter().map(|budget| AssumedDevice {
                name: budget.name.clone(),
            });
            machine = Machine::assumed(header, devices.collect())?;
            let mut parts = params.tensor_split().to_vec();
            parts.resize(budgets.len(), if parts.is_empty() { 1.0 } else { 0.0 });
            shares = parts;
        } else {
            in_use = params.devices_in_use(backend)?;
            shares = self::shares(&params, &in_use);
            // As a dry run loads it, and as buffers that are read into have it.
            machine = Machine::real(header, &params, &in_use, LoadMode::None, true)?;
        }
        Ok(Self {
            budgets,
            ram,
            is_assumed,
            params,
            shares,
            in_use,
            machine,
        })
    }

    /// The same devices with other parameters for the model.
    pub(super) fn with_params(
        &self,
        backend: &Backend,
        header: &Header,
        params: ModelParams,
    ) -> Result<Self> {
        let (budgets, ram) = (self.budgets.clone(), self.ram);
        Self::new(backend, header, budgets, ram, self.is_assumed, params)
    }

    pub(super) fn lower(&self, header: &Header, params: &ModelParams) -> Result<LoweredOverrides> {
        let rules = params.overrides();
        rules.lower_for(header, params.loads_mtp(), &self.in_use)
    }

    pub(super) fn preview(
        &self,
        header: &Header,
        params: &ModelParams,
        overrides: &LoweredOverrides,
        mode: LoadMode,
    ) -> Result<Preview> {
        Preview::on(&self.machine, header, params, &self.shares, overrides, mode)
    }

    /// How the file is to be read.
    pub(super) fn load_mode(&self, params: &ModelParams, overrides: &LoweredOverrides) -> LoadMode {
        match params.fixed_load_mode() {
            // As beside a device that is at hand, where the memory allows it.
            None if self.is_assumed && overrides.bytes_to_cpu() > 0 => LoadMode::None,
            _ => LoadMode::from_raw(params.choose_load_mode(overrides, &self.in_use)),
        }
    }

    /// The size of a cache of experts whose parts fill these rooms at most: it is divided as the
    /// layers are among the devices that cache some. `None` if no device does.
    pub(super) fn moe_cache_size(
        &self,
        rooms: &[u64],
        caches: impl Fn(usize) -> bool,
    ) -> Option<u64> {
        let shares = self.shares.iter().zip(rooms).enumerate();
        let in_use = shares.filter(|(index, (share, _))| caches(*index) && **share > 0.0);
        let parts: Vec<(f64, u64)> = in_use
            .map(|(_, (share, room))| (f64::from(*share), *room))
            .collect();
        let all: f64 = parts.iter().map(|(share, _)| share).sum();
        let sizes = parts
            .iter()
            .map(|(share, room)| (*room as f64 * (all / share)) as u64);
        sizes.min().map(whole_steps)
    }

    pub(super) fn over(&self, usage: &Usage) -> Option<Over> {
        self.budgets
            .iter()
            .zip(&usage.devices)
            .filter(|(budget, used)| used.total() > budget.bytes)
            .map(|(budget, used)| Over {
                device: budget.name.clone(),
                needed: used.total(),
                budget: budget.bytes,
                short: used.total() - budget.bytes,
            })
            .max_by_key(|over| over.short)
    }
}

/// Sizes of a cache are multiples of this where there is room for many, as llama.cpp's option has
/// them.
const CACHE_STEP: u64 = 1 << 20;

/// The size in whole steps, if it has many.
pub(super) fn whole_steps(size: u64) -> u64 {
    if size >= 16 * CACHE_STEP {
        size / CACHE_STEP * CACHE_STEP
    } else {
        size
    }
}

impl Over {
    pub(super) fn error(self, what: &'static str, hint: &str) -> PlanError {
        PlanError::DoesNotFit {
            what,
            memory: self.device,
            needed: self.needed,
            budget: self.budget,
            short: self.short,
            hint: hint.to_owned(),
        }
    }
}
