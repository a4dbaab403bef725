//! Which instructions the kernels may use.
//!
//! An [`Isa`] is a proof: it can only be obtained for instructions this processor has, so a kernel
//! that matches on it may call the matching `target_feature` functions. It is also part of the
//! arithmetic class of the CPU device: two instruction sets may sum in different orders, one and the
//! same never does.

use std::fmt;

/// Instruction sets the kernels are written for, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Portable Rust; what the compiler makes of it.
    Scalar,
    /// AArch64 with NEON (pairs of 4 lanes of f32).
    Neon,
    /// x86-64 with AVX2, FMA and F16C (8 lanes of f32).
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL besides all of [`Level::Avx2`] (16 lanes of f32).
    Avx512,
    /// All of [`Level::Avx512`], VBMI, and AMX tiles of bf16.
    Amx,
}

/// All of them, weakest first.
const LEVELS: [Level; 5] = [Level::Scalar, Level::Neon, Level::Avx2, Level::Avx512, Level::Amx];

/// An instruction set this processor was seen to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isa(Level);

impl Isa {
    /// The portable floor; exists everywhere.
    pub const SCALAR: Isa = Isa(Level::Scalar);

    /// The strongest set this processor has. Cheap: the processor is asked once per process.
    pub fn best() -> Isa {
        LEVELS.into_iter().rev().find_map(Isa::force).unwrap_or(Isa::SCALAR)
    }

    /// The given set, or `None` where the processor lacks it.
    pub fn force(level: Level) -> Option<Isa> {
        has(level).then_some(Isa(level))
    }

    /// Every set this processor has, weakest first.
    pub fn all() -> impl Iterator<Item = Isa> {
        LEVELS.into_iter().filter_map(Isa::force)
    }

    /// What to match on: the vectors. Those of AMX are AVX-512's.
    pub fn level(self) -> Level {
        match self.0 {
            Level::Amx => Level::Avx512,
            level => level,
        }
    }

    /// Whether there are tiles of bf16 beside the vectors.
    pub fn has_tiles(self) -> bool {
        self.0 == Level::Amx
    }

    /// Lanes of f32 in one vector. The scalar kernels work in groups of 8 as well.
    pub fn lanes(self) -> usize {
        match self.0 {
            Level::Scalar | Level::Neon | Level::Avx2 => 8,
            Level::Avx512 | Level::Amx => 16,
        }
    }

    /// Short name, as options and reports spell it.
    pub fn name(self) -> &'static str {
        self.0.name()
    }
}

impl Level {
    /// Short name, as options and reports spell it.
    pub fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Neon => "neon",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Amx => "amx",
        }
    }

    /// The set of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Level> {
        LEVELS.into_iter().find(|level| level.name() == name)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn has(level: Level) -> bool {
    let avx2 = || {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
    };
    let avx512 = || {
        avx2()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
    };
    match level {
        Level::Scalar => true,
        Level::Neon => false,
        Level::Avx2 => avx2(),
        Level::Avx512 => avx512(),
        Level::Amx => avx512() && is_x86_feature_detected!("avx512vbmi") && super::tiles::usable(),
    }
}

#[cfg(target_arch = "aarch64")]
fn has(level: Level) -> bool {
    match level {
        Level::Scalar => true,
        Level::Neon => std::arch::is_aarch64_feature_detected!("neon"),
        Level::Avx2 | Level::Avx512 | Level::Amx => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has(level: Level) -> bool {
    level == Level::Scalar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_is_the_last_of_all() {
        assert_eq!(Isa::all().last(), Some(Isa::best()));
        assert_eq!(Isa::all().next(), Some(Isa::SCALAR));
    }

    #[test]
    fn names_round_trip() {
        for isa in Isa::all() {
            assert_eq!(Level::from_name(isa.name()).and_then(Isa::force), Some(isa));
        }
        assert_eq!(Level::from_name("sse9"), None);
    }
}
