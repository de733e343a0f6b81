//! `synth`: shapes by name or of a file, and what is refused.

use crate::programs::run;
use crate::support;
use crate::support::layouts::Layout;

#[test]
fn a_model_is_written_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let path = path.to_str().unwrap();
    let scaled = ["--layers", "2", "--experts", "8", "--width", "256"];
    let args = ["mixtral-8x7b", path, "--vocab", "1000", "--seed", "3"];
    let skewed = ["--router-skew", "0.5"];
    let said = run("synth", args.iter().chain(&scaled).chain(&skewed)).success();
    assert!(
        said.contains("mixtral-8x7b") && said.contains("random"),
        "{said}"
    );
    let text = run("simple", ["hello", path]).success();
    assert!(!text.trim().is_empty(), "{text}");

    // It is not written over.
    run("synth", args).failure(1, &["model.gguf"]);
}

#[test]
fn a_sparse_file_is_as_long_as_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let args = ["gpt-oss-20b", path.to_str().unwrap(), "--sparse"];
    let said = run("synth", args).success();
    let length = path.metadata().unwrap().len();
    assert!(length > 12_000_000_000);
    assert!(said.contains("20.91 B"), "{said}");
    assert!(said.contains("no weights"), "{said}");
    assert!(said.contains(&length.to_string()), "{said}");
}

#[test]
fn a_file_is_a_shape_too() {
    let (_of, original) = support::file(Layout::GptOss);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.gguf");
    let (original, path) = (original.to_str().unwrap(), path.to_str().unwrap());
    run("synth", [original, path]).success();
    assert!(!run("simple", ["hello", path]).success().is_empty());
}

#[test]
fn the_names_are_listed() {
    let list = run("synth", ["--list"]).success();
    assert_eq!(list.lines().count(), 10, "{list}");
    assert!(list.contains("deepseek-v3"), "{list}");
    assert!(list.contains("671.03 B"), "{list}");
}

#[test]
fn what_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let path = path.to_str().unwrap();
    for (args, parts) in [
        (vec!["gpt-5", path], ["gpt-5", "qwen3-30b-a3b"]),
        (
            vec!["phi-3.5-moe", "no/such/folder.gguf"],
            ["no/such", "folder"],
        ),
        (vec!["phi-3.5-moe", path, "--layers", "0"], ["0", "1 to 32"]),
        (
            vec!["phi-3.5-moe", path, "--layers", "33"],
            ["33", "1 to 32"],
        ),
        (
            vec!["phi-3.5-moe", path, "--router-skew", "-1"],
            ["-1", "from 0"],
        ),
        (
            vec!["phi-3.5-moe", path, "--type", "f16", "--layers", "33"],
            ["33", "1 to 32"],
        ),
        (vec![dir.path().to_str().unwrap(), path], ["directory", ""]),
    ] {
        run("synth", args).failure(1, &parts);
    }
    assert!(run("synth", ["phi-3.5-moe"]).code != 0);
    assert!(!std::path::Path::new(path).exists());
}
