//! Cases of the compressor: with and without overlap, absent tokens, unused windows, every codec.

use hal::op::Compress;
use hal::{DType, Encoding, RowCodec};

use crate::case::{Case, Make, Random};

/// What a case pools into.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    activation: DType,
    codec: RowCodec,
    round: Option<RowCodec>,
    rotated: bool,
    width: u32,
}

const FP8: RowCodec = RowCodec::Fp8 { block: 32, tail: 8 };
const FP4: RowCodec = RowCodec::Fp4 { block: 32 };

const KINDS: [Kind; 5] = [
    Kind {
        name: "f32",
        activation: DType::F32,
        codec: RowCodec::Plain,
        round: None,
        rotated: false,
        width: 24,
    },
    Kind {
        name: "bf16",
        activation: DType::Bf16,
        codec: RowCodec::Plain,
        round: None,
        rotated: false,
        width: 24,
    },
    Kind {
        name: "bf16 rounded",
        activation: DType::Bf16,
        codec: RowCodec::Plain,
        round: Some(FP8),
        rotated: false,
        width: 40,
    },
    Kind {
        name: "into fp8 rows",
        activation: DType::Bf16,
        codec: FP8,
        round: Some(FP8),
        rotated: false,
        width: 40,
    },
    Kind {
        name: "rotated into fp4 rows",
        activation: DType::Bf16,
        codec: FP4,
        round: Some(FP4),
        rotated: true,
        width: 64,
    },
];

/// The table.
pub fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in KINDS {
        cases.push(compress(kind, "overlapping", 4, 2));
        cases.push(compress(kind, "apart", 8, 1));
    }
    cases
}

const WINDOWS: u32 = 3;

/// Half rows of each window: values of all windows, then gates. The last window is unused, the
/// first lacks its first tokens.
fn pool(random: &mut Random, rows: u32, slots: u32, halves: u32) -> Vec<f64> {
    let mut values = Vec::new();
    for window in 0..WINDOWS {
        for slot in 0..slots {
            let absent = window == WINDOWS - 1 || (window == 0 && slot < slots / 2);
            let place = random.below(rows);
            let half = place * 2 * halves + slot % halves;
            values.push(if absent { -1.0 } else { f64::from(half) });
        }
    }
    let gates: Vec<f64> = values
        .iter()
        .map(|&half| if half < 0.0 { -1.0 } else { half + f64::from(halves) })
        .collect();
    values.extend(gates);
    values
}

fn compress(kind: Kind, what: &str, m: u32, halves: u32) -> Case {
    let (n, tails, slots, turned, width) = (5, 9, m * halves, 8, kind.width);
    let mut make = Make::new(u64::from(m * width));
    let entries = make.updated("entries", kind.activation, kind.codec, &[12, width]);
    let tail = make.updated("tail", DType::F32, RowCodec::Plain, &[tails, 2 * halves * width]);
    let landing = make.shared_reals("landing", DType::F32, &[n, 2 * halves * width]);
    let bias = make.shared_reals("bias", DType::F32, &[slots, width]);
    let gain = make.shared_reals("gain", DType::F32, &[width]);
    let pool = pool(&mut make.random, tails + n, slots, halves);
    let pool = make.shared("pool", DType::I32, &[2 * WINDOWS, slots], pool);
    let angle = make.shared_reals("entry_angle", DType::F32, &[WINDOWS, turned]);
    let entry_row = make.shared("entry_row", DType::I32, &[WINDOWS, 1], vec![7.0, 2.0, -1.0]);
    let keep = vec![-1.0, 4.0, -1.0, 0.0, 8.0];
    let tail_keep = make.shared("tail_keep", DType::I32, &[n, 1], keep);
    let rotation = kind.rotated.then(|| make.weight(1, width, width, Encoding::Plain(DType::Bf16)));
    let name = format!("{} {what}", kind.name);
    make.case(("compress", "compress"), name, None, landing, move |t, w| {
        Compress {
            entries: t[entries].clone(),
            tail: t[tail].clone(),
            landing: t[landing].clone(),
            bias: t[bias].clone(),
            gain: t[gain].clone(),
            pool: t[pool].clone(),
            entry_angle: t[angle].clone(),
            entry_row: t[entry_row].clone(),
            tail_keep: t[tail_keep].clone(),
            epsilon: 1e-6,
            activation: kind.activation,
            rotation: rotation.map(|rotation| w[rotation].clone()),
            round: kind.round,
        }
        .into()
    })
    .rounding(kind.round.is_some())
}
