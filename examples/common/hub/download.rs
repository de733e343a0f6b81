//! Listing and downloading.

use std::cell::Cell;
use std::env;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use hf_hub::api::Progress;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use indicatif::ProgressBar;

use super::HubModel;
use super::choose::choose;
use crate::Result;
use crate::progress::byte_bar;

/// How often an interrupted download is taken up again where it stopped.
const RETRIES: usize = 3;

pub(super) fn fetch(model: &HubModel) -> Result<PathBuf> {
    if env::var_os("HF_HOME").is_none() && env::home_dir().is_none() {
        return Err("there is no home directory; set HF_HOME to a folder for downloads".into());
    }
    let cache = Cache::from_env();
    let mut api = ApiBuilder::from_cache(cache.clone()).with_retries(RETRIES);
    let mut server = "the hub".to_owned();
    if let Ok(endpoint) = env::var("HF_ENDPOINT") {
        server = endpoint.trim_end_matches('/').to_owned();
        api = api.with_endpoint(server.clone());
    }
    let api = api.build()?;

    let listing = api
        .model(model.repo.clone())
        .info()
        .map_err(|error| format!("cannot list the repository at {server}: {error}"))?;
    let files: Vec<String> = listing
        .siblings
        .into_iter()
        .map(|file| file.rfilename)
        .collect();
    let files = choose(&files, model.quant.as_deref())?;

    // The commit just listed, and not what a branch points to while files are downloaded.
    let commit = listing.sha;
    if !commit.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(format!("'{commit}' is no commit").into());
    }
    let repo = Repo::with_revision(model.repo.clone(), RepoType::Model, commit.clone());
    let cached = cache.repo(repo.clone());
    let api = api.repo(repo);
    let mut paths = Vec::with_capacity(files.len());
    for file in &files {
        if !is_inside(file) {
            return Err(format!("'{file}' would lie outside of the cache").into());
        }
        paths.push(match in_cache(&cached, &commit, file) {
            Some(path) => path,
            None => download(&api, file)?,
        });
    }
    // `choose` returns one file at least.
    Ok(paths.swap_remove(0))
}

fn is_inside(file: &str) -> bool {
    Path::new(file)
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
}

/// Found by the commit alone: other programs that share the cache keep other references.
fn in_cache(cache: &CacheRepo, commit: &str, file: &str) -> Option<PathBuf> {
    let path = cache.pointer_path(commit).join(file);
    path.exists().then_some(path)
}

fn download(api: &ApiRepo, file: &str) -> Result<PathBuf> {
    let size = Rc::new(Cell::new(0));
    let bar = Bar {
        bar: byte_bar(file),
        size: Rc::clone(&size),
    };
    let path = api
        .download_with_progress(file, bar)
        .map_err(|error| format!("cannot download {file}: {error}"))?;
    let got = fs::metadata(&path)?.len();
    if got == size.get() {
        return Ok(path);
    }
    // The file and the link to it, or the next run would take them for the model.
    let blob = fs::canonicalize(&path)?;
    fs::remove_file(&path)?;
    if blob != path && blob.exists() {
        fs::remove_file(blob)?;
    }
    let size = size.get();
    Err(format!("{file} has {size} bytes, but the server sent {got}; try again").into())
}

struct Bar {
    bar: ProgressBar,
    size: Rc<Cell<u64>>,
}

impl Progress for Bar {
    fn init(&mut self, size: usize, _file: &str) {
        self.size.set(size as u64);
        self.bar.set_length(size as u64);
        self.bar.set_position(0);
    }

    fn update(&mut self, bytes: usize) {
        self.bar.inc(bytes as u64);
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }
}
