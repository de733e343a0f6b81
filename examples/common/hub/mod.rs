//! Models from a Hugging Face repository.

#[cfg(feature = "hf")]
mod choose;
#[cfg(feature = "hf")]
mod download;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::Result;

/// A model on the hub: `OWNER/REPO`, or `OWNER/REPO:QUANT` where it has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubModel {
    repo: String,
    quant: Option<String>,
}

impl HubModel {
    /// Downloads what is not in the cache, and returns the path of the first file.
    ///
    /// # Errors
    /// If there is no such model, several could be meant, or a download fails.
    #[cfg(feature = "hf")]
    pub fn fetch(&self) -> Result<PathBuf> {
        download::fetch(self).map_err(|error| format!("--hf {self}: {error}").into())
    }

    /// Says that this build cannot.
    ///
    /// # Errors
    /// Always.
    #[cfg(not(feature = "hf"))]
    pub fn fetch(&self) -> Result<PathBuf> {
        Err(format!(
            "--hf {self}: built without the feature `hf`; add --features hf to cargo's options"
        )
        .into())
    }
}

impl FromStr for HubModel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (repo, quant) = match text.split_once(':') {
            Some((repo, quant)) => (repo, Some(quant)),
            None => (text, None),
        };
        let is_name = |name: &str| {
            name.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && name.bytes().any(|b| b != b'.')
        };
        match repo.split_once('/') {
            Some((owner, name)) if is_name(owner) && is_name(name) => {}
            _ => return Err("it is not OWNER/REPO or OWNER/REPO:QUANT".to_owned()),
        }
        if quant == Some("") {
            return Err("nothing follows the colon".to_owned());
        }
        Ok(Self {
            repo: repo.to_owned(),
            quant: quant.map(str::to_owned),
        })
    }
}

impl fmt::Display for HubModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if let Some(quant) = &self.quant {
            write!(f, ":{quant}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::HubModel;

    #[test]
    fn a_model_is_an_owner_a_repository_and_perhaps_a_quantisation() {
        for text in ["a/b", "a-1/b.c_d:Q4_K_M", "a/b:dir/name.gguf"] {
            let model: HubModel = text.parse().unwrap();
            assert_eq!(model.to_string(), text);
        }
        for text in [
            "", "a", "a/", "/b", "a/b/c", "a/..", "a b/c", "a/b:", ":Q8_0",
        ] {
            assert!(text.parse::<HubModel>().is_err(), "{text}");
        }
    }
}
