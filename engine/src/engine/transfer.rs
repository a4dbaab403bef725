//! Saving, restoring and copying sequences: state rows between the device and a [`Snapshot`].

use std::time::Duration;

use hal::Tensor;

use super::Engine;
use crate::error::{Error, Result};
use crate::limits::{PAGE_TOKENS, STEP_TIMEOUT_S};
use crate::model::emit::StatePart;
use crate::refusal::{Refusal, RefusalKind};
use crate::state::geometry::{Part, entries_per_page, tail_ring, window_ring};
use crate::state::snapshot::Section;
use crate::state::{Sequence, Snapshot};

const TIMEOUT: Duration = Duration::from_secs(STEP_TIMEOUT_S);

/// Which rows of a part the future of a sequence needs.
enum Rows {
    /// Positions `first..end` of a ring of `ring` rows per slot.
    Ring { first: u32, end: u32, ring: u32 },
    /// Entries `first..end`, `per` on a page.
    Paged { first: u32, end: u32, per: u32 },
}

impl Rows {
    fn count(&self) -> u32 {
        match *self {
            Rows::Ring { first, end, .. } | Rows::Paged { first, end, .. } => end - first,
        }
    }
}

/// Entries `first..end` as stretches of one page each: page number, first row in it, rows.
fn stretches(first: u32, end: u32, per: u32) -> impl Iterator<Item = (u32, u32, u32)> {
    (first / per..end.div_ceil(per)).filter_map(move |page| {
        let from = first.max(page * per);
        let to = end.min((page + 1) * per);
        (from < to).then(|| (page, from - page * per, to - from))
    })
}

impl Engine {
    fn rows_of(&self, part: &StatePart, base: u32, position: u32) -> Rows {
        let layer = &self.config.layers[part.spec.layer];
        match part.spec.part {
            Part::Near => Rows::Ring {
                first: position.saturating_sub(self.config.window - 1),
                end: position,
                ring: window_ring(&self.config),
            },
            Part::Tail(_) => Rows::Ring {
                first: (position / layer.ratio).saturating_sub(layer.halves - 1) * layer.ratio,
                end: position,
                ring: tail_ring(layer),
            },
            Part::Entries(_) => {
                let (first, end) = (base / layer.ratio, position / layer.ratio);
                Rows::Paged { first, end, per: entries_per_page(layer.ratio) }
            }
        }
    }

    /// Reads contiguous rows of a state part.
    fn read(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        let bytes = u64::from(tensor.rows()) * tensor.row_bytes();
        let slot = self.device.host_slot(bytes)?;
        let point = self.queue.download(tensor, slot, &[])?;
        self.queue.wait(&point, TIMEOUT)?;
        Ok(self.queue.reclaim(&point)?.bytes().to_vec())
    }

    /// Writes contiguous rows of a state part.
    fn write(&self, tensor: &Tensor, bytes: &[u8]) -> Result<()> {
        let mut slot = self.device.host_slot(bytes.len() as u64)?;
        slot.bytes_mut().copy_from_slice(bytes);
        let point = self.queue.upload(tensor, slot, &[])?;
        self.queue.wait(&point, TIMEOUT)?;
        self.queue.reclaim(&point)?;
        Ok(())
    }

    /// The whole state of a sequence at its position: only what its future needs, in the order of
    /// positions.
    ///
    /// # Errors
    /// `Request` for a sequence of another engine; `Device`.
    pub fn save(&self, sequence: &Sequence) -> Result<Snapshot> {
        self.save_from(sequence, 0)
    }

    /// As [`Engine::save`], without the entries of the first `base` tokens: for restoring behind a
    /// snapshot whose position is `base`.
    ///
    /// # Errors
    /// As [`Engine::save`]; `Request` if `base` is beyond the position.
    pub fn save_from(&self, sequence: &Sequence, base: u32) -> Result<Snapshot> {
        self.check_owner(sequence)?;
        let position = sequence.position();
        if base > position {
            return Err(Error::request(format!("a base of {base} in a sequence of {position}")));
        }
        let mut sections = Vec::with_capacity(self.plans.state().len());
        for part in self.plans.state() {
            let row_bytes = part.spec.row_bytes() as usize;
            let mut bytes = Vec::new();
            match self.rows_of(part, base, position) {
                Rows::Ring { first, end, ring } => {
                    let rows = self.read(&part.tensor.row_range(sequence.slot() * ring, ring))?;
                    for position in first..end {
                        let at = (position % ring) as usize * row_bytes;
                        bytes.extend_from_slice(&rows[at..at + row_bytes]);
                    }
                }
                Rows::Paged { first, end, per } => {
                    for (page, from, count) in stretches(first, end, per) {
                        let page = sequence.pages()[page as usize];
                        let rows = part.tensor.row_range(page * per + from, count);
                        bytes.extend_from_slice(&self.read(&rows)?);
                    }
                }
            }
            let grows = matches!(part.spec.part, Part::Entries(_));
            sections.push(Section { row_bytes: row_bytes as u32, grows, bytes });
        }
        let identity = self.identity.clone();
        Ok(Snapshot { identity, base, position, sections })
    }

