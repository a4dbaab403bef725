//! Queues: all of a device's go into wgpu's one queue, so whatever was submitted first happens first,
//! on the same queue or on another. Waiting for another queue's point is therefore nothing.
//!
//! Every submission has a ticket, a number that rises over all queues of the device. wgpu tells when the
//! work up to a ticket is done. Uploads wait in wgpu for the next plan, and a plan waits here for the next
//! call, which often reads back what it made: a step and its transfers are one submission. Whatever is
//! held goes to wgpu at the latest when somebody waits or looks.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hal::{Error, ErrorKind, HostSlot, Plan, Point, Queue, Result, Tensor, check_transfer};
use wgpu::PollType;

use crate::launch::Launch;
use crate::memory::buffer_of;
use crate::plan::{WgpuPlan, encode_one};
use crate::shared::{Shared, lock};

/// Buffers kept for reading back.
const STAGING_MAX: usize = 16;

/// Everything submitted, over all queues of a device.
#[derive(Default)]
pub(crate) struct Timeline {
    /// Newest ticket.
    sent: u64,
    /// Newest ticket whose work wgpu has.
    flushed: u64,
    /// Commands of the tickets behind it; at most one plan's.
    held: Option<wgpu::CommandBuffer>,
    /// Submissions that may not be done, oldest first, by their newest ticket.
    open: VecDeque<(u64, wgpu::SubmissionIndex)>,
    lines: Vec<Line>,
    /// Buffers free for reading back.
    staging: Vec<wgpu::Buffer>,
    measured: Vec<Measured>,
}

/// One queue's own timeline.
#[derive(Default)]
struct Line {
    /// Newest point.
    last: u64,
    /// Tickets of points that may not be done.
    tickets: VecDeque<(u64, u64)>,
    /// Slots that wait to be reclaimed, by point.
    slots: HashMap<u64, (u64, Carried)>,
}

/// What travels with a transfer.
enum Carried {
    Up(HostSlot),
    Down { slot: HostSlot, staging: wgpu::Buffer, bytes: Range<usize> },
}

/// Times of a profiled submission, on their way.
struct Measured {
    ticket: u64,
    plan: Arc<dyn Plan>,
    staging: wgpu::Buffer,
}

/// A queue.
pub(crate) struct WgpuQueue {
    number: u32,
    shared: Arc<Shared>,
}

impl WgpuQueue {
    pub(crate) fn new(shared: &Arc<Shared>) -> Result<WgpuQueue> {
        shared.alive()?;
        let mut timeline = lock(&shared.timeline);
        timeline.lines.push(Line::default());
        let number = timeline.lines.len() as u32 - 1;
        Ok(WgpuQueue { number, shared: Arc::clone(shared) })
    }

    /// The next point, carrying the newest ticket.
    fn point(&self, timeline: &mut Timeline, carried: Option<Carried>) -> Point {
        let ticket = timeline.sent;
        let line = &mut timeline.lines[self.number as usize];
        line.last += 1;
        line.tickets.push_back((line.last, ticket));
        let value = line.last;
        line.slots.extend(carried.map(|carried| (value, (ticket, carried))));
        Point { queue: self.number, value }
    }
}

impl Shared {
    /// Hands wgpu what was sent, with these commands behind it.
    fn flush(&self, timeline: &mut Timeline, commands: Option<wgpu::CommandBuffer>) {
        let index = self.queue.submit(timeline.held.take().into_iter().chain(commands));
        let (ticket, done) = (timeline.sent, Arc::clone(&self.done));
        self.queue.on_submitted_work_done(move || {
            done.fetch_max(ticket, Ordering::AcqRel);
        });
        timeline.flushed = ticket;
        timeline.open.push_back((ticket, index));
    }

    /// Hands wgpu a plan that is held: what comes now is another submission.
    fn flush_held(&self, timeline: &mut Timeline) {
        if timeline.held.is_some() {
            self.flush(timeline, None);
        }
    }

    /// Submissions that may not be done.
    #[cfg(test)]
    pub(crate) fn submissions(&self) -> usize {
        lock(&self.timeline).open.len()
    }

