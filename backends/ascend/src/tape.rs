//! The tape: what an op's composition is written onto. Each method appends one call of an operator and
//! gives the view it writes, in scratch of the plan; nothing runs before the plan does.
//!
//! Scratch of one op is free for the next: calls of a plan run in order on one stream.

use std::sync::Arc;

use hal::{Node, Result, Site, Tensor};

use crate::communicator::Exchange;
use crate::memory::{DeviceMemory, memory_of};
use crate::runtime::{Runtime, lock};
use crate::sys::operators::Operator;
use crate::view::{Element, Place, View, vector};

/// Pieces of scratch begin at multiples of this and end with as much to spare (A2 and A3 read 32 bytes
/// past the end).
const PIECE_ALIGN_BYTES: u64 = 64;

/// A parameter of phase one.
#[derive(Clone, Debug)]
pub(crate) enum Arg {
    View(View),
    NoView,
    Views(Vec<View>),
    NoViews,
    Scalar(Element, f64),
    Ints(Vec<i64>),
    NoInts,
    I64(i64),
    I8(i8),
    F64(f64),
    Bool(bool),
    Element(Element),
}

/// One operator with its parameters.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) operator: Operator,
    pub(crate) args: Vec<Arg>,
}

/// One thing a plan does, in order.
pub(crate) enum Item {
    Call(Call),
    Exchange(Exchange),
    /// A fused operator; where its phase one refuses the operands, the calls that do its work.
    Either(Call, Vec<Item>),
}

/// What one op of the program wrote.
pub(crate) struct Piece {
    pub(crate) site: Site,
    pub(crate) op: &'static str,
    pub(crate) items: Vec<Item>,
}

/// The tape of one plan.
pub(crate) struct Tape {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) pieces: Vec<Piece>,
    items: Vec<Item>,
    used_bytes: u64,
    /// Scratch of the op that needs most.
    pub(crate) temp_bytes: u64,
    /// Tables the calls read.
    pub(crate) tables: Vec<Arc<DeviceMemory>>,
}

fn broadcast(a: &[i64], b: &[i64]) -> Vec<i64> {
    let rank = a.len().max(b.len());
    let at = |dims: &[i64], place: usize| match (place + dims.len()).checked_sub(rank) {
        Some(place) => dims[place],
        None => 1,
    };
    (0..rank).map(|place| if at(a, place) == 1 { at(b, place) } else { at(a, place) }).collect()
}

impl Tape {
    pub(crate) fn new(runtime: &Arc<Runtime>) -> Tape {
        Tape {
            runtime: Arc::clone(runtime),
            pieces: Vec::new(),
            items: Vec::new(),
            used_bytes: 0,
            temp_bytes: 0,
            tables: Vec::new(),
        }
    }

    /// What was written since the last end is the work of `node`; scratch is free again.
    pub(crate) fn end(&mut self, node: &Node) {
        self.used_bytes = 0;
        let items = std::mem::take(&mut self.items);
        self.pieces.push(Piece { site: node.site, op: node.op.name(), items });
    }

    /// Bytes of scratch in use, to come back to with [`Tape::rewind`].
    pub(crate) fn mark(&self) -> u64 {
        self.used_bytes
    }

    /// Frees what was taken since `mark`.
    pub(crate) fn rewind(&mut self, mark: u64) {
        self.used_bytes = mark;
    }

    pub(crate) fn push(&mut self, operator: Operator, args: Vec<Arg>) {
        debug_assert_eq!(operator.kinds().len(), args.len(), "{operator:?}");
        self.items.push(Item::Call(Call { operator, args }));
    }

    /// A collective.
    pub(crate) fn exchange(&mut self, exchange: Exchange) {
        self.items.push(Item::Exchange(exchange));
    }

    /// A fused operator where the device takes it, and where it does not, what `compose` writes. Both
    /// write the same views.
    pub(crate) fn prefer(
        &mut self,
        operator: Operator,
        args: Vec<Arg>,
        compose: impl FnOnce(&mut Tape) -> Result<()>,
    ) -> Result<()> {
        debug_assert_eq!(operator.kinds().len(), args.len(), "{operator:?}");
        let before = std::mem::take(&mut self.items);
        let composed = compose(self);
        let otherwise = std::mem::replace(&mut self.items, before);
        composed?;
        self.items.push(Item::Either(Call { operator, args }, otherwise));
        Ok(())
    }

    /// Scratch.
    pub(crate) fn temp(&mut self, element: Element, dims: &[i64]) -> View {
        let bytes = (dims.iter().product::<i64>() as u64 * element.bits()).div_ceil(8);
        let offset = self.used_bytes;
        self.used_bytes += bytes.next_multiple_of(PIECE_ALIGN_BYTES) + PIECE_ALIGN_BYTES;
        self.temp_bytes = self.temp_bytes.max(self.used_bytes);
        View::whole(Place::Temp { offset, bytes }, element, dims)
    }

