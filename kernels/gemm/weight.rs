//! How a matmul sees a weight: groups of row-concatenated segments, each a piece of the checkpoint
//! in its own encoding, used where it lies.
//!
//! Sizes are checked once, when the view is made; the kernels check nothing. No alignment is assumed
//! of any slice.

use std::ops::Range;
use std::sync::atomic::{AtomicU8, Ordering};

/// How the numbers of a segment are stored. Columns (inputs) are contiguous in every encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Little-endian binary32.
    F32,
    /// Little-endian bf16.
    Bf16,
    /// Little-endian binary16.
    F16,
    /// One E4M3 byte per number; one E8M0 scale per block of `rows` × `cols`.
    Fp8 {
        /// Output rows that share a scale (128 in released checkpoints).
        rows: u32,
        /// Columns that share a scale (128 in released checkpoints).
        cols: u32,
    },
    /// Two E2M1 codes per byte, even column in the low nibble; one E8M0 scale per row and 32 columns.
    Fp4,
    /// One signed byte per number; one little-endian binary32 scale per row.
    Int8,
}

/// Columns that share a scale in [`Encoding::Fp4`].
pub const FP4_COLS: usize = 32;

/// Widest row a matmul takes. Bounded by the scratch a thread owns.
pub const COLS_MAX: usize = 1 << 16;

impl Encoding {
    /// Bytes of one row of `cols` codes.
    pub fn row_bytes(self, cols: usize) -> usize {
        match self {
            Encoding::F32 => cols * 4,
            Encoding::Bf16 | Encoding::F16 => cols * 2,
            Encoding::Fp8 { .. } | Encoding::Int8 => cols,
            Encoding::Fp4 => cols.div_ceil(2),
        }
    }

    /// Scale bytes of a segment of `rows` × `cols`.
    pub fn scale_bytes(self, rows: usize, cols: usize) -> usize {
        match self {
            Encoding::F32 | Encoding::Bf16 | Encoding::F16 => 0,
            Encoding::Fp8 { rows: block_rows, cols: block_cols } => {
                rows.div_ceil(block_rows as usize) * cols.div_ceil(block_cols as usize)
            }
            Encoding::Fp4 => rows * cols.div_ceil(FP4_COLS),
            Encoding::Int8 => rows * 4,
        }
    }
}

/// Some consecutive output rows of one group, as they lie in the checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Output rows.
    pub rows: usize,
    /// `rows` rows of codes, back to back.
    pub codes: &'a [u8],
    /// Scales, row-major; empty for plain encodings.
    pub scales: &'a [u8],
    /// How codes and scales are read.
    pub encoding: Encoding,
}

/// A weight of `groups` matrices of `rows` × `cols`, every matrix being the row-concatenation of its
/// segments.
#[derive(Clone, Copy, Debug)]
pub struct WeightView<'a> {
    cols: usize,
    rows: usize,
    groups: usize,
    segments: &'a [Segment<'a>],
    notes: Option<&'a FiniteNotes>,
}

