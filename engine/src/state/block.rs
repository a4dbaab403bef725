//! The step block: everything that varies from step to step, as plain tensors uploaded once (docs/
//! program.md, "The step block"). Kernels compute no address from a position: lists say everything.
//!
//! [`StepLayout`] places the fields of one step shape; [`StepBlock`] fills them from positions, slots
//! and pages. Both are pure; only token ids depend on what was sampled.

use hal::{Buffer, DType, Result, RowCodec, Shape, Tensor};

use super::geometry::{Capacity, entries_max, entries_per_page, tail_ring, window_ring};
use super::sequence::Sequence;
use crate::config::{LayerSpec, ModelConfig};

/// Padded size of a step: plans are compiled per shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepShape {
    /// Rows, padding included.
    pub rows: u32,
    /// Sequences, padding included.
    pub sequences: u32,
}

/// One field of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    offset_bytes: u64,
    dims: [u32; 2],
    dtype: DType,
}

impl Field {
    fn size_bytes(&self) -> u64 {
        u64::from(self.dims[0]) * u64::from(self.dims[1]) * 4
    }

    /// The field as a tensor of a device buffer that holds the block.
    ///
    /// # Errors
    /// `InvalidProgram` if the buffer is smaller than the block.
    pub fn tensor(&self, block: &Buffer) -> Result<Tensor> {
        let shape = Shape::new(&self.dims);
        Tensor::new(block.clone(), self.offset_bytes, shape, self.dtype, RowCodec::Plain)
    }

    fn bytes<'a>(&self, block: &'a mut [u8]) -> &'a mut [u8] {
        &mut block[self.offset_bytes as usize..][..self.size_bytes() as usize]
    }

    /// Writes row `row` from its first column on.
    fn write_i32(&self, block: &mut [u8], row: u32, values: impl Iterator<Item = i32>) {
        let start = (row * self.dims[1]) as usize * 4;
        let places = self.bytes(block)[start..].chunks_exact_mut(4);
        for (place, value) in places.zip(values) {
            place.copy_from_slice(&value.to_le_bytes());
        }
    }

    fn write_f32(&self, block: &mut [u8], row: u32, values: impl Iterator<Item = f32>) {
        self.write_i32(block, row, values.map(|value| i32::from_le_bytes(value.to_le_bytes())));
    }
}

/// Lists of one compression ratio, shared by all its layers.
#[derive(Clone, Copy, Debug)]
pub struct RatioFields {
    /// The ratio, overlap and selection these lists are for.
    pub spec: LayerSpec,
    /// i32 `[N, 2]`: (row of pages, visible entries).
    pub reach: Field,
    /// i32 `[2E, slots]`: half rows to pool.
    pub pool: Field,
    /// i32 `[E, 1]`: cache row of each completed entry.
    pub entry_row: Field,
    /// f32 `[E, R]`: angles of each completed entry.
    pub entry_angle: Field,
    /// i32 `[N, 1]`: tail ring row of each landing row.
    pub tail_keep: Field,
    /// E: pooling rows of the step.
    pub entries: u32,
}

/// Places of all fields for one step shape.
#[derive(Clone, Debug)]
pub struct StepLayout {
    /// The shape.
    pub shape: StepShape,
    /// i32 `[N, 1]`
    pub token: Field,
    /// i32 `[N, 1]`: number of experts in live rows, 0 in padding.
    pub experts: Field,
    /// f32 `[N, R]`: angles in layers without compression.
    pub angle_main: Field,
    /// f32 `[N, R]`: angles in compressed layers.
    pub angle_compress: Field,
    /// i32 `[N, W]`: rows of the window buffer.
    pub near: Field,
    /// i32 `[N, 1]`: window ring row of each landing row.
    pub near_keep: Field,
    /// i32 `[S, P]`: page numbers.
    pub pages: Field,
    /// Per ratio, ascending.
    pub ratios: Vec<RatioFields>,
    /// Bytes of the block.
    pub size_bytes: u64,
}

/// Fields begin at multiples of this.
const FIELD_ALIGN: u64 = 256;

