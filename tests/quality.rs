//! Quality: a model held against itself, against itself on another device, and against models
//! that are worse.
#![cfg(all(feature = "measure", feature = "rpc"))]

use std::fs;
use std::path::{Path, PathBuf};

use llama_moe::measure::quality::{
    Check, Chunks, Divergence, Embeddings, GreedyOutput, Perplexity, QualityError, Task,
    TaskResults, compare, log_probability, perplexity, record, run_tasks,
};
use llama_moe::{
    AbortToken, Chat, ChatParams, ChatTemplate, Context, ContextParams, DecodeError, Error, Model,
    ModelParams, PoolingType, Result, Token,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

mod support;
use support::decode::{context, decode, greedy, model, n_vocab, prompt, small};
use support::layouts::{Layout, N_EMBD};
use support::others::{encoder, encoder_decoder};
use support::worker::worker;
use support::{backend, file, on_cpu};

#[test]
fn worker_process() {
    support::worker::serve_if_asked();
}

const N_CTX: u32 = 32;

/// A text of several chunks.
const TEXT: &str = "the router sends each token to the experts in memory, and the layer \
    adds what they say: on the CPU the expert's memory is large, the token's layer small. \
    A layer without a router sends every token the same way; the memory on the device is \
    left to attention.";

fn chunks(model: &Model) -> Chunks {
    Chunks::new(&model.vocab(), TEXT, N_CTX).expect("chunks")
}

/// A base of this layout, recorded.
fn recorded(layout: Layout) -> (tempfile::TempDir, PathBuf, Model, Perplexity) {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("base.logits");
    let model = model(layout);
    let base = record(&mut context(&model), &chunks(&model), &path).expect("a recorded base");
    (dir, path, model, base)
}

fn bundled(params: ModelParams) -> Model {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/model/moe-guide-q8_0.gguf");
    Model::load(&backend(), path, params).expect("the bundled model")
}

/// Through JSON and back.
fn kept<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let json = serde_json::to_string(value).expect("JSON");
    serde_json::from_str(&json).expect("what was written")
}

fn generate(context: &mut Context, n: usize) -> Vec<Token> {
    context.memory().clear().expect("a memory");
    let mut next = greedy(&decode(context, &prompt(12), 0, 0));
    let mut tokens = Vec::new();
    for pos in (12..).take(n) {
        tokens.push(next);
        next = greedy(&decode(context, &[next], pos, 0));
    }
    tokens
}

fn refused<T: std::fmt::Debug>(result: Result<T>) -> QualityError {
    match result.expect_err("an error") {
        Error::Quality(error) => error,
        error => panic!("{error:?}"),
    }
}

#[test]
fn a_model_is_equal_to_itself() {
    for layout in [Layout::Qwen3Moe, Layout::DeepSeek2] {
        let (_dir, path, first, base) = recorded(layout);
        let second = model(layout);
        let divergence = compare(&mut context(&second), &path).unwrap();
        assert_eq!(divergence.values, vec![0.0; chunks(&first).n_scored()]);
        assert_eq!((divergence.mean, divergence.max), (0.0, 0.0));
        assert_eq!(divergence.same_top_rate, 1.0);
        assert_eq!(divergence.base, base);
        assert_eq!(divergence.variant, base);
        assert_eq!(kept(&divergence), divergence);

        let [one, other] = [&first, &second].map(|model| {
            let tokens = generate(&mut context(model), 24);
            GreedyOutput::new(&model.vocab(), &tokens).unwrap()
        });
        let difference = kept(&one).compare(&other);
        assert!(difference.is_identical());
        assert_eq!(
            (difference.token_distance, difference.char_distance),
            (0, 0)
        );
        assert_eq!(
            (difference.base_tokens, difference.variant_tokens),
            (24, 24)
        );
        assert!(difference.base_chars > 0);
    }
}

