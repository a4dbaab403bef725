//! Making cases: seeded numbers and the arrays they fill.

use hal::op::Op;
use hal::{DType, Encoding, RowCodec, Tensor, Weight, WeightSpec};

use super::{Array, Build, Case, Role, WeightData, Wrong, decode, encode, random_weight};

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..limit`.
    ///
    /// # Panics
    /// If `limit` is 0.
    pub fn below(&mut self, limit: u32) -> u32 {
        (self.bits() % u64::from(limit)) as u32
    }

    /// About normal: mean 0, variance 1, within ±3.5.
    pub fn gauss(&mut self) -> f64 {
        let sum: u64 = (0..4).map(|_| self.bits() >> 40).sum();
        (sum as f64 / (1u64 << 24) as f64 - 2.0) * 3f64.sqrt()
    }

    /// `count` different numbers of `0..limit` in random order.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn distinct(&mut self, count: usize, limit: u32) -> Vec<u32> {
        assert!(count <= limit as usize);
        let mut all: Vec<u32> = (0..limit).collect();
        for place in 0..count {
            let other = place + self.below(limit - place as u32) as usize;
            all.swap(place, other);
        }
        all.truncate(count);
        all
    }
}

/// The real dtypes, with their names in case names.
pub fn reals() -> [(DType, &'static str); 3] {
    [(DType::F32, "f32"), (DType::Bf16, "bf16"), (DType::F16, "f16")]
}

/// Collects the arrays of one case. Methods return the array's place, which the build closure uses.
pub struct Make {
    /// Numbers of this case.
    pub random: Random,
    seed: u64,
    arrays: Vec<Array>,
    weights: Vec<WeightData>,
}

impl Make {
    /// An empty case whose numbers follow from `seed`.
    pub fn new(seed: u64) -> Make {
        Make { random: Random::new(seed), seed, arrays: Vec::new(), weights: Vec::new() }
    }

    fn push(&mut self, mut array: Array) -> usize {
        let bytes = encode(array.dtype, array.codec, array.width(), &array.values);
        array.values = decode(array.dtype, array.codec, array.width(), &bytes);
        self.arrays.push(array);
        self.arrays.len() - 1
    }

    fn gauss(&mut self, dims: &[u32]) -> Vec<f64> {
        (0..dims.iter().product::<u32>()).map(|_| self.random.gauss()).collect()
    }

    /// Values every row reads.
    pub fn shared(
        &mut self,
        name: &'static str,
        dtype: DType,
        dims: &[u32],
        values: Vec<f64>,
    ) -> usize {
        let (dims, codec, role) = (dims.to_vec(), RowCodec::Plain, Role::Shared);
        self.push(Array { name, dims, dtype, codec, values, role })
    }

    /// Random reals every row reads.
    pub fn shared_reals(&mut self, name: &'static str, dtype: DType, dims: &[u32]) -> usize {
        let values = self.gauss(dims);
        self.shared(name, dtype, dims, values)
    }

    /// A random cache in a codec.
    pub fn cache(
        &mut self,
        name: &'static str,
        dtype: DType,
        codec: RowCodec,
        dims: &[u32],
    ) -> usize {
        let values = self.gauss(dims);
        let (dims, role) = (dims.to_vec(), Role::Shared);
        self.push(Array { name, dims, dtype, codec, values, role })
    }

    /// Values per row; padding rows hold `padding` everywhere.
    pub fn rows(
        &mut self,
        name: &'static str,
        dtype: DType,
        dims: &[u32],
        per: u32,
        values: Vec<f64>,
        padding: f64,
    ) -> usize {
        let dims = dims.to_vec();
        let width = dims[1..].iter().product::<u32>() as usize;
        let role = Role::Rows { per, padding: vec![padding; width] };
        self.push(Array { name, dims, dtype, codec: RowCodec::Plain, values, role })
    }

    /// Random reals per row, `per` rows of the array each; padding rows hold zeros.
    pub fn row_reals(&mut self, name: &'static str, dtype: DType, dims: &[u32], per: u32) -> usize {
        let values = self.gauss(dims);
        self.rows(name, dtype, dims, per, values, 0.0)
    }

    /// Indices per row; padding rows hold -1.
    pub fn row_index(&mut self, name: &'static str, dims: &[u32], values: Vec<f64>) -> usize {
        self.rows(name, DType::I32, dims, 1, values, -1.0)
    }

    /// Random indices below `limit`, every `absent`-th -1, per row.
    pub fn row_indices(
        &mut self,
        name: &'static str,
        dims: &[u32],
        limit: u32,
        absent: u32,
    ) -> usize {
        let count = dims.iter().product::<u32>();
        let mut values = Vec::new();
        for _ in 0..count {
            let gone = absent > 0 && self.random.below(absent) == 0;
            values.push(if gone { -1.0 } else { f64::from(self.random.below(limit)) });
        }
        self.row_index(name, dims, values)
    }

    /// An output of which `per` rows belong to each row of the case.
    pub fn out(&mut self, dtype: DType, dims: &[u32], per: u32) -> usize {
        self.out_coded(dtype, RowCodec::Plain, dims, Some(per))
    }

    /// An output in a codec.
    pub fn out_coded(
        &mut self,
        dtype: DType,
        codec: RowCodec,
        dims: &[u32],
        per: Option<u32>,
    ) -> usize {
        let (dims, role) = (dims.to_vec(), Role::Out { per });
        let values = vec![0.0; dims.iter().product::<u32>() as usize];
        self.push(Array { name: "out", dims, dtype, codec, values, role })
    }

    /// An array that is partly written, random before.
    pub fn updated(
        &mut self,
        name: &'static str,
        dtype: DType,
        codec: RowCodec,
        dims: &[u32],
    ) -> usize {
        let values = self.gauss(dims);
        let (dims, role) = (dims.to_vec(), Role::Updated);
        self.push(Array { name, dims, dtype, codec, values, role })
    }

    /// Makes a coded array plain, its values (exact in the codec) unchanged.
    pub fn plain_again(&mut self, place: usize) {
        self.arrays[place].codec = RowCodec::Plain;
    }

    /// Replaces what a padding row of the last array holds.
    pub fn padded_with(&mut self, row: &[f64]) {
        let array = self.arrays.last_mut().expect("an array was made");
        if let Role::Rows { padding, .. } = &mut array.role {
            *padding = row.to_vec();
        }
    }

    /// A random weight of one segment per group.
    pub fn weight(&mut self, groups: u32, rows: u32, cols: u32, encoding: Encoding) -> usize {
        self.segmented(groups, rows, cols, rows, encoding)
    }

    /// A random weight cut into segments.
    pub fn segmented(
        &mut self,
        groups: u32,
        rows: u32,
        cols: u32,
        segment_rows: u32,
        encoding: Encoding,
    ) -> usize {
        let name = format!("weight {}", self.weights.len()).into();
        let spec = WeightSpec { name, groups, rows, cols, segment_rows, encoding };
        self.weights.push(random_weight(&mut self.random, spec));
        self.weights.len() - 1
    }

    /// Makes one FP8 code of a weight NaN: column `column` of row `row`, counted through all groups.
    ///
    /// # Panics
    /// If the weight is not FP8, `code` no NaN, or the place is outside.
    pub fn spoil(&mut self, weight: usize, row: u32, column: u32, code: u8) {
        let WeightData { spec, segments } = &mut self.weights[weight];
        assert!(matches!(spec.encoding, Encoding::Fp8Block { .. }) && code & 0x7f == 0x7f);
        assert!(column < spec.cols, "the row ends before column {column}");
        let (codes, _) = &mut segments[(row / spec.segment_rows) as usize];
        codes[(row % spec.segment_rows * spec.cols + column) as usize] = code;
    }

    /// The arrays so far, to look at.
    pub fn arrays(&self) -> &[Array] {
        &self.arrays
    }

    /// All arrays and weights, for programs of many ops.
    pub fn into_parts(self) -> (Vec<Array>, Vec<WeightData>) {
        (self.arrays, self.weights)
    }

    /// The finished case; the guard shifts the array `shifted`.
    pub fn case(
        self,
        (family, op): (&'static str, &'static str),
        name: impl Into<String>,
        rows: Option<u32>,
        shifted: usize,
        build: impl Fn(&[Tensor], &[Weight]) -> Op + Send + Sync + 'static,
    ) -> Case {
        Case {
            family,
            op,
            name: name.into(),
            seed: self.seed,
            arrays: self.arrays,
            weights: self.weights,
            rows,
            coded: false,
            build: Box::new(build),
            wrong: Wrong::Shifted(shifted),
        }
    }
}

impl Case {
    /// The same case, guarded by an op built differently.
    #[must_use]
    pub fn guarded_by(
        mut self,
        build: impl Fn(&[Tensor], &[Weight]) -> Op + Send + Sync + 'static,
    ) -> Case {
        let build: Build = Box::new(build);
        self.wrong = Wrong::Op(build);
        self
    }

    /// The same case, marked as re-rounding to a block format.
    #[must_use]
    pub fn rounding(mut self, coded: bool) -> Case {
        self.coded = coded;
        self
    }
}
