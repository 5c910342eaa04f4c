//! Two products of few tokens in one launch: check, launch.

use super::{Gemv, Source};
use crate::device::{Address, Buffer, Device, ElementKind, Enqueue, Queue};
use crate::error::{Error, Result};
use crate::w4a8::cuda::mirror::GemvPairParams;
use crate::w4a8::cuda::variant::gemv_pair;

/// The products of a whole MLP in one launch: `first`, whose outputs are gated, and `second` of these, with the numbers of the two calls.
///
/// Blocks of the first wait for each other before the second, for which they ask the first weights meanwhile; so all are resident together, at
/// most one on each multiprocessor.
#[derive(Debug, Clone, Copy)]
pub struct GemvPair {
    /// Gated, of x in f32; its y, in f32, is worked in.
    pub first: Gemv,
    /// Of the y of `first` as it is, not gated; of as many tokens, and of a format with weights of the same kind.
    pub second: Gemv,
    /// u32 \[2\]: zeros before the first call, and left so. A launch that does not run to its end ends its context and them.
    pub arrived: Address<u32>,
}

impl GemvPair {
    /// Whether a device takes the two in one launch, if each of them is a [`Gemv`] for it.
    pub fn is_for(device: &Device, first: crate::w4a8::Format, second: crate::w4a8::Format) -> bool {
        let symbol = |format| gemv_pair(format).map(|kernel| kernel.symbol);
        device.launches_together() && symbol(first).is_some() && symbol(first) == symbol(second)
    }

    fn check_pair(&self) -> Result<()> {
        let Self { first, second, .. } = self;
        if first.gate.is_none() || second.gate.is_some() {
            let (expected, got) = ("gated outputs of the first product alone", "others".into());
            return Err(Error::Unsupported { what: "gate", expected, got });
        }
        if !matches!(second.source, Source::Plain) {
            let (expected, got) = ("what the first product gives, as it is", "its RMSNorm".into());
            return Err(Error::Unsupported { what: "source", expected, got });
        }
        let elements = [first.x_element, first.element, second.x_element];
        if let Some(other) = elements.into_iter().find(|element| *element != ElementKind::F32) {
            let got = format!("{other:?}");
            return Err(Error::Unsupported { what: "x", expected: "f32 inputs of both products", got });
        }
        if second.m != first.m {
            return Err(Error::Shape { what: "m", expected: "as many tokens as the first product", got: second.m });
        }
        if second.k != first.n / 2 {
            return Err(Error::Shape { what: "k", expected: "what the first product gives", got: second.k });
        }
        match second.x == first.y {
            true => Ok(()),
            false => {
                let (expected, got) = ("the first product's y", "another address".into());
                Err(Error::Unsupported { what: "x", expected, got })
            }
        }
    }
}

impl Enqueue for GemvPair {
    fn check_sizes(&self, device: &Device) -> Result<()> {
        self.first.check_sizes(device)?;
        self.second.check_sizes(device)?;
        self.check_pair()?;
        match GemvPair::is_for(device, self.first.format, self.second.format) {
            true => Ok(()),
            false => {
                let got = format!("{:?} and {:?}", self.first.format, self.second.format);
                let expected = "formats of one kind of weights, and a device with cooperative launches";
                Err(Error::Unsupported { what: "format", expected, got })
            }
        }
    }

    fn name_buffers(&self, device: &Device, show: &mut dyn FnMut(Buffer)) {
        self.first.name_buffers(device, show);
        self.second.name_buffers(device, show);
        show(Buffer::write("arrived", self.arrived, 2));
    }

    fn enqueue(&self, queue: &Queue<'_>) -> Result<()> {
        let Some(kernel) = gemv_pair(self.first.format) else {
            let got = format!("{:?}", self.first.format);
            return Err(Error::Unsupported { what: "format", expected: "one with a kernel for two products", got });
        };
        let multiprocessors = queue.device().multiprocessors().max(1) as usize;
        let blocks = self.first.rows().max(self.second.rows()).min(multiprocessors);
        let params =
            GemvPairParams { first: self.first.params(), second: self.second.params(), arrived: self.arrived.get() };
        queue.launch_together(kernel, [blocks as u32, 1, 1], params)
    }
}
