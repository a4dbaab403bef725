//! AMX: eight tile registers of 16 rows × 64 bytes and the product of two of them, as much of it as matmul and
//! attention use.
//!
//! Rust has no stable intrinsics for it; these are the instructions, one function each. Tile registers belong to
//! the thread; nothing else in a process uses them, so nothing is saved. On Linux a process asks
//! once whether it may have them.
//!
//! The product of bf16 tiles `C += A · B` (`tdpbf16ps`), by Intel's manual: for every element of C two sums start
//! at 0, one over the even and one over the odd places of A's row, by fused multiply-add in order; then the two
//! are added, then C. Subnormal numbers count as 0 and results that are subnormal become 0.

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

/// Bytes of a row of a tile.
pub(crate) const ROW_BYTES: usize = 64;
/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Columns of bf16 that a product sums over.
pub(crate) const PLANE: usize = ROW_BYTES / 2;
/// Numbers of four bytes in a tile.
pub(crate) const TILE: usize = ROWS * ROWS;

/// Bits of `cpuid` leaf 7, `edx`: products of bf16, tiles.
const CPUID_BF16: u32 = 1 << 22;
const CPUID_TILE: u32 = 1 << 24;

/// Whether the processor has tiles of bf16 and this process may use them.
pub(crate) fn usable() -> bool {
    static USABLE: OnceLock<bool> = OnceLock::new();
    *USABLE.get_or_init(|| {
        let wanted = CPUID_BF16 | CPUID_TILE;
        // SAFETY: every x86-64 has the instruction, and those with AVX-512 have this leaf.
        #[allow(unused_unsafe, reason = "safe in newer Rust than the oldest we take")]
        let leaf = unsafe { __cpuid_count(7, 0) };
        leaf.edx & wanted == wanted && permitted()
    })
}

/// Asks the kernel for the tile registers of this process.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    /// `ARCH_REQ_XCOMP_PERM` of `asm/prctl.h`, and the number of the tiles' state component.
    const REQUEST: libc::c_int = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // SAFETY: the call takes two numbers and touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

/// How other systems are asked is not known here.
#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Shapes of the eight tiles, as `ldtilecfg` reads them.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Shapes of the tiles of a product: 0 to 3 sums and 6, 7 its right operand, both of `columns` columns of four
/// bytes; 4, 5 its left one. All have 16 rows.
///
/// # Safety
/// Tiles are [`usable`]; up to 16 columns. The thread calls [`release`] when it is done.
pub(crate) unsafe fn configure(columns: u16) {
    let narrow = 4 * columns;
    let mut row_bytes = [0; 16];
    row_bytes[..8].copy_from_slice(&[narrow, narrow, narrow, narrow, 64, 64, narrow, narrow]);
    let mut rows = [0; 16];
    rows[..8].fill(ROWS as u8);
    let config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
    // SAFETY: 64 bytes that the instruction reads; tiles are usable by the caller.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) }
}

/// Gives the tile registers back.
///
/// # Safety
/// Tiles are [`usable`].
pub(crate) unsafe fn release() {
    // SAFETY: by the caller.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

/// Clears tiles 0 to 3.
///
/// # Safety
/// The thread has called [`configure`].
#[inline(always)]
pub(crate) unsafe fn clear_sums() {
    // SAFETY: by the caller.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            options(nostack, nomem)
        )
    }
}

/// An instruction that moves a tile, the number of which is part of its text.
macro_rules! move_tile {
    ($tile:expr, $base:expr, $stride:expr, [$($number:literal $text:literal)*]) => {
        match $tile {
            $($number => asm!($text, in(reg) $base, in(reg) $stride, options(nostack)),)*
            _ => unreachable!("there are eight"),
        }
    };
}

/// Loads tile `TILE` from rows `stride` bytes apart.
///
/// # Safety
/// The thread has called [`configure`]; the rows are readable.
#[inline(always)]
pub(crate) unsafe fn load<const TILE: usize>(base: *const u8, stride: usize) {
    const { assert!(TILE < 8) };
    // SAFETY: by the caller.
    unsafe {
        move_tile!(TILE, base, stride, [
            0 "tileloadd tmm0, [{} + {}]"
            1 "tileloadd tmm1, [{} + {}]"
            2 "tileloadd tmm2, [{} + {}]"
            3 "tileloadd tmm3, [{} + {}]"
            4 "tileloadd tmm4, [{} + {}]"
            5 "tileloadd tmm5, [{} + {}]"
            6 "tileloadd tmm6, [{} + {}]"
            7 "tileloadd tmm7, [{} + {}]"
        ])
    }
}

