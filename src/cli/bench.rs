//! `hadal bench`: how fast prompts are read and tokens written, over context sizes, and how near that
//! is to what the machine can do.
//!
//! Before anything is timed, one step of each size runs untimed, so that weights are in memory and plans are
//! compiled; and the device has done what it does behind a load. Prompts are arbitrary token ids; generated tokens are
//! greedy. On a shared machine the ratios to the bandwidth and the peak, measured in the same run, mean more than
//! times.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::budget::{KeyStorage, Ledger, cache_bytes_per_token, token_flops};
use engine::model::cost::Cost;
use engine::{Engine, ModelOptions, Numerics, Run, Sequence, Want};
use hal::profile::Ring;
use hal::{OpEvent, Profile, Sink};
use kernels::common::isa::{Isa, Level};
use kernels::common::peak::{fma_rate, read_bandwidth, tile_rate};
use kernels::common::pool::Pool;
use serde_json::json;

use super::args::BenchArgs;
use super::failure::{Failure, Result};
use super::interrupt::Interrupt;
use super::model::{self, Source};
use super::profile::{self, Rates};
use super::term;

/// Prompts timed where no size was asked for, in tokens.
const PREFILLS: [u32; 3] = [128, 512, 2048];
/// Depths at which tokens are timed where none was asked for.
const DEPTHS: [u32; 3] = [16, 512, 2048];
/// Tokens timed where no number was asked for.
const GENERATED: u32 = 32;
/// Numbers the bandwidth is measured with: 256 MiB, several times any cache.
const PROBE_NUMBERS: usize = 1 << 26;
/// Times of ops that are kept of one stretch.
const EVENTS_MAX: usize = 1 << 20;
/// Waits that are worth a word.
const SETTLED_MIN: Duration = Duration::from_millis(10);
/// Windows of which the best counts.
const PROBE_WINDOWS: usize = 5;

/// What to time.
struct Workload {
    prefills: Vec<u32>,
    depths: Vec<u32>,
    generated: u32,
    /// Sequences that a step of generated tokens has.
    streams: u32,
}

impl Workload {
    fn new(args: &BenchArgs) -> Self {
        let asked = args.prefill.is_some() || args.depth.is_some() || args.generate.is_some();
        let decodes = args.depth.is_some() || args.generate.is_some();
        let one = |number: u32| vec![number];
        Self {
            prefills: args.prefill.map_or(if asked { vec![] } else { PREFILLS.to_vec() }, one),
            depths: match (args.depth, decodes) {
                (Some(depth), _) => one(depth),
                (None, true) => one(DEPTHS[0]),
                (None, false) if asked => vec![],
                (None, false) => DEPTHS.to_vec(),
            },
            generated: args.generate.unwrap_or(GENERATED),
            streams: args.streams,
        }
    }

    /// Longest sequence of it, with the untimed step.
    fn context(&self) -> u64 {
        let depth = self
            .depths
            .iter()
            .max()
            .map_or(0, |&depth| u64::from(depth) + u64::from(self.generated) + 1);
        depth.max(self.prefills.iter().max().map_or(0, |&length| u64::from(length)))
    }
}

/// One timed stretch.
struct Timing {
    /// "prefill" or "decode".
    what: &'static str,
    /// Tokens before it.
    depth: u32,
    /// Tokens of each sequence.
    tokens: u32,
    streams: u32,
    time: Duration,
}

impl Timing {
    fn rate(&self) -> f64 {
        f64::from(self.tokens) * f64::from(self.streams) / self.time.as_secs_f64().max(1e-9)
    }
}

/// What the machine can do, of a device whose memory and arithmetic this program can measure.
struct Peak {
    /// GB/s.
    bandwidth: f64,
    /// GFLOP/s of f32, and of bf16 tiles where there are any.
    arithmetic: f64,
    tiles: Option<f64>,
}

