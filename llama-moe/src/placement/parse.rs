//! llama.cpp's `-ot` syntax.

use super::overrides::OverrideError;
use super::pattern::Pattern;
use super::rule::{Rule, Target, Tensors};
use crate::error::Result;

/// `PATTERN=BUFFER_TYPE,…`; `\,` is a comma of a pattern.
pub(super) fn rules(text: &str) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for (position, part) in parts(text) {
        let syntax = |reason| OverrideError::Syntax {
            part: part.clone(),
            position,
            reason,
        };
        let (pattern, target) = part
            .rsplit_once('=')
            .ok_or_else(|| syntax("there is no '='"))?;
        if pattern.is_empty() {
            return Err(syntax("nothing stands before the '='").into());
        }
        let target = match target.trim() {
            "" => return Err(syntax("nothing stands after the '='").into()),
            "CPU" => Target::Cpu,
            name => Target::Named(name.to_owned()),
        };
        rules.push(Rule {
            tensors: Tensors::Pattern(Pattern::new(pattern)?),
            target,
        });
    }
    Ok(rules)
}

/// The parts between commas that no backslash precedes, with their byte offsets.
fn parts(text: &str) -> Vec<(usize, String)> {
    let mut parts = vec![(0, String::new())];
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            ',' => parts.push((at + 1, String::new())),
            '\\' => {
                let escaped = characters.next().map(|(_, escaped)| escaped);
                add(&mut parts, (escaped != Some(',')).then_some('\\'));
                add(&mut parts, escaped);
            }
            _ => add(&mut parts, Some(character)),
        }
    }
    parts
}

fn add(parts: &mut [(usize, String)], character: Option<char>) {
    if let Some((_, part)) = parts.last_mut() {
        part.extend(character);
    }
}

#[cfg(test)]
mod tests {
    use super::parts;

    fn texts(text: &str) -> Vec<String> {
        parts(text).into_iter().map(|(_, part)| part).collect()
    }

    #[test]
    fn commas_separate_unless_escaped() {
        assert_eq!(texts(r"a=CPU,b=RPC0"), ["a=CPU", "b=RPC0"]);
        assert_eq!(texts(r"a{1\,2}=CPU"), ["a{1,2}=CPU"]);
        assert_eq!(texts(r"a\\,b"), [r"a\\", "b"]);
        assert_eq!(texts(r"a\.b"), [r"a\.b"]);
        assert_eq!(texts("a\\"), ["a\\"]);
        assert_eq!(texts(""), [""]);
    }

    #[test]
    fn offsets_are_those_of_the_whole_text() {
        let offsets: Vec<usize> = parts(r"a\,a=CPU,b=CPU,")
            .iter()
            .map(|part| part.0)
            .collect();
        assert_eq!(offsets, [0, 9, 15]);
    }
}
