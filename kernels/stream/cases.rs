//! Cases of hyper-connections: the mixer, whole sites, and the head.

use hal::op::{HcMix, HcPre, HcSite, HcTurn, Head};
use hal::{DType, Encoding, Tensor, Weight};

use crate::case::{Case, Make};

/// The table.
pub fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, n, streams, rounds, full, size) in [
        ("one row", 1, 4, 20, true, 1.0),
        ("several rows", 5, 4, 3, true, 1.0),
        ("one round", 3, 4, 1, true, 1.0),
        ("two streams", 3, 2, 20, true, 1.0),
        ("large gates", 3, 4, 20, true, 8.0),
        ("head form", 4, 4, 1, false, 1.0),
    ] {
        cases.push(hc_mix(name, [n, streams, rounds], full, size));
    }
    for (dtype, name) in [(DType::F32, "f32"), (DType::Bf16, "bf16")] {
        for (what, n) in [("one row", 1), ("several rows", 5)] {
            cases.push(hc_pre(dtype, n, format!("{name} {what}")));
            cases.push(hc_turn(dtype, n, format!("{name} {what}")));
        }
        cases.push(head(dtype, format!("{name} with a padding row")));
    }
    cases
}

fn hc_mix(name: &str, [n, streams, rounds]: [u32; 3], full: bool, size: f64) -> Case {
    let width = if full { 2 * streams + streams * streams } else { streams };
    let mut make = Make::new(u64::from(n + rounds));
    let u = (0..n * width).map(|_| make.random.gauss() * size).collect();
    let u = make.rows("u", DType::F32, &[n, width], 1, u, 0.0);
    let mean_square = (0..n).map(|row| 0.5 + f64::from(row)).collect();
    let mean_square = make.rows("mean_square", DType::F32, &[n, 1], 1, mean_square, 0.0);
    let base = make.shared_reals("base", DType::F32, &[width]);
    let scale = vec![0.7, 1.1, 1.3][..if full { 3 } else { 1 }].to_vec();
    let scale = make.shared("scale", DType::F32, &[if full { 3 } else { 1 }], scale);
    let out = make.out(DType::F32, &[n, width], 1);
    make.case(("stream", "hc_mix"), name, Some(n), u, move |t, _| {
        HcMix {
            out: t[out].clone(),
            u: t[u].clone(),
            mean_square: t[mean_square].clone(),
            base: t[base].clone(),
            scale: t[scale].clone(),
            streams,
            rounds,
            epsilon: 1e-6,
            norm_epsilon: 1e-6,
        }
        .into()
    })
}

const STREAMS: u32 = 4;
const WIDTH: u32 = 24;
const MIX: u32 = 2 * STREAMS + STREAMS * STREAMS;

/// Places of a site's parameters.
#[derive(Clone, Copy)]
struct Places {
    function: usize,
    base: usize,
    scale: usize,
    gain: usize,
}

fn places(make: &mut Make, mix: u32) -> Places {
    let scales = if mix == STREAMS { 1 } else { 3 };
    Places {
        function: make.weight(1, mix, STREAMS * WIDTH, Encoding::Plain(DType::F32)),
        base: make.shared_reals("base", DType::F32, &[mix]),
        scale: make.shared("scale", DType::F32, &[scales], vec![0.8; scales as usize]),
        gain: make.shared_reals("gain", DType::F32, &[WIDTH]),
    }
}

impl Places {
    fn site(self, t: &[Tensor], w: &[Weight]) -> HcSite {
        HcSite {
            function: w[self.function].clone(),
            base: t[self.base].clone(),
            scale: t[self.scale].clone(),
            gain: t[self.gain].clone(),
            streams: STREAMS,
            rounds: 4,
            epsilon: 1e-6,
            norm_epsilon: 1e-6,
        }
    }
}

fn hc_pre(dtype: DType, n: u32, name: String) -> Case {
    let mut make = Make::new(u64::from(n) + 10);
    let streams = make.row_reals("streams", dtype, &[n, STREAMS * WIDTH], 1);
    let site = places(&mut make, MIX);
    let out = make.out(dtype, &[n, WIDTH], 1);
    let mix = make.out(DType::F32, &[n, MIX], 1);
    make.case(("stream", "hc_pre"), name, Some(n), streams, move |t, w| {
        let (out, mix, streams) = (t[out].clone(), t[mix].clone(), t[streams].clone());
        HcPre { out, mix, streams, site: site.site(t, w) }.into()
    })
}

fn hc_turn(dtype: DType, n: u32, name: String) -> Case {
    let mut make = Make::new(u64::from(n) + 20);
    let old = make.row_reals("old", dtype, &[n, (STREAMS + 1) * WIDTH], 1);
    let old_mix = make.row_reals("old_mix", DType::F32, &[n, MIX], 1);
    let site = places(&mut make, MIX);
    let out = make.out(dtype, &[n, WIDTH], 1);
    let mix = make.out(DType::F32, &[n, MIX], 1);
    let streams = make.out(dtype, &[n, STREAMS * WIDTH], 1);
    make.case(("stream", "hc_turn"), name, Some(n), old, move |t, w| {
        HcTurn {
            out: t[out].clone(),
            mix: t[mix].clone(),
            streams: t[streams].clone(),
            old: t[old].clone(),
            old_mix: t[old_mix].clone(),
            site: site.site(t, w),
        }
        .into()
    })
}

fn head(dtype: DType, name: String) -> Case {
    let (n, wanted, vocabulary) = (5, 3, 37);
    let mut make = Make::new(30);
    let streams = make.shared_reals("streams", dtype, &[n, STREAMS * WIDTH]);
    let rows = make.row_index("rows", &[wanted, 1], vec![4.0, -1.0, 2.0]);
    let site = places(&mut make, STREAMS);
    let matrix = make.weight(1, vocabulary, WIDTH, Encoding::Plain(DType::Bf16));
    let out = make.out(DType::F32, &[wanted, vocabulary], 1);
    make.case(("stream", "head"), name, Some(wanted), streams, move |t, w| {
        Head {
            out: t[out].clone(),
            streams: t[streams].clone(),
            rows: t[rows].clone(),
            site: site.site(t, w),
            vocabulary: w[matrix].clone(),
        }
        .into()
    })
}
