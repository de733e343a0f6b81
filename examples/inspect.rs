//! What a model's file says of itself, without loading it.
//!
//! ```text
//! cargo run --release --example inspect -- gpt-oss-20b.gguf
//! cargo run --release --example inspect -- gpt-oss-20b.gguf --tensors --metadata
//! cargo run --release --example inspect -- gpt-oss-20b.gguf --json | jq .moe
//! ```
//!
//! With `--json` one object is printed. Its keys do not change, though others may join them;
//! sizes are bytes, and `null` stands for what there is not.
//!
//! | key | value |
//! |---|---|
//! | `name`, `architecture` | texts |
//! | `files` | paths, the first has the metadata |
//! | `bytes` | of all tensors |
//! | `n_blocks`, `n_mtp_blocks` | blocks of the file, and those of them that predict further tokens |
//! | `roles` | one object for each role: `role`, `n_tensors`, `bytes` |
//! | `moe` | `null` for a dense model, or: `layers` (blocks with experts), `n_expert`, `n_expert_used`, `n_expert_shared`, `expert_bytes` (of each of `layers`), `expert_bytes_total`, `bytes_per_token`, `expert_bytes_per_token` (what one token reads) |
//! | `tensors` | one object for each, in the files' order: `name`, `type`, `shape`, `bytes`, `role`, `block`, `file` (an index of `files`), `offset` (in that file) |
//! | `metadata` | with `--metadata` only: one object for each key, in the file's order: `key`, `type` (of an array `arr`), `value` |
//!
//! Roles are `embedding`, `attention`, `norm`, `router`, `routed_experts`, `shared_experts`,
//! `dense_ffn`, `mtp`, `output` and `other`. A number that JSON does not have (NaN) is `null`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use common::{Result, write_svg};
use llama_moe::Picture;
use llama_moe::gguf::{Header, MoeShape, Role, TensorInfo, Value};
use serde::Serialize;

/// Elements of an array, and characters of a text, that are shown of metadata.
const SHOWN_ELEMENTS: usize = 6;
const SHOWN_CHARACTERS: usize = 70;

/// What a model's file says of itself, without loading it
#[derive(Parser)]
struct Args {
    /// A GGUF file; of a model in several files, the first [default: the small model that
    /// came with the repository]
    model: Option<PathBuf>,

    /// Show every tensor, instead of a line for those that only differ in their block
    #[arg(long)]
    tensors: bool,

    /// Show the metadata; in JSON complete, the vocabulary too
    #[arg(long)]
    metadata: bool,

    /// Write a picture of it: layers by roles, area by bytes
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// One JSON object on stdout, with every tensor
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    name: String,
    architecture: String,
    files: Vec<String>,
    bytes: u64,
    n_blocks: u32,
    n_mtp_blocks: u32,
    roles: Vec<RoleReport>,
    moe: Option<MoeReport>,
    tensors: Vec<TensorReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Vec<Pair>>,
}

#[derive(Serialize)]
struct RoleReport {
    role: String,
    n_tensors: usize,
    bytes: u64,
}

#[derive(Serialize)]
struct MoeReport {
    layers: Vec<u32>,
    n_expert: u32,
    n_expert_used: u32,
    n_expert_shared: u32,
    expert_bytes: Vec<u64>,
    expert_bytes_total: u64,
    bytes_per_token: u64,
    expert_bytes_per_token: u64,
}

#[derive(Serialize)]
struct TensorReport {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    shape: Vec<u64>,
    bytes: u64,
    role: String,
    block: Option<u32>,
    file: usize,
    offset: u64,
}

#[derive(Serialize)]
struct Pair {
    key: String,
    #[serde(rename = "type")]
    kind: &'static str,
    value: serde_json::Value,
}

fn main() -> ExitCode {
    common::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let path = args.model.clone().unwrap_or_else(common::bundled_model);
    let header = Header::read(path)?;
    if let Some(path) = &args.svg {
        write_svg(&Picture::from(&header), path)?;
    }
    let mut stdout = io::stdout().lock();
    if args.json {
        let report = report(&header, args.metadata);
        Ok(writeln!(stdout, "{}", serde_json::to_string(&report)?)?)
    } else {
        Ok(print(&mut stdout, &header, args)?)
    }
}

// ---- JSON ------------------------------------------------------------------------------

