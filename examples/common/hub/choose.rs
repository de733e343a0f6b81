//! Which of a repository's files are the model that is meant.

use std::collections::BTreeMap;

/// The files of the model that `quant` chooses, in their order.
///
/// A model is a GGUF file, or all `…-0000K-of-0000N.gguf` of one name. Its name is
/// compared without regard to case; names that have `quant` as a whole word (`F16` in
/// `m-F16`, not in `m-BF16`) come before names that only contain it.
pub(super) fn choose(files: &[String], quant: Option<&str>) -> Result<Vec<String>, String> {
    let models = models(files);
    let found = match quant {
        None => models.iter().collect::<Vec<_>>(),
        Some(quant) => {
            let quant = quant.to_lowercase();
            let matching = |is_in: fn(&str, &str) -> bool| -> Vec<_> {
                models
                    .iter()
                    .filter(|model| is_in(&model.name.to_lowercase(), &quant))
                    .collect()
            };
            let words = matching(has_word);
            if words.is_empty() {
                matching(|name, part| name.contains(part))
            } else {
                words
            }
        }
    };
    match found.as_slice() {
        [model] => model.complete(),
        [] if models.is_empty() => Err(format!(
            "the repository has no GGUF file, only: {}",
            join(files.iter().map(String::as_str))
        )),
        [] => Err(format!(
            "no model of the repository is called so; it has: {}",
            names(models.iter())
        )),
        several => Err(format!(
            "{} models of the repository could be meant: {}; say which after a colon",
            several.len(),
            names(several.iter().copied())
        )),
    }
}

struct Candidate {
    /// The path in the repository; of several files without their numbers.
    name: String,
    /// By number, from 1; one file alone has 1.
    files: BTreeMap<u32, String>,
    n_files: u32,
}

impl Candidate {
    fn complete(&self) -> Result<Vec<String>, String> {
        let missing: Vec<String> = (1..=self.n_files)
            .filter(|number| !self.files.contains_key(number))
            .map(|number| number.to_string())
            .collect();
        if missing.is_empty() {
            Ok(self.files.values().cloned().collect())
        } else {
            Err(format!(
                "of the {} files of {} the repository lacks number {}",
                self.n_files,
                self.name,
                missing.join(", ")
            ))
        }
    }
}

fn models(files: &[String]) -> Vec<Candidate> {
    let mut models: BTreeMap<(String, u32), BTreeMap<u32, String>> = BTreeMap::new();
    for file in files {
        let Some(name) = file.strip_suffix(".gguf") else {
            continue;
        };
        // Projectors of vision models are no models of their own.
        let base = name.rsplit('/').next().unwrap_or(name);
        if base.starts_with("mmproj") {
            continue;
        }
        let (key, number) = match split_name(name) {
            Some((name, number, n_files)) => ((name.to_owned(), n_files), number),
            None => ((file.clone(), 1), 1),
        };
        models.entry(key).or_default().insert(number, file.clone());
    }
    models
        .into_iter()
        .map(|((name, n_files), files)| Candidate {
            name,
            files,
            n_files,
        })
        .collect()
}

/// `m-00002-of-00003` as `("m", 2, 3)`.
fn split_name(name: &str) -> Option<(&str, u32, u32)> {
    let number = |text: &str| {
        let is_number = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| text.parse().ok()).flatten()
    };
    let (name, n_files) = name.rsplit_once("-of-")?;
    let (name, file) = name.rsplit_once('-')?;
    let (file, n_files) = (number(file)?, number(n_files)?);
    (1..=n_files)
        .contains(&file)
        .then_some((name, file, n_files))
}

/// Whether `word` is in `text` with nothing beside it that could belong to it.
fn has_word(text: &str, word: &str) -> bool {
    let goes_on = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(goes_on) && !text[at + word.len()..].starts_with(goes_on)
    })
}

fn names<'a>(models: impl Iterator<Item = &'a Candidate>) -> String {
    join(models.map(|model| model.name.as_str()))
}

fn join<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::choose;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_part_of_the_name_chooses() {
        let repo = files(&[
            "README.md",
            "m-BF16.gguf",
            "m-F16.gguf",
            "m-Q4_K_M.gguf",
            "m-Q4_K_S.gguf",
            "m-q8_0.gguf",
            "mmproj-F16.gguf",
        ]);
        let chosen = |quant| choose(&repo, Some(quant));
        assert_eq!(chosen("Q8_0").unwrap(), ["m-q8_0.gguf"]);
        assert_eq!(chosen("q4_k_m").unwrap(), ["m-Q4_K_M.gguf"]);
        assert_eq!(chosen("f16").unwrap(), ["m-F16.gguf"]);
        assert_eq!(chosen("bf").unwrap(), ["m-BF16.gguf"]);
        assert_eq!(chosen("m-F16.gguf").unwrap(), ["m-F16.gguf"]);

        let several = chosen("Q4_K").unwrap_err();
        assert!(
            several.starts_with("2 models") && several.contains("m-Q4_K_M.gguf, m-Q4_K_S.gguf"),
            "{several}"
        );
        let none = chosen("Q5_0").unwrap_err();
        assert!(none.contains("m-BF16.gguf, m-F16.gguf"), "{none}");
        assert!(!none.contains("mmproj") && !none.contains("README"));
        assert!(choose(&repo, None).unwrap_err().starts_with("5 models"));
    }

    #[test]
    fn a_single_model_needs_no_choice() {
        let one = files(&["README.md", "m.gguf"]);
        assert_eq!(choose(&one, None).unwrap(), ["m.gguf"]);
        let none = choose(&files(&["README.md"]), None).unwrap_err();
        assert!(none.contains("README.md"), "{none}");
    }

    #[test]
    fn a_split_model_is_all_of_its_files_in_order() {
        let repo = files(&[
            "Q8_0/m-Q8_0-00002-of-00002.gguf",
            "Q8_0/m-Q8_0-00001-of-00002.gguf",
            "m-Q4_0-00001-of-00003.gguf",
            "m-Q4_0-00003-of-00003.gguf",
        ]);
        assert_eq!(
            choose(&repo, Some("q8_0")).unwrap(),
            [
                "Q8_0/m-Q8_0-00001-of-00002.gguf",
                "Q8_0/m-Q8_0-00002-of-00002.gguf"
            ]
        );
        let incomplete = choose(&repo, Some("q4_0")).unwrap_err();
        assert!(incomplete.contains("lacks number 2"), "{incomplete}");
    }
}
