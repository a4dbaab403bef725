//! The small number formats: codes and scales, block quantisation, cached rows, the Hadamard rotation.
//!
//! README.md has the formulas. Everything here gives the same bits on every instruction set: the
//! loops are element-wise (no sums), so the wide versions are the same code with wider vectors, or one that
//! gives the same values.

mod block;
mod codec;
mod hadamard;

pub mod cases;
pub mod formats;
pub mod oracle;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use block::{Form, dequantise, quantise, round_trip};
pub use codec::{decode_row, decode_rows, encode_row};
pub use hadamard::{HADAMARD_WIDTH, hadamard};

/// Compiles one `inline(always)` body three times and calls the copy for the instruction set.
macro_rules! per_isa {
    ($isa:expr, $body:ident($($name:ident: $kind:ty),*)) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        fn avx512($($name: $kind),*) {
            $body($($name),*);
        }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma,f16c")]
        fn avx2($($name: $kind),*) {
            $body($($name),*);
        }
        match $isa.level() {
            // SAFETY: an `Isa` proves that the processor has the features.
            #[cfg(target_arch = "x86_64")]
            $crate::common::isa::Level::Avx512 => unsafe { avx512($($name),*) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            $crate::common::isa::Level::Avx2 => unsafe { avx2($($name),*) },
            _ => $body($($name),*),
        }
    }};
}
use per_isa;
