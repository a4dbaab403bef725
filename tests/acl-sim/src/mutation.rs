//! Mistakes on order: the n-th call of a kind is altered at the door, as if the caller had made it so. A test
//! runs the backend with one mistake at a time and wants each to be found.

/// A mistake a caller could make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mutation {
    /// A stream does not wait for an event.
    DroppedWait,
    /// An event is not recorded.
    DroppedRecord,
    /// Phase two is given a byte less than phase one wanted.
    ShortWorkspace,
    /// Phase two is given no workspace.
    NoWorkspace,
    /// Workspace is freed right after phase two.
    EarlyFree,
    /// The first two tensors of an operator are exchanged.
    SwappedOperands,
    /// A tensor is said to have another type.
    WrongType,
    /// A tensor is said to have another format.
    WrongFormat,
    /// A tensor begins an element later.
    ShiftedTensor,
    /// A tensor's data is not aligned.
    MisalignedTensor,
    /// A tensor's data is a host pointer.
    HostPointer,
    /// A copy says the other direction.
    WrongDirection,
    /// A thread calls without a context.
    NoContext,
    /// Phase two is called twice with one executor.
    RunTwice,
    /// A descriptor is never destroyed.
    LeakedTensor,
    /// A tensor is destroyed twice.
    DestroyedTwice,
    /// A stream is destroyed without being synchronised.
    DroppedSynchronise,
    /// Memory is filled while a graph is captured.
    MemsetInCapture,
    /// A sort is not stable.
    UnstableSort,
    /// A product of f32 may lose precision.
    LowPrecision,
    /// Memory is never freed.
    LeakedMemory,
    /// An operator is given its objects in another package's order.
    OtherSignature,
    /// An operand is freed right after phase two.
    FreedOperand,
    /// The host writes behind the end of pinned memory.
    HostOverrun,
    /// Memory that is read is never filled.
    DroppedMemset,
    /// An event to be waited for is made for measuring.
    WrongEventFlag,
    /// A capture begins in a mode there is not.
    WrongCaptureMode,
    /// A captured graph is never destroyed.
    LeakedGraph,
    /// A collective is told the operators' number of a type.
    WrongCollectiveType,
}

/// All of them, by number.
pub const ALL: [Mutation; 29] = [
    Mutation::DroppedWait,
    Mutation::DroppedRecord,
    Mutation::ShortWorkspace,
    Mutation::NoWorkspace,
    Mutation::EarlyFree,
    Mutation::SwappedOperands,
    Mutation::WrongType,
    Mutation::WrongFormat,
    Mutation::ShiftedTensor,
    Mutation::MisalignedTensor,
    Mutation::HostPointer,
    Mutation::WrongDirection,
    Mutation::NoContext,
    Mutation::RunTwice,
    Mutation::LeakedTensor,
    Mutation::DestroyedTwice,
    Mutation::DroppedSynchronise,
    Mutation::MemsetInCapture,
    Mutation::UnstableSort,
    Mutation::LowPrecision,
    Mutation::LeakedMemory,
    Mutation::OtherSignature,
    Mutation::FreedOperand,
    Mutation::HostOverrun,
    Mutation::DroppedMemset,
    Mutation::WrongEventFlag,
    Mutation::WrongCaptureMode,
    Mutation::LeakedGraph,
    Mutation::WrongCollectiveType,
];

/// The mistake that is ordered, and how many calls of its kind come before it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Order(pub Option<(Mutation, u64)>);

impl Order {
    /// True once: when a call of this kind is the one.
    pub fn strikes(&mut self, mutation: Mutation) -> bool {
        match &mut self.0 {
            Some((ordered, 0)) if *ordered == mutation => {
                self.0 = None;
                true
            }
            Some((ordered, left)) if *ordered == mutation => {
                *left -= 1;
                false
            }
            _ => false,
        }
    }
}