/// What is scored, and with which logits, worked out another way: one token at a time.
#[test]
fn the_second_half_of_each_chunk_is_scored() {
    let model = model(Layout::Qwen3Moe);
    let vocab = model.vocab();
    let chunks = chunks(&model);
    let tokens = vocab.tokenize(TEXT, true, false).unwrap();
    let n_chunks = tokens.len() / N_CTX as usize;
    assert!(
        n_chunks >= 4 && !tokens.len().is_multiple_of(N_CTX as usize),
        "{}",
        tokens.len()
    );
    assert_eq!((chunks.len(), chunks.n_scored()), (n_chunks, n_chunks * 15));

    let mut context = context(&model);
    let mut expected = Vec::new();
    for chunk in tokens.chunks_exact(N_CTX as usize) {
        let mut chunk = chunk.to_vec();
        chunk[0] = vocab.bos().unwrap();
        context.memory().clear().unwrap();
        for pos in 0..31 {
            let logits = decode(&mut context, &chunk[pos..=pos], pos as u32, 0);
            if pos >= 16 {
                expected.push(-log_probability(&logits, chunk[pos + 1]).unwrap());
            }
        }
    }
    let found = perplexity(&mut context, &chunks).unwrap();
    assert_eq!(found.nll.len(), expected.len());
    let pairs = found.nll.iter().zip(&expected);
    let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    // The kernels for one token add up in another order.
    assert!(largest < 0.05, "{largest}");
    let mean = expected.iter().sum::<f64>() / expected.len() as f64;
    assert!((found.value / mean.exp() - 1.0).abs() < 0.05, "{found}");
}

#[test]
fn small_batches_score_the_same() {
    let model = model(Layout::Qwen3Moe);
    let chunks = chunks(&model).truncated(2);
    assert_eq!(chunks.n_scored(), 30);
    let whole = perplexity(&mut context(&model), &chunks).unwrap();
    // Pieces that end before, within and at the end of the scored half.
    for params in [
        small().with_n_batch(7),
        small().with_n_outputs_max(5),
        small().with_n_batch(16),
        small().with_embeddings(true),
    ] {
        let mut context = model.context(params).unwrap();
        let pieces = perplexity(&mut context, &chunks).unwrap();
        assert_eq!(pieces.nll.len(), whole.nll.len());
        let pairs = pieces.nll.iter().zip(&whole.nll);
        let largest = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(largest < 0.05, "{largest}");
        // The memory is left empty.
        assert_eq!(context.memory().positions(0).unwrap(), None);
    }
}

#[test]
fn a_trained_model_knows_its_text() {
    let model = bundled(on_cpu());
    let text = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/model/corpus/about.txt"),
    )
    .unwrap();
    let backwards: String = text.chars().rev().collect();
    let mut context = model.context(small()).unwrap();
    let mut measure = |text: &str| {
        let chunks = Chunks::new(&model.vocab(), text, 128).unwrap().truncated(3);
        perplexity(&mut context, &chunks).unwrap()
    };
    let (known, unknown) = (measure(&text), measure(&backwards));
    assert!(known.value > 1.0 && known.standard_error > 0.0, "{known}");
    assert!(unknown.value > 5.0 * known.value, "{known}, {unknown}");
}

