//! The step block of the small model: lists and counts, from positions alone (program specification,
//! sections 2 to 4).

/// Tokens a query sees nearby, itself included.
pub(super) const WINDOW: u32 = 4;
/// Tokens a sequence may be taken back; rings are longer by that much.
const ROLLBACK: u32 = 2;
/// Rows of a window ring.
pub(super) const RING: u32 = WINDOW - 1 + ROLLBACK;
/// Sequences, and slots.
pub(super) const SEQUENCES: u32 = 2;
/// Tokens of one page.
pub(super) const PAGE: u32 = 8;
/// Pages of each sequence, in no order.
pub(super) const PAGES: [[u32; 4]; SEQUENCES as usize] = [[5, 2, 7, 0], [1, 6, 3, 4]];
/// Columns a rope turns.
pub(super) const TURNED: u32 = 8;

/// Consecutive tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) sequence: u32,
    pub(super) start: u32,
    pub(super) count: u32,
}

/// A way of compressing: tokens a window adds, and windows an entry pools.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ratio {
    pub(super) tokens: u32,
    pub(super) halves: u32,
}

impl Ratio {
    /// Tokens an entry pools.
    pub(super) fn slots(self) -> u32 {
        self.tokens * self.halves
    }

    /// Rows of a tail ring.
    pub(super) fn ring(self) -> u32 {
        self.slots() - 1 + ROLLBACK
    }

    /// Entries of one page.
    pub(super) fn per(self) -> u32 {
        PAGE / self.tokens
    }

    /// Windows a step of `rows` rows completes at most.
    pub(super) fn windows(self, rows: u32) -> u32 {
        let sequences = SEQUENCES.min(rows);
        rows.min((rows + sequences * (self.tokens - 1)) / self.tokens)
    }
}

/// The live rows of a step in order: (sequence, position, start of its run, end of its run).
fn live(batch: &[Run]) -> impl Iterator<Item = (u32, u32, u32, u32)> {
    batch.iter().flat_map(|run| {
        let end = run.start + run.count;
        (run.start..end).map(move |position| (run.sequence, position, run.start, end))
    })
}

/// `rows` rows of `width`: those `row` gives, then `padding`.
fn padded(
    batch: &[Run],
    (rows, width): (u32, u32),
    padding: f64,
    row: impl Fn(u32, u32, u32, u32, u32) -> Vec<f64>,
) -> Vec<f64> {
    let mut out = Vec::new();
    for (place, (sequence, position, start, end)) in live(batch).enumerate() {
        out.extend(row(place as u32, sequence, position, start, end));
    }
    assert!(out.len() as u32 <= rows * width, "the batch fits the plan");
    out.resize((rows * width) as usize, padding);
    out
}

/// A made-up text.
pub(super) fn token(sequence: u32, position: u32, vocabulary: u32) -> u32 {
    (position * 7 + sequence * 11 + position * position) % vocabulary
}

pub(super) fn tokens(batch: &[Run], rows: u32, vocabulary: u32) -> Vec<f64> {
    padded(batch, (rows, 1), -1.0, |_, sequence, position, _, _| {
        vec![f64::from(token(sequence, position, vocabulary))]
    })
}

pub(super) fn experts(batch: &[Run], rows: u32, experts: u32) -> Vec<f64> {
    padded(batch, (rows, 1), 0.0, |_, _, _, _, _| vec![f64::from(experts)])
}

/// Cosines, then sines, of a position.
pub(super) fn angle(position: u32, base: f64) -> Vec<f64> {
    let turns: Vec<f64> = (0..TURNED / 2)
        .map(|pair| f64::from(position) * base.powf(-2.0 * f64::from(pair) / f64::from(TURNED)))
        .collect();
    turns.iter().map(|turn| turn.cos()).chain(turns.iter().map(|turn| turn.sin())).collect()
}

pub(super) fn angles(batch: &[Run], rows: u32, base: f64) -> Vec<f64> {
    padded(batch, (rows, TURNED), 0.0, |_, _, position, _, _| angle(position, base))
}

