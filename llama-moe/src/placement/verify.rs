//! A loaded model held against what was predicted of it.

use std::collections::BTreeMap;
use std::fmt;

use super::preview::Preview;
use super::report::Placement;

/// Tensors that are elsewhere than the preview said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} of {n_tensors} tensors are not where the preview has them: {}", differences.len(), list(differences))]
#[non_exhaustive]
pub struct VerifyError {
    /// The tensors, by name.
    pub differences: Vec<Difference>,
    /// Tensors in the model.
    pub n_tensors: usize,
}

/// A tensor that is elsewhere than the preview said.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Difference {
    /// Its name.
    pub name: String,
    /// The buffer types that the preview has it in; empty if it does not have it, two for a
    /// tied output.
    pub predicted: Vec<String>,
    /// Those that it is in.
    pub got: Vec<String>,
}

impl Placement {
    /// Holds every tensor's buffer type and bytes against a preview of the same file and
    /// parameters. `Ok` is the proof that the model is where it was said to be.
    ///
    /// # Errors
    /// [`VerifyError`] with every tensor that is not.
    pub fn verify(&self, preview: &Preview) -> Result<(), VerifyError> {
        let mut both: BTreeMap<&str, (Vec<Copy<'_>>, Vec<Copy<'_>>)> = BTreeMap::new();
        for tensor in preview.tensors() {
            let copy = (tensor.buffer.as_str(), tensor.bytes);
            both.entry(&tensor.name).or_default().0.push(copy);
        }
        for tensor in self.tensors() {
            let copy = (tensor.buffer.as_str(), tensor.bytes);
            both.entry(&tensor.name).or_default().1.push(copy);
        }
        let mut differences = Vec::new();
        for (name, (mut predicted, mut got)) in both {
            predicted.sort_unstable();
            got.sort_unstable();
            if predicted != got {
                let names = |copies: Vec<Copy<'_>>| {
                    copies
                        .into_iter()
                        .map(|(buffer, _)| buffer.to_owned())
                        .collect()
                };
                differences.push(Difference {
                    name: name.to_owned(),
                    predicted: names(predicted),
                    got: names(got),
                });
            }
        }
        if differences.is_empty() {
            return Ok(());
        }
        Err(VerifyError {
            differences,
            n_tensors: self.tensors().len(),
        })
    }
}

/// A copy of a tensor: its buffer type and bytes.
type Copy<'a> = (&'a str, u64);

/// "blk.0.ffn_up_exps.weight (predicted CPU, got CUDA0)"
impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |copies: &[String]| match copies {
            [] => "nothing".to_owned(),
            copies => copies.join(" and "),
        };
        write!(
            f,
            "{} (predicted {}, got {})",
            self.name,
            list(&self.predicted),
            list(&self.got)
        )
    }
}

/// The first few of them.
fn list(differences: &[Difference]) -> String {
    const SHOWN: usize = 5;
    let mut list: Vec<String> = differences
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect();
    if differences.len() > SHOWN {
        list.push(format!("and {} more", differences.len() - SHOWN));
    }
    list.join("; ")
}
