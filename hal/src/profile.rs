//! Where op timings go.

use std::fmt;

use crate::device::DeviceInfo;
use crate::program::Site;

/// One executed op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpEvent {
    /// Where it came from.
    pub site: Site,
    /// Its name.
    pub op: &'static str,
    /// Begin, in nanoseconds of the device's clock.
    pub begin_ns: u64,
    /// End.
    pub end_ns: u64,
}

/// Receives op timings off the submit path. A full ring drops and says how many it dropped.
pub trait Sink: Send + Sync + fmt::Debug {
    /// Events of one submission, in order.
    fn batch(&self, device: &DeviceInfo, events: &[OpEvent], dropped: u64);
}
