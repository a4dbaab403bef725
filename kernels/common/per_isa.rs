//! One body, compiled once per instruction set.
//!
//! The body is plain Rust that the compiler vectorises (for aarch64 with NEON, which is part of that
//! target, so the portable copy serves it); it is written without fused multiply-add and
//! with sums in fixed lanes, so every copy gives the same bits.

/// Defines `fn name(isa, …)` that runs its body compiled for `isa`.
///
/// Everything the body calls must be `#[inline(always)]`, or it is compiled for the portable floor.
macro_rules! per_isa {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block
    )*) => { $(
        $(#[$meta])*
        #[inline]
        $vis fn $name(isa: $crate::common::isa::Isa, $($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $type),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $type),*) $(-> $ret)? {
                portable($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $type),*) $(-> $ret)? {
                portable($($arg),*)
            }

            match isa.level() {
                // SAFETY: an `Isa` proves that the processor has the features.
                #[cfg(target_arch = "x86_64")]
                $crate::common::isa::Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::common::isa::Level::Avx2 => unsafe { avx2($($arg),*) },
                _ => portable($($arg),*),
            }
        }
    )* };
}

pub(crate) use per_isa;
