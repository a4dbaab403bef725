//! matmul.

use std::sync::Arc;

use hal::Op;
use hal::op::{Matmul, RowGroups};
use kernels::gemm;

use super::{Record, Scope, flat, ints, real, real_mut};
use crate::weight::raw_of;

pub(crate) fn fits(op: &Op) -> bool {
    let Op::Matmul(op) = op else { return false };
    let contiguous = match &op.groups {
        RowGroups::Cyclic => true,
        RowGroups::Sorted { offsets } => offsets.is_contiguous(),
    };
    contiguous && raw_of(&op.weight).is_ok()
}

pub(crate) fn matmul(op: &Op, scope: &Scope) -> Record {
    let Op::Matmul(Matmul { out, x, weight, groups }) = op else {
        unreachable!("matmul of {}", op.name());
    };
    let (isa, pool) = (scope.isa, Arc::clone(&scope.pool));
    let (out, x) = (real_mut(out), real(x));
    let weight = raw_of(weight).expect("compile checked every weight").view();
    match groups {
        RowGroups::Cyclic => Box::new(move || {
            gemm::matmul(isa, &pool, x, &weight, gemm::RowGroups::Cyclic, out);
        }),
        RowGroups::Sorted { offsets } => {
            let offsets = ints(&flat(offsets));
            Box::new(move || {
                let groups = gemm::RowGroups::Sorted(offsets.row(0));
                gemm::matmul(isa, &pool, x, &weight, groups, out);
            })
        }
    }
}
