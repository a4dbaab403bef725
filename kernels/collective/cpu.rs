//! Collectives between threads of one process: a meeting place, and rows read where they lie.
//!
//! Reads every rank's `x` once per row it needs, writes each row of `out` once; bound by memory. A sum
//! is taken in the order of ranks, so bits do not depend on who came when. Nothing is allocated.
//!
//! Not here: ranks in other processes, and the threads themselves.

use super::Kind;
use crate::common::cut;
use crate::common::isa::Isa;
use crate::common::pool::Pool;
use crate::common::rows::{RealRows, RealRowsMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Ranks a group may have.
pub const RANKS_MAX: usize = 64;

/// How long a rank waits for the others before it gives up, unless the group was made with another
/// limit. A rank that ran out of work long ago would otherwise hang the whole group.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Columns summed at a time, in a buffer on the stack.
const COLUMNS: usize = 512;

/// Where the ranks of a group meet.
#[derive(Debug)]
pub struct Group {
    ranks: usize,
    patience: Duration,
    table: Mutex<Table>,
    moved: Condvar,
}

/// What lies on the table of a group.
#[derive(Debug)]
struct Table {
    /// What each rank has laid out, by rank.
    laid: [Option<(Kind, RealRows)>; RANKS_MAX],
    /// Ranks that have laid out their rows.
    arrived: usize,
    /// Ranks that have read the others' rows. The last one clears the table.
    read: usize,
    /// Meetings so far.
    round: u64,
    /// Why the group is of no more use.
    broken: Option<&'static str>,
}

impl Group {
    /// A group of `ranks` ranks that wait for each other up to `patience`.
    ///
    /// # Panics
    /// If `ranks` is 0 or above [`RANKS_MAX`].
    pub fn new(ranks: usize, patience: Duration) -> Group {
        assert!(ranks > 0);
        assert!(ranks <= RANKS_MAX);
        let table = Table { laid: [None; RANKS_MAX], arrived: 0, read: 0, round: 0, broken: None };
        Group { ranks, patience, table: Mutex::new(table), moved: Condvar::new() }
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Does `kind` as rank `rank`, together with all others: returns when `out` is written and nobody
    /// reads `x` any more.
    ///
    /// # Panics
    /// If the shapes do not fit each other or those of other ranks, others do another collective, or
    /// a rank does not come in time. The group is broken then: every later call panics too.
    pub fn run(
        &self,
        kind: Kind,
        rank: usize,
        isa: Isa,
        pool: &Pool,
        x: RealRows,
        out: RealRowsMut,
    ) {
        assert!(rank < self.ranks, "rank {rank} of {}", self.ranks);
        assert_eq!(x.width(), out.width(), "{}: width", kind.name());
        assert_eq!(kind.out_rows(x.rows(), self.ranks), Some(out.rows()), "{}: rows", kind.name());
        let mut all = [x; RANKS_MAX];
        self.arrive(kind, rank, x, &mut all[..self.ranks]);
        write(kind, rank, isa, pool, &all[..self.ranks], out);
        self.leave();
    }

    /// Lays out `x` and waits until all have; gives what everybody laid out.
    fn arrive(&self, kind: Kind, rank: usize, x: RealRows, all: &mut [RealRows]) {
        let mut table = lock(&self.table);
        assert!(table.laid[rank].is_none(), "{}: rank {rank} is here already", kind.name());
        table.laid[rank] = Some((kind, x));
        table.arrived += 1;
        self.moved.notify_all();
        let table = self.wait(table, |table, ranks| table.arrived == ranks);
        let laid = table.laid;
        for (all, laid) in all.iter_mut().zip(laid) {
            let Some((other, rows)) = laid else { unreachable!("all have arrived") };
            if other != kind || (rows.rows(), rows.width()) != (x.rows(), x.width()) {
                self.give_up(table, "ranks met over different ops or shapes");
            }
            *all = rows;
        }
    }

    /// Waits until all have read what was laid out.
    fn leave(&self) {
        let mut table = lock(&self.table);
        let round = table.round;
        table.read += 1;
        if table.read == self.ranks {
            table.laid = [None; RANKS_MAX];
            (table.arrived, table.read) = (0, 0);
            table.round += 1;
            self.moved.notify_all();
        }
        drop(self.wait(table, |table, _| table.round != round));
    }

    fn wait<'a>(
        &'a self,
        mut table: MutexGuard<'a, Table>,
        done: impl Fn(&Table, usize) -> bool,
    ) -> MutexGuard<'a, Table> {
        let begin = Instant::now();
        loop {
            if let Some(reason) = table.broken {
                self.give_up(table, reason);
            }
            if done(&table, self.ranks) {
                return table;
            }
            let Some(left) = self.patience.checked_sub(begin.elapsed()) else {
                self.give_up(table, "a rank did not come in time");
            };
            let woken = self.moved.wait_timeout(table, left);
            table = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Breaks the group for everybody, so that no rank waits for one that has failed.
    fn give_up(&self, mut table: MutexGuard<'_, Table>, reason: &'static str) -> ! {
        table.broken = Some(reason);
        drop(table);
        self.moved.notify_all();
        panic!("collective of {} ranks: {reason}", self.ranks);
    }
}

/// A panic is noted in the table itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes the output of `rank` from everybody's rows.
fn write(kind: Kind, rank: usize, isa: Isa, pool: &Pool, all: &[RealRows], out: RealRowsMut) {
    let rows = all[0].rows();
    let share = rows / all.len();
    // Whose rows add up to row `row`, and which row of theirs.
    let sources = |row: usize| match kind {
        Kind::AllReduce => (all, row),
        Kind::ReduceScatter => (all, rank * share + row),
        Kind::AllGather => (&all[row / rows..=row / rows], row % rows),
        Kind::AllToAll => (&all[row / share..=row / share], rank * share + row % share),
    };
    cut::ranges(pool, out.rows(), out.width() / 4, &|part| {
        for row in part {
            let (from, source) = sources(row);
            for start in (0..out.width()).step_by(COLUMNS) {
                let mut buffers = [[0.0; COLUMNS]; 2];
                let [sum, term] = &mut buffers;
                let count = COLUMNS.min(out.width() - start);
                let (sum, term) = (&mut sum[..count], &mut term[..count]);
                from[0].load(isa, source, start, sum);
                for rows in &from[1..] {
                    rows.load(isa, source, start, term);
                    sum.iter_mut().zip(&*term).for_each(|(sum, term)| *sum += term);
                }
                // SAFETY: parts are disjoint rows of `out`, which by the contract of the views only
                // this call writes.
                unsafe { out.store_shared(isa, row, start, sum) };
            }
        }
    });
}
