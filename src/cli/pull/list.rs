//! What the hub says a model consists of: commit, and per file its name, size and checksum.
//!
//! All of it comes from the network and is checked before it is used: names are plain file names, the
//! commit and the checksums are hexadecimal.

use std::fmt;
use std::io::Read;

use hf_hub::api::sync::{ApiError, ApiRepo};
use serde::Deserialize;

use super::explain;
use crate::cli::failure::{Failure, Result};

/// Longest answer about a model that is read, in bytes (V4-Pro's is about 30 kB).
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// A checksum as the hub gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256 of the bytes, of files in large storage.
    Sha256(String),
    /// SHA-1 of git's blob, of the others.
    GitBlob(String),
}

impl Hash {
    /// The hexadecimal digits.
    pub fn text(&self) -> &str {
        let (Hash::Sha256(text) | Hash::GitBlob(text)) = self;
        text
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.text())
    }
}

/// One file to bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteFile {
    /// A plain file name.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// What its bytes must hash to.
    pub hash: Hash,
}

/// A model at one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// Forty hexadecimal digits.
    pub commit: String,
    /// The files of the model that are used here: small ones first, config.json first of all.
    pub files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    sha256: String,
    size: u64,
}

impl Listing {
    /// Asks the hub.
    pub fn fetch(remote: &ApiRepo) -> Result<Self> {
        let answer = remote.info_request().query("blobs", "true").call();
        let answer = answer.map_err(|error| explain(&ApiError::from(Box::new(error))))?;
        let mut bytes = Vec::new();
        answer.into_reader().take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
        Self::parse(&bytes)
    }

    /// Reads and checks an answer.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let answer: Answer = serde_json::from_slice(bytes)
            .map_err(|error| Failure::new(format!("not a hub's answer about a model: {error}")))?;
        let commit = hexadecimal(answer.sha, 40)?;
        let mut files = Vec::new();
        for sibling in answer.siblings {
            if is_wanted(&sibling.rfilename) {
                files.push(sibling.checked()?);
            }
        }
        let is_config = |file: &RemoteFile| file.name == "config.json";
        if !files.iter().any(is_config) {
            return Err(Failure::new("has no config.json; it is not a model in this layout"));
        }
        if !files.iter().any(|file| file.name.ends_with(".safetensors")) {
            return Err(Failure::new("has no safetensors files; other formats are not read"));
        }
        files.sort_by_key(|file| {
            (!is_config(file), file.name.ends_with(".safetensors"), file.name.clone())
        });
        Ok(Self { commit, files })
    }
}

impl Sibling {
    fn checked(self) -> Result<RemoteFile> {
        let name = self.rfilename;
        let (size, hash) = match (self.lfs, self.size, self.blob) {
            (Some(large), ..) => (large.size, Hash::Sha256(hexadecimal(large.sha256, 64)?)),
            (None, Some(size), Some(blob)) => (size, Hash::GitBlob(hexadecimal(blob, 40)?)),
            _ => return Err(Failure::new(format!("the hub gives no checksum of {name}"))),
        };
        Ok(RemoteFile { name, size, hash })
    }
}

/// A file of the model proper, in the folder itself: nothing with a path, nothing hidden, no programs.
fn is_wanted(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let plain = !name.starts_with('.') && name.chars().all(legal);
    let ends = [".json", ".safetensors"].iter().any(|end| name.ends_with(end));
    plain && (ends || name.starts_with("LICENSE"))
}

fn hexadecimal(text: String, digits: usize) -> Result<String> {
    if text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Failure::new(format!("the hub gives \"{text}\" where {digits} hexadecimal digits belong")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn parse(files: &str) -> Result<Listing> {
        Listing::parse(format!("{{\"sha\": \"{COMMIT}\", \"siblings\": [{files}]}}").as_bytes())
    }

    fn small(name: &str) -> String {
        format!("{{\"rfilename\": \"{name}\", \"size\": 3, \"blobId\": \"{COMMIT}\"}}")
    }

    #[test]
    fn the_configuration_comes_first_and_only_the_model_is_taken() {
        let names =
            ["b.safetensors", "z.json", "config.json", "run.py", "x/y.json", ".hidden.json"];
        let listing = parse(&names.map(small).join(",")).expect("a legal answer");
        let taken: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(taken, ["config.json", "z.json", "b.safetensors"]);
    }

    #[test]
    fn hostile_answers_are_refused() {
        let good = [small("config.json"), small("a.safetensors")].join(",");
        assert!(parse(&good).is_ok());
        for files in [
            String::new(),
            small("config.json"),
            small("a.safetensors"),
            good.replace(COMMIT, "../../../../etc/passwd"),
            good.replace("\"size\": 3, ", ""),
        ] {
            assert!(parse(&files).is_err(), "{files}");
        }
        assert!(Listing::parse(b"{}").is_err());
        assert!(Listing::parse(b"\xff").is_err());
    }
}