#[test]
fn a_worker_with_the_same_kernels_changes_nothing() {
    let worker = worker();
    let (_dir, model_file) = file(Layout::Mixtral);
    let load = |params: ModelParams| {
        let params = params.with_extra_buffer_types(false);
        Model::load(&backend(), &model_file, params).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.logits");
    let base = load(on_cpu());
    record(&mut context(&base), &chunks(&base), &path).unwrap();
    let split = load(
        ModelParams::default()
            .with_devices([worker.device])
            .with_cpu_moe_all(),
    );
    let divergence = compare(&mut context(&split), &path).unwrap();
    assert_eq!((divergence.max, divergence.same_top_rate), (0.0, 1.0));
}

#[test]
fn experts_on_the_cpu_stay_within_a_bound() {
    let worker = worker();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.logits");
    for layout in [Layout::Mixtral, Layout::GptOss, Layout::DeepSeek2] {
        let (_dir, model_file) = file(layout);
        let load = |params: ModelParams| {
            let params = params.with_devices([worker.device]);
            Model::load(&backend(), &model_file, params).unwrap()
        };
        let base = load(ModelParams::default());
        record(&mut context(&base), &chunks(&base), &path).unwrap();
        // Repacked experts have kernels that add up in another order: a thousandth of a nat,
        // where about a millionth was seen.
        let split = load(ModelParams::default().with_cpu_moe_all());
        let divergence = compare(&mut context(&split), &path).unwrap();
        println!("{layout:?}: {divergence}");
        assert!(divergence.mean < 1e-3, "{layout:?}: {divergence}");
        assert!(divergence.same_top_rate > 0.95, "{layout:?}: {divergence}");
    }
}

#[test]
fn worse_weights_are_worse() {
    let layout = Layout::Qwen3Moe;
    let (_dir, path, model, base) = recorded(layout);
    let tensor = "blk.2.ffn_down_exps.weight";
    let shape = layout.tensors().into_iter().find(|t| t.name == tensor);
    let shape = shape.unwrap().shape;
    let mut last = compare(&mut context(&model), &path).unwrap();
    // The same weights, larger and larger.
    for factor in [1.01, 1.5, 6.0] {
        let deviation = factor / (shape[0] as f32).sqrt();
        let mut worse = layout.writer();
        worse
            .remove_tensor(tensor)
            .random(tensor, &shape, layout.expert_type(), deviation);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("worse.gguf");
        worse.write(&file);
        let worse = Model::load(&backend(), &file, on_cpu()).unwrap();
        let found = compare(&mut context(&worse), &path).unwrap();
        println!("{factor}: {found}");
        assert_eq!(found.base, base);
        assert!(found.mean > 2.0 * last.mean, "{factor}: {found}");
        assert!(found.max >= found.p99 && found.p99 >= found.median);
        assert!(found.max > found.mean && found.mean > 0.0);
        assert!(found.same_top_rate <= last.same_top_rate, "{factor}");
        last = found;
    }
    assert!(last.mean > 0.1 && last.same_top_rate < 0.95, "{last}");
}

#[test]
fn embeddings_are_held_against_each_other() {
    let texts = ["the expert", "on the CPU", "a layer of memory"];
    let of = |layout: Layout| {
        let params = small()
            .with_embeddings(true)
            .with_pooling_type(PoolingType::Mean);
        let mut context = model(layout).context(params).unwrap();
        Embeddings::new(&mut context, &texts).unwrap()
    };
    let base = of(Layout::Qwen3Moe);
    assert_eq!(base.vectors.len(), 3);
    assert!(base.vectors.iter().all(|v| v.len() as u64 == N_EMBD));
    let same = kept(&base).compare(&of(Layout::Qwen3Moe)).unwrap();
    assert_eq!((same.mean, same.min), (1.0, 1.0));
    assert_eq!(kept(&same), same);
    let other = base.compare(&of(Layout::Mixtral)).unwrap();
    assert!(other.mean < 0.9 && other.min <= other.mean, "{other:?}");
    let swapped = Embeddings::new(
        &mut model(Layout::Qwen3Moe)
            .context(
                small()
                    .with_embeddings(true)
                    .with_pooling_type(PoolingType::Mean),
            )
            .unwrap(),
        &[texts[1], texts[0], texts[2]],
    );
    let swapped = base.compare(&swapped.unwrap()).unwrap();
    assert_eq!(swapped.cosines[2], 1.0);
    assert!(swapped.cosines[0] < 0.99 && swapped.cosines[1] < 0.99);
}

#[test]
fn embeddings_take_a_context_for_them() {
    let model = model(Layout::Qwen3Moe);
    let none: [&str; 0] = [];
    let error = Embeddings::new(&mut context(&model), &none);
    assert_eq!(refused(error), QualityError::NoTexts);
    let error = Embeddings::new(&mut context(&model), &["text"]).unwrap_err();
    assert!(matches!(error, Error::Output(_)), "{error:?}");
}

#[test]
fn models_with_an_encoder_have_embeddings() {
    for writer in [encoder(), encoder_decoder()] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        writer.write(&path);
        let model = Model::load(&backend(), &path, on_cpu()).unwrap();
        let params = small()
            .with_embeddings(true)
            .with_pooling_type(PoolingType::Mean);
        let mut context = model.context(params).unwrap();
        let texts = ["the expert", "on the CPU"];
        let [one, other] = [(); 2].map(|()| Embeddings::new(&mut context, &texts).unwrap());
        assert_ne!(one.vectors[0], one.vectors[1]);
        assert_eq!(one.compare(&other).unwrap().min, 1.0);
    }
}

#[test]
fn an_encoder_predicts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    encoder().write(&path);
    let model = Model::load(&backend(), &path, on_cpu()).unwrap();
    let error = perplexity(&mut context(&model), &chunks(&model)).unwrap_err();
    assert!(matches!(error, Error::Memory(_)), "{error:?}");
}

