//! Programs: checked, ordered lists of ops; lowering to what a device has; scratch planning.
//!
//! A program names its temporaries by number. [`Program::lower`] replaces the ops a device lacks,
//! [`Lowered::bind`] gives every temporary its place in one arena. A backend only ever sees programs
//! whose tensors lie in real buffers and whose ops it said it supports.

use std::fmt;

use crate::arena::{self, Span};
use crate::error::{Error, ErrorKind, Result};
use crate::op::{Access, Op};
use crate::tensor::{Buffer, DType, RowCodec, Shape, Tensor};

/// Where in the model an op came from. Names traces, profiles, errors and snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    /// Layer number; [`Site::EDGE`] outside the layers.
    pub layer: u16,
    /// Part of the layer.
    pub name: &'static str,
}

impl Site {
    /// Layer number of the embedding and the head.
    pub const EDGE: u16 = u16::MAX;
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Site::EDGE => f.write_str(self.name),
            layer => write!(f, "{layer}.{}", self.name),
        }
    }
}

/// One op and where it came from.
#[derive(Clone, Debug)]
pub struct Node {
    /// The op.
    pub op: Op,
    /// Its origin.
    pub site: Site,
}

/// A checked, ordered list of ops.
#[derive(Clone, Debug, Default)]
pub struct Program {
    nodes: Vec<Node>,
    /// Size of every temporary.
    scratch: Vec<u64>,
}

impl Program {
    /// A program of ops that were checked before and name no temporaries.
    pub(crate) fn from_nodes(nodes: Vec<Node>) -> Self {
        Program { nodes, scratch: Vec::new() }
    }

    /// The ops in order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The same program with every op that `supports` refuses replaced by its lowering.
    ///
    /// # Errors
    /// `Unsupported` naming the op, its dtypes and its site if a primitive is refused.
    pub fn lower(&self, supports: &dyn Fn(&Op) -> bool) -> Result<Lowered> {
        let mut builder = Builder { scratch: self.scratch.clone(), ..Builder::new() };
        for node in &self.nodes {
            lower_node(node, supports, &mut builder)?;
        }
        let program = builder.finish()?;
        let (offsets, arena_bytes) = arena::place(&program.spans());
        Ok(Lowered { program, offsets, arena_bytes })
    }

    /// First and last use of every temporary, by node.
    fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> =
            self.scratch.iter().map(|&bytes| Span { first: u32::MAX, last: 0, bytes }).collect();
        for (place, node) in self.nodes.iter().enumerate() {
            node.op.operands(&mut |_, tensor| {
                if let Buffer::Scratch(id) = *tensor.buffer() {
                    let span = &mut spans[id as usize];
                    span.first = span.first.min(place as u32);
                    span.last = place as u32;
                }
            });
        }
        spans
    }

    /// Every temporary is inside its size and written before it is read.
    fn check(&self) -> Result<()> {
        let mut written = vec![false; self.scratch.len()];
        for node in &self.nodes {
            let mut fault = None;
            node.op.operands(&mut |access, tensor| {
                let Buffer::Scratch(id) = *tensor.buffer() else { return };
                match self.scratch.get(id as usize) {
                    None => fault = Some(format!("temporary {id} of another program")),
                    Some(&bytes) if tensor.end_bytes() > bytes => {
                        fault = Some(format!("{tensor:?} leaves temporary {id} of {bytes} bytes"));
                    }
                    Some(_) if access != Access::Write && !written[id as usize] => {
                        fault = Some(format!("temporary {id} is read before it is written"));
                    }
                    Some(_) => {}
                }
            });
            if let Some(fault) = fault {
                return Err(Error::invalid(fault).context(describe(node)));
            }
            node.op.operands(&mut |access, tensor| {
                if let (Buffer::Scratch(id), Access::Write) = (tensor.buffer(), access) {
                    written[*id as usize] = true;
                }
            });
        }
        Ok(())
    }
}

impl fmt::Display for Program {
    /// One op a line, with its operands' shapes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, node) in self.nodes.iter().enumerate() {
            writeln!(f, "{place:5} {}", describe(node))?;
        }
        Ok(())
    }
}

