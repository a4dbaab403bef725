//! Collectives: every case on as many devices as it has ranks, against its definition; the same bits
//! twice, and the same on all ranks where all get the same.

use std::sync::Arc;

use hal::op::{AllGather, AllReduce, AllToAll, Communicator, Op, ReduceScatter, SoloCommunicator};
use hal::{Device, Mode, Plan, RowCodec, Shape, Tensor};
use kernels::case::decode;
use kernels::collective::Kind;
use kernels::collective::cases::{Case, cases};

use super::Item;
use crate::bed::{Bed, PATIENCE, options, single};
use crate::report::{Check, Trouble, ensure};
use crate::{Ranks, Settings};

pub(super) fn checks<'a>(bed: &Arc<Bed>, settings: &'a Settings<'a>) -> Vec<Item<'a>> {
    let item = |case: Case| {
        let bed = Arc::clone(bed);
        Item::new(case.id(), move || check(&bed.device, &case, settings.ranks))
    };
    cases().into_iter().map(item).collect()
}

/// One device of the group.
struct Rank {
    bed: Bed,
    plan: Arc<dyn Plan>,
    out: Tensor,
}

fn check(device: &Arc<dyn Device>, case: &Case, ranks: Option<Ranks<'_>>) -> Check {
    let group = match (case.ranks, ranks) {
        (1, _) => {
            let alone: Arc<dyn Communicator> = Arc::new(SoloCommunicator);
            vec![(Arc::clone(device), alone)]
        }
        (count, Some(ranks)) => ranks(count as u32)?,
        (count, None) => {
            return Err(Trouble::Skipped(format!("no way to get {count} ranks was given")));
        }
    };
    let data = case.data();
    let mut all = Vec::new();
    for ((device, communicator), bytes) in group.iter().zip(&data) {
        all.push(prepare(device, communicator, case, bytes)?);
    }
    let first = run(&all)?;
    for (rank, bytes) in first.iter().enumerate() {
        let got = decode(case.dtype, RowCodec::Plain, case.width, bytes);
        for (place, (got, (want, may))) in got.iter().zip(case.expect(&data, rank)).enumerate() {
            ensure((got - want).abs() <= may, || {
                let (row, column) = (place / case.width, place % case.width);
                format!("rank {rank}: row {row} column {column} is {got:e}, must be {want:e}")
            })?;
        }
    }
    if matches!(case.kind, Kind::AllReduce | Kind::AllGather) {
        let same = first.iter().all(|bytes| *bytes == first[0]);
        ensure(same, || "ranks disagree about the bits of what all of them get".into())?;
    }
    let again = run(&all)?;
    ensure(again == first, || "the second run has other bits".into())
}

fn prepare(
    device: &Arc<dyn Device>,
    communicator: &Arc<dyn Communicator>,
    case: &Case,
    bytes: &[u8],
) -> Result<Rank, Trouble> {
    let bed = Bed::new(device)?;
    let tensor = |rows: usize| {
        let shape = Shape::new(&[rows as u32, case.width as u32]);
        let size = shape.elements() * case.dtype.size_bytes();
        Tensor::new(bed.alloc(size)?, 0, shape, case.dtype, RowCodec::Plain)
    };
    let (x, out) = (tensor(case.rows)?, tensor(case.out_rows())?);
    bed.upload(&x, bytes)?;
    let program = single(op(case.kind, out.clone(), x, Arc::clone(communicator)))?;
    let plan = hal::compile(&*bed.device, &program, None, &options("collective", Mode::Replay))?;
    Ok(Rank { bed, plan, out })
}

fn op(kind: Kind, out: Tensor, x: Tensor, communicator: Arc<dyn Communicator>) -> Op {
    match kind {
        Kind::AllReduce => AllReduce { out, x, communicator }.into(),
        Kind::AllGather => AllGather { out, x, communicator }.into(),
        Kind::ReduceScatter => ReduceScatter { out, x, communicator }.into(),
        Kind::AllToAll => AllToAll { out, x, communicator }.into(),
    }
}

/// Submits on all ranks, then waits for each; gives the bytes of the outputs.
fn run(all: &[Rank]) -> Result<Vec<Vec<u8>>, Trouble> {
    let mut points = Vec::new();
    for rank in all {
        points.push(rank.bed.queue.submit(&rank.plan, &[])?);
    }
    for (rank, point) in all.iter().zip(&points) {
        rank.bed.queue.wait(point, PATIENCE)?;
    }
    all.iter().map(|rank| Ok(rank.bed.download(&rank.out)?)).collect()
}