#[test]
fn texts_and_contexts_have_to_be_long_enough() {
    let model = model(Layout::Qwen3Moe);
    let vocab = model.vocab();
    let error = refused(Chunks::new(&vocab, TEXT, 7));
    assert_eq!(error, QualityError::ChunkTooShort { n_ctx: 7, min: 8 });
    let error = refused(Chunks::new(&vocab, "the expert", 32));
    assert!(
        matches!(error, QualityError::TextTooShort { n_tokens, n_ctx: 32 } if n_tokens < 32),
        "{error}"
    );
    let chunks = Chunks::new(&vocab, &TEXT.repeat(5), 300).unwrap();
    let error = refused(perplexity(&mut context(&model), &chunks));
    assert_eq!(
        error,
        QualityError::ContextTooSmall {
            chunk: 300,
            n_ctx_seq: 256
        }
    );
    // A failed recording leaves nothing behind.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.logits");
    refused(record(&mut context(&model), &chunks, &path));
    assert!(!path.exists());
    let path = dir.path().join("missing/base.logits");
    let error = record(&mut context(&model), &chunks, &path).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error:?}");
}

/// A device without space, under a name that may be lost.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("base.logits");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let model = model(Layout::Qwen3Moe);
    let error = record(&mut context(&model), &chunks(&model), &path).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error:?}");
    // What is left half written is removed, but not what is no file.
    assert!(path.exists());
}

/// The checksum that a file of these bytes ends with.
fn checksum(bytes: &[u8]) -> [u8; 8] {
    let start = 14_695_981_039_346_656_037;
    let step = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(1_099_511_628_211);
    bytes.iter().fold(start, step).to_le_bytes()
}

#[test]
fn the_file_is_as_documented() {
    let (_dir, path, model, base) = recorded(Layout::Qwen3Moe);
    let chunks = chunks(&model);
    let bytes = fs::read(&path).unwrap();
    let (content, sum) = bytes.split_at(bytes.len() - 8);
    assert_eq!(sum, checksum(content));
    assert!(content.starts_with(b"moelogit"));
    let numbers = |range: std::ops::Range<usize>| -> Vec<u32> {
        let words = content[range].chunks_exact(4);
        words
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect()
    };
    let sizes = [1, N_CTX, n_vocab() as u32, chunks.len() as u32];
    assert_eq!(numbers(8..24), sizes);
    let rows = 24 + 4 * chunks.tokens().len();
    let tokens = chunks.tokens().iter().map(|token| token.0 as u32);
    assert_eq!(numbers(24..rows), tokens.collect::<Vec<_>>());
    assert_eq!(content.len(), rows + 4 * chunks.n_scored() * n_vocab());
    // The first row predicts the token after the middle.
    let row: Vec<f32> = numbers(rows..rows + 4 * n_vocab())
        .into_iter()
        .map(f32::from_bits)
        .collect();
    let nll = -log_probability(&row, chunks.tokens()[17]).unwrap();
    assert_eq!(nll, base.nll[0]);
}