impl StepLayout {
    /// Places the fields.
    pub fn new(config: &ModelConfig, shape: StepShape, capacity: &Capacity) -> Self {
        let mut end = 0u64;
        let mut field = |rows: u32, columns: u32, dtype: DType| {
            let field = Field { offset_bytes: end, dims: [rows, columns], dtype };
            end = (end + field.size_bytes()).next_multiple_of(FIELD_ALIGN);
            field
        };
        let (n, r) = (shape.rows, config.rope.dims);
        let token = field(n, 1, DType::I32);
        let experts = field(n, 1, DType::I32);
        let angle_main = field(n, r, DType::F32);
        let angle_compress = field(n, r, DType::F32);
        let near = field(n, config.window, DType::I32);
        let near_keep = field(n, 1, DType::I32);
        let pages = field(shape.sequences, capacity.sequence_pages, DType::I32);
        let ratios = ratio_specs(config)
            .map(|spec| {
                let entries = entries_max(spec.ratio, n, shape.sequences).max(1);
                RatioFields {
                    spec,
                    reach: field(n, 2, DType::I32),
                    pool: field(2 * entries, spec.halves * spec.ratio, DType::I32),
                    entry_row: field(entries, 1, DType::I32),
                    entry_angle: field(entries, r, DType::F32),
                    tail_keep: field(n, 1, DType::I32),
                    entries,
                }
            })
            .collect();
        StepLayout {
            shape,
            token,
            experts,
            angle_main,
            angle_compress,
            near,
            near_keep,
            pages,
            ratios,
            size_bytes: end,
        }
    }

    /// The lists of a layer's ratio.
    pub fn ratio(&self, ratio: u32) -> Option<&RatioFields> {
        self.ratios.iter().find(|fields| fields.spec.ratio == ratio)
    }
}

/// One spec per ratio, ascending.
fn ratio_specs(config: &ModelConfig) -> impl Iterator<Item = LayerSpec> + '_ {
    config
        .ratios()
        .into_iter()
        .filter_map(|ratio| config.layers.iter().find(|layer| layer.ratio == ratio).copied())
}

/// The consecutive rows of one sequence in a step.
#[derive(Clone, Copy, Debug)]
pub struct RunView<'a> {
    /// Whose rows.
    pub sequence: &'a Sequence,
    /// The tokens, at least one.
    pub tokens: &'a [u32],
}

/// Fills blocks; owns the frequencies and the counters one fill needs.
#[derive(Debug)]
pub struct StepBlock {
    main: Vec<f64>,
    compress: Vec<f64>,
    /// Completed windows so far in the block, per ratio of the layout.
    done: Vec<u32>,
}

/// One run on its way into the block.
struct Place<'a> {
    run: RunView<'a>,
    number: u32,
    first_row: u32,
    /// First ring row behind the rings of all slots: where landing rows begin.
    slots: u32,
}

impl Place<'_> {
    fn start(&self) -> u32 {
        self.run.sequence.position()
    }

    fn end(&self) -> u32 {
        self.start() + self.run.tokens.len() as u32
    }

    /// Buffer row of a position: landing if it is of this step, else in its ring; -1 before 0.
    fn row(&self, position: i64, ring: u32) -> i32 {
        if position < 0 {
            return -1;
        }
        let position = position as u32;
        let row = if position >= self.start() {
            self.slots * ring + self.first_row + position - self.start()
        } else {
            self.run.sequence.slot() * ring + position % ring
        };
        row as i32
    }

    /// Ring row a landing row is kept in; -1 unless it is among the newest `ring` of its run.
    fn keep(&self, position: u32, ring: u32) -> i32 {
        if position + ring < self.end() {
            return -1;
        }
        (self.run.sequence.slot() * ring + position % ring) as i32
    }
}

impl StepBlock {
    /// Ready to fill blocks of this model.
    pub fn new(config: &ModelConfig) -> Self {
        StepBlock {
            main: config.rope.main_frequencies(),
            compress: config.rope.compress_frequencies(),
            done: vec![0; config.ratios().len()],
        }
    }