fn report(header: &Header, metadata: bool) -> Report {
    let files = header.paths().iter();
    let pairs = || {
        let pairs = header.metadata().map(|(key, value)| Pair {
            key,
            kind: value.type_name(),
            value: json(&value),
        });
        pairs.collect()
    };
    Report {
        name: header.name(),
        architecture: header.architecture().to_owned(),
        files: files.map(|path| path.display().to_string()).collect(),
        bytes: header.bytes(),
        n_blocks: header.n_blocks(),
        n_mtp_blocks: header.n_mtp_blocks(),
        roles: sums(header)
            .into_iter()
            .map(|(role, (n_tensors, bytes))| RoleReport {
                role: key_of(role),
                n_tensors,
                bytes,
            })
            .collect(),
        moe: header.moe().map(|moe| MoeReport {
            n_expert: moe.n_expert,
            n_expert_used: moe.n_expert_used,
            n_expert_shared: moe.n_expert_shared,
            expert_bytes_total: moe.expert_bytes_total(),
            bytes_per_token: moe.bytes_per_token,
            expert_bytes_per_token: moe.expert_bytes_per_token,
            layers: moe.moe_layers,
            expert_bytes: moe.expert_bytes,
        }),
        tensors: header.tensors().iter().map(tensor_report).collect(),
        metadata: metadata.then(pairs),
    }
}

fn tensor_report(tensor: &TensorInfo) -> TensorReport {
    TensorReport {
        name: tensor.name.clone(),
        kind: tensor.kind.clone(),
        shape: tensor.shape.clone(),
        bytes: tensor.bytes,
        role: key_of(tensor.role),
        block: tensor.block,
        file: tensor.file,
        offset: tensor.offset,
    }
}

fn key_of(role: Role) -> String {
    role.name().to_lowercase().replace(' ', "_")
}

fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Array(values) => values.iter().map(json).collect(),
        Value::Bool(value) => (*value).into(),
        Value::Text(text) => text.as_str().into(),
        Value::I8(number) => (*number).into(),
        Value::I16(number) => (*number).into(),
        Value::I32(number) => (*number).into(),
        Value::I64(number) => (*number).into(),
        // As 0.1, not as the nearest 64-bit number to the nearest 32-bit one.
        Value::F32(number) => number
            .to_string()
            .parse()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .into(),
        Value::F64(number) => (*number).into(),
        number => number.as_u64().into(),
    }
}

// ---- text ------------------------------------------------------------------------------

fn print(out: &mut impl Write, header: &Header, args: &Args) -> io::Result<()> {
    let n_files = header.paths().len();
    writeln!(
        out,
        "{}: {}, {}, {n_files} {}",
        shown(&header.name()),
        shown(header.architecture()),
        mib(header.bytes()),
        if n_files == 1 { "file" } else { "files" },
    )?;
    writeln!(out)?;
    print_roles(out, header)?;
    if let Some(moe) = header.moe() {
        writeln!(out)?;
        print_moe(out, header, &moe)?;
    }
    if !header.tensors().is_empty() {
        writeln!(out)?;
        print_tensors(out, header, args.tensors)?;
    }
    if args.metadata {
        writeln!(out)?;
        for (key, value) in header.metadata() {
            let kind = match &value {
                Value::Array(values) => {
                    let element = values.first().map_or("", Value::type_name);
                    format!("{element}[{}]", values.len())
                }
                single => single.type_name().to_owned(),
            };
            writeln!(out, "{:<44} {kind:<12} {}", shown(&key), shortened(&value))?;
        }
    }
    Ok(())
}

fn print_roles(out: &mut impl Write, header: &Header) -> io::Result<()> {
    writeln!(
        out,
        "{:<16} {:>8} {:>16} {:>12}",
        "role", "tensors", "bytes", "MiB"
    )?;
    let mut row = |name: &str, n: usize, bytes: u64| {
        writeln!(out, "{name:<16} {n:>8} {bytes:>16} {:>12.2}", in_mib(bytes))
    };
    for (role, (n, bytes)) in sums(header) {
        row(role.name(), n, bytes)?;
    }
    row("together", header.tensors().len(), header.bytes())
}