/// Times and reports.
pub fn bench(args: &BenchArgs) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let workload = Workload::new(args);
    let source = match &args.geometry {
        Some(name) => Source::Synthetic { name: name.clone(), layers: args.layers },
        None => Source::new(args.model.model.as_deref())?,
    };
    let context = u32::try_from(workload.context())
        .map_err(|_| Failure::new("so long a context cannot be opened"))?;
    let profile = if args.profile { Profile::Ops } else { Profile::Off };
    let options =
        ModelOptions { context, profile, sequences: workload.streams, ..ModelOptions::default() };
    let ring = args.profile.then(|| Arc::new(Ring::new(EVENTS_MAX)));
    let started = Instant::now();
    let checkpoint = source.checkpoint()?;
    let size = checkpoint.inspection().size.clone();
    let sink = ring.clone().map(|ring| ring as Arc<dyn Sink>);
    let engine =
        model::open_watched(&source, &checkpoint, &args.model, options, &interrupt, sink.as_ref())?;
    let load = started.elapsed();
    let on_cpu = engine.device().info().backend == "cpu";
    let mut bench = Bench { engine, interrupt, seed: 1, ring, profiles: Vec::new() };
    let mut timings = Vec::new();
    bench.warm_up()?;
    let settling = Instant::now();
    bench.engine.device().settle();
    let settled = settling.elapsed();
    for &length in &workload.prefills {
        timings.push(bench.prefill(length)?);
    }
    for &depth in &workload.depths {
        timings.push(bench.decode(depth, &workload)?);
    }
    let peak_rss = peak_rss_mb();
    let threads = threads(args);
    let isa = args.model.isa.as_deref().and_then(Level::from_name).and_then(Isa::force);
    let isa = isa.unwrap_or_else(Isa::best);
    let peak = on_cpu.then(|| Peak::measure(isa, threads));
    let Bench { engine, profiles, .. } = bench;
    let rates = args.profile.then(|| Rates::measure(engine.device())).transpose()?;
    let report = Report {
        source,
        size,
        engine,
        timings,
        load,
        settled,
        peak_rss,
        threads,
        isa,
        peak,
        profiles,
        rates,
    };
    let mut out = io::stdout().lock();
    out.write_all(report.text(args).as_bytes())?;
    if args.json {
        writeln!(out, "{}", report.json())?;
    }
    Ok(())
}

fn threads(args: &BenchArgs) -> u32 {
    let all = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    args.model.threads.unwrap_or(all)
}

struct Bench {
    engine: Engine,
    interrupt: Interrupt,
    seed: u64,
    ring: Option<Arc<Ring>>,
    profiles: Vec<Measured>,
}

/// Times of ops of one stretch.
struct Measured {
    title: String,
    events: Vec<OpEvent>,
    dropped: u64,
    costs: BTreeMap<&'static str, Cost>,
    steps: u32,
}

impl Bench {
    /// Arbitrary token ids, others each time.
    fn tokens(&mut self, count: u32) -> Vec<u32> {
        let vocab = u64::from(self.engine.config().vocab);
        let next = |_| {
            self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((self.seed >> 33) % vocab) as u32
        };
        (0..count).map(next).collect()
    }

    fn feed(&mut self, sequence: &mut Sequence, tokens: &[u32]) -> Result<()> {
        let rows = self.engine.capacity().rows as usize;
        for chunk in tokens.chunks(rows) {
            self.interrupt.check()?;
            let last = std::ptr::eq(chunk.as_ptr_range().end, tokens.as_ptr_range().end);
            let want = if last { Want::Last } else { Want::None };
            self.engine.step(&mut [Run { sequence, tokens: chunk, want }])?;
        }
        Ok(())
    }

    fn warm_up(&mut self) -> Result<()> {
        let rows = self.engine.capacity().rows.min(self.engine.options().context.max(2) - 1);
        let mut sequence = self.engine.open_sequence()?;
        let tokens = self.tokens(rows);
        self.feed(&mut sequence, &tokens)?;
        self.feed(&mut sequence, &tokens[..1])
    }

    fn prefill(&mut self, length: u32) -> Result<Timing> {
        let mut sequence = self.engine.open_sequence()?;
        let tokens = self.tokens(length);
        self.forget();
        let started = Instant::now();
        self.feed(&mut sequence, &tokens)?;
        let time = started.elapsed();
        // Only whole steps: bytes and operations are those of one of them.
        let rows = self.engine.capacity().rows.min(length);
        let costs = self.engine.costs(rows, 1, length / 2);
        self.keep(format!("prefill of {length} tokens"), costs, length / rows);
        Ok(Timing { what: "prefill", depth: 0, tokens: length, streams: 1, time })
    }