/// `site op(operands)` for messages.
fn describe(node: &Node) -> String {
    let mut text = format!("{} {}(", node.site, node.op.name());
    let mut first = true;
    node.op.operands(&mut |access, tensor| {
        if !first {
            text.push_str(", ");
        }
        first = false;
        let mark = if access == Access::Read { "" } else { "→" };
        text.push_str(&format!("{mark}{:?}{}", tensor.dtype(), tensor.shape()));
    });
    text.push(')');
    text
}

fn lower_node(node: &Node, supports: &dyn Fn(&Op) -> bool, into: &mut Builder) -> Result<()> {
    into.site = node.site;
    if !matches!(node.op, Op::Custom(_)) && supports(&node.op) {
        into.nodes.push(node.clone());
        return Ok(());
    }
    let mut inner =
        Builder { site: node.site, scratch: std::mem::take(&mut into.scratch), nodes: Vec::new() };
    let lowered = node.op.lower(&mut inner).map_err(|error| error.context(describe(node)));
    into.scratch = inner.scratch;
    if !lowered? {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("no kernel for {}", describe(node)),
        ));
    }
    inner.nodes.iter().try_for_each(|node| lower_node(node, supports, into))
}

/// A program of supported ops, its temporaries placed.
#[derive(Clone, Debug)]
pub struct Lowered {
    program: Program,
    offsets: Vec<u64>,
    arena_bytes: u64,
}

impl Lowered {
    /// The program, still with numbered temporaries.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Bytes of scratch the program needs.
    pub fn arena_bytes(&self) -> u64 {
        self.arena_bytes
    }

    /// The program with its temporaries in `arena`.
    ///
    /// # Errors
    /// `InvalidProgram` if the arena is too small.
    pub fn bind(&self, arena: &Buffer) -> Result<Program> {
        if let Buffer::Real(raw) = arena
            && raw.size_bytes() < self.arena_bytes
        {
            return Err(Error::invalid(format!(
                "the arena has {} bytes, the program needs {}",
                raw.size_bytes(),
                self.arena_bytes
            )));
        }
        let mut program = self.program.clone();
        for node in &mut program.nodes {
            node.op.operands_mut(&mut |_, tensor| {
                if let Buffer::Scratch(id) = *tensor.buffer() {
                    *tensor = tensor.rebased(arena.clone(), self.offsets[id as usize]);
                }
            });
        }
        program.scratch.clear();
        Ok(program)
    }
}

/// Collects a program, op by op; each is checked as it arrives.
#[derive(Debug)]
pub struct Builder {
    nodes: Vec<Node>,
    scratch: Vec<u64>,
    site: Site,
}

impl Default for Builder {
    fn default() -> Self {
        Builder::new()
    }
}

impl Builder {
    /// An empty program.
    pub fn new() -> Self {
        let site = Site { layer: Site::EDGE, name: "start" };
        Builder { nodes: Vec::new(), scratch: Vec::new(), site }
    }

    /// Ops pushed from here on come from this place of the model.
    pub fn at(&mut self, layer: u16, name: &'static str) {
        self.site = Site { layer, name };
    }

    /// A new temporary of plain contiguous rows.
    ///
    /// # Panics
    /// If the number of dimensions is not 1 to 4.
    pub fn temp(&mut self, dtype: DType, dims: &[u32]) -> Tensor {
        let shape = Shape::new(dims);
        let id = self.scratch.len() as u32;
        let tensor = Tensor::new(Buffer::Scratch(id), 0, shape, dtype, RowCodec::Plain)
            .expect("offset 0 is aligned and scratch has no end yet");
        self.scratch.push(tensor.end_bytes());
        tensor
    }

    /// Appends an op.
    ///
    /// # Errors
    /// `InvalidProgram` naming the site, the op and the operand.
    pub fn push(&mut self, op: impl Into<Op>) -> Result<()> {
        let op = op.into();
        op.check().map_err(|error| error.context(format!("{} {}", self.site, op.name())))?;
        self.nodes.push(Node { op, site: self.site });
        Ok(())
    }

    /// The finished program.
    ///
    /// # Errors
    /// `InvalidProgram` if a temporary is read before it is written.
    pub fn finish(self) -> Result<Program> {
        let program = Program { nodes: self.nodes, scratch: self.scratch };
        program.check()?;
        Ok(program)
    }
}