    /// Writes the block of a batch. The runs have at most the shape's rows and sequences in all, and
    /// every sequence has the pages its new length needs: the engine saw to both.
    pub fn fill<'a>(
        &mut self,
        config: &ModelConfig,
        layout: &StepLayout,
        capacity: &Capacity,
        runs: impl Iterator<Item = RunView<'a>>,
        block: &mut [u8],
    ) {
        clear(layout, block);
        self.done.fill(0);
        let mut first_row = 0;
        for (number, run) in runs.enumerate() {
            let place = Place { run, number: number as u32, first_row, slots: capacity.slots };
            self.fill_run(config, layout, &place, block);
            for (which, fields) in layout.ratios.iter().enumerate() {
                self.fill_ratio(fields, which, &place, block);
            }
            first_row += run.tokens.len() as u32;
        }
        assert!(first_row <= layout.shape.rows, "more rows than the step's shape");
    }

    fn fill_run(
        &self,
        config: &ModelConfig,
        layout: &StepLayout,
        place: &Place<'_>,
        block: &mut [u8],
    ) {
        let pages = place.run.sequence.pages().iter().map(|&page| page as i32);
        layout.pages.write_i32(block, place.number, pages);
        let ring = window_ring(config);
        let window = i64::from(config.window);
        for (offset, &token) in place.run.tokens.iter().enumerate() {
            let row = place.first_row + offset as u32;
            let position = place.start() + offset as u32;
            let one = std::iter::once;
            layout.token.write_i32(block, row, one(token as i32));
            layout.experts.write_i32(block, row, one(config.experts as i32));
            layout.angle_main.write_f32(block, row, angles(&self.main, position));
            layout.angle_compress.write_f32(block, row, angles(&self.compress, position));
            let list = (1 - window..=0).map(|back| place.row(i64::from(position) + back, ring));
            layout.near.write_i32(block, row, list);
            layout.near_keep.write_i32(block, row, one(place.keep(position, ring)));
        }
    }

    fn fill_ratio(
        &mut self,
        fields: &RatioFields,
        which: usize,
        place: &Place<'_>,
        block: &mut [u8],
    ) {
        let LayerSpec { ratio, halves, .. } = fields.spec;
        let ring = tail_ring(&fields.spec);
        for position in place.start()..place.end() {
            let row = place.first_row + position - place.start();
            let reach = [place.number as i32, ((position + 1) / ratio) as i32];
            fields.reach.write_i32(block, row, reach.into_iter());
            let keep = place.keep(position, ring);
            fields.tail_keep.write_i32(block, row, std::iter::once(keep));
        }
        let per = entries_per_page(ratio);
        let pages = place.run.sequence.pages();
        for entry in place.start() / ratio..place.end() / ratio {
            let out = self.done[which];
            self.done[which] += 1;
            assert!(out < fields.entries, "more completed windows than pooling rows");
            // Slot j·halves + h holds token j of window entry - (halves - 1) + h, half h of its row.
            let half_row = |slot: u32, gates: u32| {
                let half = slot % halves;
                let window = i64::from(entry) + i64::from(half) - i64::from(halves - 1);
                let row = place.row(window * i64::from(ratio) + i64::from(slot / halves), ring);
                if row < 0 { -1 } else { row * 2 * halves as i32 + (gates * halves + half) as i32 }
            };
            let slots = 0..halves * ratio;
            fields.pool.write_i32(block, out, slots.clone().map(|slot| half_row(slot, 0)));
            fields.pool.write_i32(block, fields.entries + out, slots.map(|slot| half_row(slot, 1)));
            let row = pages[(entry / per) as usize] * per + entry % per;
            fields.entry_row.write_i32(block, out, std::iter::once(row as i32));
            fields.entry_angle.write_f32(block, out, angles(&self.compress, entry * ratio));
        }
    }
}

/// Everything absent: -1 in lists, 0 in angles, no experts and nothing visible in padding.
fn clear(layout: &StepLayout, block: &mut [u8]) {
    block.fill(0);
    for field in [&layout.token, &layout.near, &layout.near_keep, &layout.pages] {
        field.bytes(block).fill(0xff);
    }
    for fields in &layout.ratios {
        for field in [&fields.pool, &fields.entry_row, &fields.tail_keep] {
            field.bytes(block).fill(0xff);
        }
    }
}

/// Cosines, then sines, of a position; formed in f64 (spec section 5).
fn angles(frequencies: &[f64], position: u32) -> impl Iterator<Item = f32> + '_ {
    let angle = move |frequency: &f64| f64::from(position) * frequency;
    let cosines = frequencies.iter().map(move |f| angle(f).cos() as f32);
    cosines.chain(frequencies.iter().map(move |f| angle(f).sin() as f32))
}
