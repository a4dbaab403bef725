//! Pages of a mapping exchanged for huge ones, in place.
//!
//! Linux maps ordinary files in pages of 4 KiB, and a program that reads all of its weights for every
//! token walks the page tables once a page. A piece of the file is copied to anonymous memory of 2 MiB
//! pages, which then takes the piece's place: addresses and bytes stay, so readers need not know, not
//! even those that read meanwhile.
//!
//! Refuses nothing: what gets no huge pages stays as the file is mapped.

use std::ffi::c_void;
use std::io;
use std::ptr::{self, NonNull};

/// A huge page.
const PAGE_BYTES: usize = 2 << 20;

/// What is copied at a time. For so long its pages are there twice.
const PIECE_BYTES: usize = 8 * PAGE_BYTES;

/// Anonymous memory that begins where a huge page may.
struct Piece {
    base: NonNull<c_void>,
    size_bytes: usize,
}

impl Piece {
    fn new(size_bytes: usize) -> io::Result<Piece> {
        let (all, access) = (size_bytes + PAGE_BYTES, libc::PROT_READ | libc::PROT_WRITE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory somewhere; no address is asked for.
        let start = unsafe { libc::mmap(ptr::null_mut(), all, access, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let before = start.addr().next_multiple_of(PAGE_BYTES) - start.addr();
        // SAFETY: both inside what was just mapped, which has a page more than `size_bytes`.
        let (base, end) = unsafe { (start.byte_add(before), start.byte_add(before + size_bytes)) };
        for (start, size_bytes) in [(start, before), (end, PAGE_BYTES - before)] {
            // SAFETY: new memory in front of and behind the piece, which nobody knows.
            unsafe { unmap(start, size_bytes) };
        }
        let base = NonNull::new(base).ok_or(io::ErrorKind::Other)?;
        let piece = Piece { base, size_bytes };
        // SAFETY: advice on memory of our own, which changes no byte.
        let advised = unsafe { libc::madvise(base.as_ptr(), size_bytes, libc::MADV_HUGEPAGE) };
        if advised == 0 { Ok(piece) } else { Err(io::Error::last_os_error()) }
    }

    /// Makes the bytes at `target` its own and lies there instead of what did.
    ///
    /// # Safety
    /// `target` begins `size_bytes` of readable memory of a private, read-only mapping whose bytes do not
    /// change, and does so for as long as anybody uses it.
    unsafe fn replace(self, target: *const u8) -> io::Result<()> {
        let Piece { base, size_bytes } = self;
        // SAFETY: the caller's bytes, to memory of our own of that size.
        unsafe { ptr::copy_nonoverlapping(target, base.as_ptr().cast(), size_bytes) };
        // SAFETY: memory of our own, which nobody writes from here on.
        if unsafe { libc::mprotect(base.as_ptr(), size_bytes, libc::PROT_READ) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let to = target.cast_mut().cast::<c_void>();
        // SAFETY: what lies at `to` are the same bytes. A reader on another thread sees the old page or the new one:
        // the kernel exchanges them under the lock that page faults wait for, and looks for reasons to fail before it
        // removes anything. From then on the piece is not ours to unmap.
        let moved = unsafe { libc::mremap(base.as_ptr(), size_bytes, size_bytes, flags, to) };
        if moved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` and known to nobody else.
        unsafe { unmap(self.base.as_ptr(), self.size_bytes) };
    }
}

/// # Safety
/// Whole pages that nobody uses.
unsafe fn unmap(start: *mut c_void, size_bytes: usize) {
    if size_bytes > 0 {
        // SAFETY: as the caller promises. That it may fail costs memory only.
        let _ = unsafe { libc::munmap(start, size_bytes) };
    }
}

/// Exchanges the whole huge pages among `bytes` as long as `go_on` agrees to the size of the next piece. Bytes
/// exchanged.
///
/// # Safety
/// `bytes` are of a private, read-only mapping of a file that nobody changes.
pub(super) unsafe fn promote(bytes: &[u8], go_on: &mut dyn FnMut(u64) -> bool) -> u64 {
    let start = bytes.as_ptr().addr();
    let skipped = start.next_multiple_of(PAGE_BYTES) - start;
    let whole = bytes.get(skipped..).unwrap_or_default();
    let whole = &whole[..whole.len() / PAGE_BYTES * PAGE_BYTES];
    let mut done = 0;
    for piece in whole.chunks(PIECE_BYTES) {
        if !go_on(piece.len() as u64) {
            break;
        }
        // SAFETY: as the caller promises; the piece begins at a huge page and has whole ones.
        let replaced =
            Piece::new(piece.len()).and_then(|new| unsafe { new.replace(piece.as_ptr()) });
        if replaced.is_err() {
            break;
        }
        done += piece.len() as u64;
    }
    done
}
