//! What a build leaves behind: objects compiled for speed.

use std::fs;
use std::path::Path;

#[test]
fn every_object_is_compiled_with_ndebug() {
    // Absent with the feature `system`, and with Visual Studio's generator.
    let Some(tree) = option_env!("LLAMA_SYS_CMAKE_TREE").map(Path::new) else {
        return;
    };
    if !tree.join("build.ninja").is_file() && !tree.join("Makefile").is_file() {
        return;
    }
    let commands =
        fs::read_to_string(tree.join("compile_commands.json")).expect("the tree's own commands");
    let compiled: Vec<&str> = commands
        .lines()
        .filter(|line| line.trim_start().starts_with("\"command\""))
        .collect();
    assert!(
        compiled
            .iter()
            .any(|command| command.contains("llama-context.cpp")),
        "{}",
        tree.display()
    );
    for command in compiled {
        // Whatever Cargo's profile: without it llama.cpp is slow and its asserts abort.
        assert!(command.contains("-DNDEBUG"), "{command}");
    }
}
