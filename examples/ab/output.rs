//! The folder that results are written to.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use common::Result;

use crate::results::Results;

/// What a folder of results has in it.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder, made if it is not there.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(|error| named(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Whether it has files by the names of a comparison's, which nobody wants to lose.
    pub fn check_free(&self) -> Result<()> {
        let plots = self.path.join("plots");
        let names = [self.results(), self.report(), plots];
        match names.iter().find(|path| path.exists()) {
            None => Ok(()),
            Some(path) => Err(format!(
                "'{}' is there already, and not of a comparison that could go on: name another \
                 folder",
                path.display()
            )
            .into()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was done, a line each.
    pub fn journal(&self) -> PathBuf {
        self.path.join("trials.jsonl")
    }

    /// What was measured.
    pub fn results(&self) -> PathBuf {
        self.path.join("results.json")
    }

    /// What was measured, for a reader.
    pub fn report(&self) -> PathBuf {
        self.path.join("report.md")
    }

    /// What prompts are cut from.
    pub fn text(&self) -> PathBuf {
        self.path.join("text.txt")
    }

    /// Hashes that are known.
    pub fn hashes(&self) -> PathBuf {
        self.path.join("hashes.json")
    }

    /// The base's logits, while they are needed.
    pub fn logits(&self) -> PathBuf {
        self.path.join("base.logits")
    }

    /// The base's outputs, while they are needed.
    pub fn outputs(&self) -> PathBuf {
        self.path.join("base.json")
    }

    /// Writes the results. Whoever reads them meanwhile has the old ones or the new ones, whole.
    pub fn write_results(&self, results: &Results) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(results)?;
        text.push(b'\n');
        write(&self.results(), &text)
    }

    /// Writes the text that prompts are cut from.
    pub fn write_text(&self, text: &str) -> Result<()> {
        write(&self.text(), text.as_bytes())
    }

    /// Removes what is only needed until the end.
    pub fn tidy(&self) {
        for path in [self.logits(), self.outputs()] {
            // It may never have been there.
            let _ = fs::remove_file(path);
        }
    }
}

/// By a draft next to it, which is on the disk before it gets the name.
pub fn write(path: &Path, text: &[u8]) -> Result<()> {
    let draft = path.with_extension("draft");
    let written = File::create(&draft)
        .and_then(|mut file| {
            file.write_all(text)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&draft, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&draft);
        named(path, &error)
    })
}

/// An error with the name of what it is about.
pub fn named(path: &Path, error: &std::io::Error) -> Box<dyn std::error::Error> {
    format!("'{}': {error}", path.display()).into()
}
