//! The two phases of every operator: what phase one promises, what phase two must bring.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backend_ascend::sys::acl::{aclDataType, aclFormat, aclrtStream};
use backend_ascend::sys::nnopbase::aclOpExecutor;
use backend_ascend::sys::operators::{Operator, Raw};

use crate::machine::{Machine, Object, POISON, Scalar, Soc, Span, Tensor, lock, read_unwritten};
use crate::mutation::Mutation;
use crate::numerics;
use crate::rules;
use crate::runtime::{FAILURE, current, enter, fail, refuse, stream_of};
use crate::stream::{Task, launch};
use crate::view::{View, bits};

const NULL: i32 = 161_001;
pub const INVALID: i32 = 161_002;
const NOT_INSTALLED: i32 = 561_112;
/// Descriptors want their data at multiples of this.
const DATA_ALIGN: u64 = 32;

/// A parameter, looked up.
#[derive(Clone, Debug)]
pub enum Param {
    /// A tensor that is read, or written.
    Tensor(Tensor, bool),
    List(Option<Vec<Tensor>>, bool),
    Scalar(Scalar),
    Ints(Option<Vec<i64>>),
    Int(i64),
    Float(f64),
    Bool(bool),
    Dtype(aclDataType),
    /// An optional tensor that was not given.
    Absent,
}

/// What phase one made.
pub struct Executor {
    operator: Operator,
    params: Vec<Param>,
    /// Handles of the descriptors it was made from.
    handles: Vec<usize>,
    workspace_bytes: u64,
    device: i32,
    pub repeatable: AtomicBool,
}

impl Executor {
    /// Operators that copy operands inside, or sort, serve once.
    pub fn repeats(&self) -> bool {
        let strided = |tensor: &Tensor| !rules::is_dense(tensor);
        self.operator != Operator::Sort
            && !self.params.iter().any(|param| match param {
                Param::Tensor(tensor, _) => strided(tensor),
                Param::List(Some(tensors), _) => tensors.iter().any(strided),
                _ => false,
            })
    }
}

fn tensor(
    machine: &Machine,
    handle: usize,
    device: i32,
    handles: &mut Vec<usize>,
) -> Result<Tensor, (i32, String)> {
    if handle == 0 {
        return Err((NULL, "a tensor is null".into()));
    }
    let Some(Object::Tensor(tensor)) = machine.objects.get(&handle) else {
        return Err((INVALID, "a tensor was destroyed, or is none".into()));
    };
    handles.push(handle);
    check_tensor(machine, tensor, device)?;
    Ok(tensor.clone())
}

/// Memory, alignment, bounds, and whether this hardware has the type.
fn check_tensor(machine: &Machine, tensor: &Tensor, device: i32) -> Result<(), (i32, String)> {
    let wrong = |text: String| Err((INVALID, text));
    if tensor.format != aclFormat::ACL_FORMAT_ND {
        return wrong(format!("format {}, ND is due", tensor.format.0));
    }
    let Some(bits) = bits(tensor.dtype) else {
        return wrong(format!("type {} is unknown", tensor.dtype.0));
    };
    let small =
        [aclDataType::ACL_FLOAT8_E4M3FN, aclDataType::ACL_FLOAT4_E2M1].contains(&tensor.dtype);
    if small && machine.soc != Soc::A5 {
        return wrong(format!("type {} does not exist on this hardware", tensor.dtype.0));
    }
    if !tensor.data.is_multiple_of(DATA_ALIGN) {
        return wrong(format!("data at {:#x} is not aligned to {DATA_ALIGN}", tensor.data));
    }
    let stored: i64 = tensor.storage.iter().product();
    let bytes = (stored as u64 * bits).div_ceil(8);
    machine.device_span(tensor.data, bytes, device).map_err(|text| (INVALID, text))?;
    if tensor.dims.iter().all(|&dim| dim > 0) {
        let pairs = tensor.dims.iter().zip(&tensor.strides);
        let last = tensor.offset + pairs.map(|(dim, stride)| (dim - 1) * stride).sum::<i64>();
        if last >= stored {
            return wrong(format!("{tensor:?} leaves its storage"));
        }
    }
    Ok(())
}

