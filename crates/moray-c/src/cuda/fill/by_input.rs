//! Products by input.

use super::element;
use crate::cuda::MorayCudaByInput;
use crate::cuda::call::Fill;
use crate::cuda::lent::Lent;
use crate::status::Outcome;
use moray::device::Device;
use moray::input_sparse::cuda::raw::Linear;

impl Fill for MorayCudaByInput {
    type Call = Linear;

    fn fill(&self, _: &Device, lent: &mut Lent) -> Outcome<Linear> {
        Ok(Linear {
            w: lent.read_rows("w", self.w),
            element: element(self.dtype)?,
            row_bytes: self.row_bytes,
            x: lent.read("x", self.x),
            threshold: self.threshold,
            bias: lent.optional("bias", self.bias),
            residual: lent.optional("residual", self.residual),
            y: lent.write("y", self.y),
            m: self.m,
            n: self.n,
            k: self.k,
        })
    }
}
