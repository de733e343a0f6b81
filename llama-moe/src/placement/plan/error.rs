//! Why there is no plan.

/// Why there is no plan for a model and a budget.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A device with a budget of nothing.
    #[error("the budget of {device} is 0: leave the device out, or free some of its memory")]
    NoBudget {
        /// The device.
        device: String,
    },
    /// A budget that is more than there is.
    #[error("the budget of {device} is {}, but it has {}", mib(*.budget), mib(*.total))]
    OverDevice {
        /// The device.
        device: String,
        /// The budget in bytes.
        budget: u64,
        /// Bytes that the device has.
        total: u64,
    },
    /// A budget for a device that the parameters leave out.
    #[error("there is a budget for {device}, but the parameters' devices leave it out")]
    DeviceNotInUse {
        /// The device.
        device: String,
    },
    /// Devices of this process where others are assumed.
    #[error(
        "the parameters name {devices}, but the budget is for devices that are not at hand: \
         rules for the CPU are all that can be planned with"
    )]
    DevicesAssumed {
        /// What names devices.
        devices: String,
    },
    /// The least that a device, or the system, has to hold is more than its budget.
    #[error(
        "{what} do not fit {memory}: they take {}, the budget is {}; short by {}{hint}",
        mib(*.needed), mib(*.budget), mib(*.short)
    )]
    DoesNotFit {
        /// What does not fit.
        what: &'static str,
        /// The device, or "system memory".
        memory: String,
        /// Bytes it takes.
        needed: u64,
        /// Bytes there are for it.
        budget: u64,
        /// The difference.
        short: u64,
        /// What could be done.
        hint: String,
    },
    /// A cache of experts that is more than a device has room for, beside what has to be there.
    #[error(
        "the cache of experts takes {} of {device}, and there is room for {}; short by {}{}",
        mib(*.needed), mib(*.room), mib(*.short), smaller(*.largest)
    )]
    NoRoomForMoeCache {
        /// The device.
        device: String,
        /// Bytes that the cache takes there.
        needed: u64,
        /// Bytes that attention, router, shared experts, KV cache and buffers to compute in leave
        /// of the device's budget.
        room: u64,
        /// The difference.
        short: u64,
        /// The size of a cache that the devices have room for, in bytes; `None` if there is
        /// none.
        largest: Option<u64>,
    },
    /// A context size to shrink to that is more than the one asked for.
    #[error("the smallest context ({min} tokens) is larger than the one asked for ({asked})")]
    MinContext {
        /// The smallest that was allowed.
        min: u32,
        /// What was asked for.
        asked: u32,
    },
}

fn smaller(size: Option<u64>) -> String {
    match size {
        Some(size) => format!("; a cache of {size} bytes fits"),
        None => "; plan without a cache, or free some of the device's memory".to_owned(),
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1u64 << 20) as f64)
}
