//! What runs next: pure functions from what is live and waiting to a choice. No clock, no queue and no
//! engine in here, so that every choice can be tested as a table and repeated from a log.
//!
//! [`batch`] shares the rows of one step: every sequence that decodes gets its row, prompts share what
//! is left. [`next_owner`] says whose job is admitted next. Neither can change an answer: rows do not
//! depend on the batch (law 8); they change only who waits.

use crate::limits::{ROWS_MAX, RUNGS};

/// What a live sequence could do in the next step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: nobody takes its tokens at the moment.
    Rest,
    /// One row, and a token comes of it.
    Decode,
    /// Up to so many rows of a prompt (at least one): to its end, or to where its state is saved.
    Prefill(u32),
}

/// Bounds of a step's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Rows of the largest step.
    pub all: u32,
    /// Rows prompts may take together while anyone decodes: bounds how long a token waits.
    pub beside: u32,
}

/// Rows of each sequence in the next step, in `rows`; returns their sum, 0 if there is nothing to do.
///
/// Everyone who decodes has a row. Prompts share the rest equally, and what short ones leave goes to
/// the long ones, so that a short prompt never waits for a long one. Where more prompt is there than
/// fits, the step ends at a rung of the ladder: padding would compute nothing. `turn` is any number that
/// counts steps; it rotates who comes first when there are fewer rows than prompts.
///
/// # Panics
/// If more sequences decode than the step has rows: whoever opened the engine saw to that.
pub fn batch(needs: &[Need], bounds: Rows, turn: u64, rows: &mut Vec<u32>) -> u32 {
    rows.clear();
    rows.extend(needs.iter().map(|need| u32::from(*need == Need::Decode)));
    let decodes: u32 = rows.iter().sum();
    assert!(decodes <= bounds.all, "{decodes} sequences decode in steps of {} rows", bounds.all);
    let wanted: u64 = needs.iter().map(|need| u64::from(prompt_rows(*need))).sum();
    let free = bounds.all - decodes;
    let budget = if decodes > 0 { free.min(bounds.beside.max(1)) } else { free };
    let budget = if wanted > u64::from(budget) { to_rung(decodes, budget) } else { budget };
    share(needs, budget, turn, rows);
    rows.iter().sum()
}

fn prompt_rows(need: Need) -> u32 {
    match need {
        Need::Prefill(most) => most,
        Need::Rest | Need::Decode => 0,
    }
}

/// The largest budget up to `budget` that makes a step of no padding; `budget` itself if there is none.
fn to_rung(decodes: u32, budget: u32) -> u32 {
    let all = (decodes + budget).min(ROWS_MAX);
    let rung = RUNGS[RUNGS.partition_point(|&rung| rung <= all).saturating_sub(1)];
    if rung > decodes { rung - decodes } else { budget }
}

/// Deals `budget` rows out to prompts in equal shares until they or the budget are at an end.
fn share(needs: &[Need], mut budget: u32, turn: u64, rows: &mut [u32]) {
    let count = needs.len().max(1);
    let first = (turn % count as u64) as usize;
    loop {
        let open = |at: &usize| rows[*at] < prompt_rows(needs[*at]);
        let takers = (0..needs.len()).filter(open).count() as u32;
        if takers == 0 || budget == 0 {
            return;
        }
        let each = (budget / takers).max(1);
        for at in (0..needs.len()).map(|step| (first + step) % count) {
            let taken = prompt_rows(needs[at]).saturating_sub(rows[at]).min(each).min(budget);
            rows[at] += taken;
            budget -= taken;
        }
    }
}