fn param(
    machine: &Machine,
    (kind, raw): (char, &Raw),
    device: i32,
    handles: &mut Vec<usize>,
) -> Result<Param, (i32, String)> {
    let writes = matches!(kind, 'O' | 'C' | 'M');
    Ok(match *raw {
        Raw::T(pointer) if kind == 'N' && pointer.is_null() => Param::Absent,
        Raw::T(pointer) => Param::Tensor(tensor(machine, pointer.addr(), device, handles)?, writes),
        Raw::L(pointer) if pointer.is_null() => Param::List(None, writes),
        Raw::L(pointer) => {
            let Some(Object::List(list)) = machine.objects.get(&pointer.addr()) else {
                return Err((INVALID, "a list was destroyed, or is none".into()));
            };
            handles.push(pointer.addr());
            let tensors = list.iter().map(|&one| tensor(machine, one, device, handles));
            Param::List(Some(tensors.collect::<Result<_, _>>()?), writes)
        }
        Raw::S(pointer) => match machine.objects.get(&pointer.addr()) {
            Some(Object::Scalar(scalar)) => Param::Scalar(*scalar),
            _ => return Err((NULL, "a scalar is null, destroyed, or none".into())),
        },
        Raw::A(pointer) if pointer.is_null() => Param::Ints(None),
        Raw::A(pointer) => match machine.objects.get(&pointer.addr()) {
            Some(Object::Ints(ints)) => Param::Ints(Some(ints.clone())),
            _ => return Err((INVALID, "an array was destroyed, or is none".into())),
        },
        Raw::I(value) => Param::Int(value),
        Raw::B(value) => Param::Int(value.into()),
        Raw::F(value) => Param::Float(value),
        Raw::Y(value) => Param::Bool(value),
        Raw::D(value) => Param::Dtype(value),
    })
}

/// Phase one.
///
/// # Safety
/// `workspace` and `executor` are places to write to.
pub unsafe fn plan(
    operator: Operator,
    raw: &[Raw],
    workspace: *mut u64,
    executor: *mut *mut aclOpExecutor,
) -> i32 {
    let name = operator.symbols().0;
    let made = || -> Result<(), i32> {
        let mut machine = enter(name)?;
        let (_, device) = current(&mut machine, name)?;
        if machine.absent == Some(operator) {
            return Err(fail(NOT_INSTALLED, &format!("{name}: the kernels are not installed")));
        }
        let mut raw = raw.to_vec();
        mistaken(&mut machine, operator, &mut raw);
        let mut handles = Vec::new();
        let params: Result<Vec<Param>, (i32, String)> = operator
            .kinds()
            .chars()
            .zip(&raw)
            .map(|pair| param(&machine, pair, device, &mut handles))
            .collect();
        let checked = params.and_then(|params| {
            rules::check(operator, &params, machine.soc)
                .map(|bytes| (params, bytes))
                .map_err(|text| (INVALID, text))
        });
        let (params, workspace_bytes) = match checked {
            Ok(checked) => checked,
            Err((code, text)) => {
                return Err(refuse(&mut machine, code, format!("{name}: {text}")));
            }
        };
        let repeatable = AtomicBool::new(false);
        let object = Executor { operator, params, handles, workspace_bytes, device, repeatable };
        let handle = machine.handle();
        machine.objects.insert(handle, Object::Executor(Arc::new(object)));
        // SAFETY: the caller gives two places to write to.
        unsafe { workspace.write(workspace_bytes) };
        // SAFETY: as above.
        unsafe { executor.write(std::ptr::without_provenance_mut(handle)) };
        Ok(())
    };
    made().err().unwrap_or(0)
}

/// Makes the mistake that a test ordered.
fn mistaken(machine: &mut Machine, operator: Operator, raw: &mut [Raw]) {
    let ordered = matches!(operator, Operator::Sub | Operator::Div | Operator::LtTensor);
    if ordered && machine.order.strikes(Mutation::SwappedOperands) {
        raw.swap(0, 1);
    }
    if operator == Operator::Sort && machine.order.strikes(Mutation::UnstableSort) {
        raw[1] = Raw::Y(false);
    }
    if raw.len() > 2 && machine.order.strikes(Mutation::OtherSignature) {
        let pointer = |raw: &Raw| match *raw {
            Raw::T(pointer) => Some(pointer.addr()),
            Raw::S(pointer) => Some(pointer.addr()),
            Raw::A(pointer) => Some(pointer.addr()),
            Raw::L(pointer) => Some(pointer.addr()),
            _ => None,
        };
        // Another package puts the first object behind the others.
        let mut objects: Vec<usize> = raw.iter().filter_map(pointer).collect();
        objects.rotate_left(1);
        let mut objects = objects.into_iter().map(std::ptr::without_provenance);
        for one in raw.iter_mut() {
            let mut next = || objects.next().expect("as many as were taken");
            match one {
                Raw::T(pointer) => *pointer = next(),
                Raw::S(pointer) => *pointer = next().cast(),
                Raw::A(pointer) => *pointer = next().cast(),
                Raw::L(pointer) => *pointer = next().cast(),
                _ => {}
            }
        }
    }
    if operator == Operator::Matmul && machine.order.strikes(Mutation::LowPrecision) {
        raw[3] = Raw::B(1);
    }
}

