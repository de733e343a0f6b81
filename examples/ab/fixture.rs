//! Results of made-up numbers, and what tests make of them.

use crate::read::parse_results;
use crate::results::{CacheUse, Failure, Measured, MoeCache, Outcome, Results, VariantResults};

const FIXTURE: &str = include_str!("../../tests/support/ab/results.json");

/// The text of a small `results.json`: base, cpu-moe, and a variant that failed twice.
pub fn text() -> &'static str {
    FIXTURE
}

/// The same, read.
pub fn results() -> Results {
    parse_results(FIXTURE).unwrap()
}

/// With these many variants, each slower than the one before and with less device memory.
pub fn with_variants(count: usize, name: impl Fn(usize) -> String) -> Results {
    let mut results = results();
    let base = results.variants[0].clone();
    let nth = |index: usize| {
        let mut variant = base.clone();
        variant.name = name(index);
        let share = 1.0 + index as f64 * 0.35;
        for_each_measured(&mut variant, |measured| {
            slow_down(measured, share);
            let moved = (45 * index as u64) << 20;
            let device = &mut measured.breakdown[1];
            device.model = device.model.saturating_sub(moved);
            measured.devices[0].free_after += moved;
        });
        variant
    };
    results.variants = (0..count).map(nth).collect();
    results
}

/// Changes what each trial that ended well measured.
pub fn for_each_measured(variant: &mut VariantResults, change: impl Fn(&mut Measured)) {
    for trial in &mut variant.trials {
        if let Outcome::Done(measured) = &mut trial.outcome {
            change(measured);
        }
    }
}

/// Makes all times of a trial longer.
pub fn slow_down(measured: &mut Measured, factor: f64) {
    for run in &mut measured.runs {
        run.prefill = run.prefill.mul_f64(factor);
        for time in &mut run.token_times {
            *time = time.mul_f64(factor);
        }
    }
}

/// Lets all trials of a variant fail for want of memory.
pub fn fail(variant: &mut VariantResults) {
    for trial in &mut variant.trials {
        trial.outcome = Outcome::Failed(Failure {
            stage: "load".to_owned(),
            message: "no memory".to_owned(),
            is_out_of_memory: true,
        });
    }
}

/// Gives all repetitions the values of the first.
pub fn without_scatter(results: &mut Results) {
    for variant in &mut results.variants {
        if let Some(first) = variant.trials.first().map(|trial| trial.outcome.clone()) {
            for trial in &mut variant.trials {
                trial.outcome = first.clone();
            }
        }
    }
}

/// Makes the system's memory all that there is.
pub fn without_device(results: &mut Results) {
    for variant in &mut results.variants {
        for_each_measured(variant, |measured| {
            measured.devices.clear();
            measured.breakdown.retain(|split| split.is_host);
            measured.breakdown[0].model = 400 << 20;
            measured.breakdown[0].context = 6 << 20;
            measured.kinds.clear();
        });
    }
}

/// Keeps one repetition.
pub fn once(results: &mut Results) {
    results.settings.repetitions = 1;
    results.settings.is_quick = true;
    for variant in &mut results.variants {
        variant.trials.truncate(1);
    }
}

/// Adds two variants with a cache of experts, of 64 and 128 MiB, to the ones without.
pub fn with_caches() -> Results {
    let mut results = results();
    for (index, mib) in [(1, 64u64), (2, 128)] {
        let mut variant = results.variants[1].clone();
        variant.rules = format!("cpu-moe+cache={mib}MiB");
        variant.name.clone_from(&variant.rules);
        variant.moe_cache = Some(MoeCache {
            size: mib << 20,
            bytes: (mib << 20) - 4096,
            n_slots: 8 * index,
            n_experts: 48,
            not_cached: vec!["layer 0 is on the CPU".to_owned()],
        });
        for_each_measured(&mut variant, |measured| {
            slow_down(measured, 1.0 / index as f64);
            measured.breakdown[1].moe_cache = (mib << 20) - 4096;
            let cache_use = CacheUse {
                hits: 30 * index,
                misses: 100 - 30 * index,
                hit_rate: Some(0.3 * index as f64),
                uploaded_bytes: (100 - 30 * index) << 20,
            };
            measured.moe_cache = Some(vec![cache_use; measured.runs.len()]);
        });
        results.variants.push(variant);
    }
    results
}