    /// The ticket of a point.
    fn ticket(&self, timeline: &mut Timeline, point: &Point) -> Result<u64> {
        let done = self.done();
        while timeline.open.front().is_some_and(|(ticket, _)| *ticket <= done) {
            timeline.open.pop_front();
        }
        let line = timeline.lines.get_mut(point.queue as usize);
        let line =
            line.ok_or_else(|| Error::invalid(format!("{point:?} is of no queue of this device")))?;
        while line.tickets.front().is_some_and(|(_, ticket)| *ticket <= done) {
            line.tickets.pop_front();
        }
        if point.value > line.last {
            // Nobody has sent it: no ticket reaches it.
            return Ok(u64::MAX);
        }
        let open = line.tickets.iter().find(|(value, _)| *value == point.value);
        Ok(open.map_or(0, |(_, ticket)| *ticket))
    }

    /// Gives the times that have arrived to the sink.
    fn deliver(&self) {
        let done = self.done();
        let mut timeline = lock(&self.timeline);
        let (ready, waiting): (Vec<_>, Vec<_>) =
            timeline.measured.drain(..).partition(|one| one.ticket <= done);
        timeline.measured = waiting;
        drop(timeline);
        for Measured { plan, staging, .. } in ready {
            let plan: &WgpuPlan = plan.as_any().downcast_ref().expect("a plan that was submitted");
            let period = self.queue.get_timestamp_period();
            let events = staging.get_mapped_range(..).map(|times| plan.events(&times, period));
            staging.unmap();
            if let Some(sink) = &self.sink {
                let lost = if events.is_err() { plan.ops() } else { 0 };
                sink.batch(&self.info, &events.unwrap_or_default(), lost);
            }
            self.put_back(&mut lock(&self.timeline), staging);
        }
    }

    /// Keeps a buffer for the next read-back.
    fn put_back(&self, timeline: &mut Timeline, staging: wgpu::Buffer) {
        if timeline.staging.len() < STAGING_MAX {
            timeline.staging.push(staging);
        }
    }

    /// A buffer that `bytes` bytes can be read from.
    fn staging(&self, timeline: &mut Timeline, bytes: u64) -> Result<wgpu::Buffer> {
        let fits = timeline.staging.iter().position(|buffer| buffer.size() >= bytes);
        if let Some(place) = fits {
            return Ok(timeline.staging.swap_remove(place));
        }
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        self.raw_buffer("read-back", bytes.next_power_of_two(), usage)
    }
}

/// Maps a buffer once the commands are done, with nothing to do then: it is mapped before their ticket
/// passes, and whoever waits for that finds it so.
fn map(encoder: &wgpu::CommandEncoder, buffer: &wgpu::Buffer) {
    encoder.map_buffer_on_submit(buffer, wgpu::MapMode::Read, .., |_| {});
}

impl Queue for WgpuQueue {
    fn submit(&self, plan: &Arc<dyn Plan>, _after: &[Point]) -> Result<Point> {
        let shared = &self.shared;
        shared.alive()?;
        let own: &WgpuPlan = plan
            .as_any()
            .downcast_ref()
            .ok_or_else(|| Error::invalid("the plan was compiled for another device"))?;
        let mut encoder = own.encode(shared);
        let mut timeline = lock(&shared.timeline);
        shared.flush_held(&mut timeline);
        timeline.sent += 1;
        if let Some(times) = own.times() {
            let staging = shared.staging(&mut timeline, times.size())?;
            encoder.copy_buffer_to_buffer(times, 0, &staging, 0, times.size());
            map(&encoder, &staging);
            let ticket = timeline.sent;
            timeline.measured.push(Measured { ticket, plan: Arc::clone(plan), staging });
        }
        timeline.held = Some(encoder.finish());
        Ok(self.point(&mut timeline, None))
    }

    fn upload(&self, target: &Tensor, source: HostSlot, _after: &[Point]) -> Result<Point> {
        let shared = &self.shared;
        check_transfer(target, &source)?;
        let buffer = buffer_of(target)?;
        shared.alive()?;
        let begin = target.offset_bytes();
        let bytes = source.bytes();
        let mut timeline = lock(&shared.timeline);
        // wgpu writes in front of all commands of a submission.
        shared.flush_held(&mut timeline);
        timeline.sent += 1;
        if begin.is_multiple_of(4) && bytes.len().is_multiple_of(4) {
            shared.queue.write_buffer(buffer.raw(), begin, bytes);
        } else {
            let commands = patch(shared, target, bytes)?;
            shared.flush(&mut timeline, Some(commands));
        }
        Ok(self.point(&mut timeline, Some(Carried::Up(source))))
    }

