//! For random rules, sizes, micro-batches and layouts: a context with a cache of experts answers
//! as one without, nothing aborts, and the statistics add up.
#![cfg(feature = "rpc")]

use std::sync::atomic::{AtomicU32, Ordering};

use llama_moe::{
    Context, ContextParams, Device, Error, Model, MoeCacheError, MoeCacheStats, Token,
};
use proptest::prelude::*;

#[path = "support/random_rules.rs"]
mod random_rules;
mod support;
use random_rules::{Place, RandomRule, overrides, place, rule};
use support::decode::{batch, distance, prompt};
use support::layouts::Layout;
use support::worker::{second_device, serve_if_asked, worker};
use support::{backend, file};

#[test]
fn worker_process() {
    serve_if_asked();
}

/// How a context is made and used.
#[derive(Clone, Debug)]
struct Use {
    /// Thousandths of all experts' bytes.
    size: u32,
    n_ubatch: u32,
    n_prompt: usize,
    n_decoded: usize,
    op_offload: bool,
    offload_kqv: bool,
    /// What no random rule takes is kept where it can be cached.
    cacheable: bool,
}

fn usage() -> impl Strategy<Value = Use> {
    let sizes = prop_oneof![0u32..400, 400u32..1500, Just(u32::MAX)];
    let n_ubatch = prop::sample::select(vec![1u32, 3, 8, 9, 31, 32, 33, 64, 512]);
    (
        sizes,
        n_ubatch,
        1usize..70,
        0usize..6,
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.8),
    )
        .prop_map(
            |(size, n_ubatch, n_prompt, n_decoded, op_offload, offload_kqv, cacheable)| Use {
                size,
                n_ubatch,
                n_prompt,
                n_decoded,
                op_offload,
                offload_kqv,
                cacheable,
            },
        )
}

fn run(context: &mut Context, how: &Use) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    let mut at = 0;
    let parts = [prompt(how.n_prompt)]
        .into_iter()
        .chain((0..how.n_decoded).map(|i| vec![Token(270 + 3 * i as i32)]));
    for tokens in parts {
        context
            .decode(&batch(&tokens, at, 0))
            .expect("a computed batch");
        at += tokens.len() as u32;
        rows.push(context.logits_last().expect("logits").to_vec());
    }
    rows
}

fn check(
    layout: Layout,
    rules: &[RandomRule],
    place: &Place,
    how: &Use,
) -> Result<(), TestCaseError> {
    let worker = worker();
    let devices = [worker.device, second_device(&worker)];
    let (_dir, path) = file(layout);
    let header = llama_moe::gguf::Header::read(&path).unwrap();
    let n_blocks = header.n_blocks() - header.n_mtp_blocks();
    let n_moe = header.moe().map_or(0, |moe| moe.moe_layers.len() as u32);
    let mut place = place.clone();
    if how.cacheable {
        place.n_devices = place.n_devices.max(1);
    }
    let in_use: &[Device] = &devices[..place.n_devices];
    let mut params = place.params(&devices, overrides(rules, n_blocks, n_moe, in_use));
    if how.cacheable {
        params = params.with_cpu_moe_all().for_moe_cache();
    }
    let model = Model::load(&backend(), &path, params).unwrap();

    let all = header.moe().map_or(1 << 20, |moe| moe.expert_bytes_total());
    let size = match how.size {
        u32::MAX => u64::MAX,
        thousandths => (all * u64::from(thousandths) / 1000).max(1),
    };
    let params = ContextParams::default()
        .with_n_ctx(256)
        .with_n_threads(1)
        .with_n_threads_batch(1)
        .with_n_ubatch(how.n_ubatch)
        .with_op_offload(how.op_offload)
        .with_offload_kqv(how.offload_kqv);
    let mut cached = match model.context(params.clone().with_moe_cache_size(size)) {
        Ok(context) => context,
        Err(Error::MoeCache(error)) => return check_refused(&model, size, &error),
        Err(error) => return Err(TestCaseError::fail(error.to_string())),
    };
    let expected = run(&mut model.context(params).unwrap(), how);
    let rows = run(&mut cached, how);
    for (index, (row, expected)) in rows.iter().zip(&expected).enumerate() {
        // The worker has the kernels of this process: every bit is equal.
        let off = distance(row, expected);
        prop_assert!(off == 0.0, "row {index} is off by {off}");
    }
    CACHED.fetch_add(1, Ordering::Relaxed);
    let layout = cached.moe_cache().expect("a layout").clone();
    let stats = cached.moe_cache_stats().unwrap().expect("statistics");
    check_stats(&layout, &stats, how)
}

/// What is refused says a size that works, or is refused whatever the size.
fn check_refused(model: &Model, size: u64, error: &MoeCacheError) -> Result<(), TestCaseError> {
    match error {
        MoeCacheError::TooSmall {
            needed: Some(needed),
            ..
        } => {
            prop_assert!(*needed > size);
            prop_assert!(model.moe_cache(*needed).is_ok(), "{error}");
            prop_assert!(model.moe_cache(needed - 1).is_err(), "{error}");
        }
        _ => prop_assert!(model.moe_cache(u64::MAX).is_err(), "{error}"),
    }
    Ok(())
}

fn check_stats(
    layout: &llama_moe::MoeCacheLayout,
    stats: &MoeCacheStats,
    how: &Use,
) -> Result<(), TestCaseError> {
    let total = stats.total();
    let sizes = || layout.groups().iter().map(|group| group.bytes_per_expert);
    let (least, most) = (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0));
    prop_assert!(total.uploaded_bytes >= total.misses * least, "{stats:?}");
    prop_assert!(total.uploaded_bytes <= total.misses * most, "{stats:?}");
    // Each decoded token selects its experts once in each cached layer.
    let n_layers: u64 = layout
        .groups()
        .iter()
        .map(|group| group.layers.len() as u64)
        .sum();
    let decoded = how.n_decoded as u64 * n_layers * u64::from(layout.n_expert_used());
    prop_assert!(
        stats.small.hits + stats.small.misses >= decoded,
        "{stats:?}"
    );
    if layout.holds_all() {
        let groups = layout.groups().iter();
        let experts: u64 = groups.map(llama_moe::MoeCacheGroup::n_experts_total).sum();
        prop_assert!(total.misses <= experts, "{stats:?}");
    }
    Ok(())
}

/// `PROPTEST_CASES` for a longer run.
fn n_cases() -> u32 {
    let cases = std::env::var("PROPTEST_CASES").ok();
    cases.and_then(|n| n.parse().ok()).unwrap_or(96)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: n_cases(),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    fn random_caches(
        layout in prop::sample::select(&Layout::ALL[..]),
        rules in prop::collection::vec(rule(), 0..4),
        place in place(),
        how in usage(),
    ) {
        check(layout, &rules, &place, &how)?;
    }
}

/// Cases in which a cache was made.
static CACHED: AtomicU32 = AtomicU32::new(0);

#[test]
fn a_cache_changes_no_answer() {
    random_caches();
    let (cached, all) = (CACHED.load(Ordering::Relaxed), n_cases());
    // A handful of cases may all be of those that are refused.
    assert!(
        all < 32 || cached > all / 4,
        "{cached} of {all} cases had a cache"
    );
}
