//! Cases: seeded inputs, the op they go into, what the f64 definitions say it gives, how far a device
//! may be off, and a wrong variant that must be further off than that.
//!
//! Families list theirs in `kernels/<family>/cases.rs`; [`all`] is the whole table. The kit in
//! `hal/conformance` runs them on any device; nothing here knows one.

mod host;
mod make;
mod reference;
mod tolerance;
mod weight;

use hal::op::Op;
use hal::{DType, RowCodec, Tensor, Weight};

pub use host::{decode, encode};
pub use make::{Make, Random, reals};
pub use reference::{Emission, Expected, Outputs, expected, run_program};
pub use tolerance::{Bound, bound};
pub use weight::{WeightData, random_weight};

/// Builds the case's op over a device's tensors (one per array) and weights.
pub type Build = Box<dyn Fn(&[Tensor], &[Weight]) -> Op + Send + Sync>;

/// What an array is to the op.
#[derive(Clone, Debug, PartialEq)]
pub enum Role {
    /// Read by all rows alike: caches, tables, gains.
    Shared,
    /// Read row by row: `per` rows of it belong to each row of the case.
    Rows {
        /// Rows of the array per row of the case.
        per: u32,
        /// What one row of it holds in a row of padding.
        padding: Vec<f64>,
    },
    /// Written. `per` rows belong to each row of the case; `None` if the whole belongs to all.
    Out {
        /// Rows of the array per row of the case.
        per: Option<u32>,
    },
    /// Partly written; starts with the array's values.
    Updated,
}

/// One tensor of a case, in host memory.
#[derive(Clone, Debug)]
pub struct Array {
    /// Operand name, for messages.
    pub name: &'static str,
    /// Dimensions.
    pub dims: Vec<u32>,
    /// Type of the values.
    pub dtype: DType,
    /// How rows are stored.
    pub codec: RowCodec,
    /// Row-major, exact in dtype and codec; of a written array: what it holds before.
    pub values: Vec<f64>,
    /// What it is to the op.
    pub role: Role,
}

impl Array {
    /// Elements of one row.
    pub fn width(&self) -> usize {
        self.dims[1..].iter().product::<u32>() as usize
    }

    /// The bytes a device is given.
    pub fn bytes(&self) -> Vec<u8> {
        encode(self.dtype, self.codec, self.width(), &self.values)
    }

    /// True if the op writes it.
    pub fn is_written(&self) -> bool {
        matches!(self.role, Role::Out { .. } | Role::Updated)
    }
}

/// What the deliberately wrong variant gets wrong.
pub enum Wrong {
    /// One array's elements are those of their right neighbours: an index off by one.
    Shifted(usize),
    /// The op is built differently.
    Op(Build),
}

/// One op to try.
pub struct Case {
    /// Family: the folder it comes from.
    pub family: &'static str,
    /// Op, as in `Op::NAMES`.
    pub op: &'static str,
    /// What is special about it, with its dtypes; unique within the op.
    pub name: String,
    /// Start of its random numbers.
    pub seed: u64,
    /// All tensors.
    pub arrays: Vec<Array>,
    /// All weights.
    pub weights: Vec<WeightData>,
    /// Rows that are independent of each other (law 7); `None` if the op has no such rows.
    pub rows: Option<u32>,
    /// True if the op re-rounds to a block format on the way: a tiny difference in front of it may
    /// become one step of the format.
    pub coded: bool,
    /// Builds the op.
    pub build: Build,
    /// The guard.
    pub wrong: Wrong,
}

impl Case {
    /// `family/op/name`
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.family, self.op, self.name)
    }

    /// Dtype of its first output, for coverage.
    pub fn dtype(&self) -> DType {
        let written = self.arrays.iter().find(|array| array.is_written());
        written.expect("every op writes something").dtype
    }

    /// The arrays for these rows of the case, in this order; -1 stands for a row of padding. Shared
    /// arrays stay as they are.
    ///
    /// # Panics
    /// If the case has no independent rows.
    pub fn pick(&self, rows: &[i32]) -> Vec<Array> {
        let count = self.rows.expect("the case has independent rows");
        debug_assert!(rows.iter().all(|&row| row < count as i32));
        self.arrays.iter().map(|array| picked(array, rows)).collect()
    }

    /// The wrong variant's arrays and build.
    pub fn wrong_arrays(&self) -> (Vec<Array>, &Build) {
        match &self.wrong {
            Wrong::Op(build) => (self.arrays.clone(), build),
            Wrong::Shifted(place) => {
                let mut arrays = self.arrays.clone();
                for row in arrays[*place].values.chunks_mut(self.arrays[*place].width().max(1)) {
                    row.rotate_left(1);
                }
                // A single column has no neighbour: the rows are shifted instead.
                if arrays[*place].width() == 1 {
                    arrays[*place].values.rotate_left(1);
                }
                (arrays, &self.build)
            }
        }
    }
}

