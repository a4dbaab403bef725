//! Where op timings go: the [`Sink`] a device feeds, and three that keep what they get.
//!
//! [`Ring`] keeps the newest events, [`Summary`] totals per op and per site, [`ChromeTrace`] a file
//! that Perfetto and chrome://tracing load. All are bounded and count what they had to drop. None
//! measures anything: times are the device's.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::json;

use crate::device::DeviceInfo;
use crate::error::Result;
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

impl OpEvent {
    /// How long it took; 0 if a clock ran backwards.
    pub fn duration_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.begin_ns)
    }
}

/// Receives op timings off the submit path. A full ring drops and says how many it dropped.
pub trait Sink: Send + Sync + fmt::Debug {
    /// Events of one submission, in order.
    fn batch(&self, device: &DeviceInfo, events: &[OpEvent], dropped: u64);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the newest events.
#[derive(Debug)]
pub struct Ring {
    events_max: usize,
    inner: Mutex<RingInner>,
}

#[derive(Debug, Default)]
struct RingInner {
    events: VecDeque<OpEvent>,
    dropped: u64,
}

impl Ring {
    /// A ring of at most `events_max` events.
    pub fn new(events_max: usize) -> Self {
        Ring { events_max, inner: Mutex::default() }
    }

    /// The events kept, oldest first, and how many were dropped since the last call, here or by the
    /// device. Empties the ring.
    pub fn take(&self) -> (Vec<OpEvent>, u64) {
        let mut inner = lock(&self.inner);
        let dropped = std::mem::take(&mut inner.dropped);
        (inner.events.drain(..).collect(), dropped)
    }
}

impl Sink for Ring {
    fn batch(&self, _device: &DeviceInfo, events: &[OpEvent], dropped: u64) {
        let mut inner = lock(&self.inner);
        inner.dropped += dropped;
        inner.events.extend(events);
        let over = inner.events.len().saturating_sub(self.events_max);
        inner.events.drain(..over);
        inner.dropped += over as u64;
    }
}

/// Sum of the times of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Executions.
    pub count: u64,
    /// Time of all together.
    pub total_ns: u64,
    /// Time of the longest.
    pub longest_ns: u64,
}

/// Totals per op and per site. Sites of all layers with one name count together: `3.attend` and
/// `4.attend` are `attend`.
#[derive(Debug, Default)]
pub struct Summary {
    inner: Mutex<Totals>,
}

/// What a [`Summary`] has added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// By op.
    pub ops: BTreeMap<&'static str, Total>,
    /// By site name, and within it by op.
    pub sites: BTreeMap<(&'static str, &'static str), Total>,
    /// Submissions.
    pub batches: u64,
    /// Events the device dropped.
    pub dropped: u64,
}

impl Summary {
    /// With nothing added up.
    pub fn new() -> Self {
        Summary::default()
    }

    /// What has been added up so far.
    pub fn totals(&self) -> Totals {
        lock(&self.inner).clone()
    }
}

impl Sink for Summary {
    fn batch(&self, _device: &DeviceInfo, events: &[OpEvent], dropped: u64) {
        let mut inner = lock(&self.inner);
        inner.batches += 1;
        inner.dropped += dropped;
        for event in events {
            let ns = event.duration_ns();
            let add = |total: &mut Total| {
                total.count += 1;
                total.total_ns += ns;
                total.longest_ns = total.longest_ns.max(ns);
            };
            add(inner.ops.entry(event.op).or_default());
            add(inner.sites.entry((event.site.name, event.op)).or_default());
        }
    }
}

impl fmt::Display for Totals {
    /// A table of ops, the costliest first, and one of sites.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: u64 = self.ops.values().map(|total| total.total_ns).sum();
        let share = |ns: u64| 100.0 * ns as f64 / all.max(1) as f64;
        let mut ops: Vec<_> = self.ops.iter().map(|(op, total)| (op.to_string(), *total)).collect();
        let mut sites: Vec<_> =
            self.sites.iter().map(|((site, op), total)| (format!("{site} {op}"), *total)).collect();
        for rows in [&mut ops, &mut sites] {
            rows.sort_by_key(|(_, total)| std::cmp::Reverse(total.total_ns));
            writeln!(
                f,
                "{:<32} {:>9} {:>12} {:>12} {:>6}",
                "", "count", "total µs", "longest", "%"
            )?;
            for (name, Total { count, total_ns, longest_ns }) in rows {
                let (us, longest) = (*total_ns as f64 / 1e3, *longest_ns as f64 / 1e3);
                writeln!(
                    f,
                    "{name:<32} {count:>9} {us:>12.1} {longest:>12.1} {:>6.2}",
                    share(*total_ns)
                )?;
            }
        }
        write!(f, "{} submissions, {} events dropped", self.batches, self.dropped)
    }
}

/// Collects events for the trace viewers: one process per device, one slice per op.
#[derive(Debug)]
pub struct ChromeTrace {
    events_max: usize,
    inner: Mutex<TraceInner>,
}

