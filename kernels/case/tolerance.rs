//! The one table of tolerances.
//!
//! A device computes in f32 and rounds once, the definition computes in f64 and rounds never. So a
//! result may be off by `relative · size` from computing (size: what the definition says errors grow
//! with, such as the sum of the magnitudes added up) and by half a step of the output's dtype.

use hal::DType;

use super::Expected;

/// How far one element may be off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// Part of the element's size.
    pub relative: f64,
    /// Part of the element itself: half a step of its dtype.
    pub rounding: f64,
    /// Absolute floor: the smallest step of the dtype.
    pub floor: f64,
}

impl Bound {
    /// True if `got` is close enough.
    pub fn holds(&self, got: f64, want: &Expected) -> bool {
        if want.value.is_nan() {
            return got.is_nan();
        }
        if got == want.value {
            return true;
        }
        let may = self.relative * want.size.max(want.value.abs())
            + self.rounding * want.value.abs()
            + self.floor;
        // A NaN fails every comparison.
        self.relative > 0.0 && (got - want.value).abs() <= may
    }
}

/// Part of an element's size that computing an op in f32 may cost. 0 means: equal.
///
/// Sums of up to 2^12 terms in any fixed order, transcendentals within 4 units in the last place.
/// Fused ops with half-wide temporaries may differ by a rounding or two of theirs; attention may round its
/// exponentials to such a dtype before the second product, as the model's own inference code does.
const TABLE: &[(&str, f64, f64)] = &[
    // op, relative in f32, relative where temporaries are bf16 or f16
    ("gather", 0.0, 0.0),
    ("scatter", 0.0, 0.0),
    ("top_k", 0.0, 0.0),
    ("bucket", 0.0, 0.0),
    ("sample", 0.0, 0.0),
    ("convert", 0.0, 0.0),
    ("map", 2e-6, 2e-6),
    ("reduce", 4e-6, 4e-6),
    ("rms_norm", 2e-6, 2e-6),
    ("rope", 1e-6, 1e-6),
    ("matmul", 2e-5, 2e-5),
    ("attend", 4e-6, 4e-3),
    ("index_score", 2e-5, 2e-5),
    ("hc_mix", 2e-5, 2e-5),
    ("index_select", 0.0, 0.0),
    ("hc_pre", 1e-4, 2e-2),
    ("hc_turn", 1e-4, 2e-2),
    ("norm_quant", 1e-5, 1e-2),
    ("qk_finish", 1e-5, 1e-2),
    ("compress", 1e-4, 2e-2),
    ("attend_project", 1e-4, 3e-2),
    ("route", 1e-4, 2e-2),
    ("route_table", 1e-4, 2e-2),
    ("moe_experts", 1e-4, 3e-2),
    ("swiglu_mlp", 1e-4, 3e-2),
    ("head", 1e-4, 3e-2),
];

/// One step of a block format, as part of the block's largest value, and what a product of such
/// rows makes of it.
const CODED: f64 = 0.13;

/// The tolerance of an op's output in `dtype`. `coded` ops re-round to a block format on the way.
///
/// # Panics
/// If the op is not in the table: a new op needs a line.
pub fn bound(op: &str, dtype: DType, coded: bool) -> Bound {
    let line = TABLE.iter().find(|(name, ..)| *name == op);
    let &(_, single, half) = line.expect("every op has a line in the table");
    let (rounding, floor) = match dtype {
        DType::F32 => (2f64.powi(-24), 2f64.powi(-126)),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-24)),
        DType::Bf16 => (2f64.powi(-8), 2f64.powi(-126)),
        // Integers and codes are equal or wrong.
        _ => return Bound { relative: 0.0, rounding: 0.0, floor: 0.0 },
    };
    let relative = match dtype {
        DType::F32 if op != "moe_experts" && op != "head" => single,
        _ => half,
    };
    let relative = if coded { relative.max(CODED) } else { relative };
    Bound { relative, rounding, floor }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_never_passes_and_equal_always_does() {
        let want = |value| Expected { value, size: 1.0 };
        for dtype in [DType::F32, DType::Bf16, DType::I32] {
            for op in ["matmul", "gather"] {
                let bound = bound(op, dtype, false);
                assert!(!bound.holds(f64::NAN, &want(1.0)));
                assert!(bound.holds(f64::NAN, &want(f64::NAN)));
                assert!(bound.holds(1.0, &want(1.0)));
                assert!(!bound.holds(f64::INFINITY, &want(1.0)));
            }
        }
    }

    #[test]
    fn one_rounding_of_the_output_passes_and_two_steps_do_not() {
        for (dtype, step) in [(DType::Bf16, 2f64.powi(-7)), (DType::F16, 2f64.powi(-10))] {
            let bound = bound("rms_norm", dtype, false);
            let want = Expected { value: 1.0, size: 1.0 };
            assert!(bound.holds(1.0 + step / 2.0, &want));
            assert!(!bound.holds(1.0 + step, &want));
        }
    }
}