fn picked(array: &Array, rows: &[i32]) -> Array {
    let (per, padding) = match &array.role {
        Role::Rows { per, padding } => (*per, padding.clone()),
        Role::Out { per: Some(per) } => (*per, vec![0.0; array.width()]),
        _ => return array.clone(),
    };
    let width = array.width();
    let mut values = Vec::new();
    for &row in rows {
        for part in 0..per as usize {
            match usize::try_from(row) {
                Ok(row) => {
                    let first = (row * per as usize + part) * width;
                    values.extend_from_slice(&array.values[first..first + width]);
                }
                Err(_) => values.extend_from_slice(&padding),
            }
        }
    }
    let mut dims = array.dims.clone();
    dims[0] = rows.len() as u32 * per;
    Array { dims, values, ..array.clone() }
}

/// Every case of every family.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in [
        crate::rows::cases::table,
        crate::quant::cases::table,
        crate::gemm::cases::table,
        crate::moe::cases::table,
        crate::stream::cases::table,
        crate::attend::cases::table,
        crate::index::cases::table,
        crate::compress::cases::table,
        crate::sample::cases::table,
    ] {
        cases.extend(family());
    }
    cases
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_op_but_the_collectives_has_cases_and_ids_are_unique() {
        let cases = all();
        let ids: BTreeSet<String> = cases.iter().map(Case::id).collect();
        assert_eq!(ids.len(), cases.len());
        let solo = ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"];
        for name in Op::NAMES.iter().filter(|name| !solo.contains(name)) {
            assert!(cases.iter().any(|case| case.op == *name), "{name} has no case");
        }
    }

    #[test]
    fn inputs_are_exact_in_their_dtype_and_codec() {
        for case in all() {
            for array in &case.arrays {
                let back = decode(array.dtype, array.codec, array.width(), &array.bytes());
                assert_eq!(back, array.values, "{} {}", case.id(), array.name);
            }
        }
    }

    /// True for cases of weights with NaN codes.
    fn spoilt(case: &Case) -> bool {
        case.weights.iter().any(|weight| weight.numbers().iter().any(|number| number.is_nan()))
    }

    #[test]
    fn nan_codes_are_in_cases_of_every_product_and_show_in_some_elements_only() {
        for op in ["matmul", "moe_experts", "swiglu_mlp"] {
            let cases = all().into_iter().filter(|case| case.op == op && spoilt(case));
            let mut count = 0;
            for case in cases {
                let want = expected(&case.arrays, &case.weights, &case.build).unwrap();
                let elements: Vec<Expected> =
                    want.into_iter().flat_map(|(_, all)| all).flatten().collect();
                let nan = elements.iter().filter(|one| one.value.is_nan()).count();
                assert!(nan > 0 && 4 * nan < elements.len(), "{}: {nan}", case.id());
                count += 1;
            }
            assert!(count > 1, "{op}: {count}");
        }
    }

    #[test]
    fn every_definition_gives_numbers_and_every_wrong_variant_exceeds_the_tolerance() {
        for case in all() {
            let id = case.id();
            let right = expected(&case.arrays, &case.weights, &case.build).expect(&id);
            let (arrays, build) = case.wrong_arrays();
            let wrong = expected(&arrays, &case.weights, build).expect(&id);
            let mut caught = false;
            for (place, want) in &right {
                let dtype = case.arrays[*place].dtype;
                let bound = bound(case.op, dtype, case.coded);
                let other = wrong.iter().find(|(other, _)| other == place).expect(&id);
                for (want, wrong) in want.iter().zip(&other.1) {
                    let (Some(want), Some(wrong)) = (want, wrong) else { continue };
                    let may_be_nan = want.value.is_nan() && spoilt(&case);
                    assert!(
                        want.value.is_finite() || may_be_nan,
                        "{id}: the definition gives {}",
                        want.value
                    );
                    caught |= !bound.holds(wrong.value, want);
                }
            }
            assert!(caught, "{id}: the wrong variant passes");
        }
    }

    #[test]
    fn rows_of_a_definition_do_not_depend_on_each_other() {
        for case in all() {
            let Some(rows) = case.rows else { continue };
            let whole = expected(&case.arrays, &case.weights, &case.build).unwrap();
            let order: Vec<i32> = (0..rows as i32).rev().chain([-1]).collect();
            let turned = expected(&case.pick(&order), &case.weights, &case.build);
            let turned = turned.unwrap_or_else(|error| panic!("{}: {error}", case.id()));
            for ((place, whole), (_, turned)) in whole.iter().zip(&turned) {
                let Role::Out { per: Some(per) } = case.arrays[*place].role else { continue };
                let size = per as usize * case.arrays[*place].width();
                for row in 0..rows as usize {
                    let at = (rows as usize - 1 - row) * size;
                    let (a, b) = (&whole[row * size..][..size], &turned[at..][..size]);
                    let alike = a.iter().zip(b).all(|(a, b)| match (a, b) {
                        (Some(a), Some(b)) if a.value.is_nan() => b.value.is_nan(),
                        _ => a == b,
                    });
                    assert!(alike, "{} row {row}: {a:?}, {b:?}", case.id());
                }
            }
        }
    }
}
