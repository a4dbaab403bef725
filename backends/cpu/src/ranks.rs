//! Ranks that are devices of one process: how CPU devices act together.

use std::any::Any;
use std::sync::Arc;

use hal::op::Communicator;
use hal::{Error, Result};
use kernels::collective::cpu::{Group, PATIENCE, RANKS_MAX};

/// One rank of a group of CPU devices.
#[derive(Debug)]
pub(crate) struct ThreadRank {
    pub(crate) group: Arc<Group>,
    pub(crate) rank: usize,
}

impl Communicator for ThreadRank {
    fn rank(&self) -> u32 {
        self.rank as u32
    }
    fn size(&self) -> u32 {
        self.group.ranks() as u32
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl ThreadRank {
    /// The communicator, if it is one of ours.
    pub(crate) fn of(communicator: &dyn Communicator) -> Option<&ThreadRank> {
        communicator.as_any().downcast_ref()
    }
}

/// The communicators of `size` CPU devices of this process, by rank: `size` opened devices, each with
/// a queue of its own, of which every one submits the same collectives in the same order. (On one queue
/// the first rank would wait for the second for ever.)
///
/// A rank that waits longer than a minute for another loses its device, and so do those that wait
/// with it.
///
/// # Errors
/// If `size` is 0 or more than a group may have.
pub fn ranks(size: u32) -> Result<Vec<Arc<dyn Communicator>>> {
    let count = size as usize;
    if count == 0 || count > RANKS_MAX {
        return Err(Error::invalid(format!(
            "a group of {size} ranks: 1 to {RANKS_MAX} are possible"
        )));
    }
    let group = Arc::new(Group::new(count, PATIENCE));
    let rank = |rank| -> Arc<dyn Communicator> {
        Arc::new(ThreadRank { group: Arc::clone(&group), rank })
    };
    Ok((0..count).map(rank).collect())
}