fn print_moe(out: &mut impl Write, header: &Header, moe: &MoeShape) -> io::Result<()> {
    writeln!(
        out,
        "MoE layers       {} of {}: {}",
        moe.moe_layers.len(),
        header.n_blocks().saturating_sub(header.n_mtp_blocks()),
        ranges(&moe.moe_layers)
    )?;
    writeln!(
        out,
        "experts          {} per layer, {} used by a token, {} shared",
        moe.n_expert, moe.n_expert_used, moe.n_expert_shared
    )?;
    let least = moe.expert_bytes.iter().min().copied().unwrap_or(0);
    let most = moe.expert_bytes.iter().max().copied().unwrap_or(0);
    let per_layer = if least == most {
        mib(most)
    } else {
        format!("{} to {}", mib(least), mib(most))
    };
    let total = mib(moe.expert_bytes_total());
    writeln!(out, "expert bytes     {total}, {per_layer} per layer")?;
    writeln!(
        out,
        "read per token   {}, {} of it experts",
        mib(moe.bytes_per_token),
        mib(moe.expert_bytes_per_token)
    )
}

/// Every tensor, or a line for those that only differ in their block.
fn print_tensors(out: &mut impl Write, header: &Header, each: bool) -> io::Result<()> {
    let mut lines: Vec<Line<'_>> = Vec::new();
    // By what is alike: the index of their line.
    let mut known = BTreeMap::new();
    for tensor in header.tensors() {
        let pattern = match tensor.block {
            Some(block) if !each => tensor.name.replacen(&block.to_string(), "*", 1),
            _ => tensor.name.clone(),
        };
        let alike = (pattern.clone(), &tensor.kind, &tensor.shape, tensor.role);
        let index = *known.entry(alike).or_insert(lines.len());
        if index == lines.len() {
            lines.push(Line {
                pattern,
                first: tensor,
                bytes: 0,
                blocks: Vec::new(),
            });
        }
        let line = &mut lines[index];
        line.bytes = line.bytes.saturating_add(tensor.bytes);
        line.blocks.extend(tensor.block);
    }
    let name_width = lines.iter().map(|line| line.pattern.chars().count());
    let name_width = name_width.max().unwrap_or(0);
    let shapes: Vec<String> = lines.iter().map(|line| shape(line.first)).collect();
    let shape_width = shapes.iter().map(String::len).max().unwrap_or(0).max(5);
    writeln!(
        out,
        "{:<name_width$} {:<8} {:<shape_width$} {:>16} {:<14} blocks",
        "tensor", "type", "shape", "bytes", "role"
    )?;
    for (line, shape) in lines.iter_mut().zip(&shapes) {
        line.blocks.sort_unstable();
        let text = format!(
            "{:<name_width$} {:<8} {shape:<shape_width$} {:>16} {:<14} {}",
            shown(&line.pattern),
            line.first.kind,
            line.bytes,
            line.first.role,
            ranges(&line.blocks)
        );
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

/// Tensors that are shown together.
struct Line<'a> {
    /// Their name, with a star for the block.
    pattern: String,
    first: &'a TensorInfo,
    bytes: u64,
    blocks: Vec<u32>,
}

/// Tensors and bytes of each role that there is, in the order of the roles.
fn sums(header: &Header) -> Vec<(Role, (usize, u64))> {
    let mut sums = BTreeMap::<Role, (usize, u64)>::new();
    for tensor in header.tensors() {
        let (n, bytes) = sums.entry(tensor.role).or_default();
        (*n, *bytes) = (*n + 1, bytes.saturating_add(tensor.bytes));
    }
    sums.into_iter().collect()
}

fn shape(tensor: &TensorInfo) -> String {
    let dims: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
    dims.join(" x ")
}

/// Ascending numbers, as `0-3, 5`.
fn ranges(numbers: &[u32]) -> String {
    let runs = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let runs = runs.filter_map(|run| match run {
        [] => None,
        [one] => Some(one.to_string()),
        [first, .., last] => Some(format!("{first}-{last}")),
    });
    runs.collect::<Vec<_>>().join(", ")
}

/// A text of the file, which may have been made to do harm to a terminal.
fn shown(text: &str) -> String {
    let escaped = |c: char| match c {
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    text.chars().map(escaped).collect()
}

fn shortened(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            let some = values.iter().take(SHOWN_ELEMENTS).map(shortened);
            let more = values.len().saturating_sub(SHOWN_ELEMENTS);
            let dots = (more > 0).then(|| format!("... {more} more"));
            format!("[{}]", some.chain(dots).collect::<Vec<_>>().join(", "))
        }
        Value::Text(text) => {
            let some: String = text.chars().take(SHOWN_CHARACTERS).collect();
            match text.chars().count().saturating_sub(SHOWN_CHARACTERS) {
                0 => shown(&some),
                more => format!("{}... {more} characters more", shown(&some)),
            }
        }
        single => single.to_string(),
    }
}

fn in_mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn mib(bytes: u64) -> String {
    format!("{:.2} MiB", in_mib(bytes))
}