#[test]
fn hostile_files_are_refused() {
    let (dir, path, model, _) = recorded(Layout::Qwen3Moe);
    let good = fs::read(&path).unwrap();
    let mut context = context(&model);
    let mut compared = |bytes: &[u8]| -> Result<Divergence> {
        fs::write(&path, bytes).unwrap();
        compare(&mut context, &path)
    };
    let mut reason = |bytes: &[u8]| match refused(compared(bytes)) {
        QualityError::LogitsFile { reason, .. } => reason,
        error => panic!("{error}"),
    };
    let changed = |at: usize, word: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        let end = bytes.len() - 8;
        let sum = checksum(&bytes[..end]);
        bytes[end..].copy_from_slice(&sum);
        bytes
    };
    let rows = 24 + 4 * chunks(&model).tokens().len();

    // Lengths that do not agree.
    for length in [0, 7, 23] {
        assert!(reason(&good[..length]).contains("bytes only"), "{length}");
    }
    for length in [24, rows, good.len() - 9, good.len() - 1] {
        assert!(
            reason(&good[..length]).contains("which are not"),
            "{length}"
        );
    }
    assert!(reason(&[&good[..], b"\0"].concat()).contains("which are not"));
    // Sizes that cannot be, or ask for more memory than there is.
    for at in [12, 16, 20] {
        for word in [0, 1, 7, u32::MAX, i32::MAX as u32, 1 << 31] {
            let reason = reason(&changed(at, word));
            assert!(reason.contains("which are not"), "{at} {word}: {reason}");
        }
    }
    // Nothing in it, with a length that agrees.
    let none: Vec<u8> = [b"moelogit".as_slice(), &1u32.to_le_bytes()].concat();
    for sizes in [[0, 0, 0], [8, 3, 0], [0, 300, 0]] {
        let mut bytes = none.clone();
        bytes.extend(sizes.iter().flat_map(|size: &u32| size.to_le_bytes()));
        bytes.extend(checksum(&bytes));
        let reason = reason(&bytes);
        assert!(
            reason.contains("cannot be") || reason.contains("which are not"),
            "{sizes:?}: {reason}"
        );
    }
    assert!(reason(&changed(0, 0)).contains("begins otherwise"));
    assert!(reason(&changed(8, 2)).contains("version is 2"));
    for token in [-1, i32::MIN, n_vocab() as i32] {
        let reason = reason(&changed(28, token as u32));
        assert!(reason.contains("not among"), "{token}: {reason}");
    }
    for logit in [f32::NAN, f32::INFINITY] {
        let reason = reason(&changed(rows + 8, logit.to_bits()));
        assert!(reason.contains("logits is"), "{logit}: {reason}");
    }
    // A damaged logit, and a damaged checksum.
    for at in [rows + 1, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        assert!(reason(&bytes).contains("has changed"), "{at}");
    }
    // After all this, the context still compares.
    assert_eq!(compared(&good).unwrap().max, 0.0);

    assert!(matches!(
        refused(compare(&mut context, dir.path())),
        QualityError::LogitsFile { .. }
    ));
    let error = compare(&mut context, dir.path().join("none")).unwrap_err();
    assert!(matches!(error, Error::File { .. }), "{error:?}");
}

#[test]
fn another_vocabulary_is_no_variant() {
    let (_dir, path, ..) = recorded(Layout::Qwen3Moe);
    let bundled = bundled(on_cpu());
    let error = refused(compare(&mut context(&bundled), &path));
    assert_eq!(
        error,
        QualityError::Vocabulary {
            base: n_vocab(),
            variant: bundled.vocab().n_tokens() as usize
        }
    );
}

fn tasks(name: &str) -> Vec<Task> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/ab/tasks");
    Task::read_all(folder.join(name)).expect("tasks")
}

/// A chat of so few tokens with the bundled model.
fn guide(max_tokens: u32) -> Chat {
    let context = ContextParams::default().with_n_ctx(512).with_n_threads(1);
    let context = context.with_n_threads_batch(1);
    let params = ChatParams::default().with_context(context);
    let chat = bundled(on_cpu()).chat(params.with_max_tokens(max_tokens));
    chat.expect("a chat")
}

fn task(name: &str, check: Check) -> Task {
    Task {
        name: name.to_owned(),
        prompt: "How do I keep the experts on the CPU?".to_owned(),
        check,
    }
}

fn n_passed(results: &TaskResults) -> Vec<usize> {
    results.tasks.iter().map(|task| task.n_passed).collect()
}

#[test]
fn the_bundled_model_solves_its_tasks() {
    let mut chat = guide(128);
    let tasks = tasks("bundled.json");
    assert_eq!(tasks.len(), 10);
    let greedy = run_tasks(&mut chat, &tasks, 1, 1, false).expect("results");
    assert_eq!(n_passed(&greedy), [1; 10], "{greedy:?}");
    assert_eq!(greedy.pass_at_k(1), Some(1.0));
    assert_eq!(kept(&greedy), greedy);
    assert!(chat.messages().is_empty());

    // A check can fail: each question with the answer that the next one takes.
    let mut rotated = tasks.clone();
    for (index, task) in rotated.iter_mut().enumerate() {
        task.check = tasks[(index + 1) % tasks.len()].check.clone();
    }
    let wrong = run_tasks(&mut chat, &rotated, 1, 1, false).expect("results");
    assert_eq!(n_passed(&wrong), [0; 10], "{wrong:?}");
}

#[test]
fn drawn_replies_are_the_same_with_the_same_seed() {
    let mut chat = guide(24);
    let task = task("drawn", Check::Contains("with_cpu_moe_all()".to_owned()));
    let tasks = [task];
    let mut run = |seed| run_tasks(&mut chat, &tasks, 4, seed, false).expect("results");
    let first = run(7);
    assert_eq!((first.tasks[0].n, &first.tasks[0].name[..]), (4, "drawn"));
    assert_eq!(run(7), first);
    assert!(first.pass_at_k(4).is_some() && first.pass_at_k(5).is_none());
    run(u32::MAX);
}

