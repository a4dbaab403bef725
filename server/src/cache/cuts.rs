//! Where the state of a prompt is saved on the way: a prefix can only be reused from a position at which
//! its state was saved while the sequence stood there (docs/program.md, "The state object").
//!
//! A cut costs as much memory as a thousand tokens of growing state, so there are few: every so many
//! tokens, the same for all prompts; where the first and the last turn of a user begin, which keeps
//! instructions and the conversation so far apart from what changes; and one token before the end. That
//! last token opens the answer or its reasoning, and when the conversation goes on it is often another
//! one, so a cut behind it would fit nothing.

/// Tokens a cut must add to the one before. Fewer are computed again in one small step.
pub(crate) const CUT_TOKENS_MIN: u32 = 32;

/// Positions to save the state of `prompt` at, ascending, for a sequence that stands at `from`: one
/// each `every` tokens, before the first and last `user` token, and one before the end.
pub(crate) fn cuts(prompt: &[u32], from: u32, every: u32, user: Option<u32>) -> Vec<u32> {
    let end = prompt.len() as u32 - 1;
    let is_user = |&id: &u32| Some(id) == user;
    let first = prompt.iter().position(is_user);
    let last = prompt.iter().rposition(is_user);
    let mut wanted: Vec<u32> = [first, last].into_iter().flatten().map(|at| at as u32).collect();
    wanted.push(end);
    for at in (1..=end / every).map(|number| number * every) {
        // A regular cut gives way to one that means something.
        if wanted.iter().all(|other| other.abs_diff(at) >= every / 8) {
            wanted.push(at);
        }
    }
    wanted.sort_unstable();
    let mut kept: Vec<u32> = Vec::with_capacity(wanted.len());
    for cut in wanted.into_iter().filter(|cut| (from..=end).contains(cut)) {
        let before = kept.last().copied().unwrap_or(from);
        match cut - before {
            CUT_TOKENS_MIN.. => kept.push(cut),
            // The end matters more than a turn just before it.
            _ if cut == end && !kept.is_empty() => *kept.last_mut().expect("not empty") = cut,
            _ => {}
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: u32 = 3;

    fn prompt(length: usize, users: &[usize]) -> Vec<u32> {
        let mut prompt = vec![9; length];
        users.iter().for_each(|&at| prompt[at] = USER);
        prompt
    }

    #[test]
    fn cuts_lie_at_turns_at_the_end_and_every_so_often() {
        for (length, users, from, want) in [
            (1, &[][..], 0, &[][..]),
            (20, &[1], 0, &[]),
            (100, &[], 0, &[99]),
            (100, &[1], 0, &[99]),
            (100, &[40], 0, &[40, 99]),
            (100, &[90], 0, &[99]),
            (300, &[40, 100, 200], 0, &[40, 200, 299]),
            (300, &[40, 100, 200], 150, &[200, 299]),
            (300, &[40, 100, 200], 200, &[299]),
            (300, &[40, 100, 200], 280, &[]),
            (3000, &[], 0, &[1000, 2000, 2999]),
            (3000, &[1990], 0, &[1000, 1990, 2999]),
            (3001, &[], 0, &[1000, 2000, 3000]),
        ] {
            let got = cuts(&prompt(length, users), from, 1000, Some(USER));
            assert_eq!(got, want, "{length} tokens, users at {users:?}, from {from}");
        }
    }

    #[test]
    fn any_cuts_ascend_and_leave_a_token() {
        for length in 1..400 {
            for from in (0..length).step_by(7) {
                let prompt = prompt(length, &[length / 3, length / 2]);
                let got = cuts(&prompt, from as u32, 64, Some(USER));
                assert!(got.iter().all(|&cut| (cut as usize) < length && cut as usize > from));
                assert!(got.is_sorted_by(|a, b| a < b), "{length} from {from}: {got:?}");
            }
        }
    }
}
