//! `sample`: the best columns of the logits, best first. It is `top_k` by value, whose definition is
//! that of the index family; choosing among the candidates is the host's.

pub mod cases;