/// Stores tile `TILE` (0 to 3) to rows `stride` bytes apart.
///
/// # Safety
/// The thread has called [`configure`]; the rows are writable.
#[inline(always)]
pub(crate) unsafe fn store<const TILE: usize>(base: *mut u8, stride: usize) {
    const { assert!(TILE < 4) };
    // SAFETY: by the caller.
    unsafe {
        move_tile!(TILE, base, stride, [
            0 "tilestored [{} + {}], tmm0"
            1 "tilestored [{} + {}], tmm1"
            2 "tilestored [{} + {}], tmm2"
            3 "tilestored [{} + {}], tmm3"
        ])
    }
}

/// Tile `2 · W + X` += tile `4 + W` · tile `6 + X`.
///
/// # Safety
/// The thread has called [`configure`].
#[inline(always)]
pub(crate) unsafe fn multiply<const W: usize, const X: usize>() {
    const { assert!(W < 2 && X < 2) };
    // SAFETY: by the caller.
    unsafe {
        match (W, X) {
            (0, 0) => asm!("tdpbf16ps tmm0, tmm4, tmm6", options(nostack, nomem)),
            (0, 1) => asm!("tdpbf16ps tmm1, tmm4, tmm7", options(nostack, nomem)),
            (1, 0) => asm!("tdpbf16ps tmm2, tmm5, tmm6", options(nostack, nomem)),
            _ => asm!("tdpbf16ps tmm3, tmm5, tmm7", options(nostack, nomem)),
        }
    }
}

/// Where a tile lies.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) base: *const u8,
    /// Bytes between rows.
    pub(crate) row: usize,
    /// Bytes to the tile that is multiplied along with it.
    pub(crate) next: usize,
}

/// Sums += left · right over one plane, of one tile or `two` of the left and one or a `pair` of the right.
///
/// # Safety
/// The thread has called [`configure`]; the tiles are readable.
#[inline(always)]
pub(crate) unsafe fn add_plane(left: At, right: At, two: bool, pair: bool) {
    // SAFETY: by the caller.
    unsafe {
        load::<6>(right.base, right.row);
        load::<4>(left.base, left.row);
        multiply::<0, 0>();
        if pair {
            load::<7>(right.base.add(right.next), right.row);
            multiply::<0, 1>();
        }
        if two {
            load::<5>(left.base.add(left.next), left.row);
            multiply::<1, 0>();
        }
        if two && pair {
            multiply::<1, 1>();
        }
    }
}

/// `rounds` times four products of zeros, as fast as they come.
///
/// # Safety
/// Tiles are [`usable`].
pub(crate) unsafe fn products(rounds: usize) {
    // SAFETY: by the caller; a configuration clears all tiles.
    unsafe {
        configure(ROWS as u16);
        for _ in 0..rounds {
            multiply::<0, 0>();
            multiply::<0, 1>();
            multiply::<1, 0>();
            multiply::<1, 1>();
        }
        release();
    }
}

/// `rows` rows of 16 numbers of four bytes, `stride` apart, to 16 columns, `to` apart; up to 16, missing ones
/// are 0.
///
/// # Safety
/// AVX-512 F; the rows are readable and 16 rows of 16 numbers writable.
#[inline(always)]
pub(crate) unsafe fn turn(
    source: *const u32,
    stride: usize,
    rows: usize,
    target: *mut u32,
    to: usize,
) {
    // SAFETY: by the caller.
    unsafe {
        let mut v = [_mm512_setzero_si512(); 16];
        for (row, v) in v.iter_mut().enumerate().take(rows) {
            *v = _mm512_loadu_si512(source.add(row * stride).cast());
        }
        let mut pairs = v;
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
        }
        // quads[4 i + j]: rows 4 i … 4 i + 3 of columns j, 4 + j, 8 + j, 12 + j.
        let mut quads = v;
        for i in 0..4 {
            for j in 0..2 {
                let (a, b) = (pairs[4 * i + j], pairs[4 * i + 2 + j]);
                quads[4 * i + 2 * j] = _mm512_unpacklo_epi64(a, b);
                quads[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a, b);
            }
        }
        for j in 0..4 {
            let (a, b, c, d) = (quads[j], quads[4 + j], quads[8 + j], quads[12 + j]);
            let (ab_even, cd_even) = (
                _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b),
                _mm512_shuffle_i32x4::<0b10_00_10_00>(c, d),
            );
            let (ab_odd, cd_odd) = (
                _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d),
            );
            let columns = [
                _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_even, cd_even),
                _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_odd, cd_odd),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_even, cd_even),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_odd, cd_odd),
            ];
            for (i, column) in columns.into_iter().enumerate() {
                _mm512_storeu_si512(target.add((4 * i + j) * to).cast(), column);
            }
        }
    }
}

/// 1, 3, … 63: places of the upper halves of 32 floats, or of the odd ones of 64 words.
pub(crate) static ODD_WORDS: [u16; 32] = odd_words();

const fn odd_words() -> [u16; 32] {
    let mut words = [0; 32];
    let mut at = 0;
    while at < 32 {
        words[at] = 2 * at as u16 + 1;
        at += 1;
    }
    words
}