/// With a shell's commands.
#[cfg(unix)]
mod commands {
    use std::time::{Duration, Instant};

    use super::*;

    fn shell(script: &str, timeout: Duration) -> Check {
        Check::Command {
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout,
            test: "the test's own text".to_owned(),
        }
    }

    #[test]
    fn a_command_decides_by_what_it_gets() {
        const LONG: Duration = Duration::from_secs(20);

        let mut chat = guide(24);
        let tasks = [
            task("passes", shell("true", LONG)),
            task("fails", shell("exit 3", LONG)),
            // The reply, and the test's text behind it.
            task("reply", shell("grep -q with_cpu_moe_all", LONG)),
            task(
                "test",
                shell("tail -n 1 | grep -qx \"the test's own text\"", LONG),
            ),
            task("ends itself", shell("kill -9 $$", LONG)),
            // In an empty folder that can be written to, but for the reply.
            task(
                "folder",
                shell("touch a && test \"$(ls)\" = \"a\ninput\"", LONG),
            ),
            task(
                "secrets",
                shell("test -z \"$HOME$CARGO_MANIFEST_DIR\"", LONG),
            ),
            task("slow", shell("sleep 60", Duration::from_millis(200))),
        ];
        let start = Instant::now();
        let results = run_tasks(&mut chat, &tasks, 1, 1, true).expect("results");
        assert_eq!(n_passed(&results), [1, 0, 1, 1, 0, 1, 1, 0], "{results:?}");
        assert!(start.elapsed() < Duration::from_secs(30));
        let ours = format!("llama-moe-task-{}-", std::process::id());
        let left = fs::read_dir(std::env::temp_dir()).expect("the folder");
        for entry in left.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(!name.starts_with(&ours), "{name}");
        }
    }

    #[test]
    fn commands_run_only_where_they_are_allowed() {
        let mut chat = guide(8);
        let folder = tempfile::tempdir().expect("a scratch folder");
        let trace = folder.path().join("trace");
        let script = format!("touch '{}'", trace.display());
        let tasks = [
            task("harmless", Check::Contains("a".to_owned())),
            task("harmful", shell(&script, Duration::from_secs(20))),
        ];
        let error = refused(run_tasks(&mut chat, &tasks, 1, 1, false));
        let task = "harmful".to_owned();
        assert_eq!(error, QualityError::CommandsNotAllowed { task });
        assert!(!trace.exists());
        run_tasks(&mut chat, &tasks, 1, 1, true).expect("results");
        assert!(trace.exists());
    }

    /// Each task is passed by a right function, and not by one that returns its argument.
    #[test]
    fn the_tasks_in_code_tell_right_from_wrong() {
        let right = [
            "is_leap_year = lambda y: y % 4 == 0 and (y % 100 != 0 or y % 400 == 0)",
            "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a",
            "def is_palindrome(t):\n    t = [c for c in t.lower() if c.isalnum()]\n    return t == t[::-1]",
            "from itertools import groupby\nrun_lengths = lambda x: [(k, len(list(g))) for k, g in groupby(x)]",
            "top_k = lambda x, k: sorted(range(len(x)), key=lambda i: -x[i])[:k]",
            "def to_roman(n):\n    out = ''\n    for v, s in zip([1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1], 'M CM D CD C XC L XL X IX V IV I'.split()):\n        out += s * (n // v)\n        n %= v\n    return out",
            "def is_balanced(t):\n    s = []\n    for c in t:\n        if c in '([{':\n            s.append(c)\n        elif c in ')]}' and (not s or s.pop() + c not in ('()', '[]', '{}')):\n            return False\n    return not s",
            "transpose = lambda m: [list(r) for r in zip(*m)]",
            "def human_size(n):\n    if n < 1024:\n        return f'{n} B'\n    for u in ['KiB', 'MiB', 'GiB', 'TiB']:\n        n /= 1024\n        if n < 1024 or u == 'TiB':\n            return f'{n:.1f} {u}'",
            "def merge_intervals(x):\n    out = []\n    for a, b in sorted(x):\n        if out and a <= out[-1][1]:\n            out[-1] = (out[-1][0], max(b, out[-1][1]))\n        else:\n            out.append((a, b))\n    return out",
        ];
        let tasks = tasks("code.json");
        assert_eq!(tasks.len(), right.len());
        for (task, right) in tasks.iter().zip(right) {
            let wrong = format!("def {}(x, *_):\n    return x", task.name);
            assert!(solves(task, right), "{}", task.name);
            assert!(!solves(task, &wrong), "{}", task.name);
        }
    }

    /// Whether the task's command ends well with this function. No model at hand writes one, so it
    /// is given it by hand.
    fn solves(task: &Task, function: &str) -> bool {
        use std::io::Write;
        use std::process::{Command, Stdio};

        let Check::Command { argv, test, .. } = &task.check else {
            panic!("{task:?}");
        };
        let mut child = Command::new(&argv[0])
            .args(&argv[1..])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python");
        let mut stdin = child.stdin.take().expect("its input");
        write!(stdin, "{function}\n{test}\n").expect("written");
        drop(stdin);
        child.wait().expect("its end").success()
    }

    #[test]
    fn a_command_that_is_not_there_is_no_failed_check() {
        let mut chat = guide(8);
        let check = Check::Command {
            argv: vec!["no-such-program-anywhere".to_owned()],
            timeout: Duration::from_secs(1),
            test: String::new(),
        };
        let error = refused(run_tasks(&mut chat, &[task("none", check)], 1, 1, true));
        assert!(matches!(error, QualityError::Command { .. }), "{error}");
        assert!(error.to_string().contains("no-such-program-anywhere"));
    }
}

