//! The header of a safetensors file: eight bytes of length, then JSON, then data.
//!
//! Our own parser, because a checkpoint is somebody else's file: every size is bounded before memory is
//! taken, a name may occur once, and the tensors must tile the data exactly — no overlap, no hole, no
//! byte after the last one. It never looks at the data.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::limits;
use crate::refusal::{Refusal, RefusalKind, shown};

/// Element types of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    F8E8M0,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
}

impl Dtype {
    const ALL: [(Dtype, &'static str, u64); 17] = [
        (Dtype::Bool, "BOOL", 1),
        (Dtype::U8, "U8", 1),
        (Dtype::I8, "I8", 1),
        (Dtype::F8E5M2, "F8_E5M2", 1),
        (Dtype::F8E4M3, "F8_E4M3", 1),
        (Dtype::F8E8M0, "F8_E8M0", 1),
        (Dtype::I16, "I16", 2),
        (Dtype::U16, "U16", 2),
        (Dtype::F16, "F16", 2),
        (Dtype::Bf16, "BF16", 2),
        (Dtype::I32, "I32", 4),
        (Dtype::U32, "U32", 4),
        (Dtype::F32, "F32", 4),
        (Dtype::C64, "C64", 8),
        (Dtype::F64, "F64", 8),
        (Dtype::I64, "I64", 8),
        (Dtype::U64, "U64", 8),
    ];

    /// The format's name of this type.
    pub fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    /// Bytes of one element.
    pub fn size_bytes(self) -> u64 {
        Self::ALL[self as usize].2
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == name).map(|(dtype, ..)| *dtype)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its name, unescaped and untrusted.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// First byte, counted from the start of the file.
    pub begin: usize,
    /// Byte after the last, counted from the start of the file.
    pub end: usize,
}

/// A checked header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The tensors in the order of their bytes.
    pub tensors: Vec<TensorEntry>,
}

fn refuse(message: String) -> Refusal {
    Refusal::new(RefusalKind::Header, message)
}

/// Parses the header of the file whose bytes are `file`; only the header's bytes are touched.
///
/// Never panics and never holds more than a small multiple of the header's length, which is at most
/// [`limits::HEADER_BYTES_MAX`].
///
/// # Errors
/// `Header`, naming the tensor and the numbers, for whatever is not exactly the format.
pub fn parse_header(file: &[u8]) -> Result<Header, Refusal> {
    let json = header_bytes(file)?;
    let text = std::str::from_utf8(json).map_err(|_| refuse("the header is not UTF-8".into()))?;
    let raw: RawHeader = serde_json::from_str(text)
        .map_err(|error| refuse(format!("the header is not what safetensors asks for: {error}")))?;
    let data_begin = 8 + json.len();
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    for (name, entry) in raw.tensors {
        tensors.push(entry.check(name, data_begin, file.len())?);
    }
    check_names(&tensors)?;
    tensors.sort_by_key(|tensor| (tensor.begin, tensor.end));
    check_tiling(&tensors, data_begin, file.len())?;
    Ok(Header { tensors })
}

