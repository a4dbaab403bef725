//! A launch as plain data: kernel, variant, operands, parameters, size. Nothing of wgpu yet, so every
//! launch of every op can be written down, and its shader checked, where there is no adapter.

use std::fmt::Write;

use hal::{DType, RowCodec, Tensor};

use crate::memory::{Window, window};

/// A binding begins at a multiple of this: WebGPU's default, and the most an adapter asks for.
pub(crate) const BINDING_ALIGN_BYTES: u64 = 256;
/// Invocations of a workgroup, in every kernel.
pub(crate) const LANES: u32 = 64;

/// How the elements of an operand are stored, as a shader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storage {
    /// f32, i32, u32.
    Word,
    /// bf16 or f16; `even`: rows begin on words and have an even width.
    Half { f16: bool, even: bool },
    /// Single bytes.
    Byte,
    /// Rows of `RowCodec::Fp8`; `even`: pairs of columns lie in one word and one block.
    Fp8Rows { even: bool },
    /// Rows of `RowCodec::Fp4`; `even`: pairs of columns lie in one block.
    Fp4Rows { even: bool },
    /// Words whose meaning the kernel knows.
    Raw,
}

/// What a kernel does with an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
}

/// Where an operand lies.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Tensor(Tensor),
    /// All of a buffer of the backend's own: parts of a weight.
    Whole(wgpu::Buffer),
}

/// What a kernel reads or writes: one binding of a launch, or several.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub(crate) name: &'static str,
    pub(crate) storage: Storage,
    pub(crate) usage: Use,
    pub(crate) place: Place,
    /// A table or a cache: it may be wider than a binding, and lie in windows.
    pub(crate) wide: bool,
    /// Bytes of its windows, a power of two, where it lies in several.
    pub(crate) window_bytes: Option<u64>,
}

impl Operand {
    /// The parts of its buffer that it binds, one behind the other.
    pub(crate) fn windows(&self) -> Vec<Window> {
        let whole = match &self.place {
            Place::Whole(buffer) => return vec![Window { offset: 0, size: buffer.size() }],
            Place::Tensor(tensor) => {
                window(tensor.offset_bytes(), tensor.end_bytes(), BINDING_ALIGN_BYTES)
            }
        };
        let Some(bytes) = self.window_bytes else { return vec![whole] };
        let at =
            |skip: u64| Window { offset: whole.offset + skip, size: bytes.min(whole.size - skip) };
        (0..whole.size.div_ceil(bytes)).map(|number| at(number * bytes)).collect()
    }

    /// True if invocations share its words, and set their bits by atomics.
    pub(crate) fn shared(&self) -> bool {
        let shared = matches!(self.storage, Storage::Half { even: false, .. } | Storage::Byte);
        self.usage == Use::Write && shared
    }
}

/// A parameter: a field of the launch's uniform block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Whole(u32),
    Real(f32),
}

/// One dispatch.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// Folder of the kernel.
    pub(crate) family: &'static str,
    /// Its section and entry point.
    pub(crate) kernel: &'static str,
    pub(crate) flags: Vec<String>,
    pub(crate) constants: Vec<(&'static str, u32)>,
    pub(crate) operands: Vec<Operand>,
    pub(crate) numbers: Vec<(String, Number)>,
    /// Workgroups; 0: nothing to do.
    pub(crate) groups: u64,
}

impl Launch {
    pub(crate) fn new(family: &'static str, kernel: &'static str) -> Launch {
        Launch {
            family,
            kernel,
            flags: Vec::new(),
            constants: Vec::new(),
            operands: Vec::new(),
            numbers: Vec::new(),
            groups: 0,
        }
    }

    /// Sets a flag of the shader text.
    pub(crate) fn flag(mut self, name: &str, on: bool) -> Launch {
        if on {
            self.flags.push(name.into());
        }
        self
    }

    /// A constant of the shader text: another value is another pipeline.
    pub(crate) fn constant(mut self, name: &'static str, value: u32) -> Launch {
        self.constants.push((name, value));
        self
    }

    pub(crate) fn number(mut self, name: &str, value: u32) -> Launch {
        self.numbers.push((name.into(), Number::Whole(value)));
        self
    }

    pub(crate) fn real(mut self, name: &str, value: f32) -> Launch {
        self.numbers.push((name.into(), Number::Real(value)));
        self
    }

    /// An operand that is read by (row, column).
    pub(crate) fn read(self, name: &'static str, tensor: &Tensor) -> Launch {
        self.rows(name, tensor, storage_of(tensor), Use::Read)
    }

    /// An operand that may be absent; if it is there, the flag is set.
    pub(crate) fn optional(
        self,
        flag: &str,
        name: &'static str,
        tensor: Option<&Tensor>,
    ) -> Launch {
        match tensor {
            Some(tensor) => self.read(name, tensor).flag(flag, true),
            None => self,
        }
    }

    /// An operand read as one column of its elements, whatever its shape; it is contiguous.
    pub(crate) fn flat(self, name: &'static str, tensor: &Tensor) -> Launch {
        self.flat_as(name, tensor, Use::Read)
    }

