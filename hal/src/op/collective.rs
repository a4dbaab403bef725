//! Collectives: members of the op vocabulary, so that a plan can contain them.
//!
//! A device that has a native collective lists it, for the communicators it knows. Everywhere else only
//! the communicator of one rank works, where every collective is a copy; a larger one is refused by
//! name when the model opens.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use super::{Map, MapFn, OpData, ensure, matrix_of, operands, plain_real, weights};
use crate::error::{Error, Result};
use crate::program::Builder;
use crate::tensor::Tensor;

/// A group of devices that act together, as one of them sees it.
///
/// How the devices reach each other is their backend's: it makes the communicators and knows its own
/// again by type (`Any`). All ranks issue the same collectives in the same order.
pub trait Communicator: Any + Send + Sync + fmt::Debug {
    /// This device's place, `0..size`.
    fn rank(&self) -> u32;
    /// Number of devices.
    fn size(&self) -> u32;
    /// For the backend's own downcast.
    fn as_any(&self) -> &dyn Any;
}

/// The communicator of a device that is alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct SoloCommunicator;

impl Communicator for SoloCommunicator {
    fn rank(&self) -> u32 {
        0
    }
    fn size(&self) -> u32 {
        1
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn copy_if_alone(
    name: &str,
    communicator: &dyn Communicator,
    out: &Tensor,
    x: &Tensor,
    into: &mut Builder,
) -> Result<bool> {
    if communicator.size() != 1 {
        return Err(Error::unsupported(format!(
            "{name} over {} ranks: this device has no native collective",
            communicator.size()
        )));
    }
    into.push(Map { out: out.clone(), f: MapFn::Copy(x.clone()) })?;
    Ok(true)
}

macro_rules! collective {
    ($(#[$doc:meta])* $name:ident, $text:literal, out $times:expr, x $divides:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $name {
            /// Result of this rank.
            pub out: Tensor,
            /// Contribution of this rank.
            pub x: Tensor,
            /// The group.
            pub communicator: Arc<dyn Communicator>,
        }

        impl OpData for $name {
            operands!(Write out, Read x);
            weights!();
            fn check(&self) -> Result<()> {
                let size = self.communicator.size();
                let (times, divides): (u32, u32) = ($times(size), $divides(size));
                plain_real("x", &self.x)?;
                plain_real("out", &self.out)?;
                ensure(self.x.rows().is_multiple_of(divides), || {
                    format!("{} rows do not divide over {size} ranks", self.x.rows())
                })?;
                matrix_of("out", &self.out, self.x.rows() / divides * times, self.x.width())
            }
            fn lower(&self, into: &mut Builder) -> Result<bool> {
                copy_if_alone($text, &*self.communicator, &self.out, &self.x, into)
            }
        }
    };
}

collective! {
    /// `out = Σ_ranks x`, added in the order of ranks.
    AllReduce, "all_reduce", out |_| 1, x |_| 1
}
collective! {
    /// Rows of all ranks behind each other: `[size · n, w]`.
    AllGather, "all_gather", out |size| size, x |_| 1
}
collective! {
    /// `Σ_ranks x`, of which this rank keeps its share of the rows: `[n / size, w]`.
    ReduceScatter, "reduce_scatter", out |_| 1, x |size| size
}
collective! {
    /// Block r of the rows goes to rank r; `[n, w]`, n divisible by the size.
    AllToAll, "all_to_all", out |size| size, x |size| size
}
