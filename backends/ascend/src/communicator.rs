//! Collectives between devices of this process, through HCCL.
//!
//! Buffers are used where they lie, so rows must be contiguous. FP8 is not reduced anywhere, and the op
//! vocabulary does not ask for it.

use std::any::Any;
use std::fmt;
use std::ptr;
use std::sync::Arc;

use hal::op::Communicator;
use hal::{DType, Error, Op, Result, Tensor};

use crate::memory::memory_of;
use crate::runtime::{Driver, Runtime};
use crate::sys::acl::aclrtStream;
use crate::sys::hccl::{Hccl, HcclComm, HcclDataType, HcclReduceOp, HcclResult};
use crate::tape::Tape;

/// One device's end of a group.
pub struct AscendCommunicator {
    driver: Arc<Driver>,
    raw: HcclComm,
    rank: u32,
    size: u32,
}

// SAFETY: a handle; collectives of one device are enqueued under the lines' lock.
unsafe impl Send for AscendCommunicator {}
// SAFETY: as above.
unsafe impl Sync for AscendCommunicator {}

impl fmt::Debug for AscendCommunicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AscendCommunicator({} of {})", self.rank, self.size)
    }
}

impl Communicator for AscendCommunicator {
    fn rank(&self) -> u32 {
        self.rank
    }
    fn size(&self) -> u32 {
        self.size
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for AscendCommunicator {
    fn drop(&mut self) {
        if let Some(hccl) = &self.driver.libraries.hccl {
            // SAFETY: made by HcclCommInitAll, destroyed once; plans that use it hold it.
            unsafe { hccl.HcclCommDestroy(self.raw) };
        }
    }
}

fn check(driver: &Driver, code: HcclResult, what: &str) -> Result<()> {
    match code {
        HcclResult::HCCL_SUCCESS => Ok(()),
        HcclResult(code) => Err(Error::driver(code.into(), format!("{what}{}", driver.message()))),
    }
}

fn library(driver: &Driver) -> Result<&Hccl> {
    let hccl = driver.libraries.hccl.as_ref();
    hccl.ok_or_else(|| Error::unsupported("libhccl.so was not found: devices cannot act together"))
}

/// A group of these devices, one end each.
///
/// # Errors
/// `Unsupported` without libhccl, `Driver`.
pub(crate) fn group(
    driver: &Arc<Driver>,
    ordinals: &[u32],
) -> Result<Vec<Arc<AscendCommunicator>>> {
    let mut devices: Vec<i32> = ordinals.iter().map(|&ordinal| ordinal as i32).collect();
    let mut raw: Vec<HcclComm> = vec![ptr::null_mut(); devices.len()];
    let size = devices.len() as u32;
    let hccl = library(driver)?;
    // SAFETY: both arrays have this length.
    let code = unsafe { hccl.HcclCommInitAll(size, devices.as_mut_ptr(), raw.as_mut_ptr()) };
    check(driver, code, "HcclCommInitAll")?;
    let end = |(rank, raw)| {
        let driver = Arc::clone(driver);
        Arc::new(AscendCommunicator { driver, raw, rank: rank as u32, size })
    };
    Ok(raw.into_iter().enumerate().map(end).collect())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    AllReduce,
    AllGather,
    ReduceScatter,
    AllToAll,
}

/// One collective of a plan.
pub(crate) struct Exchange {
    form: Form,
    communicator: Arc<dyn Communicator>,
    source: u64,
    target: u64,
    /// Elements of the whole `x`.
    count: u64,
    dtype: HcclDataType,
}

/// Operands and form of a collective op.
fn parts(op: &Op) -> Option<(Form, &Tensor, &Tensor, &Arc<dyn Communicator>)> {
    Some(match op {
        Op::AllReduce(op) => (Form::AllReduce, &op.x, &op.out, &op.communicator),
        Op::AllGather(op) => (Form::AllGather, &op.x, &op.out, &op.communicator),
        Op::ReduceScatter(op) => (Form::ReduceScatter, &op.x, &op.out, &op.communicator),
        Op::AllToAll(op) => (Form::AllToAll, &op.x, &op.out, &op.communicator),
        _ => return None,
    })
}

/// True for a collective over a group of ours whose operands HCCL takes.
pub(crate) fn fits(op: &Op) -> bool {
    parts(op).is_some_and(|(_, x, out, communicator)| {
        communicator.as_any().is::<AscendCommunicator>()
            && x.is_contiguous()
            && out.is_contiguous()
            && x.dtype() == out.dtype()
    })
}

/// Records the exchange.
pub(crate) fn record(tape: &mut Tape, op: &Op) -> Result<()> {
    let (form, x, out, communicator) = parts(op).expect("the table looked");
    let address = |tensor: &Tensor| {
        memory_of(tensor, &tape.runtime).map(|memory| memory.address + tensor.offset_bytes())
    };
    let exchange = Exchange {
        form,
        communicator: Arc::clone(communicator),
        source: address(x)?,
        target: address(out)?,
        count: x.shape().elements(),
        dtype: match x.dtype() {
            DType::F32 => HcclDataType::HCCL_DATA_TYPE_FP32,
            DType::F16 => HcclDataType::HCCL_DATA_TYPE_FP16,
            _ => HcclDataType::HCCL_DATA_TYPE_BFP16,
        },
    };
    tape.exchange(exchange);
    Ok(())
}

impl Exchange {
    /// Enqueues it.
    pub(crate) fn run(&self, stream: aclrtStream, runtime: &Runtime) -> Result<()> {
        let own: Option<&AscendCommunicator> = self.communicator.as_any().downcast_ref();
        let own = own.expect("the table looked");
        let hccl = library(&runtime.driver)?;
        let source = ptr::without_provenance_mut(self.source as usize);
        let target = ptr::without_provenance_mut(self.target as usize);
        let (count, dtype, sum) = (self.count, self.dtype, HcclReduceOp::HCCL_REDUCE_SUM);
        let share = count / u64::from(own.size);
        // SAFETY: buffers of these sizes belong to the plan until its work is done.
        let code = unsafe {
            match self.form {
                Form::AllReduce => {
                    hccl.HcclAllReduce(source, target, count, dtype, sum, own.raw, stream)
                }
                Form::AllGather => {
                    hccl.HcclAllGather(source, target, count, dtype, own.raw, stream)
                }
                Form::ReduceScatter => {
                    hccl.HcclReduceScatter(source, target, share, dtype, sum, own.raw, stream)
                }
                Form::AllToAll => {
                    hccl.HcclAlltoAll(source, share, dtype, target, share, dtype, own.raw, stream)
                }
            }
        };
        check(&runtime.driver, code, &format!("{:?}", self.form))
    }
}
