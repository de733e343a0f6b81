//! Where weights would go, told before a load: the loader's places, its test of operations,
//! sizes, and its table of names.
#![cfg(not(feature = "system"))]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr;

use llama_sys as sys;

mod support;
use support::weights::{self, find, hparams, size, supported};
use support::{Context, Model, context_params, model_params, text};

fn cpu_place() -> sys::llama_shim_weight_place {
    *weights::cpu_places(&[], true, false)
        .last()
        .expect("the CPU's memory")
}

fn has_status<T>(result: Result<T, support::Failure>, status: sys::llama_shim_status, what: &str) {
    match result {
        Ok(_) => panic!("{what}: it is accepted"),
        Err(failure) => assert_eq!(failure.status, status, "{what}: {}", failure.text),
    }
}

#[test]
fn what_is_told_is_what_the_loader_does() {
    let (_dir, path) = support::moe_model();
    let mut no_devices = [ptr::null_mut()];
    for use_extra_bufts in [false, true] {
        let params = sys::llama_model_params {
            load_mode: sys::LLAMA_LOAD_MODE_NONE,
            use_extra_bufts,
            devices: no_devices.as_mut_ptr(),
            ..model_params()
        };
        let model = Model::load(&path, &params).expect("the test model loads");
        let told = weights::check(&support::placement(&model), None, use_extra_bufts);
        let context = Context::new(&model, &context_params()).expect("a context");
        let measured: BTreeMap<String, u64> = support::memory(&context)
            .into_iter()
            .filter(|entry| entry.model > 0)
            .map(|entry| (entry.buffer, entry.model))
            .collect();
        assert_eq!(told, measured);
    }
}

#[test]
fn the_lists_are_in_the_loaders_order() {
    support::init();
    let plain = weights::cpu_places(&[], true, false);
    let extra = weights::cpu_places(&[], true, true);
    assert!(extra.len() >= plain.len());
    let last = plain.last().expect("the CPU's memory");
    // SAFETY: no arguments.
    assert_eq!(last.buft, unsafe { sys::ggml_backend_cpu_buffer_type() });
    assert_eq!(last.dev, support::cpu_device());
    assert_eq!(extra.last().map(|place| place.buft), Some(last.buft));

    // The CPU's own memory is the first that it has as a device.
    let device = weights::device_places(support::cpu_device());
    assert_eq!(device[0].buft, last.buft);

    // Room for fewer than there are.
    let mut list = [sys::llama_shim_weight_place {
        dev: ptr::null_mut(),
        buft: ptr::null_mut(),
    }];
    let mut n = 0;
    support::guarded(|error| {
        // SAFETY: no devices, room for one place.
        unsafe {
            sys::llama_shim_weight_places_cpu(
                ptr::null(),
                0,
                true,
                true,
                list.as_mut_ptr(),
                1,
                &mut n,
                error,
            )
        }
    })
    .expect("a list");
    assert_eq!(n, extra.len());
    assert_eq!(list[0].buft, extra[0].buft);
}

#[test]
fn the_cpu_cannot_split_rows_and_null_is_refused() {
    support::init();
    let mut n = 0;
    let on = |dev, split_rows, n: *mut usize| {
        support::guarded(|error| {
            // SAFETY: a device or NULL, no room for places.
            unsafe {
                sys::llama_shim_weight_places_device(
                    dev,
                    split_rows,
                    ptr::null(),
                    ptr::null_mut(),
                    0,
                    n,
                    error,
                )
            }
        })
    };
    let refused = sys::LLAMA_SHIM_INVALID_ARGUMENT;
    has_status(on(support::cpu_device(), true, &mut n), refused, "rows");
    has_status(on(ptr::null_mut(), false, &mut n), refused, "no device");
    has_status(
        on(support::cpu_device(), false, ptr::null_mut()),
        refused,
        "no count",
    );

    let with = |devices: *const sys::ggml_backend_dev_t, count, capacity| {
        let mut n = 0;
        support::guarded(|error| {
            // SAFETY: an array of `count` devices or NULLs, or none.
            unsafe {
                sys::llama_shim_weight_places_cpu(
                    devices,
                    count,
                    false,
                    true,
                    ptr::null_mut(),
                    capacity,
                    &mut n,
                    error,
                )
            }
        })
    };
    has_status(with(ptr::null(), 1, 0), refused, "no devices");
    has_status(
        with([ptr::null_mut()].as_ptr(), 1, 0),
        refused,
        "a NULL device",
    );
    has_status(with(ptr::null(), 0, 1), refused, "no list");
}

