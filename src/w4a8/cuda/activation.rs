//! Activations quantized to int8, on the device.

use super::raw::{Quantize, Source};
use crate::activation::Activation;
use crate::device::{Address, Arguments, Device, DeviceElement};
use crate::error::{Error, Result, check_len, product};
use crate::w4a8::activation::{ActScales, PAD_K, SUM_GROUP};
use cudarc::driver::{CudaSlice, CudaView};

/// Activations quantized to int8 as [`crate::w4a8::Activations`], in device memory; fine scales are \[⌈K/128⌉, M\] and the sums
/// \[groups, M\].
///
/// Where a value is not finite the scale is NaN, so that the token's results are NaN; the host is not told.
#[derive(Debug)]
pub struct Activations {
    m: usize,
    k: usize,
    codes: CudaSlice<i8>,
    scales: ActScales,
    scale: CudaSlice<f32>,
    sums: [CudaSlice<i32>; 3],
    totals: CudaSlice<i32>,
}

impl Activations {
    /// Allocates for up to M tokens of K features; nothing is allocated later.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if they do not fit, [`Error::Shape`] if no memory can hold them.
    pub fn with_capacity(device: &Device, m: usize, k: usize) -> Result<Self> {
        product("m", &[m, product("k", &[k.div_ceil(PAD_K), PAD_K])?])?;
        device.prepare(super::MODULES)?;
        let padded = k.next_multiple_of(PAD_K);
        let groups = |level: usize| padded.div_ceil(SUM_GROUP << level);
        Ok(Activations {
            m: 0,
            k: 0,
            codes: device.zeros(m * padded)?,
            scales: ActScales::Token,
            scale: device.zeros(m * ActScales::Fine.of_token(k).max(1))?,
            sums: [device.zeros(m * groups(0))?, device.zeros(m * groups(1))?, device.zeros(m * groups(2))?],
            totals: device.zeros(m)?,
        })
    }

    /// Says how finely tokens are scaled from the next quantization on; nothing is held before it.
    pub fn set_scales(&mut self, scales: ActScales) {
        (self.m, self.scales) = (0, scales);
    }

    /// How finely tokens are scaled.
    pub fn scales(&self) -> ActScales {
        self.scales
    }

    /// Quantizes x \[M, K\] row-major.
    ///
    /// # Errors
    /// [`Error::Shape`] unless K is a multiple of 32 and there is room, [`Error::Length`] unless `x` has M · K elements,
    /// [`Error::Misaligned`] unless it starts at a multiple of 16 bytes.
    pub fn quantize<E: DeviceElement>(
        &mut self,
        device: &Device,
        x: &CudaView<'_, E>,
        m: usize,
        k: usize,
    ) -> Result<()> {
        self.run(Arguments::new(device), x, m, k, Source::Plain)
    }

    /// Quantizes the tokens of x \[M, K\] after RMSNorm: x / √(mean(x²) + eps) ⊙ weight.
    ///
    /// # Errors
    /// As [`Activations::quantize`]; [`Error::Length`] unless `weight` has K elements.
    pub fn quantize_rms_norm<E: DeviceElement>(
        &mut self,
        device: &Device,
        x: &CudaView<'_, E>,
        m: usize,
        weight: &CudaSlice<f32>,
        eps: f32,
    ) -> Result<()> {
        let (k, mut arguments) = (weight.len(), Arguments::new(device));
        let weight = arguments.read("weight", weight)?;
        self.run(arguments, x, m, k, Source::RmsNorm { weight, eps })
    }

    /// Quantizes act(gate) ⊙ up for gate_up \[M, 2·K\], each token's gate before its up.
    ///
    /// # Errors
    /// As [`Activations::quantize`].
    pub fn quantize_swiglu<E: DeviceElement>(
        &mut self,
        device: &Device,
        gate_up: &CudaView<'_, E>,
        m: usize,
        k: usize,
        activation: Activation,
    ) -> Result<()> {
        self.run(Arguments::new(device), gate_up, m, k, Source::SwiGlu { activation })
    }

    fn run<'a, E: DeviceElement>(
        &'a mut self,
        mut arguments: Arguments<'a>,
        x: &'a CudaView<'_, E>,
        m: usize,
        k: usize,
        source: Source,
    ) -> Result<()> {
        let room = m.saturating_mul(k.checked_next_multiple_of(PAD_K).unwrap_or(usize::MAX));
        let scales = m.saturating_mul(self.scales.of_token(k));
        if m == 0 || room > self.codes.len() || scales > self.scale.len() || m > self.totals.len() {
            return Err(Error::Shape { what: "m", expected: "1 token or more, within the capacity", got: m });
        }
        let wide = if matches!(source, Source::SwiGlu { .. }) { 2 } else { 1 };
        check_len("x", product("m", &[m, k, wide])?, x.len())?;
        let [s32, s64, s128] = &mut self.sums;
        let call = Quantize {
            source,
            m,
            k,
            x: arguments.read("x", x)?.cast(),
            element: E::KIND,
            codes: arguments.write("activations", &mut self.codes)?,
            scales: self.scales,
            scale: arguments.write("activations", &mut self.scale)?,
            sums: [
                arguments.write("activations", s32)?,
                arguments.write("activations", s64)?,
                arguments.write("activations", s128)?,
            ],
            totals: arguments.write("activations", &mut self.totals)?,
        };
        arguments.launch(&call)?;
        (self.m, self.k) = (m, k);
        Ok(())
    }

    /// Tokens M.
    pub fn m(&self) -> usize {
        self.m
    }

    /// Features K.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Codes int8 \[M, K rounded up to 64\].
    pub fn codes(&self) -> CudaView<'_, i8> {
        self.codes.slice(..self.m * self.k.next_multiple_of(PAD_K))
    }

    /// Scales f32 \[M\] or, fine, \[⌈K/128⌉, M\].
    pub fn scale(&self) -> CudaView<'_, f32> {
        self.scale.slice(..self.m * self.scales.of_token(self.k))
    }

    /// Sums of the codes over each group of 32, 64 or 128, int32 \[groups, M\], or over K, \[M\].
    ///
    /// # Errors
    /// [`Error::Shape`] for another group size.
    pub fn sums(&self, group_size: Option<usize>) -> Result<CudaView<'_, i32>> {
        let Some(level) = sum_level(group_size)? else { return Ok(self.totals.slice(..self.m)) };
        let groups = self.k.next_multiple_of(PAD_K).div_ceil(SUM_GROUP << level);
        Ok(self.sums[level].slice(..self.m * groups))
    }

    /// Holds codes, scales and the sums that go with a format for a call.
    pub(super) fn arguments<'a>(
        &'a self,
        arguments: &mut Arguments<'a>,
        sum_group: Option<usize>,
    ) -> Result<(Address<i8>, Address<f32>, Address<i32>)> {
        let sums = match sum_level(sum_group)? {
            Some(level) => &self.sums[level],
            None => &self.totals,
        };
        let codes = arguments.read("activations", &self.codes)?;
        Ok((codes, arguments.read("activations", &self.scale)?, arguments.read("activations", sums)?))
    }
}

/// Which of the sums go with a group size; `None` for the sums over K.
fn sum_level(group_size: Option<usize>) -> Result<Option<usize>> {
    match group_size {
        None => Ok(None),
        Some(32) => Ok(Some(0)),
        Some(64) => Ok(Some(1)),
        Some(128) => Ok(Some(2)),
        Some(got) => Err(Error::Shape { what: "group_size", expected: "32, 64 or 128", got }),
    }
}
