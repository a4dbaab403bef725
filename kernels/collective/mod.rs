//! Collectives: `all_reduce`, `all_gather`, `reduce_scatter`, `all_to_all`. README.md has the formulas.
//!
//! What moves data between machines or accelerators is their backends' own. Here are the definition,
//! and ranks that are threads of one process.

pub mod cases;
pub mod cpu;
pub mod oracle;
#[cfg(test)]
mod tests;

/// Which collective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Everybody gets the sum.
    AllReduce,
    /// Everybody gets all rows.
    AllGather,
    /// Everybody gets its share of the rows of the sum.
    ReduceScatter,
    /// Block j of the rows goes to rank j.
    AllToAll,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 4] =
        [Kind::AllReduce, Kind::AllGather, Kind::ReduceScatter, Kind::AllToAll];

    /// Name of the op.
    pub fn name(self) -> &'static str {
        match self {
            Kind::AllReduce => "all_reduce",
            Kind::AllGather => "all_gather",
            Kind::ReduceScatter => "reduce_scatter",
            Kind::AllToAll => "all_to_all",
        }
    }

    /// Rows of the output for `rows` of the input; none if they do not divide over the ranks.
    pub fn out_rows(self, rows: usize, ranks: usize) -> Option<usize> {
        match self {
            Kind::AllReduce => Some(rows),
            Kind::AllGather => Some(rows * ranks),
            Kind::ReduceScatter => rows.is_multiple_of(ranks).then(|| rows / ranks),
            Kind::AllToAll => rows.is_multiple_of(ranks).then_some(rows),
        }
    }
}
