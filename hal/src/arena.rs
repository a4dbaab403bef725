//! Scratch planning: gives every temporary of a program an offset in one arena.
//!
//! Input is the list of (first use, last use, size). Output is an offset each. Two temporaries whose
//! lifetimes overlap never share bytes; that is the whole contract, and `tests::no_overlap` checks
//! it on random lists. Largest first, each at the lowest gap that fits. A small temporary keeps its bytes
//! for some ops longer than it is used: in a step of few rows, where launches cost most, ops that do not
//! need each other then share no bytes either, and a device may run them side by side.
//!
//! Not here: weights and state (never scratch), and alignment beyond [`ALIGN_BYTES`].

/// Every temporary begins at a multiple of this: enough for any device's binding offsets.
pub const ALIGN_BYTES: u64 = 256;

/// How large a small temporary is, in bytes, and for how many ops longer than it is used it keeps them: a
/// layer has some 25. Steps of many rows have few such temporaries, so their arena hardly grows.
const SMALL_BYTES: u64 = 256 << 10;
const LINGERS: u32 = 24;

/// Lifetime and size of one temporary, in places of the program, both ends included. A temporary
/// nobody uses has `first > last`.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// First use.
    pub first: u32,
    /// Last use.
    pub last: u32,
    /// Size.
    pub bytes: u64,
}

/// The last op for which a temporary keeps its bytes.
fn end_of(span: &Span) -> u32 {
    if span.bytes <= SMALL_BYTES { span.last.saturating_add(LINGERS) } else { span.last }
}

/// Offset of each temporary, and the size of the arena.
pub fn place(spans: &[Span]) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..spans.len()).collect();
    order.sort_by_key(|&id| (std::cmp::Reverse(spans[id].bytes), id));
    let mut offsets = vec![0; spans.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(spans.len());
    let mut total = 0;
    for id in order {
        let span = spans[id];
        if span.first > span.last {
            continue;
        }
        let mut busy: Vec<(u64, u64)> = placed
            .iter()
            .filter(|&&other| {
                spans[other].first <= end_of(&span) && span.first <= end_of(&spans[other])
            })
            .map(|&other| (offsets[other], offsets[other] + spans[other].bytes))
            .collect();
        busy.sort_unstable();
        let mut at = 0u64;
        for (begin, end) in busy {
            if at + span.bytes <= begin {
                break;
            }
            at = at.max(end.next_multiple_of(ALIGN_BYTES));
        }
        offsets[id] = at;
        total = total.max(at + span.bytes);
        placed.push(id);
    }
    (offsets, total.next_multiple_of(ALIGN_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(state: &mut u64, below: u64) -> u64 {
        *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (*state >> 33) % below
    }

    #[test]
    fn no_overlap() {
        let mut state = 1;
        for case in 0..200 {
            let spans: Vec<Span> = (0..random(&mut state, 60))
                .map(|_| {
                    let first = random(&mut state, 50) as u32;
                    let last = first + random(&mut state, 12) as u32;
                    Span { first, last, bytes: random(&mut state, 2 * SMALL_BYTES) }
                })
                .collect();
            let (offsets, total) = place(&spans);
            for (a, x) in spans.iter().enumerate() {
                assert!(offsets[a] + x.bytes <= total, "case {case}");
                assert!(offsets[a].is_multiple_of(ALIGN_BYTES), "case {case}");
                for (b, y) in spans.iter().enumerate().skip(a + 1) {
                    let meet = x.first <= y.last && y.first <= x.last;
                    let share =
                        offsets[a] < offsets[b] + y.bytes && offsets[b] < offsets[a] + x.bytes;
                    assert!(!(meet && share), "case {case}: {a} and {b}");
                }
            }
        }
    }

    #[test]
    fn temporaries_that_never_meet_share_bytes() {
        let large = SMALL_BYTES + 1;
        let span = |first, bytes| Span { first, last: first + 1, bytes };
        let shared = |a: Span, b: Span| place(&[a, b]).0 == [0, 0];
        assert!(shared(span(0, large), span(2, large - 1)), "the larger one is let go at once");
        assert!(!shared(span(0, 1000), span(2, 900)), "small ones are kept for a while");
        assert!(!shared(span(0, 1000), span(1 + LINGERS, 900)), "to the last");
        assert!(shared(span(0, 1000), span(2 + LINGERS, 900)), "and no longer");
    }
}
