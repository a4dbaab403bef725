//! Weights: every encoding is kept as it is, that is, counted. A real backend pulls segment after
//! segment into its own layout here.

use std::any::Any;
use std::sync::Arc;

use hal::{Error, RawWeight, Result, Weight, WeightPart, WeightSource, WeightSpec, WeightSupport};

use crate::memory::{Counted, Ledger};

#[derive(Debug)]
pub(crate) struct NullWeight {
    _counted: Counted,
}

impl RawWeight for NullWeight {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Every encoding is welcome.
pub(crate) fn support(_spec: &WeightSpec) -> WeightSupport {
    WeightSupport::Native
}

/// Reads a weight once, unless its bytes can stay where they are, and keeps nothing.
pub(crate) fn load(source: &mut dyn WeightSource, ledger: &Arc<Ledger>) -> Result<Weight> {
    let spec = source.spec().clone();
    let counted = Counted::new(&spec.name, spec.size_bytes(), ledger)?;
    if source.lend().is_none() {
        // One staging buffer for all segments: a source is asked for one part at a time.
        let mut codes = vec![0; spec.segment_code_bytes() as usize];
        let mut scales = vec![0; spec.segment_scale_bytes() as usize];
        for segment in 0..spec.segments() {
            source.read(segment, WeightPart::Codes, &mut codes)?;
            if !scales.is_empty() {
                source.read(segment, WeightPart::Scales, &mut scales)?;
            }
        }
    }
    let stored = spec.encoding;
    Ok(Weight::new(Arc::new(NullWeight { _counted: counted }), spec, stored))
}

/// This device's object behind a weight.
///
/// # Errors
/// `InvalidProgram` if another device loaded it.
pub(crate) fn raw_of(weight: &Weight) -> Result<&NullWeight> {
    let own = weight.raw().as_any().downcast_ref();
    let name = &weight.spec().name;
    own.ok_or_else(|| Error::invalid(format!("weight {name} lies on another device")))
}
