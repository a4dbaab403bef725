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
    /// Entries `0..count`, `per` on a page.
    Paged { count: u32, per: u32 },
}

impl Rows {
    fn count(&self) -> u32 {
        match *self {
            Rows::Ring { first, end, .. } => end - first,
            Rows::Paged { count, .. } => count,
        }
    }
}

impl Engine {
    fn rows_of(&self, part: &StatePart, position: u32) -> Rows {
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
                Rows::Paged { count: position / layer.ratio, per: entries_per_page(layer.ratio) }
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
        self.check_owner(sequence)?;
        let mut sections = Vec::with_capacity(self.plans.state().len());
        for part in self.plans.state() {
            let row_bytes = part.spec.row_bytes() as usize;
            let mut bytes = Vec::new();
            match self.rows_of(part, sequence.position()) {
                Rows::Ring { first, end, ring } => {
                    let rows = self.read(&part.tensor.row_range(sequence.slot() * ring, ring))?;
                    for position in first..end {
                        let at = (position % ring) as usize * row_bytes;
                        bytes.extend_from_slice(&rows[at..at + row_bytes]);
                    }
                }
                Rows::Paged { count, per } => {
                    for (first, &page) in (0..count).step_by(per as usize).zip(sequence.pages()) {
                        let rows = part.tensor.row_range(page * per, per.min(count - first));
                        bytes.extend_from_slice(&self.read(&rows)?);
                    }
                }
            }
            sections.push(Section { row_bytes: row_bytes as u32, bytes });
        }
        let identity = self.identity.clone();
        Ok(Snapshot { identity, position: sequence.position(), sections })
    }

    /// A new sequence with the state of a snapshot; its past cannot be rolled back to.
    ///
    /// # Errors
    /// `Snapshot` if it belongs to another model, numerics or arithmetic class, or its sections do not
    /// have the sizes its position asks for; `Request` if it does not fit; `Device`.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<Sequence> {
        self.check_snapshot(snapshot)?;
        let mut sequence = self.open_sequence()?;
        self.reserve(&mut sequence, snapshot.position)?;
        sequence.place_at(snapshot.position);
        for (part, section) in self.plans.state().iter().zip(&snapshot.sections) {
            self.write_part(part, &sequence, 0, &section.bytes)?;
        }
        Ok(sequence)
    }

    /// A second sequence with the same past: full pages are shared, the rest is copied.
    ///
    /// # Errors
    /// `Request` if no slot or page is free; `Device`.
    pub fn copy(&self, sequence: &Sequence) -> Result<Sequence> {
        let snapshot = self.save(sequence)?;
        let mut twin = self.open_sequence()?;
        // A page may be shared once nobody can write it again: all its tokens lie below the floor.
        let shared = sequence.floor() / PAGE_TOKENS;
        twin.share_pages(sequence, shared as usize);
        self.reserve(&mut twin, snapshot.position)?;
        twin.place_at(snapshot.position);
        for (part, section) in self.plans.state().iter().zip(&snapshot.sections) {
            self.write_part(part, &twin, shared, &section.bytes)?;
        }
        Ok(twin)
    }

    /// Writes a section's rows to the places of `sequence`, entries from page `from` on.
    fn write_part(
        &self,
        part: &StatePart,
        sequence: &Sequence,
        from: u32,
        bytes: &[u8],
    ) -> Result<()> {
        let row_bytes = part.spec.row_bytes() as usize;
        match self.rows_of(part, sequence.position()) {
            Rows::Ring { first, end, ring } => {
                let mut rows = vec![0; ring as usize * row_bytes];
                for (position, row) in (first..end).zip(bytes.chunks_exact(row_bytes)) {
                    let at = (position % ring) as usize * row_bytes;
                    rows[at..at + row_bytes].copy_from_slice(row);
                }
                self.write(&part.tensor.row_range(sequence.slot() * ring, ring), &rows)
            }
            Rows::Paged { count, per } => {
                let pages = bytes.chunks(per as usize * row_bytes).zip(sequence.pages());
                for (number, (rows, &page)) in pages.enumerate().skip(from as usize) {
                    let count = per.min(count - number as u32 * per);
                    self.write(&part.tensor.row_range(page * per, count), rows)?;
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

    fn check_snapshot(&self, snapshot: &Snapshot) -> Result<()> {
        let refuse = |message: String| Err(Refusal::new(RefusalKind::Snapshot, message).into());
        if snapshot.identity != self.identity {
            return refuse(format!(
                "the snapshot is of {}, this engine is {}; feed the text again",
                snapshot.identity, self.identity
            ));
        }
        let state = self.plans.state();
        if snapshot.sections.len() != state.len() {
            return refuse(format!(
                "the snapshot has {} sections, this model {}",
                snapshot.sections.len(),
                state.len()
            ));
        }
        for (part, section) in state.iter().zip(&snapshot.sections) {
            let rows = self.rows_of(part, snapshot.position).count();
            let bytes = u64::from(rows) * part.spec.row_bytes();
            if section.bytes.len() as u64 != bytes {
                return refuse(format!(
                    "layer {} {:?}: {} bytes, a sequence of {} tokens has {bytes}",
                    part.spec.layer,
                    part.spec.part,
                    section.bytes.len(),
                    snapshot.position
                ));
            }
        }
        Ok(())
    }
}
