//! The declared structs have the size, alignment and field offsets that a C++
//! compiler gives them from the very headers this build used.

use std::fmt::Write as _;
use std::fs;
use std::mem::offset_of;
use std::process::Command;

/// A struct as Rust lays it out.
struct Layout {
    name: &'static str,
    size: usize,
    align: usize,
    fields: Vec<(&'static str, usize)>,
}

macro_rules! layouts {
    ($($name:ident { $($field:ident),* $(,)? })*) => {
        vec![$(Layout {
            name: stringify!($name),
            size: size_of::<llama_sys::$name>(),
            align: align_of::<llama_sys::$name>(),
            fields: vec![$((stringify!($field), offset_of!(llama_sys::$name, $field))),*],
        }),*]
    };
}

/// Every struct that crosses the FFI by value, and those whose fields Rust reads or
/// writes behind a pointer.
#[rustfmt::skip]
fn layouts() -> Vec<Layout> {
    layouts! {
        ggml_backend_dev_caps { async_, host_buffer, buffer_from_host_ptr, events, mmap_support }
        ggml_backend_dev_props { name, description, memory_free, memory_total, type_, device_id, caps }
        ggml_backend_graph_copy { buffer, ctx_allocated, ctx_unallocated, graph }
        ggml_bf16_t { bits }
        ggml_cplan { work_size, work_data, n_threads, threadpool, abort_callback, abort_callback_data, use_ref }
        ggml_init_params { mem_size, mem_buffer, no_alloc }
        ggml_opt_optimizer_params { adamw, sgd }
        ggml_opt_params { backend_sched, ctx_compute, inputs, outputs, loss_type, build_type, opt_period, get_opt_pars, get_opt_pars_ud, optimizer }
        ggml_tallocr { buffer, base, alignment, offset }
        ggml_tensor { type_, buffer, ne, nb, op, op_params, flags, src, view_src, view_offs, data, name, extra, padding }
        ggml_threadpool_params { cpumask, n_threads, prio, poll, strict_cpu, paused }
        gguf_init_params { no_alloc, ctx }
        llama_batch { n_tokens, token, embd, pos, n_seq_id, seq_id, logits }
        llama_chat_message { role, content }
        llama_context_params { n_ctx, n_batch, n_ubatch, n_seq_max, n_rs_seq, n_outputs_max, n_outputs_max_per_seq, n_threads, n_threads_batch, ctx_type, rope_scaling_type, pooling_type, attention_type, flash_attn_type, rope_freq_base, rope_freq_scale, yarn_ext_factor, yarn_attn_factor, yarn_beta_fast, yarn_beta_slow, yarn_orig_ctx, defrag_thold, cb_eval, cb_eval_user_data, type_k, type_v, moe_cache_size, abort_callback, abort_callback_data, embeddings, offload_kqv, no_perf, op_offload, swa_full, kv_unified, samplers, n_samplers, ctx_other }
        llama_embd { data, n_rows, n_embd }
        llama_logit_bias { token, bias }
        llama_model_kv_override { tag, key, __bindgen_anon_1 }
        llama_model_params { devices, tensor_buft_overrides, n_gpu_layers, split_mode, load_mode, lazy_mode, main_gpu, tensor_split, progress_callback, progress_callback_user_data, kv_overrides, vocab_only, check_tensors, use_extra_bufts, no_host, no_alloc, load_mtp }
        llama_model_quantize_params { nthread, ftype, output_tensor_type, token_embedding_type, allow_requantize, quantize_output_tensor, only_copy, pure_, keep_split, dry_run, imatrix, kv_overrides, tt_overrides, prune_layers, max_buf_size }
        llama_model_tensor_buft_override { pattern, buft }
        llama_opt_params { n_ctx_train, param_filter, param_filter_ud, get_opt_pars, get_opt_pars_ud, optimizer_type }
        llama_perf_context_data { t_start_ms, t_load_ms, t_p_eval_ms, t_eval_ms, n_p_eval, n_eval, n_reused, n_reallocs_same, n_reallocs_diff }
        llama_perf_sampler_data { t_sample_ms, n_sample }
        llama_sampler { iface, ctx }
        llama_sampler_chain_params { no_perf }
        llama_sampler_i { name, accept, apply, reset, clone, free, backend_init, backend_accept, backend_apply, backend_set_input, backend_reset, copy_state }
        llama_sampler_seq_config { seq_id, sampler }
        llama_shim_gguf_kv { key, type_, element_type, n, data, string }
        llama_shim_gguf_tensor { name, type_, ne, offset, size }
        llama_shim_memory_entry { buft, buft_name, dev, dev_name, is_host, model, context, moe_cache, compute }
        llama_shim_moe_cache_counts { hits, misses, bytes }
        llama_shim_moe_cache_stats { up_to_8, up_to_32, copied }
        llama_shim_moe_cache_group { dev, layers, n_layers, n_expert, n_slots }
        llama_shim_tensor { name, type_, n_dims, ne, bytes, buft, buft_name, dev, dev_name, is_host, duplicate }
        llama_shim_token { text, score, attr, is_control, is_eog }
        llama_shim_weight_hparams { n_expert_used, n_embd_head, n_head, n_embd_inp, ssm_d_state, ssm_d_inner, ssm_n_group }
        llama_shim_weight_place { dev, buft }
        llama_shim_weight_use { layer, op, block }
        llama_token_data { id, logit, p }
        llama_token_data_array { data, size, selected, sorted }
    }
}

#[test]
fn layouts_match_the_headers() {
    let mut source = String::from(
        "#include <cstddef>\n#include \"llama.h\"\n#include \"llama_shim.h\"\n\
         #define SAME(what, n) static_assert((what) == (n), #what \" is not \" #n)\n",
    );
    for layout in layouts() {
        let name = layout.name;
        // The C tag: llama.h has no typedef for some of them.
        writeln!(source, "SAME(sizeof(struct {name}), {});", layout.size).unwrap();
        writeln!(source, "SAME(alignof(struct {name}), {});", layout.align).unwrap();
        for (field, offset) in layout.fields {
            let field = c_field(field);
            writeln!(source, "SAME(offsetof(struct {name}, {field}), {offset});").unwrap();
        }
    }
    let source = source
        // Typedef names of anonymous structs take no `struct`.
        .replace("struct ggml_bf16_t", "ggml_bf16_t");
    let dir = tempfile::tempdir().expect("a scratch folder");
    let file = dir.path().join("layout.cpp");
    fs::write(&file, source).expect("a scratch file");

    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-std=c++17", "-fsyntax-only", "-Wno-invalid-offsetof"]);
    for include in std::env::split_paths(env!("LLAMA_SYS_INCLUDE")) {
        command.arg("-I").arg(include);
    }
    let output = command.arg(&file).output().expect("the C++ compiler runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// bindgen renames C++ keywords and what has no name of its own.
fn c_field(field: &str) -> &str {
    match field {
        "__bindgen_anon_1" => "val_i64",
        other => other.trim_end_matches('_'),
    }
}

#[test]
fn the_list_is_complete() {
    let text = include_str!("../src/bindings.rs");
    let layouts = layouts();
    let listed = |name: &str| layouts.iter().find(|layout| layout.name == name);

    // Each struct of the list has all its fields there, in order.
    for layout in &layouts {
        let start = format!("pub struct {} {{\n", layout.name);
        let (_, body) = text.split_once(&start).expect(layout.name);
        let (body, _) = body.split_once("\n}").expect(layout.name);
        let declared: Vec<&str> = body
            .lines()
            .filter_map(|line| line.strip_prefix("    pub ")?.split(':').next())
            .collect();
        let tested: Vec<&str> = layout.fields.iter().map(|(field, _)| *field).collect();
        assert_eq!(tested, declared, "{}", layout.name);
    }

    // Each struct that a function takes or returns by value is in the list.
    let structs: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub struct ")?.strip_suffix(" {"))
        .collect();
    for name in structs.iter().filter(|name| listed(name).is_none()) {
        for by_value in [
            format!(": {name},\n"),
            format!(": {name})"),
            format!("-> {name};"),
        ] {
            let function = text
                .split("    pub fn ")
                .skip(1)
                .map(|rest| rest.split_inclusive(';').next().unwrap_or(rest))
                .find(|declaration| declaration.contains(&by_value));
            assert!(
                function.is_none(),
                "{name} is passed by value by {function:?}"
            );
        }
    }
}
