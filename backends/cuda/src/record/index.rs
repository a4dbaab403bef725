//! index_score, top_k, index_select, sample.

use hal::op::{IndexSelect, Order, Visible};
use hal::{Op, Tensor};

use super::then::COUNTERS;
use super::{
    Args, BF16, FP4_ROWS, FP8_ROWS, GRID_MAX, INTS, Layout, Place, SHARED_MAX, Scope, is_real,
    is_row,
};
use crate::driver::{Address, Launch};

/// Shared memory that the keys of a block may take, in bytes.
const KEYS_BYTES: u32 = 32 << 10;
/// Threads of a block of scores.
const THREADS: u32 = 256;
/// Columns that one block picks from; as in `kernels/index/index.cu`.
const PIECE: u32 = 8192;
/// Picks that can be ordered by value: they pass through shared memory.
const PICKS_MAX: u32 = SHARED_MAX / 4 - 1024;

/// Keys that the warps of a block of `index_score_mma` have at a time.
const TURN: u32 = 128;

/// Keys a block brings to shared memory: a power of two that the width alone decides.
fn tile(width: u32) -> u32 {
    let most = KEYS_BYTES / 4 / width.max(1);
    [64, 32, 16, 8, 4, 2].into_iter().find(|&tile| tile <= most).unwrap_or(1)
}

/// Scores of visible keys, of their own or of a fused op.
struct Score<'a> {
    out: Place,
    q: Place,
    weight: Place,
    reach: Place,
    keys: &'a Visible,
    scale: f32,
}

fn keys_fit(keys: &Visible, q: &Tensor) -> bool {
    is_row(&keys.cache) && is_real(q) && keys.cache.width() <= KEYS_BYTES / 4
}

impl Score<'_> {
    fn heads(&self) -> u32 {
        self.q.width / self.keys.cache.width().max(1)
    }

    /// Shared memory of `index_score_mma`: the heads' queries, padded, and their weights.
    fn queries_bytes(&self) -> u64 {
        let tiles = u64::from(self.heads().div_ceil(8));
        tiles * (u64::from(self.keys.cache.width().div_ceil(128)) * 8 * 32 * 8 + 8 * 4)
    }

    /// True if tensor cores take it: decided by dtypes, codecs and widths alone.
    fn is_mma(&self) -> bool {
        let keys = Layout::of(&self.keys.cache);
        let whole = match keys.kind {
            BF16 => true,
            FP8_ROWS => keys.tail == 0 && keys.block.is_multiple_of(32),
            FP4_ROWS => keys.block.is_multiple_of(32),
            _ => false,
        };
        let room = self.queries_bytes() <= u64::from(SHARED_MAX) - 1024;
        self.q.kind == BF16 && whole && self.keys.cache.width().is_multiple_of(8) && room
    }

    fn record(&self, scope: &Scope<'_>) -> Vec<Launch> {
        let keys = self.keys;
        let width = keys.cache.width();
        let tile = tile(width);
        let heads = self.heads();
        let args = Args::new()
            .place(&self.out)
            .place(&self.q)
            .place(&self.weight)
            .rows(&keys.cache)
            .place(&self.reach)
            .rows(&keys.pages)
            .int(heads)
            .int(keys.per)
            .float(self.scale)
            .int(tile);
        // A page table longer than the scores are wide has entries nobody sees.
        let most = entries(keys).min(self.out.width);
        if self.is_mma() {
            // Blocks enough for all processors; each has the queries to bring first.
            let blocks = (2 * scope.machine.facts.processors).div_ceil(self.q.rows.max(1));
            let grid = [self.q.rows, most.div_ceil(TURN).clamp(1, blocks.max(1)), 1];
            let shared = self.queries_bytes() as u32;
            return scope.launch("index_score_mma", grid, THREADS, shared, args);
        }
        let tiles = most.div_ceil(tile);
        assert!(tiles <= GRID_MAX, "scores of {most} entries");
        let shared = 4 * (tile * width + THREADS);
        scope.launch("index_score", [self.q.rows, tiles, 1], THREADS, shared, args)
    }
}

/// Entries a page table has room for.
fn entries(keys: &Visible) -> u32 {
    let most = u64::from(keys.pages.width()) * u64::from(keys.per);
    u32::try_from(most).expect("a cache has fewer rows")
}

pub(crate) fn score_fits(op: &Op) -> bool {
    matches!(op, Op::IndexScore(op) if keys_fit(&op.keys, &op.q))
}

pub(crate) fn score(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::IndexScore(op) = op else { unreachable!("index_score of {}", op.name()) };
    let score = Score {
        out: Place::of(&op.out),
        q: Place::of(&op.q),
        weight: Place::of(&op.weight),
        reach: Place::of(&op.keys.reach),
        keys: &op.keys,
        scale: op.scale,
    };
    score.record(scope)
}

/// The largest columns of rows.
struct Pick<'a> {
    out: Place,
    x: Place,
    /// How many columns of a row count.
    count: Option<Place>,
    /// Picks become rows of a paged cache.
    paged: Option<(Place, &'a Visible)>,
    order: Order,
}