#[test]
fn sizes_are_padded_and_impossible_weights_are_refused() {
    support::init();
    let buft = cpu_place().buft;
    // SAFETY: a live buffer type.
    let alignment = unsafe { sys::ggml_backend_buft_get_alignment(buft) };
    let of = |kind, ne| size(buft, kind, ne).expect("a size");
    assert_eq!(of(sys::GGML_TYPE_F32, [1, 1, 1, 1]), alignment);
    assert_eq!(of(sys::GGML_TYPE_F32, [64, 96, 8, 1]), 64 * 96 * 8 * 4);
    assert_eq!(of(sys::GGML_TYPE_Q8_0, [64, 64, 1, 1]), 2 * 34 * 64);
    // Larger than any memory: nothing is allocated.
    assert_eq!(of(sys::GGML_TYPE_F32, [1 << 30, 1 << 10, 1, 1]), 1 << 42);

    let refused = sys::LLAMA_SHIM_INVALID_ARGUMENT;
    let types = [
        sys::GGML_TYPE_COUNT,
        sys::GGML_TYPE_COUNT + 1,
        4,
        5,
        u32::MAX,
    ];
    for kind in types {
        has_status(size(buft, kind, [32, 1, 1, 1]), refused, "a type");
        let answer = supported(
            cpu_place(),
            sys::GGML_OP_MUL_MAT,
            kind,
            [32, 1, 1, 1],
            &hparams(),
        );
        has_status(answer, refused, "a type");
    }
    for ne in [
        [0, 1, 1, 1],
        [1, -1, 1, 1],
        [1, 1, i64::MIN, 1],
        [i64::MAX, i64::MAX, i64::MAX, i64::MAX],
        [1 << 31, 1, 1, 1],
        [1 << 30, 1 << 30, 1 << 30, 1 << 30],
        [1 << 30, 1 << 11, 1, 1],
    ] {
        has_status(
            size(buft, sys::GGML_TYPE_F32, ne),
            refused,
            &format!("{ne:?}"),
        );
        let answer = supported(
            cpu_place(),
            sys::GGML_OP_MUL,
            sys::GGML_TYPE_F32,
            ne,
            &hparams(),
        );
        has_status(answer, refused, &format!("{ne:?}"));
    }
    // Half a block.
    has_status(
        size(buft, sys::GGML_TYPE_Q8_0, [48, 1, 1, 1]),
        refused,
        "a block",
    );
    has_status(
        size(ptr::null_mut(), sys::GGML_TYPE_F32, [1; 4]),
        refused,
        "NULL",
    );
}