#[derive(Debug, Default)]
struct TraceInner {
    devices: Vec<String>,
    events: Vec<(usize, OpEvent)>,
    dropped: u64,
}

impl ChromeTrace {
    /// Keeps the first `events_max` events: a trace begins where the recording began.
    pub fn new(events_max: usize) -> Self {
        ChromeTrace { events_max, inner: Mutex::default() }
    }

    /// Writes what was collected as one JSON object (the trace event format's `X` events, times in
    /// microseconds).
    ///
    /// # Errors
    /// `Io` from the writer.
    pub fn write(&self, out: &mut dyn Write) -> Result<()> {
        let inner = lock(&self.inner);
        write!(
            out,
            "{{\"displayTimeUnit\":\"ns\",\"otherData\":{{\"dropped\":{}}},",
            inner.dropped
        )?;
        write!(out, "\"traceEvents\":[")?;
        let mut separator = "";
        for (process, name) in inner.devices.iter().enumerate() {
            let args = json!({ "name": name });
            let event =
                json!({"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": args});
            write!(out, "{separator}\n{event}")?;
            separator = ",";
        }
        for (process, event) in &inner.events {
            let event = json!({
                "ph": "X",
                "name": event.op,
                "cat": event.site.name,
                "pid": process,
                "tid": 0,
                "ts": event.begin_ns as f64 / 1e3,
                "dur": event.duration_ns() as f64 / 1e3,
                "args": {"site": event.site.to_string()},
            });
            write!(out, "{separator}\n{event}")?;
            separator = ",";
        }
        write!(out, "\n]}}")?;
        Ok(())
    }
}

impl Sink for ChromeTrace {
    fn batch(&self, device: &DeviceInfo, events: &[OpEvent], dropped: u64) {
        let mut inner = lock(&self.inner);
        let name = format!("{}:{} {}", device.backend, device.ordinal, device.name);
        let known = inner.devices.iter().position(|other| *other == name);
        let process = known.unwrap_or_else(|| {
            inner.devices.push(name);
            inner.devices.len() - 1
        });
        let room = self.events_max.saturating_sub(inner.events.len()).min(events.len());
        inner.events.extend(events[..room].iter().map(|event| (process, *event)));
        inner.dropped += dropped + (events.len() - room) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(layer: u16, name: &'static str, op: &'static str, begin_ns: u64, ns: u64) -> OpEvent {
        OpEvent { site: Site { layer, name }, op, begin_ns, end_ns: begin_ns + ns }
    }

    fn device(ordinal: u32) -> DeviceInfo {
        DeviceInfo { backend: "test", name: "a \"quoted\" name".into(), ordinal, memory_bytes: 0 }
    }

    fn step() -> [OpEvent; 3] {
        [
            event(0, "attention", "matmul", 0, 1500),
            event(1, "attention", "matmul", 2000, 500),
            event(Site::EDGE, "head", "matmul", 3000, 250),
        ]
    }

    #[test]
    fn a_ring_keeps_the_newest_and_counts_the_rest() {
        let ring = Ring::new(2);
        ring.batch(&device(0), &step(), 5);
        assert_eq!(ring.take(), (step()[1..].to_vec(), 6));
        assert_eq!(ring.take(), (vec![], 0));
    }

    #[test]
    fn a_summary_adds_up_ops_and_sites() {
        let summary = Summary::new();
        summary.batch(&device(0), &step(), 1);
        summary.batch(&device(0), &step(), 0);
        let totals = summary.totals();
        let total = |count, total_ns, longest_ns| Total { count, total_ns, longest_ns };
        assert_eq!(totals.ops["matmul"], total(6, 4500, 1500));
        assert_eq!(totals.sites[&("attention", "matmul")], total(4, 4000, 1500));
        assert_eq!((totals.batches, totals.dropped), (2, 1));
        let text = totals.to_string();
        assert!(text.contains("attention matmul"), "{text}");
        assert!(text.ends_with("2 submissions, 1 events dropped"), "{text}");
    }

    #[test]
    fn a_trace_is_json_with_a_process_per_device() {
        let trace = ChromeTrace::new(4);
        trace.batch(&device(0), &step(), 0);
        trace.batch(&device(1), &step(), 2);
        let mut text = Vec::new();
        trace.write(&mut text).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let events = value["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), 2 + 4);
        assert_eq!(value["otherData"]["dropped"], 4);
        assert_eq!(events[1]["args"]["name"], "test:1 a \"quoted\" name");
        assert_eq!(events[2]["dur"], 1.5);
        assert_eq!(events[3]["args"]["site"], "1.attention");
        assert_eq!(events[5]["pid"], 1);
    }

    #[test]
    fn an_empty_trace_is_json() {
        let mut text = Vec::new();
        ChromeTrace::new(1).write(&mut text).unwrap();
        assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok());
    }
}
