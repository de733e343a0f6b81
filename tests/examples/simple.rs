//! `simple`.

use crate::programs::{outcome, program};
use crate::support;
use crate::support::layouts::Layout;

#[test]
fn a_prompt_goes_on_with_a_model_of_ones_own() {
    let (_dir, model) = support::file(Layout::Qwen3Moe);
    let text = outcome(program("simple").arg("hello").arg(&model)).success();
    assert!(text.trim_end().len() > 8, "{text}");
    outcome(program("simple").args(["hello", "missing.gguf"])).failure(1, &["missing.gguf"]);
    // There is no device that could hold a cache of experts, or there is one, and the text is as long.
    let cached = outcome(
        program("simple")
            .arg("hello")
            .arg(&model)
            .args(["--moe-cache", "64MiB"]),
    );
    if cached.code == 0 {
        assert!(cached.stdout.trim_end().len() > 8, "{cached:?}");
    } else {
        cached.failure(1, &["a cache of experts needs a GPU"]);
    }
}