fn header_bytes(file: &[u8]) -> Result<&[u8], Refusal> {
    if file.starts_with(b"version https://git-lfs") {
        return Err(refuse("a Git LFS pointer and not the file; run git lfs pull".into()));
    }
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(refuse(format!("only {} bytes long; the download is cut short", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > limits::HEADER_BYTES_MAX {
        return Err(refuse(format!(
            "claims a header of {length} bytes, the format allows {}; not a safetensors file?",
            limits::HEADER_BYTES_MAX
        )));
    }
    if length > rest.len() as u64 {
        return Err(refuse(format!(
            "claims a header of {length} bytes but ends after {}; the download is cut short",
            rest.len()
        )));
    }
    let json = &rest[..length as usize];
    if json.first() != Some(&b'{') {
        return Err(refuse("the header does not begin with '{'; not a safetensors file?".into()));
    }
    Ok(json)
}

fn check_names(tensors: &[TensorEntry]) -> Result<(), Refusal> {
    let mut seen = HashSet::with_capacity(tensors.len());
    match tensors.iter().find(|tensor| !seen.insert(tensor.name.as_str())) {
        Some(twice) => Err(refuse(format!("tensor {} is there twice", shown(&twice.name)))),
        None => Ok(()),
    }
}

fn check_tiling(tensors: &[TensorEntry], begin: usize, end: usize) -> Result<(), Refusal> {
    let mut at = begin;
    for (index, tensor) in tensors.iter().enumerate() {
        if tensor.begin < at {
            let name = shown(&tensor.name);
            let before = shown(&tensors[index - 1].name);
            return Err(refuse(format!("tensors {before} and {name} overlap")));
        }
        if tensor.begin > at {
            let (hole, name) = (tensor.begin - at, shown(&tensor.name));
            return Err(refuse(format!("{hole} bytes in front of tensor {name} belong to none")));
        }
        at = tensor.end;
    }
    if at < end {
        let rest = end - at;
        return Err(refuse(format!("{rest} bytes after the last tensor belong to none")));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    #[serde(deserialize_with = "dimensions")]
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

/// A list of dimensions, kept up to one more than a tensor may have.
fn dimensions<'de, D: Deserializer<'de>>(source: D) -> Result<Vec<u64>, D::Error> {
    struct Dimensions;
    impl<'de> Visitor<'de> for Dimensions {
        type Value = Vec<u64>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("a list of dimensions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut source: A) -> Result<Vec<u64>, A::Error> {
            let mut shape = Vec::new();
            while let Some(dimension) = source.next_element()? {
                if shape.len() <= limits::RANK_MAX {
                    shape.push(dimension);
                }
            }
            Ok(shape)
        }
    }
    source.deserialize_seq(Dimensions)
}

impl RawEntry {
    fn check(self, name: String, data: usize, file: usize) -> Result<TensorEntry, Refusal> {
        let dtype = self
            .fit((file - data) as u64)
            .map_err(|problem| refuse(format!("tensor {} {problem}", shown(&name))))?;
        let [begin, end] = self.data_offsets.map(|offset| data + offset as usize);
        Ok(TensorEntry { name, dtype, shape: self.shape, begin, end })
    }

    /// The dtype, if dtype, shape and offsets agree and lie in `room` bytes of data; else what is
    /// wrong.
    fn fit(&self, room: u64) -> Result<Dtype, String> {
        let Some(dtype) = Dtype::from_name(&self.dtype) else {
            let dtype = shown(&self.dtype);
            return Err(format!("has dtype {dtype}, which this build cannot read"));
        };
        if self.shape.len() > limits::RANK_MAX {
            return Err(format!("has more than {} dimensions", limits::RANK_MAX));
        }
        let size = |bytes: Option<u64>, &dimension: &u64| bytes?.checked_mul(dimension);
        let Some(bytes) = self.shape.iter().fold(Some(dtype.size_bytes()), size) else {
            return Err("has a shape too large for any file".into());
        };
        let [begin, end] = self.data_offsets;
        if end.checked_sub(begin) != Some(bytes) {
            return Err(format!(
                "is {dtype} {:?}, {bytes} bytes, but its offsets are {begin} to {end}",
                self.shape
            ));
        }
        if end > room {
            return Err(format!(
                "ends at byte {end} of the data but only {room} are there; \
                 the download is cut short"
            ));
        }
        Ok(dtype)
    }
}

/// The header in the order of the file, duplicates included.
struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut source: A) -> Result<RawHeader, A::Error> {
        let mut tensors = Vec::new();
        while let Some(name) = source.next_key::<String>()? {
            if name == "__metadata__" {
                source.next_value::<IgnoredAny>()?;
                continue;
            }
            if tensors.len() == limits::TENSORS_MAX {
                let most = limits::TENSORS_MAX;
                return Err(de::Error::custom(format!("more than {most} tensors")));
            }
            tensors.push((name, source.next_value()?));
        }
        Ok(RawHeader { tensors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dtype_table_is_in_the_order_of_the_enum() {
        for (index, (dtype, name, _)) in Dtype::ALL.iter().enumerate() {
            assert_eq!(*dtype as usize, index, "{name}");
            assert_eq!(Dtype::from_name(name), Some(*dtype));
        }
    }
}
