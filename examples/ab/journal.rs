//! What was done, a line of JSON each, on the disk before anything else is done. A run that is cut
//! short goes on from here.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use common::Result;
use serde::{Deserialize, Serialize};

use crate::job::Prepared;
use crate::output::{Folder, named};
use crate::results::{Outcome, Quality, Trial};

/// A line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// What is measured: the first line.
    Begin(Box<Prepared>),
    /// A trial of a variant, by its index.
    Trial { variant: usize, trial: Trial },
    /// A variant's quality.
    Quality {
        variant: usize,
        quality: Outcome<Quality>,
    },
    /// It went on after it was cut short.
    Resumed { date: String },
}

/// The file, locked.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens a folder's journal, with what is in it: nothing, unless it goes on.
    pub fn open(folder: &Folder, resume: bool) -> Result<(Self, Vec<Entry>)> {
        let path = folder.journal();
        if resume && !path.exists() {
            return Err(nothing_to_resume(folder));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| named(&path, &error))?;
        let mut journal = Self { path, file };
        match journal.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let folder = folder.path().display();
                return Err(format!("another comparison is running in '{folder}'").into());
            }
            Err(TryLockError::Error(error)) => return Err(named(&journal.path, &error)),
        }
        let entries = journal.read()?;
        if resume && entries.is_empty() {
            return Err(nothing_to_resume(folder));
        }
        if !resume && !entries.is_empty() {
            return Err(format!(
                "'{}' has a comparison in it: go on with --resume, or name another folder",
                folder.path().display()
            )
            .into());
        }
        if entries.is_empty()
            && let Err(error) = folder.check_free()
        {
            journal.discard();
            return Err(error);
        }
        Ok((journal, entries))
    }

    /// What is in it. A last line that was cut is taken off: it was never there.
    fn read(&mut self) -> Result<Vec<Entry>> {
        let failed = |error| named(&self.path, &error);
        let mut text = Vec::new();
        self.file.read_to_end(&mut text).map_err(failed)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |end| end + 1);
        if whole < text.len() {
            self.file.set_len(whole as u64).map_err(failed)?;
        }
        self.file.seek(SeekFrom::End(0)).map_err(failed)?;
        let lines = text[..whole].split_inclusive(|byte| *byte == b'\n');
        let entries = lines.enumerate().map(|(index, line)| {
            serde_json::from_slice(line).map_err(|error| {
                let (path, number) = (self.path.display(), index + 1);
                format!("'{path}' is no journal of a comparison: line {number}: {error}").into()
            })
        });
        let entries: Vec<Entry> = entries.collect::<Result<_>>()?;
        let begins = |entry: &Entry| matches!(entry, Entry::Begin(_));
        match entries.split_first() {
            Some((first, rest)) if !begins(first) || rest.iter().any(begins) => {
                let path = self.path.display();
                Err(format!("'{path}' is no journal of a comparison: it begins otherwise").into())
            }
            _ => Ok(entries),
        }
    }

    /// Adds a line.
    pub fn append(&mut self, entry: &Entry) -> Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let written = self.file.write_all(&line);
        written
            .and_then(|()| self.file.sync_data())
            .map_err(|error| {
                let path = self.path.display();
                format!("'{path}': {error}; what was there before is kept: --resume goes on").into()
            })
    }

    /// Takes a file without a line away again.
    pub fn discard(self) {
        // Where it cannot be removed, an empty file does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

fn nothing_to_resume(folder: &Folder) -> Box<dyn std::error::Error> {
    let path = folder.path().display();
    format!("--resume: there is no comparison in '{path}' to go on with").into()
}