impl<'a> WeightView<'a> {
    /// `segments` lists those of group 0, then those of group 1, and so on, equally many for each.
    ///
    /// # Errors
    /// If a slice has not the size that its encoding asks for, a dimension or a scale block is empty,
    /// `cols` is above [`COLS_MAX`], or the groups differ in rows.
    pub fn new(
        cols: usize,
        groups: usize,
        segments: &'a [Segment<'a>],
    ) -> Result<WeightView<'a>, String> {
        if cols == 0 || cols > COLS_MAX {
            return Err(format!("weight: {cols} columns; a matmul takes 1 to {COLS_MAX}"));
        }
        if groups == 0 || segments.is_empty() || !segments.len().is_multiple_of(groups) {
            return Err(format!("weight: {} segments in {groups} groups", segments.len()));
        }
        let parts = segments.len() / groups;
        let rows_of = |group: &[Segment<'_>]| group.iter().map(|part| part.rows).sum::<usize>();
        let rows = rows_of(&segments[..parts]);
        for (index, group) in segments.chunks(parts).enumerate() {
            if rows_of(group) != rows {
                return Err(format!(
                    "weight: group {index} has {} rows, group 0 has {rows}",
                    rows_of(group)
                ));
            }
            group.iter().try_for_each(|segment| check(segment, cols))?;
        }
        Ok(WeightView { cols, rows, groups, segments, notes: None })
    }

    /// Encodings of all segments.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn encodings(&self) -> impl Iterator<Item = Encoding> {
        self.segments.iter().map(|segment| segment.encoding)
    }

    /// The same view with a place for what is found out about its FP8 codes: rows that were seen to
    /// hold no NaN code need no further look (a seventh of the work on AVX2). The codes must not
    /// change as long as the notes are used.
    ///
    /// # Panics
    /// If the notes were made for a weight of other sizes.
    pub fn noting(self, notes: &'a FiniteNotes) -> WeightView<'a> {
        assert_eq!(notes.0.len(), self.groups * self.rows.div_ceil(NOTED_ROWS));
        WeightView { notes: Some(notes), ..self }
    }

    /// Whether rows `outputs` of a group, whose first is a multiple of [`NOTED_ROWS`], are noted to
    /// hold no FP8 code that is NaN; looks where nothing is noted yet.
    pub(super) fn finite(&self, group: usize, outputs: Range<usize>) -> bool {
        let Some(FiniteNotes(notes)) = self.notes else { return false };
        let units = self.rows.div_ceil(NOTED_ROWS);
        (outputs.start / NOTED_ROWS..outputs.end.div_ceil(NOTED_ROWS)).all(|unit| {
            let note = &notes[group * units + unit];
            match note.load(Ordering::Relaxed) {
                UNSEEN => {
                    let rows = unit * NOTED_ROWS..self.rows.min((unit + 1) * NOTED_ROWS);
                    let finite = self.look(group, rows);
                    // Whoever looks finds the same.
                    note.store(if finite { FINITE } else { NOT_FINITE }, Ordering::Relaxed);
                    finite
                }
                note => note == FINITE,
            }
        })
    }

    /// Reads the FP8 codes of some rows of a group.
    #[cold]
    fn look(&self, group: usize, rows: Range<usize>) -> bool {
        let mut start = 0;
        self.group(group).iter().all(|segment| {
            let (from, to) = (rows.start.max(start), rows.end.min(start + segment.rows));
            let inside = from.saturating_sub(start)..to.saturating_sub(start);
            start += segment.rows;
            let fp8 = matches!(segment.encoding, Encoding::Fp8 { .. });
            !fp8 || from >= to
                || finite(&segment.codes[inside.start * self.cols..inside.end * self.cols])
        })
    }

    /// Inputs of the matmul: columns of every matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Outputs of the matmul: rows of every matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of matrices.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The segments of one matrix, in the order of their rows.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn group(&self, index: usize) -> &'a [Segment<'a>] {
        assert!(index < self.groups);
        let parts = self.segments.len() / self.groups;
        &self.segments[index * parts..(index + 1) * parts]
    }

    /// Bytes of codes and scales of one matrix.
    pub fn group_bytes(&self) -> usize {
        self.group(0).iter().map(|part| part.codes.len() + part.scales.len()).sum()
    }
}

/// Rows that share a note: no task of a matmul covers fewer.
pub(super) const NOTED_ROWS: usize = 8;

const UNSEEN: u8 = 0;
const FINITE: u8 = 1;
const NOT_FINITE: u8 = 2;

/// What was found out about the FP8 codes of one weight: for every eight rows of every group whether
/// one of them is NaN. Empty at first: opening a model reads no codes.
#[derive(Debug)]
pub struct FiniteNotes(Box<[AtomicU8]>);

impl FiniteNotes {
    /// Notes for `groups` matrices of `rows` rows; a byte per eight rows.
    pub fn new(groups: usize, rows: usize) -> FiniteNotes {
        FiniteNotes(
            (0..groups * rows.div_ceil(NOTED_ROWS)).map(|_| AtomicU8::new(UNSEEN)).collect(),
        )
    }
}

fn check(segment: &Segment<'_>, cols: usize) -> Result<(), String> {
    let Segment { rows, encoding, .. } = *segment;
    if let Encoding::Fp8 { rows: 0, .. } | Encoding::Fp8 { cols: 0, .. } = encoding {
        return Err(format!("weight: empty scale block in {encoding:?}"));
    }
    if encoding == Encoding::Fp4 && !cols.is_multiple_of(2) {
        return Err(format!("weight: {cols} columns of two codes a byte"));
    }
    let want = (rows * encoding.row_bytes(cols), encoding.scale_bytes(rows, cols));
    let have = (segment.codes.len(), segment.scales.len());
    if rows == 0 || want != have {
        return Err(format!(
            "weight: {rows} rows of {cols} in {encoding:?} take {} bytes of codes and {} of scales, not {} and {}",
            want.0, want.1, have.0, have.1
        ));
    }
    Ok(())
}

