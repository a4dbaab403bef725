//! The files of a checkpoint: config.json and one safetensors file, or shards with their index.
//! Files are mapped, not read; only headers are looked at here.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hal::ByteOwner;
use mmap::Mapping;
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::header::{Header, parse_header};
use crate::limits;
use crate::refusal::{Refusal, RefusalKind, shown};

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// One safetensors file with its checked header.
pub(super) struct WeightFile {
    pub(super) name: String,
    pub(super) owner: Arc<dyn ByteOwner>,
    pub(super) header: Header,
}

impl WeightFile {
    pub(super) fn new(name: String, owner: Arc<dyn ByteOwner>) -> Result<Self, Refusal> {
        let header = parse_header(owner.bytes()).map_err(|refusal| refusal.at(shown(&name)))?;
        Ok(Self { name, owner, header })
    }
}

/// A mapped file as the HAL borrows it.
struct MappedFile(Mapping);

impl ByteOwner for MappedFile {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn promote(&self, go_on: &mut dyn FnMut(u64) -> bool) -> u64 {
        self.0.promote(go_on)
    }
}

/// What a folder holds.
pub(super) struct Folder {
    pub(super) config: Vec<u8>,
    pub(super) files: Vec<WeightFile>,
}

/// Opens a model folder: reads its configuration, maps its weights and checks them against the index.
pub(super) fn open(folder: &Path) -> Result<Folder, Refusal> {
    if !folder.is_dir() {
        let what = if folder.exists() { "is a file; give its folder" } else { "does not exist" };
        return Err(file_refusal(folder, what));
    }
    let config = read_bounded(&folder.join(CONFIG), limits::CONFIG_BYTES_MAX as u64)?;
    if folder.join(SINGLE).is_file() {
        return Ok(Folder { config, files: vec![map(folder, SINGLE)?] });
    }
    let index = folder.join(INDEX);
    if !index.is_file() {
        let files = vec![map(folder, &only_safetensors(folder)?)?];
        return Ok(Folder { config, files });
    }
    let index = parse_index(&read_bounded(&index, limits::INDEX_BYTES_MAX)?)
        .map_err(|refusal| refusal.at(INDEX))?;
    let shards = index.shards.iter().map(|shard| map_shard(folder, shard));
    let files = shards.collect::<Result<Vec<_>, _>>()?;
    index.check(&files).map_err(|refusal| refusal.at(INDEX))?;
    Ok(Folder { config, files })
}

fn file_refusal(path: &Path, what: impl fmt::Display) -> Refusal {
    Refusal::new(RefusalKind::File, format!("{} {what}", path.display()))
}

fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, Refusal> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => file_refusal(path, "is missing; is this a model folder?"),
        _ => file_refusal(path, format!("cannot be read: {error}")),
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(file_refusal(path, format!("is longer than {most} bytes; not a model's file")));
    }
    Ok(bytes)
}

fn map(folder: &Path, name: &str) -> Result<WeightFile, Refusal> {
    let path = folder.join(name);
    let mapping = Mapping::open(&path)
        .map_err(|error| file_refusal(&path, format!("cannot be mapped: {error}")))?;
    WeightFile::new(name.to_owned(), Arc::new(MappedFile(mapping)))
}

fn map_shard(folder: &Path, shard: &str) -> Result<WeightFile, Refusal> {
    if folder.join(shard).is_file() {
        return map(folder, shard);
    }
    let message = format!(
        "{INDEX} names {}, which is not in {}; is the download complete?",
        shown(shard),
        folder.display()
    );
    Err(Refusal::new(RefusalKind::Index, message))
}

/// The folder's one safetensors file, whatever its name.
fn only_safetensors(folder: &Path) -> Result<String, Refusal> {
    let unreadable = |error| file_refusal(folder, format!("cannot be listed: {error}"));
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            found.push(path);
        }
    }
    match found.as_slice() {
        [] => Err(file_refusal(folder, format!("holds neither {SINGLE} nor {INDEX}"))),
        [path] => match path.file_name().and_then(|name| name.to_str()) {
            Some(name) => Ok(name.to_owned()),
            None => Err(file_refusal(path, "has a name that is not UTF-8; rename it")),
        },
        several => Err(Refusal::new(
            RefusalKind::Index,
            format!(
                "{} holds {} safetensors files but no {INDEX} that says what is where",
                folder.display(),
                several.len()
            ),
        )),
    }
}

