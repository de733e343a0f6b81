//! Real GGUF files, small, written by ggml's own writer at run time.

use std::ffi::{CStr, CString, c_void};
use std::path::Path;
use std::ptr;

use llama_sys as sys;

/// The shape of the test model: a qwen3moe with routed experts in every layer.
pub const LAYERS: usize = 4;
pub const EXPERTS: usize = 8;
const EXPERTS_USED: u32 = 2;
const EMBD: i64 = 64;
const HEAD: i64 = 32;
const HEADS: i64 = 2;
const FF_EXPERT: i64 = 96;

/// Bytes of all expert tensors: gate, up and down of every expert, in F32.
pub const EXPERT_BYTES: u64 =
    (LAYERS * EXPERTS) as u64 * 3 * (EMBD * FF_EXPERT) as u64 * size_of::<f32>() as u64;

/// Writes a complete, loadable MoE model with random weights (fixed seed).
pub fn write_moe(path: &Path) {
    Writer::moe().write(path);
}

/// A GGUF under construction: `gguf_context` for the header, `ggml_context` for
/// the tensors' data.
pub struct Writer {
    header: *mut sys::gguf_context,
    tensors: *mut sys::ggml_context,
    random: u64,
}

impl Writer {
    fn new() -> Self {
        let params = sys::ggml_init_params {
            mem_size: 16 << 20,
            mem_buffer: ptr::null_mut(),
            no_alloc: false,
        };
        // SAFETY: both constructors take plain values and return owned handles,
        // freed in drop.
        let (header, tensors) = unsafe { (sys::gguf_init_empty(), sys::ggml_init(params)) };
        assert!(!header.is_null() && !tensors.is_null());
        Self {
            header,
            tensors,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// The test model, complete.
    pub fn moe() -> Self {
        let mut file = Writer::new();
        file.hyperparameters();
        let n_vocab = file.vocabulary();

        file.tensor("token_embd.weight", &[EMBD, n_vocab]);
        file.tensor("output_norm.weight", &[EMBD]);
        file.tensor("output.weight", &[EMBD, n_vocab]);
        for layer in 0..LAYERS {
            for (name, shape) in [
                ("attn_norm", vec![EMBD]),
                ("attn_q", vec![EMBD, HEAD * HEADS]),
                ("attn_k", vec![EMBD, HEAD * HEADS]),
                ("attn_v", vec![EMBD, HEAD * HEADS]),
                ("attn_q_norm", vec![HEAD]),
                ("attn_k_norm", vec![HEAD]),
                ("attn_output", vec![HEAD * HEADS, EMBD]),
                ("ffn_norm", vec![EMBD]),
                ("ffn_gate_inp", vec![EMBD, EXPERTS as i64]),
                ("ffn_gate_exps", vec![EMBD, FF_EXPERT, EXPERTS as i64]),
                ("ffn_up_exps", vec![EMBD, FF_EXPERT, EXPERTS as i64]),
                ("ffn_down_exps", vec![FF_EXPERT, EMBD, EXPERTS as i64]),
            ] {
                file.tensor(&format!("blk.{layer}.{name}.weight"), &shape);
            }
        }
        file
    }

    fn hyperparameters(&mut self) {
        self.string("general.architecture", "qwen3moe");
        self.string("general.name", "llama-sys test model");
        for (key, value) in [
            ("block_count", LAYERS as u32),
            ("context_length", 512),
            ("embedding_length", EMBD as u32),
            ("feed_forward_length", 2 * FF_EXPERT as u32),
            ("attention.head_count", HEADS as u32),
            ("attention.head_count_kv", HEADS as u32),
            ("attention.key_length", HEAD as u32),
            ("attention.value_length", HEAD as u32),
            ("expert_count", EXPERTS as u32),
            ("expert_used_count", EXPERTS_USED),
            ("expert_feed_forward_length", FF_EXPERT as u32),
        ] {
            self.u32(&format!("qwen3moe.{key}"), value);
        }
        self.f32("qwen3moe.attention.layer_norm_rms_epsilon", 1e-6);
        self.f32("qwen3moe.rope.freq_base", 10_000.0);
    }

    /// A header with a byte-level BPE vocabulary and nothing else: one token for each of the
    /// 256 bytes. `pre` names the pattern that splits a text.
    pub fn bpe(pre: &str) -> Self {
        let mut file = Writer::new();
        file.hyperparameters();
        file.string("tokenizer.ggml.model", "gpt2");
        file.string("tokenizer.ggml.pre", pre);
        // A byte that cannot be printed stands as a character from U+0100 on.
        let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let mut others = 0x100..;
        let tokens: Vec<CString> = (0..256u32)
            .map(|byte| {
                let code = if printable(byte) {
                    byte
                } else {
                    others.next().expect("numbers go on")
                };
                c_string(&char::from_u32(code).expect("a character").to_string())
            })
            .collect();
        file.strings("tokenizer.ggml.tokens", &tokens);
        // A list of merges is obligatory; this one never happens.
        file.strings("tokenizer.ggml.merges", &[c_string("\u{4e00} \u{4e00}")]);
        file
    }

    /// A LoRA adapter for the first layer's query projection of the test model.
    pub fn lora() -> Self {
        const RANK: i64 = 4;
        let mut file = Writer::new();
        file.string("general.type", "adapter");
        file.string("general.architecture", "qwen3moe");
        file.string("adapter.type", "lora");
        file.f32("adapter.lora.alpha", 64.0);
        file.tensor("blk.0.attn_q.weight.lora_a", &[EMBD, RANK]);
        file.tensor("blk.0.attn_q.weight.lora_b", &[RANK, HEAD * HEADS]);
        file
    }

    /// The header, for as long as the writer lives.
    pub fn header(&self) -> *mut sys::gguf_context {
        self.header
    }

    /// The values of a tensor, if there is one of this name.
    pub fn data(&self, name: &CStr) -> Option<&[f32]> {
        // SAFETY: a live context and a NUL-terminated name; the tensors are F32 and have
        // their data in the context.
        unsafe {
            let tensor = sys::ggml_get_tensor(self.tensors, name.as_ptr());
            (!tensor.is_null()).then(|| {
                std::slice::from_raw_parts(
                    sys::ggml_get_data_f32(tensor),
                    sys::ggml_nelements(tensor) as usize,
                )
            })
        }
    }

    pub fn string(&mut self, key: &str, value: &str) {
        let (key, value) = (c_string(key), c_string(value));
        // SAFETY: a live header and NUL-terminated strings, which are copied.
        unsafe { sys::gguf_set_val_str(self.header, key.as_ptr(), value.as_ptr()) }
    }

    pub fn u32(&mut self, key: &str, value: u32) {
        let key = c_string(key);
        // SAFETY: as in `string`.
        unsafe { sys::gguf_set_val_u32(self.header, key.as_ptr(), value) }
    }

    pub fn f32(&mut self, key: &str, value: f32) {
        let key = c_string(key);
        // SAFETY: as in `string`.
        unsafe { sys::gguf_set_val_f32(self.header, key.as_ptr(), value) }
    }

    pub fn remove(&mut self, key: &str) {
        let key = c_string(key);
        // SAFETY: as in `string`; an absent key is reported by -1.
        assert!(unsafe { sys::gguf_remove_key(self.header, key.as_ptr()) } >= 0);
    }

    fn strings(&mut self, key: &str, values: &[CString]) {
        let key = c_string(key);
        let mut pointers: Vec<_> = values.iter().map(|value| value.as_ptr()).collect();
        // SAFETY: `pointers` holds as many strings as its length says; all are copied.
        unsafe {
            sys::gguf_set_arr_str(
                self.header,
                key.as_ptr(),
                pointers.as_mut_ptr(),
                pointers.len(),
            );
        }
    }

    fn numbers<T: Copy>(&mut self, key: &str, kind: sys::gguf_type, values: &[T]) {
        let key = c_string(key);
        let data = values.as_ptr().cast::<c_void>();
        // SAFETY: `values` holds that many elements of the size that `kind` says; copied.
        unsafe { sys::gguf_set_arr_data(self.header, key.as_ptr(), kind, data, values.len()) }
    }

    /// A SentencePiece vocabulary: three specials, 256 bytes, the printable ASCII
    /// characters and a few longer pieces. Returns the number of tokens.
    fn vocabulary(&mut self) -> i64 {
        const UNKNOWN: i32 = 2;
        const CONTROL: i32 = 3;
        const NORMAL: i32 = 1;
        const BYTE: i32 = 6;
        let mut tokens = vec![
            (c_string("<unk>"), 0.0, UNKNOWN),
            (c_string("<s>"), 0.0, CONTROL),
            (c_string("</s>"), 0.0, CONTROL),
        ];
        tokens.extend((0..=255).map(|byte| (c_string(&format!("<0x{byte:02X}>")), 0.0, BYTE)));
        for (rank, piece) in ["\u{2581}", "expert", "\u{2581}the"]
            .into_iter()
            .enumerate()
        {
            tokens.push((c_string(piece), -(rank as f32), NORMAL));
        }
        for character in '!'..='~' {
            tokens.push((c_string(&character.to_string()), -100.0, NORMAL));
        }
        let texts: Vec<CString> = tokens.iter().map(|(text, _, _)| text.clone()).collect();
        let scores: Vec<f32> = tokens.iter().map(|(_, score, _)| *score).collect();
        let types: Vec<i32> = tokens.iter().map(|(_, _, kind)| *kind).collect();
        self.string("tokenizer.ggml.model", "llama");
        self.strings("tokenizer.ggml.tokens", &texts);
        self.numbers("tokenizer.ggml.scores", sys::GGUF_TYPE_FLOAT32, &scores);
        self.numbers("tokenizer.ggml.token_type", sys::GGUF_TYPE_INT32, &types);
        self.u32("tokenizer.ggml.unknown_token_id", 0);
        self.u32("tokenizer.ggml.bos_token_id", 1);
        self.u32("tokenizer.ggml.eos_token_id", 2);
        texts.len() as i64
    }

    /// Adds an F32 tensor with random values around zero (around one for norms).
    pub fn tensor(&mut self, name: &str, shape: &[i64]) {
        let c_name = c_string(name);
        let center = if name.contains("_norm") { 1.0 } else { 0.0 };
        // SAFETY: `shape` holds as many extents as its length says; the context was
        // made with room for the data, which the tensor owns.
        let data = unsafe {
            let tensor = sys::ggml_new_tensor(
                self.tensors,
                sys::GGML_TYPE_F32,
                shape.len() as i32,
                shape.as_ptr(),
            );
            assert!(!tensor.is_null());
            sys::ggml_set_name(tensor, c_name.as_ptr());
            let elements = sys::ggml_nelements(tensor) as usize;
            let data = std::slice::from_raw_parts_mut(sys::ggml_get_data_f32(tensor), elements);
            sys::gguf_add_tensor(self.header, tensor);
            data
        };
        for value in data {
            *value = center + 0.08 * self.uniform();
        }
    }

    pub fn write(&self, path: &Path) {
        let path = c_string(path.to_str().expect("a UTF-8 path"));
        // SAFETY: a live header whose tensors are alive, too.
        assert!(unsafe { sys::gguf_write_to_file(self.header, path.as_ptr(), false) });
    }

    /// Uniform in [-1, 1), by xorshift.
    fn uniform(&mut self) -> f32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // SAFETY: owned handles, freed once; the header holds no tensor data.
        unsafe {
            sys::gguf_free(self.header);
            sys::ggml_free(self.tensors);
        }
    }
}

pub fn c_string(text: &str) -> CString {
    CString::new(text).expect("no NUL in test data")
}
