//! `index_score`, `top_k` and `index_select`: the indexer's scores over visible entries, and the
//! choice of the largest (spec section 8). README.md states contracts, order of sums, tolerance.

pub mod cases;
mod cpu;
pub mod oracle;
mod select;

pub use cpu::{IndexScore, IndexSelect, index_score, index_select, query_fits};
pub use select::{TopK, top_k};

#[cfg(test)]
mod tests;
