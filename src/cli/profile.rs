//! Where the time of a step goes: times by op, the bytes and operations they stand for, and what part of
//! the device's own rates that is. Both rates are measured through the same device, by a copy and a product.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::model::cost::Cost;
use hal::op::{Map, MapFn, Matmul, RowGroups};
use hal::{
    Buffer, BufferDesc, Builder, CompileOptions, DType, Device, Encoding, MemoryKind, Mode, Noise,
    OpEvent, Profile, Program, QueueKind, RowCodec, Shape, Tensor, WeightPart, WeightSource,
    WeightSpec,
};

use super::failure::Result;
use super::term;

/// Bytes of the largest buffer that is copied.
const COPY_BYTES_MAX: u64 = 1 << 28;
/// Width and height of the matrix of the product.
const MATRIX: u32 = 4096;
/// Most rows of the product.
const ROWS_MAX: u32 = 4096;
/// A probe that takes this long is large enough.
const ENOUGH: Duration = Duration::from_millis(20);
/// Runs of which the best counts.
const RUNS: usize = 5;
/// How long one run may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What a device reaches.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// GB/s of a copy, both directions counted.
    pub copy: f64,
    /// GFLOP/s of a product of bf16.
    pub matrix: f64,
}

fn tensor(device: &dyn Device, dims: &[u32], dtype: DType) -> hal::Result<Tensor> {
    let shape = Shape::new(dims);
    let size_bytes = shape.elements() * dtype.size_bytes();
    let desc = BufferDesc { label: "probe", size_bytes, kind: MemoryKind::Device };
    let buffer: Buffer = device.alloc(&desc)?;
    Tensor::new(buffer, 0, shape, dtype, RowCodec::Plain)
}

/// Time of the best of some runs, after one that does not count.
fn best(device: &dyn Device, program: &Program) -> hal::Result<Duration> {
    let options =
        CompileOptions { label: "probe".into(), mode: Mode::Replay, profile: Profile::Off };
    let plan = hal::compile(device, program, None, &options)?;
    let queue = device.queue(QueueKind::Compute)?;
    let mut best = Duration::MAX;
    for run in 0..=RUNS {
        let started = Instant::now();
        let done = queue.submit(&plan, &[])?;
        queue.wait(&done, TIMEOUT)?;
        if run > 0 {
            best = best.min(started.elapsed());
        }
    }
    Ok(best)
}

/// A matrix of bf16 noise.
struct Matrix {
    spec: WeightSpec,
    noise: Noise,
}

impl WeightSource for Matrix {
    fn spec(&self) -> &WeightSpec {
        &self.spec
    }
    fn read(&mut self, _segment: u32, _part: WeightPart, out: &mut [u8]) -> hal::Result<()> {
        self.noise.fill(out);
        Ok(())
    }
    fn noise(&self, _segment: u32, _part: WeightPart) -> Option<Noise> {
        Some(self.noise)
    }
}

impl Rates {
    /// Measures: probes grow until they take long enough.
    pub fn measure(device: &Arc<dyn Device>) -> Result<Rates> {
        Ok(Rates { copy: Rates::copy(&**device)?, matrix: Rates::matrix(&**device)? })
    }

    fn copy(device: &dyn Device) -> hal::Result<f64> {
        let mut bytes = 1 << 20;
        loop {
            let dims = [(bytes / 4 / 1024) as u32, 1024];
            let (from, to) =
                (tensor(device, &dims, DType::F32)?, tensor(device, &dims, DType::F32)?);
            let mut builder = Builder::new();
            builder.push(Map { out: to, f: MapFn::Copy(from) })?;
            let time = best(device, &builder.finish()?)?;
            if time >= ENOUGH || bytes >= COPY_BYTES_MAX {
                return Ok(2.0 * bytes as f64 / time.as_secs_f64() / 1e9);
            }
            bytes *= 4;
        }
    }