impl Pick<'_> {
    /// Pieces of a row that are picked from first; 0 where the row is picked from at once.
    fn pieces(&self) -> u32 {
        let wide = self.x.width > 2 * PIECE && self.out.width <= PIECE;
        if wide { self.x.width.div_ceil(PIECE) } else { 0 }
    }

    fn candidates(&self) -> u32 {
        self.pieces() * self.out.width
    }

    /// The launches; `candidates` has room for as many a row.
    fn record(&self, scope: &Scope<'_>, candidates: Address) -> Vec<Launch> {
        let by_value = self.order == Order::Value;
        let (rows, pieces) = (self.x.rows, self.pieces());
        let joined = scope.joins && pieces > 0 && rows <= COUNTERS;
        let args = || {
            Args::new()
                .place(&self.out)
                .place(&self.x)
                .place_or_none(self.count.as_ref())
                .place_or_none(self.paged.as_ref().map(|(reach, _)| reach))
                .rows_or_none(self.paged.as_ref().map(|(_, keys)| &keys.pages))
                .address(if pieces > 0 { candidates } else { 0 })
                .int(self.count.is_some().into())
                .int(by_value.into())
                .int(self.paged.as_ref().map_or(1, |(_, keys)| keys.per))
                .int(pieces)
                .address(if joined { scope.counters } else { 0 })
        };
        let shared = if by_value { 4 * self.out.width } else { 0 };
        let mut launches = match pieces {
            0 => Vec::new(),
            _ => scope.launch("top_k_pieces", [rows, pieces, 1], 256, shared, args()),
        };
        if joined {
            return launches;
        }
        launches.extend(scope.launch("top_k", [rows, 1, 1], 256, shared, args()));
        launches
    }
}

fn pick_of(op: &Op) -> Option<Pick<'_>> {
    let (out, x, count, order) = match op {
        Op::TopK(op) => (&op.out, &op.x, op.count.as_ref(), op.order),
        Op::Sample(op) => (&op.out, &op.logits, None, Order::Value),
        _ => return None,
    };
    let count = count.map(Place::of);
    Some(Pick { out: Place::of(out), x: Place::of(x), count, paged: None, order })
}

pub(crate) fn pick_fits(op: &Op) -> bool {
    match op {
        Op::TopK(op) => op.order == Order::Index || op.out.width() <= PICKS_MAX,
        Op::Sample(op) => op.out.width() <= PICKS_MAX,
        _ => false,
    }
}

pub(crate) fn pick_workspace_bytes(op: &Op, _: &Scope<'_>) -> u64 {
    let pick = pick_of(op).expect("it fits");
    4 * u64::from(pick.x.rows) * u64::from(pick.candidates())
}

pub(crate) fn pick(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    pick_of(op).expect("it fits").record(scope, scope.workspace)
}

/// index_select for some rows: scores, and what is picked among them.
struct Tile<'a> {
    score: Score<'a>,
    pick: Pick<'a>,
    candidates: Address,
    bytes: u64,
}

impl<'a> Tile<'a> {
    fn new(op: &'a IndexSelect, scope: &Scope<'_>, first: u32) -> Tile<'a> {
        let rows = op.tile.min(op.out.rows() - first);
        let range = |tensor: &Tensor| Place::of(tensor).row_range(first, rows);
        let mut bytes = 0;
        let scores = Place::scratch(scope, &mut bytes, rows, entries(&op.keys));
        let reach = range(&op.keys.reach);
        let pick = Pick {
            out: range(&op.out),
            x: scores,
            count: Some(range(&op.keys.reach.columns(1, &[1]))),
            paged: Some((reach, &op.keys)),
            order: Order::Index,
        };
        let width = pick.candidates();
        let candidates = Place::scratch_of(INTS, scope, &mut bytes, rows, width).address;
        let score = Score {
            out: scores,
            q: range(&op.q),
            weight: range(&op.weight),
            reach,
            keys: &op.keys,
            scale: op.scale,
        };
        Tile { score, pick, candidates, bytes }
    }
}

pub(crate) fn select_fits(op: &Op) -> bool {
    matches!(op, Op::IndexSelect(op) if keys_fit(&op.keys, &op.q))
}

pub(crate) fn select_workspace_bytes(op: &Op, scope: &Scope<'_>) -> u64 {
    let Op::IndexSelect(op) = op else { unreachable!("index_select of {}", op.name()) };
    // The first tile is the largest.
    if op.out.rows() == 0 { 0 } else { Tile::new(op, scope, 0).bytes }
}

pub(crate) fn select(op: &Op, scope: &Scope<'_>) -> Vec<Launch> {
    let Op::IndexSelect(op) = op else { unreachable!("index_select of {}", op.name()) };
    let tiles = (0..op.out.rows()).step_by(op.tile as usize);
    let record = |first| {
        let tile = Tile::new(op, scope, first);
        let mut launches = tile.score.record(scope);
        launches.extend(tile.pick.record(scope, tile.candidates));
        launches
    };
    tiles.flat_map(record).collect()
}
