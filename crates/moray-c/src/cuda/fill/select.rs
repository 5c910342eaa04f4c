//! Masks from scores, a list from masks.

use crate::cuda::call::Fill;
use crate::cuda::lent::Lent;
use crate::cuda::{MorayCudaSelect, MorayCudaUnion};
use crate::selection::{MORAY_SELECT_THRESHOLD, MORAY_SELECT_TOP_K};
use crate::status::{Fault, Outcome};
use moray::device::Device;
use moray::sparse_mlp::cuda::Keep;
use moray::sparse_mlp::cuda::raw::{List, SelectMask, Union};

impl Fill for MorayCudaSelect {
    type Call = SelectMask;

    fn fill(&self, _: &Device, lent: &mut Lent) -> Outcome<SelectMask> {
        let keep = match self.kind {
            MORAY_SELECT_THRESHOLD => Keep::Above(self.threshold),
            MORAY_SELECT_TOP_K => Keep::Top(self.k),
            other => {
                let expected = "MORAY_SELECT_THRESHOLD or MORAY_SELECT_TOP_K";
                return Err(Fault::unsupported("kind", expected, other));
            }
        };
        Ok(SelectMask {
            values: lent.read_rows("values", self.values),
            n: self.n,
            stride: self.stride,
            tokens: self.tokens,
            channel_scale: lent.optional("channel_scale", self.channel_scale),
            keep,
            masks: lent.write("masks", self.masks),
        })
    }
}

impl Fill for MorayCudaUnion {
    type Call = Union;

    fn fill(&self, _: &Device, lent: &mut Lent) -> Outcome<Union> {
        Ok(Union {
            masks: lent.read("masks", self.masks),
            tokens: self.tokens,
            limit: self.n,
            list: List { list: lent.write("list", self.list), count: lent.write("count", self.count) },
        })
    }
}
