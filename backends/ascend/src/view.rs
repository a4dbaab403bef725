//! Views: where the elements of an operand lie, as the vendor counts them (elements, not bytes).

use hal::{DType, Error, Result, Tensor};

use crate::sys::acl::aclDataType;

/// Element types operators are called with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Element {
    F32,
    F16,
    Bf16,
    F8E4M3,
    F4E2M1,
    I64,
    I32,
    I8,
    U8,
    Bool,
}

impl Element {
    pub(crate) fn bits(self) -> u64 {
        match self {
            Element::I64 => 64,
            Element::F32 | Element::I32 => 32,
            Element::F16 | Element::Bf16 => 16,
            Element::F4E2M1 => 4,
            Element::F8E4M3 | Element::I8 | Element::U8 | Element::Bool => 8,
        }
    }

    pub(crate) fn code(self) -> aclDataType {
        match self {
            Element::F32 => aclDataType::ACL_FLOAT,
            Element::F16 => aclDataType::ACL_FLOAT16,
            Element::Bf16 => aclDataType::ACL_BF16,
            Element::F8E4M3 => aclDataType::ACL_FLOAT8_E4M3FN,
            Element::F4E2M1 => aclDataType::ACL_FLOAT4_E2M1,
            Element::I64 => aclDataType::ACL_INT64,
            Element::I32 => aclDataType::ACL_INT32,
            Element::I8 => aclDataType::ACL_INT8,
            Element::U8 => aclDataType::ACL_UINT8,
            Element::Bool => aclDataType::ACL_BOOL,
        }
    }

    /// Of a plain tensor. Codes and 32-bit integers are moved, never computed on as such.
    pub(crate) fn of(dtype: DType) -> Element {
        match dtype {
            DType::F32 => Element::F32,
            DType::F16 => Element::F16,
            DType::Bf16 => Element::Bf16,
            DType::I32 | DType::U32 => Element::I32,
            DType::F8E4M3 | DType::U8 => Element::U8,
        }
    }
}

/// A block of memory: at an address, or at an offset in the plan's own scratch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Place {
    Memory { address: u64, bytes: u64 },
    Temp { offset: u64, bytes: u64 },
}

/// Elements of a place.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) place: Place,
    pub(crate) element: Element,
    /// First element.
    pub(crate) offset: i64,
    pub(crate) dims: Vec<i64>,
    pub(crate) strides: Vec<i64>,
}

/// Strides of rows without gaps.
fn dense(dims: &[i64]) -> Vec<i64> {
    let mut strides = vec![1; dims.len()];
    for at in (1..dims.len()).rev() {
        strides[at - 1] = strides[at] * dims[at].max(1);
    }
    strides
}

impl View {
    pub(crate) fn whole(place: Place, element: Element, dims: &[i64]) -> View {
        View { place, element, offset: 0, dims: dims.to_vec(), strides: dense(dims) }
    }

    /// A plain tensor at `place`.
    pub(crate) fn of(tensor: &Tensor, place: Place) -> View {
        View::cast(tensor, place, Element::of(tensor.dtype()))
    }

    fn cast(tensor: &Tensor, place: Place, element: Element) -> View {
        let bytes = element.bits() / 8;
        let dims: Vec<i64> = tensor.dims().iter().map(|&dim| dim.into()).collect();
        let mut strides = dense(&dims);
        strides[0] = (tensor.row_stride_bytes() / bytes) as i64;
        let offset = (tensor.offset_bytes() / bytes) as i64;
        View { place, element, offset, dims, strides }
    }

    /// The rows of any tensor as `[rows, units]`: in 4-byte units where everything divides, else bytes.
    pub(crate) fn units(tensor: &Tensor, place: Place) -> View {
        let whole = [tensor.offset_bytes(), tensor.row_stride_bytes(), tensor.row_bytes()];
        let element = match whole.iter().all(|bytes| bytes.is_multiple_of(4)) {
            true => Element::I32,
            false => Element::I8,
        };
        View::rows_of(tensor, place, element)
    }

