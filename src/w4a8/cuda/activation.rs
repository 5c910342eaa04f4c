//! Activations quantized per token, on the device.

use super::raw::{self, Quantize, Source};
use crate::device::{Device, DeviceElement, check_context, input};
use crate::error::{Error, Result, check_len};
use crate::sparse_mlp::Activation;
use crate::w4a8::activation::{PAD_K, SUM_GROUP};
use cudarc::driver::{CudaSlice, CudaView, DevicePtr, DevicePtrMut};

/// Activations quantized per token as [`crate::w4a8::Activations`], in device memory; the sums are \[groups, M\].
///
/// A token with a value that is not finite gets a NaN scale, so that its results are NaN; the host is not told.
#[derive(Debug)]
pub struct Activations {
    m: usize,
    k: usize,
    codes: CudaSlice<i8>,
    scale: CudaSlice<f32>,
    sums: [CudaSlice<i32>; 3],
    totals: CudaSlice<i32>,
}

impl Activations {
    /// Allocates for up to M tokens of K features; nothing is allocated later.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if they do not fit.
    pub fn with_capacity(device: &Device, m: usize, k: usize) -> Result<Self> {
        let padded = k.next_multiple_of(PAD_K);
        let groups = |level: usize| padded.div_ceil(SUM_GROUP << level);
        Ok(Activations {
            m: 0,
            k: 0,
            codes: device.zeros(m * padded)?,
            scale: device.zeros(m)?,
            sums: [device.zeros(m * groups(0))?, device.zeros(m * groups(1))?, device.zeros(m * groups(2))?],
            totals: device.zeros(m)?,
        })
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
        self.run(device, x, m, k, k, Source::Plain)
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
        let k = weight.len();
        let (weight, _weight) = input(device, "weight", k, weight)?;
        self.run(device, x, m, k, k, Source::RmsNorm { weight, eps })
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
        self.run(device, gate_up, m, k, 2 * k, Source::SwiGlu { activation })
    }

    fn run<E: DeviceElement>(
        &mut self,
        device: &Device,
        x: &CudaView<'_, E>,
        m: usize,
        k: usize,
        width: usize,
        source: Source,
    ) -> Result<()> {
        self.check(device)?;
        let padded = k.next_multiple_of(PAD_K);
        if m == 0 || m * padded > self.codes.len() || m > self.scale.len() {
            return Err(Error::Shape { what: "m", expected: "1 token or more, within the capacity", got: m });
        }
        check_len("x", m * width, x.len())?;
        let (x, _x) = input(device, "x", m * width, x)?;
        let stream = device.stream();
        let [s32, s64, s128] = self.sums.each_mut().map(|sums| sums.device_ptr_mut(stream));
        let (codes, scale) = (self.codes.device_ptr_mut(stream), self.scale.device_ptr_mut(stream));
        let totals = self.totals.device_ptr_mut(stream);
        let call = Quantize {
            source,
            m,
            k,
            x,
            element: E::KIND,
            codes: codes.0,
            scale: scale.0,
            sums: [s32.0, s64.0, s128.0],
            totals: totals.0,
        };
        // SAFETY: every buffer was allocated for this many tokens and features, or checked above; the stream is the device's.
        unsafe { raw::quantize(device, stream.cu_stream(), &call) }?;
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

    /// Scales f32 \[M\].
    pub fn scale(&self) -> CudaView<'_, f32> {
        self.scale.slice(..self.m)
    }

    /// Sums of the codes over each group of 32, 64 or 128, int32 \[groups, M\], or over K, \[M\].
    ///
    /// # Errors
    /// [`Error::Shape`] for another group size.
    pub fn sums(&self, group_size: Option<usize>) -> Result<CudaView<'_, i32>> {
        let Some(group_size) = group_size else { return Ok(self.totals.slice(..self.m)) };
        let level = match group_size {
            32 => 0,
            64 => 1,
            128 => 2,
            got => return Err(Error::Shape { what: "group_size", expected: "32, 64 or 128", got }),
        };
        Ok(self.sums[level].slice(..self.m * self.k.next_multiple_of(PAD_K).div_ceil(group_size)))
    }

    /// Checks that the activations lie on a device.
    pub(super) fn check(&self, device: &Device) -> Result<()> {
        check_context("activations", device, &self.codes)
    }

    /// The pointers of codes, scales and the sums that go with a format.
    pub(super) fn pointers(&self, device: &Device, sum_group: Option<usize>) -> Result<[u64; 3]> {
        let stream = device.stream();
        let sums = self.sums(sum_group)?;
        Ok([self.codes.device_ptr(stream).0, self.scale.device_ptr(stream).0, sums.device_ptr(stream).0])
    }
}