    /// [`Launch::flat`], written.
    pub(crate) fn flat_out(self, name: &'static str, tensor: &Tensor) -> Launch {
        self.flat_as(name, tensor, Use::Write)
    }

    fn flat_as(mut self, name: &'static str, tensor: &Tensor, usage: Use) -> Launch {
        // A vector's stride is the distance of its elements.
        let stride = match tensor.dims() {
            [_] => tensor.row_stride_bytes() / tensor.dtype().size_bytes(),
            _ => 1,
        };
        self.place(name, tensor, unpaired(storage_of(tensor)), usage);
        self.number(&format!("{name}_stride"), stride as u32).number(&format!("{name}_width"), 1)
    }

    /// An operand that is written by (row, column).
    pub(crate) fn write(self, name: &'static str, tensor: &Tensor) -> Launch {
        self.rows(name, tensor, storage_of(tensor), Use::Write)
    }

    /// An operand whose pairs of columns may share words with others.
    pub(crate) fn write_single(self, name: &'static str, tensor: &Tensor) -> Launch {
        self.rows(name, tensor, unpaired(storage_of(tensor)), Use::Write)
    }

    /// [`Launch::write`] or, where pairs are cut, [`Launch::write_single`] with the flag SINGLE.
    pub(crate) fn write_pairs(self, name: &'static str, tensor: &Tensor, pairs: bool) -> Launch {
        match pairs {
            true => self.write(name, tensor),
            false => self.write_single(name, tensor).flag("SINGLE", true),
        }
    }

    /// An operand read one element at a time: its pairs may begin anywhere.
    pub(crate) fn read_single(self, name: &'static str, tensor: &Tensor) -> Launch {
        self.rows(name, tensor, unpaired(storage_of(tensor)), Use::Read)
    }

    /// Rows seen as words, read or written; they begin and end on words.
    pub(crate) fn words(mut self, name: &'static str, tensor: &Tensor, usage: Use) -> Launch {
        let begin = tensor.offset_bytes() % BINDING_ALIGN_BYTES / 4;
        self.push(name, Storage::Word, usage, Place::Tensor(tensor.clone()));
        self.number(&format!("{name}_begin"), begin as u32)
            .number(&format!("{name}_stride"), (tensor.row_stride_bytes() / 4) as u32)
            .number(&format!("{name}_width"), (tensor.row_bytes() / 4) as u32)
    }

    /// An operand whose places the kernel computes from its own strides: row 0 is all of it.
    pub(crate) fn linear(mut self, name: &'static str, tensor: &Tensor) -> Launch {
        self.place(name, tensor, unpaired(storage_of(tensor)), Use::Read);
        self.number(&format!("{name}_stride"), 0)
    }

    /// [`Launch::linear`], written in lines of `width` elements; rows are elements.
    pub(crate) fn linear_out(
        mut self,
        name: &'static str,
        tensor: &Tensor,
        width: u32,
        even: bool,
    ) -> Launch {
        let storage = match storage_of(tensor) {
            Storage::Half { f16, .. } => Storage::Half { f16, even },
            storage => storage,
        };
        self.place(name, tensor, storage, Use::Write);
        self.number(&format!("{name}_stride"), 1).number(&format!("{name}_width"), width)
    }

    /// An operand whose rows are words that the kernel reads or writes itself.
    pub(crate) fn raw_rows(self, name: &'static str, tensor: &Tensor) -> Launch {
        self.rows(name, tensor, Storage::Raw, Use::Write)
    }

    /// Words of the backend's own.
    pub(crate) fn whole(mut self, name: &'static str, buffer: &wgpu::Buffer) -> Launch {
        self.push(name, Storage::Raw, Use::Read, Place::Whole(buffer.clone()));
        self.number(&format!("{name}_begin"), 0)
    }

    fn rows(mut self, name: &'static str, tensor: &Tensor, storage: Storage, usage: Use) -> Launch {
        self.place(name, tensor, storage, usage);
        let stride = tensor.row_stride_bytes() / element_bytes(storage, tensor);
        self = self.number(&format!("{name}_stride"), stride as u32);
        if usage == Use::Write {
            self = self.number(&format!("{name}_width"), tensor.width());
        }
        match tensor.codec() {
            RowCodec::Plain => self,
            codec => self.coded(name, codec, tensor.width()),
        }
    }

    fn place(&mut self, name: &'static str, tensor: &Tensor, storage: Storage, usage: Use) {
        let begin = tensor.offset_bytes() % BINDING_ALIGN_BYTES / element_bytes(storage, tensor);
        self.numbers.push((format!("{name}_begin"), Number::Whole(begin as u32)));
        match storage {
            Storage::Half { f16, even } => {
                self.flags.extend(f16.then(|| format!("{name}_f16")));
                self.flags.extend(even.then(|| format!("{name}_even")));
            }
            Storage::Fp8Rows { even: true } | Storage::Fp4Rows { even: true } => {
                self.flags.push(format!("{name}_even"));
            }
            _ => {}
        }
        self.push(name, storage, usage, Place::Tensor(tensor.clone()));
    }

