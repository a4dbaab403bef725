//! Cases of sampling: the best logits in order, ties to the lower token.

use hal::DType;
use hal::op::Sample;

use crate::case::{Case, Make};

/// The table.
pub fn table() -> Vec<Case> {
    [("one row", 1, 50, 1), ("candidates", 4, 1031, 40), ("ties", 3, 64, 10)]
        .into_iter()
        .map(|(name, n, vocabulary, k)| sample(name, [n, vocabulary, k]))
        .collect()
}

fn sample(name: &str, [n, vocabulary, k]: [u32; 3]) -> Case {
    let mut make = Make::new(u64::from(vocabulary));
    let logits = (0..n * vocabulary)
        .map(|_| match name {
            "ties" => f64::from(make.random.below(8)),
            _ => make.random.gauss() * 5.0,
        })
        .collect();
    let logits = make.rows("logits", DType::F32, &[n, vocabulary], 1, logits, 0.0);
    let out = make.out(DType::I32, &[n, k], 1);
    make.case(("sample", "sample"), name, Some(n), logits, move |t, _| {
        Sample { out: t[out].clone(), logits: t[logits].clone() }.into()
    })
}
