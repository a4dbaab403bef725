//! What is counted and logged of each request: never its text, never its key.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use engine::experts::ExpertCounts;
use serde_json::Value;

use crate::fault::shown;
use crate::job::{Update, Usage};
use crate::stats::Stats;

/// Upper bounds of the histogram of times to the first token, in seconds.
const FIRST_TOKEN_S: [f64; 8] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
/// Those of the worker's numbers that say how it is now.
const GAUGES: [&str; 12] = [
    "queued",
    "live",
    "paused",
    "slots",
    "pages",
    "pages_free",
    "pages_promised",
    "batch_sequences",
    "batch_rows",
    "cache_prefixes",
    "cache_bytes",
    "cache_disk_bytes",
];

/// Counts of the async half.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests by endpoint and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    active: AtomicU64,
    abandoned: AtomicU64,
    first_token: [AtomicU64; FIRST_TOKEN_S.len()],
    first_token_us: AtomicU64,
    first_tokens: AtomicU64,
}

impl Counts {
    /// Counts one answered request.
    pub fn request(&self, endpoint: &'static str, status: u16) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((endpoint, status)).or_default() += 1;
    }

    /// Answers that are being made.
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    fn first_token(&self, seconds: f64) {
        for (bound, count) in FIRST_TOKEN_S.iter().zip(&self.first_token) {
            if seconds <= *bound {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.first_token_us.fetch_add((seconds * 1e6) as u64, Ordering::Relaxed);
        self.first_tokens.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything in Prometheus' text form, the worker's numbers included.
    pub fn prometheus(&self, stats: &Stats, experts: Option<&ExpertCounts>) -> String {
        let mut out = String::from("# TYPE hadal_requests_total counter\n");
        let mut line = |text: std::fmt::Arguments<'_>| {
            out.write_fmt(text).expect("strings take everything");
            out.push('\n');
        };
        for ((endpoint, status), count) in
            self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            let labels = format!("endpoint=\"{endpoint}\",status=\"{status}\"");
            line(format_args!("hadal_requests_total{{{labels}}} {count}"));
        }
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        line(format_args!("# TYPE hadal_answers_active gauge"));
        line(format_args!("hadal_answers_active {}", load(&self.active)));
        line(format_args!("# TYPE hadal_answers_abandoned_total counter"));
        line(format_args!("hadal_answers_abandoned_total {}", load(&self.abandoned)));
        line(format_args!("# TYPE hadal_first_token_seconds histogram"));
        let name = "hadal_first_token_seconds";
        for (bound, count) in FIRST_TOKEN_S.iter().zip(&self.first_token) {
            line(format_args!("{name}_bucket{{le=\"{bound}\"}} {}", load(count)));
        }
        let count = load(&self.first_tokens);
        line(format_args!("{name}_bucket{{le=\"+Inf\"}} {count}"));
        line(format_args!("{name}_sum {}", load(&self.first_token_us) as f64 / 1e6));
        line(format_args!("{name}_count {count}"));
        if let Ok(Value::Object(all)) = serde_json::to_value(stats) {
            for (name, value) in &all {
                let gauge = GAUGES.contains(&name.as_str());
                let (kind, tail) = if gauge { ("gauge", "") } else { ("counter", "_total") };
                line(format_args!("# TYPE hadal_worker_{name}{tail} {kind}"));
                line(format_args!("hadal_worker_{name}{tail} {value}"));
            }
        }
        if let Some(experts) = experts {
            line(format_args!("# TYPE hadal_expert_imbalance_ratio gauge"));
            for (layer, counts) in experts.layers().enumerate() {
                let uneven = ExpertCounts::imbalance(counts);
                line(format_args!("hadal_expert_imbalance_ratio{{layer=\"{layer}\"}} {uneven}"));
            }
        }
        out
    }
}

/// One answer, from its submission to its end.
#[derive(Debug)]
pub struct Record {
    counts: Arc<Counts>,
    endpoint: &'static str,
    model: String,
    submitted: Instant,
    first_token: bool,
    ended: bool,
}

impl Record {
    /// Of an answer that is being submitted.
    pub fn new(counts: Arc<Counts>, endpoint: &'static str, model: &str) -> Self {
        counts.active.fetch_add(1, Ordering::Relaxed);
        Record {
            counts,
            endpoint,
            model: shown(model),
            submitted: Instant::now(),
            first_token: false,
            ended: false,
        }
    }

    /// Looks at an update that passes.
    pub fn update(&mut self, update: &Update) {
        match update {
            Update::Token { .. } if !std::mem::replace(&mut self.first_token, true) => {
                self.counts.first_token(self.submitted.elapsed().as_secs_f64());
            }
            Update::Finished { finish, usage, .. } => self.end(&format!("{finish:?}"), usage),
            Update::Failed(_) => self.end("failed", &Usage::default()),
            _ => {}
        }
    }

    fn end(&mut self, why: &str, usage: &Usage) {
        self.ended = true;
        tracing::info!(
            endpoint = self.endpoint,
            model = self.model,
            why,
            prompt = usage.prompt,
            cached = usage.cached,
            completion = usage.completion,
            reasoning = usage.reasoning,
            milliseconds = self.submitted.elapsed().as_millis() as u64,
            "answered"
        );
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.counts.active.fetch_sub(1, Ordering::Relaxed);
        if !self.ended {
            self.counts.abandoned.fetch_add(1, Ordering::Relaxed);
            let milliseconds = self.submitted.elapsed().as_millis() as u64;
            tracing::info!(endpoint = self.endpoint, model = self.model, milliseconds, "abandoned");
        }
    }
}