    fn push(&mut self, name: &'static str, storage: Storage, usage: Use, place: Place) {
        let (wide, window_bytes) = (false, None);
        self.operands.push(Operand { name, storage, usage, place, wide, window_bytes });
    }

    /// Marks an operand as a table or a cache, which may lie in windows.
    ///
    /// # Panics
    /// If there is no operand of this name yet.
    pub(crate) fn wide(mut self, name: &str) -> Launch {
        let operand = self.operands.iter_mut().find(|operand| operand.name == name);
        operand.expect("an operand is marked after it was added").wide = true;
        self
    }

    /// Bindings of all operands.
    pub(crate) fn bindings(&self) -> usize {
        self.operands.iter().map(|operand| operand.windows().len()).sum()
    }

    /// Where codes and scales of a coded row lie.
    fn coded(self, name: &'static str, codec: RowCodec, width: u32) -> Launch {
        let (coded, scales, block) = coded_row(codec, width);
        self.number(&format!("{name}_coded"), coded)
            .number(&format!("{name}_scales"), scales)
            .number(&format!("{name}_block"), block)
    }

    /// One invocation for each.
    pub(crate) fn threads(self, count: u64) -> Launch {
        let mut launch = self.number("threads", count.min(u64::from(u32::MAX)) as u32);
        launch.groups = count.div_ceil(u64::from(LANES));
        launch
    }

    /// One invocation for each pair of columns of `rows` rows.
    pub(crate) fn pairs(self, rows: u32, width: u32) -> Launch {
        let pairs = width.div_ceil(2);
        self.number("pairs", pairs).threads(u64::from(rows) * u64::from(pairs))
    }

    /// One workgroup for each.
    pub(crate) fn blocks(self, count: u64) -> Launch {
        let mut launch = self.number("blocks", count.min(u64::from(u32::MAX)) as u32);
        launch.groups = count;
        launch
    }

    /// What names the shader text: everything but operands' places and numbers' values.
    pub(crate) fn key(&self) -> String {
        let mut key = format!("{}/{}", self.family, self.kernel);
        for flag in &self.flags {
            let _ = write!(key, " {flag}");
        }
        for (name, value) in &self.constants {
            let _ = write!(key, " {name}={value}");
        }
        for operand in &self.operands {
            let _ = write!(key, " {}:{:?}", operand.name, operand.storage);
            if operand.window_bytes.is_some() {
                let _ = write!(key, " in {} windows", operand.windows().len());
            }
        }
        key
    }
}

/// The same storage, its pairs not known to begin on words.
fn unpaired(storage: Storage) -> Storage {
    match storage {
        Storage::Half { f16, .. } => Storage::Half { f16, even: false },
        Storage::Fp8Rows { .. } => Storage::Fp8Rows { even: false },
        Storage::Fp4Rows { .. } => Storage::Fp4Rows { even: false },
        storage => storage,
    }
}

/// Bytes of what `begin` and `stride` count.
pub(crate) fn element_bytes(storage: Storage, tensor: &Tensor) -> u64 {
    match storage {
        Storage::Fp8Rows { .. } | Storage::Fp4Rows { .. } | Storage::Raw => 4,
        _ => tensor.dtype().size_bytes(),
    }
}

/// How a tensor's elements are stored.
pub(crate) fn storage_of(tensor: &Tensor) -> Storage {
    let even_width = tensor.width().is_multiple_of(2);
    match (tensor.codec(), tensor.dtype()) {
        (RowCodec::Fp8 { block, tail }, _) => {
            let even = block.is_multiple_of(2) && tail.is_multiple_of(2) && even_width;
            Storage::Fp8Rows { even }
        }
        (RowCodec::Fp4 { block }, _) => {
            Storage::Fp4Rows { even: block.is_multiple_of(2) && even_width }
        }
        (_, DType::F32 | DType::I32 | DType::U32) => Storage::Word,
        (_, dtype @ (DType::F16 | DType::Bf16)) => {
            let words = tensor.offset_bytes().is_multiple_of(4)
                && tensor.row_stride_bytes().is_multiple_of(4);
            Storage::Half { f16: dtype == DType::F16, even: words && even_width }
        }
        (_, DType::F8E4M3 | DType::U8) => Storage::Byte,
    }
}

/// Coded columns, byte of the first scale, and columns per scale of a coded row.
///
/// # Panics
/// For plain rows, which have no codes.
pub(crate) fn coded_row(codec: RowCodec, width: u32) -> (u32, u32, u32) {
    match codec {
        RowCodec::Fp8 { block, tail } => {
            let coded = width.saturating_sub(u32::from(tail));
            (coded, coded + 2 * u32::from(tail), u32::from(block))
        }
        RowCodec::Fp4 { block } => (width, width.div_ceil(2), u32::from(block)),
        other => unreachable!("{other:?} has no codes"),
    }
}