    fn decode(&mut self, depth: u32, workload: &Workload) -> Result<Timing> {
        let &Workload { generated: count, streams, .. } = workload;
        let mut sequences = Vec::new();
        let mut next = Vec::new();
        for _ in 0..streams {
            let mut sequence = self.engine.open_sequence()?;
            let tokens = self.tokens(depth);
            self.feed(&mut sequence, &tokens)?;
            sequences.push(sequence);
            next.push(tokens[0]);
        }
        self.decode_step(&mut sequences, &mut next)?;
        self.forget();
        let started = Instant::now();
        for _ in 0..count {
            self.decode_step(&mut sequences, &mut next)?;
        }
        let time = started.elapsed();
        let costs = self.engine.costs(streams, streams, depth + count / 2);
        let title = match streams {
            1 => format!("a token at depth {depth}"),
            _ => format!("a token of {streams} sequences each at depth {depth}"),
        };
        self.keep(title, costs, count);
        Ok(Timing { what: "decode", depth, tokens: count, streams, time })
    }

    /// Feeds every sequence its next token and draws the one behind.
    fn decode_step(&mut self, sequences: &mut [Sequence], next: &mut [u32]) -> Result<()> {
        self.interrupt.check()?;
        let run = |(sequence, token)| Run {
            sequence,
            tokens: std::slice::from_ref(token),
            want: Want::Last,
        };
        let mut runs: Vec<Run<'_>> = sequences.iter_mut().zip(&*next).map(run).collect();
        let logits = self.engine.step(&mut runs)?;
        let drawn: Vec<u32> = (0..next.len()).map(|row| largest(logits.row(row))).collect();
        next.copy_from_slice(&drawn);
        Ok(())
    }

    /// Drops the times of what ran so far.
    fn forget(&self) {
        if let Some(ring) = &self.ring {
            ring.take();
        }
    }

    /// Keeps the times of what ran since: `steps` steps that cost `costs` each.
    fn keep(&mut self, title: String, costs: BTreeMap<&'static str, Cost>, steps: u32) {
        if let Some(ring) = &self.ring {
            let (events, dropped) = ring.take();
            self.profiles.push(Measured { title, events, dropped, costs, steps });
        }
    }
}

fn largest(row: &[f32]) -> u32 {
    let order = |a: &(usize, &f32), b: &(usize, &f32)| a.1.total_cmp(b.1);
    row.iter().enumerate().max_by(order).map_or(0, |(id, _)| id as u32)
}

impl Peak {
    fn measure(isa: Isa, threads: u32) -> Self {
        let pool = Pool::new(threads as usize);
        let data = vec![1.0f32; PROBE_NUMBERS];
        Self {
            bandwidth: read_bandwidth(isa, &pool, &data, PROBE_WINDOWS),
            arithmetic: fma_rate(isa, &pool, PROBE_WINDOWS),
            tiles: tile_rate(isa, &pool, PROBE_WINDOWS),
        }
    }

    /// The most there is: what products of weights could reach.
    fn most(&self) -> f64 {
        self.tiles.unwrap_or(self.arithmetic)
    }
}

/// Most memory this process has held, in 10^6 bytes; nothing where the system does not say.
fn peak_rss_mb() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

struct Report {
    source: Source,
    engine: Engine,
    size: Ledger,
    timings: Vec<Timing>,
    load: Duration,
    /// What was waited, before anything was timed, for weights to be where the device wants them.
    settled: Duration,
    peak_rss: Option<f64>,
    threads: u32,
    isa: Isa,
    peak: Option<Peak>,
    profiles: Vec<Measured>,
    rates: Option<Rates>,
}