/// The shard index: which file holds which tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardIndex {
    /// File names, ascending.
    pub shards: Vec<String>,
    /// Place in `shards` of every tensor.
    pub shard_of: HashMap<String, usize>,
}

fn refuse(message: String) -> Refusal {
    Refusal::new(RefusalKind::Index, message)
}

/// Parses a `model.safetensors.index.json`.
///
/// Never panics and never holds more than a small multiple of `bytes`.
///
/// # Errors
/// `Index`: not JSON, a tensor named twice, or a shard whose name is not a plain file name.
pub fn parse_index(bytes: &[u8]) -> Result<ShardIndex, Refusal> {
    let raw: RawIndex = serde_json::from_slice(bytes)
        .map_err(|error| refuse(format!("is not a shard index: {error}")))?;
    let mut shards: Vec<String> = raw.weight_map.0.iter().map(|(_, shard)| shard.clone()).collect();
    shards.sort_unstable();
    shards.dedup();
    if shards.is_empty() {
        return Err(refuse("names no tensors".into()));
    }
    if shards.len() > limits::SHARDS_MAX {
        let most = limits::SHARDS_MAX;
        return Err(refuse(format!("names {} shards; the most are {most}", shards.len())));
    }
    if let Some(shard) = shards.iter().find(|shard| !is_plain_name(shard)) {
        return Err(refuse(format!("names the shard \"{}\", not a plain file name", shown(shard))));
    }
    let mut shard_of = HashMap::with_capacity(raw.weight_map.0.len());
    for (tensor, shard) in raw.weight_map.0 {
        let place = shards.binary_search(&shard).expect("shards holds every shard of the map");
        let name = shown(&tensor);
        if shard_of.insert(tensor, place).is_some() {
            return Err(refuse(format!("names tensor {name} twice")));
        }
    }
    Ok(ShardIndex { shards, shard_of })
}

/// A file of the same folder and nothing else.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0', ':'])
}

impl ShardIndex {
    /// Every tensor of the index is in its shard, and every tensor of a shard is in the index.
    fn check(&self, files: &[WeightFile]) -> Result<(), Refusal> {
        let mut found = HashSet::with_capacity(self.shard_of.len());
        for (place, file) in files.iter().enumerate() {
            for tensor in &file.header.tensors {
                let index = self.shard_of.get(&tensor.name);
                if index == Some(&place) {
                    found.insert(tensor.name.as_str());
                    continue;
                }
                let (tensor, file) = (shown(&tensor.name), shown(&file.name));
                return Err(refuse(match index {
                    None => format!("does not list tensor {tensor}, which is in {file}"),
                    Some(&other) => format!(
                        "tensor {tensor} is said to be in {} but {file} has one too",
                        shown(&self.shards[other])
                    ),
                }));
            }
        }
        let absent = self.shard_of.iter().filter(|(tensor, _)| !found.contains(tensor.as_str()));
        let Some((tensor, place)) = absent.min() else { return Ok(()) };
        let (tensor, shard) = (shown(tensor), shown(&self.shards[*place]));
        Err(refuse(format!("lists tensor {tensor} in {shard}, which does not have it")))
    }
}

#[derive(Deserialize)]
struct RawIndex {
    #[serde(rename = "metadata")]
    _metadata: Option<IgnoredAny>,
    weight_map: Pairs,
}

/// An object of strings in the order of the file, duplicates included.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object from tensor names to file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = source.next_entry()? {
                    if pairs.len() == limits::TENSORS_MAX {
                        return Err(de::Error::custom("more tensors than any model has"));
                    }
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        source.deserialize_map(PairsVisitor)
    }
}
