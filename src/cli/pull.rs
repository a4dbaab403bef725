//! `hadal pull`: downloads a model into the hub's cache, resuming what is there and checking all of it.
//!
//! The transfer is `hf-hub`'s (its blocking half on `ureq`: the newer one brings an async runtime and
//! four times the crates, for one stream at a time). What it does not do is done here: every file is
//! compared with the hub's checksum, one commit is pinned for all files, names from the network must be
//! plain file names, and a broken-off transfer goes on where it stopped. The configuration comes first,
//! so that a model this build cannot run is refused before its weights are fetched. A snapshot gets its
//! name only when it is complete.

mod list;
mod verify;

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use engine::config::parse_config;
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use indicatif::ProgressBar;

use super::args::PullArgs;
use super::failure::{Failure, Result};
use super::hub;
use super::term;
use list::{Listing, RemoteFile};
use verify::{Verdict, verify};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";
/// Attempts in a row that bring nothing before the transfer is given up.
const FRUITLESS_ATTEMPTS_MAX: u32 = 4;
/// Wait before the second attempt; it doubles with each fruitless one.
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// One model on its way into the cache.
struct Pull<'a> {
    args: &'a PullArgs,
    endpoint: String,
    repository: PathBuf,
    snapshot: PathBuf,
    remote: ApiRepo,
}

/// Downloads what is missing and prints the folder.
pub fn pull(args: &PullArgs) -> Result<()> {
    check_words(args)?;
    let cache = hub::cache()?;
    let endpoint = env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
    let endpoint = endpoint.as_deref().unwrap_or(DEFAULT_ENDPOINT).trim_end_matches('/').to_owned();
    let api = connect(&cache, &endpoint)?;
    let at = |revision: &str| {
        let name = args.name.clone();
        api.repo(Repo::with_revision(name, RepoType::Model, revision.to_owned()))
    };
    let listing = Listing::fetch(&at(&args.revision))
        .map_err(|failure| failure.at(format!("{} at {endpoint}", args.name)))?;
    let repository = hub::repository(&cache, &args.name);
    let snapshot = repository.join("snapshots").join(&listing.commit);
    let remote = at(&listing.commit);
    Pull { args, endpoint, repository, snapshot, remote }.all(&listing)
}

fn check_words(args: &PullArgs) -> Result<()> {
    if !hub::is_name(&args.name) {
        return Err(Failure::usage(format!(
            "\"{}\" is not the name of a model; it looks like ORG/NAME",
            args.name
        )));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    let revision = &args.revision;
    if !revision.chars().all(legal)
        || revision.split('/').any(|part| part.trim_matches('.').is_empty())
    {
        return Err(Failure::usage(format!("\"{revision}\" is not a branch, tag or commit")));
    }
    Ok(())
}

fn connect(cache: &Path, endpoint: &str) -> Result<Api> {
    let builder = ApiBuilder::from_cache(Cache::new(cache.to_owned()))
        .with_endpoint(endpoint.to_owned())
        .with_progress(false);
    let token = env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
    let builder = if token.is_some() { builder.with_token(token) } else { builder };
    builder.build().map_err(Failure::new)
}

impl Pull<'_> {
    fn all(&self, listing: &Listing) -> Result<()> {
        let total: u64 = listing.files.iter().map(|file| file.size).sum();
        let files = listing.files.len();
        self.say(format_args!(
            "{}: {files} files, {}, commit {}",
            self.args.name,
            term::bytes(total),
            &listing.commit[..12]
        ));
        for (place, file) in listing.files.iter().enumerate() {
            let label = format!("{:>3}/{files} {}", place + 1, file.name);
            self.one(file, &label).map_err(|failure| failure.at(&file.name))?;
            if file.name == "config.json" {
                self.check_config()?;
            }
        }
        self.name_snapshot(&listing.commit)?;
        self.say(format_args!("complete; run it with `--model {}`", self.args.name));
        writeln!(io::stdout(), "{}", self.snapshot.display())?;
        Ok(())
    }

    fn say(&self, line: std::fmt::Arguments<'_>) {
        if !self.args.quiet {
            eprintln!("{line}");
        }
    }

    /// Brings one file and checks it.
    fn one(&self, file: &RemoteFile, label: &str) -> Result<()> {
        let pointer = self.snapshot.join(&file.name);
        let checked = |bar: ProgressBar| verify(&pointer, file, &bar);
        if pointer.exists() {
            match checked(self.bar(&format!("{label} (check)"), file.size))? {
                Verdict::Sound => return Ok(()),
                Verdict::Broken { .. } => discard(&pointer)?,
            }
        }
        self.download(file, label)?;
        match checked(self.bar(&format!("{label} (check)"), file.size))? {
            Verdict::Sound => {
                self.say(format_args!("{label}  {}", term::bytes(file.size)));
                Ok(())
            }
            Verdict::Broken { found } => {
                discard(&pointer)?;
                Err(Failure::new(format!(
                    "the checksum is {found} but the hub says {}; the file was deleted, \
                     pull again",
                    file.hash
                )))
            }
        }
    }

    fn bar(&self, label: &str, total: u64) -> ProgressBar {
        if self.args.quiet { ProgressBar::hidden() } else { term::bar(label, total) }
    }

    /// Transfers a file, going on where an earlier attempt, of this process or another, stopped.
    fn download(&self, file: &RemoteFile, label: &str) -> Result<()> {
        let part = self.repository.join("blobs").join(format!("{}.part", file.hash.text()));
        let (mut fruitless, mut wait) = (0, FIRST_WAIT);
        loop {
            let before = take_back(&part, file.size)?;
            let shown = Shown(self.bar(label, file.size));
            let Err(error) = self.remote.download_with_progress(&file.name, shown) else {
                return Ok(());
            };
            let after = fs::metadata(&part).map_or(0, |there| there.len());
            if after > before {
                (fruitless, wait) = (0, FIRST_WAIT);
            } else {
                fruitless += 1;
            }
            if fruitless == FRUITLESS_ATTEMPTS_MAX || !worth_another_try(&error) {
                return Err(explain(&error).at(&self.endpoint));
            }
            thread::sleep(wait);
            wait *= 2;
        }
    }

    /// Refuses a model of another architecture while only its configuration was fetched.
    fn check_config(&self) -> Result<()> {
        let path = self.snapshot.join("config.json");
        let bytes = fs::read(&path)
            .map_err(|error| Failure::new(format!("{}: {error}", path.display())))?;
        parse_config(&bytes)
            .map(drop)
            .map_err(|refusal| Failure::from(refusal).at(format!("{} cannot run", self.args.name)))
    }

    /// Lets the revision's name point to the snapshot, now that it is complete.
    fn name_snapshot(&self, commit: &str) -> Result<()> {
        let name = self.repository.join("refs").join(&self.args.revision);
        let folder = name.parent().expect("refs is above");
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&name, commit))
            .map_err(|error| Failure::new(format!("{}: {error}", name.display())))
    }
}