impl Report {
    fn text(&self, args: &BenchArgs) -> String {
        let info = self.engine.device().info();
        let numerics = self.engine.options().numerics;
        let mut text = format!(
            "{} on {} ({}), {numerics} numerics, {} threads; loaded in {}",
            self.source,
            hadal::registry::name_of(info),
            info.name,
            self.threads,
            term::seconds(self.load)
        );
        if self.settled >= SETTLED_MIN {
            text.push_str(&format!(
                ", weights moved after another {}",
                term::seconds(self.settled)
            ));
        }
        text.push('\n');
        if let Some(peak) = &self.peak {
            text.push_str(&format!(
                "measured: {:.1} GB/s read, {:.0} GFLOP/s f32 FMA",
                peak.bandwidth, peak.arithmetic
            ));
            if let Some(tiles) = peak.tiles {
                text.push_str(&format!(", {tiles:.0} GFLOP/s bf16 tiles"));
            }
            text.push('\n');
        }
        let mut rows = vec![
            [
                "",
                "depth",
                "streams",
                "tokens",
                "tokens/s",
                "GB/s",
                "of bandwidth",
                "GFLOP/s",
                "of peak",
            ]
            .map(str::to_owned)
            .to_vec(),
        ];
        rows.extend(self.timings.iter().map(|timing| self.row(timing)));
        text.push_str(&term::columns(&rows, &[1, 2, 3, 4, 5, 6, 7, 8]));
        text.push_str(&self.profile());
        if let Some(peak) = self.peak_rss.filter(|_| !args.json) {
            text.push_str(&format!("peak memory {peak:.0} MB\n"));
        }
        text
    }

    /// What was measured of ops.
    fn profile(&self) -> String {
        let Some(rates) = self.rates else { return String::new() };
        let mut text = format!(
            "every op was timed, which makes steps slower; this device copies {:.1} GB/s and \
             multiplies {:.0} GFLOP/s of bf16\n",
            rates.copy, rates.matrix
        );
        for measured in &self.profiles {
            text.push_str(&format!("\n{}, per step:\n", measured.title));
            let table = profile::table(&measured.events, &measured.costs, measured.steps, rates);
            text.push_str(&table);
            if measured.dropped > 0 {
                text.push_str(&format!("{} times were lost\n", measured.dropped));
            }
        }
        text
    }

    fn row(&self, timing: &Timing) -> Vec<String> {
        let share = |rate: f64, of: Option<f64>| {
            of.map_or_else(|| "?".to_owned(), |of| format!("{:.0} %", 100.0 * rate / of))
        };
        let config = self.engine.config();
        let size = &self.size;
        let storage = match self.engine.options().numerics {
            Numerics::Served => KeyStorage::Coded,
            Numerics::Plain => KeyStorage::F32,
        };
        let middle = u64::from(timing.depth + timing.tokens / 2);
        let flops = token_flops(config, size.parameters_active, middle).total();
        let arithmetic = timing.rate() * flops / 1e9;
        let arithmetic_share = share(arithmetic, self.peak.as_ref().map(Peak::most));
        let (read, read_share) = match timing.what {
            // Of several streams it is not known which experts they share.
            "decode" if timing.streams == 1 => {
                let bytes = size.bytes_per_token + cache_bytes_per_token(config, storage, middle);
                let read = timing.rate() * bytes as f64 / 1e9;
                let of = self.peak.as_ref().map(|peak| peak.bandwidth);
                (format!("{read:.2}"), share(read, of))
            }
            _ => (String::new(), String::new()),
        };
        vec![
            timing.what.to_owned(),
            timing.depth.to_string(),
            timing.streams.to_string(),
            timing.tokens.to_string(),
            format!("{:.1}", timing.rate()),
            read,
            read_share,
            format!("{arithmetic:.1}"),
            arithmetic_share,
        ]
    }

    /// The line a script reads. Where several sizes were timed it holds the last of each kind.
    fn json(&self) -> serde_json::Value {
        let last = |what| self.timings.iter().rev().find(|timing| timing.what == what);
        json!({
            "prefill_tok_s": last("prefill").map(Timing::rate),
            "decode_tok_s": last("decode").map(Timing::rate),
            "load_s": self.load.as_secs_f64(),
            "peak_rss_mb": self.peak_rss,
            "bytes_per_token": self.size.bytes_per_token,
            "threads": self.threads,
            "isa": self.isa.name(),
        })
    }
}
