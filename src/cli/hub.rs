//! Where the hub's cache lies and what is in it: `ORG/NAME` stands for the folder `hadal pull` filled.
//!
//! The layout is that of `huggingface_hub`, so models that other programs fetched are found too.
//! Nothing is downloaded here.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use super::failure::{Failure, Result};

/// The cache folder: `$HF_HOME/hub`, or `~/.cache/huggingface/hub`.
pub fn cache() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match (set("HF_HOME"), set("HOME")) {
        (Some(home), _) => Ok(home.join("hub")),
        (None, Some(home)) => Ok(home.join(".cache/huggingface/hub")),
        (None, None) => Err(Failure::new(
            "no place for downloads: neither HF_HOME nor HOME is set; set HF_HOME to a folder",
        )),
    }
}

/// Whether `name` has the form `ORG/NAME` of a model on a hub.
pub fn is_name(name: &str) -> bool {
    let plain = |part: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty() && !part.starts_with('.') && part.chars().all(legal)
    };
    name.split_once('/').is_some_and(|(org, model)| plain(org) && plain(model))
}

/// The cache's folder of a model.
pub fn repository(cache: &Path, name: &str) -> PathBuf {
    cache.join(format!("models--{}", name.replace('/', "--")))
}

/// The snapshot that `revision` of a model points to, if it was pulled.
pub fn snapshot(cache: &Path, name: &str, revision: &str) -> Option<PathBuf> {
    let repository = repository(cache, name);
    let commit = fs::read_to_string(repository.join("refs").join(revision)).ok()?;
    let folder = repository.join("snapshots").join(commit.trim());
    folder.is_dir().then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models() {
        for name in ["deepseek-ai/DeepSeek-V4-Flash", "a/b", "A_1/b.c"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "a", "a/", "/b", "a/b/c", "../b", "a/..", "./b", "a b/c", "a/b\n"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
