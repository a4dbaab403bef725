//! The one format of a saved sequence: for RAM, disk and wire. Versioned, checksummed, bounded; rows
//! in the order of positions, so that it knows no ring lengths, slots or page numbers.
//!
//! What grows with a sequence (its entries) may be left to earlier snapshots of the same tokens: a
//! snapshot with a `base` above 0 holds the entries from there on, and is restored behind the snapshot
//! whose position is that base. So cuts along one conversation store every entry once. The earlier ones
//! of such a chain need their entries only, which is what [`Snapshot::entries`] keeps.
//!
//! Layout, little endian: magic · version u32 · identity (length u32, UTF-8) · base u32 · position u32 ·
//! number of sections u32 · per section rows u32, row bytes u32 and whether it grows u32 · all rows ·
//! CRC-32 of everything before.
//! A snapshot of another model, other numerics or another arithmetic class is refused by its identity.

use crate::refusal::{Refusal, RefusalKind};

const MAGIC: &[u8; 8] = b"HADALSEQ";
const VERSION: u32 = 2;
/// Longest identity string.
const IDENTITY_BYTES_MAX: u32 = 1 << 10;
/// Most sections: five per layer.
const SECTIONS_MAX: u32 = 5 * crate::limits::LAYERS_MAX;

/// Rows of one state buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Bytes of one row.
    pub row_bytes: u32,
    /// Whether these are entries, which grow with the sequence, and not the last rows of a ring.
    pub grows: bool,
    /// The rows, in order of positions or entries.
    pub bytes: Vec<u8>,
}

/// A sequence at one position: complete if its base is 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Model, numerics and arithmetic class it belongs to.
    pub identity: String,
    /// Tokens whose entries lie in earlier snapshots.
    pub base: u32,
    /// Tokens fed.
    pub position: u32,
    /// One per state buffer, in the order of the schedule.
    pub sections: Vec<Section>,
}

fn refuse(message: impl AsRef<str>) -> Refusal {
    Refusal::new(RefusalKind::Snapshot, message)
}

impl Snapshot {
    /// Bytes of state, without the header.
    pub fn size_bytes(&self) -> u64 {
        self.sections.iter().map(|section| section.bytes.len() as u64).sum()
    }

    /// What a snapshot behind this one needs of it: the entries. Nothing can be resumed at it.
    #[must_use]
    pub fn entries(&self) -> Snapshot {
        let keep = |section: &Section| match section.grows {
            true => section.clone(),
            false => Section { bytes: Vec::new(), ..section.clone() },
        };
        Snapshot {
            identity: self.identity.clone(),
            sections: self.sections.iter().map(keep).collect(),
            ..*self
        }
    }

    /// Bytes of the portable form.
    pub fn encoded_bytes(&self) -> usize {
        // Magic, version, identity's length, base, position, number of sections; the checksum.
        let header = MAGIC.len() + 5 * 4 + self.identity.len() + 12 * self.sections.len();
        header + self.size_bytes() as usize + 4
    }

    /// The portable form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_bytes());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.identity.len() as u32).to_le_bytes());
        out.extend_from_slice(self.identity.as_bytes());
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&(self.sections.len() as u32).to_le_bytes());
        for section in &self.sections {
            let rows = section.bytes.len() as u32 / section.row_bytes;
            out.extend_from_slice(&rows.to_le_bytes());
            out.extend_from_slice(&section.row_bytes.to_le_bytes());
            out.extend_from_slice(&u32::from(section.grows).to_le_bytes());
        }
        for section in &self.sections {
            out.extend_from_slice(&section.bytes);
        }
        let sum = crc32fast::hash(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads the portable form.
    ///
    /// # Errors
    /// `Snapshot`: not a snapshot, another version, truncated, longer than it says, or damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        let Some((body, sum)) = bytes.split_last_chunk::<4>() else {
            return Err(refuse("a snapshot of less than 4 bytes; the file is truncated"));
        };
        let mut reader = Reader { rest: body };
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(refuse("not a sequence snapshot; is this the right file?"));
        }
        let version = reader.number()?;
        if version != VERSION {
            return Err(refuse(format!(
                "snapshot version {version}; this build reads version {VERSION}: save it again"
            )));
        }
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return Err(refuse("the snapshot's checksum does not match; the file is damaged"));
        }
        let length = reader.bounded("identity", IDENTITY_BYTES_MAX)?;
        let identity = std::str::from_utf8(reader.take(length as usize)?)
            .map_err(|_| refuse("the snapshot's identity is not UTF-8"))?
            .to_owned();
        let base = reader.number()?;
        let position = reader.number()?;
        let count = reader.bounded("number of sections", SECTIONS_MAX)?;
        let mut sizes = Vec::with_capacity(count as usize);
        for _ in 0..count {
            sizes.push((
                reader.number()?,
                reader.number()?,
                reader.bounded("kind of a section", 1)?,
            ));
        }
        let mut sections = Vec::with_capacity(count as usize);
        for (rows, row_bytes, grows) in sizes {
            if row_bytes == 0 {
                return Err(refuse("a section of the snapshot has rows of no bytes"));
            }
            let size = u64::from(rows) * u64::from(row_bytes);
            let size = usize::try_from(size).map_err(|_| refuse("a section is too large"))?;
            let bytes = reader.take(size)?.to_vec();
            sections.push(Section { row_bytes, grows: grows == 1, bytes });
        }
        if !reader.rest.is_empty() {
            return Err(refuse("the snapshot is longer than its sections"));
        }
        Ok(Snapshot { identity, base, position, sections })
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Refusal> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(refuse("the snapshot ends too early; the file is truncated"));
        };
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, Refusal> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four bytes were taken")))
    }

    fn bounded(&mut self, what: &str, most: u32) -> Result<u32, Refusal> {
        let value = self.number()?;
        if value > most {
            return Err(refuse(format!("the snapshot's {what} is {value}; at most {most}")));
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Snapshot {
        Snapshot {
            identity: "0123/plain/cpu".into(),
            base: 2,
            position: 7,
            sections: vec![
                Section { row_bytes: 3, grows: true, bytes: (0..9).collect() },
                Section { row_bytes: 4, grows: false, bytes: vec![] },
            ],
        }
    }

    #[test]
    fn portable_form_gives_the_snapshot_back() {
        let bytes = sample().to_bytes();
        assert_eq!(bytes.len(), sample().encoded_bytes());
        assert_eq!(Snapshot::from_bytes(&bytes).unwrap(), sample());
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_refused() {
        let bytes = sample().to_bytes();
        for end in 0..bytes.len() {
            assert!(Snapshot::from_bytes(&bytes[..end]).is_err(), "cut at {end}");
        }
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 0x10;
            assert!(Snapshot::from_bytes(&damaged).is_err(), "flip at {place}");
        }
    }

    #[test]
    fn a_hostile_size_is_refused_before_it_is_allocated() {
        let mut bytes = sample().to_bytes();
        bytes.truncate(bytes.len() - 4);
        let at = 8 + 4 + 4 + 14 + 4 + 4 + 4;
        bytes[at..at + 8].fill(0xff);
        let sum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&sum.to_le_bytes());
        let refusal = Snapshot::from_bytes(&bytes).unwrap_err();
        assert!(refusal.to_string().contains("ends too early"), "{refusal}");
    }
}