    fn matrix(device: &dyn Device) -> hal::Result<f64> {
        let spec = WeightSpec {
            name: "probe".into(),
            groups: 1,
            rows: MATRIX,
            cols: MATRIX,
            segment_rows: MATRIX,
            encoding: Encoding::Plain(DType::Bf16),
        };
        let noise = Noise { seed: 1, and: 0x807f_807f, or: 0x3c00_3c00 };
        let weight = device.load_weight(&mut Matrix { spec, noise })?;
        let mut rows = 32;
        loop {
            let dims = [rows, MATRIX];
            let mut builder = Builder::new();
            builder.push(Matmul {
                out: tensor(device, &dims, DType::Bf16)?,
                x: tensor(device, &dims, DType::Bf16)?,
                weight: weight.clone(),
                groups: RowGroups::Cyclic,
            })?;
            let time = best(device, &builder.finish()?)?;
            if time >= ENOUGH || rows >= ROWS_MAX {
                let flops = 2.0 * f64::from(rows) * f64::from(MATRIX) * f64::from(MATRIX);
                return Ok(flops / time.as_secs_f64() / 1e9);
            }
            rows *= 2;
        }
    }
}

/// Time of an op over all steps, and how often it ran.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    count: u64,
    ns: u64,
}

/// A table of the ops of `steps` steps, the costliest first. `costs` are those of one step.
pub fn table(
    events: &[OpEvent],
    costs: &BTreeMap<&'static str, Cost>,
    steps: u32,
    rates: Rates,
) -> String {
    let mut spent: BTreeMap<&'static str, Spent> = BTreeMap::new();
    for event in events {
        let entry = spent.entry(event.op).or_default();
        entry.count += 1;
        entry.ns += event.duration_ns();
    }
    let all_ns: u64 = spent.values().map(|spent| spent.ns).sum();
    let mut ops: Vec<_> = spent.into_iter().collect();
    ops.sort_by_key(|(_, spent)| std::cmp::Reverse(spent.ns));
    let head =
        ["op", "count", "µs", "of time", "MB", "GB/s", "of copy", "GFLOP", "GFLOP/s", "of matrix"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let steps = f64::from(steps.max(1));
    for (op, spent) in ops {
        let cost = costs.get(op).copied().unwrap_or_default();
        let ns = spent.ns as f64 / steps;
        let rate = |amount: f64| if ns > 0.0 { amount / ns } else { 0.0 };
        rows.push(vec![
            op.to_owned(),
            format!("{:.0}", spent.count as f64 / steps),
            format!("{:.1}", ns / 1e3),
            format!("{:.1} %", 100.0 * spent.ns as f64 / all_ns.max(1) as f64),
            format!("{:.2}", cost.bytes / 1e6),
            format!("{:.1}", rate(cost.bytes)),
            format!("{:.0} %", 100.0 * rate(cost.bytes) / rates.copy),
            format!("{:.3}", cost.flops / 1e9),
            format!("{:.1}", rate(cost.flops)),
            format!("{:.0} %", 100.0 * rate(cost.flops) / rates.matrix),
        ]);
    }
    term::columns(&rows, &[1, 2, 3, 4, 5, 6, 7, 8, 9])
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::Site;

    #[test]
    fn ops_are_shown_per_step_the_costliest_first() {
        let site = Site { layer: 0, name: "attend" };
        let event = |op, begin_ns, end_ns| OpEvent { site, op, begin_ns, end_ns };
        let events = [event("map", 0, 1000), event("matmul", 1000, 5000), event("map", 5000, 6000)];
        let costs = BTreeMap::from([("matmul", Cost { bytes: 4000.0, flops: 8000.0 })]);
        let rates = Rates { copy: 4.0, matrix: 8.0 };
        let text = table(&events, &costs, 2, rates);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        // 4000 bytes and 8000 operations in 2000 ns.
        assert_eq!(
            lines[1],
            [
                "matmul", "0", "2.0", "66.7", "%", "0.00", "2.0", "50", "%", "0.000", "4.0", "50",
                "%"
            ]
        );
        assert_eq!(lines[2][..2], ["map", "1"]);
    }
}