#[test]
fn files_that_are_no_tasks_are_refused() {
    let dir = tempfile::tempdir().expect("a scratch folder");
    let path = dir.path().join("tasks.json");
    let one = r#"{"name":"a","prompt":"b","check":{"contains":"c"}}"#;
    for (text, reason) in [
        ("", "EOF"),
        ("{}", "expected a sequence"),
        ("[]", "no tasks"),
        (&format!("[{one},{one}]"), "\"a\""),
        (
            r#"[{"name":"a","prompt":"b","check":{"contains":""}}]"#,
            "empty",
        ),
        (
            r#"[{"name":"a","prompt":"b","check":{"contain":"c"}}]"#,
            "contain",
        ),
        (
            r#"[{"name":"a","prompt":"b","check":{"contains":"c"},"k":1}]"#,
            "k",
        ),
        (
            r#"[{"name":"a","prompt":"b","check":{"command":{"argv":[],"timeout":1}}}]"#,
            "program",
        ),
        (
            r#"[{"name":"a","prompt":"b","check":{"command":{"argv":["x"],"timeout":0}}}]"#,
            "time",
        ),
        (
            r#"[{"name":"a","prompt":"b","check":{"command":{"argv":["x"],"timeout":-1}}}]"#,
            "negative",
        ),
    ] {
        fs::write(&path, text).expect("a file");
        match refused(Task::read_all(&path)) {
            QualityError::TaskFile { reason: told, .. } => {
                assert!(told.contains(reason), "{text}: {told}");
            }
            error => panic!("{text}: {error}"),
        }
    }
    fs::write(&path, format!("[{one}]")).expect("a file");
    let read = Task::read_all(&path).expect("a task");
    assert_eq!(kept(&read), read);
    let missing = Task::read_all(dir.path().join("none.json"));
    assert!(matches!(missing, Err(Error::File { .. })));
}

#[test]
fn what_is_no_reply_is_not_checked() {
    let mut chat = guide(8);
    let some = [task("some", Check::Contains("a".to_owned()))];
    let none = run_tasks(&mut chat, &some, 0, 1, false);
    assert!(matches!(none, Err(Error::Parameter { .. })));
    let of_none = run_tasks(&mut chat, &[], 3, 1, false).expect("results");
    assert_eq!((of_none.tasks.len(), of_none.pass_at_k(1)), (0, None));

    let abort = AbortToken::new();
    let context = small().with_abort_token(abort.clone());
    let params = ChatParams::default()
        .with_context(context)
        .with_max_tokens(8);
    let params = params.with_template(ChatTemplate::builtin("chatml").expect("a template"));
    let mut chat = model(Layout::Qwen3Moe).chat(params).expect("a chat");
    abort.abort();
    let aborted = run_tasks(&mut chat, &some, 1, 1, false);
    assert!(
        matches!(aborted, Err(Error::Decode(DecodeError::Aborted))),
        "{aborted:?}"
    );
}
