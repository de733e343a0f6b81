//! What prompts are cut from, and quality is measured on.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use common::Result;

use crate::output::named;

/// A story: of no field, and not known to any model.
const STORY: &str = include_str!("text.txt");
/// What the bundled model was trained on.
const CORPUS: [&str; 4] = [
    include_str!("../model/corpus/concepts.txt"),
    include_str!("../model/corpus/rules.txt"),
    include_str!("../model/corpus/crate.txt"),
    include_str!("../model/corpus/hardware.txt"),
];

/// The text, and what a reader of the report has to know of it.
pub fn read(path: Option<&Path>, is_bundled: bool) -> Result<(String, String)> {
    let (text, note) = match path {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| named(path, &error))?;
            (text, format!("The text is '{}'.", path.display()))
        }
        None if is_bundled => (
            answers()?,
            "The text is made of what the bundled model was trained on: it knows nothing else."
                .to_owned(),
        ),
        None => (
            STORY.to_owned(),
            "The text is the short story that comes with this program.".to_owned(),
        ),
    };
    Ok((text, note))
}

/// The answers of the corpus, a line each.
fn answers() -> Result<String> {
    let mut answers = String::new();
    for line in CORPUS.iter().flat_map(|corpus| corpus.lines()) {
        if let Some(answer) = line.strip_prefix("> ") {
            writeln!(answers, "{answer}")?;
        }
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_default_is_long_enough_for_some_chunks() {
        for is_bundled in [false, true] {
            let (text, note) = read(None, is_bundled).unwrap();
            assert!(text.split_whitespace().count() > 1000, "{note}");
        }
    }
}