    /// The rows of any tensor as `[rows, row bytes / size of element]`.
    pub(crate) fn rows_of(tensor: &Tensor, place: Place, element: Element) -> View {
        let size = element.bits() / 8;
        View {
            place,
            element,
            offset: (tensor.offset_bytes() / size) as i64,
            dims: vec![tensor.rows().into(), (tensor.row_bytes() / size) as i64],
            strides: vec![(tensor.row_stride_bytes() / size) as i64, 1],
        }
    }

    pub(crate) fn elements(&self) -> i64 {
        self.dims.iter().product()
    }

    pub(crate) fn dim(&self, at: usize) -> i64 {
        self.dims[at]
    }

    pub(crate) fn is_dense(&self) -> bool {
        let wanted = dense(&self.dims);
        let differ = |at: usize| self.dims[at] > 1 && self.strides[at] != wanted[at];
        !(0..self.dims.len()).any(differ)
    }

    /// Elements `first..first + count` of dimension `at`.
    pub(crate) fn slice(&self, at: usize, first: i64, count: i64) -> View {
        debug_assert!(first + count <= self.dims[at]);
        let mut view = self.clone();
        view.offset += first * view.strides[at];
        view.dims[at] = count;
        view
    }

    /// Element `index` of dimension `at`, which goes away.
    pub(crate) fn at(&self, at: usize, index: i64) -> View {
        let mut view = self.slice(at, index, 1);
        view.dims.remove(at);
        view.strides.remove(at);
        view
    }

    /// Every `step`-th element of the last dimension, from `first` on.
    pub(crate) fn every(&self, first: i64, step: i64) -> View {
        let last = self.dims.len() - 1;
        let mut view = self.clone();
        view.offset += first * view.strides[last];
        view.dims[last] = (view.dims[last] - first + step - 1) / step;
        view.strides[last] *= step;
        view
    }

    /// Dimension `at` cut in pieces of `inner`.
    pub(crate) fn split(&self, at: usize, inner: i64) -> View {
        debug_assert!(self.dims[at] % inner == 0);
        let mut view = self.clone();
        view.dims[at] /= inner;
        view.strides[at] *= inner;
        view.dims.insert(at + 1, inner);
        view.strides.insert(at + 1, self.strides[at]);
        view
    }

    /// A dimension of 1 in front of dimension `at`.
    pub(crate) fn unsqueeze(&self, at: usize) -> View {
        let mut view = self.clone();
        let stride = view.strides.get(at).map_or(1, |stride| stride * view.dims[at].max(1));
        view.dims.insert(at, 1);
        view.strides.insert(at, stride);
        view
    }

    /// Dimensions `a` and `b` exchanged.
    pub(crate) fn swap(&self, a: usize, b: usize) -> View {
        let mut view = self.clone();
        view.dims.swap(a, b);
        view.strides.swap(a, b);
        view
    }

    /// Other dimensions of elements without gaps.
    pub(crate) fn reshape(&self, dims: &[i64]) -> View {
        debug_assert!(self.is_dense(), "{self:?} as {dims:?}");
        debug_assert_eq!(dims.iter().product::<i64>(), self.elements());
        View { dims: dims.to_vec(), strides: dense(dims), ..self.clone() }
    }

    /// The same bits read as another type of equal size.
    pub(crate) fn bits_as(&self, element: Element) -> View {
        debug_assert_eq!(element.bits(), self.element.bits());
        View { element, ..self.clone() }
    }
}

/// A vector of `count` values in any of the shapes `[count]`, `[count, 1]`, `[1, count]`.
pub(crate) fn vector(view: &View) -> Result<View> {
    let long: Vec<usize> = (0..view.dims.len()).filter(|&at| view.dims[at] != 1).collect();
    let (dim, stride) = match long[..] {
        [] => (1, 1),
        [at] => (view.dims[at], view.strides[at]),
        _ => return Err(Error::invalid(format!("{:?} is no vector", view.dims))),
    };
    Ok(View { dims: vec![dim], strides: vec![stride], ..view.clone() })
}