    fn download(&self, source: &Tensor, target: HostSlot, _after: &[Point]) -> Result<Point> {
        let shared = &self.shared;
        check_transfer(source, &target)?;
        let buffer = buffer_of(source)?;
        shared.alive()?;
        // Whole words are copied; the slot's bytes are cut out of them on the host.
        let begin = source.offset_bytes() - source.offset_bytes() % 4;
        let skip = (source.offset_bytes() - begin) as usize;
        let bytes = skip..skip + target.bytes().len();
        let size = (bytes.end as u64).next_multiple_of(4);
        let mut timeline = lock(&shared.timeline);
        let staging = shared.staging(&mut timeline, size.max(4))?;
        let mut encoder = shared.device.create_command_encoder(&Default::default());
        if !target.bytes().is_empty() {
            encoder.copy_buffer_to_buffer(buffer.raw(), begin, &staging, 0, size);
        }
        map(&encoder, &staging);
        timeline.sent += 1;
        shared.flush(&mut timeline, Some(encoder.finish()));
        let carried = Carried::Down { slot: target, staging, bytes };
        Ok(self.point(&mut timeline, Some(carried)))
    }

    fn poll(&self, point: &Point) -> Result<bool> {
        self.shared.alive()?;
        let mut timeline = lock(&self.shared.timeline);
        let ticket = self.shared.ticket(&mut timeline, point)?;
        let waiting = ticket > timeline.flushed && ticket <= timeline.sent;
        if waiting || timeline.held.is_some() {
            self.shared.flush(&mut timeline, None);
        }
        drop(timeline);
        if ticket > self.shared.done() {
            let _ = self.shared.device.poll(PollType::Poll);
            self.shared.alive()?;
        }
        self.shared.deliver();
        Ok(ticket <= self.shared.done())
    }

    fn wait(&self, point: &Point, timeout: Duration) -> Result<()> {
        let begin = Instant::now();
        let late = || {
            let text = format!("{point:?} has not passed after {timeout:?}");
            Error::new(ErrorKind::Timeout, text)
        };
        while !self.poll(point)? {
            let left = timeout.checked_sub(begin.elapsed()).filter(|left| !left.is_zero());
            let left = left.ok_or_else(late)?;
            let mut timeline = lock(&self.shared.timeline);
            let ticket = self.shared.ticket(&mut timeline, point)?;
            let index = timeline.open.iter().find(|(open, _)| *open >= ticket);
            let index = index.map(|(_, index)| index.clone());
            drop(timeline);
            if ticket == u64::MAX {
                return Err(late());
            }
            let wait = PollType::Wait { submission_index: index, timeout: Some(left) };
            // A timeout shows in the next turn, a loss in `poll`.
            let _ = self.shared.device.poll(wait);
        }
        Ok(())
    }

    fn reclaim(&self, point: &Point) -> Result<HostSlot> {
        let none = || {
            Error::invalid(format!(
                "{point:?} has not passed on this queue, or carried no slot, or gave it back already"
            ))
        };
        if point.queue != self.number {
            return Err(none());
        }
        let done = self.shared.done();
        let mut timeline = lock(&self.shared.timeline);
        let slots = &mut timeline.lines[self.number as usize].slots;
        if slots.get(&point.value).is_none_or(|(ticket, _)| *ticket > done) {
            return Err(none());
        }
        let (_, carried) = slots.remove(&point.value).ok_or_else(none)?;
        match carried {
            Carried::Up(slot) => Ok(slot),
            Carried::Down { mut slot, staging, bytes } => {
                let copied = staging.get_mapped_range(..).map(|words| {
                    slot.bytes_mut().copy_from_slice(&words[bytes]);
                });
                staging.unmap();
                self.shared.put_back(&mut timeline, staging);
                copied.map_err(|error| Error::device_lost(format!("reading back: {error}")))?;
                Ok(slot)
            }
        }
    }
}

/// Commands that write bytes which do not fill whole words: the words at both ends keep the rest.
fn patch(shared: &Shared, target: &Tensor, bytes: &[u8]) -> Result<wgpu::CommandBuffer> {
    let mut encoder = shared.device.create_command_encoder(&Default::default());
    if !bytes.is_empty() {
        let skip = target.offset_bytes() as usize % 4;
        let mut words = vec![0; skip];
        words.extend_from_slice(bytes);
        let source = shared.filled("upload", &words)?;
        let launch = Launch::new("rows", "patch_words")
            .raw_rows("out", target)
            .whole("source", source.raw())
            .number("skip", skip as u32)
            .number("end", words.len() as u32)
            .threads((words.len() as u64).div_ceil(4));
        encode_one(shared, &launch, &mut encoder)?;
    }
    Ok(encoder.finish())
}