/// Every operation that llama.cpp's table has, and what of the hyper-parameters it needs.
#[test]
fn the_cpu_computes_with_every_weight_of_the_table() {
    support::init();
    let none = sys::llama_shim_weight_hparams {
        n_expert_used: 0,
        n_embd_head: 0,
        n_head: 0,
        n_embd_inp: 0,
        ssm_d_state: 0,
        ssm_d_inner: 0,
        ssm_n_group: 0,
    };
    let refused = sys::LLAMA_SHIM_INVALID_ARGUMENT;
    for (op, ne, needs_hparams) in [
        (sys::GGML_OP_GET_ROWS, [64, 259, 1, 1], false),
        (sys::GGML_OP_MUL_MAT, [64, 96, 1, 1], false),
        (sys::GGML_OP_MUL_MAT, [64, 96, 3, 2], false),
        (sys::GGML_OP_MUL_MAT_ID, [64, 96, 8, 1], true),
        (sys::GGML_OP_ADD, [64, 1, 1, 1], false),
        (sys::GGML_OP_ADD_ID, [64, 8, 1, 1], true),
        (sys::GGML_OP_MUL, [64, 3, 2, 2], false),
        (sys::GGML_OP_DIV, [64, 1, 1, 1], false),
        (sys::GGML_OP_SCALE, [64, 1, 1, 1], false),
        (sys::GGML_OP_ROPE, [16, 1, 1, 1], true),
        (sys::GGML_OP_SSM_CONV, [4, 64, 1, 1], false),
        (sys::GGML_OP_SSM_SCAN, [1, 8, 1, 1], true),
        (sys::GGML_OP_SSM_SCAN, [16, 64, 1, 1], true),
        (sys::GGML_OP_RWKV_WKV6, [64, 2, 1, 1], false),
        (sys::GGML_OP_IM2COL, [7, 64, 64, 1], true),
    ] {
        let ask = |hparams: &_| supported(cpu_place(), op, sys::GGML_TYPE_F32, ne, hparams);
        assert!(ask(&hparams()).expect("an answer"), "operation {op}");
        if needs_hparams {
            has_status(ask(&none), refused, &format!("operation {op}"));
        } else {
            assert!(ask(&none).expect("an answer"), "operation {op}");
        }
        for large in [-1, i64::MIN, i64::MAX, 1 << 40] {
            let large = sys::llama_shim_weight_hparams {
                n_expert_used: large,
                n_embd_head: large,
                n_head: large,
                n_embd_inp: large,
                ssm_d_state: large,
                ssm_d_inner: large,
                ssm_n_group: large,
            };
            assert_eq!(ask(&large).is_err(), needs_hparams, "operation {op}");
        }
    }
    // The rows that are set are named by whole numbers.
    for kind in [sys::GGML_TYPE_I32, sys::GGML_TYPE_I64] {
        let answer = supported(
            cpu_place(),
            sys::GGML_OP_SET_ROWS,
            kind,
            [64, 1, 1, 1],
            &none,
        );
        assert!(answer.expect("an answer"), "{kind}");
    }
    // Shapes and types that ggml would abort on.
    let f32 = sys::GGML_TYPE_F32;
    for (op, kind, ne) in [
        (sys::GGML_OP_GET_ROWS, f32, [64, 8, 2, 1]),
        (sys::GGML_OP_GET_ROWS, f32, [64, 8, 1, 2]),
        (sys::GGML_OP_SET_ROWS, f32, [64, 1, 1, 1]),
        (sys::GGML_OP_SET_ROWS, sys::GGML_TYPE_I64, [64, 2, 1, 1]),
        (sys::GGML_OP_MUL_MAT_ID, f32, [64, 8, 2, 2]),
        (sys::GGML_OP_DIV, f32, [64, 2, 1, 1]),
        (sys::GGML_OP_ROPE, sys::GGML_TYPE_F16, [16, 1, 1, 1]),
        (sys::GGML_OP_SSM_CONV, f32, [4, 64, 2, 1]),
        (sys::GGML_OP_SSM_SCAN, f32, [16, 64, 2, 1]),
        (sys::GGML_OP_SSM_SCAN, f32, [16, 65, 1, 1]),
        (sys::GGML_OP_IM2COL, f32, [65, 64, 1, 1]),
        (sys::GGML_OP_SOFT_MAX, f32, [64, 1, 1, 1]),
        (sys::GGML_OP_NONE, f32, [64, 1, 1, 1]),
        (sys::GGML_OP_COUNT, f32, [64, 1, 1, 1]),
        (u32::MAX, f32, [64, 1, 1, 1]),
    ] {
        has_status(
            supported(cpu_place(), op, kind, ne, &hparams()),
            refused,
            &format!("{op} {ne:?}"),
        );
    }
    let nowhere = sys::llama_shim_weight_place {
        dev: ptr::null_mut(),
        buft: ptr::null_mut(),
    };
    let answer = supported(nowhere, sys::GGML_OP_MUL, f32, [64, 1, 1, 1], &hparams());
    has_status(answer, refused, "NULL");
}

#[test]
fn extra_memory_is_for_matrices_only() {
    support::init();
    let plain = cpu_place().buft;
    for place in weights::cpu_places(&[], true, true) {
        let ask =
            |op, ne| supported(place, op, sys::GGML_TYPE_F32, ne, &hparams()).expect("an answer");
        let is_plain = place.buft == plain;
        assert_eq!(ask(sys::GGML_OP_MUL, [64, 1, 1, 1]), is_plain);
        assert_eq!(ask(sys::GGML_OP_GET_ROWS, [64, 8, 1, 1]), is_plain);
    }
}