    pub(crate) fn place(&self, tensor: &Tensor) -> Result<Place> {
        let memory = memory_of(tensor, &self.runtime)?;
        Ok(Place::Memory { address: memory.address, bytes: memory.bytes })
    }

    /// A plain tensor.
    pub(crate) fn view(&self, tensor: &Tensor) -> Result<View> {
        Ok(View::of(tensor, self.place(tensor)?))
    }

    /// A vector in whatever shape.
    pub(crate) fn vector(&self, tensor: &Tensor) -> Result<View> {
        vector(&self.view(tensor)?)
    }

    /// A table on the device, made once per device and name.
    pub(crate) fn table(
        &mut self,
        name: &str,
        element: Element,
        dims: &[i64],
        bytes: impl FnOnce() -> Vec<u8>,
    ) -> Result<View> {
        let mut tables = lock(&self.runtime.tables);
        let memory = match tables.get(name) {
            Some(memory) => Arc::clone(memory),
            None => {
                let memory = Arc::new(DeviceMemory::filled(name, &bytes(), &self.runtime)?);
                tables.insert(name.to_owned(), Arc::clone(&memory));
                memory
            }
        };
        let place = Place::Memory { address: memory.address, bytes: memory.bytes };
        drop(tables);
        self.tables.push(memory);
        Ok(View::whole(place, element, dims))
    }

    /// One number, `[1]`.
    pub(crate) fn constant(&mut self, element: Element, value: f64) -> Result<View> {
        self.table(&format!("{element:?} {value:e}"), element, &[1], || match element {
            Element::F32 => (value as f32).to_le_bytes().to_vec(),
            Element::I32 => (value as i32).to_le_bytes().to_vec(),
            _ => vec![value as i8 as u8],
        })
    }

    /// 0, 1, …, `[count]`, i32.
    pub(crate) fn count_up(&mut self, count: i64) -> Result<View> {
        self.table(&format!("first {count}"), Element::I32, &[count], || {
            (0..count as i32).flat_map(i32::to_le_bytes).collect()
        })
    }

    // ---- operators, by shape

    /// `out` from one operand of equal shape.
    pub(crate) fn unary(&mut self, operator: Operator, x: &View) -> View {
        let out = self.temp(x.element, &x.dims);
        self.push(operator, vec![Arg::View(x.clone()), Arg::View(out.clone())]);
        out
    }

    fn binary_as(&mut self, operator: Operator, a: &View, b: &View, element: Element) -> View {
        let out = self.temp(element, &broadcast(&a.dims, &b.dims));
        self.binary_into(operator, a, b, &out);
        out
    }

    /// Two operands, broadcast.
    pub(crate) fn binary(&mut self, operator: Operator, a: &View, b: &View) -> View {
        self.binary_as(operator, a, b, a.element)
    }

    /// Two operands into a view.
    pub(crate) fn binary_into(&mut self, operator: Operator, a: &View, b: &View, out: &View) {
        let mut args = vec![Arg::View(a.clone()), Arg::View(b.clone())];
        if let Operator::Add | Operator::Sub = operator {
            args.push(Arg::Scalar(a.element, 1.0));
        }
        args.push(Arg::View(out.clone()));
        self.push(operator, args);
    }

    pub(crate) fn add(&mut self, a: &View, b: &View) -> View {
        self.binary(Operator::Add, a, b)
    }

    pub(crate) fn sub(&mut self, a: &View, b: &View) -> View {
        self.binary(Operator::Sub, a, b)
    }

    pub(crate) fn mul(&mut self, a: &View, b: &View) -> View {
        self.binary(Operator::Mul, a, b)
    }

    pub(crate) fn div(&mut self, a: &View, b: &View) -> View {
        self.binary(Operator::Div, a, b)
    }

    /// `a < b`.
    pub(crate) fn less(&mut self, a: &View, b: &View) -> View {
        self.binary_as(Operator::LtTensor, a, b, Element::Bool)
    }

    /// `a ≠ b`.
    pub(crate) fn differ(&mut self, a: &View, b: &View) -> View {
        self.binary_as(Operator::NeTensor, a, b, Element::Bool)
    }

    /// `x` and a scalar of its type.
    pub(crate) fn scalar(&mut self, operator: Operator, x: &View, value: f64) -> View {
        let element = match operator {
            Operator::LtScalar | Operator::GeScalar => Element::Bool,
            _ => x.element,
        };
        let out = self.temp(element, &x.dims);
        let mut args = vec![Arg::View(x.clone()), Arg::Scalar(x.element, value)];
        if operator == Operator::Adds {
            args.push(Arg::Scalar(x.element, 1.0));
        }
        args.push(Arg::View(out.clone()));
        self.push(operator, args);
        out
    }

    pub(crate) fn adds(&mut self, x: &View, value: f64) -> View {
        self.scalar(Operator::Adds, x, value)
    }

    pub(crate) fn muls(&mut self, x: &View, value: f64) -> View {
        self.scalar(Operator::Muls, x, value)
    }