/// Whether no E4M3 code is NaN.
fn finite(codes: &[u8]) -> bool {
    // Largest code as unsigned and as signed: one of them is a NaN code if any is there.
    let most = codes.iter().fold((0u8, i8::MIN), |(unsigned, signed), &code| {
        (unsigned.max(code), signed.max(code as i8))
    });
    most.0 != 0xff && most.1 != 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finite_finds_both_nans_anywhere() {
        let codes: Vec<u8> = (0..=255).filter(|code| code & 0x7f != 0x7f).collect();
        assert!(finite(&codes));
        for nan in [0x7f, 0xff] {
            for at in [0, 100, codes.len() - 1] {
                let mut codes = codes.clone();
                codes[at] = nan;
                assert!(!finite(&codes));
            }
        }
    }

    #[test]
    fn notes_are_of_eight_rows_and_looked_up_once() {
        let encoding = Encoding::Fp8 { rows: 128, cols: 128 };
        let clean = [1u8; 2 * 20 * 10];
        let mut dirty = clean;
        // Row 9 of group 1: its second eight rows.
        dirty[(20 + 9) * 10 + 3] = 0x7f;
        let cut = |codes| {
            let segment = |first: usize, rows| {
                let codes: &[u8] = codes;
                let codes = &codes[first * 10..(first + rows) * 10];
                Segment { rows, codes, scales: &[127], encoding }
            };
            [segment(0, 13), segment(13, 7), segment(20, 13), segment(33, 7)]
        };
        let (clean, dirty) = (cut(&clean), cut(&dirty));
        let notes = FiniteNotes::new(2, 20);
        let view = |segments| WeightView::new(10, 2, segments).expect("sizes fit");
        assert!(!view(&clean).finite(0, 0..20), "nothing is known without notes");
        let looked = |segments| {
            let view = view(segments).noting(&notes);
            let rows = [0..8, 8..16, 16..20, 0..20];
            (0..2).flat_map(|group| rows.clone().map(|rows| view.finite(group, rows))).collect()
        };
        let first: Vec<bool> = looked(&dirty);
        assert_eq!(first, [true, true, true, true, true, false, true, false]);
        let again: Vec<bool> = looked(&clean);
        assert_eq!(again, first);
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let bytes = [0u8; 4096];
        let segment = |rows, codes, scales, encoding| Segment {
            rows,
            codes: &bytes[..codes],
            scales: &bytes[..scales],
            encoding,
        };
        let fp8 = Encoding::Fp8 { rows: 128, cols: 128 };
        let cases = [
            (64, 1, vec![segment(3, 3 * 64 * 2, 0, Encoding::Bf16)], true),
            (64, 1, vec![segment(3, 3 * 64 * 2 - 1, 0, Encoding::Bf16)], false),
            (64, 1, vec![segment(3, 3 * 64, 1, fp8)], true),
            (64, 1, vec![segment(3, 3 * 64, 0, fp8)], false),
            (64, 1, vec![segment(3, 3 * 64, 1, Encoding::Fp8 { rows: 0, cols: 128 })], false),
            (33, 1, vec![segment(2, 34, 4, Encoding::Fp4)], false),
            (34, 1, vec![segment(2, 34, 4, Encoding::Fp4)], true),
            (8, 1, vec![segment(0, 0, 0, Encoding::F32)], false),
            (0, 1, vec![segment(1, 0, 0, Encoding::F32)], false),
            (COLS_MAX + 1, 1, vec![segment(1, 0, 0, Encoding::F32)], false),
            (8, 2, vec![segment(1, 32, 0, Encoding::F32); 3], false),
            (8, 2, vec![segment(1, 32, 0, Encoding::F32), segment(2, 64, 0, Encoding::F32)], false),
            (8, 0, vec![], false),
        ];
        for (index, (cols, groups, segments, good)) in cases.into_iter().enumerate() {
            assert_eq!(WeightView::new(cols, groups, &segments).is_ok(), good, "case {index}");
        }
    }
}
