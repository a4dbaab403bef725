//! Joining launches: how many a program has left, and that what every tensor holds afterwards is, bit for bit, what
//! separate launches leave. Programs of few products, some made so that a careless join would show.

mod emulated;

use std::sync::Arc;
use std::time::Duration;

use backend_cuda::CudaBackend;
use conformance::Bed;
use emulated::Emulated;
use hal::op::{Map, MapFn, Matmul, NormQuant, QkFinish, Rope, RowGroups};
use hal::{
    Backend, Builder, CompileOptions, DType, Device, Encoding, Mode, Noise, Op, OpenOptions,
    Profile, Result, RowCodec, Shape, Tensor, Weight, WeightPart, WeightSource, WeightSpec,
};

/// Columns of every row.
const WIDTH: u32 = 64;
const FP8: RowCodec = RowCodec::Fp8 { block: 32, tail: 0 };

/// bf16 numbers of both signs around 2^-7 to 1.
fn noise(seed: u32) -> Noise {
    Noise { seed, and: 0x83ff_83ff, or: 0x3c00_3c00 }
}

/// A square bf16 weight of noise.
struct Square(WeightSpec, u32);

impl WeightSource for Square {
    fn spec(&self) -> &WeightSpec {
        &self.0
    }
    fn read(&mut self, _segment: u32, _part: WeightPart, out: &mut [u8]) -> Result<()> {
        noise(self.1).fill(out);
        Ok(())
    }
}

/// A device and what programs on it are made of.
struct Bench {
    device: Arc<dyn Device>,
    bed: Bed,
    rows: u32,
    tensors: Vec<Tensor>,
    weights: Vec<Weight>,
    angle: Tensor,
}

impl Bench {
    /// Eight tensors of noise.
    fn new(join: &str, backwards: bool, rows: u32) -> Bench {
        let settings = vec![("join".to_owned(), join.to_owned())];
        let options = OpenOptions { settings, ..OpenOptions::default() };
        let machine = Emulated { wide: backwards, ..Emulated::default() };
        let device = CudaBackend::on(Arc::new(machine)).open(0, &options).unwrap();
        let bed = Bed::new(&device).unwrap();
        let tensor = |rows: u32, width: u32, dtype: DType, seed| {
            let shape = Shape::new(&[rows, width]);
            let bytes = shape.elements() * dtype.size_bytes();
            let memory = bed.alloc(bytes).unwrap();
            let tensor = Tensor::new(memory, 0, shape, dtype, RowCodec::Plain).unwrap();
            let mut values = vec![0; bytes as usize];
            noise(seed).fill(&mut values);
            bed.upload(&tensor, &values).unwrap();
            tensor
        };
        let tensors = (0..8).map(|seed| tensor(rows, WIDTH, DType::Bf16, seed)).collect();
        let angle = tensor(rows, 16, DType::F32, 9);
        let weight = |seed| {
            let encoding = Encoding::Plain(DType::Bf16);
            let (name, side) = (format!("square {seed}"), WIDTH);
            let spec = WeightSpec {
                name: name.into(),
                groups: 1,
                rows: side,
                cols: side,
                segment_rows: side,
                encoding,
            };
            device.load_weight(&mut Square(spec, seed)).unwrap()
        };
        let weights = (10..13).map(weight).collect();
        Bench { rows, tensors, weights, angle, device: Arc::clone(&device), bed }
    }

    fn t(&self, at: usize) -> Tensor {
        self.tensors[at].clone()
    }

    fn product(&self, x: usize, weight: usize, out: usize) -> Op {
        let (out, x, weight) = (self.t(out), self.t(x), self.weights[weight].clone());
        Matmul { out, x, weight, groups: RowGroups::Cyclic }.into()
    }

    fn norm(&self, x: usize, out: usize) -> Op {
        NormQuant { out: self.t(out), x: self.t(x), gain: None, epsilon: 1e-6, round: FP8 }.into()
    }

    fn copy(&self, x: usize, out: usize) -> Op {
        Map { out: self.t(out), f: MapFn::Copy(self.t(x)) }.into()
    }

    /// Heads of 32 columns.
    fn heads(&self, at: usize) -> Tensor {
        self.t(at).reshape(&[2 * self.rows, 32])
    }

    fn finish(&self, x: usize, out: usize) -> Op {
        let (out, x, angle) = (self.heads(out), self.heads(x), self.angle.clone());
        QkFinish { out, x, gain: None, angle, heads: 2, epsilon: 1e-6, round: None }.into()
    }

    fn rope(&self, x: usize, out: usize) -> Op {
        let (out, x, angle) = (self.heads(out), self.heads(x), self.angle.clone());
        Rope { out, x, angle, heads: 2, inverse: false }.into()
    }

