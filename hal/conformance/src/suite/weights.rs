//! Weights: each encoding, odd sizes, segments and groups, read back number by number.
//!
//! A product with the identity gives every number of a weight alone, so an f32 output must equal it
//! to the bit where the device keeps the encoding, and nearly where it says it transcoded.

use std::sync::Arc;

use hal::op::{Matmul, RowGroups};
use hal::{
    DType, Encoding, Mode, Tensor, Weight, WeightPart, WeightSource, WeightSpec, WeightSupport,
};
use kernels::case::{Array, Make, Random, Role, WeightData, random_weight};

use super::Item;
use crate::bed::{Bed, single, values};
use crate::report::{Check, Trouble, ensure};

/// Encodings of released checkpoints and of conversions.
const ENCODINGS: [Encoding; 7] = [
    Encoding::Plain(DType::F32),
    Encoding::Plain(DType::Bf16),
    Encoding::Plain(DType::F16),
    Encoding::Fp8Block { rows: 128, cols: 128 },
    Encoding::Fp8Block { rows: 32, cols: 32 },
    Encoding::Fp4Block { cols: 32 },
    Encoding::Int8Row,
];

/// Groups, rows, columns, rows of a segment.
const SIZES: [(&str, [u32; 4]); 8] = [
    ("one number", [1, 1, 2, 1]),
    ("odd rows", [1, 37, 64, 37]),
    ("odd columns", [1, 16, 66, 16]),
    ("larger than a block", [1, 260, 140, 260]),
    ("gate and up segments", [3, 40, 64, 20]),
    ("odd segments", [1, 99, 96, 33]),
    ("one segment of many groups", [4, 10, 64, 40]),
    ("blocks cut by segments", [2, 150, 132, 150]),
];

/// Numbers of a transcoded weight may differ by this part: a step of the coarsest target, bf16.
const TRANSCODED: f64 = 0.01;

pub(super) fn checks<'a>(bed: &Arc<Bed>) -> Vec<Item<'a>> {
    let mut items = Vec::new();
    for encoding in ENCODINGS {
        for (what, [groups, rows, cols, segment_rows]) in SIZES {
            let name = format!("{encoding} {what}");
            let spec = WeightSpec {
                name: name.clone().into(),
                groups,
                rows,
                cols,
                segment_rows,
                encoding,
            };
            let bed = Arc::clone(bed);
            items.push(Item::new(name, move || check(&bed, spec.clone())));
        }
    }
    items
}

/// A source that cannot lend: the device must read.
struct Reading(WeightData);

impl WeightSource for Reading {
    fn spec(&self) -> &WeightSpec {
        self.0.spec()
    }
    fn read(&mut self, segment: u32, part: WeightPart, out: &mut [u8]) -> hal::Result<()> {
        self.0.read(segment, part, out)
    }
}

fn check(bed: &Bed, spec: WeightSpec) -> Check {
    let stored = match bed.device.weight_support(&spec) {
        WeightSupport::Absent(why) if spec.encoding == Encoding::Int8Row => {
            return Err(Trouble::Skipped(format!("int8 weights are optional: {why}")));
        }
        WeightSupport::Absent(why) => return ensure(false, || format!("{}: {why}", spec.encoding)),
        WeightSupport::Native => spec.encoding,
        WeightSupport::Transcoded(encoding) => encoding,
    };
    let data = random_weight(&mut Random::new(u64::from(spec.rows + spec.cols)), spec.clone());
    let lent = bed.device.load_weight(&mut data.clone())?;
    let read = bed.device.load_weight(&mut Reading(data.clone()))?;
    for weight in [&lent, &read] {
        ensure(*weight.spec() == spec, || format!("spec became {:?}", weight.spec()))?;
        ensure(weight.stored() == stored, || {
            format!("stored as {}, weight_support said {stored}", weight.stored())
        })?;
    }
    let want = data.numbers();
    for (how, weight) in [("lent", lent), ("read", read)] {
        let got = numbers(bed, weight)?;
        for (place, (&got, &want)) in got.iter().zip(&want).enumerate() {
            let may = if stored == spec.encoding { 0.0 } else { TRANSCODED * want.abs() };
            ensure((got - want).abs() <= may, || {
                let (row, col) = (place / spec.cols as usize, place % spec.cols as usize);
                format!("{how}: row {row} column {col} is {got:e}, must be {want:e}")
            })?;
        }
    }
    Ok(())
}

/// Every number of a weight, `[groups · rows, cols]`, by products with unit vectors.
fn numbers(bed: &Bed, weight: Weight) -> Result<Vec<f64>, Trouble> {
    let (groups, rows, cols) = (weight.spec().groups, weight.spec().rows, weight.spec().cols);
    // Row i of x belongs to group i % groups and is unit vector i / groups.
    let n = groups * cols;
    let unit = (0..n * cols).map(|place| {
        let (row, column) = (place / cols, place % cols);
        f64::from(u8::from(row / groups == column))
    });
    let mut make = Make::new(0);
    make.rows("x", DType::Bf16, &[n, cols], 1, unit.collect(), 0.0);
    make.out(DType::F32, &[n, rows], 1);
    let arrays: Vec<Array> = make.arrays().to_vec();
    debug_assert!(matches!(arrays[1].role, Role::Out { .. }));
    let product = |t: &[Tensor], w: &[Weight]| {
        let (x, out, weight) = (t[0].clone(), t[1].clone(), w[0].clone());
        single(Matmul { out, x, weight, groups: RowGroups::Cyclic }.into())
    };
    let written = bed.run(&arrays, &[weight], Mode::Eager, &product)?;
    let out = values(&arrays[1], &written[0].1);
    let (groups, rows, cols) = (groups as usize, rows as usize, cols as usize);
    let mut all = vec![0.0; groups * rows * cols];
    for group in 0..groups {
        for row in 0..rows {
            for col in 0..cols {
                let value = out[(col * groups + group) * rows + row];
                all[(group * rows + row) * cols + col] = value;
            }
        }
    }
    Ok(all)
}
