//! What an op moves and computes, from its shapes: what a profile divides times into.
//!
//! Bytes are those that must pass memory if nothing is read twice: each weight once, operands once, of a cache
//! the rows that are listed or visible. Operations are the products' (two a multiplication and addition); the
//! rest of the arithmetic never bounds an op. Experts are counted as if routed uniformly.

use hal::op::{Far, Gather, GatherSource, Listed, RowGroups, Scatter, Visible};
use hal::{Op, Tensor, Weight};

use crate::limits::PAGE_TOKENS;

/// Of one execution.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Bytes read and written.
    pub bytes: f64,
    /// Operations of products.
    pub flops: f64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.bytes += other.bytes;
        self.flops += other.flops;
    }
}

fn row_bytes(tensor: &Tensor) -> f64 {
    tensor.row_bytes() as f64
}

fn whole(tensor: &Tensor) -> f64 {
    f64::from(tensor.rows()) * row_bytes(tensor)
}

/// Expected number of different ones among `picks` of `all`.
fn distinct(all: u32, picks: f64) -> f64 {
    let all = f64::from(all);
    all * (1.0 - (1.0 - 1.0 / all).powf(picks))
}

/// Multiplications and additions of a product of so many rows.
fn product(weight: &Weight, rows: f64) -> f64 {
    2.0 * rows * f64::from(weight.spec().rows) * f64::from(weight.spec().cols)
}

fn part(weight: &Weight, share: f64) -> f64 {
    weight.spec().size_bytes() as f64 * share
}

/// Entries of a query that stands `depth` tokens deep.
fn visible(far: &Visible, depth: f64) -> f64 {
    let most = f64::from(far.pages.width()) * f64::from(far.per);
    (depth * f64::from(far.per) / f64::from(PAGE_TOKENS)).min(most)
}

/// Keys a query meets, and bytes of cached rows that are read for all of them instead of the caches' own.
fn keys(near: &Listed, far: Option<&Far>, rows: f64, depth: f64) -> (f64, f64) {
    let listed = |list: &Listed| {
        // Lists are as wide as the window; a short context fills them in part.
        let count = f64::from(list.index.width()).min(depth + 1.0);
        (count, rows * count * row_bytes(&list.cache) - whole(&list.cache))
    };
    let (mut count, mut bytes) = listed(near);
    match far {
        None => {}
        Some(Far::Listed(far)) => {
            let (more, more_bytes) = listed(far);
            count += more;
            bytes += more_bytes;
        }
        Some(Far::Visible(far)) => {
            let more = visible(far, depth);
            count += more;
            bytes += rows * more * row_bytes(&far.cache) - whole(&far.cache);
        }
    }
    (count, bytes)
}

/// What is to be added to the bytes of the operands of an op that moves rows: it touches some of them.
fn unread(op: &Op) -> f64 {
    match op {
        Op::Gather(Gather { out, source: GatherSource::Rows { source, more }, .. }) => {
            let all = whole(source) + more.as_ref().map_or(0.0, whole);
            f64::from(out.rows()) * row_bytes(source) - all
        }
        Op::Scatter(Scatter { target, source, .. }) => {
            f64::from(source.rows()) * row_bytes(target) - whole(target)
        }
        Op::Compress(op) => {
            // Pooled pieces come from the tail and the step's rows; entries are written.
            let entries = f64::from(op.entry_row.rows());
            let pooled = op.pool.shape().elements() as f64 * 4.0 * f64::from(op.entries.width());
            let kept = whole(&op.landing);
            let touched = entries * row_bytes(&op.entries) + pooled + kept;
            touched - whole(&op.entries) - whole(&op.tail)
        }
        _ => 0.0,
    }
}

/// Operations, and what is to be added to the bytes of all operands and weights.
fn special(op: &Op, depth: f64) -> (f64, f64) {
    let attend = |q: &Tensor, near, far: Option<&Far>| {
        let rows = f64::from(q.rows());
        let (count, bytes) = keys(near, far, rows, depth);
        (4.0 * rows * f64::from(q.width()) * count, bytes)
    };
    let scores = |q: &Tensor, keys: &Visible| {
        let (rows, count) = (f64::from(q.rows()), visible(keys, depth));
        let bytes = rows * count * row_bytes(&keys.cache) - whole(&keys.cache);
        (2.0 * rows * f64::from(q.width()) * count, bytes, rows * count * 4.0)
    };
    match op {
        Op::Matmul(op) => {
            let rows = f64::from(op.x.rows());
            let unread = match op.groups {
                RowGroups::Cyclic => 0.0,
                RowGroups::Sorted { .. } => {
                    let groups = op.weight.spec().groups;
                    1.0 - distinct(groups, rows) / f64::from(groups)
                }
            };
            (product(&op.weight, rows), -part(&op.weight, unread))
        }
        Op::MoeExperts(op) => {
            let picks = op.ids.shape().elements() as f64;
            let groups = op.gate_up.spec().groups;
            let unread = 1.0 - distinct(groups, picks) / f64::from(groups);
            let flops = product(&op.gate_up, picks) + product(&op.down, picks);
            (flops, -part(&op.gate_up, unread) - part(&op.down, unread))
        }
        Op::SwigluMlp(op) => {
            let rows = f64::from(op.x.rows());
            (product(&op.gate_up, rows) + product(&op.down, rows), 0.0)
        }
        Op::Attend(op) => attend(&op.q, &op.near, op.far.as_ref()),
        Op::AttendProject(op) => {
            let (flops, bytes) = attend(&op.q, &op.near, op.far.as_ref());
            let rows = f64::from(op.q.rows());
            let grouped = product(&op.wo_a, rows * f64::from(op.wo_a.spec().groups));
            (flops + grouped + product(&op.wo_b, rows), bytes)
        }
        Op::IndexScore(op) => {
            let (flops, bytes, scores) = scores(&op.q, &op.keys);
            (flops, bytes + scores - whole(&op.out))
        }
        // Scores are written and read once.
        Op::IndexSelect(op) => {
            let (flops, bytes, scores) = scores(&op.q, &op.keys);
            (flops, bytes + 2.0 * scores)
        }
        Op::Route(op) => (product(&op.gate, f64::from(op.x.rows())), 0.0),
        Op::RouteTable(op) => {
            let read = whole(&op.ids) - whole(&op.table);
            (product(&op.gate, f64::from(op.x.rows())), read)
        }
        Op::HcPre(op) => (product(&op.site.function, f64::from(op.streams.rows())), 0.0),
        Op::HcTurn(op) => (product(&op.site.function, f64::from(op.streams.rows())), 0.0),
        Op::Head(op) => {
            let rows = f64::from(op.out.rows());
            let unread = rows * row_bytes(&op.streams) - whole(&op.streams);
            (product(&op.site.function, rows) + product(&op.vocabulary, rows), unread)
        }
        _ => (0.0, unread(op)),
    }
}

/// Of `op` in a step whose queries stand `depth` tokens deep.
pub fn cost(op: &Op, depth: u32) -> Cost {
    let mut bytes = 0.0;
    op.operands(&mut |_, tensor| bytes += whole(tensor));
    op.weights(&mut |weight| bytes += part(weight, 1.0));
    let (flops, more) = special(op, f64::from(depth));
    Cost { bytes: (bytes + more).max(0.0), flops }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_picks_are_mostly_different_and_many_take_all() {
        assert!((distinct(256, 1.0) - 1.0).abs() < 1e-9);
        assert!((distinct(256, 6.0) - 5.94).abs() < 0.01);
        assert!(distinct(256, 12_288.0) > 255.99);
    }
}