    pub(crate) fn clamp(&mut self, x: &View, low: f64, high: f64) -> View {
        let out = self.temp(x.element, &x.dims);
        let bounds = [low, high].map(|bound| Arg::Scalar(x.element, bound));
        let [low, high] = bounds;
        self.push(Operator::Clamp, vec![Arg::View(x.clone()), low, high, Arg::View(out.clone())]);
        out
    }

    /// `condition ? a : b`.
    pub(crate) fn choose(&mut self, condition: &View, a: &View, b: &View) -> View {
        let dims = broadcast(&broadcast(&a.dims, &b.dims), &condition.dims);
        let out = self.temp(a.element, &dims);
        let args = [condition, a, b, &out].map(|view| Arg::View(view.clone()));
        self.push(Operator::SWhere, args.to_vec());
        out
    }

    /// Copies to a view, converting and broadcasting.
    pub(crate) fn store(&mut self, x: &View, out: &View) {
        if x.element != out.element && x.dims == out.dims {
            self.cast_into(x, out);
            return;
        }
        let args = vec![Arg::View(out.clone()), Arg::View(x.clone())];
        self.push(Operator::InplaceCopy, args);
    }

    fn cast_into(&mut self, x: &View, out: &View) {
        let args = vec![Arg::View(x.clone()), Arg::Element(out.element), Arg::View(out.clone())];
        self.push(Operator::Cast, args);
    }

    /// `x` as another type; `x` itself if it has it.
    pub(crate) fn cast(&mut self, x: &View, element: Element) -> View {
        if x.element == element {
            return x.clone();
        }
        let out = self.temp(element, &x.dims);
        self.cast_into(x, &out);
        out
    }

    /// `x` without gaps.
    pub(crate) fn dense(&mut self, x: &View) -> View {
        if x.is_dense() {
            return x.clone();
        }
        let out = self.temp(x.element, &x.dims);
        self.store(x, &out);
        out
    }

    pub(crate) fn fill(&mut self, out: &View, value: f64) {
        let element = if out.element == Element::F32 { Element::F32 } else { Element::I32 };
        let args = vec![Arg::View(out.clone()), Arg::Scalar(element, value)];
        self.push(Operator::InplaceFillScalar, args);
    }

    /// Reduces dimension `at` to 1 element (`Amax`) or away (`ReduceSum`).
    pub(crate) fn sum(&mut self, x: &View, at: usize) -> View {
        let mut dims = x.dims.clone();
        dims.remove(at);
        let out = self.temp(Element::F32, &dims);
        let args = vec![
            Arg::View(x.clone()),
            Arg::Ints(vec![at as i64]),
            Arg::Bool(false),
            Arg::Element(Element::F32),
            Arg::View(out.clone()),
        ];
        self.push(Operator::ReduceSum, args);
        out
    }

    /// Largest along dimension `at`, which becomes 1.
    pub(crate) fn largest(&mut self, x: &View, at: usize) -> View {
        let mut dims = x.dims.clone();
        dims[at] = 1;
        let out = self.temp(x.element, &dims);
        let args = vec![
            Arg::View(x.clone()),
            Arg::Ints(vec![at as i64]),
            Arg::Bool(true),
            Arg::View(out.clone()),
        ];
        self.push(Operator::Amax, args);
        out
    }

    /// Rows of `x` (dimension 0) at `index` `[n]`.
    pub(crate) fn rows(&mut self, x: &View, index: &View) -> View {
        let mut dims = x.dims.clone();
        dims[0] = index.dim(0);
        let out = self.temp(x.element, &dims);
        let args = vec![
            Arg::View(x.clone()),
            Arg::I64(0),
            Arg::View(index.clone()),
            Arg::View(out.clone()),
        ];
        self.push(Operator::IndexSelect, args);
        out
    }

    /// Stable sort of the last dimension: values, places (i64).
    pub(crate) fn sort(&mut self, x: &View, descending: bool) -> (View, View) {
        let values = self.temp(x.element, &x.dims);
        let places = self.temp(Element::I64, &x.dims);
        let args = vec![
            Arg::View(x.clone()),
            Arg::Bool(true),
            Arg::I64(x.dims.len() as i64 - 1),
            Arg::Bool(descending),
            Arg::View(values.clone()),
            Arg::View(places.clone()),
        ];
        self.push(Operator::Sort, args);
        (values, places)
    }

    /// `[n, k] · [k, m]`, or batches of it; types are kept.
    pub(crate) fn product_into(&mut self, a: &View, b: &View, out: &View) {
        let operator = if a.dims.len() == 2 { Operator::Matmul } else { Operator::BatchMatMul };
        let mut args = [a, b, out].map(|view| Arg::View(view.clone())).to_vec();
        // 0: no down-conversion of f32.
        args.push(Arg::I8(0));
        self.push(operator, args);
    }

    pub(crate) fn product(&mut self, a: &View, b: &View) -> View {
        let mut dims = a.dims.clone();
        let last = dims.len() - 1;
        dims[last] = b.dims[last];
        let out = self.temp(a.element, &dims);
        self.product_into(a, b, &out);
        out
    }
}
