//! Scratch planning: gives every temporary of a program an offset in one arena.
//!
//! Input is the list of (first use, last use, size). Output is an offset each. Two temporaries whose
//! lifetimes overlap never share bytes; that is the whole contract, and `tests::no_overlap` checks
//! it on random lists. Largest first, each at the lowest gap that fits.
//!
//! Not here: weights and state (never scratch), and alignment beyond [`ALIGN_BYTES`].

/// Every temporary begins at a multiple of this: enough for any device's binding offsets.
pub const ALIGN_BYTES: u64 = 256;

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
            .filter(|&&other| spans[other].first <= span.last && span.first <= spans[other].last)
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
                    Span { first, last, bytes: random(&mut state, 5000) }
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
        let spans =
            [Span { first: 0, last: 1, bytes: 1000 }, Span { first: 2, last: 3, bytes: 900 }];
        assert_eq!(place(&spans), (vec![0, 0], 1024));
    }
}
