//! RMSNorm.

use crate::cuda::MorayCudaRmsNorm;
use crate::cuda::call::Fill;
use crate::cuda::lent::Lent;
use crate::status::Outcome;
use moray::device::Device;
use moray::llama::cuda::raw::RmsNorm;

impl Fill for MorayCudaRmsNorm {
    type Call = RmsNorm;

    fn fill(&self, _: &Device, lent: &mut Lent) -> Outcome<RmsNorm> {
        let y = lent.write("y", self.y);
        let in_place = self.x.data.addr() == self.y.data.addr() && self.x.bytes == self.y.bytes;
        Ok(RmsNorm {
            x: if in_place { y } else { lent.read("x", self.x) },
            x_rows: self.m,
            x_stride: self.x_stride,
            rows: None,
            weight: lent.read("weight", self.weight),
            eps: self.eps,
            m: self.m,
            heads: self.heads,
            k: self.k,
            y,
            y_stride: self.y_stride,
        })
    }
}