/// Whose job is admitted next, of the owners of all waiting jobs: the one with the fewest live
/// sequences, and of equals the next in turn after `last`, the owner admitted last. Nobody can keep
/// others out by asking for more.
pub fn next_owner(
    waiting: impl Iterator<Item = u64>,
    live: impl Fn(u64) -> usize,
    last: u64,
) -> Option<u64> {
    waiting.min_by_key(|&owner| (live(owner), owner.wrapping_sub(last).wrapping_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::Need::{Decode, Prefill, Rest};
    use super::*;

    fn rows(needs: &[Need], all: u32, beside: u32, turn: u64) -> Vec<u32> {
        let mut rows = Vec::new();
        let sum = batch(needs, Rows { all, beside }, turn, &mut rows);
        assert_eq!(sum, rows.iter().sum::<u32>());
        rows
    }

    #[test]
    fn rows_are_shared_as_the_table_says() {
        for (needs, all, beside, want) in [
            (&[][..], 8, 8, &[][..]),
            (&[Rest, Rest], 8, 8, &[0, 0]),
            (&[Decode, Rest, Decode], 8, 8, &[1, 0, 1]),
            (&[Prefill(100)], 64, 16, &[64]),
            (&[Prefill(5)], 64, 16, &[5]),
            (&[Prefill(100), Decode], 64, 16, &[15, 1]),
            (&[Prefill(10), Prefill(100), Prefill(100)], 64, 16, &[10, 27, 27]),
            (&[Prefill(2), Prefill(3), Decode], 64, 16, &[2, 3, 1]),
            (&[Decode, Decode, Decode, Prefill(9)], 4, 1, &[1, 1, 1, 1]),
            (&[Prefill(9), Decode], 64, 0, &[1, 1]),
        ] {
            assert_eq!(rows(needs, all, beside, 0), want, "{needs:?} {all} {beside}");
        }
    }

    #[test]
    fn a_step_is_never_over_its_rows_and_everyone_comes_to_turn() {
        let mut state = 7u64;
        let mut random = |bound: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % bound
        };
        for trial in 0..2000 {
            let count = 1 + random(20) as usize;
            let needs: Vec<Need> = (0..count)
                .map(|_| match random(3) {
                    0 => Rest,
                    1 => Decode,
                    _ => Prefill(1 + random(300) as u32),
                })
                .collect();
            let all = 20 + random(100) as u32;
            let beside = random(40) as u32;
            let mut served = vec![0; count];
            for turn in 0..count as u64 {
                let got = rows(&needs, all, beside, turn);
                assert!(got.iter().sum::<u32>() <= all, "trial {trial}");
                for (at, need) in needs.iter().enumerate() {
                    served[at] += got[at];
                    match need {
                        Rest => assert_eq!(got[at], 0, "trial {trial}"),
                        Decode => assert_eq!(got[at], 1, "trial {trial}"),
                        Prefill(most) => assert!(got[at] <= *most, "trial {trial}"),
                    }
                }
            }
            for (at, need) in needs.iter().enumerate() {
                assert!(*need == Rest || served[at] > 0, "trial {trial}: {at} is starved");
            }
        }
    }

    #[test]
    fn a_step_with_prompt_left_over_ends_at_a_rung() {
        for decodes in 0..30usize {
            let mut needs = vec![Decode; decodes];
            needs.push(Prefill(10_000));
            let sum: u32 = rows(&needs, 512, 100, 0).iter().sum();
            assert!(RUNGS.contains(&sum), "{decodes} decode: {sum} rows");
        }
    }

    #[test]
    fn owners_take_turns_and_the_one_with_less_goes_first() {
        let waiting = [5, 5, 5, 9, 2];
        let mut last = 0;
        let mut order = Vec::new();
        for _ in 0..6 {
            last = next_owner(waiting.into_iter(), |_| 0, last).unwrap();
            order.push(last);
        }
        assert_eq!(order, [2, 5, 9, 2, 5, 9]);
        let live = |owner| if owner == 2 { 3 } else { 4 };
        assert_eq!(next_owner(waiting.into_iter(), live, 2), Some(2));
        assert_eq!(next_owner([].into_iter(), live, 2), None);
    }
}
