//! Files made to do harm: no header takes memory without bound, hangs, or ends the process,
//! neither where it is read nor where the model is loaded. Another process reads them, whose
//! end this one would see.

use std::cell::RefCell;
use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use llama_moe::gguf::Header;
use llama_moe::{Model, ModelParams};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

mod support;
use support::gguf::{GgufWriter, Value};
use support::layouts::{Layout, vocabulary_only};
use support::raw::{self, Raw};
use support::{backend, on_cpu, others, peculiar, sparse};

/// Set in the process that reads.
const READER: &str = "LLAMA_MOE_TEST_READER";

/// Longer than any of these files may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that reads and loads the files that it is told of.
struct Reader {
    process: Child,
    paths: ChildStdin,
    answers: Receiver<String>,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Reader {
    fn start() -> Self {
        let mut process = Command::new(env::current_exe().expect("this binary"))
            .args(["--exact", "reads_what_it_is_told_of", "--nocapture"])
            .env(READER, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a process");
        let (send, answers) = mpsc::channel();
        let stdout = BufReader::new(process.stdout.take().expect("its output"));
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, answer)) = line.split_once("ANSWER ") {
                    let _ = send.send(answer.to_owned());
                }
            }
        });
        let dir = tempfile::tempdir().expect("a scratch folder");
        Self {
            paths: process.stdin.take().expect("its input"),
            process,
            answers,
            path: dir.path().join("model.gguf"),
            _dir: dir,
        }
    }

    /// Whether the file's header was read, and the model loaded, with its memory at the most
    /// in MiB; an error if the process ended or hung.
    fn load(&mut self, file: &Sparse) -> Result<(bool, u64), String> {
        fs::write(&self.path, &file.head).expect("a file");
        let hole = File::options().write(true).open(&self.path).expect("it");
        hole.set_len(file.length).expect("a file with a hole");
        let _ = writeln!(self.paths, "{}", self.path.display());
        match self.answers.recv_timeout(PATIENCE) {
            Ok(answer) => {
                let (loaded, peak) = answer.split_once(' ').expect("two words");
                Ok((loaded == "loaded", peak.parse().expect("a number")))
            }
            Err(_) => {
                let _ = self.process.kill();
                let how = self.process.wait().expect("its end");
                *self = Self::start();
                Err(format!(
                    "the process ended with {how}, or took {PATIENCE:?}"
                ))
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A file: its first bytes, and a hole up to its length.
#[derive(Clone)]
struct Sparse {
    head: Vec<u8>,
    length: u64,
}

impl Sparse {
    /// A file whose data is a hole.
    fn of(writer: &GgufWriter) -> Self {
        let (head, length) = writer.to_header();
        Self { head, length }
    }
}

/// What the other process runs; in this one it does nothing.
#[test]
fn reads_what_it_is_told_of() {
    if env::var(READER).is_err() {
        return;
    }
    for path in std::io::stdin().lines().map_while(Result::ok) {
        let path = Path::new(&path);
        let read = Header::read(path).is_ok_and(|header| {
            let _ = (header.moe(), header.metadata().count(), header.name());
            true
        });
        let load = |params: ModelParams| Model::load(&backend(), path, params).is_ok();
        let vocabulary = load(on_cpu().with_vocab_only(true));
        let model = load(on_cpu().with_no_alloc(true));
        assert!(read || !(vocabulary || model), "loaded, but not read");
        let loaded = if model { "loaded" } else { "refused" };
        println!("ANSWER {loaded} {}", peak());
    }
}

/// The most memory that this process had, in MiB; 0 where the system does not tell.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.map_or("0", |line| line.trim().trim_end_matches("kB").trim());
    kib.parse::<u64>().expect("a number") / 1024
}

fn models() -> Vec<(String, GgufWriter)> {
    let layouts = Layout::ALL.map(|layout| (format!("{layout:?}"), layout.writer()));
    let others = [
        ("encoder", others::encoder()),
        ("encoder-decoder", others::encoder_decoder()),
        ("recurrent", others::recurrent()),
        ("value experts", peculiar::value_experts()),
        ("taps", peculiar::taps()),
        ("shared keys", peculiar::shared_keys()),
        ("convolution", peculiar::convolution()),
        ("draft", peculiar::draft()),
        ("engram", sparse::engram()),
        ("latent", sparse::latent()),
        ("vocabulary", vocabulary_only()),
    ];
    let others = others.map(|(name, writer)| (name.to_owned(), writer));
    layouts.into_iter().chain(others).collect()
}

#[test]
fn memory_is_bounded_whatever_a_file_claims() {
    for (name, kind, n) in [
        ("texts", raw::STRING, 1 << 30),
        ("bytes", raw::U8, 1 << 30),
        ("numbers", raw::U64, 1 << 30),
        ("truths", raw::BOOL, 1 << 30),
        // There is room for these.
        ("empty texts", raw::STRING, 1 << 23),
    ] {
        let mut head = Raw::new("llama");
        head.pair(b"a", raw::ARRAY, &raw::array(kind, n, &[]));
        let file = Sparse {
            head: head.to_bytes(),
            length: 1 << 40,
        };
        let (loaded, peak) = Reader::start().load(&file).unwrap();
        assert!(!loaded && peak < 1300, "{name}: {peak} MiB");
    }
    // Tokens without a text need none in the file.
    let mut file = vocabulary_only();
    file.string("tokenizer.ggml.model", "none");
    file.arch("vocab_size", Value::U32(u32::MAX));
    let (loaded, peak) = Reader::start().load(&Sparse::of(&file)).unwrap();
    assert!(!loaded && peak < 300, "tokens: {peak} MiB");
}

#[test]
fn the_files_are_loaded_as_they_are() {
    let mut reader = Reader::start();
    for (name, writer) in models() {
        let (loaded, _) = reader.load(&Sparse::of(&writer)).unwrap();
        assert_eq!(loaded, name != "vocabulary", "{name}");
    }
}

/// Keys that these models do without, and that llama.cpp's loader reads all the same.
const MORE_KEYS: [&str; 13] = [
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "classifier.activation",
    "expert_group_count",
    "expert_group_used_count",
    "expert_shared_count",
    "full_attention_interval",
    "leading_dense_block_count",
    "n_deepstack_layers",
    "nextn_predict_layers",
    "pooling_type",
    "rope.dimension_sections",
    "vocab_size",
];

/// Every number and text of every model, changed to what it must not be.
#[test]
fn no_value_ends_the_process() {
    let mut reader = Reader::start();
    let mut ended = Vec::new();
    for (name, writer) in models() {
        let keys = writer.keys().iter().map(|(key, _)| key.clone());
        let mut keys: Vec<String> = keys.skip(1).collect();
        let Some((_, Value::String(architecture))) = writer.keys().first() else {
            panic!("{name} names no architecture");
        };
        keys.extend(MORE_KEYS.map(|key| format!("{architecture}.{key}")));
        for key in keys {
            for value in [
                Value::U32(0),
                Value::U32(1),
                Value::U32(7),
                Value::U32(1 << 31),
                Value::U32(u32::MAX),
                Value::U32s(vec![0; 4]),
                Value::I32s(vec![-1; 4]),
                Value::I32s(vec![2, 0, 2, 0]),
                Value::U32s(Vec::new()),
                Value::Strings(Vec::new()),
                Value::Strings(vec!["a".to_owned(), String::new()]),
                Value::Bool(false),
                Value::Bools(vec![true; 4]),
                Value::F32(f32::NAN),
                Value::String(String::new()),
            ] {
                let mut changed = writer.clone();
                changed.set(&key, value.clone());
                if let Err(how) = reader.load(&Sparse::of(&changed)) {
                    ended.push(format!("{name}: {key} = {value:?}: {how}"));
                }
            }
        }
    }
    assert!(ended.is_empty(), "{}", ended.join("\n"));
}

/// A change to the bytes of a header.
#[derive(Clone, Debug)]
enum Damage {
    Byte(prop::sample::Index, u8),
    /// The bytes of a count, in most cases.
    Number(prop::sample::Index, u64),
    Cut(prop::sample::Index),
    Double(prop::sample::Index, prop::sample::Index),
}

impl Damage {
    fn any() -> impl Strategy<Value = Self> {
        let index = any::<prop::sample::Index>;
        let number = prop_oneof![
            Just(0),
            Just(1),
            Just(u64::MAX),
            Just(1 << 63),
            Just(1 << 31),
            0..200u64
        ];
        prop_oneof![
            4 => (index(), any::<u8>()).prop_map(|(at, byte)| Self::Byte(at, byte)),
            4 => (index(), number).prop_map(|(at, number)| Self::Number(at, number)),
            1 => index().prop_map(Self::Cut),
            1 => (index(), index()).prop_map(|(at, to)| Self::Double(at, to)),
        ]
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len();
        match self {
            Self::Byte(at, byte) => bytes[at.index(length)] = *byte,
            Self::Number(at, number) => {
                let at = at.index(length);
                for (byte, new) in bytes[at..].iter_mut().zip(number.to_le_bytes()) {
                    *byte = new;
                }
            }
            Self::Cut(at) => bytes.truncate(at.index(length)),
            Self::Double(at, to) => {
                let (at, to) = (at.index(length), to.index(length));
                let copy = bytes[at.min(to)..at.max(to)].to_vec();
                bytes.splice(at.max(to)..at.max(to), copy);
            }
        }
    }
}

#[test]
fn no_damage_ends_the_process() {
    let reader = RefCell::new(Reader::start());
    let files: Vec<Sparse> = models().iter().map(|(_, file)| Sparse::of(file)).collect();
    let damages = prop::collection::vec(Damage::any(), 1..4);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 1000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(
        &(any::<prop::sample::Index>(), damages),
        |(which, damages)| {
            let mut file = files[which.index(files.len())].clone();
            for damage in &damages {
                damage.apply(&mut file.head);
            }
            let loaded = reader.borrow_mut().load(&file);
            prop_assert!(loaded.is_ok(), "{}", loaded.unwrap_err());
            Ok(())
        },
    );
    if let Err(error) = result {
        panic!("{error}");
    }
}