#[test]
fn names_tell_layer_operation_and_block() {
    let told = |arch: &str, name: &str| {
        let found = find(arch, name).expect("internals");
        (found.layer, found.op, found.block)
    };
    let [unknown, input, repeating, output] = [
        sys::LLAMA_SHIM_WEIGHT_UNKNOWN,
        sys::LLAMA_SHIM_WEIGHT_INPUT,
        sys::LLAMA_SHIM_WEIGHT_REPEATING,
        sys::LLAMA_SHIM_WEIGHT_OUTPUT,
    ];
    for (arch, name, expected) in [
        (
            "qwen3moe",
            "token_embd.weight",
            (input, sys::GGML_OP_GET_ROWS, -1),
        ),
        (
            "qwen3moe",
            "output.weight",
            (output, sys::GGML_OP_MUL_MAT, -1),
        ),
        (
            "qwen3moe",
            "output_norm.weight",
            (output, sys::GGML_OP_MUL, -1),
        ),
        (
            "qwen3moe",
            "blk.0.attn_q.weight",
            (repeating, sys::GGML_OP_MUL_MAT, 0),
        ),
        (
            "qwen3moe",
            "blk.93.ffn_down_exps.weight",
            (repeating, sys::GGML_OP_MUL_MAT_ID, 93),
        ),
        (
            "llama4",
            "blk.1.ffn_gate_up_exps.weight",
            (repeating, sys::GGML_OP_MUL_MAT_ID, 1),
        ),
        (
            "gpt-oss",
            "blk.7.ffn_up_exps.bias",
            (repeating, sys::GGML_OP_ADD_ID, 7),
        ),
        (
            "gpt-oss",
            "blk.7.attn_q.bias",
            (repeating, sys::GGML_OP_ADD, 7),
        ),
        (
            "deepseek2",
            "blk.3.exp_probs_b.bias",
            (repeating, sys::GGML_OP_ADD, 3),
        ),
        (
            "deepseek2",
            "blk.3.ffn_gate_inp.weight",
            (repeating, sys::GGML_OP_MUL_MAT, 3),
        ),
        (
            "t5",
            "enc.blk.2.attn_q.weight",
            (repeating, sys::GGML_OP_MUL_MAT, 2),
        ),
        (
            "llama",
            "rope_freqs.weight",
            (repeating, sys::GGML_OP_ROPE, -1),
        ),
        (
            "bert",
            "cls.output.weight",
            (output, sys::GGML_OP_MUL_MAT, -1),
        ),
        ("eagle3", "d2t", (output, sys::GGML_OP_SET_ROWS, -1)),
        (
            "k2-horizon",
            "blk.2.attn_v_exps.weight",
            (repeating, sys::GGML_OP_MUL_MAT_ID, 2),
        ),
        (
            "dflash",
            "lilicorr.layers.1.attn.in_proj.bias",
            (repeating, sys::GGML_OP_ADD, 1),
        ),
        // The names with two meanings.
        (
            "lfm2moe",
            "token_embd_norm.weight",
            (output, sys::GGML_OP_MUL, -1),
        ),
        (
            "bert",
            "token_embd_norm.weight",
            (repeating, sys::GGML_OP_MUL, -1),
        ),
        (
            "jamba",
            "blk.4.ssm_a",
            (repeating, sys::GGML_OP_SSM_SCAN, 4),
        ),
        ("qwen3next", "blk.4.ssm_a", (repeating, sys::GGML_OP_MUL, 4)),
        (
            "deepseek4",
            "blk.5.indexer_compressor_ape.weight",
            (repeating, sys::GGML_OP_GET_ROWS, 5),
        ),
        (
            "glm5-next",
            "blk.5.indexer_compressor_ape.weight",
            (repeating, sys::GGML_OP_ADD, 5),
        ),
        // Adapters in the model.
        (
            "graniteswitch",
            "blk.0.attn_q.lora_a",
            (repeating, sys::GGML_OP_MUL_MAT_ID, 0),
        ),
        // An architecture that there is not.
        (
            "no-such",
            "blk.0.attn_q.weight",
            (repeating, sys::GGML_OP_MUL_MAT, 0),
        ),
        // Names that there are not; experts in tensors of their own are too old for the loader.
        (
            "llama",
            "blk.0.ffn_gate.3.weight",
            (unknown, sys::GGML_OP_NONE, 0),
        ),
        (
            "llama",
            "blk.0.nothing.weight",
            (unknown, sys::GGML_OP_NONE, 0),
        ),
        (
            "llama",
            "blk.x.attn_q.weight",
            (unknown, sys::GGML_OP_NONE, -1),
        ),
        (
            "llama",
            "blk.99999999999.attn_q.weight",
            (unknown, sys::GGML_OP_NONE, -1),
        ),
        (
            "llama",
            "blk.987654321",
            (unknown, sys::GGML_OP_NONE, 987_654_321),
        ),
        ("llama", ".weight", (unknown, sys::GGML_OP_NONE, -1)),
        ("llama", "%d%s%n", (unknown, sys::GGML_OP_NONE, -1)),
        ("", "", (unknown, sys::GGML_OP_NONE, -1)),
    ] {
        assert_eq!(told(arch, name), expected, "{name} of {arch}");
    }
    let refused = support::guarded(|error| {
        // SAFETY: NULL is refused.
        unsafe {
            sys::llama_shim_weight_find(ptr::null(), c"output".as_ptr(), ptr::null_mut(), error)
        }
    });
    has_status(refused, sys::LLAMA_SHIM_INVALID_ARGUMENT, "NULL");
}