/// Phase two.
pub fn run(
    operator: Operator,
    workspace: *mut c_void,
    bytes: u64,
    executor: *mut aclOpExecutor,
    raw_stream: aclrtStream,
) -> i32 {
    let name = operator.symbols().1;
    let made = || -> Result<(), i32> {
        let mut machine = enter(name)?;
        let stream = stream_of(&mut machine, raw_stream, name)?;
        let Some(Object::Executor(found)) = machine.objects.get(&executor.addr()) else {
            let text = format!("{name}: phase two without phase one, or twice");
            return Err(refuse(&mut machine, INVALID, text));
        };
        let found = Arc::clone(found);
        let (mut bytes, mut address) = (bytes, workspace.addr() as u64);
        if bytes > 0 && machine.order.strikes(Mutation::ShortWorkspace) {
            bytes -= 1;
        }
        if bytes > 0 && machine.order.strikes(Mutation::NoWorkspace) {
            address = 0;
        }
        if !found.repeatable.load(Ordering::Relaxed) {
            machine.objects.remove(&executor.addr());
        }
        let task = task(&machine, operator, &found, address, bytes);
        let task = match task {
            Ok(task) if found.device == machine.streams[&stream].device => task,
            Ok(_) => return Err(refuse(&mut machine, INVALID, format!("{name}: other device"))),
            Err(text) => return Err(refuse(&mut machine, INVALID, format!("{name}: {text}"))),
        };
        let launched = launch(&mut machine, stream, task);
        if bytes > 0 && machine.order.strikes(Mutation::EarlyFree) {
            machine.free(address, false);
        }
        let operand = found.params.iter().find_map(|param| match param {
            Param::Tensor(tensor, false) => Some(tensor.data),
            _ => None,
        });
        if let Some(operand) = operand
            && machine.order.strikes(Mutation::FreedOperand)
        {
            let block = machine.find(operand, 0).map(|span| span.block.address);
            machine.free(block.unwrap_or(operand), false);
        }
        let once = !found.repeatable.load(Ordering::Relaxed);
        if once && machine.order.strikes(Mutation::RunTwice) {
            drop(machine);
            return Err(run(operator, workspace, bytes, executor, raw_stream));
        }
        launched.map_err(|text| refuse(&mut machine, FAILURE, text))
    };
    made().err().unwrap_or(0)
}

/// The work of one run with all it touches.
fn task(
    machine: &Machine,
    operator: Operator,
    executor: &Executor,
    workspace: u64,
    bytes: u64,
) -> Result<Task, String> {
    if executor.operator != operator {
        return Err(format!("the executor is of {:?}", executor.operator));
    }
    if executor.handles.iter().any(|handle| !machine.objects.contains_key(handle)) {
        return Err("a descriptor was destroyed between the phases".into());
    }
    let mut spans: Vec<(Span, bool)> = Vec::new();
    if bytes < executor.workspace_bytes {
        return Err(format!("workspace of {bytes} bytes, {} are due", executor.workspace_bytes));
    }
    if executor.workspace_bytes > 0 {
        spans.push((machine.device_span(workspace, bytes, executor.device)?, true));
    }
    let scratch = spans.first().cloned().map(|(span, _)| span);
    let mut view = |tensor: &Tensor, writes: bool| -> Result<View, String> {
        let view = View::new(machine, tensor, executor.device)?;
        spans.extend(view.span().map(|span| (span, writes)));
        Ok(view)
    };
    let mut operands = Vec::new();
    for param in &executor.params {
        match param {
            Param::Tensor(tensor, writes) => operands.push(view(tensor, *writes)?),
            Param::List(Some(tensors), writes) => {
                for tensor in tensors {
                    operands.push(view(tensor, *writes)?);
                }
            }
            _ => {}
        }
    }
    let params = executor.params.clone();
    let what = operator.symbols().1.to_owned();
    let all: Vec<Span> = spans.iter().map(|(span, _)| span.clone()).collect();
    let body = move || {
        if all.iter().any(|span| *lock(&span.block.freed)) {
            return Err("memory was freed before the operator ran".to_owned());
        }
        if let Some(scratch) = &scratch {
            scratch.write(&vec![POISON; (scratch.range.1 - scratch.range.0) as usize]);
        }
        read_unwritten();
        numerics::run(operator, &params, &operands)?;
        match read_unwritten() {
            true => Err("it reads memory that nobody wrote".to_owned()),
            false => Ok(()),
        }
    };
    Ok(Task { what, spans, body: Arc::new(body) })
}
