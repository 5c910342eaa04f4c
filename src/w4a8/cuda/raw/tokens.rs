//! Where quantized tokens lie.

use super::{ALIGNMENT, Quantize, Source};
use crate::device::{Address, ElementKind, product};
use crate::w4a8::activation::{PAD_K, SUM_GROUP};
use crate::w4a8::cuda::variant::sum_group;
use crate::w4a8::{ActScales, Format};

/// Quantized tokens in one piece of memory: what a [`Quantize`] writes, and any number of [`super::Linear`]s read.
#[derive(Debug, Clone, Copy)]
pub struct Tokens {
    /// Tokens M.
    pub m: usize,
    /// Features K.
    pub k: usize,
    /// How finely they are scaled.
    pub scales: ActScales,
    /// [`Tokens::bytes`], at a multiple of 16: codes, scales, sums.
    pub memory: Address,
}

/// Where each part begins, and the size of all, in bytes.
struct Parts {
    codes: usize,
    scale: usize,
    sums: [usize; 3],
    totals: usize,
    bytes: usize,
}

impl Tokens {
    /// Bytes at [`Tokens::memory`].
    pub fn bytes(&self) -> usize {
        self.parts().bytes
    }

    /// int8 \[M, K rounded up to 64\].
    pub fn codes(&self) -> Address<i8> {
        self.memory.offset(self.parts().codes).cast()
    }

    /// f32 \[M\] or, fine, \[⌈K/128⌉, M\].
    pub fn scale(&self) -> Address<f32> {
        self.memory.offset(self.parts().scale).cast()
    }

    /// int32: the sums that go with weights of a format, see the field of [`super::Linear`].
    pub fn sums(&self, format: Format) -> Address<i32> {
        let parts = self.parts();
        let level = sum_group(format, self.scales).map(|group| (group / SUM_GROUP).ilog2() as usize);
        self.memory.offset(level.map_or(parts.totals, |level| parts.sums[level])).cast()
    }

    /// The call that fills them from x.
    pub fn quantize(&self, source: Source, x: Address, element: ElementKind) -> Quantize {
        let parts = self.parts();
        Quantize {
            source,
            m: self.m,
            k: self.k,
            x,
            element,
            codes: self.codes(),
            scales: self.scales,
            scale: self.scale(),
            sums: parts.sums.map(|start| self.memory.offset(start).cast()),
            totals: self.memory.offset(parts.totals).cast(),
        }
    }

    fn parts(&self) -> Parts {
        let padded = self.k.checked_next_multiple_of(PAD_K).unwrap_or(usize::MAX);
        let mut end = 0usize;
        let mut part = |bytes: usize| {
            let start = end;
            end = end.saturating_add(bytes).checked_next_multiple_of(ALIGNMENT as usize).unwrap_or(usize::MAX);
            start
        };
        let words = |rows: usize| product([rows, self.m, size_of::<u32>()]);
        Parts {
            codes: part(product([self.m, padded])),
            scale: part(words(self.scales.of_token(self.k))),
            sums: [0, 1, 2].map(|level| part(words(padded.div_ceil(SUM_GROUP << level)))),
            totals: part(words(1)),
            bytes: end,
        }
    }
}