/// llama.cpp's sources, which this build compiled.
fn sources() -> PathBuf {
    let tree = Path::new(env!("LLAMA_SYS_CMAKE_TREE"));
    let cache = fs::read_to_string(tree.join("CMakeCache.txt")).expect("CMake's cache");
    let line = cache
        .lines()
        .find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="))
        .expect("the sources' folder");
    PathBuf::from(line)
}

/// The entries `{ FIRST, second }` of the table that is declared with `head`.
fn table(source: &str, head: &str) -> BTreeMap<String, String> {
    let (_, rest) = source.split_once(head).expect("the table");
    let (body, _) = rest.split_once("\n};").expect("its end");
    body.lines()
        .filter_map(|line| line.trim().strip_prefix('{'))
        .filter_map(|entry| entry.split_once(','))
        .map(|(id, value)| {
            let value = value.split('}').next().unwrap_or_default();
            let value = value.trim().trim_start_matches('{').trim_matches('"');
            (id.trim().to_owned(), value.to_owned())
        })
        .collect()
}

/// The shim's table is made of all that llama.cpp's has, and aborts on none of it.
#[test]
fn the_table_of_names_is_the_sources_table() {
    let source = fs::read_to_string(sources().join("src/llama-arch.cpp")).expect("a source");
    let names = table(&source, "LLM_TENSOR_NAMES = {");
    let infos = table(&source, "LLM_TENSOR_INFOS = {");
    assert!(names.len() > 250 && infos.len() > 250);

    let mut uses: BTreeMap<&str, BTreeSet<(String, String)>> = BTreeMap::new();
    for (id, info) in &infos {
        let name = names.get(id).unwrap_or_else(|| panic!("{id} has no name"));
        let (layer, op) = info.split_once(',').expect("a layer and an operation");
        let used = (layer.trim().to_owned(), op.trim().to_owned());
        uses.entry(name).or_default().insert(used);
    }
    for (name, expected) in &uses {
        let found = find("llama", &name.replace("%d", "12")).expect("internals");
        let layer = match found.layer {
            sys::LLAMA_SHIM_WEIGHT_INPUT => "LLM_TENSOR_LAYER_INPUT",
            sys::LLAMA_SHIM_WEIGHT_REPEATING => "LLM_TENSOR_LAYER_REPEATING",
            sys::LLAMA_SHIM_WEIGHT_OUTPUT => "LLM_TENSOR_LAYER_OUTPUT",
            _ => "unknown",
        };
        // SAFETY: an operation of llama.cpp's own table.
        let op = format!("GGML_OP_{}", text(unsafe { sys::ggml_op_name(found.op) }));
        let found = (layer.to_owned(), op);
        assert!(
            expected.contains(&found),
            "{name}: {found:?} is none of {expected:?}"
        );
    }
    let two_meanings: Vec<&str> = uses
        .iter()
        .filter(|(_, uses)| uses.len() > 1)
        .map(|(name, _)| *name)
        .collect();
    assert_eq!(
        two_meanings,
        [
            "blk.%d.indexer_compressor_ape",
            "blk.%d.ssm_a",
            "token_embd_norm"
        ]
    );
}

/// Which architectures mean which of two tensors with one name, by the code that creates
/// them.
#[test]
fn names_with_two_meanings_are_told_apart_as_the_sources_do() {
    let folder = fs::read_dir(sources().join("src/models")).expect("the models' folder");
    let mut creators: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for entry in folder.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let source = fs::read_to_string(entry.path()).expect("a source");
        for id in [
            "LLM_TENSOR_OUTPUT_NORM_LFM2,",
            "LLM_TENSOR_SSM_A,",
            "LLM_TENSOR_INDEXER_KPOOL_APE,",
        ] {
            if source.contains(&format!("tn({id}")) {
                creators.entry(id).or_default().insert(file.clone());
            }
        }
    }
    let of = |id| creators[id].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(
        of("LLM_TENSOR_OUTPUT_NORM_LFM2,"),
        ["lfm2.cpp", "lfm2moe.cpp"]
    );
    assert_eq!(
        of("LLM_TENSOR_SSM_A,"),
        [
            "falcon-h1.cpp",
            "granite-hybrid.cpp",
            "jamba.cpp",
            "mamba.cpp",
            "mamba2.cpp",
            "nemotron-h.cpp",
            "plamo2.cpp"
        ]
    );
    assert_eq!(of("LLM_TENSOR_INDEXER_KPOOL_APE,"), ["glm5-next.cpp"]);
}