/// Rows of the window buffer: ring rows for tokens before the run, landing rows in it.
pub(super) fn near(batch: &[Run], rows: u32) -> Vec<f64> {
    padded(batch, (rows, WINDOW), -1.0, |place, sequence, position, start, _| {
        let row = |column| {
            let seen = i64::from(position) - i64::from(WINDOW) + 1 + i64::from(column);
            match u32::try_from(seen) {
                Err(_) => -1.0,
                Ok(seen) if seen < start => f64::from(sequence * RING + seen % RING),
                Ok(seen) => f64::from(SEQUENCES * RING + place - (position - seen)),
            }
        };
        (0..WINDOW).map(row).collect()
    })
}

/// Ring row that keeps each landing row: the newest `ring` of a run.
pub(super) fn keep(batch: &[Run], rows: u32, ring: u32) -> Vec<f64> {
    padded(batch, (rows, 1), -1.0, |_, sequence, position, _, end| {
        let kept = end - position <= ring;
        vec![if kept { f64::from(sequence * ring + position % ring) } else { -1.0 }]
    })
}

/// (sequence, visible entries).
pub(super) fn reach(batch: &[Run], rows: u32, ratio: Ratio) -> Vec<f64> {
    padded(batch, (rows, 2), 0.0, |_, sequence, position, _, _| {
        vec![f64::from(sequence), f64::from((position + 1) / ratio.tokens)]
    })
}

/// What a compressor needs of a step.
pub(super) struct Pooling {
    /// Half rows: values of all windows, then gates.
    pub(super) pool: Vec<f64>,
    /// Cache row of each entry.
    pub(super) entry_row: Vec<f64>,
    /// Angles of each entry.
    pub(super) entry_angle: Vec<f64>,
}

pub(super) fn pooling(batch: &[Run], rows: u32, ratio: Ratio, base: f64) -> Pooling {
    let windows = ratio.windows(rows) as usize;
    let (mut values, mut entry_row, mut entry_angle) = (Vec::new(), Vec::new(), Vec::new());
    let mut first_row = 0;
    for run in batch {
        for position in run.start..run.start + run.count {
            if (position + 1) % ratio.tokens != 0 {
                continue;
            }
            let entry = position / ratio.tokens;
            values.extend(window(run, first_row, entry, ratio));
            let page = PAGES[run.sequence as usize][(entry / ratio.per()) as usize];
            entry_row.push(f64::from(page * ratio.per() + entry % ratio.per()));
            entry_angle.extend(angle(entry * ratio.tokens, base));
        }
        first_row += run.count;
    }
    values.resize(windows * ratio.slots() as usize, -1.0);
    entry_row.resize(windows, -1.0);
    entry_angle.resize(windows * TURNED as usize, 0.0);
    let halves = f64::from(ratio.halves);
    let gate = |&half: &f64| if half < 0.0 { -1.0 } else { half + halves };
    let gates: Vec<f64> = values.iter().map(gate).collect();
    values.extend(gates);
    Pooling { pool: values, entry_row, entry_angle }
}

/// Half rows an entry pools: slot j · halves + h is token j of window entry - (halves - 1) + h.
fn window(run: &Run, first_row: u32, entry: u32, ratio: Ratio) -> Vec<f64> {
    let mut out = Vec::new();
    for slot in 0..ratio.slots() {
        let (token, half) = (slot / ratio.halves, slot % ratio.halves);
        let Some(window) = (entry + half).checked_sub(ratio.halves - 1) else {
            out.push(-1.0);
            continue;
        };
        let position = window * ratio.tokens + token;
        let place = if position < run.start {
            run.sequence * ratio.ring() + position % ratio.ring()
        } else {
            SEQUENCES * ratio.ring() + first_row + position - run.start
        };
        out.push(f64::from(place * 2 * ratio.halves + half));
    }
    out
}
