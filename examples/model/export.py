"""Writes the trained weights as a GGUF file that llama.cpp loads."""

import gguf
import numpy as np

from tokens import CHAT_TEMPLATE, END, N_VOCAB, PAD, SPECIAL

NAME = "moe-guide"
# Logits are written four times as large as trained, which changes no ranking: at a usual
# temperature of 0.8 the sampler then acts as at 0.2, and keeps to one answer.
SHARPNESS = 4.0


def write_gguf(path, params, tokenizer, shape):
    """One file: metadata, tokenizer, chat template, tensors (matrices Q8_0, the rest F32)."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(NAME)
    writer.add_description("A guide to MoE offloading with llama-moe, trained from scratch for this project")
    writer.add_license("MIT OR Apache-2.0")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_rope_dimension_count(shape.n_rot)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.rms_eps)
    writer.add_expert_count(shape.n_expert)
    writer.add_expert_used_count(shape.n_expert_used)
    _add_tokenizer(writer, tokenizer)
    for name, data in tensors(params, shape):
        if data.ndim == 1 or "gate_inp" in name:
            writer.add_tensor(name, data)
        else:
            packed = gguf.quants.quantize(data, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer, tokenizer):
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    assert [token for _, token in vocab] == list(range(N_VOCAB))
    names = [name for name, _ in vocab]
    kinds = [gguf.TokenType.CONTROL if name in SPECIAL else gguf.TokenType.NORMAL for name in names]
    model = _bpe(tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(names)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(PAD)
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _bpe(tokenizer):
    import json

    return json.loads(tokenizer.to_str())["model"]


def tensors(params, shape):
    """Names and data as llama.cpp wants them: a matrix is [out, in]."""
    plain = lambda leaf: np.ascontiguousarray(np.asarray(leaf, np.float32))
    yield "token_embd.weight", plain(params["token_embd"])
    for i in range(shape.n_layer):
        for name, leaf in params["blk"].items():
            data = np.asarray(leaf[i], np.float32)
            if data.ndim > 1:
                data = np.swapaxes(data, -1, -2)
            if name in ("attn_q", "attn_k"):
                data = interleave(data, shape.n_rot)
            yield f"blk.{i}.{name}.weight", plain(data)
    yield "output_norm.weight", plain(params["output_norm"])
    yield "output.weight", plain(np.asarray(params["output"]).T * SHARPNESS)


def interleave(rows, n_rot):
    """Brings the halves of each head together, as llama.cpp rotates neighbouring pairs."""
    return rows.reshape(-1, 2, n_rot // 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def separate(rows, n_rot):
    """The inverse of `interleave`."""
    return rows.reshape(-1, n_rot // 2, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)