/// Length of the part that is there. A finished part would ask for an empty range, which servers
/// refuse: one byte of it is given back, and a longer one is dropped.
fn take_back(part: &Path, size: u64) -> Result<u64> {
    let failed = |error: io::Error| Failure::new(format!("{}: {error}", part.display()));
    let length = match fs::metadata(part) {
        Ok(there) => there.len(),
        Err(_) => return Ok(0),
    };
    let keep = match length {
        _ if length < size => return Ok(length),
        _ if length == size => size.saturating_sub(1),
        _ => 0,
    };
    let file = fs::OpenOptions::new().write(true).open(part).map_err(failed)?;
    file.set_len(keep).map_err(failed)?;
    Ok(keep)
}

/// Removes a file of a snapshot and the blob behind it.
fn discard(pointer: &Path) -> Result<()> {
    let failed = |error: io::Error| Failure::new(format!("{}: {error}", pointer.display()));
    let blob = fs::canonicalize(pointer).map_err(failed)?;
    fs::remove_file(&blob).map_err(failed)?;
    match fs::remove_file(pointer) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    }
}

/// Whether the same request may end otherwise next time.
fn worth_another_try(error: &ApiError) -> bool {
    match error {
        ApiError::RequestError(error) => match error.as_ref() {
            ureq::Error::Status(code, _) => *code == 429 || *code >= 500,
            ureq::Error::Transport(_) => true,
        },
        ApiError::IoError(error) => {
            !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::PermissionDenied)
        }
        _ => false,
    }
}

/// A failed request in the user's words.
fn explain(error: &ApiError) -> Failure {
    let ApiError::RequestError(request) = error else { return Failure::new(error) };
    Failure::new(match request.as_ref() {
        ureq::Error::Status(401 | 403, _) => {
            "access refused; accept the model's licence on the hub and set HF_TOKEN".to_owned()
        }
        ureq::Error::Status(404, _) => "no such model, revision or file".to_owned(),
        ureq::Error::Status(code, _) => format!("the hub answered with status {code}; try later"),
        ureq::Error::Transport(transport) => {
            format!("no connection ({transport}); check the network, HF_ENDPOINT and proxies")
        }
    })
}

/// Our bar, driven by the hub crate.
struct Shown(ProgressBar);

impl Progress for Shown {
    fn init(&mut self, _size: usize, _name: &str) {
        self.0.set_position(0);
    }

    fn update(&mut self, bytes: usize) {
        self.0.inc(bytes as u64);
    }

    fn finish(&mut self) {
        self.0.finish_and_clear();
    }
}