    /// Runs a program twice; its launches, and what all tensors hold then.
    fn run(&self, ops: Vec<Op>) -> (u32, Vec<Vec<u8>>) {
        let mut builder = Builder::new();
        ops.into_iter().for_each(|op| builder.push(op).unwrap());
        let options =
            CompileOptions { label: "join".into(), mode: Mode::Eager, profile: Profile::Off };
        let program = builder.finish().unwrap();
        let plan = hal::compile(&*self.device, &program, None, &options).unwrap();
        for _ in 0..2 {
            let point = self.bed.queue.submit(&plan, &[]).unwrap();
            self.bed.queue.wait(&point, Duration::from_secs(60)).unwrap();
        }
        let all = self.tensors.iter().map(|tensor| self.bed.download(tensor).unwrap()).collect();
        (plan.stats().launches, all)
    }
}

/// A program of tensors by number: 0 is read by products, and others are what they make.
type Make = fn(&Bench) -> Vec<Op>;

/// Checks that a program of so many rows has so many launches, joined, and nobody can tell.
fn check(what: &str, rows: u32, want: u32, make: Make) {
    let apart = Bench::new("off", false, rows);
    let ops = make(&apart);
    let count = ops.len() as u32;
    let (launches, held) = apart.run(ops);
    assert_eq!(launches, count, "{what}: apart");
    for backwards in [false, true] {
        let joined = Bench::new("on", backwards, rows);
        let (launches, got) = joined.run(make(&joined));
        assert_eq!(launches, want, "{what}, {rows} rows: joined");
        assert_eq!(got, held, "{what}, {rows} rows, backwards {backwards}");
    }
}

#[test]
fn what_follows_a_product_is_done_by_its_last_blocks() {
    check("norm", 1, 1, |b| vec![b.product(0, 0, 1), b.norm(1, 2)]);
    check("norm, two rows", 2, 1, |b| vec![b.product(0, 0, 1), b.norm(1, 2)]);
    check("norm, more rows than one block takes", 3, 2, |b| vec![b.product(0, 0, 1), b.norm(1, 2)]);
    check("norm of heads", 2, 1, |b| vec![b.product(0, 0, 1), b.finish(1, 2)]);
    check("rope of heads", 1, 1, |b| vec![b.product(0, 0, 1), b.rope(1, 2)]);
}

#[test]
fn products_that_do_not_need_each_other_are_one_launch_with_what_follows_them() {
    check("two", 8, 1, |b| vec![b.product(0, 0, 1), b.product(0, 1, 2)]);
    check("more rows than a tile has", 9, 2, |b| vec![b.product(0, 0, 1), b.product(0, 1, 2)]);
    check("each with a norm", 1, 1, |b| {
        vec![b.product(0, 0, 1), b.norm(1, 2), b.product(0, 1, 3), b.finish(3, 4)]
    });
    check("more than fit", 1, 2, |b| (1..8).map(|out| b.product(0, out % 3, out)).collect());
}

#[test]
fn an_op_that_needs_what_runs_beside_it_waits() {
    check("product of a product", 1, 2, |b| vec![b.product(0, 0, 1), b.product(1, 1, 2)]);
    check("product of a norm", 1, 2, |b| {
        vec![b.product(0, 0, 1), b.norm(1, 2), b.product(2, 1, 3)]
    });
    check("product of a copy", 1, 3, |b| {
        vec![b.product(0, 0, 1), b.copy(5, 3), b.product(3, 1, 4)]
    });
    check("norm of what a copy changes first", 1, 3, |b| {
        vec![b.product(0, 0, 1), b.copy(5, 1), b.norm(1, 2)]
    });
}

#[test]
fn an_op_that_writes_what_others_read_waits() {
    check("over what is copied before", 1, 3, |b| {
        vec![b.product(0, 0, 1), b.copy(2, 3), b.product(0, 1, 2)]
    });
    check("over what the product reads", 1, 2, |b| vec![b.product(0, 0, 1), b.norm(1, 0)]);
    check("over what another product reads", 1, 2, |b| {
        vec![b.product(0, 0, 1), b.product(2, 1, 3), b.norm(1, 2)]
    });
    check("two on one place", 1, 2, |b| vec![b.product(0, 0, 1), b.product(0, 1, 1)]);
}

#[test]
fn a_setting_that_is_not_there_is_refused() {
    let settings = vec![("join".to_owned(), "perhaps".to_owned())];
    let options = OpenOptions { settings, ..OpenOptions::default() };
    let opened = CudaBackend::on(Arc::new(Emulated::default())).open(0, &options);
    let error = opened.err().expect("it is on or off").to_string();
    assert!(error.contains("join=perhaps"), "{error}");
}
