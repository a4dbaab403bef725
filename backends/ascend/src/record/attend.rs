//! Attention and the indexer's scores: keys gathered row by row, batched products, a softmax with the sink
//! as one more column.
//!
//! Queries are taken a few at a time so that gathered keys stay within a bound; how many depends on the
//! lists' widths, never on the number of rows.

use hal::op::{Far, Visible};
use hal::{Op, Result, Tensor};

use super::{cached, matrix, put, values};
use crate::sys::operators::Operator;
use crate::tape::{Arg, Tape};
use crate::view::{Element, View};

/// Scratch for the keys of the queries taken together, in bytes.
const KEYS_BYTES: i64 = 64 << 20;
/// Score of an absent key: its share is 0, whatever the sink.
const ABSENT: f64 = f32::MIN as f64;

/// Lists of rows per query, `[n, keys]`, -1 absent, with the cache they name rows of.
struct Keys<'a> {
    cache: &'a Tensor,
    index: View,
}

/// Rows of the visible entries `0..count`, -1 past what is visible.
fn visible(tape: &mut Tape, list: &Visible, count: i64) -> Result<View> {
    let reach = View::rows_of(&list.reach, tape.place(&list.reach)?, Element::I32);
    let pages = View::rows_of(&list.pages, tape.place(&list.pages)?, Element::I32);
    let (n, per) = (reach.dim(0), i64::from(list.per));
    let sequence = tape.dense(&reach.slice(1, 0, 1)).reshape(&[n]);
    let sequence = tape.clamp(&sequence, 0.0, pages.dim(0) as f64 - 1.0);
    let page = tape.rows(&pages, &sequence);
    let first = tape.muls(&page, per as f64).unsqueeze(2);
    let within = tape.count_up(per)?;
    let row = tape.add(&first, &within);
    let entries = page.dim(1) * per;
    let row = row.reshape(&[n, entries]).slice(1, 0, count.min(entries));
    let number = tape.count_up(row.dim(1))?;
    let seen = tape.less(&number, &reach.slice(1, 1, 1));
    let absent = tape.constant(Element::I32, -1.0)?;
    Ok(tape.choose(&seen, &row, &absent))
}

/// Keys of queries `first..first + count`, f32 `[count, keys, c]`, and which are absent.
fn keys_of(tape: &mut Tape, lists: &[Keys<'_>], first: i64, count: i64) -> Result<(View, View)> {
    let total: i64 = lists.iter().map(|list| list.index.dim(1)).sum();
    let width = i64::from(lists[0].cache.width());
    let all = tape.temp(Element::F32, &[count, total, width]);
    let absent = tape.temp(Element::Bool, &[count, total]);
    let mut at = 0;
    for list in lists.iter().filter(|list| list.index.dim(1) > 0) {
        let index = tape.dense(&list.index.slice(0, first, count));
        let keys = index.dim(1);
        let rows = cached(tape, list.cache, &index.reshape(&[count * keys]))?;
        tape.store(&rows.reshape(&[count, keys, width]), &all.slice(1, at, keys));
        let args = vec![
            Arg::View(index),
            Arg::Scalar(Element::I32, 0.0),
            Arg::View(absent.slice(1, at, keys)),
        ];
        tape.push(Operator::LtScalar, args);
        at += keys;
    }
    Ok((all, absent))
}

/// How many queries are taken together.
fn together(n: i64, bytes_each: i64) -> usize {
    (KEYS_BYTES / bytes_each.max(1)).clamp(1, n.max(1)) as usize
}

pub(crate) fn attend(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::Attend(op) = op else { unreachable!("the table looked") };
    let near = View::rows_of(&op.near.index, tape.place(&op.near.index)?, Element::I32);
    let mut lists = vec![Keys { cache: &op.near.cache, index: near }];
    match &op.far {
        Some(Far::Listed(far)) => {
            let index = View::rows_of(&far.index, tape.place(&far.index)?, Element::I32);
            lists.push(Keys { cache: &far.cache, index });
        }
        Some(Far::Visible(far)) => {
            let index = visible(tape, far, i64::MAX)?;
            lists.push(Keys { cache: &far.cache, index });
        }
        None => {}
    }
    let q = values(tape, &op.q)?;
    let sink = tape.vector(&op.sink)?.unsqueeze(1);
    let (n, heads, width) = (q.dim(0), q.dim(1), q.dim(2));
    let total: i64 = lists.iter().map(|list| list.index.dim(1)).sum();
    let count = together(n, total * (3 * width + 4 * heads) * 4);
    for first in (0..n).step_by(count) {
        let count = (count as i64).min(n - first);
        let mark = tape.mark();
        // 1 scores
        let (keys, absent) = keys_of(tape, &lists, first, count)?;
        let scores = tape.product(&q.slice(0, first, count), &keys.swap(1, 2));
        let scores = tape.muls(&scores, f64::from(op.scale));
        let none = tape.constant(Element::F32, ABSENT)?;
        let scores = tape.choose(&absent.unsqueeze(1), &none, &scores);
        // 2 shares, the sink's among them
        let room = tape.temp(Element::F32, &[count, heads, total + 1]);
        tape.store(&scores, &room.slice(2, 0, total));
        tape.store(&sink, &room.slice(2, total, 1));
        let shares = tape.temp(Element::F32, &room.dims);
        let args = vec![Arg::View(room), Arg::I64(2), Arg::View(shares.clone())];
        tape.push(Operator::Softmax, args);
        // 3 weighted sum
        let sums = tape.product(&shares.slice(2, 0, total), &keys);
        let rows = op.out.row_range(first as u32, count as u32);
        put(tape, &sums, &rows)?;
        tape.rewind(mark);
    }
    Ok(())
}

pub(crate) fn index_score(tape: &mut Tape, op: &Op) -> Result<()> {
    let Op::IndexScore(op) = op else { unreachable!("the table looked") };
    let index = visible(tape, &op.keys, op.out.width().into())?;
    let q = values(tape, &op.q)?;
    let weight = matrix(tape, &op.weight)?.unsqueeze(2);
    let (n, heads, width) = (q.dim(0), q.dim(1), q.dim(2));
    let columns = index.dim(1);
    let lists = [Keys { cache: &op.keys.cache, index }];
    let out = View::rows_of(&op.out, tape.place(&op.out)?, Element::F32);
    let count = together(n, columns * (3 * width + 4 * heads) * 4);
    for first in (0..n).step_by(count) {
        let count = (count as i64).min(n - first);
        let mark = tape.mark();
        let (keys, _) = keys_of(tape, &lists, first, count)?;
        let dots = tape.product(&q.slice(0, first, count), &keys.swap(1, 2));
        let dots = tape.unary(Operator::Relu, &dots);
        let weighted = tape.mul(&dots, &weight.slice(0, first, count));
        let sums = tape.sum(&weighted, 1);
        let scores = tape.muls(&sums, f64::from(op.scale));
        tape.store(&scores, &out.slice(0, first, count).slice(1, 0, columns));
        tape.rewind(mark);
    }
    Ok(())
}
