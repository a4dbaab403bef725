//! Tier-1 ops: each replaces exactly the consecutive Tier-0 ops its `lower` appends, with the same
//! rounding points. A device lists them where fusing pays; nobody has to.

mod attention;
mod head;
mod moe;
mod stream;

pub use attention::{AttendProject, Compress, IndexSelect, NormQuant, QkFinish};
pub use head::{Head, Sample};
pub use moe::{MoeExperts, Route, RouteTable, SwigluMlp};
pub use stream::{HcPre, HcSite, HcTurn};

use crate::error::Result;
use crate::op::{Convert, ConvertForm};
use crate::program::Builder;
use crate::tensor::{RowCodec, Tensor};

/// `x` after the model's quantisation round trip, or `x` itself where there is none.
fn rounded(into: &mut Builder, x: &Tensor, round: Option<RowCodec>) -> Result<Tensor> {
    let Some(codec) = round else { return Ok(x.clone()) };
    let out = into.temp(x.dtype(), x.dims());
    into.push(Convert {
        out: out.clone(),
        x: x.clone(),
        scales: None,
        form: ConvertForm::RoundTrip(codec),
    })?;
    Ok(out)
}