    /// A new sequence with the state of a complete snapshot; its past cannot be rolled back to.
    ///
    /// # Errors
    /// `Snapshot` if it belongs to another model, numerics or arithmetic class, or its sections do not
    /// have the sizes its position asks for; `Request` if it does not fit; `Device`.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<Sequence> {
        self.restore_chain(&[snapshot])
    }

    /// A new sequence with the state of the last snapshot of a chain: the first has base 0, each
    /// other's base is the position of the one before, and all are of the same tokens (which the
    /// caller knows). Of all but the last [`Snapshot::entries`] will do.
    ///
    /// # Errors
    /// As [`Engine::restore`]; `Snapshot` if the chain has a gap.
    pub fn restore_chain(&self, chain: &[&Snapshot]) -> Result<Sequence> {
        let mut end = 0;
        for (number, snapshot) in chain.iter().enumerate() {
            self.check_snapshot(snapshot, number + 1 == chain.len())?;
            if snapshot.base != end {
                return Err(refuse(format!(
                    "the snapshot goes on behind {} tokens, and {end} are there",
                    snapshot.base
                )));
            }
            end = snapshot.position;
        }
        let Some((last, earlier)) = chain.split_last() else {
            return Err(refuse("a chain of no snapshots"));
        };
        let mut sequence = self.open_sequence()?;
        self.reserve(&mut sequence, last.position)?;
        sequence.place_at(last.position);
        for (number, part) in self.plans.state().iter().enumerate() {
            if let Part::Entries(_) = part.spec.part {
                for snapshot in earlier {
                    self.write_part(part, &sequence, snapshot, number)?;
                }
            }
            self.write_part(part, &sequence, last, number)?;
        }
        Ok(sequence)
    }

    /// A second sequence with the same past: full pages are shared, the rest is copied.
    ///
    /// # Errors
    /// `Request` if no slot or page is free; `Device`.
    pub fn copy(&self, sequence: &Sequence) -> Result<Sequence> {
        // A page may be shared once nobody can write it again: all its tokens lie below the floor.
        let shared = sequence.floor() / PAGE_TOKENS;
        let snapshot = self.save_from(sequence, shared * PAGE_TOKENS)?;
        let mut twin = self.open_sequence()?;
        twin.share_pages(sequence, shared as usize);
        self.reserve(&mut twin, snapshot.position)?;
        twin.place_at(snapshot.position);
        for (number, part) in self.plans.state().iter().enumerate() {
            self.write_part(part, &twin, &snapshot, number)?;
        }
        Ok(twin)
    }

    /// Writes section `number` of a snapshot, which is of `part`, to the places of `sequence`.
    fn write_part(
        &self,
        part: &StatePart,
        sequence: &Sequence,
        snapshot: &Snapshot,
        number: usize,
    ) -> Result<()> {
        let row_bytes = part.spec.row_bytes() as usize;
        let mut bytes = &snapshot.sections[number].bytes[..];
        match self.rows_of(part, snapshot.base, snapshot.position) {
            Rows::Ring { first, end, ring } => {
                let mut rows = vec![0; ring as usize * row_bytes];
                for (position, row) in (first..end).zip(bytes.chunks_exact(row_bytes)) {
                    let at = (position % ring) as usize * row_bytes;
                    rows[at..at + row_bytes].copy_from_slice(row);
                }
                self.write(&part.tensor.row_range(sequence.slot() * ring, ring), &rows)
            }
            Rows::Paged { first, end, per } => {
                for (page, from, count) in stretches(first, end, per) {
                    let (rows, rest) = bytes.split_at(count as usize * row_bytes);
                    bytes = rest;
                    let page = sequence.pages()[page as usize];
                    self.write(&part.tensor.row_range(page * per + from, count), rows)?;
                }
                Ok(())
            }
        }
    }

    fn reserve(&self, sequence: &mut Sequence, tokens: u32) -> Result<()> {
        if sequence.reserve(tokens) {
            return Ok(());
        }
        Err(Error::request(format!(
            "a sequence of {tokens} tokens does not fit: a context holds {}, {} pages are free",
            sequence.capacity(),
            self.pool.available().1
        )))
    }

    fn check_owner(&self, sequence: &Sequence) -> Result<()> {
        match sequence.belongs_to(&self.pool) {
            true => Ok(()),
            false => Err(Error::request("a sequence of another engine")),
        }
    }

    /// `whole`: something is to be resumed at it.
    fn check_snapshot(&self, snapshot: &Snapshot, whole: bool) -> Result<()> {
        if snapshot.identity != self.identity {
            return Err(refuse(format!(
                "the snapshot is of {}, this engine is {}; feed the text again",
                snapshot.identity, self.identity
            )));
        }
        if snapshot.base > snapshot.position {
            return Err(refuse(format!(
                "a base of {} in a snapshot of {} tokens",
                snapshot.base, snapshot.position
            )));
        }
        let state = self.plans.state();
        if snapshot.sections.len() != state.len() {
            return Err(refuse(format!(
                "the snapshot has {} sections, this model {}",
                snapshot.sections.len(),
                state.len()
            )));
        }
        for (part, section) in state.iter().zip(&snapshot.sections) {
            let grows = matches!(part.spec.part, Part::Entries(_));
            if section.grows != grows {
                return Err(refuse(format!(
                    "layer {} {:?} is of another kind",
                    part.spec.layer, part.spec.part
                )));
            }
            if !whole && !grows {
                continue;
            }
            let rows = self.rows_of(part, snapshot.base, snapshot.position).count();
            let bytes = u64::from(rows) * part.spec.row_bytes();
            if section.bytes.len() as u64 != bytes {
                return Err(refuse(format!(
                    "layer {} {:?}: {} bytes, a sequence of {} tokens has {bytes}",
                    part.spec.layer,
                    part.spec.part,
                    section.bytes.len(),
                    snapshot.position
                )));
            }
        }
        Ok(())
    }
}

fn refuse(message: impl AsRef<str>) -> Error {
    Refusal::new(RefusalKind::Snapshot, message).into()
}
