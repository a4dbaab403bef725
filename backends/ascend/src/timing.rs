//! Op timings: marks around every op of a plan that measures. A submission's times go to the device's sink
//! once it is known to have passed.
//!
//! Such a plan runs eagerly: nothing says what a mark inside a captured graph would measure.

use std::sync::Arc;
use std::time::Duration;

use hal::{OpEvent, Result};

use crate::event::Event;
use crate::plan::Span;
use crate::runtime::Runtime;
use crate::sys::acl::{self, aclrtStream};

/// Longest wait for an earlier submission of the same plan.
const PATIENCE: Duration = Duration::from_secs(600);

/// Marks of one plan.
pub(crate) struct Timing {
    runtime: Arc<Runtime>,
    /// In front of the first op and behind each.
    marks: Vec<Event>,
    /// When the submission whose times are not delivered was made, by the device's clock.
    pending: Option<u64>,
    events: Vec<OpEvent>,
}

impl Timing {
    /// Marks for `ops` ops; none where nobody listens.
    pub(crate) fn new(runtime: &Arc<Runtime>, ops: usize) -> Result<Option<Timing>> {
        if runtime.sink.is_none() {
            return Ok(None);
        }
        let mark = |_| Event::new(runtime, acl::ACL_EVENT_TIME_LINE);
        let marks = (0..=ops).map(mark).collect::<Result<_>>()?;
        let runtime = Arc::clone(runtime);
        Ok(Some(Timing { runtime, marks, pending: None, events: Vec::with_capacity(ops) }))
    }

    /// A submission begins: the one before gives its marks back.
    pub(crate) fn begin(&mut self, spans: &[Span], stream: aclrtStream) -> Result<()> {
        if self.pending.is_some() {
            if let Some(last) = self.marks.last() {
                last.wait(PATIENCE)?;
            }
            self.deliver(spans);
        }
        self.pending = Some(self.runtime.begin.elapsed().as_nanos() as u64);
        self.mark(0, stream)
    }

    /// Mark `number` lies here.
    pub(crate) fn mark(&self, number: usize, stream: aclrtStream) -> Result<()> {
        self.marks[number].record(stream)
    }

    /// The submission's times go to the sink, if it has passed.
    pub(crate) fn deliver(&mut self, spans: &[Span]) {
        if !self.marks.last().is_some_and(|last| matches!(last.has_passed(), Ok(true))) {
            return;
        }
        let (Some(begin), Some(sink)) = (self.pending.take(), &self.runtime.sink) else { return };
        let since = |mark: &Event| self.marks[0].until_ns(mark).map(|elapsed| begin + elapsed);
        self.events.clear();
        let mut dropped = 0;
        for (span, marks) in spans.iter().zip(self.marks.windows(2)) {
            match (since(&marks[0]), since(&marks[1])) {
                (Ok(begin_ns), Ok(end_ns)) => {
                    self.events.push(OpEvent { site: span.site, op: span.op, begin_ns, end_ns });
                }
                _ => dropped += 1,
            }
        }
        sink.batch(&self.runtime.info, &self.events, dropped);
    }
}
